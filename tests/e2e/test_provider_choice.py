"""Two OpenID Connect providers, between which users choose, with a real browser: sign_on/oidc_choice.yml of the lab.

Both providers know the same names and passwords. Only those of one become accounts.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import pytest
from playwright.sync_api import expect

from . import doors
from .doors import client_of, person, signed_in_as

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from .lab import Lab
    from .pages import Visitor

CAMPUS, PARTNER = "Example University", "Partner Institute"
PORTS = {CAMPUS: 8444, PARTNER: 8446}


@pytest.fixture(autouse=True)
def _choice(lab: Lab) -> None:
    """Skip these tests in a lab with one provider."""
    if lab.state["topology"] != "sign_on" or not lab.run("hub", ["ls", "-d", "/etc/hpchub/oidc"], check=False):
        pytest.skip("this lab has no two providers; see molecule/shared/sign_on/oidc_choice.yml")


def choose(visitor: Visitor, name: str, provider: str, path: str = "/hub/home") -> Page:
    """Open a page, choose a provider, and sign in there."""
    page = visitor.page
    page.goto(f"{visitor.lab.url}{path}")
    page.get_by_role("button", name=provider, exact=True).click()
    expect(visitor.password_field).to_be_visible()
    assert urlsplit(page.url).port == PORTS[provider]
    visitor.submit_password(name, person(visitor.lab, name).password)
    page.wait_for_load_state()
    return page


def test_user_of_the_first_provider_works_and_signs_out(browser_page: Visitor, lab: Lab) -> None:
    browser_page.user = lab.user("alice")
    page = choose(browser_page, "alice", CAMPUS)
    expect(page.locator("#logout")).to_be_visible()
    assert signed_in_as(page) == "alice"
    notebook = browser_page.start(lab.profiles()[0]["key"])
    assert notebook.run_cell("python3", "6*7") == "42"
    browser_page.stop_server()
    browser_page.sign_out()
    expect(page.locator("body")).to_contain_text("You are signed out")
    page.goto(f"{lab.url}/hub/home")
    page.get_by_role("button", name=f"Continue with {CAMPUS}").click()
    expect(browser_page.password_field).to_be_visible()  # the provider's session has ended too


def test_same_name_of_the_second_provider_is_somebody_else(browser_page: Visitor) -> None:
    page = choose(browser_page, "alice", PARTNER)
    expect(page.locator("body")).to_contain_text("alice@partner")
    assert signed_in_as(page) == ""
    assert doors.HUB_COOKIE not in {cookie["name"] for cookie in page.context.cookies()}


def test_page_that_the_user_wanted_opens_after_the_choice(browser_page: Visitor, lab: Lab) -> None:
    page = choose(browser_page, "bob", CAMPUS, "/hub/token?x=1&y=%26")
    expect(page).to_have_url(f"{lab.url}/hub/token?x=1&y=%26")


@pytest.mark.parametrize("path", ["/oidc/callback?iss={}&target_link_uri={}", "/sso/choose?provider=evil&target={1}"])
def test_link_leads_to_no_other_provider(lab: Lab, path: str) -> None:
    client, html = client_of(lab), [("Accept", "text/html")]
    client.ask("/hub/home", html)
    answer = client.ask(path.format(quote("https://evil.example/", safe=""), quote(lab.url, safe="")), html)
    assert answer.status >= 400
    assert not answer.location
    files = lab.run("hub", ["ls", "/etc/hpchub/oidc"])
    assert "evil" not in files
    assert len({name.rpartition(".")[0] for name in files.split()}) == len(PORTS)


@pytest.mark.parametrize("name", ["X-Hpchub-User", "X-Hpchub-Userinfo", "Remote-User", "OIDC-CLAIM-preferred_username"])
def test_forged_header_gives_no_identity(lab: Lab, name: str) -> None:
    answer = client_of(lab).ask("/hub/home", [(name, json.dumps("alice@campus")), ("Accept", "text/html")])
    assert answer.status in {302, 400}
    assert doors.HUB_COOKIE not in str(answer.headers)
