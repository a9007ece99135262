"""Output that several commands share."""

from __future__ import annotations

import json


def print_json(content: object) -> None:
    """Print a value as indented JSON."""
    print(json.dumps(content, indent=2, ensure_ascii=False))


def count(number: int, noun: str) -> str:
    """Return ``1 queue``, ``2 queues``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
