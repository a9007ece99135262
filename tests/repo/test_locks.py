"""The roles' lock files: hashed, complete, and of one JupyterHub on the hub and on the nodes."""

import re
from pathlib import Path

import pytest

ROLES = Path(__file__).parents[2] / "roles"
HUB = ROLES / "jupyterhub" / "files" / "requirements.lock"
NODES = ROLES / "notebook_environment" / "files" / "requirements.lock"
UV = ROLES / "python_environment" / "files" / "uv.lock"


def locked(path):
    """Name to (version, number of hashes)."""
    entries = re.split(r"\n(?=[a-z0-9])", re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE))
    found = {}
    for entry in entries:
        name, version = re.match(r"([a-z0-9._-]+)(?:\[[a-z,]+\])?==([^\s;]+)", entry).groups()
        found[name] = (version, entry.count("--hash=sha256:"))
    return found


@pytest.mark.parametrize("lock", [HUB, NODES, UV], ids=["hub", "nodes", "uv"])
def test_everything_has_hashes(lock):
    entries = locked(lock)
    assert entries
    assert [name for name, (_, hashes) in entries.items() if not hashes] == []


@pytest.mark.parametrize("lock", [HUB, NODES, UV], ids=["hub", "nodes", "uv"])
def test_what_was_asked_for_is_locked(lock):
    asked = re.findall(r"^([A-Za-z0-9_-]+)", lock.with_suffix(".in").read_text(), flags=re.MULTILINE)
    assert {name.lower().replace("_", "-") for name in asked} <= set(locked(lock))


def test_hub_and_nodes_have_the_same_jupyterhub():
    assert locked(HUB)["jupyterhub"][0] == locked(NODES)["jupyterhub"][0]
