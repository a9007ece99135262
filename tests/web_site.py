"""The web server of a site on the loopback address: Apache with the files of the role, and a program behind it."""

from __future__ import annotations

import atexit
import functools
import http.client
import http.server
import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import urljoin, urlsplit

from apache_server import Answer, Apache, ask

from lab.certificates import make_certificates

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ROOT = Path(__file__).resolve().parents[1]
ROLE = ROOT / "roles" / "reverse_proxy"
HOST = "hub.localhost"
TOKEN = "t" * 40
"""A token that looks like one of a program. The program behind Apache does not check it."""
DEBIAN_MODULES = ["unixd", "access_compat", "filter", "reqtimeout", "authn_core", "authz_core", "slotmem_shm", "dir"]
PAGES = ["forbidden.shtml", "sign-in.shtml", "signed-out.shtml", "sign-out.shtml", "unavailable.shtml",
         "sign-in-form.shtml", "bad-request.shtml", "not-found.shtml", "too-large.shtml", "error.sjson",
         "providers.shtml", "refused-answer.shtml"]  # fmt: skip


def render(arguments: Mapping[str, Any], expressions: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of expressions in the role with given arguments, as Ansible evaluates them."""
    process = _renderer()
    assert process.stdin
    assert process.stdout
    process.stdin.write(json.dumps([arguments, expressions]) + "\n")
    process.stdin.flush()
    answer: dict[str, dict[str, Any]] = json.loads(process.stdout.readline())
    assert "values" in answer, answer["error"]
    return answer["values"]


@functools.cache
def _renderer() -> subprocess.Popen[str]:
    """Return the process that evaluates expressions for all tests of this process, because Ansible starts slowly.

    Ansible's loader of collections does not work in a process that has already imported one, as the tests have.
    """
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "render_role.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.communicate)  # the end of its input ends the process
    return process


def template(name: str, **variables: object) -> str:
    """Return the expression for a rendered template of the role."""
    given = f", template_vars={variables!r}" if variables else ""
    return f"lookup('ansible.builtin.template', '{ROLE}/templates/{name}'{given})"


class Backend(socketserver.ThreadingUnixStreamServer):
    """The program behind Apache, in place of the proxy and the hub. It answers with what it receives, as JSON."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.seen: list[str] = []
        super().__init__(str(path), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        cast("Backend", self.server).seen.append(self.path)
        if self.path.startswith("/hub/logout"):
            self.send_response(302)
            self.send_header("Location", "/sso/end")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = json.dumps({"path": self.path, "headers": self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def address_string(self) -> str:
        return "unix"


class Site:
    """A web server with the role's configuration.

    Attributes:
        apache: The server.
        directory: Its directory. The certificates are in ``tls``.
        url: The address that browsers use.
        clock: A file that moves the clock of Apache, if the machine has libfaketime.
        environment: Further environment variables of Apache.
    """

    def __init__(self) -> None:
        self.apache = Apache()
        self.directory = self.apache.directory
        self.url = f"https://{HOST}:{self.apache.port}"
        for name in ("tls", "secrets", "web", "log", "cache", "etc", "socket"):
            (self.directory / name).mkdir()
        self.directory.chmod(0o755)
        make_certificates(
            self.directory / "tls",
            {"server": [HOST], "provider": list(dict.fromkeys(["localhost", socket.gethostname(), socket.getfqdn()]))},
        )
        for path in (self.directory / "tls").iterdir():
            os.chown(path, self.apache.account.pw_uid, self.apache.account.pw_gid)
        os.link(self.directory / "tls" / "ca.pem", self.directory / "tls" / "sso-ca.pem")
        self.backend = Backend(self.directory / "socket" / "proxy.sock")
        self.clock = self.directory / "clock"
        self.environment: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.backend.shutdown()
        self.backend.server_close()
        self.apache.__exit__()

    def start(self, arguments: Mapping[str, Any], modules: Iterable[str] = ()) -> None:
        """Write the files as the role does, and start Apache."""
        top = self.directory
        given = {
            "reverse_proxy_server_name": HOST,
            "reverse_proxy_port": self.apache.port,
            "reverse_proxy_api_port": self.apache.port,
            "reverse_proxy_proxy_socket": str(top / "socket" / "proxy.sock"),
            "__reverse_proxy_config_directory": str(top / "etc"),
            "__reverse_proxy_tls_directory": str(top / "tls"),
            "__reverse_proxy_secrets_directory": str(top / "secrets"),
            "__reverse_proxy_web_directory": str(top / "web"),
            "__reverse_proxy_log_directory": str(top / "log"),
            "__reverse_proxy_cache_directory": str(top / "cache"),
            "__reverse_proxy_sign_in_delay": 300,
            "__reverse_proxy_maintenance_file": str(top / "maintenance"),
            "__reverse_proxy_account_socket": str(top / "socket" / "account"),
            **arguments,
        }
        wanted = {
            "modules": "__reverse_proxy_modules + __reverse_proxy_own_modules",
            "sign_on": "__reverse_proxy_sign_on",
            "settings": "__reverse_proxy_sign_on_settings",
            "server": template("server.conf.j2"),
            "site": template("site.conf.j2"),
        }
        pages = {page: template("pages/in_each_language.j2", __reverse_proxy_page=page) for page in PAGES}
        found = render(given, wanted | pages)
        (top / "cache" / "hpchub-sso").mkdir(mode=0o700)
        (top / "web" / "redirect.html").write_text("Redirected\n")
        for page in PAGES:
            (top / "web" / page).write_text(found[page])
        if found["sign_on"]:
            files = top / "etc" / "sign-on"
            files.mkdir(exist_ok=True)
            for source in (ROLE / "files").glob("*.lua"):
                (files / source.name).write_text(source.read_text())
            (files / "settings.json").write_text(json.dumps(found["settings"]))
        self.clock.write_text("+0s\n")
        text = f"Listen 127.0.0.1:{self.apache.port}\n{found['server']}\n{found['site']}"
        self.apache.start(
            [*DEBIAN_MODULES, *found["modules"], *modules], text, clock=self.clock, environment=self.environment
        )

    def browser(self) -> Browser:
        """Return a new browser."""
        return Browser(self)


class Browser:
    """A browser: it keeps cookies, and follows redirects."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.cookies: dict[tuple[str, str], str] = {}
        self.followed: list[str] = []
        self._connections: dict[int, http.client.HTTPConnection] = {}

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def ask(
        self,
        path: str,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        *,
        method: str = "GET",
        body: str | None = None,
    ) -> Answer:
        """Send one request, without following redirects."""
        url = urljoin(self.site.url, path)
        address = urlsplit(url)
        host = f"{address.hostname}:{address.port}"
        jar = "; ".join(f"{name}={value}" for (where, name), value in self.cookies.items() if where == host)
        pairs = [("Host", host), ("Sec-Fetch-Site", "none"), ("Sec-Fetch-Mode", "navigate"), ("Accept", "text/html")]
        own = list(cast("Any", headers).items() if hasattr(headers, "items") else headers)
        names = {name.lower() for name, _ in own}
        pairs = [(name, value) for name, value in pairs if name.lower() not in names]
        cookies = [jar] * bool(jar) + [value for name, value in own if name.lower() == "cookie"]
        own = [(name, value) for name, value in own if name.lower() != "cookie"]
        if cookies:
            pairs.append(("Cookie", "; ".join(cookies)))
        target = address.path + (f"?{address.query}" if address.query else "")
        answer = ask(
            address.port or 443, target or "/", [*pairs, *own], method=method, body=body, connections=self._connections
        )
        for cookie in answer.headers.get_all("Set-Cookie") or []:
            name, _, rest = cookie.partition("=")
            value, _, attributes = rest.partition(";")
            gone = not value or "1970" in attributes or "max-age=0" in attributes.lower()
            if gone:
                self.cookies.pop((host, name), None)
            else:
                self.cookies[host, name] = value
        return answer

    def open(self, path: str, headers: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> Answer:
        """Open a page and follow all redirects. ``followed`` lists the addresses."""
        url = urljoin(self.site.url, path)
        self.followed = [url]
        for _ in range(20):
            answer = self.ask(url, headers)
            if answer.status not in (301, 302, 303, 307, 308):
                return answer
            url = urljoin(url, answer.headers["Location"])
            self.followed.append(url)
        raise AssertionError(f"too many redirects: {self.followed}")


def received(answer: Answer) -> dict[str, list[str]]:
    """Return the headers that the program behind Apache received, by their names in small letters."""
    found: dict[str, list[str]] = {}
    for name, value in json.loads(answer.text)["headers"]:
        found.setdefault(name.lower(), []).append(value)
    return found
