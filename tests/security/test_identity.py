"""Who are you?"""

import secrets
import time

import pytest

from .target import IDENTITY, basic, forged, hub_cookie, signed_in_as, spellings, wait

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
VICTIM = "carol"  # administers both hubs


@pytest.mark.hazard("H4")
def test_a_name_that_is_no_ordinary_account(target):
    """The sign-on vouches for a name that is no ordinary local account: (null), root, .., a/b, capitals, two names"""
    before, submitted = target.accounts(), target.calls("sbatch")
    names = [*NO_ACCOUNTS, ["alice", "boss"]]
    answers = target.vouch(names)
    made = target.accounts() - before
    assert not made, f"the hub makes {len(made)} accounts of {len(names)} such names"
    for name, answer in zip(names, answers, strict=True):
        assert not hub_cookie(answer["headers"]), f"the hub signs {name[:40]!r} in"
        assert answer["status"] in {400, 401, 403}, (name[:40], answer["status"])
    assert target.calls("sbatch") == submitted


@pytest.mark.hazard("H4")
def test_somebody_who_is_not_permitted(target):
    """Somebody with an account, whom no rule permits, signs in"""
    (answer,) = target.vouch(["dave"], permitted=False)
    assert not hub_cookie(answer["headers"]), "the hub signs in who is not permitted"
    assert answer["status"] in {401, 403}
    assert "dave" not in target.accounts()


@pytest.mark.hazard("H5")
def test_whoever_reaches_a_port_is_nobody(target):
    """Whoever reaches a TCP port of the hub host says who he is: from a job, the login node, the host, outside"""
    steps = []
    address = target.lab.addresses[target.lab.host(target.hub)]
    for port in target.ports():
        for headers in ([[target.identity_header, VICTIM]], forged(VICTIM)):
            for tls in (False, True):
                # The first on the loopback address as well: what listens there is not for the network.
                step = {"port": port, "tls": tls, "name": "hub.localhost", "target": "/hub/login", "timeout": 3}
                steps.append({**step, "host": address, "headers": headers})
                steps.append({**step, "host": "127.0.0.1", "headers": headers})
    positions = [("compute1", "bob", True), ("login1", "bob", False), (target.hub, "nobody", False)]
    for host, user, job in positions:
        for step, answer in zip(steps, target.python("ask.py", host, user, steps, job=job), strict=True):
            where = f"{user} on {host} is {VICTIM} at port {step['port']}"
            assert not hub_cookie(answer.get("headers", [])), where
    outside = [step for step in steps if step["host"] == address]
    for step, answer in zip(outside, target.outside(outside), strict=True):
        assert not hub_cookie(answer.get("headers", [])), f"from outside one is {VICTIM} at port {step['port']}"


@pytest.mark.hazard("H5")
def test_whoever_finds_a_socket_is_nobody(target):
    """An account of the hub host, or of the web server, speaks to a Unix socket that is not for it"""
    listening = target.run(target.hub, "root", ["ss", "-lxnH"]).splitlines()
    sockets = sorted({line.split()[4] for line in listening if line.split()[4].startswith("/")})
    for user in ("alice", "nobody", "www-data"):
        door = target.identity_door() if user == "www-data" else {}
        steps = [
            {"unix": path, "target": "/hub/login", "headers": [[target.identity_header, VICTIM]], "timeout": 2}
            for path in sockets
            if path != door.get("unix")
        ]
        for step, answer in zip(steps, target.python("ask.py", target.hub, user, steps), strict=True):
            assert not hub_cookie(answer.get("headers", [])), f"{user} is {VICTIM} at {step['unix']}"


@pytest.mark.hazard("H6")
def test_a_jobs_certificate_is_no_sign_on(target, alice):
    """A job shows the hub the certificate and the token that it holds, and says that it is somebody else"""
    target.needs_job_certificates()
    path = "/home/alice/.hostile/certificate.pem"
    target.write("login1", "alice", path, alice.pem)
    headers = [["Authorization", f"token {alice.token}"], [target.identity_header, VICTIM]]
    place = {**target.api_of(alice), "headers": headers, "certificate": path if alice.pem else ""}
    steps = [{**place, "target": path} for path in ("/hub/login", "/hub/home", "/hub/api/user")]
    for answer in target.python("ask.py", alice.job.node, "alice", steps):
        assert not hub_cookie(answer.get("headers", []))
        assert VICTIM not in answer.get("text", "")


@pytest.mark.hazard("H7")
def test_addresses_that_are_read_in_two_ways(target, alice):
    """An address that the web server and the proxy read differently carries the sign-on to the user's own server"""
    target.needs_a_secret_between_the_doors()
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
    person = target.known("alice")
    for trick in tricks:
        assert person.ask(trick).status == 400, trick
    for _, uri, headers, _ in target.received("alice"):
        assert target.identity_header.lower() not in {name.lower() for name, _ in headers}, uri


@pytest.mark.hazard("H8")
def test_a_browser_says_who_it_is(target):
    """A browser sends identity headers of its own to the public door, in every spelling, signed in or not"""
    anybody, alice, before = target.person(), target.known("alice"), target.accounts()
    for header in IDENTITY:
        for spelt in spellings(header):
            answer = anybody.ask("/hub/login", [(spelt, VICTIM)])
            assert "jupyterhub-hub-login" not in str(anybody.cookies), f"{spelt} signs in whoever sends it"
            assert answer.status in {302, 400, 401}, spelt
            alice.ask("/hub/login", [(spelt, VICTIM), (spelt, VICTIM)])
            page = alice.ask("/hub/home", [(spelt, VICTIM)])
            assert signed_in_as(page.text) in {"alice", ""}, f"{spelt} makes alice {signed_in_as(page.text)}"
    assert signed_in_as(alice.page("/hub/home").text) == "alice"
    assert target.accounts() == before, "the hub makes accounts for names that nobody vouches for"


@pytest.mark.hazard("H9")
def test_what_a_notebook_server_learns_of_its_visitors(target, alice):
    """A user's own server reads the sign-on cookies, passwords and names of those who open it"""
    mark = secrets.token_hex(4)
    claims = [("OIDC_CLAIM_sub", VICTIM), ("OIDC-CLAIM-preferred-username", VICTIM)]
    for name in ("alice", "bob"):
        person = target.known(name)
        person.ask(f"/user/alice/hostile/{mark}/{name}")
        person.ask(f"/user/alice/hostile/{mark}/{name}", [basic(name, "a password")])
        for claim in claims:
            person.ask(f"/user/alice/hostile/{mark}/{name}", [claim])
    arrived = [entry for entry in target.received("alice") if mark in entry[1]]
    wait("alice's server hears her", lambda: arrived, timeout=1)
    for _, uri, pairs, _ in arrived:
        headers = {name.lower(): value for name, value in pairs}
        assert not headers.get("authorization", "").startswith("Basic"), "passwords flow on to the user's server"
        found = {name for name in target.sign_on_cookies if name in headers.get("cookie", "")}
        assert not found, f"the cookies {found} flow on to the user's server"
        assert not any(name.replace("_", "-").startswith("oidc-") for name in headers), (uri, headers)
        assert target.identity_header.lower() not in headers, "who somebody is flows on to the user's server"


@pytest.mark.hazard("A1")
def test_cookies_stay_on_tls(target, alice):
    """A cookie that goes over an unprotected connection, to another site, or into a script"""
    person = target.person("alice")
    person.page("/user/alice/lab")
    assert len(person.set_cookies) > 3
    for line in person.set_cookies:
        name, _, rest = line.partition("=")
        value, _, flags = rest.lower().partition(";")
        if not value.strip('"'):
            continue  # taken away
        assert "secure" in flags, f"{name} lacks Secure"
        if name != "_xsrf":  # for the page's scripts
            assert "httponly" in flags, f"{name} lacks HttpOnly"


@pytest.mark.hazard("A2")
def test_the_log_has_the_true_address(target):
    """A client writes an address of its choice into the logs"""
    mark, forgery = secrets.token_hex(4), "198.51.100.7"
    names = ("X-Forwarded-For", "X-Real-IP", "X-Client-IP", "True-Client-IP", "CF-Connecting-IP")
    since = time.time()
    person = target.known("alice")
    person.ask(f"/hub/{mark}", [*((name, forgery) for name in names), ("Forwarded", f"for={forgery}")])
    lines = wait(
        "the request is logged", lambda: [line for line in target.log(since).splitlines() if mark in line], timeout=20
    )
    assert forgery not in "\n".join(lines), "the log has the address that the client gave"
