"""The event table: what is recorded, once, although the database or the hub fails in between, and for how long."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC
from typing import TYPE_CHECKING, Any

import pytest
from hub_app import answer
from postgresql_server import Server, needs_server
from sqlalchemy import create_engine, insert, select, text
from sqlalchemy.exc import OperationalError

from hpchub.hub import event_recorder, events
from hpchub.hub.event_recorder import EventRecorder
from hpchub.hub.event_rows import pseudonym
from hpchub.hub.ledger import EVENTS, METADATA, SESSIONS
from hpchub.report.period import Period
from hpchub.report.records import read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hub_app import Ask, Hub
    from sqlalchemy import Engine

NOW = time.time()
SESSION = events.Session(
    name="a" * 16, user="alice", cluster="demo", queue="q", profile="small", cores=2, gpus=1, runtime=3600
)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs_server)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An empty database with hpchub's tables."""
    url = f"sqlite:///{tmp_path}/hub.sqlite"
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("server")
        url = server.url
    made = create_engine(url)
    METADATA.create_all(made)
    yield made
    made.dispose()


def rows(engine: Engine, *columns: str) -> list[Any]:
    """Return the rows of the event table in their order."""
    names = columns or ("kind", "at")
    with engine.connect() as connection:
        found = connection.execute(select(*(EVENTS.c[name] for name in names)).order_by(EVENTS.c.id))
        return [tuple(row) if len(names) > 1 else row[0] for row in found]


def course(session: events.Session = SESSION) -> list[events.Event]:
    """Return the events of a whole session."""
    return [
        events.StartRequested(at=NOW, session=session, groups=("physics", "Ünïcode, 1")),
        events.JobSubmitted(at=NOW + 1, session=session, job_id="7", waited=1.0),
        events.JobStarted(at=NOW + 2, session=session, job_id="7", node="n1", waited=1.0),
        events.SessionReady(at=NOW + 3, session=session, job_id="7", launched=1.0, waited=3.0),
        events.StopRequested(at=NOW + 4, session=session, origin=events.UNKNOWN),
        events.SessionEnded(at=NOW + 5, session=session, cause="unknown"),
        events.EndExplained(at=NOW + 6, session=session, cause="cancelled"),
        events.EndExplained(at=NOW + 7, session=session, cause="time_limit"),
    ]


KINDS = ["requested", "submitted", "started", "ready", "ended", "explained"]


def record(recorder: EventRecorder, engine: Engine, *happened: events.Event) -> None:
    """Record events at once."""
    for event in happened:
        recorder.add(event)
    recorder.flush(engine)


def test_session_has_one_row_for_each_step_and_the_facts_of_its_start(engine: Engine) -> None:
    record(EventRecorder(400, None), engine, *course())
    assert rows(engine, "kind") == KINDS
    columns = ("user", "groups", "cluster", "queue", "profile", "cores", "gpus", "runtime")
    user, groups, *facts = rows(engine, *columns)[0]
    assert (user, json.loads(groups)) == ("alice", ["physics", "Ünïcode, 1"])
    assert facts == ["demo", "q", "small", 2, 1, 3600]
    assert rows(engine, "kind", "job_id")[1] == ("submitted", "7")
    assert rows(engine, "kind", "reason")[-2:] == [("ended", "unknown"), ("explained", "time_limit")]


def test_events_that_occur_again_after_a_restart_are_recorded_once(engine: Engine) -> None:
    record(EventRecorder(400, None), engine, *course())
    before = rows(engine)
    restored = events.SessionRestored(
        session=SESSION, job_id="7", requested=NOW + 50, submitted=NOW + 51, started=NOW + 52, ready=NOW + 53
    )
    later = [events.StartFailed(at=NOW + 60, session=SESSION, reason="ended"), course()[5], course()[7]]
    record(EventRecorder(400, None), engine, restored, *later)
    assert rows(engine) == before


def test_restored_session_completes_what_a_killed_hub_did_not_record(engine: Engine) -> None:
    record(EventRecorder(400, None), engine, course()[0])
    restored = events.SessionRestored(
        session=SESSION, job_id="7", requested=NOW, submitted=NOW + 1, started=NOW + 2, ready=0.0
    )
    record(EventRecorder(400, None), engine, restored, *course()[3:])
    assert rows(engine, "kind") == KINDS
    assert rows(engine, "kind", "at")[:3] == [("requested", NOW), ("submitted", NOW + 1), ("started", NOW + 2)]


def test_session_of_an_older_version_is_not_recorded(engine: Engine) -> None:
    restored = events.SessionRestored(session=SESSION, job_id="7", requested=0.0, submitted=NOW, started=NOW, ready=0.0)
    record(EventRecorder(400, None), engine, restored)
    assert rows(engine) == []


def test_job_that_waits_again_has_the_time_of_its_last_start(engine: Engine) -> None:
    again = events.JobStarted(at=NOW + 90, session=SESSION, job_id="7", node="n2", waited=1.0)
    record(EventRecorder(400, None), engine, *course()[:3], again)
    assert rows(engine)[-1] == ("started", NOW + 90)


def test_end_that_only_the_ledger_knows_is_recorded_at_the_next_start(engine: Engine) -> None:
    recorder = EventRecorder(400, None)
    record(recorder, engine, *course()[:4])
    ended = {"user": "alice", "cluster": "demo", "job_id": "7", "started": NOW, "ended": NOW + 9}
    with engine.begin() as connection:
        connection.execute(insert(SESSIONS).values(session=SESSION.name, **ended))
        connection.execute(insert(SESSIONS).values(session="b" * 16, **ended))  # from before the table existed
    for _ in range(2):
        recorder.tidy(engine)
    assert rows(engine, "kind", "at", "reason")[4:] == [("ended", NOW + 9, "unknown")]


def test_events_for_the_audit_log_only_are_not_recorded(engine: Engine) -> None:
    record(
        EventRecorder(400, None),
        engine,
        events.SignInRefused(user="eve", address="192.0.2.1", reason="not_permitted"),
        events.SignedOut(user="alice", address="192.0.2.1"),
        events.SignedIn(at=NOW, user="alice", address="192.0.2.1"),
        events.StartRefused(at=NOW, user="alice", reason="bad_choice"),
    )
    assert rows(engine, "kind", "user", "reason") == [("signed_in", "alice", None), ("refused", "alice", "bad_choice")]


# -- Pseudonyms and retention


def test_pseudonyms_replace_names_before_they_are_stored(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "event_key"
    record(EventRecorder(400, file), engine, *course())
    key = file.read_bytes().strip()
    assert file.stat().st_mode & 0o777 == 0o600
    assert rows(engine, "user")[0] == pseudonym(key, "alice")
    assert "alice" not in str(rows(engine, *EVENTS.c.keys()))
    record(EventRecorder(400, file), engine, events.SignedIn(user="alice", address=""))
    assert rows(engine, "user")[-1] == rows(engine, "user")[0] != pseudonym(b"other", "alice")


@pytest.mark.parametrize(
    ("by", "reason"),
    [("alice", "stopped:user"), ("idle", "stopped:idle"), ("drain", "stopped:drain"), ("root", "stopped:other")],
)
def test_end_tells_who_stopped_the_session_without_a_name(engine: Engine, by: str, reason: str) -> None:
    recorder = EventRecorder(1, None)
    record(recorder, engine, *course()[:-3], events.SessionEnded(at=NOW + 9, session=SESSION, cause="stopped", by=by))
    assert rows(engine, "reason")[-1] == reason


@pytest.mark.parametrize("later", [False, True])
def test_name_of_a_server_is_recorded_as_a_pseudonym(engine: Engine, tmp_path: Path, *, later: bool) -> None:
    key = tmp_path / "key"
    begin = events.StartRequested(at=NOW, session=SESSION, server="genome")
    record(EventRecorder(1, None if later else key), engine, begin)
    recorder = EventRecorder(1, key)
    expected = None if later else recorder.server_of("alice", "genome")
    recorder._keep = 10**10
    recorder.tidy(engine)
    assert rows(engine, "reason") == [expected]
    assert "genome" not in str(expected)


def test_names_from_before_the_pseudonyms_are_replaced(engine: Engine, tmp_path: Path) -> None:
    record(EventRecorder(400, None), engine, *course())
    recorder = EventRecorder(400, tmp_path / "event_key")
    recorder.tidy(engine)
    record(recorder, engine, events.SignedIn(user="alice", address=""))
    users = {user for user in rows(engine, "user") if user}
    assert users == {pseudonym((tmp_path / "event_key").read_bytes().strip(), "alice")}


def test_events_wait_until_the_key_can_be_created(engine: Engine, tmp_path: Path) -> None:
    directory = tmp_path / "state"
    recorder = EventRecorder(400, directory / "event_key")
    with pytest.raises(OSError, match="state/event_key"):
        record(recorder, engine, course()[0])
    assert rows(engine) == []
    directory.mkdir()
    recorder.flush(engine)
    assert rows(engine, "kind") == ["requested"]


def test_empty_key_is_not_used(tmp_path: Path, engine: Engine) -> None:
    (tmp_path / "event_key").touch()
    with pytest.raises(OSError, match="is empty; delete it"):
        record(EventRecorder(400, tmp_path / "event_key"), engine, course()[0])


@pytest.mark.parametrize("pseudonyms", [True, False], ids=["pseudonyms", "names"])
def test_account_of_the_canary_is_recorded_as_the_canary(engine: Engine, tmp_path: Path, *, pseudonyms: bool) -> None:
    """The report can then leave its sessions out, also after the account has changed."""
    key_file = tmp_path / "event_key" if pseudonyms else None
    record(EventRecorder(400, key_file), engine, events.SignedIn(user="bob", address=""), course()[0])
    recorder = EventRecorder(400, key_file, canary="alice")
    recorder.tidy(engine)
    record(recorder, engine, events.StartRefused(user="alice", reason="drained"))
    users = rows(engine, "user")
    assert users[1:] == ["(canary)", "(canary)"]
    record(EventRecorder(400, key_file, canary="other"), engine, events.SignedIn(user="bob", address=""))
    EventRecorder(400, key_file, canary="other").tidy(engine)
    EventRecorder(400, key_file).tidy(engine)
    assert rows(engine, "user") == [*users, users[0]]


def test_old_rows_are_deleted_in_small_steps(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_recorder, "BATCH", 2)
    recorder = EventRecorder(30, None)
    old = [events.SignedIn(at=NOW - 31 * 24 * 3600, user="alice", address="") for _ in range(5)]
    record(recorder, engine, *old, *course())
    recorder.tidy(engine)
    assert rows(engine, "kind") == KINDS


def test_nothing_is_recorded_with_a_retention_of_zero_days_and_old_rows_are_deleted(engine: Engine) -> None:
    record(EventRecorder(400, None), engine, events.SignedIn(at=NOW - 9, user="alice", address=""))
    recorder = EventRecorder(0, None)
    record(recorder, engine, *course())
    recorder.tidy(engine)
    assert rows(engine) == []


# -- Faults


class Broken:
    """A database that cannot be written for the first attempts."""

    def __init__(self, engine: Engine, failures: int) -> None:
        self.engine, self.failures, self.attempts = engine, failures, 0

    def begin(self) -> Any:
        self.attempts += 1
        if self.attempts <= self.failures:
            raise OperationalError("INSERT", {}, Exception("disk is full"))
        return self.engine.begin()


async def run_until(recorder: EventRecorder, engine: Any, condition: Any) -> None:
    task = asyncio.create_task(recorder.run(engine))
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 the condition has no event
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_events_wait_in_memory_until_the_database_can_be_written(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(event_recorder, "RETRY", 0.01)
    recorder, broken = EventRecorder(400, None), Broken(engine, 5)
    for event in course():
        recorder.add(event)
    await run_until(recorder, broken, lambda: len(rows(engine)) == len(KINDS))
    assert rows(engine, "kind") == KINDS
    assert caplog.text.count("Cannot record events now") == 1


async def test_events_of_the_last_moment_are_written_when_the_hub_stops(engine: Engine) -> None:
    recorder = EventRecorder(400, None)
    task = asyncio.create_task(recorder.run(engine))
    await asyncio.sleep(0.2)
    for event in course():
        recorder.add(event)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert rows(engine, "kind") == KINDS


async def test_hub_does_not_wait_for_a_locked_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_recorder, "RETRY", 0.01)
    monkeypatch.setattr(event_recorder, "INTERVAL", 0.01)
    engine = create_engine(f"sqlite:///{tmp_path}/hub.sqlite", connect_args={"timeout": 0.5})
    METADATA.create_all(engine)
    recorder = EventRecorder(400, None)
    with engine.connect() as other:
        other.execute(text("BEGIN IMMEDIATE"))
        task = asyncio.create_task(recorder.run(engine))
        recorder.add(course()[0])
        longest, before = 0.0, time.monotonic()
        for _ in range(60):
            await asyncio.sleep(0.01)
            now = time.monotonic()
            longest, before = max(longest, now - before), now
        other.rollback()
    await asyncio.sleep(0.5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert rows(engine, "kind") == ["requested"]
    assert longest < 0.4
    engine.dispose()


def test_row_that_the_database_never_accepts_does_not_stop_the_others(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    bad = events.SignedIn(at=None, user="mallory", address="")  # type: ignore[arg-type]
    record(EventRecorder(400, None), engine, course()[0], bad, course()[1])
    assert rows(engine, "kind") == ["requested", "submitted"]
    assert "does not accept an event of the kind signed_in" in caplog.text


def test_text_that_no_database_accepts_is_cleaned(engine: Engine) -> None:
    reason = "no\0zero \udc80 " + "x" * 300
    record(EventRecorder(400, None), engine, events.StartRefused(user="alice", reason=reason))
    stored = rows(engine, "reason")[0]
    assert stored.startswith("nozero ? x")
    assert len(stored) == 255


def test_full_queue_loses_its_oldest_events_and_says_so(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(event_recorder, "LONGEST_QUEUE", 3)
    recorder = EventRecorder(400, None)
    record(recorder, engine, *(events.SignedIn(at=float(n), user=f"u{n}", address="") for n in range(5)))
    assert rows(engine, "user") == ["u2", "u3", "u4"]
    assert caplog.text.count("the oldest of them are lost") == 1


# -- The hub


async def test_session_of_a_real_hub_is_recorded_for_the_report(hub: Hub, ask: Ask) -> None:
    database = hub.app.db.get_bind()
    hub.gate.on_submit = lambda session: answer(code=1, stderr="over quota")
    token = hub.user().new_api_token()
    headers = {"Authorization": f"token {token}", "Content_Type": "application/json"}
    assert (await ask("api/users/alice/server", "POST", b'{"profile": "small"}', **headers)).code == 202
    await ask("api/users/alice/server", "POST", b'{"profile": "none"}', **headers)
    async with asyncio.timeout(20):
        while not hub.user().spawners[""].outcome:  # noqa: ASYNC110 the condition has no event
            await asyncio.sleep(0.01)
    hub.runtime.recorder.flush(database)
    with database.connect() as connection:
        found = read(connection, Period(NOW - 60, time.time() + 60, UTC))
    (session,) = found.records
    assert (session.profile, session.cluster, session.cores, session.failure) == ("small", "demo", 1, "refused")
    assert session.user.startswith("~")
