"""A real PostgreSQL server for tests: a private cluster in a temporary directory, which runs without root."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PROGRAMS = Path("/usr/lib/postgresql")
ACCOUNT = "postgres"
"""The account that runs the server if the tests run as root. Debian's package creates it."""


def programs() -> Path | None:
    """Return the directory of the newest server's programs, or None if there is no server on this machine."""
    found = sorted(PROGRAMS.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found or (os.geteuid() == 0 and not _account()):
        return None
    return found[-1].parent


def _account() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(ACCOUNT)
    except KeyError:
        return None


needs_server = pytest.mark.skipif(
    programs() is None and os.environ.get("HPCHUB_POSTGRESQL") != "required",
    reason="this machine has no PostgreSQL server (Debian's package postgresql)",
)
"""Skips a test on a machine without a server, unless HPCHUB_POSTGRESQL requires one."""


def free_port() -> int:
    """Return a free port of the loopback address."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Server:
    """A server that its tests can stop, kill and change. Connections over the socket need no password.

    Attributes:
        directory: The directory with the cluster and its socket.
        port: The port, on the socket and on 127.0.0.1.
    """

    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="hpchub-pg-", dir="/tmp")))
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.directory.chmod(0o755)
        if os.geteuid() == 0:
            shutil.chown(self.directory, ACCOUNT)
        self.run("initdb", "--no-sync", "--auth=trust", "--auth-host=scram-sha-256", "-U", "hub", "-E", "UTF8", "data")
        with (self.directory / "data" / "postgresql.conf").open("a") as file:
            file.write(
                f"port = {self.port}\nlisten_addresses = '127.0.0.1'\nfsync = off\n"
                f"unix_socket_directories = '{self.directory}'\nmax_connections = 30\n"
            )
        self.start()
        self.sql("CREATE DATABASE hub", database="postgres")

    def run(self, program: str, *arguments: str) -> str:
        """Run a program of PostgreSQL with the server's account, and return its output."""
        found = programs()
        assert found
        return subprocess.run(
            [str(found / program), *arguments],
            cwd=self.directory,
            check=True,
            capture_output=True,
            text=True,
            user=self._user,
            group=self._user,
            extra_groups=[] if self._user else None,
        ).stdout

    @property
    def _user(self) -> str | None:
        return ACCOUNT if os.geteuid() == 0 else None

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        found = programs()
        assert found
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(found / "postgres"), "-D", "data"],
                cwd=self.directory,
                stdout=log,
                stderr=log,
                user=self._user,
                group=self._user,
                extra_groups=[] if self._user else None,
            )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            ready = [str(found / "pg_isready"), "-q", "-h", str(self.directory), "-p", str(self.port)]
            if subprocess.run(ready, check=False).returncode == 0:
                return
            time.sleep(0.05)
        raise AssertionError((self.directory / "log").read_text())

    def stop(self) -> None:
        """Stop the server at once. Its connections are cut."""
        if self._process is not None:
            self._process.send_signal(2)
            self._process.wait(30)
            self._process = None

    def sql(self, statement: str, database: str = "hub") -> str:
        """Run a statement, and return the values of its rows."""
        where = ["-h", str(self.directory), "-p", str(self.port), "-U", "hub", "-d", database]
        return self.run("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", *where, "-c", statement).strip()

    def cut_connections(self) -> None:
        """Cut all connections to the database of the tests."""
        self.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'hub'", database="postgres")

    def empty(self) -> None:
        """Replace the database by an empty one."""
        self.sql("DROP DATABASE IF EXISTS hub WITH (FORCE)", database="postgres")
        self.sql("CREATE DATABASE hub", database="postgres")

    @property
    def url(self) -> str:
        """The URL of the database over the socket."""
        return f"postgresql+psycopg://hub@/hub?host={self.directory}&port={self.port}"

    def close(self) -> None:
        """Stop the server and remove the cluster."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
