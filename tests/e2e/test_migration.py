"""The administrator moves the hub's database to SQLite and back to PostgreSQL while a user works."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import yaml

from .database import Server
from .lab import LabError
from .site import Site
from .watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .lab import Lab
    from .pages import Visitor

PLAYBOOK = "migrate_state_store.yml"
KEPT = "/var/lib/hpchub/jupyterhub.sqlite.2*"


@pytest.fixture
def own_host(lab: Lab, tmp_path: Path) -> Iterator[Site]:
    """Return the lab's inventory, with a database on a host of its own. Afterwards, the hub uses this database."""
    if not Server.exists(lab) or Server(lab).host == "hub":
        pytest.skip("the hub's database has no host of its own")
    (tmp_path / "own_host").mkdir()
    site = Site(lab, tmp_path / "own_host")
    yield site
    if not Server.exists(lab):
        site.apply(playbook=PLAYBOOK)
    server = Server(lab)
    for schema in server.sql("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'hpchub_%'", server.database).split():
        server.sql(f"DROP SCHEMA {schema} CASCADE", server.database)
    lab.run("hub", ["sh", "-c", f"rm -f {KEPT}"])


@pytest.fixture
def sqlite(lab: Lab, tmp_path: Path) -> Site:
    """Return the same inventory with SQLite, and without the database host."""
    (tmp_path / "sqlite").mkdir()
    site = Site(lab, tmp_path / "sqlite")
    (site.inventory / "group_vars/all/state_store.yml").write_text("hpc_state_store: {backend: sqlite}\n")
    hosts = yaml.safe_load((site.inventory / "hosts.yml").read_text())
    del hosts["all"]["children"]["state_store"]
    (site.inventory / "hosts.yml").write_text(yaml.safe_dump(hosts))
    return site


def facts(lab: Lab) -> tuple[list[list[str]], set[str]]:
    """Return what a move must keep: the id of the database, and the users."""
    return lab.database("SELECT id FROM hpchub_database"), lab.hub_users()


def test_sessions_go_on_while_the_database_moves(
    lab: Lab, visitor: Callable[[], Visitor], own_host: Site, sqlite: Site
) -> None:
    """A kernel keeps its variable on the way to SQLite and back. The hub can start sessions after each move.

    The test prints how long the hub does not answer.
    """
    alice, bob = visitor(), visitor()
    alice.sign_in("alice")
    bob.sign_in("bob")
    notebook = alice.start(lab.profiles()[0]["key"]).new_notebook("python3")
    assert notebook.run("kept = 6*7; kept") == "42"
    jobs, before = lab.jobs("alice"), facts(lab)
    with pytest.raises(LabError, match=r"migrate_state_store\.yml"):
        sqlite.apply("--tags", "jupyterhub")

    for site, backend in ((sqlite, "sqlite"), (own_host, "postgresql")):
        with Watch(lab) as watch:
            output = site.apply(playbook=PLAYBOOK)
        print(f"to {backend}: {re.findall(r'Copied .*? tables', output)}, {watch.seconds:.0f} s without the hub")
        assert lab.hub_settings()["db_url"].startswith(backend)
        assert facts(lab) == before
        assert lab.jobs("alice") == jobs
        assert notebook.run("kept") == "42"
        assert bob.start(lab.profiles()[0]["key"]).run_cell("python3", "6*7") == "42"
        bob.stop_server()
    alice.page.goto(f"{lab.url}/hub/home")
    assert alice.server()["ready"]
    assert lab.run("hub", ["sh", "-c", f"ls {KEPT}"]), "the former SQLite file is not kept"
    repeated = re.findall(r"changed=(\d+)", own_host.apply(playbook=PLAYBOOK))
    assert set(repeated) == {"0"}, repeated
