"""VS Code in a session: its definition, and code-server itself behind the supervisor and the notebook server.

The tests with code-server need its path in the environment variable ``HPCHUB_CODE_SERVER``; see
``docs/how-to/vscode.md``. They are skipped without it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import app_server
import pytest
from app_supervisor import Supervisor
from notebook_server import PREFIX, TOKEN
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from hpchub.model.apps import VscodeApp
from hpchub.remote import app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from notebook_server import Session

CODE_SERVER = os.environ.get("HPCHUB_CODE_SERVER", "")
needs_code_server = pytest.mark.skipif(not CODE_SERVER, reason="HPCHUB_CODE_SERVER is not the path of code-server")

# A stand-in for code-server: it answers the question for its health, and starts a program as a terminal does.
STAND_IN = f"""
import os, subprocess, sys, time
sys.path.insert(0, {str(Path(app_server.__file__).parent)!r})
from app_server import Handler, ThreadingUnixStreamServer
path, own, program = sys.argv[1:]
class Healthy(Handler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/healthz" and time.monotonic() < start + 1:
            self.send_error(404)
        else:
            super().do_GET()
server = ThreadingUnixStreamServer(path, Healthy)
start = time.monotonic()
exec(own)
if program:
    subprocess.Popen([sys.executable, "-c", program])
server.serve_forever()
"""
LISTEN = "import socket, time; held = socket.create_server(('127.0.0.1', 0))"


def definition(**more: Any) -> dict[str, Any]:
    entry = {"name": "demo", "display_name": "Demo", "kind": "vscode", "start_limit": 30, **more}
    return VscodeApp.model_validate(entry).for_session()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """A function that starts supervisors, which end with the test."""
    started: list[Supervisor] = []

    def run(found: dict[str, Any], **variables: str) -> Supervisor:
        started.append(Supervisor(app, tmp_path, found, **variables))
        return started[-1]

    yield run
    for each in started:
        each.close()


def stand_in(own: str = "", program: str = "") -> dict[str, Any]:
    """Return the definition of the stand-in.

    Args:
        own: What the server itself does before it serves.
        program: What it starts, as a terminal does.
    """
    return {**definition(), "command": [sys.executable, "-c", STAND_IN, "{socket}", own, program]}


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({}, {"code-server": 0, "{home}": -1}),
        ({"server": "/opt/cs/bin/code-server"}, {"/opt/cs/bin/code-server": 0}),
        ({"folder": "/scratch/{user}"}, {"/scratch/{user}": -1}),
        ({"extensions_directory": "/opt/ext"}, {"--extensions-dir=/opt/ext": -2}),
        ({"arguments": ["--locale=de"]}, {"--locale=de": 1, "code-server": 0}),
    ],
    ids=["nothing", "path", "folder", "extensions", "arguments"],
)
def test_command(entry: dict[str, Any], expected: dict[str, int]) -> None:
    command = definition(**entry)["command"]
    assert {word: command[index] for word, index in expected.items()} == {word: word for word in expected}


@pytest.mark.parametrize(
    "option",
    ["--socket={socket}", "--session-socket={socket}2", "--config=/dev/null", "--auth=none", "--disable-proxy"],
)
def test_arguments_come_before_what_keeps_others_out(option: str) -> None:
    command = definition(arguments=["--socket=/tmp/x", "--bind-addr=0.0.0.0:8080", "--config=x"])["command"]
    assert command.index(option) > command.index("--config=x")


def test_environment_of_the_entry_wins() -> None:
    name = "CODE_SERVER_RECONNECTION_GRACE_TIME"
    assert definition(environment={name: "60", "A": "b"})["environment"] == {name: "60", "A": "b"}
    assert int(definition()["environment"][name]) > 86400


def test_it_is_ready_when_it_is_healthy(start: Any) -> None:
    found = start(stand_in())
    assert found.get()[0] == 503
    began = time.monotonic()
    assert found.wait() == (200, "/")
    assert time.monotonic() - began > 0.5  # it has answered before, but not that it is healthy


def test_port_of_the_server_is_refused(start: Any) -> None:
    status, page = start(stand_in(own=LISTEN)).wait()
    assert (status, "Demo was stopped, because it listened on 127.0.0.1:" in page) == (502, True)


def test_port_of_the_program_that_starts_the_server_is_refused(start: Any) -> None:
    found = stand_in()
    outer = f"{LISTEN}; import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
    found["command"] = [sys.executable, "-c", outer, *found["command"]]
    status, page = start(found).wait()
    assert (status, "Demo was stopped, because it listened on 127.0.0.1:" in page) == (502, True)


def test_port_of_a_program_in_a_terminal_is_the_users_affair(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = start(stand_in(program=f"{LISTEN}; time.sleep(99)"))
    assert found.wait()[0] == 200
    end = time.monotonic() + 10
    while not app.ports_of(app.descendants(found.process.pid)):
        assert time.monotonic() < end
        time.sleep(0.05)
    application = app.Application(stand_in(), found.directory / "demo", {}, {})
    monkeypatch.setattr(os, "getpid", lambda: found.process.pid)
    assert len(application._listeners()) == 1
    application._check_ports()


def test_server_that_cannot_be_found_leaves_nobody_unwatched(tmp_path: Path) -> None:
    application = app.Application(definition(), tmp_path, {}, {})
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            assert child.pid in application._listeners()
        finally:
            child.kill()


@pytest.mark.parametrize("given", ["", "/nonexistent/1000"], ids=["none", "missing"])
def test_sockets_of_programs_are_for_the_user_alone(start: Any, given: str) -> None:
    own = "print('runtime', os.environ['XDG_RUNTIME_DIR'], flush=True)"
    found = start(stand_in(own=own), XDG_RUNTIME_DIR=given)
    assert found.wait()[0] == 200
    runtime = found.directory / "demo" / "run"
    assert f"runtime {runtime}\n" in (found.directory / "demo" / "log").read_text()
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700


def test_own_runtime_directory_of_the_user_is_kept(tmp_path: Path) -> None:
    application = app.Application(definition(), tmp_path, {}, {"XDG_RUNTIME_DIR": str(tmp_path.parent)})
    assert application.environment["XDG_RUNTIME_DIR"] == str(tmp_path.parent)


# -- code-server itself

CONFIG = "bind-addr: 0.0.0.0:{port}\nauth: password\npassword: hunter2\ncert: true\n"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@pytest.fixture
def vscode(session: Session) -> Session:
    """A session with code-server, in a home with another configuration of it."""
    session.write(".config/code-server/config.yaml", CONFIG.format(port=free_port()))
    found = definition(name="vscode", server=CODE_SERVER)
    session.variables["FILE:apps"] = json.dumps({"apps": [found]})
    session.start().wait_for_report()
    end = time.monotonic() + 60
    while session.request("vscode/")[0] == 503:
        assert time.monotonic() < end
        time.sleep(0.1)
    return session


def handshake(session: Session, host: str, origin: str) -> int:
    """Return the status of the answer to a websocket of VS Code."""

    async def connect() -> int:
        url = f"wss://127.0.0.1:{session.hub.reports[0]['port']}{PREFIX}vscode/stable-x?reconnectionToken=a-b"
        headers = {"Authorization": f"token {TOKEN}", "Host": host, "Origin": origin}
        try:
            connection = await websocket_connect(HTTPRequest(url, headers=headers, ssl_options=session._context()))
        except HTTPClientError as error:
            return error.code
        # The proxy accepts the connection first, and ends it if code-server does not accept it.
        message = await asyncio.wait_for(connection.read_message(), 10)
        connection.close()
        return 101 if message is not None else 403

    return asyncio.run(connect())


@needs_code_server
def test_it_serves_vscode_and_no_port(vscode: Session) -> None:
    status, page = vscode.request("vscode/?ew=true")
    assert status == 200
    assert "workbench" in page
    assert not vscode.request("vscode/login")[1].count("hunter2")
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        for path in (f"vscode/proxy/{port}/", f"vscode/absproxy/{port}/", f"vscode/proxy/{port}"):
            assert vscode.request(path)[0] == 403, path
    assert vscode.process
    processes = app.descendants(vscode.process.pid)
    assert any(b"code-server" in Path(f"/proc/{each}/cmdline").read_bytes() for each in processes)
    assert app.ports_of([each for each in processes if each != vscode.process.pid]) == []
    assert not list(vscode.home.rglob("*.sock"))


@needs_code_server
def test_pages_of_another_address_cannot_connect(vscode: Session) -> None:
    assert handshake(vscode, "alice.hub.example:8443", "https://alice.hub.example:8443") == 101
    assert handshake(vscode, "hub.example", "https://evil.example") == 403


@needs_code_server
def test_it_ends_with_the_session(vscode: Session) -> None:
    assert vscode.process
    processes = app.descendants(vscode.process.pid)
    assert len(processes) > 2
    vscode.process.terminate()
    vscode.process.wait(20)
    end = time.monotonic() + 10
    while [each for each in processes if app.status_of(each)[0] not in "ZX"]:
        assert time.monotonic() < end
        time.sleep(0.1)
