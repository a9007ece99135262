"""RStudio Server: the real supervisor and R with a stand-in for ``rserver``, whose binary is not available here."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import pytest
from app_supervisor import Supervisor
from notebook_server import PREFIX, Session

from hpchub.model.apps import RstudioApp
from hpchub.remote import app, rstudio

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = Path(__file__).parents[2] / "molecule" / "workbench" / "files"
RSERVER = str(FILES / "rserver")
USER = pwd.getpwuid(os.getuid()).pw_name
HELP = subprocess.run([sys.executable, RSERVER, "--help"], check=True, capture_output=True, text=True).stdout
needs_r = pytest.mark.skipif(
    not shutil.which("R") and os.environ.get("HPCHUB_SERVERS") != "required",
    reason="this machine lacks R (Debian's package r-base-core)",
)


def definition(**more: Any) -> dict[str, Any]:
    entry = {"name": "demo", "display_name": "Demo", "kind": "rstudio", "server": RSERVER, "start_limit": 20, **more}
    return RstudioApp.model_validate(entry).for_session()


# -- the command line of rserver


def test_command_is_built_from_the_entry() -> None:
    found = definition(server="rserver", arguments=["--www-thread-pool-size=4"], r="/opt/R/bin/R", local_ports=True)
    assert found["command"] == ["rserver", "--www-thread-pool-size=4"]
    assert (found["r"], found["local_ports"], found["keeps_prefix"]) == ("/opt/R/bin/R", True, False)
    assert RstudioApp(name="rstudio", kind="rstudio").program() == ["/usr/lib/rstudio-server/bin/rserver"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("  --www-socket arg\n  --www-port arg (=8787)   the port for --www-address\n", {"www-socket", "www-port"}),
        ("  -u [ --user-identity ] arg (=alice)\n", {"user-identity"}),
        ("general:\n  --help                print help message\n", {"help"}),
        ("ERROR: --www-socket is unknown", set()),
    ],
    ids=["long", "short", "flag", "message"],
)
def test_options_are_read_from_the_help(text: str, names: set[str]) -> None:
    assert rstudio.known_options(text) == names


WANTED = {"www-socket": "/s", "auth-none": "1", "www-same-site": "lax", "server-pid-file": "/p"}


@pytest.mark.parametrize(
    ("lacks", "found"),
    [
        ((), ["--www-socket=/s", "--auth-none=1", "--www-same-site=lax", "--server-pid-file=/p"]),
        (("www-same-site", "server-pid-file"), ["--www-socket=/s", "--auth-none=1"]),
        (("www-socket",), "--www-socket"),
        (("www-socket", "auth-none"), "--www-socket, --auth-none"),
    ],
    ids=["2024.12", "without-harmless-ones", "2024.09", "much-older"],
)
def test_options_depend_on_the_version(lacks: tuple[str, ...], found: list[str] | str) -> None:
    known = rstudio.known_options(HELP) - set(lacks)
    if isinstance(found, list):
        assert rstudio.arguments_of(WANTED, known) == found
        return
    with pytest.raises(app.AppError) as caught:
        rstudio.arguments_of(WANTED, known)
    assert (caught.value.text, caught.value.values) == ("too_old", {"options": found, "version": "2024.12"})


def test_options_that_may_be_missing_protect_nothing() -> None:
    protecting = {"www-socket", "www-proxy-localhost", "server-data-dir", "secure-cookie-key-file", "rsession-path"}
    assert not rstudio.HARMLESS & (protecting | {"database-config-file", "www-root-path", "auth-none"})


# -- requests


@pytest.mark.parametrize(
    ("lines", "address"),
    [
        ([], b"http://hub.example/user/alice/demo/x?y=z"),
        ([b"X-Forwarded-Proto: https,http", b"X-Forwarded-Port: 443,80"], b"https://hub.example/user/alice/demo/x?y=z"),
        ([b"X-Forwarded-Proto: javascript"], b"http://hub.example/user/alice/demo/x?y=z"),
        ([b"Forwarded: host=evil.example;proto=https"], b"http://hub.example/user/alice/demo/x?y=z"),
        ([b"X-RStudio-Request: https://evil.example/"], b"http://hub.example/user/alice/demo/x?y=z"),
        ([b"x-rstudio-root-path: /hub"], b"http://hub.example/user/alice/demo/x?y=z"),
    ],
    ids=["plain", "proxies", "other-scheme", "forwarded", "forged-request", "forged-root"],
)
def test_address_in_the_browser_is_the_only_one_that_rserver_learns(lines: list[bytes], address: bytes) -> None:
    head = b"\r\n".join([b"GET /x?y=z HTTP/1.1", b"Host: hub.example", *lines, b"Cookie: a=b", b"", b""])
    found = rstudio.with_address(head, "/user/alice/demo/").split(b"\r\n")
    assert found[0] == b"GET /x?y=z HTTP/1.1"
    assert sorted(found[1:]) == sorted(
        [b"X-RStudio-Request: " + address, b"Host: hub.example", b"Cookie: a=b", b"", b""]
    )


# -- files


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The files of a site that uses RStudio as a service, too."""
    directory = tmp_path / "site"
    (directory / "profiles").mkdir(parents=True)
    for name in ("rsession.conf", "session-rpc-key", "secure-cookie-key", "database.conf", "logging.conf"):
        (directory / name).write_text("of the site")
    (directory / "rstudio-prefs.json").write_text('{"save_workspace": "never", "terminal_websockets": true}')
    return directory


def test_files_of_the_site_are_used_but_not_its_keys(tmp_path: Path, site: Path) -> None:
    rstudio.prepare(tmp_path, site)
    own = tmp_path / "etc"
    assert {each.name for each in own.iterdir() if each.is_symlink()} == {"rsession.conf", "profiles"}
    for name in ("session-rpc-key", "secure-cookie-key"):
        assert re.fullmatch("[0-9a-f]{64}", (own / name).read_text()), name
    assert str(tmp_path / "data") in (own / "database.conf").read_text()
    assert "logger-type=stderr" in (own / "logging.conf").read_text()
    preferences = json.loads((own / "rstudio-prefs.json").read_text())
    assert preferences == {"save_workspace": "never", "terminal_websockets": False}


@pytest.mark.parametrize("text", ["", "[1]", "{", None], ids=["empty", "list", "broken", "missing"])
def test_preferences_that_cannot_be_read_are_left_out(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "rstudio-prefs.json").write_text(text)
    assert rstudio.preferences_of(tmp_path) == {}


def test_keys_are_new_for_each_start_and_no_links(tmp_path: Path) -> None:
    seen = set()
    for _ in range(2):
        rstudio.prepare(tmp_path, tmp_path / "none")
        seen |= {(tmp_path / "etc" / name).read_text() for name in ("session-rpc-key", "secure-cookie-key")}
    assert len(seen) == 4
    for path in (tmp_path / "etc").iterdir():
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600, path
    other = tmp_path / "other"
    (tmp_path / "link").symlink_to(other)
    rstudio.write(tmp_path / "link", "x")
    assert not other.exists()


@pytest.mark.parametrize(
    ("length", "user", "is_own"),
    [
        (40, "alice", True),
        (58, "alice", True),
        (59, "alice", False),
        (60, "a", True),
        (61, "a", False),
        (55, "a" * 32, False),
        (200, "alice", False),
    ],
    ids=["short", "longest", "too-long", "longest-of-all", "too-long-for-rserver", "long-name", "much-too-long"],
)
def test_directory_is_short_enough_for_the_sockets(length: int, user: str, is_own: bool) -> None:
    wanted = Path("/" + "x" * (length - 1))
    found = rstudio.state_directory(wanted, user)
    try:
        assert (found == wanted) == is_own
        if not is_own:
            assert (stat.S_IMODE(found.stat().st_mode), len(str(found)) < 40) == (0o700, True)
    finally:
        if found != wanted:
            found.rmdir()
    for path in ("data/rstudio-rserver/session-server-rpc.socket", f"data/rstudio-rsession/{user}-d"):
        assert len(str(found / path)) <= 107


# -- the environment of R

GIVEN = {
    "PATH": "/bin",
    "HOME": "/passwd",
    "R_HOME": "/usr/lib/R",
    "RS_SESSION_TMP_DIR": "/s",
    "HPCHUB_LIBRARIES": "/l",
}


@pytest.mark.parametrize(
    ("saved", "given", "expected"),
    [
        ({"PATH": "/module/bin"}, {}, {"PATH": "/module/bin"}),
        ({"HOME": "/home/alice", "R_LIBS": "/libs"}, {}, {"HOME": "/home/alice", "R_LIBS": "/libs"}),
        ({"R_HOME": "/old", "RS_SESSION_TMP_DIR": "/old"}, {}, {"R_HOME": "/usr/lib/R", "RS_SESSION_TMP_DIR": "/s"}),
        ({"LD_LIBRARY_PATH": "/m:/l"}, {}, {"LD_LIBRARY_PATH": "/l:/m"}),
        ({}, {}, {"LD_LIBRARY_PATH": "/l", "HPCHUB_LIBRARIES": None}),
        ({}, {"HPCHUB_LIBRARIES": ""}, {"LD_LIBRARY_PATH": None}),
        ({"BASH_FUNC_module%%": "() {  :\n}"}, {}, {"BASH_FUNC_module%%": "() {  :\n}"}),
    ],
    ids=["modules", "users-own", "of-rserver", "libraries", "libraries-of-r", "no-libraries", "function"],
)
def test_r_gets_the_environment_of_the_session(
    saved: dict[str, str], given: dict[str, str], expected: dict[str, str | None]
) -> None:
    found = rstudio.session_environment(saved, {**GIVEN, **given})
    assert {name: found.get(name) for name in expected} == expected


def test_environment_is_read_as_env_writes_it(tmp_path: Path) -> None:
    text = subprocess.run(
        ["env", "-i", "A=x=y\nz", "B=\udcff", "SHLVL=2", "env", "-0"], check=True, capture_output=True
    )
    (tmp_path / "environment").write_bytes(text.stdout)
    assert rstudio.read_environment(tmp_path / "environment") == {"A": "x=y\nz", "B": "\udcff"}


@pytest.mark.parametrize("place", ["beside", "on-path", "none"])
def test_rsession_is_beside_rserver_or_on_the_path(tmp_path: Path, place: str) -> None:
    for name in ("installed", "linked", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "installed" / "rserver").touch()
    link = tmp_path / "linked" / "rserver"
    link.symlink_to(tmp_path / "installed" / "rserver")
    expected = tmp_path / ("installed" if place == "beside" else "other") / "rsession"
    if place != "none":
        expected.touch(mode=0o755)
        assert rstudio.rsession_of(str(link), {"PATH": str(tmp_path / "other")}) == str(expected)
        return
    with pytest.raises(app.AppError) as caught:
        rstudio.rsession_of(str(link), {"PATH": str(tmp_path / "other")})
    assert caught.value.text == "not_installed"


# -- with R


class Browser:
    """A browser of RStudio's pages. It keeps cookies for their path.

    Args:
        found: The supervisor.
        headers: Headers of all requests, as proxies add them.
    """

    def __init__(self, found: Supervisor, **headers: str) -> None:
        self.found = found
        self.headers = headers
        self.cookies: dict[str, str] = {}
        self.attributes = ""

    def send(self, method: str, path: str, body: str = "") -> tuple[int, dict[str, str], str]:
        """Return the status, the headers and the body of an answer."""
        headers = {"Host": "hub.example", "Connection": "close", "Content-Length": str(len(body)), **self.headers}
        headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        data = b""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(30)
            sock.connect(str(self.found.socket))
            sock.sendall(f"{method} {path} HTTP/1.1\r\n{lines}\r\n{body}".encode())
            while chunk := sock.recv(65536):
                data += chunk
        head, _, content = data.decode().partition("\r\n\r\n")
        found = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
        if "Set-Cookie" in found:
            cookie, _, self.attributes = found["Set-Cookie"].partition("; ")
            name, _, value = cookie.partition("=")
            self.cookies[name] = value
        return int(head.split()[1]), found, content

    def open(self) -> str:
        """Open the page, follow its redirects, and return its content."""
        end = time.monotonic() + 30
        path = "/"
        followed: list[str] = []
        while time.monotonic() < end and len(followed) < 5:
            status, headers, content = self.send("GET", path)
            if status == 503:
                time.sleep(0.05)
                continue
            if status != 302:
                return content
            followed.append(headers["Location"])
            address = urlsplit(followed[-1])
            prefix = f"{PREFIX}demo/"
            assert address.netloc == "hub.example", followed
            assert address.path.startswith(prefix), followed
            path = "/" + address.path.removeprefix(prefix) + (f"?{address.query}" if address.query else "")
        raise AssertionError(followed or "the page does not appear")

    def call(self, method: str, *parameters: str) -> Any:
        """Call a procedure of the page, and return its result."""
        answer = json.loads(self.send("POST", f"/rpc/{method}", json.dumps({"params": parameters}))[2])
        assert "error" not in answer, answer
        return answer["result"]

    def r(self, code: str) -> str:
        """Run R code, and return what it prints."""
        return str(self.call("console_input", code)).strip()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """A function that starts RStudio, which ends with the test."""
    started: list[Supervisor] = []
    places: list[Path] = []
    home = tmp_path / "home"
    home.mkdir()

    def run(variables: dict[str, str] | None = None, shell: list[str] | None = None, **more: Any) -> Supervisor:
        found = {**definition(**more), "shell": shell or []}
        places.append(place := Path(tempfile.mkdtemp(dir="/tmp")))  # short, as in a session
        session = {"HOME": str(home), "JUPYTERHUB_SERVICE_PREFIX": PREFIX, **(variables or {})}
        started.append(Supervisor(rstudio, place, found, **session))
        return started[-1]

    yield run
    for each in started:
        each.close()
    for place in places:
        shutil.rmtree(place)


def processes(found: Supervisor, name: str = "") -> list[int]:
    """Return the processes of RStudio, or those with this name."""
    return [
        each
        for each in app.descendants(found.process.pid)
        if app.status_of(each)[0] != "Z" and name in Path(f"/proc/{each}/comm").read_text()
    ]


def arguments(found: Supervisor) -> dict[str, str]:
    """Return the arguments of ``rserver``."""
    (server,) = processes(found, "rserver")
    words = Path(f"/proc/{server}/cmdline").read_text().split("\0")
    return dict(word.split("=", 1) for word in words if "=" in word)


@needs_r
def test_user_computes_in_r_and_a_reload_keeps_the_workspace(start: Any, tmp_path: Path) -> None:
    browser = Browser(start())
    assert "Console" in browser.open()
    assert browser.r("x <- 6 * 7; x") == "[1] 42"
    assert "Error" in browser.r("stop('no')")
    (tmp_path / "home" / "data.csv").touch()
    assert "data.csv" in browser.call("list_files")
    again = Browser(browser.found)
    again.open()
    assert again.r("x + 1") == "[1] 43"
    assert "> x <- 6 * 7; x\n[1] 42" in again.call("client_init")


@needs_r
def test_addresses_work_behind_two_proxies(start: Any) -> None:
    """Each proxy adds its own scheme and port. Without care, RStudio sends the browser to ``https,http://…:443,80``."""
    chain = {
        "X-Forwarded-Proto": "https,http",
        "X-Forwarded-Port": "443,80",
        "X-Forwarded-Host": "hub.example",
        "X-Forwarded-For": "192.0.2.1,127.0.0.1",
    }
    browser = Browser(start(), **chain)
    assert "Console" in browser.open()
    assert browser.attributes == f"Path={PREFIX}demo; HttpOnly; SameSite=Lax; Secure"


@needs_r
def test_modules_and_the_users_own_settings_are_visible_in_r_and_no_secret_is(start: Any, tmp_path: Path) -> None:
    home = tmp_path / "home"
    library = home / "library"
    library.mkdir()
    (home / ".Renviron").write_text("FROM_RENVIRON=yes\n")
    session = {
        "JUPYTERHUB_API_TOKEN": "t0ken-of-the-session",
        "JPY_API_TOKEN": "t0ken-of-the-session",
        "HPCHUB_FILE_APPS": "t0ken-of-the-session",
        "R_LIBS": "/nonexistent",
        "USER": "somebody-else",
    }
    modules = f"export FROM_MODULE='a b' R_LIBS={library} PATH=\"/module/bin:$PATH\" LD_LIBRARY_PATH=/module/lib"
    shell = ["/bin/bash", "-c", f'{modules}; module() {{ :; }}; export -f module; exec "$@"', "sh"]
    browser = Browser(start(session, shell, environment={"OWN": "{home}/x"}))
    browser.open()
    names = ("FROM_MODULE", "FROM_RENVIRON", "OWN", "HOME", "USER")
    seen = [browser.r(f"cat(Sys.getenv('{name}'))") for name in names]
    assert seen == ["a b", "yes", f"{home}/x", str(home), USER]
    assert browser.r("cat(.libPaths()[1])") == str(library)
    assert browser.r("cat(startsWith(Sys.getenv('PATH'), '/module/bin:'))") == "TRUE"
    assert "/module/lib" in browser.r("cat(Sys.getenv('LD_LIBRARY_PATH'))")
    assert "t0ken" not in browser.r("print(Sys.getenv())")
    for each in processes(browser.found):
        assert b"t0ken" not in Path(f"/proc/{each}/environ").read_bytes(), each
        assert b"t0ken" not in Path(f"/proc/{each}/cmdline").read_bytes(), each


@needs_r
def test_everything_is_in_a_directory_that_only_the_user_can_enter(start: Any, tmp_path: Path) -> None:
    browser = Browser(start())
    browser.open()
    browser.r("1")
    private = browser.found.directory / "demo"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert stat.S_IMODE((private / "app").stat().st_mode) == 0o600
    # rserver opens this directory for everybody, so the one around it must be closed.
    assert stat.S_IMODE((private / "data").stat().st_mode) == 0o1777
    sockets = {str(each) for each in private.rglob("*") if each.is_socket()}
    assert {Path(each).name for each in sockets} == {"app", "socket", "session-server-rpc.socket", f"{USER}-d"}
    for path in [each for each in private.rglob("*") if each.is_file() and private / "data" not in each.parents]:
        assert not stat.S_IMODE(path.lstat().st_mode) & 0o077 or path.is_symlink(), path
    assert app.ports_of(processes(browser.found)) == []
    assert {each.name for each in (private / "data").iterdir()} >= {"rstudio-os.sqlite", "rstudio-rsession"}
    assert not (tmp_path / "home" / ".cache").exists()


@needs_r
def test_two_sessions_of_a_user_do_not_meet(start: Any) -> None:
    first, second = Browser(start()), Browser(start())
    for number, browser in enumerate((first, second)):
        browser.open()
        browser.r(f"x <- {number}")
    assert (first.r("x"), second.r("x")) == ("[1] 0", "[1] 1")
    # The cookie of one is worth nothing in the other.
    second.cookies = dict(first.cookies)
    assert second.send("POST", "/rpc/client_init", "{}")[2] == '{"error": {"code": 6, "message": "Unauthorized"}}'


@needs_r
def test_long_directory_is_replaced_and_removed(start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "long.py"
    program.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(rstudio.__file__).parent)!r})\nimport app, rstudio\n"
        "rstudio.LONGEST_DIRECTORY = 1\n"
        "if sys.argv[1:2] == [rstudio.SESSION]:\n    rstudio.run_session(rstudio.Path(sys.argv[2]), sys.argv[3:])\n"
        "sys.exit(app.main(rstudio.RStudio))\n"
    )
    monkeypatch.setattr(rstudio, "__file__", str(program))
    browser = Browser(start())
    browser.open()
    assert browser.r("6 * 7") == "[1] 42"
    made = Path(arguments(browser.found)["--server-data-dir"]).parent
    assert (made.parent, made.name.startswith("hpchub-")) == (Path("/tmp"), True)
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert not list((browser.found.directory / "demo").glob("data"))
    browser.found.close()
    assert not made.exists()


@needs_r
def test_ports_of_the_node_are_shown_on_request_only(start: Any) -> None:
    for allowed in (False, True):
        found = start(local_ports=allowed)
        found.wait()
        assert arguments(found)["--www-proxy-localhost"] == str(int(allowed))


@needs_r
def test_port_that_r_opens_does_not_end_rstudio(start: Any, tmp_path: Path) -> None:
    program = tmp_path / "fast.py"
    program.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(rstudio.__file__).parent)!r})\nimport app, rstudio\n"
        "app.WATCH_INTERVAL = 0.1\nsys.exit(app.main(rstudio.RStudio))\n"
    )
    module = type(sys)("fast")
    module.__file__ = str(program)
    place = tmp_path / "fast"
    place.mkdir()
    session = {"HOME": str(tmp_path / "home"), "JUPYTERHUB_SERVICE_PREFIX": PREFIX}
    found = Supervisor(module, place, definition(), **session)
    try:
        browser = Browser(found)
        browser.open()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        browser.r(f"s <- serverSocket({port}L)")
        assert [each for each in app.ports_of(processes(found)) if each.endswith(f":{port}")]
        time.sleep(0.5)
        assert browser.r("6 * 7") == "[1] 42"
    finally:
        found.close()


@pytest.mark.parametrize(
    ("fails", "more", "words"),
    [
        (
            "",
            {"server": "/nonexistent/rserver"},
            "Demo is not installed on {node}: the program /nonexistent/rserver was",
        ),
        (
            "",
            {"server": "no-such-rserver"},
            "Demo is not installed on {node}: the program no-such-rserver was not found",
        ),
        ("", {"server": "/bin/false"}, "Demo has stopped with exit code 1 before it was ready"),
        ("", {"server": "/bin/true"}, "its version lacks --server-daemonize, --server-data-dir"),
        ("", {"arguments": ["--no-such-option=1"]}, "unrecognised option &#x27;--no-such-option&#x27; on command line"),
        ("exit", {}, "Demo has stopped with exit code 1 before it was ready"),
        ("tcp", {}, "Demo was stopped, because it listened on 0.0.0.0:"),
        ("silent", {"start_limit": 3}, "Demo did not answer within 3 seconds"),
        ("secret", {}, "secret=***"),
        ("without=www-socket", {}, "because its version lacks --www-socket. It needs version 2024.12 or later"),
        ("without=www-same-site", {}, ""),
        ("module", {}, "application demo: module load none/1 failed on"),
    ],
    ids=[
        *("not installed", "not on the PATH", "exits at once", "another program", "wrong argument", "fails", "port"),
        *("never answers", "prints a secret", "too old", "lacks something harmless", "module that does not exist"),
    ],
)
@needs_r
def test_failure_is_explained_in_words(start: Any, fails: str, more: dict[str, Any], words: str) -> None:
    name, _, lacks = fails.partition("=")
    variables = {"STANDIN_WITHOUT": lacks} if lacks else {"STANDIN_FAILS": name}
    shell = None
    if fails == "module":
        shell = definition(modules=["none/1"])["shell"]
        shell[3] = "module() { [ $1 != load ]; }\n" + shell[3]
    found = start(variables, shell, **more)
    status, page = found.wait()
    if not words:
        assert status == 302, page
        return
    assert (status, words.format(node=socket.gethostname()) in page) == (502, True), page
    assert "s3cret" not in page
    assert "abc123" not in page
    assert processes(found) == []


@needs_r
def test_end_of_rserver_is_shown_and_it_can_start_again(start: Any) -> None:
    browser = Browser(start())
    browser.open()
    browser.r("1")
    os.kill(processes(browser.found, "rserver")[0], signal.SIGTERM)
    end = time.monotonic() + 20
    while browser.found.get()[0] in (0, 302):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert "Demo has ended" in browser.found.wait()[1]
    assert processes(browser.found) == []
    assert browser.found.get(f"/?{app.AGAIN}")[0] == 503
    assert "Console" in browser.open()


@needs_r
def test_r_ends_with_the_session_and_keeps_its_workspace(start: Any) -> None:
    browser = Browser(start())
    browser.open()
    browser.r("x <- 6 * 7")
    before = processes(browser.found)
    assert processes(browser.found, "rsession")
    browser.found.close()
    assert not [each for each in before if app.status_of(each)[0] != "Z"]
    later = Browser(start())
    later.open()
    assert later.r("x") == "[1] 42"


# -- the stand-in


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--no-such-option=1"], "unrecognised option '--no-such-option' on command line"),
        (["8787"], "too many positional options have been specified on the command line"),
        (["--auth-none=maybe"], "the argument ('maybe') for option '--auth-none' is invalid"),
        (["--auth-none=1", "--auth-none=1"], "option '--auth-none' cannot be specified more than once"),
        (["--www-port"], "the required argument for option '--www-port' is missing"),
        (["--secure-cookie-key-file={}/short"], "is not strong enough"),
        (["--database-config-file={}/other.conf"], "Invalid database provider specified in"),
        (["--database-config-file={}/none.conf"], "Could not update database"),
        (["--rsession-which-r={}/none"], "Unable to find an installation of R on the system"),
    ],
    ids=["unknown", "positional", "value", "twice", "no-value", "weak-key", "database", "directory", "no-r"],
)
def test_stand_in_refuses_what_rserver_refuses(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "short").write_text("short")
    (tmp_path / "other.conf").write_text("provider=oracle\n")
    (tmp_path / "none.conf").write_text(f"provider=sqlite\ndirectory={tmp_path}/none\n")
    (tmp_path / "good.conf").write_text(f"provider=sqlite\ndirectory={tmp_path}\n")
    usual = {
        "server-data-dir": str(tmp_path / "data"),
        "secure-cookie-key-file": str(tmp_path / "key"),
        "database-config-file": str(tmp_path / "good.conf"),
        "www-socket": str(tmp_path / "s"),
    }
    given = [word.format(tmp_path) for word in arguments]
    words = [f"--{name}={value}" for name, value in usual.items() if not any(f"--{name}=" in each for each in given)]
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "RSTUDIO_CONFIG_DIR": str(tmp_path)}
    done = subprocess.run([RSERVER, *given, *words], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, message in done.stderr) == (1, True), done.stderr


@needs_r
def test_stand_in_accepts_only_cookies_that_it_has_signed(start: Any) -> None:
    browser = Browser(start())
    browser.open()
    signed = browser.cookies["user-id"]
    name, expires, _ = signed.split("|")
    for forged in (
        "",
        USER,
        f"{USER}|x|x",
        signed[:-8] + "AAAAA%3D",
        f"root2|{signed.partition('|')[2]}",
        f"{name}|{expires}",
    ):
        browser.cookies["user-id"] = forged
        assert "Unauthorized" in browser.send("POST", "/rpc/client_init", "{}")[2], forged
        assert browser.send("GET", "/")[0] == 302, forged


# -- in a session


@needs_r
def test_notebook_server_offers_rstudio(session: Session) -> None:
    session.variables["FILE:apps"] = json.dumps({"apps": [definition()]})
    session.start().wait_for_report()
    end = time.monotonic() + 40
    while (answer := session.request("demo/"))[0] == 503:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert answer[0] == 302
    assert session.request("demo/auth-sign-in")[0] == 302
    shown = session.request("server-proxy/servers-info")[1]["server_processes"]
    assert [(each["name"], each["launcher_entry"]["path_info"]) for each in shown] == [("demo", "demo/")]


@needs_r
def test_end_of_the_notebook_server_ends_r_and_keeps_its_workspace(
    session: Session, request: pytest.FixtureRequest
) -> None:
    session.variables["FILE:apps"] = json.dumps({"apps": [definition()]})
    place = Path(tempfile.mkdtemp(dir="/tmp"))  # short, as on a node
    request.addfinalizer(lambda: shutil.rmtree(place))
    session.start({"TMPDIR": str(place)}).wait_for_report()
    session.request("demo/")
    (made,) = place.glob("hpchub-*/**/demo/socket")
    browser = Browser(cast("Supervisor", SimpleNamespace(socket=made)))
    browser.open()
    browser.r("x <- 6 * 7")
    assert session.process
    before = app.descendants(session.process.pid)
    session.process.terminate()
    session.process.wait(20)
    end = time.monotonic() + 20
    while any(app.status_of(each)[0] != "Z" for each in before):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert (session.home / ".local" / "share" / "rstudio" / "suspended-session-data" / "environment").exists()
