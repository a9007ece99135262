"""The recorder: it writes the hub's events to the event table in the background, and deletes old rows.

The hub never waits for the table. Events wait in a queue in memory, and a thread writes them with its own connection.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import threading
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import delete, select, update
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from hpchub.hub.event_rows import CANARY, LONGEST_TEXT, close_lost_sessions, pseudonym, rows_of, store
from hpchub.hub.ledger import EVENTS

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

    from hpchub.hub.event_rows import Row
    from hpchub.hub.events import Event

log = logging.getLogger(__name__)

INTERVAL = 1.0
"""How long events wait for others, which are then written in the same transaction, in seconds."""
RETRY = 10.0
"""The wait before another attempt after the database could not be written, in seconds."""
TIDY_INTERVAL = 3600.0
"""The time between two deletions of old rows, in seconds."""
BATCH = 500
"""How many rows one transaction writes or deletes, so that the hub never waits long for its lock."""
LONGEST_QUEUE = 100_000
"""How many rows wait while the database cannot be written. Further events replace the oldest ones."""
DAY = 24 * 3600


class EventRecorder:
    """A subscriber of the hub's events that records them in the database.

    Args:
        keep_days: After how many days rows are deleted. With 0, nothing is recorded, and all rows are deleted.
        key_file: The file with the key of the pseudonyms, which is created if it is missing. None records the names.
        canary: The account of the canary, or empty if there is none.
    """

    def __init__(self, keep_days: int, key_file: Path | None, canary: str = "") -> None:
        self._keep = keep_days * DAY
        self._key_file = key_file
        self._key: bytes | None = None
        self._canary = canary
        self._queue: deque[Row] = deque(maxlen=LONGEST_QUEUE)
        self._lock = threading.Lock()
        self._filled = asyncio.Event()
        self._full = False

    def add(self, event: Event) -> None:
        """Put an event into the queue. The hub calls this method for each event."""
        if not self._keep:
            return
        rows = list(rows_of(event))
        if len(self._queue) + len(rows) > LONGEST_QUEUE and not self._full:
            self._full = True
            log.error("The database has not accepted %d events, so the oldest of them are lost", LONGEST_QUEUE)
        self._queue.extend(rows)
        self._filled.set()

    async def run(self, engine: Engine) -> None:
        """Write the events until the task is cancelled, and delete old rows. Then write what is left."""
        tidy_at = time.monotonic()
        healthy = True
        try:
            while True:
                try:
                    if time.monotonic() >= tidy_at:
                        await asyncio.to_thread(self.tidy, engine)
                        tidy_at = time.monotonic() + TIDY_INTERVAL
                    await asyncio.to_thread(self.flush, engine)
                except Exception as error:  # noqa: BLE001 the next attempt follows after any error
                    if healthy:
                        log.error("Cannot record events now; they wait in memory: %r", error)
                    healthy = False
                    await asyncio.sleep(RETRY)
                    continue
                if not healthy:
                    log.warning("Events are recorded again")
                healthy, self._full = True, False
                await self._wait(tidy_at)
        finally:
            try:
                await asyncio.to_thread(self.flush, engine)
            except Exception as error:  # noqa: BLE001 the hub must stop after any error
                log.error("%d events are lost, because the hub stops: %r", len(self._queue), error)

    async def _wait(self, until: float) -> None:
        """Wait for an event, and then a moment for others. Return in time for the next deletion."""
        if not self._queue:
            self._filled.clear()
            try:
                async with asyncio.timeout(max(0.0, until - time.monotonic())):
                    await self._filled.wait()
            except TimeoutError:
                return
        await asyncio.sleep(INTERVAL)

    # -- the parts that run in a thread

    def flush(self, engine: Engine) -> None:
        """Write all events of the queue.

        Raises:
            SQLAlchemyError: The database cannot be written. The events stay in the queue.
            OSError: The key of the pseudonyms can neither be read nor created. The events stay in the queue.
        """
        with self._lock:
            while batch := [self._queue[index] for index in range(min(BATCH, len(self._queue)))]:
                rows = [self._named(row) for row in batch]
                try:
                    with engine.begin() as connection:
                        for row in rows:
                            store(connection, row)
                except Exception as error:
                    if _is_passing(error):
                        raise
                    self._store_each(engine, rows)
                for row in batch:
                    # If the queue was full, new events have replaced the oldest ones.
                    if self._queue and self._queue[0] is row:
                        self._queue.popleft()

    def _store_each(self, engine: Engine, rows: list[Row]) -> None:
        """Write rows one by one, without those that the database can never accept."""
        for row in rows:
            try:
                with engine.begin() as connection:
                    store(connection, row)
            except Exception as error:
                if _is_passing(error):
                    raise
                log.error("The database does not accept an event of the kind %s: %s", row.values["kind"], error)

    def tidy(self, engine: Engine) -> None:
        """Store ends that were lost, delete old rows, and replace names that were stored before pseudonyms.

        Raises:
            SQLAlchemyError: The database cannot be used.
            OSError: The key of the pseudonyms can neither be read nor created.
        """
        with self._lock:
            if self._keep:
                with engine.begin() as connection:
                    close_lost_sessions(connection)
            old = select(EVENTS.c.id).where(EVENTS.c.at < time.time() - self._keep)
            more = True
            while more:
                with engine.begin() as connection:
                    more = connection.execute(delete(EVENTS).where(EVENTS.c.id.in_(old.limit(BATCH)))).rowcount > 0
            if self._key_file is not None or self._canary:
                self._replace_names(engine)

    def _replace_names(self, engine: Engine) -> None:
        """Replace names that were stored by other settings."""
        with engine.connect() as connection:
            found = list(connection.execute(select(EVENTS.c.user).distinct()).scalars())
        for user in found:
            if user and (name := self.name_of(user)) != user:
                with engine.begin() as connection:
                    own = update(EVENTS).where(EVENTS.c.user == user)
                    connection.execute(own.where(EVENTS.c.kind == "requested").values(reason=None))
                    connection.execute(own.values(user=name))

    def _named(self, row: Row) -> Row:
        """Return a row with the name to record for its user."""
        values = row.values
        if not (user := values.get("user")):
            return row
        server = values.get("reason") if values["kind"] == "requested" else None
        known = {"reason": self.server_of(user, server)} if server else {}
        return replace(row, values={**values, **known, "user": self.name_of(user)})

    def server_of(self, user: str, server: str) -> str:
        """Return what the table has for the name of a user's server. The user has chosen it, so it can be personal.

        Raises:
            OSError: The key of the pseudonyms can neither be read nor created.
        """
        return self._pseudonym(f"{user}/{server}")[:LONGEST_TEXT]

    def name_of(self, user: str) -> str:
        """Return the name that the table has for a user.

        Raises:
            OSError: The key of the pseudonyms can neither be read nor created.
        """
        if user == CANARY or (self._canary and user in (self._canary, self._pseudonym(self._canary))):
            return CANARY
        return user if user.startswith("~") else self._pseudonym(user)

    def _pseudonym(self, user: str) -> str:
        """Return a user's pseudonym, or the name if there are no pseudonyms."""
        if self._key_file is None:
            return user
        if self._key is None:
            self._key = _read_key(self._key_file)
        return pseudonym(self._key, user)


def _is_passing(error: Exception) -> bool:
    """Return whether an error is about the database, and not about a row."""
    return isinstance(error, DBAPIError) and not isinstance(error, (DataError, IntegrityError))


def _read_key(path: Path) -> bytes:
    """Read the key of the pseudonyms. Create it if the file does not exist.

    Raises:
        OSError: The file can neither be read nor created.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        key = path.read_bytes().strip()
        if not key:
            raise OSError(f"{path} is empty; delete it, so that the hub creates a new key") from None
        return key
    with os.fdopen(descriptor, "w") as stream:
        stream.write(f"{secrets.token_hex(32)}\n")
        stream.flush()
        os.fsync(stream.fileno())
    return path.read_bytes().strip()
