"""``hpchub why``: what an administrator pastes into a ticket."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from hub_app import GRANT, SESSION, FakeGate, answer, profile, write_profiles
from jupyterhub import orm
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from hpchub.cli import inventory, why
from hpchub.cli import main as cli
from hpchub.hub.ledger import Ledger
from hpchub.hub.outcome import NOT_STARTED, Outcome
from hpchub.schedulers import Unanswered

if TYPE_CHECKING:
    from pathlib import Path

    from hpchub.clusters.gate_client import Answer

TOKEN = "0123456789abcdef" * 2
MARK = "f" * 16


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGate:
    """Prepare the hub host: settings, a database with one failed session, the hub's log, and a gate."""
    url = f"sqlite:///{tmp_path}/hub.sqlite"
    settings = {"db_url": url, "gates": {"demo": {}}, "profiles_file": str(tmp_path / "profiles.json")}
    (tmp_path / "hub.json").write_text(json.dumps(settings))
    write_profiles(tmp_path, profile("small"))
    monkeypatch.setattr(inventory, "HUB_SETTINGS", tmp_path / "hub.json")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    engine = create_engine(url)
    orm.Base.metadata.create_all(engine)
    db = Session(engine)
    ledger = Ledger(db)
    ledger.record(SESSION, user="alice", cluster="demo", job_id="7")
    user = orm.User(name="alice")
    outcome = Outcome(SESSION, NOT_STARTED, "Your job 7 ended.", time.time(), "7", "demo")
    db.add(user)
    db.add(orm.Spawner(name="", user=user, state={"outcome": outcome.saved}))
    db.commit()
    db.close()
    journal = f"one\nsession {SESSION} is job 7\nstart of alice failed token={TOKEN}\nbob\n"
    journal += "[I hub] 200 GET /hub/home (alice@::1)\n"
    done = subprocess.CompletedProcess([], 0, journal, "")
    monkeypatch.setattr(why, "subprocess", type("Fake", (), {"run": staticmethod(lambda *_, **__: done)}))
    found = FakeGate([])
    monkeypatch.setattr(why, "make_gate", lambda name, settings: found)

    async def find(job_id: str) -> Answer:
        return answer(f"{MARK}|7|FAILED|NonZeroExitCode|n1|N/A|alice|x|\n")

    monkeypatch.setattr(found, "find", find)
    found.on_history = lambda job_id: answer("JobId=7 UserId=alice(1) JobState=FAILED ExitCode=1:0\n")
    found.on_log = lambda job_id: answer("hpchub: the home directory is full\n")
    return found


def report(capsys: pytest.CaptureFixture[str], subject: str) -> dict[str, Any]:
    assert cli.main(["why", "--json", subject]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.usefixtures("gate")
@pytest.mark.parametrize("subject", ["alice", "7"])
def test_report_gathers_all_that_is_known(capsys: pytest.CaptureFixture[str], subject: str) -> None:
    found = report(capsys, subject)
    assert [found[name] for name in ("session", "user", "cluster", "job_id")] == [SESSION, "alice", "demo", "7"]
    assert "not_started: Your job 7 ended." in found["hub"][0]
    assert found["scheduler"][0].startswith("Its state is FAILED on n1")
    assert found["scheduler"][1].startswith("It ended: failed (exit status 1). The scheduler's record:")
    assert found["log"] == ["hpchub: the home directory is full"]
    assert found["journal"] == [f"session {SESSION} is job 7", "start of alice failed token=[redacted]"]


@pytest.mark.usefixtures("gate")
def test_report_is_text_for_a_ticket(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["why", "alice"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Session {SESSION} of alice on demo, job 7\n")
    for title in ("The hub", "The scheduler", "The last lines of ~/.hpchub/logs/7.log", "The hub's log"):
        assert f"\n\n{title}\n  " in text
    assert TOKEN not in text


def test_silent_gate_is_reported(
    gate: FakeGate, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def find(job_id: str) -> Answer:
        raise Unanswered("the submit host cannot be reached")

    monkeypatch.setattr(gate, "find", find)
    gate.on_history = gate.on_log = lambda job_id: Unanswered("the submit host cannot be reached")
    found = report(capsys, "alice")
    assert found["scheduler"] == [
        "Its state is not known: the submit host cannot be reached",
        "Its end is not recorded: the submit host cannot be reached",
    ]
    assert found["log"] == ["The log was not read: the submit host cannot be reached"]


@pytest.mark.usefixtures("gate")
def test_session_that_goes_on_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = Session(create_engine(f"sqlite:///{tmp_path}/hub.sqlite"))
    job = {"session": SESSION, "job_id": "7", "submitted": 0.0, "host": "n1", "port": 20001}
    db.query(orm.Spawner).one().state = {"grant": GRANT, "job": job, "token": "hash"}
    db.commit()
    found = report(capsys, "alice")
    assert found["hub"] == [
        "The hub has this session. Its profile is small.",
        "Its notebook server is ready on n1, port 20001.",
    ]


@pytest.mark.usefixtures("gate")
def test_each_of_several_sessions_is_described_by_its_own_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    db = Session(create_engine(f"sqlite:///{tmp_path}/hub.sqlite"))
    job = {"session": "b" * 16, "job_id": "8", "submitted": 0.0, "host": "n1", "port": 20001}
    db.add(orm.Spawner(name="genome", user=db.query(orm.User).one(), state={"grant": GRANT, "job": job}))
    Ledger(db).record("b" * 16, user="alice", cluster="demo", job_id="8")
    db.commit()
    last, first = report(capsys, "alice"), report(capsys, "7")
    assert (last["session"], last["hub"][0]) == ("b" * 16, "The hub has this session. Its profile is small.")
    assert f"The user has another session, {SESSION} on demo, job 7." in last["hub"][-1]
    assert (first["session"], "Your job 7 ended." in first["hub"][0]) == (SESSION, True)


@pytest.mark.usefixtures("gate")
def test_unknown_subject_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["why", "nobody"]) == 2
    assert "no session of a user or with a job 'nobody'" in capsys.readouterr().err


def test_other_hosts_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inventory, "HUB_SETTINGS", tmp_path / "hub.json")
    assert cli.main(["why", "alice"]) == 2
    assert "this is not the hub host" in capsys.readouterr().err
