"""Every role specifies its arguments, reads only its own variables and has unique handler names."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
SPECIFIED = [role for role in ROLES if (role / "meta" / "argument_specs.yml").exists()]


def load(path: Path) -> Any:
    return (yaml.safe_load(path.read_text()) if path.exists() else None) or {}


def specs(role: Path) -> dict[str, Any]:
    found: dict[str, Any] = load(role / "meta" / "argument_specs.yml")["argument_specs"]
    return found


def options(role: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for spec in specs(role).values():
        found |= spec.get("options", {})
    return found


def yaml_files(role: Path) -> list[Path]:
    return [path for path in role.rglob("*.yml") if "files" not in path.relative_to(role).parts]


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_role_has_the_required_files(role: Path) -> None:
    for name in ("defaults/main.yml", "meta/main.yml", "meta/argument_specs.yml", "tasks/main.yml", "README.md"):
        assert (role / name).is_file(), name


@pytest.mark.parametrize("role", SPECIFIED, ids=lambda role: role.name)
def test_every_argument_has_a_default_or_is_required(role: Path) -> None:
    required = {name for name, option in options(role).items() if option.get("required")}
    defaults = set(load(role / "defaults" / "main.yml"))
    assert not required & defaults
    assert set(options(role)) == required | defaults


@pytest.mark.parametrize("role", SPECIFIED, ids=lambda role: role.name)
def test_defaults_match_the_specification(role: Path) -> None:
    defaults = load(role / "defaults" / "main.yml")
    for name, option in options(role).items():
        # The specification describes a computed default in words.
        if "default" in option and "{{" not in str(defaults[name]):
            assert defaults[name] == option["default"], name


@pytest.mark.parametrize("role", SPECIFIED, ids=lambda role: role.name)
def test_every_argument_is_described(role: Path) -> None:
    def check(found: Any, where: str) -> None:
        for name, option in found.items():
            assert option.get("description"), f"{where}{name}"
            check(option.get("options", {}), f"{where}{name}.")

    for spec in specs(role).values():
        assert spec.get("short_description")
        check(spec.get("options", {}), "")


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_variable_names_start_with_the_role_name(role: Path) -> None:
    for directory in ("defaults", "vars"):
        for path in sorted((role / directory).glob("*.yml")) if (role / directory).is_dir() else []:
            for name in load(path):
                assert name.removeprefix("__").startswith(f"{role.name}_"), f"{path.relative_to(ROOT)}: {name}"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_role_reads_only_its_own_variables(role: Path) -> None:
    others = [f"{other.name}_" for other in ROLES if other != role and not role.name.startswith(other.name)]
    # A role may pass arguments to an included role. Their names precede the expressions, so they are not found here.
    for path in [*yaml_files(role), *role.rglob("*.j2")]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for expression in re.findall(r"\{\{.*?\}\}|\{%.*?%\}|\b(?:when|loop|that|until):.*", line):
                where = f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
                assert not re.search(r"(?<![\w.])(?:hpc_\w+|groups\[|vault_\w+)", expression), where
                for prefix in others:
                    assert not re.search(rf"(?<![\w./'\"-]){prefix}\w+", expression), where


def test_handler_names_are_unique() -> None:
    """If two handlers have the same name, Ansible runs only the one that it loaded last."""
    names = Counter(
        handler["name"] for role in ROLES for path in (role / "handlers").glob("*.yml") for handler in load(path)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_notified_handlers_exist() -> None:
    known = {
        word
        for role in ROLES
        for path in (role / "handlers").glob("*.yml")
        for handler in load(path)
        for word in [handler["name"], *([handler["listen"]] if isinstance(handler.get("listen"), str) else [])]
    }

    def tasks(found: Any) -> Iterator[dict[str, Any]]:
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


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_handlers_contain_no_rescue(role: Path) -> None:
    """Ansible ignores "rescue" and "always" in the tasks of a handler."""
    for path in (role / "handlers").glob("*.yml"):
        assert not [task["name"] for task in load(path) if {"rescue", "always"} & task.keys()], path
