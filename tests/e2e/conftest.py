"""The lab, a browser, and what is kept of a test that fails."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .browser import chromium
from .lab import Lab, LabError
from .pages import Visitor
from .students import Class

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Page

_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Remember on the test itself whether it failed: fixtures are still up when its teardown asks."""
    report = yield
    item.stash[_failed] = item.stash.get(_failed, False) or report.failed
    return report


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The running lab of ``HPCHUB_LAB_DIR``, for these tests alone."""
    try:
        lab = Lab.from_environment()
        with lab.claimed():
            yield lab
    except LabError as error:
        pytest.exit(str(error), returncode=2)


@pytest.fixture(scope="session")
def browser(lab: Lab) -> Iterator[Browser]:
    """One Chromium for all tests."""
    with chromium(lab) as browser:
        yield browser


@pytest.fixture
def visitor(lab: Lab, browser: Browser, request: pytest.FixtureRequest) -> Iterator[Callable[[], Visitor]]:
    """Makes visitors, each with a browser profile of their own; stops their servers afterwards."""
    visitors: list[Visitor] = []

    def arrive() -> Visitor:
        context = browser.new_context(ignore_https_errors=True, viewport={"width": 1280, "height": 900})
        visitors.append(Visitor(lab, context.new_page()))
        return visitors[-1]

    yield arrive
    if request.node.stash.get(_failed, False):
        keep_evidence(lab, request.node.name, [each.page for each in visitors])
    for each in visitors:
        each.leave_nothing_running()
        each.page.context.close()


@pytest.fixture
def browser_page(visitor: Callable[[], Visitor]) -> Visitor:
    """One visitor who has not signed in yet."""
    return visitor()


@pytest.fixture(scope="module")
def students(lab: Lab) -> Iterator[Class]:
    """The class, all signed in; nobody's session is left."""
    with ThreadPoolExecutor(10) as pool:
        found = Class(lab, pool)
        yield found
        found.stop()


def keep_evidence(lab: Lab, test: str, pages: list[Page]) -> None:
    """Save each page as picture and HTML, the hub host's journal and the queue, in ``HPCHUB_ARTIFACTS``."""
    root = Path(os.environ.get("HPCHUB_ARTIFACTS") or Path.home() / ".cache" / "hpchub" / "artifacts")
    directory = root / re.sub(r"[^\w.-]+", "_", test)
    directory.mkdir(parents=True, exist_ok=True)
    for number, page in enumerate(pages, start=1):
        (directory / f"page{number}.html").write_text(f"<!-- {page.url} -->\n{page.content()}")
        page.screenshot(path=directory / f"page{number}.png", full_page=True)
    journal = ["journalctl", "--no-pager", "--lines=400", "--output=short-iso"]
    (directory / "hub.journal").write_text(lab.run("hub", journal, check=False))
    for cluster, batch in lab.batches.items():
        (directory / f"jobs-{cluster}").write_text("\n".join(map(str, batch.jobs(check=False))))
    print(f"evidence: {directory}")
