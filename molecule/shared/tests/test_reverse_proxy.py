"""The doors, from outside: who comes in, as whom, and what is kept out."""

import base64
import itertools
import json
import re
import secrets
import socket
import ssl
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from lab.web_client import Visitor, unverified

PASS = [("Authorization", "token of-nobody")]  # gets by Apache, and no further

IDENTITY = ["X-Hpchub-User", "X-Hpchub-Groups", "Remote-User", "X-Remote-User", "X-Forwarded-User"]
"""Names of headers that say who somebody is, each to be tried in every spelling."""


def spellings(name):
    """The name with every mixture of dashes and underscores, in three cases."""
    words = name.split("-")
    for marks in itertools.product("-_", repeat=len(words) - 1):
        spelt = words[0] + "".join(mark + word for mark, word in zip(marks, words[1:], strict=True))
        yield from (spelt, spelt.lower(), spelt.upper())


@pytest.fixture(scope="module")
def addresses(hub, idp, state):
    """Where the names in the lab's URLs really are."""
    here = "hostname --all-ip-addresses"
    return {
        urlsplit(state["url"]).hostname: hub.check_output(here).split()[0],
        urlsplit(state["idp_url"]).hostname: idp.check_output(here).split()[0],
    }


@pytest.fixture(scope="module")
def people(state):
    return {user["name"]: user for user in state["users"]}


@pytest.fixture
def anybody(addresses, state):
    """Somebody who has not signed in."""
    return Visitor(addresses, state["url"])


@pytest.fixture(scope="module")
def alice(addresses, state, people):
    """Somebody who has, and may pass."""
    visitor = Visitor(addresses, state["url"])
    page = visitor.sign_in(people["alice"])
    assert page.status == 200, page
    return visitor


@pytest.fixture(scope="module")
def settings(hub):
    """The hub's settings, for the address of the cluster's door."""
    return json.loads(hub.file("/etc/hpchub/hub.json").content_string)


def from_apache(answer):
    """Whether a page is Apache's own: it alone has no script and no style but its own."""
    return "default-src 'none'" in answer.headers.get("Content-Security-Policy", "")


def signed_in_as(page):
    """The name that the hub shows on its pages."""
    return page.text.split('user: "', 1)[1].split('"', 1)[0] if 'user: "' in page.text else None


def test_the_web_server_is_up(hub):
    unit = hub.run("systemctl is-active apache2")
    assert unit.stdout.strip() == "active", hub.run("journalctl --unit=apache2 --lines=40 --no-pager").stdout


# -- TLS


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_tls_is_refused(addresses, state, version):
    with pytest.raises(ssl.SSLError):
        handshake(addresses, state["url"], "ALL:@SECLEVEL=0", version)


@pytest.mark.parametrize(
    "cipher", ["AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "ECDHE-RSA-AES256-SHA384", "AES128-GCM-SHA256"]
)
def test_weak_ciphers_are_refused(addresses, state, cipher):
    with pytest.raises(ssl.SSLError):
        handshake(addresses, state["url"], f"{cipher}:@SECLEVEL=0", ssl.TLSVersion.TLSv1_2)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_modern_tls_is_taken(addresses, state, version):
    assert "GCM" in handshake(addresses, state["url"], "ECDHE+AESGCM", version)[0]


def handshake(addresses, url, ciphers, version):
    where = urlsplit(url)
    context = unverified()
    context.minimum_version = context.maximum_version = version
    context.set_ciphers(ciphers)
    with (
        socket.create_connection((addresses[where.hostname], where.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=where.hostname) as connection,
    ):
        return connection.cipher()


def test_what_jobs_trust_vouches_for_both_doors(hub, addresses, state, settings):
    trusted = hub.file("/etc/hpchub/tls/api-ca.pem").content_string
    public = urlsplit(state["url"])
    context = ssl.create_default_context(cadata=trusted)
    for name, port in [(public.hostname, public.port), (urlsplit(settings["api_url"]).hostname, api_port(settings))]:
        with (
            socket.create_connection((addresses[public.hostname], port), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname=name) as connection,
        ):
            assert connection.getpeercert()


def test_keys_are_roots_alone(hub):
    for path in (
        "/etc/hpchub/tls/server.key",
        "/etc/hpchub/secrets/sso-client.conf",
        "/etc/hpchub/secrets/sso-sessions.conf",
    ):
        file = hub.file(path)
        assert (file.user, oct(file.mode)) == ("root", "0o600"), path


def test_browsers_are_told_to_be_careful(anybody):
    for target in ("/hub/health", "/sso/signed-out", "/hub/home", "/nothing"):
        headers = anybody.ask(target).headers
        assert int(headers["Strict-Transport-Security"].split("=")[1]) >= 180 * 86400
        assert headers.get_all("X-Content-Type-Options") == ["nosniff"]
        assert headers.get_all("X-Frame-Options") == ["SAMEORIGIN"]
        assert headers.get_all("Referrer-Policy") == ["same-origin"]


def test_no_page_goes_into_a_frame(anybody, alice):
    for who, target in (
        (anybody, "/sso/signed-out"),
        (anybody, "/nothing"),
        (alice, "/hub/home"),
        (alice, "/hub/nothing"),
    ):
        assert "frame-ancestors 'none'" in who.ask(target).headers["Content-Security-Policy"], target


# -- who is who


def test_one_signs_in_at_the_provider(anybody, state, people):
    answer = anybody.ask("/")
    assert answer.status == 302
    answer = anybody.ask("/hub/home")
    assert answer.status == 302
    assert answer.location.startswith(state["idp_url"])
    assert "code_challenge_method=S256" in answer.location
    cookie = answer.headers["Set-Cookie"]
    assert all(flag in cookie for flag in ("Secure", "HttpOnly", "SameSite")), cookie
    assert signed_in_as(anybody.sign_in(people["bob"])) == "bob"


@pytest.mark.parametrize("name", IDENTITY)
@pytest.mark.parametrize("target", ["/hub/home", "/hub/login", "/hub/api/user", "/hub/api/oauth2/authorize"])
def test_a_forged_identity_signs_nobody_in(anybody, state, name, target):
    for spelt in spellings(name):
        answer = anybody.ask(target, [(spelt, "carol"), (spelt, "carol")])
        assert answer.status == 401 or answer.location.startswith(state["idp_url"]), (spelt, answer)
        assert "jupyterhub-hub-login" not in str(anybody.cookies)


def test_a_forged_identity_makes_nobody_somebody_else(alice):
    forged = [(spelt, "carol") for name in IDENTITY for spelt in spellings(name)]
    for half in (forged[::2], forged[1::2]):
        assert signed_in_as(alice.ask("/hub/home", half)) == "alice"


@pytest.mark.parametrize(
    "name", ["OIDC_CLAIM_preferred_username", "OIDC-CLAIM-sub", "oidc_access_token", "X_Hpchub_Admin"]
)
def test_headers_of_the_single_sign_on_are_refused(anybody, name):
    assert anybody.ask("/hub/health", [(name, "carol")]).status == 400


def test_a_token_is_no_sign_in(anybody, state):
    for target in ("/hub/home", "/hub/login", "/hub/api/oauth2/authorize"):
        assert anybody.ask(target, PASS).location.startswith(state["idp_url"])


def test_a_password_is_no_token(anybody):
    for scheme in ("Basic YTpi", "token", "tokens x", "Digest token x"):
        assert anybody.ask("/hub/api/user", [("Authorization", scheme)]).status == 401


def test_a_token_comes_without_a_session(alice):
    # Alice's cookies go with it, and must not count: the hub says that this token is nobody's.
    answer = alice.ask("/hub/api/user", PASS)
    assert (answer.status, answer.headers["Content-Type"]) == (403, "application/json"), answer


def test_who_is_not_permitted_is_told_so(addresses, state, people):
    dave = Visitor(addresses, state["url"])
    page = dave.sign_in(people["dave"])
    assert page.status == 403
    assert "<strong>dave</strong>" in page.text
    assert 'href="/sso/logout"' in page.text


def test_notebooks_are_their_owners(alice):
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
def test_a_program_in_a_page_is_told_and_not_redirected(anybody, headers):
    answer = anybody.ask("/user/alice/files/x", headers)
    assert (answer.status, answer.location) == (401, "")
    assert anybody.ask("/user/alice/api/contents").status == 401
    assert anybody.ask("/hub/spawn", method="POST", body=b"profile=small").status == 401


def test_signing_out_ends_both_sessions(addresses, state, people):
    bob = Visitor(addresses, state["url"])
    assert signed_in_as(bob.sign_in(people["bob"])) == "bob"
    page, url = bob.follow(bob.ask("/sso/logout"))
    assert (page.status, url) == (200, state["url"] + "/sso/signed-out")
    page, url = bob.follow(bob.ask("/hub/home"))
    assert url.startswith(state["idp_url"])
    assert 'name="password"' in page.text


def test_nobody_is_sent_elsewhere_after_signing_out(anybody):
    answer = anybody.ask("/oidc/callback?logout=https%3A%2F%2Felsewhere.example%2F")
    assert "elsewhere" not in answer.location


# -- addresses


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
def test_addresses_that_are_not_read_alike_are_refused(alice, target):
    assert alice.ask(target).status == 400
    assert alice.ask(target, PASS).status == 400


@pytest.mark.parametrize(
    "target",
    ["/user%2Falice/", "/hub%2fhome", "/user/", "/user/Alice/", "/user/a%20b/", "/_chp_healthz", "/api/routes"],
)
def test_there_is_nothing_else(alice, target):
    assert alice.ask(target, PASS).status == 404


def test_encoded_slashes_arrive(alice):
    answer = alice.ask("/hub/api/users/a%2Fb%25c", PASS)
    assert answer.headers["Content-Type"] == "application/json", answer


def test_no_other_name_is_served(anybody):
    assert anybody.ask("/hub/health", host="elsewhere.example").status == 421


# -- what goes through

ECHO = """
import base64, hashlib, http.server, socketserver
class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_GET(self):
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
        self.send_response(200); self.send_header("Content-Length", str(len(text))); self.end_headers()
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
def echo(hub):
    """A service behind the proxy that answers with what it got."""
    hub.run("systemctl stop hpchub-test-echo")
    hub.check_output("systemd-run --quiet --collect --unit=hpchub-test-echo python3 -c %s", ECHO)
    hub.check_output("python3 -c %s POST", ROUTE)
    time.sleep(1)
    yield "/services/echo/"
    hub.check_output("python3 -c %s DELETE", ROUTE)
    hub.run("systemctl stop hpchub-test-echo")


def test_what_a_service_gets_to_know(alice, echo):
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
def test_no_spelling_of_the_sign_ons_cookies_gets_through(alice, echo, spelt):
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


def test_cookies_do_not_go_with_a_token(alice, echo):
    text = alice.ask(echo, PASS).text.lower()
    assert "cookie" not in text
    assert "authorization: token of-nobody" in text


@contextmanager
def websocket(addresses, url, target):
    where = urlsplit(url)
    with (
        socket.create_connection((addresses[where.hostname], where.port), timeout=20) as plain,
        unverified().wrap_socket(plain, server_hostname=where.hostname) as connection,
    ):
        lines = [
            f"GET {target} HTTP/1.1",
            f"Host: {where.netloc}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {base64.b64encode(secrets.token_bytes(16)).decode()}",
            "Authorization: token of-nobody",
        ]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        stream = connection.makefile("rb")
        assert stream.readline().split()[1] == b"101"
        while stream.readline().strip():
            pass

        def say(words):
            connection.sendall(words)
            return stream.read(len(words)) == words

        yield say


def test_a_silent_websocket_outlives_reloads_and_a_minute(hub, addresses, state, echo):
    with websocket(addresses, state["url"], echo + "channels") as say:
        assert say(b"hello")
        assert say(secrets.token_bytes(1 << 20))
        hub.check_output("systemctl reload apache2")
        time.sleep(65)
        assert say(b"still there?")


def test_large_files_go_up(alice, echo):
    body = bytes(100 << 20)
    assert alice.ask(echo.replace("echo", "none"), PASS, method="PUT", body=b"x" * (11 << 20)).status == 413
    assert alice.ask(echo, PASS, method="PUT", body=bytes(9 << 20)).text == str(9 << 20)
    assert alice.ask("/user/alice/api/contents/x", PASS, method="PUT", body=body).status != 413


# -- maintenance


def test_maintenance_closes_the_door_at_once(hub, anybody, compute, settings):
    hub.check_output("touch /etc/hpchub/maintenance")
    try:
        page = anybody.ask("/hub/home")
        assert (page.status, page.headers["Retry-After"]) == (503, "30")
        assert "being maintained" in page.text
        assert anybody.ask("/user/alice/api", PASS).status != 503
        assert at_cluster_door(compute, settings, "/hub/api")[0] == 200
    finally:
        hub.check_output("rm /etc/hpchub/maintenance")
    assert anybody.ask("/hub/health").status == 200


# -- the cluster's door


def api_port(settings):
    return urlsplit(settings["api_url"]).port


ASK = """
import http.client, json, ssl, sys
from urllib.parse import urlsplit
where, target, headers = urlsplit(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
door = http.client.HTTPSConnection(where.hostname, where.port, context=ssl._create_unverified_context(), timeout=20)
door._validate_path = lambda _: None
door.request("GET", target, headers=headers)
answer = door.getresponse()
print(json.dumps([answer.status, answer.read().decode(errors="replace")]))
"""


def at_cluster_door(host, settings, target, **headers):
    """Status and text of what a node gets."""
    return json.loads(
        host.check_output("python3 -c %s %s %s %s", ASK, settings["api_url"], target, json.dumps(headers))
    )


def test_nodes_reach_the_api(compute, settings):
    status, text = at_cluster_door(compute, settings, "/hub/api")
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


def test_no_answer_to_a_nodes_report_is_lost(compute, settings):
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
def test_nodes_reach_nothing_else(compute, settings, target, status):
    assert at_cluster_door(compute, settings, target)[0] == status


def test_nobody_is_anybody_at_the_clusters_door(compute, settings):
    forged = {spelt: "carol" for name in IDENTITY for spelt in spellings(name)}
    assert at_cluster_door(compute, settings, "/hub/api/user", **forged)[0] == 403


def test_the_clusters_door_is_for_the_clusters_networks(hub, settings):
    configured = hub.check_output("grep --no-filename 'Require ip' /etc/apache2/sites-enabled/hpchub.conf")
    if "127.0.0.0/8" in configured or "::1" in configured:
        pytest.skip("this site's cluster is the hub host itself")
    local = {"api_url": f"https://127.0.0.1:{api_port(settings)}"}
    assert at_cluster_door(hub, local, "/hub/api")[0] == 403


# -- what the host shows to the network


def test_apache_opens_two_ports(hub, state, settings):
    lines = hub.check_output("ss --listening --tcp --numeric --processes --no-header").splitlines()
    ports = {int(line.split()[3].rsplit(":", 1)[1]) for line in lines if '"apache2"' in line}
    assert ports - {urlsplit(state["idp_url"]).port} == {urlsplit(state["url"]).port, api_port(settings)}


def test_the_log_has_no_tokens(hub, anybody):
    mark = secrets.token_hex(8)
    anybody.ask(f"/user/alice/lab?token={mark}")
    assert hub.run("grep --recursive --fixed-strings %s /var/log/apache2", mark).rc == 1


def test_apache_is_in_a_sandbox(hub):
    report = hub.check_output("systemd-analyze security --no-pager apache2.service")
    assert float(re.search(r"Overall exposure level for \S+ ([\d.]+)", report)[1]) <= 3.0, report
