"""The launcher reads the session's secrets, reserves a port, reports it and starts the server."""

from __future__ import annotations

import contextlib
import errno
import http.server
import json
import os
import pwd
import queue
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

from hpchub.lab_extension import container_files
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
    port = held[0].getsockname()[1]
    assert {sock.getsockname()[1] for sock in held} == {port}
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
    for sock in (other, server, *held):
        sock.close()


def test_two_sessions_never_reserve_the_same_port() -> None:
    held = launcher.reserve_port(20000, 29999)
    port = held[0].getsockname()[1]
    with pytest.raises(LaunchError, match=f"no port from {port} to {port} is free"):
        launcher.reserve_port(port, port)
    for sock in held:
        sock.close()


@pytest.mark.parametrize("missing", [socket.AF_INET, socket.AF_INET6])
def test_port_is_reserved_on_a_node_with_one_family_of_addresses(
    monkeypatch: pytest.MonkeyPatch, missing: socket.AddressFamily
) -> None:
    real = socket.socket

    def make(family: int = socket.AF_INET, *rest: Any) -> socket.socket:
        if family == missing:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *rest)

    monkeypatch.setattr(socket, "socket", make)
    (held,) = launcher.reserve_port(20000, 29999)
    assert held.family != missing
    held.close()


def test_waiting_for_a_server_times_out() -> None:
    held = launcher.reserve_port(20000, 29999)
    with pytest.raises(LaunchError, match=r"did not start within 0\.3 s"):
        launcher.wait_for_server(held[0].getsockname()[1], timeout=0.3)
    for sock in held:
        sock.close()


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
    assert env["JUPYTERHUB_SERVICE_URL"] == "https://:23456/user/alice/"
    assert env["JUPYTER_PATH"] == "/opt/hpchub/jupyter:/mine"
    assert (env["PATH"], env["SLURM_JOB_ID"]) == ("/bin", "7")
    assert "HPCHUB_OLD" not in env
    assert "PYTHONHOME" not in env
    assert not {"HPCHUB_API_CA", "HPCHUB_TLS_KEY", "HPCHUB_TLS_CERTIFICATE"} & set(env)


@pytest.mark.parametrize(
    "name",
    [
        *("SLURM_JOB_NODELIST", "SLURM_NTASKS", "SLURM_MEM_PER_NODE", "SRUN_CPUS_PER_TASK"),
        *("PBS_NODEFILE", "PE_HOSTFILE", "NHOSTS", "NSLOTS", "LSB_MCPU_HOSTS", "LSB_DJOB_HOSTFILE"),
    ],
)
def test_environment_keeps_what_programs_on_several_nodes_need(name: str) -> None:
    assert launcher.server_environment({name: "x"}, SESSION, 23456, [])[name] == "x"


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
        pytest.param("", "https://:23456/user/alice/", id="none"),
        pytest.param("http://0.0.0.0:0/user/alice/", "https://:23456/user/alice/", id="all-of-ipv4"),
    ],
)
def test_service_url_contains_the_reserved_port(url: str, bound: str) -> None:
    env = launcher.server_environment({}, SESSION | {"JUPYTERHUB_SERVICE_URL": url}, 23456, [])
    assert env["JUPYTERHUB_SERVICE_URL"] == bound


@pytest.mark.parametrize(
    ("name", "kernels", "default"),
    [
        pytest.param("ir", ["python3"], "ir", id="of-the-profile"),
        pytest.param("", ["ir", "python3"], "python3", id="python3"),
        pytest.param("", ["octave", "ir"], "ir", id="first-kernel"),
        pytest.param("", [], "python3", id="no-kernel"),
    ],
)
def test_default_kernel_exists(tmp_path: Path, name: str, kernels: list[str], default: str) -> None:
    for kernel in kernels:
        (tmp_path / "kernels" / kernel).mkdir(parents=True)
        (tmp_path / "kernels" / kernel / "kernel.json").write_text("{}")
    assert launcher.default_kernel(SESSION | {"HPCHUB_DEFAULT_KERNEL": name}, [str(tmp_path)]) == default


@pytest.mark.parametrize(
    ("text", "found", "root"),
    [
        pytest.param("", None, {}, id="none"),
        pytest.param("~", "home", "home", id="home"),
        pytest.param("~/course", "home/course", "home", id="in-the-home"),
        pytest.param("{tmp}/scratch/{user}", "scratch/USER", "scratch/USER", id="name-of-the-user"),
    ],
)
def test_working_directory_is_entered(tmp_path: Path, text: str, found: str | None, root: str) -> None:
    user = pwd.getpwuid(os.getuid()).pw_name
    for each in ("home/course", f"scratch/{user}"):
        (tmp_path / each).mkdir(parents=True)
    directory = launcher.working_directory(text.replace("{tmp}", str(tmp_path)), tmp_path / "home")
    settings = launcher.directories(directory, tmp_path / "home")
    if found is None:
        assert (directory, settings) == (None, {})
        return
    expected = tmp_path / found.replace("USER", user)
    assert directory == expected
    assert settings == {"root_dir": str(tmp_path / root.replace("USER", user)), "preferred_dir": str(expected)}


@pytest.mark.parametrize("text", ["~/missing", "~/file"])
def test_working_directory_that_cannot_be_entered_is_explained(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(launcher.LaunchError, match=r"the working directory .*/(missing|file) cannot be used .*another"):
        launcher.working_directory(text, tmp_path)


def test_tls_files_are_readable_only_in_this_process() -> None:
    paths = launcher.certificates(SESSION)
    for setting, text in {"keyfile": "a key", "certfile": "a certificate", "client_ca": "authorities"}.items():
        path = Path(paths[setting])
        assert path.exists()  # the web server checks this
        assert [path.read_text(), path.read_text()] == [text, text]
        assert not os.get_inheritable(int(path.name))


@pytest.mark.parametrize("kernel", ["a b", "--help", "../x", "a\n"], ids=repr)
def test_invalid_default_kernel_is_refused(kernel: str) -> None:
    with pytest.raises(LaunchError, match="not a valid kernel name"):
        launcher.default_kernel(SESSION | {"HPCHUB_DEFAULT_KERNEL": kernel}, [])


# -- the report


class FakeHub(http.server.ThreadingHTTPServer):
    """A hub that sends each of ``answers`` in turn. None closes the connection without an answer."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FakeHubHandler)
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.answers: list[int | None] = []
        self.asked: list[str] = []
        self.text = ""
        self.session = SESSION | {"JUPYTERHUB_API_URL": f"http://127.0.0.1:{self.server_port}/hub/api"}


class FakeHubHandler(http.server.BaseHTTPRequestHandler):
    """Records a request and sends the next answer of ``FakeHub``."""

    server: FakeHub

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(self.server.answers.pop(0) or 500)
        self.send_header("Content-Length", str(len(self.server.text)))
        self.end_headers()
        self.wfile.write(self.server.text.encode())

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
    launcher.report(fake_hub.session, {"port": 23456}, launcher.tls_context(""))
    [(path, headers, body)] = fake_hub.seen
    assert path == "/hub/api/batchspawner"
    assert headers["Authorization"] == "token t0k3n"
    assert body == {"port": 23456}


@pytest.mark.parametrize("content", [{"port": 23456, "notice": "x"}, {"problem": "x"}], ids=["notice", "problem"])
def test_hub_that_knows_no_messages_gets_the_text(fake_hub: FakeHub, content: dict[str, Any]) -> None:
    message = {"id": "ended", "values": {}}
    fake_hub.answers = [400, 201]
    if "port" in content:
        launcher.report(fake_hub.session, content | {"message": message}, launcher.tls_context(""))
    else:
        launcher.report_problem(fake_hub.session, LaunchError("x", "ended"), launcher.tls_context(""))
    assert [body for _, _, body in fake_hub.seen] == [content | {"message": message}, content]


def test_report_ignores_web_proxies(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    fake_hub.answers = [201]
    launcher.report(fake_hub.session, {"port": 23456}, launcher.tls_context(""), timeout=2)
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
    launcher.report(fake_hub.session, {"port": 23456}, launcher.tls_context(""))
    assert len(fake_hub.seen) == len(answers)


@pytest.mark.parametrize("code", [400, 403, 404, 409])
def test_refused_report_raises(fake_hub: FakeHub, code: int) -> None:
    fake_hub.answers = [code]
    with pytest.raises(LaunchError, match=f"rejected this session's port: {code} reason {code}"):
        launcher.report(fake_hub.session, {"port": 23456}, launcher.tls_context(""))


def test_report_times_out(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LaunchError, match=r"does not answer at http://127.0.0.1:1/hub/api/batchspawner: .*refused"):
        launcher.report(SESSION, {"port": 23456}, launcher.tls_context(""), timeout=0)
    assert "t0k3n" not in capsys.readouterr().err


class Checks(threading.Event):
    """An event that is set after so many checks."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        assert 270 <= timeout <= 330
        self.count -= 1
        return self.count < 0


def ignore(_answer: dict[str, Any]) -> None:
    """Take the hub's answer, and do nothing."""


@pytest.mark.parametrize("answer", [200, 500, 503], ids=str)
def test_session_that_the_hub_knows_asks_for_nothing(fake_hub: FakeHub, answer: int) -> None:
    fake_hub.answers = [answer] * 3
    launcher.stay_known(
        fake_hub.session, {"port": 23456, "addresses": []}, launcher.tls_context(""), Checks(3), told=ignore
    )
    assert (fake_hub.seen, fake_hub.answers) == ([], [])


def test_session_asks_for_nothing_while_the_hub_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    session = SESSION | {"JUPYTERHUB_API_URL": "http://127.0.0.1:1/hub/api"}
    launcher.stay_known(session, {"port": 23456, "addresses": []}, launcher.tls_context(""), Checks(1), told=ignore)
    assert capsys.readouterr().err == ""


def test_session_that_the_hub_does_not_know_asks_for_adoption(
    fake_hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_hub.answers = [403, 409, 403, 409, 403, None, 403, 201, 200]
    content = {"port": 23456, "addresses": [{"interface": "eth0", "address": "192.0.2.1"}], "notice": "x"}
    launcher.stay_known(fake_hub.session, content, launcher.tls_context(""), Checks(5), told=ignore)
    assert fake_hub.answers == []
    path, headers, body = fake_hub.seen[0]
    assert path == "/hub/api/hpchub/adoption"
    assert headers["Authorization"] == "token " + SESSION["JUPYTERHUB_API_TOKEN"]
    assert body == {"certificate": "a certificate", "port": 23456, "addresses": content["addresses"]}
    refused, silent, adopted = capsys.readouterr().err.splitlines()
    assert refused.endswith("the hub does not know this session, and has not adopted it: 409 reason 409")
    assert "the hub does not answer" in silent
    assert adopted == "hpchub-launch: the hub did not know this session, and has adopted it"


def test_failed_report_ends_the_job(
    fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = []
    held = launcher.reserve_port(20000, 29999)
    wait = launcher.wait_for_server
    monkeypatch.setattr(launcher, "wait_for_server", lambda port, check: wait(port, timeout=0.1, check=check))
    monkeypatch.setattr(os, "kill", lambda *arguments: killed.append(arguments))
    fake_hub.answers = [201]
    watch = launcher.Watch({}, {}, launcher.tls_context(""))
    launcher.Launch(NAME, fake_hub.session)._report_when_ready({"port": held[0].getsockname()[1]}, None, watch)
    for sock in held:
        sock.close()
    assert killed == [(os.getpid(), signal.SIGTERM)]
    assert "did not start" in capsys.readouterr().err
    sent = fake_hub.seen[0][2]
    assert sent["problem"] == "the notebook server did not start within 0.1 s"
    assert sent["message"] == {"id": "not_started", "values": {"seconds": "0.1"}}


# -- the connection to the hub


def test_node_that_cannot_connect_to_the_hub_says_what_to_open(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(LaunchError) as failed:
            launcher.check_hub(f"https://127.0.0.1:{port}/hub/api", launcher.tls_context(""), timeout=0.5)
    node = socket.gethostname()
    assert str(failed.value) == (
        f"this node, {node}, cannot connect to the hub at 127.0.0.1 port {port}: Connection refused. An administrator"
        f" must permit TCP connections from {node} to 127.0.0.1 port {port}."
    )


def test_hub_behind_a_firewall_is_reported_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_arguments: Any, timeout: float, **_options: Any) -> Never:
        time.sleep(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", connect)
    began = time.monotonic()
    with pytest.raises(LaunchError, match=r"cannot connect to the hub at hub\.example port 8445: timed out"):
        launcher.check_hub("https://hub.example:8445/hub/api", launcher.tls_context(""), timeout=1)
    assert time.monotonic() - began < 5


def test_unknown_name_of_the_hub_is_reported() -> None:
    with pytest.raises(LaunchError, match=r"name cannot be resolved .*change hpc_service\.api_host"):
        launcher.check_hub("https://hub.invalid:8445/hub/api", launcher.tls_context(""), timeout=0)


def test_hub_that_is_being_restarted_is_no_obstacle(fake_hub: FakeHub) -> None:
    """The web server accepts connections, and answers 503 in place of the hub."""
    assert launcher.check_hub(fake_hub.session["JUPYTERHUB_API_URL"], launcher.tls_context("")) == "127.0.0.1"
    fake_hub.answers = [503, 503, 200]
    launcher.wait_for_hub(fake_hub.session, launcher.tls_context(""))
    assert fake_hub.answers == []


def test_function_that_hangs_is_given_up() -> None:
    stuck = threading.Event()
    with pytest.raises(LaunchError, match="does not answer"):
        launcher.within(0.1, LaunchError("the home does not answer"), stuck.wait)
    stuck.set()


def test_addresses_begin_with_the_one_that_the_hub_saw() -> None:
    found = launcher.node_addresses("192.0.2.7")
    assert found[0] == {"interface": "", "address": "192.0.2.7"}
    assert not [entry for entry in found if entry["address"].startswith(("127.", "fe80:", "169.254."))]


def test_certificates_of_a_module_do_not_affect_the_connection_to_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/foreign/ca.pem")
    assert launcher.tls_context("").get_ca_certs() or Path("/etc/ssl/certs").is_dir()
    assert os.environ["SSL_CERT_FILE"] == "/foreign/ca.pem"


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


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.ENOSPC], ids=errno.errorcode.get)
def test_home_that_takes_no_further_file_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def create(path: str, *_flags: int) -> Never:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(os, "open", create)
    with pytest.raises(LaunchError, match="takes no further file"):
        launcher.check_space(tmp_path)


def test_home_with_space_gets_a_private_directory(tmp_path: Path) -> None:
    launcher.check_space(tmp_path / ".hpchub")
    assert stat.S_IMODE((tmp_path / ".hpchub").stat().st_mode) == 0o700


def test_runtime_directory_is_private_and_its_place_is_safe(tmp_path: Path) -> None:
    unsafe = tmp_path / "unsafe"
    unsafe.mkdir()
    unsafe.chmod(0o777)
    path = launcher.private_directory({"TMPDIR": str(unsafe)}, tmp_path)
    assert not list(unsafe.iterdir())
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    path.rmdir()


@pytest.mark.parametrize("own_settings", [True, False], ids=["unwritable", "without-settings"])
def test_replaced_directories_are_private(tmp_path: Path, own_settings: bool) -> None:
    home, private = tmp_path / "home", tmp_path / "private"
    home.mkdir()
    private.mkdir()
    for name in (".jupyter", ".local", ".ipython"):
        (home / name).write_text("")
    env = {"HOME": str(home), "JUPYTER_CONFIG_PATH": "/mine"}
    umask = os.umask(0)
    launcher.use_directories(env, home, private, slow=False, own_settings=own_settings)
    os.umask(umask)
    directories = [path for path in private.rglob("*") if path.is_dir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in directories} == {0o700}
    assert env["JUPYTER_DATA_DIR"] == f"{private}/data"
    assert env["IPYTHONDIR"] == f"{private}/ipython"
    assert env.get("JUPYTER_CONFIG_PATH") == (f"/mine:{home}/.jupyter" if own_settings else None)


def test_slow_home_keeps_the_settings_of_ipython_but_not_its_history(tmp_path: Path) -> None:
    profile = tmp_path / ".ipython" / "profile_default"
    (profile / "startup").mkdir(parents=True)
    (profile / "ipython_config.py").write_text("")
    (profile / "history.sqlite").write_text("")
    (tmp_path / "private").mkdir()
    env = {"HOME": str(tmp_path)}
    launcher.use_directories(env, tmp_path, tmp_path / "private", slow=True, own_settings=True)
    new = Path(env["IPYTHONDIR"], "profile_default")
    assert {path.name for path in new.iterdir()} == {"startup", "ipython_config.py"}


# -- the hub's answers about a session


def test_end_of_the_session_is_on_the_clock_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_800_000_100.0)
    sent = "Fri, 15 Jan 2027 08:00:00 GMT"  # 1_800_000_000
    answer = {"ends_at": 1_800_003_600.0, "state": "running"}
    assert launcher.on_own_clock(answer, sent) == {"ends_at": 1_800_003_700.0, "state": "running"}
    monkeypatch.setattr(time, "time", lambda: 1_800_000_001.0)
    assert launcher.on_own_clock(answer, sent) is answer  # the time in the header has no fractions
    assert launcher.on_own_clock(answer, "soon") is answer
    assert launcher.on_own_clock({"ends_at": None}, sent) == {"ends_at": None}


@pytest.mark.parametrize(
    ("session", "path"),
    [
        ({"JUPYTERHUB_USER": "alice"}, "/hub/api/hpchub/sessions/alice"),
        ({"JUPYTERHUB_USER": "a@b", "JUPYTERHUB_SERVER_NAME": "my work"}, "/hub/api/hpchub/sessions/a%40b/my%20work"),
    ],
    ids=["default", "named"],
)
def test_session_asks_about_itself(fake_hub: FakeHub, session: dict[str, str], path: str) -> None:
    fake_hub.answers = [200, 404, 500]
    fake_hub.text = '{"state": "running"}'
    asked = fake_hub.session | session
    assert launcher.ask_about_session(asked, launcher.tls_context("")) == {"state": "running"}
    assert fake_hub.asked == [path]
    assert launcher.ask_about_session(asked, launcher.tls_context("")) is None
    assert launcher.ask_about_session(asked, launcher.tls_context("")) == {}


def test_idle_session_asks_the_hub_to_end_it(fake_hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    fake_hub.answers = [201, 409, 503]
    assert launcher.report_idle(fake_hub.session, 3600.4, launcher.tls_context(""))
    assert (fake_hub.seen[0][0], fake_hub.seen[0][2]) == ("/hub/api/hpchub/idle", {"idle": 3600})
    assert not launcher.report_idle(fake_hub.session, 3600, launcher.tls_context(""))
    assert "the hub does not end this idle session: 409 reason 409" in capsys.readouterr().err
    with pytest.raises(OSError, match="503"):
        launcher.report_idle(fake_hub.session, 3600, launcher.tls_context(""))


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
    settings.write_text('{"jupyter_path": ["/opt/hpchub/jupyter"], "check_interval": 60}')
    reported = threading.Event()
    served = SimpleNamespace()

    def serve(arguments: list[str], _context: object, **options: Any) -> None:
        served.arguments, served.environment, served.directory = arguments, dict(os.environ), Path.cwd()
        served.options = options
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("0.0.0.0", options["port"]))
        server.listen()
        assert reported.wait(10)
        server.close()

    report = launcher.report

    def report_and_notify(*arguments: Any) -> None:
        report(*arguments)
        reported.set()

    intervals: queue.Queue[float] = queue.Queue()
    reserve_port = launcher.reserve_port
    held = contextlib.ExitStack()

    def reserve(*ports: int) -> list[socket.socket]:
        # The launcher keeps the port until its process ends. This process goes on, so the test frees the port.
        return [held.enter_context(sock) for sock in reserve_port(*ports)]

    server_module = SimpleNamespace(serve=serve, settings_files=list, stopping=threading.Event())
    monkeypatch.setattr(launcher, "reserve_port", reserve)
    monkeypatch.setattr(launcher, "report", report_and_notify)
    monkeypatch.setattr(launcher, "stay_known", lambda *_, interval, **__: intervals.put(interval))
    monkeypatch.setattr(launcher, "server_module", lambda: server_module)
    monkeypatch.setattr(launcher, "home_directory", lambda: tmp_path)
    loaded = launcher.settings
    monkeypatch.setattr(launcher, "settings", lambda: loaded(settings))
    monkeypatch.setattr(sys, "argv", ["hpchub-launch", NAME])
    environment = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
    monkeypatch.setattr(os, "environ", environment | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)})
    monkeypatch.chdir(tmp_path)
    fake_hub.answers = [200, 201]
    umask = os.umask(0o027)

    with held:
        assert launcher.main() == 0
    assert intervals.get(timeout=10) == 60
    assert os.umask(umask) == 0o027
    assert served.directory == tmp_path
    assert served.environment["JUPYTER_PATH"].startswith("/opt/hpchub/jupyter")
    assert (served.arguments, served.options["kernel"]) == (["jupyterhub-singleuser"], "ir")
    assert f":{fake_hub.seen[0][2]['port']}/" in served.environment["JUPYTERHUB_SERVICE_URL"]
    assert not path.exists()
    assert not list(tmp_path.glob("hpchub-*"))  # the runtime directory


@pytest.mark.parametrize(
    ("mode", "owner", "accepted"),
    [
        pytest.param(0o440, os.getuid(), True, id="a file of a pod, which its group may read"),
        pytest.param(0o444, os.getuid(), False, id="a file of a pod that everybody may read"),
        pytest.param(0o460, os.getuid(), False, id="a file of a pod that its group may write"),
        pytest.param(0o440, None, False, id="a file of a job that its group may read"),
    ],
)
def test_file_of_a_pod_may_be_readable_by_its_group(
    tmp_path: Path, mode: int, owner: int | None, accepted: bool
) -> None:
    path = tmp_path / "session.json"
    path.write_text(json.dumps(dict.fromkeys(launcher.NEEDED, "x")))
    path.chmod(mode)
    if accepted:
        assert launcher.read_session(path, owner=owner)
        return
    with pytest.raises(launcher.LaunchError, match="other users could read it"):
        launcher.read_session(path, owner=owner)


def test_reason_of_a_failed_start_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_hub.answers = [201]
    monkeypatch.setattr(launcher, "read_session", lambda _path: fake_hub.session)
    monkeypatch.setattr(launcher, "home_directory", lambda: tmp_path)
    monkeypatch.setattr(sys, "argv", ["hpchub-launch", NAME])
    (tmp_path / ".hpchub").write_text("")  # a file in place of the directory
    umask = os.umask(0)
    assert launcher.main() == 1
    os.umask(umask)
    problem = f"{tmp_path}/.hpchub cannot be written: File exists; check its permissions"
    values = {"directory": f"{tmp_path}/.hpchub", "reason": "File exists"}
    assert fake_hub.seen[0][2] == {"problem": problem, "message": {"id": "unwritable", "values": values}}
    assert capsys.readouterr().err == f"hpchub-launch: {problem}\n"


@pytest.mark.parametrize("argv", [[], ["x"], ["../../etc/passwd"], [NAME, NAME], [NAME, "--again=x"]], ids=repr)
def test_wrong_usage_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["hpchub-launch", *argv])
    assert launcher.main() == 1
    assert "usage: hpchub-launch SESSION" in capsys.readouterr().err


# -- files of the session


def test_file_of_the_session_is_private_and_no_variable(tmp_path: Path) -> None:
    session = {**SESSION, "FILE:globus-transfer": "a secret"}
    env = launcher.server_environment({}, session, 20000, [])
    launcher.write_files(env, session, tmp_path)
    path = Path(env["HPCHUB_FILE_GLOBUS_TRANSFER"])
    assert path.read_text() == "a secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.parent == tmp_path
    assert not any("a secret" in value or name.startswith("FILE") for name, value in env.items())


@pytest.mark.parametrize("name", ["FILE:", "FILE:../x", "FILE:X", "FILE:a/b", "FILE:.a", "FILE:" + "a" * 40, "file:a"])
def test_file_with_another_name_is_refused(name: str) -> None:
    with pytest.raises(LaunchError, match="only JUPYTERHUB"):
        launcher.parse_session(json.dumps({**SESSION, name: "x"}), Path("x"))


def test_jupyterlab_in_a_container_uses_the_files_of_the_hub(tmp_path: Path) -> None:
    source = tmp_path / "labextension.json"
    env = {"JUPYTER_PATH": "/of/the/image", "JUPYTER_CONFIG_PATH": "/of/the/user"}
    launcher.use_extension(env, tmp_path, source)
    assert env == {"JUPYTER_PATH": "/of/the/image", "JUPYTER_CONFIG_PATH": "/of/the/user"}
    files = container_files("en")
    source.write_text(json.dumps(files))
    launcher.use_extension(env, tmp_path, source)
    own = tmp_path / "jupyter"
    assert env == {"JUPYTER_PATH": f"{own}:/of/the/image", "JUPYTER_CONFIG_PATH": f"/of/the/user:{own}"}
    package = json.loads((own / "labextensions/@hpchub/lab/package.json").read_text())
    assert (own / "labextensions/@hpchub/lab" / package["jupyterlab"]["_build"]["load"]).is_file()
    settings = json.loads((own / "labconfig/default_setting_overrides.json").read_text())
    assert settings["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"
    assert sum(map(len, files.values())) < 300_000
