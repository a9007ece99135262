"""The upgrade of the hub's environment with real schemas of JupyterHub: failures leave the old version running."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from backup_host import FakeUnits, keygen, make_database, make_environments, make_host, needs_age

from hpchub.backup import upgrade
from hpchub.backup.create import backups
from hpchub.backup.database import known_revisions
from hpchub.backup.host import Units
from hpchub.backup.package import BackupError, read_header
from hpchub.backup.upgrade import finish, is_unfinished, prepare, read_point, recover, rollback, undo

if TYPE_CHECKING:
    from collections.abc import Callable
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
    return make_environments(tmp_path)


def statements(host: Host, *each: str) -> None:
    with sqlite3.connect(host.database.path) as connection:
        for statement in each:
            connection.execute(statement)
    connection.close()


def switch(environments: Path) -> None:
    """Switch to the next environment, as the role does."""
    (environments / "current").unlink()
    (environments / "current").symlink_to((environments / "next").readlink())


def build(environments: Path, name: str) -> None:
    """Build another environment, as the role does."""
    (environments / "envs" / name / "bin").mkdir(parents=True)
    (environments / "envs" / name / "bin" / "jupyterhub").touch()
    (environments / "next").unlink()
    (environments / "next").symlink_to(f"envs/{name}")


def in_use(environments: Path) -> str:
    return (environments / "current").readlink().name


def start_hub(host: Host, environments: Path, *, after_the_switch: bool) -> FakeUnits:
    """Let a hub answer on its socket, which it created before or after the switch of the environment."""
    path = host.state.parent / "hub.sock"
    path.touch()
    at = (environments / "current").lstat().st_mtime + (1 if after_the_switch else -1)
    os.utime(path, (at, at))
    return FakeUnits({"hub"}, hub_answers=True)


class Killed(BaseException):
    """The program ends at once and cleans up nothing."""


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that lets the program end when it calls a function of the module ``upgrade``."""

    def arrange(function: str) -> None:
        def die(*_: object, **__: object) -> None:
            raise Killed

        monkeypatch.setattr(upgrade, function, die)
        monkeypatch.setattr(upgrade, "_abandon", lambda *_, **__: None)

    return arrange


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
    assert units.calls == ["start hub later", "stop hub"]
    assert is_unfinished(host)
    finish(host)
    assert not is_unfinished(host)


@needs_age
def test_backup_is_made_before_the_schema_changes(host: Host, environments: Path, tmp_path: Path) -> None:
    host = replace(host, recipients=[keygen(tmp_path / "key")])
    prepare(host, FakeUnits({"hub"}), environments)
    (made,) = backups(host)
    assert read_header(made).schema == OLD


@needs_age
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


def test_rollback_point_tells_since_when_the_old_version_was_in_use(host: Host, environments: Path) -> None:
    os.utime(environments / "current", (1000, 1000), follow_symlinks=False)
    prepare(host, FakeUnits({"hub"}), environments)
    point = read_point(host)
    assert point
    assert point.since == 1000


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
    with pytest.raises(BackupError, match="1 open sessions that started since then"):
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


def test_rollback_to_settings_with_another_database_is_refused(host: Host, environments: Path) -> None:
    """The former database may be empty or gone: the hub would know no session."""
    prepare(host, FakeUnits({"hub"}), environments)
    switch(environments)
    finish(host)
    moved = host.state / "moved.sqlite"
    shutil.copy(host.database.path, moved)
    host, units = replace(host, hub={**host.hub, "db_url": f"sqlite:///{moved}"}), FakeUnits({"hub"})
    with pytest.raises(BackupError, match=r"uses the database .*moved\.sqlite now; .* deploy the former version"):
        rollback(host, units, environments, force=True)
    assert (in_use(environments), units.calls) == ("new", [])


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


@pytest.mark.parametrize("function", ["save_files", "Point", "upgrade_database"])
def test_deployment_after_one_that_broke_off_before_the_switch_begins_anew(
    host: Host, environments: Path, kill: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    with monkeypatch.context():
        kill(function)
        with pytest.raises(Killed):
            prepare(host, FakeUnits({"hub"}), environments)
        assert host.database.facts().schema == OLD
        monkeypatch.undo()
    units = FakeUnits()
    assert prepare(host, units, environments) == f"upgraded the database from the schema {OLD} to {HEAD}"
    assert units.calls == ["reload units", "start hub", "start hub later", "stop hub"]
    switch(environments)
    rollback(host, FakeUnits(), environments)
    assert (in_use(environments), host.database.facts().schema) == ("old", OLD)


@pytest.mark.parametrize("function", ["save_files", "Point", "upgrade_database"])
def test_undo_of_a_deployment_that_broke_off_before_the_switch(
    host: Host, environments: Path, kill: Callable[[str], None], function: str
) -> None:
    units = FakeUnits({"hub"})
    kill(function)
    with pytest.raises(Killed):
        prepare(host, units, environments)
    assert undo(host, units, environments) == "The hub runs with the environment envs/old again."
    assert units.running == {"hub"}
    assert (host.database.facts().schema, is_unfinished(host), read_point(host)) == (OLD, False, None)
    assert undo(host, units, environments) == ""


def test_undo_after_the_switch_returns_to_the_old_version(host: Host, environments: Path) -> None:
    units = FakeUnits({"hub"})
    prepare(host, units, environments)
    switch(environments)
    assert undo(host, units, environments) == "The hub runs with the environment envs/old again."
    assert (in_use(environments), host.database.facts().schema, units.running) == ("old", OLD, {"hub"})


def test_undo_leaves_a_finished_upgrade(host: Host, environments: Path) -> None:
    prepare(host, FakeUnits({"hub"}), environments)
    switch(environments)
    finish(host)
    assert undo(host, FakeUnits({"hub"}), environments) == ""
    assert in_use(environments) == "new"


@pytest.mark.parametrize("running", ["nothing", "the old version"])
def test_next_version_replaces_the_old_one_if_the_version_between_has_never_worked(
    host: Host, environments: Path, running: str
) -> None:
    prepare(host, FakeUnits({"hub"}), environments)
    switch(environments)
    units = start_hub(host, environments, after_the_switch=False) if running != "nothing" else FakeUnits()
    build(environments, "newer")
    prepare(host, units, environments)
    switch(environments)
    rollback(host, FakeUnits(), environments)
    assert (in_use(environments), host.database.facts().schema) == ("old", OLD)


def test_next_version_replaces_the_one_that_works_although_its_deployment_broke_off(
    host: Host, environments: Path
) -> None:
    prepare(host, FakeUnits({"hub"}), environments)
    switch(environments)
    start_session(host, "b" * 16)
    units = start_hub(host, environments, after_the_switch=True)
    build(environments, "newer")
    assert prepare(host, units, environments) == "the schema of the database has not changed"
    assert units.calls == []
    switch(environments)
    rollback(host, FakeUnits(), environments)
    assert in_use(environments) == "new"
    assert host.database.facts().sessions == {"a" * 16, "b" * 16}


def test_sessions_prove_that_a_version_has_worked(host: Host, environments: Path) -> None:
    """They would be forgotten, so that the database stays, although the hub does not answer now."""
    prepare(host, FakeUnits({"hub"}), environments)
    switch(environments)
    start_session(host, "b" * 16)
    build(environments, "newer")
    prepare(host, FakeUnits(), environments)
    assert in_use(environments) == "new"
    assert host.database.facts().sessions == {"a" * 16, "b" * 16}


def test_old_version_after_an_upgrade_that_broke_off_needs_no_preparation(host: Host, environments: Path) -> None:
    prepare(host, FakeUnits({"hub"}), environments)
    switch(environments)
    (environments / "next").unlink()
    (environments / "next").symlink_to("envs/old")
    units = FakeUnits()
    assert "has returned to this version" in prepare(host, units, environments)
    assert (in_use(environments), host.database.facts().schema, units.running) == ("old", OLD, {"hub"})


@pytest.mark.parametrize("function", ["put_back", "_switch", "_forget"])
def test_rollback_that_broke_off_can_be_repeated(
    host: Host, environments: Path, monkeypatch: pytest.MonkeyPatch, kill: Callable[[str], None], function: str
) -> None:
    prepare(host, FakeUnits({"hub"}), environments)
    switch(environments)
    finish(host)
    kill(function)
    with pytest.raises(Killed):
        rollback(host, FakeUnits({"hub"}), environments)
    monkeypatch.undo()
    units = FakeUnits()
    rollback(host, units, environments)
    assert (in_use(environments), host.database.facts().schema, units.running) == ("old", OLD, {"hub"})


def test_hub_answers_on_its_socket(tmp_path: Path) -> None:
    path, units = tmp_path / "hub.sock", Units()
    url = f"http+unix://{quote(str(path), safe='')}"
    assert not units.answers(url)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")

        with ThreadPoolExecutor(1) as pool:
            pool.submit(serve)
            assert units.answers(url)
    assert not units.answers(url)
