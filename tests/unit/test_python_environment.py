"""The role python_environment's own programs: naming a source tree, building environments, and removing old ones."""

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

import pytest
from ansible_collections.hpchub.hpchub.plugins.filter import source_tree

ROLE = Path(__file__).parents[2] / "roles" / "python_environment"
DAY = 86400


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


prune = load(ROLE / "files" / "prune.py")


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "source"
    (root / "src" / "package").mkdir(parents=True)
    (root / "pyproject.toml").write_text("[project]\n")
    (root / "src" / "package" / "__init__.py").write_text("x = 1\n")
    return root


INCLUDE = ["pyproject.toml", "README.md", "src"]


def change(root):
    (root / "src" / "package" / "__init__.py").write_text("x = 2\n")


def add(root):
    (root / "src" / "package" / "data.json").write_text("{}")


def rename(root):
    (root / "src" / "package" / "__init__.py").rename(root / "src" / "package" / "other.py")


@pytest.mark.parametrize("edit", [change, add, rename])
def test_a_changed_tree_has_another_name(source, edit):
    before = source_tree.tree_hash(str(source), INCLUDE)
    edit(source)
    assert source_tree.tree_hash(str(source), INCLUDE) != before


def test_what_is_not_source_does_not_count(source):
    before = source_tree.tree_hash(str(source), INCLUDE)
    (source / "tests").mkdir()
    (source / "tests" / "test_x.py").write_text("")
    (source / "src" / "package" / "__pycache__").mkdir()
    (source / "src" / "package" / "__pycache__" / "x.pyc").write_text("")
    (source / "src" / "package.egg-info").mkdir()
    (source / "src" / "package.egg-info" / "PKG-INFO").write_text("")
    os.utime(source / "pyproject.toml", (1, 1))
    assert source_tree.tree_hash(str(source), INCLUDE) == before


def test_archive_holds_the_tree_and_nothing_of_the_controller(source):
    packed = source_tree.tree_archive(str(source), INCLUDE)
    assert packed == source_tree.tree_archive(str(source), INCLUDE)
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(packed))) as archive:
        assert archive.getnames() == ["pyproject.toml", "src/package/__init__.py"]
        assert {(member.uid, member.uname, member.mtime) for member in archive} == {(0, "", 0)}


def test_tree_without_files_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no source files; expected .* pyproject\.toml, README\.md, src$"):
        source_tree.tree_hash(str(tmp_path), INCLUDE)


@pytest.fixture
def environments(tmp_path):
    """Environments by age of their replacement in days; None is one that was not seen replaced yet."""

    def make(current, **ages):
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


def left(path):
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
def test_pruning(environments, ages, gone):
    path = environments("now", **ages)
    assert sorted(prune.prune(path, 3, 14, 1000 * DAY)) == gone
    assert left(path) == sorted(set(ages) - set(gone))
    assert not (path / "envs" / "now" / ".replaced").exists()


def test_pruning_begins_to_count_when_a_replaced_environment_is_first_seen(environments):
    path = environments("now", now=None, a=None)
    assert prune.prune(path, 1, 14, (path / "envs").stat().st_mtime + 1) == []
    assert (path / "envs" / "a" / ".replaced").exists()


def test_environment_in_use_stays(environments):
    path = environments("now", now=None, a=30)
    program = path / "envs" / "a" / "program"
    program.write_text("import sys; print(flush=True); sys.stdin.read()")
    command = [sys.executable, str(program)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()  # It runs now.
        assert prune.prune(path, 1, 14, 1000 * DAY) == []
        process.stdin.close()
    assert prune.prune(path, 1, 14, 1000 * DAY) == ["a"]


# In uv's place: an "environment" is a link to this Python, and to install takes a while.
UV = """#!/bin/sh
echo "$1 $2" >> {log}
if [ "$1" = venv ]; then
  for directory; do :; done
  mkdir -p "$directory/bin" && ln -s {python} "$directory/bin/python"
else
  sleep 0.5
fi
"""


@pytest.fixture
def builder(tmp_path):
    """Starts the program for one environment; ``builder.steps()`` is what uv was asked for."""
    uv, log = tmp_path / "uv", tmp_path / "log"
    uv.write_text(UV.format(log=log, python=sys.executable))
    uv.chmod(0o755)
    (tmp_path / "tree" / "envs").mkdir(parents=True)
    want = {
        "directory": str(tmp_path / "tree" / "envs" / "0123"),
        "python": sys.executable,
        "lock": "jupyterlab==4",
        "uv_lock": "",
        "uv": str(uv),
        "index": [],
        "archive": "",
        "files": [{"dest": "bin/tool", "content": "#!@ENVIRONMENT@/bin/python", "mode": "0755"}],
        "removed": ["share"],
        "stamp": ".complete",
    }

    def start():
        process = subprocess.Popen(
            [sys.executable, str(ROLE / "files" / "build.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        process.stdin.write(json.dumps(want))
        process.stdin.close()
        process.stdin = None  # so that communicate() leaves it alone
        return process

    start.environment = Path(want["directory"])
    start.steps = lambda: log.read_text().split("\n")[:-1] if log.exists() else []
    return start


BUILD = ["venv --no-project", "pip sync"]


def test_an_environment_is_built(builder):
    assert builder().communicate()[0] == "built\n"
    tool = builder.environment / "bin" / "tool"
    assert tool.read_text() == f"#!{builder.environment}/bin/python"
    assert oct(tool.stat().st_mode & 0o777) == "0o755"
    assert builder.steps() == BUILD


def test_of_two_runs_one_builds(builder):
    """The second waits, and does not clear what the first is at."""
    runs = [builder(), builder()]
    assert sorted(run.communicate()[0] for run in runs) == ["already built\n", "built\n"]
    assert builder.steps() == BUILD


def test_a_build_that_was_killed_is_begun_again(builder):
    first = builder()
    while len(builder.steps()) < len(BUILD):
        time.sleep(0.01)
    first.kill()
    first.communicate()
    assert not (builder.environment / ".complete").exists()
    assert builder().communicate()[0] == "built\n"
    assert builder.steps() == BUILD * 2
