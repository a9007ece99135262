"""The language of a request, and the texts of the pages in this language.

Templates translate their own texts with ``_()`` and ``{% trans %}``. Wherever a template shows a ``Message``, the
message is translated too. JupyterHub's own templates contain plain English, which is marked when they are loaded.
"""

from __future__ import annotations

import functools
import re
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2.ext import InternationalizationExtension
from jupyterhub._data import DATA_FILES_PATH
from markupsafe import Markup, escape
from tornado.web import OutputTransform

from hpchub.catalogue import ENGLISH, choose_language, languages, own_name, translations
from hpchub.messages import Message, listing, marked, show, translated
from hpchub.model.field_texts import LABELS, NAMES, in_words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from babel.support import Translations
    from jinja2 import Environment
    from tornado.httputil import HTTPServerRequest

COOKIE = "hpchub-language"
"""The cookie with the language that the user has chosen."""
JUPYTERHUB_TEMPLATES = Path(DATA_FILES_PATH) / "templates"

_TITLES = (marked("Error"),)
"""The titles of JupyterHub's dialogs, which are arguments of a macro."""
_PLACEHOLDER = re.compile(r"%(?:\((\w+)\)s|%)")


@dataclass(frozen=True)
class Reader:
    """The person who reads the answer to a request.

    Attributes:
        language: The code of the language.
        texts: The translations.
        address: The address that the browser asked for, to return to it. Empty if it cannot be asked for again.
    """

    language: str
    texts: Translations
    address: str = ""


_READER: ContextVar[Reader | None] = ContextVar("reader", default=None)


@functools.cache
def _english() -> Reader:
    return Reader(ENGLISH, translations(ENGLISH))


def reader() -> Reader:
    """Return the reader of the answer to the request that this task handles. Without a request, the text is English."""
    return _READER.get() or _english()


def tr(value: Any) -> Any:
    """Return a message in the reader's language. Everything else stays as it is."""
    return translated(value, reader().texts.gettext)


class Languages:
    """The languages of a hub with the texts of its site.

    Args:
        settings: The hub's settings.

    Raises:
        ValueError: There is no such language.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.default: str = settings.get("language", ENGLISH)
        if self.default not in languages():
            raise ValueError(f"language: {show(self.default)} is unknown; valid: {listing(languages())}")
        self._texts = {code: translations(code, settings.get("texts")) for code in languages()}

    def reader(self, chosen: str, accepted: str, address: str = "") -> Reader:
        """Return the reader who has made these choices; see ``choose_language``."""
        code = choose_language(tuple(self._texts), default=self.default, chosen=chosen, accepted=accepted)
        return Reader(code, self._texts[code], address)

    def in_language(self, code: str) -> Reader:
        """Return a reader of this language, or of the site's language if there is no such language."""
        return self.reader(code, "")

    def each(self, texts: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """Return texts in every language, for a program that knows the language of its user: ``{CODE: {NAME: TEXT}}``.

        Args:
            texts: The texts by name.
        """
        return {
            code: {name: str(translated(text, known.gettext)) for name, text in texts.items()}
            for code, known in self._texts.items()
        }

    def transform(self) -> type[OutputTransform]:
        """Return the class that finds out the language of each request.

        Tornado creates a transform for each request, before its handler runs. The handler inherits the context.
        """
        known = self

        class LanguageOfRequest(OutputTransform):
            """Finds out the language of a request. It does not change the answer."""

            def __init__(self, request: HTTPServerRequest) -> None:
                morsel = request.cookies.get(COOKIE)
                address = request.uri or "" if request.method == "GET" else ""
                accepted = request.headers.get("Accept-Language", "")
                _READER.set(known.reader(morsel.value if morsel else "", accepted, address))

        return LanguageOfRequest


# Templates


class PageTexts(InternationalizationExtension):
    """Jinja's extension for translations, with this hub's catalogue."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        environment.newstyle_gettext = True  # type: ignore[attr-defined]
        environment.policies["ext.i18n.trimmed"] = True
        environment.finalize = tr
        environment.filters["tr"] = tr
        environment.globals.update(
            _=_gettext,
            gettext=_gettext,
            ngettext=_ngettext,
            reader=reader,
            page_languages=_page_languages,
            field_labels=LABELS,
            field_names=NAMES,
            in_words=in_words,
        )

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """Return the source of a template. In JupyterHub's own templates, the English texts are marked."""
        if filename is None or Path(filename).parent != JUPYTERHUB_TEMPLATES:
            return source
        return mark(source)


def _gettext(key: str, /, **values: Any) -> str:
    if isinstance(key, Message):
        return str(tr(key))
    return _fill(reader().texts.gettext(key), values)


def _ngettext(singular: str, plural: str, number: int, /, **values: Any) -> str:
    return _fill(reader().texts.ngettext(singular, plural, number), {"num": number, **values})


def _fill(text: str, values: dict[str, Any]) -> str:
    """Return a text with its values. It is plain text, unless a value is HTML: a text itself never contains HTML."""
    if any(hasattr(value, "__html__") for value in values.values()):
        text = escape(text)
        return Markup(_PLACEHOLDER.sub(lambda found: str(escape(_value(found, values))), text))  # noqa: S704 escaped
    return _PLACEHOLDER.sub(lambda found: str(_value(found, values)), text)


def _value(found: re.Match[str], values: dict[str, Any]) -> Any:
    if found[1] is None:
        return "%"
    return tr(values[found[1]]) if found[1] in values else found[0]


def _page_languages() -> list[tuple[str, str]]:
    """Return the code and the own name of each language."""
    return [(code, own_name(code)) for code in languages()]


# JupyterHub's own templates

_SKIPPED = re.compile(r"<script\b.*?</script>|<style\b.*?</style>|\{#.*?#\}", re.DOTALL)
_ATTRIBUTE = re.compile(r"(\s(?:aria-label|alt|title|placeholder)=)([\"'])([^\"'{}<>]*[A-Za-z]{2}[^\"'{}<>]*)\2")
_RUN = re.compile(r"(?<=[>}])((?:[^<>{}]|\{\{\s*[\w.]+\s*\}\})+)(?=<|\{%|$)")
_EXPRESSION = re.compile(r"\{\{\s*([\w.]+)\s*\}\}")
_WORD = re.compile(r"[A-Za-z]{2}")


def mark(source: str) -> str:
    """Return the source of one of JupyterHub's templates, in which the English texts are marked for translation."""
    parts, end = [], 0
    for skipped in _SKIPPED.finditer(source):
        parts += [_mark(source[end : skipped.start()]), skipped[0]]
        end = skipped.end()
    parts.append(_mark(source[end:]))
    # The title of a dialog is an argument of a macro.
    marked_source = "".join(parts).replace("{{ title }}</h2>", "{{ _(title) }}</h2>")
    return marked_source.replace('<html lang="en">', """<html lang="{{ reader().language | replace('_', '-') }}">""")


def _mark(source: str) -> str:
    source = _ATTRIBUTE.sub(lambda found: f"{found[1]}{found[2]}{_call(found[3])}{found[2]}", source)
    return _RUN.sub(lambda found: _call(found[1]), source)


def _call(text: str) -> str:
    """Return the template's code for a text with values. The white space around the text stays."""
    words = " ".join(text.split())
    if not _WORD.search(_EXPRESSION.sub("", words)) or '="' in words:
        return text
    names = {found[1]: found[1].replace(".", "_") for found in _EXPRESSION.finditer(words)}
    key = _EXPRESSION.sub(lambda found: f"%({names[found[1]]})s", words.replace("%", "%%"))
    values = "".join(f", {name}={expression}" for expression, name in names.items())
    before, after = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    quoted = key.replace("\\", "\\\\").replace("'", "\\'")
    return f"{before}{{{{ _('{quoted}'{values}) }}}}{after}"
