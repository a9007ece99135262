"""Attacks on authentication: who is the user?"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from lab.web_client import IDENTITY, spellings

from .target import Unusable, basic, forged, hub_cookie, signed_in_as, wait

if TYPE_CHECKING:
    from .target import Session, Target

NO_ACCOUNTS = [
    "(null)",
    "root",
    "daemon",
    "nobody",
    "..",
    "a/b",
    "Alice",
    "alice,boss",
    "a" * 10_000,
    "ålice",
    "alice\u202e",
    "alice bob",
    "-rf",
    "nosuchuser",
]
VICTIM = "carol"  # an administrator of both hubs


@pytest.mark.hazard("H4")
def test_hub_refuses_names_without_an_ordinary_account(target: Target) -> None:
    """The sign-on sends a name without an ordinary local account: (null), root, .., a/b, capitals, two names"""
    before, submitted = target.accounts(), target.calls("sbatch")
    names: list[str | list[str]] = [*NO_ACCOUNTS, ["alice", "boss"]]
    target.require_that_alice_signs_in()
    before |= {"alice"}
    answers = target.send_identities(names)
    made = target.accounts() - before
    assert not made, f"the hub creates {len(made)} accounts for {len(names)} such names"
    for name, answer in zip(names, answers, strict=True):
        assert not hub_cookie(answer["headers"]), f"the hub signs in {name[:40]!r}"
        assert answer["status"] in {400, 401, 403}, (name[:40], answer["status"])
    assert target.calls("sbatch") == submitted


@pytest.mark.hazard("H4")
def test_hub_refuses_a_user_without_permission(target: Target) -> None:
    """A user signs in who has an account but no permission"""
    target.require_that_alice_signs_in()
    target.lab.run(target.hub, ["id", "dave"])  # raises an error if he has no account
    (answer,) = target.send_identities(["dave"], permitted=False)
    assert not hub_cookie(answer["headers"]), "the hub signs in a user without permission"
    assert answer["status"] in {401, 403}
    assert "dave" not in target.accounts()


@pytest.mark.hazard("H5")
def test_tcp_ports_accept_no_forged_identity(target: Target) -> None:
    """A TCP client of the hub host claims to be another user: from a job, the login node, the hub host, outside"""
    target.require_that_alice_signs_in()
    steps = []
    address = target.lab.addresses[target.lab.host(target.hub)]
    ports = target.ports()
    for port in ports:
        for headers in ([[target.identity_header, VICTIM]], forged(VICTIM)):
            for tls in (False, True):
                # Try the loopback address too, because some listeners are not reachable from the network.
                step = {"port": port, "tls": tls, "name": "hub.localhost", "target": "/hub/login", "timeout": 3}
                steps.append({**step, "host": address, "headers": headers})
                steps.append({**step, "host": "127.0.0.1", "headers": headers})
    public = urlsplit(target.url).port or 443
    positions = [("compute1", "bob", True), ("login1", "bob", False), (target.hub, "nobody", False)]
    for host, user, job in positions:
        answers = target.python("ask.py", host, user, steps, job=job)
        reached = require_answer(public, address, steps, answers)
        for step, answer in zip(steps, answers, strict=True):
            case = f"{user} on {host} becomes {VICTIM} at port {step['port']}"
            assert not hub_cookie(answer.get("headers", [])), case
    # The last position is the hub host itself, which reaches every port that still has a listener.
    if missed := (set(ports) & set(target.ports())) - reached:
        raise Unusable(f"nobody on the hub host can connect to its ports {sorted(missed)}")
    outside = [step for step in steps if step["host"] == address]
    answers = target.outside(outside)
    require_answer(public, address, outside, answers)
    for step, answer in zip(outside, answers, strict=True):
        assert not hub_cookie(answer.get("headers", [])), f"an outside client becomes {VICTIM} at port {step['port']}"


def require_answer(port: int, address: str, steps: list[dict[str, Any]], answers: list[dict[str, Any]]) -> set[int]:
    """Check that a client gets an HTTP response from the service's public port, and return the ports it can connect to.

    A client that cannot reach the hub host at all gets no login cookie either, but that proves nothing.

    Raises:
        Unusable: The public port does not answer the client.
    """
    pairs = list(zip(steps, answers, strict=True))
    if not any((step["host"], step["port"]) == (address, port) and "status" in answer for step, answer in pairs):
        raise Unusable(f"the public port {port} of the service does not answer: {answers}")
    return {step["port"] for step, answer in pairs if answer["connected"]}


@pytest.mark.hazard("H5")
def test_unix_sockets_accept_no_forged_identity(target: Target) -> None:
    """An account of the hub host, or the web server, uses a Unix socket that is not meant for it"""
    target.require_that_alice_signs_in()
    sockets = target.sockets()
    for user in ("alice", "nobody", "www-data"):
        own = target.identity_endpoint() if user == "www-data" else {}
        steps = [
            {"unix": path, "target": "/hub/login", "headers": [[target.identity_header, VICTIM]], "timeout": 2}
            for path in sockets
            if path != own.get("unix")
        ]
        for step, answer in zip(steps, target.python("ask.py", target.hub, user, steps), strict=True):
            assert not hub_cookie(answer.get("headers", [])), f"{user} becomes {VICTIM} at {step['unix']}"
            if not answer["connected"] and "PermissionError" not in answer["error"]:
                raise Unusable(f"{user} has permission for {step['unix']}, but cannot connect: {answer['error']}")


@pytest.mark.hazard("H6")
def test_certificate_of_a_job_is_not_a_sign_on(target: Target, alice: Session) -> None:
    """A job presents its certificate and token to the hub and claims to be another user"""
    target.needs_job_certificates()
    if not alice.pem:
        raise Unusable("alice's notebook server has no certificate")
    path = "/home/alice/.hostile/certificate.pem"
    target.write("login1", "alice", path, alice.pem)
    headers = [["Authorization", f"token {alice.token}"], [target.identity_header, VICTIM]]
    place = {**target.api_of(alice), "headers": headers, "certificate": path}
    steps = [{**place, "target": target_path} for target_path in ("/hub/login", "/hub/home", "/hub/api/user")]
    answers = target.python("ask.py", alice.job.node, "alice", steps)
    for answer in answers:
        assert not hub_cookie(answer.get("headers", []))
        assert VICTIM not in answer.get("text", "")
    if not all("status" in answer for answer in answers) or '"name": "alice"' not in answers[-1]["text"]:
        raise Unusable(f"the hub does not answer alice's job as alice: {answers}")


@pytest.mark.hazard("H7")
def test_ambiguous_paths_are_refused(target: Target, alice: Session) -> None:
    """A path that the web server and the proxy normalise differently carries the sign-on to the user's own server"""
    target.needs_a_secret_of_the_web_server()
    base = "/user/alice/hostile"
    tricks = [
        *(f"{base}{trick}" for trick in ("///../../hub/login", "/..%2f..%2f..%2fhub/login", "/../../../hub/login")),
        *(f"{base}{trick}" for trick in ("/%2e%2e/%2e%2e/%2e%2e/hub/login", "/..;/..;/hub/login", "/..%5c..%5chub")),
        *(f"{base}{trick}" for trick in ("\\..\\..\\hub\\login", "/%2E%2E/x", "//hub/login", "/./../hub/login")),
        "/hub/..%2fuser/alice/hostile",
        "/hub/login/../../user/alice/hostile",
        "/hub//../user/alice/hostile",
        f"{target.url}/hub/login/../../user/alice/hostile",
    ]
    person = target.signed_in("alice")
    for trick in tricks:
        assert person.ask(trick).status == 400, trick
    mark = secrets.token_hex(4)
    person.ask(f"{base}/{mark}")
    arrived = target.received("alice")
    if not any(mark in uri for _, uri, _, _ in arrived):
        raise Unusable("alice's server does not record the requests that it receives")
    for _, uri, headers, _ in arrived:
        assert target.identity_header.lower() not in {name.lower() for name, _ in headers}, uri


@pytest.mark.hazard("H8")
def test_identity_headers_of_a_client_are_ignored(target: Target) -> None:
    """A client sends identity headers to the public endpoint, in every spelling, signed in or not"""
    anybody, alice, before = target.person(), target.signed_in("alice"), target.accounts()
    for header in IDENTITY:
        for spelt in spellings(header):
            answer = anybody.ask("/hub/login", [(spelt, VICTIM)])
            assert "jupyterhub-hub-login" not in str(anybody.cookies), f"{spelt} signs in every client that sends it"
            assert answer.status in {302, 400, 401}, spelt
            alice.ask("/hub/login", [(spelt, VICTIM), (spelt, VICTIM)])
            page = alice.ask("/hub/home", [(spelt, VICTIM)])
            # The web server may refuse the header.
            expected = "alice" if page.status == 200 else ""
            assert signed_in_as(page.text) == expected, f"{spelt} turns alice into {signed_in_as(page.text)}"
            assert page.status in {200, 302, 400}, f"{spelt}: {page}"
    assert signed_in_as(alice.page("/hub/home").text) == "alice"
    assert target.accounts() == before, "the hub creates accounts for unverified names"


@pytest.mark.hazard("H9")
def test_notebook_server_receives_no_credentials_of_its_visitors(target: Target, alice: Session) -> None:
    """A user's own server reads the sign-on cookies, passwords and names of its visitors"""
    jar = target.signed_in("alice").jar
    if target.sign_on_cookies and not any(name.startswith(target.sign_on_cookies) for name in jar):
        raise Unusable(f"alice sends no cookie of the single sign-on; she has the cookies {sorted(jar)}")
    mark = secrets.token_hex(4)
    claims = [("OIDC_CLAIM_sub", VICTIM), ("OIDC-CLAIM-preferred-username", VICTIM)]
    for name in ("alice", "bob"):
        person = target.signed_in(name)
        person.ask(f"/user/alice/hostile/{mark}/{name}")
        person.ask(f"/user/alice/hostile/{mark}/{name}", [basic(name, "a password")])
        for claim in claims:
            person.ask(f"/user/alice/hostile/{mark}/{name}", [claim])
    arrived = [entry for entry in target.received("alice") if mark in entry[1]]
    wait("alice's server receives her requests", lambda: arrived, timeout=1)
    for _, uri, pairs, _ in arrived:
        headers = {name.lower(): value for name, value in pairs}
        assert not headers.get("authorization", "").startswith("Basic"), "passwords are forwarded to the user's server"
        found = {name for name in target.sign_on_cookies if name in headers.get("cookie", "")}
        assert not found, f"the cookies {found} are forwarded to the user's server"
        assert not any(name.replace("_", "-").startswith("oidc-") for name in headers), (uri, headers)
        assert target.identity_header.lower() not in headers, "the identity header is forwarded to the user's server"


@pytest.mark.hazard("H21")
def test_separator_in_the_name_of_a_group_makes_no_administrator(target: Target) -> None:
    """The name of a user's group contains a separator and the name of the administrators' group"""
    target.require_that_alice_signs_in()
    names = [
        "x,ADMINS",
        "x;ADMINS",
        "x; ADMINS",
        "x ADMINS",
        "x|ADMINS",
        'x","ADMINS',
        "ADMINS\n",
        "ADMINS ",
        "ADMINS,",
    ]
    found = target.administrators_with_groups(names)
    assert "alice" not in found, "the hub makes alice an administrator"


@pytest.mark.hazard("H22")
def test_page_of_another_site_makes_no_token(target: Target) -> None:
    """A page of another site makes an API token with the cookies of its visitor"""
    person = target.signed_in("alice")
    if (own := person.api("POST", "users/alice/tokens", {"expires_in": 60})).status != 201:
        raise Unusable(f"alice's own page cannot make a token: {own}")
    json, text, form = "application/json", "text/plain", "application/x-www-form-urlencoded"
    foreign = [("Origin", "https://elsewhere.example"), ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "cors")]
    for kind in (json, text, form, ""):
        for origin in (foreign, foreign[:1], [("Origin", "null")], [("Sec-Fetch-Mode", "websocket")], []):
            headers = [*origin, *([("Content-Type", kind)] if kind else [])]
            answer = person.ask("/hub/api/users/alice/tokens", headers, method="POST", body=b"{}")
            assert answer.status in {400, 401, 403, 415}, f"the hub makes a token: {headers}"


@pytest.mark.hazard("A1")
def test_cookies_are_secure_and_http_only(target: Target, alice: Session) -> None:
    """A cookie is sent over an unencrypted connection or to another site, or a script reads it"""
    person = target.person("alice")
    person.page("/user/alice/lab")
    assert len(person.set_cookies) > 3
    checked = set()
    for line in person.set_cookies:
        name, _, rest = line.partition("=")
        value, _, flags = rest.lower().partition(";")
        if not value.strip('"'):
            continue  # the response deletes this cookie
        checked.add(name)
        assert "secure" in flags, f"{name} lacks Secure"
        if name != "_xsrf":  # the page's scripts need this one
            assert "httponly" in flags, f"{name} lacks HttpOnly"
    if missed := {"jupyterhub-hub-login", "jupyterhub-user-alice"} - {name.removeprefix("__Host-") for name in checked}:
        raise Unusable(f"no response sets the cookies {missed}; the responses set {checked}")


@pytest.mark.hazard("A2")
def test_log_ignores_forged_client_addresses(target: Target) -> None:
    """A client writes an address of its choice into the logs"""
    mark, forgery = secrets.token_hex(4), "198.51.100.7"
    names = ("X-Forwarded-For", "X-Real-IP", "X-Client-IP", "True-Client-IP", "CF-Connecting-IP")
    since = time.time()
    person = target.signed_in("alice")
    person.ask(f"/hub/{mark}", [*((name, forgery) for name in names), ("Forwarded", f"for={forgery}")])
    lines = wait(
        "the request is logged", lambda: [line for line in target.log(since).splitlines() if mark in line], timeout=20
    )
    assert forgery not in "\n".join(lines), "the log shows the forged address"
