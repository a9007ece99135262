"""The way of a request on the loopback address: the role's Apache, the proxy, and a session's notebook server."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from apache_server import Apache
from bench.load.shared import proxy
from notebook_server import PREFIX
from web_site import DEBIAN_MODULES, HOST, TOKEN, Site

if TYPE_CHECKING:
    from notebook_server import Session


class Chain:
    """Apache and the proxy in front of a session that runs. They end with the ``with`` statement.

    Args:
        session: The session.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.site = Site()
        self.site.backend.shutdown()
        self.site.backend.server_close()
        self._public = self.site.directory / "socket" / "proxy.sock"
        self._public.unlink()
        self._proxy: subprocess.Popen[bytes] | None = None
        self._front: Apache | None = None

    def __enter__(self) -> Self:
        try:
            self._start_proxy()
            # With this setting, Apache asks nobody for the identity of a user.
            self.site.start({"reverse_proxy_sso_provider": "hub", "reverse_proxy_user_isolation": True})
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._front:
            self._front.__exit__()
        self.site.apache.__exit__()
        if self._proxy:
            self._proxy.kill()
            self._proxy.wait()

    def _start_proxy(self) -> None:
        program, directory = proxy(), self._public.parent
        hub = quote(str(directory / "hub.sock"), safe="")
        with (directory / "log").open("wb") as log:
            self._proxy = subprocess.Popen(
                [
                    *(program / "bin" / "node", program / "proxy.mjs", "--log-level", "warn"),
                    *("--socket", self._public, "--api-socket", directory / "api.sock"),
                    *("--default-target", f"http+unix://{hub}", "--tls-directory", self.session.tls),
                    *("--error-path", directory),
                ],
                env={**os.environ, "CONFIGPROXY_AUTH_TOKEN": "secret"},
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + 20
        while not (self._public.exists() and (directory / "api.sock").exists()):
            assert time.monotonic() < end, (directory / "log").read_text()
            time.sleep(0.05)
        self._public.chmod(0o666)
        self.route()

    def route(self) -> None:
        """Set the route to the session, as the hub does."""
        target = {"target": f"https://127.0.0.1:{self.session.hub.reports[-1]['port']}", "user": "alice"}
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self._public.parent / "api.sock"))
            body = json.dumps(target)
            head = f"POST /api/routes{PREFIX.rstrip('/')} HTTP/1.1\r\nHost: x\r\nAuthorization: token secret\r\n"
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            assert b" 201 " in client.recv(1000)

    def connect(self) -> http.client.HTTPSConnection:
        """Return a connection to Apache. It can carry many requests."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection("127.0.0.1", self.site.apache.port, timeout=60, context=context)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a program's request."""
        return {"Host": f"{HOST}:{self.site.apache.port}", "Authorization": f"token {TOKEN}"}

    def browser_url(self) -> str:
        """Return an address for a browser, which is signed in: another Apache adds the token to its requests."""
        if not self._front:
            self._front = Apache()
            port = self._front.port
            self._front.start(
                [*DEBIAN_MODULES, "mpm_event", "headers", "proxy", "proxy_http", "proxy_wstunnel"],
                f"Listen 127.0.0.1:{port}\nServerName localhost\nAllowEncodedSlashes NoDecode\n"
                f'RequestHeader set Authorization "token {TOKEN}"\nProxyPreserveHost On\n'
                f'ProxyPass "/" "unix:{self._public}|http://localhost/" nocanon upgrade=websocket\n',
            )
        return f"http://127.0.0.1:{self._front.port}"

    def memory(self) -> dict[str, int]:
        """Return the private memory of Apache, the proxy and the notebook server, in MiB."""
        assert self._proxy
        assert self.session.process
        apache = int((self.site.directory / "apache.pid").read_text())
        parts = {
            "Apache": [apache, *children(apache)],
            "proxy": [self._proxy.pid],
            "server": [self.session.process.pid],
        }
        return {name: sum(map(private_memory, pids)) // 1024 for name, pids in parts.items()}


def children(pid: int) -> list[int]:
    """Return the child processes of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def private_memory(pid: int) -> int:
    """Return the memory that a process shares with no file, in KiB."""
    found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) if found else 0


class Sampler:
    """Reads the memory of a chain while the ``with`` statement lasts.

    Attributes:
        before: The memory at its beginning, in MiB.
        most: The largest memory.
    """

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self.before = chain.memory()
        self.most = dict(self.before)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._look()

    def _run(self) -> None:
        while not self._stopped.wait(0.1):
            self._look()

    def _look(self) -> None:
        for name, value in self._chain.memory().items():
            self.most[name] = max(self.most[name], value)

    @property
    def growth(self) -> dict[str, int]:
        """How much the memory has grown, in MiB."""
        return {name: self.most[name] - self.before[name] for name in self.before}


def answer_of(connection: http.client.HTTPSConnection) -> tuple[int, Any]:
    """Return the status and the JSON of an answer."""
    answer = connection.getresponse()
    text = answer.read()
    try:
        return answer.status, json.loads(text)
    except ValueError:
        return answer.status, text.decode(errors="replace")
