"""The module directory_tree of the role jupyter_kernels, run as Ansible runs it."""

import json
import os

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.hpchub.hpchub.plugins.modules import directory_tree

FILES = [
    {"path": "python3/kernel.json", "content": "{}\n"},
    {"path": "module/launch", "content": "#!/bin/sh\n", "mode": "0755"},
]


@pytest.fixture
def run(tmp_path, capsys):
    def run(files, *, check=False):
        arguments = {
            "path": str(tmp_path / "jupyter" / "kernels"),
            "files": files,
            "_ansible_check_mode": check,
            "_ansible_remote_tmp": str(tmp_path / "tmp"),
        }
        before = os.umask(0o077)
        try:
            with patch_module_args(arguments), pytest.raises(SystemExit):
                directory_tree.main()
        finally:
            os.umask(before)
        return json.loads(capsys.readouterr().out)

    run.root = tmp_path / "jupyter" / "kernels"
    return run


def content(root):
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_writes_once(run):
    assert run(FILES)["changed"]
    assert content(run.root) == {file["path"]: file["content"] for file in FILES}
    assert not run(FILES)["changed"]


def test_modes_are_as_said_whatever_the_umask_is(run):
    run(FILES)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in [run.root.parent, *run.root.rglob("*")]}
    assert modes == {
        "jupyter": "0o755",
        "python3": "0o755",
        "module": "0o755",
        "kernel.json": "0o644",
        "launch": "0o755",
    }


def test_check_mode_says_and_does_not(run):
    result = run(FILES, check=True)
    assert (result["changed"], result["written"]) == (True, ["module/launch", "python3/kernel.json"])
    assert not run.root.exists()


def edit(root):
    (root / "python3" / "kernel.json").write_text("other")


def chmod(root):
    (root / "module" / "launch").chmod(0o644)


def add_file(root):
    (root / "python3" / "left.txt").write_text("")


def add_directory(root):
    (root / "old" / "deep").mkdir(parents=True)
    (root / "old" / "deep" / "kernel.json").write_text("{}")


def add_link(root):
    (root / "link").symlink_to("python3")


def file_for_directory(root):
    (root / "module" / "launch").unlink()
    (root / "module").rmdir()
    (root / "module").write_text("")


def directory_for_file(root):
    (root / "python3" / "kernel.json").unlink()
    (root / "python3" / "kernel.json").mkdir()


def link_for_file(root):
    (root / "python3" / "kernel.json").unlink()
    (root / "python3" / "kernel.json").symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    "disturb",
    [edit, chmod, add_file, add_directory, add_link, file_for_directory, directory_for_file, link_for_file],
)
def test_mends(run, disturb):
    run(FILES)
    disturb(run.root)
    assert run(FILES)["changed"]
    assert content(run.root) == {file["path"]: file["content"] for file in FILES}
    assert not [path for path in run.root.rglob("*") if path.is_symlink()]
    assert not run(FILES)["changed"]


def test_a_kernel_that_is_gone_is_removed(run):
    run(FILES)
    assert run(FILES[:1])["removed"] == ["module"]
    assert content(run.root) == {"python3/kernel.json": "{}\n"}


def test_no_kernels(run):
    run(FILES)
    assert run([])["changed"]
    assert list(run.root.iterdir()) == []


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "."])
def test_paths_stay_inside(run, path):
    assert "not a path inside" in run([{"path": path, "content": ""}])["msg"]
