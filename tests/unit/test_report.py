"""`hpchub report`: its figures equal those of plain loops over a generated year, and its output is usable."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import time
import xml.etree.ElementTree as ET
from datetime import date, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
import usage_year as year
from sqlalchemy import create_engine, insert

from hpchub.cli import inventory
from hpchub.cli import report as cli
from hpchub.cli.main import main
from hpchub.hub.ledger import EVENTS, METADATA
from hpchub.report.accounting import join
from hpchub.report.figures import Figures, active_users, figures, make_report, most_at_once, percentile
from hpchub.report.period import Period
from hpchub.report.records import Record, Table, read
from hpchub.schedulers import SCHEDULERS, Unanswered

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Engine

ZONE = year.ZONE
UTC = ZoneInfo("UTC")
WHOLE = Period.of_days(year.FIRST, year.LAST, ZONE)
NOW = year.clock(year.LAST, 24) + 1000 * 86400
FACTS = {"user": "~a", "groups": "[]", "cluster": "demo", "queue": "q", "profile": "small", "cores": 2, "gpus": 1}


def fill(engine: Engine, rows: list[dict[str, Any]]) -> None:
    """Store rows in the event table."""
    METADATA.create_all(engine)
    with engine.begin() as connection:
        for start in range(0, len(rows), 10_000):
            batch = [{**dict.fromkeys(EVENTS.c.keys()[1:]), **row} for row in rows[start : start + 10_000]]
            connection.execute(insert(EVENTS), batch)


def database(tmp_path: Path, rows: list[dict[str, Any]]) -> Engine:
    """Return a database with these rows."""
    engine = create_engine(f"sqlite:///{tmp_path}/hub.sqlite")
    fill(engine, rows)
    return engine


def table(tmp_path: Path, rows: list[dict[str, Any]], period: Period) -> Table:
    """Return what the report reads of these rows."""
    engine = database(tmp_path, rows)
    with engine.connect() as connection:
        found = read(connection, period)
    engine.dispose()
    return found


def life(session: str, requested: float, **times: Any) -> list[dict[str, Any]]:
    """Return the rows of a session of 10 hours at most: each keyword is a kind, with its time or (time, reason)."""
    facts = {name: times.pop(name) for name in list(times) if name in FACTS}
    name = session * 16
    found = [{"kind": "requested", "at": requested, "session": name, "runtime": 36000, **FACTS, **facts}]
    for kind, value in times.items():
        at, reason = value if isinstance(value, tuple) else (value, None)
        found.append({"kind": kind, "at": at, "session": name, "reason": reason})
    return found


def compare(found: Figures, wanted: dict[str, Any]) -> None:
    """Compare all figures with those of the plain loops."""
    values = dict(vars(found))
    values.pop("peak_at")
    assert values.pop("wait") == pytest.approx(wanted["wait"], rel=1e-9)
    floats = {name: value for name, value in values.items() if isinstance(value, float)}
    assert floats == pytest.approx({name: wanted[name] for name in floats}, rel=1e-9)
    assert {name: value for name, value in values.items() if name not in floats} == {
        name: value for name, value in wanted.items() if name not in floats and name != "wait"
    }


# -- A generated year


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """The events of a generated year."""
    return year.generate(6_000)


@pytest.mark.parametrize("now", [NOW, year.clock(date(2025, 10, 26), 12.5)], ids=["past year", "today is in the year"])
def test_figures_of_a_year_equal_those_of_plain_loops(tmp_path: Path, rows: list[dict[str, Any]], now: float) -> None:
    rows = [row for row in rows if row["at"] <= now]
    made = make_report(table(tmp_path, rows, WHOLE), WHOLE, now)
    lives = year.lives_of(rows)

    def wanted(chosen: Callable[[dict[str, Any]], bool], start: float = WHOLE.start, end: float = WHOLE.end) -> Any:
        return year.expected(lives, start, end, now, chosen)

    compare(made.total, wanted(lambda row: True))
    assert made.total.failures
    assert made.total.pending
    if now < NOW:
        return  # the parts are the same code, and the plain loops take long
    for name, part in made.parts["profile"].items():
        compare(part, wanted(lambda row, name=name: row["profile"] == name))  # type: ignore[misc]
    for name, part in made.parts["cluster"].items():
        compare(part, wanted(lambda row, name=name: row["cluster"] == name))  # type: ignore[misc]
    for name, part in made.parts["group"].items():
        compare(
            part,
            wanted(lambda row, name=name: name in (json.loads(row["groups"]) or ["(none)"])),  # type: ignore[misc]
        )
    assert {"moved", "(none)", 'Größe, "x"'} < set(made.parts["group"])
    for number, (name, part) in enumerate(made.parts["month"].items(), start=1):
        assert name == f"2025-{number:02}"
        end = year.clock(date(2025 + number // 12, number % 12 + 1, 1))
        compare(part, wanted(lambda row: True, year.clock(date(2025, number, 1)), end))
    assert sum(made.days.values()) == made.total.sessions
    inside = [row["reason"] for row in rows if row["kind"] == "refused" and WHOLE.contains(row["at"])]
    assert made.refused == {reason: inside.count(reason) for reason in set(inside)}


# -- Borders


DAY = Period.of_days(date(2025, 3, 10), date(2025, 3, 10), UTC)


def of_day(tmp_path: Path, *lives: list[dict[str, Any]], now: float = NOW) -> Figures:
    """Return the figures of a day."""
    return make_report(table(tmp_path, [row for each in lives for row in each], DAY), DAY, now).total


def test_start_counts_where_it_was_requested_and_its_hours_where_they_happened(tmp_path: Path) -> None:
    before = life("a", DAY.start - 10, started=DAY.start - 5, ready=DAY.start + 5, ended=(DAY.start + 3600, "stopped"))
    after = life("b", DAY.end - 10, started=DAY.end - 3600, ready=DAY.end + 20, ended=(DAY.end + 90, "stopped"))
    found = of_day(tmp_path, before, after)
    assert (found.starts, found.sessions, found.wait["mean"]) == (1, 1, 30)
    assert found.core_hours == pytest.approx(2 * 2)
    assert found.gpu_hours == pytest.approx(2)
    assert found.peak == 1


def test_request_at_the_border_belongs_to_the_next_day(tmp_path: Path) -> None:
    assert of_day(tmp_path, life("a", DAY.start), life("b", DAY.end)).starts == 1


def test_failure_after_the_end_of_the_period_counts_for_its_start(tmp_path: Path) -> None:
    assert of_day(tmp_path, life("a", DAY.end - 1, failed=(DAY.end + 600, "waited"))).failures == {"waited": 1}


def test_session_over_before_the_period_does_not_matter(tmp_path: Path) -> None:
    old = life("a", DAY.start - 90, started=DAY.start - 80, ready=DAY.start - 70, ended=(DAY.start - 1, "stopped"))
    found = make_report(table(tmp_path, old, DAY), DAY, NOW)
    assert found.is_empty


def test_running_session_lasts_until_now_or_the_end_of_the_period(tmp_path: Path) -> None:
    running = life("a", DAY.start, started=DAY.start + 60, ready=DAY.start + 90)
    assert of_day(tmp_path, running, now=DAY.start + 3660).core_hours == pytest.approx(2)


def test_session_whose_end_is_unknown_lasts_until_its_time_limit(tmp_path: Path) -> None:
    lost = life("a", DAY.start, started=DAY.start + 60, ready=DAY.start + 90)
    assert of_day(tmp_path, lost).core_hours == pytest.approx(20)


def test_failed_start_used_its_cores(tmp_path: Path) -> None:
    found = of_day(tmp_path, life("a", DAY.start, started=DAY.start + 60, failed=(DAY.start + 420, "no_report")))
    assert (found.sessions, found.failures) == (0, {"no_report": 1})
    assert found.core_hours == pytest.approx(0.2)


def test_start_that_was_stopped_while_it_waited_is_no_failure(tmp_path: Path) -> None:
    found = of_day(tmp_path, life("a", DAY.start, ended=(DAY.start + 9, "stopped:user")), life("b", DAY.start))
    assert (found.starts, found.cancelled, found.failed, found.pending, found.users) == (2, 1, 0, 1, 0)


def test_sessions_that_follow_each_other_are_not_open_at_once() -> None:
    one, two = (Record("a", "u", (), "c", "p", 1, 0, 9, 0.0, ready=at, over=at + 10) for at in (0.0, 10.0))
    assert most_at_once([one, two], Period(0, 100, UTC), 100) == (1, 0.0)


def test_session_without_the_start_of_its_job_lasts_from_the_notebook_to_its_time_limit(tmp_path: Path) -> None:
    """A hub that adopts a session does not know when its job started."""
    found = of_day(tmp_path, life("a", DAY.start, ready=DAY.start + 3600))
    assert (found.sessions, found.core_hours, found.peak) == (1, 20, 1)


def test_failed_start_keeps_its_reason_whatever_the_scheduler_reports(tmp_path: Path) -> None:
    rows = life("a", DAY.start, failed=(DAY.start + 9, "waited"), explained=(DAY.start + 9, "killed"))
    found = of_day(tmp_path, rows)
    assert (found.failures, found.cancelled, found.pending) == ({"waited": 1}, 0, 0)


def test_session_that_the_hub_could_not_reach_any_more_ended_for_this_reason(tmp_path: Path) -> None:
    rows = life("a", DAY.start, started=DAY.start, ready=DAY.start + 9, failed=(DAY.start + 99, "no_answer"))
    found = of_day(tmp_path, rows)
    assert (found.sessions, found.failures, found.endings) == (1, {}, {"no_answer": 1})


def test_two_named_servers_of_a_user_are_two_sessions_of_one_user(tmp_path: Path) -> None:
    rows = [
        *life("a", DAY.start, started=DAY.start, ready=DAY.start + 9, ended=(DAY.start + 7209, "stopped")),
        *life("b", DAY.start + 60, started=DAY.start + 60, ready=DAY.start + 99, ended=(DAY.start + 3660, "stopped")),
    ]
    found = of_day(tmp_path, rows)
    assert (found.sessions, found.users, found.peak, found.active_users_per_week) == (2, 1, 2, 1)


CANARY = {"user": "(canary)", "groups": "[]"}


def test_sessions_of_the_canary_count_only_on_request(tmp_path: Path) -> None:
    rows = [
        *life("a", DAY.start, started=DAY.start, ready=DAY.start + 9, ended=(DAY.start + 3600, "stopped")),
        *life("b", DAY.start, started=DAY.start, ready=DAY.start + 9, ended=(DAY.start + 3600, "stopped"), **CANARY),
        {"kind": "refused", "at": DAY.start, "user": "(canary)", "reason": "drained"},
        {"kind": "refused", "at": DAY.start, "user": None, "reason": "bad_choice"},
    ]
    engine = database(tmp_path, rows)
    with engine.connect() as connection:
        without, both = (make_report(read(connection, DAY, canary=canary), DAY, NOW) for canary in (False, True))
    engine.dispose()
    assert (without.total.starts, without.total.core_hours, without.left_out) == (1, 2, 1)
    assert without.refused == {"bad_choice": 1}
    assert (both.total.starts, both.total.users, both.total.core_hours, both.left_out) == (2, 2, 4, 0)
    assert both.refused == {"bad_choice": 1, "drained": 1}


def test_five_sessions_make_a_regular_user(tmp_path: Path) -> None:
    lives = [life(name, DAY.start, ready=DAY.start, ended=(DAY.start + 9, "stopped")) for name in "abcde"]
    assert of_day(tmp_path, *lives).regular_users == 1


def test_percentiles_interpolate() -> None:
    assert [percentile([1.0, 2.0, 3.0, 4.0], percent) for percent in (0, 50, 90, 100)] == pytest.approx(
        [1, 2.5, 3.7, 4]
    )
    assert percentile([7.0], 99) == 7.0


@pytest.mark.parametrize(("day", "hours"), [(date(2025, 3, 30), 23), (date(2025, 10, 26), 25), (date(2025, 6, 1), 24)])
def test_days_have_the_length_of_their_time_zone(day: date, hours: int) -> None:
    period = Period.of_days(day, day, ZONE)
    assert period.end - period.start == hours * 3600
    assert period.days() == [day]
    running = Record("a", "u", (), "c", "p", 1, 0, 10**6, period.start - 9, started=period.start - 5)
    assert figures([running], period, NOW).core_hours == pytest.approx(hours)


def test_user_is_active_in_each_week_of_a_long_session() -> None:
    period = Period.of_days(date(2024, 12, 25), date(2025, 1, 10), UTC)
    long = Record("a", "u", (), "c", "p", 1, 0, 10**7, 0.0, ready=period.start + 1, over=period.end - 5 * 86400)
    assert active_users([long], period, NOW) == {"2024-W52": 1, "2025-W01": 1, "2025-W02": 0}


# -- The command


@pytest.fixture
def hub_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[dict[str, Any]]], None]:
    """Return a function that makes this host a hub host with some recorded events."""
    monkeypatch.setattr(inventory, "HUB_SETTINGS", tmp_path / "hub.json")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(time, "time", lambda: NOW)

    def make(rows: list[dict[str, Any]]) -> None:
        database(tmp_path, rows).dispose()
        settings = {
            "db_url": f"sqlite:///{tmp_path}/hub.sqlite",
            "service_name": "Example <HPC>",
            "profiles_file": str(tmp_path / "profiles.json"),
            "gates": {},
        }
        (tmp_path / "hub.json").write_text(json.dumps(settings))

    return make


SOME = [
    *life("a", DAY.start, started=DAY.start + 60, ready=DAY.start + 90, ended=(DAY.start + 3660, "stopped")),
    *life("b", DAY.start, groups='["=cmd", "<b>x</b>"]', failed=(DAY.start + 9, "refused")),
    {"kind": "refused", "at": DAY.start, "user": "~a", "reason": "bad_choice"},
]
ARGUMENTS = ["report", "--from", "2025-03-10", "--to", "2025-03-10", "--timezone", "UTC", "--no-accounting"]


def test_command_prints_the_figures(hub_host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    hub_host(SOME)
    assert main(ARGUMENTS) == 0
    output = capsys.readouterr().out
    for line in (
        "Usage from 2025-03-10 to 2025-03-10",
        "Starts                      2",
        "  failed                    1 (refused 1)",
        "  refused before a start    1 (bad_choice 1)",
        "Most sessions at once       1 (2025-03-10 00:01)",
        "Core-hours                  2.0",
    ):
        assert line in output
    assert re.search(r"^2025-03 +1 +1 +1 +1m30s +1m30s +2.0 +1.0 +1$", output, re.MULTILINE)


def test_command_prints_json(hub_host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    hub_host(SOME)
    assert main([*ARGUMENTS, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["total"]["starts"], found["total"]["wait"]["p95"]) == (2, 90)
    assert set(found["by"]) == {"month", "profile", "group", "cluster"}
    assert found["sessions_on_day"] == {"2025-03-10": 1}
    assert found["active_users_in_week"] == {"2025-W11": 1}


def test_csv_has_one_row_for_each_part_and_no_formulas(hub_host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    hub_host(SOME)
    assert main([*ARGUMENTS, "--csv", "--by", "group"]) == 0
    found = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["group"] for row in found] == ["(none)", "<b>x</b>", "'=cmd", "total"]
    assert [row["failed_refused"] for row in found] == ["0", "1", "1", "1"]
    assert [row["wait_mean"] for row in found] == ["90.0", "", "", "90.0"]


def test_page_needs_no_other_file_and_describes_its_plots(hub_host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    hub_host(SOME)
    assert main([*ARGUMENTS, "--html"]) == 0
    page = capsys.readouterr().out
    root = ET.fromstring(re.sub(r"<!DOCTYPE html>|<meta[^>]*>", "", page))
    assert root.get("lang") == "en"
    assert not re.search(r"(src|href|@import|url\()", page)
    assert "<script" not in page
    assert "<b>x</b>" not in page
    assert "Example &lt;HPC&gt;" in page
    pictures = list(root.iter("svg"))
    assert len(pictures) >= 6
    for picture in pictures:
        assert picture.get("role") == "img"
        assert picture.get("aria-label")
        assert picture.find("title") is not None
        assert picture.find("desc") is not None
    for found in root.iter("table"):
        assert found.find("caption") is not None
        assert all(cell.get("scope") in ("row", "col") for cell in found.iter("th"))
    levels = [int(element.tag[1]) for element in root.iter() if re.fullmatch(r"h[1-6]", element.tag)]
    assert levels[0] == 1
    assert set(levels[1:]) == {2}


def test_page_of_a_year_has_all_parts(hub_host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    hub_host(year.generate(500))
    arguments = ["report", "--from", "2025", "--to", "2025", "--timezone", "Europe/Berlin", "--no-accounting"]
    assert main([*arguments, "--html"]) == 0
    page = capsys.readouterr().out
    for word in ("2025-12", "gpu", "Größe", "north", "By group", "Failed starts", "time_limit"):
        assert word in page
    ET.fromstring(re.sub(r"<!DOCTYPE html>|<meta[^>]*>", "", page))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "2025-02-01", "--to", "2025-01-01"], "--to 2025-01-01 is before --from 2025-02-01"),
        (["--from", "yesterday", "--to", "2025"], '--from "yesterday" is not a day; write YYYY-MM-DD'),
        (["--from", "2025-02-30", "--to", "2025"], '--from "2025-02-30" is not a day'),
        (["--from", "2025", "--to", "2025-13"], '--to "2025-13" is not a day'),
        (["--from", "2025", "--to", "9999"], '--to "9999" is not a day'),
        (["--from", "2025", "--to", "2025", "--timezone", "Mars"], '--timezone "Mars" is not a time zone'),
        (["--from", "2025-00", "--to", "2025"], '--from "2025-00" is not a day'),
        (["--from", "2025-01-00", "--to", "2025"], '--from "2025-01-00" is not a day'),
        (["--from", "", "--to", "2025"], '--from "" is not a day'),
        (["--from", "2025", "--to", "2025", "--timezone", ""], '--timezone "" is not a time zone'),
        (["--from", "2024-01", "--to", "2024-01"], "nothing happened from 2024-01-01 to 2024-01-31; the record"),
        (["--from", "2099-01", "--to", "2099-01"], "nothing happened from 2099-01-01 to 2099-01-31; the record"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_or_empty_period_gets_one_clear_line(
    hub_host: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    hub_host(SOME)
    assert main(["report", "--no-accounting", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"hpchub: {message}")
    assert output.err.count("\n") == 1


def test_empty_period_gets_one_line_also_if_the_accounting_cannot_be_asked(
    hub_host: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    hub_host([])
    assert main(ARGUMENTS[:-1]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_empty_record_gets_one_clear_line(hub_host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    hub_host([])
    assert main(ARGUMENTS) == 2
    assert "the hub has not recorded any events yet (see hpc_events in the inventory)" in capsys.readouterr().err


def test_command_names_the_canary_that_it_leaves_out(hub_host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    alone = life("c", DAY.start, started=DAY.start, ready=DAY.start + 9, ended=(DAY.start + 3600, "stopped"), **CANARY)
    hub_host([*SOME, *alone])
    assert main(ARGUMENTS) == 0
    assert "Note: starts of the canary do not count here (1; see --with-canary).\n" in capsys.readouterr().out
    assert main([*ARGUMENTS, "--with-canary", "--csv"]) == 0
    assert "canary" not in (output := capsys.readouterr().out)
    assert output.splitlines()[-1].startswith("total,3,")


def test_period_with_the_canary_alone_is_empty(hub_host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    hub_host(life("c", DAY.start, ready=DAY.start + 9, ended=(DAY.start + 3600, "stopped"), **CANARY))
    assert main(ARGUMENTS) == 2
    error = capsys.readouterr().err
    assert "nothing happened from 2025-03-10 to 2025-03-10 except for starts of the canary (1; see --with-c" in error


def test_report_is_not_older_than_the_newest_event(
    hub_host: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise, the total would count starts that the months do not count, if the clock was set back."""
    hub_host(SOME)
    monkeypatch.setattr(time, "time", lambda: DAY.start - 86400)
    assert main([*ARGUMENTS, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["by"]["month"]["2025-03"] == found["total"]
    assert found["total"]["core_hours"] == 2


def test_wrong_url_of_the_database_gets_one_line(hub_host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    hub_host([])
    settings = json.loads(inventory.HUB_SETTINGS.read_text())
    inventory.HUB_SETTINGS.write_text(json.dumps({**settings, "db_url": "mysql://hub:hunter2@db1/hub"}))
    for command in (ARGUMENTS, ["orphans"], ["why", "alice"], ["drain"]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert error.startswith(f'hpchub: {inventory.HUB_SETTINGS}: the URL of the database begins with "mysql"; write')
        assert (error.count("\n"), "hunter2" in error) == (1, False)
    inventory.HUB_SETTINGS.write_text("{")
    assert main(ARGUMENTS) == 2
    assert "cannot be read (" in capsys.readouterr().err


def test_report_needs_the_hub_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inventory, "HUB_SETTINGS", tmp_path / "missing" / "hub.json")
    assert main(ARGUMENTS) == 2
    assert "this is not the hub host" in capsys.readouterr().err


def test_month_and_year_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli._days("--from", "2024-02") == (date(2024, 2, 1), date(2024, 2, 29))
    assert cli._days("--from", "2025-12") == (date(2025, 12, 1), date(2025, 12, 31))
    assert cli._days("--from", "2025") == (date(2025, 1, 1), date(2025, 12, 31))


def test_local_time_zone_changes_to_daylight_saving_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        for day in (date(2025, 3, 30), date(2025, 10, 26), date(2025, 7, 1)):
            local, named = (Period.of_days(day, day, zone) for zone in (cli._local_zone(), ZONE))
            assert (local.start, local.end) == (named.start, named.end)
            noon = local.start + 12 * 3600
            assert datetime.fromtimestamp(noon, cli._local_zone()).replace(tzinfo=None) == datetime.fromtimestamp(
                noon, ZONE
            ).replace(tzinfo=None)
    finally:
        monkeypatch.undo()
        time.tzset()


# -- The scheduler's accounting


def record(number: int) -> Record:
    """Return a session with a job."""
    return Record(
        f"{number:016x}", "u", (), "demo", "p", 1, 0, 9, 0.0, job_id=str(number), started=50.0, ready=60.0, over=100.0
    )


class Accounting:
    """A gate with some lines of accounting."""

    def __init__(self, *lines: str) -> None:
        self.lines = lines
        self.asked: list[int] = []

    async def usage(self, job_ids: list[str]) -> str:
        self.asked.append(len(job_ids))
        if not self.lines:
            raise Unanswered("no accounting")
        return "".join(f"{line}\n" for line in self.lines if line.split("|")[0] in job_ids)


async def joined(gate: Any, *records: Record, scheduler: str = "slurm") -> list[str]:
    return await join(records, {"demo": gate}, {"demo": scheduler}, 500.0)


async def test_accounting_replaces_the_times_that_the_hub_saw() -> None:
    ended, running, renamed, waiting = (record(number) for number in range(1, 5))
    gate = Accounting(
        f"1|hpchub-{1:016x}|40|120",
        f"2|hpchub-{2:016x}|45|Unknown",
        "3|another|1|2",
        f"4|hpchub-{4:016x}|Unknown|Unknown",
    )
    assert await joined(gate, ended, running, renamed, waiting) == []
    found = [each.accounted for each in (ended, running, renamed, waiting)]
    assert found == [(40.0, 120.0), (45.0, 500.0), None, None]
    assert figures([ended], Period(0, 86400, UTC), 500.0).core_hours == pytest.approx(80 / 3600)


async def test_many_jobs_are_looked_up_in_parts() -> None:
    gate = Accounting("1|x|1|2")
    await joined(gate, *map(record, range(1, 1202)))
    assert gate.asked == [500, 500, 201]


async def test_silent_accounting_is_reported_and_the_hub_s_times_are_used() -> None:
    one = record(1)
    assert await joined(Accounting(), one) == [
        "the accounting of demo did not answer, so the hub's own times are used: no accounting"
    ]
    assert one.job(500.0) == (50.0, 100.0)


async def test_scheduler_without_an_accounting_is_not_asked() -> None:
    gate = Accounting()
    assert await joined(gate, record(1), scheduler="gridengine") == []
    assert gate.asked == []


@pytest.mark.parametrize("line", ["", "1|2", "1|a|b|c", "1|a|1|2|3", "|||", "sacct: error: x"])
def test_slurm_ignores_lines_that_are_no_records(line: str) -> None:
    assert SCHEDULERS["slurm"].parse_usage(f"{line}\n") == {}
