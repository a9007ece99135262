"""The order and the conditions in playbooks that must never leave the hub with an empty database. Labs run them."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from repo.sites import ROOT, SITE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from repo.conftest import Ansible


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


OWN = {"state_store_host": "db1", "state_store_password": "a:b", "state_store_ca": "CA1\n"}
FORMER = {"state_store_former_passwords": "db0:5432:hpchub:jupyterhub:c\n", "state_store_former_ca": "CA0\n"}
BUNDLE = {"__state_store_bundle": {"stdout": "AUTHORITIES\n"}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "passwords", "authorities"),
    [
        (OWN, r"db1:5432:hpchub:jupyterhub:a\:b", "CA1"),
        (OWN | FORMER, "db1:5432:hpchub:jupyterhub:a\\:b\ndb0:5432:hpchub:jupyterhub:c", "CA1\nCA0"),
        (OWN | FORMER | BUNDLE | {"state_store_ca": ""}, None, "AUTHORITIES\nCA0"),
        (OWN | {"state_store_ca": ""}, None, "link"),
        (FORMER | {"state_store_backend": "sqlite"}, "db0:5432:hpchub:jupyterhub:c", "CA0"),
        ({"state_store_backend": "sqlite"}, "absent", "absent"),
        ({"state_store_location": "hub"}, "absent", "absent"),
    ],
    ids=["own host", "move", "move to known authorities", "known authorities", "move to a file", "file", "hub host"],
)
def test_hub_reaches_the_former_server_too_while_the_database_moves(
    ansible: Ansible, given: dict[str, Any], passwords: str | None, authorities: str
) -> None:
    """Without the former password, the hub would lose its database, and nothing could be copied."""
    role = ROOT / "roles/state_store"
    (writing,) = [
        task
        for task in yaml.safe_load((role / "tasks/client.yml").read_text())
        if task["name"] == "Write the password file and the server's authority"
    ]
    password, _, authority = writing["hpchub.hpchub.write_files"]["files"]
    variables = {
        **yaml.safe_load((role / "defaults/main.yml").read_text()),
        **yaml.safe_load((role / "vars/main.yml").read_text()),
        **writing["vars"],
        "state_store_backend": "postgresql",
        "state_store_location": "own_host",
        **given,
        "written": [[each["state"], each["content"]] for each in (password, authority)],
    }
    done = ansible(
        *("ansible", "localhost", "--module-name", "debug", "--args", "msg=({{ written | to_json | b64encode }})"),
        *("--extra-vars", json.dumps(variables)),
    )
    found = re.search(r"\(([A-Za-z0-9+/=]+)\)", done.stdout)
    assert found, done.stdout + done.stderr
    for (state, content), wanted in zip(json.loads(b64decode(found[1])), (passwords, authorities), strict=True):
        if wanted in {"absent", "link"}:
            assert state == wanted
        elif wanted is not None:
            assert (state, content) == ("file", f"{wanted}\n")


def test_migration_reads_the_access_to_the_former_server_before_it_changes() -> None:
    (preparing,) = [
        task
        for play in plays("migrate_state_store.yml")
        for task in play.get("tasks", [])
        if task["name"] == "Prepare the new database"
    ]
    names = [task["name"] for task in preparing["block"]]
    assert names.index("Read how the hub reaches the former server") < names.index("Set up the state store")
    store = preparing["block"][names.index("Set up the state store")]
    assert store["vars"].keys() == FORMER.keys()


def test_unit_of_the_hub_starts_without_the_files_of_optional_secrets() -> None:
    """A rollback may bring the unit back after metrics or the canary were switched off."""
    unit = (ROOT / "roles/jupyterhub/templates/jupyterhub.service.j2").read_text()
    for optional in ("metrics", "canary"):
        assert re.search(rf"^EnvironmentFile=-{{{{ __jupyterhub_{optional}_token_file }}}}$", unit, re.MULTILINE), (
            optional
        )


def imports(name: str) -> dict[str, dict[str, Any]]:
    """Return the imported playbooks in their order, each with its variables."""
    imported = "ansible.builtin.import_playbook"
    return {play[imported]: play.get("vars", {}) for play in plays(name) if imported in play}


def test_database_admits_the_standby_before_its_hub_starts() -> None:
    order = list(imports("takeover.yml"))
    assert order.index("state_store.yml") < order.index("hub.yml")


def test_settings_of_a_standby_do_not_prevent_its_deployment() -> None:
    """The database may have moved since standby.yml or the former hub has run. A hub that has sessions is refused."""
    (play,) = plays("hub.yml")
    (refusal,) = [task for task in play["tasks"] if task["name"] == "Refuse to give the hub another database"]
    assert "not (hpchub_was_standby.stat.exists or hpchub_standby | default(false) | bool)" in refusal["when"]


def test_standby_is_installed_as_one_and_the_hub_host_is_not() -> None:
    assert imports("standby.yml")["hub.yml"] == {"hpchub_standby": True}
    assert "hpchub_standby" not in imports("takeover.yml")["hub.yml"]


def test_standby_keeps_no_database_of_a_former_hub() -> None:
    """With an old database, a takeover would take this host for a hub in use."""
    tasks = {task["name"]: task for play in plays("standby.yml") for task in play.get("tasks", [])}
    database = tasks["Put the database of a former hub away"]
    assert database["when"] == "state_store_backend == 'sqlite' or state_store_location == 'hub'"


def test_takeover_starts_with_a_new_authority() -> None:
    """A standby may be old. The sessions that the lost hub has started since then must not look like its own."""
    (play,) = plays("hub.yml")
    names = [task["name"] for task in play["tasks"]]
    removal = "Remove the authority of a standby, or of a former hub that became one"
    order = ("Check whether this host is a standby", removal, "Create the certificate authority of notebook servers")
    assert sorted(order, key=names.index) == list(order)
    (task,) = [task for task in play["tasks"] if task["name"] == removal]
    assert task["when"] == "hpchub_was_standby.stat.exists"
    looking = play["tasks"][names.index(order[0])]
    assert set(task["tags"]) <= set(looking["tags"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("store", "kept"),
    [
        ({"backend": "sqlite"}, False),
        ({"backend": "postgresql"}, False),
        ({"backend": "postgresql", "location": "own_host"}, True),
        (
            {"backend": "postgresql", "location": "existing", "host": "db.example.org", "password": "d41d8cd98f00b204"},
            True,
        ),
    ],
    ids=["sqlite", "hub host", "own host", "existing server"],
)
def test_takeover_keeps_a_database_that_is_on_another_host(ansible: Ansible, store: dict[str, Any], kept: bool) -> None:
    expression = imports("takeover.yml")["hub.yml"]["keep_database"].removeprefix("{{").removesuffix("}}")
    done = ansible(
        *("ansible", "hub", "--inventory", SITE, "--playbook-dir", ROOT / "playbooks", "--module-name", "debug"),
        *(
            "--args",
            f"msg=({{{{ ({expression}) | to_json }}}})",
            "--extra-vars",
            json.dumps({"hpc_state_store": store}),
        ),
    )
    assert f"({str(kept).lower()})" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("standby", [True, False])
def test_standby_has_neither_hub_nor_canary_nor_backups(ansible: Ansible, standby: bool) -> None:
    request = {
        "hpchub_standby": standby,
        "hpc_canary": {"enabled": True, "user": "canary"},
        "hpc_backup": {"recipients": ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"]},
    }
    values = "[jupyterhub_standby, backup_recipients | length]"
    done = ansible(
        *("ansible", "hub", "--inventory", SITE, "--playbook-dir", ROOT / "playbooks", "--module-name", "debug"),
        *("--args", f"msg=({{{{ {values} | to_json }}}})", "--extra-vars", json.dumps(request)),
    )
    assert f"([{str(standby).lower()}, {0 if standby else 1}])" in done.stdout, done.stdout + done.stderr


def test_role_keeps_a_standby_from_serving() -> None:
    tasks = ROOT / "roles/jupyterhub/tasks"
    service = {task["name"]: task for task in flat(yaml.safe_load((tasks / "service.yml").read_text()), "block")}
    unit = service["Start jupyterhub, or keep a standby from starting it"]["ansible.builtin.systemd_service"]
    assert unit["enabled"] == "{{ not jupyterhub_standby }}"
    assert unit["state"] == "{{ 'stopped' if jupyterhub_standby else 'started' }}"
    handler, *_ = yaml.safe_load((ROOT / "roles/jupyterhub/handlers/main.yml").read_text())
    assert (
        handler["ansible.builtin.systemd_service"]["state"] == "{{ 'stopped' if jupyterhub_standby else 'restarted' }}"
    )
    for file, name in (
        ("upgrade.yml", "Save the old version, and upgrade the database"),
        ("main.yml", "Return to the old version if an upgrade has begun"),
        ("service.yml", "Wait until the hub answers on its socket"),
    ):
        found = {task["name"]: task for task in flat(yaml.safe_load((tasks / file).read_text()), "block", "rescue")}
        assert "not jupyterhub_standby" in found[name]["when"], name
    canary = yaml.safe_load((ROOT / "roles/jupyterhub/vars/main.yml").read_text())["__jupyterhub_canary"]
    assert canary.endswith("combine({'enabled': false} if jupyterhub_standby else {}) }}")


def test_kernels_are_checked_in_site_yml_only_on_request() -> None:
    """Their sessions take minutes."""
    tasks = {
        task["ansible.builtin.import_tasks"]: task
        for play in plays("check.yml")
        for task in play["tasks"][-1:]
        if "ansible.builtin.import_tasks" in task
    }
    assert tasks["tasks/check_kernels.yml"]["when"] == "check_kernels | default(false) | bool"
    assert all("check" in play["tags"] for play in plays("check.yml"))
    assert plays("check_kernels.yml")[-1]["tasks"][0]["ansible.builtin.import_tasks"] == "tasks/check_kernels.yml"
