"""Programs of the role python_environment: name a source tree, build environments and remove old ones."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.hpchub.hpchub.plugins.filter import source_tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType


ROLE = Path(__file__).parents[2] / "roles" / "python_environment"
DAY = 86400


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


prune = load(ROLE / "files" / "prune.py")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "src" / "package").mkdir(parents=True)
    (root / "pyproject.toml").write_text("[project]\n")
    (root / "src" / "package" / "__init__.py").write_text("x = 1\n")
    return root


INCLUDE = ["pyproject.toml", "README.md", "src"]


def change(root: Path) -> None:
    (root / "src" / "package" / "__init__.py").write_text("x = 2\n")


def add(root: Path) -> None:
    (root / "src" / "package" / "data.json").write_text("{}")


def rename(root: Path) -> None:
    (root / "src" / "package" / "__init__.py").rename(root / "src" / "package" / "other.py")


@pytest.mark.parametrize("edit", [change, add, rename])
def test_changed_tree_has_another_hash(source: Path, edit: Callable[[Path], None]) -> None:
    before = source_tree.tree_hash(str(source), INCLUDE)
    edit(source)
    assert source_tree.tree_hash(str(source), INCLUDE) != before


def test_files_outside_the_source_do_not_change_the_hash(source: Path) -> None:
    before = source_tree.tree_hash(str(source), INCLUDE)
    (source / "tests").mkdir()
    (source / "tests" / "test_x.py").write_text("")
    (source / "src" / "package" / "__pycache__").mkdir()
    (source / "src" / "package" / "__pycache__" / "x.pyc").write_text("")
    (source / "src" / "package.egg-info").mkdir()
    (source / "src" / "package.egg-info" / "PKG-INFO").write_text("")
    os.utime(source / "pyproject.toml", (1, 1))
    assert source_tree.tree_hash(str(source), INCLUDE) == before


def test_archive_contains_the_tree_and_nothing_of_the_controller(source: Path) -> None:
    packed = source_tree.tree_archive(str(source), INCLUDE)
    assert packed == source_tree.tree_archive(str(source), INCLUDE)
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(packed))) as archive:
        assert archive.getnames() == ["pyproject.toml", "src/package/__init__.py"]
        assert {(member.uid, member.uname, member.mtime) for member in archive} == {(0, "", 0)}


def test_tree_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no source files; expected .* pyproject\.toml, README\.md, src$"):
        source_tree.tree_hash(str(tmp_path), INCLUDE)


@pytest.fixture
def environments(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that creates environments.

    It takes the name of the current environment and, for each environment, the number of days since its replacement.
    None stands for an environment that pruning has not seen replaced yet.
    """

    def make(current: str, **ages: int | None) -> Path:
        for name, age in ages.items():
            environment = tmp_path / "envs" / name
            environment.mkdir(parents=True)
            if age is not None:
                marker = environment / ".replaced"
                marker.touch()
                os.utime(marker, (1000 * DAY - age * DAY, 1000 * DAY - age * DAY))
        (tmp_path / "current").symlink_to(f"envs/{current}")
        return tmp_path

    return make


def left(path: Path) -> list[str]:
    return sorted(environment.name for environment in (path / "envs").iterdir())


@pytest.mark.parametrize(
    ("ages", "gone"),
    [
        pytest.param({"now": None, "a": 1, "b": 2}, [], id="few"),
        pytest.param({"now": None, "a": 1, "b": 2, "c": 3}, [], id="many-but-recent"),
        pytest.param({"now": None, "a": 20, "b": 30}, [], id="old-but-few"),
        pytest.param({"now": None, "a": 1, "b": 20, "c": 30, "d": 40}, ["c", "d"], id="many-and-old"),
        pytest.param({"now": 99, "a": 20, "b": 30, "c": 40}, ["c"], id="current-again"),
    ],
)
def test_pruning_removes_only_old_surplus_environments(
    environments: Callable[..., Path], ages: dict[str, int | None], gone: list[str]
) -> None:
    path = environments("now", **ages)
    assert sorted(prune.prune(path, 3, 14, 1000 * DAY)) == gone
    assert left(path) == sorted(set(ages) - set(gone))
    assert not (path / "envs" / "now" / ".replaced").exists()


def test_age_of_a_replaced_environment_starts_when_it_is_first_seen(environments: Callable[..., Path]) -> None:
    path = environments("now", now=None, a=None)
    assert prune.prune(path, 1, 14, (path / "envs").stat().st_mtime + 1) == []
    assert (path / "envs" / "a" / ".replaced").exists()


def test_environment_in_use_is_kept(environments: Callable[..., Path]) -> None:
    path = environments("now", now=None, a=30)
    program = path / "envs" / "a" / "program"
    program.write_text("import sys; print(flush=True); sys.stdin.read()")
    command = [sys.executable, str(program)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()  # The program is running now.
        assert prune.prune(path, 1, 14, 1000 * DAY) == []
        process.stdin.close()
    assert prune.prune(path, 1, 14, 1000 * DAY) == ["a"]


# A fake uv: it creates an environment as a link to this Python, and its installation takes half a second.
UV = """#!/bin/sh
echo "$1 $2" >> {log}
if [ "$1" = venv ]; then
  for directory; do :; done
  mkdir -p "$directory/bin" && ln -s {python} "$directory/bin/python"
else
  sleep 0.5
fi
"""


class Builder:
    """Starts the build program.

    Attributes:
        environment: The directory of the environment.
        request: The program's input.
    """

    def __init__(self, environment: Path, request: dict[str, Any], log: Path) -> None:
        self.environment = environment
        self.request = request
        self._log = log

    def __call__(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(ROLE / "files" / "build.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(self.request))
        process.stdin.close()
        process.stdin = None  # communicate() would use the closed stream
        return process

    def steps(self) -> list[str]:
        """Return the first two arguments of each call of uv."""
        return self._log.read_text().split("\n")[:-1] if self._log.exists() else []


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    """Return a function that starts the build program for one environment, with a fake uv."""
    uv, log = tmp_path / "uv", tmp_path / "log"
    uv.write_text(UV.format(log=log, python=sys.executable))
    uv.chmod(0o755)
    (tmp_path / "tree" / "envs").mkdir(parents=True)
    directory = tmp_path / "tree" / "envs" / "0123"
    want = {
        "directory": str(directory),
        "python": sys.executable,
        "lock": "jupyterlab==4",
        "uv_lock": "",
        "further_locks": [],
        "uv": str(uv),
        "index": [],
        "archive": "",
        "files": [{"dest": "bin/tool", "content": "#!@ENVIRONMENT@/bin/python", "mode": "0755"}],
        "removed": ["share"],
        "stamp": ".complete",
    }
    return Builder(directory, want, log)


BUILD = ["venv --no-project", "pip sync"]


def test_builds_an_environment(builder: Builder) -> None:
    assert builder().communicate()[0] == "built\n"
    tool = builder.environment / "bin" / "tool"
    assert tool.read_text() == f"#!{builder.environment}/bin/python"
    assert oct(tool.stat().st_mode & 0o777) == "0o755"
    assert builder.steps() == BUILD


def test_all_locks_are_installed_together(builder: Builder) -> None:
    builder.request |= {"further_locks": ["numpy==2", "xarray==1"]}
    assert builder().communicate()[0] == "built\n"
    assert builder.steps() == BUILD
    assert (builder.environment / "requirements-2.lock").read_text() == "numpy==2\n"
    assert (builder.environment / "requirements-3.lock").read_text() == "xarray==1\n"


def test_file_replaces_what_packages_have_installed_in_its_directory(builder: Builder) -> None:
    builder.request |= {"files": [{"dest": "conf.d/own.json", "content": "{}"}], "removed": ["conf.d"]}
    assert builder().communicate()[0] == "built\n"
    assert (builder.environment / "conf.d" / "own.json").exists()


def test_only_one_of_two_parallel_runs_builds(builder: Builder) -> None:
    """The second run waits, and does not remove the unfinished environment of the first run."""
    runs = [builder(), builder()]
    assert sorted(run.communicate()[0] for run in runs) == ["already built\n", "built\n"]
    assert builder.steps() == BUILD


def test_killed_build_is_repeated(builder: Builder) -> None:
    first = builder()
    while len(builder.steps()) < len(BUILD):
        time.sleep(0.01)
    first.kill()
    first.communicate()
    assert not (builder.environment / ".complete").exists()
    assert builder().communicate()[0] == "built\n"
    assert builder.steps() == BUILD * 2


def test_the_previous_environment_is_kept_for_a_rollback(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / "envs" / name).mkdir(parents=True)
    (tmp_path / "current").symlink_to("envs/a")
    (tmp_path / "previous").symlink_to("envs/b")
    prune.prune(tmp_path, 1, 14, 1000 * DAY)
    assert prune.prune(tmp_path, 1, 14, (tmp_path / "envs").stat().st_mtime + 1000 * DAY) == ["c"]
