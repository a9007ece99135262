"""Functions that the parsers of several schedulers share. No I/O."""

from __future__ import annotations

import datetime as dt
import functools
import json
import re
from typing import TYPE_CHECKING, Any

from hpchub.schedulers.base import Unanswered

if TYPE_CHECKING:
    from collections.abc import Callable

SHOWN = 200
"""The largest number of characters of an output that an error shows."""

_STRING = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")', re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)", re.DOTALL)
_WORD = re.compile(r'[^\s{}\[\]:,"]+')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null")
_NO_VALUE = re.compile(r":(?=\s*[,}])")
NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""A character that XML forbids."""


# Errors


def unexpected_output(program: str, stdout: str) -> Unanswered:
    """Return the error for output in an unexpected format."""
    return Unanswered(f"{program} printed output in an unexpected format: {stdout[:SHOWN]!r}")


def incomplete_output(program: str, stdout: str) -> Unanswered:
    """Return the error for output that ends too early."""
    return Unanswered(f"{program} printed incomplete output, which ends with {stdout[-SHOWN:]!r}")


def no_job_id(program: str, stdout: str) -> Unanswered:
    """Return the error for output of a submit command without a job id, or with several."""
    return Unanswered(f"{program} printed no job id, or several; it printed {stdout.strip()[:SHOWN]!r}")


def inconclusive(program: str, code: int, stdout: str, stderr: str) -> Unanswered:
    """Return the error for output of a find command that permits no conclusion."""
    return Unanswered(
        f"{program} reported neither that the job exists nor that it is unknown (exit code {code}):"
        f" {(stderr or stdout).strip()[:SHOWN]!r}"
    )


# Formats


class DuplicateKeys(dict[str, Any]):
    """A JSON object that contains a key more than once.

    Old schedulers do not escape the texts of users. A duplicate key can be such a text, so do not trust the object.
    """


def as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object of fields. Mark it if it has a duplicate key."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else DuplicateKeys(found)


_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=as_object)


def decode_json(text: str, *, alone: bool = False) -> Any:
    r"""Return the JSON document at the beginning of a text, or None if it is invalid.

    Some schedulers print ``A=005`` as a number with leading zeros, ``B=it\'s`` with a needless backslash, and nothing
    for an empty value. This function reads such a bare word as a string, removes such a backslash, and reads an empty
    string. An object with a duplicate key becomes a ``DuplicateKeys``.

    Args:
        text: The text. After the document, there may be text without quotes and brackets.
        alone: Whether there must be nothing after the document.
    """
    for repair in (str, _repair):
        repaired = repair(text)
        try:
            found, end = _DECODER.raw_decode(repaired)
        except (ValueError, RecursionError):
            continue
        rest = repaired[end:].strip()
        if not rest or not (alone or re.search(r'["{}\[\]]', rest)):
            return found
    return None


def read_json(text: str, program: str) -> dict[str, Any]:
    """Return a scheduler's JSON object, even if it is invalid because of a user's variable; see ``decode_json``.

    Lines before and after the object are ignored. ``hpchub.schedulers.records`` reads answers with one record per job.

    Args:
        text: The output of the scheduler's program.
        program: The name of the program, for the error.

    Raises:
        Unanswered: The text is not a JSON object, is truncated, or has a duplicate key at the top level.
    """
    begin = re.search(r"^[ \t\ufeff]*(?=\{)", text, re.MULTILINE)
    found = decode_json(text[begin.end() :]) if begin else None
    if isinstance(found, dict) and not isinstance(found, DuplicateKeys):
        return found
    raise unexpected_output(program, text)


def _repair(text: str) -> str:
    pieces = _STRING.split(text)  # the odd pieces are strings, the even pieces are the text between them
    pieces[::2] = map(_quote_words, pieces[::2])
    pieces[1::2] = [_ESCAPE.sub(_unescape, string) if "\\" in string else string for string in pieces[1::2]]
    return "".join(pieces)


@functools.lru_cache(maxsize=10_000)
def _quote_words(between: str) -> str:
    quoted = _WORD.sub(lambda word: word[0] if _NUMBER.fullmatch(word[0]) else json.dumps(word[0]), between)
    return _NO_VALUE.sub(':""', quoted)


def unescape_json(text: str) -> str:
    """Return a text that was written between the quotes of a JSON string, perhaps without all escapes."""
    escaped = re.sub(r'(?<!\\)"', r"\"", _ESCAPE.sub(_unescape, text))
    try:
        return str(json.loads(f'"{escaped}"', strict=False))
    except ValueError:
        return text


def _unescape(found: re.Match[str]) -> str:
    return found[0] if found[1][0] in '"\\/bfnrt' or found[1][1:] else found[1]


def _utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(tzinfo=None)


def parse_time(text: str, now: Callable[[], dt.datetime] = _utc_now) -> str:
    """Return a time in ISO 8601 without a time zone, or an empty text if the text is not a time.

    The accepted formats are ``Tue Oct  4 21:23:20 2022``, ``Oct  4 21:23`` and seconds since 1970. A time without a
    year is at most 30 days ago; otherwise it is in the next year.

    Args:
        text: The time as a scheduler prints it. The gate runs the scheduler's commands in UTC.
        now: The clock. It is only read for a time without a year.
    """
    text = re.sub(r"^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) ", "", " ".join(text.split()))
    if re.fullmatch(r"[1-9][0-9]{8,10}", text):
        return dt.datetime.fromtimestamp(int(text), dt.UTC).replace(tzinfo=None).isoformat()
    for form in ("%b %d %H:%M:%S %Y", "%b %d %H:%M %Y"):
        if found := _strptime(text, form):
            return found.isoformat()
        today = now()
        this_year = _strptime(f"{text} {today.year}", form)
        if this_year and today - this_year < dt.timedelta(days=30):
            return this_year.isoformat()
        if next_year := _strptime(f"{text} {today.year + 1}", form):
            return next_year.isoformat()
    return ""


def _strptime(text: str, form: str) -> dt.datetime | None:
    try:
        return dt.datetime.strptime(text, form)  # noqa: DTZ007 the text has no time zone
    except ValueError:
        return None


def find_job_id(stdout: str, line: str, program: str) -> str:
    """Return the job's id from the output of a submit command.

    A site's own program may print lines before and after the scheduler's line.

    Args:
        stdout: The output.
        line: A regular expression that matches the scheduler's whole line. Its first group is the id.
        program: The name of the program, for the error.

    Raises:
        Unanswered: No line has an id, or several lines have different ids. A further line that looks like an option is
            no message to users, so it leaves the id in doubt too.
    """
    lines = [text.strip() for text in stdout.splitlines()]
    ids = {found[1] for text in lines if (found := re.fullmatch(line, text))}
    if len(ids) != 1 or any(re.match(r"-\w", text) for text in lines):
        raise no_job_id(program, stdout)
    return ids.pop()
