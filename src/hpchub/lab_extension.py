"""The extension of JupyterLab: its files, with their texts in every language of the catalogue.

The extension needs no build step. The role ``notebook_environment`` installs its files on the nodes of clusters, and
the hub sends them to sessions in containers.
"""

from __future__ import annotations

import functools
import hashlib
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from babel import Locale

from hpchub import catalogue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from importlib.resources.abc import Traversable

NAME = "@hpchub/lab"
DIRECTORY = f"labextensions/{NAME}"
"""The directory of the extension below a data directory of Jupyter."""
SETTINGS = "labconfig/default_setting_overrides.json"
"""The file with default settings of JupyterLab below a directory with settings of Jupyter."""
CLASSIC = "nbextensions/hpchub/main.js"
"""The file of the extension of NbClassic below a data directory of Jupyter."""
CLASSIC_SETTINGS = "nbconfig/common.d/hpchub.json"
"""The file that makes NbClassic load it, below a directory with settings of Jupyter."""
MANY = 200
"""Numbers up to this one show which form of a text belongs to which category of numbers."""

_SOURCES = files("hpchub") / "labextension"
_IN_CATALOGUE = "labextension/"
"""A part of the paths of the extension's sources in the catalogue."""


def extension_files(language: str, texts: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return the files of the extension by their paths below ``DIRECTORY``.

    The directory of the scripts is named by a hash, so that browsers never use old files from their caches.

    Args:
        language: The site's own language.
        texts: The texts that the site replaces.
    """
    static = dict(_read(_SOURCES / "static", ""))
    static["messages.json"] = json.dumps(browser_texts(language, texts), ensure_ascii=False, sort_keys=True)
    version = hashlib.sha256(json.dumps(static, sort_keys=True).encode()).hexdigest()[:16]
    found = {f"static/{version}/{path}": content for path, content in static.items()}
    for name in ("classic.js", "continue.html", "continue.js", "package.json"):
        found[name] = (_SOURCES / name).read_text(encoding="utf-8").replace("static/", f"static/{version}/")
    return found


def container_files(language: str, texts: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return the files that JupyterLab needs in a container, by their paths below a directory of Jupyter.

    Args:
        language: The site's own language.
        texts: The texts that the site replaces.
    """
    found = {f"{DIRECTORY}/{path}": content for path, content in extension_files(language, texts).items()}
    return found | {SETTINGS: default_settings(), CLASSIC: classic_extension(), CLASSIC_SETTINGS: classic_settings()}


def default_settings() -> str:
    """Return the default settings of JupyterLab, which users can change, as JSON.

    The first one turns off the question about news. With the second one, a notebook that does not name its kernel gets
    the default kernel.
    """
    return (_SOURCES / "overrides.json").read_text(encoding="utf-8")


def classic_extension() -> str:
    """Return the extension of NbClassic, which has the messages of the session."""
    return (_SOURCES / "nbclassic" / "main.js").read_text(encoding="utf-8")


def classic_settings() -> str:
    """Return the settings that make NbClassic load its extension, as JSON."""
    return json.dumps({"load_extensions": {"hpchub/main": True}})


def _read(directory: Traversable, prefix: str) -> Iterator[tuple[str, str]]:
    for each in sorted(directory.iterdir(), key=lambda path: path.name):
        if each.is_dir():
            yield from _read(each, f"{prefix}{each.name}/")
        else:
            yield prefix + each.name, each.read_text(encoding="utf-8")


def browser_texts(language: str, texts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the translations for the extension.

    Args:
        language: The site's own language.
        texts: The texts that the site replaces.

    Returns:
        ``{"fallback": LANGUAGE, "languages": {LANGUAGE: {ENGLISH: TEXT}}}``. A text with a number is a dictionary with
        the forms by the category of the number: ``{"one": TEXT, "other": TEXT}``.
    """
    known = sorted(catalogue.languages())
    return {"fallback": language, "languages": {code: _for_browser(code, texts or {}) for code in known}}


def _for_browser(language: str, texts: Mapping[str, Any]) -> dict[str, Any]:
    translations = catalogue.translations(language, texts)
    found: dict[str, Any] = {}
    for message in catalogue.read_template():
        if not any(_IN_CATALOGUE in path for path, _ in message.locations):
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
