"""The package's architecture: no import cycles, layers that depend on lower layers only, and pure parts without I/O."""

from __future__ import annotations

import ast
import graphlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import grimp
import pytest
import yaml

from hpchub import names
from hpchub.hub import handlers
from hpchub.remote import gate, launcher

if TYPE_CHECKING:
    from collections.abc import Iterable

SOURCE = Path(__file__).resolve().parents[2] / "src" / "hpchub"

LAYERS = (
    {"cli"},
    {"backup", "report"},
    {"hub", "places"},
    {"canary", "clusters", "deploy", "notices_file", "profile_file"},
    {"model"},
    {"bundle", "schedulers"},
    {"catalogue", "gpus", "lab_extension", "no_links"},
    {"kernel_scripts", "messages", "moments", "names", "units"},
)
"""The sub-packages from the top to the bottom. A module may import from its own layer and from lower ones."""

PURE = (
    "model",
    "schedulers",
    "gpus.py",
    "kernel_scripts.py",
    "messages.py",
    "moments.py",
    "names.py",
    "units.py",
    "report/figures.py",
    "report/html.py",
    "report/period.py",
    "hub/job_actions.py",
    "hub/job_events.py",
    "hub/job_session.py",
)

IO_MODULES = {
    *("aiohttp", "asyncio", "batchspawner", "http", "jupyterhub", "logging", "multiprocessing", "os"),
    *(
        "random",
        "secrets",
        "select",
        "shutil",
        "signal",
        "socket",
        "ssl",
        "subprocess",
        "tempfile",
        "threading",
        "time",
    ),
    *("tornado", "urllib.request"),
}
"""Modules that a pure part must not import: they reach files, processes, networks, the clock or a source of chance."""


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """All imports of the package, including those for type checkers."""
    return grimp.build_graph("hpchub", cache_dir=None)


def test_there_is_no_import_cycle(graph: grimp.ImportGraph) -> None:
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(reversed(error.args[1]))}")


def test_layers_import_lower_layers_only(graph: grimp.ImportGraph) -> None:
    rank = {name: number for number, names in enumerate(LAYERS) for name in names}
    wrong = [
        f"{module} imports {imported}"
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
        if (above := rank.get(_part(module))) is not None
        and (below := rank.get(_part(imported))) is not None
        and below < above
    ]
    assert wrong == []


def test_every_part_has_a_layer() -> None:
    parts = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert parts - {"__init__", "remote"} == {name for names in LAYERS for name in names}


def test_remote_programs_start_with_the_standard_library_only() -> None:
    for path in (SOURCE / "remote").glob("*.py"):
        # Only statements that run at start: the launcher imports JupyterHub later, in the notebook environment.
        started = [node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        foreign = {name for name in _imports(started) if name.partition(".")[0] not in sys.stdlib_module_names}
        assert foreign == set(), f"{path.name} is copied to hosts that have nothing but Python"


def test_pure_parts_import_no_io() -> None:
    wrong = {
        f"{path.relative_to(SOURCE)} imports {name}"
        for part in PURE
        for path in _files(SOURCE / part)
        for name in _imports(ast.walk(ast.parse(path.read_text())))
        if {name, name.partition(".")[0]} & IO_MODULES
    }
    assert wrong == set()


def test_pure_parts_open_no_file() -> None:
    calls = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "stat", "is_file", "exists", "glob"}
    wrong = {
        f"{path.relative_to(SOURCE)}:{node.lineno} calls {name}"
        for part in PURE
        for path in _files(SOURCE / part)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and (name := getattr(node.func, "attr", None) or getattr(node.func, "id", "")) in calls
    }
    assert wrong == set()


def _part(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.is_file() else []


def _imports(nodes: Iterable[ast.AST]) -> set[str]:
    """The modules that some statements import, without the package's own."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name for name in found if not name.startswith("hpchub") and name != "__future__"}


def test_copied_limits_are_equal() -> None:
    assert launcher.PROBLEM_LIMIT == handlers.MAX_TEXT
    assert launcher.ADDRESS_LIMIT == handlers.MAX_ADDRESSES


def test_copied_patterns_are_equal() -> None:
    variables = yaml.safe_load((SOURCE.parents[1] / "roles" / "reverse_proxy" / "vars" / "main.yml").read_text())
    assert variables["__reverse_proxy_name"] == names.USER_NAME
    assert gate.USER_NAME.pattern == names.USER_NAME
    for role in ("reverse_proxy/defaults", "jupyterhub/vars"):
        text = (SOURCE.parents[1] / "roles" / role / "main.yml").read_text()
        assert f'user_pattern: "{names.USER_PATTERN}"' in text
    assert gate.CLUSTER_NAME.pattern == names.CLUSTER_NAME
    assert gate.SESSION.pattern == launcher.SESSION.pattern == names.SESSION
    assert gate.NOBODY == names.NOBODY
