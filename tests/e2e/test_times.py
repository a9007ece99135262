"""Times are in the time zone of the browser, on the pages and in the tab. Without scripts, a page names the zone."""

from __future__ import annotations

import re
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import expect

from .pages import START
from .test_waiting import wait_in_queue
from .test_working import session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from .lab import Lab
    from .pages import Visitor

ZONES = ("Asia/Kolkata", "America/St_Johns")
"""They differ from UTC by half hours, so that no other zone of the hosts or of this machine shows the same times."""
TIME = re.compile(r"[A-Z][a-z]{2} \d{1,2}, \d{4}, \d{1,2}:\d{2} [AP]M")


@contextmanager
def same_user(browser: Browser, visitor: Visitor, zone: str, *, scripts: bool = True) -> Iterator[Page]:
    """Open a page in another browser of a signed-in user, in a time zone."""
    context = browser.new_context(
        timezone_id=zone,
        java_script_enabled=scripts,
        locale="en-US",
        storage_state=visitor.page.context.storage_state(),
        ignore_https_errors=True,
    )
    yield context.new_page()
    context.close()


def read(text: str, zone: str) -> datetime:
    """Return the time in a text as a browser writes it in English."""
    found = TIME.search(" ".join(text.split()))  # there is a narrow space before AM and PM
    assert found, text
    return datetime.strptime(found[0], "%b %d, %Y, %I:%M %p").replace(tzinfo=ZoneInfo(zone))


def check_page_without_scripts(browser: Browser, visitor: Visitor, address: str) -> None:
    """Check that all times of a page without scripts name their zone, which is not the browser's."""
    with same_user(browser, visitor, ZONES[0], scripts=False) as page:
        page.goto(address)
        times = page.locator(".hpchub-time")
        expect(times).not_to_have_count(0)
        for each in times.all():
            # The times of older sessions are in a part that is closed, so they have no inner text.
            text = (each.text_content() or "").strip()
            found = re.fullmatch(r"(\d{4}-\d\d-\d\d \d\d:\d\d) UTC", text)
            assert found, (address, text)
            at = datetime.fromtimestamp(float(each.get_attribute("data-time") or 0), UTC)
            assert found[1] == f"{at:%Y-%m-%d %H:%M}", address


def check_times(page: Page, zone: str) -> None:
    """Check that all times of a page are in a zone."""
    times = page.locator(".hpchub-time")
    expect(times.first).to_have_text(re.compile(r"[AP]M$"))
    for text, at in times.evaluate_all("all => all.map(each => [each.textContent, Number(each.dataset.time)])"):
        assert read(text, zone) == datetime.fromtimestamp(at, UTC).replace(second=0, microsecond=0), (page.url, text)


@pytest.mark.usefixtures("closed_queue")
def test_pages_show_times_in_the_zone_of_the_browser(browser_page: Visitor, lab: Lab, browser: Browser) -> None:
    """On the page of a start, the page of its failure and the home page. Without scripts, a page names its zone."""
    wait_in_queue(browser_page, lab)
    waiting = f"{lab.url}/hub/spawn-pending/alice"
    for zone in ZONES:
        with same_user(browser, browser_page, zone) as page:
            page.goto(waiting)
            expect(page.locator("[aria-current=step]")).to_contain_text("Wait in the queue")
            check_times(page, zone)
    check_page_without_scripts(browser, browser_page, waiting)

    lab.cancel_jobs("alice")
    expect(browser_page.page.locator(".hpchub-facts")).to_be_visible(timeout=START)
    failure = browser_page.page.url
    for zone in ZONES:
        with same_user(browser, browser_page, zone) as page:
            page.goto(failure)
            expect(page.locator(".hpchub-facts .hpchub-time")).not_to_have_count(0)
            check_times(page, zone)
            page.goto(f"{lab.url}/hub/home")
            expect(page.locator(".hpchub-ended .hpchub-time")).not_to_have_count(0)
            check_times(page, zone)
    for address in (failure, f"{lab.url}/hub/home"):
        check_page_without_scripts(browser, browser_page, address)


def test_tab_shows_the_end_in_the_zone_of_the_browser(browser_page: Visitor, lab: Lab, browser: Browser) -> None:
    browser_page.sign_in("alice")
    browser_page.start(lab.profiles()[0]["key"])
    ends = datetime.fromtimestamp(session(browser_page, "alice")["ends_at"], UTC)
    for zone in ZONES:
        with same_user(browser, browser_page, zone) as page:
            page.goto(f"{lab.url}/user/alice/tree")
            button = page.get_by_role("region", name="Your session", exact=True).get_by_role("button")
            expect(button).to_contain_text("left", timeout=START)
            button.click()
            details = page.get_by_role("region", name="Details of your session")
            expect(details).to_contain_text("The session ends at")
            # The tab reckons with the browser's clock, so the minute may be the one before or after.
            shown = read(details.inner_text().partition("The session ends at")[2], zone)
            assert abs(shown - ends) <= timedelta(minutes=1, seconds=30), zone
