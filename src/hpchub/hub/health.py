"""The hub's health: whether it can write to its database, and the alarms of its background tasks."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Text, cast, func, select, text, update
from sqlalchemy.exc import SQLAlchemyError

from hpchub.hub.database import Guard, one_line
from hpchub.hub.ledger import DATABASE_TABLE

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

log = logging.getLogger(__name__)

INTERVAL = 5.0
"""How long the result of a write is valid, in seconds."""

LONGEST_WRITE = 3.0
"""How long a health check waits for the database, in seconds."""

ROOM = 1024 * 1024
"""The free space that a database needs, in bytes.

A small write can succeed on a full disk, because databases use their files again. The next larger one then fails.
"""

NOT_WRITABLE = "The hub cannot write to its database."
FULL = "The hub cannot write to its database: its disk is full or read-only."


class Health:
    """The state of the hub.

    Args:
        guard: What the hub's own thread knows about faults of the database.

    Attributes:
        alarms: The problems that background tasks have found, by their place. The texts contain no private data,
            because everybody can read the result of the health check.
        places: What administrators must do so that the hub can use its places again, by the place.
    """

    def __init__(self, guard: Guard | None = None) -> None:
        self._guard = guard or Guard()
        self.alarms: dict[str, str] = {}
        self.places: dict[str, str] = {}
        self._problem = ""
        self._checked = -INTERVAL
        self._running: asyncio.Future[tuple[str, str]] | None = None

    @property
    def is_good(self) -> bool:
        """Whether the last check found no problem, and there is no alarm."""
        return not (self._problem or self.alarms or self.places)

    async def problems(self, engine: Engine) -> list[str]:
        """Return the hub's problems. It writes to the database if the last write is older than ``INTERVAL``.

        The write runs in its own thread with its own connection, so it does not block the hub.
        """
        if time.monotonic() - self._checked >= INTERVAL:
            if self._running is None:
                self._running = asyncio.ensure_future(asyncio.to_thread(_write, engine))
                self._running.add_done_callback(self._written)
            await asyncio.wait({self._running}, timeout=LONGEST_WRITE)
            if self._running is not None:
                self._note("The hub's database does not answer.")
        problem = self._problem or (NOT_WRITABLE if self._guard.fault else "")
        return [*([problem] if problem else []), *sorted({*self.alarms.values(), *self.places.values()})]

    async def watch(self, engine: Engine) -> None:
        """Check the database periodically, and inform the guard when it can be written again. It never returns."""
        while True:
            await asyncio.sleep(INTERVAL)
            await self.problems(engine)
            if not self._problem:
                self._guard.recovered(self._checked)

    def _written(self, running: asyncio.Future[tuple[str, str]]) -> None:
        self._running = None
        self._checked = time.monotonic()
        if not running.cancelled():
            error = running.exception()
            self._note(*(("The health check failed.", repr(error)) if error else running.result()))

    def _note(self, problem: str, detail: str = "") -> None:
        if problem and problem != self._problem:
            log.error("%s %s", problem, detail)
        elif self._problem and not problem:
            log.warning("The hub can write to its database again")
        self._problem = problem


def _write(engine: Engine) -> tuple[str, str]:
    """Write to the database. Return the problem and its detail for the log, or two empty texts."""
    path = engine.url.database
    if engine.dialect.name == "sqlite" and path and path != ":memory:":
        try:
            with tempfile.TemporaryFile(dir=Path(path).parent) as file:
                os.posix_fallocate(file.fileno(), 0, ROOM)
        except OSError as error:
            return FULL, f"{path}: {error.strerror}"
    try:
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                _need_room(connection)
            connection.execute(update(DATABASE_TABLE).values(written=time.time()))
    except SQLAlchemyError as error:
        full = getattr(getattr(error, "orig", None), "sqlstate", "") == DISK_FULL
        return FULL if full else NOT_WRITABLE, one_line(error)
    return "", ""


DISK_FULL = "53100"
"""PostgreSQL's error code of a full disk."""


def _need_room(connection: Connection) -> None:
    """Let PostgreSQL write a temporary file, which it removes at once: it sorts more than its memory may hold."""
    connection.execute(text("SET LOCAL work_mem = '64kB'"))
    number = func.generate_series(1, ROOM // 1024).column_valued("number")
    line = func.repeat(func.md5(cast(number, Text)), 32).label("line")  # 1024 characters
    lines = select(line).order_by(line).offset(0).subquery()
    connection.execute(select(func.count()).select_from(lines))
