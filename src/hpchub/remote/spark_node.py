"""One node of the Apache Spark of a session: its programs, its directories, and the check of its ports.

``spark.py`` is the supervisor on the first node. The scheduler's own launcher starts this program on the other nodes of
the job::

    python -I spark_node.py FILE

The file contains what the worker needs. It is in the user's home, and only the user can read it. This
program removes it.

The role ``notebook_environment`` installs this file beside ``app.py``. It uses the standard library only.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import shutil
import signal
import socket
import stat
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from hpchub.remote import app
else:  # a program, beside app.py
    sys.path.insert(0, str(Path(__file__).parent))
    app = importlib.import_module("app")

PROGRAM = str(Path(__file__).resolve())
PREFIX = "hpchub-spark-"  # of the directories
DAEMON_MEMORY = "256m"
SHARED = Path("/tmp")  # noqa: S108 the only directory that exists on every node
MAGIC = struct.pack(">qbqi", 22, 3, 1, 1) + b"x"  # an RPC request of one byte without authentication
REFUSED = b"Unknown challenge message"  # Spark's answer to it
RPC_ANSWER = 4096  # bytes
UNSIGNED = b"GET /json/ HTTP/1.0\r\n\r\n"
FORBIDDEN = b"HTTP/1.1 403 "

# Prints the path of java and the directory of Spark.
FIND = """java=${JAVA_HOME:+$JAVA_HOME/bin/}java
command -v "$java" || exit 3
exec "$1" -m pyspark.find_spark_home
"""


class Daemons(app.Application):
    """The part of Spark that runs on one node. For its definition, see ``hpchub.model.spark.SparkApp.for_session``."""

    def __init__(
        self, definition: dict[str, Any], directory: Path, texts: dict[str, str], environment: dict[str, str]
    ) -> None:
        super().__init__(definition, directory, texts, environment)
        self.address = "127.0.0.1"
        self.home = ""  # the directory of Spark
        self.runtime = directory  # with the secrets and the temporary files, after _create
        self._created: list[Path] = []
        self._guards: dict[tuple[str, int], str] = {}  # how each port refuses

    # -- the programs

    async def _find(self) -> None:
        """Find Java and Spark.

        Raises:
            AppError: One of them is missing.
        """
        values = self._placeholders()
        python = app.fill(self.definition["command"][0], values)
        environment = {name: app.fill(value, values) for name, value in self.environment.items()}
        if self.definition["java_home"]:
            environment["JAVA_HOME"] = self.definition["java_home"]
        self.environment = environment
        command = [*self.definition["shell"], "/bin/sh", "-c", FIND, "sh", python]
        process = await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self._children.add(process.pid)
        output, errors = await process.communicate()
        self.log.write(errors)
        if process.returncode == 3:
            raise app.AppError("not_installed", program="java")
        if process.returncode == 127:
            raise app.AppError("not_installed", program=python)
        self.home = (output.decode(errors="replace").splitlines() or [""])[-1]
        program = os.path.join(self.home, "bin", "spark-class")  # noqa: PTH118 it is no I/O
        if process.returncode or not os.access(program, os.X_OK):
            raise app.AppError("not_installed", program="pyspark")

    def _variables(self) -> dict[str, str]:
        """Return what every process of Spark needs in its environment, notebooks included."""
        return {
            "SPARK_HOME": self.home,
            "SPARK_CONF_DIR": str(self.runtime / "conf"),
            "SPARK_LOCAL_IP": self.address,
            "SPARK_LOCAL_DIRS": str(self._created[-1]),
        }

    async def _daemon(self, name: str, *arguments: str) -> asyncio.subprocess.Process:
        """Start a master or a worker."""
        environment = {
            **self.environment,
            **self._variables(),
            "SPARK_DAEMON_MEMORY": DAEMON_MEMORY,
            "SPARK_DAEMON_JAVA_OPTS": java_options(self.runtime),
            "SPARK_WORKER_DIR": str(self._created[-1]),
            "SPARK_NO_DAEMONIZE": "1",
        }
        program = str(Path(self.home, "bin", "spark-class"))
        command = [*self.definition["shell"], program, f"org.apache.spark.deploy.{name}", *arguments]
        return await self._execute(command, program, env=environment, cwd=str(self.runtime))

    async def _worker(self, master: str, cores: int, memory: int) -> asyncio.subprocess.Process:
        return await self._daemon(
            *("worker.Worker", "--host", self.address, "--port", "0", "--webui-port", "0"),
            *("--cores", str(cores), "--memory", f"{memory}m", master),
        )

    # -- its directories

    def _create(self, runtime: Path, settings: dict[str, str]) -> None:
        """Create the directories and the settings.

        Raises:
            AppError: Another user could replace them, or they cannot be written.
        """
        try:
            status = SHARED.stat()
            if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
                raise app.AppError("unsafe", path=SHARED)
            runtime.mkdir(mode=0o700)
            self._created, self._guards = [runtime], {}
            self.runtime = runtime
            (runtime / "conf").mkdir(mode=0o700)
            write_settings(runtime / "conf" / "spark-defaults.conf", settings)
            wanted = Path(self.environment.get("TMPDIR") or SHARED)
            base = wanted if is_safe(wanted) else runtime
            self._created.append(Path(tempfile.mkdtemp(prefix=PREFIX, dir=base)))
        except OSError as error:
            raise app.AppError("cannot_run", reason=f"{error.filename}: {error.strerror}") from None

    def _remove(self) -> None:
        while self._created:
            shutil.rmtree(self._created.pop(), ignore_errors=True)

    async def _live(self) -> None:
        try:
            await super()._live()
        finally:
            self._remove()

    # -- its ports

    async def _check(self, process: asyncio.subprocess.Process) -> list[tuple[str, int]]:
        """Check that every port of a master or worker, and of its executors, demands a secret.

        Python's processes are not checked. They listen on unix sockets, unless the user's own code opens a port.

        Returns:
            The addresses at which Spark's pages are.

        Raises:
            AppError: A port demands none.
        """
        running = [process.pid, *app.descendants(process.pid)]
        found = set(listening([each for each in running if name_of(each) == "java"]))
        for place in found - self._guards.keys():  # Spark logs each refusal
            guard = await guard_of(*place)
            if guard:
                self._guards[place] = guard
            elif place in listening(running):
                raise app.AppError("exposed", address=f"{place[0]}:{place[1]}")
        return [place for place in found if self._guards.get(place) == "page"]

    async def _started(self, process: asyncio.subprocess.Process, end: float) -> tuple[str, int]:
        """Wait until a daemon listens on both of its ports, and return the address of its pages."""
        while time.monotonic() < end:
            if process.returncode is not None:
                raise self._ending(process.returncode, "spark-class")
            if len(listening([process.pid])) >= 2:
                pages = await self._check(process)
                if pages:
                    return pages[0]
            await asyncio.sleep(app.HEALTH_INTERVAL)
        raise app.AppError("silent", seconds=f"{self.limit:g}")


class Worker(Daemons):
    """The program on another node of the job. What it writes goes to the log on the first node."""

    def __init__(self, order: dict[str, Any], environment: dict[str, str]) -> None:
        super().__init__(order["definition"], Path(order["runtime"]), app.TEXTS, environment)
        self.order = order
        self.log = Output()

    async def _run(self) -> asyncio.subprocess.Process:
        order = self.order
        self.address = own_address(order["address"])
        await self._find()
        self._create(Path(order["runtime"]), order["settings"])
        return await self._worker(order["settings"]["spark.master"], order["cores"], order["memory"])

    async def _wait_until_ready(self) -> None:
        assert self.process  # noqa: S101 the caller has started it
        await self._started(self.process, time.monotonic() + self.limit)

    async def _watch(self) -> None:
        assert self.process  # noqa: S101 the caller has started it
        while True:
            try:
                code = await asyncio.wait_for(asyncio.shield(self.process.wait()), app.WATCH_INTERVAL)
            except TimeoutError:
                await self._check(self.process)
                continue
            raise app.AppError("ended_badly", code=code)


class Output(app.Log):
    """The output of a worker on another node. The scheduler's launcher sends it to the first node."""

    def __init__(self) -> None:
        super().__init__(Path("/dev/stdout"))

    def clear(self) -> None:
        """Do nothing: the output begins with the program."""

    def write(self, data: bytes) -> None:
        """Write to the standard output."""
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


# -- settings


def write_settings(path: Path, settings: dict[str, str]) -> None:
    """Write a file of Java's format for properties, which only the user can read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="latin-1") as file:
        for name, value in settings.items():
            text = value.replace("\\", "\\\\").encode("ascii", "backslashreplace").decode()
            file.write(f"{name} {text}\n")


def java_options(runtime: Path) -> str:
    """Return the options that keep the files of Java in the directory of the user."""
    return f"-Djava.io.tmpdir={runtime} -XX:-UsePerfData"


def is_safe(directory: Path) -> bool:
    """Return whether this user can create files in a directory, and nobody else can replace them."""
    try:
        status = directory.stat()
    except OSError:
        return False
    return os.access(directory, os.W_OK) and (not status.st_mode & 0o022 or bool(status.st_mode & stat.S_ISVTX))


# -- ports


def name_of(process: int) -> str:
    """Return the name of a process, or empty."""
    try:
        return Path(f"/proc/{process}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def listening(processes: list[int]) -> list[tuple[str, int]]:
    """Return the addresses on which processes listen: an address without brackets, and a port."""
    found = []
    for each in app.ports_of(processes):
        host, _, port = each.rpartition(":")
        found.append((host.strip("[]").removeprefix("::ffff:"), int(port)))
    return found


async def guard_of(address: str, port: int) -> str:
    """Return how a port refuses a connection without a secret: ``rpc``, ``page``, or empty if it does not."""
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104 an address that was found
    if REFUSED in await said(target, port, MAGIC, RPC_ANSWER):
        return "rpc"
    return "page" if (await said(target, port, UNSIGNED, len(FORBIDDEN))).startswith(FORBIDDEN) else ""


async def said(address: str, port: int, request: bytes, size: int) -> bytes:
    """Return the beginning of the answer on a port, or empty."""
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(address, port), app.HEALTH_TIMEOUT)
    except (OSError, TimeoutError):
        return b""
    try:
        writer.write(request)
        found = b""
        while len(found) < size and REFUSED not in found:
            data = await asyncio.wait_for(reader.read(size), app.HEALTH_TIMEOUT)
            if not data:
                break
            found += data
        return found
    except (OSError, TimeoutError):
        return b""
    finally:
        writer.close()


def own_address(other: str) -> str:
    """Return the address of this node in the network of another one.

    Raises:
        AppError: There is none.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((other, 9))  # it sends nothing
        except OSError as error:
            raise app.AppError("cannot_run", reason=f"{other}: {error.strerror}") from None
        return str(sock.getsockname()[0])


# -- the program on another node


async def work(order: dict[str, Any]) -> int:
    """Run a worker until it ends, or a signal ends this program. Return the exit code.

    Args:
        order: What the worker needs; see ``Spark._launch``.
    """
    app.adopt_orphans()
    worker = Worker(order, dict(os.environ))
    done = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, done.set)
    worker.begin()
    assert worker.running  # noqa: S101 it has begun
    stopped = asyncio.ensure_future(done.wait())
    await asyncio.wait({stopped, worker.running}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    await worker.stop()
    return 1 if worker.problem else 0


if __name__ == "__main__":
    file = Path(sys.argv[1])
    content = json.loads(file.read_text(encoding="utf-8"))
    file.unlink(missing_ok=True)
    sys.exit(asyncio.run(work(content)))
