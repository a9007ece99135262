"""What the hub knows of a cluster for the users' choices: a cache, which is refreshed in the background.

No method waits for the scheduler, except ``doctor``, which waits for at most ``DOCTOR_PATIENCE``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpchub.clusters.gate_client import Gate
    from hpchub.schedulers import Scheduler
    from hpchub.schedulers.knowledge import Allocations, Availability, Maintenance

DOCTOR_PATIENCE = 2.0
"""How long a start waits for the doctor, in seconds. Afterwards, the start goes on."""


@dataclass(frozen=True)
class Finding:
    """Something that would make a user's job fail.

    Attributes:
        kind: ``home``, ``quota``, ``account``, ``jobs`` or ``maintenance``.
        message: What is wrong, in whole sentences for the user.
        advice: What to do, in whole sentences for the user.
    """

    kind: str
    message: str
    advice: str


class Knowledge:
    """What the hub knows of one cluster.

    Args:
        scheduler: The cluster's scheduler.
        gate: The cluster's gate.
    """

    def __init__(self, scheduler: Scheduler, gate: Gate) -> None:
        self.scheduler = scheduler
        self._gate = gate

    def availability(self) -> Availability | None:
        """Return what the queues have free, as of the last answer, or None if it is unknown."""
        return None

    def allocations(self, user: str) -> Allocations | None:
        """Return what a user may request, as of the last answer, or None if it is unknown."""
        return None

    def maintenances(self) -> tuple[Maintenance, ...]:
        """Return the known maintenances that are not over."""
        return ()

    async def doctor(self, user: str) -> tuple[Finding, ...]:
        """Return what would make a job of the user fail, as far as it is known in time. Empty if nothing is known."""
        return ()
