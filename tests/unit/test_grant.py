"""The saved form of what a session was granted. After an upgrade or a rollback, a hub of another version reads it."""

from __future__ import annotations

from typing import Any

import pytest
from hub_app import GRANT

from hpchub.hub.grant import SavedJob, read_grant, saved_job, write_grant
from hpchub.model.places import LocalPlace

JOB = {"session": "a" * 16, "job_id": "7"}


def test_saved_grant_has_no_default_values() -> None:
    saved = write_grant(*read_grant(GRANT))
    assert {"key", "cluster"} <= set(saved["profile"]) < set(GRANT["profile"]) | {"display_name"}
    assert "max_wait" not in saved["profile"]
    assert read_grant(saved) == read_grant(GRANT)


def test_saved_grant_has_no_choices() -> None:
    chosen = {**GRANT["profile"], "adjustable": {"cores": {"max": 4}}}
    saved = write_grant(*read_grant({**GRANT, "profile": chosen}))
    assert "adjustable" not in saved["profile"]


def test_saved_grant_names_the_kind_of_its_place() -> None:
    profile, _ = read_grant(GRANT)
    written = {
        "name": "here",
        "kind": "local",
        "host": "hub",
        "networks": ["10.0.0.0/8"],
        "cores": 4,
        "memory": "8G",
        "max_cores": 2,
        "max_memory": "4G",
        "max_runtime": "1-00:00:00",
    }
    place = LocalPlace.model_validate(written)
    saved = write_grant(profile, place)
    assert saved["place"] == written
    assert read_grant(saved) == (profile, place)


def test_fields_of_a_later_version_are_ignored() -> None:
    later: dict[str, Any] = {
        "profile": {**GRANT["profile"], "later": 1},
        "cluster": {**GRANT["cluster"], "later": 1, "submit": {**GRANT["cluster"]["submit"], "later": 1}},
    }
    assert read_grant(later) == read_grant(GRANT)


@pytest.mark.parametrize(
    ("state", "job"),
    [
        ({"grant": {"cluster": {"name": "demo"}}, "job": JOB}, SavedJob("a" * 16, "demo", "7")),
        ({"grant": {"place": {"name": "docker"}}, "job": JOB}, SavedJob("a" * 16, "docker", "7")),
        ({"grant": {"cluster": {"name": "demo"}}}, None),
        ({"grant": {}, "job": JOB}, None),
        ({"outcome": {}}, None),
        ({}, None),
    ],
    ids=["cluster", "place", "no-job", "nowhere", "no-session", "empty"],
)
def test_job_of_a_saved_state(state: dict[str, Any], job: SavedJob | None) -> None:
    assert saved_job(state) == job
