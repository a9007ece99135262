"""Restore a backup on the hub host: verify it, replace the files and the database, and undo that if it breaks off.

All checks come before the first change. During the change, a journal in the private work directory describes how to
put the old state back. An error or a signal undoes the change at once. After a crash, the unit ``hpchub-restore`` does
it before the hub starts. While the journal exists, the hub does not start. Each change is on the disk before the next
one, so that this is also true after a power failure.
"""

from __future__ import annotations

import hashlib
import math
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpchub import __version__
from hpchub.backup import host as hosts
from hpchub.backup import journal as journals
from hpchub.backup import package
from hpchub.backup.create import DATABASE
from hpchub.backup.database import HubDatabase, damage_of, known_revisions
from hpchub.backup.files import load_database, write_member
from hpchub.backup.host import FILES, Host, Units, owner_ids, read_member
from hpchub.backup.package import BackupError, Manifest, Member
from hpchub.hub.certificates import Authority
from hpchub.messages import show
from hpchub.no_links import Obstacle

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class Interrupted(BaseException):
    """A signal asked the process to end."""


@dataclass(frozen=True)
class Options:
    """What the administrator permits.

    Attributes:
        force: Replace the state of a hub that is in use.
        other_database: Accept a backup of another database of this hub.
        keep_database: Restore the secrets only, because the database was not lost.
    """

    force: bool = False
    other_database: bool = False
    keep_database: bool = False


@dataclass(frozen=True)
class Verified:
    """A backup that may be restored on this host.

    Attributes:
        manifest: The manifest.
        files: The files to write, by their path on the host.
        dump: The dump of the database, or None to keep the database of this host.
    """

    manifest: Manifest
    files: dict[Path, Member]
    dump: Path | None


def verify(
    host: Host, units: Units, path: Path, *, identity: Path | bytes, options: Options, scratch: Path
) -> Verified:
    """Decrypt a backup and check that it may be restored on this host. Nothing is changed.

    Args:
        host: The hub host.
        units: Its units.
        path: The backup.
        identity: The file with the private key, or its content.
        options: What the administrator permits.
        scratch: A private directory for the decrypted members.

    Raises:
        BackupError: The backup is refused. The message contains the reason.
    """
    _check_facts(host, path, package.read_header(path), options)
    _check_hub(host, units, path, package.read_header(path), options)
    manifest, members = package.extract(path, scratch, identity)
    dump = members.pop(DATABASE[manifest.backend], None)
    if dump is None or not isinstance(dump.source, Path):
        raise BackupError(f"{path} is damaged: it has no dump of the database")
    files = {Path(name.removeprefix(FILES)): member for name, member in members.items()}
    if foreign := sorted(str(each) for each in files if not each.is_absolute()):
        raise BackupError(f"{path} is damaged: it has an unknown member {show(foreign[0])}")
    files = {target: member for target, member in files.items() if host.permits(target)}
    _keep_sign_on_sessions(host, files)
    _keep_gate_keys(host, files)
    _check_targets(host, files)
    for member in files.values():
        owner_ids(member)
    source = dump.source
    if manifest.backend == "sqlite":
        if damage := damage_of(source):
            raise BackupError(f"{path} is damaged: its database cannot be used ({damage}); use another backup")
        found = HubDatabase(f"sqlite:///{source}").facts()
        if (found.id, found.schema) != (manifest.database, manifest.schema):
            raise BackupError(f"{path} is damaged: its database is not the one that its manifest names")
        if not options.keep_database and found.schema != known_revisions()[0]:
            HubDatabase(f"sqlite:///{source}").upgrade()  # the copy, so that a failure changes nothing
    return Verified(manifest, files, None if options.keep_database else source)


def _check_facts(host: Host, path: Path, manifest: Manifest, options: Options) -> None:
    """Refuse a backup of another site or of a newer version."""
    if manifest.hub != host.name:
        raise BackupError(
            f"{path} is of another site: it was made for the hub {manifest.hub}, and this is {host.name}; give a"
            " backup of this hub"
        )
    if package.newer(manifest.hpchub):
        raise BackupError(
            f"{path} is of a newer version: hpchub {manifest.hpchub} made it, and this host has {__version__};"
            " install that version or a later one first"
        )
    if manifest.schema not in known_revisions():
        raise BackupError(
            f"{path} is of a newer version: its database has the schema {manifest.schema}, which this JupyterHub does"
            " not know; install the version that made the backup, or a later one, first"
        )
    if manifest.backend not in DATABASE:
        raise BackupError(f"{path} is damaged: its database is of the unknown kind {manifest.backend}")
    backend = host.database.backend
    if manifest.backend != backend and not options.keep_database:
        raise BackupError(
            f"{path} holds a database of {manifest.backend}, and this hub uses {backend}; set hpc_state_store.backend"
            f" to {manifest.backend} and run site.yml, then restore, and move the database afterwards"
        )


def _check_hub(host: Host, units: Units, path: Path, manifest: Manifest, options: Options) -> None:
    """Refuse to replace the state of a hub that is in use."""
    try:
        facts = host.database.facts()
    except BackupError:
        if options.force and host.database.backend == "sqlite":
            return  # a damaged database is a reason to restore
        raise
    another = bool(facts.id) and facts.id != manifest.database
    if another and not facts.new and not options.other_database:
        raise BackupError(
            f"{path} is of another site, or of a former database of this hub: its database has the id"
            f" {manifest.database}, and this hub's has {facts.id} and {len(facts.sessions) + facts.ended} recorded"
            " sessions; if this hub lost its database and started with an empty one, use --other-database"
        )
    if options.force or (another and facts.new):
        return
    if options.keep_database:
        if facts.sessions and facts.newest >= _first_authority(host):
            raise BackupError(
                "this hub has started open sessions with its present secrets; with those of the backup, it may not"
                " reach them any more; use --force to do that"
            )
        return
    running = units.active(host.hub_unit)
    if running:
        survived = host.database.backend != "sqlite" and not another
        raise BackupError(
            f"this hub is running and in use: its database {facts.id or 'without id'} has {len(facts.sessions)} open"
            " sessions; a restore replaces its state, and sessions that started after the backup become unknown to it;"
            + (
                " if only the hub host was lost and this database survived, use --keep-database"
                " (-e keep_database=true); otherwise,"
                if survived
                else ""
            )
            + " use --force to do that"
        )
    if facts.sessions:
        raise BackupError(
            f"this hub's database has {len(facts.sessions)} open sessions; those that started after the backup would"
            " become unknown to the hub; use --force to do that"
        )


def _first_authority(host: Host) -> float:
    """Return when this host got its first authority of notebook servers, or 0 if this is not known.

    The hub reaches no session that began before, because another host certified its notebook server. A standby has
    started no session. ``hub.yml`` gives it a new authority when it ceases to be one.
    """
    if hosts.STANDBY.exists():
        return math.inf
    try:
        return Authority(Path(host.hub["notebook_tls_directory"])).since().timestamp()
    except (OSError, ValueError):
        return 0.0


def _check_targets(host: Host, files: Iterable[Path]) -> None:
    """Refuse to write where there is a link, or a directory instead of a file."""
    for target in files:
        if obstacle := host.obstacle(target):
            raise BackupError(
                f"{target} cannot be restored, because {obstacle} is a link or of another kind on this host; move it"
                " away first"
            )


def _keep_sign_on_sessions(host: Host, files: dict[Path, Member]) -> None:
    """Leave out saved sign-ons if those of this host are still valid, because they are newer."""
    key = files.get(host.sign_on_key)
    here = read_member(host.sign_on_key)
    if key is not None and here is not None:
        with key.open() as saved:
            if saved.read() == here.source:
                for path in [each for each in files if each.is_relative_to(host.sign_on_sessions)]:
                    del files[path]


def _keep_gate_keys(host: Host, files: dict[Path, Member]) -> None:
    """Leave out the ssh keys if this host has its own, because the gates accept those that were deployed last."""
    inside = [path for path in files if path.is_relative_to(host.gate_keys)]
    if any(path.exists() for path in inside):
        for path in inside:
            del files[path]


# The change


def restore(host: Host, units: Units, path: Path, identity: Path | bytes, options: Options) -> Manifest | None:
    """Restore a backup. If this fails or is interrupted, the old state is back afterwards.

    Returns:
        The manifest, or None if the last restore was the same. Then nothing is changed, unless this is forced. So a
        deployment that restores a backup can be repeated, and the sessions since then stay known.

    Raises:
        BackupError: The backup is refused, or the restore failed.
    """
    with host.locked(hosts.PATIENCE), host.scratch() as scratch, _signals():
        undo_unfinished(host, units)
        if not options.force and _is_restored(host, path, options):
            return None
        verified = verify(host, units, path, identity=identity, options=options, scratch=scratch)
        _change(host, units, verified, _fingerprint(path))
        return verified.manifest


def _is_restored(host: Host, path: Path, options: Options) -> bool:
    """Return whether the last restore on this host was the same, and this host still has its database."""
    database = package.read_header(path).database
    try:
        journal = journals.parse(journals.finished(host))
    except (FileNotFoundError, Obstacle, BackupError):
        return False
    same = journal["backup"] == _fingerprint(path) and journal["database"] is not options.keep_database
    return same and host.database.facts().id == database


def _fingerprint(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _change(host: Host, units: Units, verified: Verified, fingerprint: str) -> None:
    changed = {target: member for target, member in verified.files.items() if _differs(target, member)}
    was_active = units.active(host.hub_unit)
    units.stop(host.hub_unit)
    try:
        _check_targets(host, changed)  # again, now that the hub's account cannot change them any more
        journals.save(host, list(changed), fingerprint, with_database=verified.dump is not None)
        try:
            if verified.dump is not None:
                load_database(host, verified.dump)
                if host.database.backend != "sqlite" and verified.manifest.schema != known_revisions()[0]:
                    host.database.upgrade()
            for target, member in changed.items():
                write_member(target, member)
            journals.finish(host)
        except BaseException:
            journals.undo(host)
            raise
    except BaseException:
        if was_active:
            _start(host, units)
        raise
    _apply(host, units, list(changed))


def _start(host: Host, units: Units) -> None:
    """Start the hub after a failure, unless its state is incomplete."""
    if not host.journal.exists():
        units.start(host.hub_unit)


def _apply(host: Host, units: Units, changed: Sequence[Path]) -> None:
    """Let the services use the new files."""
    if _are_of_proxy(host, changed):
        units.restart(host.proxy_unit)
    if changed and units.active(host.web_unit):  # on a new host, the web server comes last
        units.reload(host.web_unit)
    units.start(host.hub_unit)


def _are_of_proxy(host: Host, changed: Sequence[Path]) -> bool:
    return any(path.is_relative_to(each) for path in changed for each in host.proxy_files)


def _differs(path: Path, member: Member) -> bool:
    here = read_member(path)
    if here is None:
        return True
    with member.open() as file:
        same = file.read() == here.source
    return not same or (here.mode, here.owner, here.group) != (member.mode, member.owner, member.group)


def undo_unfinished(host: Host, units: Units, patience: float = 0) -> bool:
    """Put the old state back if a restore was interrupted by a crash. Return whether that was so.

    Args:
        host: The hub host.
        units: Its units.
        patience: How long to wait for the server of the database, in seconds.

    Raises:
        BackupError: The old state cannot be put back.
    """
    if not host.journal.exists():
        return False
    if units.active(host.hub_unit):
        units.stop(host.hub_unit)
    if journals.read(host, host.journal)["dump"]:
        host.database.wait(patience)
    changed = journals.undo(host)
    # If they have started since the crash, they have read files of a restore that is undone now.
    if _are_of_proxy(host, changed):
        units.use_files(host.proxy_unit)
    if changed:
        units.use_files(host.web_unit)
    return True


def undo_last(host: Host, units: Units, *, force: bool = False) -> None:
    """Put back the state before the last restore, as an administrator asked for it. The hub runs afterwards.

    If a restore or an undo was interrupted, this completes the undo.

    Args:
        host: The hub host.
        units: Its units.
        force: Whether the hub may lose the sessions that the former state does not know.

    Raises:
        BackupError: There is none, or it belongs to another kind of database, or sessions would be lost, or the state
            cannot be put back. In the last case, the hub does not run.
    """
    with host.locked(), _signals():
        unfinished = host.journal.exists()
        if not unfinished and not journals.finished(host).exists():
            raise BackupError("there is no restore that could be undone on this host")
        journal = journals.read(host, host.journal if unfinished else journals.finished(host))
        lost = not unfinished and not force and host.database.facts().sessions - set(journal["sessions"])
        if lost:
            raise BackupError(
                f"the state before the restore does not know {len(lost)} open sessions of this hub; use --force to"
                " put it back nevertheless"
            )
        units.stop(host.hub_unit)
        try:
            _apply(host, units, journals.undo(host))
        except BaseException:
            _start(host, units)
            raise


@contextmanager
def _signals() -> Iterator[None]:
    """Turn the signals that end a process into an exception, so that the old state is put back."""

    def interrupt(number: int, _frame: object) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)  # do not interrupt what puts the old state back
        raise Interrupted(f"{signal.Signals(number).name} interrupted the restore")

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
