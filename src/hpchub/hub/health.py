"""The hub's health: whether it can write to its database, and the alarms of its background tasks."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import update
from sqlalchemy.exc import SQLAlchemyError

from hpchub.hub.ledger import DATABASE_TABLE

if TYPE_CHECKING:
    from sqlalchemy import Engine

log = logging.getLogger(__name__)

INTERVAL = 5.0
"""How long the result of a write is valid, in seconds."""

LONGEST_WRITE = 3.0
"""How long a health check waits for the database, in seconds."""

ROOM = 1024 * 1024
"""The free space that a database in a file needs, in bytes.

A small write can succeed on a full disk, because SQLite uses its files again. The next larger one then fails.
"""


class Health:
    """The state of the hub.

    Attributes:
        alarms: The problems that background tasks have found, by their place. The texts contain no private data,
            because everybody can read the result of the health check.
    """

    def __init__(self) -> None:
        self.alarms: dict[str, str] = {}
        self._problem = ""
        self._checked = -INTERVAL
        self._running: asyncio.Future[tuple[str, str]] | None = None

    @property
    def is_good(self) -> bool:
        """Whether the last check found no problem, and there is no alarm."""
        return not (self._problem or self.alarms)

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
        return [*([self._problem] if self._problem else []), *sorted(set(self.alarms.values()))]

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
            return "The hub cannot write to its database: its disk is full or read-only.", f"{path}: {error.strerror}"
    try:
        with engine.begin() as connection:
            connection.execute(update(DATABASE_TABLE).values(written=time.time()))
    except SQLAlchemyError as error:
        return "The hub cannot write to its database.", str(error)
    return "", ""
