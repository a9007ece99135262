"""Make a backup of the hub host, keep the newest ones, and copy it elsewhere."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hpchub.backup import host as hosts
from hpchub.backup import package
from hpchub.backup.host import Host, run_copy_command
from hpchub.backup.package import BackupError, Manifest, Member

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DATABASE = {"sqlite": "database.sqlite", "postgresql": "database.sql"}
"""The name of the dump in a backup, by the kind of the database."""
SUFFIX = ".tar"
_LAST_TIME = 2**40
"""A later time in the status file is not a time. The hub's account can change this file."""


def create(host: Host, recipients: Sequence[str] = (), *, copy: bool = True, patience: float = 0) -> Path:
    """Make a backup, and record in the status file whether it succeeded. The hub may run.

    Args:
        host: The hub host.
        recipients: Who can decrypt the backup. By default, the recipients of the settings.
        copy: Whether to run the site's copy command.
        patience: How long to wait until another backup ends, in seconds.

    Returns:
        The file of the backup.

    Raises:
        BackupError: There is no backup, or it was not copied, or this host is a standby, or a restore was interrupted.
        OSError: A file cannot be read or written.
    """
    if hosts.STANDBY.exists():
        raise BackupError(
            f"this host is a standby, because {hosts.STANDBY} exists; its backup would look like a newer one of the hub"
            " without sessions; run this command on the hub host"
        )
    last = host.read_status()
    time_of_last = last.get("time")
    made = float(time_of_last) if isinstance(time_of_last, int) and 0 <= time_of_last < _LAST_TIME else 0.0
    ok, file = False, str(last.get("file", ""))
    try:
        with host.locked(patience):
            host.refuse_incomplete()
            path = _create(host, recipients or host.recipients)
            file, made = path.name, time.time()
        if copy and host.copy_command:
            run_copy_command(host.copy_command, path)
        ok = True
    finally:
        host.write_status(ok=ok, file=file, made=made)
    return path


def _create(host: Host, recipients: Sequence[str]) -> Path:
    database = host.database
    facts = database.facts()
    if not facts.id or not facts.schema:
        raise BackupError(f"the hub has not created its tables in {database.url!r} yet; start the hub first")
    host.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in host.directory.glob(f".{_prefix(host)}*"):  # encrypted parts that a killed process has left
        left.unlink()
    now = datetime.now(UTC)
    path = host.directory / f"{_prefix(host)}{now:%Y%m%dT%H%M%S.%fZ}{SUFFIX}"
    with host.scratch() as scratch:
        dump = scratch / DATABASE[database.backend]
        # The files come first: a session that starts now is then in the database, and its secrets are in the files.
        members = host.members()
        database.dump(dump)
        manifest = Manifest(host.name, facts.id, database.backend, facts.schema, int(now.timestamp()))
        package.write(path, manifest, [Member(dump.name, dump), *members], recipients)
    for old in backups(host)[host.keep :]:
        old.unlink()
    return path


def backups(host: Host) -> list[Path]:
    """Return the backups of this hub in the directory, with the newest first."""
    return sorted(host.directory.glob(f"{_prefix(host)}[0-9]*{SUFFIX}"), reverse=True)


def _prefix(host: Host) -> str:
    return f"hpchub-{host.name}-"
