"""The module hpchub_files, run as Ansible runs it."""

import grp
import json
import os
import pwd

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.hpchub.hpchub.plugins.modules import hpchub_files

ME = {"owner": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name}


@pytest.fixture
def run(tmp_path, capsys):
    root = tmp_path / "root"
    root.mkdir()

    def run(*files, prune=(), check=False):
        """Paths and patterns are below ``run.root``."""
        arguments = {
            "files": [{**ME, **file, "path": str(root / file["path"])} for file in files],
            "prune": [str(root / pattern) for pattern in prune],
            "_ansible_check_mode": check,
            "_ansible_remote_tmp": str(tmp_path / "tmp"),
        }
        with patch_module_args(arguments), pytest.raises(SystemExit):
            hpchub_files.main()
        return json.loads(capsys.readouterr().out)

    run.root = root
    return run


ALL = (
    {"path": "d", "state": "directory"},
    {"path": "d/file", "content": "text\n"},
    {"path": "d/secret", "content": "generated\n", "mode": "0600", "force": False},
    {"path": "d/link", "state": "link", "target": "file"},
)


def test_puts_everything_in_its_place_once(run):
    assert len(run(*ALL)["changed_paths"]) == 4
    assert (run.root / "d" / "link").read_text() == "text\n"
    modes = {name: oct((run.root / name).stat().st_mode & 0o777) for name in ("d", "d/file", "d/secret")}
    assert modes == {"d": "0o755", "d/file": "0o644", "d/secret": "0o600"}
    assert not run(*ALL)["changed"]


def test_check_mode_predicts_and_changes_nothing(run):
    predicted = run(*ALL, check=True)
    assert not list(run.root.iterdir())
    assert predicted["changed_paths"] == run(*ALL)["changed_paths"]


def test_a_generated_file_is_kept(run):
    run(*ALL)
    again = run(*(dict(file, content="other\n") if "content" in file else file for file in ALL))
    assert again["changed_paths"] == [str(run.root / "d/file")]
    assert (run.root / "d" / "secret").read_text() == "generated\n"


def test_only_the_mode_differs(run):
    run(*ALL)
    (run.root / "d" / "secret").chmod(0o644)
    assert run(*ALL)["changed_paths"] == [str(run.root / "d/secret")]
    assert (run.root / "d" / "secret").stat().st_mode & 0o777 == 0o600


def test_a_refused_file_is_not_written(run):
    run(*ALL)
    refused = run({"path": "d/file", "content": "bad\n", "validate": "grep text %s"})
    assert refused["failed"]
    assert "was not written" in refused["msg"]
    assert (run.root / "d" / "file").read_text() == "text\n"


@pytest.mark.parametrize("check", [True, False], ids=["check", "change"])
def test_a_parser_that_is_not_there_yet_is_asked_only_to_change(run, check):
    run(*ALL)
    result = run({"path": "d/file", "content": "more\n", "validate": "not-there-yet %s"}, check=check)
    assert result.get("failed", False) is not check


@pytest.mark.parametrize("check", [True, False], ids=["check", "change"])
def test_prunes_what_is_not_listed(run, check):
    run(*ALL)
    (run.root / "d" / "stray.json").write_text("{}")
    (run.root / "d" / "kept.json").write_text("{}")
    (run.root / "d" / "other").write_text("not matched")
    result = run(*ALL, {"path": "d/kept.json", "state": "kept"}, prune=["d/*.json"], check=check)
    assert result["removed"] == [str(run.root / "d/stray.json")]
    assert (run.root / "d" / "stray.json").exists() is check
    assert (run.root / "d" / "kept.json").exists()
    assert (run.root / "d" / "other").exists()


def test_absent_removes_a_tree_and_then_nothing(run):
    run(*ALL)
    assert run({"path": "d", "state": "absent"})["removed"] == [str(run.root / "d")]
    assert not (run.root / "d").exists()
    assert not run({"path": "d", "state": "absent"})["changed"]


def test_a_link_is_switched(run):
    run(*ALL)
    assert run({"path": "d/link", "state": "link", "target": "secret"})["changed"]
    assert (run.root / "d" / "link").readlink().name == "secret"


@pytest.mark.parametrize(
    "entry",
    [
        {"path": "d", "content": "a file\n"},
        {"path": "d/file", "state": "directory"},
        {"path": "d/file", "state": "link", "target": "x"},
        {"path": "d/link", "content": "through a link\n"},
        {"path": "missing/file", "content": "no directory\n"},
        {"path": "d/nothing"},
    ],
)
def test_what_is_in_the_way_is_said(run, entry):
    run(*ALL)
    assert run(entry)["failed"]
    assert (run.root / "d" / "file").read_text() == "text\n"
