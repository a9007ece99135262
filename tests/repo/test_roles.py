"""What holds for every role: its arguments are specified, its names are its own, its handlers are like no other's."""

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
SPECIFIED = [role for role in ROLES if (role / "meta" / "argument_specs.yml").exists()]


def load(path):
    return (yaml.safe_load(path.read_text()) if path.exists() else None) or {}


def specs(role):
    return load(role / "meta" / "argument_specs.yml")["argument_specs"]


def options(role):
    found = {}
    for spec in specs(role).values():
        found |= spec.get("options", {})
    return found


def yaml_files(role):
    return [path for path in role.rglob("*.yml") if "files" not in path.relative_to(role).parts]


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_the_skeleton(role):
    for name in ("defaults/main.yml", "meta/main.yml", "meta/argument_specs.yml", "tasks/main.yml", "README.md"):
        assert (role / name).is_file(), name


@pytest.mark.parametrize("role", SPECIFIED, ids=lambda role: role.name)
def test_an_argument_has_a_default_or_is_required(role):
    required = {name for name, option in options(role).items() if option.get("required")}
    defaults = set(load(role / "defaults" / "main.yml"))
    assert not required & defaults
    assert set(options(role)) == required | defaults


@pytest.mark.parametrize("role", SPECIFIED, ids=lambda role: role.name)
def test_a_default_is_what_the_specification_says(role):
    defaults = load(role / "defaults" / "main.yml")
    for name, option in options(role).items():
        # A default that is computed has words for it in the specification.
        if "default" in option and "{{" not in str(defaults[name]):
            assert defaults[name] == option["default"], name


@pytest.mark.parametrize("role", SPECIFIED, ids=lambda role: role.name)
def test_every_argument_is_described(role):
    def check(found, where):
        for name, option in found.items():
            assert option.get("description"), f"{where}{name}"
            check(option.get("options", {}), f"{where}{name}.")

    for spec in specs(role).values():
        assert spec.get("short_description")
        check(spec.get("options", {}), "")


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_names_are_the_role_s_own(role):
    for directory in ("defaults", "vars"):
        for path in sorted((role / directory).glob("*.yml")) if (role / directory).is_dir() else []:
            for name in load(path):
                assert name.removeprefix("__").startswith(f"{role.name}_"), f"{path.relative_to(ROOT)}: {name}"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_role_reads_its_own_variables_only(role):
    others = [f"{other.name}_" for other in ROLES if other != role and not role.name.startswith(other.name)]
    # An argument that is passed on to an included role is written, not read: "name:" at a line's beginning.
    for path in [*yaml_files(role), *role.rglob("*.j2")]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for expression in re.findall(r"\{\{.*?\}\}|\{%.*?%\}|\b(?:when|loop|that|until):.*", line):
                where = f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
                assert not re.search(r"(?<![\w.])(?:hpc_\w+|groups\[|vault_\w+)", expression), where
                for prefix in others:
                    assert not re.search(rf"(?<![\w./'\"-]){prefix}\w+", expression), where


def test_handlers_have_names_of_their_own():
    """Of two handlers with one name Ansible runs the last that it loaded."""
    names = Counter(
        handler["name"] for role in ROLES for path in (role / "handlers").glob("*.yml") for handler in load(path)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_a_notified_handler_exists():
    known = {
        word
        for role in ROLES
        for path in (role / "handlers").glob("*.yml")
        for handler in load(path)
        for word in [handler["name"], *([handler["listen"]] if isinstance(handler.get("listen"), str) else [])]
    }

    def tasks(found):
        for task in found or []:
            yield task
            for part in ("block", "rescue", "always"):
                yield from tasks(task.get(part))

    for role in ROLES:
        for path in (role / "tasks").rglob("*.yml"):
            for task in tasks(load(path)):
                notified = task.get("notify", [])
                for name in [notified] if isinstance(notified, str) else notified:
                    assert "{{" in name or name in known, f"{path.relative_to(ROOT)}: {name}"
