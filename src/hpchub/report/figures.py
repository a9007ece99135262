"""The figures of the usage report. No I/O.

A start belongs to the period in which it was requested, whenever the session was ready or over. Hours, active users and
sessions at once are counted in the period in which they happened.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from hpchub.report.period import Period
    from hpchub.report.records import Record, Table

REGULAR = 5
"""How many sessions make a regular user."""
PERCENTILES = (50, 90, 95, 99)
"""The percentiles of the wait."""
BREAKDOWNS = ("month", "profile", "group", "cluster")
"""The ways to divide the sessions of the report."""


@dataclass(frozen=True)
class Figures:
    """The figures of some sessions in a period. Times are in seconds.

    Attributes:
        starts: How many sessions were requested.
        sessions: How many of them became ready, so that the user could open the notebook.
        failed: How many of them failed before they were ready.
        cancelled: How many of them somebody stopped before they were ready.
        pending: How many of them are neither ready nor over.
        users: How many users had at least one session.
        regular_users: How many users had at least five sessions.
        sessions_per_day: The mean number of sessions per day.
        wait: The mean, the percentiles and the maximum of the wait from the request to the ready notebook.
        active_users_per_week: The mean number of users who could use a session in a week.
        peak: The largest number of sessions that users could use at the same time.
        peak_at: When this number was reached for the first time, in seconds since 1970, or None.
        core_hours: The sum of cores times hours of the jobs.
        gpu_hours: The sum of GPUs times hours of the jobs.
        failures: The number of failed starts, by the reason.
        endings: The number of sessions that are over, by the cause of their end.
    """

    starts: int
    sessions: int
    failed: int
    cancelled: int
    pending: int
    users: int
    regular_users: int
    sessions_per_day: float
    wait: dict[str, float | None]
    active_users_per_week: float
    peak: int
    peak_at: float | None
    core_hours: float
    gpu_hours: float
    failures: dict[str, int]
    endings: dict[str, int]


def figures(records: Sequence[Record], period: Period, now: float) -> Figures:
    """Compute the figures of some sessions in a period.

    Args:
        records: The sessions. Those outside the period do not matter.
        period: The period.
        now: The time now, in seconds since 1970. Sessions that are not over last until now.
    """
    starts = [record for record in records if period.contains(record.requested)]
    sessions = [record for record in starts if record.ready is not None]
    others = [record for record in starts if record.ready is None]
    over = [record for record in others if record.over is not None]
    cancelled = sum(1 for record in over if record.ending == "stopped")
    failures = Counter(record.failure or record.cause for record in over if record.ending != "stopped")
    per_user = Counter(record.user for record in sessions)
    past = period.until(now)
    weeks = active_users(records, past, now)
    peak, peak_at = most_at_once(records, past, now)
    jobs = [(record, job) for record in records if (job := record.job(now)) is not None]
    return Figures(
        starts=len(starts),
        sessions=len(sessions),
        failed=failures.total(),
        cancelled=cancelled,
        pending=len(others) - failures.total() - cancelled,
        users=len(per_user),
        regular_users=sum(1 for number in per_user.values() if number >= REGULAR),
        sessions_per_day=len(sessions) / len(past.days()),
        wait=waits([record.ready - record.requested for record in sessions if record.ready is not None]),
        active_users_per_week=sum(weeks.values()) / len(weeks) if weeks else 0.0,
        peak=peak,
        peak_at=peak_at,
        core_hours=sum(record.cores * past.overlap(*job) for record, job in jobs) / 3600,
        gpu_hours=sum(record.gpus * past.overlap(*job) for record, job in jobs) / 3600,
        failures=dict(failures.most_common()),
        endings=dict(Counter(record.ending for record in sessions if record.over is not None).most_common()),
    )


def waits(found: Iterable[float]) -> dict[str, float | None]:
    """Return the mean, the percentiles and the maximum of some waits. Each is None if there are no waits."""
    # A clock that was set back must not make a wait negative.
    ordered = sorted(max(0.0, wait) for wait in found)
    if not ordered:
        return dict.fromkeys(("mean", *(f"p{percent}" for percent in PERCENTILES), "max"))
    return {
        "mean": sum(ordered) / len(ordered),
        **{f"p{percent}": percentile(ordered, percent) for percent in PERCENTILES},
        "max": ordered[-1],
    }


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return a percentile of sorted values, with linear interpolation between the two nearest values."""
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def active_users(records: Iterable[Record], period: Period, now: float) -> dict[str, int]:
    """Return for each week of the period how many users could use a session."""
    weeks = list(period.weeks())
    begins = [week.start for _, week in weeks]
    found: list[set[str]] = [set() for _ in weeks]
    for record in records:
        use = record.use(now)
        if use is None or not period.overlap(*use):
            continue
        first = max(0, bisect_right(begins, use[0]) - 1)
        for number in range(first, bisect_left(begins, use[1])):
            found[number].add(record.user)
    return {name: len(users) for (name, _), users in zip(weeks, found, strict=True)}


def most_at_once(records: Iterable[Record], period: Period, now: float) -> tuple[int, float | None]:
    """Return the largest number of sessions at the same time in the period, and when it was reached first."""
    changes = []
    for record in records:
        use = record.use(now)
        if use is not None and period.overlap(*use):
            changes += [(max(use[0], period.start), 1), (min(use[1], period.end), -1)]
    most, current, reached = 0, 0, None
    for at, change in sorted(changes):  # at the same time, an end comes before a start
        current += change
        if current > most:
            most, reached = current, at
    return most, reached


@dataclass(frozen=True)
class Report:
    """The usage report of a period.

    Attributes:
        period: The period.
        now: When the report was made, in seconds since 1970.
        begins: When the oldest recorded event happened, in seconds since 1970, or None.
        total: The figures of all sessions.
        refused: The number of starts that were refused before there was a session, by the reason.
        parts: The figures of the parts of each breakdown, by the names of the breakdown and of the part.
        days: The number of sessions that were requested on each day, as ``YYYY-MM-DD``.
        weeks: The number of active users in each week, as ``YYYY-Www``.
        accounted: How many jobs have times from the scheduler's accounting.
        left_out: The number of starts of the canary in the period that are left out.
    """

    period: Period
    now: float
    begins: float | None
    total: Figures
    refused: dict[str, int]
    parts: dict[str, dict[str, Figures]]
    days: dict[str, int]
    weeks: dict[str, int]
    accounted: int
    left_out: int

    @property
    def is_empty(self) -> bool:
        """Whether nothing happened in the period."""
        return not (self.total.starts or self.refused or self.total.core_hours or self.total.peak)


def make_report(table: Table, period: Period, now: float, breakdowns: Sequence[str] = BREAKDOWNS) -> Report:
    """Compute the report of a period."""
    records = table.records
    days = Counter(
        str(period.day(record.requested))
        for record in records
        if record.ready is not None and period.contains(record.requested)
    )
    past = period.until(now)
    return Report(
        period=period,
        now=now,
        begins=table.begins,
        total=figures(records, period, now),
        refused=table.refused,
        parts={name: _divide(records, period, now, name) for name in breakdowns},
        days={str(day): days[str(day)] for day in past.days()},
        weeks=active_users(records, past, now),
        accounted=sum(1 for record in records if record.accounted is not None),
        left_out=table.left_out,
    )


def _divide(records: Sequence[Record], period: Period, now: float, breakdown: str) -> dict[str, Figures]:
    """Return the figures of each month, profile, group or cluster. A session counts for each group of its user."""
    if breakdown == "month":
        return {name: figures(records, month, now) for name, month in period.until(now).months()}
    keys: dict[str, Callable[[Record], tuple[str, ...]]] = {
        "profile": lambda record: (record.profile,),
        "group": lambda record: record.groups,
        "cluster": lambda record: (record.cluster,),
    }
    parts: dict[str, list[Record]] = {}
    for record in records:
        for name in keys[breakdown](record):
            parts.setdefault(name, []).append(record)
    found = {name: figures(part, period, now) for name, part in sorted(parts.items())}
    return {name: part for name, part in found.items() if part.starts or part.core_hours or part.peak}


def as_dict(report: Report) -> dict[str, Any]:
    """Return the report as JSON types. Times are in seconds, points in time in seconds since 1970."""
    return {
        "from": report.period.start,
        "to": report.period.end,
        "made": report.now,
        "record_begins": report.begins,
        "total": vars(report.total),
        "refused": report.refused,
        "by": {name: {key: vars(part) for key, part in parts.items()} for name, parts in report.parts.items()},
        "sessions_on_day": report.days,
        "active_users_in_week": report.weeks,
        "jobs_with_accounting": report.accounted,
        "canary_starts_left_out": report.left_out,
    }
