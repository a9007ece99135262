"""Fixtures: the service under attack and its users. Hooks record the result of each attack."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from e2e.browser import chromium
from e2e.lab import Lab, LabError

from .hpchub import HPCHub
from .stock import StockService

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from playwright.sync_api import Browser

    from .target import Person, Session, Target

TARGETS: dict[str, type[Target]] = {"hpchub": HPCHub, "stock": StockService}

_results = pytest.StashKey[list[dict[str, str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("security")
    group.addoption("--target", choices=TARGETS, default="hpchub", help="the service to attack")
    group.addoption("--results", type=Path, help="write the result of each attack to this file")
    group.addoption("--hazards", default="", help="try only these hazards, for example H1,H4")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_results] = []


def hazard(item: pytest.Item) -> str:
    """Return the hazard that a test tries."""
    marker = item.get_closest_marker("hazard")
    assert marker is not None
    return str(marker.args[0])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = set(filter(None, config.getoption("--hazards").split(",")))
    if not wanted:
        return
    if unknown := wanted - {hazard(item) for item in items}:
        raise pytest.UsageError(f"--hazards names unknown hazards: {', '.join(sorted(unknown))}")
    config.hook.pytest_deselected(items=[item for item in items if hazard(item) not in wanted])
    items[:] = [item for item in items if hazard(item) in wanted]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record the result of an attack. It is "open" only if an assertion of the test itself failed."""
    report = yield
    assert isinstance(item, pytest.Function)
    if report.passed and report.when != "call":
        return report
    state, note = "closed", ""
    if report.skipped and isinstance(report.longrepr, tuple):
        state, note = "not shown", report.longrepr[2].removeprefix("Skipped: ")
    elif report.failed and call.excinfo is not None:
        own = report.when == "call" and call.excinfo.errisinstance(AssertionError)
        state, note = "open" if own else "error", str(call.excinfo.value).split("\n", 1)[0]
    entry = {
        "hazard": hazard(item),
        "title": " ".join((item.function.__doc__ or "").split("\n\n", 1)[0].split()).rstrip("."),
        "test": f"{Path(item.path).name}::{item.originalname}",
        "state": state,
        "note": note,
    }
    results = item.config.stash[_results]
    results[:] = [each for each in results if each["test"] != entry["test"]] + [entry]
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    if path := session.config.getoption("--results"):
        path.write_text(json.dumps(session.config.stash[_results], indent=2, ensure_ascii=False) + "\n")


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    """Provide the service with hostile users. Restore it afterwards."""
    try:
        lab = Lab.from_environment()
        with lab.claimed(), TARGETS[request.config.getoption("--target")].set_up(lab) as target:
            try:
                for name in ("alice", "bob"):
                    target.stop(name)
                with target.watched_commands():
                    yield target
            finally:
                for name in ("alice", "bob"):
                    target.stop(name)
                    target.clean_home(name)
    except LabError as error:
        pytest.exit(str(error), returncode=2)


@pytest.fixture(scope="session", autouse=True)
def early_bird(target: Target) -> tuple[Person, float]:
    """Sign a user in before all other tests, so that the sign-on is old when the sign-out tests run."""
    return target.person("bob"), time.monotonic()


@pytest.fixture(scope="session")
def browser(target: Target) -> Iterator[Browser]:
    """Start one Chromium for all tests."""
    with chromium(target.lab) as browser:
        yield browser


@pytest.fixture
def alice(target: Target) -> Session:
    """Return Alice's running session. Her notebook server is hostile."""
    return target.session("alice")


@pytest.fixture
def bob(target: Target) -> Session:
    """Return Bob's running session."""
    return target.session("bob")
