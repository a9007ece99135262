#!/usr/bin/env python3
"""Update the catalogue of texts from the code, the pages, the extension and JupyterHub's templates.

Run this program after you change a text for users. It writes ``src/hpchub/locale/hpchub.pot`` and the catalogue of each
language beside it. Then translate the texts that the program names. With ``--check`` it writes nothing, and exits with
1 if a file is out of date.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_javascript
from babel.messages.pofile import read_po, write_po
from jinja2.ext import babel_extract

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "src"))

from hpchub.hub.page_texts import JUPYTERHUB_TEMPLATES, mark  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCALE = ROOT / "src" / "hpchub" / "locale"
TEMPLATE = LOCALE / "hpchub.pot"
PAGES = ROOT / "templates" / "pages"
STATIC_PAGES = ("roles/reverse_proxy/templates/pages", "roles/configurable_http_proxy/templates")
"""The templates of the pages that need no program."""
EXTENSION = "src/hpchub/labextension"
SHOWN = ("accept-share", "admin", "logout", "oauth", "page", "spawn", "stop_pending", "token")
"""JupyterHub's templates that provide texts of the pages. Our pages replace the texts of the other ones."""
PARTS = ("clusters", "hub", "model", "places", "schedulers")
"""The parts of the package with texts for users. The other parts have texts for administrators only."""
CALLS = {"Complaint", "Message", "Reason", "_Invalid", "marked", "replace"}
"""The functions with arguments that are texts for users, as far as they look like one."""
FUNCTIONS = {"_": None, "gettext": None, "ngettext": (1, 2)}
"""The functions of templates and scripts with arguments that are texts for users."""
FIXED = datetime(2026, 1, 1, tzinfo=UTC)
"""The dates in the files, so that they change only with the texts."""

HEADER = "# The texts for users. The program tests/repo/update_catalogue.py adds and removes texts."

Text = tuple[str | tuple[str, str], str]
"""A key, or a key with its plural, and the file that contains it."""


def of_python(path: Path) -> Iterator[Text]:
    """Return the texts of a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        name = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
        if name not in CALLS:
            continue
        assert isinstance(node, ast.Call)
        words = [each.value for each in node.keywords if each.arg in ("advice", "words")]
        for value in words if name == "replace" else (*node.args, *words):
            if (
                isinstance(value, ast.Constant)
                and isinstance(value.value, str)
                and (name == "marked" or _is_text(value.value))
            ):
                yield value.value, str(path.relative_to(ROOT))


def _is_text(value: str) -> bool:
    """Return whether a constant is a text, and not the name of a field or only placeholders."""
    return not re.fullmatch(r"[a-z_]*", value) and bool(re.search(r"[A-Za-z]", re.sub(r"\{\w+(!r)?\}", "", value)))


def of_template(source: str, name: str) -> Iterator[Text]:
    """Return the texts of a template."""
    options = {"extensions": "jinja2.ext.i18n", "trimmed": "true", "newstyle_gettext": "true", "silent": "false"}
    file = io.BytesIO(source.encode())
    for _, _, found, _ in babel_extract(file, tuple(FUNCTIONS), (), options):
        yield from _text(found, name)


def of_script(path: Path) -> Iterator[Text]:
    """Return the texts of a script."""
    with path.open("rb") as file:
        for _, _, found, _ in extract_javascript(file, FUNCTIONS, (), {}):
            yield from _text(found, str(path.relative_to(ROOT)))


def _text(arguments: object, name: str) -> Iterator[Text]:
    """Return the text in the arguments of a call."""
    singular, plural = (*arguments, None)[:2] if isinstance(arguments, tuple) else (arguments, None)
    if isinstance(singular, str):
        yield ((singular, plural) if isinstance(plural, str) else singular), name


def texts() -> Iterator[Text]:
    """Return all texts."""
    source = ROOT / "src" / "hpchub"
    yield from of_python(source / "messages.py")
    yield from of_python(source / "units.py")
    for part in PARTS:
        for path in sorted((source / part).rglob("*.py")):
            yield from of_python(path)
    for path in sorted(PAGES.glob("*.html")):
        yield from of_template(path.read_text(), str(path.relative_to(ROOT)))
    for directory in STATIC_PAGES:
        for path in sorted((ROOT / directory).glob("*.j2")):
            yield from of_template(path.read_text(), str(path.relative_to(ROOT)))
    for path in sorted((ROOT / EXTENSION).rglob("*.js")):
        yield from of_script(path)
    for name in SHOWN:
        yield from of_template(mark((JUPYTERHUB_TEMPLATES / f"{name}.html").read_text()), f"jupyterhub/{name}.html")


def extract() -> Catalog:
    """Return the catalogue with all keys."""
    names = dict.fromkeys(("project", "msgid_bugs_address", "last_translator", "language_team"), "hpchub")
    found = Catalog(**names, version="1", creation_date=FIXED, revision_date=FIXED, fuzzy=False)
    found.header_comment = HEADER
    for key, name in texts():
        found.add(key, locations=[(name, 0)])
    return found


def render(catalogue: Catalog) -> str:
    """Return a catalogue as the content of a file."""
    content = io.BytesIO()
    write_po(content, catalogue, width=120, sort_by_file=True, include_lineno=False, ignore_obsolete=True)
    return re.sub(r'"Generated-By: .*\n', "", content.getvalue().decode())


def updated(path: Path, template: Catalog) -> Catalog:
    """Return the catalogue of a language with the keys of the template."""
    language = path.parent.parent.name
    catalogue = read_po(io.BytesIO(path.read_bytes()), locale=language, domain="hpchub")
    catalogue.update(template, no_fuzzy_matching=True, update_header_comment=True, update_creation_date=True)
    return catalogue


def files() -> dict[Path, str]:
    """Return the files as they must be."""
    template = extract()
    found = {TEMPLATE: render(template)}
    for path in sorted(LOCALE.glob("*/LC_MESSAGES/hpchub.po")):
        found[path] = render(updated(path, template))
    return found


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if a file is out of date")
    arguments = parser.parse_args()
    old = [path for path, content in files().items() if not path.exists() or path.read_text() != content]
    for path in old:
        print(f"{path.relative_to(ROOT)} is {'out of date' if arguments.check else 'updated'}")
        if not arguments.check:
            path.write_text(files()[path])
    for path in sorted(LOCALE.glob("*/LC_MESSAGES/hpchub.po")):
        for message in read_po(io.BytesIO(path.read_bytes())):
            strings = (message.string,) if isinstance(message.string, str) else tuple(message.string or ())
            if message.id and not all(strings):
                print(f"{path.relative_to(ROOT)}: not translated: {message.id!r}")
    return 1 if arguments.check and old else 0


if __name__ == "__main__":
    sys.exit(main())
