"""Messages: sentences that can be translated, printable values, and suggestions for misspelt names. No I/O."""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from typing import Self

SHOWN = 80
"""The largest number of characters of a value that a message shows."""
PLACEHOLDER = re.compile(r"\{(\w+)(!r)?\}")
"""A place for a value in a message: ``{name}``, or ``{name!r}`` for the value in quotes."""


def fill(template: str, values: Mapping[str, object]) -> str:
    """Return a text with its values. A placeholder without a value stays as it is."""

    def value(found: re.Match[str]) -> str:
        name, quoted = found.groups()
        if name not in values:
            return found[0]
        return repr(str(values[name])) if quoted else str(values[name])

    return PLACEHOLDER.sub(value, template)


class Message(str):
    """A sentence for users. As text it is English, and a page can translate it.

    Args:
        template: The English sentence, with placeholders for the values. It is the key of the catalogue of texts.
        values: The values. A value that is a message itself is translated too.
    """

    __slots__ = ("template", "values")

    template: str
    values: Mapping[str, object]

    def __new__(cls, template: str, /, **values: object) -> Self:
        """Return the sentence."""
        message = super().__new__(cls, fill(template, values))
        message.template, message.values = template, values
        return message

    def translated(self, translate: Callable[[str], str]) -> str:
        """Return the sentence in another language.

        Args:
            translate: Returns the translation of a template.
        """
        values = {name: translated(value, translate) for name, value in self.values.items()}
        return fill(translate(self.template) if self.template else "", values)

    @property
    def saved(self) -> dict[str, object]:
        """The sentence as JSON, for ``restored``."""
        values = {name: value.saved if isinstance(value, Message) else value for name, value in self.values.items()}
        return {"template": self.template, "values": values}


def translated(value: object, translate: Callable[[str], str]) -> object:
    """Return a value in another language if it is a message. Other values stay as they are."""
    return value.translated(translate) if isinstance(value, Message) else value


def restored(text: str, saved: object) -> str:
    """Return a saved message, or the text without a translation if what was saved beside it is not this message."""
    message = _restored(saved)
    return message if message == text else text


def _restored(saved: object) -> object:
    match saved:
        case {"template": str(template), "values": dict(values)}:
            return Message(template, **{str(name): _restored(value) for name, value in values.items()})
    return saved


def sentences(*parts: str) -> str:
    """Return sentences as one text. Each of them can be translated."""
    return _joined(" ", [part for part in parts if part])


def _joined(separator: str, parts: Sequence[str]) -> str:
    """Return texts as one text. If one of them can be translated, the whole can."""
    if not any(isinstance(part, Message) for part in parts):
        return separator.join(parts)
    if len(parts) == 1:
        return parts[0]
    names = [f"part{number}" for number in range(len(parts))]
    return Message(separator.join(f"{{{name}}}" for name in names), **dict(zip(names, parts, strict=True)))


def marked(text: str) -> str:
    """Return a text as it is. The call marks the text for the catalogue of texts; a message is made of it later."""
    return text


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
    words = [name if isinstance(name, Message) else str(name) for name in names]
    shown = _joined(", ", words[:limit])
    return Message("{names} and {count} more", names=shown, count=len(words) - limit) if words[limit:] else shown


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
