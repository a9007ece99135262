"""The upgrade of the hub's environment: JupyterHub's schema, a rollback point, and the way back.

The role ``jupyterhub`` runs this module as a program with the new environment, before it switches to it::

    /opt/hpchub/hub/next/bin/python -I -m hpchub.backup.upgrade

The program saves the settings of the old version. If the schema of the database is older than that of the new version,
it also stops the hub, makes a backup and upgrades the database. If that fails, the old version runs on, unchanged.

A rollback point consists of ``point.json``, the saved settings, and a dump of the database if the schema has changed.
It is unfinished until the new version has answered. ``hpchub rollback`` returns to it. If the deployment fails, the
role runs the program with ``--undo``, which returns to an unfinished point. If the deployment breaks off, the next one
returns to it, unless the new version works.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from hpchub.backup import host as hosts
from hpchub.backup.create import DATABASE, create
from hpchub.backup.database import HubDatabase, known_revisions
from hpchub.backup.files import forget, load_database, put_back, save_files
from hpchub.backup.package import BackupError
from hpchub.hub.database import describe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import URL

    from hpchub.backup.host import Host, Units

POINT, UNFINISHED = "point.json", "unfinished"
UNIT = Path("/etc/systemd/system/jupyterhub.service")
RESTART_AFTER = 900
"""If the deployment breaks off while the hub is stopped, the hub starts again after this time, in seconds."""


@dataclass(frozen=True)
class Point:
    """A rollback point.

    Attributes:
        environment: The link's target before the upgrade.
        upgraded: The link's target after it.
        schema: The schema before the upgrade.
        dump: The name of the dump, or empty if the schema did not change.
        files: The saved settings.
        sessions: The open sessions before the upgrade, if the schema changed.
        since: When the old version came into use, in seconds since 1970. ``playbooks/rollback.yml`` also returns to
            former environments of the notebooks, if they were replaced after this time.
        db_url: The URL of the database in the saved settings.
    """

    environment: str
    upgraded: str
    schema: str
    dump: str
    files: list[dict[str, Any]]
    sessions: list[str]
    since: float
    db_url: str


def directory(host: Host) -> Path:
    """Return the directory of the rollback point."""
    return host.work / "upgrade"


def read_point(host: Host) -> Point | None:
    """Return the rollback point, or None."""
    try:
        return Point(**json.loads((directory(host) / POINT).read_text()))
    except FileNotFoundError:
        return None


def is_unfinished(host: Host) -> bool:
    """Return whether an upgrade has begun and the new version has not answered yet."""
    return (directory(host) / UNFINISHED).exists()


def prepare(host: Host, units: Units, environments: Path) -> str:
    """Prepare the switch to the environment ``next``. If this fails, the hub runs as before.

    Args:
        host: The hub host.
        units: Its units.
        environments: The directory with the links ``current`` and ``next``.

    Returns:
        What was done, for the administrator.

    Raises:
        BackupError: The database cannot be upgraded, or belongs to a newer version.
    """
    following = str((environments / "next").readlink())
    with host.locked(hosts.PATIENCE):
        host.refuse_incomplete()
        _settle(host, units, environments)
        current = _current(environments)
        if current == following:
            return "the hub has returned to this version, after an upgrade that broke off"
        facts = host.database.facts()
        known = known_revisions()
        if facts.schema and facts.schema not in known:
            raise BackupError(
                f"the hub's database has the schema {facts.schema}, which this version does not know; a newer version"
                " has used it: deploy that version, or go back with playbooks/rollback.yml first"
            )
        changes = facts.schema not in ("", known[0])
        place = directory(host)
        _forget(place)
        place.mkdir(mode=0o700)
        dump = DATABASE[host.database.backend] if changes else ""
        try:
            hosts.replace_file(place / UNFINISHED, b"", mode=0o600, uid=0, gid=0)
            files = save_files(place, [path for path in _settings(host) if path.is_file()])
            sessions: list[str] = []
            if changes:
                units.start_later(host.hub_unit, RESTART_AFTER, if_exists=place / UNFINISHED)
                units.stop(host.hub_unit)
                sessions = sorted(host.database.facts().sessions)
                host.database.dump(place / dump)
            since = (environments / "current").lstat().st_mtime
            made = Point(current, following, facts.schema, dump, files, sessions, since, host.hub["db_url"])
            hosts.replace_file(place / POINT, json.dumps(vars(made)).encode(), mode=0o600, uid=0, gid=0)
        except BaseException:
            _abandon(host, units, start=changes)
            raise
    if not changes:
        return "the schema of the database has not changed"
    try:
        if host.recipients:
            create(host, copy=False, patience=hosts.PATIENCE)
        upgrade_database(host, place / dump)
    except BaseException:
        _abandon(host, units, start=True)
        raise
    return f"upgraded the database from the schema {facts.schema} to {known[0]}"


def _current(environments: Path) -> str:
    """Return the target of the link ``current``."""
    return str((environments / "current").readlink())


def _settle(host: Host, units: Units, environments: Path) -> None:
    """Finish or undo an upgrade that broke off, so that the next one begins with a version that works."""
    point = read_point(host)
    if is_unfinished(host):
        if point and _current(environments) == point.upgraded and _works(host, units, environments, point):
            finish(host)
        else:
            _undo(host, units, environments)


def _works(host: Host, units: Units, environments: Path, point: Point) -> bool:
    """Return whether the new version answers, or has started sessions."""
    url = host.hub["hub_bind_url"]
    with contextlib.suppress(FileNotFoundError):
        # The hub creates the socket when it starts. Before the restart, the old version still answers.
        started = Path(unquote(urlsplit(url).netloc)).stat().st_mtime
        if started > (environments / "current").lstat().st_mtime and units.answers(url):
            return True
    return bool(point.dump and host.database.facts().sessions - set(point.sessions))


def _settings(host: Host) -> list[Path]:
    """Return the files of the old version that the deployment of the new one replaces."""
    config = hosts.HUB_SETTINGS.parent
    reference = [path for path in host.reference if path != hosts.BACKUP_SETTINGS]
    templates = [path for path in (config / "templates").rglob("*") if path.is_file()]
    return [*reference, *sorted(templates), *sorted((config / "conf.d").glob("*.py")), UNIT]


def upgrade_database(host: Host, dump: Path) -> None:
    """Upgrade the database of a stopped hub. If this fails, the database is as before.

    Args:
        host: The hub host.
        dump: A dump of the database.

    Raises:
        BackupError: The upgrade failed.
    """
    database = host.database
    if database.backend == "sqlite":
        with host.locked(hosts.PATIENCE), host.scratch() as scratch:
            copy = Path(shutil.copy(dump, scratch / "upgraded.sqlite"))
            HubDatabase(f"sqlite:///{copy}").upgrade()
            load_database(host, copy)
        return
    try:
        database.upgrade()
    except BaseException:
        database.load(dump)
        raise


def _abandon(host: Host, units: Units, *, start: bool) -> None:
    _forget(directory(host))
    if start:
        units.start(host.hub_unit)


def _forget(place: Path) -> None:
    forget(place, UNFINISHED, POINT)


def finish(host: Host) -> None:
    """Record that the new version has answered."""
    (directory(host) / UNFINISHED).unlink(missing_ok=True)


def rollback(host: Host, units: Units, environments: Path, *, force: bool = False) -> Point:
    """Return to the environment, the settings and the schema before the last upgrade.

    Args:
        host: The hub host.
        units: Its units.
        environments: The directory with the link ``current``.
        force: Whether the hub may forget the sessions that started after the upgrade.

    Raises:
        BackupError: There is no rollback point, the old environment is gone, the hub uses another database now, or
            sessions would be forgotten.
    """
    with host.locked(hosts.PATIENCE):
        _check_database(host, read_point(host))
        return _rollback(host, units, environments, force=force)


def _rollback(host: Host, units: Units, environments: Path, *, force: bool) -> Point:
    point = read_point(host)
    if point is None:
        raise BackupError("there is no rollback point on this host; deploy the former version with site.yml")
    if not (environments / point.environment / "bin" / "jupyterhub").exists():
        raise BackupError(
            f"the former environment {environments / point.environment} is gone; deploy the former version with"
            " site.yml"
        )
    place = directory(host)
    dump = _dump_to_load(host, point)
    if dump is not None and not force:
        _check_sessions(host, point)
    units.stop(host.hub_unit)
    try:
        if dump is not None:
            load_database(host, dump)
        put_back(place, point.files)
        _switch(environments, point.environment)
    finally:
        units.reload_units()
        units.start(host.hub_unit)
    _forget(place)  # after the start, so that a rollback that breaks off can be repeated
    return point


def undo(host: Host, units: Units, environments: Path) -> str:
    """Return to the old version if an upgrade has begun and is not finished.

    Args:
        host: The hub host.
        units: Its units.
        environments: The directory with the link ``current``.

    Returns:
        What was done, for the administrator, or an empty text.

    Raises:
        BackupError: The old version cannot come back.
    """
    with host.locked(hosts.PATIENCE):
        if not is_unfinished(host):
            return ""
        _undo(host, units, environments)
        return f"The hub runs with the environment {_current(environments)} again."


def _undo(host: Host, units: Units, environments: Path) -> None:
    point = read_point(host)
    if point and _current(environments) == point.upgraded:
        _rollback(host, units, environments, force=False)
        return
    if point and _dump_to_load(host, point):
        units.stop(host.hub_unit)
    if not recover(host, environments):
        _forget(directory(host))  # it broke off before anything changed
    units.reload_units()
    units.start(host.hub_unit)


def recover(host: Host, environments: Path, patience: float = 0) -> bool:
    """Put the old database and settings back if an upgrade broke off before the switch. Return whether that was so.

    Args:
        host: The hub host.
        environments: The directory with the link ``current``.
        patience: How long to wait for the server of the database, in seconds.

    Raises:
        BackupError: The database cannot come back.
    """
    point = read_point(host)
    if point is None or not is_unfinished(host):
        return False
    with contextlib.suppress(OSError):
        if _current(environments) != point.environment:
            return False  # the hub starts with the new version
    if point.dump:
        host.database.wait(patience)
    dump = _dump_to_load(host, point)
    if dump is not None:
        load_database(host, dump)
    put_back(directory(host), point.files)
    _forget(directory(host))
    return True


def _dump_to_load(host: Host, point: Point) -> Path | None:
    """Return the dump if the database no longer has the schema of the rollback point."""
    if not point.dump or host.database.facts().schema == point.schema:
        return None
    return directory(host) / point.dump


def _check_database(host: Host, point: Point | None) -> None:
    """Refuse settings that name another database than the present one, where the hub would know no session."""
    if point is not None and _place(point.db_url) != _place(host.hub["db_url"]):
        raise BackupError(
            f"the hub used the {describe(point.db_url)} before the last upgrade, and uses the"
            f" {describe(host.hub['db_url'])} now; a rollback would return to the former one, where the hub would know"
            " no session; deploy the former version with site.yml"
        )


def _place(url: str) -> URL:
    """Return the URL of a database without the options of the connection."""
    return HubDatabase(url).url.set(query={})


def _check_sessions(host: Host, point: Point) -> None:
    """Refuse to forget sessions."""
    if later := host.database.facts().sessions - set(point.sessions):
        raise BackupError(
            f"the schema of the database has changed, so that the database comes from before the upgrade; it does not"
            f" know {len(later)} open sessions that started since then. Their jobs go on, and 'hpchub orphans'"
            " lists them. Use --force (-e force=true) to roll back nevertheless"
        )


def _switch(environments: Path, target: str) -> None:
    fresh = environments / ".current.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(environments / "current")


def main(arguments: Sequence[str]) -> int:
    """Run the program."""
    try:
        host, units, environments = hosts.load(required=False), hosts.Units(), hosts.environments()
        done = undo(host, units, environments) if arguments else prepare(host, units, environments)
    except (BackupError, OSError) as error:
        print(f"{error}; the old version {'cannot come back' if arguments else 'runs on'}", file=sys.stderr)
        return 2
    if done:
        print(done)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
