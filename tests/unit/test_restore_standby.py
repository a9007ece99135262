"""Restores on a host that was a standby: it has started no session, so its secrets need no protection."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest
from backup_host import FakeUnits, change_secrets, keygen, make_database, make_host, needs_age
from hub_app import make_authority

from hpchub.backup import host as hosts
from hpchub.backup.create import create
from hpchub.backup.package import BackupError
from hpchub.backup.restore import Options, restore

if TYPE_CHECKING:
    from pathlib import Path

    from hpchub.backup.host import Host

pytestmark = needs_age

KEEP = Options(keep_database=True)
FIRST = "first-cookie-secret\n"


@pytest.fixture
def host(tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host with one open session, and an authority that is older than this session."""
    monkeypatch.setattr(hosts, "STANDBY", tmp_path / "standby")
    made = make_host(tmp_path / "host", [keygen(key)])
    (tmp_path / "host/etc/notebook-tls/current.pem").unlink()
    make_authority(tmp_path / "host/etc/notebook-tls")
    make_database(made, "a" * 16)
    start(made, "a" * 16, time.time() + 60)
    return made


@pytest.fixture
def backup(host: Host) -> Path:
    """The backup of the lost host. This host then has other secrets."""
    path = create(host)
    change_secrets(host.work.parent)
    return path


def start(host: Host, session: str, when: float) -> None:
    """Set when a session began."""
    with contextlib.closing(sqlite3.connect(host.database.path)) as connection, connection:
        connection.execute("UPDATE hpchub_sessions SET started = ? WHERE session = ?", (when, session))


def secret(host: Host) -> str:
    return (host.state / "cookie_secret").read_text()


def renew_authority(host: Host) -> None:
    """Give the host a new authority, as ``hub.yml`` does when a standby becomes the hub host."""
    directory = host.work.parent / "etc/notebook-tls"
    shutil.rmtree(directory)
    make_authority(directory)


def test_secrets_of_a_standby_are_replaced_without_force(host: Host, key: Path, backup: Path) -> None:
    with pytest.raises(BackupError, match="has started open sessions with its present secrets"):
        restore(host, FakeUnits({"hub"}), backup, key, KEEP)
    hosts.STANDBY.touch()
    restore(host, FakeUnits(), backup, key, KEEP)
    assert secret(host) == FIRST


def test_secrets_of_a_former_standby_are_replaced_without_force(host: Host, key: Path, backup: Path) -> None:
    start(host, "a" * 16, time.time() - 60)
    renew_authority(host)
    restore(host, FakeUnits({"hub"}), backup, key, KEEP)
    assert secret(host) == FIRST


def test_sessions_since_the_end_of_the_standby_are_lost_only_with_force(host: Host, key: Path, backup: Path) -> None:
    renew_authority(host)
    for options in (KEEP, Options()):
        with pytest.raises(BackupError, match="use --force"):
            restore(host, FakeUnits({"hub"}), backup, key, options)
    assert secret(host) != FIRST
