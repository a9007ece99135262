"""``hpchub report``: the usage of the service in a period."""

from __future__ import annotations

import asyncio
import csv
import re
import sys
import time
from datetime import UTC, date, datetime, tzinfo
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from hpchub.cli import inventory
from hpchub.cli.database import hub_database
from hpchub.cli.failure import VALID, Failure
from hpchub.cli.output import print_json
from hpchub.clusters.gate_client import make_gate
from hpchub.messages import show
from hpchub.profile_file import load_profile_list
from hpchub.report.accounting import join
from hpchub.report.figures import BREAKDOWNS, Figures, Report, as_dict, make_report
from hpchub.report.html import page
from hpchub.report.period import Period
from hpchub.report.records import read

if TYPE_CHECKING:
    import argparse

    from hpchub.report.records import Record

COLUMNS = (
    *("starts", "sessions", "failed", "cancelled", "pending", "users", "regular_users", "sessions_per_day"),
    *("wait_mean", "wait_p50", "wait_p90", "wait_p95", "wait_p99", "wait_max", "active_users_per_week"),
    *("peak", "core_hours", "gpu_hours"),
)
"""The columns of the table and of CSV."""


def report(options: argparse.Namespace) -> int:
    """Run ``hpchub report``."""
    zone = _zone(options.timezone)
    period = _period(options.start, options.end, zone)
    if not inventory.is_hub_host():
        raise Failure(f"this is not the hub host, because {inventory.HUB_SETTINGS} does not exist")
    settings = inventory.hub_settings()
    with hub_database(settings["db_url"]) as engine, engine.connect() as connection:
        table = read(connection, period, canary=options.with_canary)
    now = max(time.time(), table.ends or 0.0)  # a clock may have been set back
    made = make_report(table, period, now, ())
    if made.is_empty:
        canary = f" except for starts of the canary ({made.left_out}; see --with-canary)" if made.left_out else ""
        raise Failure(f"nothing happened {_in_words(period)}{canary}; {_record_in_words(made.begins, zone)}")
    if options.accounting:
        for problem in _join(table.records, settings, now):
            print(f"hpchub: {problem}", file=sys.stderr)
    breakdowns = (options.by,) if options.by else BREAKDOWNS if options.json or options.html else ("month",)
    made = make_report(table, period, now, breakdowns)
    if options.json:
        print_json(as_dict(made))
    elif options.html:
        print(page(made, settings.get("service_name", "")), end="")
    elif options.csv:
        _print_csv(made)
    else:
        _print_text(made)
    return VALID


# The period


def _zone(name: str | None) -> tzinfo:
    """Return a time zone, or that of this host if there is no name."""
    if name is None:
        return _local_zone()
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Failure(f"--timezone {show(name)} is not a time zone; write one such as UTC or Europe/Berlin") from None


class _LocalZone(tzinfo):
    """The time zone of this host, with its changes to and from daylight saving time."""

    def utcoffset(self, when: datetime | None) -> Any:
        return self._local(when).utcoffset()

    def dst(self, when: datetime | None) -> None:
        return None

    def tzname(self, when: datetime | None) -> str | None:
        return self._local(when).tzname()

    def fromutc(self, when: datetime) -> datetime:
        return when.replace(tzinfo=UTC).astimezone().replace(tzinfo=self)

    @staticmethod
    def _local(when: datetime | None) -> datetime:
        return (when or datetime.now(UTC)).replace(tzinfo=None).astimezone()


def _local_zone() -> tzinfo:
    return _LocalZone()


def _period(start: str, end: str, zone: tzinfo) -> Period:
    """Return the period from the first day to the last day."""
    first, _ = _days("--from", start)
    _, last = _days("--to", end)
    if last < first:
        raise Failure(f"--to {end} is before --from {start}; write the first day and then the last day")
    return Period.of_days(first, last, zone)


def _days(option: str, text: str) -> tuple[date, date]:
    """Return the first and the last day that a text names: a day, a month or a year."""
    found = re.fullmatch(r"(\d{4})(?:-(\d\d)(?:-(\d\d))?)?", text, re.ASCII)
    try:
        if found is None:
            raise ValueError  # noqa: TRY301 the same message as for a day that does not exist
        year, month, day = found.groups()
        first = date(int(year), int(month or "1"), int(day or "1"))
        if day:
            last = first
        elif month:
            following = date(first.year + first.month // 12, first.month % 12 + 1, 1)
            last = date.fromordinal(following.toordinal() - 1)
        else:
            last = date(first.year, 12, 31)
        if not date(1971, 1, 1) <= first <= last < date(9000, 1, 1):
            raise ValueError  # noqa: TRY301
    except ValueError:
        raise Failure(f"{option} {show(text)} is not a day; write YYYY-MM-DD, or YYYY-MM for a whole month") from None
    return first, last


def _in_words(period: Period) -> str:
    return f"from {period.first_day} to {period.last_day}"


def _record_in_words(begins: float | None, zone: tzinfo) -> str:
    if begins is None:
        return "the hub has not recorded any events yet (see hpc_events in the inventory)"
    return f"the record of the hub begins on {datetime.fromtimestamp(begins, zone):%Y-%m-%d}"


def _join(records: list[Record], settings: dict[str, Any], now: float) -> list[str]:
    try:
        clusters = load_profile_list(settings["profiles_file"]).clusters
    except (OSError, ValueError) as error:
        return [f"without a profile list, the scheduler's accounting is not used: {error}"]
    gates = {name: make_gate(name, gate) for name, gate in settings["gates"].items()}
    return asyncio.run(join(records, gates, {cluster.name: cluster.scheduler for cluster in clusters}, now))


# The output


def _values(part: Figures) -> dict[str, Any]:
    """Return the figures as one row."""
    found = {**vars(part), **{f"wait_{name}": value for name, value in part.wait.items()}}
    return {name: found[name] for name in COLUMNS}


def _print_csv(made: Report) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    ((breakdown, parts),) = made.parts.items()
    reasons = [f"failed_{reason}" for reason in made.total.failures]
    writer.writerow([breakdown, *COLUMNS, *reasons])
    for name, part in [*parts.items(), ("total", made.total)]:
        failures = [part.failures.get(reason, 0) for reason in made.total.failures]
        row = ["" if value is None else value for value in _values(part).values()]
        # A spreadsheet must not take a name for a formula.
        writer.writerow([f"'{name}" if name[:1] in "=+-@\t\r" else name, *row, *failures])


def _print_text(made: Report) -> None:
    total, zone = made.total, made.period.zone
    print(f"Usage {_in_words(made.period)}")
    if made.begins is not None and made.begins > made.period.start:
        print(f"Note: {_record_in_words(made.begins, zone)}.")
    if made.period.end > made.now:
        print("Note: the period is not over yet.")
    if made.left_out:
        print(f"Note: starts of the canary do not count here ({made.left_out}; see --with-canary).")
    wait = total.wait
    peak = f" ({datetime.fromtimestamp(total.peak_at, zone):%Y-%m-%d %H:%M})" if total.peak_at else ""
    waits = ", ".join(f"{name} {_duration(value)}" for name, value in wait.items())
    print(
        f"""
Starts                      {total.starts}
  became sessions           {total.sessions}
  failed                    {total.failed}{_counts(total.failures)}
  stopped while waiting     {total.cancelled}
  still waiting             {total.pending}
  refused before a start    {sum(made.refused.values())}{_counts(made.refused)}
Users                       {total.users}
  with 5 or more sessions   {total.regular_users}
Wait for the notebook       {waits}
Sessions per day            {total.sessions_per_day:.2f}
Active users per week       {total.active_users_per_week:.2f}
Most sessions at once       {total.peak}{peak}
Core-hours                  {total.core_hours:.1f}
GPU-hours                   {total.gpu_hours:.1f}
Ends of sessions            {sum(total.endings.values())}{_counts(total.endings)}
Jobs in the accounting      {made.accounted}
"""
    )
    ((breakdown, parts),) = made.parts.items()
    head = (breakdown, "sessions", "users", "failed", "mean wait", "p95 wait", "core-hours", "GPU-hours", "at once")
    rows = [head]
    for name, part in parts.items():
        waited = _duration(part.wait["mean"]), _duration(part.wait["p95"])
        counts = (str(part.sessions), str(part.users), str(part.failed))
        rows.append((name, *counts, *waited, f"{part.core_hours:.1f}", f"{part.gpu_hours:.1f}", str(part.peak)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells[1:]]))
    if breakdown == "group":
        print(
            "\nA session counts for each group that its user had at its start, so the sums can be larger than the"
            " total."
        )


def _counts(counts: dict[str, int]) -> str:
    return f" ({', '.join(f'{name} {number}' for name, number in counts.items())})" if counts else ""


def _duration(seconds: float | None) -> str:
    """Return a duration such as ``45s``, ``1m30s`` or ``2h05m``."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m{whole % 60:02}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02}m"
