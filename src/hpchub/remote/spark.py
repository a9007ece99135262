"""The supervisor of the Apache Spark of a session: one master, and a worker on each node of the job.

Spark listens on network ports only, which other accounts can reach. So each start creates two secrets:

- Spark's processes demand the first one of each other, and encrypt what they send.
- Spark's pages demand a token that is signed with the second one. This program adds it to the requests of the user.

The secrets are in the file ``spark-defaults.conf`` in a directory that only the user can enter. The directory has the
same path on all nodes. After the start, and then every 15 seconds, each node connects to its ports without a secret. If
one of them accepts that, Spark is stopped. See ``spark_node.py``.

Notebooks ask this program for the address of the master; see ``spark_kernel.py``. The rest is the same as for other
applications; see ``app.py``. The role ``notebook_environment`` installs this file beside it. It uses the standard
library only.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import importlib
import json
import os
import re
import secrets
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING or __package__:
    from hpchub.remote import app, spark_node
else:  # a program, beside the others
    sys.path.insert(0, str(Path(__file__).parent))
    app = importlib.import_module("app")
    spark_node = importlib.import_module("spark_node")

KERNEL_PATH = "/hpchub/kernel"  # what a notebook asks for
FILTER = "org.apache.spark.ui.JWSFilter"  # since Spark 4.0
TOKEN_LIFETIME = 60  # seconds, for the clocks of several nodes
LEAST_MEMORY = 512  # MiB; Spark refuses less than 450
SOCKETS = "spark.python.unix.domain.socket.dir"


class Spark(spark_node.Daemons):
    """The supervisor on the first node.

    Args:
        definition: The application's definition.
        directory: The directory with its socket and its log. Only the user can enter it.
        texts: The texts of the pages.
        environment: The environment of the session.
    """

    def __init__(
        self, definition: dict[str, Any], directory: Path, texts: dict[str, str], environment: dict[str, str]
    ) -> None:
        super().__init__(definition, directory, texts, environment)
        self.base = environment.get("JUPYTERHUB_SERVICE_PREFIX", "/") + definition["name"]
        self.key = b""
        self.page_address = ("", 0)
        self._workers: list[asyncio.subprocess.Process] = []
        self._local: list[asyncio.subprocess.Process] = []
        self._files: list[Path] = []
        self._deadline = 0.0

    # -- its life

    async def _run(self) -> asyncio.subprocess.Process:
        self._deadline = time.monotonic() + self.limit
        self._workers, self._local, self._files = [], [], []
        cores = int(self.environment.get("HPCHUB_CORES") or os.cpu_count() or 1)
        memory = executor_memory(self.environment.get("HPCHUB_MEMORY", ""), self.definition["memory_percent"])
        if memory < LEAST_MEMORY:
            raise app.AppError("too_small", memory=f"{LEAST_MEMORY * 100 // self.definition['memory_percent']} MiB")
        await self._find()
        others = await other_nodes(self.environment)
        self.address = spark_node.own_address(others[0]) if others else "127.0.0.1"
        self.key = secrets.token_bytes(32)
        settings = self._settings(
            spark_node.SHARED / f"{spark_node.PREFIX}{secrets.token_hex(8)}", memory, 1 + len(others)
        )
        self._create(Path(settings[SOCKETS]), settings)
        master = await self._daemon("master.Master", "--host", self.address, "--port", "0", "--webui-port", "0")
        self._local.append(master)
        self.page_address = await self._started(master, self._deadline)
        port = next(port for _, port in spark_node.listening([master.pid]) if port != self.page_address[1])
        settings["spark.master"] = f"spark://{self.address}:{port}"
        spark_node.write_settings(self.runtime / "conf" / "spark-defaults.conf", settings)
        own = await self._worker(settings["spark.master"], cores, memory)
        self._local.append(own)
        self._workers.append(own)
        order = {"settings": settings, "cores": cores, "memory": memory}
        for host in others:
            await self._launch(host, order)
        return master

    def _settings(self, runtime: Path, memory: int, nodes: int) -> dict[str, str]:
        """Return Spark's settings: those of the site, and those that protect the session."""
        options = spark_node.java_options(runtime)
        return {
            "spark.executor.memory": f"{memory}m",
            "spark.driver.memory": f"{max(LEAST_MEMORY, memory // 2)}m",
            # A notebook that is idle gives its executors to the others.
            "spark.dynamicAllocation.enabled": "true",
            "spark.dynamicAllocation.shuffleTracking.enabled": "true",
            "spark.dynamicAllocation.shuffleTracking.timeout": "60s",
            "spark.dynamicAllocation.initialExecutors": str(nodes),
            "spark.driver.defaultJavaOptions": options,
            "spark.executor.defaultJavaOptions": options,
            **self.definition["configuration"],
            "spark.authenticate": "true",
            "spark.authenticate.secret": secrets.token_urlsafe(32),
            "spark.network.crypto.enabled": "true",
            "spark.network.crypto.saslFallback": "false",
            # Spark would send blocks to everybody who guesses their number. So these are encrypted, too.
            "spark.io.encryption.enabled": "true",
            "spark.ui.filters": FILTER,
            f"spark.{FILTER}.param.secretKey": base64.urlsafe_b64encode(self.key).decode(),
            "spark.ui.reverseProxy": "true",
            "spark.ui.reverseProxyUrl": self.base,
            "spark.ui.port": "0",
            "spark.master.rest.enabled": "false",
            "spark.shuffle.service.enabled": "false",
            "spark.python.unix.domain.socket.enabled": "true",
            SOCKETS: str(runtime),
            "spark.driver.host": self.address,
            "spark.driver.bindAddress": self.address,
        }

    async def _launch(self, host: str, order: dict[str, Any]) -> None:
        """Start the worker on another node of the job, with the scheduler's launcher."""
        content = {"definition": self.definition, "runtime": str(self.runtime), "address": self.address, **order}
        path = write_order(Path(self.environment.get("HOME", ""), ".hpchub"), content)
        self._files.append(path)
        command = [sys.executable, "-I", spark_node.PROGRAM, str(path)]
        words = launch_command(self.environment, host, order["cores"])
        self._workers.append(await self._execute([*words, *command], words[0], env=self.environment))

    async def _wait_until_ready(self) -> None:
        while time.monotonic() < self._deadline:
            for process in (*self._local, *self._workers):
                if process.returncode is not None:
                    raise self._ending(process.returncode, "spark-class")
            if await self._alive() >= len(self._workers):
                for process in self._local:
                    await self._check(process)
                return
            await asyncio.sleep(app.HEALTH_INTERVAL)
        raise app.AppError("silent", seconds=f"{self.limit:g}")

    async def _alive(self) -> int:
        """Return how many workers have registered with the master."""
        try:
            return int(json.loads(await asyncio.wait_for(self._get("/json/"), app.HEALTH_TIMEOUT))["aliveworkers"])
        except (OSError, TimeoutError, ValueError, LookupError):
            return 0

    async def _watch(self) -> None:
        ends = [asyncio.ensure_future(each.wait()) for each in dict.fromkeys((*self._local, *self._workers))]
        try:
            while True:
                done, _ = await asyncio.wait(ends, timeout=app.WATCH_INTERVAL, return_when=asyncio.FIRST_COMPLETED)
                if done:
                    code = done.pop().result()
                    raise app.AppError("ended_badly", code=code) if code else app.AppError("ended")
                for process in self._local:
                    await self._check(process)
        finally:
            for each in ends:
                each.cancel()

    def _remove(self) -> None:
        for path in self._files:
            path.unlink(missing_ok=True)
        super()._remove()

    # -- its pages

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the master's pages.

        Raises:
            OSError: The master does not listen there any more. Whoever listens there now would get a token.
        """
        master = self._local[0]
        reader, writer = await asyncio.open_connection(*self.page_address)
        if master.returncode is None and self.page_address in spark_node.listening([master.pid]):
            return reader, writer
        writer.close()
        raise ConnectionRefusedError

    async def _get(self, path: str) -> bytes:
        """Return the content of a page."""
        reader, writer = await self._connect()
        try:
            writer.write(with_token(f"GET {path} HTTP/1.0\r\n\r\n".encode(), self.key))
            await app.read_head(reader)
            return await reader.read()
        finally:
            writer.close()

    async def _answer(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        words = head.split(b" ", 2)
        if len(words) > 1 and urlsplit(words[1]).path == KERNEL_PATH.encode():
            content = {"variables": self._variables(), "not_served": self.texts["not_served"]}
            writer.write(app.with_head("200 OK", json.dumps(content).encode(), "application/json"))
            await writer.drain()
            return
        inner_reader, inner_writer = await self._connect()
        inner_writer.write(with_token(app.without_credentials(head), self.key))
        requests = asyncio.ensure_future(app.pump(reader, inner_writer))
        try:
            writer.write(self.redirected(await app.read_head(inner_reader) or b""))
            await app.pump(inner_reader, writer)
        finally:
            requests.cancel()
            inner_writer.close()

    def redirected(self, head: bytes) -> bytes:
        """Return the head of an answer with the path that it redirects to. jupyter-server-proxy adds the prefix."""

        def replace(found: re.Match[bytes]) -> bytes:
            target = urlsplit(found[2].decode(errors="replace"))
            path = "/" + target.path.removeprefix(f"{self.base}/").lstrip("/")
            return found[1] + f"{path}?{target.query}".rstrip("?").encode()

        return re.sub(rb"(?im)^(location:[ \t]*)(\S+)", replace, head)


def executor_memory(memory: str, percent: int) -> int:
    """Return the memory of an executor, in MiB.

    Args:
        memory: The memory of the job on each node, in MiB, or empty: the memory of the node.
        percent: The part that the executor gets.
    """
    total = int(memory) if memory else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    return total * percent // 100


def with_token(head: bytes, key: bytes) -> bytes:
    """Return the head of a request with a token that Spark's pages accept; see RFC 7515.

    Args:
        head: The head, with its empty line.
        key: The secret.
    """

    def encoded(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    claims = json.dumps({"exp": int(time.time()) + TOKEN_LIFETIME}).encode()
    signed = encoded(b'{"alg":"HS256"}') + b"." + encoded(claims)
    token = signed + b"." + encoded(hmac.digest(key, signed, hashlib.sha256))
    first, _, rest = head.partition(b"\r\n")
    return first + b"\r\nAuthorization: Bearer " + token + b"\r\n" + rest


def write_order(directory: Path, content: dict[str, Any]) -> Path:
    """Return a new file for the worker on another node. Only the user can read it.

    Raises:
        AppError: It cannot be written.
    """
    path = directory / f"spark-{secrets.token_hex(8)}.json"
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(content, file)
    except OSError as error:
        raise app.AppError("cannot_run", reason=f"{path}: {error.strerror}") from None
    return path


# -- the nodes of the job


async def other_nodes(environment: dict[str, str]) -> list[str]:
    """Return the nodes of the job, as its scheduler names them, without this one.

    Raises:
        AppError: The scheduler's program does not answer.
    """
    if environment.get("SLURM_JOB_NODELIST"):
        command = ["scontrol", "show", "hostnames", environment["SLURM_JOB_NODELIST"]]
        try:
            process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=environment)
        except OSError as error:
            raise app.AppError("cannot_run", reason=f"scontrol: {error.strerror}") from None
        output, _ = await process.communicate()
        if process.returncode:
            raise app.AppError("cannot_run", reason=f"scontrol: {process.returncode}")
        names = output.decode().split()
    else:
        names = list(dict.fromkeys(nodes_in_file(environment)))
    own = short(socket.gethostname())
    return [name for name in names if short(name) != own]


def nodes_in_file(environment: dict[str, str]) -> list[str]:
    """Return the first word of each line in the scheduler's list of nodes, or nothing if there is none.

    Raises:
        AppError: The file cannot be read.
    """
    for variable in ("PBS_NODEFILE", "PE_HOSTFILE", "LSB_DJOB_HOSTFILE"):
        if environment.get(variable):
            try:
                lines = Path(environment[variable]).read_text(encoding="utf-8").splitlines()
            except OSError as error:
                raise app.AppError("cannot_run", reason=f"{error.filename}: {error.strerror}") from None
            return [line.split()[0] for line in lines if line.strip()]
    return []


def short(name: str) -> str:
    """Return a host name without its domain."""
    return name.partition(".")[0].lower()


def launch_command(environment: dict[str, str], host: str, cores: int) -> list[str]:
    """Return the beginning of the command that starts a program on another node of the job.

    Args:
        environment: The environment of the job.
        host: The node.
        cores: The cores of the job on it.
    """
    if environment.get("SLURM_JOB_NODELIST"):
        # Programs of the user get the same cores, or their srun would wait for the end of Spark.
        step = ["srun", "--overlap", "--nodes=1", "--ntasks=1", f"--nodelist={host}", f"--cpus-per-task={cores}"]
        return [*step, "--input=none", "--unbuffered"]
    if environment.get("PBS_NODEFILE"):
        return ["pbsdsh", "-n", str(nodes_in_file(environment).index(host)), "--"]
    if environment.get("PE_HOSTFILE"):
        return ["qrsh", "-inherit", "-nostdin", host]
    return ["blaunch", host]


if __name__ == "__main__":
    sys.exit(app.main(Spark))
