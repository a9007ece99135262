"""The language of an open tab and of Apache's pages, and the tab's messages by keyboard and for screen readers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from .pages import START, Visitor

if TYPE_CHECKING:
    from .lab import Lab

OWN = "[class^='hpchub']"
"""What the extension adds to a page."""


def choose_german(visitor: Visitor) -> None:
    """Choose German, as the menu on the hub's pages does."""
    cookie = {"name": "hpchub-language", "value": "de", "url": visitor.lab.url}
    visitor.page.context.add_cookies([cookie])  # type: ignore[list-item]


def focused(page: Page) -> str:
    """Return the text of what has the focus."""
    return str(page.evaluate("document.activeElement.textContent"))


@pytest.mark.parametrize("interface", ["lab", "tree"], ids=["lab", "classic"])
def test_tab_speaks_the_language_that_the_user_has_chosen_on_the_hub(
    browser_page: Visitor, lab: Lab, interface: str
) -> None:
    browser_page.sign_in("alice")
    browser_page.start(lab.profiles()[0]["key"])
    choose_german(browser_page)
    page = browser_page.page
    page.goto(f"{lab.url}/user/alice/{interface}")
    status = page.get_by_role("region", name="Ihre Sitzung", exact=True)
    expect(status).to_contain_text(re.compile(r"^noch \d+ .*Speicher [\d,]+ von [\d,]+ GB"), timeout=START)
    assert status.get_attribute("lang") == "de"


@pytest.mark.parametrize("interface", ["lab", "tree"], ids=["lab", "classic"])
def test_details_of_the_session_open_and_close_by_keyboard(browser_page: Visitor, lab: Lab, interface: str) -> None:
    browser_page.sign_in("alice")
    browser_page.start(lab.profiles()[0]["key"])
    page = browser_page.page
    page.goto(f"{lab.url}/user/alice/{interface}")
    button = page.get_by_role("region", name="Your session", exact=True).get_by_role("button")
    expect(button).to_contain_text("left", timeout=START)
    button.focus()
    page.keyboard.press("Enter")
    details = page.get_by_role("region", name="Details of your session")
    expect(details).to_be_focused()
    expect(details).to_contain_text("The session ends at")
    found = Axe().run(page, context=OWN).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
    page.keyboard.press("Tab")
    assert focused(page) == "Close"
    page.keyboard.press("Escape")
    expect(details).to_have_count(0)
    expect(button).to_be_focused()


def test_lost_connection_is_said_and_reachable_by_keyboard(browser_page: Visitor, lab: Lab) -> None:
    browser_page.sign_in("alice")
    browser_page.start(lab.profiles()[0]["key"])
    choose_german(browser_page)
    page = browser_page.page
    page.goto(f"{lab.url}/user/alice/lab?reset")
    expect(page.locator("#hpchub-status")).to_contain_text("noch", timeout=START)
    lab.cancel_jobs("alice")
    said = page.get_by_role("alert").filter(has_text="Ihre Sitzung endete um")
    expect(said).to_contain_text("Ihre nicht gespeicherten Änderungen bleiben", timeout=START)
    page.keyboard.press("Alt+Shift+M")
    expect(page.locator(".hpchub-banner")).to_be_focused()
    page.keyboard.press("Tab")
    assert focused(page) == "In einer neuen Sitzung weiterarbeiten"
    page.keyboard.press("Escape")
    expect(page.locator(".hpchub-banner")).to_have_count(0)


@pytest.mark.parametrize(
    ("path", "english", "german"),
    [
        ("/sso/nothing", "Page not found", "Seite nicht gefunden"),
        ("/hub/a%5Cb", "This address is not valid", "Diese Adresse ist ungültig"),
        ("/sso/signed-out", "You are signed out", "Sie sind abgemeldet"),
    ],
)
def test_pages_of_apache_are_in_the_language_of_the_reader(
    browser_page: Visitor, lab: Lab, path: str, english: str, german: str
) -> None:
    page = browser_page.page
    for accepted, title, language in (("en-GB,de;q=0.5", english, "en"), ("fr,de-AT;q=0.8,en;q=0.5", german, "de")):
        page.set_extra_http_headers({"Accept-Language": accepted})
        page.goto(f"{lab.url}{path}")
        expect(page.get_by_role("heading", level=1)).to_have_text(lab.worded(english, language, title))
        assert page.locator("html").get_attribute("lang") == language
        assert Axe().run(page).response["violations"] == []
    page.set_extra_http_headers({"Accept-Language": "en"})
    choose_german(browser_page)
    page.goto(f"{lab.url}{path}")
    expect(page.get_by_role("heading", level=1)).to_have_text(lab.worded(english, "de", german))
