"""The catalogue of texts is up to date, and each translation is complete and has the values of the English text."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from hpchub.catalogue import languages, read_catalogue

if TYPE_CHECKING:
    from babel.messages.catalog import Message

PLACEHOLDER = re.compile(r"%\(\w+\)s|\{\w+(?:!r)?\}")
ROOT = Path(__file__).resolve().parents[2]


def test_catalogue_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "tests/repo/update_catalogue.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"run tests/repo/update_catalogue.py:\n{done.stdout}{done.stderr}"


def catalogues() -> list[tuple[str, Message]]:
    """Return the messages of all languages, each with the code of the language."""
    found = [(code, message) for code in languages()[1:] for message in read_catalogue(code) if message.id]
    assert found
    return found


def texts(value: object) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())  # type: ignore[arg-type]


def test_every_text_is_translated() -> None:
    missing = [(code, message.id) for code, message in catalogues() if not all(texts(message.string))]
    assert missing == []
    assert [(code, message.id) for code, message in catalogues() if message.fuzzy] == []


def test_every_plural_has_all_forms() -> None:
    wrong = [
        (code, message.id)
        for code, message in catalogues()
        if not isinstance(message.id, str) and len(texts(message.string)) != read_catalogue(code).num_plurals
    ]
    assert wrong == []


def test_translations_have_the_values_of_the_english_text() -> None:
    wrong = []
    for code, message in catalogues():
        expected = Counter(PLACEHOLDER.findall(texts(message.id)[-1]))
        wrong += [(code, text) for text in texts(message.string) if Counter(PLACEHOLDER.findall(text)) != expected]
    assert wrong == []


def test_texts_contain_no_html() -> None:
    """Pages escape every text, so that HTML in a text would be visible."""
    found = [text for _, message in catalogues() for text in (*texts(message.id), *texts(message.string))]
    assert [text for text in found if re.search(r"</?[a-z]|&\w+;|&#", text)] == []
