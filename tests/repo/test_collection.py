"""The collection installs from its archive, and its roles and plugins work there without the checkout."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tomllib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from installed_collection import NAME, InstalledCollection, install_collection

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
GALAXY = yaml.safe_load((ROOT / "galaxy.yml").read_text())
FULL_NAME = re.compile(
    r"\b((?:ansible|community|containers|hpchub(?=\.hpchub)|(?<!-)kubernetes)\.[a-z_]+)\.[a-z_0-9]+\b"
)
SECRETS = {"vault_oidc_client_secret": "d41d8cd98f00b204"}
# Facts of a supported host, so that the tests run on any machine.
FACTS = {
    "distribution": "Debian",
    "distribution_major_version": "13",
    "distribution_version": "13.1",
    "hostname": "node1",
    "os_family": "Debian",
    "pkg_mgr": "apt",
}


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> InstalledCollection:
    """Return the collection, installed from its archive."""
    return install_collection(tmp_path_factory.mktemp("collection"))


def make_site(collection: InstalledCollection, directory: Path) -> InstalledCollection:
    """Return the collection with a directory of a site. Its inventory contains only this machine."""
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False}
    groups = {"hub": {"hosts": {"node1": here}}, "compute_nodes": {"hosts": {"node1": None}}}
    (directory / "hosts.json").write_text(json.dumps({"all": {"children": groups}}))
    # The example playbooks of two roles read these files.
    (directory / "profiles.json").write_text('{"version": 1, "profiles": []}')
    (directory / "requirements.lock").write_text("")
    return InstalledCollection(directory, collection.collections)


@pytest.fixture
def site(collection: InstalledCollection, tmp_path: Path) -> InstalledCollection:
    """Return the installed collection with a new directory of a site."""
    return make_site(collection, tmp_path)


def play(site: InstalledCollection, *arguments: str | Path, **variables: Any) -> tuple[int, str]:
    """Run playbooks on this machine with the facts above, and return the exit code and the output."""
    given = json.dumps({"ansible_facts": FACTS, **SECRETS, **variables})
    done = site.run("ansible-playbook", "-i", "hosts.json", "-e", given, *arguments)
    return done.returncode, done.stdout + done.stderr


def write_example(site: InstalledCollection, role: str) -> Path:
    """Write a role's example playbook, changed so that it gathers no facts."""
    playbook = site.write_example(role)
    text = playbook.read_text()
    assert text.count("  become: true\n") == 1
    playbook.write_text(text.replace("  become: true\n", "  become: true\n  gather_facts: false\n"))
    return playbook


# The archive


def test_collection_and_package_have_the_same_version() -> None:
    version = re.sub(r"(\d)(a|b|rc)(\d+)$", r"\1-\2\3", PYPROJECT["project"]["version"])
    assert version == GALAXY["version"]


def test_required_ansible_version_is_the_tested_one() -> None:
    (core,) = [entry for entry in PYPROJECT["dependency-groups"]["dev"] if entry.startswith("ansible-core")]
    runtime = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text())
    assert runtime["requires_ansible"] == core.removeprefix("ansible-core").partition(",")[0] + ".0"
    for role in ROLES:
        meta = yaml.safe_load((ROOT / "roles" / role / "meta" / "main.yml").read_text())
        assert f">={meta['galaxy_info']['min_ansible_version']}.0" == runtime["requires_ansible"]


def test_archive_contains_what_a_site_needs(collection: InstalledCollection) -> None:
    for name in (
        "CHANGELOG.md",
        "LICENSE",
        "README.md",
        "group_vars/all/model.yml",
        "inventories/example_slurm/hosts.yml",
        "meta/runtime.yml",
        "playbooks/group_vars/all/model.yml",
        "playbooks/site.yml",
        "plugins/modules/write_files.py",
        "pyproject.toml",
        "requirements.yml",
        "roles/jupyterhub/files/requirements.lock",
        "src/hpchub/__init__.py",
        "templates/batch/slurm.sh.j2",
        "templates/pages/error.html",
    ):
        assert (collection.path / name).is_file(), name


def test_archive_contains_nothing_for_developers_only(collection: InstalledCollection) -> None:
    names = {path.name for path in collection.path.iterdir()}
    assert not names & {"ansible.cfg", "bin", "collections", "molecule", "requirements-dev.lock", "tests"}
    assert not [name for name in names if name.startswith(".")]
    assert [path.name for path in (collection.path / "inventories").iterdir()] == ["example_slurm"]
    assert not [path for path in collection.path.rglob("*") if path.name == "__pycache__"]


# Roles stay inside the collection


def test_links_stay_inside_the_collection(collection: InstalledCollection) -> None:
    for path in collection.path.rglob("*"):
        if path.is_symlink():
            assert path.resolve(strict=True).is_relative_to(collection.path.resolve()), path


def test_roles_read_only_files_of_the_collection(collection: InstalledCollection) -> None:
    found = []
    for path in collection.path.glob("roles/*/*/*.yml"):
        role, text = path.parents[1], path.read_text()
        assert "playbook_dir" not in text, path
        text = text.replace("{{ __notebook_environment_role }}", "{{ role_path }}/../notebook_environment")
        for relative in re.findall(r"\{\{ role_path \}\}([\w./-]*)", text):
            target = (role / relative.removeprefix("/")).resolve()
            assert target.exists(), f"{path}: {relative}"
            assert target.is_relative_to(collection.path.resolve()), f"{path}: {relative}"
            found.append(target.relative_to(collection.path.resolve()).as_posix())
    programs = {"src/hpchub/remote/gate.py", "src/hpchub/remote/launcher.py"}
    assert programs | {"templates", "roles/jupyterhub/files/requirements.lock"} <= set(found)


def tasks(found: Any) -> list[dict[str, Any]]:
    parts = ("block", "rescue", "always")
    return [
        task
        for outer in found or []
        for task in [outer, *(inner for part in parts for inner in tasks(outer.get(part)))]
    ]


@pytest.mark.parametrize("role", ROLES)
def test_role_names_plugins_and_roles_by_their_collection(role: str) -> None:
    declared = {"ansible.builtin", NAME, *GALAXY["dependencies"]}
    ours = "|".join(path.stem for path in (ROOT / "plugins" / "filter").glob("*.yml"))
    for path in (ROOT / "roles" / role).rglob("*.yml"):
        text = path.read_text()
        assert set(FULL_NAME.findall(re.sub(r"\S+://\S+", "", text))) <= declared, path
        # A short name would only be found in a checkout that configures it.
        assert not re.search(rf"\|\s*(?:{ours})\b\s*(?:\(|\}}|\||$)", text), path
        for task in tasks(yaml.safe_load(text)) if path.parent.name in {"handlers", "tasks"} else []:
            assert any(key.count(".") == 2 for key in task if not key.startswith("__")) or "block" in task, task
            for action in ("include_role", "import_role"):
                if arguments := task.get(f"ansible.builtin.{action}"):
                    assert arguments["name"].startswith(f"{NAME}."), task


def test_declared_dependencies_are_those_that_roles_use() -> None:
    text = "".join(path.read_text() for path in (ROOT / "roles").rglob("*.yml"))
    used = set(FULL_NAME.findall(text)) - {"ansible.builtin", NAME}
    assert set(GALAXY["dependencies"]) == used


# requirements.yml


def requirements() -> dict[str, str]:
    found = yaml.safe_load((ROOT / "requirements.yml").read_text())["collections"]
    return {entry["name"]: entry["version"] for entry in found}


def test_requirements_name_the_collections_in_use() -> None:
    folders = ("roles", "playbooks", "group_vars", "inventories", "molecule")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.yml")]
    text = "".join(path.read_text() for path in [*files, ROOT / "ansible.cfg"] if path.is_file())
    assert set(requirements()) == set(FULL_NAME.findall(text)) - {"ansible.builtin", NAME}


@pytest.mark.parametrize(("name", "version"), requirements().items())
def test_required_version_is_the_installed_one(name: str, version: str) -> None:
    """The locked Python package `ansible` contains the versions that all other tests use."""
    spec = find_spec("ansible_collections")
    assert spec
    assert spec.submodule_search_locations
    places = [Path(place, *name.split("."), "MANIFEST.json") for place in spec.submodule_search_locations]
    (manifest,) = [place for place in places if place.is_file()]
    assert json.loads(manifest.read_text())["collection_info"]["version"] == version


# The example playbooks of the READMEs


# Only the validation of arguments has the tag "always", so that nothing else runs.
ONLY_VALIDATE = ("--tags", "validate-arguments-only")


@pytest.fixture(scope="session")
def validated(collection: InstalledCollection, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the output of a run that validates the arguments in all example playbooks."""
    site = make_site(collection, tmp_path_factory.mktemp("examples"))
    examples = [site.write_example(role) for role in ROLES]
    syntax = site.run("ansible-playbook", "-i", "hosts.json", "--syntax-check", *examples)
    assert syntax.returncode == 0, syntax.stdout + syntax.stderr
    code, output = play(site, *ONLY_VALIDATE, *(write_example(site, role) for role in ROLES))
    assert code == 0, output
    assert re.search(r"node1 +: ok=\d+ +changed=0 ", output)
    return output


@pytest.mark.parametrize("role", ROLES)
def test_example_playbook_is_accepted(validated: str, role: str) -> None:
    """Its syntax is right, and the role's argument specification accepts its arguments."""
    assert f"TASK [{NAME}.{role} : Validating arguments against arg spec 'main'" in validated


@pytest.mark.parametrize(
    ("role", "right", "wrong", "reason"),
    [
        pytest.param(
            "reverse_proxy", "_allowed_groups: [h", "_sso_provider: [h", "must be one of", id="unknown-choice"
        ),
        pytest.param(
            "jupyter_kernels", "name: python3", "nam: python3", "found in jupyter_kernels_kernels", id="misspelt-key"
        ),
        pytest.param("jupyterhub", "admin_users: [alice]", "admin_users: {a: 1}", "admin_users", id="wrong-type"),
    ],
)
def test_wrong_example_playbook_is_refused(
    site: InstalledCollection, role: str, right: str, wrong: str, reason: str
) -> None:
    example = write_example(site, role)
    text = example.read_text()
    assert right in text
    example.write_text(text.replace(right, wrong))
    code, output = play(site, *ONLY_VALIDATE, example)
    assert code != 0
    assert reason in output


def test_example_playbook_of_jupyter_kernels_runs(site: InstalledCollection, tmp_path: Path) -> None:
    """The lab runs it on a real host; see tests/collection."""
    example = write_example(site, "jupyter_kernels")
    prefix = tmp_path / "jupyter"
    code, output = play(site, "--check", example, jupyter_kernels_path=str(prefix))
    assert code == 0, output
    assert not prefix.exists()
    code, output = play(site, example, jupyter_kernels_path=str(prefix))
    assert code == 0, output
    assert json.loads((prefix / "kernels" / "python3" / "kernel.json").read_text())["display_name"] == "Python 3"
    code, output = play(site, example, jupyter_kernels_path=str(prefix))
    assert code == 0, output
    assert re.search(r"node1 +: ok=\d+ +changed=0 ", output)


def test_site_playbook_of_the_collection_validates_an_inventory(site: InstalledCollection) -> None:
    """The wiring in group_vars and the package are found beside the installed playbooks."""
    inventory = site.path / "inventories" / "example_slurm"
    options = ("-i", str(inventory), "-e", '{"vault_sso_client_secret": "d41d8cd98f00b204"}')
    done = site.run("ansible-playbook", *options, f"{NAME}.validate")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("installed", [True, False], ids=["collection", "package-alone"])
def test_command_finds_its_collection(site: InstalledCollection, tmp_path: Path, *, installed: bool) -> None:
    source = site.path / "src"
    if not installed:
        source = tmp_path / "site-packages"
        shutil.copytree(site.path / "src", source)
    program = (
        f"import os, sys; sys.path.insert(0, {str(source)!r}); del os.environ['ANSIBLE_COLLECTIONS_PATH']\n"
        "from hpchub.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    done = site.run("python", "-c", program, "check", site.path / "inventories" / "example_slurm")
    if installed:
        assert "'vault_sso_client_secret' is undefined" in done.stdout
        assert done.stderr.endswith("1 problem\n")
    else:
        assert "does not find the collection hpchub.hpchub" in done.stderr


def test_checkout_is_a_collection() -> None:
    assert (ROOT / "collections" / "ansible_collections" / "hpchub" / "hpchub").resolve() == ROOT


# Plugins


def test_every_plugin_is_documented(collection: InstalledCollection) -> None:
    modules = sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*.py"))
    for kind, names in (("module", modules), ("filter", filters())):
        done = collection.run("ansible-doc", "--json", "-t", kind, *(f"{NAME}.{name}" for name in names))
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert set(found) == {f"{NAME}.{name}" for name in names}
        for name, page in found.items():
            assert page["doc"]["short_description"], name
            assert page["doc"]["description"], name
            assert NAME in page["examples"], name
            assert page["return"], name
            assert all(option["description"] for option in page["doc"]["options"].values()), name


def filters() -> list[str]:
    """Return the names of all filters."""
    names: list[str] = []
    for path in (ROOT / "plugins" / "filter").glob("*.py"):
        plugin = import_module(f"ansible_collections.{NAME}.plugins.filter.{path.stem}")
        names += plugin.FilterModule().filters()
    return sorted(names)


def test_every_action_has_a_documented_module() -> None:
    actions = {path.stem for path in (ROOT / "plugins" / "action").glob("*.py")}
    assert actions <= {path.stem for path in (ROOT / "plugins" / "modules").glob("*.py")}


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("-m", f"{NAME}.validate_site"), id="action"),
        pytest.param(("-m", "ansible.builtin.debug", "-a", f"msg={{{{ {{}} | {NAME}.site }}}}"), id="filter"),
    ],
)
def test_missing_python_package_is_reported_with_its_remedy(
    site: InstalledCollection, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    package = tmp_path / "src" / "pydantic"
    package.mkdir(parents=True)
    package.joinpath("__init__.py").write_text('raise ImportError("No module named pydantic", name="pydantic")\n')
    # The plugins put src/ of their collection first on the path. In this copy, a broken pydantic is there too.
    copy = tmp_path / "collections" / "ansible_collections" / "hpchub" / "hpchub"
    shutil.copytree(site.path, copy, symlinks=True)
    shutil.copytree(tmp_path / "src", copy / "src", dirs_exist_ok=True)
    broken = InstalledCollection(site.directory, tmp_path / "collections")
    done = broken.run("ansible", "-i", "hosts.json", "node1", *arguments)
    assert done.returncode != 0
    output = re.sub(r"\s+", " ", done.stdout + done.stderr)
    assert "has no module 'pydantic', which hpchub needs" in output
    assert "-m pip install babel cryptography pydantic" in output
