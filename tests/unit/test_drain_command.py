"""``hpchub drain``, ``undrain`` and ``announce``, as administrators type them on the hub host."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest
from hub_app import GRANT, SESSION, after, profile, write_notices, write_profiles
from jupyterhub import orm
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from hpchub.cli import drain, inventory
from hpchub.cli import main as cli

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Prepare a hub host, and return a function that runs the command and returns exit code, output and errors."""
    settings = {
        "db_url": f"sqlite:///{tmp_path}/hub.sqlite",
        "profiles_file": str(tmp_path / "profiles.json"),
        "notices_file": str(tmp_path / "notices.json"),
        "notices_by_hand_file": str(tmp_path / "notices-by-hand.json"),
    }
    (tmp_path / "hub.json").write_text(json.dumps(settings))
    write_profiles(tmp_path, profile("small"), profile("big", runtime="4:00:00"))
    monkeypatch.setattr(inventory, "HUB_SETTINGS", tmp_path / "hub.json")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    def command(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(list(arguments))
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


def listed(run: Run) -> list[dict[str, Any]]:
    """Return what the list contains."""
    code, out, _ = run("drain", "--json")
    assert code == 0
    found: list[dict[str, Any]] = json.loads(out)
    return found


def test_drain_is_set_listed_and_ended(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("drain", "demo", "--until", "+2h", "--message", "New disks.")
    assert (code, out.startswith("Set: ")) == (0, True)
    assert ", demo, until " in out
    assert out.endswith("set by hand: New disks.\n")
    (found,) = listed(run)
    assert (found["target"], found["active"], found["by_hand"], found["message"]) == ("demo", True, True, "New disks.")
    assert run("drain")[1] == out.removeprefix("Set: ")
    mode = (tmp_path / "notices-by-hand.json").stat().st_mode
    assert stat.S_IMODE(mode) == 0o644
    code, out, _ = run("undrain", "demo")
    assert (code, out.startswith("Ended: ")) == (0, True)
    assert run("drain")[1] == "There are no drains and no announcements.\n"


@pytest.mark.parametrize(
    ("arguments", "target"),
    [
        (("demo/q",), "demo/q"),
        (("ALL",), "ALL"),
        (("--message", "Everything"), "ALL"),
        (("--profile", "big"), "--profile big"),
        (("demo", "--stop-at", "now", "--ask"), "demo"),
        (("demo", "--from", "2099-01-31 08:00 Europe/Berlin", "--until", "2099-01-31 09:00"), "demo"),
    ],
)
def test_each_target_can_be_drained(run: Run, arguments: tuple[str, ...], target: str) -> None:
    assert run("drain", *arguments)[0] == 0
    assert [each["target"] for each in listed(run)] == [target]


@pytest.mark.parametrize(("stop_at", "noted"), [("now", True), ("+5m", True), ("+7m", False), (None, False)])
def test_stop_that_comes_before_the_sessions_know_is_noted(run: Run, stop_at: str | None, noted: bool) -> None:
    code, out, error = run("drain", "demo", *(("--stop-at", stop_at) if stop_at else ()))
    assert (code, out.startswith("Set: ")) == (0, True)
    assert ("Note: open sessions ask the hub for news every 5 minutes" in error) == noted


def test_local_time_and_time_zone_are_accepted(run: Run) -> None:
    run("drain", "demo", "--from", "2099-01-31 08:00 +05:00", "--until", "2099-01-31 09:00 Asia/Karachi")
    (found,) = listed(run)
    assert found["until"] - found["from"] == 3600
    assert found["from"] % 86400 == 3 * 3600


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dem",), 'cluster "dem" is not a cluster or a place; did you mean "demo"? valid: demo'),
        (("demo/long",), 'queue "long" is not a queue of cluster "demo"; valid: q'),
        (("/q",), '"/q" names no cluster; write CLUSTER or CLUSTER/QUEUE, or ALL for the whole service'),
        # Values as from an empty variable of a script.
        (("",), '"" names no cluster; write CLUSTER or CLUSTER/QUEUE, or ALL for the whole service'),
        (("demo/",), '"demo/" names no queue; write CLUSTER or CLUSTER/QUEUE, or ALL for the whole service'),
        (("--profile", ""), '--profile "" is not a profile; write the key of a profile'),
        (("demo", "--from", ""), '--from "" is not a date and a time; write a date and a time'),
        (("demo", "--until", ""), '--until "" is not a date and a time; write a date and a time'),
        (("demo", "--stop-at", ""), '--stop-at "" is not a date and a time; write a date and a time'),
        (("--profile", "smalll"), 'profile "smalll" is not a profile; did you mean "small"? valid: small, big'),
        (("demo", "--profile", "small"), "the command names a profile and a cluster; remove one of them"),
        (("demo", "--until", "soon"), '--until "soon" is not a date and a time; write a date and a time'),
        (("demo", "--until", "2099-02-30 08:00"), "is a date or a time that does not exist"),
        (("demo", "--until", "2020-02-20 08:00"), "which is not after from"),
        (("demo", "--from", "2020-01-01 08:00", "--until", "2020-02-20 08:00"), "is in the past; write a later time"),
        (("demo", "--from", "+2h", "--until", "+1h"), "drain: has until"),
        (("demo", "--stop-at", "2020-02-20 08:00"), "which is before from"),
        (("demo", "--message", "x" * 10_000), "is not text of one line; write one line of at most 1000 characters"),
        (("demo", "--message", "one\x1b[31mtwo"), "contains a line break or another control character"),
        (("--wait",), "--wait needs a drain to wait for"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_mistake_gets_one_line_and_changes_nothing(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, out, error = run("drain", *arguments)
    assert (code, out) == (2, "")
    assert message in error
    assert error.startswith("hpchub: ")
    assert error.count("\n") == 1
    assert len(error) < 500
    assert listed(run) == []


def test_overlapping_drain_is_refused_with_the_other_one(run: Run) -> None:
    run("drain", "demo", "--from", "2099-01-31 08:00", "--until", "2099-01-31 18:00")
    (found,) = listed(run)
    code, _, error = run("drain", "demo", "--from", "2099-01-31 17:00")
    assert code == 2
    assert f"drain: overlaps the drain {found['key']} (" in error
    assert f"hpchub undrain {found['key']}" in error
    assert run("drain", "demo/q", "--from", "2099-01-31 17:00")[0] == 0
    assert run("drain", "demo", "--from", "2099-01-31 18:00")[0] == 0
    assert run("drain", "demo")[0] == 0


def test_repeated_command_changes_nothing_and_another_message_changes_it(run: Run) -> None:
    command = ("drain", "demo", "--until", "2099-01-31 08:00", "--message")
    assert run(*command, "one")[1].startswith("Set: ")
    assert run(*command, "one")[1].startswith("Not changed: ")
    assert run("drain", "demo")[1].startswith("Not changed: ")
    assert run(*command, "two")[1].startswith("Set: ")
    assert [each["message"] for each in listed(run)] == ["two"]


def test_drain_of_the_inventory_that_was_ended_stays_ended(run: Run, tmp_path: Path) -> None:
    write_notices(tmp_path, {"cluster": "demo", "from": after(-60), "until": after(3600)})
    assert [each["by_hand"] for each in listed(run)] == [False]
    assert run("undrain", "demo")[0] == 0
    assert listed(run) == []
    write_notices(tmp_path, *json.loads((tmp_path / "notices.json").read_text())["drains"])  # a deployment
    assert listed(run) == []
    assert "Ended by hand, although the inventory contains them: " in run("drain")[1]
    assert run("drain", "demo", "--until", "+1h")[0] == 0
    assert [each["by_hand"] for each in listed(run)] == [True]


def test_deployment_keeps_a_drain_that_was_set_by_hand(run: Run, tmp_path: Path) -> None:
    run("drain", "demo")
    write_notices(tmp_path)
    assert len(listed(run)) == 1


def test_undrain_ends_the_drain_in_force_and_asks_if_several_are_planned(run: Run) -> None:
    for begin, end in (("2099-01-01", "2099-01-02"), ("2099-02-01", "2099-02-02")):
        run("drain", "demo", "--from", f"{begin} 08:00", "--until", f"{end} 08:00")
    run("drain", "demo", "--until", "+1h")
    now, first, second = listed(run)
    assert now["key"] in run("undrain", "demo")[1]
    code, _, error = run("undrain", "demo")
    assert code == 2
    assert f"2 drains have this target; name one by its key: {first['key']} (" in error
    assert run("undrain", second["key"])[0] == 0
    assert [each["key"] for each in listed(run)] == [first["key"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the command names no drain"),
        (("demo",), "there is no such drain; valid: there are none"),
        (("dem",), 'cluster "dem" is not a cluster'),
    ],
)
def test_undrain_of_nothing_gets_one_line(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, _, error = run("undrain", *arguments)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


def test_announcement_is_shown_and_ended(run: Run) -> None:
    assert run("announce", "Courses <b>begin</b>.", "--until", "+1d")[0] == 0
    (found,) = listed(run)
    assert (found["kind"], found["message"], found["active"]) == ("announcement", "Courses <b>begin</b>.", True)
    assert run("announce")[1].startswith(f"{found['key']}, announcement, until ")
    code, _, error = run("announce", "--end", "00000000")
    assert (code, f"valid: {found['key']}" in error) == (2, True)
    assert run("announce", "--end", found["key"])[0] == 0
    assert listed(run) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x" * 10_000,), "is not text of one line"),
        (("Hello", "--from", "+2h", "--until", "+1h"), "announcement: has until"),
        (("Hello", "--until", "2020-01-01 08:00"), "is in the past"),
        (("",), 'message "" is empty'),
        (("Hello", "--until", ""), '--until "" is not a date and a time'),
        (("--end", ""), 'there is no announcement ""'),
    ],
)
def test_announcement_with_a_mistake_gets_one_line(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, _, error = run("announce", *arguments)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


def test_damaged_file_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notices-by-hand.json").write_text("{")
    code, _, error = run("drain")
    assert code == 2
    assert f"{tmp_path}/notices-by-hand.json: is not JSON" in error


def test_other_hosts_are_told_so(run: Run, tmp_path: Path) -> None:
    (tmp_path / "hub.json").unlink()
    assert "this is not the hub host" in run("drain", "demo")[2]


def test_account_without_permission_is_told_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(drain, "save_notices", refuse)
    assert "cannot be written with your account; run this command as root" in run("drain", "demo")[2]


# --wait


@pytest.fixture
def sessions(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that replaces the sessions in the hub's database, given as pairs of user and profile."""
    engine = create_engine(f"sqlite:///{tmp_path}/hub.sqlite")
    orm.Base.metadata.create_all(engine)
    monkeypatch.setattr(drain, "PAUSE", 0.0)

    def replace(*found: tuple[str, str]) -> None:
        with Session(engine) as db:
            for table in (orm.Spawner, orm.User):
                db.query(table).delete()
            db.add(orm.Spawner(name="", user=orm.User(name="idle"), state={"outcome": {}}))
            for name, key in found:
                state = {"grant": {**GRANT, "profile": GRANT["profile"] | {"key": key}}, "job": {"session": SESSION}}
                db.add(orm.Spawner(name="", user=orm.User(name=name), state=state))
            db.commit()

    replace()
    return replace


def test_wait_ends_when_no_session_is_left(
    run: Run, sessions: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions(("alice", "small"), ("bob", "small"), ("carol", "big"))
    steps = [(("bob", "small"), ("carol", "big")), (("carol", "big"),)]
    monkeypatch.setattr("hpchub.cli.drain.time.sleep", lambda _: sessions(*steps.pop(0)))
    code, out, _ = run("drain", "--profile", "small", "--wait")
    assert code == 0
    lines = [line.partition(": ")[2] for line in out.splitlines()[1:]]
    assert lines == ["2 sessions left (alice, bob)", "1 session left (bob)", "no session is left."]


def test_wait_for_a_planned_drain_begins_with_its_key_and_sets_no_other(
    run: Run, sessions: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sessions()
    run("drain", "demo", "--from", "2099-01-01 08:00")
    (found,) = listed(run)
    assert run("drain", found["key"], "--until", "2099-01-01 09:00")[2].endswith("name its target and times\n")
    monkeypatch.setattr("hpchub.cli.drain.time.sleep", lambda _: write_notices(tmp_path, by_hand=True))
    code, out, _ = run("drain", found["key"], "--wait")
    assert code == 2
    assert "0 sessions left; the drain begins at 2099-01-01" in out


def test_wait_can_be_interrupted_and_the_drain_stays(
    run: Run, sessions: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions(("alice", "small"))

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hpchub.cli.drain.time.sleep", interrupt)
    code, out, _ = run("drain", "demo", "--wait")
    (found,) = listed(run)
    assert code == 130
    assert out.endswith(f"Interrupted. The drain stays in force. To end it: hpchub undrain {found['key']}\n")


def test_wait_ends_when_somebody_ends_the_drain(
    run: Run, sessions: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sessions(("alice", "small"))
    monkeypatch.setattr("hpchub.cli.drain.time.sleep", lambda _: write_notices(tmp_path, by_hand=True))
    code, _, error = run("drain", "demo", "--wait")
    assert (code, error) == (2, "hpchub: the drain has ended, but not all sessions: 1 session left\n")


def test_database_that_cannot_be_read_is_explained(run: Run) -> None:
    code, _, error = run("drain", "demo", "--wait")
    assert code == 2
    assert "the hub's database" in error
