"""What an open tab shows and does while its user works: status, warnings, idle limit and the next session."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Locator, Page, expect

from .lab import eventually
from .pages import START, Visitor
from .site import Site
from .test_unsaved_work import NOTEBOOK, wait_until_saved, write
from .test_waiting import FULL_STORAGE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .lab import Lab

HPCHUB = "/opt/hpchub/hub/current/bin/hpchub"
IDLE, SHORT = "e2e-idle", "e2e-short"
QUIET = 60_000
"""How long the requests of a tab are counted, in milliseconds."""

NO_STORAGE = """
for (const name of ["indexedDB", "localStorage", "sessionStorage", "caches"])
  Object.defineProperty(window, name, {configurable: true, get() { throw new DOMException("off", "SecurityError"); }});
navigator.locks.request = () => Promise.reject(new DOMException("off", "SecurityError"));
"""


def banner(page: Page) -> Locator:
    """Return the extension's message."""
    return page.locator(".hpchub-banner")


def status(page: Page) -> Locator:
    """Return the line about the session."""
    return page.locator("#hpchub-status")


def session(visitor: Visitor, user: str) -> dict[str, Any]:
    """Return the hub's answer about a session."""
    found: dict[str, Any] = json.loads(visitor.fetch("GET", f"/hub/api/hpchub/sessions/{user}").text)
    return found


@pytest.fixture(scope="module")
def profiles(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Add a profile with a short idle limit, and one with a short time. Afterwards, restore the lab's profiles."""
    directory: Path = tmp_path_factory.mktemp("site")
    site = Site(lab, directory)
    before = list(site.profiles)
    site.profiles.append({**before[0], "key": IDLE, "display_name": "Short idle limit", "idle_limit": "0:01:00"})
    site.profiles.append({**before[0], "key": SHORT, "display_name": "Short time", "runtime": "0:04:00"})
    site.apply("--tags", "spawner_profiles")
    yield
    site.profiles[:] = before
    site.apply("--tags", "spawner_profiles")


@pytest.mark.parametrize("interface", ["lab", "tree"], ids=["lab", "classic"])
def test_status_shows_the_time_the_job_and_what_it_uses(browser_page: Visitor, lab: Lab, interface: str) -> None:
    """The figures are those of the job, against what it was granted."""
    chosen = lab.profiles()[0]
    browser_page.sign_in("alice")
    browser_page.start(chosen["key"])
    (job,) = lab.jobs("alice")
    page = browser_page.page
    page.goto(f"{lab.url}/user/alice/{interface}")
    expect(status(page)).to_contain_text(re.compile(r"\d+ (min|h|d) .*left"), timeout=START)
    expect(status(page)).to_contain_text(f"job {job.id}")
    expect(status(page)).to_contain_text(re.compile(r"memory [\d.]+ of [\d.]+ GB"))
    expect(status(page)).to_contain_text(re.compile(rf"CPU [\d.]+ of {chosen['cores']} core"))
    assert session(browser_page, "alice")["job"]["id"] == job.id


@pytest.mark.slow
def test_tab_sends_no_periodic_request_of_its_own(browser_page: Visitor, lab: Lab) -> None:
    """Only requests of JupyterLab itself repeat. The figures come over a websocket that it opens anyway."""
    browser_page.sign_in("alice")
    browser_page.start(lab.profiles()[0]["key"])
    page = browser_page.page
    expect(status(page)).to_contain_text("left", timeout=START)
    page.wait_for_timeout(5_000)
    seen: Counter[str] = Counter()
    page.on("request", lambda request: seen.update([request.url.partition("?")[0].removeprefix(lab.url)]))
    page.wait_for_timeout(QUIET)
    own = {path: count for path, count in seen.items() if "hpchub" in path or path.startswith("/hub/")}
    assert own == {}, seen


@pytest.mark.slow
@pytest.mark.usefixtures("profiles")
def test_tab_warns_saves_and_explains_when_the_time_limit_comes(browser_page: Visitor, lab: Lab) -> None:
    """The last edit is in the file, although nobody saved it, and the tab shows why the session ended."""
    browser_page.sign_in("alice")
    notebooks = browser_page.start(SHORT)
    page = browser_page.page
    notebooks.new_notebook("python3")
    expect(banner(page)).to_contain_text(re.compile(r"Your session ends at .*, in [234] minutes"), timeout=START)
    expect(banner(page)).to_contain_text("It then reaches its time limit")
    banner(page).get_by_role("button", name="Close").click()
    expect(banner(page)).to_contain_text(re.compile(r", in [12] minutes?"), timeout=240_000)
    page.locator(".jp-Notebook .jp-CodeCell .cm-content").first.fill("6*7")
    expect(page.locator(".lm-TabBar-tab.jp-mod-current.jp-mod-dirty")).to_have_count(0, timeout=60_000)
    expect(banner(page)).to_contain_text("Your session ended at", timeout=300_000)
    expect(banner(page)).to_contain_text("time limit")


def test_tab_warns_before_a_drain_stops_the_session(browser_page: Visitor, lab: Lab) -> None:
    """The warning gives the maintenance as the reason."""
    chosen = lab.profiles()[0]
    browser_page.sign_in("alice")
    browser_page.start(chosen["key"])
    page = browser_page.page
    expect(status(page)).to_contain_text("left", timeout=START)
    lab.run("hub", [HPCHUB, "drain", chosen["cluster"], "--until", "+2h", "--stop-at", "+9m"])
    try:
        page.wait_for_timeout(6_000)  # the session uses an answer of the hub for 5 seconds
        page.reload()
        warned = banner(page).filter(has_text="Your session ends at")
        expect(warned).to_contain_text("The service then stops it because of a maintenance", timeout=START)
        expect(status(page)).to_contain_text(re.compile(r"\d min left"))
    finally:
        lab.run("hub", [HPCHUB, "undrain", chosen["cluster"]])


@pytest.mark.slow
@pytest.mark.usefixtures("profiles")
def test_idle_session_warns_and_is_kept_by_its_user(browser_page: Visitor, lab: Lab) -> None:
    """The button keeps the session. Without it, the session ends, and the home page gives the reason."""
    browser_page.sign_in("alice")
    browser_page.start(IDLE)
    page = browser_page.page
    expect(banner(page)).to_contain_text("Nobody uses this session", timeout=START)
    banner(page).get_by_role("button", name="Keep the session").click()
    expect(banner(page)).to_have_count(0)
    page.wait_for_timeout(45_000)
    assert lab.jobs("alice"), "the session has ended although its user is there"
    # Now nobody is there.
    eventually("the idle session has ended", lambda: not lab.jobs("alice"), timeout=300)
    expect(banner(page)).to_contain_text("because nobody used it for 1 min,", timeout=START)
    assert session(browser_page, "alice")["ending"]["cause"] == "stopped"


@pytest.mark.slow
@pytest.mark.usefixtures("profiles")
def test_busy_kernel_keeps_a_session(browser_page: Visitor, lab: Lab) -> None:
    """A computation that lasts longer than the idle limit comes to its end."""
    browser_page.sign_in("alice")
    notebooks = browser_page.start(IDLE)
    notebook = notebooks.new_notebook("python3")
    cell = notebook.panel.locator(".jp-Notebook .jp-CodeCell").first
    cell.locator(".cm-content").fill("import time; time.sleep(100); print(6*7)")
    cell.locator(".cm-content").press("Shift+Enter")
    browser_page.page.on("dialog", lambda dialog: dialog.accept())  # leave the page although the notebook has changed
    browser_page.page.goto("about:blank")
    browser_page.page.wait_for_timeout(95_000)
    assert lab.jobs("alice"), "the session has ended although its kernel was busy"
    eventually("the idle session has ended", lambda: not lab.jobs("alice"), timeout=300)


def test_user_continues_in_a_new_session_with_the_same_documents(browser_page: Visitor, lab: Lab) -> None:
    """The form has the last profile, and its last page closes itself. The tab is not reloaded."""
    chosen = lab.profiles()[0]["key"]
    browser_page.sign_in("alice")
    notebooks = browser_page.start(chosen)
    page = browser_page.page
    notebooks.new_notebook("python3")
    cell = page.locator(".jp-Notebook .jp-CodeCell .cm-content").first
    cell.fill("6*7")
    page.evaluate("window.notReloaded = true")
    lab.cancel_jobs("alice")
    expect(banner(page)).to_contain_text("Your session ended at", timeout=START)
    expect(status(page)).to_contain_text("No connection")
    with page.expect_popup() as opened:
        banner(page).get_by_role("button", name="Continue in a new session").click()
    form = opened.value
    expect(form.locator(f"input[name=profile][value='{chosen}']")).to_be_checked()
    assert not lab.jobs("alice"), "the link has started a session"
    form.locator("#spawn_form [type=submit]").click()
    expect(banner(page)).to_contain_text("connected to your new session", timeout=START)
    eventually("the form's tab has closed itself", form.is_closed)
    assert page.evaluate("window.notReloaded")
    expect(cell).to_have_text("6*7")
    expect(status(page)).to_contain_text("left", timeout=START)


def break_storage(page: Page, lab: Lab, fault: str) -> None:
    """Turn the storage of a browser off, or leave no space in it."""
    if fault == "off":
        page.add_init_script(NO_STORAGE)
        return
    page.add_init_script(FULL_STORAGE)
    quota = {"origin": lab.url, "quotaSize": 1}  # in bytes; 0 means no change
    page.context.new_cdp_session(page).send("Storage.overrideQuotaForOrigin", quota)


@pytest.mark.parametrize("fault", ["off", "full"])
def test_browser_without_storage_shows_no_error(browser_page: Visitor, lab: Lab, fault: str) -> None:
    """JupyterLab opens, computes and saves. The tab warns that it alone keeps the changes."""
    errors: list[str] = []
    page = browser_page.page
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: dialog.accept())  # leave the page although the notebook has changed
    browser_page.sign_in("alice")
    break_storage(page, lab, fault)
    notebooks = browser_page.start(lab.profiles()[0]["key"])
    write(browser_page)
    notebook = notebooks.open_notebook(NOTEBOOK)
    assert notebook.run("6*7") == "42"
    notebook.save()
    wait_until_saved(page, lab, "6*7")
    page.locator(".jp-Notebook .jp-CodeCell .cm-content").first.fill("6*8")
    page.wait_for_timeout(4_000)  # the time after which the tab has tried to keep the changes
    assert errors == []
    expect(page.locator(".jp-Dialog")).to_have_count(0)
    lab.cancel_jobs("alice")
    expect(banner(page)).to_contain_text("kept in this tab only", timeout=START)
    with page.expect_download() as download:
        banner(page).get_by_role("button", name="Download my changes").click()
    assert download.value.suggested_filename.endswith(".ipynb")
    assert errors == []
