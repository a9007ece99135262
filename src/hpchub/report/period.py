"""Periods of time in a time zone, and their days, weeks and months. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import tzinfo


@dataclass(frozen=True)
class Period:
    """A period of time.

    Attributes:
        start: Its start, in seconds since 1970.
        end: Its end, in seconds since 1970. It does not belong to the period.
        zone: The time zone of its days, weeks and months.
    """

    start: float
    end: float
    zone: tzinfo

    @classmethod
    def of_days(cls, first: date, last: date, zone: tzinfo) -> Period:
        """Return the period from the start of the first day to the end of the last day."""
        return cls(midnight(first, zone), midnight(last + timedelta(days=1), zone), zone)

    def contains(self, at: float) -> bool:
        """Return whether a time is in the period."""
        return self.start <= at < self.end

    def overlap(self, start: float, end: float) -> float:
        """Return how many seconds of an interval are in the period."""
        return max(0.0, min(end, self.end) - max(start, self.start))

    def until(self, now: float) -> Period:
        """Return the part of the period that is not in the future."""
        return Period(self.start, max(self.start, min(self.end, now)), self.zone)

    @property
    def first_day(self) -> date:
        """The day on which the period starts."""
        return self.day(self.start)

    @property
    def last_day(self) -> date:
        """The last day that is in the period, at least partly."""
        day = self.day(self.end)
        return day - timedelta(days=1) if midnight(day, self.zone) >= self.end and self.end > self.start else day

    def day(self, at: float) -> date:
        """Return the day of a time."""
        return datetime.fromtimestamp(at, self.zone).date()

    def days(self) -> list[date]:
        """Return all days that are in the period, at least partly."""
        count = (self.last_day - self.first_day).days + 1
        return [self.first_day + timedelta(days=number) for number in range(count)]

    def months(self) -> Iterator[tuple[str, Period]]:
        """Yield the months as ``YYYY-MM``, each with its part of the period."""
        yield from self._split(date(self.first_day.year, self.first_day.month, 1), _next_month, "%Y-%m")

    def weeks(self) -> Iterator[tuple[str, Period]]:
        """Yield the weeks, which begin on Mondays, as ``YYYY-Www`` of ISO 8601, each with its part of the period."""
        yield from self._split(monday(self.first_day), lambda day: day + timedelta(days=7), "%G-W%V")

    def _split(self, first: date, following: Callable[[date], date], form: str) -> Iterator[tuple[str, Period]]:
        while (start := midnight(first, self.zone)) < self.end:
            after = following(first)
            part = Period(max(start, self.start), min(midnight(after, self.zone), self.end), self.zone)
            if part.end > part.start:
                yield first.strftime(form), part
            first = after


def midnight(day: date, zone: tzinfo) -> float:
    """Return when a day begins, in seconds since 1970."""
    return datetime.combine(day, time(), zone).timestamp()


def monday(day: date) -> date:
    """Return the Monday of a day's week."""
    return day - timedelta(days=day.weekday())


def _next_month(first: date) -> date:
    return (first + timedelta(days=31)).replace(day=1)
