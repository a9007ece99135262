"""Apache from the outside: who can sign in, which identity the hub sees, and which requests are refused.

Apache has two virtual hosts. The public one serves users' browsers. The cluster's one serves the hub's API to the jobs.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import pytest

from lab.web_client import IDENTITY, Answer, Visitor, spellings, unverified

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from testinfra.host import Host

NOBODY = "token-of-nobody-that-has-the-form-of-a-program's"
INVALID_TOKEN = [("Authorization", f"token {NOBODY}")]  # Apache passes it on, and the hub refuses it
PAGE_TOKEN = [("Authorization", "token " + "p" * 30)]  # the form of a token that JupyterHub gives to a browser


def port_of(url: str) -> int:
    """Return the port in a URL, which must have one."""
    port = urlsplit(url).port
    assert port is not None, url
    return port


def hostname_of(url: str) -> str:
    """Return the host name in a URL."""
    hostname = urlsplit(url).hostname
    assert hostname is not None, url
    return hostname


@pytest.fixture(scope="module")
def addresses(hub: Host, idp: Host, state: dict[str, Any]) -> dict[str, str]:
    """Return the IP address of each host name in the lab's URLs."""
    command = "hostname --all-ip-addresses"
    return {
        hostname_of(state["url"]): hub.check_output(command).split()[0],
        hostname_of(state["idp_url"]): idp.check_output(command).split()[0],
    }


@pytest.fixture(scope="module")
def users(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the users of the lab by name."""
    return {user["name"]: user for user in state["users"]}


@pytest.fixture
def visitor(addresses: dict[str, str], state: dict[str, Any]) -> Visitor:
    """Return a client that has not signed in."""
    return Visitor(addresses, state["url"])


@pytest.fixture(scope="module")
def alice(addresses: dict[str, str], state: dict[str, Any], users: dict[str, dict[str, Any]]) -> Visitor:
    """Return a client that has signed in as alice, who is permitted to use the service."""
    client = Visitor(addresses, state["url"])
    page = client.sign_in(users["alice"])
    assert page.status == 200, page
    return client


def from_apache(answer: Answer) -> bool:
    """Return whether Apache itself created a page. Only Apache's own pages have this content security policy."""
    return "style-src 'unsafe-inline'; frame-ancestors 'none'" in answer.headers.get("Content-Security-Policy", "")


def signed_in_as(page: Answer) -> str | None:
    """Return the user name on a page of the hub, or None if nobody is signed in."""
    return page.text.split('user: "', 1)[1].split('"', 1)[0] if 'user: "' in page.text else None


def test_apache_is_running(hub: Host) -> None:
    unit = hub.run("systemctl is-active apache2")
    assert unit.stdout.strip() == "active", hub.run("journalctl --unit=apache2 --lines=40 --no-pager").stdout


# -- TLS


def test_certificates_of_both_virtual_hosts_match_the_authority_that_jobs_trust(
    hub: Host, addresses: dict[str, str], state: dict[str, Any], settings: dict[str, Any]
) -> None:
    trusted = hub.file("/etc/hpchub/tls/api-ca.pem").content_string
    context = ssl.create_default_context(cadata=trusted)
    for url in (state["url"], settings["api_url"]):
        with (
            socket.create_connection((addresses[hostname_of(state["url"])], port_of(url)), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname=hostname_of(url)) as connection,
        ):
            assert connection.getpeercert()


def test_only_root_can_read_keys_and_secrets(hub: Host) -> None:
    for path in (
        "/etc/hpchub/tls/server.key",
        "/etc/hpchub/secrets/sso-client.conf",
        "/etc/hpchub/secrets/sso-sessions.conf",
    ):
        file = hub.file(path)
        assert (file.user, oct(file.mode)) == ("root", "0o600"), path


def test_responses_have_security_headers(visitor: Visitor) -> None:
    for target in ("/hub/health", "/sso/signed-out", "/hub/home", "/nothing"):
        headers = visitor.ask(target).headers
        assert int(headers["Strict-Transport-Security"].split("=")[1]) >= 180 * 86400
        assert headers.get_all("X-Content-Type-Options") == ["nosniff"]
        assert headers.get_all("X-Frame-Options") == ["SAMEORIGIN"]
        assert headers.get_all("Referrer-Policy") == ["same-origin"]


def test_no_page_can_be_framed(visitor: Visitor, alice: Visitor) -> None:
    for client, target in (
        (visitor, "/sso/signed-out"),
        (visitor, "/nothing"),
        (alice, "/hub/home"),
        (alice, "/hub/nothing"),
    ):
        assert "frame-ancestors 'none'" in client.ask(target).headers["Content-Security-Policy"], target


# -- identity


def test_user_signs_in_at_the_identity_provider(
    visitor: Visitor, state: dict[str, Any], users: dict[str, dict[str, Any]]
) -> None:
    answer = visitor.ask("/")
    assert answer.status == 302
    answer = visitor.ask("/hub/home")
    assert answer.status == 302
    assert answer.location.startswith(state["idp_url"])
    assert "code_challenge_method=S256" in answer.location
    cookie = answer.headers["Set-Cookie"]
    assert all(flag in cookie for flag in ("Secure", "HttpOnly", "SameSite=Lax")), cookie
    assert signed_in_as(visitor.sign_in(users["bob"])) == "bob"


@pytest.mark.parametrize("name", IDENTITY)
@pytest.mark.parametrize("target", ["/hub/home", "/hub/login", "/hub/api/user", "/hub/api/oauth2/authorize"])
def test_identity_header_without_a_sign_on_is_ignored(
    visitor: Visitor, state: dict[str, Any], name: str, target: str
) -> None:
    for spelt in spellings(name):
        answer = visitor.ask(target, [(spelt, "carol"), (spelt, "carol")])
        if target == "/hub/api/user":  # for programs, which cannot follow a redirect
            assert answer.status == 401, (spelt, answer)
        else:
            assert answer.location.startswith(state["idp_url"]), (spelt, answer)
        assert "jupyterhub-hub-login" not in str(visitor.cookies)


def test_identity_header_does_not_change_the_signed_in_user(alice: Visitor) -> None:
    forged = [(spelt, "carol") for name in IDENTITY for spelt in spellings(name)]
    for half in (forged[::2], forged[1::2]):
        assert signed_in_as(alice.ask("/hub/home", half)) == "alice"


@pytest.mark.parametrize(
    "name", ["OIDC_CLAIM_preferred_username", "OIDC-CLAIM-sub", "oidc_access_token", "X_Hpchub_Admin"]
)
def test_headers_of_the_single_sign_on_are_refused(visitor: Visitor, name: str) -> None:
    assert visitor.ask("/hub/health", [(name, "carol")]).status == 400


def test_token_does_not_replace_the_sign_on(visitor: Visitor, state: dict[str, Any]) -> None:
    for target in ("/hub/home", "/hub/login", "/hub/api/oauth2/authorize"):
        assert visitor.ask(target, INVALID_TOKEN).location.startswith(state["idp_url"])


def test_refused_user_is_in_the_audit_log_of_apache(
    hub: Host, addresses: dict[str, str], state: dict[str, Any], users: dict[str, dict[str, Any]]
) -> None:
    """dave may sign in at the provider, but not use the service. The hub never sees his requests."""
    dave = Visitor(addresses, state["url"])
    assert dave.sign_in(users["dave"]).status == 403
    lines = hub.check_output("tail --lines=5 /var/log/apache2/hpchub-refused.log").splitlines()
    refused = [json.loads(line) for line in lines]
    assert ("request_refused", "dave") in {(line["event"], line["user"]) for line in refused}
    assert all(line["address"] for line in refused)
    assert hub.run("runuser -u nobody -- cat /var/log/apache2/hpchub-refused.log").rc != 0


def test_token_reads_the_metrics_from_permitted_addresses_only(
    hub: Host,
    compute: Host,
    visitor: Visitor,
    alice: Visitor,
    settings: dict[str, Any],
) -> None:
    """The lab permits the hub host itself, or nobody. Signed-in users are refused by the hub."""
    for target in ("/hub/metrics", "/hub/api/metrics"):
        answer = visitor.ask(target, INVALID_TOKEN)
        assert (answer.status, from_apache(answer)) == (401, True), target
        answer = alice.ask(target)
        assert (answer.status, from_apache(answer)) == (403, False), target
    assert get_from_node(compute, settings, "/hub/api/metrics", **dict(INVALID_TOKEN))[0] in (403, 404)
    found = hub.run("sed -n 's/^HPCHUB_METRICS_TOKEN=//p' /etc/hpchub/secrets/metrics.env").stdout.strip()
    if not found:
        return
    url = urlsplit(settings["public_url"])
    curl = "curl --silent --insecure --write-out '%%{http_code}' --resolve %s --header %s %s/hub/metrics"
    for token, status in ((found, "200"), (NOBODY, "403")):
        header = f"Authorization: Bearer {token}"
        done = hub.check_output(curl, f"{url.netloc}:127.0.0.1", header, settings["public_url"])
        assert done.endswith(status), done[-300:]
        assert ("hpchub_healthy 1.0" in done) == (token == found)


def test_authorization_headers_other_than_tokens_are_refused(visitor: Visitor) -> None:
    for scheme in ("Basic YTpi", "token", f"tokens {NOBODY}", f"Digest token {NOBODY}", f"token x {NOBODY}"):
        assert visitor.ask("/hub/api/user", [("Authorization", scheme)]).status == 401


def test_cookies_do_not_count_in_a_request_with_a_token(alice: Visitor) -> None:
    # The request also carries alice's cookies. The hub must refuse it because of the invalid token.
    answer = alice.ask("/hub/api/user", INVALID_TOKEN)
    assert (answer.status, answer.headers["Content-Type"]) == (403, "application/json"), answer


def test_user_without_permission_gets_an_explanation(
    addresses: dict[str, str], state: dict[str, Any], users: dict[str, dict[str, Any]]
) -> None:
    dave = Visitor(addresses, state["url"])
    page = dave.sign_in(users["dave"])
    assert page.status == 403
    assert "<strong>dave</strong>" in page.text
    assert 'href="/sso/logout"' in page.text


def test_users_cannot_open_the_servers_of_others(alice: Visitor) -> None:
    for target in ("/user/bob/", "/user/bob", "/user/bob/lab", "/user/%62ob/lab", "/%75ser/bob/lab", "/user/alice-2/"):
        page = alice.ask(target)
        assert (page.status, from_apache(page)) == (403, True), (target, page)
        assert "<strong>alice</strong>" in page.text
    assert not from_apache(alice.ask("/user/alice/"))


@pytest.mark.parametrize(
    "headers",
    [
        [("Accept", "application/json")],
        [("Sec-Fetch-Mode", "cors"), ("Accept", "*/*")],
        [("X-Requested-With", "XMLHttpRequest")],
        [("Upgrade", "websocket"), ("Connection", "Upgrade")],
    ],
    ids=["json", "fetch", "xhr", "websocket"],
)
def test_request_of_a_script_gets_an_error_instead_of_a_redirect(
    visitor: Visitor, headers: list[tuple[str, str]]
) -> None:
    answer = visitor.ask("/user/alice/files/x", headers)
    assert (answer.status, answer.location) == (401, "")
    assert visitor.ask("/user/alice/api/contents").status == 401
    assert visitor.ask("/hub/spawn", method="POST", body=b"profile=small").status == 401


def test_signing_out_ends_the_sessions_at_the_hub_and_at_the_provider(
    addresses: dict[str, str], state: dict[str, Any], users: dict[str, dict[str, Any]]
) -> None:
    bob = Visitor(addresses, state["url"])
    assert signed_in_as(bob.sign_in(users["bob"])) == "bob"
    page, url = bob.follow(bob.ask("/sso/logout"))
    assert (page.status, url) == (200, state["url"] + "/sso/signed-out")
    page, url = bob.follow(bob.ask("/hub/home"))
    assert url.startswith(state["idp_url"])
    assert 'name="password"' in page.text


def test_signing_out_does_not_redirect_to_other_sites(visitor: Visitor) -> None:
    own = visitor.ask(f"/oidc/callback?logout={quote(visitor.url, safe='')}%2Fsso%2Fsigned-out")
    assert (own.status, "signed-out" in own.location) == (302, True), own
    answer = visitor.ask("/oidc/callback?logout=https%3A%2F%2Felsewhere.example%2F")
    assert "elsewhere" not in answer.location


# -- the end of a sign-on


FOREIGN_LINK = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")]


def test_token_of_a_page_needs_the_sign_on_of_its_browser(visitor: Visitor, alice: Visitor) -> None:
    for target in ("/user/alice/api/contents", "/user/alice/api/kernels", "/hub/api/user", "/services/none/api"):
        for method in ("GET", "PUT", "POST"):
            answer = visitor.ask(target, PAGE_TOKEN, method=method)
            assert (answer.status, from_apache(answer)) == (401, True), (method, target, answer)
    assert not from_apache(alice.ask("/user/alice/api/contents", PAGE_TOKEN))


def test_signing_out_ends_the_token_of_a_page_at_once(
    addresses: dict[str, str], state: dict[str, Any], users: dict[str, dict[str, Any]]
) -> None:
    bob = Visitor(addresses, state["url"])
    bob.sign_in(users["bob"])
    kept = dict(bob.cookies[urlsplit(bob.url).netloc])
    assert not from_apache(bob.ask("/user/bob/api/contents", PAGE_TOKEN))
    bob.follow(bob.ask("/hub/logout"))
    bob.cookies[urlsplit(bob.url).netloc].update(kept)
    for headers in (PAGE_TOKEN, []):
        for target in ("/user/bob/api/contents", "/user/bob/api/kernels/x/execute", "/hub/api/user"):
            assert bob.ask(target, headers).status == 401, (target, headers)
    assert not from_apache(bob.ask("/user/bob/api/contents", INVALID_TOKEN))  # programs continue


@pytest.mark.parametrize(
    "target",
    [
        "/hub/logout",
        "/hub/%6cogout",
        "/sso/logout",
        "/sso/end",
        "/user/alice/logout",
        "/user/alice/genome/logout",
        "/oidc/callback?logout=https%3A%2F%2Felsewhere.example%2F",
        "/oidc/callback?logout=get",
    ],
)
@pytest.mark.parametrize("headers", [FOREIGN_LINK, [("Referer", "https://elsewhere.example/")]], ids=["fetch", "old"])
def test_link_on_another_page_asks_before_it_signs_out(
    alice: Visitor, target: str, headers: list[tuple[str, str]]
) -> None:
    page = alice.ask(target, headers)
    assert (page.status, urlsplit(page.location).path) == (302, "/sso/sign-out"), page
    page, _ = alice.follow(page)
    assert page.status == 200
    assert 'href="/hub/logout"' in page.text
    assert signed_in_as(alice.ask("/hub/home")) == "alice"


def test_user_without_permission_can_sign_out(
    addresses: dict[str, str], state: dict[str, Any], users: dict[str, dict[str, Any]]
) -> None:
    dave = Visitor(addresses, state["url"])
    assert dave.sign_in(users["dave"]).status == 403
    page, url = dave.follow(dave.ask("/sso/logout"))
    assert (page.status, url) == (200, state["url"] + "/sso/signed-out")
    assert dave.ask("/hub/home").location.startswith(state["idp_url"])


# -- pages of other hosts

JSON = [("Content-Type", "application/json")]
FORM = [("Content-Type", "application/x-www-form-urlencoded")]


@pytest.mark.parametrize(
    "headers",
    [
        [("Content-Type", "text/plain")],
        [("Content-Type", "text/plain; application/json")],
        FORM,
        [("Content-Type", "multipart/form-data; boundary=x")],
        [],  # a page can send a body without a type
        [*JSON, ("Origin", "https://elsewhere.example")],
        [*JSON, ("Origin", "https://hub.localhost.elsewhere.example")],
        [*JSON, ("Origin", "https://other.hub.localhost:8443")],
        [*JSON, ("Origin", "http://hub.localhost:8443")],
        [*JSON, ("Origin", "null")],
        [*JSON, ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "cors")],
        [*JSON, ("Sec-Fetch-Site", "same-site"), ("Sec-Fetch-Mode", "navigate")],
        [*JSON, ("Sec-Fetch-Mode", "websocket")],
        JSON,
        [*JSON, ("X-XSRFToken", "wrong")],
    ],
)
@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/hub/api/users/alice/tokens"),
        ("POST", "/hub/api/users/alice/tokens?_xsrf=wrong"),
        ("POST", "/hub/api/users/alice/server"),
        ("PATCH", "/hub/api/users/alice"),
        ("DELETE", "/hub/api/users/alice/server"),
    ],
)
def test_hub_changes_nothing_for_a_foreign_page(
    alice: Visitor, method: str, target: str, headers: list[tuple[str, str]]
) -> None:
    """Hazard H22. The cookies go along in every case."""
    answer = alice.ask(target, headers, method=method, body=b'{"note": "planted"}')
    assert answer.status == 403, answer
    assert json.loads(answer.text)["message"]


def test_foreign_page_cannot_act_on_a_notebook_server(alice: Visitor) -> None:
    for headers in (
        [("Origin", "https://elsewhere.example")],
        [("Origin", "https://elsewhere.example"), *PAGE_TOKEN],
        [("Sec-Fetch-Site", "same-site"), ("Sec-Fetch-Mode", "no-cors")],
    ):
        assert from_apache(alice.ask("/user/alice/files/x", headers)), headers
    assert not from_apache(alice.ask("/user/alice/api/contents", [*INVALID_TOKEN, ("Origin", "https://x.example")]))


def test_own_page_makes_a_token_with_its_xsrf_token(alice: Visitor) -> None:
    alice.follow(alice.ask("/hub/token"))
    xsrf = alice.cookies[urlsplit(alice.url).netloc]["_xsrf"]
    headers = [*JSON, ("Origin", alice.url), ("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Mode", "cors")]
    body = b'{"expires_in": 60}'
    made = alice.ask("/hub/api/users/alice/tokens", [*headers, ("X-XSRFToken", xsrf)], method="POST", body=body)
    assert made.status == 201, made
    # Apache accepts only long tokens without a sign-on.
    assert len(json.loads(made.text)["token"]) >= 32


# -- addresses


REASONS = [
    ("a%5cb", "backslash"),
    ("a\\b", "backslash"),
    ("..b", "dots"),
    ("a/..b", "dots"),
    ("a/../b", "dots"),
    ("a/..", "dots"),
    ("%2e%2e%2fb", "dots"),
    ("a%2eb", "dot"),
    ("/a", "two slashes"),
    ("a//b", "two slashes"),
    ("%ff", "UTF-8"),
    ("%c0%af", "UTF-8"),
    ("%ed%a0%80", "UTF-8"),
]


@pytest.mark.parametrize(("name", "reason"), REASONS)
def test_answer_explains_which_names_are_not_permitted(alice: Visitor, name: str, reason: str) -> None:
    page = alice.ask(f"/user/alice/files/{name}")
    assert (page.status, reason in page.text) == (400, True), page
    answer = alice.ask(f"/user/alice/api/contents/{name}", method="PUT", body=b"{}")
    assert answer.headers["Content-Type"] == "application/json"
    assert (answer.status, reason in json.loads(answer.text)["message"]) == (400, True), answer


@pytest.mark.parametrize(
    "target", ["/hub/static/%ff", "/hub/logo%ff", "/hub/api/users/%ff", "/services/echo/%ff", "/hub/%zz"]
)
def test_invalid_characters_are_the_mistake_of_the_client(alice: Visitor, target: str) -> None:
    assert alice.ask(target).status == 400


@pytest.mark.parametrize("name", ["%C3%A9t%C3%A9", "%E6%97%A5%E6%9C%AC", "%F0%9F%90%8D", "a%20b", ".b", "b..c", "c.."])
def test_other_names_reach_the_notebook_server(alice: Visitor, name: str) -> None:
    assert not from_apache(alice.ask(f"/user/alice/files/{name}"))


@pytest.mark.parametrize(
    "target",
    [
        "/hub//home",
        "/user/alice/../bob/",
        "/user/alice/%2e%2e/bob/",
        "/user/alice/..%2fbob/",
        "/user/alice/%2F..%2F..%2Fhub/login",
        "/user/alice/./x",
        "/user/alice/..",
        "/user/alice/..;/x",
        "/user/alice///../../hub/login",
        "/user/alice/a%5cb",
        "/user/alice/a\\b",
        "/user/alice/a#b",
        "https://hub.localhost/hub/home",
    ],
)
def test_ambiguous_paths_are_refused(alice: Visitor, target: str) -> None:
    assert alice.ask(target).status == 400
    assert alice.ask(target, INVALID_TOKEN).status == 400


@pytest.mark.parametrize(
    "target",
    [
        "/user%2Falice/",
        "/hub%2fhome",
        "/user/",
        "/user/-alice/",
        "/user/a%20b/",
        "/_chp_healthz",
        "/api/routes",
    ],
)
def test_unknown_paths_do_not_exist(alice: Visitor, target: str) -> None:
    assert alice.ask(target, INVALID_TOKEN).status == 404


def test_only_the_version_of_the_hub_needs_no_sign_on(visitor: Visitor) -> None:
    """Editors read it to recognise a JupyterHub, before they have a token."""
    for target in ("/hub/api", "/hub/api/"):
        answer = visitor.ask(target)
        assert (answer.status, set(json.loads(answer.text))) == (200, {"version"})
        assert visitor.ask(target, method="POST").status == 403
    assert visitor.ask("/hub/api/info").status == 401


def test_encoded_slashes_reach_the_hub(alice: Visitor) -> None:
    answer = alice.ask("/hub/api/users/a%2Fb%25c", INVALID_TOKEN)
    assert answer.headers["Content-Type"] == "application/json", answer


def test_other_host_names_are_refused(visitor: Visitor) -> None:
    assert visitor.ask("/hub/health", host="elsewhere.example").status == 421


# -- requests and responses of proxied servers

ECHO = """
import base64, hashlib, http.server, socketserver
class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_GET(self):
        if "/refuse/" in self.path:
            status = int(self.path.rsplit("/", 1)[1])
            self.send_response(status)
            if status not in (204, 304): self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.headers.get("Upgrade") == "websocket":
            key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            self.send_response(101)
            self.send_header("Upgrade", "websocket"); self.send_header("Connection", "Upgrade")
            self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
            self.end_headers()
            while data := self.rfile.read1(): self.wfile.write(data)
            return
        self.answer(str(self.path) + chr(10) + str(self.headers))
    def do_PUT(self):
        left = length = int(self.headers["Content-Length"])
        while left: left -= len(self.rfile.read(min(left, 1 << 20)))
        self.answer(str(length))
    def answer(self, text):
        self.send_response(200); self.send_header("Content-Length", str(len(text)))
        self.send_header("Set-Cookie", "plain=1; Path=/"); self.end_headers()
        self.wfile.write(text.encode())
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer): daemon_threads = True
Server(("127.0.0.1", 18999), Echo).serve_forever()
"""

ROUTE = """
import socket, sys
token = open("/etc/hpchub/secrets/proxy.env").read().split("=", 1)[1].strip()
body = b'{"target": "http://127.0.0.1:18999"}' if sys.argv[1] == "POST" else b""
proxy = socket.socket(socket.AF_UNIX)
proxy.connect("/run/hpchub-proxy/api/api.sock")
proxy.sendall(
    f"{sys.argv[1]} /api/routes/services/echo HTTP/1.1\\r\\nHost: x\\r\\nAuthorization: token {token}\\r\\n"
    f"Content-Length: {len(body)}\\r\\nConnection: close\\r\\n\\r\\n".encode() + body
)
assert proxy.makefile().readline().split()[1] in ("201", "204")
"""


@pytest.fixture(scope="module")
def echo(hub: Host) -> Iterator[str]:
    """Return the path of a service behind the proxy. The service responds with the request that it received."""
    hub.run("systemctl stop hpchub-test-echo")
    hub.check_output("systemd-run --quiet --collect --unit=hpchub-test-echo python3 -c %s", ECHO)
    hub.check_output("python3 -c %s POST", ROUTE)
    time.sleep(1)
    yield "/services/echo/"
    hub.check_output("python3 -c %s DELETE", ROUTE)
    hub.run("systemctl stop hpchub-test-echo")


def test_service_receives_no_credentials_and_no_forged_headers(alice: Visitor, echo: str) -> None:
    jar = alice.cookies[urlsplit(alice.url).netloc]
    jar |= {"mod_auth_openidc_state_x": "secret", "theirs": "kept"}
    answer = alice.ask(
        echo + "a%2Fb?c=//d",
        [
            ("X-Forwarded-For", "1.2.3.4"),
            ("X-Forwarded-Proto", "http"),
            ("X-Real-IP", "1.2.3.4"),
            ("Authorization", "Basic x"),
        ],
    )
    del jar["mod_auth_openidc_state_x"], jar["theirs"]
    path, _, headers = answer.text.partition("\n")
    lines = [line.lower() for line in headers.splitlines()]
    assert path == echo + "a%2Fb?c=//d"
    assert [line for line in lines if line.startswith("x-forwarded-proto")] == ["x-forwarded-proto: https"]
    assert "1.2.3.4" not in answer.text
    assert not [line for line in lines if line.startswith(("authorization", "x-hpchub"))]
    assert "theirs=kept" in answer.text
    assert "hpchub-sso" not in answer.text
    assert "mod_auth_openidc" not in answer.text


@pytest.mark.parametrize(
    "spelt",
    [
        "__Host-hpchub-sso_0",
        "__Host-hpchub-sso-state-x",
        "__host-HPCHUB-sso",
        "\t__Host-hpchub-sso",
        "__Host-hpchub-sso\t",
        ";;__Host-hpchub-sso",
        'quoted="; __Host-hpchub-sso',
        "of-two,__Host-hpchub-sso",
        "mod_auth_openidc_session",
    ],
)
def test_sign_on_cookies_are_removed_in_every_spelling(alice: Visitor, echo: str, spelt: str) -> None:
    jar = alice.cookies[urlsplit(alice.url).netloc]
    jar |= {spelt: "secret", "theirs": "kept"}
    try:
        answer = alice.ask(echo)
    finally:
        del jar[spelt], jar["theirs"]
    assert answer.status == 200
    assert "theirs=kept" in answer.text
    assert "secret" not in answer.text
    assert "hpchub-sso" not in answer.text.lower()


def test_cookies_are_removed_from_a_request_with_a_token(alice: Visitor, echo: str) -> None:
    text = alice.ask(echo, INVALID_TOKEN).text.lower()
    assert "cookie" not in text
    assert f"authorization: token {NOBODY}" in text


@contextmanager
def websocket(addresses: dict[str, str], url: str, target: str, *headers: str) -> Iterator[Callable[[bytes], bool]]:
    """Open a websocket to the echo service. It yields a function that sends bytes and checks that they come back.

    Raises:
        PermissionError: The service refuses the websocket.
    """
    name = hostname_of(url)
    with (
        socket.create_connection((addresses[name], port_of(url)), timeout=20) as plain,
        unverified().wrap_socket(plain, server_hostname=name) as connection,
        connection.makefile("rb") as stream,
    ):
        lines = [
            f"GET {target} HTTP/1.1",
            f"Host: {urlsplit(url).netloc}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {base64.b64encode(secrets.token_bytes(16)).decode()}",
            *(headers or [f"Authorization: token {NOBODY}"]),
        ]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        if (status := stream.readline().split()[1]) != b"101":
            raise PermissionError(status.decode())
        while stream.readline().strip():
            pass

        def echoes(sent: bytes) -> bool:
            connection.sendall(sent)
            return stream.read(len(sent)) == sent

        yield echoes


def test_program_sends_its_token_in_the_address_of_a_websocket(
    addresses: dict[str, str], state: dict[str, Any], echo: str
) -> None:
    page = "p" * 30
    for query in (f"token={'a' * 32}", f"session_id=x&token={'a' * 32}"):
        with websocket(addresses, state["url"], f"{echo}channels?{query}", "X-Harmless: 1") as echoes:
            assert echoes(b"hello")
    for query in (f"token={page}", "", "token=", f"other={'a' * 32}", f"session_id={'a' * 32}"):
        refused = pytest.raises(PermissionError, match="401")
        with refused, websocket(addresses, state["url"], f"{echo}channels?{query}", "X-Harmless: 1"):
            pass


def test_token_in_another_address_is_no_permission(visitor: Visitor, echo: str) -> None:
    for headers in ([], [("Sec-Fetch-Mode", "websocket")], [("Upgrade", "h2c"), ("Connection", "Upgrade")]):
        assert visitor.ask(f"{echo}?token={'a' * 32}", headers).status in {302, 401}, headers


def test_request_after_a_refused_upgrade_gets_its_own_answer(
    addresses: dict[str, str], state: dict[str, Any], echo: str
) -> None:
    """Hazard A5. The proxy closes the connection of a refused upgrade, so Apache must not use it again."""

    def take_turns(number: int) -> list[str]:
        client, problems = Visitor(addresses, state["url"]), []
        for turn in range(60):
            upgrade = [("Upgrade", "websocket"), ("Connection", "Upgrade"), *INVALID_TOKEN]
            status = client.ask(f"{echo}refuse/{(204, 304, 403, 404)[turn % 4]}", upgrade).status
            problems += [f"upgrade: {status}"] if status >= 500 else []
            mark = f"mark-{number}-{turn}"
            answer = client.ask(f"{echo}{mark}", INVALID_TOKEN)
            problems += [] if answer.text.startswith(f"{echo}{mark}\n") else [f"{mark}: {answer}"]
        return problems

    with ThreadPoolExecutor(4) as pool:
        assert [problem for found in pool.map(take_turns, range(4)) for problem in found] == []


def test_idle_websocket_survives_a_reload_and_more_than_a_minute(
    hub: Host, addresses: dict[str, str], state: dict[str, Any], echo: str
) -> None:
    with websocket(addresses, state["url"], echo + "channels") as echoes:
        assert echoes(b"hello")
        assert echoes(secrets.token_bytes(1 << 20))
        hub.check_output("systemctl reload apache2")
        time.sleep(65)
        assert echoes(b"still there?")


def test_large_uploads_are_accepted_only_by_notebook_servers(alice: Visitor, echo: str) -> None:
    large = bytes(100 << 20)
    assert alice.ask(echo.replace("echo", "none"), INVALID_TOKEN, method="PUT", body=b"x" * (11 << 20)).status == 413
    assert alice.ask(echo, INVALID_TOKEN, method="PUT", body=bytes(9 << 20)).text == str(9 << 20)
    assert alice.ask("/user/alice/api/contents/x", INVALID_TOKEN, method="PUT", body=large).status != 413


def test_hub_shows_a_changed_profile_without_a_restart(hub: Host, alice: Visitor) -> None:
    path, mark = "/etc/hpchub/profiles.json", f"Changed {secrets.token_hex(8)}"
    pid = "systemctl show --property=MainPID --value jupyterhub.service"
    before = hub.check_output(pid)
    changed = json.loads(hub.file(path).content_string)
    for profile in changed["profiles"]:
        profile["display_name"] = f"{mark} {profile['key']}"
    hub.check_output(f"cp --preserve=all {path} {path}.before")
    try:
        hub.check_output(f"printf %%s %s > {path}", json.dumps(changed))
        page = alice.ask("/hub/spawn")
        assert page.status == 200, page
        assert mark in page.text
    finally:
        hub.check_output(f"mv {path}.before {path}")
    assert mark not in alice.ask("/hub/spawn").text
    assert hub.check_output(pid) == before


# -- maintenance


def test_maintenance_closes_the_public_pages_immediately(
    hub: Host, visitor: Visitor, compute: Host, settings: dict[str, Any]
) -> None:
    """Running notebook servers and the cluster's virtual host stay reachable."""
    before = visitor.ask("/user/alice/api", INVALID_TOKEN).status
    assert before != 503
    hub.check_output("touch /etc/hpchub/maintenance")
    try:
        page = visitor.ask("/hub/home")
        assert (page.status, page.headers["Retry-After"]) == (503, "30")
        assert "being maintained" in page.text
        assert visitor.ask("/user/alice/api", INVALID_TOKEN).status == before
        assert get_from_node(compute, settings, "/hub/api")[0] == 200
    finally:
        hub.check_output("rm /etc/hpchub/maintenance")
    assert visitor.ask("/hub/health").status == 200


# -- the cluster's virtual host


GET = """
import http.client, json, ssl, sys
from urllib.parse import urlsplit
where, target, headers = urlsplit(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
server = http.client.HTTPSConnection(where.hostname, where.port, context=ssl._create_unverified_context(), timeout=20)
server._validate_path = lambda _: None
server.request("GET", target, headers=headers)
answer = server.getresponse()
print(json.dumps([answer.status, answer.read().decode(errors="replace")]))
"""


def get_from_node(host: Host, settings: dict[str, Any], target: str, **headers: str) -> tuple[int, str]:
    """Send a GET request from a host to the cluster's virtual host; return the status and the text."""
    status, text = json.loads(
        host.check_output("python3 -c %s %s %s %s", GET, settings["api_url"], target, json.dumps(headers))
    )
    return status, text


def test_nodes_reach_the_api(compute: Host, settings: dict[str, Any]) -> None:
    status, text = get_from_node(compute, settings, "/hub/api")
    assert (status, list(json.loads(text))) == (200, ["version"])


POST_OFTEN = """
import ssl, sys, urllib.error, urllib.request
statuses = set()
for _ in range(100):
    request = urllib.request.Request(sys.argv[1] + "/hub/api/batchspawner", data=b'{"port": 20001}', method="POST")
    request.add_header("Authorization", "token none")
    try:
        urllib.request.urlopen(request, context=ssl._create_unverified_context())
    except urllib.error.HTTPError as error:
        statuses.add(error.code)
print(*statuses)
"""


def test_every_report_of_a_node_gets_a_response(compute: Host, settings: dict[str, Any]) -> None:
    assert compute.check_output("python3 -c %s %s", POST_OFTEN, settings["api_url"]) == "403"


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/", 404),
        ("/hub/login", 404),
        ("/hub/home", 404),
        ("/hub/health", 404),
        ("/hub/apis", 404),
        ("/hub/api/oauth2/authorize", 404),
        ("/user/alice/", 404),
        ("/sso/signed-out", 404),
        ("/oidc/callback", 404),
        ("/hub%2Fapi/user", 404),
        ("/hub/api/../login", 400),
        ("/hub/api/%2e%2e/login", 400),
        ("/hub/api/..%2flogin", 400),
        ("/hub/api//user", 400),
    ],
)
def test_nodes_reach_only_the_api(compute: Host, settings: dict[str, Any], target: str, status: int) -> None:
    assert get_from_node(compute, settings, target)[0] == status


def test_identity_headers_of_a_node_are_ignored(compute: Host, settings: dict[str, Any]) -> None:
    forged = {spelt: "carol" for name in IDENTITY for spelt in spellings(name)}
    assert get_from_node(compute, settings, "/hub/api/user", **forged)[0] == 403


def test_only_the_clusters_networks_reach_the_clusters_virtual_host(hub: Host, settings: dict[str, Any]) -> None:
    clusters = json.loads(hub.file("/etc/hpchub/profiles.json").content_string)["clusters"]
    if any(network in ("127.0.0.0/8", "::1/128") for cluster in clusters for network in cluster["networks"]):
        pytest.skip("the hub host itself belongs to the cluster, so the loopback address is permitted")
    local = {"api_url": f"https://127.0.0.1:{port_of(settings['api_url'])}"}
    assert get_from_node(hub, local, "/hub/api")[0] == 403


# -- Apache as a service of the host


def test_page_says_that_the_service_has_a_problem_and_that_notebooks_go_on(
    hub: Host, alice: Visitor, echo: str
) -> None:
    hub.check_output("systemctl stop configurable-http-proxy")
    try:
        page, answer = alice.ask("/hub/home"), alice.ask("/user/alice/api/contents")
    finally:
        hub.check_output("systemctl start configurable-http-proxy")
    assert page.status == answer.status == 503
    for text in (page.text, json.loads(answer.text)["message"]):
        words = " ".join(text.lower().split())
        assert "the service has a problem" in words
        assert "running notebooks and their computations go on" in words
    for _ in range(60):
        if alice.ask("/hub/home").status == 200:
            break
        time.sleep(1)
    hub.check_output("python3 -c %s POST", ROUTE)
    assert alice.ask(echo).status == 200


def test_every_cookie_states_samesite(visitor: Visitor, echo: str) -> None:
    answers = [visitor.ask("/hub/home"), visitor.ask(f"{echo}cookies", INVALID_TOKEN), visitor.ask("/hub/login")]
    cookies = [cookie for answer in answers for cookie in answer.headers.get_all("Set-Cookie") or []]
    assert cookies
    assert [cookie for cookie in cookies if "samesite=" not in cookie.lower()] == []


def test_apache_opens_exactly_two_ports(hub: Host, state: dict[str, Any], settings: dict[str, Any]) -> None:
    lines = hub.check_output("ss --listening --tcp --numeric --processes --no-header").splitlines()
    ports = {int(line.split()[3].rsplit(":", 1)[1]) for line in lines if '"apache2"' in line}
    assert ports == {port_of(state["url"]), port_of(settings["api_url"])}


def test_log_contains_requests_but_no_tokens(hub: Host, visitor: Visitor) -> None:
    name, token = f"mark{secrets.token_hex(8)}", secrets.token_hex(16)
    upgrade = [("Upgrade", "websocket"), ("Connection", "Upgrade")]
    linked = [("Referer", f"{visitor.url}/user/alice/lab?token={token}")]
    for target in (f"/user/alice/lab/{name}", f"/user/alice/{name}%5c", f"/nothing/{name}", f"/hub/{name}"):
        for headers in ([], upgrade, linked, [*upgrade, *linked]):
            visitor.ask(f"{target}?token={token}", headers)
            visitor.ask(f"{target}?token={token[:30]}", headers)
    for headers in ([], INVALID_TOKEN):
        visitor.ask(f"/hub/api/authorizations/token/{token}", headers)
        visitor.ask(f"/hub/api/authorizations/token/{token}/%5c", headers)
    found = "grep --recursive --fixed-strings --quiet %s /var/log/apache2"
    assert hub.run(found, name).rc == 0
    assert hub.run(found, "/hub/api/authorizations/[secret]").rc == 0
    assert hub.run(found, token[:30]).rc == 1
    for unit in ("configurable-http-proxy", "jupyterhub"):
        assert token[:30] not in hub.check_output("journalctl --unit=%s --no-pager --output=cat", unit)


def test_apache_runs_in_a_sandbox(hub: Host) -> None:
    report = hub.check_output("systemd-analyze security --no-pager apache2.service")
    found = re.search(r"Overall exposure level for \S+ ([\d.]+)", report)
    assert found is not None, report
    assert float(found[1]) <= 3.0, report
