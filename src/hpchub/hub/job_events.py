"""The events that change the state of a session; see ``JobSession.step``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpchub.hub.job_actions import Fail
    from hpchub.schedulers import Job


class SubmitAnswer(Protocol):
    """The result of the submit command. The gate's ``Answer`` implements it."""

    @property
    def ok(self) -> bool:
        """Whether the command succeeded."""

    @property
    def timed_out(self) -> bool:
        """Whether the gate stopped the command because it took too long."""

    @property
    def stdout(self) -> str:
        """The command's output."""

    @property
    def stderr(self) -> str:
        """The command's error output."""

    @property
    def error(self) -> str:
        """The gate's own explanation of a failure, or empty."""

    @property
    def message(self) -> object:
        """The explanation as a message that can be translated, or None; see ``hpchub.hub.remote_texts``."""


@dataclass(frozen=True)
class StartRequested:
    """The user starts a session. Its job has not been submitted yet.

    Attributes:
        session: The session's name.
        requested: When the user asked for it, in seconds since 1970, or 0 if this is not known.
    """

    session: str
    requested: float = 0.0


@dataclass(frozen=True)
class SubmissionAnswered:
    """The submit host answered the submission."""

    answer: SubmitAnswer


@dataclass(frozen=True)
class SubmissionAccepted:
    """A place has created the session's job. A place knows the id, so nothing has to be read from an output."""

    job_id: str


@dataclass(frozen=True)
class SubmissionRefused:
    """A place did not create the session's job, and gives the reason.

    Attributes:
        failure: The failure of the start.
        note: A message for the log.
    """

    failure: Fail
    note: str


@dataclass(frozen=True)
class SubmissionUnanswered:
    """The submit host did not answer the submission, so the job may exist or not."""

    error: str


@dataclass(frozen=True)
class SubmissionEnded:
    """The task that submits the job has ended, by success, failure or cancellation."""


@dataclass(frozen=True)
class FollowRequested:
    """From now on, the spawner follows the job until its server is ready."""

    after_restart: bool = False


@dataclass(frozen=True)
class SnapshotTaken:
    """The scheduler answered the query for all jobs."""

    taken: float
    """When the query began, on the monotonic clock."""
    jobs: Mapping[str, Job]
    """All jobs of the cluster by id."""
    places: Mapping[str, int] = field(default_factory=dict)
    """The place of each pending job in its queue by id, as far as the places are known."""


@dataclass(frozen=True)
class SnapshotUnanswered:
    """The scheduler did not answer the query for all jobs."""


@dataclass(frozen=True)
class JobLookedUp:
    """The scheduler answered the query for one job. ``None`` means that it does not know the job."""

    job: Job | None


@dataclass(frozen=True)
class LookUpUnanswered:
    """The scheduler did not answer the query for one job."""


@dataclass(frozen=True)
class PortReported:
    """The job reported the port of its notebook server.

    Attributes:
        port: The port.
        addresses: The network interfaces of its node, each with its address.
        notice: A message for the user, or empty.
    """

    port: int
    addresses: tuple[tuple[str, str], ...] = ()
    notice: str = ""


@dataclass(frozen=True)
class ProblemReported:
    """The job reported that its notebook server cannot start."""

    problem: str


@dataclass(frozen=True)
class DrainBegan:
    """A drain began, so that a job that still waits in the queue must not start a session."""

    reason: str
    """The explanation for the user."""


@dataclass(frozen=True)
class ServerOpened:
    """The user can open the notebook server: it answers, and the proxy has its route."""


@dataclass(frozen=True)
class CancelConfirmed:
    """The scheduler confirmed the cancellation of the job."""


@dataclass(frozen=True)
class Observed:
    """The action ``Observe`` is complete."""


@dataclass(frozen=True)
class Waited:
    """The action ``Wait`` is complete."""


@dataclass(frozen=True)
class TurnTaken:
    """The action ``TakeTurn`` is complete."""


@dataclass(frozen=True)
class Probed:
    """The action ``Probe`` is complete."""

    reachable: bool


Completion = Observed | Waited | TurnTaken | Probed
"""The events that complete an action."""

Event = (
    StartRequested
    | SubmissionAnswered
    | SubmissionAccepted
    | SubmissionRefused
    | SubmissionUnanswered
    | SubmissionEnded
    | FollowRequested
    | SnapshotTaken
    | SnapshotUnanswered
    | JobLookedUp
    | LookUpUnanswered
    | PortReported
    | ProblemReported
    | DrainBegan
    | ServerOpened
    | CancelConfirmed
    | Completion
)
"""Everything that changes the state of a session."""
