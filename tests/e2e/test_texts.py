"""Texts that the inventory replaces, on a page of the hub, on a page of Apache and in a tab, in both languages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from .pages import START, Visitor
from .test_tab_language import choose_german

if TYPE_CHECKING:
    from .lab import Lab

SIGNED_OUT = "You are signed out"
HELP = "If you need help, contact {support}, and mention that you are signed in as {name}."


@pytest.fixture
def texts(lab: Lab) -> dict[str, dict[str, str]]:
    """Return the replaced texts of the lab by key and language. Each contains something that looks like markup."""
    found: dict[str, dict[str, str]] = lab.hub_settings().get("texts", {})
    if not {SIGNED_OUT, HELP} <= set(found):
        pytest.skip("the inventory of this lab replaces no texts")
    assert all("<" in text for key in (SIGNED_OUT, HELP) for text in found[key].values())
    return found


def test_pages_show_the_words_of_the_site_as_plain_text(
    browser_page: Visitor, lab: Lab, texts: dict[str, dict[str, str]]
) -> None:
    page = browser_page.page
    support = lab.profile_list()["service"]["support"]
    for language in ("en", "de"):
        page.goto(f"{lab.url}/sso/signed-out")
        expect(page.get_by_role("heading", level=1)).to_have_text(texts[SIGNED_OUT][language])
        if language == "en":
            browser_page.sign_in("alice")
        page.goto(f"{lab.url}/hub/nothing")
        expect(page.locator("main")).to_contain_text(texts[HELP][language].format(support=support, name="alice"))
        choose_german(browser_page)


def test_tab_shows_the_words_of_the_site_as_plain_text(
    browser_page: Visitor, lab: Lab, texts: dict[str, dict[str, str]]
) -> None:
    """A tab in English and a tab in German notice that their user has signed out."""
    browser_page.sign_in("alice")
    browser_page.start(lab.profiles()[0]["key"])
    english, context = browser_page.page, browser_page.page.context
    status = "#hpchub-status"
    expect(english.locator(status)).to_contain_text("left", timeout=START)
    choose_german(browser_page)
    german = context.new_page()
    german.goto(f"{lab.url}/user/alice/tree")
    expect(german.locator(status)).to_contain_text("noch", timeout=START)
    other = Visitor(lab, context.new_page())
    other.user = lab.user("alice")
    other.sign_out()
    for tab, language in ((english, "en"), (german, "de")):
        tab.evaluate("url => fetch(url).then(answer => answer.status, () => 0)", f"{lab.url}/user/alice/api/contents")
        banner = tab.locator(".hpchub-banner")
        expect(banner.locator("strong")).to_have_text(texts[SIGNED_OUT][language], timeout=START)
