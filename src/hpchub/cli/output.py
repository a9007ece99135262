"""Output that several commands share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def print_json(content: object) -> None:
    """Print a value as indented JSON."""
    print(json.dumps(content, indent=2, ensure_ascii=False))


def count(number: int, noun: str) -> str:
    """Return ``1 queue``, ``2 queues``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of equal length as the lines of a table. The first row has the titles."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
