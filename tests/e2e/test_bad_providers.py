"""Providers of the single sign-on that do not answer or give wrong answers, with a real browser.

In each case, nobody is let in, the user reads a plain page, and a log names the cause.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from . import doors
from .doors import Door, client_of, knock, signed_in_as
from .lab import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .lab import Lab
    from .pages import Visitor

APACHE_LOG = "/var/log/apache2/error.log"
SHIBD_LOG = "/var/log/shibboleth/shibd.log"


@pytest.fixture(scope="module")
def door(lab: Lab) -> Door:
    """The door that the lab has."""
    if lab.state["topology"] != "sign_on":
        pytest.skip("only the scenario sign_on has the providers of these tests")
    return doors.deployed(lab)


@pytest.fixture
def new_lines(lab: Lab, door: Door) -> Callable[[], str]:
    """Return a function that returns what Apache and shibd have logged since the test began."""
    logs = [APACHE_LOG, SHIBD_LOG] if door.name == "shibboleth" else [APACHE_LOG]
    sizes = {log: int(lab.run("hub", ["stat", "--format=%s", log])) for log in logs}
    return lambda: "".join(lab.run("hub", ["tail", f"--bytes=+{size + 1}", log]) for log, size in sizes.items())


@pytest.fixture
def metadata(lab: Lab, door: Door) -> Iterator[Callable[[str], str]]:
    """Return a function that publishes metadata in a state and lets the hub host fetch it. It returns the journal."""
    if door.name not in {"saml", "shibboleth"}:
        pytest.skip("only SAML has metadata of its own")

    def publish(state: str) -> str:
        lab.run("idp", ["lab-metadata", state])
        since = lab.run("hub", ["date", "+%F %T"]).strip()
        # systemd starts no unit so often in a short time.
        lab.run("hub", ["systemctl", "reset-failed", "hpchub-saml-metadata.service"], check=False)
        lab.run("hub", ["systemctl", "start", "hpchub-saml-metadata.service"], check=False)
        return lab.run("hub", ["journalctl", "--unit=hpchub-saml-metadata", f"--since={since}", "--output=cat"])

    yield publish
    publish("good")


@pytest.fixture
def clock(lab: Lab) -> Iterator[Callable[[str], str]]:
    """Return a function that changes the clock of the providers."""
    yield lambda seconds: lab.run("idp", ["lab-clock", seconds])
    lab.run("idp", ["lab-clock", "off"])


@pytest.fixture
def stopped(lab: Lab, door: Door) -> Iterator[Callable[[], str]]:
    """Return a function that stops the provider."""
    unit = {"ldap": "slapd", "kerberos": "krb5-kdc"}.get(door.name)
    if unit is None:
        pytest.skip("Apache asks this provider nothing during a sign-in, or the unit tests stop it")
    yield lambda: lab.run("idp", ["systemctl", "stop", unit])
    lab.run("idp", ["systemctl", "start", unit])


@pytest.mark.parametrize(
    ("state", "reason"),
    [("gone", "404"), ("expired", "expired at 2020-01-01"), ("unsigned", "is not signed"), ("changed", "signature")],
)
def test_wrong_metadata_has_no_effect_and_the_journal_names_the_reason(
    metadata: Callable[[str], str], browser_page: Visitor, lab: Lab, state: str, reason: str
) -> None:
    journal = metadata(state)
    assert reason in journal, journal
    assert lab.run("hub", ["systemctl", "is-failed", "hpchub-saml-metadata.service"]).strip() == "failed"
    # The last valid metadata stays in use.
    assert signed_in_as(knock(browser_page, "alice")) == "alice"


def test_nobody_signs_in_after_the_last_metadata_has_expired(
    metadata: Callable[[str], str], visitor: Callable[[], Visitor], lab: Lab
) -> None:
    before, after = visitor(), visitor()
    begin = time.monotonic()
    metadata("brief")
    before.sign_in("alice")
    time.sleep(max(0.0, begin + 22 - time.monotonic()))
    journal = metadata("gone")
    assert "expired" in journal, journal
    answer = after.page.goto(f"{lab.url}/hub/home")
    assert answer is not None
    assert answer.status == 503
    expect(after.page.locator("body")).to_contain_text("Nobody can sign in to")
    # A session goes on.
    before.page.goto(f"{lab.url}/hub/home")
    assert signed_in_as(before.page) == "alice"
    metadata("good")
    eventually("users can sign in again", lambda: signed_in_as(knock(after, "bob")) == "bob")


@pytest.mark.parametrize("sign", ["+", "-"])
def test_clock_that_is_wrong_signs_nobody_in(
    door: Door, clock: Callable[[str], str], new_lines: Callable[[], str], browser_page: Visitor, sign: str
) -> None:
    if door.name not in CLOCKS:
        pytest.skip("the answers of this provider contain no time")
    wrong = CLOCKS[door.name]
    clock(f"{sign}{wrong.seconds}")
    page = knock(browser_page, "alice")
    expect(page.locator("body")).to_contain_text(wrong.page)
    assert signed_in_as(page) == ""
    log = new_lines()
    assert wrong.log in log, log


class Wrong(NamedTuple):
    """The refusal of a sign-in because the clock of the provider is wrong.

    Attributes:
        seconds: By how much the clock differs.
        page: What the user reads.
        log: What a log contains.
    """

    seconds: int
    page: str
    log: str


CLOCKS = {
    "oidc": Wrong(4000, "could not accept the answer of your organisation", "validation failure"),
    "saml": Wrong(400, "The clocks of your organisation's sign-in and of Demo node differ by", "clock"),
    "shibboleth": Wrong(400, "because it was not valid at this time", "rejected"),
    "kerberos": Wrong(400, "The user name or the password is not correct", "GSS"),
}


def test_provider_that_does_not_answer_signs_nobody_in(
    stopped: Callable[[], str], new_lines: Callable[[], str], browser_page: Visitor, lab: Lab
) -> None:
    page = browser_page.page
    page.goto(f"{lab.url}/hub/home")
    stopped()
    browser_page.submit_password("alice", lab.user("alice").password)
    page.wait_for_load_state()
    assert signed_in_as(page) == ""
    assert new_lines()


def test_provider_that_stops_during_a_sign_in_signs_nobody_in(
    door: Door, new_lines: Callable[[], str], browser_page: Visitor, lab: Lab
) -> None:
    """The browser comes back from the provider, and Apache cannot ask the provider who it is."""
    if door.name not in {"cas", "oidc"}:
        pytest.skip("Apache asks this provider nothing after the browser has come back")
    page = knock(browser_page, "alice")
    expect(page.locator("#logout")).to_be_visible()
    provider = urlsplit(lab.state["idp_url"])
    client = client_of(lab)
    client.addresses = {**client.addresses, provider.hostname or "": lab.addresses["idp"]}
    known = page.context.cookies(lab.state["idp_url"])
    client.cookies[provider.netloc] = {cookie["name"]: cookie["value"] for cookie in known}
    # The beginning of a sign-in belongs to this browser.
    html = [("Accept", "text/html"), ("User-Agent", page.evaluate("navigator.userAgent"))]
    there = urlsplit(client.ask("/hub/login", html).location)
    assert there.netloc == provider.netloc
    back = client.ask(f"{there.path}?{there.query}", html, base=lab.state["idp_url"]).location
    assert back.startswith(f"{lab.url}/")
    page.context.clear_cookies()
    begun = client.cookies[urlsplit(lab.url).netloc]
    page.context.add_cookies([{"name": name, "value": value, "url": lab.url} for name, value in begun.items()])
    lab.run("idp", ["systemctl", "stop", "apache2"])
    try:
        answer = page.goto(back)
    finally:
        lab.run("idp", ["systemctl", "start", "apache2"])
    assert answer is not None
    assert answer.status >= 400
    text = "Please sign in again" if door.name == "cas" else "help@example.org"
    expect(page.locator("body")).to_contain_text(text)
    assert signed_in_as(page) == ""
    assert new_lines()
