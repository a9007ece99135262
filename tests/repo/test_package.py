"""The package's metadata: its dependencies are declared and locked, and every file states the same version."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HUB_LOCK = ROOT / "roles" / "jupyterhub" / "files" / "requirements.lock"

# Ansible loads the modules that import it; pydantic pins the version of pydantic_core. The notebook environment has its
# own lock. Only the environment of a checkout has argcomplete.
PROVIDED = {
    *("ansible-core", "argcomplete", "pydantic-core"),
    *("jupyter-client", "jupyter-core", "jupyter-server", "jupyter-server-proxy", "jupyterlmod"),
    *("ipykernel", "pyspark"),  # of the site's Python that runs spark_kernel.py
    *("dask-jobqueue", "distributed", "hpchub-dask"),
}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> set[str]:
    return {normalized(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]) for line in PROJECT["dependencies"]}


def imported() -> dict[str, Path]:
    """Return one importing file for each distribution that the package imports."""
    found: dict[str, Path] = {}
    distributions = packages_distributions()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"hpchub"}:
                # A distribution that is not installed here usually has the name of its package.
                for distribution in distributions.get(name, [name]):
                    found[normalized(distribution)] = path.relative_to(ROOT)
    return found


def test_declares_every_imported_package() -> None:
    missing = {name: path for name, path in imported().items() if name not in declared() | PROVIDED}
    assert missing == {}, "add these to dependencies in pyproject.toml"


def test_every_file_of_the_package_is_installed() -> None:
    """A file that is no module must match a pattern of package-data, so that the hub's environment contains it."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["hpchub"]
    package = ROOT / "src" / "hpchub"
    files = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert files - {path for pattern in patterns for path in package.glob(pattern)} == set()


def test_hub_lock_contains_every_dependency() -> None:
    names = re.findall(r"^([A-Za-z0-9._-]+)(?:\[.*\])?==", HUB_LOCK.read_text(), re.MULTILINE)
    assert declared() - {normalized(name) for name in names} == set()


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("src/hpchub/__init__.py", r'^__version__ = "(.+)"$'),
        ("CHANGELOG.md", r"^## (\d\S+) - \d{4}-\d\d-\d\d$"),
    ],
    ids=["package", "changelog"],
)
def test_states_the_version_of_pyproject(path: str, pattern: str) -> None:
    stated = re.search(pattern, (ROOT / path).read_text(), re.MULTILINE)
    assert stated
    assert stated[1] == PROJECT["version"]


def test_collection_states_the_version_of_pyproject() -> None:
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text())
    assert galaxy["version"].replace("-", "") == PROJECT["version"]


def test_citation_states_the_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert [reference["doi"] for reference in citation["references"]] == ["10.1145/3219104.3219162"]
