"""The page of a start that waits, and the page of a start that failed, in a real browser."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from .lab import LOGIN_FILE, NODES, eventually
from .pages import START, Visitor
from .test_accessibility import faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser

    from .lab import Lab

NO_STORAGE = """
for (const name of ["sessionStorage", "localStorage"])
  Object.defineProperty(window, name, {configurable: true, get() { throw new DOMException("off", "SecurityError"); }});
"""
FULL_STORAGE = "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); };"
NO_NOTIFICATIONS = "delete window.Notification;"
NOTIFICATIONS = """
window.notified = [];
window.Notification = class { constructor(title) { window.notified.push(title); } };
Notification.permission = "granted";
Notification.requestPermission = async () => "granted";
"""


@pytest.fixture
def broken_jobs(lab: Lab) -> Iterator[None]:
    """Make the jobs of alice end at once with an error, and print a secret before."""
    # A login file that exits does not stop a session, so this one kills the shell.
    script = "case $(id -un) in alice) echo password=e2e-secret-word; echo the disk is broken; kill -9 $$ ;; esac"
    for node in NODES:
        lab.run(node, ["python3", "-c", f"open({LOGIN_FILE!r}, 'w').write({script + chr(10)!r})"])
    yield
    for node in NODES:
        lab.run(node, ["rm", "-f", LOGIN_FILE])


def wait_in_queue(visitor: Visitor, lab: Lab, key: str = "", user: str = "alice") -> str:
    """Start a profile while its queue is closed, by default the first one. Return the id of the waiting job."""
    visitor.sign_in(user)
    visitor.choose_profile(key or lab.profiles()[0]["key"])
    (job,) = eventually("the job waits", lambda: lab.jobs(user))
    expect(visitor.page.locator("#progress-message")).to_contain_text(f"Your job {job.id} waits", timeout=START)
    return str(job.id)


def test_page_shows_the_steps_and_opens_the_session(
    browser_page: Visitor, lab: Lab, closed_queue: Callable[[], None]
) -> None:
    job = wait_in_queue(browser_page, lab)
    page = browser_page.page
    expect(page.locator("[aria-current=step]")).to_contain_text("Wait in the queue")
    expect(page.locator(".hpchub-steps")).to_contain_text(f"Job {job} on the cluster")
    expect(page.locator(".hpchub-steps time").first).not_to_contain_text("UTC")
    expect(page).to_have_title(re.compile("^Waiting - "))
    icon = page.locator("link[rel=icon]").get_attribute("href")
    assert (icon or "").startswith("data:image/svg+xml")
    assert faults(browser_page) == []
    closed_queue()
    browser_page.wait_for_lab()


@pytest.mark.parametrize("fault", [NO_STORAGE, FULL_STORAGE, NO_NOTIFICATIONS], ids=["off", "full", "no-notifications"])
@pytest.mark.usefixtures("closed_queue")
def test_page_shows_no_error_if_the_browser_forbids_something(browser_page: Visitor, lab: Lab, fault: str) -> None:
    errors: list[str] = []
    browser_page.page.on("pageerror", lambda error: errors.append(str(error)))
    wait_in_queue(browser_page, lab)
    browser_page.page.add_init_script(fault)
    browser_page.page.reload()
    expect(browser_page.page).to_have_title(re.compile("^Waiting - "))
    notify = browser_page.page.locator("#hpchub-notify")
    if notify.is_visible():
        notify.click()
    assert errors == []


def test_notification_comes_if_the_user_asked_for_it(
    browser_page: Visitor, lab: Lab, closed_queue: Callable[[], None]
) -> None:
    browser_page.page.add_init_script(NOTIFICATIONS)
    shown: list[str] = []
    browser_page.page.expose_function("e2eNotified", lambda title: shown.append(title))  # noqa: PLW0108 not a builtin
    wait_in_queue(browser_page, lab)
    page = browser_page.page
    assert page.evaluate("notified.length") == 0
    page.locator("#hpchub-notify").click()
    expect(page.locator("#hpchub-notify-on")).to_be_visible()
    page.evaluate("() => { notified.push = (title) => e2eNotified(title); }")
    closed_queue()

    def notified() -> bool:
        page.wait_for_timeout(200)  # Playwright passes on calls only while it waits
        return bool(shown)

    eventually("the notification", notified)
    assert shown == ["Your session is ready"]


@pytest.mark.usefixtures("closed_queue")
def test_cancel_works_without_scripts(browser_page: Visitor, lab: Lab, browser: Browser) -> None:
    wait_in_queue(browser_page, lab)
    state = browser_page.page.context.storage_state()
    context = browser.new_context(java_script_enabled=False, storage_state=state, ignore_https_errors=True)
    page = context.new_page()
    page.goto(f"{lab.url}/hub/spawn-pending/alice")
    expect(page.locator("[aria-current=step]")).to_contain_text("Wait in the queue")
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.locator("body")).to_contain_text("You cancelled the start of your session.", timeout=START)
    eventually("the job is gone", lambda: not lab.jobs("alice"))
    context.close()


def test_smaller_session_replaces_the_waiting_one_when_it_is_ready(
    browser_page: Visitor, lab: Lab, closed_queue: Callable[[], None]
) -> None:
    smallest, *others = [each for each in lab.profiles() if each["queue"] == lab.profiles()[0]["queue"]]
    larger = next((each["key"] for each in others if each["cores"] > smallest["cores"]), None)
    if larger is None:
        pytest.skip("the first profile's queue has only profiles of one size")
    first = wait_in_queue(browser_page, lab, larger)
    page = browser_page.page
    page.locator("#smaller").click()
    page.wait_for_url("**/hub/spawn-pending/alice/**")
    eventually("both jobs wait", lambda: len(lab.jobs("alice")) == 2)
    assert first in [each.id for each in lab.jobs("alice")]
    closed_queue()
    eventually("one job is left", lambda: len(lab.jobs("alice")) == 1)


@pytest.mark.usefixtures("broken_jobs")
def test_failure_page_explains_the_failure_and_offers_a_report(browser_page: Visitor, lab: Lab) -> None:
    browser_page.sign_in("alice")
    browser_page.choose_profile(lab.profiles()[0]["key"])
    page = browser_page.page
    expect(page.locator(".hpchub-outcome")).to_be_visible(timeout=START)
    expect(page.locator(".hpchub-log")).to_contain_text("the disk is broken")
    expect(page.locator(".hpchub-facts")).to_contain_text("on the cluster")
    assert "COMPLETING" not in page.locator(".hpchub-outcome").inner_text()
    link = page.locator("#support-link").get_attribute("href") or ""
    assert link.startswith(("mailto:", "https://"))
    assert len(link) <= 2000
    assert "e2e-secret-word" not in page.content()
    expect(page.locator("#without-settings")).to_be_visible()
    assert faults(browser_page) == []
