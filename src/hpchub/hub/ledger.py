"""The hub's own tables in its database: its id, the sessions, the live jobs that belong to no session, and the events.

JupyterHub's tables contain the sessions of now. These tables add what has been: which sessions this database has seen,
and which of them are over. The hub cancels a job only if its session is over according to this record. A lost, restored
or copied database can therefore never end somebody's session.

The tables are created in JupyterHub's database when the hub starts. A backup contains them, and so the id too.
"""

from __future__ import annotations

import logging
import secrets
import time
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    Table,
    Unicode,
    UnicodeText,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

    from hpchub.schedulers.base import Tag

log = logging.getLogger(__name__)

KEEP = 90 * 24 * 3600
"""How long the record of an ended session is kept, in seconds.

A job that is still alive then belongs to no known session, and the hub no longer cancels it.
"""

METADATA = MetaData()

DATABASE_TABLE = Table(
    "hpchub_database",
    METADATA,
    Column("id", Unicode(16), primary_key=True),
    Column("created", Float, nullable=False),
    Column("written", Float, nullable=False),
)
"""One row: the database's id, when it was created, and the last write of the health check, in seconds since 1970."""

SESSIONS = Table(
    "hpchub_sessions",
    METADATA,
    Column("session", Unicode(16), primary_key=True),
    Column("user", Unicode(255), nullable=False),
    Column("cluster", Unicode(255), nullable=False),
    Column("job_id", Unicode(255), nullable=False),
    Column("started", Float, nullable=False),
    Column("ended", Float, nullable=True, index=True),
)
"""A row for each session, from before the submission of its job. ``ended`` is null until the hub has given it up."""

UNKNOWN_JOBS = Table(
    "hpchub_unknown_jobs",
    METADATA,
    Column("cluster", Unicode(255), primary_key=True),
    Column("job_id", Unicode(255), primary_key=True),
    Column("session", Unicode(16), nullable=False),
    Column("user", Unicode(255), nullable=False),
    Column("database", Unicode(16), nullable=False),
    Column("found", Float, nullable=False),
    Column("end", Boolean, nullable=False),
)
"""The live jobs that carry the hub's name and belong to no session that this database knows.

``end`` is set if an administrator wants the hub to end the job; see the command ``hpchub orphans``.
"""


EVENTS = Table(
    "hpchub_events",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False, index=True),
    Column("kind", Unicode(16), nullable=False),
    Column("session", Unicode(16), nullable=True),
    Column("user", Unicode(255), nullable=True),
    Column("groups", UnicodeText, nullable=True),
    Column("cluster", Unicode(255), nullable=True),
    Column("queue", Unicode(255), nullable=True),
    Column("profile", Unicode(255), nullable=True),
    Column("cores", Integer, nullable=True),
    Column("gpus", Integer, nullable=True),
    Column("runtime", Integer, nullable=True),
    Column("job_id", Unicode(255), nullable=True),
    Column("reason", Unicode(255), nullable=True),
    Index("hpchub_events_once", "session", "kind", unique=True),
)
"""What happened to users and sessions. ``hpchub.hub.event_rows`` explains the columns."""

EVENTS_OF_USER = Index("hpchub_events_user", EVENTS.c.user, EVENTS.c.at)
"""For the sessions of a user on the home page. A database of an older version gets it when the hub starts."""


class UnknownJob(NamedTuple):
    """A row of ``UNKNOWN_JOBS``."""

    cluster: str
    job_id: str
    session: str
    user: str
    database: str
    found: float
    end: bool


class Ledger:
    """The record of the hub's sessions.

    It shares the database session of JupyterHub, because a second connection could wait forever for a lock that
    JupyterHub holds in the same thread.

    Args:
        db: JupyterHub's database session.

    Attributes:
        database: The id of the database: 8 hexadecimal digits. It is new if the database is new or empty.
        created: When the database got its id, in seconds since 1970.

    Raises:
        SQLAlchemyError: The database cannot be read or written.
    """

    def __init__(self, db: Session) -> None:
        self.db = db
        self._unwritten: dict[str, dict[str, Any]] = {}
        connection = db.connection()
        METADATA.create_all(connection)
        EVENTS_OF_USER.create(connection, checkfirst=True)
        found = connection.execute(select(DATABASE_TABLE)).first()
        if found is None:
            now = time.time()
            connection.execute(insert(DATABASE_TABLE).values(id=secrets.token_hex(4), created=now, written=now))
            found = connection.execute(select(DATABASE_TABLE)).one()
        self.database: str = found.id
        self.created: float = found.created
        db.commit()

    # -- sessions

    def record(self, session: str, *, user: str, cluster: str, job_id: str) -> None:
        """Record a session. The caller commits, together with the session's state in JupyterHub's tables.

        Raises:
            SQLAlchemyError: The database cannot be written.
        """
        self._write(session, {"user": user, "cluster": cluster, "job_id": job_id})

    def end(self, session: str, *, user: str, cluster: str, job_id: str) -> None:
        """Record that the hub has given a session up. The caller commits.

        This method never fails, because JupyterHub would not finish the end of the session. If the database cannot be
        written, the record is repeated later.
        """
        self._unwritten[session] = {"user": user, "cluster": cluster, "job_id": job_id, "ended": time.time()}
        try:
            self._write_ends()
        except SQLAlchemyError as error:
            log.error("Cannot record the end of session %s now; trying again later: %s", session, error)

    def ended(self, sessions: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Return those of the sessions that this database recorded as over, each with its user and its cluster.

        Raises:
            SQLAlchemyError: The database cannot be read.
        """
        table = SESSIONS.c
        query = select(table.session, table.user, table.cluster).where(
            table.session.in_(list(sessions)), table.ended.is_not(None)
        )
        return {row.session: (row.user, row.cluster) for row in self.db.execute(query)}

    def knows(self, session: str) -> bool:
        """Return whether this database has a record of a session.

        Raises:
            SQLAlchemyError: The database cannot be read.
        """
        return self.db.execute(select(SESSIONS.c.session).where(SESSIONS.c.session == session)).first() is not None

    def tidy(self) -> None:
        """Repeat the records that could not be written, and delete old ones.

        Raises:
            SQLAlchemyError: The database cannot be written.
        """
        self._write_ends()
        self.db.execute(delete(SESSIONS).where(SESSIONS.c.ended < time.time() - KEEP))
        self.db.commit()

    def _write_ends(self) -> None:
        for session, values in list(self._unwritten.items()):
            self._write(session, values)
            del self._unwritten[session]

    def _write(self, session: str, values: dict[str, Any]) -> None:
        connection = self.db.connection()
        if not connection.execute(update(SESSIONS).where(SESSIONS.c.session == session).values(values)).rowcount:
            connection.execute(insert(SESSIONS).values(session=session, started=time.time(), **values))

    # -- jobs of no session

    def update_unknown(self, cluster: str, jobs: dict[str, tuple[str, Tag]]) -> list[UnknownJob]:
        """Update the list of a cluster's unknown jobs, and return it.

        Args:
            cluster: The cluster.
            jobs: The owner and the tag of each unknown job that is alive, by the job's id.

        Raises:
            SQLAlchemyError: The database cannot be written.
        """
        table = UNKNOWN_JOBS.c
        known = {row.job_id: row for row in unknown_jobs(self.db.connection()) if row.cluster == cluster}
        for job_id, row in known.items():
            if job_id not in jobs or (row.user, row.session) != (jobs[job_id][0], jobs[job_id][1].session):
                self.db.execute(delete(UNKNOWN_JOBS).where(table.cluster == cluster, table.job_id == job_id))
        found = []
        for job_id, (user, tag) in jobs.items():
            row = UnknownJob(cluster, job_id, tag.session, user, tag.database, time.time(), end=False)
            before = known.get(job_id)
            if before is not None and (before.user, before.session) == (user, tag.session):
                found.append(before)
            else:
                self.db.execute(insert(UNKNOWN_JOBS).values(row._asdict()))
                found.append(row)
        self.db.commit()
        return found


def unknown_jobs(connection: Connection) -> list[UnknownJob]:
    """Return the live jobs of all clusters that belong to no known session, as the hub saw them last.

    Raises:
        SQLAlchemyError: The database cannot be read, or the hub has not created its tables yet.
    """
    rows = connection.execute(select(UNKNOWN_JOBS).order_by(UNKNOWN_JOBS.c.cluster, UNKNOWN_JOBS.c.found))
    return [UnknownJob(*row) for row in rows]


def end_unknown_job(connection: Connection, job: UnknownJob) -> None:
    """Let the hub end an unknown job at its next search. The caller commits.

    Raises:
        SQLAlchemyError: The database cannot be written.
    """
    table = UNKNOWN_JOBS.c
    connection.execute(
        update(UNKNOWN_JOBS)
        .where(table.cluster == job.cluster, table.job_id == job.job_id, table.session == job.session)
        .values(end=True)
    )
