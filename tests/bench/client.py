"""A client of a hub's REST API that connects by IP address, because this machine cannot resolve the lab's names."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from pathlib import Path

READY_TIMEOUT = 300.0
"""How long a server may take to start or to stop, in seconds."""
POLL_INTERVAL = 0.05
"""Time between two requests to a hub that starts or stops a server, in seconds."""


class BenchError(RuntimeError):
    """The bench could not measure what it wanted to measure."""


class _Connection(http.client.HTTPSConnection):
    """A TLS connection to one address that checks the certificate for another host name."""

    def __init__(self, name: str, address: str, port: int, context: ssl.SSLContext) -> None:
        super().__init__(name, port, context=context, timeout=60)
        self._address = address
        self._tls = context

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), self.timeout)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)


@dataclass(frozen=True)
class Launch:
    """The duration of a start, in seconds.

    Attributes:
        ready: Time until the hub reports the server as ready.
        usable: Time until JupyterLab's page is served.
    """

    ready: float
    usable: float


@dataclass(frozen=True)
class Hub:
    """A hub's REST API for one user.

    Attributes:
        name: The hub's name in the table.
        url: The hub's public URL, without a trailing slash.
        address: The IP address to connect to.
        token: A token of the user or of an administrator.
        user: The user that starts a server.
        choice: The body of the request that starts the server.
        ca: A file of certificates to trust, for an https URL.
    """

    name: str
    url: str
    address: str
    token: str
    user: str
    choice: dict[str, Any]
    ca: Path | None = None

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Send one request on a new connection and return the status code and the body."""
        where = urlsplit(self.url)
        connection: http.client.HTTPConnection
        if where.scheme == "https":
            context = ssl.create_default_context(cafile=str(self.ca))
            connection = _Connection(str(where.hostname), self.address, where.port or 443, context)
        else:
            connection = http.client.HTTPConnection(self.address, where.port or 80, timeout=60)
        headers = {"Authorization": f"token {self.token}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _server(self) -> dict[str, Any]:
        status, body = self.ask("GET", f"/hub/api/users/{self.user}")
        if status == 404:  # the first start creates the account
            return {}
        if status != 200:
            raise BenchError(f"{self.name}: the hub answered {status} {body[:300]!r}")
        found: dict[str, Any] = json.loads(body)["servers"].get("", {})
        return found

    def launch(self) -> Launch:
        """Start the server as the form does and wait until JupyterLab's page is served.

        Raises:
            BenchError: The hub refused the start, or the start took longer than ``READY_TIMEOUT``.
        """
        start = time.monotonic()
        status, body = self.ask("POST", f"/hub/api/users/{self.user}/server", self.choice)
        if status not in {201, 202}:
            raise BenchError(f"{self.name}: the hub refused to start a server: {status} {body[:300]!r}")
        while not (server := self._server()).get("ready"):
            if not server.get("pending") or time.monotonic() - start > READY_TIMEOUT:
                raise BenchError(f"{self.name}: the server did not start: {server}")
            time.sleep(POLL_INTERVAL)
        ready = time.monotonic() - start
        while self.ask("GET", f"/user/{self.user}/api/status")[0] != 200 or self._page() != 200:
            if time.monotonic() - start > READY_TIMEOUT:
                raise BenchError(f"{self.name}: the server does not answer")
            time.sleep(POLL_INTERVAL)
        return Launch(ready, time.monotonic() - start)

    def _page(self) -> int:
        return self.ask("GET", f"/user/{self.user}/lab")[0]

    def stop(self) -> None:
        """Stop the server and wait until the hub has no server."""
        self.ask("DELETE", f"/hub/api/users/{self.user}/server")
        deadline = time.monotonic() + READY_TIMEOUT
        while self._server():
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name}: the server did not stop")
            time.sleep(POLL_INTERVAL)
