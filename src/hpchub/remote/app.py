"""The supervisor of one application of a session. It starts the application, watches it, and explains its failures.

jupyter-server-proxy runs this program at the first request for an application::

    python -I app.py DEFINITIONS NAME

The program listens on a unix socket in a directory that only the user can enter, and passes connections on to the
application. Another account on the node can reach neither:

- An application whose command contains ``{socket}`` listens on a second unix socket.
- An application whose command contains ``{port}`` gets a private network, which contains nothing but the application. A
  second process of this program passes connections on into it.
- An application that listens on a port of the node is stopped.

While the application starts, and if it fails, the program answers with a page in words. ``desktop.py`` is the same for
desktops. The role ``notebook_environment`` installs this file beside the launcher. It uses the standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import html
import json
import os
import re
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PROGRAM = str(Path(__file__).resolve())
INSIDE = "--inside"  # the first argument of the process in the private network
PORT = 8080  # in a private network, every port is free
NO_NETWORK = 125  # the exit code if there is no private network
HEAD_LIMIT = 65536  # bytes
LOG_LIMIT = 1 << 20  # bytes
SHOWN_LINES = 20
SHOWN_BYTES = 8192
START_LIMIT = 60.0  # seconds; the default of start_limit
HEALTH_TIMEOUT = 5.0  # seconds
HEALTH_INTERVAL = 0.1  # seconds
WATCH_INTERVAL = 15.0  # seconds between two searches for ports
STOP_TIMEOUT = 5.0  # seconds before SIGKILL
HUB_COOKIES = b"jupyterhub-"  # their common prefix
AGAIN = "hpchub-start-again"  # the query of the link in a page
MARK = "X-Hpchub-App"  # a header of every page of this program
HTTP = (b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"HTTP/")  # a request and its answer
HEALTHY = b"HTTP/1.1 200"  # the answer of an application that has a page for this question
POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'"

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8914, 0x1, 0x40
LISTENING = "0A"  # the state of a socket in /proc/net/tcp

# Applications need none of these, and some of them print their environment.
SECRET = ("JUPYTERHUB_API_TOKEN", "JPY_API_TOKEN")
SECRET_PREFIX = "HPCHUB_FILE_"  # noqa: S105 the names of variables
WITH_SECRET = re.compile(rb"((?:token|passw(?:or)?d|secret|api[_-]?key)\w*[\"']?\s*[=:]\s*)[^\s&\"']+", re.IGNORECASE)

TEXTS = {
    "starting": "{name} is starting.",
    "not_installed": "{name} is not installed on {node}: the program {program} was not found.",
    "cannot_run": "{name} cannot run on {node}: {reason}.",
    "exited": "{name} has stopped with exit code {code} before it was ready.",
    "killed": "{name} was ended by signal {code} before it was ready.",
    "ended": "{name} has ended.",
    "ended_badly": "{name} has ended with exit code {code}.",
    "not_served": (
        "{path} stays on this node, because Spark would send it to every user of the node who knows its name. Put it in"
        " a directory that all nodes share, and open it there."
    ),
    "silent": "{name} did not answer within {seconds} seconds.",
    "exposed": "{name} was stopped, because it listened on {address}, where other users of {node} could reach it.",
    "no_network": "{name} listens on a network port, and {node} does not permit a private network for it.",
    "help": "If this happens again, contact the support of this service.",
    "last_lines": "The last lines of its log:",
    "log": "The whole log is in {path} until the session ends.",
    "again": "Start again",
    "too_small": "{name} needs at least {memory} of memory on each node. Start a session with more memory.",
    "unsafe": "{name} cannot run on {node}, because another user can change {path} and read what you type.",
    "too_old": "{name} cannot run on {node}, because its version lacks {options}. It needs version {version} or later.",
    "connecting": "Connecting …",
    "connected": "Connected",
    "lost": "The connection is lost. This page returns to {name} as soon as possible.",
    "clipboard": "Clipboard",
    "no_cluster": "No Dask cluster runs in this session.",
    "start_cluster": "Start one in a notebook. This page then shows it:",
    "clusters": "The Dask clusters of this session",
    "cluster_ended": "This Dask cluster has ended.",
    "clipboard_help": "What you copy in {name} appears here. What you write or paste here can be pasted there.",
}
"""The texts of the pages, in English. The hub sends them in the user's language."""


class AppError(Exception):
    """The application cannot run.

    Args:
        text: The id of a text in ``TEXTS``.
        values: The values in the text.
    """

    def __init__(self, text: str, /, **values: object) -> None:
        super().__init__(text)
        self.text = text
        self.values = values


def log(text: str) -> None:
    """Write a line to the session's log."""
    print(f"hpchub-app: {text}", file=sys.stderr, flush=True)


def read_definition(path: Path, name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the definition of an application, and the texts of the pages.

    Args:
        path: The file: ``{"apps": [APP, …], "texts": {ID: TEXT}}``. For ``APP``, see ``hpchub.model.apps``.
        name: The name of the application.

    Raises:
        LookupError: There is no such application.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    found = next((each for each in content["apps"] if each["name"] == name), None)
    if found is None:
        raise LookupError(f"{path} has no application {name!r}")
    return found, {**TEXTS, **content.get("texts", {})}


class Application:
    """One application: its process, its state, and the page about it.

    Args:
        definition: The application's definition.
        directory: The directory with its sockets and its log. Only the user can enter it.
        texts: The texts of the pages.
        environment: The environment of the session.
    """

    def __init__(
        self, definition: dict[str, Any], directory: Path, texts: dict[str, str], environment: dict[str, str]
    ) -> None:
        self.name: str = definition.get("display_name") or definition["name"]
        self.definition = definition
        self.texts = texts
        self.directory = directory
        self.socket = directory / "app"
        self.log = Log(directory / "log")
        self.limit = float(definition.get("start_limit") or START_LIMIT)
        if not is_directory(environment.get("XDG_RUNTIME_DIR", "")):  # programs would put their sockets into /tmp
            runtime = directory / "run"
            runtime.mkdir(mode=0o700, exist_ok=True)
            environment = {**environment, "XDG_RUNTIME_DIR": str(runtime)}
        self.environment = app_environment(environment, definition.get("environment", {}))
        self.process: asyncio.subprocess.Process | None = None
        self.problem: AppError | None = None
        self.is_ready = False
        self._children: set[int] = set()
        self._reading: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    # -- its life

    def begin(self) -> None:
        """Start the application, if it is neither running nor starting."""
        if self._task is None or self._task.done():
            self.problem, self.is_ready = None, False
            self._task = asyncio.ensure_future(self._live())

    @property
    def running(self) -> asyncio.Task[None] | None:
        """The task that ends with the application, or None before the first start."""
        return self._task

    async def stop(self) -> None:
        """End the application and all of its processes."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _live(self) -> None:
        """Run the application once, from its start to its end."""
        problem = None
        try:
            self.socket.unlink(missing_ok=True)
            self.log.clear()
            self._children, self._reading = set(), set()
            began = time.monotonic()
            self.process = await self._run()
            await self._wait_until_ready()
            self.is_ready = True
            log(f"{self.definition['name']} is ready after {time.monotonic() - began:.1f} s")
            await self._watch()
        except AppError as error:
            problem = error
            log(f"{self.definition['name']}: {TEXTS[error.text].format_map(self._values(error))}")
        finally:
            self.is_ready = False
            await end_processes(os.getpid(), self._children)
            if self._reading:  # the pipes have ended with the last process
                await asyncio.wait(self._reading, timeout=STOP_TIMEOUT)
                for reading in self._reading:
                    reading.cancel()
            self.problem = problem

    async def _run(self) -> asyncio.subprocess.Process:
        """Start the application, and return its first process."""
        values = self._placeholders()
        command = [fill(word, values) for word in self.definition["command"]]
        program = command[0]
        command = [*self.definition.get("shell", []), *command]
        if self.has_private_network:
            command = [sys.executable, "-I", PROGRAM, INSIDE, str(self.socket), *command]
        environment = {name: fill(value, values) for name, value in self.environment.items()}
        return await self._execute(command, program, env=environment)

    def _placeholders(self) -> dict[str, str]:
        return {
            "socket": str(self.socket),
            "port": str(PORT),
            "base_url": self.environment.get("JUPYTERHUB_SERVICE_PREFIX", "/") + self.definition["name"] + "/",
            "environment": sys.prefix,
            "home": self.environment.get("HOME", ""),
            "user": self.environment.get("USER", ""),
        }

    async def _execute(self, command: list[str], program: str, **more: Any) -> asyncio.subprocess.Process:
        """Start a process, and copy its output to the log.

        Args:
            command: The command.
            program: The program's name in messages.
            more: Further arguments of ``create_subprocess_exec``.

        Raises:
            AppError: The program is missing or cannot run.
        """
        # With asyncio's own pipe, wait() of Python 3.11 also waits for every child that keeps the pipe open.
        source, sink = os.pipe()
        reading = asyncio.ensure_future(self._copy(source))
        self._reading.add(reading)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
                preexec_fn=die_with_parent,
                **more,
            )
        except FileNotFoundError:
            raise AppError("not_installed", program=program) from None
        except OSError as error:
            raise AppError("cannot_run", reason=error.strerror or str(error)) from None
        finally:
            os.close(sink)
        self._children.add(process.pid)
        return process

    async def _copy(self, source: int) -> None:
        """Copy the output of a process to the log."""
        async with open_pipe(source) as reader:
            await self.log.copy(reader)

    @property
    def has_private_network(self) -> bool:
        """Whether the application listens on a port, and so needs a network of its own."""
        return any("{port}" in word for word in self.definition["command"])

    async def _wait_until_ready(self) -> None:
        assert self.process  # noqa: S101 the caller has started it
        path = self.definition.get("health")
        health = (HTTP[0].replace(b"/", path.encode(), 1), HEALTHY) if path else HTTP
        end = time.monotonic() + self.limit
        while time.monotonic() < end:
            if self.process.returncode is not None:
                raise self._ending(self.process.returncode, self._program())
            if await answers(self.socket, *health):
                self._check_ports()
                return
            await asyncio.sleep(HEALTH_INTERVAL)
        raise AppError("silent", seconds=f"{self.limit:g}")

    async def _watch(self) -> None:
        """Wait for the end of the application.

        Raises:
            AppError: It has ended.
        """
        assert self.process  # noqa: S101 the caller has started it
        while True:
            try:
                code = await asyncio.wait_for(asyncio.shield(self.process.wait()), WATCH_INTERVAL)
            except TimeoutError:
                self._check_ports()
                continue
            raise AppError("ended_badly", code=code) if code else AppError("ended")

    def _check_ports(self) -> None:
        """Check that other users cannot reach the application.

        Raises:
            AppError: It listens on a port of the node.
        """
        found = ports_of(self._listeners())
        if found:
            raise AppError("exposed", address=found[0])

    def _program(self) -> str:
        """Return the program that the command names, for messages."""
        return fill(self.definition["command"][0], self._placeholders())

    def _listeners(self) -> list[int]:
        """Return the processes that must not listen on a port of the node.

        What users start in an application that runs programs for them is their own affair, as in a terminal.
        """
        started = descendants(os.getpid())
        if not self.definition.get("runs_programs"):
            return started
        found = set()
        for server in listening_on(self.socket, started):
            process = server
            while process in started:  # the server, and the programs that have started it
                found.add(process)
                process = status_of(process)[1]
        return sorted(found) or started

    def _ending(self, code: int, program: str) -> AppError:
        """Return why a process has ended before the application was ready."""
        if self.has_private_network and code == NO_NETWORK:
            return AppError("no_network")
        if code == 127:  # the answer of shells and env
            return AppError("not_installed", program=program)
        return AppError("exited", code=code) if code >= 0 else AppError("killed", code=-code)

    # -- connections

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass a connection on to the application, or answer with a page while it cannot be used."""
        try:
            head = await read_head(reader)
            if head is None:
                return
            if self._is_wanted(head):
                self.begin()
            if self.is_ready:
                with contextlib.suppress(OSError):
                    await self._answer(head, reader, writer)
                    return
            writer.write(self.page())
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):  # the browser has gone away
            pass
        finally:
            writer.close()

    async def _answer(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a request while the application runs: it gets the connection.

        Raises:
            OSError: The application accepts no connection.
        """
        inner = await asyncio.open_unix_connection(str(self.socket))
        await connect(without_credentials(head), reader, writer, *inner)

    def _is_wanted(self, head: bytes) -> bool:
        """Return whether a request starts the application: the first one, and each click on *Start again*."""
        if self._task is None:
            return True
        words = head.split(b" ", 2)
        return self.problem is not None and len(words) > 1 and urlsplit(words[1]).query == AGAIN.encode()

    def page(self) -> bytes:
        """Return the HTTP answer that explains why the application cannot be used now."""
        problem = self.problem
        if problem is None:
            body = f"<h1>{self._text('starting')}</h1>"
            return answer("503 Service Unavailable", self.name, body, refresh=1)
        body = f"<h1>{self._text(problem.text, self._values(problem))}</h1>"
        lines = self.log.last_lines()
        if lines:
            body += f"<p>{self._text('last_lines')}</p><pre>{html.escape(lines)}</pre>"
        body += f'<p><a href="?{AGAIN}">{self._text("again")}</a></p>'
        body += f"<p>{self._text('log', {'path': self.log.path})} {self._text('help')}</p>"
        return answer("502 Bad Gateway", self.name, body)

    def _values(self, problem: AppError) -> dict[str, object]:
        return {"name": self.name, "node": socket.gethostname(), **problem.values}

    def _text(self, text: str, values: dict[str, object] | None = None) -> str:
        return html.escape(self.texts[text].format_map({"name": self.name, **(values or {})}))


def app_environment(session: dict[str, str], own: dict[str, str]) -> dict[str, str]:
    """Return the environment of an application: the session's without its secrets, and the variables of the entry."""
    kept = {name: value for name, value in session.items() if name not in SECRET and not name.startswith(SECRET_PREFIX)}
    return {**kept, **own}


def is_directory(path: str) -> bool:
    """Return whether a text is the path of a directory."""
    return os.path.isdir(path)  # noqa: PTH112 it accepts any text


def fill(word: str, values: dict[str, str]) -> str:
    """Replace the placeholders of a word, such as ``{socket}``. Other braces stay as they are."""
    return re.sub(r"\{([a-z_]+)\}", lambda found: values.get(found[1], found[0]), word)


class Log:
    """The output of an application, in a file that only the user can read. Its beginning is lost if it gets too long.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def clear(self) -> None:
        """Begin a new file."""
        os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600))

    async def copy(self, output: asyncio.StreamReader) -> None:
        """Copy the output of the application until it ends."""
        while data := await output.read(65536):
            with contextlib.suppress(OSError):  # a full disk does not end the application
                self.write(data)

    def write(self, data: bytes) -> None:
        """Add to the log."""
        with self.path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size + len(data) > LOG_LIMIT:
                file.seek(max(0, size - LOG_LIMIT // 2))
                kept = file.read()
                file.seek(0)
                file.truncate()
                file.write(kept)
            file.write(data[-LOG_LIMIT // 2 :])

    def last_lines(self) -> str:
        """Return the last lines, without what looks like a secret."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - SHOWN_BYTES))
                data = file.read()
        except OSError:
            return ""
        lines = WITH_SECRET.sub(rb"\1***", data).decode(errors="replace").splitlines()
        return "\n".join(lines[-SHOWN_LINES:])


# -- HTTP


async def read_head(reader: asyncio.StreamReader) -> bytes | None:
    """Return the head of an HTTP request with its empty line, or None if there is none."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return None


def without_credentials(head: bytes) -> bytes:
    """Return the head of a request without what lets its sender use the whole session.

    These are JupyterHub's cookies and tokens. An application may log what it gets, or pass it on. A connection of
    jupyter-server-proxy carries one request only.
    """
    found = []
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        match name.strip().lower():
            case b"authorization" if value.strip().lower().startswith((b"token ", b"bearer ")):
                continue
            case b"cookie":
                kept = [each for each in value.split(b";") if not each.strip().startswith(HUB_COOKIES)]
                if kept:
                    found.append(name + b":" + b";".join(kept))
            case _:
                found.append(line)
    return b"\r\n".join(found)


def answer(status: str, title: str, body: str, refresh: int = 0) -> bytes:
    """Return an HTTP answer with a page.

    Args:
        status: The status code and its reason.
        title: The title of the page, as text.
        body: The content of the page, as HTML.
        refresh: The time until the browser loads the page again, in seconds. 0: never.
    """
    style = "body{font:16px sans-serif;max-width:44em;margin:3em auto;padding:0 1em}h1{font-size:1.3em}"
    style += "pre{background:#f3f3f3;padding:1em;overflow:auto;white-space:pre-wrap}"
    again = f'<meta http-equiv="refresh" content="{refresh};url=?">' if refresh else ""
    page = (
        f'<!doctype html><html><head><meta charset="utf-8"><title>{html.escape(title)}</title>{again}'
        f"<style>{style}</style></head><body>{body}</body></html>"
    ).encode()
    return with_head(status, page)


def with_head(status: str, content: bytes, kind: str = "text/html", policy: str = POLICY, more: str = "") -> bytes:
    """Return an HTTP answer.

    Args:
        status: The status code and its reason.
        content: The content, in UTF-8.
        kind: The type of the content.
        policy: The Content-Security-Policy.
        more: Further lines of the head, each with its end.
    """
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {len(content)}\r\n"
    head += f"Cache-Control: no-store\r\nContent-Security-Policy: {policy}\r\nX-Content-Type-Options: nosniff\r\n"
    return f"{head}{MARK}: 1\r\n{more}Connection: close\r\n\r\n".encode() + content


async def answers(path: str | Path, request: bytes, expected: bytes) -> bool:
    """Return whether a server answers on a unix socket.

    Args:
        path: The socket. An abstract one begins with a null byte.
        request: What to send.
        expected: The beginning of the answer.
    """
    try:
        return await asyncio.wait_for(_answers(str(path), request, expected), HEALTH_TIMEOUT)
    except (OSError, TimeoutError):
        return False


async def _answers(path: str, request: bytes, expected: bytes) -> bool:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(request)
        await writer.drain()
        return await reader.readexactly(len(expected)) == expected
    except asyncio.IncompleteReadError:
        return False
    finally:
        writer.close()


async def connect(
    head: bytes,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    inner_reader: asyncio.StreamReader,
    inner_writer: asyncio.StreamWriter,
) -> None:
    """Connect two connections until the inner one has ended, in any way.

    Args:
        head: What was already read from the outer connection.
        reader: The outer connection.
        writer: The outer connection.
        inner_reader: The inner connection.
        inner_writer: The inner connection.
    """
    inner_writer.write(head)
    requests = asyncio.ensure_future(pump(reader, inner_writer))
    try:
        await pump(inner_reader, writer)
    finally:
        requests.cancel()
        inner_writer.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction of a connection until it ends, in any way."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


# -- processes


@contextlib.asynccontextmanager
async def open_pipe(source: int) -> AsyncIterator[asyncio.StreamReader]:
    """Yield a reader of a pipe, and close the pipe.

    Args:
        source: The descriptor of its reading end.
    """
    reader = asyncio.StreamReader()
    file = os.fdopen(source, "rb", buffering=0)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), file
    )
    try:
        yield reader
    finally:
        transport.close()


def die_with_parent() -> None:
    """Let the kernel end this process if the supervisor ends in any way."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of processes whose own parents end. ``descendants`` then finds all of them."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(root: int) -> list[int]:
    """Return the processes that a process has started, and those that they have started.

    Args:
        root: The process. It adopts the orphans among them, so none is missing.
    """
    children: dict[int, list[int]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            children.setdefault(status_of(int(path.name))[1], []).append(int(path.name))
    found, todo = [], [root]
    while todo:
        for child in children.get(todo.pop(), []):
            found.append(child)
            todo.append(child)
    return found


def ports_of(processes: list[int]) -> list[str]:
    """Return the addresses of the node on which processes listen, as ``ADDRESS:PORT``."""
    network = Path("/proc/self/ns/net").readlink()
    sockets = set()
    for process in processes:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{process}/ns/net").readlink() == network:
                sockets |= descriptors_of(process)
    found = []
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENING and f"socket:[{fields[9]}]" in sockets:
                    address, _, port = fields[1].partition(":")
                    found.append(f"{host_of(address, family)}:{int(port, 16)}")
    return sorted(found)


def descriptors_of(process: int) -> set[str]:
    """Return what a process has open, as the links in /proc name it, such as ``socket:[INODE]``."""
    found = set()
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(str(descriptor.readlink()))
    return found


def listening_on(path: Path, processes: list[int]) -> list[int]:
    """Return those of some processes that have a unix socket open."""
    lines = (line.split() for line in Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace").splitlines())
    sockets = {f"socket:[{fields[6]}]" for fields in lines if fields[7:] == [str(path)]}
    return [process for process in processes if sockets & descriptors_of(process)]


def host_of(digits: str, family: socket.AddressFamily) -> str:
    """Return an address of ``/proc/net/tcp``. It consists of words of 32 bits in the byte order of the machine."""
    words = [int(digits[i : i + 8], 16) for i in range(0, len(digits), 8)]
    text = socket.inet_ntop(family, struct.pack(f"={len(words)}I", *words))
    return f"[{text}]" if family == socket.AF_INET6 else text


async def end_processes(root: int, waited: set[int]) -> None:
    """End all processes that a process has started. Those that ignore the first signal are killed.

    Args:
        root: The process, which is this one.
        waited: The children of asyncio, which collects their exit codes.
    """
    for number, patience in ((signal.SIGTERM, STOP_TIMEOUT), (signal.SIGKILL, 1.0)):
        for process in descendants(root):
            with contextlib.suppress(OSError):
                os.kill(process, number)
        end = time.monotonic() + patience
        while time.monotonic() < end:
            alive = []
            for process in descendants(root):
                state, parent = status_of(process)
                if state != "Z":
                    alive.append(process)
                elif parent == root and process not in waited:
                    with contextlib.suppress(OSError):
                        os.waitpid(process, os.WNOHANG)  # noqa: ASYNC222 it does not wait
            if not alive:
                return
            await asyncio.sleep(0.05)


def status_of(process: int) -> tuple[str, int]:
    """Return the state of a process, as in /proc/PID/stat, and its parent. A process that is gone is a zombie of 0."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "Z", 0
    state, parent = text.rpartition(")")[2].split()[:2]
    return state, int(parent)


# -- the private network


def enter_private_network() -> None:
    """Give this process a network of its own, with a loopback interface only. It needs no privilege.

    See user_namespaces(7) and network_namespaces(7).

    Raises:
        OSError: The node does not permit it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP | IFF_RUNNING))


async def run_inside(path: str, command: list[str]) -> int:
    """Run a command in a private network, and pass connections on to its port. Return its exit code.

    Args:
        path: The unix socket that accepts connections.
        command: The command.
    """
    try:
        enter_private_network()
    except OSError as error:
        print(f"no private network: {error.strerror}", flush=True)
        return NO_NETWORK
    try:
        process = await asyncio.create_subprocess_exec(*command, preexec_fn=die_with_parent)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", flush=True)
        return 127 if error.errno == errno.ENOENT else 126

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await connect(b"", reader, writer, *await asyncio.open_connection("127.0.0.1", PORT))
        writer.close()

    await listen(serve, path)
    code = await process.wait()
    return code if code >= 0 else 128 - code


# -- the program


async def listen(serve: Any, path: str) -> None:
    """Accept connections on a unix socket that only the user can use."""
    before = os.umask(0o177)
    try:
        await asyncio.start_unix_server(serve, path, limit=HEAD_LIMIT)
    finally:
        os.umask(before)


async def supervise(definitions: Path, name: str, kind: type[Application]) -> None:
    """Serve one application until a signal ends this program."""
    definition, texts = read_definition(definitions, name)
    directory = Path(os.environ["HPCHUB_APPS"]) / name
    directory.mkdir(mode=0o700, exist_ok=True)
    adopt_orphans()
    application = kind(definition, directory, texts, dict(os.environ))
    done = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, done.set)
    outer = directory / "socket"
    outer.unlink(missing_ok=True)
    await listen(application.serve, str(outer))
    await done.wait()
    await application.stop()


def main(kind: type[Application] = Application) -> int:
    """Run the program and return its exit code.

    Args:
        kind: The class of the application.
    """
    arguments = sys.argv[1:]
    if arguments[:1] == [INSIDE]:
        return asyncio.run(run_inside(arguments[1], arguments[2:]))
    if len(arguments) != 2:
        print("usage: app.py DEFINITIONS NAME", file=sys.stderr)
        return 2
    die_with_parent()
    asyncio.run(supervise(Path(arguments[0]), arguments[1], kind))
    return 0


if __name__ == "__main__":
    sys.exit(main())
