"""A user's past sessions, read from the event table; see ``hpchub.hub.event_rows``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, select

from hpchub.hub.event_rows import OVER
from hpchub.hub.ledger import EVENTS

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

WEEK = 7 * 24 * 3600.0
"""How long the home page shows a session that has ended, in seconds."""
LONGEST = 200
"""How many of a user's latest sessions are looked at. Nobody reads more on one page."""
NOT_STARTED = "not_started"
"""The cause of a session that never was ready, as in ``hpchub.hub.outcome``."""


@dataclass(frozen=True)
class Past:
    """A session that is over.

    Attributes:
        session: The session's name.
        profile: The key of its profile.
        cluster: Its cluster.
        cause: Why it ended: a value of ``hpchub.schedulers.Cause``, ``stopped`` or ``not_started``.
        at: When it ended, in seconds since 1970.
        job_id: The id of its job, or empty.
        reason: Who stopped it (``user``, ``idle``, ``drain`` or ``other``), or why it did not start, or empty.
        server: What the table has for the name of its server, or empty.
    """

    session: str
    profile: str
    cluster: str
    cause: str
    at: float
    job_id: str = ""
    reason: str = ""
    server: str = ""


def past_sessions(db: Connection | Session, user: str, since: float) -> list[Past]:
    """Return a user's sessions that have ended, the latest first. This takes two queries.

    Args:
        db: The hub's database.
        user: The name that the event table has for the user.
        since: The earliest end, in seconds since 1970.

    Raises:
        SQLAlchemyError: The database cannot be read.
    """
    columns = EVENTS.c
    own = and_(columns.user == user, columns.kind == "requested")
    requested = {
        row.session: row
        for row in db.execute(
            select(columns.session, columns.profile, columns.cluster, columns.reason)
            .where(own)
            .order_by(columns.at.desc())
            .limit(LONGEST)
        )
    }
    if not requested:
        return []
    later: dict[str, dict[str, Any]] = {session: {} for session in requested}
    query = select(columns.session, columns.kind, columns.at, columns.reason, columns.job_id).where(
        columns.session.in_(list(requested)), columns.kind.in_(("submitted", "explained", *OVER))
    )
    for row in db.execute(query):
        later[row.session][row.kind] = row
    found = [_past(requested[session], rows) for session, rows in later.items() if rows.keys() & set(OVER)]
    return sorted((each for each in found if each.at >= since), key=lambda each: -each.at)


def _past(requested: Any, rows: dict[str, Any]) -> Past:
    over = rows.get("failed") or rows["ended"]
    explained = rows.get("explained")
    stopped, _, by = str(over.reason).partition(":")
    if over.kind == "failed":
        cause, by = NOT_STARTED, str(over.reason or "")
    elif over.reason == "unknown" and explained is not None:
        cause = str(explained.reason)
    else:
        cause = stopped
    return Past(
        session=requested.session,
        profile=str(requested.profile or ""),
        cluster=str(requested.cluster or ""),
        cause=cause,
        at=float(over.at),
        job_id=str(rows["submitted"].job_id or "") if "submitted" in rows else "",
        reason=by,
        server=str(requested.reason or ""),
    )
