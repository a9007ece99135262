"""The proxy ``proxy.mjs``, as a process between a client and two servers: a hub and alice's notebook server."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote

import pytest
import yaml
from bench.load.shared import proxy
from jupyterhub.httpclient import JupyterHubHTTPClient

from hpchub.hub.name_routes import HELD
from hpchub.hub.proxy import HubProxy
from hpchub.hub.versions import ask_proxy, differences

if TYPE_CHECKING:
    from collections.abc import Iterator

ROLES = Path(__file__).resolve().parents[2] / "roles"
API_TOKEN = "a" * 32  # the form of a token that a user makes for a program
PAGE_TOKEN = "p" * 30  # the form of a token of a browser, which JupyterHub makes with OAuth
REFUSALS = (200, 204, 304, 400, 401, 403, 404, 500, 503)


class Server(BaseHTTPRequestHandler):
    """A server that answers with the request, accepts upgrades at ``/ws``, and refuses them at ``/refuse/STATUS``."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Write no log."""

    def address_string(self) -> str:
        """Return a constant, because a Unix socket's client has no address."""
        return "client"

    def do_GET(self) -> None:
        """Answer a request."""
        if "/ws" in self.path and self.headers.get("Upgrade"):
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            self.end_headers()
            self.wfile.write((json.dumps([self.path, dict(self.headers)]) + "\n").encode())
            while data := self.rfile.read1():
                self.wfile.write(data)
            self.close_connection = True
            return
        found = re.search(r"/refuse/(\d+)", self.path)
        body = json.dumps([self.path, {name.lower(): value for name, value in self.headers.items()}]).encode()
        self.send_response(int(found[1]) if found else 200)
        self.send_header("Connection", "keep-alive")
        self.send_header("Server-Kind", "hub" if isinstance(self.server, UnixServer) else "notebook")
        if not found or int(found[1]) not in (204, 304):
            if "chunked" in self.path:
                self.send_header("Transfer-Encoding", "chunked")
                body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
            else:
                self.send_header("Content-Length", str(len(body)))
        else:
            body = b""
        self.end_headers()
        self.wfile.write(body)


class UnixServer(ThreadingHTTPServer):
    """An HTTP server on a Unix socket."""

    address_family = socket.AF_UNIX
    server_name, server_port = "hub", 0

    def server_bind(self) -> None:
        """Bind the socket."""
        self.socket.bind(self.server_address)

    def get_request(self) -> Any:
        """Return a connection, with an address as the base class expects."""
        connection, _ = super().get_request()
        return connection, ("client", 0)


class Proxy:
    """A running proxy with two routes: ``/user/alice`` to the notebook server, and the rest to the hub."""

    def __init__(self, directory: Path, log: Path, process: subprocess.Popen[bytes], program: Path) -> None:
        self.socket = directory / "proxy.sock"
        self.api = directory / "api.sock"
        self.log = log
        self.process = process
        self.program = program  # a link, as on the hub host
        self.opened: list[socket.socket | BinaryIO] = []

    def connect(self, path: Path | None = None) -> tuple[socket.socket, BinaryIO]:
        """Return a connection to the public socket, or to another one, and the stream that arrives."""
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10)
        client.connect(str(path or self.socket))
        stream = client.makefile("rb")
        self.opened += [stream, client]
        return client, stream

    def disconnect(self) -> None:
        """Close all connections."""
        for opened in self.opened:
            opened.close()
        self.opened.clear()

    def send(self, target: str, *headers: str, method: str = "GET", body: bytes = b"", api: bool = False) -> Answer:
        """Send a request on a new connection, and return the answer together with its connection."""
        client, stream = self.connect(self.api if api else None)
        lines = [f"{method} {target} HTTP/1.1", "Host: hub.example.org", *headers]
        if body and not any("length" in header.lower() for header in headers):
            lines.append(f"Content-Length: {len(body)}")
        client.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        return Answer(client, stream)

    def upgrade(self, target: str, *headers: str, method: str = "GET", body: bytes = b"") -> Answer:
        """Ask for a websocket."""
        return self.send(target, "Upgrade: websocket", "Connection: Upgrade", *headers, method=method, body=body)

    def control(self, method: str, target: str, body: Any, token: str = "secret") -> int:
        """Send a request to the proxy's API and return the status."""
        text = json.dumps(body).encode()
        return self.send(target, f"Authorization: token {token}", method=method, body=text, api=True).status


class Answer:
    """The status and headers of an answer, and its connection."""

    def __init__(self, client: socket.socket, stream: BinaryIO) -> None:
        self.client = client
        self.stream = stream
        first = self.stream.readline().split()
        self.status = int(first[1]) if first else 0
        self.headers: dict[str, str] = {}
        while line := self.stream.readline().strip():
            name, _, value = line.decode().partition(":")
            self.headers[name.lower()] = value.strip()

    def body(self) -> Any:
        """Return the request that the server has received, as its path and its headers."""
        if "content-length" in self.headers:
            text = self.stream.read(int(self.headers["content-length"]))
        else:
            text = self.stream.readline()
        path, headers = json.loads(text)
        return path, {name.lower(): value for name, value in headers.items()}

    def closed(self, seconds: float = 3) -> bool:
        """Return whether the proxy closes the connection within some seconds. What arrives before does not matter."""
        self.client.settimeout(seconds)
        try:
            while self.stream.read(1):
                pass
        except TimeoutError:
            return False
        return True

    def echoes(self, text: bytes = b"still there\n") -> bool:
        """Return whether the websocket sends back what it receives."""
        self.client.settimeout(3)
        try:
            self.client.sendall(text)
            return self.stream.readline() == text
        except OSError:
            return False


@pytest.fixture
def running(process: Proxy) -> Iterator[Proxy]:
    """Return the proxy, and close the test's connections afterwards."""
    yield process
    process.disconnect()


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Run the proxy, a hub and a notebook server."""
    directory = tmp_path_factory.mktemp("proxy")
    with Path(tempfile.gettempdir(), f"hpchub-test-proxy-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        program = proxy()
    hub = UnixServer(str(directory / "hub.sock"), Server)  # type: ignore[arg-type]
    notebook = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    for server in (hub, notebook):
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("servers.pem", "proxy.pem"):
        (directory / name).write_text("")  # no route of these tests uses TLS
    log = directory / "log"
    link = directory / "proxy.mjs"
    link.symlink_to(program / "proxy.mjs")
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [
                *(program / "bin" / "node", link),
                *("--socket", directory / "proxy.sock", "--api-socket", directory / "api.sock"),
                *("--default-target", "http+unix://" + quote(str(directory / "hub.sock"), safe="")),
                *("--tls-directory", directory),
                *("--error-path", directory),
            ],
            env={**os.environ, "CONFIGPROXY_AUTH_TOKEN": "secret"},
            stdout=stream,
            stderr=stream,
        )
    found = Proxy(directory, log, process, link)
    try:
        for _ in range(100):
            if found.socket.exists() and found.api.exists():
                break
            time.sleep(0.1)
        else:
            pytest.fail(log.read_text())
        (directory / "error.html").write_text("an error")
        for language in ("en", "de"):
            (directory / language).mkdir()
            (directory / language / "error.html").write_text(f"an error ({language})")
        target = {"target": f"http://127.0.0.1:{notebook.server_address[1]}", "user": "alice"}
        assert found.control("POST", "/api/routes/user/alice", target) == 201
        dead = {"target": "http://127.0.0.1:9", "user": "alice"}
        assert found.control("POST", "/api/routes/user/alice/dead", dead) == 201
        assert found.control("POST", "/api/routes/user/nobody", {"target": "https://127.0.0.1:9"}) == 201
        yield found
    finally:
        found.disconnect()
        process.kill()
        process.wait()
        for server in (hub, notebook):
            server.shutdown()
            server.server_close()


# -- connections that the web server uses again


@pytest.mark.parametrize("place", ["/hub", "/user/alice"])
@pytest.mark.parametrize("status", REFUSALS)
@pytest.mark.parametrize("form", ["", "/chunked"])
def test_refused_upgrade_closes_its_connection_and_says_so(running: Proxy, place: str, status: int, form: str) -> None:
    """Hazard A5. The web server would otherwise send somebody else's request on this connection."""
    answer = running.upgrade(f"{place}/refuse/{status}{form}")
    assert (answer.status, answer.headers["connection"]) == (status, "close")
    assert "keep-alive" not in answer.headers
    assert answer.closed()


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/user/alice/dead/x", 503),
        ("/user/nobody/x", 500),  # the hub always names the user of a route
        ("/user/alice/%ff", 400),
        ("/hub/static/%c3%28", 400),
    ],
)
def test_upgrade_that_the_proxy_refuses_closes_its_connection_and_says_so(
    running: Proxy, target: str, status: int
) -> None:
    answer = running.upgrade(target)
    assert (answer.status, answer.headers.get("connection")) == (status, "close")
    assert answer.closed()


@pytest.mark.parametrize(
    ("method", "headers", "body"),
    [
        ("POST", [], b""),
        ("GET", [], b"GET /hub/stolen HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("GET", ["Transfer-Encoding: chunked"], b"0\r\n\r\n"),
        ("GET", ["Content-Length: 100"], b""),
    ],
    ids=["post", "body", "chunked", "body-that-never-comes"],
)
@pytest.mark.parametrize("place", ["/hub/ws", "/user/alice/ws"])
def test_upgrade_with_a_body_is_refused_at_once(
    running: Proxy, place: str, method: str, headers: list[str], body: bytes
) -> None:
    """The server would take the next request, which can be somebody else's, for the rest of this one."""
    answer = running.upgrade(place, *headers, method=method, body=body)
    assert (answer.status, answer.headers.get("connection")) == (400, "close")
    assert answer.closed()


@pytest.mark.parametrize(
    ("headers", "page"),
    [
        ([], "an error"),
        (["Accept-Language: de-AT,de;q=0.9,en;q=0.8"], "an error (de)"),
        (["Accept-Language: en;q=0.2, de;q=0.5"], "an error (de)"),
        (["Accept-Language: fr, den, *"], "an error"),
        (["Accept-Language: ../de"], "an error"),
        (["Accept-Language: de", "Cookie: a=b; hpchub-language=en"], "an error (en)"),
        (["Accept-Language: de", "Cookie: hpchub-language=fr"], "an error (de)"),
        (["Cookie: hpchub-language=de/../en"], "an error"),
    ],
)
def test_error_page_is_in_the_language_that_the_reader_wants(running: Proxy, headers: list[str], page: str) -> None:
    answer = running.send("/user/alice/dead/x", "Connection: close", *headers)
    assert answer.status == 503
    assert f"\n{page}\r\n" in answer.stream.read().decode()


def test_upgrade_to_another_protocol_is_refused_at_once(running: Proxy) -> None:
    answer = running.send("/user/alice/ws", "Upgrade: h2c", "Connection: Upgrade")
    assert (answer.status, answer.headers.get("connection")) == (400, "close")


def test_no_answer_reaches_another_request(running: Proxy) -> None:
    """Refused upgrades and ordinary requests take turns. Each connection is used again unless its answer forbids it."""
    targets = ["/user/alice/refuse/304", "/user/alice/%ff", "/hub/refuse/204", "/user/alice/refuse/404/chunked"]
    client, stream = None, None
    for number in range(200):
        if client is None or stream is None:
            client, stream = running.connect()
        refused = number % 2 == 0
        target = targets[number // 2 % len(targets)] if refused else f"/hub/mark-{number}"
        upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\n" if refused else ""
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n".encode())
        status, close, length = stream.readline(), False, 0
        assert status.startswith(b"HTTP/1.1 "), (number, status)
        while line := stream.readline().strip().lower():
            close |= line == b"connection: close"
            length = int(line.split()[1]) if line.startswith(b"content-length") else length
        if close:
            client, stream = None, None
        elif not refused:
            assert json.loads(stream.read(length))[0] == target


def test_proxy_keeps_idle_connections_longer_than_the_web_server(running: Proxy) -> None:
    """Apache would otherwise send a request on a connection that the proxy is closing."""
    (ttl,) = {int(found) for found in re.findall(r"ttl=(\d+)", macros())}
    answer = running.send("/_chp_healthz")
    assert int(answer.headers["keep-alive"].removeprefix("timeout=")) > ttl + 15


def macros() -> str:
    """Return the part of Apache's configuration that forwards requests."""
    return "".join(path.read_text() for path in (ROLES / "reverse_proxy" / "templates").glob("*.conf.j2"))


@pytest.mark.parametrize("target", ["/hub/static/%ff", "/user/alice/files/%ff", "/hub/%c3%28?x=1", "/%ed%a0%80"])
def test_path_that_is_not_utf_8_is_the_mistake_of_the_client(running: Proxy, target: str) -> None:
    assert running.send(target).status == 400


# -- tokens in addresses


@pytest.mark.parametrize(
    ("target", "path", "token"),
    [
        (f"/user/alice/ws?token={API_TOKEN}", "/user/alice/ws", API_TOKEN),
        (f"/user/alice/ws?token={PAGE_TOKEN}", "/user/alice/ws", PAGE_TOKEN),
        (f"/user/alice/ws?session_id=s-1&token={API_TOKEN}", "/user/alice/ws?session_id=s-1", API_TOKEN),
        (f"/user/alice/ws?%74oken={API_TOKEN}&a=b%26c", "/user/alice/ws?a=b%26c", API_TOKEN),
        ("/user/alice/ws?session_id=a%20b", "/user/alice/ws?session_id=a%20b", None),
        # The web server looks at one of them, and the notebook server could look at the other.
        (f"/user/alice/ws?token={API_TOKEN}&token={PAGE_TOKEN}", "/user/alice/ws", None),
        (f"/user/alice/ws?token={API_TOKEN}&%74oken={PAGE_TOKEN}", "/user/alice/ws", None),
        ("/user/alice/ws?token=a%0d%0aX-Forged:%201", "/user/alice/ws", None),
        ("/user/alice/ws?token=", "/user/alice/ws", None),
    ],
)
def test_token_in_the_address_of_a_websocket_becomes_a_header(
    running: Proxy, target: str, path: str, token: str | None
) -> None:
    answer = running.upgrade(target)
    assert answer.status == 101
    received, headers = answer.body()
    assert (received, headers.get("authorization")) == (path, token and f"token {token}")
    assert "x-forged" not in headers


def test_token_in_a_header_wins(running: Proxy) -> None:
    path, headers = running.upgrade(f"/user/alice/ws?token={PAGE_TOKEN}", f"Authorization: token {API_TOKEN}").body()
    assert (path, headers["authorization"]) == ("/user/alice/ws", f"token {API_TOKEN}")


@pytest.mark.parametrize(
    "target", ["/user/alice/refuse/403", "/user/alice/dead/x", "/hub/refuse/404", "/user/alice/%ff"]
)
def test_log_contains_no_token(running: Proxy, target: str) -> None:
    running.upgrade(f"{target}?token={API_TOKEN}")
    running.send(f"{target}?token={API_TOKEN}")
    log = running.log.read_text()
    assert "/user/alice/dead/x" in log or "dead" not in target
    assert API_TOKEN not in log


def test_log_contains_no_token_from_a_path(running: Proxy) -> None:
    """Some programs ask the hub about their token in this way. The proxy logs the request if the hub is down."""
    for target in (
        "/user/alice/dead/hub/api/authorizations/token/",
        "/user/alice/dead/hub/api/authorizations/cookie/x/",
    ):
        assert running.send(target + API_TOKEN).status == 503
    log = running.log.read_text()
    assert "authorizations/[secret]" in log
    assert API_TOKEN not in log


def test_ordinary_request_cannot_claim_to_be_a_websocket(running: Proxy) -> None:
    """A notebook server would then accept a token in its address, and skip the XSRF check of a POST."""
    _, headers = running.send(f"/user/alice/x?token={PAGE_TOKEN}", "Sec-Fetch-Mode: WebSocket").body()
    assert "sec-fetch-mode" not in headers
    assert "authorization" not in headers
    _, headers = running.send("/user/alice/x", "Sec-Fetch-Mode: cors").body()
    assert headers["sec-fetch-mode"] == "cors"


def test_pattern_of_programs_tokens_is_the_web_servers() -> None:
    pattern = yaml.safe_load((ROLES / "reverse_proxy/vars/main.yml").read_text())["__reverse_proxy_program_token"]
    program = (ROLES / "configurable_http_proxy/files/proxy.mjs").read_text()
    assert f"const PROGRAM = /^(token|bearer) {pattern}$/i;" in program


# -- signing off


def cookie(login: str) -> str:
    return f"Cookie: _xsrf=x; jupyterhub-session-id={login}; jupyterhub-user-alice=y"


def test_sign_off_closes_the_browsers_websockets_and_refuses_its_login(running: Proxy) -> None:
    first = running.upgrade("/user/alice/ws", cookie("first"))
    page = running.upgrade("/user/alice/ws", cookie("first"), f"Authorization: token {PAGE_TOKEN}")
    without = running.upgrade(f"/user/alice/ws?token={PAGE_TOKEN}")
    other = running.upgrade("/user/alice/ws", cookie("other"))
    program = running.upgrade(f"/user/alice/ws?token={API_TOKEN}")
    for answer in (first, page, without, other, program):
        answer.body()
        assert answer.echoes()
    assert running.control("DELETE", "/api/logins", {"user": "alice", "login": "first"}) == 204
    assert [answer.closed() for answer in (first, page, without)] == [True, True, True]
    assert other.echoes()
    assert program.echoes()
    for headers in ((cookie("first"),), (cookie("first"), f"Authorization: token {PAGE_TOKEN}")):
        assert running.send("/user/alice/api/contents", *headers).status == 401
        refused = running.upgrade("/user/alice/ws", *headers)
        assert (refused.status, refused.headers["connection"]) == (401, "close")
    assert running.send("/user/alice/api/contents", cookie("other")).status == 200
    assert running.send("/user/alice/api/contents", f"Authorization: token {API_TOKEN}").status == 200
    assert running.send("/hub/login", cookie("first")).status == 200  # to sign in again


def test_sign_off_without_a_login_closes_all_browsers_of_the_user(running: Proxy) -> None:
    some = running.upgrade("/user/alice/ws", cookie("some"))
    program = running.upgrade("/user/alice/ws", f"Authorization: token {API_TOKEN}")
    for answer in (some, program):
        answer.body()
    assert running.control("DELETE", "/api/logins", {"user": "bob", "login": None}) == 204
    assert some.echoes()
    assert running.control("DELETE", "/api/logins", {"user": "alice", "login": None}) == 204
    assert some.closed()
    assert program.echoes()
    assert running.send("/user/alice/api/contents", cookie("some")).status == 200


async def test_hub_closes_websockets_through_the_proxys_api(running: Proxy) -> None:
    some = running.upgrade("/user/alice/ws", cookie("hub"))
    some.body()
    api = "http+unix://" + quote(str(running.api), safe="")
    await HubProxy(api_url=api, auth_token="secret").end_login("alice", "hub")
    await JupyterHubHTTPClient.loop_instance().close()
    assert some.closed()


async def test_address_of_a_session_that_is_over_leads_to_the_hub(running: Proxy) -> None:
    """The session without a name runs, and its address is shorter."""
    api = "http+unix://" + quote(str(running.api), safe="")
    hub = "http+unix://" + quote(str(running.socket.parent / "hub.sock"), safe="")
    connection = HubProxy(api_url=api, auth_token="secret")
    before = set(await connection.get_all_routes())
    await connection.add_route("/user/alice/genome/", hub, {HELD: True})
    assert set(await connection.get_all_routes()) == before
    await JupyterHubHTTPClient.loop_instance().close()
    for path, server in (
        ("/user/alice/genome/x", "hub"),
        ("/user/alice/genomes/x", "notebook"),
        ("/user/alice/x", "notebook"),
    ):
        answer = running.send(path)
        assert (answer.status, answer.headers["server-kind"]) == (200, server), path


def test_sign_off_requires_the_token_of_the_api(running: Proxy) -> None:
    some = running.upgrade("/user/alice/ws", cookie("more"))
    some.body()
    assert running.control("DELETE", "/api/logins", {"user": "alice", "login": "more"}, token="wrong") == 403
    assert some.echoes()


def test_notebook_server_receives_no_cookie_with_a_token(running: Proxy) -> None:
    _, headers = running.send("/user/alice/x", cookie("x"), f"Authorization: token {PAGE_TOKEN}").body()
    assert "cookie" not in headers
    _, headers = running.send("/user/alice/x", cookie("x")).body()
    assert "jupyterhub-user-alice=y" in headers["cookie"]


def test_end_of_a_websocket_does_not_look_like_an_answer(running: Proxy) -> None:
    answer = running.upgrade("/user/alice/ws", cookie("y"))
    answer.body()
    answer.client.shutdown(socket.SHUT_WR)
    assert answer.stream.read() == b""


def version_url(running: Proxy) -> str:
    return "http+unix://" + quote(str(running.api), safe="")


async def test_proxy_reports_its_version_to_the_hub(running: Proxy) -> None:
    (found,) = await ask_proxy(version_url(running))
    locked = json.loads((ROLES / "configurable_http_proxy/files/package.json").read_text())["dependencies"]
    assert found.packages == locked
    assert differences([found]) == []


async def test_proxy_reports_that_another_version_is_installed(running: Proxy, tmp_path: Path) -> None:
    (tmp_path / "proxy.mjs").write_text("")
    former = running.program.readlink()
    try:
        running.program.unlink()
        running.program.symlink_to(tmp_path / "proxy.mjs")
        (found,) = await ask_proxy(version_url(running))
    finally:
        running.program.unlink()
        running.program.symlink_to(former)
    (skew,) = differences([found])
    assert not skew.is_harmful
    assert "still runs configurable-http-proxy" in str(skew)
