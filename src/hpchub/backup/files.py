"""Save the files and the database of the hub host before a change, and put them back."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpchub.backup.create import DATABASE
from hpchub.backup.host import Host, owner_ids, read_member, remove_file, replace_file
from hpchub.backup.package import BackupError, Member
from hpchub.no_links import directory_of, open_regular, sync

if TYPE_CHECKING:
    from collections.abc import Sequence


def write_member(path: Path, member: Member) -> None:
    """Write a member of a backup to its path. If its directory is missing, only root can enter the new one."""
    for parent in reversed(path.parents):
        if not parent.exists():
            with directory_of(parent) as directory:
                os.mkdir(parent.name, 0o700 if parent == path.parent else 0o755, dir_fd=directory)
                sync(directory)
    uid, gid = owner_ids(member)
    replace_file(path, member.source, mode=member.mode, uid=uid, gid=gid)


def save_files(directory: Path, paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Copy files into a private directory. Return the entries for ``put_back``."""
    entries: list[dict[str, Any]] = []
    for number, path in enumerate(paths):
        here = read_member(path)
        entry: dict[str, Any] = {"path": str(path), "saved": ""}
        if here is not None:
            saved = directory / f"file{number}"
            replace_file(saved, here.source, mode=0o600, uid=0, gid=0)
            entry |= {"saved": saved.name, "mode": here.mode, "owner": here.owner, "group": here.group}
        entries.append(entry)
    return entries


def put_back(directory: Path, entries: Sequence[dict[str, Any]]) -> None:
    """Put saved files back, and remove those that did not exist."""
    for entry in entries:
        path = Path(entry["path"])
        if entry["saved"]:
            saved = Member(entry["path"], directory / entry["saved"], entry["mode"], entry["owner"], entry["group"])
            write_member(path, saved)
        else:
            remove_file(path)


def forget(directory: Path, *descriptions: str) -> None:
    """Remove a saved state. Its descriptions go first, because they must not name files that are gone."""
    for name in descriptions:
        remove_file(directory / name)
    shutil.rmtree(directory, ignore_errors=True)


def save_database(host: Host, directory: Path) -> str:
    """Copy the database of a stopped hub into a private directory.

    Returns:
        The name of the copy, or an empty text if there is no database.
    """
    database = host.database
    target = directory / DATABASE[database.backend]
    if database.backend != "sqlite":
        database.dump(target)
        return target.name
    try:
        file = open_regular(database.path)
    except FileNotFoundError:
        return ""
    with file:
        owner = database.account.pw_uid if database.account else os.getuid()
        if os.fstat(file.fileno()).st_uid != owner:
            raise BackupError(f"{database.path} does not belong to the hub's account; move it away first")
        try:
            database.dump(target)
        except BackupError:  # a damaged database is copied as it is
            replace_file(target, file.read(), mode=0o600, uid=0, gid=0)
    return target.name


def load_database(host: Host, dump: Path) -> None:
    """Replace the database of a stopped hub."""
    database = host.database
    if database.backend != "sqlite":
        database.load(dump)
        return
    account = database.account
    uid, gid = (account.pw_uid, account.pw_gid) if account else (os.getuid(), os.getgid())
    for suffix in ("-wal", "-shm", "-journal"):
        remove_file(Path(f"{database.path}{suffix}"))
    replace_file(database.path, dump, mode=0o600, uid=uid, gid=gid)
