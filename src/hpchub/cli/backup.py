"""``hpchub backup`` and ``hpchub restore``: save and restore the hub host's database, secrets and settings."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hpchub.backup import host as hosts
from hpchub.backup import upgrade
from hpchub.backup.create import create
from hpchub.backup.package import BackupError, read_header
from hpchub.backup.restore import Interrupted, Options, restore, undo_last, undo_unfinished, verify
from hpchub.cli.failure import VALID, Failure

if TYPE_CHECKING:
    import argparse

    from hpchub.backup.package import Manifest

RECOVERY_PATIENCE = 900
"""How long the hub's start may wait for the database's server before an interrupted restore is undone, in seconds."""


def backup(options: argparse.Namespace) -> int:
    """Run ``hpchub backup``."""
    try:
        print(create(hosts.load(), options.recipient, copy=not options.no_copy))
    except (BackupError, OSError) as error:
        raise Failure(f"there is no new backup: {error}") from None
    return VALID


def restore_backup(options: argparse.Namespace) -> int:
    """Run ``hpchub restore``."""
    units = hosts.Units()
    host = None
    try:
        if options.facts:
            _print_facts(read_header(_file(options)))
            return VALID
        host = hosts.load()
        if options.recover:
            _recover(host, units)
            return VALID
        if options.undo:
            undo_last(host, units, force=options.force)
            print("The state before the last restore is back.")
            return VALID
        permitted = Options(options.force, options.other_database, options.keep_database)
        key = _identity(options)
        if options.check:
            with host.locked(), host.scratch() as scratch:
                verified = verify(host, units, _file(options), identity=key, options=permitted, scratch=scratch)
            _print_facts(verified.manifest)
            print("This backup can be restored on this host. Nothing was changed.")
            return VALID
        manifest = restore(host, units, _file(options), key, permitted)
        if manifest is None:
            print("The last restore was of this backup. Nothing was changed. To restore it again, use --force.")
            return VALID
        _print_facts(manifest)
        print(f"Restored. To go back: hpchub restore --undo. The former state is in {host.work}/restore.")
    except hosts.Busy as error:
        raise Failure(str(error)) from None
    except (BackupError, OSError) as error:
        raise Failure(f"{error}{_incomplete(host)}") from None
    except Interrupted as error:
        raise Failure(f"{error}{_incomplete(host) or '; the old state is back'}") from None
    return VALID


def _recover(host: hosts.Host, units: hosts.Units) -> None:
    try:
        with host.locked():
            if undo_unfinished(host, units, RECOVERY_PATIENCE):
                print("A restore was interrupted. The state before it is back.")
            if upgrade.recover(host, hosts.environments(), RECOVERY_PATIENCE):
                print("An upgrade broke off. The database of the old version is back.")
    except hosts.Busy:  # an upgrade that runs starts the hub itself
        if host.journal.exists():
            raise BackupError(
                "a restore is changing the state of the hub, so the hub cannot start now; wait until the restore ends,"
                " which starts the hub"
            ) from None


def _incomplete(host: hosts.Host | None) -> str:
    """Return what to do if the state of the hub is incomplete, or an empty text."""
    if host is None or not host.journal.exists():
        return ""
    return (
        "; the hub does not start, because its state is incomplete; remove the cause, and run 'hpchub restore --undo',"
        " which puts back the state before the restore"
    )


def roll_back(options: argparse.Namespace) -> int:
    """Run ``hpchub rollback``."""
    try:
        # Without settings for backups, the last upgrade may have been the first one to a version with backups.
        host = hosts.load(required=False)
        point = upgrade.rollback(host, hosts.Units(), hosts.environments(), force=options.force)
    except (BackupError, OSError) as error:
        raise Failure(str(error)) from None
    database = "The database is the one from before the upgrade." if point.dump else "The database was not changed."
    print(f"The hub runs with the environment {point.environment} again. {database}")
    return VALID


def _file(options: argparse.Namespace) -> Path:
    if options.file is None:
        raise BackupError("give the file of the backup")
    return Path(options.file)


def _identity(options: argparse.Namespace) -> Path | bytes:
    if options.identity is None:
        raise BackupError("give --identity with the file of the private key, or - to read the key from the input")
    return sys.stdin.buffer.read() if str(options.identity) == "-" else Path(options.identity)


def _print_facts(manifest: Manifest) -> None:
    made = f"{datetime.fromtimestamp(manifest.time, UTC):%Y-%m-%d %H:%M:%S} UTC"
    print(f"Backup of {manifest.hub}, made {made} by hpchub {manifest.hpchub}")
    print(f"Database {manifest.database} ({manifest.backend}), schema {manifest.schema}, format {manifest.format}")
