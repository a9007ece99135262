r"""Readers of answers that contain one record per job. No I/O.

Users choose texts that appear in the answers: names, comments and variables. Some schedulers print these texts without
escapes, or print nothing for an empty value. Therefore one job can make a whole JSON or XML document invalid. These
readers divide such a document into its records first, so a damaged record does not affect the others. They distinguish
a damaged record from a truncated answer: a truncated answer lacks the end of its document.

A user's text can look like the beginning of a record. PBS and LSF print each field of a record in its own line, and
write the line breaks of a text as ``\n``. So in an answer with several lines, a record or field begins with a line.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from hpchub.schedulers.base import UNREADABLE, Job, JobState, Unanswered
from hpchub.schedulers.parsing import (
    NOT_XML,
    SHOWN,
    DuplicateKeys,
    as_object,
    decode_json,
    incomplete_output,
    unescape_json,
    unexpected_output,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

_TAG = re.compile(r"hpchub/[^/\s\"<>]+/[^/\s\"<>]+/[0-9a-f]{16}")


@dataclass(frozen=True)
class Record:
    """One record of an answer.

    Attributes:
        key: The key of the record in its object, or empty if the records are a list.
        value: The fields, or None if the record is damaged.
        raw: The text of the record, or empty if the whole document is valid.
    """

    key: str
    value: Any
    raw: str = ""


def unreadable(job_id: str, raw: str | ET.Element = "") -> Job:
    """Return the job of a damaged record. Nothing is known about it, so it ends no session.

    Args:
        job_id: The job's id, or empty if the record does not show it.
        raw: The record. If it contains a session's tag, the job's comment is this tag. The job has neither
            a name nor a user, so ``Job.session`` does not accept it.
    """
    found = set(_TAG.findall(raw if isinstance(raw, str) else ET.tostring(raw, encoding="unicode")))
    return Job(id=job_id, state=JobState.UNKNOWN, detail=UNREADABLE, comment=found.pop() if len(found) == 1 else "")


def jobs_by_id(jobs: Iterable[Job], program: str, stdout: str) -> dict[str, Job]:
    """Return the jobs by their ids.

    A job that occurs twice is unreadable, because one of the records may be forged. A job without an id gets a
    substitute, which is no valid job id.

    Raises:
        Unanswered: No record is readable, and it is not even clear to which jobs the records belong.
    """
    found: dict[str, Job] = {}
    unclear = 0
    for job in jobs:
        if job.id and job.id not in found:
            found[job.id] = job
            continue
        unclear += 1
        job_id = job.id or f"?{unclear}"
        found[job_id] = unreadable(job_id, " ".join({job.comment, found[job_id].comment if job_id in found else ""}))
    if unclear and all(job.detail == UNREADABLE for job in found.values()):
        raise Unanswered(f"{program} printed an incomplete record, or a record twice: {stdout[:SHOWN]!r}")
    return found


# JSON

_CLOSING = {"{": "}", "[": "]"}


def read_json_records(
    text: str, program: str, *, field: str = "", record: str, required: str = "", listed: bool = False
) -> tuple[dict[str, Any], list[Record]]:
    """Return the other fields of a JSON object, and the records in one of its fields.

    Args:
        text: The output of the scheduler's program. Lines before and after the document are ignored.
        program: The name of the program, for the error.
        field: The field with the records, which are an object or a list. If it is empty, the document is their list.
        record: A regular expression for the beginning of a record. Its first group, if it has one, is the key.
        required: A field of the document that a complete answer has.
        listed: Whether the records are a list, and not an object.

    Raises:
        Unanswered: The text contains no such document, or is truncated.
    """
    begin = re.compile(r"^[ \t\ufeff]*(?=" + (r'\{\s*"' if field else r"\[\s*[\[\]{]") + ")", re.MULTILINE)
    # A line with an object of its own is a message of a site's program, if it is not the whole document.
    places = [place.end() for place in begin.finditer(text)]
    while len(places) > 1 and field and _is_message(text[places[0] :].partition("\n")[0], {field, required}):
        places.pop(0)
    if not places:
        raise unexpected_output(program, text)
    text = text[places[0] :]
    layout = _Layout.of(text, field, record)
    found = decode_json(text)
    fields = found if field and isinstance(found, dict) else {}
    records = fields.get(field, [] if listed else {}) if field else found
    is_valid = found is not None and not isinstance(fields, DuplicateKeys) and not isinstance(records, DuplicateKeys)
    if is_valid and (not isinstance(records, list if listed else dict) or required not in {"", *fields}):
        raise unexpected_output(program, text)
    if is_valid and isinstance(records, list):
        return fields, [Record("", value) for value in records]
    # If the lines show another number of records, or a record has a key twice, a user's text forges a part.
    by_line = layout is not None and layout.by_line and layout.is_whole
    forged = isinstance(records, dict) and any(isinstance(value, DuplicateKeys) for value in records.values())
    forged = forged or (layout is not None and isinstance(records, dict) and len(layout.starts) != len(records))
    if is_valid and isinstance(records, dict) and not (by_line and forged):
        return fields, [Record(key, value) for key, value in records.items()]
    if layout is None or not layout.starts:
        raise unexpected_output(program, text)
    result = layout.read(program)
    fields = (_read_object(layout.head + "}") or {}) if field else {}
    keys = [one.key for one in result if one.key]
    if required not in {"", *fields} or (not layout.by_line and len(set(keys)) < len(keys)):
        raise unexpected_output(program, text)
    return fields, result


def _is_message(line: str, fields: set[str]) -> bool:
    """Return whether a line is a whole JSON object without the fields of an answer."""
    found = decode_json(line, alone=True) if line.rstrip().endswith("}") else None
    return isinstance(found, dict) and not fields & set(found)


@dataclass(frozen=True)
class _Layout:
    """How a document is divided into records.

    Attributes:
        text: The document.
        head: The document before the field with the records.
        starts: The beginnings of the records.
        closers: The brackets after the last record.
        by_line: Whether each record begins in its own line.
        is_whole: Whether the document has its end.
    """

    text: str
    head: str
    starts: list[re.Match[str]]
    closers: str
    by_line: bool
    is_whole: bool

    @classmethod
    def of(cls, text: str, field: str, record: str) -> _Layout | None:
        """Find the records of a document, or return None if it has no field with records."""
        found = re.search(rf'"{field}"\s*:\s*([{{\[])(\s*)' if field else r"(\[)(\s*)", text)
        if found is None:
            return None
        closers = _CLOSING[found[1]] + ("}" if field else "")
        space, by_line = found[2], "\n" in found[2]
        # The end is the last line with the closing bracket. A site's wrapper may print further lines.
        end = re.compile(r"\}\s*" + r"\s*".join(map(re.escape, closers)) + r"\Z")
        lines = text.rstrip().split("\n")
        while lines and not (lines[-1].strip() == closers[-1] if by_line else end.search(lines[-1].rstrip())):
            lines.pop()
        text = "\n".join(lines)
        if by_line:
            begin = rf"(?<=[,{{\[]){re.escape(space)}{record}"
            indented = not space.endswith("\n")
            is_whole = [line.strip() for line in lines[-len(closers) - 1 :]] == ["}", *closers] and not (
                indented and lines[-1].startswith((" ", "\t"))
            )
        else:
            begin = rf"(?:(?<=[{{\[])|(?<=\}}),|(?<=\}} ),)\s*{record}"
            is_whole = bool(lines)
        starts = list(re.compile(begin).finditer(text, found.start(2)))
        return cls(text, text[: found.start()].rstrip().removesuffix(","), starts, closers, by_line, is_whole)

    def read(self, program: str) -> list[Record]:
        """Return the records.

        Raises:
            Unanswered: The document is truncated.
        """
        if not self.is_whole:
            raise incomplete_output(program, self.text)
        result = []
        for begin, end in zip(self.starts, [*self.starts[1:], None], strict=True):
            key = begin[1] if begin.re.groups else ""
            brace = self.text.index("{", begin.end(1) if key else begin.start())
            raw = self.text[brace : end.start() if end else None].rstrip().removesuffix(",").rstrip()
            if end is None:
                raw = _without(raw, self.closers)
            value = _read_object(raw)
            if end is None and value is None and _read_object(raw + "\n" + self.closers[0]) is not None:
                raise incomplete_output(program, self.text)
            result.append(Record(key, value, raw))
        return result


def _without(text: str, closers: str) -> str:
    """Return a text without the closing brackets at its end."""
    for bracket in reversed(closers):
        text = text.rstrip().removesuffix(bracket)
    return text.rstrip()


_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_FIELD = re.compile(r'"([^"]*)"\s*:\s*(.*)', re.DOTALL)


def _read_object(text: str) -> dict[str, Any] | None:
    """Return an object, read as JSON or, if it is invalid, line by line. Return None if it is damaged."""
    found = decode_json(text, alone=True)
    if found is None or isinstance(found, DuplicateKeys):
        found = _read_lines(text)
    return found if isinstance(found, dict) and not isinstance(found, DuplicateKeys) else None


def _read_lines(text: str) -> dict[str, Any] | None:
    """Return an object that has each field in its own line, or None.

    A value reaches from its first to its last quote, so the quotes within it need no escapes.
    """
    first, *lines = (line.strip() for line in text.strip().split("\n"))
    found = None
    opened: list[tuple[str, list[tuple[str, Any]]]] = [("", [])] if first == "{" else []
    for line in lines:
        field = _FIELD.fullmatch(line)
        if not opened:
            return None
        name, pairs = opened[-1]
        if line in ("}", "},"):
            found = as_object(pairs)
            opened.pop()
            if opened:
                opened[-1][1].append((name, found))
        elif field is None:
            return None
        elif field[2] == "{":
            opened.append((field[1], []))
        elif (value := _value(field[2].removesuffix(",").rstrip())) is not None:
            pairs.append((field[1], value))
        else:
            return None
    return None if opened else found


def _value(text: str) -> str | int | None:
    """Return a value that a scheduler printed, or None if it continues in the next line."""
    if text.startswith('"') != text.endswith('"') or text == '"':
        return None
    if text.startswith('"'):
        return unescape_json(text[1:-1])
    return int(text) if _NUMBER.fullmatch(text) else text


# XML

_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
# References to characters that XML permits are no bare ampersands. Others are.
_NUMBERS = r"#(?:9|10|13|3[2-9]|[4-9][0-9]|[1-9][0-9]{2,3})|#x(?:[2-9A-Fa-f][0-9A-Fa-f]|[1-9A-Fa-f][0-9A-Fa-f]{2})"
_AMPERSAND = re.compile(rf"&(?!(?:amp|lt|gt|quot|apos|{_NUMBERS});)")
_MARKUP = re.compile(r"<(?!/?[A-Za-z_][\w.:-]*(?:\s[^<>]*)?/?>|\?xml\s)")
_LEAF = re.compile(r"\s*<([A-Za-z_][\w.:-]*)>(.*?)</\1>", re.DOTALL)


def read_xml(text: str, program: str) -> ET.Element:
    """Return the root of a scheduler's XML document.

    Lines before and after the document, comments, bare ampersands and characters that XML forbids are permitted.

    Args:
        text: The output of the scheduler's program.
        program: The name of the program, for the error.

    Raises:
        Unanswered: The text is not an XML document, is truncated, or contains a declaration such as a document type.
    """
    begin = re.search(r"^[ \t]*<(?=\?xml\s|[A-Za-z_])", text, re.MULTILINE)
    document = _clean(text[begin.start() : text.rindex(">") + 1] if begin and ">" in text else "")
    if "<!" in document:
        raise Unanswered(f"{program} printed invalid XML (it contains a declaration): {text[:SHOWN]!r}")
    try:
        return ET.fromstring(document.strip())  # noqa: S314 no declarations
    except ET.ParseError as error:
        raise Unanswered(f"{program} printed invalid XML ({error}): {text[:SHOWN]!r}") from None


def _clean(text: str) -> str:
    """Remove comments, and replace what XML forbids in a text."""
    return _AMPERSAND.sub("&amp;", _COMMENT.sub("", NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)))


def read_xml_records(text: str, program: str, *, root: str, record: str) -> list[tuple[ET.Element | None, str]]:
    """Return the records of an XML document, in the order of the document.

    Args:
        text: The output of the scheduler's program. Lines before and after the document are ignored.
        program: The name of the program, for the error.
        root: The name of the document's root.
        record: The name of the elements that are records. They do not contain one another.

    Returns:
        The element of each record, or None if it is damaged, and its text. The text of an element may be empty.

    Raises:
        Unanswered: The text contains no such document, is truncated, or contains a document type.
    """
    begin = re.search(rf"<{root}(?=[\s/>])", text)
    if begin is None or "<!D" in text[: begin.start()] or "<!E" in text[: begin.start()]:
        raise unexpected_output(program, text)
    body = text[begin.start() :]
    if re.match(rf"<{root}(?:\s[^<>]*)?/>", body):
        return []
    end = body.rfind(f"</{root}>")
    if "<!" not in body:
        try:
            # A valid document is read at once, because this is faster.
            document = ET.fromstring(_clean(body[: end + len(f"</{root}>")]))  # noqa: S314 no declarations
            return [(element, "") for element in document.iter(record)]
        except ET.ParseError:
            pass
    starts = [found.start() for found in re.finditer(rf"<{record}(?=[\s/>])", body)]
    if end < 0 or (starts and end < starts[-1]):
        raise incomplete_output(program, text)
    pieces = [body[a:b] for a, b in zip([0, *starts], [*starts, end + len(f"</{root}>")], strict=True)]
    pieces = [_COMMENT.sub("", piece) for piece in pieces]
    # Only the tags of elements that contain records are outside of the records, and elements with text before them.
    pieces[0] = re.sub(r"<([A-Za-z_][\w.:-]*)>[^<>]*</\1>", "", pieces[0])
    outside = re.findall(r"<([A-Za-z_][\w.:-]*)", pieces[0])
    tags = re.compile(rf"(?:\s*</?(?:{'|'.join(map(re.escape, outside))})(?:\s[^<>]*)?/?>)*\s*")
    if not tags.fullmatch(pieces[0]):
        raise unexpected_output(program, text)
    result: list[tuple[ET.Element | None, str]] = []
    text_outside = pieces[0]
    for piece in pieces[1:]:
        closed = piece.rpartition(f"</{record}>")
        empty = re.match(r"<[^<>]*/>", piece)
        raw = "".join(closed[:2]) or (empty[0] if empty else "")
        if raw and tags.fullmatch(piece, len(raw)):
            result.append((_read_element(raw), raw))
            text_outside += piece[len(raw) :]
        else:
            result.append((None, piece))
    opened, ended, alone = (len(re.findall(form, text_outside)) for form in (r"<[^/]", r"</", r"/>"))
    if opened != ended + alone:
        raise incomplete_output(program, text)
    return result


def _read_element(raw: str) -> ET.Element | None:
    """Return the element of a record, or None if it is damaged."""
    text = _clean(raw)
    for attempt in (text, _MARKUP.sub("&lt;", text)):
        if "<!" in attempt:
            continue
        try:
            return ET.fromstring(attempt)  # noqa: S314 no declarations
        except ET.ParseError:
            pass
    # A user's text contains markup. Read the fields by their names.
    inner = re.fullmatch(r"<([\w.:-]+)(?:\s[^<>]*)?>(.*)</\1>", text, re.DOTALL)
    if inner is None:
        return None
    element, position = ET.Element(inner[1]), 0
    while field := _LEAF.match(inner[2], position):
        ET.SubElement(element, field[1]).text = html.unescape(field[2])
        position = field.end()
    return element if position and not inner[2][position:].strip() else None
