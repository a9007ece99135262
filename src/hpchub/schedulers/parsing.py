"""How the answers of several schedulers are read: JSON and XML that hold what their users wrote, times and sizes."""

from __future__ import annotations

import datetime as dt
import functools
import json
import re
from typing import Any
from xml.etree import ElementTree as ET

from hpchub.schedulers.base import Unanswered

_STRING = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")', re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)", re.DOTALL)
_WORD = re.compile(r'[^\s{}\[\]:,"]+')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null")
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


class Twice(dict[str, Any]):
    """A JSON object that says one of its names twice: what it says is not to be trusted."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else Twice(found)


def _escape(found: re.Match[str]) -> str:
    return found[0] if found[1][0] in '"\\/bfnrt' or found[1][1:] else found[1]


@functools.lru_cache(maxsize=10_000)
def _words(between: str) -> str:
    return _WORD.sub(lambda word: word[0] if _NUMBER.fullmatch(word[0]) else json.dumps(word[0]), between)


def _repair(text: str) -> str:
    pieces = _STRING.split(text)  # strings, and what is before, between and behind them
    pieces[::2] = map(_words, pieces[::2])
    pieces[1::2] = [_ESCAPE.sub(_escape, string) if "\\" in string else string for string in pieces[1::2]]
    return "".join(pieces)


def read_json(text: str, command: str) -> dict[str, Any]:
    r"""A scheduler's JSON object, also where a user's variable ``A=005`` or ``B=it\'s`` makes it invalid.

    Bare words and needless backslashes are taken for what was meant. What is said twice is a ``Twice``.

    Raises:
        Unanswered: it is not an object, or is cut off.
    """
    for repair in (str, _repair):
        try:
            found = json.loads(repair(text), strict=False, object_pairs_hook=_pairs)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and not isinstance(found, Twice):
            return found
    raise Unanswered(f"{command} printed something else than was asked for: {text[:200]!r}")


def read_xml(text: str, command: str) -> ET.Element:
    """A scheduler's XML document. It declares nothing: no document type, no entities.

    Raises:
        Unanswered: it is not one, or is cut off.
    """
    problem: object = "it declares something"
    if "<!" not in text:
        try:
            return ET.fromstring(_NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text.strip()))  # noqa: S314 see above
        except ET.ParseError as error:
            problem = error
    raise Unanswered(f"{command} printed something else than was asked for ({problem}): {text[:200]!r}")


def moment(text: str) -> str:
    """A time as ISO 8601 without its zone, of ``Tue Oct  4 21:23:20 2022``, ``Oct  4 21:23`` or seconds since 1970.

    Where there is no year, it is the next time to come that is so called, or one of the last days. Empty for what is
    not a time.
    """
    text = re.sub(r"^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) ", "", " ".join(text.split()))
    if re.fullmatch(r"[1-9][0-9]{8,10}", text):
        return dt.datetime.fromtimestamp(int(text)).isoformat()  # noqa: DTZ006 people read it where they are
    for form in ("%b %d %H:%M:%S %Y", "%b %d %H:%M %Y"):
        now = dt.datetime.now()  # noqa: DTZ005 likewise
        for candidate, past in ((text, True), (f"{text} {now.year}", False), (f"{text} {now.year + 1}", True)):
            try:
                found = dt.datetime.strptime(candidate, form)  # noqa: DTZ007 likewise
            except ValueError:
                continue
            if past or now - found < dt.timedelta(days=30):
                return found.isoformat()
    return ""
