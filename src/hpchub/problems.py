"""What is wrong with a site's description, said so that the person who wrote it can mend it.

A :class:`Problem` is one line: the entry, the field, the value as far as it may be shown, what is wrong, and what
would be valid. No I/O.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SHOWN = 80
"""Characters of a value that a message shows at most."""


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


def show(value: object, limit: int = SHOWN) -> str:
    """A value as one printable line of at most ``limit`` characters, in the way YAML would take it: ``"4 GB"``."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):  # keys that JSON lacks, or a list that holds itself
        text = f"a {type(value).__name__}"
    text = "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def listing(names: Iterable[object], limit: int = 20) -> str:
    """``a, b, c``; the number of the others where there are more than ``limit``."""
    words = [str(name) for name in names]
    more = f" and {len(words) - limit} more" if len(words) > limit else ""
    return ", ".join(words[:limit]) + more


def near(name: object, known: Iterable[str], cutoff: float = 0.7) -> str | None:
    """The known name that somebody who wrote ``name`` may have meant."""
    by_folded = {candidate.casefold().replace("-", "_"): candidate for candidate in known}
    folded = str(name)[:SHOWN].casefold().replace("-", "_")
    found = difflib.get_close_matches(folded, by_folded, n=1, cutoff=cutoff)
    return by_folded[found[0]] if found else None


def suggestion(name: object, known: Sequence[str], what: str) -> str:
    """``did you mean "x"?`` where something is near, else the list of what is valid."""
    close = near(name, known)
    return f'did you mean "{close}"?' if close else f"{what}: {listing(known)}"


def did_you_mean(name: object, known: Sequence[str]) -> str:
    """What is valid, and before it what is near."""
    close = near(name, known)
    return (f'did you mean "{close}"? ' if close else "") + f"valid: {listing(known)}"


_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (type(None), "empty"),
    (bool, "true or false"),
    ((int, float), "a number"),
    (str, "text"),
    (Mapping, "a mapping"),
    (Sequence, "a list"),
)


def type_complaint(value: object) -> str:
    """What a value of the wrong type is, for "is …, not …" messages."""
    return next((words for kind, words in _KINDS if isinstance(value, kind)), f"a {type(value).__name__}")


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
