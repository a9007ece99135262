"""Live jobs of no session: the hub ends only what its own database recorded as over."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest
from hub_app import CLUSTER, GRANT, HUB, SESSION, Hub, job
from jupyterhub import orm
from sqlalchemy import create_engine, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from hpchub.cli import inventory
from hpchub.cli import main as cli
from hpchub.hub import ledger as ledger_module
from hpchub.hub.ledger import DATABASE_TABLE, KEEP, SESSIONS, Ledger, end_unknown_job, unknown_jobs
from hpchub.hub.orphans import ALARM, FEW, NEW, OrphanCollector
from hpchub.hub.proxy import _end_half_stopped_sessions
from hpchub.schedulers import Job, JobState
from hpchub.schedulers.base import Tag

if TYPE_CHECKING:
    from pathlib import Path

ANOTHER = "0badcafe"
"""The id of another database."""


def open_ledger(path: Path) -> Ledger:
    return Ledger(Session(create_engine(f"sqlite:///{path}")))


def sessions_of(ledger: Ledger) -> dict[str, tuple[str, str, str, bool]]:
    """Return the user, the cluster, the job and whether the session is over, by the session's name."""
    rows = ledger.db.execute(select(SESSIONS))
    return {row.session: (row.user, row.cluster, row.job_id, row.ended is not None) for row in rows}


def running(count: int, database: str, start: int = 0) -> list[Job]:
    """Return the jobs of so many sessions of different users."""
    numbers = range(start, start + count)
    return [job(job_id=str(100 + n), session=f"{n:016x}", user=f"user{n}", database=database) for n in numbers]


@pytest.fixture
def collector(hub: Hub) -> OrphanCollector:
    """A collector that knows no session, and needs no time between two answers."""
    return OrphanCollector(hub.runtime, set, grace=0.0)


@pytest.fixture
def old_database(hub: Hub) -> None:
    """Make the database older than any job."""
    hub.runtime.ledger.created -= NEW + 1


async def sweep(collector: OrphanCollector) -> None:
    for _ in range(3):
        await collector.sweep(CLUSTER)


# The database's id


def test_new_database_gets_a_new_id_and_a_restored_backup_keeps_it(tmp_path: Path) -> None:
    first = open_ledger(tmp_path / "hub.sqlite")
    shutil.copy(tmp_path / "hub.sqlite", tmp_path / "backup.sqlite")
    assert open_ledger(tmp_path / "hub.sqlite").database == first.database
    assert open_ledger(tmp_path / "backup.sqlite").database == first.database
    assert open_ledger(tmp_path / "new.sqlite").database != first.database


async def test_jobs_carry_the_id_of_the_database(hub: Hub) -> None:
    spawner = hub.new_spawner()
    spawner.child_spawner.driver.begin()
    hub.show()
    await spawner.child_spawner.submit_batch_script()
    (submission,) = hub.gate.submissions
    assert f"hpchub/{HUB}~{hub.runtime.ledger.database}/alice/{spawner.session}" in submission["script"]


# What the hub must not end


async def test_empty_database_ends_nobodys_jobs(
    hub: Hub, collector: OrphanCollector, caplog: pytest.LogCaptureFixture
) -> None:
    hub.show(*running(12, ANOTHER))
    await sweep(collector)
    assert hub.gate.cancelled == []
    assert list(hub.runtime.health.alarms.values()) == [ALARM]
    assert "Job 100 of user user0 on cluster demo carries this hub's name" in caplog.text
    assert "user" not in ALARM
    hub.show()
    await sweep(collector)
    assert hub.runtime.health.alarms == {}


@pytest.mark.usefixtures("old_database")
async def test_second_hub_with_the_same_host_name_is_left_alone(hub: Hub, collector: OrphanCollector) -> None:
    hub.end_session(SESSION)
    hub.show(*running(12, ANOTHER), job(job_id="8", database=ANOTHER))
    await sweep(collector)
    assert hub.gate.cancelled == []
    assert hub.runtime.health.alarms == {}
    assert len(unknown_jobs(hub.app.db.connection())) == 13


@pytest.mark.usefixtures("old_database")
@pytest.mark.parametrize("tag", ["own", "older version"])
async def test_restored_backup_lists_the_jobs_that_it_lacks(hub: Hub, collector: OrphanCollector, tag: str) -> None:
    database = hub.runtime.ledger.database if tag == "own" else ""
    hub.show(*running(FEW, database))
    await sweep(collector)
    assert hub.gate.cancelled == []
    assert hub.runtime.health.alarms == {}
    found = [(row.cluster, row.job_id, row.user) for row in unknown_jobs(hub.app.db.connection())]
    assert found == [("demo", "100", "user0"), ("demo", "101", "user1"), ("demo", "102", "user2")]


@pytest.mark.usefixtures("old_database")
async def test_many_unknown_jobs_stop_every_cancellation(
    hub: Hub, collector: OrphanCollector, caplog: pytest.LogCaptureFixture
) -> None:
    hub.end_session(SESSION)
    database = hub.runtime.ledger.database
    hub.show(job(job_id="8", database=database), *running(FEW + 1, database))
    with caplog.at_level(logging.ERROR):
        await sweep(collector)
    assert hub.gate.cancelled == []
    assert list(hub.runtime.health.alarms.values()) == [ALARM]
    assert "4 live jobs on cluster demo are unknown" in caplog.text
    hub.show(job(job_id="8", database=database), *running(FEW, database))
    await sweep(collector)
    assert hub.gate.cancelled == ["8"]
    assert hub.runtime.health.alarms == {}


async def test_unusable_database_ends_no_job(hub: Hub, collector: OrphanCollector) -> None:
    hub.end_session(SESSION)
    hub.show(job())
    hub.app.db.commit()
    SESSIONS.drop(hub.app.db.connection())
    with pytest.raises(OperationalError):
        await collector.sweep(CLUSTER)
    assert hub.gate.cancelled == []


# What the hub ends


@pytest.mark.usefixtures("old_database")
@pytest.mark.parametrize(
    ("user", "database", "ends"),
    [("alice", "own", True), ("alice", "", True), ("alice", ANOTHER, False), ("bob", "own", False)],
    ids=["own", "older version", "another database", "session of another user"],
)
async def test_job_of_a_session_that_is_over_is_ended(
    hub: Hub, collector: OrphanCollector, user: str, database: str, ends: bool
) -> None:
    hub.end_session(SESSION)
    hub.show(job(user=user, database=hub.runtime.ledger.database if database == "own" else database))
    await sweep(collector)
    assert hub.gate.cancelled == (["7"] if ends else [])


@pytest.mark.parametrize("many", [False, True])
async def test_administrator_can_end_an_unknown_job(hub: Hub, collector: OrphanCollector, many: bool) -> None:
    hub.show(*running(12 if many else 1, ANOTHER))
    await sweep(collector)
    connection = hub.app.db.connection()
    first = unknown_jobs(connection)[0]
    end_unknown_job(connection, first)
    hub.app.db.commit()
    await sweep(collector)
    assert hub.gate.cancelled == [first.job_id]


@pytest.mark.usefixtures("old_database")
async def test_instruction_does_not_apply_to_the_next_job_with_this_id(hub: Hub, collector: OrphanCollector) -> None:
    hub.show(job(database=ANOTHER))
    await sweep(collector)
    connection = hub.app.db.connection()
    end_unknown_job(connection, unknown_jobs(connection)[0])
    hub.app.db.commit()
    hub.show(job(session="b" * 16, database=ANOTHER))
    await sweep(collector)
    assert hub.gate.cancelled == []


@pytest.mark.usefixtures("old_database")
@pytest.mark.parametrize(("limit", "ends"), [(0, []), (3600, ["7"]), (7200, [])])
async def test_unknown_job_ends_after_a_time_only_if_the_site_chooses_one(
    hub: Hub, collector: OrphanCollector, limit: int, ends: list[str]
) -> None:
    hub.runtime.settings["unknown_jobs_end_after"] = limit
    hub.show(job(database=hub.runtime.ledger.database), job(job_id="8", session="b" * 16, database=ANOTHER))
    await sweep(collector)
    table = ledger_module.UNKNOWN_JOBS
    hub.app.db.execute(update(table).values(found=time.time() - 4000))
    hub.app.db.commit()
    await sweep(collector)
    assert hub.gate.cancelled == ends


# What the database records


async def test_session_is_recorded_before_its_submission_and_when_it_is_over(hub: Hub) -> None:
    spawner = hub.new_spawner()
    child = spawner.child_spawner
    child.driver.begin()
    session = spawner.session
    hub.app.db.rollback()  # what is not committed is lost
    assert sessions_of(hub.runtime.ledger) == {session: ("alice", "demo", "", False)}
    hub.show(job(session=session))
    await child.submit_batch_script()
    assert sessions_of(hub.runtime.ledger) == {session: ("alice", "demo", "7", False)}
    spawner.clear_state()
    assert sessions_of(hub.runtime.ledger) == {session: ("alice", "demo", "7", True)}
    assert hub.runtime.ledger.ended([session, SESSION]) == {session: ("alice", "demo")}


async def test_session_of_an_older_version_is_recorded_when_it_is_restored(hub: Hub) -> None:
    spawner = hub.restored_spawner()
    assert sessions_of(hub.runtime.ledger) == {SESSION: ("alice", "demo", "7", False)}
    spawner.child_spawner.abandon()
    assert sessions_of(hub.runtime.ledger)[SESSION][3]


async def test_session_that_the_last_process_had_half_stopped_is_over(hub: Hub) -> None:
    user = hub.user()
    job_state = {"session": SESSION, "job_id": "7", "submitted": 0.0, "host": "", "port": 0}
    for name, server in (("half", None), ("alive", orm.Server(base_url="/user/alice/"))):
        spawner = orm.Spawner(name=name, user=user.orm_user, server=server)
        spawner.state = {"grant": GRANT, "job": {**job_state, "session": SESSION if name == "half" else "b" * 16}}
        hub.app.db.add(spawner)
    hub.app.db.add(orm.Spawner(name="never started", user=user.orm_user))
    hub.app.db.commit()
    _end_half_stopped_sessions(hub.app.db, hub.runtime.ledger)
    assert sessions_of(hub.runtime.ledger) == {SESSION: ("alice", "demo", "7", True)}
    states = {spawner.name: bool(spawner.state) for spawner in hub.app.db.query(orm.Spawner) if spawner.name}
    assert states == {"half": False, "alive": True, "never started": False}


async def test_end_that_cannot_be_recorded_is_recorded_later(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = hub.runtime.ledger
    write = ledger._write

    def fail(*_: object) -> None:
        raise OperationalError("UPDATE", {}, sqlite3.OperationalError("database or disk is full"))

    monkeypatch.setattr(ledger, "_write", fail)
    hub.end_session(SESSION)
    assert "trying again later" in caplog.text
    assert ledger.ended([SESSION]) == {}
    monkeypatch.setattr(ledger, "_write", write)
    ledger.tidy()
    assert ledger.ended([SESSION]) == {SESSION: ("alice", "demo")}


def test_old_sessions_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = open_ledger(tmp_path / "hub.sqlite")
    for session in (SESSION, "b" * 16):
        ledger.record(session, user="alice", cluster="demo", job_id="7")
    ledger.end(SESSION, user="alice", cluster="demo", job_id="7")
    ledger.tidy()
    assert len(sessions_of(ledger)) == 2
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + KEEP + 1)
    ledger.tidy()
    assert list(sessions_of(ledger)) == ["b" * 16]


async def test_ended_jobs_and_other_hubs_are_not_listed(hub: Hub, collector: OrphanCollector) -> None:
    ended = job(JobState.ENDED, database=ANOTHER)
    elsewhere = Job("9", JobState.RUNNING, name=f"hpchub-{SESSION}", user="alice")
    named = Job("8", JobState.RUNNING, name=elsewhere.name, user="alice", comment=f"hpchub/x/alice/{SESSION}")
    hub.show(ended, elsewhere, named)
    await sweep(collector)
    assert unknown_jobs(hub.app.db.connection()) == []


def test_database_has_one_id(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "hub.sqlite")
    assert [row.id for row in ledger.db.execute(select(DATABASE_TABLE))] == [ledger.database]


# The command


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """Prepare the hub host for the command, with two unknown jobs in the database."""
    monkeypatch.setattr(inventory, "HUB_SETTINGS", tmp_path / "hub.json")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (tmp_path / "hub.json").write_text(json.dumps({"db_url": f"sqlite:///{tmp_path}/hub.sqlite"}))
    ledger = open_ledger(tmp_path / "hub.sqlite")
    ledger.update_unknown("demo", {str(n): (f"user{n}", Tag(HUB, ANOTHER, f"{n:016x}")) for n in (1, 2)})
    return ledger


def test_command_lists_the_unknown_jobs(command: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["orphans"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:5] == ["demo", "1", "user1", f"{1:016x}", ANOTHER]
    assert lines[-1].startswith("2 jobs. The hub does not touch them.")
    command.update_unknown("demo", {})
    assert cli.main(["orphans"]) == 0
    assert capsys.readouterr().out == "The hub knows the sessions of all live jobs that carry its name.\n"


@pytest.mark.parametrize(
    ("words", "code", "ended"),
    [(["2"], 0, {"1": False, "2": True}), (["ALL"], 0, {"1": True, "2": True}), (["3"], 2, {"1": False, "2": False})],
)
def test_command_tells_the_hub_to_end_jobs(
    command: Ledger, capsys: pytest.CaptureFixture[str], words: list[str], code: int, ended: dict[str, bool]
) -> None:
    assert cli.main(["orphans", "--json", "--end", *words]) == code
    output = capsys.readouterr()
    assert {job["job_id"]: job["end"] for job in json.loads(output.out)} == ended
    assert {row.job_id: row.end for row in unknown_jobs(command.db.connection())} == ended
    assert output.err == ("hpchub: job 3 is not in the list; valid: 1, 2\n" if code else "")


def test_command_explains_a_database_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inventory, "HUB_SETTINGS", tmp_path / "hub.json")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli.main(["orphans"]) == 2
    assert "this is not the hub host" in capsys.readouterr().err
    (tmp_path / "hub.json").write_text(json.dumps({"db_url": f"sqlite:///{tmp_path}/empty.sqlite"}))
    assert cli.main(["orphans"]) == 2
    assert "lacks a table of the hub" in capsys.readouterr().err
