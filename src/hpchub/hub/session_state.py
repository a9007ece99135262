"""The state of a session and its job, and the part of it that survives a restart of the hub. No I/O."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from hpchub.messages import Message
from hpchub.model.places import PlaceBase
from hpchub.names import SESSION
from hpchub.schedulers import Job, JobState
from hpchub.units import seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpchub.model.entries import Cluster, Profile
    from hpchub.schedulers.terms import Terms


class Now(NamedTuple):
    """A reading of the two clocks, in seconds."""

    monotonic: float
    """The monotonic clock, which does not jump. The times of snapshots use it too."""
    wall: float
    """The time since 1970, which stays comparable after a restart of the hub."""


class Phase(Enum):
    """The stage of a start."""

    IDLE = auto()
    """No start is in progress."""
    SUBMITTING = auto()
    """The submit host is submitting the job."""
    SEARCHING = auto()
    """The submission was not answered. The hub searches for the job by its name."""
    QUEUED = auto()
    """The job is submitted and does not run yet."""
    LAUNCHING = auto()
    """The job runs. Its notebook server has not started yet."""
    CONNECTING = auto()
    """The notebook server has started. The hub tries the addresses of its node."""
    RECONNECTING = auto()
    """The hub was restarted and waits until it can reach the notebook server."""
    READY = auto()
    """The notebook server is ready."""


@dataclass(frozen=True)
class Context:
    """The facts that do not change during a session.

    Attributes:
        hub: The hub's name in the comments of its jobs.
        user: The session's user.
        cluster: The session's cluster or place.
        profile: The profile that the session was granted.
        scheduler: The terms of the cluster's scheduler or of the place.
        poll_interval: The time between two observations during a start, in seconds.
        launch_timeout: How long a notebook server may take to start after its job has started, in seconds.
    """

    hub: str
    user: str
    cluster: Cluster | PlaceBase
    profile: Profile
    scheduler: Terms
    poll_interval: float
    launch_timeout: float

    @property
    def is_place(self) -> bool:
        """Whether the session runs in a place, without a batch scheduler."""
        return isinstance(self.cluster, PlaceBase)


@dataclass(frozen=True)
class SessionState:
    """The state of a session and its job.

    All times are on the monotonic clock, except ``requested``, ``submitted``, ``started``, ``reported`` and ``ready``.

    Attributes:
        context: The facts that do not change.
        session: The session's name, 16 hexadecimal digits, or empty if there is no session.
        job_id: The job's id, or empty until it is known.
        requested: When the user asked for the session, in seconds since 1970, or 0 if this is not known.
        submitted: When the job was submitted, in seconds since 1970, or 0.
        started: When the job started, in seconds since 1970, or 0 if this is not known.
        ready: When the user could open the notebook server for the first time, in seconds since 1970, or 0.
        host: The host of the notebook server, or empty until the server is ready.
        port: The port of the notebook server, or 0 until the job has reported it.
        phase: The stage of the start.
        message: The message on the progress page.
        status: The result of the last observation. ``ENDED`` means that the session is over.
        job: The job as the scheduler last showed it.
        silent: Whether the scheduler did not answer the last query for all jobs.
        last_seen: When a snapshot last contained the job.
        hopeless_since: When a snapshot first showed that the job can never start, and all later ones showed it too.
        patience: How long a live job may be missing from snapshots, in seconds.
        cancelled: Whether the scheduler confirmed the job's cancellation.
        addresses: The network interfaces that the job reported, each with its address.
        notice: The message that the job reported for the user, or empty.
        problem: The reason that the job reported for a failed start, or empty.
        drained: Why the job must not start a session any more, or empty.
        candidates: The hosts that may be the notebook server's, which the hub has not tried in this round.
        place: The place of the job in its queue, or None if it is not known.
        reported: When the job reported its port, in seconds since 1970, or 0 if this is not known.
        reported_at: When the job reported its port.
        node: The node on which the job started.
        deadline: When the current phase times out.
        submit_error: The last line of the submit command's error output.
        restarted: Whether the hub was restarted during this session.
    """

    context: Context
    session: str = ""
    job_id: str = ""
    requested: float = 0.0
    submitted: float = 0.0
    started: float = 0.0
    ready: float = 0.0
    host: str = ""
    port: int = 0
    phase: Phase = Phase.IDLE
    message: str = Message("Your job is being submitted.")
    status: JobState = JobState.UNKNOWN
    job: Job | None = None
    silent: bool = False
    last_seen: float = 0.0
    hopeless_since: float = math.inf
    patience: float = 0.0
    cancelled: bool = False
    addresses: tuple[tuple[str, str], ...] = ()
    notice: str = ""
    problem: str = ""
    drained: str = ""
    candidates: tuple[str, ...] = ()
    place: int | None = None
    reported: float = 0.0
    reported_at: float = -math.inf
    node: str = ""
    deadline: float = math.inf
    submit_error: str = ""
    restarted: bool = False

    # -- The saved part

    @property
    def saved(self) -> dict[str, Any]:
        """The part of the state that survives a restart of the hub, or an empty dictionary if there is no session."""
        if not self.session:
            return {}
        return {
            "session": self.session,
            "job_id": self.job_id,
            "submitted": self.submitted,
            "started": self.started,
            "host": self.host,
            "port": self.port,
            **({"requested": self.requested} if self.requested else {}),
            **({"ready": self.ready} if self.ready else {}),
            **({"addresses": [list(each) for each in self.addresses]} if self.addresses else {}),
        }

    @classmethod
    def restore(cls, context: Context, saved: Mapping[str, Any], now: Now) -> Self:
        """Return the session of an earlier hub process. Invalid values are ignored."""
        session, job_id = str(saved.get("session")), str(saved.get("job_id"))
        port = saved.get("port")
        return cls(
            context,
            session=session if re.fullmatch(SESSION, session) else "",
            job_id=job_id if re.fullmatch(context.scheduler.job_id_pattern, job_id) else "",
            requested=_time(saved, "requested"),
            submitted=_time(saved, "submitted"),
            started=_time(saved, "started"),
            ready=_time(saved, "ready"),
            host=str(saved.get("host", "")),
            port=port if type(port) is int else 0,
            addresses=_addresses(saved.get("addresses")),
            last_seen=now.monotonic,
            patience=context.scheduler.propagation,
        )

    def extend_patience(self, seconds: float) -> Self:
        """Return the session with more time for its job to appear, because the gate may still be submitting it."""
        return replace(self, patience=self.patience + seconds)

    @property
    def ends_at(self) -> float | None:
        """When the job reaches its time limit, in seconds since 1970, or None if its start is not known."""
        return self.started + seconds(self.context.profile.runtime) if self.started else None

    # -- The progress page

    @property
    def percent(self) -> int:
        """The progress of the start."""
        if self.port:
            return 90
        if self.job and self.job.state is JobState.RUNNING:
            return 60
        return 30 if self.job_id else 10

    # -- The notebook server

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts that may be the notebook server's, the most likely one first."""
        node = (self.job and self.job.host) or self.node
        return tuple(self.context.cluster.hosts_of(node, self.addresses))

    @property
    def url(self) -> str:
        """The URL of the notebook server."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}"

    @property
    def log(self) -> str:
        """The path of the job's log on the cluster, for the user."""
        return f"~/.hpchub/logs/{self.job_id}.log"


def _time(saved: Mapping[str, Any], name: str) -> float:
    """Return a saved time, or 0 if it is missing or invalid."""
    found = saved.get(name)
    return found if isinstance(found, float) else 0.0


def _addresses(saved: Any) -> tuple[tuple[str, str], ...]:
    """Return saved addresses without invalid entries."""
    entries = saved if isinstance(saved, list) else []
    return tuple(
        (entry[0], entry[1])
        for entry in entries
        if isinstance(entry, list) and len(entry) == 2 and all(isinstance(text, str) for text in entry)
    )
