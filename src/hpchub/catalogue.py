"""The catalogue of texts: the languages, the translations, and the texts that a site replaces.

The English sentence is the key of a text. The catalogue of a language is ``locale/LANGUAGE/LC_MESSAGES/hpchub.po``;
``locale/hpchub.pot`` contains all keys. The files are read when the program starts, so there are no compiled ones.
"""

from __future__ import annotations

import functools
import io
import re
from importlib.resources import files
from typing import TYPE_CHECKING

from babel import Locale
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.support import Translations

from hpchub.messages import PLACEHOLDER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from importlib.resources.abc import Traversable

    from babel.messages.catalog import Catalog

ENGLISH = "en"
"""The language of the keys."""
DOMAIN = "hpchub"

_LOCALE = files("hpchub") / "locale"
_OF_PAGES = re.compile(r"%\((\w+)\)s|%(%)")
_LONGEST_HEADER = 1000
_RANGE = re.compile(r"([A-Za-z]{1,8}|\*)(-[A-Za-z0-9-]{1,40})?(?:;q=([01](?:\.[0-9]{0,3})?))?")


@functools.cache
def languages() -> tuple[str, ...]:
    """Return the codes of the languages, English first."""
    found = [each.name for each in _LOCALE.iterdir() if each.joinpath("LC_MESSAGES", f"{DOMAIN}.po").is_file()]
    return (ENGLISH, *sorted(found))


def own_name(language: str) -> str:
    """Return the name of a language in this language: ``Deutsch``."""
    return Locale.parse(language).get_display_name(language) or language


def read_template() -> Catalog:
    """Return the catalogue with all keys and no translations."""
    return _read(_LOCALE / f"{DOMAIN}.pot", ENGLISH)


def read_catalogue(language: str) -> Catalog:
    """Return the catalogue of a language."""
    if language == ENGLISH:
        return read_template()
    return _read(_LOCALE / language / "LC_MESSAGES" / f"{DOMAIN}.po", language)


def _read(path: Traversable, language: str) -> Catalog:
    return read_po(io.BytesIO(path.read_bytes()), locale=language, domain=DOMAIN)


def placeholders(text: str) -> set[str]:
    """Return the placeholders of a text in their simple notation: ``{name}``."""
    return {f"{{{name}}}" for name, _ in PLACEHOLDER.findall(simple(text))}


def simple(text: str) -> str:
    """Return a text of a page with the simple notation of its placeholders: ``{name}`` instead of ``%(name)s``."""
    return _OF_PAGES.sub(lambda found: f"{{{found[1]}}}" if found[1] else "%", text)


@functools.cache
def keys() -> dict[str, str]:
    """Return the keys of all texts by their simple notation. A text with a plural has two keys."""
    found = {}
    for message in read_template():
        for key in (message.id,) if isinstance(message.id, str) else message.id:
            found[simple(key)] = key
    found.pop("", None)
    return found


def translations(language: str, texts: Mapping[str, str | Mapping[str, str]] | None = None) -> Translations:
    """Return the translations into a language.

    Args:
        language: The code of the language.
        texts: The texts that the site replaces, by key: a text for all languages, or a text for each language.
    """
    if not texts:
        return _own_translations(language)
    catalogue = read_catalogue(language)
    for key, replacement in texts.items():
        text = replacement if isinstance(replacement, str) else replacement.get(language)
        if text is not None:
            _replace(catalogue, simple(key), text)
    return _compile(catalogue)


@functools.cache
def _own_translations(language: str) -> Translations:
    return _compile(read_catalogue(language))


def _compile(catalogue: Catalog) -> Translations:
    compiled = io.BytesIO()
    write_mo(compiled, catalogue)
    compiled.seek(0)
    return Translations(compiled, domain=DOMAIN)


def _replace(catalogue: Catalog, key: str, replacement: str) -> None:
    """Replace a text in a catalogue. A key that does not exist any more changes nothing."""
    for message in catalogue:
        own = (message.id,) if isinstance(message.id, str) else tuple(message.id)
        found = [simple(each) for each in own]
        if not message.id or key not in found:
            continue
        at = found.index(key)
        text = simple(replacement)
        if "%(" in own[at]:
            text = PLACEHOLDER.sub(r"%(\1)s", text.replace("%", "%%"))
        if len(own) == 1:
            message.string = text
            continue
        translated = list(message.string or ())
        forms = translated if any(translated) else [own[0], *[own[1]] * (catalogue.num_plurals - 1)]
        message.string = tuple(text if min(number, 1) == at else form for number, form in enumerate(forms))


def choose_language(known: Sequence[str], *, default: str, chosen: str = "", accepted: str = "") -> str:
    """Return the language for a request.

    Args:
        known: The codes of the languages.
        default: The site's language.
        chosen: The language that the user has chosen, or anything else.
        accepted: The header ``Accept-Language``. Only its beginning is read.
    """
    if chosen in known:
        return chosen
    by_tag = {code.replace("_", "-").lower(): code for code in known}
    wishes: list[tuple[float, str, str]] = []
    for each in accepted[:_LONGEST_HEADER].split(","):
        found = _RANGE.fullmatch(each.replace(" ", ""))
        quality = float(found[3] or 1) if found else 0.0
        if found and quality > 0:
            primary = found[1].lower()
            wishes.append((quality, primary, primary + (found[2] or "").lower()))
    # The sort is stable: among equal wishes, the first one counts.
    for _, primary, tag in sorted(wishes, key=lambda wish: -wish[0]):
        if primary == "*":
            return default
        if code := by_tag.get(tag) or by_tag.get(primary):
            return code
    return default
