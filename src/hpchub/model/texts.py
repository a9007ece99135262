"""The texts of the pages that a site replaces: the notation of the inventory, and the comparison with the catalogue."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic_core import CoreSchema, core_schema

from hpchub.catalogue import keys, languages, placeholders, simple
from hpchub.messages import did_you_mean, listing, show, type_in_words, unprintable
from hpchub.model import fields as f
from hpchub.model.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue

    from hpchub.model.rules import Draft

LONGEST = 1000
"""The maximum length of a text, in characters."""

_VALID = f"write one line of at most {LONGEST} characters"


@dataclass(frozen=True)
class ReplacementField:
    """A text for all languages, or a mapping with a text for each language."""

    def _validate(self, value: object) -> str | dict[str, str]:
        if isinstance(value, Mapping):
            return {self._language(code): self._text(text) for code, text in value.items()}
        return self._text(value)

    @staticmethod
    def _language(code: object) -> str:
        if code not in languages():
            f.complain(f"has the unknown language {show(code, 20)}", did_you_mean(code, languages()))
        return str(code)

    @staticmethod
    def _text(text: object) -> str:
        if not isinstance(text, str):
            f.complain(f"is {type_in_words(text)}, not text", "write a text, or LANGUAGE: TEXT lines")
        if not text.strip():
            f.complain("is empty", f"{_VALID}, or remove the entry")
        if len(text) > LONGEST:
            f.complain("is too long", _VALID)
        if not text.isprintable():
            message, advice = unprintable(text)
            f.complain(message, advice or _VALID)
        return text

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        text = {"type": "string", "minLength": 1, "maxLength": LONGEST}
        return {"anyOf": [text, {"type": "object", "additionalProperties": text}]}


TextKey = Annotated[str, f.Text("an English text of the pages", r".{1,1000}", "copy the text from a page, in quotes")]
Replacement = Annotated[Any, ReplacementField()]
Language = Annotated[str, f.Choice(languages())]


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
