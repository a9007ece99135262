"""The supervisor of a desktop with TigerVNC's real X server, and what another account of the node can reach."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import struct
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from app_supervisor import Supervisor
from notebook_server import PREFIX, TOKEN, Session, notebook_environment
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from hpchub.model.apps import DesktopApp
from hpchub.remote import app, desktop

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_xvnc = pytest.mark.skipif(
    not (shutil.which("Xvnc") and shutil.which("dbus-run-session")) and os.environ.get("HPCHUB_SERVERS") != "required",
    reason="this machine lacks TigerVNC or D-Bus (Debian's packages tigervnc-standalone-server and dbus-daemon)",
)
GREETING = b"RFB 003.008\n"
WAIT = [sys.executable, "-c", "import time; time.sleep(300)"]
"""A session without windows."""


def definition(**more: Any) -> dict[str, Any]:
    entry = {"name": "demo", "display_name": "Demo", "kind": "desktop", "session": WAIT, "start_limit": 20, **more}
    return DesktopApp.model_validate(entry).for_session()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """A function that starts desktops, which end with the test."""
    started: list[Supervisor] = []

    def run(variables: dict[str, str] | None = None, shell: list[str] | None = None, **more: Any) -> Supervisor:
        found = definition(**more)
        found |= {"shell": shell or [], "texts": {"clipboard": "Zwischen<ablage", "starting": "{name} startet."}}
        python = notebook_environment() / "bin" / "python"
        started.append(Supervisor(desktop, tmp_path, found, python, **(variables or {})))
        return started[-1]

    yield run
    for each in started:
        each.close()


def wrapped(directory: Path, line: str) -> str:
    """Return a program that is called like TigerVNC's X server."""
    program = directory / "wrapped"
    program.write_text(f"#!/bin/sh\n{line}\n")
    program.chmod(0o755)
    return str(program)


def processes(found: Supervisor) -> dict[str, int]:
    """Return the processes of a desktop by their names."""
    return {
        Path(f"/proc/{each}/comm").read_text().strip(): each
        for each in app.descendants(found.process.pid)
        if app.status_of(each)[0] != "Z"
    }


def greet(found: Supervisor) -> bytes:
    """Return what the X server sends a new viewer, and leave."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(found.directory / "demo" / "app"))
        return sock.recv(100)


def display_of(found: Supervisor) -> int:
    """Return the number of the display."""
    listening = Path("/proc/net/unix").read_text().splitlines()
    server = processes(found)["Xvnc" if "Xvnc" in processes(found) else "Xtigervnc"]
    inodes = [str(each.readlink()) for each in Path(f"/proc/{server}/fd").iterdir() if each.is_socket()]
    (path,) = [
        line.split()[7] for line in listening if f"socket:[{line.split()[6]}]" in inodes and "@/tmp/.X11-unix/" in line
    ]
    return int(path.rpartition("X")[2])


def hello(path: str, cookie: Path | None = None) -> bytes:
    """Return the first byte of an X server's answer to a client."""
    name = desktop.COOKIE_NAME
    message = struct.pack("<BxHHHHxx", ord("l"), 11, 0, len(name), 16) + name + bytes(2)
    message += cookie.read_bytes()[-16:] if cookie else bytes(16)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(path)
        sock.sendall(message)
        return sock.recv(1)


@needs_xvnc
def test_page_shows_the_viewer_in_the_users_language(start: Any) -> None:
    found = start()
    status, page = found.get()
    assert (status, "Demo startet." in page) == (503, True)
    assert found.wait() == (302, "")
    status, page = found.get("/view/")
    assert (status, "<title>Demo</title>" in page, "Zwischen&lt;ablage" in page) == (200, True, True)
    assert "Reconnecting" in found.get("/view/viewer.js")[1]
    assert app.MARK in found.get("/view/desktop.js")[1]
    for path in ("/view/index.html", "/view/../demo/cookie", "/view/viewer.js/x", "/viewer.js", "/view/%2e%2e/cookie"):
        assert found.get(path) == (404, ""), path


@needs_xvnc
def test_files_and_sockets_are_for_the_user_alone(start: Any) -> None:
    found = start()
    found.wait()
    for name in ("", "app", "cookie", "log", "socket", "run"):
        path = found.directory / "demo" / name
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


@needs_xvnc
def test_x_server_listens_on_no_port_and_demands_the_cookie(start: Any) -> None:
    found = start()
    found.wait()
    assert app.ports_of(app.descendants(found.process.pid)) == []
    display = display_of(found)
    for path in (f"/tmp/.X11-unix/X{display}", f"\0/tmp/.X11-unix/X{display}"):
        assert hello(path) == b"\0", path
        assert hello(path, found.directory / "demo" / "cookie") == b"\1", path


@needs_xvnc
def test_desktop_runs_on_while_nobody_looks(start: Any) -> None:
    found = start()
    found.wait()
    before = processes(found)
    for _ in range(2):
        assert greet(found) == GREETING
    assert processes(found) == before
    assert found.get("/view/")[0] == 200


@needs_xvnc
def test_session_knows_its_display_and_no_secret(start: Any, tmp_path: Path) -> None:
    program = "import json, os, sys, time; json.dump(dict(os.environ), open(sys.argv[1], 'w')); time.sleep(300)"
    command = [sys.executable, "-c", program, "{home}/seen"]
    session = {
        "JUPYTERHUB_API_TOKEN": "t",
        "HPCHUB_FILE_APPS": "f",
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": "/nonexistent",
        "SESSION_MANAGER": "other",
    }
    shell = ["/bin/sh", "-c", 'export FROM_MODULE=yes; exec "$@"', "sh"]
    found = start(session, shell, session=command, environment={"OWN": "{home}/x"})
    found.wait()
    seen = json.loads((tmp_path / "seen").read_text())
    private = found.directory / "demo"
    assert seen["DISPLAY"] == f":{display_of(found)}"
    assert (seen["XAUTHORITY"], seen["XDG_RUNTIME_DIR"]) == (str(private / "cookie"), str(private / "run"))
    assert (seen["OWN"], seen["FROM_MODULE"], seen["PWD"]) == (f"{tmp_path}/x", "yes", str(tmp_path))
    assert not {"JUPYTERHUB_API_TOKEN", "HPCHUB_FILE_APPS", "SESSION_MANAGER"} & set(seen)


@pytest.mark.parametrize(
    ("server", "session", "words"),
    [
        ("/nonexistent/Xvnc", WAIT, "Demo is not installed on {node}: the program /nonexistent/Xvnc was not found"),
        ("/bin/false", WAIT, "Demo has stopped with exit code 1 before it was ready"),
        ("exec sleep 300", WAIT, "Demo did not answer within 2 seconds"),
        ("Xvnc", ["/nonexistent/xfce"], "Demo is not installed on {node}: the program /nonexistent/xfce was not found"),
        ("Xvnc", ["false"], "Demo has stopped with exit code 1 before it was ready"),
        ("Xvnc", ["true"], "Demo has stopped with exit code 0 before it was ready"),
        ('exec Xvnc "$@" -rfbunixpath "$HOME/other"', WAIT, "Demo did not answer within 2 seconds"),
        ('exec Xvnc "$@" -rfbport 0', WAIT, "Demo was stopped, because it listened on"),
        ('exec Xvnc "$@" -listen tcp', WAIT, "Demo was stopped, because it listened on"),
        ('exec Xvnc "$@" -auth /nonexistent', WAIT, "Demo was stopped, because it listened on DISPLAY=:"),
    ],
    ids=[
        *("no TigerVNC", "X server exits at once", "X server hangs", "no Xfce", "session fails at once"),
        *("session ends at once", "no viewer can connect", "port for viewers", "port for X", "without a cookie"),
    ],
)
@needs_xvnc
def test_failure_is_explained_in_words(start: Any, tmp_path: Path, server: str, session: list[str], words: str) -> None:
    program = wrapped(tmp_path, server) if " " in server else server
    found = start({"HOME": str(tmp_path)}, server=program, session=session, start_limit=2)
    status, page = found.wait()
    assert (status, words.format(node=socket.gethostname()) in page) == (502, True), page
    assert processes(found) == {}


@needs_xvnc
@pytest.mark.parametrize("name", ["python", "Xvnc"])
def test_end_of_the_desktop_is_shown_and_it_can_start_again(start: Any, name: str) -> None:
    found = start()
    found.wait()
    os.kill(next(pid for each, pid in processes(found).items() if each.startswith(name)), signal.SIGTERM)
    end = time.monotonic() + 10
    while found.get("/view/")[0] in (0, 200):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert "Demo has ended" in found.wait("/view/")[1]
    assert processes(found) == {}
    assert found.get(f"/view/?{app.AGAIN}")[0] == 503
    assert found.wait("/view/")[0] == 200


@needs_xvnc
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_desktop_ends_with_its_supervisor(start: Any, number: signal.Signals) -> None:
    found = start(session=["/bin/sh", "-c", "setsid sleep 300 & exec sleep 300"])
    found.wait()
    before = app.descendants(found.process.pid)
    server = next(pid for name, pid in processes(found).items() if name.startswith("X"))
    found.process.send_signal(number)
    found.process.wait(timeout=20)
    # Only an orderly end reaches what has left the session. The end of the job reaches the rest.
    rest = before if number == signal.SIGTERM else [server]
    end = time.monotonic() + 10
    try:
        while any(app.status_of(each)[0] != "Z" for each in rest):
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        for each in before:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)


def test_environment_without_the_viewer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desktop, "VIEWER", "no_such_viewer")
    with pytest.raises(app.AppError) as caught:
        desktop.find_viewer()
    assert (caught.value.text, caught.value.values) == ("not_installed", {"program": "no-such-viewer"})


def test_cookie_is_new_for_each_start_and_no_link(tmp_path: Path) -> None:
    cookie = tmp_path / "cookie"
    cookie.symlink_to(tmp_path / "other")
    seen = set()
    for _ in range(2):
        desktop.write_cookie(cookie)
        seen.add(cookie.read_bytes())
    assert len(seen) == 2
    assert not (tmp_path / "other").exists()
    assert stat.S_IMODE(cookie.lstat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("kind", "mode", "owner", "safe"),
    [
        (stat.S_IFDIR, 0o1777, 0, True),
        (stat.S_IFDIR, 0o1777, 1000, True),
        (stat.S_IFDIR, 0o755, 1000, True),
        (stat.S_IFDIR, 0o1777, 1001, False),
        (stat.S_IFDIR, 0o777, 0, False),
        (stat.S_IFDIR, 0o775, 0, False),
        (stat.S_IFLNK, 0o777, 0, False),
        (None, 0, 0, True),
    ],
    ids=["system", "own", "own-closed", "of-another", "not-sticky", "group", "link", "missing"],
)
def test_directory_of_the_displays_must_be_safe(
    monkeypatch: pytest.MonkeyPatch, kind: int | None, mode: int, owner: int, safe: bool
) -> None:
    def lstat(_path: Path) -> os.stat_result:
        if kind is None:
            raise FileNotFoundError
        return os.stat_result((kind | mode, 0, 0, 0, owner, 0, 0, 0, 0, 0))

    monkeypatch.setattr(Path, "lstat", lstat)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert desktop.is_safe(Path("/tmp/.X11-unix")) == safe


@needs_xvnc
def test_directory_of_another_user_is_refused(start: Any, tmp_path: Path) -> None:
    program = tmp_path / "unsafe.py"
    program.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(desktop.__file__).parent)!r})\nimport app, desktop\n"
        "desktop.is_safe = lambda directory: False\nsys.exit(app.main(desktop.Desktop))\n"
    )
    python = notebook_environment() / "bin" / "python"
    module = type(sys)("unsafe")
    module.__file__ = str(program)
    found = Supervisor(module, tmp_path, definition(), python)
    try:
        status, page = found.wait()
        assert (status, "because another user can change /tmp/.X11-unix" in page) == (502, True), page
    finally:
        found.close()


# -- in a session


def offer(session: Session, **more: Any) -> None:
    """Offer a desktop in a session."""
    session.variables["FILE:apps"] = json.dumps({"apps": [definition(**more)]})


async def first_bytes(session: Session, **headers: str) -> bytes | str | None:
    """Return what a viewer in a browser receives first."""
    url = f"wss://127.0.0.1:{session.hub.reports[0]['port']}{PREFIX}demo/desktop-websockify/"
    request = HTTPRequest(url, headers=headers, ssl_options=session._context())
    connection = await websocket_connect(request)
    try:
        return await connection.read_message()
    finally:
        connection.close()


@needs_xvnc
def test_browser_sees_the_desktop_and_nobody_else_does(session: Session) -> None:
    offer(session)
    session.start().wait_for_report()
    end = time.monotonic() + 30
    while (answer := session.request("demo/"))[0] == 503:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert answer[0] == 302
    assert session.request("demo/view/")[0] == 200
    own = {"Authorization": f"token {TOKEN}"}
    assert asyncio.run(first_bytes(session, **own)) == GREETING
    with pytest.raises(HTTPClientError) as caught:
        asyncio.run(first_bytes(session))
    assert caught.value.code == 403
    shown = session.request("server-proxy/servers-info")[1]["server_processes"]
    assert [each["name"] for each in shown] == ["demo"]


def test_package_of_the_viewer_offers_no_desktop_of_its_own(session: Session) -> None:
    session.write(
        ".jupyter/jupyter_server_config.json",
        json.dumps({"ServerApp": {"jpserver_extensions": {"jupyter_remote_desktop_proxy": True}}}),
    )
    offer(session)
    session.start().wait_for_report()
    for path in ("desktop", "desktop/static/dist/viewer.js", "desktop-websockify/x"):
        assert session.request(path)[0] == 404, path
    assert "remote_desktop" not in session.log
