"""The hub host: its settings for backups, the files that belong into one, its units, and a lock."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from hpchub.backup.database import HubDatabase
from hpchub.backup.package import BackupError, Member
from hpchub.hub.metric_definitions import BACKUP_STATUS
from hpchub.hub.versions import get
from hpchub.messages import show
from hpchub.no_links import Obstacle, directory_of, open_regular, sync
from hpchub.schedulers import Unanswered

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

HUB_SETTINGS = Path("/etc/hpchub/hub.json")
"""The hub's settings, which the role ``jupyterhub`` writes."""
BACKUP_SETTINGS = Path("/etc/hpchub/backup.json")
"""The settings of backups, which the role ``backup`` writes."""
STANDBY = Path("/etc/hpchub/standby")
"""The file that marks this host as a standby. The role ``jupyterhub`` writes it."""
PATIENCE = 300
"""How long a restore or an upgrade waits until a backup that runs has ended, in seconds."""
FILES = "files"
"""The directory of the host's files in a backup."""
_STATUS_SIZE = 4096
"""How much of the file with the status is read, in bytes. The hub's account may have replaced it."""
_LATER = "hpchub-start-later.timer"
"""The unit that starts the hub if an upgrade breaks off while the hub is stopped."""
_FRESH = ".{}.hpchub-new"
"""The name of a file that will replace another one."""
_DATABASE_FILES = ("", "-wal", "-shm", "-journal")


class Busy(BackupError):
    """Another backup or restore is running."""


@dataclass(frozen=True)
class Host:
    """What the commands need to know about the hub host.

    Attributes:
        hub: The settings of the hub.
        recipients: Who can decrypt the backups.
        keep: How many backups to keep.
        directory: Where the backups are.
        copy_command: The site's command that copies a backup elsewhere. ``{file}`` stands for its path.
        work: A private directory for unencrypted data.
        restored: Files and directories that a restore writes.
        reference: Files that a backup only contains for reference, because roles write them from the inventory.
        gate_keys: The directory of the ssh keys for the gates.
        sign_on_key: The key of the sessions of the single sign-on.
        sign_on_sessions: The directory of these sessions.
        proxy_files: The proxy must restart if one of these files or directories changes.
        hub_unit: The hub's unit.
        proxy_unit: The proxy's unit.
        web_unit: The web server's unit.
    """

    hub: dict[str, Any]
    recipients: list[str]
    keep: int
    directory: Path
    copy_command: list[str]
    work: Path
    restored: list[Path]
    reference: list[Path]
    gate_keys: Path
    sign_on_key: Path
    sign_on_sessions: Path
    proxy_files: list[Path]
    hub_unit: str
    proxy_unit: str
    web_unit: str

    @property
    def name(self) -> str:
        """The host name of the service."""
        return urlsplit(self.hub["public_url"]).hostname or "hub"

    @property
    def state(self) -> Path:
        """The hub's state directory."""
        return Path(self.hub["state_dir"])

    @property
    def database(self) -> HubDatabase:
        """The hub's database. Its account owns the state directory."""
        owner = self.state.stat().st_uid
        try:
            account = pwd.getpwuid(owner)
        except KeyError:
            raise BackupError(f"{self.state} belongs to no account (uid {owner}); run site.yml first") from None
        return HubDatabase(self.hub["db_url"], account)

    @property
    def journal(self) -> Path:
        """The journal of a restore. While it exists, this host may have a mixed state.

        The unit of the hub checks that this file does not exist; see ``roles/backup``.
        """
        return self.work / "restore" / "journal.json"

    def refuse_incomplete(self) -> None:
        """Refuse to use the state of this host while a restore is not complete.

        Raises:
            BackupError: A restore was interrupted.
        """
        if self.journal.exists():
            raise BackupError(
                f"a restore was interrupted, so the state of the hub is incomplete ({self.journal} exists); run"
                " 'hpchub restore --undo', which puts back the state before it"
            )

    def permits(self, path: Path) -> bool:
        """Return whether a restore may write a path."""
        # The directory of the sign-on sessions is flat, and it belongs to the web server, which runs on.
        flat = path.parent == self.sign_on_sessions
        inside = flat or any(path == each or path.is_relative_to(each) for each in self.restored)
        return inside and ".." not in path.parts and not self._excluded(path)

    def obstacle(self, path: Path) -> Path | None:
        """Return what prevents that a permitted path becomes a file: another kind of file there, or a link on the way.

        The hub's account owns some of the directories. Root must not follow a link that this account has made.
        """
        roots = {*self.restored, self.sign_on_sessions}
        for each in (path, *path.parents):
            if each.is_symlink() or (each.exists() and not (each.is_file() if each == path else each.is_dir())):
                return each
            if each in roots:
                break
        return None

    def _excluded(self, path: Path) -> bool:
        """Return whether a path is no file to copy: the database, its password, a backup or the status.

        The role ``state_store`` writes the password. A backup may contain a former one.
        """
        database = self.database
        names = [f"{database.path}{suffix}" for suffix in _DATABASE_FILES] if database.backend == "sqlite" else []
        names.append(str(database.url.query.get("passfile", "")))
        return str(path) in names or path == self.state / BACKUP_STATUS or path.is_relative_to(self.directory)

    def members(self) -> list[Member]:
        """Return the host's files for a backup. Links and sockets are left out."""
        found: dict[str, Member] = {}
        for path in _files([*self.restored, *self.reference, self.sign_on_sessions]):
            if path not in self.reference and not self.permits(path):
                continue
            if (member := read_member(path)) is not None:
                found[member.name] = member
        return list(found.values())

    def write_status(self, *, ok: bool, file: str, made: float) -> None:
        """Write how the last backup went, for the hub's metrics.

        Args:
            ok: Whether it succeeded.
            file: The name of the newest good backup, or empty.
            made: When the newest good backup was made, in seconds since 1970, or 0.
        """
        owner = self.state.stat()
        text = json.dumps({"time": int(made), "ok": ok, "file": file}) + "\n"
        replace_file(self.state / BACKUP_STATUS, text.encode(), mode=0o640, uid=0, gid=owner.st_gid)

    def read_status(self) -> dict[str, Any]:
        """Return how the last backup went, or nothing if there was none."""
        try:
            with open_regular(self.state / BACKUP_STATUS) as file:
                found = json.loads(file.read(_STATUS_SIZE))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    @contextmanager
    def locked(self, patience: float = 0) -> Iterator[None]:
        """Let only one backup or restore run at a time.

        Args:
            patience: How long to wait until another one ends, in seconds.

        Raises:
            Busy: Another one is running.
        """
        self.work.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.work.chmod(0o700)
        with os.fdopen(os.open(self.work / "lock", os.O_WRONLY | os.O_CREAT, 0o600), "w") as lock:
            deadline = time.monotonic() + patience
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise Busy("another backup or restore is running on this host; wait until it ends") from None
                time.sleep(0.5)
            yield

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Provide an empty, private directory for unencrypted data. Leftovers of a killed process are removed too."""
        for left in self.work.glob("scratch-*"):
            shutil.rmtree(left)
        directory = Path(tempfile.mkdtemp(prefix="scratch-", dir=self.work))
        try:
            yield directory
        finally:
            shutil.rmtree(directory)


WITHOUT_SETTINGS: dict[str, Any] = {
    "recipients": [],
    "keep": 1,
    "directory": "/var/backups/hpchub",
    "copy_command": [],
    "work": "/var/lib/hpchub-backup",
    "restored": [],
    "reference": ["/etc/hpchub/hub.json", "/etc/hpchub/profiles.json", "/etc/hpchub/jupyterhub_config.py"],
    "gate_keys": "/etc/hpchub/ssh",
    "sign_on_key": "/etc/hpchub/secrets/sso-sessions.conf",
    "sign_on_sessions": "/nonexistent",
    "proxy_files": [],
    "hub_unit": "jupyterhub.service",
    "proxy_unit": "configurable-http-proxy.service",
    "web_unit": "apache2.service",
}
"""What an upgrade uses on a host that a version without backups has deployed."""


def environments() -> Path:
    """Return the directory with the hub's environments. This program runs in one of them."""
    return Path(sys.prefix).resolve().parents[1]


def load(hub_settings: Path = HUB_SETTINGS, settings: Path = BACKUP_SETTINGS, *, required: bool = True) -> Host:
    """Read the settings of the hub host.

    Args:
        hub_settings: The settings of the hub.
        settings: The settings of backups.
        required: Whether the settings of backups must exist.

    Raises:
        BackupError: This is not the hub host, or this account may not read the settings.
    """
    if os.geteuid() != 0:
        raise BackupError("your account cannot read the hub's secrets; run this command as root")
    if not hub_settings.exists():
        raise BackupError(f"this is not the hub host, because {hub_settings} does not exist; run site.yml first")
    if required and not settings.exists():
        raise BackupError(f"{settings} does not exist; run site.yml, which writes it")
    hub = json.loads(hub_settings.read_text())
    own = json.loads(settings.read_text()) if settings.exists() else WITHOUT_SETTINGS
    paths = {"directory", "work", "gate_keys", "sign_on_key", "sign_on_sessions"}
    lists = {"restored", "reference", "proxy_files"}
    values: dict[str, Any] = {
        name: Path(value) if name in paths else [Path(each) for each in value] if name in lists else value
        for name, value in own.items()
    }
    return Host(hub=hub, **values)


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(each for each in path.rglob("*"))
        else:
            yield path


def read_member(path: Path) -> Member | None:
    """Read a file as a member of a backup. Return None if it is no regular file, or has just been removed."""
    try:
        with open_regular(path) as file:
            found = os.fstat(file.fileno())
            return Member(
                f"{FILES}{path}", file.read(), stat.S_IMODE(found.st_mode), _user(found.st_uid), _group(found.st_gid)
            )
    except (FileNotFoundError, Obstacle):
        return None


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "root"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return "root"


def owner_ids(member: Member) -> tuple[int, int]:
    """Return the ids of a member's owner and group on this host.

    Raises:
        BackupError: This host does not have the account.
    """
    try:
        return pwd.getpwnam(member.owner).pw_uid, grp.getgrnam(member.group).gr_gid
    except KeyError:
        raise BackupError(
            f"this host has no account {show(member.owner)} or no group {show(member.group)}, which own"
            f" {show(member.name)}; run site.yml on this host first"
        ) from None


def replace_file(path: Path, content: bytes | Path, *, mode: int, uid: int, gid: int) -> None:
    """Replace a file atomically. Nobody can read the new content before it has its owner and mode."""
    with directory_of(path) as directory:
        _replace_in(directory, path.name, content, mode=mode, uid=uid, gid=gid)


def _replace_in(directory: int, name: str, content: bytes | Path, *, mode: int, uid: int, gid: int) -> None:
    fresh = _FRESH.format(name)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh, dir_fd=directory)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(fresh, flags, 0o600, dir_fd=directory), "wb") as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            with content.open("rb") as source:
                shutil.copyfileobj(source, file, 1024 * 1024)
        if os.geteuid() == 0:
            os.fchown(file.fileno(), uid, gid)
        os.fchmod(file.fileno(), mode & 0o777)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)
    sync(directory)


def remove_file(path: Path) -> None:
    """Remove a file, if it exists, and what an interrupted replacement has left of it."""
    with contextlib.suppress(FileNotFoundError), directory_of(path) as directory:
        for name in (_FRESH.format(path.name), path.name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
        sync(directory)


class Units:
    """The units of the hub host. Tests replace this class."""

    def active(self, unit: str) -> bool:
        """Return whether a unit runs, or is about to."""
        return self._run("is-active", "--quiet", unit) == 0

    def answers(self, url: str) -> bool:
        """Return whether the hub answers on its Unix socket, whatever the answer is."""
        try:
            get(url, "/hub/health")
        except Unanswered:
            return False
        return True

    def stop(self, unit: str) -> None:
        """Stop a unit and wait for it."""
        self._must("stop", unit)

    def start(self, unit: str) -> None:
        """Start a unit."""
        self._must("start", unit)

    def restart(self, unit: str) -> None:
        """Restart a unit."""
        self._must("restart", unit)

    def reload(self, unit: str) -> None:
        """Let a unit read its files again."""
        self._must("reload-or-restart", unit)

    def use_files(self, unit: str) -> None:
        """Let a unit read its files again if it runs. Do not wait, because it may wait for the unit of this process."""
        self._run("--no-block", "try-reload-or-restart", unit)

    def start_later(self, unit: str, seconds: int, *, if_exists: Path) -> None:
        """Start a unit after some time if a file still exists then, even if this process is gone.

        A second call replaces the first one, which would otherwise disturb a later upgrade.
        """
        script = ["/bin/sh", "-c", 'test -e "$0" && systemctl start "$1"', str(if_exists), unit]
        begin = ["systemd-run", "--quiet", "--collect", f"--unit={_LATER}", f"--on-active={seconds}", *script]
        nothing = subprocess.DEVNULL
        for argv in (["systemctl", "stop", _LATER], begin):  # the first one fails if there was no first call
            subprocess.run(argv, check=False, stdin=nothing, stdout=nothing, stderr=nothing)

    def reload_units(self) -> None:
        """Let systemd read its unit files again."""
        self._must("daemon-reload")

    def _must(self, *words: str) -> None:
        if self._run(*words):
            raise BackupError(f"systemctl {' '.join(words)} failed; see journalctl --unit {words[-1]}")

    def _run(self, *words: str) -> int:
        return subprocess.run(["systemctl", *words], check=False, stdin=subprocess.DEVNULL).returncode


def run_copy_command(command: Sequence[str], file: Path) -> None:
    """Run the site's command that copies a backup elsewhere.

    Raises:
        BackupError: The command failed.
    """
    argv = [word.replace("{file}", str(file)) for word in command]
    try:
        done = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, capture_output=True)
    except OSError as error:
        raise BackupError(f"hpc_backup.copy_command: {argv[0]}: {error.strerror}") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise BackupError(
            f"hpc_backup.copy_command: {argv[0]} ended with exit code {done.returncode}"
            f"{f': {lines[-1]}' if lines else ''}; the backup {file} exists on this host only"
        )
