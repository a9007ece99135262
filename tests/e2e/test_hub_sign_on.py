"""A hub that signs users in itself, with a real browser. ``molecule/shared/hub_sign_on.yml`` switches a lab to it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from lab.web_client import Visitor as Client

from .lab import eventually
from .pages import JupyterLab, Visitor

if TYPE_CHECKING:
    from collections.abc import Callable

    from .lab import Lab

GLOBUS = "https://127.0.0.1:8447"


@pytest.fixture(scope="module")
def kind(lab: Lab) -> str:
    """The kind of the provider."""
    settings = json.loads(lab.run("hub", ["cat", "/etc/hpchub/hub.json"]))
    found = settings.get("sign_on") or {}
    if not found:
        pytest.skip("the web server of this lab signs users in; see molecule/shared/hub_sign_on.yml")
    return str(found["kind"])


@pytest.fixture
def generic(kind: str) -> None:
    if kind != "generic":
        pytest.skip(f"this lab uses {kind}")


@pytest.fixture
def directory(kind: str) -> None:
    if kind != "ldap":
        pytest.skip(f"this lab uses {kind}")


@pytest.fixture
def globus(kind: str) -> None:
    if kind != "globus":
        pytest.skip(f"this lab uses {kind}")


def choose(visitor: Visitor, identity: str) -> None:
    """Open the service, and choose an identity on the page of the stand-in for Globus."""
    page = visitor.page
    page.goto(visitor.lab.url)
    expect(page.get_by_text("Required: uni.example")).to_be_visible()
    visitor.choose_identity(identity)


def change_globus(lab: Lab, what: str, value: object = None) -> None:
    """Change the state of the stand-in, with its own interface for tests."""
    token = lab.state["sso_client_secret"]
    program = (
        "import json, ssl, sys, urllib.request as u\n"
        "url, token, body = json.loads(sys.argv[1])\n"
        "context = ssl._create_unverified_context()\n"
        "request = u.Request(url, body.encode(), {'Authorization': 'Bearer ' + token})\n"
        "print(u.urlopen(request, context=context).read().decode())\n"
    )
    text = json.dumps([f"{GLOBUS}/lab/{what}", token, json.dumps(value)])
    lab.run("idp", ["python3", "-c", program, text])


def host_of(lab: Lab, name: str) -> str:
    """Return the URL of a user's own host, without a trailing slash."""
    return lab.url.replace("://", f"://{name}.")


def test_user_of_lemonldap_signs_in_works_and_signs_out(
    generic: None, lab: Lab, visitor: Callable[[], Visitor]
) -> None:
    alice, bob = visitor(), visitor()
    alice.sign_in("alice")
    alice.start(lab.profiles()[0]["key"])
    session = JupyterLab(alice.page, f"{host_of(lab, 'alice')}/user/alice")
    assert session.run_cell("python3", "6*7") == "42"
    bob.sign_in("bob")
    refused = bob.page.goto(f"{host_of(lab, 'alice')}/user/alice/lab")
    assert refused is not None
    assert refused.status == 403
    alice.sign_out()
    alice.page.goto(f"{lab.url}/hub/home")
    expect(alice.password_field).to_be_visible()  # the session at the provider has ended too


def test_user_without_a_permitted_group_is_refused(generic: None, visitor: Callable[[], Visitor]) -> None:
    dave = visitor()
    dave.sign_in("dave")
    expect(dave.page.locator("main")).to_contain_text("You are signed in as dave, and this account may not use")


def enter(visitor: Visitor, name: str, password: str) -> None:
    """Send a name and a password in the hub's own form."""
    visitor.page.goto(f"{visitor.lab.url}/hub/login")
    visitor.submit_password(name, password)
    visitor.page.wait_for_load_state()


def test_user_of_the_directory_signs_in_works_and_signs_out(
    directory: None, lab: Lab, visitor: Callable[[], Visitor]
) -> None:
    alice, bob = visitor(), visitor()
    alice.user = lab.user("alice")
    enter(alice, "alice", alice.user.password)
    expect(alice.page.locator("#logout")).to_be_visible()
    alice.start(lab.profiles()[0]["key"])
    session = JupyterLab(alice.page, f"{host_of(lab, 'alice')}/user/alice")
    assert session.run_cell("python3", "6*7") == "42"
    enter(bob, "bob", lab.user("bob").password)
    refused = bob.page.goto(f"{host_of(lab, 'alice')}/user/alice/lab")
    assert refused is not None
    assert refused.status == 403
    alice.stop_server()
    alice.sign_out()
    alice.page.goto(f"{lab.url}/hub/home")
    expect(alice.password_field).to_be_visible()


@pytest.mark.parametrize("name", ["alice", "nobody-of-that-name", "*", "alice)(uid=*"])
def test_wrong_password_for_the_directory_signs_nobody_in(
    directory: None, lab: Lab, browser_page: Visitor, name: str
) -> None:
    for password in ("wrong", "*"):
        enter(browser_page, name, password)
        expect(browser_page.password_field).to_be_visible()
        expect(browser_page.page.locator("body")).to_contain_text("The user name or the password is wrong")


def test_member_of_no_permitted_group_of_the_directory_is_refused(
    directory: None, lab: Lab, browser_page: Visitor
) -> None:
    enter(browser_page, "dave", lab.user("dave").password)
    expect(browser_page.page.locator("main")).to_contain_text("You are signed in as dave, and this account may not use")


def test_directory_that_does_not_answer_signs_nobody_in_and_ends_no_session(
    directory: None, lab: Lab, visitor: Callable[[], Visitor]
) -> None:
    before, after = visitor(), visitor()
    enter(before, "alice", lab.user("alice").password)
    expect(before.page.locator("#logout")).to_be_visible()
    lab.run("idp", ["systemctl", "stop", "slapd"])
    try:
        enter(after, "bob", lab.user("bob").password)
        expect(after.page.locator("#logout")).to_have_count(0)
        expect(after.page.locator("body")).not_to_contain_text("The user name or the password is wrong")
        before.page.goto(f"{lab.url}/hub/home")
        expect(before.page.locator("#logout")).to_be_visible()
    finally:
        lab.run("idp", ["systemctl", "start", "slapd"])
    enter(after, "bob", lab.user("bob").password)
    expect(after.page.locator("#logout")).to_be_visible()


@pytest.mark.parametrize("path", ["/hub/home", "/hub/login", "/hub/oauth_callback"])
def test_forged_identity_is_refused_from_outside(kind: str, lab: Lab, path: str) -> None:
    hub = lab.addresses[lab.host("hub")]
    client = Client({urlsplit(lab.url).hostname or "": hub}, lab.url)
    for name in ("X-Hpchub-User", "X_Hpchub_User", "Remote-User", "X-Hpchub-Sign-On"):
        answer = client.ask(path, [(name, "alice"), ("Accept", "text/html")])
        # With a directory, the hub shows a form of its own, and no provider sends browsers back.
        others = {"/hub/login": (200,), "/hub/oauth_callback": (404,)}.get(path, ()) if kind == "ldap" else ()
        assert answer.status in (302, 400, *others), (name, answer.status)
        assert 'user: "alice"' not in answer.text
        assert "jupyterhub-hub-login" not in str(answer.headers)


def test_person_of_globus_signs_in_with_the_identity_of_the_institution(
    globus: None, lab: Lab, visitor: Callable[[], Visitor]
) -> None:
    alice, eve = visitor(), visitor()
    choose(eve, "eve@gmail.example")
    expect(eve.page.locator("main")).to_contain_text("you have linked none of them")
    choose(alice, "alice@gmail.example")
    expect(alice.page.locator("main")).to_contain_text("To have linked it is not enough")
    choose(alice, "alice@uni.example")
    alice.user = lab.user("alice")
    alice.start(lab.profiles()[0]["key"])
    session = JupyterLab(alice.page, f"{host_of(lab, 'alice')}/user/alice")
    code = (
        "import json, os, stat\npath = os.environ['HPCHUB_FILE_GLOBUS_TRANSFER']\n"
        "token = json.load(open(path))\n"
        "found = [name for name, value in os.environ.items() if token['access_token'] in value]\n"
        "print(token['resource_server'], oct(stat.S_IMODE(os.stat(path).st_mode)), found)"
    )
    assert session.run_cell("python3", code) == "transfer.api.globus.org 0o600 []"


def test_person_whom_globus_deactivates_loses_access(globus: None, lab: Lab, visitor: Callable[[], Visitor]) -> None:
    bob = visitor()
    people = [
        {"identities": ["alice@uni.example", "alice@gmail.example"], "groups": {"hpc": "active"}},
        {"identities": ["bob@uni.example"], "groups": {"hpc": "active"}},
        {"identities": ["dave@uni.example"], "groups": {}},
        {"identities": ["eve@gmail.example"], "groups": {"hpc": "active"}},
    ]
    choose(bob, "bob@uni.example")
    try:
        change_globus(lab, "faults", {"/v2/oauth2/token/introspect": 500})
        bob.page.goto(f"{lab.url}/hub/home")
        assert bob.page.url.startswith(f"{lab.url}/hub/home")
        change_globus(lab, "faults", {})
        change_globus(lab, "people", [{**people[1], "active": False}, people[0], *people[2:]])

        def signed_out() -> bool:
            bob.page.goto(f"{lab.url}/hub/home")
            return not bob.page.url.startswith(lab.url)

        eventually("bob has lost the access", signed_out, timeout=150)
    finally:
        change_globus(lab, "faults", {})
        change_globus(lab, "people", people)
