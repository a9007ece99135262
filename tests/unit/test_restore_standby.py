"""Restores on a host that was a standby: it has started no session, so its secrets need no protection."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest
import yaml
from backup_host import FakeUnits, change_secrets, keygen, make_database, make_host
from hub_app import make_authority
from repo.sites import ROOT

from hpchub.backup import host as hosts
from hpchub.backup.create import create
from hpchub.backup.package import BackupError
from hpchub.backup.restore import Options, restore, undo_last

if TYPE_CHECKING:
    from pathlib import Path

    from hpchub.backup.host import Host

pytestmark = pytest.mark.skipif(shutil.which("age") is None, reason="age is not installed")

KEEP = Options(keep_database=True)
FIRST = "first-cookie-secret\n"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return tmp_path / "key.txt"


@pytest.fixture
def host(tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host with one open session, and an authority that is older than this session."""
    monkeypatch.setattr(hosts, "STANDBY", tmp_path / "standby")
    monkeypatch.setattr(hosts, "FORMER_STANDBY", tmp_path / "former-standby")
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


def cease(host: Host, when: float) -> None:
    """Let the host cease to be a standby, as the role jupyterhub does."""
    hosts.STANDBY.unlink(missing_ok=True)
    hosts.FORMER_STANDBY.touch()
    os.utime(hosts.FORMER_STANDBY, (when, when))


def secret(host: Host) -> str:
    return (host.state / "cookie_secret").read_text()


def test_secrets_of_a_former_standby_are_replaced_without_force(host: Host, key: Path, backup: Path) -> None:
    with pytest.raises(BackupError, match="has started open sessions with its present secrets"):
        restore(host, FakeUnits({"hub"}), backup, key, KEEP)
    cease(host, time.time() + 3600)
    restore(host, FakeUnits({"hub"}), backup, key, KEEP)
    assert secret(host) == FIRST


def test_secrets_of_a_standby_are_replaced_without_force(host: Host, key: Path, backup: Path) -> None:
    hosts.STANDBY.touch()
    restore(host, FakeUnits(), backup, key, KEEP)
    assert secret(host) == FIRST


def test_sessions_since_the_end_of_the_standby_are_lost_only_with_force(host: Host, key: Path, backup: Path) -> None:
    cease(host, time.time())  # before the session
    for options in (KEEP, Options()):
        with pytest.raises(BackupError, match="use --force"):
            restore(host, FakeUnits({"hub"}), backup, key, options)
    assert secret(host) != FIRST


def test_host_is_no_former_standby_after_the_restore(host: Host, key: Path, backup: Path) -> None:
    cease(host, time.time() + 3600)
    units = FakeUnits({"hub"})
    restore(host, units, backup, key, KEEP)
    assert not hosts.FORMER_STANDBY.exists()
    assert "a" * 16 in host.database.facts().sessions
    (host.state / "cookie_secret").write_text("third")
    with pytest.raises(BackupError, match="use --force"):
        restore(host, units, create(host), key, KEEP)
    # The undo brings back the secrets of the standby. With them, this host has started no session.
    undo_last(host, units)
    assert hosts.FORMER_STANDBY.stat().st_mtime >= time.time() - 60
    start(host, "a" * 16, time.time() - 3600)
    restore(host, units, backup, key, KEEP)


def test_restore_that_fails_keeps_the_knowledge(host: Host, key: Path, backup: Path, tmp_path: Path) -> None:
    cease(host, time.time() + 3600)
    keygen(tmp_path / "other.txt")
    with pytest.raises(BackupError, match="encrypted for somebody else"):
        restore(host, FakeUnits({"hub"}), backup, tmp_path / "other.txt", KEEP)
    restore(host, FakeUnits({"hub"}), backup, key, KEEP)
    assert secret(host) == FIRST


def test_role_records_when_a_host_ceases_to_be_a_standby() -> None:
    role = ROOT / "roles/jupyterhub"
    variables = yaml.safe_load((role / "vars/main.yml").read_text())
    for name, path in (("standby", "/etc/hpchub/standby"), ("former_standby", "/etc/hpchub/former-standby")):
        assert variables[f"__jupyterhub_{name}_file"] == (
            "{{ __jupyterhub_config_directory }}/" + path.rpartition("/")[2]
        )
    (files,) = [
        task["hpchub.hpchub.write_files"]["files"]
        for task in yaml.safe_load((role / "tasks/configure.yml").read_text())
        if task["name"] == "Write the hub's settings, configuration and unit"
    ]
    paths = [entry["path"] for entry in files]
    former, marker = "{{ __jupyterhub_former_standby_file }}", "{{ __jupyterhub_standby_file }}"
    # An interruption between the two must not lose the knowledge.
    assert paths.index(former) + 1 == paths.index(marker)
    assert files[paths.index(former)]["state"] == (
        "{{ 'absent' if jupyterhub_standby else 'file' if __jupyterhub_was_standby.stat.exists else 'kept' }}"
    )
