"""What Ansible passes over in silence."""

# ruff: noqa: E501  (one case a line)

from pathlib import Path

import pytest

from hpchub.deploy.inventory_files import duplicate_keys, misspelt_arguments

ROOT = Path(__file__).resolve().parents[2]


def site(tmp_path, **files):
    for name, text in files.items():
        path = tmp_path / name.replace("__", "/").replace("_yml", ".yml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_key_that_is_written_twice(tmp_path):
    site(tmp_path, group_vars__all__a_yml="a: 1\nb:\n  - {c: 1, d: 2, c: 3}\na: 2\n")
    assert [str(problem) for problem in duplicate_keys([tmp_path])] == [
        f'{tmp_path}/group_vars/all/a.yml:4: "a" is written twice, in line 1 already; leave one of them out',
        f'{tmp_path}/group_vars/all/a.yml:3: "c" is written twice, in line 3 already; leave one of them out',
    ]


@pytest.mark.parametrize("source", [".", "hosts.yml"])
def test_all_files_of_an_inventory_are_read(tmp_path, source):
    twice = "x: 1\nx: 2\n"
    site(tmp_path, hosts_yml=twice, group_vars__hub=twice, host_vars__login1_yml=twice, elsewhere__a_yml=twice)
    found = sorted(problem.entry.removeprefix(f"{tmp_path}/") for problem in duplicate_keys([tmp_path / source]))
    assert found == ["group_vars/hub:2", "host_vars/login1.yml:2", "hosts.yml:2"]


@pytest.mark.parametrize(
    "text",
    ["", "a: [", "$ANSIBLE_VAULT;1.1;AES256\n6162\n", "a: !vault |\n  x\nb: !unsafe y\n", "a: &x [*x]\n", "\xff", "- 1\n- 1\n", "a: &b {c: 1}\nd: {<<: *b, <<: *b}\n"],
)  # fmt: skip
def test_what_is_not_a_mistake_of_this_kind(tmp_path, text):
    site(tmp_path, group_vars__all_yml=text)
    assert duplicate_keys([tmp_path]) == []


def test_an_inventory_that_is_no_directory():
    assert duplicate_keys(["/nowhere/hosts", "host,"]) == []


def test_a_role_argument_that_is_misspelt():
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


def test_without_roles(tmp_path):
    assert misspelt_arguments(["jupyterhub_log_levle"], tmp_path) == []
