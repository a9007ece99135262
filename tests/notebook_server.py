"""Run the launcher as a batch job does, with the real single-user server, a real home directory and a stand-in hub."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import http.client
import http.server
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self

import yaml
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from hpchub.hub.certificates import Authority, server_name

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "roles" / "notebook_environment" / "files" / "requirements.lock"
CACHE = Path.home() / ".cache" / "hpchub"
NAME = "0123456789abcdef"
PREFIX = "/user/alice/"
TOKEN = "t0k3n"

# The launcher finds its user's home in the account database. Here, it is the directory of the test.
PROGRAM = """\
import pwd, sys
sys.path.append({remote!r})
real = pwd.getpwuid
pwd.getpwuid = lambda uid: pwd.struct_passwd([*real(uid)[:5], {home!r}, "/bin/bash"])
exec(compile(open({launcher!r}).read(), {launcher!r}, "exec"))
"""


def notebook_environment() -> Path:
    """Return an environment with the packages of a session. It is built once and kept in the cache."""
    content = LOCK.read_bytes() + sys.version.encode()
    path = CACHE / f"notebook-{hashlib.sha256(content).hexdigest()[:12]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with Path(CACHE, "notebook.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (path / "complete").exists():
            shutil.rmtree(path, ignore_errors=True)
            for old in CACHE.glob("notebook-*"):
                shutil.rmtree(old)
            uv = str(Path(sys.executable).with_name("uv"))
            subprocess.run([uv, "venv", "--quiet", "--no-project", "--python", sys.executable, path], check=True)
            options = ["--quiet", "--require-hashes", "--compile-bytecode", f"--python={path}/bin/python"]
            subprocess.run([uv, "pip", "sync", *options, LOCK], check=True)
            shutil.rmtree(path / "share" / "jupyter" / "kernels")
            # What the role writes, and what root needs on machines where root runs the tests.
            site = {"KernelSpecManager": {"ensure_native_kernel": False}, "ServerApp": {"allow_root": True}}
            settings = path / "etc" / "jupyter"
            (settings / "jupyter_server_config.json").write_text(json.dumps(site))
            shutil.rmtree(settings / "jupyter_server_config.d")
            (settings / "jupyter_server_config.d").mkdir()
            role = yaml.safe_load((LOCK.parents[1] / "vars" / "main.yml").read_text())
            extensions = {"ServerApp": {"jpserver_extensions": role["__notebook_environment_own_server_extensions"]}}
            (settings / "jupyter_server_config.d" / "hpchub.json").write_text(json.dumps(extensions))
            (path / "complete").touch()
    return path


class Hub(http.server.ThreadingHTTPServer):
    """A stand-in for the hub's API.

    Attributes:
        reports: The bodies of the launcher's reports.
        session: The hub's answer about the session.
        idle: Whether the session has reported that nobody uses it.
        url: The URL of the API.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.reports: list[dict[str, Any]] = []
        self.reported = threading.Event()
        self.session: dict[str, Any] = {"state": "running", "ends_at": None, "job": None, "notices": []}
        self.idle = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/hub/api"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


class HubHandler(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def _answer(self, code: int, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("X-JupyterHub-Version", "6.1.1")
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self) -> None:
        if "/hpchub/sessions/" in self.path:
            self._answer(200, self.server.session)
            return
        user = {"name": "alice", "kind": "user", "admin": False, "groups": [], "scopes": ["access:servers!user=alice"]}
        self._answer(200, user if self.path.endswith("/user") else {"version": "6.1.1"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/batchspawner"):
            self.server.reports.append(json.loads(body))
            self.server.reported.set()
        if self.path.endswith("/hpchub/idle"):
            self.server.idle.set()
        self._answer(201, {})

    def log_message(self, *_args: object) -> None:
        pass


class Session:
    """A session in a home directory.

    Args:
        home: The home directory.
        tls: The directory of the certificate authority.
        kernels: A Jupyter data directory with the site's kernels.
        environment: The environment of the server. By default, it has the packages of a session.
    """

    def __init__(self, home: Path, tls: Path, kernels: Path | None = None, environment: Path | None = None) -> None:
        self.home = home
        self.tls = tls
        self.kernels = kernels
        self.environment = environment
        self.hub = Hub()
        self.log_path = home.parent / "session.log"
        self.variables: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None
        home.mkdir(exist_ok=True)

    def write(self, name: str, text: str) -> Path:
        """Write a file in the home."""
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def secrets(self) -> dict[str, str]:
        """Return the content of the session's file, as the hub sends it to the gate."""
        identity = Authority(self.tls).issue("alice")
        return {
            "JUPYTERHUB_API_TOKEN": TOKEN,
            "JUPYTERHUB_API_URL": self.hub.url,
            "JUPYTERHUB_ACTIVITY_URL": f"{self.hub.url}/users/alice/activity",
            "JUPYTERHUB_BASE_URL": "/",
            "JUPYTERHUB_CLIENT_ID": "jupyterhub-user-alice",
            "JUPYTERHUB_OAUTH_ACCESS_SCOPES": '["access:servers!user=alice"]',
            "JUPYTERHUB_OAUTH_SCOPES": '["access:servers!user=alice"]',
            "JUPYTERHUB_OAUTH_CALLBACK_URL": f"{PREFIX}oauth_callback",
            "JUPYTERHUB_SERVICE_PREFIX": PREFIX,
            "JUPYTERHUB_SERVICE_URL": "http://0.0.0.0:0" + PREFIX,
            "JUPYTERHUB_USER": "alice",
            "HPCHUB_PORT_FIRST": "20000",
            "HPCHUB_PORT_LAST": "29999",
            "HPCHUB_INTERFACE": "lab",
            "HPCHUB_CORES": "3",
            "HPCHUB_DEFAULT_KERNEL": "",
            "HPCHUB_API_CA": "",
            "HPCHUB_TLS_KEY": identity.key,
            "HPCHUB_TLS_CERTIFICATE": identity.certificate,
            "HPCHUB_TLS_CLIENTS": identity.clients,
            **self.variables,
        }

    def start(self, job: dict[str, str] | None = None, before: str = "") -> Self:
        """Start the launcher.

        Args:
            job: Variables of the job's environment.
            before: Shell commands that root, or root of a user namespace, runs first in a mount namespace.
        """
        environment = self.environment or notebook_environment()
        directory = self.home / ".hpchub"
        directory.mkdir(mode=0o700, exist_ok=True)
        file = directory / f"{NAME}.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(self.secrets()))
        remote = ROOT / "src" / "hpchub" / "remote"
        program = self.home.parent / "hpchub-launch"
        program.write_text(
            PROGRAM.format(remote=str(remote), home=str(self.home), launcher=str(remote / "launcher.py"))
        )
        command: list[str | Path] = [environment / "bin" / "python", "-I", program, NAME]
        if os.geteuid() == 0 or before:  # permissions do not apply to root unless it has no capabilities
            command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
        if before:
            root = [] if os.geteuid() == 0 else ["--map-root-user"]
            command = ["unshare", *root, "--mount", "sh", "-ec", f'{before}\nexec "$@"', "sh", *command]
        base = {"HOME": str(self.home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TMPDIR": str(self.home.parent)}
        if self.kernels:
            base["JUPYTER_PATH"] = str(self.kernels)
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=base | (job or {}), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
            )
        return self

    def wait_for_report(self, timeout: float = 60) -> dict[str, Any]:
        """Return the first report, and fail with the log if there is none."""
        deadline = time.monotonic() + timeout
        while not self.hub.reported.wait(0.1):
            assert self.process is not None
            assert self.process.poll() is None, f"the job has ended:\n{self.log}"
            assert time.monotonic() < deadline, f"no report:\n{self.log}"
        return self.hub.reports[0]

    @property
    def log(self) -> str:
        """The session's log."""
        return self.log_path.read_text(errors="replace")

    def lines(self) -> list[str]:
        """Return the launcher's own lines in the log."""
        return [line for line in self.log.splitlines() if line.startswith("hpchub-launch: ")]

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.tls / "servers.pem")
        context.load_cert_chain(self.tls / "proxy.pem")
        context.check_hostname = False
        return context

    def request(self, path: str, method: str = "GET", body: Any = None) -> tuple[int, Any]:
        """Send a request to the server as the proxy does. Return the status and the answer."""
        context = self._context()
        connection = http.client.HTTPSConnection("127.0.0.1", self.hub.reports[0]["port"], context=context, timeout=30)
        headers = {"Authorization": f"token {TOKEN}", "Content-Type": "application/json"}
        with contextlib.closing(connection):
            connection.request(method, PREFIX + path, json.dumps(body) if body is not None else None, headers)
            # The certificate is the session's own.
            certificate: Any = connection.sock.getpeercert()
            assert certificate["subjectAltName"] == (("DNS", server_name("alice")),)
            answer = connection.getresponse()
            text = answer.read()
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text.decode(errors="replace")

    def execute(self, code: str, timeout: float = 60) -> str:
        """Run code in the kernel of a notebook without metadata. Return what it prints."""
        body = {"path": "new.ipynb", "name": "new.ipynb", "type": "notebook", "kernel": {}}
        status, answer = self.request("api/sessions", "POST", body)
        assert status == 201, f"{answer}\n{self.log}"
        try:
            return asyncio.run(asyncio.wait_for(self._execute(answer["kernel"]["id"], code), timeout))
        except TimeoutError:
            raise AssertionError(f"the kernel does not answer:\n{self.log}") from None

    async def _execute(self, kernel: str, code: str) -> str:
        url = f"wss://127.0.0.1:{self.hub.reports[0]['port']}{PREFIX}api/kernels/{kernel}/channels"
        request = HTTPRequest(url, headers={"Authorization": f"token {TOKEN}"}, ssl_options=self._context())
        connection = await websocket_connect(request)
        try:
            return await self._printed(connection, code)
        finally:
            connection.close()
            while await connection.read_message() is not None:
                pass  # wait until the connection is closed

    @staticmethod
    async def _printed(connection: WebSocketClientConnection, code: str) -> str:
        header = {
            "msg_id": "1",
            "msg_type": "execute_request",
            "username": "",
            "session": "s",
            "date": "",
            "version": "5",
        }
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        await connection.write_message(json.dumps(message))
        printed = ""
        while True:
            answer = json.loads(await connection.read_message() or "{}")
            if answer["msg_type"] == "error":
                raise AssertionError("\n".join(answer["content"]["traceback"]))
            if answer["msg_type"] == "stream":
                printed += answer["content"]["text"]
            if answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle" and printed:
                return printed

    def events(self, count: int, timeout: float = 60) -> list[dict[str, Any]]:
        """Return the next events that a tab receives."""

        async def receive() -> list[dict[str, Any]]:
            url = f"wss://127.0.0.1:{self.hub.reports[0]['port']}{PREFIX}api/events/subscribe"
            request = HTTPRequest(url, headers={"Authorization": f"token {TOKEN}"}, ssl_options=self._context())
            connection = await websocket_connect(request)
            try:
                return [json.loads(await connection.read_message() or "{}") for _ in range(count)]
            finally:
                connection.close()

        return asyncio.run(asyncio.wait_for(receive(), timeout))

    def close(self) -> None:
        """End the job and the hub."""
        self.hub.shutdown()
        self.hub.server_close()
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
