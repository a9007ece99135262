"""The catalogue of texts: the choice of a language, messages with values, and the texts that a site replaces."""

from __future__ import annotations

import pytest

from hpchub.catalogue import choose_language, languages, placeholders, simple, translations
from hpchub.messages import Message, fill, listing, restored, sentences

KNOWN = ("en", "de", "pt_BR")


@pytest.mark.parametrize(
    ("chosen", "accepted", "language"),
    [
        ("", "", "en"),
        ("", "de", "de"),
        ("", "de-AT,de;q=0.9,en;q=0.8", "de"),
        ("", "DE-ch", "de"),
        ("", "en;q=0.7, de;q=0.9", "de"),
        ("", "de;q=0.7,en", "en"),
        ("", "de;q=0,en;q=0.1", "en"),
        ("", "fr,de;q=0.2", "de"),
        ("", "fr,es", "en"),
        ("", "*,de;q=0.5", "en"),
        ("", "pt", "en"),
        ("", "pt-BR", "pt_BR"),
        ("de", "en", "de"),
        ("en", "de", "en"),
        ("fr", "de", "de"),
        ("../../etc/passwd", "de", "de"),
        ("<script>", "", "en"),
        ("x" * 10_000, "de", "de"),
        ("", ";;;,q=1,de;q=abc,en;q=9", "en"),
        ("", "de;q=nan", "en"),
        ("", "fr-" * 4000 + ",de", "en"),
        ("", "fr," * 5000 + "de", "en"),
        ("", "de\x00,en", "en"),
    ],
    ids=lambda value: value[:24],
)
def test_language_of_a_request(chosen: str, accepted: str, language: str) -> None:
    assert choose_language(KNOWN, default="en", chosen=chosen, accepted=accepted) == language


def test_language_of_the_site_is_the_default() -> None:
    assert choose_language(KNOWN, default="de", accepted="fr") == "de"
    assert choose_language(KNOWN, default="de", accepted="*") == "de"


def test_english_comes_first() -> None:
    assert languages()[0] == "en"
    assert "de" in languages()


def test_message_is_its_english_text() -> None:
    message = Message("Your job {job} runs on {host}.", job=7, host="n1")
    assert message == "Your job 7 runs on n1."
    assert message.template == "Your job {job} runs on {host}."
    assert f"{message} So." == "Your job 7 runs on n1. So."


@pytest.mark.parametrize(
    ("template", "values", "text"),
    [
        ("{a} and {b}", {"a": 1, "b": "{a}"}, "1 and {a}"),
        ("{a!r}", {"a": "x'y"}, '"x\'y"'),
        ("{missing}", {}, "{missing}"),
        ("100 % {a.__class__} {0}", {"a": 1}, "100 % {a.__class__} {0}"),
    ],
)
def test_only_named_placeholders_are_filled(template: str, values: dict[str, object], text: str) -> None:
    assert fill(template, values) == text


def test_message_inside_a_message_is_translated_too() -> None:
    german = {"Why: {reason}.": "Warum: {reason}.", "because of {what}": "wegen {what}"}
    message = sentences(Message("Why: {reason}.", reason=Message("because of {what}", what="x")), "Plain.")
    assert message == "Why: because of x. Plain."
    assert isinstance(message, Message)
    assert message.translated(lambda key: german.get(key, key)) == "Warum: wegen x. Plain."


def test_long_list_can_be_translated() -> None:
    assert listing("abc", limit=2) == "a, b and 1 more"
    assert isinstance(listing("abc", limit=2), Message)


def test_saved_message_is_restored() -> None:
    message = Message("Why: {reason}.", reason=Message("{a}", a=1))
    again = restored(str(message), message.saved)
    assert isinstance(again, Message)
    assert again.template == "Why: {reason}."


@pytest.mark.parametrize("saved", [None, [], "x", {"template": 1}, {"template": "Other.", "values": {}}])
def test_saved_message_that_is_not_the_text_is_ignored(saved: object) -> None:
    again = restored("Why.", saved)
    assert again == "Why."
    assert not isinstance(again, Message)


def test_placeholders_have_one_notation() -> None:
    assert simple("%(count)s of 100%% {name}") == "{count} of 100% {name}"
    assert placeholders("%(count)s {name!r}") == {"{count}", "{name}"}


def test_site_replaces_a_text_in_all_languages_or_in_one() -> None:
    texts: dict[str, str | dict[str, str]] = {"Language": "Idiom", "Logout": {"de": "Tschüss"}}
    english, german = translations("en", texts), translations("de", texts)
    assert (english.gettext("Language"), german.gettext("Language")) == ("Idiom", "Idiom")
    assert (english.gettext("Logout"), german.gettext("Logout")) == ("Logout", "Tschüss")


def test_site_replaces_a_text_with_placeholders_in_the_simple_notation() -> None:
    key = "You (%(user_name)s) have been invited to access %(owner_name)s's server"
    replaced = translations("en", {simple(key): "100 % of {owner_name}"}).gettext(key)
    assert replaced == "100 %% of %(owner_name)s"
