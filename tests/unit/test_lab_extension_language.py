"""The JupyterLab extension speaks the user's language, and every text of it comes from the catalogue."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.hpchub.hpchub.plugins.filter.texts import page_languages, page_text
from babel.messages.jslexer import Token, tokenize
from node_program import node

from hpchub.lab_extension import browser_texts

if TYPE_CHECKING:
    from collections.abc import Iterator

EXTENSION = Path(__file__).parents[2] / "src" / "hpchub" / "labextension"
SCRIPTS = sorted(EXTENSION.rglob("*.js"))
HOUR = 3_600_000

# Reads [LANGUAGE, TEXTS, [[FUNCTION, [ARGUMENT, …]], …]] from standard input, and writes the results.
PROGRAM = """
import * as texts from %s;
import * as words from %s;
const [language, messages, calls] = JSON.parse(await new Response(process.stdin).text());
texts.use({code: language, locale: language}, messages);
const special = {Infinity, "a new set": new Set()};
const all = {...texts, ...words};
const results = calls.map(([name, given]) => all[name](...given.map(each => special[each] ?? each)));
console.log(JSON.stringify(results));
"""

# Loads the texts as a browser does. Reads the language of JupyterLab, the cookies, the browser's languages, and the
# answer of the server or null, and writes the language and a text.
LOAD = """
import {code, gettext, load, locale} from %s;
const [own, cookie, languages, answer] = JSON.parse(await new Response(process.stdin).text());
globalThis.document = {cookie};
Object.defineProperty(globalThis, 'navigator', {value: {languages}, configurable: true});
await load(async () => {
  if (answer === null) throw new TypeError('Failed to fetch');
  return new Response(JSON.stringify(answer));
}, own);
console.log(JSON.stringify([code(), locale() ?? null, gettext('Close')]));
"""


def url(name: str) -> str:
    """Return the address of a script, as a string of JavaScript."""
    return json.dumps((EXTENSION / "static" / name).as_uri())


def call(language: str, *calls: tuple[str, list[Any]]) -> Any:
    """Return the results of functions of gettext.js and words.js in a language."""
    texts = browser_texts("en")["languages"][language]
    return node(PROGRAM % (url("gettext.js"), url("words.js")), [language, texts, calls])


GPU = {"name": "A100", "load": 5, "memory": 1 << 30, "total": 2 << 30}
STATE: dict[str, Any] = {
    "ends": HOUR,
    "idleEnds": None,
    "idleLimit": 30 * 60_000,
    "job": {"id": "7", "node": "c1", "cluster": "demo", "profile_name": "Small", "cores": 2, "memory": 4 << 30},
    "usage": {
        "memory": 15 << 28,
        "cores": 0.8,
        "gpus": [GPU],
    },
}
NOTICE: dict[str, Any] = {
    "key": "1",
    "kind": "drain",
    "title": "T",
    "message": "M.",
    "advice": "",
    "active": True,
    "ask": False,
    "from": 1_800_000_000,
    "until": 1_800_003_600,
    "stop_at": 1_800_001_800,
}
CALLS: list[tuple[str, list[Any]]] = [
    *(("lost", [state, session]) for state in ("login", "sign-on", "away") for session in (None, {"state": "running"})),
    ("lost", ["away", {"state": "ended", "ending": {"at": 1_800_000_000}}]),
    ("lost", ["away", {"state": "none"}, "de", False]),
    ("lost", ["away", {"state": "starting"}]),
    ("warning", [HOUR, 0]),
    ("warning", [60_000, 0, "drain"]),
    ("idleWarning", [HOUR, 0, HOUR]),
    ("statusLine", [STATE, 0]),
    ("statusLine", [STATE | {"ends": 72 * HOUR, "job": None}, 0]),
    ("statusLine", [STATE, 0, True]),
    ("news", [[NOTICE], "a new set"]),
    ("news", [[{**NOTICE, "until": None}, {**NOTICE, "active": False, "key": "2"}], "a new set"]),
    ("connected", [True, 2, ["a.ipynb"]]),
    ("connected", [False, 1, []]),
    ("found", [[{"path": "a.ipynb", "at": 0}]]),
    ("copyPath", ["a.ipynb", 0]),
]


def test_every_message_of_a_tab_is_translated() -> None:
    english, german = (json.dumps(call(language, *CALLS)) for language in ("en", "de"))
    assert not re.search(r"\{\w+\}", re.sub(r'\{"\w+":', "", german))
    for word in (" the ", " your ", "This ", " session", " is ", " of "):
        assert word in english
        assert word not in german


def test_status_in_german() -> None:
    line, warning = call("de", ("statusLine", [STATE, 60_000]), ("warning", [60_000, 0, "limit"]))
    assert line["text"].startswith("noch 59 Min. · Knoten c1 · Job 7 · Speicher 3,8 von 4,0 GB · CPU 0,8 von 2 Kernen")
    assert re.fullmatch(r"Ihre Sitzung endet um \d\d:\d\d, in 1 Minute", warning["title"])


def test_texts_of_the_hub_are_in_the_language_of_the_tab() -> None:
    notice = NOTICE | {"texts": {"de": {"title": "Wartung", "advice": "Rat."}, "en": {"title": "T"}}}
    ended = {"state": "ended", "ending": {"text": "It ended.", "at": None, "texts": {"de": {"text": "Sie endete."}}}}
    german = call("de", ("news", [[notice], "a new set"]), ("lost", ["away", ended]))
    assert german[0]["title"] == "Wartung"
    assert "M. Rat." in german[0]["text"]
    assert german[1]["text"].startswith("Sie endete.")
    english = call("en", ("news", [[notice], "a new set"]), ("lost", ["away", ended]))
    assert [english[0]["title"], english[1]["text"][:9]] == ["T", "It ended."]


@pytest.mark.parametrize(
    ("own", "cookie", "languages", "language", "locale"),
    [
        ("", "", ["de-AT", "de", "en"], "de", "de-AT"),
        ("", "", ["en-GB", "de"], "en", "en-GB"),
        ("", "a=b; hpchub-language=de; c=d", ["en-GB"], "de", "de"),
        ("", "hpchub-language=fr", ["en-GB"], "en", "en-GB"),
        ("de_DE", "hpchub-language=en", ["en"], "de", "de-DE"),
        ("fr_FR", "", ["de"], "de", "de"),
        ("en", "hpchub-language=de", ["de"], "en", "en"),
        ("", "", ["fr"], "de", None),  # the site's own language
    ],
)
def test_language_is_the_one_that_the_user_wants(
    own: str, cookie: str, languages: list[str], language: str, locale: str | None
) -> None:
    """JupyterLab's own language comes first, then the choice on the hub's pages, then the browser's languages."""
    found = node(LOAD % url("gettext.js"), [own, cookie, languages, browser_texts("de")])
    assert found == [language, locale, {"de": "Schließen", "en": "Close"}[language]]


@pytest.mark.parametrize("answer", [None, {}, [], {"languages": None}], ids=str)
def test_texts_are_english_without_an_answer(answer: object) -> None:
    assert node(LOAD % url("gettext.js"), ["", "", ["de"], answer]) == ["en", None, "Close"]


def test_placeholders_and_numbers() -> None:
    results = call(
        "en",
        ("gettext", ["{a} and {b} of {missing}", {"a": "{b}", "b": 0}]),
        ("ngettext", ["{count} cell", "{count} cells", 1]),
        ("ngettext", ["{count} cell of {all}", "{count} cells of {all}", 2, {"all": 3}]),
    )
    assert results == ["{b} and 0 of {missing}", "1 cell", "2 cells of 3"]


def test_site_replaces_texts_of_the_extension() -> None:
    languages = browser_texts("en", {"Close": "Shut", "Restore": {"de": "Zurück"}})["languages"]
    assert [languages["en"].get(key) for key in ("Close", "Restore")] == ["Shut", None]
    assert [languages["de"].get(key) for key in ("Close", "Restore")] == ["Shut", "Zurück"]


def test_the_extension_is_small_with_its_texts() -> None:
    size = sum(file.stat().st_size for file in EXTENSION.rglob("*") if file.is_file())
    assert size + len(json.dumps(browser_texts("en"), ensure_ascii=False).encode()) < 300_000


def test_unknown_language_and_missing_value_are_refused() -> None:
    with pytest.raises(AnsibleFilterError, match='language "xx" is unknown; valid: en, de'):
        page_languages("xx")
    with pytest.raises(AnsibleFilterError, match=r"has no value for \{link\}"):
        page_text("Go {link}home{end}.", "en", {"end": "</a>"})


# Texts that no user of a session reads.
NOT_FOR_USERS = {
    # words of JavaScript, HTTP and browsers
    *("use strict", "Authorization", "Escape", "Alt Shift M"),
    # an error that JupyterLab handles without showing its message
    *("ModalCancelError", "There is no connection to the session"),
    # JupyterLab's list of plugins, which JupyterLab itself does not translate
    "Shows the session, warns before its end, and saves unsaved work in the next session.",
    "Leaves it to unsaved-work to say that the connection is lost.",
}
_TEXT = re.compile(r"[A-Za-z]{2}.*\s.*[A-Za-z]|^[A-Z][a-z]+$", re.DOTALL)
_CALLS = {"gettext", "ngettext"}
_LOGS = {"console"}


def strings(tokens: list[Token]) -> Iterator[tuple[str, list[str]]]:
    """Yield each string of a script, with the names of the functions that receive it in an argument."""
    open_calls: list[str] = []
    name = ""
    for index, token in enumerate(tokens):
        if token.type == "operator" and token.value in ("(", "[", "{"):
            open_calls.append(name if token.value == "(" else "")
        elif token.type == "operator" and token.value in (")", "]", "}"):
            open_calls.pop()
        elif token.type in ("string", "template_string"):
            yield token.value[1:-1], list(open_calls)
        if token.type == "name":
            # The whole name: "console.warn"
            is_part = index > 1 and tokens[index - 1].value == "."
            name = f"{name}.{token.value}" if is_part else token.value
        elif token.value != ".":
            name = ""


def is_for_users(text: str, calls: list[str]) -> bool:
    """Return whether a user may read a string that does not come from the catalogue."""
    if not _TEXT.search(re.sub(r"\$\{[^}]*\}", "", text)) or text in NOT_FOR_USERS:
        return False
    inner = next((each for each in reversed(calls) if each), "")
    return inner not in _CALLS and inner.partition(".")[0] not in (*_LOGS, "Error", "RegExp")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_text_of_the_extension_comes_from_the_catalogue(script: Path) -> None:
    source = re.sub(r"const STYLE = `.*?`;", "", script.read_text(), flags=re.DOTALL)
    tokens = [each for each in tokenize(source) if each.type not in ("linecomment", "multilinecomment")]
    assert [text for text, calls in strings(tokens) if is_for_users(text, calls)] == []


def test_check_finds_a_text_that_is_not_translated() -> None:
    source = """
    banner.show({title: 'Your session ends', text: gettext('It is over.')});
    button.textContent = 'Close';
    const text = `The file ${name} is full`;
    console.warn('not for users');
    """
    tokens = [each for each in tokenize(source) if each.type not in ("linecomment", "multilinecomment")]
    found = [text for text, calls in strings(tokens) if is_for_users(text, calls)]
    assert found == ["Your session ends", "Close", "The file ${name} is full"]


def test_page_of_the_extension_has_no_text_of_its_own() -> None:
    body = (EXTENSION / "continue.html").read_text().partition("<body")[2]
    assert re.findall(r">([^<>]*[A-Za-z][^<>]*)<", body) == []
