"""The rows of the event table: what is stored of each event, and how a session gets each row once.

Each row is one event. ``kind`` is what happened, and ``at`` is the time, in seconds since 1970.

- ``signed_in``: ``user``.
- ``refused``: a start was refused before there was a session: ``user``, ``reason``.
- ``requested``: a session was requested: ``session``, ``user``, ``groups`` (at this moment, a JSON list of names),
  ``cluster``, ``queue``, ``profile``, ``cores`` and ``gpus`` on all its nodes, ``runtime``, its time limit in seconds,
  and ``reason``, the name of its server if it has one, as ``EventRecorder.server_of`` returns it.
- ``submitted``: the session's job was submitted: ``job_id``.
- ``started``: the job runs. If it waits again, a later start replaces the row.
- ``ready``: the user could open the notebook.
- ``failed``: the session is over before it was ready: ``reason``.
- ``ended``: the session is over: ``reason`` is ``unknown``, or ``stopped`` (through the hub). If it is known who
  stopped it, ``reason`` is ``stopped:user``, ``stopped:idle``, ``stopped:drain`` or ``stopped:other``.
- ``explained``: how the job ended, as the scheduler reported it: ``reason``, a value of ``hpchub.schedulers.Cause``.

A session has at most one row of each kind, and only one of ``failed`` and ``ended``. If names are replaced by
pseudonyms, ``user`` begins with ``~``, which no name of a user does. ``user`` is ``(canary)`` for the account of the
canary, whatever its name is.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, insert, select, update

from hpchub.hub import events
from hpchub.hub.ledger import EVENTS, SESSIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

CANARY = "(canary)"
"""Stands for the account of the canary, which is no user."""
OVER = ("failed", "ended")
"""The kinds of rows that end a session."""
BY_ITSELF = ("idle", "drain")
"""Why the hub itself stops a session; see ``hpchub.hub.service_stop``."""
REPLACED = ("started", "explained")
"""The kinds of rows that a later event of the same session replaces."""
LONGEST_TEXT = 255
"""The maximum length of a text in the table, in characters."""


@dataclass(frozen=True)
class Row:
    """A row to store.

    Attributes:
        values: Its columns.
        repeated: Whether the event only repeats what may be known, so that it never replaces a row.
    """

    values: dict[str, Any]
    repeated: bool = False


def pseudonym(key: bytes, user: str) -> str:
    """Return a user's pseudonym. Only the owner of the key can find out which user it is."""
    return f"~{hmac.new(key, user.encode(), hashlib.sha256).hexdigest()[:16]}"


def rows_of(event: events.Event) -> Iterator[Row]:  # noqa: C901 one case for each event
    """Yield the rows for an event. Events that are for the audit log or the metrics only have no rows."""
    match event:
        case events.SignedIn(user=user):
            yield _row("signed_in", event.at, user=user)
        case events.StartRefused(user=user, reason=reason):
            yield _row("refused", event.at, user=user, reason=reason)
        case events.StartRequested(session=session, groups=groups, server=server):
            yield _requested(session, event.at, groups, server)
        case events.JobSubmitted(session=session, job_id=job_id):
            yield _row("submitted", event.at, session=session.name, job_id=job_id)
        case events.JobStarted(session=session):
            yield _row("started", event.at, session=session.name)
        case events.SessionReady(session=session):
            yield _row("ready", event.at, session=session.name)
        case events.StartFailed(session=session, reason=reason):
            yield _row("failed", event.at, session=session.name, reason=reason)
        case events.SessionEnded(session=session, cause=cause, by=by):
            yield _row("ended", event.at, session=session.name, reason=cause + _who(by, session.user))
        case events.EndExplained(session=session, cause=cause):
            yield _row("explained", event.at, session=session.name, reason=cause)
        case events.SessionRestored(session=session) if event.requested:
            # The hub may have been killed before it stored the events of the session.
            yield Row(_requested(session, event.requested, None).values, repeated=True)
            times = {"submitted": event.submitted, "started": event.started, "ready": event.ready}
            for kind, at in times.items():
                if at:
                    known = {"job_id": event.job_id} if kind == "submitted" else {}
                    yield Row(_row(kind, at, session=session.name, **known).values, repeated=True)


def _who(by: str, user: str) -> str:
    """Return who stopped a session, without a name."""
    if not by:
        return ""
    return ":user" if by == user else f":{by}" if by in BY_ITSELF else ":other"


def _requested(session: events.Session, at: float, groups: tuple[str, ...] | None, server: str = "") -> Row:
    return _row(
        "requested",
        at,
        session=session.name,
        user=session.user,
        groups=None if groups is None else json.dumps(groups),
        cluster=session.cluster,
        queue=session.queue,
        profile=session.profile,
        cores=session.cores,
        gpus=session.gpus,
        runtime=session.runtime,
        reason=server or None,
    )


def _row(kind: str, at: float, **values: Any) -> Row:
    """Return a row. PostgreSQL accepts neither longer texts, nor zero characters, nor halves of characters."""
    texts = {
        key: value.replace("\0", "").encode(errors="replace").decode()[: None if key == "groups" else LONGEST_TEXT]
        for key, value in values.items()
        if isinstance(value, str)
    }
    return Row({"kind": kind, "at": at, **values, **texts})


def store(connection: Connection, row: Row) -> None:
    """Store a row, unless the table has it. The caller commits.

    Raises:
        SQLAlchemyError: The database cannot be written.
    """
    values = row.values
    session, kind = values.get("session"), values["kind"]
    if session is not None:
        kinds = OVER if kind in OVER else (kind,)
        known = and_(EVENTS.c.session == session, EVENTS.c.kind.in_(kinds))
        if connection.execute(select(EVENTS.c.id).where(known)).first() is not None:
            if kind in REPLACED and not row.repeated:
                connection.execute(update(EVENTS).where(known).values(values))
            return
    connection.execute(insert(EVENTS).values(values))


def close_lost_sessions(connection: Connection) -> None:
    """Store the ends that the hub recorded in its ledger, but could not store here before it was killed.

    The caller commits.

    Raises:
        SQLAlchemyError: The database cannot be used.
    """
    over = select(EVENTS.c.session).where(EVENTS.c.kind.in_(OVER))
    lost = (
        select(SESSIONS.c.session, SESSIONS.c.ended)
        .join(EVENTS, and_(EVENTS.c.session == SESSIONS.c.session, EVENTS.c.kind == "requested"))
        .where(SESSIONS.c.ended.is_not(None), SESSIONS.c.session.not_in(over))
    )
    for session, ended in connection.execute(lost).all():
        store(connection, _row("ended", ended, session=session, reason="unknown"))
