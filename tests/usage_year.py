"""A generated year of events, and its figures computed with plain loops, without any code of the report."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Callable

ZONE = ZoneInfo("Europe/Berlin")
"""A zone with daylight saving time: the year has a day of 23 hours and one of 25 hours."""
FIRST, LAST = date(2025, 1, 1), date(2025, 12, 31)
USERS = 400
PROFILES = {"small": (1, 0, 8), "large": (16, 0, 24), "gpu": (8, 2, 12), "long": (2, 0, 120)}
"""The cores, GPUs and hours of each profile."""
GROUPS = ["physics", "chemistry", "biology", "teaching", 'Größe, "x"', "=1+1"]


def clock(day: date, hours: float = 0.0) -> float:
    """Return a time on a day, some hours of the wall clock after midnight."""
    return (datetime(day.year, day.month, day.day, tzinfo=ZONE) + timedelta(hours=hours)).timestamp()


def generate(sessions: int, seed: int = 1) -> list[dict[str, Any]]:  # noqa: C901 one branch for each fate
    """Return the rows of the event table for a year and some days around it."""
    chance = random.Random(seed)
    rows: list[dict[str, Any]] = []
    first, last = clock(FIRST) - 6 * 86400, clock(LAST, 24) + 2 * 86400
    memberships = {user: chance.sample(GROUPS, chance.choice([0, 1, 1, 2])) for user in range(USERS)}
    for number in range(sessions):
        # Few users have most of the sessions. Some users change their groups in the middle of the year.
        user = min(int(chance.expovariate(1 / 60)), USERS - 1)
        at = chance.uniform(first, last)
        groups = memberships[user] if at < clock(date(2025, 7, 1)) or user % 7 else ["moved"]
        profile = chance.choice(list(PROFILES))
        cores, gpus, hours = PROFILES[profile]
        session = f"{number:016x}"

        def add(kind: str, at: float, name: str = session, **values: Any) -> None:
            rows.append({"kind": kind, "at": at, "session": name, **values})

        facts: dict[str, Any] = {
            "cores": cores,
            "gpus": gpus,
            "runtime": hours * 3600,
            "queue": "q",
            "profile": profile,
        }
        cluster = "north" if profile != "gpu" and chance.random() < 0.7 else "south"
        add("requested", at, user=f"~user{user}", groups=json.dumps(groups), cluster=cluster, **facts)
        fate = chance.random()
        if fate < 0.03:
            add("failed", at + chance.uniform(0, 5), reason=chance.choice(["refused", "unanswered"]))
            continue
        add("submitted", at + 1, job_id=str(number))
        wait = chance.lognormvariate(3.5, 1.5)
        if fate < 0.05:
            add("failed", at + 1 + wait, reason="waited")
            continue
        if fate < 0.08:
            add("ended", at + 1 + wait, reason="stopped")
            continue
        if fate < 0.082:
            continue  # the hub lost it while it waited
        started = at + 1 + wait
        add("started", started)
        if fate < 0.10:
            over = started + chance.uniform(5, 360)
            add("failed", over, reason="no_report")
            continue
        ready = started + chance.uniform(4, 40)
        add("ready", ready)
        if fate < 0.103:
            continue  # the hub lost its end
        used = min(chance.expovariate(1 / (hours * 1500)) + 1, hours * 3600 - (ready - started))
        by_hand = chance.random() < 0.5
        add("ended", ready + used, reason="stopped" if by_hand else "unknown")
        if not by_hand and chance.random() < 0.9:
            add("explained", ready + used + 5, reason=chance.choice(["time_limit", "finished", "out_of_memory"]))
    for _ in range(sessions // 50):
        at = chance.uniform(first, last)
        rows.append(
            {"kind": "refused", "at": at, "user": "~user1", "reason": chance.choice(["bad_choice", "no_profiles"])}
        )
        rows.append({"kind": "signed_in", "at": at, "user": "~user1"})
    chance.shuffle(rows)
    return rows


@dataclass
class Life:
    """The content of one session's rows."""

    facts: dict[str, Any]
    kinds: dict[str, dict[str, Any]]

    def at(self, kind: str) -> float | None:
        return self.kinds[kind]["at"] if kind in self.kinds else None

    def over(self, now: float) -> float:
        for kind in ("failed", "ended"):
            if kind in self.kinds:
                return float(self.kinds[kind]["at"])
        if "started" in self.kinds:
            return float(min(now, self.kinds["started"]["at"] + self.facts["runtime"]))
        return now


def lives_of(rows: list[dict[str, Any]]) -> list[Life]:
    """Return the sessions in the rows."""
    lives = {row["session"]: Life(row, {}) for row in rows if row["kind"] == "requested"}
    for row in rows:
        if row.get("session") in lives and row["kind"] != "requested":
            lives[row["session"]].kinds[row["kind"]] = row
    return list(lives.values())


def expected(  # noqa: C901 plain loops on purpose
    everyone: list[Life], start: float, end: float, now: float, chosen: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """Compute the figures of a period for the sessions that a function chooses by their request."""
    lives = [life for life in everyone if chosen(life.facts)]
    limit = min(end, now)
    waits: list[float] = []
    per_user: dict[str, int] = {}
    failures: dict[str, int] = {}
    endings: dict[str, int] = {}
    starts = cancelled = pending = 0
    core_seconds = gpu_seconds = 0.0
    for life in lives:
        began = life.at("started")
        if began is not None:
            shared = max(0.0, min(limit, life.over(now)) - max(start, began))
            core_seconds += shared * life.facts["cores"]
            gpu_seconds += shared * life.facts["gpus"]
        if not start <= life.facts["at"] < end:
            continue
        starts += 1
        ready = life.at("ready")
        if ready is not None:
            waits.append(ready - life.facts["at"])
            per_user[life.facts["user"]] = per_user.get(life.facts["user"], 0) + 1
            if "ended" in life.kinds:
                cause = life.kinds.get("explained", life.kinds["ended"])["reason"]
                endings[cause] = endings.get(cause, 0) + 1
        elif "failed" in life.kinds:
            reason = life.kinds["failed"]["reason"]
            failures[reason] = failures.get(reason, 0) + 1
        elif "ended" in life.kinds:
            cancelled += 1
        else:
            pending += 1
    waits.sort()
    uses = [(life.at("ready"), life.over(now), life.facts["user"]) for life in lives if "ready" in life.kinds]
    days = set()
    day = datetime.fromtimestamp(start, ZONE).date()
    while clock(day) < limit:
        days.add(day)
        day += timedelta(days=1)
    actives = []
    monday = min(days)
    while monday.weekday():
        monday -= timedelta(days=1)
    while clock(monday) < limit:
        low, high = max(start, clock(monday)), min(limit, clock(monday + timedelta(days=7)))
        actives.append(len({user for a, b, user in uses if a is not None and min(b, high) > max(a, low)}))
        monday += timedelta(days=7)
    return {
        "starts": starts,
        "sessions": len(waits),
        "failed": sum(failures.values()),
        "cancelled": cancelled,
        "pending": pending,
        "users": len(per_user),
        "regular_users": len([user for user in per_user if per_user[user] > 4]),
        "sessions_per_day": len(waits) / len(days),
        "wait": {
            "mean": math.fsum(waits) / len(waits) if waits else None,
            **{f"p{percent}": _percentile(waits, percent) for percent in (50, 90, 95, 99)},
            "max": waits[-1] if waits else None,
        },
        "active_users_per_week": sum(actives) / len(actives),
        "peak": _peak([(a, b) for a, b, _ in uses if a is not None and min(b, limit) > max(a, start)], start, limit),
        "core_hours": core_seconds / 3600,
        "gpu_hours": gpu_seconds / 3600,
        "failures": failures,
        "endings": endings,
    }


def _percentile(values: list[float], percent: int) -> float | None:
    if not values:
        return None
    place = percent * (len(values) - 1) / 100
    low, high = math.floor(place), math.ceil(place)
    return values[low] if low == high else values[low] * (high - place) + values[high] * (place - low)


def _peak(uses: list[tuple[float, float]], start: float, end: float) -> int:
    """Count at the begin of each use how many others contain this moment."""
    begins = sorted(max(a, start) for a, _ in uses)
    ends = sorted(min(b, end) for _, b in uses)
    most = gone = 0
    for number, moment in enumerate(begins, start=1):
        while gone < len(ends) and ends[gone] <= moment:
            gone += 1
        most = max(most, number - gone)
    return most
