"""Mistakes in inventory files that Ansible ignores silently."""

from __future__ import annotations

# ruff: noqa: E501  (one case per line)
from pathlib import Path

import pytest

from hpchub.deploy.inventory_files import duplicate_keys, misspelt_arguments

ROOT = Path(__file__).resolve().parents[2]


def site(tmp_path: Path, **files: str) -> Path:
    for name, text in files.items():
        path = tmp_path / name.replace("__", "/").replace("_yml", ".yml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_duplicate_keys_are_reported_with_their_lines(tmp_path: Path) -> None:
    site(tmp_path, group_vars__all__a_yml="a: 1\nb:\n  - {c: 1, d: 2, c: 3}\na: 2\n")
    assert [str(problem) for problem in duplicate_keys([tmp_path])] == [
        f'{tmp_path}/group_vars/all/a.yml:4: "a" is a duplicate: line 1 has the same key; remove one of them',
        f'{tmp_path}/group_vars/all/a.yml:3: "c" is a duplicate: line 3 has the same key; remove one of them',
    ]


@pytest.mark.parametrize("source", [".", "hosts.yml"])
def test_all_files_of_an_inventory_are_checked(tmp_path: Path, source: str) -> None:
    twice = "x: 1\nx: 2\n"
    site(tmp_path, hosts_yml=twice, group_vars__hub=twice, host_vars__login1_yml=twice, elsewhere__a_yml=twice)
    found = sorted(problem.entry.removeprefix(f"{tmp_path}/") for problem in duplicate_keys([tmp_path / source]))
    assert found == ["group_vars/hub:2", "host_vars/login1.yml:2", "hosts.yml:2"]


@pytest.mark.parametrize(
    "text",
    ["", "a: [", "$ANSIBLE_VAULT;1.1;AES256\n6162\n", "a: !vault |\n  x\nb: !unsafe y\n", "a: &x [*x]\n", "\xff", "- 1\n- 1\n", "a: &b {c: 1}\nd: {<<: *b, <<: *b}\n"],
)  # fmt: skip
def test_files_without_duplicate_keys_have_no_problems(tmp_path: Path, text: str) -> None:
    site(tmp_path, group_vars__all_yml=text)
    assert duplicate_keys([tmp_path]) == []


def test_inventory_that_is_not_a_directory_has_no_problems() -> None:
    assert duplicate_keys(["/nowhere/hosts", "host,"]) == []


def test_misspelt_role_argument_is_reported_with_a_suggestion() -> None:
    names = [
        "jupyterhub_log_levle",
        "jupyterhub_log_level",
        "jupyterhub_our_own_backup_script",
        "log_level",
        "reverse_proxy",
    ]
    assert [str(problem) for problem in misspelt_arguments(names, ROOT / "roles")] == [
        'jupyterhub_log_levle: is not an argument of a role; did you mean "jupyterhub_log_level"?'
    ]


def test_directory_without_roles_has_no_misspelt_arguments(tmp_path: Path) -> None:
    assert misspelt_arguments(["jupyterhub_log_levle"], tmp_path) == []
