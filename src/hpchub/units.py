"""Conversion of the inventory's sizes and times to numbers. No I/O."""

from __future__ import annotations

_MEBIBYTES = {"M": 1, "G": 1024, "T": 1024 * 1024}


def mebibytes(memory: str) -> int:
    """``4G`` is 4096."""
    return int(memory[:-1]) * _MEBIBYTES[memory[-1]]


def seconds(runtime: str) -> int:
    """``8:00:00`` is 28800, ``1-00:00:00`` is 86400."""
    days, _, rest = runtime.rpartition("-")
    hours, minutes, secs = (int(part) for part in rest.split(":"))
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + secs
