"""The REST API of a hub, asked by address: the lab's names need not resolve on this machine."""

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

READY_PATIENCE = 300.0  # seconds
POLL = 0.05  # seconds between two questions to a hub that starts or stops a server


class BenchError(RuntimeError):
    """What was to be measured did not happen."""


class _Connection(http.client.HTTPSConnection):
    """TLS to one address with the certificate of another name."""

    def __init__(self, name: str, address: str, port: int, context: ssl.SSLContext) -> None:
        super().__init__(name, port, context=context, timeout=60)
        self._address = address
        self._tls = context

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), self.timeout)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)


@dataclass(frozen=True)
class Launch:
    """Seconds from the request to start a server until the hub calls it ready, and until JupyterLab's page is there."""

    ready: float
    usable: float


@dataclass(frozen=True)
class Hub:
    """A hub's REST API for one user.

    Attributes:
        name: what the table calls it.
        url: its public URL, without a slash at the end.
        address: the IP address that is asked.
        token: of the user's or of an administrator's.
        user: whose server is started.
        choice: the body of the request to start it.
        ca: certificates to trust, for an https URL.
    """

    name: str
    url: str
    address: str
    token: str
    user: str
    choice: dict[str, Any]
    ca: Path | None = None

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Status and body of one request, on a connection of its own."""
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
        if status == 404:  # an account comes into being with its first start
            return {}
        if status != 200:
            raise BenchError(f"{self.name}: {status} {body[:300]!r}")
        found: dict[str, Any] = json.loads(body)["servers"].get("", {})
        return found

    def launch(self) -> Launch:
        """Start the server as the form's button does, and wait until JupyterLab's page is served.

        Raises:
            BenchError: the hub refused, or it took longer than READY_PATIENCE.
        """
        start = time.monotonic()
        status, body = self.ask("POST", f"/hub/api/users/{self.user}/server", self.choice)
        if status not in {201, 202}:
            raise BenchError(f"{self.name}: starting a server: {status} {body[:300]!r}")
        while not (server := self._server()).get("ready"):
            if not server.get("pending") or time.monotonic() - start > READY_PATIENCE:
                raise BenchError(f"{self.name}: the server did not start: {server}")
            time.sleep(POLL)
        ready = time.monotonic() - start
        while self.ask("GET", f"/user/{self.user}/api/status")[0] != 200 or self._page() != 200:
            if time.monotonic() - start > READY_PATIENCE:
                raise BenchError(f"{self.name}: the server does not answer")
            time.sleep(POLL)
        return Launch(ready, time.monotonic() - start)

    def _page(self) -> int:
        return self.ask("GET", f"/user/{self.user}/lab")[0]

    def stop(self) -> None:
        """Stop the server and wait until the hub has none."""
        self.ask("DELETE", f"/hub/api/users/{self.user}/server")
        deadline = time.monotonic() + READY_PATIENCE
        while self._server():
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name}: the server did not stop")
            time.sleep(POLL)
