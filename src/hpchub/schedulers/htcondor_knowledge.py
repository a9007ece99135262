"""HTCondor: what it knows for a user's choice.

Sources: the manual of version 10.0 (condor_status, condor_q; "Machine ClassAd Attributes", "Job ClassAd Attributes").

HTCondor gives no estimates for waiting jobs. It does not show which accounting groups a user may name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpchub.schedulers.base import Unanswered
from hpchub.schedulers.knowledge import ANY_QUEUE, KnowledgeSource, QueueState, WaitingJob
from hpchub.schedulers.offers import Offer, Wanted, best_offers
from hpchub.schedulers.parsing import SHOWN
from hpchub.schedulers.records import read_json_records

if TYPE_CHECKING:
    from collections.abc import Mapping

_SLOT = ("Name", "State", "PartitionableSlot", "Cpus", "Memory", "GPUs", "Start")
_JOB = ("ClusterId", "JobStatus", "RequestCpus", "RequestMemory", "RequestGPUs", "HpchubQueue")
MAX_WAITING = 500
"""How many waiting jobs are kept."""


class HTCondorKnowledge(KnowledgeSource):
    """What HTCondor knows for a user's choice."""

    # The attributes of a partitionable slot are what its dynamic slots have left.
    knowledge_commands = {  # noqa: RUF012 the base class declares it as a mapping that does not change
        "nodes": ("condor_status", "-json", "-constraint", 'SlotType =!= "Dynamic"', "-attributes", ",".join(_SLOT)),
        "jobs": ("condor_q", "-allusers", "-json", "-constraint", "JobStatus == 1", "-attributes", ",".join(_JOB)),
    }
    availability_topics = ("nodes", "jobs")

    def parse_availability(self, answers: Mapping[str, str], taken: float) -> dict[str, QueueState]:
        """Return what the machines have free. The pool has no queues."""
        slots = _ads(answers["nodes"], "condor_status")
        if not slots:
            raise Unanswered(f"condor_status printed no machines: {answers['nodes'][:SHOWN]!r}")
        willing = [slot for slot in slots if slot.get("Start") is not False and slot.get("State") != "Drained"]
        offers = []
        for slot in willing:
            if slot.get("PartitionableSlot") is True or slot.get("State") == "Unclaimed":
                cores, memory, gpus = (_whole(slot.get(name)) for name in ("Cpus", "Memory", "GPUs"))
                offers.append(Offer(cores, memory, gpus))
        waiting = []
        # If there are no jobs, condor_q prints nothing.
        for job in _ads(answers["jobs"], "condor_q") if answers["jobs"].strip() else []:
            if job.get("JobStatus") == 1:
                needs = (_whole(job.get(name)) for name in ("RequestCpus", "RequestMemory", "RequestGPUs"))
                cores, memory, gpus = needs
                waiting.append(WaitingJob(Wanted(cores, memory, 0, gpus)))
        best = best_offers(offer for offer in offers if offer.cores > 0)
        return {ANY_QUEUE: QueueState(ANY_QUEUE, bool(willing), best, tuple(waiting[:MAX_WAITING]))}


def _ads(text: str, program: str) -> list[dict[str, Any]]:
    _, records = read_json_records(text, program, record=r'\{\s*"[A-Z]', listed=True)
    return [record.value for record in records if isinstance(record.value, dict)]


def _whole(value: object) -> int:
    """Return a whole number. An expression counts as 0."""
    return value if isinstance(value, int) and 0 <= value < 10**9 else 0
