"""The sessions in the event table, one record each. See ``hpchub.hub.event_rows`` for the table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from hpchub.hub.event_rows import CANARY, OVER
from hpchub.hub.ledger import EVENTS

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from hpchub.report.period import Period

NO_GROUP = "(none)"
"""Stands for the group of users who had none when they started a session."""
UNKNOWN_GROUP = "(unknown)"
"""Stands for the group of sessions with incomplete records of their start."""


@dataclass(slots=True)
class Record:
    """A session, from its request on. All times are in seconds since 1970, or None if they have not come.

    Attributes:
        session: The session's name.
        user: Its user, or the user's pseudonym.
        groups: The groups of the user when the session was requested.
        cluster: Its cluster.
        profile: The key of its profile.
        cores: Its number of cores on all nodes.
        gpus: Its number of GPUs on all nodes.
        runtime: Its time limit, in seconds.
        requested: When it was requested.
        job_id: The id of its job, or empty.
        started: When its job started.
        ready: When the user could open the notebook.
        over: When it was over.
        failure: The reason why it did not start, or empty.
        cause: How it ended, or empty.
        accounted: When its job ran according to the scheduler's accounting, or None.
    """

    session: str
    user: str
    groups: tuple[str, ...]
    cluster: str
    profile: str
    cores: int
    gpus: int
    runtime: int
    requested: float
    job_id: str = ""
    started: float | None = None
    ready: float | None = None
    over: float | None = None
    failure: str = ""
    cause: str = ""
    accounted: tuple[float, float] | None = None

    @property
    def ending(self) -> str:
        """How the session ended: the cause that the hub or the scheduler found, or the reason of its failure."""
        return self.cause or self.failure

    @property
    def began(self) -> float | None:
        """When the job started, or at the latest when the notebook was ready. None if neither has come."""
        return self.started if self.started is not None else self.ready

    def end(self, now: float) -> float:
        """Return when the session was over, or ``now``. A job cannot run for longer than its time limit."""
        if self.over is not None:
            return self.over
        return min(now, self.began + self.runtime) if self.began is not None else now

    def job(self, now: float) -> tuple[float, float] | None:
        """Return when the session's job ran, until now at most. None if it has not started."""
        if self.accounted is not None:
            return self.accounted
        return (self.began, self.end(now)) if self.began is not None else None

    def use(self, now: float) -> tuple[float, float] | None:
        """Return when the user could use the notebook, until now at most. None if it was never ready."""
        return (self.ready, self.end(now)) if self.ready is not None else None


@dataclass
class Table:
    """What the report needs of the event table.

    Attributes:
        records: All sessions that were requested before the end of the period and not over before its start.
        refused: The number of starts in the period that were refused before there was a session, by their reason.
        begins: When the oldest event happened, or None if there are none.
        ends: When the newest event happened, or None if there are none.
        left_out: The number of starts of the canary in the period that are left out.
    """

    records: list[Record]
    refused: dict[str, int]
    begins: float | None
    ends: float | None
    left_out: int


def read(connection: Connection, period: Period, *, canary: bool = False) -> Table:
    """Read the event table.

    Args:
        connection: The connection to the database.
        period: The period.
        canary: Whether the sessions of the canary count.

    Raises:
        SQLAlchemyError: The database cannot be read, or the hub has not created the table yet.
    """
    table = EVENTS.c
    begins, ends = connection.execute(select(func.min(table.at), func.max(table.at))).one()
    no_user = func.coalesce(table.user, "") == CANARY
    chosen = () if canary else (~no_user,)
    wanted = select(table.session).where(table.kind == "requested", table.at < period.end, *chosen)
    before = select(table.session).where(table.kind.in_(OVER), table.at < period.start)
    columns = (
        *(table.session, table.kind, table.at, table.user, table.groups, table.cluster, table.profile),
        *(table.cores, table.gpus, table.runtime, table.job_id, table.reason),
    )
    rows = connection.execute(select(*columns).where(table.session.in_(wanted), table.session.not_in(before)))
    records: dict[str, Record] = {}
    later: list[Any] = []
    for row in rows:
        if row.kind == "requested":
            records[row.session] = _record(row)
        else:
            later.append(row)
    for row in later:
        if record := records.get(row.session):
            _add(record, row.kind, row.at, row.job_id, row.reason)
    inside = table.at >= period.start, table.at < period.end
    refused = select(table.reason, func.count()).where(table.kind == "refused", *inside, *chosen).group_by(table.reason)
    left_out = select(func.count()).where(table.kind == "requested", *inside, no_user)
    return Table(
        sorted(records.values(), key=lambda record: (record.requested, record.session)),
        {reason or "unknown": number for reason, number in connection.execute(refused).all()},
        begins,
        ends,
        0 if canary else connection.execute(left_out).scalar_one(),
    )


def _record(row: Any) -> Record:
    groups = (UNKNOWN_GROUP,) if row.groups is None else tuple(json.loads(row.groups)) or (NO_GROUP,)
    return Record(
        *(row.session, row.user or "", groups, row.cluster or "", row.profile or ""),
        *(row.cores or 0, row.gpus or 0, row.runtime or 0, row.at),
    )


def _add(record: Record, kind: str, at: float, job_id: str | None, reason: str | None) -> None:
    """Add a later event to a session."""
    match kind:
        case "submitted":
            record.job_id = job_id or ""
        case "started":
            record.started = at
        case "ready":
            record.ready = at
        case "failed":
            record.over, record.failure = at, reason or "unknown"
        case "ended":
            record.over = at
            record.cause = record.cause or (reason or "unknown").partition(":")[0]
        case "explained" if reason != "unknown":
            record.cause = reason or "unknown"
