"""Roles refuse an unsupported operating system with one message, which names a remedy."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    import subprocess

    from repo.conftest import Ansible

ROOT = Path(__file__).resolve().parents[2]
PLATFORMS = sorted((ROOT / "roles").glob("*/tasks/platform.yml"))


def run_platform(
    ansible: Ansible, directory: Path, role: str, tasks: str = "platform", **facts: str
) -> subprocess.CompletedProcess[str]:
    """Run tasks of a role, by default its platform check, on a host with the given facts, and return the result."""
    play = {
        "hosts": "node1",
        "gather_facts": False,
        "vars": {"ansible_facts": facts},
        "tasks": [{"ansible.builtin.include_role": {"name": role, "tasks_from": tasks}}],
    }
    hosts = {"node1": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}}
    (directory / "hosts.yml").write_text(json.dumps({"all": {"hosts": hosts}}))
    (directory / "play.yml").write_text(json.dumps([play]))
    return ansible("ansible-playbook", "-i", directory / "hosts.yml", directory / "play.yml")


def test_only_the_platform_check_depends_on_the_family() -> None:
    users = [path for path in (ROOT / "roles").rglob("*.yml") if "os_family" in path.read_text()]
    assert sorted(users) == PLATFORMS


def test_every_role_has_the_same_check() -> None:
    checks = {path: yaml.safe_load(path.read_text())[0] for path in PLATFORMS}
    assert len(checks) == 9
    first = next(iter(checks.values()))
    assert {path: check for path, check in checks.items() if check != first} == {}


def test_variables_exist_for_the_supported_family_only() -> None:
    families = {path.stem.partition("-")[0] for path in (ROOT / "roles").glob("*/vars/*.yml") if path.stem != "main"}
    assert families == {"Debian"}
    for path in PLATFORMS:
        loads = [task for task in yaml.safe_load(path.read_text()) if "ansible.builtin.include_vars" in task]
        assert bool(loads) == (path.parents[1] / "vars" / "Debian.yml").exists()


def test_metadata_names_supported_platforms_only() -> None:
    for path in (ROOT / "roles").glob("*/meta/main.yml"):
        platforms = yaml.safe_load(path.read_text())["galaxy_info"]["platforms"]
        assert [platform["name"] for platform in platforms] == ["Debian"], path


@pytest.mark.slow
@pytest.mark.parametrize("path", PLATFORMS, ids=lambda path: path.parents[1].name)
def test_unsupported_system_is_refused(ansible: Ansible, tmp_path: Path, path: Path) -> None:
    facts = {"os_family": "RedHat", "distribution": "Rocky", "distribution_version": "9.5"}
    done = run_platform(
        ansible, tmp_path, f"hpchub.hpchub.{path.parents[1].name}", distribution_major_version="9", **facts
    )
    assert done.returncode == 2
    output = re.sub(r"\s+", " ", done.stdout)
    assert (
        "node1 runs Rocky 9.5, which this role does not support; supported: Debian 12 and 13; "
        "install one of them on this host, or remove the host from the inventory"
    ) in output


@pytest.mark.slow
@pytest.mark.parametrize("release", ["12", "13"])
def test_supported_system_is_accepted(ansible: Ansible, tmp_path: Path, release: str) -> None:
    facts = {"os_family": "Debian", "distribution": "Debian", "distribution_version": f"{release}.1"}
    done = run_platform(
        ansible, tmp_path, "hpchub.hpchub.configurable_http_proxy", distribution_major_version=release, **facts
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("release", ["12", "13"])
def test_included_role_loads_its_own_variables(ansible: Ansible, tmp_path: Path, release: str) -> None:
    """Ansible searches the directories of the including role too, which may have a file for the same release."""
    roles = tmp_path / "roles"
    for role, variable in (("outer", "__outer"), ("inner", "__inner")):
        (roles / role / "tasks").mkdir(parents=True)
        (roles / role / "vars").mkdir()
        shutil.copy(PLATFORMS[0], roles / role / "tasks")
        (roles / role / "vars" / "Debian.yml").write_text(json.dumps({variable: "family"}))
    (roles / "outer" / "vars" / "Debian-12.yml").write_text(json.dumps({"__outer": "release"}))
    platform: dict[str, object] = {"ansible.builtin.import_tasks": "platform.yml"}
    show: dict[str, object] = {"ansible.builtin.debug": {"msg": "{{ __outer }} and {{ __inner }}"}}
    include: dict[str, object] = {"ansible.builtin.include_role": {"name": "inner"}}
    (roles / "outer" / "tasks" / "main.yml").write_text(json.dumps([platform, include]))
    (roles / "inner" / "tasks" / "main.yml").write_text(json.dumps([platform, show]))
    facts = {"os_family": "Debian", "distribution": "Debian", "distribution_version": f"{release}.1"}
    done = run_platform(ansible, tmp_path, str(roles / "outer"), "main", distribution_major_version=release, **facts)
    expected = "release and family" if release == "12" else "family and family"
    assert expected in done.stdout, done.stdout
