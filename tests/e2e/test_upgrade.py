"""Upgrades of the hub: versions that fail, deployments that break off, and the way back. Sessions continue."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from .lab import LabError
from .site import Site
from .versions import MOMENTS, add, copy_package, environment, kill_deployment, of_package, schema, use_other_schema

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .lab import Lab
    from .pages import Notebook, Visitor


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package that a test may change, as another version has."""
    return copy_package(tmp_path)


@pytest.fixture
def other_schema(package: Path) -> Path:
    """A version that uses another schema of the database."""
    use_other_schema(package)
    return package


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
    add(package, "__init__.py", "\n# another version\n")
    site.apply(*of_package(package))
    assert environment(lab) != before
    assert notebook.run("kept") == "42"
    site.apply(playbook="rollback.yml")
    assert environment(lab) == before
    browser_page.wait_for_hub()
    assert notebook.run("kept") == "42"
    assert lab.jobs("alice") == jobs
    with pytest.raises(LabError, match="there is no rollback point"):
        site.apply(playbook="rollback.yml")


@pytest.mark.slow
def test_version_that_does_not_start_leaves_the_old_one_running(
    lab: Lab, site: Site, package: Path, browser_page: Visitor, notebook: Notebook
) -> None:
    """The run fails with the journal of the new version, and the old one answers again."""
    before = environment(lab)
    add(package, "hub/config.py", "\nraise RuntimeError('this version is broken')\n")
    with pytest.raises(LabError, match="this version is broken"):
        site.apply(*of_package(package), "-e", "jupyterhub_start_timeout=15")
    assert environment(lab) == before
    browser_page.wait_for_hub()
    assert notebook.run("kept") == "42"


@pytest.mark.slow
def test_version_with_another_schema_that_does_not_start_leaves_the_old_one_running(
    lab: Lab, site: Site, other_schema: Path, browser_page: Visitor, notebook: Notebook
) -> None:
    """The database comes back too, because the old version refuses the new schema."""
    before, jobs = (environment(lab), schema(lab)), lab.jobs("alice")
    add(other_schema, "hub/config.py", "\nraise RuntimeError('this version is broken')\n")
    with pytest.raises(LabError, match="this version is broken"):
        site.apply(*of_package(other_schema), "-e", "jupyterhub_start_timeout=15")
    assert (environment(lab), schema(lab)) == before
    browser_page.wait_for_hub()
    assert notebook.run("kept") == "42"
    assert lab.jobs("alice") == jobs


@pytest.mark.skipif(not os.environ.get("HPCHUB_BROKEN_OFF"), reason="bin/test --all breaks deployments off")
def test_deployment_that_breaks_off_is_repaired_by_the_next_one(
    lab: Lab, site: Site, other_schema: Path, browser_page: Visitor, notebook: Notebook
) -> None:
    """The playbook is killed at each moment of an upgrade with another schema, and runs again. A rollback follows."""
    before, jobs = (environment(lab), schema(lab)), lab.jobs("alice")
    for moment in MOMENTS:
        add(other_schema, "__init__.py", f"\n# {moment}\n")
        kill_deployment(site, moment, *of_package(other_schema))
        assert notebook.run("kept") == "42", moment
        site.apply(*of_package(other_schema))
        assert environment(lab) != before[0], moment
        assert schema(lab) == "feedfacecafe", moment
        browser_page.wait_for_hub()
        assert notebook.run("kept") == "42", moment
        assert lab.jobs("alice") == jobs, moment
        site.apply(playbook="rollback.yml")
        assert (environment(lab), schema(lab)) == before, moment
        browser_page.wait_for_hub()
        assert notebook.run("kept") == "42", moment
        assert lab.jobs("alice") == jobs, moment
