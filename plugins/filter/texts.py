"""Filters for the texts of static pages and of the browser's extension, in each language of the catalogue."""

from __future__ import annotations

import functools
import html
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleFilterError
from ansible_collections.hpchub.hpchub.plugins.plugin_utils.package import hpchub_package

with hpchub_package():
    from babel import Locale

    from hpchub import catalogue
    from hpchub.messages import fill, listing, show

if TYPE_CHECKING:
    from collections.abc import Callable

    from babel.support import Translations


EXTENSION = "labextension/"
"""The directory of the extension's sources, as a part of their paths in the catalogue."""
MANY = 200
"""Numbers up to this one show which form of a text belongs to which category of numbers."""


@functools.lru_cache(maxsize=16)
def _cached(language: str, texts: str) -> Translations:
    return catalogue.translations(language, json.loads(texts))


def _translations(language: str, texts: Mapping[str, str | Mapping[str, str]] | None) -> Translations:
    """Return the translations into a language. Compiling them takes longer than rendering a page."""
    plain = {
        key: {code: str(each) for code, each in text.items()} if isinstance(text, Mapping) else str(text)
        for key, text in (texts or {}).items()
    }
    return _cached(language, json.dumps(plain))


def page_languages(default: str) -> list[str]:
    """Return the languages of the catalogue, the site's own language last.

    Args:
        default: The site's own language.

    Raises:
        AnsibleFilterError: There is no such language.
    """
    known = catalogue.languages()
    if default not in known:
        raise AnsibleFilterError(f"language {show(default)} is unknown; valid: {listing(known)}")
    return [*(language for language in known if language != default), default]


def page_text(
    text: str,
    language: str,
    values: Mapping[str, str] | None = None,
    texts: Mapping[str, str | Mapping[str, str]] | None = None,
    form: str = "html",
) -> str:
    """Return a text of a static page in one language.

    Args:
        text: The English text, with placeholders such as ``{name}``.
        language: The code of the language.
        values: The values of the placeholders, in the page's own notation. They are not escaped.
        texts: The texts that the site replaces.
        form: The notation of the page: ``html``, or ``json`` for the inside of a string.

    Raises:
        AnsibleFilterError: A placeholder has no value.
    """
    values = values or {}
    if missing := catalogue.placeholders(text) - {f"{{{name}}}" for name in values}:
        raise AnsibleFilterError(f"the text {show(text)} has no value for {listing(sorted(missing))}")
    translated = _translations(language, texts).gettext(text)
    return fill(_escaped(translated, form), values)


def _escaped(text: str, form: str) -> str:
    if form == "json":
        text = json.dumps(text)[1:-1]
        # "<" would be the beginning of a directive for Apache.
        return text.replace("<", r"\u003c")
    return html.escape(text, quote=False)


def browser_texts(default: str, texts: Mapping[str, str | Mapping[str, str]] | None = None) -> dict[str, Any]:
    """Return the translations for the extension of JupyterLab.

    Args:
        default: The site's own language.
        texts: The texts that the site replaces.

    Returns:
        ``{"fallback": LANGUAGE, "languages": {LANGUAGE: {ENGLISH: TEXT}}}``. A text with a number is a dictionary with
        the forms by the category of the number: ``{"one": TEXT, "other": TEXT}``.
    """
    return {
        "fallback": page_languages(default)[-1],
        "languages": {language: _for_browser(language, texts or {}) for language in sorted(page_languages(default))},
    }


def _for_browser(language: str, texts: Mapping[str, str | Mapping[str, str]]) -> dict[str, Any]:
    translations = _translations(language, texts)
    found: dict[str, Any] = {}
    for message in catalogue.read_template():
        if not any(EXTENSION in path for path, _ in message.locations):
            continue
        if isinstance(message.id, str):
            text: Any = translations.gettext(message.id)
            if text != message.id:
                found[message.id] = text
        elif message.id:
            one, many = message.id
            forms = _forms(language, functools.partial(translations.ngettext, one, many))
            if set(forms.values()) != {one, many}:
                found[one] = forms
    return found


def _forms(language: str, text: Callable[[int], str]) -> dict[str, str]:
    """Return the forms of a text by the categories of numbers, which browsers know."""
    category = Locale.parse(language).plural_form
    return {category(number): text(number) for number in range(MANY, -1, -1)}


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {function.__name__: function for function in (page_languages, page_text, browser_texts)}
