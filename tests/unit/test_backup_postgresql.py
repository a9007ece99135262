"""Backups and upgrades of a hub with a real PostgreSQL server."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from backup_host import FakeUnits, keygen, make_database, make_environments, make_host, needs_age
from postgresql_server import Server, needs_server
from sqlalchemy.engine import make_url

from hpchub.backup.create import create
from hpchub.backup.database import HubDatabase, known_revisions, read_version
from hpchub.backup.package import BackupError
from hpchub.backup.restore import Options, restore, undo_last
from hpchub.backup.upgrade import prepare, rollback
from hpchub.cli.check_clusters import query_database

if TYPE_CHECKING:
    from pathlib import Path

    from hpchub.backup.host import Host

pytestmark = [
    pytest.mark.slow,
    needs_server,
    needs_age,
]

HEAD, OLD = known_revisions()[:2]
DOWNGRADE = f"ALTER TABLE spawners DROP COLUMN display_name; UPDATE alembic_version SET version_num = '{OLD}'"


@pytest.fixture
def host(server: Server, tmp_path: Path, key: Path) -> Host:
    """A host with one open session."""
    made = make_host(tmp_path / "host", [keygen(key)], url=server.url)
    make_database(made, "a" * 16)
    return made


def test_restored_database_equals_the_saved_one(host: Host, server: Server, key: Path) -> None:
    facts, path = host.database.facts(), create(host)
    server.sql("DELETE FROM hpchub_sessions; UPDATE users SET name = 'bob'; CREATE TABLE newer (id integer)")
    units = FakeUnits({"hub"})
    restore(host, units, path, key, Options(force=True))
    assert host.database.facts() == facts
    assert server.sql("SELECT name FROM users") == "alice"
    # Tables of a newer version are gone, because they would be in the way of the next upgrade.
    assert server.sql("SELECT to_regclass('newer')") == ""
    undo_last(host, units, force=True)
    assert server.sql("SELECT name FROM users") == "bob"
    assert server.sql("SELECT to_regclass('newer')") == "newer"


def test_undo_empties_a_database_that_was_empty(host: Host, server: Server, key: Path) -> None:
    path = create(host)
    server.empty()
    restore(host, FakeUnits(), path, key, Options())
    assert server.sql("SELECT name FROM users") == "alice"
    undo_last(host, FakeUnits(), force=True)
    assert server.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == "0"


def test_password_of_the_database_is_neither_saved_nor_restored(host: Host, server: Server, key: Path) -> None:
    """It may have been rotated after the backup. The role state_store writes it."""
    password = host.state / "pgpass"
    password.write_text("the former password\n")
    former = create(host)  # of a version that saved the file
    url = make_url(server.url).update_query_dict({"passfile": str(password)}).render_as_string(hide_password=False)
    host = replace(host, hub={**host.hub, "db_url": url})
    password.write_text("the new password\n")
    restore(host, FakeUnits(), former, key, Options(force=True))
    assert password.read_text() == "the new password\n"
    assert not [member for member in host.members() if "pgpass" in member.name]


def test_hub_in_use_is_replaced_only_with_force(host: Host, key: Path) -> None:
    with pytest.raises(BackupError, match=r"database survived, use --keep-database .*; otherwise, use --force"):
        restore(host, FakeUnits({"hub"}), create(host), key, Options())


def test_broken_dump_changes_nothing(host: Host, server: Server, tmp_path: Path) -> None:
    (tmp_path / "dump.sql").write_text("CREATE TABLE users (id integer);\nSELECT nonsense;\n")
    with pytest.raises(BackupError, match=r"psql failed: .*nonsense"):
        host.database.load(tmp_path / "dump.sql")
    assert server.sql("SELECT name FROM users") == "alice"


def test_server_that_does_not_answer_is_reported(host: Host, server: Server) -> None:
    server.stop()
    try:
        with pytest.raises(BackupError, match="nothing listens on its socket; start PostgreSQL"):
            create(host)
    finally:
        server.start()


def test_upgrade_and_rollback_of_the_schema(host: Host, server: Server, tmp_path: Path) -> None:
    environments = make_environments(tmp_path)
    server.sql(DOWNGRADE)
    prepare(host, FakeUnits({"hub"}), environments)
    assert (host.database.facts().schema, host.database.facts().sessions) == (HEAD, frozenset({"a" * 16}))
    rollback(host, FakeUnits(), environments, force=True)
    assert (host.database.facts().schema, host.database.facts().sessions) == (OLD, frozenset({"a" * 16}))


def test_failed_upgrade_puts_the_old_database_back(host: Host, server: Server, tmp_path: Path) -> None:
    server.sql(f"{DOWNGRADE}; ALTER TABLE spawners RENAME TO other")
    units = FakeUnits({"hub"})
    with pytest.raises(BackupError, match="the upgrade of JupyterHub's tables failed"):
        prepare(host, units, make_environments(tmp_path))
    assert host.database.facts().schema == OLD
    assert server.sql("SELECT to_regclass('other')") == "other"
    assert units.running == {"hub"}


def test_interrupted_restore_leaves_the_old_database(
    host: Host, server: Server, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = create(host)
    server.sql("UPDATE users SET name = 'bob'")
    (host.work.parent / "state/cookie_secret").write_text("other")
    monkeypatch.setattr("hpchub.backup.restore.write_member", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        restore(host, FakeUnits(), path, key, Options(force=True))
    assert server.sql("SELECT name FROM users") == "bob"


def test_password_is_in_no_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def run(argv: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        seen.extend(argv)
        if "--version" in argv:
            return subprocess.CompletedProcess(argv, 0, b"pg_dump (PostgreSQL) 15.13\n", b"")
        raise FileNotFoundError

    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setattr("hpchub.backup.database.read_version", lambda _: 15)
    database = HubDatabase(
        "postgresql+psycopg://hub:geheim@db.example/hub?sslmode=verify-full&require_auth=scram-sha-256"
    )
    with pytest.raises(BackupError, match="pg_dump is missing"):
        database.dump(tmp_path / "dump")
    assert "geheim" not in " ".join(seen)
    assert "postgresql://hub@db.example/hub?sslmode=verify-full" in seen


def test_pg_dump_that_is_older_than_the_server_is_reported(
    host: Host, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpchub.backup.database.read_version", lambda _: 15)
    give_program(tmp_path, monkeypatch, "pg_dump (PostgreSQL) 14.9")
    ok, line = query_database(server.url)
    assert not ok
    assert line == (
        f"the hub's database hub on {server.directory} cannot be saved: its server is PostgreSQL 15, and pg_dump on the"
        " hub host is version 14; valid is version 15 or newer; install the package postgresql-client-15 on the hub"
        " host"
    )
    with pytest.raises(BackupError, match=r"install the package postgresql-client-15 on the hub host$"):
        create(host)
    for version in ("15.13 (Debian 15.13-0+deb12u1)", "16beta1"):
        give_program(tmp_path, monkeypatch, f"pg_dump (PostgreSQL) {version}")
        assert query_database(server.url)[0]


def test_program_that_is_no_pg_dump_is_reported(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_program(tmp_path, monkeypatch, "something else")
    ok, line = query_database(server.url)
    assert not ok
    assert line.startswith("pg_dump --version prints ")


def test_versions_of_a_real_server_and_its_program_are_compared(server: Server) -> None:
    assert str(read_version(server.url)) == server.sql("SHOW server_version").partition(".")[0]
    assert query_database(server.url)[0]


def give_program(directory: Path, monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    """Put a program pg_dump on the path that prints a version."""
    program = directory / "bin" / "pg_dump"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\necho '{output}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
