"""Rules for the texts that a site replaces, which compare them with the catalogue of texts. No I/O."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hpchub.catalogue import keys, placeholders, simple
from hpchub.messages import listing, show
from hpchub.model.problems import Problem
from hpchub.model.texts import LONGEST

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hpchub.model.rules import Draft


def compare_texts(drafts: Mapping[str, Sequence[Draft]]) -> Iterator[Problem]:
    """Compare the texts that a site replaces with the catalogue of texts.

    Args:
        drafts: The entries of a site, by variable.
    """
    for draft in drafts["hpc_service"]:
        texts = draft.get("texts")
        if isinstance(texts, Mapping):
            for key, replacement in texts.items():
                yield from _compare(draft.name, str(key), replacement)


def _compare(entry: str, key: str, replacement: Any) -> Iterator[Problem]:
    known = keys()
    if simple(key) not in known:
        close = difflib.get_close_matches(simple(key)[:LONGEST], known, n=1, cutoff=0.6)
        valid = f"did you mean {show(close[0], 200)}?" if close else "copy the English text from a page in English"
        yield Problem(entry, "is not a text of the pages", field="texts", value=show(key), valid=valid)
        return
    permitted = placeholders(known[simple(key)])
    texts = replacement.values() if isinstance(replacement, Mapping) else (replacement,)
    for text in texts:
        if not isinstance(text, str):
            continue
        if foreign := sorted(placeholders(text) - permitted):
            valid = f"valid: {listing(sorted(permitted))}" if permitted else "this text has no placeholders"
            message = f"has the unknown placeholder {foreign[0]} in its replacement {show(text, 40)}"
            yield Problem(entry, message, field="texts", value=show(key), valid=valid)
