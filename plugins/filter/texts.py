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
    from hpchub import catalogue, lab_extension
    from hpchub.messages import fill, listing, show

if TYPE_CHECKING:
    from collections.abc import Callable

    from babel.support import Translations


@functools.lru_cache(maxsize=16)
def _cached(language: str, texts: str) -> Translations:
    return catalogue.translations(language, json.loads(texts))


def _translations(language: str, texts: Mapping[str, str | Mapping[str, str]] | None) -> Translations:
    """Return the translations into a language. Compiling them takes longer than rendering a page."""
    return _cached(language, json.dumps(_plain(texts)))


def _plain(texts: Mapping[str, str | Mapping[str, str]] | None) -> dict[str, str | dict[str, str]]:
    """Return the texts that the site replaces without Ansible's own types."""
    return {
        str(key): {str(code): str(each) for code, each in text.items()} if isinstance(text, Mapping) else str(text)
        for key, text in (texts or {}).items()
    }


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


def lab_files(default: str, texts: Mapping[str, str | Mapping[str, str]] | None = None) -> list[dict[str, str]]:
    """Return the extension and the default settings of JupyterLab and NbClassic, as files of an environment.

    Returns:
        ``[{"dest": PATH, "content": TEXT, "mode": MODE}]``. The paths are relative to the environment.

    Raises:
        AnsibleFilterError: There is no such language.
    """
    page_languages(default)
    found = {
        f"share/jupyter/{lab_extension.DIRECTORY}/{path}": content
        for path, content in lab_extension.extension_files(default, _plain(texts)).items()
    }
    found["share/jupyter/lab/settings/overrides.json"] = lab_extension.default_settings()
    found[f"share/jupyter/{lab_extension.CLASSIC}"] = lab_extension.classic_extension()
    found[f"etc/jupyter/{lab_extension.CLASSIC_SETTINGS}"] = lab_extension.classic_settings()
    return [{"dest": path, "content": content, "mode": "0644"} for path, content in found.items()]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {function.__name__: function for function in (page_languages, page_text, lab_files)}
