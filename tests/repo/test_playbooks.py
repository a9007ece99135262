"""The order and the conditions in playbooks that must never leave the hub with an empty database. Labs run them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml
from repo.sites import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator


def plays(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((ROOT / "playbooks" / name).read_text())
    return found


def flat(tasks: list[dict[str, Any]], *parts: str) -> Iterator[dict[str, Any]]:
    """Return all tasks, with those of the named parts of blocks."""
    for task in tasks:
        yield task
        for part in parts:
            yield from flat(task.get(part, []), *parts)


def test_migration_accepts_a_hub_that_answers_with_a_problem() -> None:
    tasks = {
        task["name"]: task for play in plays("migrate_state_store.yml") for task in flat(play.get("tasks", []), "block")
    }
    assert tasks["Wait until the hub answers"]["ansible.builtin.uri"]["status_code"] == [200, 503]


def test_migration_does_not_go_back_after_the_hub_has_answered() -> None:
    (moving,) = [
        task for play in plays("migrate_state_store.yml") for task in play.get("tasks", []) if "rescue" in task
    ]
    assert moving["block"][-1]["name"] == "Wait until the hub answers"


def test_migration_puts_an_unused_copy_away_so_that_it_can_be_repeated() -> None:
    (moving,) = [
        task for play in plays("migrate_state_store.yml") for task in play.get("tasks", []) if "rescue" in task
    ]
    names = [task["name"] for task in moving["rescue"]]
    assert names.index("Start the hub with its former database") < names.index("Put the copy away")


def test_migration_removes_the_rollback_point_before_it_retires_the_former_database() -> None:
    names = [task["name"] for play in plays("migrate_state_store.yml") for task in flat(play.get("tasks", []), "block")]
    assert names.index("Remove the rollback point") < names.index("Put the former database away")


def test_unit_of_the_hub_starts_without_the_files_of_optional_secrets() -> None:
    """A rollback may bring the unit back after metrics or the canary were switched off."""
    unit = (ROOT / "roles/jupyterhub/templates/jupyterhub.service.j2").read_text()
    for optional in ("metrics", "canary"):
        assert re.search(rf"^EnvironmentFile=-{{{{ __jupyterhub_{optional}_token_file }}}}$", unit, re.MULTILINE), (
            optional
        )
