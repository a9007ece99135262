"""Ansible for the tests of the repository: real playbooks and inventories, and never a host."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """The files that a lab's inventories read from the lab: enough for the variables to have values."""
    directory = tmp_path_factory.mktemp("lab")
    (directory / "state.json").write_text(json.dumps({"sso_client_secret": "d41d8cd98f00b204"}))
    for name in ("ca.pem", "hub.pem", "hub.key", "ssh_config"):
        (directory / name).write_text("")
    return directory


@pytest.fixture(scope="session")
def ansible(lab):
    """Run one of Ansible's commands in the checkout, and return what it said and how it ended."""
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_FORCE_COLOR": "false",
        "ANSIBLE_NOCOLOR": "true",
        "HPCHUB_LAB_DIR": str(lab),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
    }

    def run(program, *arguments):
        found = shutil.which(program, path=environment["PATH"])
        assert found, f"{program} is not installed"
        command = [found, *map(str, arguments)]
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120
        )

    return run
