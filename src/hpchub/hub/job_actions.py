"""The actions that a session asks its spawner to carry out; see ``JobSession.step``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Observe:
    """Get a snapshot that is at most ``max_age`` seconds old, report it, then report ``Observed``."""

    max_age: float


@dataclass(frozen=True)
class LookUpJob:
    """Ask the scheduler for this one job, which the snapshot does not contain."""

    job_id: str


@dataclass(frozen=True)
class Wait:
    """Wait for about this many seconds, or until the job reports its port. Then report ``Waited``."""

    seconds: float


@dataclass(frozen=True)
class TakeTurn:
    """Wait for a turn of the hub's throttle, then report ``TurnTaken``."""


@dataclass(frozen=True)
class Probe:
    """Try to connect to the notebook server, then report ``Probed``."""

    host: str
    port: int


@dataclass(frozen=True)
class Done:
    """The task is complete: the job is submitted, or its server is ready at ``url``."""

    url: str = ""


@dataclass(frozen=True)
class Fail:
    """The start has failed.

    Attributes:
        message: What happened, in one sentence for the user.
        reason: A short label for metrics.
        status_code: The HTTP status of the answer.
        advice: What the user can do, or empty.
        field: The field of the form with the value that the scheduler refused, or empty.
    """

    message: str
    reason: str
    status_code: int = 400
    advice: str = ""
    field: str = ""


Action = Observe | LookUpJob | Wait | TakeTurn | Probe | Done | Fail
