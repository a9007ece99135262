"""Headers that a client must not be able to send to the services behind the web server."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from lab.web_client import Visitor, mixtures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testinfra.host import Host

PORT = 18998
TARGET = "/services/hygiene/"
# As if it were a page of alice's notebook server.
USER_TARGET = "/user/alice/hygiene/"
# As if it were a part of the hub's API, which compute nodes reach at a port of its own.
API_TARGET = "/hub/api/hygiene/"
# Begins like the hub's API, but is not a part of it.
OTHER_TARGET = "/hub/apis/"
ROUTE = """
import socket, sys
token = open("/etc/hpchub/secrets/proxy.env").read().split("=", 1)[1].strip()
body = b'{"target": "http://127.0.0.1:%d"}' if sys.argv[1] == "POST" else b""
proxy = socket.socket(socket.AF_UNIX)
proxy.connect("/run/hpchub-proxy/api/api.sock")
proxy.sendall(
    f"{sys.argv[1]} /api/routes{sys.argv[2]} HTTP/1.1\\r\\nHost: x\\r\\nAuthorization: token {token}\\r\\n"
    f"Content-Length: {len(body)}\\r\\nConnection: close\\r\\n\\r\\n".encode() + body
)
assert proxy.makefile().readline().split()[1] in ("201", "204")
""".replace("%d", str(PORT))
ECHO = """
import http.server, json, sys
class Echo(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def do_GET(self):
        text = json.dumps(self.headers.items()).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        for name in ("Strict-Transport-Security", "X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy"):
            self.send_header(name, "of-the-service")
        self.send_header("Set-Cookie", "plain=1; Path=/")
        self.send_header("Set-Cookie", "safe=1; Path=/; Secure")
        self.end_headers()
        self.wfile.write(text)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Echo).serve_forever()
"""

ASK_API = """
import http.client, json, ssl, sys
from urllib.parse import urlsplit
where = urlsplit(sys.argv[1])
context = ssl._create_unverified_context()
server = http.client.HTTPSConnection(where.hostname, where.port, context=context, timeout=20)
server.request("GET", sys.argv[2], headers=json.loads(sys.argv[3]))
answer = server.getresponse()
print(json.dumps([answer.status, answer.read().decode()]))
"""

# Names that some program takes for the identity of the user. CGI programs treat _ like -.
IDENTITY = (
    *(
        "X-Hpchub-User",
        "X-Hpchub-Userinfo",
        "X-Hpchub-Id-Token",
        "X-Hpchub-Groups",
        "X-Hpchub-Mail",
        "Remote-User",
        "Remote-Name",
        "Remote-Email",
        "Remote-Groups",
    ),
    *("X-Remote-User", "X-Remote-Email", "X-Remote-Groups", "X-Forwarded-User", "X-Forwarded-Email"),
    *("X-Forwarded-Groups", "X-Auth-User", "X-Authenticated-User", "X-User"),
)
# Names that some program takes for the client's address, the scheme or the path of the request.
ORIGIN = (
    *(
        "CF-Connecting-IP",
        "Forwarded",
        "Front-End-Https",
        "Proxy",
        "True-Client-IP",
        "X-Client-IP",
        "X-Cluster-Client-IP",
    ),
    *("X-Forwarded", "X-Forwarded-By", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Path", "X-Forwarded-Port"),
    *("X-Forwarded-Prefix", "X-Forwarded-Preferred-Username", "X-Forwarded-Proto", "X-Forwarded-Protocol"),
    *("X-Forwarded-Scheme", "X-Forwarded-Server", "X-Forwarded-Ssl", "X-Forwarded-Uri", "X-HTTP-Method-Override"),
    *("X-Original-URI", "X-Original-URL", "X-Real-IP", "X-Rewrite-URL", "X-Scheme", "X-Url-Scheme"),
)
FORGED = "forged-by-the-client"
NOBODY = "token of-nobody-with-at-least-32-characters"


@pytest.fixture(scope="module")
def alice(hub: Host, idp: Host, state: dict[str, Any]) -> Visitor:
    """Return a visitor who is signed in as alice."""
    here = "hostname --all-ip-addresses"
    addresses = {
        urlsplit(state["url"]).hostname or "": hub.check_output(here).split()[0],
        urlsplit(state["idp_url"]).hostname or "": idp.check_output(here).split()[0],
    }
    visitor = Visitor(addresses, state["url"])
    (user,) = [user for user in state["users"] if user["name"] == "alice"]
    page = visitor.sign_in(user)
    assert page.status == 200, page
    return visitor


@pytest.fixture(scope="module", autouse=True)
def echo(hub: Host) -> Iterator[None]:
    """Run a service behind the proxy that answers with the headers that it receives."""
    hub.run("systemctl stop hpchub-test-hygiene")
    hub.check_output("systemd-run --quiet --collect --unit=hpchub-test-hygiene python3 -c %s %s", ECHO, str(PORT))
    for target in (TARGET, USER_TARGET, API_TARGET, OTHER_TARGET):
        hub.check_output("python3 -c %s POST %s", ROUTE, target.rstrip("/"))
    for _ in range(50):
        if hub.socket(f"tcp://127.0.0.1:{PORT}").is_listening:
            break
        time.sleep(0.1)
    yield
    for target in (TARGET, USER_TARGET, API_TARGET, OTHER_TARGET):
        hub.check_output("python3 -c %s DELETE %s", ROUTE, target.rstrip("/"))
    hub.run("systemctl stop hpchub-test-hygiene")


def received(visitor: Visitor, headers: list[tuple[str, str]], target: str = TARGET) -> list[tuple[str, str]]:
    """Return the headers that the service receives for those that a client sends."""
    answer = visitor.ask(target, headers)
    assert answer.status == 200, answer
    return [(name.lower(), value) for name, value in json.loads(answer.text)]


def test_harmless_client_header_reaches_the_service(alice: Visitor) -> None:
    assert ("x-harmless", FORGED) in received(alice, [("X-Harmless", FORGED)])


@pytest.mark.parametrize("name", IDENTITY)
def test_client_header_with_an_identity_does_not_reach_the_service(alice: Visitor, name: str) -> None:
    arrived = received(alice, [(spelt, FORGED) for spelt in mixtures(name)])
    assert FORGED not in str(arrived)


@pytest.mark.parametrize("name", ORIGIN)
def test_client_header_with_an_origin_does_not_reach_the_service(alice: Visitor, name: str) -> None:
    assert FORGED not in str(received(alice, [(name, FORGED)]))


def test_web_server_states_the_origin_of_a_client_header_itself(alice: Visitor, state: dict[str, Any]) -> None:
    url = urlsplit(state["url"])
    arrived = dict(received(alice, []))
    assert (arrived["x-forwarded-proto"], arrived["x-forwarded-port"]) == ("https", str(url.port or 443))
    assert arrived["x-forwarded-host"] == url.netloc


def test_service_learns_no_claims_of_the_sign_on(alice: Visitor) -> None:
    for target in (TARGET, USER_TARGET, API_TARGET):
        names = {name.replace("_", "-") for name, _ in received(alice, [], target)}
        assert not [name for name in names if name.startswith("oidc-")], target


@pytest.mark.parametrize("others", [{}, {"theirs": "kept"}, {"theirs": "kept", "more": "too"}], ids=len)
def test_service_receives_exactly_the_cookies_that_are_not_of_the_sign_on(
    alice: Visitor, others: dict[str, str]
) -> None:
    """Without other cookies, the service receives no Cookie header at all."""
    jar = alice.cookies[urlsplit(alice.url).netloc]
    kept = dict(jar)
    jar.clear()
    jar.update({name: value for name, value in kept.items() if name.startswith("__Host-hpchub-sso")} | others)
    try:
        cookies = dict(received(alice, [])).get("cookie")
    finally:
        jar.clear()
        jar.update(kept)
    assert cookies == ("; ".join(f"{name}={value}" for name, value in others.items()) or None)


@pytest.mark.parametrize("target", [TARGET, USER_TARGET])
def test_cookies_do_not_go_along_with_a_token(alice: Visitor, target: str) -> None:
    assert "cookie" in dict(received(alice, [], target))
    assert "cookie" not in dict(received(alice, [("Authorization", NOBODY)], target))


def ask_api(settings: dict[str, Any], compute: Host, target: str, headers: dict[str, str]) -> tuple[int, str]:
    """Send a request from a compute node to the API's port, and return the status and the text of the answer."""
    api = settings["api_url"]
    answer = compute.check_output("python3 -c %s %s %s %s", ASK_API, api, target, json.dumps(headers))
    status, text = json.loads(answer)
    return status, text


def test_compute_node_reaches_nothing_whose_path_only_begins_like_the_api(
    settings: dict[str, Any], compute: Host
) -> None:
    assert ask_api(settings, compute, API_TARGET, {})[0] == 200
    assert ask_api(settings, compute, OTHER_TARGET, {})[0] == 404


def test_request_with_a_token_has_no_identity(alice: Visitor) -> None:
    token = [("Authorization", NOBODY)]
    assert dict(received(alice, [], API_TARGET))["x-hpchub-user"] == "alice"
    anonymous = Visitor(alice.addresses, alice.url)
    arrived = dict(received(anonymous, token, API_TARGET))
    assert arrived["authorization"] == NOBODY
    assert not [name for name in arrived if name.startswith("x-hpchub")]


def test_compute_node_sends_the_hub_neither_cookies_nor_an_identity(settings: dict[str, Any], compute: Host) -> None:
    sent = {"X-Harmless": FORGED, "Authorization": NOBODY, "Cookie": "jupyterhub-session-id=x"}
    sent |= dict.fromkeys(IDENTITY, "carol")
    arrived = {name.lower(): value for name, value in json.loads(ask_api(settings, compute, API_TARGET, sent)[1])}
    assert (arrived["x-harmless"], arrived["authorization"]) == (FORGED, NOBODY)
    assert "cookie" not in arrived
    assert "carol" not in arrived.values()


def test_response_headers_of_a_service_are_replaced(alice: Visitor) -> None:
    headers = alice.ask(TARGET).headers
    assert [value.split("=")[0] for value in headers.get_all("Strict-Transport-Security") or []] == ["max-age"]
    assert headers.get_all("X-Content-Type-Options") == ["nosniff"]
    assert headers.get_all("X-Frame-Options") == ["SAMEORIGIN"]
    assert headers.get_all("Referrer-Policy") == ["same-origin"]


def test_cookies_of_a_service_become_secure_and_stay_on_this_site(alice: Visitor) -> None:
    cookies = alice.ask(TARGET).headers.get_all("Set-Cookie") or []
    assert [cookie for cookie in cookies if cookie.startswith(("plain", "safe"))] == [
        "plain=1; Path=/; Secure; SameSite=Lax",
        "safe=1; Path=/; Secure; SameSite=Lax",
    ]


def test_own_pages_are_not_cached(alice: Visitor) -> None:
    assert alice.ask("/sso/signed-out").headers.get_all("Cache-Control") == ["no-store"]


def test_trace_is_refused(alice: Visitor) -> None:
    assert alice.ask("/sso/signed-out", method="TRACE").status == 405


# With another content type, JupyterHub ignores the cookies, skips the XSRF check, and asks the authenticator.
@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
@pytest.mark.parametrize("origin", ["https://elsewhere.example", "https://elsewhere.localhost", ""])
def test_page_without_xsrf_token_gets_no_api_token(alice: Visitor, kind: str, origin: str) -> None:
    """Hazard H22. Browsers send the origin of the page with every POST; an empty one here is the service's own."""
    headers = [("Content-Type", kind), ("Origin", origin or alice.url)]
    answer = alice.ask("/hub/api/users/alice/tokens", headers, method="POST", body=b"{}")
    assert answer.status == 403, answer
    jar = alice.cookies[urlsplit(alice.url).netloc]
    alice.follow(alice.ask("/hub/token"))
    own = [("Content-Type", "application/json"), ("Origin", alice.url), ("X-XSRFToken", jar["_xsrf"])]
    made = alice.ask("/hub/api/users/alice/tokens", own, method="POST", body=b'{"expires_in": 60}')
    assert made.status == 201, made
