"""Backups of the hub host with the real programs age and sqlite: what they contain, and what a restore refuses."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from backup_host import (
    SECRETS,
    FakeUnits,
    change_secrets,
    keygen,
    make_database,
    make_host,
    needs_age,
    repack,
    state_of,
)
from hub_app import make_authority

from hpchub import __version__
from hpchub.backup import host as hosts
from hpchub.backup import journal as journals
from hpchub.backup import package
from hpchub.backup import restore as restoring
from hpchub.backup.create import backups, create
from hpchub.backup.database import HubDatabase, known_revisions
from hpchub.backup.package import BackupError, newer, read_header
from hpchub.backup.restore import Interrupted, Options, restore, undo_last, undo_unfinished
from hpchub.cli import main as cli

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpchub.backup.host import Host

pytestmark = needs_age


@pytest.fixture
def new_host(tmp_path: Path, recipient: str) -> Host:
    """A host that site.yml has just built: other secrets, and a database that nobody has used."""
    made = make_host(tmp_path / "new", [recipient])
    change_secrets(tmp_path / "new")
    make_database(made)
    # The paths in a backup are those of the host, so the new host lies at the same place in this test.
    return made


@pytest.fixture
def move(tmp_path: Path) -> Callable[[], None]:
    """Return a function that replaces the host by the new host, as if the old one were lost."""

    def act() -> None:
        shutil.rmtree(tmp_path / "host")
        (tmp_path / "new").rename(tmp_path / "host")

    return act


def root(host: Host) -> Path:
    return host.work.parent


def users(host: Host) -> list[str]:
    with sqlite3.connect(host.database.path) as connection:
        found = [row[0] for row in connection.execute("SELECT name FROM users")]
    connection.close()
    return found


def status(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((host.state / "backup-status.json").read_text())
    return found


# The backup


def test_backup_holds_every_secret_encrypted_and_none_in_clear(host: Host, key: Path, tmp_path: Path) -> None:
    path = create(host)
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"first-" not in path.read_bytes()
    (tmp_path / "out").mkdir()
    manifest, members = package.extract(path, tmp_path / "out", key)
    assert {f"files{root(host)}/{name}" for name in SECRETS} < set(members)
    assert set(manifest.members) == set(members)
    assert (manifest.hub, manifest.hpchub, manifest.schema) == ("hub.example.org", __version__, known_revisions()[0])
    assert manifest.database == host.database.facts().id


def test_backup_contains_rows_that_are_only_in_the_write_ahead_log(host: Host, key: Path, tmp_path: Path) -> None:
    with sqlite3.connect(host.database.path) as running:
        running.execute("PRAGMA journal_mode=WAL")
        running.execute("UPDATE users SET name = 'bob'")
        running.commit()
        running.execute("UPDATE users SET name = 'half'")  # not committed
        path = create(host)
        running.rollback()
    running.close()
    (tmp_path / "out").mkdir()
    _, members = package.extract(path, tmp_path / "out", key)
    with sqlite3.connect(members["database.sqlite"].source) as copy:
        assert copy.execute("SELECT name FROM users").fetchall() == [("bob",)]
    copy.close()


def test_standby_makes_no_backup(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "STANDBY", tmp_path / "standby")
    (tmp_path / "standby").touch()
    with pytest.raises(BackupError, match=r"this host is a standby, .*; run this command on the hub host"):
        create(host)
    assert backups(host) == []
    assert not (host.state / "backup-status.json").exists()
    (tmp_path / "standby").unlink()
    create(host)


def test_status_and_number_of_kept_backups(host: Host) -> None:
    made = [create(host) for _ in range(5)]
    assert backups(host) == made[:1:-1]
    assert status(host).keys() == {"time", "ok", "file"}
    assert (status(host)["ok"], status(host)["file"]) == (True, made[-1].name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipients": []}, "no recipients"),
        ({"recipients": ["age1wrong"]}, "check hpc_backup.recipients"),
        ({"copy_command": ["sh", "-c", "echo no space left >&2; exit 3", "{file}"]}, "exit code 3: no space left"),
        ({"copy_command": ["/nonexistent", "{file}"]}, "No such file"),
    ],
    ids=["no-recipients", "invalid-recipient", "copy-fails", "no-copy-program"],
)
def test_failed_backup_is_recorded_and_keeps_the_last_good_one(
    host: Host, change: dict[str, Any], message: str
) -> None:
    good = create(host)
    with pytest.raises(BackupError, match=message):
        create(replace(host, **change))
    assert status(host)["ok"] is False
    assert good in backups(host)
    # Nothing that is not encrypted remains.
    assert [path.name for path in host.work.iterdir()] == ["lock"]
    assert all(path in backups(host) for path in host.directory.iterdir())


def test_copy_command_gets_the_file(host: Host, tmp_path: Path) -> None:
    path = create(replace(host, copy_command=["cp", "{file}", str(tmp_path / "elsewhere")]))
    assert (tmp_path / "elsewhere").read_bytes() == path.read_bytes()


def test_secrets_never_appear_in_argument_lists(host: Host, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    start = subprocess.Popen

    def watch(argv: list[Any], **more: Any) -> Any:
        seen.extend(map(str, argv))
        return start(argv, **more)

    monkeypatch.setattr(subprocess, "Popen", watch)
    restore(host, FakeUnits(), create(host), key.read_bytes(), Options(force=True))
    assert "--decrypt" in seen
    assert not [word for word in seen if "AGE-SECRET" in word or "first-" in word]


# The restore


def test_new_host_gets_the_state_of_the_lost_one(
    host: Host, new_host: Host, move: Callable[[], None], key: Path, tmp_path: Path
) -> None:
    before, identity = state_of(root(host)), host.database.facts().id
    path = create(host).rename(tmp_path / "kept")
    move()
    units = FakeUnits({"hub", "proxy", "web"})
    restore(host, units, path, key, Options())
    after = state_of(root(host))
    for name in SECRETS:
        # The gates accept the keys of the new host.
        assert (after[name] == before[name]) == (name != "etc/ssh/demo"), name
    assert (host.database.facts().id, users(host)) == (identity, ["alice"])
    assert units.calls == ["stop hub", "restart proxy", "reload web", "start hub"]


def test_host_without_keys_for_the_gates_gets_those_of_the_lost_one(host: Host, key: Path) -> None:
    path = create(host)
    shutil.rmtree(host.gate_keys)
    restore(host, FakeUnits(), path, key, Options(force=True))
    assert (host.gate_keys / "demo").read_text() == "first-gate-key\n"


def test_restored_state_can_be_undone(host: Host, key: Path) -> None:
    path = create(host)
    change_secrets(root(host))
    with sqlite3.connect(host.database.path) as connection:
        connection.execute("UPDATE users SET name = 'bob'")
    connection.close()
    before = state_of(root(host))
    restore(host, FakeUnits(), path, key, Options(force=True))
    assert state_of(root(host)) != before
    undo_last(host, FakeUnits())
    assert {**state_of(root(host)), "state/jupyterhub.sqlite": None} == {**before, "state/jupyterhub.sqlite": None}
    assert users(host) == ["bob"]
    with pytest.raises(BackupError, match="no restore that could be undone"):
        undo_last(host, FakeUnits())


def test_restore_on_the_same_host_does_not_interrupt_the_proxy(host: Host, key: Path) -> None:
    units = FakeUnits({"hub"})
    restore(host, units, create(host), key, Options(force=True))
    assert units.calls == ["stop hub", "start hub"]


def test_sign_ons_of_a_host_that_keeps_its_key_are_left_alone(host: Host, key: Path) -> None:
    path = create(host)
    (host.sign_on_sessions / "mod-auth-openidc-1").unlink()  # the user has signed out meanwhile
    restore(host, FakeUnits(), path, key, Options(force=True))
    assert not list(host.sign_on_sessions.iterdir())


def test_last_restore_is_not_repeated_without_force(host: Host, key: Path) -> None:
    """A deployment that failed after the restore is repeated with the same arguments."""
    first, units = create(host), FakeUnits({"hub"})
    assert restore(host, units, first, key, Options(force=True))
    make_database(host, "b" * 16, user="bob")  # a session that started since
    before, units.calls = state_of(root(host)), []
    assert restore(host, units, first, key, Options()) is None
    assert (state_of(root(host)), units.calls) == (before, [])
    with pytest.raises(BackupError, match="use --force"):
        restore(host, units, create(host), key, Options())  # another backup
    assert restore(host, units, first, key, Options(force=True))
    assert host.database.facts().sessions == {"a" * 16}
    undo_last(host, units, force=True)
    with pytest.raises(BackupError, match="use --force"):
        restore(host, units, first, key, Options())  # it is not in use any more


def test_restore_after_the_loss_of_the_restored_database_is_judged_anew(host: Host, key: Path) -> None:
    path = create(host)
    restore(host, FakeUnits(), path, key, Options(force=True))
    host.database.path.unlink()
    make_database(host)
    assert restore(host, FakeUnits({"hub"}), path, key, Options())
    assert host.database.facts().sessions == {"a" * 16}


def test_sessions_since_the_restore_are_lost_only_with_force(host: Host, key: Path) -> None:
    units = FakeUnits({"hub"})
    restore(host, units, create(host), key, Options(force=True))
    make_database(host, "b" * 16, user="bob")
    before, units.calls = state_of(root(host)), []
    with pytest.raises(BackupError, match=r"does not know 1 open sessions .* use --force"):
        undo_last(host, units)
    assert (state_of(root(host)), units.calls) == (before, [])
    undo_last(host, units, force=True)
    assert host.database.facts().sessions == {"a" * 16}


def test_state_with_another_kind_of_database_does_not_come_back(host: Host, key: Path) -> None:
    units = FakeUnits({"hub"})
    restore(host, units, create(host), key, Options(force=True))
    units.calls.clear()
    moved = replace(host, hub={**host.hub, "db_url": "postgresql+psycopg://hub@db.example.org/hub"})
    with pytest.raises(BackupError, match="used a database of sqlite, and this hub uses postgresql now"):
        undo_last(moved, units, force=True)
    assert units.calls == []


@pytest.mark.parametrize(("age", "allowed"), [(3600, True), (-3600, False)])
def test_secrets_with_which_the_hub_started_sessions_are_replaced_only_with_force(
    host: Host, key: Path, age: float, allowed: bool
) -> None:
    """A new host reaches no session of its surviving database, because those began before its authority was made."""
    path = create(host)
    change_secrets(root(host))
    (root(host) / "etc/notebook-tls/current.pem").unlink()
    made = make_authority(root(host) / "etc/notebook-tls").since()
    with sqlite3.connect(host.database.path) as connection:
        connection.execute("UPDATE hpchub_sessions SET started = ?", (made.timestamp() - age,))
    connection.close()
    before, units = state_of(root(host)), FakeUnits({"hub"})
    if not allowed:
        with pytest.raises(BackupError, match=r"has started open sessions with its present secrets; .* use --force"):
            restore(host, units, path, key, Options(keep_database=True))
        assert (state_of(root(host)), units.calls) == (before, [])
    restore(host, units, path, key, Options(keep_database=True, force=not allowed))
    assert (root(host) / "state/cookie_secret").read_text() == "first-cookie-secret\n"


def test_secrets_of_a_hub_without_a_readable_authority_are_replaced_only_with_force(host: Host, key: Path) -> None:
    with pytest.raises(BackupError, match="use --force"):
        restore(host, FakeUnits({"hub"}), create(host), key, Options(keep_database=True))


def test_database_can_be_kept(host: Host, key: Path) -> None:
    path = create(host)
    change_secrets(root(host))
    with sqlite3.connect(host.database.path) as connection:
        connection.execute("UPDATE users SET name = 'bob'")
    connection.close()
    restore(host, FakeUnits({"hub"}), path, key, Options(keep_database=True, force=True))
    assert users(host) == ["bob"]
    assert (root(host) / "state/cookie_secret").read_text() == "first-cookie-secret\n"


def test_files_outside_the_hub_are_never_written(host: Host, key: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("before")
    path = create(replace(host, restored=[*host.restored, tmp_path / "other"]))
    (tmp_path / "other").write_text("after")
    (root(host) / "etc/hub.json").write_text('{"newer": true}\n')
    restore(host, FakeUnits(), path, key, Options(force=True))
    assert (tmp_path / "other").read_text() == "after"
    assert (root(host) / "etc/hub.json").read_text() == '{"newer": true}\n'


# Refusals


@pytest.mark.parametrize("part", [0, 100, 600, 5000, -20000, -600, -1])
def test_truncated_backup_is_refused(host: Host, key: Path, tmp_path: Path, part: int) -> None:
    cut = tmp_path / "cut"
    cut.write_bytes(create(host).read_bytes()[:part])
    before, units = state_of(root(host)), FakeUnits()
    with pytest.raises(BackupError, match="is truncated"):
        restore(host, units, cut, key, Options(force=True))
    assert (state_of(root(host)), units.calls) == (before, [])


def test_damaged_backup_is_refused(host: Host, key: Path) -> None:
    path = create(host)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BackupError, match="is damaged"):
        restore(host, FakeUnits(), path, key, Options(force=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": package.FORMAT + 1}, "of a newer version: its format is 2"),
        ({"hpchub": "99.0"}, "of a newer version: hpchub 99.0 made it"),
        ({"schema": "0123456789ab"}, "of a newer version: its database has the schema 0123456789ab"),
        ({"hub": "other.example.org"}, "of another site: it was made for the hub other.example.org"),
        ({"database": "0badcafe"}, "of another site, or of a former database"),
        ({"members": {}}, "is damaged: the SHA-256 of"),
    ],
    ids=["format", "version", "schema", "site", "database", "hash"],
)
def test_backup_with_other_facts_is_refused(
    host: Host, key: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = repack(create(host), tmp_path / "changed", host.recipients[0], key, tmp_path, **changes)
    before, units = state_of(root(host)), FakeUnits()
    with pytest.raises(BackupError, match=message):
        restore(host, units, path, key, Options(force=True))
    assert (state_of(root(host)), units.calls) == (before, [])


def test_header_that_disagrees_with_the_manifest_is_refused(host: Host, key: Path, tmp_path: Path) -> None:
    path, unpacked = create(host), tmp_path / "unpacked"
    unpacked.mkdir()
    subprocess.run(["tar", "-xf", path, "-C", unpacked], check=True)
    header = unpacked / "header.json"
    header.write_text(json.dumps(json.loads(header.read_text()) | {"time": 1}))
    subprocess.run(["tar", "-cf", path, "-C", unpacked, "header.json", "content.tar.age"], check=True)
    with pytest.raises(BackupError, match="was changed"):
        restore(host, FakeUnits(), path, key, Options(force=True))


def test_backup_for_somebody_else_is_refused(host: Host, tmp_path: Path) -> None:
    path, other = create(host), tmp_path / "other.txt"
    keygen(other)
    before, units = state_of(root(host)), FakeUnits()
    with pytest.raises(BackupError, match="is encrypted for somebody else"):
        restore(host, units, path, other, Options(force=True))
    assert (state_of(root(host)), units.calls) == (before, [])


@pytest.mark.parametrize(
    "content",
    [b"", b"# a comment\n", b"age1qqqq\n", b"AGE-SECRET-KEY-1QQQ\n", b"\xff\x00" * 99, b"x" * 200_000],
    ids=["empty", "comment", "public", "cut", "binary", "large"],
)
def test_unusable_key_is_named(host: Host, tmp_path: Path, content: bytes) -> None:
    """The name of this test must not contain the word that age's messages are searched for."""
    (tmp_path / "wrong").write_bytes(content)
    for identity in (tmp_path / "wrong", content):
        with pytest.raises(BackupError, match=r"^the identity cannot be used: [^/]*; give a file that age"):
            restore(host, FakeUnits(), create(host), identity, Options(force=True))
    with pytest.raises(BackupError, match=r"^the identity cannot be used: .*is a directory"):
        restore(host, FakeUnits(), create(host), tmp_path, Options(force=True))


def test_file_of_another_kind_is_refused(host: Host, key: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"\0" * 4096)
    with pytest.raises(BackupError, match="is not a backup of hpchub"):
        restore(host, FakeUnits(), tmp_path / "other", key, Options(force=True))
    with pytest.raises(BackupError, match="cannot be read: No such file"):
        read_header(tmp_path / "missing")


def test_hub_in_use_is_replaced_only_with_force(host: Host, key: Path) -> None:
    path, before = create(host), state_of(root(host))
    for units in (FakeUnits({"hub"}), FakeUnits()):  # running, or stopped with open sessions
        with pytest.raises(BackupError, match="use --force"):
            restore(host, units, path, key, Options())
        assert (state_of(root(host)), units.calls) == (before, [])
    restore(host, FakeUnits({"hub"}), path, key, Options(force=True))


def test_hub_that_runs_without_sessions_is_replaced_only_with_force(host: Host, key: Path) -> None:
    with sqlite3.connect(host.database.path) as connection:
        connection.execute("UPDATE hpchub_sessions SET ended = 2")
    connection.close()
    path, before, units = create(host), state_of(root(host)), FakeUnits({"hub"})
    with pytest.raises(BackupError, match=r"this hub is running and in use: .* use --force"):
        restore(host, units, path, key, Options())
    assert (state_of(root(host)), units.calls) == (before, [])
    restore(host, units, path, key, Options(force=True))
    assert units.calls == ["stop hub", "start hub"]


def test_database_that_replaced_a_lost_one_is_replaced_on_request(host: Host, key: Path) -> None:
    path, lost = create(host), host.database.facts().id
    host.database.path.unlink()
    make_database(host, "b" * 16)
    with pytest.raises(BackupError, match="use --other-database"):
        restore(host, FakeUnits(), path, key, Options(force=True))
    restore(host, FakeUnits(), path, key, Options(force=True, other_database=True))
    assert host.database.facts().id == lost


# Interruptions


@pytest.mark.parametrize("error", [Interrupted("SIGTERM"), KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("step", ["write_member", "load_database"])
def test_interrupted_restore_leaves_the_old_state(
    host: Host, key: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, step: str
) -> None:
    path = create(host)
    change_secrets(root(host))
    before, units = state_of(root(host)), FakeUnits({"hub"})
    real: Any = getattr(restoring, step)
    calls = 0

    def fail(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        late = host.journal.exists()
        calls += late
        if late and calls == (3 if step == "write_member" else 1):
            raise error
        return real(*arguments, **more)

    monkeypatch.setattr(restoring, step, fail)
    with pytest.raises(type(error)):
        restore(host, units, path, key, Options(force=True))
    assert calls
    database = "state/jupyterhub.sqlite"
    assert {**state_of(root(host)), database: None} == {**before, database: None}
    assert users(host) == ["alice"]
    assert "hub" in units.running


def test_restore_that_a_crash_interrupted_is_undone_before_the_hub_starts(
    host: Host, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = create(host)
    change_secrets(root(host))
    before = state_of(root(host))
    monkeypatch.setattr(journals, "undo", lambda _: None)  # the process is gone

    def crash(*_: Any) -> None:
        raise Interrupted

    monkeypatch.setattr(restoring, "write_member", crash)
    with pytest.raises(Interrupted):
        restore(host, FakeUnits(), path, key, Options(force=True))
    assert state_of(root(host)) != before
    monkeypatch.undo()
    assert undo_unfinished(host, FakeUnits())
    database = "state/jupyterhub.sqlite"
    assert {**state_of(root(host)), database: None} == {**before, database: None}
    assert not undo_unfinished(host, FakeUnits())


def test_backup_that_a_crash_interrupted_leaves_nothing_unencrypted(host: Host) -> None:
    host.work.mkdir(exist_ok=True)
    (host.work / "scratch-old").mkdir()
    (host.work / "scratch-old" / "database.sqlite").write_text("secret")
    host.directory.mkdir()
    (host.directory / ".hpchub-hub.example.org-20270101T000000.000000Z.tar.partial").write_text("part")
    path = create(host)
    assert list(host.directory.iterdir()) == [path]
    assert [path.name for path in host.work.iterdir()] == ["lock"]


def test_two_commands_do_not_run_at_once(host: Host) -> None:
    with host.locked(), pytest.raises(BackupError, match="another backup or restore is running"):
        create(host)


# Schema


def test_older_schema_is_upgraded_before_the_database_is_replaced(host: Host, key: Path) -> None:
    downgrade(host)
    path = create(host)
    restore(host, FakeUnits(), path, key, Options(force=True))
    assert host.database.facts().schema == known_revisions()[0]
    with sqlite3.connect(host.database.path) as connection:
        connection.execute("SELECT display_name FROM spawners")
    connection.close()


def downgrade(host: Host) -> None:
    """Give a database the previous schema of JupyterHub."""
    with sqlite3.connect(host.database.path) as connection:
        connection.execute("ALTER TABLE spawners DROP COLUMN display_name")
        connection.execute(f"UPDATE alembic_version SET version_num = '{known_revisions()[1]}'")
    connection.close()


def test_upgrade_that_fails_changes_nothing(host: Host, key: Path) -> None:
    downgrade(host)
    with sqlite3.connect(host.database.path) as connection:
        connection.execute("DROP TABLE spawners")  # the upgrade adds a column to it
    connection.close()
    path, before, units = create(host), state_of(root(host)), FakeUnits()
    with pytest.raises(BackupError, match=r"the upgrade of JupyterHub's tables failed: .*no such table"):
        restore(host, units, path, key, Options(force=True))
    assert (state_of(root(host)), units.calls) == (before, [])


@pytest.mark.parametrize(
    ("version", "than", "expected"),
    [
        ("1.0.0", "1.0.0rc1", True),
        ("1.0.0rc2", "1.0.0rc1", True),
        ("1.0.0rc1", "1.0.0rc1", False),
        ("1.0.0rc1", "1.0.0", False),
        ("1.10.0", "1.9.3", True),
        ("2.0", "10.0", False),
    ],
)
def test_order_of_versions(version: str, than: str, expected: bool) -> None:
    assert newer(version, than) is expected


def test_facts_of_a_database_that_does_not_exist(tmp_path: Path) -> None:
    assert HubDatabase(f"sqlite:///{tmp_path}/none").facts().new


def test_settings_of_the_role_are_those_that_the_commands_read(tmp_path: Path) -> None:
    variables = yaml.safe_load((Path(__file__).parents[2] / "roles/backup/vars/main.yml").read_text())
    expected = {each.name for each in fields(hosts.Host)} - {"hub"}
    assert set(variables["__backup_settings"]) == set(hosts.WITHOUT_SETTINGS) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may read the settings")
def test_settings_are_read_from_their_files(host: Host, tmp_path: Path) -> None:
    (tmp_path / "hub.json").write_text(json.dumps(host.hub))
    (tmp_path / "backup.json").write_text(json.dumps(hosts.WITHOUT_SETTINGS | {"keep": 7}))
    read = hosts.load(tmp_path / "hub.json", tmp_path / "backup.json")
    assert (read.name, read.keep, read.gate_keys) == (host.name, 7, Path("/etc/hpchub/ssh"))
    with pytest.raises(BackupError, match=r"run site\.yml, which writes it"):
        hosts.load(tmp_path / "hub.json", tmp_path / "none")
    with pytest.raises(BackupError, match="this is not the hub host"):
        hosts.load(tmp_path / "none")


# The commands


@pytest.fixture
def on_hub(host: Host, monkeypatch: pytest.MonkeyPatch) -> FakeUnits:
    """Let the commands run as on the hub host."""
    units = FakeUnits({"hub", "web"})
    monkeypatch.setattr(hosts, "load", lambda **_: host)
    monkeypatch.setattr(hosts, "Units", lambda: units)
    return units


def test_commands_save_verify_restore_and_undo(
    host: Host, on_hub: FakeUnits, key: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["backup"]) == 0
    path = capsys.readouterr().out.strip()
    assert cli.main(["restore", "--facts", path]) == 0
    assert capsys.readouterr().out.startswith("Backup of hub.example.org, made 20")
    assert cli.main(["restore", "--identity", str(key), path]) == 2
    assert "use --force" in capsys.readouterr().err
    assert cli.main(["restore", "--check", "--force", "--identity", str(key), path]) == 0
    assert "Nothing was changed." in capsys.readouterr().out
    assert on_hub.calls == []
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(key.read_bytes())))
    assert cli.main(["restore", "--force", "--identity", "-", path]) == 0
    assert on_hub.calls == ["stop hub", "start hub"]
    assert cli.main(["restore", "--undo"]) == 0
    assert cli.main(["restore", "--recover"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["restore"], "give --identity"),
        (["restore", "--identity", "/nonexistent"], "give the file of the backup"),
        (["restore", "--facts", "/nonexistent"], "cannot be read"),
        (["restore", "--undo"], "there is no restore that could be undone"),
        (["rollback"], "there is no rollback point on this host"),
        (["backup", "--recipient", "age1wrong"], "there is no new backup: age cannot encrypt"),
    ],
    ids=["no-key", "no-file", "missing-file", "nothing-to-undo", "nothing-to-roll-back", "wrong-recipient"],
)
def test_command_that_fails_tells_why(
    on_hub: FakeUnits, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_commands_on_another_host_name_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("backup", "rollback"):
        assert cli.main([command]) == 2
        assert re.search(r"not the hub host|as root", capsys.readouterr().err)


_WITH_LITTLE_MEMORY = """
import re, resource, sys
from pathlib import Path
from hpchub.backup.database import HubDatabase

used = int(re.search("VmData:\\s+([0-9]+)", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + 2**26, used + 2**26))
HubDatabase("sqlite:///" + sys.argv[1]).dump(Path(sys.argv[2]))
"""


def test_copy_of_a_large_database_does_not_need_as_much_memory(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "large") as connection:
        connection.execute("CREATE TABLE rows (content)")
        connection.executemany("INSERT INTO rows VALUES (zeroblob(1048576))", [()] * 128)
    connection.close()
    argv: list[str | Path] = [sys.executable, "-c", _WITH_LITTLE_MEMORY, tmp_path / "large", tmp_path / "copy"]
    subprocess.run(argv, check=True)
    assert (tmp_path / "copy").stat().st_size == (tmp_path / "large").stat().st_size
