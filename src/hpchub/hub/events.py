"""What happens to users and sessions: the one vocabulary for the event table, the metrics and the audit log.

The hub announces an event with ``Events.emit``. A subscriber receives each event as soon as it happens. No I/O.

A session has one ``StartRequested``, then at most one each of ``JobSubmitted``, ``JobStarted`` and ``SessionReady``,
and one last event: ``StartFailed`` if it never was ready and nobody stopped it, else ``SessionEnded``. ``EndExplained``
may follow. If a node does not start a job and the job waits again, ``JobStarted`` occurs again. After a restart of the
hub, ``SessionRestored`` repeats what is known of each session. Its earlier events do not occur again, except for those
that happened just before the hub was killed.
"""

from __future__ import annotations

import logging
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Subscriber = Callable[["Event"], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """The sender of a request to the hub, and its address.

    Attributes:
        by: The name of the user or service, or empty if nobody asked, or if it is unknown.
        address: The network address of the browser or program, or empty.
        at: When the request arrived, in seconds since 1970, or 0 if there is none.
    """

    by: str = ""
    address: str = ""
    at: float = 0.0


UNKNOWN = Origin()
ORIGIN: ContextVar[Origin] = ContextVar("hpchub_origin", default=UNKNOWN)
"""The origin of the request that the current task answers. The handlers that start and stop sessions set it."""


@dataclass(frozen=True)
class Session:
    """The facts of a session that do not change.

    Attributes:
        name: The session's name, 16 hexadecimal digits.
        user: Its user.
        cluster: Its cluster.
        queue: Its queue.
        profile: The key of its profile.
        cores: The number of cores that it was granted, on all its nodes together.
        gpus: The number of GPUs that it was granted, on all its nodes together.
        runtime: Its time limit, in seconds.
    """

    name: str
    user: str
    cluster: str
    queue: str
    profile: str
    cores: int
    gpus: int
    runtime: int


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened.

    Attributes:
        at: When it happened, in seconds since 1970.
    """

    at: float = field(default_factory=time.time)


# -- Users


@dataclass(frozen=True, kw_only=True)
class UserEvent(Event):
    """Something that a browser asked for.

    Attributes:
        user: The name of the account, or empty if a refused sign-in did not contain a valid one.
        address: The network address of the browser.
    """

    user: str
    address: str


@dataclass(frozen=True, kw_only=True)
class SignedIn(UserEvent):
    """A user signed in."""


@dataclass(frozen=True, kw_only=True)
class SignInRefused(UserEvent):
    """A sign-in was refused.

    Attributes:
        reason: ``no_identity``, ``not_permitted``, ``other_identity`` (the account belongs to another person),
            ``wrong_password``, ``throttled`` (too many wrong passwords) or
            ``unavailable`` (the hub cannot use its database).
    """

    reason: str


@dataclass(frozen=True, kw_only=True)
class SignedOut(UserEvent):
    """A user signed out."""


@dataclass(frozen=True, kw_only=True)
class AccessEnded(UserEvent):
    """A request of a signed-in user was refused.

    Attributes:
        reason: ``signed_out`` (the single sign-on has ended, or belongs to another user) or ``not_permitted``.
    """

    reason: str


# -- Sessions


@dataclass(frozen=True, kw_only=True)
class StartRefused(Event):
    """A start was refused before there was a session.

    Attributes:
        user: The user that the session would have had.
        reason: The reason of the ``StartError``, for example ``bad_choice``.
    """

    user: str
    reason: str
    origin: Origin = UNKNOWN


@dataclass(frozen=True, kw_only=True)
class SessionEvent(Event):
    """Something that happened to a session."""

    session: Session


@dataclass(frozen=True, kw_only=True)
class StartRequested(SessionEvent):
    """Somebody asked for a session. Its job is not submitted yet.

    Attributes:
        groups: The groups of the user at this moment.
        server: The name of the session's server, or empty.
    """

    groups: tuple[str, ...] = ()
    server: str = ""
    origin: Origin = UNKNOWN


@dataclass(frozen=True, kw_only=True)
class JobSubmitted(SessionEvent):
    """The scheduler accepted the session's job.

    Attributes:
        waited: The time since the request, in seconds, or None if it is unknown.
    """

    job_id: str
    waited: float | None


@dataclass(frozen=True, kw_only=True)
class JobStarted(SessionEvent):
    """The session's job runs on a node.

    Attributes:
        waited: The time since the submission, in seconds, or None if it is unknown.
    """

    job_id: str
    node: str
    waited: float | None


@dataclass(frozen=True, kw_only=True)
class SessionReady(SessionEvent):
    """The user can open the notebook.

    Attributes:
        launched: The time since the job started, in seconds, or None if it is unknown.
        waited: The time since the request, in seconds, or None if it is unknown.
    """

    job_id: str
    launched: float | None
    waited: float | None


@dataclass(frozen=True, kw_only=True)
class StopRequested(SessionEvent):
    """Somebody asked the hub to stop the session."""

    origin: Origin


@dataclass(frozen=True, kw_only=True)
class StartFailed(SessionEvent):
    """The session is over before it was ready.

    Attributes:
        reason: The reason of the ``StartError``, for example ``refused`` or ``waited``.
    """

    reason: str


@dataclass(frozen=True, kw_only=True)
class SessionEnded(SessionEvent):
    """The session is over.

    Attributes:
        cause: ``stopped`` if somebody stopped it through the hub, even before it was ready. Otherwise it is ``unknown``
            until ``EndExplained``.
        by: Who stopped it, or empty.
        was_ready: Whether the session was ready before.
    """

    cause: str
    by: str = ""
    was_ready: bool = True


@dataclass(frozen=True, kw_only=True)
class EndExplained(SessionEvent):
    """The scheduler reported how the job of a session ended. A later report is more exact.

    Attributes:
        cause: A value of ``hpchub.schedulers.Cause``.
        by: Who cancelled the job, or empty.
    """

    cause: str
    by: str = ""


@dataclass(frozen=True, kw_only=True)
class SessionRestored(SessionEvent):
    """The hub was restarted during the session.

    All times are in seconds since 1970. Those that have not come, or are unknown, are 0.
    """

    job_id: str
    requested: float
    submitted: float
    started: float
    ready: float


class Events:
    """The point at which the hub announces events."""

    def __init__(self) -> None:
        self._subscribers: list[Subscriber] = []

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call a function for each event from now on. It must return at once, because the hub waits for it."""
        self._subscribers.append(subscriber)

    def emit(self, event: Event) -> None:
        """Announce an event. The exception of a subscriber is logged, and does not affect anything else."""
        for subscriber in self._subscribers:
            try:
                subscriber(event)
            except Exception:
                log.exception("A subscriber failed at the event %s", type(event).__name__)
