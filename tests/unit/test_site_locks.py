"""What a site adds to the notebook environments: the rules, the lock files, and uv with an index of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from unit.test_model import GOOD
from wheel_index import WheelIndex

from hpchub.bundle import wheels
from hpchub.cli import inventory
from hpchub.cli import main as cli
from hpchub.deploy import site_locks
from hpchub.deploy.site_locks import LEFT_OUT, LockError
from hpchub.deploy.software import NOTEBOOK, Software
from hpchub.model.extensions import Extension
from hpchub.model.packages import (
    Wanted,
    conflicts,
    header,
    pins,
    server_extensions,
    stale,
    to_lock,
    wanted,
)
from hpchub.model.site import Site, SiteError, variable_problems

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
LAB = {"share/jupyter/labextensions/@site/thing/package.json": "{}"}
SERVER = {"etc/jupyter/jupyter_server_config.d/x.json": '{"ServerApp": {"jpserver_extensions": {"with_server": true}}}'}


# The inventory


def test_packages_of_a_cluster_are_those_of_the_site_its_extensions_and_its_kernels() -> None:
    cluster = GOOD["hpc_clusters"][0]["name"]
    site = Site.from_vars(
        GOOD
        | {
            "hpc_notebook_packages": ["xarray>=2026"],
            "hpc_extensions": [
                {"package": "lab-here", "clusters": [cluster], "server_extensions": ["lab_here"]},
                {"package": "lab-everywhere"},
            ],
            "hpc_kernels": [
                {"name": "a", "kind": "python", "packages": ["numpy"]},
                {"name": "r", "kind": "r", "packages": ["r-base"]},
            ],
        }
    )
    here = [(each.text, each.entry, each.field) for each in wanted(site, cluster)]
    assert here == [
        ("xarray>=2026", "hpc_notebook_packages[0]", ""),
        ("lab-here", "hpc_extensions[0]", "package"),
        ("lab-everywhere", "hpc_extensions[1]", "package"),
        ("numpy", 'hpc_kernels[0] (name "a")', "packages[0]"),
    ]
    assert [each.text for each in wanted(site, "other")] == ["xarray>=2026", "lab-everywhere", "numpy"]
    assert server_extensions(site, cluster) == {"lab_here": True}
    assert server_extensions(site, "other") == {}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param("numpy", "is text, not a list", id="no-list"),
        pytest.param([7], "is a number, not text", id="number"),
        pytest.param(
            ["git+https://x/y"], "is not a Python package's name; write the name in a package index", id="url"
        ),
        pytest.param(["x @ https://x/y.whl"], "addresses, paths and options are not possible", id="direct"),
        pytest.param(["./x"], "is not a Python package's name", id="path"),
        pytest.param(["--index-url=https://evil"], "is not a Python package's name", id="option"),
        pytest.param(["-r other.txt"], "is not a Python package's name", id="file"),
        pytest.param(["x; os_name == 'nt'"], "is not a Python package's name", id="marker"),
        pytest.param(["x>1 y"], "is not a Python package's name", id="two-in-one"),
        pytest.param(["numpy=2"], "is not a Python package's name", id="one-equals-sign"),
        pytest.param(["numpy==two"], "has an invalid version; write a version, as in numpy==2.4.6", id="version"),
        pytest.param([""], "is empty", id="empty"),
    ],
)
def test_requirement_that_cannot_be_locked_is_refused(value: Any, message: str) -> None:
    (problem,) = variable_problems("hpc_notebook_packages", value)
    assert message in str(problem)
    assert str(problem).startswith("hpc_notebook_packages")


@pytest.mark.parametrize("value", ["numpy", "dask[complete]", "a>=1,<2", "a~=1.4", "a!=1.*", "Zope.Interface==5.0a1"])
def test_requirement_is_accepted(value: str) -> None:
    assert not variable_problems("hpc_notebook_packages", [value])


@pytest.mark.parametrize(
    ("extensions", "message"),
    [
        ([{"package": "a", "clusters": ["nowhere"]}], '"nowhere" is unknown'),
        ([{"package": "a-b"}, {"package": "A_b==2"}], "is already the package of hpc_extensions[0]"),
        ([{"package": "a", "server_extensions": ["a-b"]}], "is not a Python module's name"),
        ([{"clusters": []}], "package is missing"),
    ],
    ids=["cluster", "twice", "module", "no-package"],
)
def test_extension_that_is_wrong_is_reported(extensions: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(SiteError) as error:
        Site.from_vars(GOOD | {"hpc_extensions": extensions})
    assert [message in str(problem) for problem in error.value.problems] == [True]


# The rules of locks

BASE = pins(["numpy==2.4.6 ; python_full_version < '3.12' \\\n    --hash=sha256:1\nnumpy==2.5.5\nDask==2026.8.0 \\\n"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("numpy", ""),
        ("numpy>=2.4", ""),
        ("xarray<1", ""),
        ("numpy==2.5.5", "conflicts with numpy 2.4.6, which the notebook environment has"),
        ("NumPy<2", "conflicts with numpy 2.4.6, 2.5.5, which"),
        ("dask!=2026.8.0", "conflicts with dask 2026.8.0"),
    ],
)
def test_requirement_that_excludes_a_locked_version_is_a_conflict(text: str, message: str) -> None:
    found = [str(problem) for problem in conflicts([Wanted(text, "hpc_notebook_packages[0]")], BASE)]
    assert [message in one for one in found] == ([True] if message else [])
    assert all(f'hpc_notebook_packages[0]: "{text}"' in one for one in found)


def test_only_what_the_locks_lack_needs_a_lock_of_the_site() -> None:
    wishes = [Wanted(text, "x") for text in ("numpy", "xarray", "dask", "dask[array]", "a>1", "xarray")]
    assert to_lock(wishes, BASE) == ["a>1", "dask[array]", "xarray"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("", ""), ""),
        (("a>1 b", "a>1"), "does not fit the inventory: it was made with other packages (b)"),
        (("a>1 b", "a>2 b"), "it was made with other packages (a>1, a>2)"),
        (("# requirements", "# x"), "does not fit the inventory"),
        (("# base: 1", "# base: 2"), "was made for another version of hpchub's own lock files"),
        (("b==2", "c==2"), "is incomplete: it lacks b"),
    ],
    ids=["same", "fewer", "other-version", "no-head", "upgrade-of-hpchub", "package-removed"],
)
def test_lock_that_does_not_fit_is_stale(change: tuple[str, str], message: str) -> None:
    text = header("demo", ["a>1", "b"], "1") + "A==2 \\\n    --hash=sha256:1\nb==2\n"
    found = stale(text.replace(*change), ["a>1", "b"], "1")
    assert message in found
    assert bool(found) == bool(message)


# With uv and a package index


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WheelIndex]:
    """Return an index, which is the only one that uv uses."""
    with WheelIndex(tmp_path / "index") as found:
        monkeypatch.setenv("UV_DEFAULT_INDEX", found.url)
        monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
        yield found


@pytest.fixture
def base(index: WheelIndex, tmp_path: Path) -> list[Path]:
    """Return hpchub's own lock files: pinned 1, and old 1 for Python 3.11 only. Newer versions exist."""
    path = tmp_path / "requirements.lock"
    lines = [f"pinned==1 \\\n    --hash=sha256:{index.add('pinned', '1')}\n"]
    lines += [f"old==1 ; python_full_version < '3.12' \\\n    --hash=sha256:{index.add('old', '1')}\n"]
    path.write_text("".join(lines))
    index.add("pinned", "2")
    return [path]


def names(text: str) -> list[str]:
    return [line.partition(" \\")[0] for line in text.splitlines() if not line.startswith((" ", "#"))]


def test_lock_contains_only_what_hpchubs_own_locks_lack(index: WheelIndex, base: list[Path]) -> None:
    index.add("new", "3", ["pinned", "needed"])
    hashes = [index.add("needed", "4")]
    text = site_locks.resolve(["new"], base)
    assert names(text) == ["needed==4", "new==3"]
    assert f"--hash=sha256:{hashes[0]}" in text


def test_package_that_the_locks_have_for_some_versions_of_python_is_locked_for_the_others(
    index: WheelIndex, base: list[Path]
) -> None:
    index.add("new", "3", ["old"])
    index.add("old", "2")
    assert names(site_locks.resolve(["new"], base)) == ["new==3", "old==2 ; python_full_version >= '3.12'"]


def test_package_that_slows_down_the_server_is_left_out_unless_it_is_asked_for(
    index: WheelIndex, base: list[Path]
) -> None:
    (slow,) = LEFT_OUT
    index.add(slow, "1", ["grammar"])
    index.add("grammar", "1")
    index.add("new", "3", [slow])
    index.add("parser", "3", ["grammar"])
    assert names(site_locks.resolve(["new"], base)) == ["new==3"]
    assert names(site_locks.resolve(["new", "parser"], base)) == ["grammar==1", "new==3", "parser==3"]
    assert names(site_locks.resolve([slow], base)) == ["grammar==1", f"{slow}==1"]
    assert f"--no-emit-package {slow} " in (ROOT / "roles/notebook_environment/files/requirements.lock").read_text()


def test_locked_versions_stay_until_an_upgrade(index: WheelIndex, base: list[Path]) -> None:
    index.add("new", "3")
    former = site_locks.resolve(["new"], base)
    index.add("new", "4")
    shutil.rmtree(index.files.parents[1] / "cache")  # uv remembers the index for some minutes
    index.add("more", "1")
    assert names(site_locks.resolve(["new", "more"], base, former)) == ["more==1", "new==3"]
    assert names(site_locks.resolve(["new"], base)) == ["new==4"]


@pytest.mark.parametrize(
    ("requirements", "parts"),
    [
        pytest.param(["gone"], ['"gone" cannot be installed', "not found"], id="unknown"),
        pytest.param(["fine>9"], ['"fine>9" cannot be installed', "fine"], id="no-such-version"),
        pytest.param(["source"], ['"source" cannot be installed', "no usable wheels"], id="no-wheel"),
        pytest.param(
            ["fine", "modern"],
            ['"modern" conflicts with what the notebook environment has (pinned 1)', "pinned>=2", "kind venv"],
            id="conflict-with-the-locks",
        ),
        pytest.param(["left", "right"], ['"left", "right" do not fit together', "fine"], id="conflict-of-two"),
    ],
)
def test_requirement_without_a_solution_is_named(
    index: WheelIndex, base: list[Path], requirements: list[str], parts: list[str]
) -> None:
    index.add("fine", "1")
    index.add("fine", "2")
    index.add("modern", "1", ["pinned>=2"])
    index.add("left", "1", ["fine==1"])
    index.add("right", "1", ["fine==2"])
    index.add_source("source", "1")
    with pytest.raises(LockError) as error:
        site_locks.resolve(requirements, base)
    assert [part for part in parts if part not in str(error.value)] == [], str(error.value)


def test_index_that_does_not_answer_is_reported(base: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(LockError, match=r"uv failed: .*127\.0\.0\.1:9"):
        site_locks.resolve(["new"], base)


@pytest.mark.parametrize(
    ("extension", "result"),
    [
        pytest.param(Extension(package="lab"), [], id="prebuilt"),
        pytest.param(Extension(package="with-server"), ["with_server"], id="server-part-stays-off"),
        pytest.param(Extension(package="with-server", server_extensions=["with_server"]), [], id="server-part"),
        pytest.param(Extension(package="pinned"), "is no prebuilt extension of JupyterLab", id="library"),
        pytest.param(
            Extension(package="with-server", server_extensions=["other"]),
            "has no module other for the server; valid: with_server",
            id="other-module",
        ),
        pytest.param(
            Extension(package="lab", server_extensions=["os"]),
            "has no module os for the server; remove server_extensions",
            id="module-of-python",
        ),
    ],
)
def test_extension_must_be_prebuilt(
    index: WheelIndex, base: list[Path], extension: Extension, result: list[str] | str
) -> None:
    index.add("lab", "1", data=LAB)
    index.add("with-server", "1", data=LAB | SERVER)
    locks = [site_locks.resolve(["lab", "with-server"], base), base[0].read_text()]
    if isinstance(result, list):
        assert site_locks.check_extension(extension, locks) == result
    else:
        with pytest.raises(LockError, match=result):
            site_locks.check_extension(extension, locks)


# The check of an inventory


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "site"
    path.mkdir()
    return path


def software(base: list[Path], *texts: str, extensions: tuple[Extension, ...] = ()) -> Software:
    wishes = tuple(Wanted(text, f"hpc_notebook_packages[{i}]") for i, text in enumerate(texts))
    return Software({NOTEBOOK: base[0]}, {"demo": wishes}, {"demo": extensions})


def locks_problems(found: Software, site: Path) -> list[str]:
    return [str(problem) for problem in site_locks.problems(found.base, found.further, [site])]


def write_lock(site: Path, text: str) -> Path:
    path = site / "files" / "locks" / "demo.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_missing_stale_and_unneeded_locks_are_problems(site: Path, base: list[Path]) -> None:
    def found(*texts: str) -> list[str]:
        return locks_problems(software(base, *texts), site)

    assert found() == found("pinned") == []
    missing = 'hpc_notebook_packages[1]: "new" is not locked: files/locks/demo.lock is missing in the inventory; run: '
    assert found("pinned", "new") == [f"{missing}hpchub lock INVENTORY"]
    (conflict,) = found("pinned==2", "new")
    assert conflict.startswith('hpc_notebook_packages[0]: "pinned==2" conflicts with pinned 1, which the notebook')
    head = header("demo", ["new"], site_locks.base_digest(base))
    path = write_lock(site, f"{head}new==3\n")
    assert found("new") == []
    (changed,) = found("new", "more")
    assert changed.startswith(f"{path}: does not fit the inventory: it was made with other packages (more); run: ")
    assert "no package of cluster demo needs it" in found()[0]
    base[0].write_text(base[0].read_text() + "more==1\n")
    assert "was made for another version of hpchub's own lock files" in found("new")[0]


def test_lock_is_found_beside_a_list_of_hosts(site: Path) -> None:
    path = write_lock(site, "")
    (site / "hosts.yml").touch()
    for source in (site, site / "hosts.yml"):
        assert site_locks.find(["node1,", source], "demo") == path
    assert site_locks.find([site], "other") is None


# The command


@pytest.fixture
def lock(monkeypatch: pytest.MonkeyPatch, site: Path) -> Any:
    """Return a function that runs the command for some software and returns its exit code."""

    def run(found: Software, *options: str) -> int:
        checked = inventory.Checked(software=found.as_dict())
        monkeypatch.setattr(inventory, "read", lambda *_: checked)
        return cli.main(["lock", str(site), *options])

    return run


def test_command_writes_keeps_and_removes_the_lock(
    lock: Any, index: WheelIndex, base: list[Path], site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index.add("new", "3", ["pinned"])
    index.add("lab", "1", data=LAB | SERVER)
    wish = software(base, "new", "lab", extensions=(Extension(package="lab"),))
    path = site / "files" / "locks" / "demo.lock"
    assert lock(wish) == 0
    out = capsys.readouterr().out
    assert "demo: lab has the server extension with_server, which stays off" in out
    assert f"{path}: 2 packages for lab, new" in out
    assert names(path.read_text()) == ["lab==1", "new==3"]
    assert locks_problems(wish, site) == []
    assert lock(wish) == 0
    assert f"{path}: unchanged" in capsys.readouterr().out
    assert lock(software(base, "pinned")) == 0
    assert not path.exists()
    assert lock(software(base)) == 0
    assert capsys.readouterr().out.endswith("demo: no lock file is needed\n")


def test_command_changes_nothing_if_a_package_cannot_be_locked(
    lock: Any, index: WheelIndex, base: list[Path], site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_lock(site, "former")
    index.add("new", "3")
    assert lock(software(base, "new", extensions=(Extension(package="pinned"),))) == 1
    assert 'hpchub: cluster demo: "pinned" is no prebuilt extension' in capsys.readouterr().err
    assert lock(software(base, "gone")) == 1
    assert "cannot be installed: Because gone was not found" in capsys.readouterr().err
    assert lock(software(base, "new", "pinned==2")) == 1
    assert '"pinned==2" conflicts with pinned 1' in capsys.readouterr().err
    assert path.read_text() == "former"


# The installation


def test_site_gets_what_it_has_locked_and_nothing_else(index: WheelIndex, base: list[Path], tmp_path: Path) -> None:
    index.add("new", "3", ["pinned"])
    text = site_locks.resolve(["new"], base)
    index.add("new", "4", ["pinned"])
    assert build(tmp_path, "a", base[0].read_text(), text) == ""
    (packages,) = (tmp_path / "envs" / "a" / "lib").glob("python*/site-packages")
    assert {path.name for path in packages.glob("*.dist-info")} >= {"new-3.dist-info", "pinned-1.dist-info"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("new==3", "pinned==2\nnew==3"), "pinned"),
        (("--hash=sha256:", "--hash=sha256:00"), "hash"),
        ((" \\\n    --hash=sha256:", " # "), "hash"),
    ],
    ids=["another-version-of-ours", "changed-hash", "no-hash"],
)
def test_lock_that_somebody_has_edited_is_not_installed(
    index: WheelIndex, base: list[Path], tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    index.add("new", "3", ["pinned"])
    text = site_locks.resolve(["new"], base).replace(*change)
    assert message in build(tmp_path, "a", base[0].read_text(), text)
    assert not (tmp_path / "envs" / "a" / ".complete").exists()


def build(path: Path, name: str, lock: str, further: str) -> str:
    """Build an environment as the role does, with the real uv. Return the error."""
    (path / "envs").mkdir(exist_ok=True)
    want = {
        "directory": str(path / "envs" / name), "python": sys.executable, "lock": lock, "further_locks": [further],
        "uv_lock": "", "uv": wheels.uv_program(), "index": [], "archive": "", "files": [], "removed": [],
        "stamp": ".complete",
    }  # fmt: skip
    program = ROOT / "roles" / "python_environment" / "files" / "build.py"
    done = subprocess.run(
        [sys.executable, str(program)], input=json.dumps(want), capture_output=True, text=True, check=False
    )
    return done.stderr if done.returncode else ""
