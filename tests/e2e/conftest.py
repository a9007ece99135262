"""Fixtures: the lab, a browser and its visitors. A failed test leaves screenshots and logs behind."""

from __future__ import annotations

import functools
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
    from collections.abc import Callable, Generator, Iterator

    from playwright.sync_api import Browser

_guests = pytest.StashKey[tuple[Lab, list[Visitor]]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Save evidence at the moment of a failure, before the teardown of the fixtures changes the pages."""
    report = yield
    if report.failed and _guests in item.stash:
        lab, visitors = item.stash[_guests]
        keep_evidence(lab, item.name, visitors)
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the slow tests, unless ``HPCHUB_SLOW`` is set, as ``bin/test --all`` does."""
    if "HPCHUB_SLOW" not in os.environ:
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="is slow; set HPCHUB_SLOW=1"))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Return the running lab of ``HPCHUB_LAB_DIR``, locked for these tests."""
    try:
        lab = Lab.from_environment()
        with lab.claimed():
            yield lab
    except LabError as error:
        pytest.exit(str(error), returncode=2)


@pytest.fixture(scope="session")
def browser(lab: Lab) -> Iterator[Browser]:
    """Start one Chromium for all tests."""
    with chromium(lab) as browser:
        yield browser


@pytest.fixture
def visitor(lab: Lab, browser: Browser, request: pytest.FixtureRequest) -> Iterator[Callable[[], Visitor]]:
    """Return a function that creates visitors with separate browser contexts; stop their servers afterwards."""
    visitors: list[Visitor] = []
    request.node.stash[_guests] = lab, visitors

    def arrive() -> Visitor:
        context = browser.new_context(ignore_https_errors=True, viewport={"width": 1280, "height": 900})
        visitors.append(Visitor(lab, context.new_page()))
        return visitors[-1]

    yield arrive
    del request.node.stash[_guests]
    for each in visitors:
        each.leave_nothing_running()
        each.page.context.close()


@pytest.fixture
def browser_page(visitor: Callable[[], Visitor]) -> Visitor:
    """Return one visitor who has not signed in yet."""
    return visitor()


@pytest.fixture
def key(lab: Lab, tmp_path: Path) -> Path:
    """Return a private key for backups on this machine. The hub host has the program that creates it."""
    path = tmp_path / "key.txt"
    path.write_text(lab.run("hub", ["age-keygen"]))
    return path


@pytest.fixture
def closed_queue(lab: Lab) -> Iterator[Callable[[], None]]:
    """Close the first profile's queue, so that no job starts. Return a function that opens it."""
    profile = lab.profiles()[0]
    set_queue = functools.partial(lab.batches[profile["cluster"]].set_queue, profile["queue"])
    try:
        set_queue(is_open=False)
    except NotImplementedError:
        pytest.skip("the lab cannot close a queue of this scheduler")
    yield lambda: set_queue(is_open=True)
    set_queue(is_open=True)


@pytest.fixture(scope="module")
def students(lab: Lab) -> Iterator[Class]:
    """Sign in the whole class; stop all its sessions afterwards."""
    with ThreadPoolExecutor(10) as pool:
        found = Class(lab, pool)
        yield found
        found.stop()


def keep_evidence(lab: Lab, test: str, visitors: list[Visitor]) -> None:
    """Save each page as image and HTML, the pages' log, the hub's journal and the jobs in ``HPCHUB_ARTIFACTS``."""
    root = Path(os.environ.get("HPCHUB_ARTIFACTS") or Path.home() / ".cache" / "hpchub" / "artifacts")
    directory = root / re.sub(r"[^\w.-]+", "_", test)
    directory.mkdir(parents=True, exist_ok=True)
    for number, page in enumerate((page for each in visitors for page in each.page.context.pages), start=1):
        (directory / f"page{number}.html").write_text(f"<!-- {page.url} -->\n{page.content()}")
        page.screenshot(path=directory / f"page{number}.png", full_page=True)
    for number, each in enumerate(visitors, start=1):
        (directory / f"visitor{number}.log").write_text("\n".join(each.log))
    journal = ["journalctl", "--no-pager", "--lines=400", "--output=short-iso"]
    (directory / "hub.journal").write_text(lab.run("hub", journal, check=False))
    for cluster, batch in lab.batches.items():
        (directory / f"jobs-{cluster}").write_text("\n".join(map(str, batch.jobs(check=False))))
    print(f"The pages, the journal and the jobs are in {directory}")
