"""Unsaved work survives the end of a session, of the hub's process and of the sign-on, and is saved afterwards."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Locator, expect

from .lab import eventually
from .pages import START, Visitor, fetch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

    from .lab import Lab

NOTEBOOK = "e2e unsaved.ipynb"
DIRTY = ".lm-TabBar-tab.jp-mod-current.jp-mod-dirty"  # the tab of a notebook with changes that are not saved
CELL: dict[str, Any] = {"cell_type": "code", "source": "1", "metadata": {}, "outputs": [], "execution_count": None}
CONTENT = {
    "cells": [CELL],
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    "nbformat": 4,
    "nbformat_minor": 4,
}


def address(user: str) -> str:
    """Return the path of the notebook in the contents API."""
    return f"/user/{user}/api/contents/{quote(NOTEBOOK)}"


def write(visitor: Visitor, source: str = "1") -> None:
    """Write the notebook with one cell, as another program does."""
    content = {**CONTENT, "cells": [{**CELL, "source": source}]}
    body = {"type": "notebook", "format": "json", "content": content}
    answer = visitor.fetch("PUT", address("alice"), body=body)
    assert answer.status in (200, 201), answer


def saved(page: Page, lab: Lab) -> str:
    """Return the first cell of the notebook on disk, or nothing if the server does not answer."""
    answer = fetch(page, "GET", f"{lab.url}{address('alice')}")
    return str(json.loads(answer.text)["content"]["cells"][0]["source"]) if answer.status == 200 else ""


def wait_until_saved(page: Page, lab: Lab, source: str) -> None:
    """Wait until the first cell of the notebook on disk has this text."""
    try:
        eventually(f"the cell {source!r} is saved", lambda: saved(page, lab) == source)
    except AssertionError as error:
        error.add_note(f"the first cell on disk is {saved(page, lab)!r}")
        raise


def banner(page: Page) -> Locator:
    """Return the extension's message."""
    return page.locator(".hpchub-banner")


@pytest.fixture
def open_notebook(browser_page: Visitor, lab: Lab) -> Iterator[Page]:
    """Return alice's page with the open notebook. Afterwards, delete the notebook."""
    browser_page.sign_in("alice")
    notebooks = browser_page.start(lab.profiles()[0]["key"])
    write(browser_page)
    notebooks.open_notebook(NOTEBOOK)
    browser_page.page.on("dialog", lambda dialog: dialog.accept())  # leave the page although the notebook has changed
    yield browser_page.page
    browser_page.page.goto(f"{lab.url}/user/alice/lab?reset")
    browser_page.fetch("DELETE", address("alice"))


def edit(page: Page, source: str) -> None:
    """Replace the text of the notebook's first cell."""
    page.locator(".jp-Notebook .jp-Cell .cm-content").first.fill(source)
    expect(page.locator(DIRTY)).to_have_count(1)


def end_session(lab: Lab) -> None:
    """Cancel alice's job on the scheduler."""
    lab.cancel_jobs("alice")
    eventually("the job has ended", lambda: not lab.jobs("alice"))


def start_in_another_tab(page: Page, lab: Lab) -> Visitor:
    """Use the message's button, which opens the start form in a new tab, and start a session there."""
    button = banner(page).get_by_role("button", name="Continue in a new session")
    expect(button).to_be_visible(timeout=START)
    expect(banner(page)).to_contain_text("Your session ended at")
    with page.expect_popup() as opened:
        button.click()
    other = Visitor(lab, opened.value)
    other.user = lab.user("alice")
    other.start(lab.profiles()[0]["key"])
    return other


def test_tab_of_an_ended_session_saves_into_the_next_one(open_notebook: Page, lab: Lab) -> None:
    """The tab shows how the session ended, leads to the start form, and then saves without being reloaded."""
    page = open_notebook
    edit(page, "6*7")
    page.evaluate("window.notReloaded = true")
    end_session(lab)
    start_in_another_tab(page, lab)

    expect(banner(page)).to_contain_text("connected to your new session", timeout=START)
    expect(banner(page)).to_contain_text("1 document is saved")
    assert page.evaluate("window.notReloaded")
    assert saved(page, lab) == "6*7"
    # The tab has a new kernel. JupyterLab ignores the keys until it is connected.
    expect(page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]")).to_be_visible(timeout=START)
    page.locator(".jp-Notebook .jp-Cell .cm-content").first.press("Shift+Enter")
    expect(page.locator(".jp-OutputArea-output").first).to_have_text("42", timeout=START)


def test_tab_does_not_overwrite_a_newer_file(open_notebook: Page, lab: Lab) -> None:
    """If the file has changed in the meantime, JupyterLab asks what to do, and the changes stay in the tab."""
    page = open_notebook
    edit(page, "6*7")
    write_later = "changed by another program"
    visitor = Visitor(lab, page.context.new_page())
    visitor.page.goto(f"{lab.url}/user/alice/tree")
    visitor.wait_for_classic()
    write(visitor, write_later)
    end_session(lab)
    start_in_another_tab(page, lab)

    expect(page.locator(".jp-Dialog")).to_contain_text("has changed on disk", timeout=START)
    page.locator(".jp-Dialog").get_by_role("button", name="Cancel").click()
    expect(banner(page)).to_contain_text(f"Not saved yet: {NOTEBOOK}", timeout=START)
    assert saved(page, lab) == write_later
    expect(page.locator(".jp-Notebook .jp-Cell .cm-content").first).to_have_text("6*7")


def test_closed_tab_loses_nothing(open_notebook: Page, lab: Lab) -> None:
    """The browser keeps unsaved changes, and offers them when JupyterLab is opened again."""
    page = open_notebook
    edit(page, "6*7")
    end_session(lab)
    other = start_in_another_tab(page, lab).page
    # The first tab saves now. Change the notebook again, and leave the page before it is saved.
    expect(banner(page)).to_contain_text("connected to your new session", timeout=START)
    edit(page, "6*8")
    page.wait_for_timeout(5_000)  # the time after which the tab has kept the changes
    page.goto("about:blank")
    assert saved(other, lab) == "6*7"

    page.goto(f"{lab.url}/user/alice/lab?reset")
    expect(banner(page)).to_contain_text(NOTEBOOK, timeout=START)
    banner(page).get_by_role("button", name="Restore").click()
    expect(banner(page)).to_contain_text("Your changes are back")
    assert saved(other, lab) == "6*8"


def test_tab_saves_during_and_after_a_hub_restart(open_notebook: Page, lab: Lab) -> None:
    """The hub's process ends and starts. The tab needs no reload and loses nothing."""
    page = open_notebook
    edit(page, "6*7")
    page.evaluate("window.notReloaded = true")
    lab.run("hub", ["systemctl", "restart", "jupyterhub"])
    # JupyterLab ignores the keys until it has created a checkpoint.
    with page.expect_response(lambda answer: "/checkpoints" in answer.url and answer.request.method == "POST"):
        page.keyboard.press("Control+s")
    wait_until_saved(page, lab, "6*7")
    expect(page.locator(DIRTY)).to_have_count(0)
    edit(page, "6*8")
    page.keyboard.press("Control+s")
    wait_until_saved(page, lab, "6*8")
    assert page.evaluate("window.notReloaded")
    eventually("the hub answers", lambda: fetch(page, "GET", f"{lab.url}/hub/api/").status == 200)


def test_tab_saves_after_the_user_has_signed_in_again(open_notebook: Page, lab: Lab) -> None:
    """After a sign-off in another tab, the tab shows it, offers to sign in, and then saves."""
    page = open_notebook
    edit(page, "6*7")
    page.evaluate("window.notReloaded = true")
    other = Visitor(lab, page.context.new_page())
    other.user = lab.user("alice")
    other.sign_out()
    other.page.close()

    page.keyboard.press("Control+s")
    expect(banner(page)).to_contain_text("Sign in again", timeout=START)
    dialog = page.locator(".jp-Dialog")
    if dialog.count():
        dialog.get_by_role("button").last.click()
    with page.expect_popup() as opened:
        banner(page).get_by_role("button", name="Sign in").click()
    window = Visitor(lab, opened.value)
    window.submit_password("alice", lab.user("alice").password)
    expect(banner(page)).to_contain_text("connected again", timeout=START)
    assert page.evaluate("window.notReloaded")
    assert saved(page, lab) == "6*7"


def test_page_of_an_ended_session_reloads_by_itself(open_notebook: Page, lab: Lab) -> None:
    """While the hub does not know yet that the session has ended, its page is not available. It then offers a start."""
    page = open_notebook
    page.goto("about:blank")
    end_session(lab)
    page.goto(f"{lab.url}/user/alice/lab")
    expect(page.locator("#start, #spawn_form, a[href*='/hub/spawn']").first).to_be_visible(timeout=START)
