"""Tests of the module write_files, which run it the way Ansible does."""

from __future__ import annotations

import grp
import json
import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.hpchub.hpchub.plugins.modules import write_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


ME = {"owner": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name}


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Return a function that runs the module and returns its result."""

    def call(*, check: bool, **arguments: Any) -> dict[str, Any]:
        arguments |= {"_ansible_check_mode": check, "_ansible_remote_tmp": str(tmp_path / "tmp")}
        before = os.umask(0o077)
        try:
            with patch_module_args(arguments), pytest.raises(SystemExit):
                write_files.main()
        finally:
            os.umask(before)
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return call


class Run:
    """Writes files; paths and patterns are relative to ``root``."""

    def __init__(self, root: Path, call: Callable[..., dict[str, Any]]) -> None:
        self.root = root
        self._call = call

    def __call__(self, *files: dict[str, Any], prune: Sequence[str] = (), check: bool = False) -> dict[str, Any]:
        return self._call(
            files=[{**ME, **file, "path": str(self.root / file["path"])} for file in files],
            prune=[str(self.root / pattern) for pattern in prune],
            check=check,
        )


@pytest.fixture
def run(tmp_path: Path, call: Callable[..., dict[str, Any]]) -> Run:
    """Return a function that writes files below a new directory."""
    root = tmp_path / "root"
    root.mkdir()
    return Run(root, call)


ALL: tuple[dict[str, Any], ...] = (
    {"path": "d", "state": "directory"},
    {"path": "d/file", "content": "text\n"},
    {"path": "d/secret", "content": "generated\n", "mode": "0600", "force": False},
    {"path": "d/link", "state": "link", "target": "file"},
)


def test_writes_everything_once(run: Run) -> None:
    assert len(run(*ALL)["changed_paths"]) == 4
    assert (run.root / "d" / "link").read_text() == "text\n"
    modes = {name: oct((run.root / name).stat().st_mode & 0o777) for name in ("d", "d/file", "d/secret")}
    assert modes == {"d": "0o755", "d/file": "0o644", "d/secret": "0o600"}
    assert not run(*ALL)["changed"]


def test_check_mode_predicts_the_changes_and_makes_none(run: Run) -> None:
    predicted = run(*ALL, check=True)
    assert not list(run.root.iterdir())
    assert predicted["changed_paths"] == run(*ALL)["changed_paths"]


def test_keeps_an_existing_file_without_force(run: Run) -> None:
    run(*ALL)
    again = run(*(dict(file, content="other\n") if "content" in file else file for file in ALL))
    assert again["changed_paths"] == [str(run.root / "d/file")]
    assert (run.root / "d" / "secret").read_text() == "generated\n"


def test_corrects_the_mode_of_an_unchanged_file(run: Run) -> None:
    run(*ALL)
    (run.root / "d" / "secret").chmod(0o644)
    assert run(*ALL)["changed_paths"] == [str(run.root / "d/secret")]
    assert (run.root / "d" / "secret").stat().st_mode & 0o777 == 0o600


def test_does_not_write_a_file_that_fails_validation(run: Run) -> None:
    run(*ALL)
    refused = run({"path": "d/file", "content": "bad\n", "validate": "grep text %s"})
    assert refused["failed"]
    assert "was not written" in refused["msg"]
    assert (run.root / "d" / "file").read_text() == "text\n"


@pytest.mark.parametrize("check", [True, False], ids=["check", "change"])
def test_skips_a_missing_validator_only_in_check_mode(run: Run, check: bool) -> None:
    run(*ALL)
    result = run({"path": "d/file", "content": "more\n", "validate": "not-there-yet %s"}, check=check)
    assert result.get("failed", False) is not check


@pytest.mark.parametrize("check", [True, False], ids=["check", "change"])
def test_prunes_files_that_are_not_listed(run: Run, check: bool) -> None:
    run(*ALL)
    (run.root / "d" / "stray.json").write_text("{}")
    (run.root / "d" / "kept.json").write_text("{}")
    (run.root / "d" / "other").write_text("not matched")
    result = run(*ALL, {"path": "d/kept.json", "state": "kept"}, prune=["d/*.json"], check=check)
    assert result["removed"] == [str(run.root / "d/stray.json")]
    assert (run.root / "d" / "stray.json").exists() is check
    assert (run.root / "d" / "kept.json").exists()
    assert (run.root / "d" / "other").exists()


def test_absent_removes_a_directory_once(run: Run) -> None:
    run(*ALL)
    assert run({"path": "d", "state": "absent"})["removed"] == [str(run.root / "d")]
    assert not (run.root / "d").exists()
    assert not run({"path": "d", "state": "absent"})["changed"]


def test_changes_the_target_of_a_link(run: Run) -> None:
    run(*ALL)
    assert run({"path": "d/link", "state": "link", "target": "secret"})["changed"]
    assert (run.root / "d" / "link").readlink().name == "secret"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        pytest.param({"path": "d", "content": "a file\n"}, "is not a regular file", id="file-over-directory"),
        pytest.param({"path": "d/file", "state": "directory"}, "is not a directory", id="directory-over-file"),
        pytest.param({"path": "d/file", "state": "link", "target": "x"}, "is not a symbolic link", id="link-over-file"),
        pytest.param({"path": "d/link", "content": "text\n"}, "is not a regular file", id="file-over-link"),
        pytest.param({"path": "missing/file", "content": "text\n"}, "list the directory", id="no-directory"),
        pytest.param({"path": "d/nothing"}, "content", id="no-content"),
    ],
)
def test_refuses_to_replace_a_path_of_another_type(run: Run, entry: dict[str, Any], reason: str) -> None:
    run(*ALL)
    refused = run(entry)
    assert refused["failed"]
    assert reason in refused["msg"]
    assert (run.root / "d" / "file").read_text() == "text\n"


def test_refuses_a_relative_path_without_a_directory(call: Callable[..., dict[str, Any]]) -> None:
    assert "is not an absolute path" in call(files=[{**ME, "path": "file", "content": ""}], check=False)["msg"]


def test_writes_a_secret_with_its_mode_from_the_start(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can open the file between its creation and the change of its mode."""
    run(ALL[0])
    seen: list[str] = []
    replace = Path.replace

    def record(self: Path, target: Path) -> Path:
        seen.append(oct(self.stat().st_mode & 0o777))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", record)
    run(ALL[2])
    assert seen == ["0o600"]


def test_leaves_no_temporary_file_after_a_failure(run: Run) -> None:
    run(*ALL)
    before = sorted(run.root.rglob("*"))
    assert run({"path": "d/file", "content": "bad\n", "validate": "false %s"})["failed"]
    assert sorted(run.root.rglob("*")) == before


def test_reports_the_difference(run: Run) -> None:
    run(*ALL)
    [difference] = run({"path": "d/file", "content": "new\n"})["diff"]
    assert (difference["before"], difference["after"]) == ("text\n", "new\n")
    assert difference["after_header"] == str(run.root / "d" / "file")


# The option "directory"

FILES = [
    {"path": "python3/kernel.json", "content": "{}\n"},
    {"path": "module/launch", "content": "#!/bin/sh\n", "mode": "0755"},
]


class Fill:
    """Makes the directory ``root`` contain exactly the given files."""

    def __init__(self, root: Path, call: Callable[..., dict[str, Any]]) -> None:
        self.root = root
        self._call = call

    def __call__(self, files: list[dict[str, Any]], *, check: bool = False) -> dict[str, Any]:
        return self._call(directory=str(self.root), files=files, check=check)


@pytest.fixture
def fill(tmp_path: Path, call: Callable[..., dict[str, Any]]) -> Fill:
    """Return a function that fills a directory that does not exist yet."""
    return Fill(tmp_path / "jupyter" / "kernels", call)


def content(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_fills_a_directory_once(fill: Fill) -> None:
    assert fill(FILES)["changed"]
    assert content(fill.root) == {file["path"]: file["content"] for file in FILES}
    assert not fill(FILES)["changed"]


def test_sets_the_modes_regardless_of_the_umask(fill: Fill) -> None:
    fill(FILES)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in [fill.root.parent, *fill.root.rglob("*")]}
    assert modes == {
        "jupyter": "0o755",
        "python3": "0o755",
        "module": "0o755",
        "kernel.json": "0o644",
        "launch": "0o755",
    }


def test_check_mode_predicts_a_new_directory(fill: Fill) -> None:
    result = fill(FILES, check=True)
    assert (result["changed"], result["written"]) == (True, ["module/launch", "python3/kernel.json"])
    assert not fill.root.exists()


def edit(root: Path) -> None:
    (root / "python3" / "kernel.json").write_text("other")


def chmod(root: Path) -> None:
    (root / "module" / "launch").chmod(0o644)


def add_file(root: Path) -> None:
    (root / "python3" / "left.txt").write_text("")


def add_directory(root: Path) -> None:
    (root / "old" / "deep").mkdir(parents=True)
    (root / "old" / "deep" / "kernel.json").write_text("{}")


def add_link(root: Path) -> None:
    (root / "link").symlink_to("python3")


def file_for_directory(root: Path) -> None:
    (root / "module" / "launch").unlink()
    (root / "module").rmdir()
    (root / "module").write_text("")


def directory_for_file(root: Path) -> None:
    (root / "python3" / "kernel.json").unlink()
    (root / "python3" / "kernel.json").mkdir()


def link_for_file(root: Path) -> None:
    (root / "python3" / "kernel.json").unlink()
    (root / "python3" / "kernel.json").symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    "disturb",
    [edit, chmod, add_file, add_directory, add_link, file_for_directory, directory_for_file, link_for_file],
)
def test_restores_a_directory_that_somebody_changed(fill: Fill, disturb: Callable[[Path], None]) -> None:
    fill(FILES)
    disturb(fill.root)
    assert fill(FILES)["changed"]
    assert content(fill.root) == {file["path"]: file["content"] for file in FILES}
    assert not [path for path in fill.root.rglob("*") if path.is_symlink()]
    assert not fill(FILES)["changed"]


def test_removes_files_that_are_no_longer_listed(fill: Fill) -> None:
    fill(FILES)
    assert fill(FILES[:1])["removed"] == ["module"]
    assert content(fill.root) == {"python3/kernel.json": "{}\n"}


def test_empties_a_directory(fill: Fill) -> None:
    fill(FILES)
    assert fill([])["changed"]
    assert list(fill.root.iterdir()) == []


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "."])
def test_refuses_paths_outside_the_directory(fill: Fill, path: str) -> None:
    assert "not a path inside" in fill([{"path": path, "content": ""}])["msg"]


def test_refuses_a_file_that_has_files_in_it(fill: Fill) -> None:
    files = [{"path": "a", "content": ""}, {"path": "a/b", "content": ""}]
    assert "its state must be directory" in fill(files)["msg"]


def test_replaces_a_link_to_the_directory(fill: Fill, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    fill.root.parent.mkdir()
    fill.root.symlink_to(elsewhere)
    assert fill(FILES)["changed"]
    assert not fill.root.is_symlink()
    assert list(elsewhere.iterdir()) == []
    assert not fill(FILES)["changed"]


def test_keeps_links_and_protected_paths_in_a_directory(fill: Fill) -> None:
    files = [*FILES, {"path": "link", "state": "link", "target": "python3"}, {"path": "mine", "state": "kept"}]
    fill(files)
    (fill.root / "mine").mkdir()
    assert not fill(files)["changed"]
    assert (fill.root / "link" / "kernel.json").read_text() == "{}\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another account")
def test_does_not_change_the_owner_in_a_directory(fill: Fill) -> None:
    """A file server may show the files of root as another account's."""
    fill(FILES)
    os.chown(fill.root / "python3" / "kernel.json", 12345, 12345)
    assert not fill(FILES)["changed"]
