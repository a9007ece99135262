"""The launcher reads the session's secrets, reserves a port, reports it and starts the server."""

from __future__ import annotations

import contextlib
import errno
import http.server
import json
import os
import signal
import socket
import stat
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Never

import pytest

from hpchub.remote import launcher
from hpchub.remote.launcher import LaunchError

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "0123456789abcdef"
SESSION = {
    "JUPYTERHUB_API_TOKEN": "t0k3n",
    "JUPYTERHUB_API_URL": "http://127.0.0.1:1/hub/api",
    "JUPYTERHUB_SERVICE_PREFIX": "/user/alice/",
    "JUPYTERHUB_SERVICE_URL": "http://0.0.0.0:0/user/alice/",
    "HPCHUB_PORT_FIRST": "20000",
    "HPCHUB_PORT_LAST": "29999",
    "HPCHUB_INTERFACE": "lab",
    "HPCHUB_DEFAULT_KERNEL": "",
    "HPCHUB_API_CA": "",
    "HPCHUB_TLS_KEY": "a key",
    "HPCHUB_TLS_CERTIFICATE": "a certificate",
    "HPCHUB_TLS_CLIENTS": "authorities",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / f"{NAME}.json"
    path.write_text(json.dumps(SESSION))
    path.chmod(0o600)
    return path


# -- the session's file


def test_file_is_read_and_removed(file: Path) -> None:
    assert launcher.read_session(file) == SESSION
    assert not file.exists()


def test_file_that_others_can_read_is_refused_and_removed(file: Path) -> None:
    file.chmod(0o640)
    with pytest.raises(LaunchError, match="other users could read it"):
        launcher.read_session(file)
    assert not file.exists()


def test_link_is_not_followed(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(file)
    with pytest.raises(LaunchError, match="cannot be opened"):
        launcher.read_session(link)
    assert file.exists()


def test_file_of_another_user_is_refused_and_kept(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    somebody = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: somebody)
    with pytest.raises(LaunchError, match="not a regular file that you own"):
        launcher.read_session(file)
    assert file.exists()


def test_named_pipe_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pipe.json"
    os.mkfifo(path, 0o600)
    # Open the pipe for writing, because opening it only for reading would block.
    writer = os.open(path, os.O_RDWR)
    with pytest.raises(LaunchError, match="not a regular file that you own"):
        launcher.read_session(path)
    os.close(writer)


def test_missing_file_error_suggests_a_new_session(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"does not exist.*start a new session"):
        launcher.read_session(tmp_path / "no.json", timeout=0)


def test_file_that_appears_late_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "late.json"

    def appear(_seconds: float) -> None:
        path.write_text(json.dumps(SESSION))
        path.chmod(0o600)

    monkeypatch.setattr(time, "sleep", appear)
    assert launcher.read_session(path) == SESSION


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("{", "not JSON", id="not-json"),
        pytest.param("[]", "not an object", id="list"),
        pytest.param('{"JUPYTERHUB_API_TOKEN": 1}', "is not an object of strings; start a new session", id="number"),
        pytest.param(json.dumps(SESSION | {"LD_PRELOAD": "x"}), "LD_PRELOAD", id="foreign-variable"),
        pytest.param(
            json.dumps(SESSION | {"JUPYTERHUB_API_TOKEN": ""}),
            "lacks JUPYTERHUB_API_TOKEN; start a new session",
            id="no-token",
        ),
    ],
)
def test_file_with_invalid_content_is_refused(file: Path, text: str, complaint: str) -> None:
    file.write_text(text)
    with pytest.raises(LaunchError, match=complaint):
        launcher.read_session(file)


# -- the port


def test_reserved_port_is_free_only_for_the_server() -> None:
    held = launcher.reserve_port(20000, 29999)
    port = held.getsockname()[1]
    assert 20000 <= port <= 29999
    other = socket.socket()
    with pytest.raises(OSError, match="in use"):
        other.bind(("0.0.0.0", port))
    # Tornado binds its port in the same way.
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("0.0.0.0", port))
    server.listen()
    launcher.wait_for_server(port, timeout=2)
    for sock in (other, server, held):
        sock.close()


def test_two_sessions_never_reserve_the_same_port() -> None:
    first = launcher.reserve_port(20000, 29999)
    port = first.getsockname()[1]
    with pytest.raises(LaunchError, match=f"no port from {port} to {port} is free"):
        launcher.reserve_port(port, port)
    first.close()


def test_waiting_for_a_server_times_out() -> None:
    held = launcher.reserve_port(20000, 29999)
    with pytest.raises(LaunchError, match=r"did not start within 0\.3 s"):
        launcher.wait_for_server(held.getsockname()[1], timeout=0.3)
    held.close()


# -- the server's environment and arguments


def test_environment_contains_only_variables_of_this_session() -> None:
    job = {
        "PATH": "/bin",
        "HPCHUB_OLD": "1",
        "JUPYTERHUB_API_TOKEN": "old",
        "JUPYTER_PATH": "/mine",
        "SLURM_JOB_ID": "7",
        "PYTHONHOME": "/opt/another",
    }
    env = launcher.server_environment(job, SESSION, 23456, ["/opt/hpchub/jupyter"])
    assert env["JUPYTERHUB_API_TOKEN"] == "t0k3n"
    assert env["JUPYTERHUB_SERVICE_URL"] == "https://0.0.0.0:23456/user/alice/"
    assert env["JUPYTER_PATH"] == "/opt/hpchub/jupyter:/mine"
    assert (env["PATH"], env["SLURM_JOB_ID"]) == ("/bin", "7")
    assert "HPCHUB_OLD" not in env
    assert "PYTHONHOME" not in env
    assert not {"HPCHUB_API_CA", "HPCHUB_TLS_KEY", "HPCHUB_TLS_CERTIFICATE"} & set(env)


@pytest.mark.parametrize(
    ("session", "opened"),
    [
        pytest.param({"HPCHUB_INTERFACE": "lab"}, "/lab", id="lab"),
        pytest.param({"HPCHUB_INTERFACE": "notebook"}, "/tree", id="notebook"),
        pytest.param(
            {"HPCHUB_INTERFACE": "notebook", "JUPYTERHUB_DEFAULT_URL": "/lab/tree/x"}, "/lab/tree/x", id="default-url"
        ),
    ],
)
def test_interface_sets_the_default_url(session: dict[str, str], opened: str) -> None:
    env = launcher.server_environment({}, SESSION | session, 23456, [])
    assert env["JUPYTERHUB_DEFAULT_URL"] == opened


@pytest.mark.parametrize(
    ("url", "bound"),
    [
        pytest.param("", "https://0.0.0.0:23456/user/alice/", id="none"),
        pytest.param("http://10.1.2.3:1/user/alice/", "https://10.1.2.3:23456/user/alice/", id="address"),
    ],
)
def test_service_url_contains_the_reserved_port(url: str, bound: str) -> None:
    env = launcher.server_environment({}, SESSION | {"JUPYTERHUB_SERVICE_URL": url}, 23456, [])
    assert env["JUPYTERHUB_SERVICE_URL"] == bound


def test_arguments_contain_the_default_kernel_and_no_secret() -> None:
    arguments = launcher.server_arguments(SESSION | {"HPCHUB_DEFAULT_KERNEL": "ir"})
    assert arguments == ["jupyterhub-singleuser", "--MultiKernelManager.default_kernel_name=ir"]


def test_tls_files_are_readable_only_in_this_process() -> None:
    arguments = dict(argument.split("=", 1) for argument in launcher.tls_arguments(SESSION))
    for argument, text in {"keyfile": "a key", "certfile": "a certificate", "client_ca": "authorities"}.items():
        path = Path(arguments[f"--ServerApp.{argument}"])
        assert path.exists()  # the web server checks this
        assert [path.read_text(), path.read_text()] == [text, text]
        assert not os.get_inheritable(int(path.name))


@pytest.mark.parametrize("kernel", ["a b", "--help", "../x", "a\n"], ids=repr)
def test_invalid_default_kernel_is_refused(kernel: str) -> None:
    with pytest.raises(LaunchError, match="not a valid kernel name"):
        launcher.server_arguments(SESSION | {"HPCHUB_DEFAULT_KERNEL": kernel})


# -- the report


class FakeHub(http.server.ThreadingHTTPServer):
    """A hub that sends each of ``answers`` in turn. None closes the connection without an answer."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FakeHubHandler)
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.answers: list[int | None] = []
        self.session = SESSION | {"JUPYTERHUB_API_URL": f"http://127.0.0.1:{self.server_port}/hub/api"}


class FakeHubHandler(http.server.BaseHTTPRequestHandler):
    """Records a request and sends the next answer of ``FakeHub``."""

    server: FakeHub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, dict(self.headers), json.loads(body)))
        code = self.server.answers.pop(0)
        if code is None:
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        text = json.dumps({"message": f"reason {code}"}).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    server = FakeHub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_report_sends_the_port_with_the_token(fake_hub: FakeHub) -> None:
    fake_hub.answers = [201]
    launcher.report(fake_hub.session, 23456, launcher.tls_context(""))
    [(path, headers, body)] = fake_hub.seen
    assert path == "/hub/api/batchspawner"
    assert headers["Authorization"] == "token t0k3n"
    assert body == {"port": 23456}


def test_report_ignores_web_proxies(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    fake_hub.answers = [201]
    launcher.report(fake_hub.session, 23456, launcher.tls_context(""), timeout=2)
    assert len(fake_hub.seen) == 1


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([503, 502, 201], id="hub-restarts"),
        pytest.param([429, 201], id="too-many"),
        pytest.param([None, 201], id="lost-request"),
        pytest.param([None, 409], id="lost-answer"),
        pytest.param([503, 409], id="answer-lost-on-the-way"),
    ],
)
def test_report_is_retried(fake_hub: FakeHub, answers: list[int | None]) -> None:
    fake_hub.answers = list(answers)
    launcher.report(fake_hub.session, 23456, launcher.tls_context(""))
    assert len(fake_hub.seen) == len(answers)


@pytest.mark.parametrize("code", [400, 403, 404, 409])
def test_refused_report_raises(fake_hub: FakeHub, code: int) -> None:
    fake_hub.answers = [code]
    with pytest.raises(LaunchError, match=f"rejected this session's port: {code} reason {code}"):
        launcher.report(fake_hub.session, 23456, launcher.tls_context(""))


def test_report_times_out(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LaunchError, match=r"does not answer at http://127.0.0.1:1/hub/api/batchspawner: .*refused"):
        launcher.report(SESSION, 23456, launcher.tls_context(""), timeout=0)
    assert "t0k3n" not in capsys.readouterr().err


def test_failed_report_ends_the_job(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    killed = []
    held = launcher.reserve_port(20000, 29999)
    wait = launcher.wait_for_server
    monkeypatch.setattr(launcher, "wait_for_server", lambda port: wait(port, timeout=0.1))
    monkeypatch.setattr(os, "kill", lambda *arguments: killed.append(arguments))
    launcher.report_when_ready(SESSION, held.getsockname()[1], launcher.tls_context(""))
    held.close()
    assert killed == [(os.getpid(), signal.SIGTERM)]
    assert "did not start" in capsys.readouterr().err


def test_invalid_certificate_authority_is_refused() -> None:
    with pytest.raises(LaunchError, match="CA certificate cannot be read"):
        launcher.tls_context("-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")


# -- the home directory


@pytest.mark.parametrize(
    ("number", "complaint"),
    [
        pytest.param(errno.EDQUOT, "your home directory is full", id="over-quota"),
        pytest.param(errno.ENOSPC, "your home directory is full", id="full"),
        pytest.param(errno.EIO, "cannot be written", id="broken"),
    ],
)
def test_unwritable_home_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, complaint: str
) -> None:
    def sync(_descriptor: int) -> Never:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(LaunchError, match=complaint):
        launcher.check_space(tmp_path)
    assert not list(tmp_path.iterdir())


def test_home_with_space_gets_a_private_directory(tmp_path: Path) -> None:
    launcher.check_space(tmp_path / ".hpchub")
    assert stat.S_IMODE((tmp_path / ".hpchub").stat().st_mode) == 0o700


# -- the whole launch


def test_launch_reports_a_port_and_starts_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_hub: FakeHub
) -> None:
    directory = tmp_path / ".hpchub"
    directory.mkdir()
    path = directory / f"{NAME}.json"
    path.write_text(json.dumps(fake_hub.session | {"HPCHUB_DEFAULT_KERNEL": "ir"}))
    path.chmod(0o600)
    settings = tmp_path / "settings.json"
    settings.write_text('{"jupyter_path": ["/opt/hpchub/jupyter"]}')
    reported = threading.Event()
    served = SimpleNamespace()

    def serve(arguments: list[str], _context: object) -> None:
        served.arguments, served.environment, served.directory = arguments, dict(os.environ), Path.cwd()
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("0.0.0.0", int(os.environ["JUPYTERHUB_SERVICE_URL"].split(":")[2].split("/")[0])))
        server.listen()
        assert reported.wait(10)
        server.close()

    report = launcher.report

    def report_and_notify(*arguments: Any) -> None:
        report(*arguments)
        reported.set()

    reserve_port = launcher.reserve_port
    held = contextlib.ExitStack()

    # The launcher keeps the port until its process ends. This process goes on, so the test frees the port.
    monkeypatch.setattr(launcher, "reserve_port", lambda *ports: held.enter_context(reserve_port(*ports)))
    monkeypatch.setattr(launcher, "report", report_and_notify)
    monkeypatch.setattr(launcher, "serve", serve)
    monkeypatch.setattr(launcher, "home_directory", lambda: tmp_path)
    loaded = launcher.settings
    monkeypatch.setattr(launcher, "settings", lambda: loaded(settings))
    monkeypatch.setattr(sys, "argv", ["hpchub-launch", NAME])
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.chdir(tmp_path)
    fake_hub.answers = [201]

    with held:
        assert launcher.main() == 0
    assert served.directory == tmp_path
    assert served.environment["JUPYTER_PATH"].startswith("/opt/hpchub/jupyter")
    assert "t0k3n" not in " ".join(served.arguments)
    assert f":{fake_hub.seen[0][2]['port']}/" in served.environment["JUPYTERHUB_SERVICE_URL"]
    assert not path.exists()


@pytest.mark.parametrize("argv", [[], ["x"], ["../../etc/passwd"], [NAME, NAME]], ids=repr)
def test_wrong_usage_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["hpchub-launch", *argv])
    assert launcher.main() == 1
    assert "usage: hpchub-launch SESSION" in capsys.readouterr().err
