"""The home page in a browser: several sessions at once, ends, the last choice, names, a phone and the keyboard."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from .lab import eventually
from .pages import CELL, PAGE, START, JupyterLab, fetch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Locator, Page

    from .lab import Lab
    from .pages import Visitor

PHONE = {"width": 360, "height": 740}


@pytest.fixture
def bob(browser_page: Visitor, lab: Lab) -> Iterator[Visitor]:
    """Bob, who is signed in. Afterwards, none of his sessions runs."""
    browser_page.sign_in("bob")
    yield browser_page
    browser_page.page.goto(f"{lab.url}/hub/home")
    answer = browser_page.fetch("GET", "/hub/api/users/bob")
    for name in json.loads(answer.text).get("servers", {}):
        browser_page.fetch("DELETE", f"/hub/api/users/bob/servers/{name}" if name else "/hub/api/users/bob/server")
    eventually("all jobs of bob have ended", lambda: not lab.jobs("bob"))


def home(page: Page, lab: Lab) -> None:
    page.goto(f"{lab.url}/hub/home")
    expect(page.get_by_role("heading", name="Your sessions", level=1)).to_be_visible()


def card(page: Page, server: str) -> Locator:
    return page.locator(f'.hpchub-card[data-server="{server}"]')


def name_session(page: Page, lab: Lab, name: str) -> None:
    """Give a name to a new session on the home page."""
    home(page, lab)
    page.get_by_label("Name of the session").fill(name)
    page.get_by_label("Name of the session").press("Enter")


def start(bob: Visitor, lab: Lab, name: str, key: str) -> None:
    """Start a session with a name, and wait until JupyterLab is open."""
    name_session(bob.page, lab, name)
    bob.page.locator(f"input[name=profile][value='{key}']").check()
    bob.page.locator("#spawn_form [type=submit]").click()
    expect(bob.page.locator("#jp-main-dock-panel")).to_be_visible(timeout=START)


def variable(page: Page, base: str, code: str) -> str:
    """Run code in a new notebook of a session, and return its output."""
    page.goto(f"{base}/lab?reset")
    return JupyterLab(page, base).run_cell("python3", code)


def test_sessions_with_names_run_side_by_side(bob: Visitor, lab: Lab) -> None:
    """Each has its own address, job and kernel. Stopping one leaves the other alone."""
    page, key = bob.page, lab.profiles()[0]["key"]
    start(bob, lab, "Genome Run", key)
    assert "/user/bob/genome-run/" in page.url
    start(bob, lab, "Second", key)
    assert "/user/bob/second/" in page.url
    assert len(lab.jobs("bob")) == 2
    first, second = (f"{lab.url}/user/bob/{part}" for part in ("genome-run", "second"))
    code = "import os; os.environ['JUPYTERHUB_SERVICE_PREFIX']"
    assert variable(page, first, code) == "'/user/bob/genome-run/'"
    assert variable(page, second, code) == "'/user/bob/second/'"

    home(page, lab)
    for server, name in (("genome-run", "Genome Run"), ("second", "Second")):
        expect(card(page, server)).to_contain_text(name)
        for part in ("Running", "core", "memory", "Time left", lab.profiles()[0]["cluster"]):
            expect(card(page, server)).to_contain_text(part)
    expect(card(page, "second").locator(".hpchub-left")).to_have_text(re.compile(r"\d+ (minute|hour|day)"))

    card(page, "second").get_by_role("button", name="Stop").click()
    expect(card(page, "second")).to_have_count(0, timeout=START)
    expect(card(page, "genome-run")).to_contain_text("Running")
    eventually("one job is left", lambda: len(lab.jobs("bob")) == 1)
    ended = page.locator(".hpchub-ended").first
    expect(ended).to_contain_text("Second")
    expect(ended).to_contain_text("You stopped")

    # A program that still uses the session that is over gets the hub's answer, and not another session's.
    answer = fetch(page, "GET", f"{second}/api/status")
    assert answer.status in (424, 503), answer
    card(page, "genome-run").get_by_role("link", name="Open").click()
    expect(page.locator("#jp-main-dock-panel")).to_be_visible(timeout=START)


def test_tab_of_a_session_that_is_over_does_not_use_the_session_without_a_name(bob: Visitor, lab: Lab) -> None:
    """The proxy would send its requests to the session with the shorter address."""
    page, key = bob.page, lab.profiles()[0]["key"]
    start(bob, lab, "Genome Run", key)
    tab = page.context.new_page()
    tab.goto(f"{lab.url}/user/bob/genome-run/lab?reset")
    JupyterLab(tab, f"{lab.url}/user/bob/genome-run")
    bob.start(key)
    home(page, lab)
    card(page, "genome-run").get_by_role("button", name="Stop").click()
    expect(card(page, "genome-run")).to_have_count(0, timeout=START)
    answer = fetch(tab, "GET", f"{lab.url}/user/bob/genome-run/api/status")
    assert answer.status in (424, 503), answer
    tab.evaluate("() => window.dispatchEvent(new Event('focus'))")
    expect(tab.get_by_text(re.compile("session (has )?ended")).first).to_be_visible(timeout=CELL)
    tab.close()


def test_hub_restart_keeps_all_sessions(bob: Visitor, lab: Lab) -> None:
    page, key = bob.page, lab.profiles()[0]["key"]
    start(bob, lab, "Genome Run", key)
    bob.start(key)
    before = lab.jobs("bob")
    lab.run("hub", ["systemctl", "restart", "jupyterhub"])
    bob.wait_for_hub()
    home(page, lab)
    expect(card(page, "")).to_contain_text("Running", timeout=START)
    expect(card(page, "genome-run")).to_contain_text("Running", timeout=START)
    assert lab.jobs("bob") == before
    for path in ("", "genome-run/"):
        answer = fetch(page, "GET", f"{lab.url}/user/bob/{path}api/status")
        assert answer.status in (200, 403), answer  # 403: this page has no token of the notebook server


def test_page_changes_by_itself_while_a_session_starts(bob: Visitor, lab: Lab) -> None:
    page = bob.page
    name_session(page, lab, "Genome Run")
    page.locator(f"input[name=profile][value='{lab.profiles()[0]['key']}']").check()
    page.locator("#spawn_form [type=submit]").click()
    page.wait_for_url("**/spawn-pending/bob/genome-run*")
    home(page, lab)
    page.get_by_label("Name of the session").fill("written meanwhile")
    expect(card(page, "genome-run")).to_contain_text("Running", timeout=START)
    expect(page.locator("#hpchub-news")).to_contain_text("Genome Run is running")
    expect(page.get_by_label("Name of the session")).to_have_value("written meanwhile")


def test_last_choice_starts_with_one_button(bob: Visitor, lab: Lab) -> None:
    page, key = bob.page, lab.profiles()[0]["key"]
    bob.start(key)
    bob.stop_server()
    home(page, lab)
    page.locator("#quick-start").click()
    expect(page.locator("#jp-main-dock-panel")).to_be_visible(timeout=START)


def test_limit_is_explained_and_enforced(bob: Visitor, lab: Lab) -> None:
    """Also a request to the API starts nothing beyond the limit."""
    page, key = bob.page, lab.profiles()[0]["key"]
    home(page, lab)
    codes = []
    for number in range(12):
        answer = bob.fetch("POST", f"/hub/api/users/bob/servers/s-{number}", body={"profile": key})
        codes.append(answer.status)
        if answer.status == 409:
            assert "at once" in json.loads(answer.text)["message"]
            break
    assert codes[-1] == 409, codes
    home(page, lab)
    expect(page.locator("#hpchub-sessions")).to_contain_text("sessions that you can have at once")
    expect(page.get_by_label("Name of the session")).to_have_count(0)


@pytest.mark.parametrize(
    ("name", "message"),
    [("x" * 10_000, "has 10000 characters"), ("lab", "Choose another name"), ("a\u202eb", "cannot be shown")],
    ids=["long", "reserved", "invisible"],
)
def test_bad_name_gets_a_message_beside_the_field(bob: Visitor, lab: Lab, name: str, message: str) -> None:
    page = bob.page
    name_session(page, lab, name)
    field = page.get_by_label("Name of the session")
    expect(page.locator("#session-name-error")).to_contain_text(message)
    expect(field).to_be_focused()
    assert "session-name-error" in (field.get_attribute("aria-describedby") or "")
    assert not lab.jobs("bob")


def test_page_fits_a_phone_and_the_keyboard_reaches_everything(bob: Visitor, lab: Lab) -> None:
    page, key = bob.page, lab.profiles()[0]["key"]
    start(bob, lab, "Genome Run", key)
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    home(page, lab)
    too_wide: Any = page.evaluate("() => document.documentElement.scrollWidth > document.documentElement.clientWidth")
    assert not too_wide
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("() => document.activeElement.id || document.activeElement.textContent.trim()"))
    assert {"start-genome-run", "stop-genome-run", "session-name"} <= reached
    page.locator("#stop-genome-run").focus()
    page.keyboard.press("Enter")
    expect(card(page, "genome-run")).to_have_count(0, timeout=START + PAGE)
