"""The pages of the service have no serious fault for people who use a keyboard, a screen reader or high contrast.

axe-core examines each page: https://github.com/dequelabs/axe-core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from axe_playwright_python.sync_playwright import Axe

if TYPE_CHECKING:
    from .pages import Visitor

PAGES = ["hub/home", "hub/spawn", "hub/token", "hub/nothing", "hub/error/403", "user/alice/lab"]
GRAVE = ("serious", "critical")


def faults(visitor: Visitor) -> list[str]:
    """Return the serious and critical faults of the page that is open."""
    found = Axe().run(visitor.page).response["violations"]
    return [
        f"{fault['id']}: {node['html'][:200]}"
        for fault in found
        for node in fault["nodes"]
        if fault["impact"] in GRAVE or fault["id"] == "landmark-one-main"
    ]


def test_pages_have_no_serious_fault(browser_page: Visitor) -> None:
    browser_page.sign_in("alice")
    found = {}
    for path in PAGES:
        browser_page.page.goto(f"{browser_page.lab.url}/{path}")
        found[path] = faults(browser_page)
    assert {path: each for path, each in found.items() if each} == {}


def test_progress_page_has_no_serious_fault(browser_page: Visitor) -> None:
    browser_page.sign_in("alice")
    browser_page.page.goto(f"{browser_page.lab.url}/hub/spawn")
    browser_page.page.locator("#spawn_form [type=submit]").click()
    browser_page.page.wait_for_url("**/hub/spawn-pending/**")
    assert faults(browser_page) == []
