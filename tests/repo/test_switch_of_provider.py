"""The role reverse_proxy removes what a former provider has left, and only when Apache no longer needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROLE = Path(__file__).resolve().parents[2] / "roles" / "reverse_proxy"
TASKS: list[dict[str, Any]] = yaml.safe_load((ROLE / "tasks" / "configure.yml").read_text())
VARIABLES: dict[str, Any] = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())
PROVIDERS: dict[str, dict[str, Any]] = VARIABLES["__reverse_proxy_providers"]


def test_files_of_a_former_provider_stay_until_apache_has_another_configuration() -> None:
    """Apache's test of a configuration fails if the current one names a directory or file that is missing."""
    names = [task["name"] for task in TASKS]
    switched = names.index("Write the public and the cluster-side virtual hosts")
    removed = [name for name in names if name.startswith("Remove ")]
    assert len(removed) >= 5
    assert min(names.index(name) for name in removed) > switched


def test_modules_of_a_former_provider_stay_too() -> None:
    of_providers = {module for provider in PROVIDERS.values() for module in provider["modules"]}
    assert not of_providers & set(VARIABLES["__reverse_proxy_unwanted_modules"])


@pytest.mark.parametrize(
    "path",
    [ROLE / "tasks" / "sign_on.yml", *sorted((ROLE / "tasks").glob("sso_*.yml"))],
    ids=lambda path: str(path.stem),
)
def test_no_task_before_that_removes_a_file(path: Path) -> None:
    tasks = yaml.safe_load(path.read_text())
    modules = [task.get("ansible.builtin.file", {}) for task in tasks]
    assert not [
        module for module in modules if module.get("state") == "absent" and "conf-enabled" not in module["path"]
    ]


@pytest.mark.parametrize("name", sorted(set(PROVIDERS) - {"hub", "saml", "shibboleth"}))
def test_sessions_of_a_provider_are_among_what_is_removed(name: str) -> None:
    assert PROVIDERS[name]["sessions"]
