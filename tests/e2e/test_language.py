"""The language of the hub's pages: the browser's wish, the menu by keyboard and without scripts, and German pages."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from .pages import START
from .test_accessibility import PAGES, faults

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from .lab import Lab
    from .pages import Visitor

ENGLISH = re.compile(r"\b(?:the|your|you|sessions?|with|and|is|are|this)\b", re.IGNORECASE)
"""Words that no German text contains."""


def language(page: Page) -> str | None:
    return page.locator("html").get_attribute("lang")


def choose(page: Page, name: str) -> None:
    """Choose a language in the menu at the end of the page, by keyboard."""
    button = page.get_by_role("contentinfo").get_by_role("button", name=name, exact=True)
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-pressed", "true")


def test_menu_changes_the_language_of_all_pages_and_keeps_the_page(browser_page: Visitor, lab: Lab) -> None:
    browser_page.sign_in("alice")
    page = browser_page.page
    key = lab.profiles()[-1]["key"]
    page.goto(f"{lab.url}/hub/spawn?profile={key}")
    choose(page, "Deutsch")
    assert page.url == f"{lab.url}/hub/spawn?profile={key}"
    assert language(page) == "de"
    expect(page.locator(f"input[name=profile][value='{key}']")).to_be_checked()
    (cookie,) = [each for each in page.context.cookies() if each["name"] == "hpchub-language"]
    assert (cookie["value"], cookie["secure"], cookie["sameSite"]) == ("de", True, "Lax")
    page.goto(f"{lab.url}/hub/home")
    expect(page.get_by_role("heading", name="Ihre Sitzungen", level=1)).to_be_visible()
    choose(page, "English")
    expect(page.get_by_role("heading", name="Your sessions", level=1)).to_be_visible()


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_browser_chooses_the_language_until_the_user_does(
    browser: Browser, browser_page: Visitor, lab: Lab, scripts: bool
) -> None:
    browser_page.sign_in("alice")
    context = browser.new_context(
        java_script_enabled=scripts,
        locale="de-AT",
        storage_state=browser_page.page.context.storage_state(),
        ignore_https_errors=True,
    )
    page = context.new_page()
    page.goto(f"{lab.url}/hub/home")
    assert language(page) == "de"
    page.get_by_role("contentinfo").get_by_role("button", name="English").click()
    assert language(page) == "en"
    assert page.url == f"{lab.url}/hub/home"
    context.close()


def test_german_pages_have_no_english_text_and_no_fault(browser_page: Visitor, lab: Lab) -> None:
    browser_page.sign_in("alice")
    page = browser_page.page
    page.goto(f"{lab.url}/hub/home")
    choose(page, "Deutsch")
    # Names and descriptions of the lab's profiles are English.
    own = [
        text for each in lab.profiles() for text in (each["display_name"], each["description"], each["group"]) if text
    ]
    for path in (each for each in PAGES if each != "hub/logout"):
        page.goto(f"{lab.url}/{path}")
        assert language(page) == "de", path
        # The page quotes the scheduler's words in parentheses.
        text = re.sub(r"\([^()]*\)", "", page.locator("body").inner_text())
        for each in sorted(own, key=len, reverse=True):  # one may be a part of another
            text = text.replace(each, "")
        assert [line for line in text.splitlines() if ENGLISH.search(line)] == [], path
        assert faults(browser_page) == [], path


def test_start_is_german_from_the_form_to_the_session(browser_page: Visitor, lab: Lab) -> None:
    browser_page.sign_in("alice")
    page = browser_page.page
    page.goto(f"{lab.url}/hub/spawn")
    choose(page, "Deutsch")
    page.locator(f"input[name=profile][value='{lab.profiles()[0]['key']}']").check()
    page.locator("#spawn_form [type=submit]").click()
    page.wait_for_url("**/hub/spawn-pending/**")
    expect(page.get_by_role("heading", name="Ihre Sitzung startet")).to_be_visible()
    message = page.locator("#progress-message")
    expect(message).to_contain_text(re.compile("Ihr Job|Ihre Sitzung|Ihr Notebook-Server"))
    expect(page.locator("#jp-main-dock-panel")).to_be_visible(timeout=START)
