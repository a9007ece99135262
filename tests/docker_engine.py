"""A stand-in for the Docker Engine API, as far as docker-py and dockerspawner use it. It is not a real engine.

It follows the documents of the API (https://docs.docker.com/reference/api/engine/), keeps state, and starts the program
of a container as a process of this machine. It isolates nothing. Faults can be switched on.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

SECRETS = "/run/hpchub"
NEVER = "0001-01-01T00:00:00Z"


class Refusal(Exception):
    """An answer with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def now() -> str:
    """Return the time as the engine writes it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "000Z")


class Container:
    """One container."""

    def __init__(self, name: str, body: dict[str, Any], root: Path) -> None:
        self.name, self.body, self.root = name, body, root
        self.memory, self.output = root / "memory", root / "output"
        self.memory.mkdir(parents=True)
        self.received = b""
        self.input_ends = False
        self.changed = threading.Condition()
        self.created = time.time()
        self.process: subprocess.Popen[bytes] | None = None
        self.started, self.finished, self.killed = NEVER, NEVER, False
        self.oom = False

    @property
    def status(self) -> str:
        """The state."""
        if self.process is None:
            return "created"
        if self.process.poll() is None:
            return "running"
        if self.finished == NEVER:
            self.finished = now()
        return "exited"

    def start(self, program: list[str]) -> None:
        """Run the program."""
        env = {"PATH": os.environ["PATH"], **dict(each.split("=", 1) for each in self.body.get("Env") or [])}
        words = [word.replace(SECRETS, str(self.memory)).replace("/run/secrets", str(self.root)) for word in program]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                words,
                bufsize=0,
                env=env,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                start_new_session=True,
            )
        self.started = now()
        threading.Thread(target=self._feed, args=(self.process,), daemon=True).start()

    def _feed(self, process: subprocess.Popen[bytes]) -> None:
        """Pass what clients send to the standard input of the program."""
        assert process.stdin
        sent, ends = 0, not self.body.get("OpenStdin")
        with contextlib.suppress(BrokenPipeError), process.stdin:
            while not ends or sent < len(self.received):
                with self.changed:
                    while not self.input_ends and len(self.received) <= sent:
                        self.changed.wait(60)
                    content, ends = self.received[sent:], self.input_ends
                sent += process.stdin.write(content) if content else 0

    def take(self, content: bytes) -> None:
        """Take what a client sends. No content is the end, as for a container with ``StdinOnce``."""
        with self.changed:
            self.received += content
            self.input_ends = not content
            self.changed.notify_all()

    def stop(self, seconds: float) -> None:
        """End the program."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def described(self) -> dict[str, Any]:
        """Return the answer of the request to inspect it."""
        status = self.status
        code = self.process.returncode if self.process and self.process.returncode is not None else 0
        network = self.body["HostConfig"]["NetworkMode"]
        return {
            "Id": self.name.encode().hex().ljust(64, "0")[:64],
            "Name": f"/{self.name}",
            "State": {
                "Status": status,
                "Running": status == "running",
                "OOMKilled": self.oom,
                "ExitCode": code if code >= 0 else 128 - code,
                "Error": "",
                "StartedAt": self.started,
                "FinishedAt": self.finished,
            },
            "Config": {"Tty": False} | {name: value for name, value in self.body.items() if name != "HostConfig"},
            "HostConfig": self.body["HostConfig"],
            "NetworkSettings": {"Networks": {network: {"IPAddress": "127.0.0.1" if status == "running" else ""}}},
        }

    def listed(self) -> dict[str, Any]:
        """Return its entry in the list."""
        full = self.described()
        return {
            "Id": full["Id"],
            "Names": [full["Name"]],
            "Image": self.body["Image"],
            "Created": int(self.created),
            "State": full["State"]["Status"],
            "Status": full["State"]["Status"],
            "Labels": self.body.get("Labels") or {},
            "NetworkSettings": full["NetworkSettings"],
        }


class Engine:
    """The stand-in. Its socket is ``socket``.

    Attributes:
        images: The programs of the images: ``None`` for the entry point itself, or words that run in its place.
        volumes: The volumes that images declare.
        faults: Answers in place of the real ones, by the name of a request: an error, or seconds of silence.
        delays: How long an engine works for a request, in seconds, by its name.
        requests: The names of all requests.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="engine", dir=directory))
        self.socket = self.directory / "docker.sock"
        self.images: dict[str, list[str] | None] = {}
        self.volumes: dict[str, list[str]] = {}
        self.containers: dict[str, Container] = {}
        self.networks = {"hpchub": {"Driver": "bridge", "Options": {"com.docker.network.bridge.enable_icc": "false"}}}
        self.faults: dict[str, Refusal | float] = {}
        self.delays: dict[str, float] = {}
        self.requests: list[str] = []
        self.api_version = "1.45"
        self.number = 0
        self._lock = threading.RLock()
        engine = self

        class Handler(_Handler):
            owner = engine

        class Server(ThreadingMixIn, UnixStreamServer):
            daemon_threads = True

        self._server = Server(str(self.socket), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        """End all programs and the stand-in."""
        self._server.shutdown()
        self._server.server_close()
        for each in self.containers.values():
            each.stop(0.2)
            each.take(b"")

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        """Return the status and the content of an answer."""
        path = re.sub(r"^/v[0-9.]+", "", path)
        for name, wanted, pattern, function in self.table():
            if method == wanted and (found := re.fullmatch(pattern, path)):
                self.requests.append(name)
                fault = self.faults.get(name, self.faults.get("*"))
                if isinstance(fault, Refusal):
                    raise fault
                if wait := fault or self.delays.get(name):
                    time.sleep(wait)
                with self._lock:
                    return function(self, *found.groups(), query=query, body=body)  # type: ignore[no-any-return]
        raise Refusal(404, "page not found")

    def table(self) -> tuple[tuple[str, str, str, Any], ...]:
        """Return the requests: a name, the method, a pattern of the path, and the function that answers."""
        return _REQUESTS

    def _container(self, name: str) -> Container:
        for each in self.containers.values():
            if name in (each.name, each.described()["Id"]):
                return each
        raise Refusal(404, f"No such container: {name}")

    def ping(self, **_: Any) -> tuple[int, Any]:
        """GET /_ping."""
        return 200, b"OK"

    def version(self, **_: Any) -> tuple[int, Any]:
        """GET /version."""
        return 200, {"Version": "26.1.5", "ApiVersion": self.api_version, "MinAPIVersion": "1.24"}

    def network(self, name: str, **_: Any) -> tuple[int, Any]:
        """GET /networks/NAME."""
        if name not in self.networks:
            raise Refusal(404, f"network {name} not found")
        return 200, {"Name": name, **self.networks[name]}

    def image(self, name: str, **_: Any) -> tuple[int, Any]:
        """GET /images/NAME/json."""
        if unquote(name) not in self.images:
            raise Refusal(404, f"No such image: {unquote(name)}")
        volumes: dict[str, Any] = {path: {} for path in self.volumes.get(unquote(name), ())}
        return 200, {"Id": name, "Config": {"Cmd": ["jupyterhub-singleuser"], "Volumes": volumes}}

    def containers_json(self, *, query: dict[str, list[str]], **_: Any) -> tuple[int, Any]:
        """GET /containers/json."""
        filters = json.loads((query.get("filters") or ["{}"])[0])
        wanted, states = filters.get("label", []), filters.get("status")
        found = [each for each in self.containers.values() if all(w in (each.body.get("Labels") or {}) for w in wanted)]
        found = [each for each in found if not states or each.status in states]
        return 200, [each.listed() for each in found]

    def create(self, *, query: dict[str, list[str]], body: bytes, **_: Any) -> tuple[int, Any]:
        """POST /containers/create."""
        name, content = query["name"][0], json.loads(body)
        if content["Image"] not in self.images:
            raise Refusal(404, f"No such image: {content['Image']}")
        if name in self.containers:
            raise Refusal(409, f'Conflict. The container name "/{name}" is already in use by container "x".')
        for mount in content["HostConfig"].get("Mounts") or []:
            if not Path(mount["Source"]).exists():
                message = f'invalid mount config for type "bind": bind source path does not exist: {mount["Source"]}'
                raise Refusal(400, message)
        self.number += 1
        self.containers[name] = Container(name, content, self.directory / f"{self.number}")
        return 201, {"Id": self.containers[name].described()["Id"], "Warnings": []}

    def attach(self, name: str, *, query: dict[str, list[str]], **_: Any) -> tuple[int, Any]:
        """POST /containers/NAME/attach: the connection becomes the standard input of the container."""
        container = self._container(name)
        if (query.get("stdin"), query.get("stream")) != (["1"], ["1"]) or set(query) - {"stdin", "stream"}:
            raise Refusal(400, "the stand-in attaches to the standard input only")
        return 101, container

    def start(self, name: str, **_: Any) -> tuple[int, Any]:
        """POST /containers/NAME/start."""
        container = self._container(name)
        program = self.images[container.body["Image"]]
        entry = container.body.get("Entrypoint")
        if entry is None:
            container.start(container.body["Cmd"])
        else:
            container.start(entry if program is None else [*entry[:6], *program])
        return 204, b""

    def stop(self, name: str, *, query: dict[str, list[str]], **_: Any) -> tuple[int, Any]:
        """POST /containers/NAME/stop."""
        self._container(name).stop(float((query.get("t") or ["10"])[0]))
        return 204, b""

    def remove(self, name: str, **_: Any) -> tuple[int, Any]:
        """DELETE /containers/NAME."""
        container = self._container(name)
        container.stop(0.1)
        del self.containers[container.name]
        return 204, b""

    def inspect(self, name: str, **_: Any) -> tuple[int, Any]:
        """GET /containers/NAME/json."""
        return 200, self._container(name).described()

    def logs(self, name: str, **_: Any) -> tuple[int, Any]:
        """GET /containers/NAME/logs: frames of the stream 1."""
        output = self._container(name).output
        content = output.read_bytes() if output.exists() else b""
        return 200, b"\x01\0\0\0" + len(content).to_bytes(4, "big") + content if content else b""


_NAME = "([^/]+)"
_REQUESTS: tuple[tuple[str, str, str, Any], ...] = (
    ("ping", "GET", "/_ping", Engine.ping),
    ("version", "GET", "/version", Engine.version),
    ("network", "GET", f"/networks/{_NAME}", Engine.network),
    ("image", "GET", "/images/(.+)/json", Engine.image),
    ("list", "GET", "/containers/json", Engine.containers_json),
    ("create", "POST", "/containers/create", Engine.create),
    ("attach", "POST", f"/containers/{_NAME}/attach", Engine.attach),
    ("start", "POST", f"/containers/{_NAME}/start", Engine.start),
    ("stop", "POST", f"/containers/{_NAME}/stop", Engine.stop),
    ("remove", "DELETE", f"/containers/{_NAME}", Engine.remove),
    ("inspect", "GET", f"/containers/{_NAME}/json", Engine.inspect),
    ("logs", "GET", f"/containers/{_NAME}/logs", Engine.logs),
)


class _Handler(BaseHTTPRequestHandler):
    owner: Engine
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        url = urlsplit(self.path)
        length = self.headers.get("Content-Length")
        body = self.rfile.read(int(length)) if length else self._chunks()
        try:
            status, content = self.owner.answer(self.command, url.path, parse_qs(url.query), body)
        except Refusal as error:
            status, content = error.status, {"message": str(error)}
        if isinstance(content, Container):
            self._take_input(content)
            return
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if content is data else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _take_input(self, container: Container) -> None:
        self.close_connection = True
        self.send_response(101, "UPGRADED")
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", "tcp")
        self.end_headers()
        while chunk := self.rfile.read1():
            container.take(chunk)
        container.take(b"")

    def _chunks(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return b""
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815 the names that BaseHTTPRequestHandler calls

    def address_string(self) -> str:
        return "local"

    def log_message(self, *_: Any) -> None:
        pass
