"""Mistakes in inventory files that Ansible ignores silently."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hpchub.deploy.inventory_files import read_inventory
from hpchub.deploy.role_specs import misspelt_argument, read_specs

ROOT = Path(__file__).resolve().parents[2]


def site(tmp_path: Path, **files: str) -> Path:
    for name, text in files.items():
        path = tmp_path / name.replace("__", "/").replace("_yml", ".yml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def faults(path: Path) -> list[str]:
    return [str(problem).removeprefix(f"{path}/") for problem in read_inventory([path]).problems]


def test_duplicate_keys_are_reported_with_their_lines(tmp_path: Path) -> None:
    site(tmp_path, group_vars__all__a_yml="a: 1\nb:\n  - {c: 1, d: 2, c: 3}\na: 2\n")
    assert faults(tmp_path) == [
        'group_vars/all/a.yml:4:1: "a" is a duplicate: line 1 has the same key; remove one of them',
        'group_vars/all/a.yml:3:18: "c" is a duplicate: line 3 has the same key; remove one of them',
    ]


@pytest.mark.parametrize("source", [".", "hosts.yml"])
def test_all_files_of_an_inventory_are_checked(tmp_path: Path, source: str) -> None:
    twice = "all:\nall:\n"
    site(tmp_path, hosts_yml=twice, group_vars__hub=twice, host_vars__login1_yml=twice)
    site(tmp_path / "elsewhere", a_yml=twice)
    source_path = tmp_path / source
    found = {problem.place.removeprefix(f"{tmp_path}/") for problem in read_inventory([source_path]).problems}
    # Ansible reads every directory of an inventory as lists of hosts.
    other = {"elsewhere/a.yml:2:1"} if source == "." else set()
    assert found == {"group_vars/hub:2:1", "host_vars/login1.yml:2:1", "hosts.yml:2:1"} | other


@pytest.mark.parametrize(
    "text",
    ["", "a: !vault |\n  x\nb: !unsafe y\n", "a: &x [*x]\n", "a: &b {c: 1}\nd: {<<: *b, <<: *b}\n", "\ufeffa: 1\n"],
)
def test_files_without_mistakes_have_no_problems(tmp_path: Path, text: str) -> None:
    site(tmp_path, group_vars__all_yml=text)
    assert faults(tmp_path) == []


def test_inventory_that_is_not_a_directory_has_no_problems() -> None:
    assert read_inventory(["/nowhere/hosts", "host,"]).problems == []


def test_misspelt_role_argument_is_reported_with_a_suggestion() -> None:
    names = [
        "jupyterhub_log_levle",
        "jupyterhub_log_level",
        "jupyterhub_our_own",
        "log_level",
        "reverse_proxy",
    ]
    assert [str(found) for name in names if (found := misspelt_argument(name, read_specs(ROOT)))] == [
        'jupyterhub_log_levle: is not an argument of a role; did you mean "jupyterhub_log_level"?',
        "jupyterhub_our_own: is not an argument of a role; give a variable of your own a name without jupyterhub_",
    ]


def test_directory_without_roles_has_no_misspelt_arguments(tmp_path: Path) -> None:
    assert misspelt_argument("jupyterhub_log_levle", read_specs(tmp_path)) is None


@pytest.mark.parametrize("name", ["group_vars/all", "group_vars/all/service.yml", "host_vars", "."])
def test_path_without_permission_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    site(tmp_path, hosts_yml="all:\n", group_vars__all__service_yml="a: 1\n", host_vars__hub_yml="b: 1\n")

    def permitted(path: Path) -> Path:
        if path == tmp_path / name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return path

    iterdir, read_bytes = Path.iterdir, Path.read_bytes
    monkeypatch.setattr(Path, "iterdir", lambda path: iterdir(permitted(path)))
    monkeypatch.setattr(Path, "read_bytes", lambda path: read_bytes(permitted(path)))
    expected = f"{tmp_path / name}: cannot be read: Permission denied; give your account permission to read it"
    inventory = read_inventory([tmp_path])
    assert [str(problem) for problem in inventory.problems] == [expected]
    assert inventory.unreadable == [tmp_path / name]
