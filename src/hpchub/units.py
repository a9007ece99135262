"""Sizes and times: the inventory's notation, the schedulers' notations, and numbers. No I/O."""

from __future__ import annotations

import re
from fractions import Fraction

from hpchub.messages import Message

_MEBIBYTES = {"M": 1, "G": 1024, "T": 1024 * 1024}


# The inventory's notation


def mebibytes(memory: str) -> int:
    """Return a size in MiB: ``4G`` is 4096."""
    return int(memory[:-1]) * _MEBIBYTES[memory[-1]]


def seconds(runtime: str) -> int:
    """Return a time in seconds: ``8:00:00`` is 28800, ``1-00:00:00`` is 86400."""
    days, _, rest = runtime.rpartition("-")
    hours, minutes, secs = (int(part) for part in rest.split(":"))
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + secs


def format_memory(mebibytes: int) -> str:
    """Return a size as the inventory takes it: 4096 is ``4G``."""
    for unit, size in (("T", 1024 * 1024), ("G", 1024)):
        if mebibytes and mebibytes % size == 0:
            return f"{mebibytes // size}{unit}"
    return f"{mebibytes}M"


def format_runtime(seconds: int) -> str:
    """Return a time as the inventory takes it: 28800 is ``8:00:00``, 86400 is ``1-00:00:00``."""
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    minutes = f"{rest // 60:02}:{rest % 60:02}"
    return f"{days}-{hours:02}:{minutes}" if days else f"{hours}:{minutes}"


# Words for users


def memory_in_words(mebibytes: int) -> str:
    """Return a size as users read it: 4096 is ``4 GB``."""
    memory = format_memory(mebibytes)
    return f"{memory[:-1]} {memory[-1]}B"


def runtime_in_words(seconds: int) -> str:
    """Return a time as users read it: 5400 is ``1 h 30 min``, 86400 is ``24 h``, 604800 is ``7 days``."""
    days, rest = divmod(seconds, 86400)
    if days > 2 and rest:
        return Message("{days} days {rest}", days=days, rest=runtime_in_words(rest))
    if days > 2:
        return Message("{days} days", days=days)
    parts = ((seconds // 3600, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"


# The schedulers' notations


def format_clock(seconds: int) -> str:
    """Return a time as ``H:MM:SS``: 90000 is ``25:00:00``."""
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def parse_clock(text: str) -> int | None:
    """Return the seconds of ``SS``, ``MM:SS``, ``HH:MM:SS`` or ``DD:HH:MM:SS``, or None for any other text."""
    if not re.fullmatch(r"[0-9]{1,9}(?::[0-9]{1,9}){0,3}", text):
        return None
    parts = [int(part) for part in text.split(":")]
    return sum(part * unit for part, unit in zip(reversed(parts), (1, 60, 3600, 86400), strict=False))


def parse_size(text: str) -> int | None:
    """Return a size in MiB, or None for any other text.

    ``4gb`` is 4096, ``1.5 T`` is 1572864. A number without a unit is in bytes. A word of PBS and Torque, as in
    ``512mw``, has 8 bytes.
    """
    found = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?([kmgtpe]?)([bw]?)", text.lower())
    if found is None:
        return None
    return int(Fraction(found[1]) * 1024 ** " kmgtpe".index(found[2] or " ") * (8 if found[3] == "w" else 1) / 1024**2)


def parse_whole(text: str) -> int | None:
    """Return a whole number, or None for any other text."""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None
