"""The language of a site and the texts of the pages that it replaces, as an inventory contains them. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic_core import CoreSchema, core_schema

from hpchub.catalogue import languages
from hpchub.messages import did_you_mean, show, type_in_words, unprintable
from hpchub.model import fields as f

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue

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
