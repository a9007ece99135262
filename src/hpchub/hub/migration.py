"""Move the hub's database from SQLite to PostgreSQL or back: ``python -m hpchub.hub.migration``.

The playbook ``migrate_state_store.yml`` runs this program with the hub's account, while the hub is stopped. Sessions go
on: the copy contains them, and also the id of the database, which the jobs carry.
"""

from __future__ import annotations

import argparse
import getpass
import shlex
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from alembic.config import Config
from alembic.script import ScriptDirectory
from jupyterhub import orm
from jupyterhub.dbutil import ALEMBIC_DIR
from sqlalchemy import Column, MetaData, Table, Unicode, create_engine, func, insert, inspect, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from hpchub.hub import (
    identities,  # noqa: F401  (it adds a table)
    ledger,
    saved_settings,  # noqa: F401  (it adds a table)
)
from hpchub.hub.database import DatabaseError, check, describe, explain, parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Connection, Engine

BATCH = 1000
"""How many rows are copied at a time."""

VERSION = Table("alembic_version", MetaData(), Column("version_num", Unicode(32), primary_key=True))
"""The version of JupyterHub's tables."""


def tables() -> list[Table]:
    """Return all tables of the hub. A table comes after those that it refers to."""
    return [VERSION, *orm.Base.metadata.sorted_tables, *ledger.METADATA.sorted_tables]


def copy(source: str, target: str) -> dict[str, int]:
    """Copy a database into an empty one, completely or not at all.

    Args:
        source: The URL of the hub's database.
        target: The URL of the new database.

    Returns:
        The number of rows of each table.

    Raises:
        DatabaseError: A database cannot be used, the source has another version, or the target is not empty.
    """
    compare(source, target)
    path = _file(target)
    if path is None:
        return _copy(source, target)
    # SQLite does not undo the creation of tables, so the copy gets its name only when it is complete.
    unfinished = path.with_name(f"{path.name}.unfinished")
    _remove(unfinished)
    counts = _copy(source, f"sqlite:///{unfinished}")
    unfinished.replace(path)
    return counts


def compare(source: str, target: str) -> None:
    """Check that a database can be copied to another one. Nothing is changed.

    Raises:
        DatabaseError: It cannot be copied.
    """
    if parse(source) == parse(target):
        raise DatabaseError(f"{describe(source)} is both the source and the target")
    path = _file(source)
    if path is not None and not path.exists():
        raise DatabaseError(f"{describe(source)} does not exist; start the hub once, or correct the path")
    check(source)
    with _open(source) as connection:
        _check_version(connection, source)
        names = set(inspect(connection).get_table_names())
        unknown = names - {table.name for table in tables()}
        if unknown:
            raise DatabaseError(
                f"{describe(source)} has a table {min(unknown)}, which does not belong to the hub; move it to"
                " another database first"
            )
    path = _file(target)
    if path is not None and not path.exists():
        return
    check(target)
    with _open(target) as connection:
        found = set(inspect(connection).get_table_names())
        for table in tables():
            if table is VERSION or table.name not in found:
                continue
            if rows := connection.scalar(select(func.count()).select_from(table)):
                raise DatabaseError(
                    f"{describe(target)} is not empty: its table {table.name} has {rows} rows; name an empty"
                    f" database, or put the tables away first: {_retire_command(target)}"
                )


def _retire_command(url: str) -> str:
    """Return the command that puts the tables of a database away, for root. This program runs as the hub's account."""
    program = ["runuser", "-u", getpass.getuser(), "--", sys.executable, "-I", "-m", "hpchub.hub.migration"]
    return shlex.join([*program, "retire", str(parse(url))])


def _copy(source: str, target: str) -> dict[str, int]:
    counts = {}
    with _open(source) as reading, _open(target) as writing:
        existing = set(inspect(reading).get_table_names())
        for table in tables():
            table.create(writing, checkfirst=True)
            if table is VERSION:
                writing.execute(table.delete())
            if table.name not in existing:
                continue
            rows = reading.execute(select(table)).mappings()
            while batch := rows.fetchmany(BATCH):
                writing.execute(insert(table), [dict(row) for row in batch])
            counts[table.name] = _count(reading, table)
            if _count(writing, table) != counts[table.name]:
                raise DatabaseError(f"the copy of table {table.name} is incomplete; nothing was changed")
            _continue_numbers(writing, table)
    return counts


def _count(connection: Connection, table: Table) -> int:
    return int(connection.scalar(select(func.count()).select_from(table)) or 0)


def _continue_numbers(connection: Connection, table: Table) -> None:
    """Let PostgreSQL give new rows numbers above those of the copied rows."""
    column = table.autoincrement_column
    if connection.dialect.name != "postgresql" or column is None:
        return
    highest = connection.scalar(select(func.max(column)))
    if highest:
        sequence = func.pg_get_serial_sequence(table.name, column.name)
        connection.execute(select(func.setval(sequence, highest)))


def _check_version(connection: Connection, url: str) -> None:
    """Check that the tables have the version of the installed JupyterHub.

    Raises:
        DatabaseError: They have another one, or there are none.
    """
    config = Config()
    config.set_main_option("script_location", ALEMBIC_DIR.replace("%", "%%"))
    wanted = ScriptDirectory.from_config(config).get_current_head()
    found = None
    if VERSION.name in inspect(connection).get_table_names():
        found = connection.scalar(select(VERSION.c.version_num))
    if found != wanted:
        state = f"has the version {found}" if found else "contains no tables of JupyterHub"
        raise DatabaseError(f"{describe(url)} {state}, but this JupyterHub needs {wanted}; run site.yml first")


def retire(url: str) -> str:
    """Put the tables of a database away, so that it is empty, but nothing is lost.

    Returns:
        Where the tables are, or an empty text if there are none.

    Raises:
        DatabaseError: The database cannot be changed.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%d_%H%M%S")
    path = _file(url)
    if path is not None:
        if not path.exists():
            return ""
        with _open(url) as connection:
            connection.execute(text("PRAGMA journal_mode=DELETE"))  # so that the file is complete
        return str(path.replace(path.with_name(f"{path.name}.{stamp}")))
    with _open(url) as connection:
        if not inspect(connection).get_table_names():
            return ""
        connection.execute(text(f"ALTER SCHEMA public RENAME TO hpchub_{stamp}"))
        connection.execute(text("CREATE SCHEMA public"))
    return f"{describe(url)}, schema hpchub_{stamp}"


@contextmanager
def _open(url: str) -> Iterator[Connection]:
    """Open a database for one transaction, which sees the state of one moment.

    Raises:
        DatabaseError: The database cannot be used.
    """
    isolation = {} if make_url(url).get_backend_name() == "sqlite" else {"isolation_level": "REPEATABLE READ"}
    engine: Engine = create_engine(url, poolclass=NullPool, **isolation)
    try:
        with engine.begin() as connection:
            yield connection
    except SQLAlchemyError as error:
        raise DatabaseError(explain(error, url)) from None
    finally:
        engine.dispose()


def _file(url: str) -> Path | None:
    """Return the file of a SQLite database, or None for another database."""
    where = make_url(url)
    return Path(where.database or "") if where.get_backend_name() == "sqlite" else None


def _remove(path: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    parser = argparse.ArgumentParser(prog="hpchub.hub.migration", description="Move the hub's database.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, help_text in (("compare", "check whether a database can be copied"), ("copy", "copy a database")):
        added = commands.add_parser(name, help=help_text)
        added.add_argument("source", metavar="SOURCE", help="the URL of the hub's database")
        added.add_argument("target", metavar="TARGET", help="the URL of the new database, which must be empty")
    commands.add_parser("retire", help="put the tables of a database away").add_argument("url", metavar="URL")
    options = parser.parse_args(arguments)
    try:
        if options.command == "compare":
            compare(options.source, options.target)
            print(f"{describe(options.source)} can be copied to {describe(options.target)}")
        elif options.command == "copy":
            counts = copy(options.source, options.target)
            print(f"Copied {sum(counts.values())} rows of {len(counts)} tables to {describe(options.target)}")
        else:
            kept = retire(options.url)
            print(f"The tables are in {kept}" if kept else f"{describe(options.url)} has no tables")
    except DatabaseError as error:
        print(f"hpchub: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
