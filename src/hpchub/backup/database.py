"""The hub's database in a backup: dumps of sqlite and PostgreSQL, their restoration, and JupyterHub's schema.

Functions that talk to a PostgreSQL server run with the hub's account, because the server identifies the account.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import create_engine, inspect, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from hpchub.backup.package import BackupError
from hpchub.hub.database import PAUSE, DatabaseError, describe, explain, parse
from hpchub.hub.ledger import DATABASE_TABLE, SESSIONS
from hpchub.messages import show

if TYPE_CHECKING:
    import pwd
    from collections.abc import Callable

    from sqlalchemy import URL

T = TypeVar("T")

_DROP_TABLES = """
DO $$
DECLARE found record;
BEGIN
  FOR found IN SELECT schemaname, tablename FROM pg_tables
      WHERE schemaname = current_schema() AND tableowner = current_user LOOP
    EXECUTE format('DROP TABLE %I.%I CASCADE', found.schemaname, found.tablename);
  END LOOP;
  FOR found IN SELECT n.nspname, t.typname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
      JOIN pg_roles r ON r.oid = t.typowner
      WHERE t.typtype = 'e' AND n.nspname = current_schema() AND r.rolname = current_user LOOP
    EXECUTE format('DROP TYPE %I.%I CASCADE', found.nspname, found.typname);
  END LOOP;
END $$
"""
"""Remove the tables and types of the hub's account, in the transaction that then creates those of the dump."""


@dataclass(frozen=True)
class Facts:
    """What a database contains.

    Attributes:
        id: The id that the hub gave the database, or empty if the hub has not used it yet.
        schema: The revision of JupyterHub's tables, or empty if there are none.
        sessions: The sessions that are not over.
        ended: The number of recorded sessions that are over.
        newest: When the newest of the sessions that are not over began, in seconds since 1970, or 0 if there is none.
    """

    id: str = ""
    schema: str = ""
    sessions: frozenset[str] = frozenset()
    ended: int = 0
    newest: float = 0.0

    @property
    def new(self) -> bool:
        """Whether no session has ever been recorded."""
        return not self.sessions and not self.ended


class HubDatabase:
    """The database of a hub.

    Args:
        url: The database's URL in SQLAlchemy's form.
        account: The hub's account, or None for the account of this process.
    """

    def __init__(self, url: str, account: pwd.struct_passwd | None = None) -> None:
        try:
            self.url: URL = parse(url)
        except DatabaseError as error:
            raise BackupError(str(error)) from None
        self.account = account
        self.backend = self.url.get_backend_name()

    @property
    def path(self) -> Path:
        """The file of an sqlite database."""
        return Path(self.url.database or "")

    @property
    def text(self) -> str:
        """The URL with its password."""
        return self.url.render_as_string(hide_password=False)

    def facts(self) -> Facts:
        """Return what the database contains.

        Raises:
            BackupError: The database cannot be read.
        """
        if self.backend == "sqlite" and not self.path.exists():
            return Facts()
        try:
            return self._as_account(read_facts, self.text)
        except (SQLAlchemyError, OSError) as error:
            raise BackupError(f"the hub's {explain(error, self.text)}") from None

    def wait(self, patience: float) -> None:
        """Wait until the server of a PostgreSQL database answers.

        Args:
            patience: How long to wait, in seconds.

        Raises:
            BackupError: It does not answer.
        """
        deadline = time.monotonic() + patience
        while self.backend != "sqlite":
            try:
                self.facts()
            except BackupError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(PAUSE)
            else:
                return

    def check_dump_program(self) -> None:
        """Check that pg_dump on this host can save the database. It cannot save a database of a newer server.

        Raises:
            BackupError: It cannot, or the server does not answer.
        """
        if self.backend == "sqlite":
            return
        try:
            server = self._as_account(read_version, self.text)
        except SQLAlchemyError as error:
            raise BackupError(f"the hub's {explain(error, self.text)}") from None
        # The program is a wrapper, which chooses the version by the other arguments.
        answer = self._run(["pg_dump", "--version", "--dbname", self._libpq], stdout=subprocess.PIPE)
        found = re.search(rb"\(PostgreSQL\) (\d+)", answer)
        if found is None:
            raise BackupError(f"pg_dump --version prints {show(answer)}; install the package postgresql-client")
        program = int(found[1])
        if server > program:
            raise BackupError(
                f"the hub's {describe(self.text)} cannot be saved: its server is PostgreSQL {server}, and pg_dump on"
                f" the hub host is version {program}; valid is version {server} or newer; install the package"
                f" postgresql-client-{server} on the hub host"
            )

    def dump(self, target: Path) -> None:
        """Write a consistent copy of the database into a new file. The hub may run.

        Raises:
            BackupError: The database cannot be read, or pg_dump is too old.
        """
        if self.backend == "sqlite":
            copy_sqlite(self.path, target, self.account)
            return
        self.check_dump_program()
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            self._run(["pg_dump", "--no-owner", "--no-privileges", "--dbname", self._libpq], stdout=file)
            os.fsync(file.fileno())

    def load(self, dump: Path) -> None:
        """Replace the content of a PostgreSQL database by that of a dump, in one transaction.

        Raises:
            BackupError: The database was not changed.
        """
        options = ["--no-psqlrc", "--quiet", "--output=/dev/null", "--set=ON_ERROR_STOP=1", "--single-transaction"]
        with dump.open("rb") as file:
            self._run(["psql", *options, "--dbname", self._libpq, "--command", _DROP_TABLES, "--file=-"], stdin=file)

    def upgrade(self) -> None:
        """Upgrade JupyterHub's tables to the revision of this installation.

        Raises:
            BackupError: The upgrade failed. The database may be in a state between two revisions.
        """
        self._as_account(upgrade_schema, self.text)

    @property
    def _libpq(self) -> str:
        """The URL in the form of PostgreSQL's programs, without the password.

        Programs before version 16 do not know ``require_auth``.
        """
        url = self.url._replace(password=None).set(drivername="postgresql").difference_update_query(["require_auth"])
        return url.render_as_string(hide_password=False)

    def _run(self, argv: list[str], **streams: Any) -> bytes:
        """Run a program of PostgreSQL with the hub's account. Return its output if it goes to a pipe."""
        environment = {name: value for name, value in os.environ.items() if name == "PATH" or name.startswith("PG")}
        environment |= {"PGAPPNAME": "hpchub", "PGOPTIONS": "-c client_min_messages=warning", "LC_ALL": "C.UTF-8"}
        if self.url.password:
            environment["PGPASSWORD"] = str(self.url.password)
        who: dict[str, Any] = {}
        if self.account is not None and os.geteuid() == 0:
            environment["HOME"] = self.account.pw_dir
            who = {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": []}
        try:
            done = subprocess.run(argv, env=environment, stderr=subprocess.PIPE, check=False, cwd="/", **who, **streams)
        except FileNotFoundError:
            raise BackupError(f"{argv[0]} is missing on this host; install the package postgresql-client") from None
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            errors = [line for line in lines if "ERROR" in line or "error" in line]
            raise BackupError(f"{argv[0]} failed: {(errors or lines or [f'exit code {done.returncode}'])[0]}")
        return done.stdout or b""

    def _as_account(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in a process of the hub's account."""
        if self.account is None or os.geteuid() != 0 or self.account.pw_uid == 0:
            return function(*arguments)
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(1, context, _become, (self.account,)) as pool:
            return pool.submit(function, *arguments).result()


def _become(account: pwd.struct_passwd) -> None:
    os.initgroups(account.pw_name, account.pw_gid)
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    os.environ["HOME"] = account.pw_dir
    os.environ["TMPDIR"] = tempfile.gettempdir()


def read_version(url: str) -> int:
    """Return the major version of the PostgreSQL server at a URL.

    Raises:
        SQLAlchemyError: The server does not answer.
    """
    with create_engine(url, poolclass=NullPool).connect() as connection:
        return int(connection.exec_driver_sql("SHOW server_version_num").scalar_one()) // 10000


def read_facts(url: str) -> Facts:
    """Return what the database at a URL contains.

    Raises:
        SQLAlchemyError: The database cannot be read.
    """
    with create_engine(url, poolclass=NullPool).connect() as connection:
        tables = set(inspect(connection).get_table_names())
        schema = found = None
        sessions: frozenset[str] = frozenset()
        ended, newest = 0, 0.0
        if "alembic_version" in tables:
            schema = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        if DATABASE_TABLE.name in tables:
            found = connection.execute(select(DATABASE_TABLE.c.id)).scalar()
        if SESSIONS.name in tables:
            rows = connection.execute(select(SESSIONS.c.session, SESSIONS.c.started, SESSIONS.c.ended)).all()
            sessions = frozenset(row.session for row in rows if row.ended is None)
            newest = max((row.started for row in rows if row.ended is None), default=0.0)
            ended = len(rows) - len(sessions)
        return Facts(found or "", schema or "", sessions, ended, newest)


def copy_sqlite(source: Path, target: Path, account: pwd.struct_passwd | None) -> None:
    """Copy an sqlite database. The copy waits for writers and never shows half a transaction.

    Args:
        source: The database. The hub's account may have replaced it by a link to another file.
        target: The new file.
        account: The hub's account, which reads the database, or None for the account of this process.

    Raises:
        BackupError: The database cannot be read, or is damaged.
    """
    if not source.exists():
        raise BackupError(f"the hub's database {source} does not exist; start the hub first")
    target.unlink(missing_ok=True)
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
            pool.submit(_copy_pages, source, target, account).result()
        with contextlib.closing(sqlite3.connect(target)) as there:
            there.execute("PRAGMA journal_mode=DELETE")  # the copy is one file
        with target.open("rb") as copy:
            os.fsync(copy.fileno())
    except sqlite3.Error as error:
        raise BackupError(f"the hub's database {source} cannot be copied: {error}") from None
    if damage := damage_of(target):
        raise BackupError(f"the hub's database {source} is damaged: {damage}; restore a backup")


def _copy_pages(source: Path, target: Path, account: pwd.struct_passwd | None) -> None:
    """Copy an sqlite database into a file that the account could not open, in a process that ends afterwards."""
    with contextlib.closing(sqlite3.connect(target)) as there:
        there.execute("PRAGMA journal_mode=OFF")  # from now on, sqlite opens no other file for the copy
        there.execute("PRAGMA synchronous=OFF")
        if account is not None and os.geteuid() == 0:
            _become(account)
        with contextlib.closing(sqlite3.connect(f"file:{source}?mode=rw", uri=True, timeout=60)) as here:
            here.isolation_level = None
            here.execute("BEGIN")
            here.execute(
                "SELECT count(*) FROM sqlite_master"
            ).fetchone()  # backup would wait for a lock without a limit
            here.backup(there)


def damage_of(path: Path) -> str:
    """Return what is wrong with a file that should be an sqlite database, or an empty text."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        return str(error)
    return "" if verdict == "ok" else " ".join(str(verdict).split())


# JupyterHub's schema


def known_revisions() -> list[str]:
    """Return the revisions of JupyterHub's tables that this installation knows, with the newest first."""
    from alembic.config import Config  # noqa: PLC0415  (this package is also installed where JupyterHub is not)
    from alembic.script import ScriptDirectory  # noqa: PLC0415
    from jupyterhub import dbutil  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(dbutil.__file__).parent / "alembic"))
    return [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]


def upgrade_schema(url: str) -> None:
    """Upgrade the tables at a URL with alembic, in a process of its own.

    Raises:
        BackupError: The upgrade failed.
    """
    from jupyterhub import dbutil  # noqa: PLC0415  (this package is also installed where JupyterHub is not)

    with tempfile.TemporaryDirectory(prefix="hpchub-") as directory:  # the file may contain a password
        settings = Path(directory) / "alembic.ini"
        dbutil.write_alembic_ini(str(settings), url)
        argv = [sys.executable, "-m", "alembic", "-c", str(settings), "upgrade", "head"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=directory)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if re.match(r"[\w.]*(?:Error|Exception)\b", line)]
        reason = lines[-1] if lines else f"exit code {done.returncode}"
        raise BackupError(f"the upgrade of JupyterHub's tables failed: {reason}")
