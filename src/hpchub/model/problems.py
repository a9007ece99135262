"""What is wrong with a site's description, said so that the person who wrote it can mend it.

A :class:`Problem` is one line: the entry, the field, the value as far as it may be shown, what is wrong, and what
would be valid. No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpchub.messages import show


@dataclass(frozen=True)
class Problem:
    """One thing to mend.

    Attributes:
        entry: where it is, as ``hpc_profiles[2] (key "big")``.
        message: what is wrong, as ``is not a size``.
        field: the field of the entry, or empty when the entry itself is wrong.
        value: the value as :func:`show` writes it, or empty when there is none or it may not be shown.
        valid: what to write in its place, or empty.
    """

    entry: str
    message: str
    field: str = ""
    value: str = ""
    valid: str = ""

    def __str__(self) -> str:
        text = " ".join(part for part in (self.field, self.value, self.message) if part)
        return f"{self.entry}: {text}" + (f"; {self.valid}" if self.valid else "")

    def as_dict(self) -> dict[str, str]:
        """The same for JSON: ``entry``, ``field``, ``value``, ``message``, ``valid``, and ``text``, all of it."""
        return {
            "entry": self.entry,
            "field": self.field,
            "value": self.value,
            "message": self.message,
            "valid": self.valid,
            "text": str(self),
        }


class SiteError(ValueError):
    """A site's description is wrong; ``problems`` holds all that was found, in the order of the description."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(frozen=True)
class Unresolved:
    """Stands for a value whose expression could not be evaluated; every field refuses it with the reason."""

    reason: str

    @property
    def message(self) -> str:
        """The reason as one line of a message."""
        return f"cannot be evaluated: {' '.join(self.reason.split())[:200]}"

    @property
    def valid(self) -> str:
        """What to do about it."""
        return "define it in the inventory, a secret in its vault" if self.reason.endswith("is undefined") else ""


def label(value: object) -> str:
    """How an entry of a list is called beside its number: `` (key "big")``, or nothing."""
    if isinstance(value, Mapping):
        for word in ("key", "name"):
            if isinstance(value.get(word), (str, int)):
                return f" ({word} {show(value[word], 40)})"
    return ""


@dataclass(frozen=True)
class Place:
    """A pydantic location in the words of the description: the entry, and the field in it."""

    entry: str
    field: str
    value: Any


def place(entry: str, raw: object, location: Sequence[int | str]) -> Place:
    """Follow a location through what was written.

    Items of lists of mappings become entries of their own, so that ``("queues", 1, "max_memory")`` of a cluster reads
    ``hpc_clusters[0] (name "demo") queues[1] (name "batch")`` and ``max_memory``.
    """
    field = ""
    value: Any = raw
    for step in location:
        if isinstance(step, int):
            value = value[step] if isinstance(value, Sequence) and -1 < step < len(value) else None
            field += f"[{step}]"
            if isinstance(value, Mapping):
                entry, field = f"{entry} {field}{label(value)}", ""
        elif step == "[key]":  # pydantic's word for a mapping's key
            value = None
        else:
            value = value.get(step) if isinstance(value, Mapping) else None
            name = step if step.isidentifier() else show(step, 40)
            field = f"{field}.{name}" if field else name
    return Place(entry, field, value)
