"""The hub's connection to its database: its options, its faults, and what an error means.

JupyterHub uses one database session, in its own thread, for everything. It does not repeat what has failed half-way: if
the end of a session cannot be saved, it stays pending forever, and if a start cannot be saved, its job is cancelled.
The hub therefore follows three rules.

- If the connection is lost and does not come back within ``BRIDGE`` seconds, the hub's process ends. systemd starts it
  again, and it waits for the database. A restart is safe at any moment: the database contains what is true.
- If the database can be read but not written, the hub goes on without decisions: it starts, stops and ends no session.
  When the database can be written again, the hub's process ends and is started again.
- Between two steps of the hub, no transaction is open. A connection that is cut in the meantime is replaced unnoticed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any

import sqlalchemy.dialects
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import CreateEnginePlugin, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from hpchub.messages import show

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL, Connection, Engine
    from sqlalchemy.engine import ExceptionContext

log = logging.getLogger(__name__)

BRIDGE = 8.0
"""How long the hub waits for a database that is being restarted, in seconds. Meanwhile, it answers nobody."""
PAUSE = 2.0
"""The wait between two attempts to connect before the hub starts, in seconds."""
REPEAT = 60.0
"""How often the log repeats why the hub waits for its database, in seconds."""
STATEMENT_TIMEOUT = 20.0
"""How long PostgreSQL may take for a statement of the hub, in seconds."""
LOCK_TIMEOUT = 10.0
"""How long a statement of the hub may wait for a lock, in seconds."""
TRY_AGAIN = 75
"""The exit code of a hub that has lost its database: ``EX_TEMPFAIL`` of ``sysexits.h``."""

POOL = {"pool_size": 3, "max_overflow": 5, "pool_timeout": 5, "pool_recycle": 1800, "pool_pre_ping": True}
"""The pool of the hub. JupyterHub's session and the health check use one connection each; the rest is in reserve."""

PLUGIN = "hpchub"
sqlalchemy.dialects.plugins.register(PLUGIN, __name__, "GuardPlugin")

DRIVERS = ("sqlite", "postgresql+psycopg")
"""The beginnings of the URLs of databases that the hub can use."""
_VALID_URL = "write sqlite:////PATH or postgresql+psycopg://USER@HOST/DATABASE, or set hpc_state_store and run site.yml"

_FAULTS = ("08", "40", "53", "55", "57", "58", "F0", "XX", "25006")
"""Starts of PostgreSQL's error codes that mean: the database is at fault, not the statement."""
_SQLITE_FAULTS = (
    *("SQLITE_BUSY", "SQLITE_CANTOPEN", "SQLITE_CORRUPT", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_LOCKED"),
    *("SQLITE_NOTADB", "SQLITE_READONLY"),
)


class DatabaseError(Exception):
    """The database cannot be used. The message is one line: what is wrong, where, and what to do."""


class Guard:
    """What the hub knows about the faults of its database, and how it reacts.

    Only errors in the hub's own thread count, because JupyterHub's session lives there. The health check and other
    threads have connections of their own and handle their errors themselves.

    Args:
        leave: Ends the hub's process with an exit code.

    Attributes:
        fault: The first error that showed that the database cannot be written, or empty.
        since: When the last such error happened, on the monotonic clock.
    """

    def __init__(self, leave: Callable[[int], None] = os._exit) -> None:
        self.fault = ""
        self.since = 0.0
        self._leave = leave

    def __deepcopy__(self, _: object) -> Guard:
        """Return the same object, because traitlets copies what the configuration contains."""
        return self

    def attach(self, engine: Engine) -> None:
        """Watch an engine of the hub."""
        event.listen(engine, "handle_error", self._note)
        if engine.dialect.name == "sqlite":
            return
        event.listen(engine, "do_connect", _connect)
        event.listen(engine, "begin", _begin)
        event.listen(engine, "after_cursor_execute", _remember_write)
        event.listen(engine, "connect", _limit)

        def end_soon(session: Session, _: object, connection: Connection) -> None:
            if connection.engine is engine and (loop := _running_loop()) is not None:
                loop.call_soon(_end_transaction, session)

        event.listen(Session, "after_begin", end_soon)

    async def hold(self) -> None:
        """Wait as long as the database is at fault, so that no decision is made that cannot be saved.

        A task that waits here never continues: the hub's process ends with the fault. If the hub is stopped before, the
        process ends at once, because JupyterHub would otherwise complete the decision.
        """
        try:
            while self.fault:  # noqa: ASYNC110 the hub's process ends with the fault
                await asyncio.sleep(1)
        except asyncio.CancelledError:
            self._leave(TRY_AGAIN)
            raise

    def recovered(self, when: float) -> None:
        """End the hub's process if there was a fault, now that the database can be written again.

        What JupyterHub has left half-done during the fault continues from the database.

        Args:
            when: When the database was written, on the monotonic clock.
        """
        if self.fault and when > self.since:
            log.warning("The hub can write to its database again. It restarts to continue what the fault interrupted")
            self._leave(TRY_AGAIN)

    def _note(self, context: ExceptionContext) -> None:
        """React to an error of the database."""
        if threading.current_thread() is not threading.main_thread() or context.is_pre_ping:
            return
        error = context.original_exception
        lost = context.is_disconnect or context.connection is None
        if lost and context.dialect.name != "sqlite":
            log.critical("The hub has lost its database. It restarts, and waits for it: %s", one_line(error))
            self._leave(TRY_AGAIN)
        elif is_fault(error):
            self.since = time.monotonic()
            if not self.fault:
                self.fault = one_line(error)
                log.error("The database is at fault: %s. Meanwhile, no session starts or ends", self.fault)


class GuardPlugin(CreateEnginePlugin):
    """The plugin of SQLAlchemy that attaches the argument ``guard`` of ``create_engine`` to the new engine."""

    def __init__(self, url: URL, kwargs: dict[str, Any]) -> None:
        super().__init__(url, kwargs)
        self._guard: Guard = kwargs.pop("guard")

    def update_url(self, url: URL) -> URL:
        """Return the URL unchanged."""
        return url

    def engine_created(self, engine: Engine) -> None:
        """Attach the guard."""
        self._guard.attach(engine)


def engine_options(url: str, guard: Guard) -> dict[str, Any]:
    """Return the keyword arguments of the hub's engine; see ``JupyterHub.db_kwargs``."""
    pool = {} if make_url(url).get_backend_name() == "sqlite" else POOL
    return {"plugins": [PLUGIN], "guard": guard, **pool}


# -- The connections and transactions of the hub's own thread


def _connect(dialect: Any, _: object, arguments: list[Any], options: dict[str, Any]) -> Any:
    """Connect to the database, and try again while it is being restarted."""
    deadline = time.monotonic() + (BRIDGE if threading.current_thread() is threading.main_thread() else 0.0)
    while True:
        try:
            return dialect.connect(*arguments, **options)
        except dialect.dbapi.OperationalError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.25)


def _limit(connection: Any, _: object) -> None:
    """Set the timeouts of a new connection. They also protect the hub from a server that does not answer."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET statement_timeout = {STATEMENT_TIMEOUT * 1000:.0f}")
        cursor.execute(f"SET lock_timeout = {LOCK_TIMEOUT * 1000:.0f}")
    connection.commit()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _begin(connection: Connection) -> None:
    connection.info.pop("hpchub_wrote", None)


def _remember_write(connection: Connection, *rest: Any) -> None:
    context = rest[3]
    if context is not None and (context.isinsert or context.isupdate or context.isdelete):
        connection.info["hpchub_wrote"] = True


def _end_transaction(session: Session) -> None:
    """End the transaction of a session that has only read, and return its connection to the pool."""
    if not (session.in_transaction() and session.is_active):
        return
    if session.new or session.dirty or session.deleted or session.connection().info.get("hpchub_wrote"):
        return
    session.commit()


def parse(url: str) -> URL:
    """Return the URL of a database that the hub can use.

    Raises:
        DatabaseError: The text is no URL, or of another kind. The message does not contain the text, which may contain
            a password.
    """
    try:
        found = make_url(url)
    except (SQLAlchemyError, ValueError, TypeError):
        raise DatabaseError(f"the URL of the database cannot be read; {_VALID_URL}") from None
    if found.drivername not in DRIVERS:
        raise DatabaseError(f"the URL of the database begins with {show(found.drivername)}; {_VALID_URL}")
    return found


# -- The meaning of errors


def is_fault(error: BaseException | None) -> bool:
    """Return whether an error of the driver means that the database is at fault, and not the statement."""
    code = getattr(error, "sqlstate", None)
    if code is not None:
        return str(code).startswith(_FAULTS)
    return str(getattr(error, "sqlite_errorname", "")).startswith(_SQLITE_FAULTS)


def one_line(error: BaseException | None) -> str:
    """Return an error of SQLAlchemy or of the driver in one line, without the statement and its values."""
    if isinstance(error, DBAPIError):
        error = error.orig
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def explain(error: BaseException, url: str) -> str:
    """Return in one line why a database cannot be used, and what to do.

    Args:
        error: The error of SQLAlchemy or of the driver.
        url: The URL of the database. Its password does not appear.
    """
    where = make_url(url)
    name = describe(url)
    detail = _plain(one_line(error))
    lowered = str(error).lower()
    for sign, meaning in _MEANINGS:
        if sign in lowered:
            return f"{name}: {meaning.format(user=where.username, database=where.database, detail=detail)}"
    if "certificate verify failed" in lowered:
        return f"{name}: {_tls_problem(where) or f'its certificate is not valid ({detail})'}"
    return f"{name} cannot be used: {detail}"


_MEANINGS = (
    (
        "password authentication failed",
        'it refuses the password of "{user}"; correct the password in the inventory\'s vault, then run site.yml',
    ),
    (
        "peer authentication failed",
        'it does not accept this account as "{user}"; run the command with the hub\'s account, or run site.yml',
    ),
    (
        "no password supplied",
        'it asks for a password, and there is none for "{user}"; run site.yml, which writes the hub\'s password file',
    ),
    (
        "no pg_hba.conf entry",
        'it does not admit "{user}" from this host ({detail}); add this host to pg_hba.conf of the server',
    ),
    ("session is read-only", "it is a read-only replica; set host of hpc_state_store to the primary server"),
    ("read-only transaction", "it is a read-only replica; set host of hpc_state_store to the primary server"),
    ("readonly database", "it cannot be written; check the owner and the mode of the file and its directory"),
    ("server does not support ssl", "it does not offer TLS; set ssl = on in postgresql.conf of the server"),
    ("root certificate file", "the file with its certificate authority cannot be read ({detail}); run site.yml"),
    (
        "does not match host name",
        "its certificate is for another name ({detail}); set host of hpc_state_store to a name in the certificate",
    ),
    ("undefinedtable", "it lacks a table of the hub ({detail}); start the hub, which creates its tables"),
    ("no such table", "it lacks a table of the hub ({detail}); start the hub, which creates its tables"),
    ("does not exist", "{detail}; create it on the server, or correct hpc_state_store"),
    ("permission denied", '"{user}" lacks a permission ({detail}); make it the owner of the database and its tables'),
    ("no space left", "its disk is full; free some space on the database's host"),
    ("database or disk is full", "its disk is full; free some space"),
    ("could not translate host name", "the name of its host is unknown here; correct host of hpc_state_store"),
    ("failed to resolve host", "the name of its host is unknown here; correct host of hpc_state_store"),
    ("starting up", "it is starting ({detail}); wait, or read its log"),
    ("shutting down", "it is being stopped ({detail}); start it again"),
    ("connection refused", "nothing listens there; start the server, or correct host and port of hpc_state_store"),
    ("no such file or directory", "nothing listens on its socket; start PostgreSQL on this host"),
    ("timeout", "it does not answer ({detail}); check the network and the firewall between the two hosts"),
    ("no route to host", "its host cannot be reached; check the network and the firewall between the two hosts"),
    ("unable to open database file", "the file cannot be opened; check the owner and the mode of its directory"),
)
"""Parts of error messages, in small letters, and what they mean to an administrator."""


def _plain(detail: str) -> str:
    """Return libpq's message without the address that it repeats."""
    return detail.rpartition("failed: ")[2].removeprefix("FATAL:").removeprefix("ERROR:").strip()


def describe(url: str) -> str:
    """Return the name of a database in messages, as in ``database hpchub on db1:5432``."""
    where = make_url(url)
    if where.get_backend_name() == "sqlite":
        return f"database {where.database or ':memory:'}"
    host = where.host or where.query.get("host", "localhost")
    return f"database {where.database} on {host}" + (f":{where.port}" if where.port else "")


def _tls_problem(url: URL) -> str:
    """Return why the certificate of a server is not valid, or an empty text. libpq does not report it."""
    host, authority = url.host or "", str(url.query.get("sslrootcert", ""))
    try:
        context = ssl.create_default_context(cafile=authority or None)
        with socket.create_connection((host, url.port or 5432), timeout=5) as plain:
            plain.sendall(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")  # PostgreSQL's request for TLS
            if plain.recv(1) != b"S":
                return ""
            with context.wrap_socket(plain, server_hostname=host):
                return ""
    except ssl.SSLCertVerificationError as error:
        advice = _TLS_ADVICE.get(error.verify_code, "check the certificate, and tls_ca of hpc_state_store")
        return f"its certificate is not valid: {error.verify_message.rstrip('.')}; {advice}"
    except (OSError, ValueError):
        return ""


_TLS_ADVICE: dict[int, str] = {
    10: "renew it on the server",
    18: "set tls_ca of hpc_state_store to the authority that signed it",
    19: "set tls_ca of hpc_state_store to the authority that signed it",
    20: "set tls_ca of hpc_state_store to the authority that signed it",
    62: "set host of hpc_state_store to a name in the certificate",
    64: "set host of hpc_state_store to a name in the certificate",
}


# -- Questions from outside of JupyterHub


def check(url: str) -> str:
    """Connect to a database. Return one line that describes it.

    Raises:
        DatabaseError: It cannot be used.
    """
    engine = create_engine(parse(url), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            version = ".".join(map(str, connection.dialect.server_version_info or ()))
            if engine.dialect.name == "postgresql" and connection.scalar(text("SHOW transaction_read_only")) == "on":
                raise DatabaseError(explain(ValueError("session is read-only"), url))
            connection.scalar(text("SELECT 1"))
    except SQLAlchemyError as error:
        raise DatabaseError(explain(error, url)) from None
    finally:
        engine.dispose()
    return f"{describe(url)}: {_NAMES.get(engine.dialect.name, engine.dialect.name)} {version} answers"


_NAMES: dict[str, str] = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}


def wait_until_usable(url: str, pause: float = PAUSE) -> None:
    """Wait until the hub can connect to its database. The log shows why it waits.

    SQLite is a file, which the hub creates, so there is nothing to wait for.
    """
    if make_url(url).get_backend_name() == "sqlite":
        return
    said, when = "", 0.0
    while True:
        try:
            answer = check(url)
        except DatabaseError as error:
            if str(error) != said or time.monotonic() - when > REPEAT:
                said, when = str(error), time.monotonic()
                log.error("The hub waits for its database. %s", said)
            time.sleep(pause)
        else:
            log.info("%s", answer)
            return
