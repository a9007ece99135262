"""Grid Engine: what it knows for a user's choice.

Sources: the manual pages of qhost, qstat and qconf of version 8.1.9, and those of sge_conf and sched_conf for the
limits of jobs (``max_u_jobs``, ``maxujobs``).

Grid Engine gives no estimates for waiting jobs. Its accounts are free texts. Its projects, and who may use them, are
not shown in one answer, so they are unknown.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from hpchub.schedulers.base import Unanswered
from hpchub.schedulers.knowledge import (
    Allocations,
    KnowledgeSource,
    Offer,
    Person,
    QueueState,
    WaitingJob,
    Wanted,
    best_offers,
)
from hpchub.schedulers.parsing import SHOWN, unexpected_output
from hpchub.schedulers.records import read_xml, read_xml_records
from hpchub.units import parse_clock, parse_size, parse_whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from xml.etree import ElementTree as ET

_MEMORY = ("h_vmem", "m_mem_free", "virtual_free", "mem_free")
"""The resources that sites use for memory. The lowest one of a host counts."""
_GPUS = ("gpu", "gpus", "ngpus")
MAX_WAITING = 500
"""How many waiting jobs of a queue are kept."""


class GridEngineKnowledge(KnowledgeSource):
    """What Grid Engine knows for a user's choice."""

    knowledge_commands = {  # noqa: RUF012 the base class declares it as a mapping that does not change
        "nodes": ("qhost", "-q", "-F", "-xml"),
        "jobs": ("qstat", "-u", "*", "-s", "p", "-r", "-xml"),
        "config": ("qconf", "-sconf"),
        "scheduler": ("qconf", "-ssconf"),
    }
    availability_topics = ("nodes", "jobs")

    def parse_availability(self, answers: Mapping[str, str], taken: float) -> dict[str, QueueState]:
        """Return what the queues have free: the free slots of each host, and its free memory and GPUs."""
        root = read_xml(answers["nodes"], "qhost")
        if root.tag != "qhost" or root.find("host") is None:
            raise unexpected_output("qhost", answers["nodes"])
        offers: dict[str, list[Offer]] = {}
        enabled: set[str] = set()
        for host in root.iter("host"):
            for queue in host.iter("queue"):
                name = queue.get("name", "")
                values = {each.get("name"): (each.text or "").strip() for each in queue.iter("queuevalue")}
                slots = [parse_whole(values.get(key, "")) for key in ("slots", "slots_used", "slots_resv")]
                if slots[0] is None or slots[1] is None:
                    raise Unanswered(f"qhost printed an incomplete queue: {name[:SHOWN]!r}")
                found = offers.setdefault(name, [])
                # A letter is a problem: disabled, alarm, unknown, suspended, error. A busy queue may be in alarm.
                if not values.get("state_string"):
                    found.append(_offer(host, slots[0] - slots[1] - (slots[2] or 0)))
                if not set(values.get("state_string", "")) & set("dDuEsS"):
                    enabled.add(name)
        waiting = list(_waiting(answers["jobs"]))
        return {
            queue: QueueState(
                name=queue,
                open=queue in enabled,
                offers=best_offers(offer for offer in found if offer.cores > 0),
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


def _offer(host: ET.Element, slots: int) -> Offer:
    values = {each.get("name"): (each.text or "").strip() for each in host.iter("resourcevalue")}
    sizes = [parse_size(re.sub(r"(\.[0-9]{1,9})[0-9]*", r"\1", values[name])) for name in _MEMORY if name in values]
    memory = min((size for size in sizes if size is not None), default=None)
    gpus = [parse_whole(values[name].partition(".")[0]) for name in _GPUS if name in values]
    return Offer(slots, memory, next((number for number in gpus if number is not None), 0))


def _waiting(stdout: str) -> Iterator[tuple[set[str], WaitingJob]]:
    """Yield the jobs that wait for room, each with the queues that it requests."""
    if not re.search(r"<job_info[\s/>]", stdout):
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
