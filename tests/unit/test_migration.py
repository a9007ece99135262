"""The hub's database moves from SQLite to PostgreSQL and back with everything that it contains."""

from __future__ import annotations

import getpass
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hub_app import make_hub
from jupyterhub import orm
from postgresql_server import Server, needs_server
from sqlalchemy import create_engine, func, select, text

from hpchub.hub.database import DatabaseError
from hpchub.hub.migration import compare, copy, main, retire, tables

PAGES = str(Path(__file__).parents[2] / "templates" / "pages")

pytestmark = needs_server


def counts(url: str) -> dict[str, int]:
    engine = create_engine(url)
    with engine.connect() as connection:
        found = {table.name: connection.scalar(select(func.count()).select_from(table)) or 0 for table in tables()}
    engine.dispose()
    return found


async def test_database_moves_to_postgresql_and_back(server: Server, tmp_path: Path) -> None:
    first = f"sqlite:///{tmp_path}/hub.sqlite"
    hub = await make_hub(tmp_path, [PAGES], first)
    spawner = hub.restored_spawner("https://127.0.0.1:20001", host="127.0.0.1", port=20001)
    state, identity = spawner.orm_spawner.state, hub.runtime.ledger.database
    token = hub.user().new_api_token()
    hub.app.db.commit()
    await hub.close()

    before = counts(first)
    assert copy(first, server.url) == before
    assert counts(server.url) == before
    moved = await make_hub(tmp_path, [PAGES], server.url)
    try:
        assert moved.runtime.ledger.database == identity
        kept = moved.app.db.query(orm.Spawner).filter(orm.Spawner.server_id.is_not(None)).one()
        assert kept.state == state
        assert orm.APIToken.find(moved.app.db, token).user.name == "alice"
        assert moved.user("bob").id == 2, "new rows get new numbers"
    finally:
        await moved.close()

    retire(first)
    before = counts(server.url)
    assert copy(server.url, first) == before
    assert counts(first) == before
    retire(server.url)
    assert set(copy(first, server.url)) == set(before)


async def test_empty_database_has_nothing_to_put_away(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A playbook can put the tables away at each run."""
    file = f"sqlite:///{tmp_path}/hub.sqlite"
    await (await make_hub(tmp_path, [PAGES], file)).close()
    copy(file, server.url)
    for url in (file, server.url):
        assert main(["retire", url]) == 0
        assert capsys.readouterr().out.startswith("The tables are in ")
        assert main(["retire", url]) == 0
        assert capsys.readouterr().out.endswith(" has no tables\n")
    engine = create_engine(server.url)
    with engine.connect() as connection:
        schemas = connection.scalars(text("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'hpchub_%'")).all()
    engine.dispose()
    assert len(schemas) == 1


async def test_target_that_is_not_empty_is_refused_and_stays_as_it_is(server: Server, tmp_path: Path) -> None:
    source = f"sqlite:///{tmp_path}/hub.sqlite"
    await (await make_hub(tmp_path, [PAGES], source)).close()
    copy(source, server.url)
    before = counts(server.url)
    for action in (copy, compare):
        with pytest.raises(DatabaseError, match=r"is not empty: its table .* has \d+ rows; name an empty database"):
            action(source, server.url)
    assert counts(server.url) == before
    assert main(["copy", source, server.url]) == 2


async def test_refusal_of_a_target_names_the_command_that_empties_it(tmp_path: Path) -> None:
    source, target = f"sqlite:///{tmp_path}/hub.sqlite", f"sqlite:///{tmp_path}/target.sqlite"
    await (await make_hub(tmp_path, [PAGES], source)).close()
    copy(source, target)
    with pytest.raises(DatabaseError) as refusal:
        compare(source, target)
    command = shlex.split(str(refusal.value).partition("put the tables away first: ")[2])
    assert command[:4] == ["runuser", "-u", getpass.getuser(), "--"]
    assert command[5:8] == ["-I", "-m", "hpchub.hub.migration"]
    assert main(command[8:]) == 0
    compare(source, target)


async def test_copy_that_fails_leaves_the_target_empty(server: Server, tmp_path: Path) -> None:
    source = f"sqlite:///{tmp_path}/hub.sqlite"
    hub = await make_hub(tmp_path, [PAGES], source)
    hub.user("alice")
    hub.user("b" * 300)  # SQLite accepts texts of any length
    await hub.close()
    with pytest.raises(DatabaseError, match="too long"):
        copy(source, server.url)
    assert server.sql("SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'") == "0"


async def test_database_of_another_version_is_refused(server: Server, tmp_path: Path) -> None:
    source = f"sqlite:///{tmp_path}/hub.sqlite"
    with pytest.raises(DatabaseError, match="does not exist; start the hub once"):
        compare(source, server.url)
    await (await make_hub(tmp_path, [PAGES], source)).close()
    engine = create_engine(source)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '833da8570507'"))
    with pytest.raises(DatabaseError, match="has the version 833da8570507, but this JupyterHub needs"):
        compare(source, server.url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE notes (id INTEGER)"))
        connection.execute(text("DELETE FROM alembic_version"))
    engine.dispose()
    with pytest.raises(DatabaseError, match="contains no tables of JupyterHub"):
        compare(source, server.url)


def test_same_database_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/hub.sqlite"
    with pytest.raises(DatabaseError, match="is both the source and the target"):
        copy(url, url)


def test_command_copies_the_tables_of_all_modules() -> None:
    """The command is a process of its own, which does not import the hub."""
    code = "from hpchub.hub import migration as m; print(*(table.name for table in m.ledger.METADATA.sorted_tables))"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"hpchub_settings", "hpchub_identities", "hpchub_events"} <= set(names)
