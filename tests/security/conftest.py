"""The service under attack, the people who attack it, and what is kept of a run."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from e2e.browser import chromium
from e2e.lab import Lab, LabError

from .hpchub import HPCHub
from .stock import StockService

TARGETS = {"hpchub": HPCHub, "stock": StockService}

_results = pytest.StashKey[list[dict[str, str]]]()


def pytest_addoption(parser):
    group = parser.getgroup("security")
    group.addoption("--target", choices=TARGETS, default="hpchub", help="the service under attack")
    group.addoption("--results", type=Path, help="write what came of each attack to this file")
    group.addoption("--hazards", default="", help="try these hazards only, as in H1,H4")


def pytest_configure(config):
    config.stash[_results] = []


def hazard(item):
    return item.get_closest_marker("hazard").args[0]


def pytest_collection_modifyitems(config, items):
    wanted = set(filter(None, config.getoption("--hazards").split(",")))
    if not wanted:
        return
    if unknown := wanted - {hazard(item) for item in items}:
        raise pytest.UsageError(f"no test of {', '.join(sorted(unknown))}")
    config.hook.pytest_deselected(items=[item for item in items if hazard(item) not in wanted])
    items[:] = [item for item in items if hazard(item) in wanted]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Keep what came of it. Only an assertion of the test's own says that a door is open."""
    report = yield
    if report.passed and report.when != "call":
        return report
    state, note = "closed", ""
    if report.skipped:
        state, note = "not shown", report.longrepr[2].removeprefix("Skipped: ")
    elif report.failed:
        own = report.when == "call" and call.excinfo.errisinstance(AssertionError)
        state, note = "open" if own else "error", str(call.excinfo.value).split("\n", 1)[0]
    entry = {
        "hazard": hazard(item),
        "title": " ".join(item.function.__doc__.split("\n\n", 1)[0].split()).rstrip("."),
        "test": f"{Path(item.path).name}::{item.originalname}",
        "state": state,
        "note": note,
    }
    results = item.config.stash[_results]
    results[:] = [each for each in results if each["test"] != entry["test"]] + [entry]
    return report


def pytest_sessionfinish(session):
    if path := session.config.getoption("--results"):
        path.write_text(json.dumps(session.config.stash[_results], indent=2, ensure_ascii=False) + "\n")


@pytest.fixture(scope="session")
def target(request):
    """The service, with hostile people in it; as it was before, afterwards."""
    try:
        lab = Lab.from_environment()
        # Whoever runs these tests on two services in turn holds the lab for both.
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
def early_bird(target):
    """Somebody who signed in before everything else: long ago, when the tests of the end of a sign-on come."""
    return target.person("bob"), time.monotonic()


@pytest.fixture(scope="session")
def browser(target):
    """One Chromium for all tests."""
    with chromium(target.lab) as browser:
        yield browser


@pytest.fixture
def alice(target):
    """Alice's session, running, and her server hostile."""
    return target.session("alice")


@pytest.fixture
def bob(target):
    """Bob's session."""
    return target.session("bob")
