"""What the hub remembers of a user's last session: how it ended, or why it did not start. No I/O.

The outcome is a part of the saved state of the spawner, until the user's next start. The pages and the API show it.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hpchub.hub import place_texts
from hpchub.messages import Message, restored, sentences
from hpchub.model import host_places
from hpchub.model.entries import Cluster
from hpchub.schedulers import Cause, Ending
from hpchub.schedulers.endings import OWNER
from hpchub.units import memory_in_words, runtime_in_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpchub.model.entries import Profile
    from hpchub.model.places import PlaceBase

NOT_STARTED = "not_started"
"""The cause of an outcome if the session did not start."""
STOPPED = "stopped"
"""The cause of an outcome if somebody stopped the session through the hub."""

UNEXPECTED = Message("The service made an error while it started your session.")
TRY_AGAIN = Message("Please try again. If it happens again, tell the administrators of the service when it happened.")

_MAX_TEXT = 2000
_MAX_DETAIL = 200
_MAX_LINES = 50
_TEXTS = (
    *("session", "cause", "text", "job_id", "cluster", "detail", "advice", "profile", "profile_name", "queue", "node"),
    "field",
)
_TRANSLATED = ("text", "advice")
"""The texts that are saved with their parts, so that a page can translate them."""
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
        log: The last lines of the job's log, without secrets. A session that ended without an error has none.
        advice: What the user can do, or empty.
        profile: The key of the session's profile.
        queue: The queue of the job.
        node: The node of the job, or empty.
        submitted: When the job was submitted, in seconds since 1970, or 0.
        started: When the job started, in seconds since 1970, or 0.
        own_settings: Whether the session used the user's own settings of Jupyter and IPython.
        field: The field of the form with the value that the scheduler refused, or empty.
        profile_name: The name of the profile as users read it, or empty.
    """

    session: str
    cause: str
    text: str
    at: float
    job_id: str = ""
    cluster: str = ""
    detail: str = ""
    log: tuple[str, ...] = ()
    advice: str = ""
    profile: str = ""
    queue: str = ""
    node: str = ""
    submitted: float = 0.0
    started: float = 0.0
    own_settings: bool = True
    field: str = ""
    profile_name: str = ""

    @property
    def not_started(self) -> bool:
        """Whether the session did not start."""
        return self.cause == NOT_STARTED

    @property
    def when(self) -> str:
        """When it happened, for browsers that do not show the local time."""
        return utc(self.at)

    @property
    def facts(self) -> dict[str, str]:
        """The known facts of the job, by their names in the templates: texts, and times as ``utc`` returns them."""
        times = {name: utc(getattr(self, name)) for name in ("submitted", "started") if getattr(self, name)}
        texts = {name: getattr(self, name) for name in ("job_id", "cluster", "queue", "profile", "node")}
        texts["profile"] = self.profile_name or self.profile
        return {name: text for name, text in texts.items() if text} | times

    @property
    def may_be_own_settings(self) -> bool:
        """Whether the user's own settings may be the reason why the session did not start, or why its program died."""
        has_failed = self.not_started or self.cause in (Cause.FAILED.value, Cause.KILLED.value)
        return has_failed and bool(self.job_id) and self.own_settings

    @property
    def saved(self) -> dict[str, Any]:
        """The outcome as JSON."""
        texts = {name: getattr(self, name) for name in _TRANSLATED}
        messages = {name: text.saved for name, text in texts.items() if isinstance(text, Message)}
        return {**vars(self), "log": list(self.log), "messages": messages}

    @property
    def public(self) -> dict[str, Any]:
        """The part of the outcome that the API returns: ``{"cause": …, "text": …, "at": …}``."""
        return {"cause": self.cause, "text": sentences(self.text, self.advice), "at": self.at}

    def explained(self, ending: Ending, text: str, advice: str) -> Outcome:
        """Return the outcome with the ending that the scheduler reported."""
        cause = self.cause if self.not_started else ending.cause.value
        node = self.node or ending.node
        return replace(self, cause=cause, text=text, advice=advice, detail=ending.detail[:_MAX_DETAIL], node=node)


def restore(saved: object) -> Outcome | None:
    """Return a saved outcome, or None if it is not valid."""
    if not isinstance(saved, dict):
        return None
    texts = {name: saved.get(name, "") for name in _TEXTS}
    times = {name: saved.get(name, 0.0) for name in ("submitted", "started")}
    log, at = saved.get("log", []), saved.get("at")
    if not all(isinstance(value, str) for value in texts.values()):
        return None
    if not isinstance(at, (int, float)) or not all(isinstance(value, (int, float)) for value in times.values()):
        return None
    messages = saved.get("messages")
    for name in _TRANSLATED:
        texts[name] = restored(texts[name], messages.get(name) if isinstance(messages, dict) else None)
    lines = tuple(map(str, log[-_MAX_LINES:])) if isinstance(log, list) else ()
    return Outcome(**texts, **times, at=float(at), log=lines, own_settings=saved.get("own_settings") is not False)


def utc(instant: float) -> str:
    """Return a time for people, in UTC."""
    return f"{dt.datetime.fromtimestamp(instant, dt.UTC):%Y-%m-%d %H:%M} UTC"


def plain(text: str) -> str:
    """Return a message without the parts that only Python programmers understand.

    ``PermissionError: [Errno 13] Permission denied: '/home/ann'`` becomes ``Permission denied: '/home/ann'``.
    """
    if isinstance(text, Message):
        values = {name: plain(each) if isinstance(each, str) else each for name, each in text.values.items()}
        return Message(text.template, **values)
    return _EXCEPTION.sub("", text[:_MAX_TEXT])


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


def place_name(cluster: Cluster | PlaceBase) -> str:
    """Return the name of a place, or an empty text for a cluster with a batch scheduler."""
    return "" if isinstance(cluster, Cluster) and cluster.scheduler != host_places.SCHEDULER else cluster.name


def explain(  # noqa: C901, PLR0911, PLR0912 one text for each cause
    ending: Ending, *, user: str, profile: Profile, job_id: str = "", starting: bool = False, place: str = ""
) -> str:
    """Return in one sentence of plain words how a session ended.

    Args:
        ending: The ending that the scheduler reported.
        user: The session's user.
        profile: The session's profile.
        job_id: The id of the session's job.
        starting: Whether the session had not started yet.
        place: The place of the session, or empty in a cluster; see ``place_name``.
    """
    detail = f" ({plain(ending.detail)})" if ending.detail else ""
    if place and (text := place_texts.explain(ending, profile=profile, place=place, detail=detail, starting=starting)):
        return text
    match ending.cause:
        case Cause.FINISHED if starting:
            return Message(
                "Your job {job_id} ended without an error before its notebook server was ready.", job_id=job_id
            )
        case Cause.FINISHED:
            return Message("Your session was shut down from within, for example with 'Shut Down' in JupyterLab's menu.")
        case Cause.FAILED if starting:
            return Message(
                "Your job {job_id} ended with an error before its notebook server was ready{detail}.",
                job_id=job_id,
                detail=detail,
            )
        case Cause.FAILED:
            return Message("The program of your session ended with an error{detail}.", detail=detail)
        case Cause.KILLED if starting:
            return Message(
                "Your job {job_id} was ended by force before its notebook server was ready{detail}.",
                job_id=job_id,
                detail=detail,
            )
        case Cause.KILLED:
            return Message(
                "The program of your session was ended by force, and the cluster did not report why{detail}.",
                detail=detail,
            )
        case Cause.TIME_LIMIT:
            return Message(
                "Your session reached its time limit of {runtime}, so the cluster ended it.",
                runtime=runtime_in_words(profile.runtime_seconds),
            )
        case Cause.OUT_OF_MEMORY:
            return Message(
                "Your session needed more than the {memory} of memory that its profile has, so the cluster ended it.",
                memory=memory_in_words(profile.memory_mib),
            )
        case Cause.NODE_LOST:
            return (
                Message("The compute node of your session, {node}, failed.", node=ending.node)
                if ending.node
                else Message("The compute node of your session failed.")
            )
        case Cause.CANCELLED:
            return _who_cancelled(ending.by, user)
        case Cause.EVICTED:
            return Message("Your session was removed from its node{detail}.", detail=detail)
        case Cause.PREEMPTED:
            return Message("The cluster ended your session because it needed the compute node for other jobs.")
        case Cause.UNKNOWN:
            return Message("Your session has ended, and the cluster did not report why.")


_CONTINUE = Message("Start a new session to continue.")
_ADVICE = {
    Cause.FINISHED: _CONTINUE,
    Cause.FAILED: Message(
        "The last lines of the log may show the reason. If you do not understand them, ask for help."
    ),
    Cause.KILLED: Message("If the program needed much memory, choose a profile with more memory."),
    Cause.TIME_LIMIT: sentences(
        _CONTINUE, Message("If you need more time, choose a profile with a longer time limit.")
    ),
    Cause.OUT_OF_MEMORY: Message("Choose a profile with more memory, or load less data at a time."),
    Cause.NODE_LOST: sentences(_CONTINUE, Message("It will use another node.")),
    Cause.CANCELLED: Message("If you do not know the reason, ask the administrators of the cluster."),
    Cause.EVICTED: sentences(_CONTINUE, Message("If it happens again, choose a profile with more memory.")),
    Cause.PREEMPTED: _CONTINUE,
    Cause.UNKNOWN: sentences(_CONTINUE, Message("If it happens again, ask for help.")),
}


def advise(ending: Ending, *, user: str, place: str = "") -> str:
    """Return what the user can do after a session has ended.

    Args:
        ending: The ending that the scheduler reported.
        user: The session's user.
        place: The place of the session, or empty in a cluster; see ``place_name``.
    """
    if ending.cause is Cause.CANCELLED and ending.by in (OWNER, user):
        return _CONTINUE
    if ending.cause is Cause.CANCELLED and place:
        return Message("If you do not know the reason, ask the administrators of the service.")
    if ending.cause is Cause.NODE_LOST and place:
        return _CONTINUE  # a place can have one host only
    return _ADVICE[ending.cause]


def _who_cancelled(by: str, user: str) -> str:
    if by in (OWNER, user):
        return Message("The job of your session was cancelled on the cluster with your own account.")
    if by == "root":
        return Message("An administrator of the cluster (root) cancelled the job of your session.")
    if by:
        return Message("The account {by} cancelled the job of your session on the cluster.", by=by)
    return Message("Somebody cancelled the job of your session on the cluster. The cluster did not report who.")


def stopped_by(who: str, user: str, *, starting: bool) -> str:
    """Return in plain words that somebody stopped a session through the hub.

    Args:
        who: The name of the user or service, or empty if it is unknown.
        user: The session's user.
        starting: Whether the session had not started yet.
    """
    if who == user:
        return Message("You cancelled the start of your session.") if starting else Message("You stopped your session.")
    if not who:
        if starting:
            return Message("The service cancelled the start of this session.")
        return Message("The service stopped this session.")
    if starting:
        return Message("{name} cancelled the start of this session.", name=who)
    return Message("{name} stopped this session.", name=who)


def idle(limit: int) -> str:
    """Return in plain words that a session was stopped because nobody used it.

    Args:
        limit: The idle limit of the profile, in seconds.
    """
    return Message(
        "The service stopped this session because nobody used it for {limit}, "
        "which is the longest time that its profile permits. A "
        "session with a running computation is not stopped.",
        limit=runtime_in_words(limit),
    )


def unreachable(host: str, port: int) -> str:
    """Return in plain words that a notebook server started, but did not answer the hub."""
    return Message(
        "The notebook server of your session started, but the service could not connect to it "
        "(host {host}, port {port}).",
        host=host,
        port=port,
    )
