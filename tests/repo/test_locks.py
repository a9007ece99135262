"""The roles' lock files are hashed and complete, and have the same JupyterHub version on hub and nodes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROLES = Path(__file__).parents[2] / "roles"
HUB = ROLES / "jupyterhub" / "files" / "requirements.lock"
NODES = ROLES / "notebook_environment" / "files" / "requirements.lock"
SCIENCE = ROLES / "notebook_environment" / "files" / "packages.lock"
UV = ROLES / "python_environment" / "files" / "uv.lock"


def locked(path: Path) -> dict[str, tuple[str, int]]:
    """Return the version and the number of hashes of each locked package, by name."""
    entries = re.split(r"\n(?=[a-z0-9])", re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE))
    found = {}
    for entry in entries:
        match = re.match(r"([a-z0-9._-]+)(?:\[[a-z,]+\])?==([^\s;]+)", entry)
        assert match, entry
        name, version = match.groups()
        found[name] = (version, entry.count("--hash=sha256:"))
    return found


@pytest.mark.parametrize("lock", [HUB, NODES, SCIENCE, UV], ids=["hub", "nodes", "science", "uv"])
def test_every_locked_package_has_hashes(lock: Path) -> None:
    entries = locked(lock)
    assert entries
    assert [name for name, (_, hashes) in entries.items() if not hashes] == []


@pytest.mark.parametrize("lock", [HUB, NODES, SCIENCE, UV], ids=["hub", "nodes", "science", "uv"])
def test_every_requirement_is_locked(lock: Path) -> None:
    required = re.findall(r"^([A-Za-z0-9_-]+)", lock.with_suffix(".in").read_text(), flags=re.MULTILINE)
    assert {name.lower().replace("_", "-") for name in required} <= set(locked(lock))


def test_hub_and_nodes_lock_the_same_jupyterhub() -> None:
    assert locked(HUB)["jupyterhub"][0] == locked(NODES)["jupyterhub"][0]


def test_scientific_packages_have_the_versions_of_the_server() -> None:
    """uv installs both locks together, and refuses two versions of a package."""
    server, science = locked(NODES), locked(SCIENCE)
    assert {name for name in {*server} & {*science} if server[name][0] != science[name][0]} == set()
