"""PBS and Torque: what they know for a user's choice.

Sources: the PBS Professional 2022.1 Reference Guide (2.41 pbsnodes, 2.55 qstat, 6.10 vnode attributes, 4.1 vnode
states), and the Torque 6.1 Administrator Guide (pbsnodes, qstat).

The nodes of most sites belong to no queue, so an offer holds for each queue without nodes of its own. Neither server
shows which accounts a user may charge: a job's account is free text. PBS estimates when jobs start only if the site
runs its estimator (``estimated.start_time``). The gate runs the commands in UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from hpchub.schedulers.base import Unanswered
from hpchub.schedulers.knowledge import ANY_QUEUE, KnowledgeSource, QueueState, WaitingJob
from hpchub.schedulers.offers import Offer, Wanted, alike, best_offers
from hpchub.schedulers.parsing import SHOWN, parse_time, read_json, unexpected_output
from hpchub.schedulers.records import read_json_records, read_xml, read_xml_records
from hpchub.units import parse_clock, parse_size, parse_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from hpchub.schedulers.records import Record

MAX_WAITING = 500
"""How many waiting jobs of a queue are kept."""


def _states(
    offers: Iterable[tuple[list[str], Offer]], waiting: Iterable[tuple[str, WaitingJob]]
) -> dict[str, QueueState]:
    """Return the states of the queues.

    Args:
        offers: The offers of the nodes, each with the queues that the node is reserved for.
        waiting: The jobs that wait for room, each with its queue.
    """
    found: dict[str, list[Offer]] = {ANY_QUEUE: []}
    for queues, offer in offers:
        for queue in queues or [ANY_QUEUE]:
            found.setdefault(queue, []).append(offer)
    jobs: dict[str, dict[WaitingJob, None]] = {}
    for queue, job in waiting:
        mine = jobs.setdefault(queue, {})
        if len(mine) < MAX_WAITING:
            mine[job] = None
    return {
        queue: QueueState(
            name=queue,
            offers=best_offers(offer for offer in found.get(queue, found[ANY_QUEUE]) if offer.cores > 0),
            waiting=tuple(jobs.get(queue, {})),
            nodes=alike([offer] for offer in found.get(queue, found[ANY_QUEUE])),
        )
        for queue in {**found, **jobs}
    }


class PBSKnowledge(KnowledgeSource):
    """What PBS knows for a user's choice."""

    knowledge_commands = {  # noqa: RUF012 the base class declares it as a mapping that does not change
        "nodes": ("pbsnodes", "-a", "-F", "json"),
        "jobs": ("qstat", "-f", "-F", "json"),
    }
    availability_topics = ("nodes", "jobs")

    def parse_availability(self, answers: Mapping[str, str], taken: float) -> dict[str, QueueState]:
        """Return what the nodes have free. If there are no jobs, qstat prints an object without ``Jobs``."""
        nodes = read_json(answers["nodes"], "pbsnodes").get("nodes")
        if not isinstance(nodes, dict) or not nodes:
            raise unexpected_output("pbsnodes", answers["nodes"])
        text = answers["jobs"]
        records: list[Record] = []
        if '"Jobs"' in text:
            _, records = read_json_records(
                text, "qstat", field="Jobs", record=r'"([^"]+)"\s*:\s*\{', required="pbs_version"
            )
        elif "pbs_version" not in read_json(text, "qstat"):
            raise unexpected_output("qstat", text)
        return _states((each for node in nodes.values() for each in _pbs_offer(node)), _pbs_waiting(records))


def _pbs_offer(node: Any) -> Iterator[tuple[list[str], Offer]]:
    if not isinstance(node, dict) or "state" not in node:
        raise Unanswered(f"pbsnodes printed an incomplete node: {str(node)[:SHOWN]!r}")
    if not set(str(node["state"]).split(",")) <= {"free", "job-busy"}:
        return
    has, used = node.get("resources_available", {}), node.get("resources_assigned", {})
    if not isinstance(has, dict) or not isinstance(used, dict):
        raise Unanswered(f"pbsnodes printed an incomplete node: {str(node)[:SHOWN]!r}")
    cores, gpus = (_number(has.get(name)) - _number(used.get(name)) for name in ("ncpus", "ngpus"))
    memory = _size(has.get("mem")) - _size(used.get("mem"))
    queues = str(has.get("Qlist") or node.get("queue") or "")
    yield [name for name in queues.split(",") if name], Offer(cores, max(0, memory), max(0, gpus))


def _pbs_waiting(records: Iterable[Record]) -> Iterator[tuple[str, WaitingJob]]:
    for record in records:
        job = record.value
        requests = job.get("Resource_List") if isinstance(job, dict) else None
        if isinstance(requests, dict) and job.get("job_state") == "Q":
            nodes = max(1, _number(requests.get("nodect")))
            cores, gpus = (-(-_number(requests.get(name)) // nodes) for name in ("ncpus", "ngpus"))
            runtime = parse_clock(str(requests.get("walltime", ""))) or 0
            wanted = Wanted(cores, _size(requests.get("mem")) // nodes, runtime, gpus)
            estimated = job.get("estimated")
            start = parse_time(str(estimated.get("start_time", ""))) if isinstance(estimated, dict) else ""
            when = datetime.fromisoformat(start).replace(tzinfo=UTC).timestamp() if start else None
            yield str(job.get("queue", "")), WaitingJob(wanted, nodes, when)


def _number(value: object) -> int:
    return parse_whole(str(value)) or 0


def _size(value: object) -> int:
    return parse_size(str(value)) or 0


class TorqueKnowledge(KnowledgeSource):
    """What Torque knows for a user's choice. It does not show how much memory the jobs of a node have."""

    knowledge_commands = {  # noqa: RUF012 the base class declares it as a mapping that does not change
        "nodes": ("pbsnodes", "-x"),
        "jobs": ("qstat", "-x"),
    }
    availability_topics = ("nodes", "jobs")

    def parse_availability(self, answers: Mapping[str, str], taken: float) -> dict[str, QueueState]:
        """Return what the nodes have free. If there are no jobs, qstat prints nothing."""
        nodes = list(read_xml(answers["nodes"], "pbsnodes").iter("Node"))
        if not nodes:
            raise unexpected_output("pbsnodes", answers["nodes"])
        offers: list[tuple[list[str], Offer]] = []
        for node in nodes:
            values = {child.tag: (child.text or "").strip() for child in node}
            cores = parse_whole(values.get("np", ""))
            if cores is None or "state" not in values:
                raise Unanswered(f"pbsnodes printed an incomplete node: {values.get('name', '')[:SHOWN]!r}")
            if values["state"] in ("free", "job-exclusive"):
                free = 0 if values["state"] == "job-exclusive" else cores - _used(values.get("jobs", ""))
                features = frozenset(name for name in values.get("properties", "").split(",") if name)
                gpus = parse_whole(values.get("gpus", "")) or 0
                offers.append(([], Offer(free, None, gpus, None, features)))
        return _states(offers, _torque_waiting(answers["jobs"]))


def _used(jobs: str) -> int:
    """Return the number of used cores: 3 for ``0/7.srv, 1-2/8.srv`` and for ``0-2/8.srv``."""
    used = 0
    for cores in re.findall(r"(?:^|[\s,])([0-9,-]+)/", jobs):
        for part in cores.strip(",").split(","):
            first, _, last = part.partition("-")
            used += 1 + (parse_whole(last or first) or 0) - (parse_whole(first) or 0)
    return used


def _torque_waiting(stdout: str) -> Iterator[tuple[str, WaitingJob]]:
    records = read_xml_records(stdout, "qstat", root="Data", record="Job") if stdout.strip() else []
    for element, _ in records:
        if element is None or (element.findtext("job_state") or "").strip() != "Q":
            continue
        requests = element.find("Resource_List")
        values = {child.tag: (child.text or "").strip() for child in requests} if requests is not None else {}
        cores = re.search(r":ppn=([0-9]{1,6})", values.get("nodes", ""))
        runtime = parse_clock(values.get("walltime", "")) or 0
        wanted = Wanted(int(cores[1]) if cores else 1, 0, runtime)
        yield (element.findtext("queue") or "").strip(), WaitingJob(wanted)
