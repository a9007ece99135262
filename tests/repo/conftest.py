"""Fixtures that run Ansible with the repository's playbooks and inventories. They contact no host."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hpchub.bundle import archive
from hpchub.bundle.manifest import Manifest, Needs, Targets, digest
from lab.certificates import make_certificates

ROOT = Path(__file__).resolve().parents[2]

Ansible = Callable[..., subprocess.CompletedProcess[str]]
"""Runs one of Ansible's commands with arguments and returns the completed process."""


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the root directory of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the lab files that the inventories read, with just enough content."""
    directory = tmp_path_factory.mktemp("cache") / "lab" / "demo"
    directory.mkdir(parents=True)
    make_bundle(directory.parents[1] / "bundle.tar")
    (directory / "state.json").write_text(json.dumps({"sso_client_secret": "d41d8cd98f00b204"}))
    make_certificates(directory, {"hub": ["hub.localhost", "*.hub.localhost", "hub", "node"]})
    for name in ("ssh_config", "http.keytab"):
        (directory / name).write_text("")
    return directory


def make_bundle(path: Path) -> None:
    """Write a bundle without files that fits the roles."""
    locks = [*(ROOT / "roles").glob("*/files/*.lock"), *(ROOT / "roles").glob("*/files/package-lock.json")]
    needs = Needs({f"{lock.parts[-3]}/{lock.name}": digest(lock.read_text()) for lock in locks})
    archive.write(path, Manifest("1.0", "2026-11-26T10:00:00+00:00", needs, Targets(), {}), {})


@pytest.fixture(scope="session")
def ansible(lab: Path) -> Ansible:
    """Return a function that runs one of Ansible's commands in the checkout and returns the completed process."""
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_FORCE_COLOR": "false",
        "ANSIBLE_NOCOLOR": "true",
        "HPCHUB_LAB_DIR": str(lab),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
    }

    def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        found = shutil.which(program, path=environment["PATH"])
        assert found, f"{program} is not installed"
        command = [found, *map(str, arguments)]
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120
        )

    return run
