"""What the page of a start shows: its steps with their times, the place in the queue, the expected start. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from hpchub.hub.outcome import utc
from hpchub.messages import Message
from hpchub.schedulers import JobState

if TYPE_CHECKING:
    from hpchub.hub.job_session import JobSession


class StepName(Enum):
    """The steps of a start, in their order."""

    SUBMITTING = "submitting"
    """The service sends the job to the cluster."""
    WAITING = "waiting"
    """The job waits in the queue."""
    STARTING = "starting"
    """The job runs, and its notebook server starts."""
    OPENING = "opening"
    """The notebook server has started, and the service connects to it."""


STEPS = tuple(StepName)


@dataclass(frozen=True)
class Moment:
    """A point in time for a page.

    Attributes:
        at: The time, in seconds since 1970.
    """

    at: float

    @property
    def text(self) -> str:
        """The time for browsers without JavaScript."""
        return utc(self.at)


@dataclass(frozen=True)
class ProgressStep:
    """One step of a start.

    Attributes:
        name: The name of the step, a value of ``StepName``.
        state: ``done``, ``now`` or ``later``.
        begin: When the step began, or None if this is not known or has not happened yet.
    """

    name: str
    state: str
    begin: Moment | None


@dataclass(frozen=True)
class Progress:
    """The progress of a start.

    Attributes:
        now: The name of the current step.
        steps: All steps.
        message: The current step in words, with the reason of a wait.
        job_id: The id of the job, or empty.
        cluster: The name of the cluster.
        queue: The name of the queue.
        profile: The name of the profile for people.
        node: The node of the job, or empty.
        place: The place of the job in its queue, or None if it is not known.
        expected: When the scheduler expects to start the job, or None if it does not know.
    """

    now: str
    steps: tuple[ProgressStep, ...]
    message: str
    job_id: str
    cluster: str
    queue: str
    profile: str
    node: str
    place: int | None
    expected: Moment | None


def progress_of(session: JobSession) -> Progress:
    """Return the progress of a session that starts."""
    job, current = session.job, _current(session)
    waits = current is StepName.WAITING and not session.silent
    begins = {
        StepName.SUBMITTING: session.requested,
        StepName.WAITING: session.submitted,
        StepName.STARTING: session.started,
        StepName.OPENING: session.reported,
    }
    expected = job.expected if job and waits and job.state is JobState.PENDING else None
    return Progress(
        now=current.value,
        steps=tuple(_step(name, current, begins[name]) for name in STEPS),
        message=session.message,
        job_id=session.job_id,
        cluster=session.context.cluster.name,
        queue=session.context.profile.queue,
        profile=session.context.profile.display_name,
        node=session.node or (job.host if job else ""),
        place=session.place if waits else None,
        expected=Moment(expected) if expected else None,
    )


def _current(session: JobSession) -> StepName:
    if session.port:
        return StepName.OPENING
    if session.started:
        return StepName.STARTING
    return StepName.WAITING if session.job_id else StepName.SUBMITTING


def _step(name: StepName, current: StepName, begin: float) -> ProgressStep:
    order = STEPS.index(name) - STEPS.index(current)
    state = "done" if order < 0 else "now" if order == 0 else "later"
    return ProgressStep(name.value, state, Moment(begin) if begin and order <= 0 else None)


PREPARING = Progress(
    now=StepName.SUBMITTING.value,
    steps=tuple(_step(name, StepName.SUBMITTING, 0.0) for name in STEPS),
    message=Message("Your session is being prepared."),
    job_id="",
    cluster="",
    queue="",
    profile="",
    node="",
    place=None,
    expected=None,
)
"""The progress of a start that has no session yet."""
