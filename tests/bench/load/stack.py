"""One hub with its proxy and its scheduler, and measurements of the hub from outside."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from e2e.site import REPOSITORY

from bench.client import BenchError
from hpchub.names import USER_PATTERN

from .shared import HERE, free_port, user_name

if TYPE_CHECKING:
    from .shared import SharedSetup

TICKS = os.sysconf("SC_CLK_TCK")


class Stack:
    """A hub that runs while the context lasts.

    Args:
        shared: The accounts, programs and directories that all stacks share.
        name: ``stock`` or ``hpchub``.
        sessions: The number of sessions, which becomes part of the directory's name.
    """

    def __init__(self, shared: SharedSetup, name: str, sessions: int) -> None:
        self.name = name
        self._shared = shared
        self._path = shared.path / f"{name}-{sessions}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._token, self._proxy_token = secrets.token_hex(32), secrets.token_hex(32)
        ports = {what: f"http://127.0.0.1:{free_port()}" for what in ("proxy", "api", "hub")}
        self._sockets = {what: self._path / f"{what}.sock" for what in ports} if name == "hpchub" else {}
        self._urls = dict.fromkeys(ports, "http://hub.example.org") if self._sockets else ports
        self._session: dict[str, aiohttp.ClientSession] = {}

    async def __aenter__(self) -> Self:
        self._path.mkdir()
        try:
            await self._up()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _up(self) -> None:
        self._shared.calls.write_text("")
        environment = {
            **os.environ,
            "PYTHONPATH": ":".join(str(REPOSITORY / part) for part in ("src", "tests", "molecule/shared")),
            "CONFIGPROXY_AUTH_TOKEN": self._proxy_token,
            "JUPYTERHUB_CRYPT_KEY": secrets.token_hex(32),
            "BENCH_SETTINGS": str(self._path / "settings.json"),
            "PATH": f"{self._shared.programs}:{self._shared.proxy / 'bin'}:{os.environ['PATH']}",
        }
        scheduler = [sys.executable, "-m", "bench.load.scheduler", "--socket", self._shared.programs / "scheduler.sock"]
        (self._shared.programs / "scheduler.sock").unlink(missing_ok=True)
        self._start(
            "scheduler", [*scheduler, "--homes", self._shared.homes, "--hub", self._sockets.get("hub", "")], environment
        )
        node = self._shared.proxy / "bin" / "node"
        settings: dict[str, Any] = {
            "stack": self.name,
            "token": self._token,
            "loop_file": str(self._path / "loop.json"),
            "db_url": f"sqlite:///{self._path}/jupyterhub.sqlite",
            "cookie_secret_file": str(self._path / "cookie_secret"),
            "proxy_url": self._urls["proxy"],
            "proxy_api_url": self._urls["api"],
            "hub_url": self._urls["hub"],
            "hub_json": str(self._path / "hub.json"),
            "proxy_command": [
                str(node),
                str(self._shared.proxy / "node_modules/configurable-http-proxy/bin/configurable-http-proxy"),
            ],
        }
        (self._path / "settings.json").write_text(json.dumps(settings))
        if self.name == "hpchub":
            self._hpchub(settings, node, environment)
        self._start("hub", [sys.executable, "-m", "jupyterhub", "--config", HERE / "hub_config.py"], environment)
        for what, url in self._urls.items():
            path = self._sockets.get(what)
            connector = aiohttp.UnixConnector(str(path), limit=0) if path else aiohttp.TCPConnector(limit=0)
            token = self._proxy_token if what == "api" else self._token
            headers = {"Authorization": f"token {token}"}
            timeout = aiohttp.ClientTimeout(total=600)
            self._session[what] = aiohttp.ClientSession(url, connector=connector, headers=headers, timeout=timeout)
        deadline = time.monotonic() + 60
        while not await self._answers():
            if time.monotonic() > deadline or self._processes["hub"].poll() is not None:
                raise BenchError(f"the {self.name} hub does not start:\n{(self._path / 'hub.log').read_text()[-3000:]}")
            await asyncio.sleep(0.2)
        arguments = [self._urls["hub"] + "/hub/health", self._sockets.get("hub", "")]
        self._start("sampler", [sys.executable, HERE / "sampler.py", *arguments], environment)

    async def __aexit__(self, kind: object = None, *_: object) -> None:
        if kind is not None:
            for name in ("scheduler", "hub"):
                lines = (self._path / f"{name}.log").read_text().splitlines()
                print(
                    f"--- {self.name}: {name}.log", *[line for line in lines if "404 GET" not in line][-40:], sep="\n"
                )
        for session in self._session.values():
            await session.close()
        for process in reversed(self._processes.values()):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, name: str, command: list[Any], environment: dict[str, str]) -> None:
        suffix = "json" if name == "sampler" else "log"
        with (self._path / f"{name}.{suffix}").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                list(map(str, command)),
                cwd=self._path,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT if suffix == "log" else None,
            )

    def _hpchub(self, settings: dict[str, Any], node: Path, environment: dict[str, str]) -> None:
        """Set up the proxy, the gate and the configuration as the roles would."""
        shared, sockets = self._shared, {what: str(path) for what, path in self._sockets.items()}
        urls = {what: "http+unix://" + path.replace("/", "%2F") for what, path in sockets.items()}
        gate = str(self._path / "gate.sock")
        access = {"allowed_groups": ["bench"], "admin_groups": [], "minimum_uid": 1000, "hub_accounts": True}
        access |= {name: [] for name in ("allowed_users", "blocked_users", "admin_users")}
        access["user_pattern"] = USER_PATTERN
        content = {
            "public_url": "https://hub.example.org",
            "user_subdomains": False,
            "service_name": "bench",
            "claims": {"groups": "groups", "groups_separator": "", "mail": "email"},
            "attributes": [],
            "host_groups": False,
            "support": "",
            "proxy_socket_url": urls["proxy"],
            "proxy_api_url": urls["api"],
            "hub_bind_url": urls["hub"],
            "hub_socket_mode": "0660",
            "api_url": "http://hub.example.org/",
            "api_ca_file": "",
            "events": {"keep_days": 400, "pseudonyms": True},
            "notebook_tls_directory": str(shared.authority),
            "token_days": 30,
            "unknown_jobs_end_after": 0,
            "db_url": settings["db_url"],
            "profiles_file": str(shared.profiles),
            "template_paths": [str(HERE.parents[2] / "templates" / "pages")],
            "batch_template_dir": str(HERE.parents[2] / "templates" / "batch"),
            "access": access,
            "notebook_ports": {"first": 1024, "last": 65535},
            "state_dir": str(self._path),
            "cookie_secret_file": settings["cookie_secret_file"],
            "gates": {"bench": {"method": "local", "socket": gate}},
            "logout_url": "/",
            "log_level": "INFO",
        }
        (self._path / "hub.json").write_text(json.dumps(content))
        command = [sys.executable, HERE / "gate_socket.py", gate, shared.calls, shared.programs / "gate"]
        self._start("gate", [*command, "--cluster", "bench"], environment)
        command = [node, shared.proxy / "proxy.mjs", "--socket", sockets["proxy"], "--api-socket", sockets["api"]]
        self._start(
            "proxy", [*command, "--default-target", urls["hub"], "--tls-directory", shared.authority], environment
        )

    async def _answers(self) -> bool:
        try:
            async with self._session["proxy"].get("/hub/api/") as answer:
                return answer.status == 200
        except (OSError, aiohttp.ClientError):
            return False

    # -- actions of administrators and users

    async def add_users(self, numbers: range) -> None:
        """Create the hub's accounts and a token like a user's. A token of the configuration takes 10 ms to check."""
        async with self._session["proxy"].post(
            "/hub/api/users", json={"usernames": ["bench", *map(user_name, numbers)]}
        ) as answer:
            if answer.status != 201:
                raise BenchError(f"{self.name}: {await answer.text()}")
        async with self._session["proxy"].post("/hub/api/users/bench/tokens") as answer:
            token = (await answer.json())["token"]
        self._session["proxy"].headers["Authorization"] = f"token {token}"

    async def start(self, number: int) -> int:
        """Request a user's session. Return the status code, or 0 without a response."""
        url = f"/hub/api/users/{user_name(number)}/server"
        try:
            async with self._session["proxy"].post(url, json={"profile": "small"}) as answer:
                await answer.read()
                return answer.status
        except (OSError, aiohttp.ClientError):
            return 0

    async def usable(self, number: int) -> bool:
        """Return whether a user's server answers through the proxy, without a request to the hub."""
        async with self._session["api"].get(f"/api/routes/user/{user_name(number)}") as answer:
            if answer.status != 200:
                return False
        async with self._session["proxy"].get(f"/user/{user_name(number)}/api/status", allow_redirects=False) as answer:
            return answer.status == 200

    async def routes(self) -> int:
        """Return the number of users' servers that the proxy has a route to."""
        async with self._session["api"].get("/api/routes") as answer:
            return sum(path.startswith("/user/") for path in await answer.json())

    async def scheduler(self, word: str = "") -> list[dict[str, Any]]:
        """Return the scheduler's jobs. First send it ``hold`` or ``release``: held jobs do not start."""
        reader, writer = await asyncio.open_unix_connection(str(self._shared.programs / "scheduler.sock"), limit=2**24)
        writer.write(f"control\0root\x001\0{word}\x000\0".encode())
        writer.write_eof()
        jobs: list[dict[str, Any]] = json.loads((await reader.read())[1:])
        writer.close()
        return jobs

    # -- measurements from outside

    def processor(self) -> float:
        """Return the CPU time of the hub's process so far, in seconds."""
        fields = self._proc("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory(self) -> float:
        """Return the proportional memory (PSS) of the hub's process, in MB."""
        lines = self._proc("smaps_rollup").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024

    def _proc(self, name: str) -> str:
        return Path("/proc", str(self._processes["hub"].pid), name).read_text()

    def answers(self, *windows: tuple[float, float]) -> list[float | None]:
        """Return the response times of the sampler's requests in these windows, in milliseconds."""
        return self._samples("sampler.json", windows)

    def delays(self, *windows: tuple[float, float]) -> list[float]:
        """Return the delays of the hub's event loop in these windows, in milliseconds."""
        return [value or 0.0 for value in self._samples("loop.json", windows)]

    def _samples(self, name: str, windows: tuple[tuple[float, float], ...]) -> list[float | None]:
        lines = (self._path / name).read_text().splitlines()
        pairs = [json.loads(line) for line in lines if line.endswith("]")]
        return [value for when, value in pairs if any(begin <= when <= end for begin, end in windows)]
