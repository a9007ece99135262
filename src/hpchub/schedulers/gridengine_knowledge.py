"""Grid Engine: what it knows for a user's choice.

Sources: the programs of version 8.1.9, and the manual pages of qstat and qconf. Those of sge_conf and sched_conf
describe the limits of jobs (``max_u_jobs``, ``maxujobs``).

Grid Engine gives no estimates for waiting jobs. Its accounts are free texts. Its projects, and who may use them, are
not shown in one answer, so they are unknown.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from hpchub.schedulers.base import Unanswered
from hpchub.schedulers.knowledge import Allocations, KnowledgeSource, Person, QueueState, WaitingJob
from hpchub.schedulers.offers import Offer, Wanted, alike, best_offers
from hpchub.schedulers.parsing import SHOWN, unexpected_output
from hpchub.schedulers.records import read_xml, read_xml_records
from hpchub.units import parse_clock, parse_size, parse_whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from xml.etree import ElementTree as ET

_MEMORY = ("h_vmem", "m_mem_free", "virtual_free", "mem_free")
"""The resources that sites use for memory, if they are consumable. The lowest one of a host counts."""
_GPUS = ("gpu", "gpus", "ngpus")
MAX_WAITING = 500
"""How many waiting jobs of a queue are kept."""


class GridEngineKnowledge(KnowledgeSource):
    """What Grid Engine knows for a user's choice."""

    knowledge_commands = {  # noqa: RUF012 the base class declares it as a mapping that does not change
        "nodes": ("qstat", "-f", "-F", "-xml"),
        "jobs": ("qstat", "-u", "*", "-s", "p", "-r", "-xml"),
        "config": ("qconf", "-sconf"),
        "scheduler": ("qconf", "-ssconf"),
    }
    availability_topics = ("nodes", "jobs")

    def parse_availability(self, answers: Mapping[str, str], taken: float) -> dict[str, QueueState]:
        """Return what the queues have free: the free slots of each of their instances, and its memory and GPUs."""
        root = read_xml(answers["nodes"], "qstat")
        instances = list(root.iter("Queue-List"))
        if root.tag != "job_info" or not instances:
            raise unexpected_output("qstat", answers["nodes"])
        offers: dict[str, list[Offer]] = {}
        enabled: set[str] = set()
        for instance in instances:
            queue, at, _ = (instance.findtext("name") or "").strip().partition("@")
            slots = [
                parse_whole((instance.findtext(f"slots_{word}") or "").strip()) for word in ("total", "used", "resv")
            ]
            if not at or slots[0] is None or slots[1] is None:
                raise Unanswered(f"qstat printed an incomplete queue: {queue[:SHOWN]!r}")
            # Each letter is a problem: disabled, alarm, unknown, suspended, error. A busy host may be in alarm.
            state = (instance.findtext("state") or "").strip()
            found = offers.setdefault(queue, [])
            if not state:
                found.append(_offer(instance, slots[0] - slots[1] - (slots[2] or 0)))
            if not set(state) & set("dDuEsS"):
                enabled.add(queue)
        waiting = list(_waiting(answers["jobs"]))
        return {
            queue: QueueState(
                name=queue,
                open=queue in enabled,
                offers=best_offers(offer for offer in found if offer.cores > 0),
                nodes=alike([offer] for offer in found),
                waiting=tuple(job for queues, job in waiting if not queues or queue in queues)[:MAX_WAITING],
            )
            for queue, found in offers.items()
        }

    def parse_policy(self, topic: str, stdout: str) -> Any:
        """Return the limit of a user's jobs. 0 means that there is none."""
        name = "max_u_jobs" if topic == "config" else "maxujobs"
        found = re.search(rf"^{name}\s+([0-9]{{1,9}})\s*$", stdout, re.MULTILINE)
        if found is None:
            raise unexpected_output("qconf", stdout)
        return int(found[1])

    def allocations(
        self, person: Person, answers: Mapping[str, Any], policies: Mapping[str, Any], taken: float
    ) -> Allocations | None:
        """Return the limits of a user's jobs."""
        total, running = policies.get("config") or None, policies.get("scheduler") or None
        return Allocations(taken, max_jobs=running, max_submitted=total) if policies else None


def _offer(instance: ET.Element, slots: int) -> Offer:
    """Return what an instance of a queue has free. Only amounts of consumable resources are what is left."""
    left = {
        each.get("name"): (each.text or "").strip()
        for each in instance.iter("resource")
        if each.get("type", "").endswith("c")
    }
    sizes = [parse_size(left[name]) for name in _MEMORY if name in left]
    gpus = [parse_whole(left[name].partition(".")[0]) for name in _GPUS if name in left]
    memory = min((size for size in sizes if size is not None), default=None)
    return Offer(slots, memory, next((number for number in gpus if number is not None), 0))


def _waiting(stdout: str) -> Iterator[tuple[set[str], WaitingJob]]:
    """Yield the jobs that wait for room, each with the queues that it requests."""
    if not re.search(r"<queue_info[\s/>].*<job_info[\s/>]", stdout, re.DOTALL):
        raise unexpected_output("qstat", stdout)
    for element, _ in read_xml_records(stdout, "qstat", root="job_info", record="job_list"):
        # Users choose the names of their jobs. A damaged record is a job that is not counted.
        if element is None or (element.findtext("state") or "").strip() != "qw":
            continue
        requests = {each.get("name"): (each.text or "").strip() for each in element.iter("hard_request")}
        queues = {(each.text or "").strip().partition("@")[0] for each in element.iter("hard_req_queue")}
        slots = parse_whole((element.findtext("slots") or "").strip()) or 1
        runtime = parse_clock(requests.get("h_rt", "")) or 0
        yield queues, WaitingJob(Wanted(slots, 0, runtime))
