"""IBM Spectrum LSF: what it knows for a user's choice.

Sources: the LSF 10.1 command reference (bhosts, bqueues).

bhosts shows the free job slots of each host, but neither its memory and GPUs nor its queues. bqueues shows how many
jobs of a queue wait, but not what they need. So a wait is known only if no job of the queue waits. A job's account is
its project, which is free text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpchub.schedulers.knowledge import KnowledgeSource, QueueState, WaitingJob
from hpchub.schedulers.offers import Offer, Wanted, alike, best_offers
from hpchub.schedulers.parsing import incomplete_output, unexpected_output
from hpchub.units import parse_whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_UNKNOWN = WaitingJob(Wanted(0, 0))
"""A waiting job with unknown needs. No new job can be sure to start before it."""


class LSFKnowledge(KnowledgeSource):
    """What LSF knows for a user's choice."""

    knowledge_commands = {  # noqa: RUF012 the base class declares it as a mapping that does not change
        "nodes": ("bhosts", "-w"),
        "jobs": ("bqueues", "-w"),
    }
    availability_topics = ("nodes", "jobs")

    def parse_availability(self, answers: Mapping[str, str], taken: float) -> dict[str, QueueState]:
        """Return what the hosts have free, for each queue."""
        offers = []
        for host in _rows("bhosts", answers["nodes"], "HOST_NAME"):
            slots, used = parse_whole(host.get("MAX", "")), parse_whole(host.get("NJOBS", ""))
            # The slots of a host without a limit are unknown.
            if host.get("STATUS") == "ok" and slots is not None and used is not None and slots > used:
                offers.append(Offer(slots - used))
        best, nodes = best_offers(offers), alike([offer] for offer in offers)
        found = {}
        for queue in _rows("bqueues", answers["jobs"], "QUEUE_NAME"):
            waiting = parse_whole(queue.get("PEND", ""))
            if waiting is None or "STATUS" not in queue:
                raise unexpected_output("bqueues", answers["jobs"])
            name, is_open = queue["QUEUE_NAME"], queue["STATUS"] == "Open:Active"
            found[name] = QueueState(name, is_open, best, (_UNKNOWN,) if waiting else (), nodes=nodes)
        return found


def _rows(program: str, stdout: str, first: str) -> Iterator[dict[str, str]]:
    """Yield the rows of a table if its heading begins with a word."""
    lines = stdout.splitlines()
    start = next((i for i, line in enumerate(lines) if line.split()[:1] == [first]), None)
    if start is None or len(lines) < start + 2:
        raise unexpected_output(program, stdout)
    if not stdout.endswith("\n"):
        raise incomplete_output(program, stdout)
    names = lines[start].split()
    for line in lines[start + 1 :]:
        words = line.split()
        if len(words) == len(names):
            yield dict(zip(names, words, strict=True))
