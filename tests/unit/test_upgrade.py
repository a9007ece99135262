"""The upgrade of the hub's environment with real schemas of JupyterHub: failures leave the old version running."""

from __future__ import annotations

import json
import shutil
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from backup_host import FakeUnits, keygen, make_database, make_host

from hpchub.backup import upgrade
from hpchub.backup.create import backups
from hpchub.backup.database import known_revisions
from hpchub.backup.package import BackupError, read_header
from hpchub.backup.upgrade import finish, is_unfinished, prepare, recover, rollback

if TYPE_CHECKING:
    from pathlib import Path

    from hpchub.backup.host import Host

HEAD, OLD = known_revisions()[:2]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host with one open session and the schema of the previous JupyterHub."""
    made = make_host(tmp_path / "host", [])
    make_database(made, "a" * 16)
    statements(
        made,
        "ALTER TABLE spawners DROP COLUMN display_name",
        f"UPDATE alembic_version SET version_num = '{OLD}'",
    )
    return made


@pytest.fixture
def environments(tmp_path: Path) -> Path:
    """An environment in use, and the next one."""
    for name in ("old", "new"):
        (tmp_path / "hub" / "envs" / name / "bin").mkdir(parents=True)
        (tmp_path / "hub" / "envs" / name / "bin" / "jupyterhub").touch()
    (tmp_path / "hub" / "current").symlink_to("envs/old")
    (tmp_path / "hub" / "next").symlink_to("envs/new")
    return tmp_path / "hub"


def statements(host: Host, *each: str) -> None:
    with sqlite3.connect(host.database.path) as connection:
        for statement in each:
            connection.execute(statement)
    connection.close()


def switch(environments: Path) -> None:
    """Switch to the next environment, as the role does."""
    (environments / "current").unlink()
    (environments / "current").symlink_to("envs/new")


def start_session(host: Host, name: str) -> None:
    statements(
        host,
        "INSERT INTO hpchub_sessions (session, user, cluster, job_id, started)"
        f" VALUES ('{name}', 'alice', 'demo', '2', 2)",
    )


def test_schema_is_upgraded_while_the_hub_is_stopped(host: Host, environments: Path) -> None:
    units = FakeUnits({"hub"})
    message = prepare(host, units, environments)
    assert message == f"upgraded the database from the schema {OLD} to {HEAD}"
    assert host.database.facts().schema == HEAD
    assert host.database.facts().sessions == {"a" * 16}
    assert units.calls == ["stop hub", "start hub later"]
    assert is_unfinished(host)
    finish(host)
    assert not is_unfinished(host)


@pytest.mark.skipif(shutil.which("age") is None, reason="age is not installed")
def test_backup_is_made_before_the_schema_changes(host: Host, environments: Path, tmp_path: Path) -> None:
    host = replace(host, recipients=[keygen(tmp_path / "key")])
    prepare(host, FakeUnits({"hub"}), environments)
    (made,) = backups(host)
    assert read_header(made).schema == OLD


@pytest.mark.skipif(shutil.which("age") is None, reason="age is not installed")
def test_upgrade_without_its_backup_does_not_happen(host: Host, environments: Path) -> None:
    units = FakeUnits({"hub"})
    with pytest.raises(BackupError, match="age cannot encrypt"):
        prepare(replace(host, recipients=["age1wrong"]), units, environments)
    assert host.database.facts().schema == OLD
    assert units.running == {"hub"}


def test_failed_upgrade_leaves_the_old_version_running(host: Host, environments: Path) -> None:
    statements(host, "ALTER TABLE spawners RENAME TO other")
    before, units = host.database.path.read_bytes(), FakeUnits({"hub"})
    with pytest.raises(BackupError, match="the upgrade of JupyterHub's tables failed"):
        prepare(host, units, environments)
    assert host.database.path.read_bytes() == before
    assert units.running == {"hub"}
    assert not is_unfinished(host)
    assert [path.name for path in host.work.iterdir()] == ["lock"]


def test_same_schema_stops_nothing(host: Host, environments: Path) -> None:
    statements(host, f"UPDATE alembic_version SET version_num = '{HEAD}'")
    units = FakeUnits({"hub"})
    assert prepare(host, units, environments) == "the schema of the database has not changed"
    assert units.calls == []


def test_database_of_a_newer_version_is_refused(host: Host, environments: Path) -> None:
    statements(host, "UPDATE alembic_version SET version_num = '0123456789ab'")
    units = FakeUnits({"hub"})
    with pytest.raises(BackupError, match="schema 0123456789ab, which this version does not know"):
        prepare(host, units, environments)
    assert units.calls == []


def test_repeated_deployment_keeps_the_rollback_point(host: Host, environments: Path) -> None:
    prepare(host, FakeUnits({"hub"}), environments)
    assert prepare(host, FakeUnits(), environments) == "the upgrade continues"
    switch(environments)
    rollback(host, FakeUnits(), environments)
    assert host.database.facts().schema == OLD


def test_rollback_returns_to_environment_settings_and_schema(
    host: Host, environments: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = host.reference[0]
    settings.write_text(json.dumps({"version": "old"}))
    monkeypatch.setattr(upgrade, "UNIT", host.work.parent / "unit")
    (host.work.parent / "unit").write_text("old")
    prepare(host, FakeUnits({"hub"}), environments)
    switch(environments)
    settings.write_text(json.dumps({"version": "new"}))
    (host.work.parent / "unit").write_text("new")
    finish(host)
    units = FakeUnits({"hub"})
    rollback(host, units, environments)
    assert str((environments / "current").readlink()) == "envs/old"
    assert (host.database.facts().schema, host.database.facts().sessions) == (OLD, frozenset({"a" * 16}))
    assert json.loads(settings.read_text()) == {"version": "old"}
    assert (host.work.parent / "unit").read_text() == "old"
    assert units.calls == ["stop hub", "reload units", "start hub"]
    with pytest.raises(BackupError, match="there is no rollback point"):
        rollback(host, units, environments)


def test_rollback_keeps_the_database_if_its_schema_did_not_change(host: Host, environments: Path) -> None:
    statements(host, f"UPDATE alembic_version SET version_num = '{HEAD}'")
    prepare(host, FakeUnits({"hub"}), environments)
    switch(environments)
    finish(host)
    start_session(host, "b" * 16)
    rollback(host, FakeUnits({"hub"}), environments)
    assert host.database.facts().sessions == {"a" * 16, "b" * 16}


def test_rollback_forgets_newer_sessions_only_with_force(host: Host, environments: Path) -> None:
    prepare(host, FakeUnits({"hub"}), environments)
    switch(environments)
    finish(host)
    start_session(host, "b" * 16)
    units = FakeUnits({"hub"})
    with pytest.raises(BackupError, match="up to 1 open sessions that started since then"):
        rollback(host, units, environments)
    assert units.calls == []
    assert host.database.facts().schema == HEAD
    rollback(host, units, environments, force=True)
    assert host.database.facts().sessions == {"a" * 16}


def test_rollback_without_the_old_environment_is_refused(host: Host, environments: Path) -> None:
    prepare(host, FakeUnits({"hub"}), environments)
    switch(environments)
    shutil.rmtree(environments / "envs" / "old")
    with pytest.raises(BackupError, match="is gone; deploy the former version"):
        rollback(host, FakeUnits({"hub"}), environments)
    assert host.database.facts().schema == HEAD


def test_upgrade_that_broke_off_before_the_switch_is_undone_before_the_hub_starts(
    host: Host, environments: Path
) -> None:
    prepare(host, FakeUnits({"hub"}), environments)
    assert recover(host, environments)
    assert (host.database.facts().schema, host.database.facts().sessions) == (OLD, frozenset({"a" * 16}))
    assert not recover(host, environments)


def test_upgrade_that_broke_off_after_the_switch_is_left_to_the_new_version(host: Host, environments: Path) -> None:
    prepare(host, FakeUnits({"hub"}), environments)
    switch(environments)
    assert not recover(host, environments)
    assert host.database.facts().schema == HEAD
