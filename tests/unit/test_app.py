"""The supervisor of an application: real processes and unix sockets, and what another account of the node can reach."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import app_server
import pytest
from app_supervisor import Supervisor

from hpchub.remote import app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVER = [sys.executable, app_server.__file__, "{socket}"]
RUN_SERVER = f"\nimport runpy; runpy.run_path({app_server.__file__!r}, run_name='__main__')"
PORT_SERVER = """
import http.server, sys
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Any]:
    """A function that starts supervisors, which end with the test."""
    started: list[Supervisor] = []

    def start(command: list[str], **more: Any) -> Supervisor:
        environment = more.pop("session", {})
        started.append(Supervisor(app, tmp_path, {"command": command, **more}, **environment))
        return started[-1]

    yield start
    for each in started:
        each.close()


def python(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", program, *arguments]


def test_application_on_a_unix_socket(supervise: Any) -> None:
    found = supervise(SERVER, environment={"GREETING": "hello"})
    assert found.get()[0] == 503
    assert found.wait("/a?b=c") == (200, "/a?b=c hello")
    for path in (found.directory / "demo", found.socket, found.directory / "demo" / "log"):
        assert not path.stat().st_mode & 0o077, path


def test_application_does_not_get_the_secrets_of_the_session(supervise: Any) -> None:
    print_all = "import os, sys; print(sorted(os.environ)); sys.exit(1)"
    session = {"JUPYTERHUB_API_TOKEN": "t", "JPY_API_TOKEN": "t", "HPCHUB_FILE_APPS": "f", "HPCHUB_CORES": "4"}
    status, page = supervise(python(print_all, "{socket}"), session=session).wait()
    assert status == 502
    assert "HPCHUB_CORES" in page
    assert not [name for name in ("JUPYTERHUB_API_TOKEN", "JPY_API_TOKEN", "HPCHUB_FILE_APPS") if name in page]


def test_secrets_in_the_log_are_not_shown(supervise: Any) -> None:
    program = "import sys; print('http://x/?token=abc123&a=b password: hunter2'); sys.exit(1)"
    page = supervise(python(program, "{socket}")).wait()[1]
    assert "abc123" not in page
    assert "hunter2" not in page
    assert "http://x/?token=***" in page


def has_private_networks() -> bool:
    command = ["unshare", "--user", "--net", "true"]
    return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode == 0


private = pytest.mark.skipif(not has_private_networks(), reason="this machine permits no user namespaces")


@private
def test_application_on_a_port_is_in_a_network_of_its_own(supervise: Any, tmp_path: Path) -> None:
    found = supervise(python(PORT_SERVER, "{port}"))
    status, body = found.wait()
    assert (status, "Directory listing" in body) == (200, True)
    with socket.socket() as sock:  # another program of the node
        assert sock.connect_ex(("127.0.0.1", app.PORT)) != 0
    assert app.ports_of(app.descendants(found.process.pid)) == []


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::"], ids=["loopback", "all addresses", "all with IPv6"])
def test_application_that_others_can_reach_is_stopped(supervise: Any, address: str) -> None:
    program = "import socket, sys\nfamily = socket.AF_INET6 if ':' in sys.argv[2] else socket.AF_INET\n"
    program += "held = socket.create_server((sys.argv[2], 0), family=family)\n" + RUN_SERVER
    found = supervise(python(program, "{socket}", address))
    status, page = found.wait()
    assert status == 502
    assert f"Demo was stopped, because it listened on {address if ':' not in address else '[::]'}:" in page
    assert [each for each in app.descendants(found.process.pid) if app.status_of(each)[0] != "Z"] == []


@pytest.mark.parametrize(
    ("command", "limit", "words"),
    [
        (["/nonexistent/program", "{socket}"], 60, "Demo is not installed on"),
        ([sys.executable, "-c", "import sys; sys.exit(3)", "{socket}"], 60, "stopped with exit code 3 before it was"),
        ([sys.executable, "-c", "", "{socket}"], 60, "stopped with exit code 0 before it was"),
        ([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)", "{socket}"], 60, "was ended by signal 9 before"),
        ([sys.executable, "-c", "import time; time.sleep(60)", "{socket}"], 0.5, "did not answer within 0.5 seconds"),
        (["/etc/passwd", "{socket}"], 60, "Demo cannot run on"),
    ],
    ids=["not-installed", "exits-at-once", "exits-without-error", "killed", "never-answers", "not-a-program"],
)
def test_failure_is_explained_in_words(supervise: Any, command: list[str], limit: float, words: str) -> None:
    status, page = supervise(command, start_limit=limit).wait()
    assert (status, words in page) == (502, True), page
    assert "Start again" in page


@private
def test_program_that_is_missing_in_a_private_network_is_named(supervise: Any) -> None:
    page = supervise(["/nonexistent/program", "--port={port}"]).wait()[1]
    assert "the program /nonexistent/program was not found" in page


def test_program_that_is_missing_behind_a_shell_is_named(supervise: Any) -> None:
    shell = ["/bin/bash", "-c", 'exec "$@"', "demo"]
    page = supervise(["/nonexistent/program", "{socket}"], shell=shell).wait()[1]
    assert "the program /nonexistent/program was not found" in page


def test_application_that_listens_but_never_answers_is_stopped(supervise: Any) -> None:
    program = (
        "import socket, sys, time\ns = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); time.sleep(99)"
    )
    found = supervise(python(program, "{socket}"), start_limit=1)
    assert "did not answer within 1 seconds" in found.wait()[1]


def test_application_can_be_started_again(supervise: Any, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    program = f"import os, sys\nif not os.path.exists({str(mark)!r}): sys.exit(1)\n" + RUN_SERVER
    found = supervise(python(program, "{socket}"))
    assert found.wait()[0] == 502
    mark.touch()
    assert found.wait()[0] == 502  # a look at the page starts nothing
    assert found.get(f"/?{app.AGAIN}")[0] == 503
    assert found.wait() == (200, "/")


def test_end_of_an_application_is_shown(supervise: Any) -> None:
    found = supervise(SERVER)
    assert found.wait()[0] == 200
    (process,) = app.descendants(found.process.pid)
    os.kill(process, signal.SIGTERM)
    end = time.monotonic() + 10
    while found.get()[0] in (0, 200):
        assert time.monotonic() < end
    assert "Demo has ended" in found.wait()[1]


@pytest.mark.parametrize(
    ("head", "passed"),
    [
        (b"Host: x", b"Host: x"),
        (b"Authorization: token abc\r\nHost: x", b"Host: x"),
        (b"authorization:Bearer abc\r\nHost: x", b"Host: x"),
        (b"Authorization: Basic own", b"Authorization: Basic own"),
        (b"Cookie: a=b; jupyterhub-user-alice=c; e=f", b"Cookie: a=b; e=f"),
        (b"COOKIE: jupyterhub-session-id=c\r\nHost: x", b"Host: x"),
    ],
    ids=["none", "token", "bearer", "its-own", "some-cookies", "all-cookies"],
)
def test_application_does_not_get_the_credentials_of_a_request(head: bytes, passed: bytes) -> None:
    start, end = b"GET / HTTP/1.1\r\n", b"\r\n\r\n"
    assert app.without_credentials(start + head + end) == start + passed + end


def test_request_arrives_without_the_credentials(supervise: Any) -> None:
    found = supervise(SERVER)
    found.wait()
    headers = "Cookie: jupyterhub-user-alice=c; a=b\r\nAuthorization: token abc\r\n"
    assert found.get("/", headers) == (200, "/  a=b")


@private
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_private_network_ends_with_its_supervisor(supervise: Any, number: signal.Signals) -> None:
    found = supervise(python(PORT_SERVER, "{port}"))
    assert found.wait()[0] == 200
    processes = app.descendants(found.process.pid)
    assert len(processes) == 2
    found.process.send_signal(number)
    found.process.wait(timeout=20)
    end = time.monotonic() + 10
    while not all(app.status_of(each)[0] == "Z" for each in processes):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_end_of_an_application_is_shown_although_a_child_keeps_its_output(supervise: Any) -> None:
    found = supervise(
        python("import subprocess\nsubprocess.run(['sh', '-c', 'setsid sleep 300 &'])\n" + RUN_SERVER, "{socket}")
    )
    assert found.wait()[0] == 200
    server, child = sorted(app.descendants(found.process.pid))
    os.kill(server, signal.SIGTERM)
    end = time.monotonic() + 10
    while found.get()[0] in (0, 200):
        assert time.monotonic() < end
    assert "Demo has ended" in found.wait()[1]
    assert time.monotonic() < end
    assert app.status_of(child)[0] == "Z"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_application_ends_with_its_supervisor(supervise: Any, number: signal.Signals) -> None:
    program = "import os, signal, subprocess, sys\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + RUN_SERVER
    found = supervise(python(program, "{socket}"))
    assert found.wait()[0] == 200
    (process,) = app.descendants(found.process.pid)
    found.process.send_signal(number)
    found.process.wait(timeout=20)
    end = time.monotonic() + 10
    while app.status_of(process)[0] != "Z":
        assert time.monotonic() < end
        time.sleep(0.05)


def test_processes_in_the_background_end_too(supervise: Any) -> None:
    fork = "import subprocess, sys\nsubprocess.run(['sh', '-c', 'setsid sleep 300 &'])\n" + RUN_SERVER
    found = supervise(python(fork, "{socket}"))
    assert found.wait()[0] == 200
    processes = app.descendants(found.process.pid)
    assert len(processes) == 2
    found.process.terminate()
    found.process.wait(timeout=20)
    assert all(app.status_of(each)[0] == "Z" for each in processes)


def test_log_keeps_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "LOG_LIMIT", 1000)
    log = app.Log(tmp_path / "log")
    log.clear()
    for number in range(200):
        log.write(f"line {number}\n".encode())
    assert log.path.stat().st_size <= 1000
    assert log.last_lines().endswith("line 198\nline 199")
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


def test_log_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic links"):
        app.Log(tmp_path / "log").clear()


def test_page_has_no_markup_of_the_log(supervise: Any) -> None:
    page = supervise(python("import sys; print('<script>x</script>'); sys.exit(1)", "{socket}")).wait()[1]
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    ("word", "filled"),
    [("--socket={socket}", "--socket=/s"), ("{other}", "{other}"), ("{{socket}}", "{/s}"), ("${HOME}", "${HOME}")],
)
def test_placeholders(word: str, filled: str) -> None:
    assert app.fill(word, {"socket": "/s"}) == filled


def test_connections_go_both_ways_for_long(supervise: Any) -> None:
    echo = "import socketserver, sys\n"
    echo += "class H(socketserver.StreamRequestHandler):\n"
    echo += "    def handle(self):\n        self.rfile.readline()\n        self.wfile.write(b'HTTP/1.1 101 x\\r\\n')\n"
    echo += "        while line := self.rfile.readline(): self.wfile.write(line.upper())\n"
    echo += "socketserver.ThreadingUnixStreamServer(sys.argv[1], H).serve_forever()"
    found = supervise(python(echo, "{socket}"))
    found.get()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        end = time.monotonic() + 20
        while b"101" not in (answer := first(sock_of(found))):
            assert time.monotonic() < end, answer
        sock.connect(str(found.socket))
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        stream = sock.makefile("rb")
        assert stream.readline().startswith(b"HTTP/1.1 101")
        assert stream.readline() == b"\r\n"
        for word in (b"one\n", b"two\n"):
            sock.sendall(word)
            assert stream.readline() == word.upper()


def sock_of(found: Supervisor) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(found.socket))
    return sock


def first(sock: socket.socket) -> bytes:
    with sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        return sock.recv(100)


def test_unknown_application_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "apps.json").write_text(json.dumps({"apps": []}))
    with pytest.raises(LookupError, match="has no application 'x'"):
        app.read_definition(tmp_path / "apps.json", "x")


def test_programs_without_arguments_explain_themselves() -> None:
    done = subprocess.run([sys.executable, "-I", app.__file__], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "usage: app.py DEFINITIONS NAME\n")
