"""Helpers for error messages: printable values, lists of valid values, and suggestions for misspelt names. No I/O."""

from __future__ import annotations

import difflib
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import date

SHOWN = 80
"""The largest number of characters of a value that a message shows."""


def show(value: object, limit: int = SHOWN) -> str:
    """Return a value as one printable line of at most ``limit`` characters, in YAML's notation: ``"4 GB"``."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):  # keys that JSON does not support, or a list that contains itself
        text = f"a {type(value).__name__}"
    text = "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def listing(names: Iterable[object], limit: int = 20) -> str:
    """Return ``a, b, c``. After ``limit`` names, give only the number of the others."""
    words = [str(name) for name in names]
    more = f" and {len(words) - limit} more" if len(words) > limit else ""
    return ", ".join(words[:limit]) + more


def near(name: object, known: Iterable[str], cutoff: float = 0.7) -> str | None:
    """Return the known name that is most similar to ``name``, or None if none is similar."""
    by_folded = {candidate.casefold().replace("-", "_"): candidate for candidate in known}
    folded = str(name)[:SHOWN].casefold().replace("-", "_")
    found = difflib.get_close_matches(folded, by_folded, n=1, cutoff=cutoff)
    return by_folded[found[0]] if found else None


def suggestion(name: object, known: Sequence[str], what: str) -> str:
    """Return ``did you mean "x"?`` if a known name is similar, otherwise the list of the known names."""
    close = near(name, known)
    return f'did you mean "{close}"?' if close else f"{what}: {listing(known)}"


def did_you_mean(name: object, known: Sequence[str]) -> str:
    """Return ``did you mean "x"? valid: x, y``. The question is omitted if no known name is similar."""
    close = near(name, known)
    return (f'did you mean "{close}"? ' if close else "") + f"valid: {listing(known)}"


_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (type(None), "empty"),
    (bool, "true or false"),
    ((int, float), "a number"),
    (date, "a date"),
    (str, "text"),
    (Mapping, "a mapping"),
    (Sequence, "a list"),
)


def type_in_words(value: object) -> str:
    """Return the type of a value in words, for messages such as "is a number, not text"."""
    return next((words for kind, words in _KINDS if isinstance(value, kind)), f"a {type(value).__name__}")


def unprintable(text: str) -> tuple[str, str]:
    """Return what is wrong with a text that is not printable, and what to do if that does not depend on the value."""
    found = next(c for c in text if not c.isprintable())
    if unicodedata.category(found) == "Cc":
        return "contains a line break or another control character", ""
    name = f"contains the invisible character U+{ord(found):04X} ({unicodedata.name(found, 'without a name').lower()})"
    return name, "remove it, or replace it with an ordinary space"
