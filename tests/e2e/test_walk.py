"""The way of a new user through the service, with everything that goes wrong on it. No work is lost on the way.

Each step leaves a screenshot in ``HPCHUB_ARTIFACTS``, so that people can judge what the user has seen. The walk takes
about 15 minutes, so it only runs with ``bin/test --all``.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from .lab import NODES, eventually
from .pages import START, Visitor, fetch
from .site import Site
from .test_unsaved_work import DIRTY
from .test_working import HPCHUB, banner, status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

    from .lab import Lab

SHORT, ROOMY = "walk-short", "walk-roomy"
DIRECTORY = "walk"
NOTEBOOK = f"{DIRECTORY}/results.ipynb"
FULL = f"/home/bob/{DIRECTORY}"
FILL = f"runuser -u bob -- sh -c 'head -c 2M /dev/zero > {FULL}/filler' || true"
USE_MEMORY = "kept = bytearray(b'x') * (3 * 2**30); import time; time.sleep(60)"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def profiles(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Add a profile with a short time and one with a longer time. Both have little memory."""
    site = Site(lab, tmp_path_factory.mktemp("site"))
    before = list(site.profiles)
    small = {**before[0], "memory": "1G"}
    site.profiles.append({**small, "key": SHORT, "display_name": "Walk: 4 minutes", "runtime": "0:04:00"})
    site.profiles.append({**small, "key": ROOMY, "display_name": "Walk: 1 hour", "runtime": "1:00:00"})
    site.apply("--tags", "spawner_profiles")
    yield
    site.profiles[:] = before
    site.apply("--tags", "spawner_profiles")


class Walk:
    """Bob and his open notebook."""

    def __init__(self, visitor: Visitor, lab: Lab) -> None:
        self.visitor = visitor
        self.lab = lab
        self.page = visitor.page
        self._seen = 0
        root = Path(os.environ.get("HPCHUB_ARTIFACTS") or Path.home() / ".cache" / "hpchub" / "artifacts")
        self._directory = root / "walk"
        self._directory.mkdir(parents=True, exist_ok=True)

    def look(self, what: str, page: Page | None = None) -> None:
        """Keep a screenshot of what the user sees."""
        self._seen += 1
        (page or self.page).screenshot(path=self._directory / f"{self._seen:02}-{what}.png")

    def write(self, text: str) -> None:
        """Write into the notebook, and do not save it."""
        self.page.locator(".jp-Notebook .jp-Cell .cm-content").first.fill(text)
        expect(self.page.locator(DIRTY)).to_have_count(1)

    def run(self, code: str) -> None:
        """Run code in the notebook."""
        self.write(code)
        self.page.locator(".jp-Notebook .jp-Cell .cm-content").first.press("Shift+Enter")

    @property
    def text(self) -> str:
        """What the notebook shows in its first cell."""
        return self.page.locator(".jp-Notebook .jp-Cell .cm-content").first.inner_text()

    def saved(self) -> str:
        """Return the first cell of the file, which the login node sees too."""
        found = self.lab.run("login1", ["cat", f"/home/bob/{NOTEBOOK}"], check=False)
        if not found:
            return ""
        source = json.loads(found)["cells"][0]["source"]
        return "".join(source)

    def continue_with(self, key: str, what: str) -> None:
        """Follow the tab's button into a new session."""
        button = self.visitor.page.locator(".hpchub-banner").get_by_role("button", name="Continue in a new session")
        expect(button).to_be_visible(timeout=START)
        self.look(f"{what}-ended")
        with self.page.expect_popup() as opened:
            button.click()
        form = opened.value
        form.locator(f"input[name=profile][value='{key}']").check()
        self.look(f"{what}-form", form)
        form.locator("#spawn_form [type=submit]").click()
        expect(banner(self.page)).to_contain_text("connected to your new session", timeout=START)
        self.look(f"{what}-continued")


@pytest.fixture
def walk(browser_page: Visitor, lab: Lab) -> Iterator[Walk]:
    """Bob, who uses the service for the first time, with a directory for his work."""
    lab.run("login1", ["runuser", "-u", "bob", "--", "mkdir", "-p", FULL])
    browser_page.page.on("dialog", lambda dialog: dialog.accept())
    yield Walk(browser_page, lab)
    for node in NODES:
        lab.run(node, ["umount", "--lazy", FULL], check=False)
    lab.run("hub", [HPCHUB, "undrain", lab.profiles()[0]["cluster"]], check=False)
    lab.run("login1", ["rm", "-rf", FULL])


def arrive(walk: Walk) -> None:
    """Sign in, start a session and open a new notebook."""
    visitor = walk.visitor
    page = walk.page
    lab = walk.lab
    visitor.sign_in("bob")
    walk.look("home")
    page.goto(f"{lab.url}/hub/spawn")
    walk.look("form")
    notebooks = visitor.start(SHORT)
    content = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    cell: dict[str, Any] = {
        "id": "first",
        "cell_type": "code",
        "source": "",
        "metadata": {},
        "outputs": [],
        "execution_count": None,
    }
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    body = {"type": "notebook", "format": "json", "content": {**content, "cells": [cell], "metadata": kernel}}
    answer = visitor.fetch("PUT", f"/user/bob/api/contents/{quote(NOTEBOOK)}", body=body)
    assert answer.status in (200, 201), answer
    notebooks.open_notebook(NOTEBOOK)
    page.evaluate("window.notReloaded = true")


def reach_the_time_limit(walk: Walk) -> None:
    """The tab warns, saves, explains the end and continues in a new session."""
    page = walk.page
    expect(banner(page)).to_contain_text(re.compile(r"Your session ends at .*, in \d minutes"), timeout=START)
    walk.look("limit-warning")
    walk.write("first = 'before the time limit'")
    expect(banner(page)).to_contain_text("reached its time limit", timeout=480_000)
    walk.continue_with(ROOMY, "limit")
    assert walk.saved() == walk.text == "first = 'before the time limit'"


def close_the_laptop(walk: Walk) -> None:
    """The tab has no network for a minute."""
    page = walk.page
    walk.run("kept = 6*7")
    walk.write("second = 'just before the lid closed'")
    page.context.set_offline(True)
    page.wait_for_timeout(60_000)
    walk.look("laptop-offline")
    page.context.set_offline(False)
    page.keyboard.press("Control+s")
    eventually("the notebook is saved", lambda: walk.saved() == "second = 'just before the lid closed'")
    expect(status(page)).to_contain_text("left", timeout=START)
    walk.look("laptop-back")


def lose_the_sign_on(walk: Walk) -> None:
    """A small window signs the user in again."""
    page = walk.page
    lab = walk.lab
    other = Visitor(lab, page.context.new_page())
    other.user = lab.user("bob")
    other.sign_out()
    other.page.close()
    walk.write("third = 'while signed out'")
    page.keyboard.press("Control+s")
    expect(banner(page)).to_contain_text("Sign in again", timeout=START)
    walk.look("signed-out")
    if page.locator(".jp-Dialog").count():
        page.locator(".jp-Dialog").get_by_role("button").last.click()
    with page.expect_popup() as opened:
        banner(page).get_by_role("button", name="Sign in").click()
    window = Visitor(lab, opened.value)
    window.submit_password("bob", lab.user("bob").password)
    expect(banner(page)).to_contain_text("connected again", timeout=START)
    walk.look("signed-in-again")
    eventually("the notebook is saved", lambda: walk.saved() == "third = 'while signed out'")
    # The kernel has kept its variables.
    walk.run("print(kept)")
    expect(page.locator(".jp-OutputArea-output").first).to_have_text("42", timeout=START)


def fill_the_disk(walk: Walk) -> None:
    """The directory of the notebook is a small file system, on the node of the session only."""
    page = walk.page
    lab = walk.lab
    (job,) = lab.jobs("bob")
    node = next(name for name in NODES if name == job.node)
    # Nothing writes to the directory while it is copied.
    page.keyboard.press("Control+s")
    expect(page.locator(DIRTY)).to_have_count(0, timeout=START)
    options = "size=1m,mode=700,uid=$(id -u bob),gid=$(id -g bob)"
    copy = f"kept=$(mktemp -d); cp -a {FULL}/. $kept"
    small = f"{copy}; mount -t tmpfs -o {options} tmpfs {FULL}; cp -a $kept/. {FULL}; rm -r $kept; {FILL}"
    lab.run(node, ["sh", "-c", small])
    walk.write("fourth = '" + "the disk is full " * 200 + "'")
    page.keyboard.press("Control+s")
    expect(page.locator(".jp-Dialog")).to_contain_text("There is no space left for this file", timeout=START)
    walk.look("disk-full")
    page.locator(".jp-Dialog").get_by_role("button").last.click()
    expect(page.locator(DIRTY)).to_have_count(1)
    lab.run(node, ["rm", f"{FULL}/filler"])
    page.keyboard.press("Control+s")
    expect(page.locator(DIRTY)).to_have_count(0, timeout=START)
    walk.write("fourth = 'there is space again'")
    page.keyboard.press("Control+s")
    expect(page.locator(DIRTY)).to_have_count(0, timeout=START)
    # Quiet the session before its directory changes back.
    back = f"{copy}; umount --lazy {FULL}; cp -a $kept/. {FULL}; rm -r $kept"
    lab.run(node, ["sh", "-c", back])
    assert walk.saved() == "fourth = 'there is space again'"


def use_too_much_memory(walk: Walk) -> None:
    """The scheduler ends the session, and the tab gives the reason."""
    page = walk.page
    walk.run(USE_MEMORY)
    expect(banner(page)).to_contain_text("of memory", timeout=START)
    walk.continue_with(ROOMY, "memory")
    assert walk.text == USE_MEMORY


def meet_a_drain(walk: Walk) -> None:
    """The tab warns and saves before the service stops the session."""
    page = walk.page
    lab = walk.lab
    cluster = lab.profiles()[0]["cluster"]
    lab.run("hub", [HPCHUB, "drain", cluster, "--until", "+2h", "--stop-at", "+7m", "--message", "A new file system"])
    # The session asks the hub for news every 5 minutes, more or less.
    told = re.compile("maintenance|drain|new file system", re.IGNORECASE)
    # The message that the tab is connected to a new session stays beside the warning until the user closes it.
    expect(banner(page).filter(has_text=told)).to_be_visible(timeout=360_000)
    walk.look("drain-warning")
    walk.write("fifth = 'before the drain'")
    expect(banner(page).filter(has_text="Your session ended at")).to_be_visible(timeout=480_000)
    walk.look("drain-ended")
    assert walk.saved() == walk.text == "fifth = 'before the drain'"
    assert page.evaluate("window.notReloaded")


def look_back(walk: Walk) -> None:
    """The home page explains everything that happened, and nothing starts during the drain."""
    page = walk.page
    lab = walk.lab
    home = page.context.new_page()
    home.goto(f"{lab.url}/hub/home")
    walk.look("home-with-history", home)
    ended = home.locator(".hpchub-ended")
    for words in ("time limit", "memory", "maintenance"):
        expect(ended.filter(has_text=words).first).to_be_visible()
    answer = fetch(home, "POST", f"{lab.url}/hub/api/users/bob/server", body={"profile": ROOMY})
    assert answer.status == 503, answer


@pytest.mark.usefixtures("profiles")
def test_day_of_a_new_user(walk: Walk) -> None:
    arrive(walk)
    reach_the_time_limit(walk)
    close_the_laptop(walk)
    lose_the_sign_on(walk)
    fill_the_disk(walk)
    use_too_much_memory(walk)
    meet_a_drain(walk)
    look_back(walk)
