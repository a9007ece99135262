"""Providers of the single sign-on that do not answer, or whose answers must not count, with a real browser.

In each case, nobody is let in, the user reads a plain page, and a log names the cause.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from . import doors
from .doors import Door, knock, signed_in_as
from .lab import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .lab import Lab
    from .pages import Visitor

LOG = "/var/log/apache2/error.log"


@pytest.fixture(scope="module")
def door(lab: Lab) -> Door:
    """The door that the lab has."""
    if lab.state["topology"] != "sign_on":
        pytest.skip("only the scenario sign_on has the providers of these tests")
    return doors.deployed(lab)


@pytest.fixture
def new_lines(lab: Lab) -> Callable[[], str]:
    """Return a function that returns what Apache has logged since the test began."""
    size = int(lab.run("hub", ["stat", "--format=%s", LOG]))
    return lambda: lab.run("hub", ["tail", f"--bytes=+{size + 1}", LOG])


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


@pytest.mark.parametrize("seconds", ["+400", "-400"])
def test_clock_that_is_wrong_signs_nobody_in(
    door: Door,
    clock: Callable[[str], str],
    new_lines: Callable[[], str],
    browser_page: Visitor,
    seconds: str,
) -> None:
    if door.name not in CLOCKS or (door.name in {"saml", "shibboleth"} and seconds == "-400"):
        pytest.skip("the protocol contains no time, or an answer is valid for longer: 20 hours with LemonLDAP::NG")
    clock(seconds)
    page = knock(browser_page, "alice")
    expect(page.locator("body")).to_contain_text(CLOCKS[door.name][0])
    assert signed_in_as(page) == ""
    log = new_lines()
    assert CLOCKS[door.name][1] in log, log


CLOCKS = {
    "saml": ("The clocks of your organisation's sign-in and of Demo node differ by", "clock"),
    "kerberos": ("The user name or the password is not correct", "GSS"),
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
