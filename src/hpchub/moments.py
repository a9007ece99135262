"""Points in time: the notation of the inventory and of the commands, and numbers. No I/O.

A time without a time zone is a local time of the hub host. It keeps this meaning until the hub host reads it.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

PATTERN = (
    r"2[0-9]{3}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2})?"
    r" ?(?:Z|[+-][0-9]{2}:?[0-9]{2}|[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+)*)?"
)
"""The notation of a point in time."""
VALID = (
    'write a date and a time of the hub host, as in "2027-01-31 08:00", or add a time zone, as in "2027-01-31 08:00'
    ' Europe/Berlin" or "2027-01-31 08:00 +01:00"'
)

_PARTS = re.compile(r"([0-9-]+)[T ]([0-9:]+) ?(.*)", re.DOTALL)
_OFFSET = re.compile(r"([+-])([0-9]{2}):?([0-9]{2})")


class MomentError(ValueError):
    """A text is not a point in time. The attribute ``valid`` contains the advice."""

    def __init__(self, message: str, valid: str = VALID) -> None:
        super().__init__(message)
        self.valid = valid


def canonical(text: str) -> str:
    """Return a time in ISO 8601: ``2027-01-31T08:00:00+01:00``, or without an offset if the text has no time zone.

    Raises:
        MomentError: The text is not a point in time.
    """
    found = _PARTS.fullmatch(text) if re.fullmatch(PATTERN, text) else None
    if found is None:
        raise MomentError("is not a date and a time")
    try:
        naive = datetime.fromisoformat(f"{found[1]}T{found[2]}")
    except ValueError:
        raise MomentError("is a date or a time that does not exist") from None
    if not found[3]:
        return naive.isoformat()
    offset = _OFFSET.fullmatch(found[3])
    if offset and (int(offset[2]) > 14 or int(offset[3]) > 59):
        raise MomentError(f"has the offset {found[3]}, which no time zone has")
    if offset:
        away = timedelta(hours=int(offset[2]), minutes=int(offset[3]))
        return naive.replace(tzinfo=timezone(-away if offset[1] == "-" else away)).isoformat()
    if found[3] in ("Z", "UTC"):
        return naive.replace(tzinfo=UTC).isoformat()
    try:
        zone = ZoneInfo(found[3])
    except (OSError, ValueError, LookupError):
        raise MomentError(
            f"has the unknown time zone {found[3]}", "write a name such as Europe/Berlin, or an offset such as +01:00"
        ) from None
    return _certain(naive, zone).isoformat()


def local(text: str) -> str:
    """Return a time in ISO 8601 with an offset. A time without a time zone is a local time of this host.

    Raises:
        MomentError: The text is not a point in time, or the local time is not clear because the clocks change.
    """
    moment = datetime.fromisoformat(canonical(text))
    return (moment if moment.tzinfo else _certain(moment, None)).isoformat()


def _certain(naive: datetime, zone: ZoneInfo | None) -> datetime:
    """Return a local time with its offset, unless the clocks change at this time. Without a zone, it is this host's."""
    first, second = (
        each.astimezone() if zone is None else each.replace(tzinfo=zone)
        for each in (naive.replace(fold=0), naive.replace(fold=1))
    )
    if first.utcoffset() != second.utcoffset():
        what = "exists twice" if first.astimezone(UTC) < second.astimezone(UTC) else "does not exist"
        raise MomentError(f"{what}, because the clocks change", "write an offset, as in +01:00")
    return first


def has_zone(text: str) -> bool:
    """Return whether a time in its canonical form has a time zone."""
    return datetime.fromisoformat(text).tzinfo is not None


def instant(text: str) -> float:
    """Return a time in its canonical form in seconds since 1970. Without a time zone, it is this host's local time."""
    return datetime.fromisoformat(text).timestamp()


def shown(instant: float) -> str:
    """Return a time for people, in this host's time zone: ``2027-01-31 08:00 CET``."""
    return f"{datetime.fromtimestamp(instant).astimezone():%Y-%m-%d %H:%M %Z}"
