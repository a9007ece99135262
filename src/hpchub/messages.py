"""Helpers for error messages: printable values, lists of valid values, and suggestions for misspelt names. No I/O."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence

SHOWN = 80
"""Characters of a value that a message shows at most."""


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
