"""A real Apache on the loopback address, for tests of the role ``reverse_proxy``.

Tests that need it are skipped on machines without Apache (Debian's package apache2-bin, and the modules' packages).
"""

from __future__ import annotations

import http.client
import os
import pwd
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

REQUIRED = os.environ.get("HPCHUB_SERVERS") == "required"
"""Whether a test fails, instead of being skipped, on a machine that lacks a server which it needs."""

MODULES = Path("/usr/lib/apache2/modules")
PROGRAM = shutil.which("apache2", path=f"{os.environ['PATH']}:/usr/sbin")

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
"""The library that moves the clock of one program (Debian's package libfaketime)."""


def needs_apache(*modules: str) -> pytest.MarkDecorator:
    """Return the mark that skips a test unless Apache has these modules."""
    absent = [name for name in modules if not (MODULES / f"mod_{name}.so").exists()]
    reason = f"Apache lacks {', '.join(absent)}" if absent else "Apache is not installed"
    return pytest.mark.skipif((PROGRAM is None or bool(absent)) and not REQUIRED, reason=reason)


def own_account() -> dict[str, Any]:
    """Return arguments of ``subprocess`` that run a program as the account of Apache, if the tests are root."""
    if os.geteuid() != 0:
        return {}
    account = pwd.getpwnam("www-data")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def make_own(*directories: Path) -> None:
    """Create directories that belong to the account of Apache."""
    for directory in directories:
        directory.mkdir()
        if account := own_account():
            os.chown(directory, account["user"], account["group"])


def free_port() -> int:
    """Return a port of the loopback address that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Answer(NamedTuple):
    """An answer of the server."""

    status: int
    headers: http.client.HTTPMessage
    text: str


class Apache:
    """A running Apache, which ends with the ``with`` statement.

    Attributes:
        directory: A directory that belongs to the account of Apache.
        port: A free port for the tests.
    """

    def __init__(self) -> None:
        self.account = pwd.getpwnam("www-data") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        self.directory = Path(tempfile.mkdtemp(prefix="hpchub-apache-", dir="/tmp"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(
        self,
        modules: Iterable[str],
        configuration: str,
        *,
        clock: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start Apache with modules and a configuration, and wait until it answers.

        Args:
            modules: The names of the modules. Those that are part of the program are left out.
            configuration: The configuration.
            environment: Further environment variables. Libraries of LD_PRELOAD come after the one for the clock.
            clock: A file with the offset of Apache's clock, such as ``+60s``, if the machine has libfaketime.
        """
        known = [name for name in dict.fromkeys(modules) if (MODULES / f"mod_{name}.so").exists()]
        names = {"shib": "mod_shib"}
        lines = [f"LoadModule {names.get(name, f'{name}_module')} {MODULES}/mod_{name}.so" for name in known]
        lines += [
            f"ServerRoot {self.directory}",
            f"PidFile {self.directory}/apache.pid",
            f"DefaultRuntimeDir {self.directory}",
            f"ErrorLog {self.directory}/error.log",
            "<IfModule mime_module>\nTypesConfig /etc/mime.types\n</IfModule>",
            configuration,
        ]
        path = self.directory / "httpd.conf"
        path.write_text("\n".join(lines) + "\n")
        for each in (self.directory, *self.directory.rglob("*")):
            os.chown(each, self.account.pw_uid, self.account.pw_gid)
        self._run(path, clock, dict(environment or {}))

    def _run(self, path: Path, clock: Path | None, added: dict[str, str]) -> None:
        assert PROGRAM is not None
        environment = os.environ | added
        if clock is not None and FAKETIME:
            environment |= {
                "LD_PRELOAD": f"{FAKETIME} {added.get('LD_PRELOAD', '')}".strip(),
                "FAKETIME_TIMESTAMP_FILE": str(clock),
                "FAKETIME_NO_CACHE": "1",
            }
            environment |= {"FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        with (self.directory / "stderr").open("wb") as errors:
            self._process = subprocess.Popen(
                [PROGRAM, "-f", str(path), "-DFOREGROUND"],
                **own_account(),
                cwd=self.directory,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        for _ in range(200):
            if self._process.poll() is not None:
                raise AssertionError(f"Apache did not start: {(self.directory / 'stderr').read_text()}{self.log()}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError(f"Apache does not answer: {self.log()}")

    def stop(self) -> None:
        """Stop Apache."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=20)
            self._process = None

    def log(self) -> str:
        """Return the error log."""
        path = self.directory / "error.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def ask(
        self,
        path: str,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        *,
        method: str = "GET",
        body: str | None = None,
    ) -> Answer:
        """Send one request without TLS, without following redirects."""
        pairs = list(cast("Any", headers).items() if hasattr(headers, "items") else headers)
        return ask(self.port, path, pairs, method=method, body=body)


def ask(
    port: int,
    path: str,
    headers: Iterable[tuple[str, str]] = (),
    *,
    method: str = "GET",
    body: str | None = None,
    connections: dict[int, http.client.HTTPConnection] | None = None,
) -> Answer:
    """Send one request to a port of the loopback address, without following redirects.

    Args:
        port: The port.
        path: The path and the query.
        headers: The headers. Without ``Host``, it is the address.
        method: The method.
        body: The body.
        connections: The open connections with TLS, which stay open. Without it, the request has no TLS.
    """
    for attempt in (1, 2):
        connection = _connection(port, connections)
        try:
            answer = _exchange(connection, method, path, list(headers), body)
        except (ConnectionError, http.client.BadStatusLine):
            # The server has closed the connection in the meantime.
            connection.close()
            (connections or {}).pop(port, None)
            if attempt == 2:
                raise
        else:
            if connections is None:
                connection.close()
            return answer
    raise AssertionError("not reached")


def _connection(port: int, connections: dict[int, http.client.HTTPConnection] | None) -> http.client.HTTPConnection:
    if connections is None:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    if port not in connections:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connections[port] = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=context)
    return connections[port]


def _exchange(
    connection: http.client.HTTPConnection, method: str, path: str, pairs: list[tuple[str, str]], body: str | None
) -> Answer:
    connection.putrequest(method, path, skip_host=any(name.lower() == "host" for name, _ in pairs))
    data = body.encode() if body is not None else None
    if data is not None:
        pairs.append(("Content-Length", str(len(data))))
    for name, value in pairs:
        connection.putheader(name, value)
    connection.endheaders(data)
    answer = connection.getresponse()
    return Answer(answer.status, answer.headers, answer.read().decode(errors="replace"))
