"""Restores that a power failure, a crash or a fault interrupts: the hub never starts with a mixed state."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from backup_host import FakeUnits, change_secrets, needs_age, state_of
from repo.sites import ROOT

from hpchub.backup import host as hosts
from hpchub.backup import journal as journals
from hpchub.backup import restore as restoring
from hpchub.backup import upgrade
from hpchub.backup.create import backups, create
from hpchub.backup.database import HubDatabase
from hpchub.backup.package import BackupError
from hpchub.backup.restore import Options, restore, undo_last, undo_unfinished
from hpchub.cli import backup as commands
from hpchub.cli import main as cli

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hpchub.backup.host import Host

pytestmark = needs_age

CHANGES = ("replace", "unlink", "rename", "mkdir", "rmdir")
"""The functions of the module os that change a directory."""


@pytest.fixture
def on_hub(host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeUnits:
    """Let the commands run as on the hub host."""
    units = FakeUnits({"hub"})
    monkeypatch.setattr(hosts, "load", lambda **_: host)
    monkeypatch.setattr(hosts, "Units", lambda: units)
    monkeypatch.setattr(hosts, "environments", lambda: tmp_path / "environments")
    return units


def make_two_states(host: Host) -> Path:
    """Make a backup, and then give the host another state."""
    path = create(host)
    change_secrets(host.work.parent)
    (host.state / "more").write_text("a file that the backup lacks")
    (host.gate_keys / "demo").unlink()  # the restore brings it back
    with contextlib.closing(sqlite3.connect(host.database.path)) as connection, connection:
        connection.execute("UPDATE users SET name = 'bob'")
    return path


def content(host: Host) -> dict[str, Any]:
    """Return the files and the user in the database."""
    found = {name: value for name, value in state_of(host.work.parent).items() if name != "state/backup-status.json"}
    with contextlib.closing(sqlite3.connect(host.database.path)) as connection:
        found["state/jupyterhub.sqlite"] = connection.execute("SELECT name FROM users").fetchall()
    return found


def opened(number: int) -> str:
    """Return the path of an open file."""
    return str(Path(f"/proc/self/fd/{number}").readlink())


class PowerFailure(BaseException):
    """The machine is off. Nothing changes any more, whatever the process tries."""


class Machine(FakeUnits):
    """A machine that fails before or after one of its changes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failure: int) -> None:
        super().__init__({"hub"})
        self.failure, self.changes, self.off = failure, 0, False
        for name in CHANGES:
            monkeypatch.setattr(os, name, self._watch(getattr(os, name)))
        monkeypatch.setattr(os, "fsync", lambda _: None)  # it takes long, and another test checks it

    def _watch(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any, **more: Any) -> Any:
            self.step()
            return change(*arguments, **more)

        return act

    def step(self) -> None:
        self.changes += 1
        self.off = self.off or self.changes > self.failure
        if self.off:
            raise PowerFailure

    def stop(self, unit: str) -> None:
        self.step()
        super().stop(unit)

    def start(self, unit: str) -> None:
        self.step()
        super().start(unit)


def boot(host: Host, units: FakeUnits) -> None:
    """Do what systemd does when the hub is to start: run the service, and then check the drop-in of the hub."""
    if host.journal.exists():
        assert cli.main(["restore", "--recover"]) == 0
    assert not host.journal.exists()
    units.running.add("hub")


def failures(
    act: Callable[[Machine], object], monkeypatch: pytest.MonkeyPatch, reset: Callable[[], None]
) -> Iterator[int]:
    """Let an action fail at each of its steps, until it succeeds."""
    for step in range(1000):
        reset()
        with monkeypatch.context() as patch:
            machine = Machine(patch, step)
            try:
                act(machine)
            except PowerFailure:
                failed = True
            else:
                failed = False
        yield step
        if not failed:
            assert step > 20
            return
    raise AssertionError("it never succeeds")


def keep(path: Path) -> Callable[[], None]:
    """Return a function that brings a directory back to its present state."""
    copy = path.with_name("copy")
    shutil.copytree(path, copy, symlinks=True)

    def reset() -> None:
        shutil.rmtree(path)
        shutil.copytree(copy, path, symlinks=True)

    return reset


def test_after_a_power_failure_at_any_moment_of_a_restore_the_hub_has_one_whole_state(
    host: Host, key: Path, on_hub: FakeUnits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = make_two_states(host).rename(tmp_path / "kept")
    old = content(host)
    reset = keep(host.work.parent)
    restore(host, FakeUnits(), path, key, Options(force=True))
    new = content(host)
    assert old != new
    seen = set()
    for step in failures(lambda machine: restore(host, machine, path, key, Options(force=True)), monkeypatch, reset):
        interrupted = host.journal.exists()
        boot(host, on_hub)
        assert content(host) == (old if interrupted or content(host) == old else new), step
        seen.add((interrupted, content(host) == new))
    assert seen == {(False, False), (True, False), (False, True)}


def test_after_a_power_failure_at_any_moment_of_an_undo_the_hub_has_one_whole_state(
    host: Host, key: Path, on_hub: FakeUnits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = make_two_states(host).rename(tmp_path / "kept")
    old = content(host)
    restore(host, FakeUnits(), path, key, Options(force=True))
    new = content(host)
    reset = keep(host.work.parent)
    seen = set()
    for step in failures(lambda machine: undo_last(host, machine), monkeypatch, reset):
        interrupted = host.journal.exists()
        boot(host, on_hub)
        assert content(host) == (new if not interrupted and content(host) == new else old), step
        seen.add((interrupted, content(host) == new))
    assert seen == {(False, True), (True, False), (False, False)}


def test_each_change_is_on_the_disk_before_the_next_one(
    host: Host, key: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Otherwise, a power failure could keep a later change and lose an earlier one, such as the journal."""
    path = make_two_states(host).rename(tmp_path / "kept")
    events: list[tuple[str, str]] = []

    def watch(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any, **more: Any) -> Any:
            directory = more.get("dst_dir_fd", more.get("dir_fd"))
            target = arguments[-1] if name in ("replace", "rename") else arguments[0]
            done = real(*arguments, **more)
            if name == "fsync":
                events.append((name, opened(target)))
            elif directory is not None and not str(target).endswith(".hpchub-new"):
                events.append((name, opened(directory)))
            elif directory is None:
                events.append((name, str(Path(target).parent)))
            return done

        return act

    for name in ("replace", "unlink", "rename", "mkdir", "fsync"):
        monkeypatch.setattr(os, name, watch(name, getattr(os, name)))
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    restore(host, FakeUnits(), path, key, Options(force=True))
    dump = ("fsync", str(host.journal.with_name("database.sqlite")))
    assert dump in events
    undo_last(host, FakeUnits())
    roots = [str(host.work.parent / name) for name in ("etc", "state", "sso", "work/restore")]
    count = 0
    for number, (name, directory) in enumerate(events[:-1]):
        if name != "fsync" and any(Path(directory).is_relative_to(root) for root in roots):
            if events[number + 1] != ("fsync", directory):
                assert (name, directory) == ("unlink", str(host.journal.parent)), events[number : number + 2]
                continue  # the old file that a new one replaces
            count += 1
    assert count > 20


def test_hub_does_not_start_if_the_old_state_cannot_be_put_back(
    host: Host, key: Path, on_hub: FakeUnits, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_two_states(host)
    old = content(host)

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(restoring, "write_member", fail)
        patch.setattr(journals, "put_back", fail)
        assert cli.main(["restore", "--force", "--identity", str(key), str(path)]) == 2
    message = capsys.readouterr().err
    assert "No space left on device; the hub does not start, because its state is incomplete; remove the" in message
    assert (on_hub.calls, on_hub.running) == (["stop hub"], set())
    with pytest.raises(BackupError, match=r"a restore was interrupted, .* run 'hpchub restore --undo'"):
        create(host)
    assert backups(host) == [path]
    assert cli.main(["restore", "--undo"]) == 0
    assert (content(host), on_hub.running) == (old, {"hub"})


@pytest.mark.parametrize("step", ["put_back", "load_database"])
def test_hub_does_not_run_after_an_undo_that_failed_until_it_is_repeated(
    host: Host, key: Path, on_hub: FakeUnits, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = make_two_states(host)
    old = content(host)
    restore(host, on_hub, path, key, Options(force=True))

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journals, step, fail)
        assert cli.main(["restore", "--undo"]) == 2
    assert (host.journal.exists(), on_hub.running) == (True, set())
    assert cli.main(["restore", "--undo"]) == 0
    assert (content(host), on_hub.running) == (old, {"hub"})


def interrupt(host: Host, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a restore half done, as a crash of the process does."""
    path = make_two_states(host)

    def crash(*_: Any) -> None:
        raise PowerFailure

    with monkeypatch.context() as patch:
        patch.setattr(journals, "put_back", crash)
        patch.setattr(restoring, "write_member", crash)
        with pytest.raises(PowerFailure):
            restore(host, FakeUnits(), path, key, Options(force=True))
    assert host.journal.exists()


def test_recovery_during_a_restore_fails_and_during_an_upgrade_it_does_not(
    host: Host, key: Path, on_hub: FakeUnits, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt(host, key, monkeypatch)
    with host.locked():
        assert cli.main(["restore", "--recover"]) == 2
        assert "a restore is changing the state of the hub, so the hub cannot start now" in capsys.readouterr().err
    undo_unfinished(host, FakeUnits())
    upgrade.directory(host).mkdir()
    (upgrade.directory(host) / upgrade.UNFINISHED).touch()
    with host.locked():
        assert cli.main(["restore", "--recover"]) == 0


@pytest.mark.parametrize("answers", [True, False])
def test_recovery_waits_for_the_server_of_the_database_with_a_limit(
    host: Host, key: Path, on_hub: FakeUnits, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    interrupt(host, key, monkeypatch)
    moved = replace(host, hub={**host.hub, "db_url": "postgresql+psycopg://hub@db.example.org/hub"})
    monkeypatch.setattr(hosts, "load", lambda **_: moved)
    journal = json.loads(host.journal.read_text())
    host.journal.write_text(json.dumps(journal | {"backend": "postgresql"}))
    before = state_of(host.work.parent)
    asked, loaded, clock = [], [], [0.0]

    def facts(_: HubDatabase) -> None:
        asked.append(clock[0])
        if not answers or len(asked) < 3:
            raise BackupError("the hub's database hub on db.example.org: it is starting")

    def load(*_: Any) -> None:
        assert state_of(host.work.parent) == before  # the database comes first
        loaded.append(len(asked))

    monkeypatch.setattr(HubDatabase, "facts", facts)
    monkeypatch.setattr(journals, "load_database", load)
    monkeypatch.setattr("hpchub.backup.database.time.sleep", lambda seconds: clock.append(clock.pop() + seconds))
    monkeypatch.setattr("hpchub.backup.database.time.monotonic", lambda: clock[0])
    assert cli.main(["restore", "--recover"]) == (0 if answers else 2)
    assert loaded == ([3] if answers else [])
    assert host.journal.exists() is not answers
    if not answers:
        assert asked[-1] >= commands.RECOVERY_PATIENCE > asked[-2]
        assert state_of(host.work.parent) == before


@pytest.mark.parametrize("text", ['{"files": [], "dump": "", "database": true}', "[]", '{"files"', "null"])
@pytest.mark.parametrize("name", ["finished.json", "journal.json"])
def test_journal_of_an_earlier_version_is_reported_in_one_line(
    host: Host, on_hub: FakeUnits, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    host.journal.parent.mkdir(parents=True)
    host.journal.with_name(name).write_text(text)
    assert cli.main(["restore", "--undo"]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"hpchub: {host.journal.with_name(name)} is damaged or of an earlier version of hpchub")
    assert "remove this file, and restore a backup" in message
    assert message.count("\n") == 1
    assert on_hub.calls == []


def test_finished_journal_of_an_earlier_version_does_not_prevent_a_restore(
    host: Host, key: Path, on_hub: FakeUnits
) -> None:
    path = make_two_states(host)
    host.journal.parent.mkdir(parents=True)
    for text in ('{"files": [], "dump": "", "database": true}', '{"files"'):
        host.journal.with_name(journals.FINISHED).write_text(text)
        with pytest.raises(BackupError, match="use --force"):
            restore(host, on_hub, path, key, Options())
    assert restore(host, on_hub, path, key, Options(force=True))


def test_services_that_started_with_a_mixed_state_read_their_files_again(
    host: Host, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(host, key, monkeypatch)
    units = FakeUnits()
    undo_unfinished(host, units)
    assert units.calls == ["use files proxy", "use files web"]


def test_unit_of_the_hub_checks_the_journal() -> None:
    role = ROOT / "roles/backup"
    check = (role / "templates/hpchub-restore.conf.j2").read_text()
    assert "\nAssertPathExists=!{{ __backup_work_directory }}/restore/journal.json\n" in check
    variables = yaml.safe_load((role / "vars/main.yml").read_text())
    work = variables["__backup_work_directory"]
    assert variables["__backup_settings"]["work"] == "{{ __backup_work_directory }}"
    settings = {**hosts.WITHOUT_SETTINGS, "work": Path(work)}
    assert str(hosts.Host(hub={}, **settings).journal) == f"{work}/restore/journal.json"
    (write,) = [
        task["hpchub.hpchub.write_files"]["files"]
        for task in yaml.safe_load((role / "tasks/main.yml").read_text())
        if task["name"] == "Write the settings and the units"
    ]
    (drop_in,) = [entry for entry in write if "hpchub-restore.conf" in entry["path"]]
    assert drop_in["path"] == "/etc/systemd/system/{{ backup_hub_unit }}.d/hpchub-restore.conf"


def test_recovery_waits_for_the_network_and_the_database_and_the_hub_waits_for_it() -> None:
    unit = (ROOT / "roles/backup/templates/hpchub-restore.service.j2").read_text()
    assert "\nAfter=network-online.target postgresql.service\n" in unit
    assert "\nWants=network-online.target\n" in unit
    assert "\nBefore={{ backup_hub_unit }} " in unit
    assert "\nConditionPathExists=|{{ __backup_work_directory }}/restore/journal.json\n" in unit
