"""What the hub remembers of a user's last session: how it ended, or why it did not start. No I/O.

The outcome is a part of the saved state of the spawner, until the user's next start. The pages and the API show it.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hpchub.schedulers import Cause, Ending
from hpchub.schedulers.endings import OWNER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpchub.model.entries import Profile

NOT_STARTED = "not_started"
"""The cause of an outcome if the session did not start."""
STOPPED = "stopped"
"""The cause of an outcome if somebody stopped the session through the hub."""

UNEXPECTED = (
    "The service made an error while it started your session. Please try again. If it happens again, tell the"
    " administrators of the service when it happened."
)

_MAX_TEXT = 2000
_MAX_LINES = 50
_EXCEPTION = re.compile(r"\b(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt): ?|\[(?:Errno|WinError) -?\d+\] ?")
_TRACEBACK = re.compile(r"^(?:\S.* )?Traceback \(most recent call last\):$")
_FRAME = re.compile(r"^(?:\s.*)?$")


@dataclass(frozen=True)
class Outcome:
    """The outcome of a session.

    Attributes:
        session: The session's name.
        cause: A value of ``Cause``, ``NOT_STARTED`` or ``STOPPED``.
        text: What happened, in plain words for the user.
        at: When it happened, in seconds since 1970.
        job_id: The id of the job, or empty.
        cluster: The name of the cluster.
        detail: The cause in the scheduler's terms, for administrators.
        log: The last lines of the job's log, without secrets. Only a session that did not start has them.
    """

    session: str
    cause: str
    text: str
    at: float
    job_id: str = ""
    cluster: str = ""
    detail: str = ""
    log: tuple[str, ...] = ()

    @property
    def not_started(self) -> bool:
        """Whether the session did not start."""
        return self.cause == NOT_STARTED

    @property
    def when(self) -> str:
        """When it happened, for browsers that do not show the local time."""
        return f"{dt.datetime.fromtimestamp(self.at, dt.UTC):%Y-%m-%d %H:%M} UTC"

    @property
    def saved(self) -> dict[str, Any]:
        """The outcome as JSON."""
        return {**vars(self), "log": list(self.log)}

    @property
    def public(self) -> dict[str, Any]:
        """The part of the outcome that the API returns: ``{"cause": …, "text": …, "at": …}``."""
        return {"cause": self.cause, "text": self.text, "at": self.at}

    def explained(self, ending: Ending, text: str) -> Outcome:
        """Return the outcome with the ending that the scheduler reported."""
        cause = self.cause if self.not_started else ending.cause.value
        return replace(self, cause=cause, text=text, detail=ending.detail[:200])


def restore(saved: object) -> Outcome | None:
    """Return a saved outcome, or None if it is not valid."""
    if not isinstance(saved, dict):
        return None
    texts = {name: saved.get(name, "") for name in ("session", "cause", "text", "job_id", "cluster", "detail")}
    log, at = saved.get("log", []), saved.get("at")
    if not all(isinstance(value, str) for value in texts.values()) or not isinstance(at, (int, float)):
        return None
    lines = tuple(map(str, log[-_MAX_LINES:])) if isinstance(log, list) else ()
    return Outcome(**texts, at=float(at), log=lines)


def plain(text: str) -> str:
    """Return a message without the parts that only Python programmers understand.

    ``PermissionError: [Errno 13] Permission denied: '/home/ann'`` becomes ``Permission denied: '/home/ann'``.
    """
    return _EXCEPTION.sub("", text)[:_MAX_TEXT]


def plain_lines(lines: Sequence[str]) -> tuple[str, ...]:
    """Return the lines of a log without Python's tracebacks, except for the message at the end of each."""
    found = []
    inside = False
    for line in lines:
        if _TRACEBACK.fullmatch(line):
            inside = True
        elif not (inside and _FRAME.fullmatch(line)):
            inside = False
            found.append(plain(line))
    return tuple(found)


def explain(ending: Ending, *, user: str, profile: Profile) -> str:  # noqa: C901, PLR0911 one text for each cause
    """Return in plain words how a session ended.

    Args:
        ending: The ending that the scheduler reported.
        user: The session's user.
        profile: The session's profile.
    """
    match ending.cause:
        case Cause.FINISHED:
            return "Your session was shut down from within, for example with 'Shut Down' in JupyterLab's menu."
        case Cause.FAILED:
            detail = f" ({plain(ending.detail)})" if ending.detail else ""
            return f"The program of your session ended with an error{detail}."
        case Cause.KILLED:
            advice = ""
            if "SIGKILL" in ending.detail:
                advice = " If the program needed much memory, choose a profile with more memory."
            return (
                f"The program of your session was ended by force ({ending.detail or 'by a signal'}). The cluster did"
                f" not report why.{advice}"
            )
        case Cause.TIME_LIMIT:
            return f"Your session reached its time limit of {profile.runtime}, so the cluster ended it."
        case Cause.OUT_OF_MEMORY:
            return (
                f"Your session needed more than the {profile.memory} of memory that its profile has, so the cluster"
                " ended it. Choose a profile with more memory, or load less data at a time."
            )
        case Cause.NODE_LOST:
            return f"The compute node of your session{f', {ending.node},' if ending.node else ''} failed."
        case Cause.CANCELLED:
            return _who_cancelled(ending.by, user)
        case Cause.PREEMPTED:
            return "The cluster ended your session because it needed the compute node for other jobs."
        case Cause.UNKNOWN:
            return "Your session has ended. The cluster did not report why."


def _who_cancelled(by: str, user: str) -> str:
    if by in (OWNER, user):
        return "The job of your session was cancelled on the cluster with your own account."
    if by == "root":
        return "An administrator of the cluster (root) cancelled the job of your session."
    if by:
        return f"The account {by} cancelled the job of your session on the cluster."
    return "Somebody cancelled the job of your session on the cluster. The cluster did not report who."


def stopped_by(who: str, user: str, *, starting: bool) -> str:
    """Return in plain words that somebody stopped a session through the hub.

    Args:
        who: The name of the user or service, or empty if it is unknown.
        user: The session's user.
        starting: Whether the session had not started yet.
    """
    name = "You" if who == user else who or "The service"
    return f"{name} stopped {'the start of ' if starting else ''}{'your' if who == user else 'this'} session."


def idle(limit: str) -> str:
    """Return in plain words that a session was stopped because nobody used it.

    Args:
        limit: The idle limit of the profile, as the inventory writes it.
    """
    return (
        f"The service stopped this session because nobody used it for {limit} (hours:minutes:seconds), which is the"
        " longest time that its profile permits. A session with a running computation is not stopped."
    )


def unreachable(host: str, port: int) -> str:
    """Return in plain words that a notebook server started, but did not answer the hub."""
    return (
        f"The notebook server of your session started, but the service could not connect to it (host {host}, port"
        f" {port}). Please tell the administrators of the service."
    )
