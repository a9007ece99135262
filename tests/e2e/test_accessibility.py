"""The pages of the service meet WCAG 2.2 AA as far as a program can judge it, and work by keyboard and on a phone.

axe-core examines each page: https://github.com/dequelabs/axe-core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from .pages import START

if TYPE_CHECKING:
    from .lab import Lab
    from .pages import Visitor

PAGES = ["hub/home", "hub/spawn", "hub/token", "hub/nothing", "hub/error/403", "user/alice/lab", "hub/logout"]
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 360, "height": 740}}
TOO_WIDE = "document.documentElement.scrollWidth > document.documentElement.clientWidth"


def faults(visitor: Visitor, selector: str = "") -> list[str]:
    """Return what axe finds on the page that is open.

    Args:
        visitor: The visitor with the page to examine.
        selector: The part of the page to examine. By default, all of it.
    """
    found = Axe().run(visitor.page, context=selector or None).response["violations"]
    return [f"{fault['id']} ({fault['impact']}): {node['html'][:200]}" for fault in found for node in fault["nodes"]]


def addresses(lab: Lab) -> list[str]:
    """Return the paths of the pages. The form also has messages beside its fields, and saved settings."""
    limited = next((each for each in lab.profiles() if each["adjustable"]["cores"]), None)
    return [*PAGES, *([f"hub/spawn?profile={limited['key']}&cores=9999&memory=much"] if limited else [])]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_pages_have_no_fault(browser_page: Visitor, lab: Lab, size: str, scheme: Literal["light", "dark"]) -> None:
    browser_page.sign_in("alice")
    browser_page.new_token()  # the page of the tokens has a table now
    page = browser_page.page
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size(SIZES[size])  # type: ignore[arg-type]
    found = {}
    for path in addresses(lab):
        page.goto(f"{lab.url}/{path}")
        found[path] = faults(browser_page) + (["wider than the screen"] if page.evaluate(TOO_WIDE) else [])
        if path == "hub/logout":
            browser_page.sign_in("alice")
    assert {path: each for path, each in found.items() if each} == {}


@pytest.mark.parametrize(("language", "scheme"), [("en", "light"), ("de", "dark")])
def test_progress_page_and_home_page_have_no_fault(
    browser_page: Visitor, lab: Lab, language: str, scheme: Literal["light", "dark"]
) -> None:
    browser_page.sign_in("alice")
    page = browser_page.page
    page.emulate_media(color_scheme=scheme)
    page.set_extra_http_headers({"Accept-Language": language})
    page.goto(f"{lab.url}/hub/spawn")
    expect(page.locator("html")).to_have_attribute("lang", language)
    page.locator(f"input[name=profile][value='{lab.profiles()[0]['key']}']").check()
    page.locator("#spawn_form [type=submit]").click()
    page.wait_for_url("**/hub/spawn-pending/**")
    found = faults(browser_page)
    browser_page.wait_for_lab()
    found += faults(browser_page, "#hpchub-status")
    page.goto(f"{lab.url}/hub/home")
    expect(page.locator(".hpchub-card")).to_be_visible()
    assert found + faults(browser_page) == []


def test_session_can_be_started_and_stopped_by_keyboard(browser_page: Visitor, lab: Lab) -> None:
    """The Tab key reaches the profiles, the fields and the button, in this order."""
    browser_page.sign_in("alice")
    page = browser_page.page
    page.goto(f"{lab.url}/hub/spawn?profile={lab.profiles()[1]['key']}")
    chosen = page.locator("input[name=profile]:checked")
    chosen.focus()
    page.keyboard.press("ArrowUp")
    expect(page.locator(f"input[name=profile][value='{lab.profiles()[0]['key']}']")).to_be_checked()
    names = []
    for _ in range(40):
        page.keyboard.press("Tab")
        name, kind = page.evaluate("() => [document.activeElement.name ?? '', document.activeElement.type ?? '']")
        names.append(name)
        if kind == "submit" and page.evaluate("() => document.activeElement.form?.id === 'spawn_form'"):
            break
    assert "without_settings" in names
    style = "(({outlineStyle, boxShadow}) => outlineStyle !== 'none' || boxShadow !== 'none')"
    assert page.evaluate(f"{style}(getComputedStyle(document.activeElement))"), "the focus cannot be seen"
    page.keyboard.press("Enter")
    expect(page.locator("#jp-main-dock-panel")).to_be_visible(timeout=START)
    page.goto(f"{lab.url}/hub/home")
    page.locator("#stop").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#start")).to_be_visible(timeout=START)
