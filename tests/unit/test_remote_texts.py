"""What the programs on other hosts report: the hub knows each id and its values, and has the texts in each language."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hpchub.catalogue import languages, translations
from hpchub.clusters.gate_client import Answer
from hpchub.hub.remote_texts import APP, GATE, LAUNCHER, LONGEST, TEXTS, failure_of, message_of
from hpchub.messages import PLACEHOLDER, Message
from hpchub.remote import app, gate, launcher, single_user

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


def sent(module: ModuleType) -> Iterator[tuple[str, set[str]]]:
    """Yield the ids that a program sends, each with the names of its values."""
    for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text())):
        match node:
            case ast.Call(func=ast.Name(id="Refused" | "LaunchError"), args=[_, ast.Constant(value=str(name))]):
                yield name, {str(each.arg) for each in node.keywords}
            case ast.Tuple(elts=[_, ast.Constant(value=str(name)), ast.Dict(keys=keys)]) if name:
                yield name, {str(each.value) for each in keys if isinstance(each, ast.Constant)}


OF_OTHERS = {"failed": {"program", "code"}, "without_settings": {"problem"}}
"""The ids that no error carries."""


@pytest.mark.parametrize(
    ("texts", "modules"), [(GATE, [gate]), (LAUNCHER, [launcher, single_user])], ids=["gate", "launcher"]
)
def test_hub_has_exactly_the_texts_whose_ids_the_programs_send(
    texts: dict[str, str], modules: list[ModuleType]
) -> None:
    found = {name: values for module in modules for name, values in sent(module)}
    found |= {name: values for name, values in OF_OTHERS.items() if name in texts}
    assert found == {name: {place[1] for place in PLACEHOLDER.finditer(text)} for name, text in texts.items()}


def test_every_text_is_translated() -> None:
    for language in languages()[1:]:
        same = [text for text in TEXTS.values() if translations(language).gettext(text) == text]
        assert same == []


@pytest.mark.parametrize(
    "found",
    [
        None,
        "no_account",
        {"id": "no_account"},
        {"id": "no_account", "values": {}},
        {"id": "no_account", "values": {"user": 7}},
        {"id": "no_account", "values": {"user": None}},
        {"id": "no_account", "values": {"user": "alice", "more": "x"}},
        {"id": "anything", "values": {"user": "alice"}},
        {"id": ["no_account"], "values": {"user": "alice"}},
        {"id": "stopped", "values": {"reason": {"id": "anything", "values": {}}}},
    ],
)
def test_message_that_the_hub_does_not_know_is_shown_as_the_program_wrote_it(found: object) -> None:
    assert message_of("own words {user}", found) == "own words {user}"


def test_message_is_one_line_in_the_language_of_the_reader() -> None:
    ended = {"id": "ended_at", "values": {"place": "x.py,\n line\x00 2 {user} <b>"}}
    found = message_of("x", {"id": "without_settings", "values": {"problem": ended}})
    assert isinstance(found, Message)
    assert str(found).endswith("stops the notebook server: x.py, line 2 {user} <b>: the notebook server has ended")
    german = found.translated(translations("de").gettext)
    assert german.startswith("Ihre Sitzung läuft ohne Ihre eigenen Einstellungen")
    assert german.endswith("x.py, line 2 {user} <b>: Der Notebook-Server hat sich beendet")


def test_long_and_deep_messages_are_cut_off() -> None:
    found = message_of("x", {"id": "no_account", "values": {"user": "a" * 10 * LONGEST}})
    assert len(found) < 2 * LONGEST
    deep: dict[str, Any] = {"id": "ended", "values": {}}
    for _ in range(100):
        deep = {"id": "stopped", "values": {"reason": deep}}
    assert message_of("own words", deep) == "own words"


MESSAGE = '{"id": "no_account", "values": {"user": "alice"}}'


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ((1, MESSAGE, "", [], "x"), "alice has no account on this cluster"),
        ((1, MESSAGE, "sudo: no", ["sudo"], "x"), "alice has no account on this cluster"),
        ((1, "", "over quota", ["sbatch"], "sbatch failed with exit code 1"), "over quota"),
        ((3, "[1]", "", ["sbatch"], "own words"), "sbatch failed with exit code 3"),
        ((1, "", "", [], "words of an older gate"), "words of an older gate"),
    ],
    ids=["refused", "sudo", "scheduler", "exit-code", "older-gate"],
)
def test_failed_submission_has_the_words_of_the_gate_or_of_the_scheduler(
    answer: tuple[int, str, str, list[str], str], shown: str
) -> None:
    code, stdout, stderr, command, error = answer
    found = Answer(ok=False, exit=code, stdout=stdout, stderr=stderr, command=command, error=error)
    assert failure_of(found) == shown
    assert MESSAGE not in str(found)


def test_texts_of_applications_are_those_of_their_supervisor() -> None:
    assert APP == app.TEXTS
