"""Upgrades of the hub: a version that does not start, and the way back. Sessions continue."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from .lab import LabError, eventually
from .site import REPOSITORY, Site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .lab import Lab
    from .pages import Notebook, Visitor

CURRENT = "/opt/hpchub/hub/current"


def environment(lab: Lab) -> str:
    """Return the environment that the hub's link names."""
    return lab.run("hub", ["readlink", CURRENT]).strip()


def hub_answers(visitor: Visitor) -> bool:
    return visitor.fetch("GET", "/hub/api/").status == 200


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package that a test may change, as another version has."""
    copy = tmp_path / "package"
    shutil.copytree(REPOSITORY / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy)
    return copy


@pytest.fixture
def notebook(browser_page: Visitor, lab: Lab) -> Notebook:
    """An open tab with a variable in its kernel."""
    browser_page.sign_in("alice")
    found = browser_page.start(lab.profiles()[0]["key"]).new_notebook("python3")
    assert found.run("kept = 6*7; kept") == "42"
    return found


@pytest.fixture
def site(lab: Lab, tmp_path: Path) -> Iterator[Site]:
    """The lab's inventory. Afterwards, the hub has the version of this checkout again."""
    found = Site(lab, tmp_path)
    yield found
    found.apply("--tags", "jupyterhub")


def test_rollback_returns_to_the_former_version(
    lab: Lab, site: Site, package: Path, browser_page: Visitor, notebook: Notebook
) -> None:
    """The environment changes by its link in both directions, and the open tab goes on."""
    before, jobs = environment(lab), lab.jobs("alice")
    with (package / "src/hpchub/__init__.py").open("a") as file:
        file.write("\n# another version\n")
    site.apply("--tags", "jupyterhub", "-e", f"jupyterhub_package_src={package}")
    assert environment(lab) != before
    assert notebook.run("kept") == "42"
    site.apply(playbook="rollback.yml")
    assert environment(lab) == before
    eventually("the hub answers", lambda: hub_answers(browser_page))
    assert notebook.run("kept") == "42"
    assert lab.jobs("alice") == jobs
    with pytest.raises(LabError, match="there is no rollback point"):
        site.apply(playbook="rollback.yml")


def test_version_that_does_not_start_leaves_the_old_one_running(
    lab: Lab, site: Site, package: Path, browser_page: Visitor, notebook: Notebook
) -> None:
    """The run fails with the journal of the new version, and the old one answers again."""
    before = environment(lab)
    with (package / "src/hpchub/hub/config.py").open("a") as file:
        file.write("\nraise RuntimeError('this version is broken')\n")
    options = ["-e", f"jupyterhub_package_src={package}", "-e", "jupyterhub_start_timeout=15"]
    with pytest.raises(LabError, match="this version is broken"):
        site.apply("--tags", "jupyterhub", *options)
    assert environment(lab) == before
    eventually("the hub answers", lambda: hub_answers(browser_page))
    assert notebook.run("kept") == "42"
