"""The journal of a restore: how to put the old state of the hub host back, and the copies for that.

The journal exists while a restore changes the host. Afterwards, it has another name, for ``hpchub restore --undo``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from hpchub.backup.files import forget, load_database, put_back, save_database, save_files
from hpchub.backup.host import Host, remove_file, replace_file
from hpchub.backup.package import BackupError
from hpchub.no_links import directory_of, sync

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

FINISHED = "finished.json"
"""The name of the journal after the restore."""
_KEYS = {"files", "dump", "database", "backend", "sessions", "backup"}
"""What a journal contains."""


def finished(host: Host) -> Path:
    """Return the journal of the last restore."""
    return host.journal.with_name(FINISHED)


def finish(host: Host) -> None:
    """Record that the restore is complete."""
    _rename(host.journal, finished(host))


def _rename(path: Path, target: Path) -> None:
    path.rename(target)
    with directory_of(target) as directory:
        sync(directory)


def save(host: Host, paths: Sequence[Path], fingerprint: str, *, with_database: bool) -> None:
    """Save the old state, then write the journal. Nothing is changed before."""
    directory = host.journal.parent
    _forget(host)
    directory.mkdir(mode=0o700)
    with directory_of(directory) as parent:
        sync(parent)
    files = save_files(directory, paths)
    dump = save_database(host, directory) if with_database else ""
    try:
        sessions = sorted(host.database.facts().sessions)
    except BackupError:
        sessions = []  # the database is damaged
    journal = {
        "files": files,
        "dump": dump,
        "database": with_database,
        "backend": host.database.backend,
        "sessions": sessions,
        "backup": fingerprint,
    }
    replace_file(host.journal, json.dumps(journal, indent=2).encode(), mode=0o600, uid=0, gid=0)


def parse(path: Path) -> dict[str, Any]:
    """Return the content of a journal.

    Raises:
        BackupError: It is damaged, or an earlier version wrote it.
    """
    try:
        journal = json.loads(path.read_text())
    except ValueError:
        journal = None
    if not isinstance(journal, dict) or not journal.keys() >= _KEYS:
        raise BackupError(
            f"{path} is damaged or of an earlier version of hpchub, so the state before the restore cannot be put back;"
            " remove this file, and restore a backup"
        )
    return journal


def read(host: Host, path: Path) -> dict[str, Any]:
    """Read a journal.

    Raises:
        BackupError: It cannot be used, or the hub uses a database of another kind now, which the saved one must not
            replace.
    """
    journal = parse(path)
    if journal["backend"] != host.database.backend:
        raise BackupError(
            f"the state before the restore used a database of {journal['backend']}, and this hub uses"
            f" {host.database.backend} now; restore a backup instead"
        )
    return journal


def undo(host: Host) -> list[Path]:
    """Put back the state before the last restore, and forget it. The hub is stopped.

    If this fails or is interrupted, the journal stays, so that the hub does not start before this has succeeded.

    Returns:
        The files that were put back.
    """
    if not host.journal.exists():
        _rename(finished(host), host.journal)
    journal = read(host, host.journal)
    directory = host.journal.parent
    # The database comes first, because its server may not answer. Then nothing is changed.
    if journal["dump"]:
        load_database(host, directory / journal["dump"])
    elif journal["database"] and host.database.backend == "sqlite":
        remove_file(host.database.path)
    put_back(directory, journal["files"])
    _forget(host)
    return [Path(entry["path"]) for entry in journal["files"]]


def _forget(host: Host) -> None:
    forget(host.journal.parent, host.journal.name, FINISHED)
