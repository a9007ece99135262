"""The role `bundle` refuses a bundle that a host cannot use, in one line and before it changes the host."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from hpchub.bundle import archive
from hpchub.bundle.manifest import Manifest, Needs, Targets

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from subprocess import CompletedProcess

    from repo.conftest import Ansible

THIS = f"{sys.version_info[0]}.{sys.version_info[1]}"
HERE = Targets(pythons=(THIS,), architectures=("x86_64", "aarch64"), glibc="2.17")
MANIFEST = Manifest("1.0", "2026-11-26T10:00:00+00:00", Needs(), HERE, {})


@pytest.fixture
def check(ansible: Ansible, tmp_path: Path) -> Callable[[Path], CompletedProcess[str]]:
    """Return a function that runs the checks of the role on this machine with a bundle."""
    playbook = tmp_path / "check.yml"
    task = {"name": "Check the bundle", "include_role": {"name": "hpchub.hpchub.bundle", "tasks_from": "check"}}
    playbook.write_text(json.dumps([{"name": "Check", "hosts": "all", "gather_facts": False, "tasks": [task]}]))
    hosts = tmp_path / "hosts.yml"
    connection = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    hosts.write_text(json.dumps({"all": {"hosts": {"here": connection}}}))

    def run(path: Path) -> CompletedProcess[str]:
        arguments = {"bundle_src": str(path), "bundle_pythons": [sys.executable, "/nonexistent/python"]}
        return ansible("ansible-playbook", "-i", hosts, playbook, "-e", json.dumps(arguments))

    return run


@pytest.mark.slow
def test_bundle_for_this_host_is_accepted(check: Callable[[Path], CompletedProcess[str]], tmp_path: Path) -> None:
    archive.write(tmp_path / "bundle.tar", MANIFEST, {})
    done = check(tmp_path / "bundle.tar")
    assert done.returncode == 0, done.stdout
    assert "changed=0" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({"pythons": ("3.8",)}, f"is for Python 3.8, but {sys.executable} is Python {THIS}; make it again"),
        ({"architectures": ("sparc",)}, "is for the architecture sparc, but the host has "),
        ({"glibc": "9.0"}, "needs glibc 9.0 or later, but the host has 2."),
    ],
    ids=["python", "architecture", "glibc"],
)
def test_bundle_for_other_hosts_is_refused(
    check: Callable[[Path], CompletedProcess[str]], tmp_path: Path, targets: dict[str, Any], message: str
) -> None:
    path = tmp_path / "bundle.tar"
    archive.write(path, replace(MANIFEST, targets=replace(HERE, **targets)), {})
    done = check(path)
    assert done.returncode == 2
    assert f"the bundle {path} {message}" in done.stdout


@pytest.mark.slow
def test_truncated_bundle_is_refused(check: Callable[[Path], CompletedProcess[str]], tmp_path: Path) -> None:
    path = tmp_path / "bundle.tar"
    archive.write(path, MANIFEST, {})
    path.write_bytes(path.read_bytes()[:-1])
    done = check(path)
    assert done.returncode == 2
    assert f"the bundle {path} is truncated: its end is missing; make it again with: hpchub bundle" in done.stdout
