"""How a job ended, in the same terms for all schedulers. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

OWNER = "owner"
"""The value of ``Ending.by`` if the owner of the job cancelled it."""


_SIGNALS = {1: "HUP", 2: "INT", 6: "ABRT", 7: "BUS", 9: "KILL", 11: "SEGV", 15: "TERM", 24: "XCPU", 25: "XFSZ"}
"""The signals that end jobs. Their numbers are the same on all nodes."""


class Cause(Enum):
    """Why a job ended. The values are part of the hub's API and of its saved state."""

    FINISHED = "finished"
    """Its program ended by itself, without an error."""
    FAILED = "failed"
    """Its program could not be started, or ended with an error."""
    KILLED = "killed"
    """Its program received a signal to end. The scheduler did not report from whom."""
    TIME_LIMIT = "time_limit"
    """It reached its time limit."""
    OUT_OF_MEMORY = "out_of_memory"
    """It used more memory than it had."""
    NODE_LOST = "node_lost"
    """Its node failed, or the cluster lost the connection to it."""
    CANCELLED = "cancelled"
    """Somebody cancelled it."""
    EVICTED = "evicted"
    """Its node was emptied, or had too little memory or disk space for all jobs."""
    PREEMPTED = "preempted"
    """The cluster needed its resources for a job with a higher priority."""
    UNKNOWN = "unknown"
    """The scheduler did not report why."""


@dataclass(frozen=True)
class Ending:
    """The end of a job, as its scheduler reports it.

    Attributes:
        cause: Why it ended.
        detail: The cause in the scheduler's terms, for example ``OUT_OF_MEMORY`` or ``exit status 1``.
        by: Who cancelled it: the name of an account, ``OWNER``, or empty if the scheduler does not report it.
        node: The node that failed, or empty.
    """

    cause: Cause
    detail: str = ""
    by: str = ""
    node: str = ""


_MEMORY = re.compile(r"^slurmstepd\b.*(exceeded (job )?memory limit|oom.kill)", re.IGNORECASE)
"""The lines of Slurm in the log of a job that used too much memory. Its record may not contain it."""


def with_log(ending: Ending, lines: Iterable[str]) -> Ending:
    """Return the ending of a job, with the facts that only its log contains.

    Slurm records a job that it ended with ``JobAcctGatherParams=OverMemoryKill`` as one that a signal has ended.

    Args:
        ending: The ending in the scheduler's record.
        lines: The last lines of the log.
    """
    if ending.cause in (Cause.KILLED, Cause.FAILED) and any(map(_MEMORY.match, lines)):
        return replace(ending, cause=Cause.OUT_OF_MEMORY)
    return ending


def ending_of_status(status: int) -> Ending:
    """Return the ending of a program with an exit status.

    Args:
        status: The status in a shell's notation. From 129 to 192 it is a signal plus 128, from 257 a signal plus 256.
    """
    if not status:
        return Ending(Cause.FINISHED)
    number = status - 256 if status > 256 else status - 128
    if 0 < number < 65:
        return Ending(Cause.KILLED, signal_name(number))
    return Ending(Cause.FAILED, f"exit status {status}")


def signal_name(number: int) -> str:
    """Return a signal as ``signal 9 (SIGKILL)``."""
    return f"signal {number} (SIG{_SIGNALS[number]})" if number in _SIGNALS else f"signal {number}"


def at_limit(used: int | None, limit: int | None) -> bool:
    """Return whether a job used up a resource. Schedulers measure at intervals, so 1% below the limit counts too."""
    return bool(used and limit and used >= 0.99 * limit)
