"""Every sign-on at the web server, with a real browser. ``molecule/shared/sign_on.yml`` switches a lab between them.

The tests are the same for all of them. They find out which one the lab has.
"""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from lab.web_client import spellings

from . import doors
from .browser import CHROMIUM, arguments
from .doors import DOORS, Door, auth_state, client_of, knock, person, signed_in_as
from .lab import eventually, totp
from .pages import Visitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

    from .lab import Lab

IDENTITY = (
    *("X-Hpchub-User", "X-Hpchub-Userinfo", "X-Hpchub-Id-Token", "X-Hpchub-Sign-On", "X-Hpchub-Cas-User"),
    *("Remote-User", "X-Remote-User", "X-Forwarded-User", "OIDC-CLAIM-preferred_username", "OIDC-access_token"),
    *("Mellon-NAME_ID", "Mellon-eppn", "Cas-User", "Authenticate-uid", "Gss-Name", "Auth-Type", "Eppn"),
)


@pytest.fixture(scope="module")
def door(lab: Lab) -> Door:
    """The door that the lab has."""
    if lab.state["topology"] != "sign_on":
        pytest.skip("only the scenario sign_on has the people and the providers of these tests")
    return doors.deployed(lab)


@pytest.fixture(autouse=True)
def _fresh(lab: Lab, door: Door) -> None:
    if not door.portal:
        doors.forget_attempts(lab)


# Signing in and out


def test_user_signs_in_works_and_signs_out(door: Door, browser_page: Visitor, lab: Lab) -> None:
    browser_page.sign_in("alice")
    notebook = browser_page.start(lab.profiles()[0]["key"])
    assert notebook.run_cell("python3", "6*7") == "42"
    browser_page.stop_server()
    browser_page.sign_out()
    if door.name == "cas":
        # LemonLDAP::NG shows a page about the services that it informs of the logout, and goes on after 30 seconds.
        browser_page.page.get_by_role("button", name="Continue").click()
    expect(browser_page.page.locator("body")).to_contain_text("You are signed out")
    browser_page.page.goto(f"{lab.url}/hub/home")
    expect(browser_page.password_field).to_be_visible()  # the provider's session has ended too


def test_sign_in_adds_at_most_one_redirect(door: Door, browser_page: Visitor, lab: Lab) -> None:
    """The hub's own login is one more: it sets the hub's cookie."""
    browser_page.sign_in("bob")
    expect(browser_page.page.locator("#logout")).to_be_visible()
    own = [line for line in browser_page.log if line[9:11] == "30" and f" {lab.url}/" in line]
    assert len(own) <= door.redirects + 2, "\n".join(own)
    assert not [line for line in own if line[9:12] not in {"302", "303"}]


@pytest.mark.parametrize("number", range(3))
def test_user_with_an_unusual_name_signs_in(door: Door, browser_page: Visitor, lab: Lab, number: int) -> None:
    name, account = door.names[number]
    page = knock(browser_page, name)
    expect(page.locator("#logout")).to_be_visible()
    assert signed_in_as(page) == account


def test_user_with_an_unusual_name_has_a_session(door: Door, browser_page: Visitor, lab: Lab) -> None:
    browser_page.sign_in("first.last")
    notebook = browser_page.start(lab.profiles()[0]["key"])
    assert notebook.run_cell("python3", "import getpass; print(getpass.getuser())") == "first.last"
    browser_page.stop_server()


def test_groups_and_mail_arrive(door: Door, visitor: Callable[[], Visitor], lab: Lab) -> None:
    """Carol is an administrator by her group, and may use the profile of that group."""
    alice, carol = visitor(), visitor()
    alice.sign_in("alice")
    assert set(alice.offered_profiles()) == {"small"}
    carol.sign_in("carol")
    assert set(carol.offered_profiles()) == {"small", "team"}
    kept = auth_state(carol, "alice")
    assert "hpc" in kept["groups"]  # type: ignore[operator]
    # Kerberos and the accounts of the host know no mail address.
    assert kept["mail"] == ("" if door.name in {"kerberos", "local"} else "alice@example.org")
    assert auth_state(carol, "carol")["second_factor"] == dict(door.factor)


# Users without access


@pytest.mark.parametrize("name", IDENTITY)
def test_forged_header_gives_no_identity(door: Door, lab: Lab, name: str) -> None:
    client = client_of(lab)
    for spelt in spellings(name):
        for path in ("/hub/home", "/hub/login", "/hub/api/user", "/user/alice/lab"):
            answer = client.ask(path, [(spelt, "alice"), ("Accept", "text/html")])
            assert answer.status in {302, 303, 400, 401}, (spelt, path, answer)
            assert doors.HUB_COOKIE not in str(answer.headers)


@pytest.mark.parametrize("name", IDENTITY)
def test_forged_header_changes_no_identity(door: Door, visitor_of_bob: Visitor, lab: Lab, name: str) -> None:
    client = client_of(lab, visitor_of_bob.page)
    for spelt in spellings(name):
        answer = client.ask("/hub/home", [(spelt, "carol")])
        assert answer.status in {200, 400}, (spelt, answer)
        assert answer.status == 400 or 'user: "bob"' in answer.text, answer.text[:3000]
        assert client.ask("/hub/admin", [(spelt, "carol")]).status in {400, 403}


@pytest.fixture(scope="module")
def visitor_of_bob(door: Door, lab: Lab, browser: Browser) -> Iterator[Visitor]:
    """A browser in which bob is signed in. The tests that use it change nothing in it."""
    context = browser.new_context(ignore_https_errors=True)
    guest = Visitor(lab, context.new_page())
    guest.sign_in("bob")
    yield guest
    context.close()


def test_user_without_a_permitted_group_is_refused(door: Door, browser_page: Visitor) -> None:
    page = knock(browser_page, "dave")
    expect(page.locator("body")).to_contain_text("You are signed in as dave")
    assert signed_in_as(page) == ""


@pytest.mark.parametrize("name", ["stranger", "erin", "EVE", "ann@CL.ORG", "alice/admin"])
def test_page_shows_the_name_that_was_received(door: Door, browser_page: Visitor, name: str) -> None:
    expected = REFUSED.get((door.name, name))
    if expected is None:
        pytest.skip("this door does not know this person, or lets the person in")
    page = knock(browser_page, name)
    expect(page.locator("body")).to_contain_text(expected)
    assert signed_in_as(page) == ""
    assert page.evaluate("performance.getEntriesByType('navigation')[0].responseStatus") == 403


SAML = ("saml", "shibboleth")
KNOWS_NONE = "You are signed in at your organisation as {}, but Demo node knows no account for this name"
NOTHING_SENT = "it did not send the information from which Demo node derives your account"
NO_ACCOUNT = "You are signed in as {}, and this account may not use the service"
REFUSED = {
    **{(name, "stranger"): NO_ACCOUNT.format("stranger") for name in ("oidc", *SAML, "cas", "kerberos", "ldap")},
    **{(name, "erin"): NOTHING_SENT for name in (*SAML, "cas")},
    **{(name, "EVE"): NO_ACCOUNT.format("EVE") for name in ("oidc", *SAML, "kerberos")},
    **{(name, "ann@CL.ORG"): KNOWS_NONE.format("ann@CL.ORG@example.org") for name in SAML},
    ("cas", "ann@CL.ORG"): NO_ACCOUNT.format("ann@cl.org"),
    ("kerberos", "alice/admin"): "You are signed in as alice/admin, but this account does not have access",
}


def test_two_people_do_not_share_an_account(door: Door, visitor: Callable[[], Visitor]) -> None:
    if door.name != "cas":
        pytest.skip("only the mapping of cas gives two people the same account")
    first, second = visitor(), visitor()
    assert signed_in_as(knock(first, "eve")) == "eve"
    refused = knock(second, "x-eve").locator("body")
    expect(refused).to_contain_text("You are signed in as x-eve. Your account here would be eve")
    assert signed_in_as(second.page) == ""


def test_wrong_password_signs_nobody_in(door: Door, browser_page: Visitor, lab: Lab) -> None:
    browser_page.page.goto(lab.url)
    browser_page.submit_password("alice", "not her password")
    expect(browser_page.password_field).to_be_visible()
    browser_page.page.goto(f"{lab.url}/hub/home")
    expect(browser_page.password_field).to_be_visible()


def test_guesses_are_slowed_down(door: Door, browser_page: Visitor, lab: Lab) -> None:
    """Five wrong passwords are free. Then each further one must wait twice as long, and the right one too."""
    if door.portal:
        pytest.skip("the provider itself checks passwords")
    page, user = browser_page.page, lab.user("student09")
    wrong = page.get_by_text("The user name or the password is not correct.")
    slow = page.get_by_text("There were too many attempts.")
    page.goto(lab.url)
    attempts, seconds = 0, 0
    # A short wait could be over before the next attempt.
    while seconds < 6:
        browser_page.submit_password(user.name, "wrong")
        expect(wrong.or_(slow)).to_be_visible()
        attempts += wrong.count()
        seconds = int(re.findall(r"Wait (\d+) seconds", page.inner_text("body"))[0]) if slow.count() else 0
    assert attempts > 5
    browser_page.submit_password(user.name, user.password)
    page.wait_for_load_state()
    expect(slow).to_be_visible()

    def gets_in() -> bool:
        browser_page.submit_password(user.name, user.password)
        page.wait_for_load_state()
        return signed_in_as(page) == user.name

    eventually("the wait is over", gets_in, interval=2, timeout=120)


def test_code_of_another_day_is_no_second_factor(door: Door, browser_page: Visitor, lab: Lab) -> None:
    if not door.portal:
        pytest.skip("this door has no second factor")
    page, carol = knock(browser_page, "carol"), lab.user("carol")
    code = page.locator("input[name=code]")
    code.fill(totp(carol.totp_secret, 86_400))
    code.press("Enter")
    expect(page.locator("[trmsg='96']")).to_be_visible()


# The end of a session


def test_end_of_the_sign_on_ends_access(door: Door, browser_page: Visitor, lab: Lab) -> None:
    """The hub's own cookie lives longer, and is worth nothing then."""
    browser_page.sign_in("alice")
    assert browser_page.fetch("GET", "/hub/api/user").status == 200
    doors.forget_sessions(lab, door)
    for path in ("/hub/api/user", "/hub/api/users/alice", "/user/alice/api/status"):
        assert browser_page.fetch("GET", path).status == 401, path
    doors.drop_provider(browser_page)
    names = {cookie["name"] for cookie in browser_page.page.context.cookies(f"{lab.url}/hub/home")}
    assert doors.HUB_COOKIE in names
    browser_page.page.goto(f"{lab.url}/hub/home")
    expect(browser_page.password_field).to_be_visible()


def test_next_user_of_a_browser_does_not_become_the_former_one(door: Door, browser_page: Visitor, lab: Lab) -> None:
    browser_page.sign_in("alice")
    doors.drop_provider(browser_page)
    page = knock(browser_page, "bob")
    expect(page.locator("#logout")).to_be_visible()
    assert signed_in_as(page) == "bob"
    assert browser_page.fetch("GET", "/hub/api/users/alice").status in {403, 404}
    answer = page.goto(f"{lab.url}/user/alice/lab")
    assert answer is not None
    assert answer.status == 403


def test_only_this_door_is_open(door: Door, lab: Lab) -> None:
    """Nothing of another door is left: no module of Apache, no secret, and no session."""
    modules = lab.run("hub", ["apache2ctl", "-M"])
    for other in DOORS.values():
        assert (f" {other.module} " in modules) == (other is door), other.name
        for path in other.files:
            assert bool(lab.run("hub", ["ls", "-d", path], check=False)) == (path in door.files), path
    members = lab.run("hub", ["getent", "group", "shadow"]).strip().rpartition(":")[2].split(",")
    assert ("www-data" in members) == (door.name == "local")
    assert person(lab, "alice").password not in lab.run("hub", ["cat", "/var/log/apache2/error.log"])


# Tickets of Kerberos


@pytest.fixture
def with_ticket(door: Door, lab: Lab, browser: Browser, tmp_path: Path) -> Iterator[Callable[[str], Visitor]]:
    """Return a function that opens a browser of somebody who has a ticket of the realm."""
    if door.name != "kerberos":
        pytest.skip("only Kerberos has tickets")
    configuration = tmp_path / "krb5.conf"
    text = lab.run("hub", ["cat", "/etc/krb5.conf"])
    configuration.write_text(text.replace("kdc = idp", f"kdc = {lab.addresses['idp']}"))
    variables = {"KRB5_CONFIG": str(configuration), "KRB5CCNAME": f"FILE:{tmp_path}/tickets"}
    with ExitStack() as stack:

        def arrive(name: str) -> Visitor:
            argv = ["kinit", f"{name}@EXAMPLE.ORG"]
            environment = {**os.environ, **variables}
            subprocess.run(argv, input=person(lab, name).password, text=True, check=True, env=environment)
            # Chromium sends tickets only from a profile of its own, not from a private window, and on Linux only after
            # a site has asked for one before. It asks for a ticket for the address of the host.
            profile = tmp_path / "profile"
            profile.mkdir(exist_ok=True)
            (profile / "Local State").write_text('{"net": {"received_http_auth_negotiate_headers": true}}')
            allowed = f"--auth-server-allowlist={urlsplit(lab.url).hostname}"
            context = browser.browser_type.launch_persistent_context(
                profile,
                executable_path=CHROMIUM,
                args=[*arguments(lab), allowed],
                env={**environment},
                ignore_https_errors=True,
            )
            stack.callback(context.close)
            page = context.new_page()
            return Visitor(lab, page)

        yield arrive


def test_ticket_signs_in_without_a_page(with_ticket: Callable[[str], Visitor], lab: Lab) -> None:
    visitor = with_ticket("bob")
    visitor.page.goto(lab.url)
    expect(visitor.page.locator("#logout")).to_be_visible()
    assert signed_in_as(visitor.page) == "bob"
    own = [line for line in visitor.log if line[9:11] == "30"]
    assert len(own) <= DOORS["kerberos"].redirects + 2, "\n".join(own)


def test_ticket_of_somebody_without_an_account_is_refused(with_ticket: Callable[[str], Visitor], lab: Lab) -> None:
    visitor = with_ticket("alice/admin")
    visitor.page.goto(f"{lab.url}/hub/home")
    expect(visitor.page.locator("body")).to_contain_text(REFUSED["kerberos", "alice/admin"])
    assert signed_in_as(visitor.page) == ""
