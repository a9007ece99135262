"""The text of a YAML file: decoding, mistakes in plain words with their positions, and values with their positions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from hpchub.messages import show
from hpchub.model.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VAULT_HEADER = "$ANSIBLE_VAULT;"
VAULT_ADVICE = (
    "give its password with --ask-vault-pass or --vault-password-file FILE, or set ANSIBLE_VAULT_PASSWORD_FILE"
)

# libyaml, if it is available, as in Ansible.
_Safe: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Step = int | str


class _Loader(_Safe):  # type: ignore[misc, valid-type]
    """The YAML of Ansible: its tags stand for text."""


def _text(loader: Any, node: yaml.Node) -> Any:
    return loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else ""


VAULT_TAGS = ("!vault", "!vault-encrypted")
for _tag in (*VAULT_TAGS, "!unsafe"):
    _Loader.add_constructor(_tag, _text)


@dataclass(frozen=True)
class Fault:
    """What makes a file unreadable.

    Attributes:
        line: The line, from 1. It is 0 if the fault concerns the whole file.
        column: The column, from 1.
        message: What is wrong.
        valid: What to do.
    """

    line: int
    column: int
    message: str
    valid: str = ""


@dataclass(frozen=True)
class Document:
    """A YAML file that can be read.

    Attributes:
        text: The text.
        node: The content with positions, or None if there is none or if the file is encrypted.
        value: The content as Python values.
        encrypted: Whether the whole file is encrypted with ansible-vault.
    """

    text: str
    node: yaml.Node | None = None
    value: Any = None
    encrypted: bool = False


def read(data: bytes) -> Document | Fault:
    """Decode and parse the content of a YAML file."""
    text = decode(data)
    if isinstance(text, Fault):
        return text
    if text.startswith(VAULT_HEADER):
        return _vault(text)
    return _foreign_text(text) or _parse(text)


def _parse(text: str) -> Document | Fault:
    node = None
    try:
        # Python values come from a second reading, because PyYAML changes the nodes when it merges mappings ("<<").
        node = yaml.compose(text, Loader=_Loader)
        value = yaml.load(text, Loader=_Loader)  # noqa: S506  (a safe loader)
    except yaml.MarkedYAMLError as error:
        return _explain(error, text)
    except yaml.reader.ReaderError as error:
        return _control_character(text, error)
    except ValueError as error:  # for example, the date 2024-13-01
        return _impossible_value(node, error)
    except (yaml.YAMLError, RecursionError) as error:
        return Fault(1, 1, f"is not valid YAML: {' '.join(str(error).split())[:200]}")
    return Document(text, node, value)


def _impossible_value(top: yaml.Node | None, error: ValueError) -> Fault:
    """Find the value that looks like a date or a number, but is none."""
    for node, _ in scalars(top):
        try:
            if is_plain(node):
                yaml.safe_load(node.value)
        except (ValueError, yaml.YAMLError):
            line, column = position(node)
            return Fault(line, column, f"has the value {show(node.value)}: {error}", "put text in quotes")
    return Fault(1, 1, f"is not valid YAML: {error}")


def decode(data: bytes) -> str | Fault:
    """Return the text of a file in UTF-8."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:200]:
        encoding = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") or data[1:2] == b"\0" else "not text"
        return Fault(1, 1, f"is {encoding}, but must be UTF-8", "save the file as UTF-8, for example with iconv")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        byte = data[error.start]
        latin = bytes([byte]).decode("latin-1")
        meaning = f' ("{latin}" in Latin-1)' if latin.isprintable() else ""
        return Fault(
            line,
            column,
            f"contains the byte 0x{byte:02X}{meaning}, which is not UTF-8",
            "save the file as UTF-8, for example with: iconv -f latin1 -t utf-8",
        )


def _vault(text: str) -> Document | Fault:
    """Check that an encrypted file is complete. Its first line names the format; the others are hexadecimal digits."""
    header, *lines = text.rstrip().splitlines()
    if not re.fullmatch(r"\$ANSIBLE_VAULT;1\.[0-9];AES256(?:;[^;]+)?\s*", header):
        return Fault(1, 1, "has a header of ansible-vault that is not valid", "restore the file from a backup")
    for number, line in enumerate(lines, 2):
        if not re.fullmatch(r"[0-9a-f]+", line.strip()):
            return Fault(number, 1, "is a damaged vault: the line is not hexadecimal", "restore the file from a backup")
    if not lines or len("".join(line.strip() for line in lines)) % 2:
        return Fault(len(lines) + 1, 1, "is a damaged vault: the end is missing", "restore the file from a backup")
    try:
        body = bytes.fromhex("".join(line.strip() for line in lines))
    except ValueError:
        body = b""
    # A salt, a checksum, and blocks of 16 encrypted bytes.
    if not re.fullmatch(rb"[0-9a-f]+\n[0-9a-f]{64}\n(?:[0-9a-f]{32})+", body):
        return Fault(len(lines) + 1, 1, "is a damaged vault: a part is missing", "restore the file from a backup")
    return Document(text, encrypted=True)


def _foreign_text(text: str) -> Fault | None:
    """Find text that does not belong into a YAML file, but that YAML would explain badly or accept."""
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"<{7} |={7}$|>{7} ", line):
            return Fault(number, 1, "has the marks of a merge conflict of git", "resolve the conflict")
        if line.lstrip().startswith(VAULT_HEADER) and not _below_vault_tag(text, number):
            message = "has an encrypted vault that does not begin on the first line"
            return Fault(number, 1, message, "remove everything above it; an encrypted file contains nothing else")
    return None


def _below_vault_tag(text: str, number: int) -> bool:
    above = text.splitlines()[: number - 1]
    return bool(above) and bool(re.search(r"!vault(?:-encrypted)?\s*\|", above[-1]))


def _control_character(text: str, error: yaml.reader.ReaderError) -> Fault:
    found = error.character
    # libyaml counts bytes, Python's loader counts characters, so search for the character itself.
    character = chr(found) if isinstance(found, int) else str(found)
    at = max(text.find(character), 0)
    return Fault(
        text.count("\n", 0, at) + 1,
        at - text.rfind("\n", 0, at),
        f"contains the control character {show(character)[1:-1]}",
        "remove it; it is often invisible in an editor",
    )


# Mistakes in plain words


_QUOTE_IT = "put text that begins with MARK in quotes"
_BEGINS_WITH = "has a value that begins with MARK"
# Each rule: a pattern for libyaml's context and problem, whether the place is where the context begins, the message,
# and what to do. MARK is the character at the place, LINE the line where the context begins.
_RULES: Sequence[tuple[str, bool, str, str]] = (
    ("tab character", False, "is indented with a tab", "use spaces"),
    ("cannot start any token", False, _BEGINS_WITH, _QUOTE_IT),
    (
        "could not find expected ':'",
        True,
        "has a line without a colon",
        'write "NAME: value"; an item of a list begins with "- "',
    ),
    ("quoted scalar.*end of stream", True, "has a quote that is never closed", "close the quote on the same line"),
    ("unknown escape", False, "has a backslash in double quotes", "use single quotes, or write two backslashes"),
    ("flow sequence", True, "has a [ that is not closed, or a comma is missing after it", "close it with ]"),
    ("flow mapping", True, "has a { that is not closed, or a comma is missing after it", "close it with }"),
    ("expected node content", False, _BEGINS_WITH, _QUOTE_IT),
    ("undefined alias", False, _BEGINS_WITH, f"{_QUOTE_IT}; a name after * must be defined above, with &"),
    ("alias|anchor", True, _BEGINS_WITH, _QUOTE_IT),
    (
        "for merging",
        False,
        "is merged with <<, but is not a mapping",
        "write <<: *NAME, and define &NAME at a mapping above it",
    ),
    (
        "expected <document start>",
        False,
        "follows a line with ..., which ends the file",
        "remove the line with ...",
    ),
    ("unhashable", True, "has a { that begins a mapping", 'put an expression in quotes, as in "{{ NAME }}"'),
    ("tag", False, "has a tag, a word that begins with !, that Ansible does not know", _QUOTE_IT),
    (
        "block collection",
        False,
        "does not continue the list above it",
        'begin each item of the list with "- ", in the same column as in line LINE',
    ),
    (
        "another document",
        False,
        "begins a second document",
        "remove this line; only the first line of a file may be ---",
    ),
    (
        "block scalar",
        True,
        "has text after | or >",
        "begin the text on the next line, indented; or put it in quotes",
    ),
)


def _explain(error: yaml.MarkedYAMLError, text: str) -> Fault:
    """Translate an error of libyaml."""
    lines = text.splitlines()
    words = f"{error.context or ''}, {error.problem or ''}".removeprefix(", ")
    here = error.problem_mark or error.context_mark
    if here is None:
        return Fault(1, 1, f"is not valid YAML: {words}")
    begin = error.context_mark or here
    if special := _special(words, here, begin, lines):
        return special
    for pattern, at_beginning, message, valid in _RULES:
        if re.search(pattern, words):
            at = begin if at_beginning else here
            line = lines[at.line] if at.line < len(lines) else ""
            mark = line[at.column : at.column + 1]
            if not mark.strip() and pattern.startswith("expected node"):
                return Fault(at.line + 1, at.column + 1, "ends before a { or [ is closed", "close it with } or ]")
            if mark == "\t":
                return Fault(at.line + 1, at.column + 1, "is indented with a tab", "use spaces")
            text = f"{message}\n{valid}".replace("MARK", mark).replace("LINE", str(begin.line + 1))
            return Fault(at.line + 1, at.column + 1, *text.split("\n"))
    return Fault(here.line + 1, here.column + 1, f"is not valid YAML: {words}")


def _special(words: str, here: yaml.Mark, begin: yaml.Mark, lines: list[str]) -> Fault | None:
    """Return the fault if its explanation needs the text around it."""
    if "mapping values are not allowed" in words:
        return _colon(here, lines)
    if "expected ':'" in words:
        return _glued_colon(lines, begin.line)
    if "block mapping" in words:
        return _broken_mapping(here, begin, lines)
    return None


def _glued_colon(lines: list[str], number: int) -> Fault | None:
    """Return the fault of a line such as ``cores:1``, where a space is missing."""
    found = re.match(r"\s*(?:- +)?[\w.-]+:(?=[^\s/:])", lines[number]) if number < len(lines) else None
    return Fault(number + 1, found.end(), "has no space after the colon", 'write "NAME: value"') if found else None


def _colon(here: yaml.Mark, lines: list[str]) -> Fault:
    """Explain a colon that YAML does not expect: often the mistake is in a line above it."""
    line = lines[here.line] if here.line < len(lines) else ""
    above = next((number for number in range(here.line - 1, -1, -1) if lines[number].strip()), None)
    first = re.match(r"\s*(?:- )?[\w.-]+:", line)
    if above is not None and first and first.end() == here.column + 1:
        if glued := _glued_colon(lines, above):
            return glued
        if re.fullmatch(r"\s*[\w.-]+\s*", lines[above]):
            column = len(lines[above]) - len(lines[above].lstrip()) + 1
            return Fault(above + 1, column, "has no colon after the name", 'write "NAME:"')
        message = f"is indented further than line {above + 1}, which already has a value"
        column = len(line) - len(line.lstrip()) + 1
        return Fault(here.line + 1, column, message, f"indent it as line {above + 1}")
    return Fault(
        here.line + 1,
        here.column + 1,
        "has a second colon",
        'put text that contains ": " in quotes, or write one NAME: value per line',
    )


def _open_quote(lines: list[str], first: int, last: int) -> Fault | None:
    """Return the fault of a quote that is not closed on its line, so that the next quote seems to close it."""
    for number in range(first, last):
        text = re.sub(r"\\.|(?:^|\s)#.*", "", lines[number])
        if text.count('"') % 2:
            column = lines[number].rfind('"') + 1
            return Fault(number + 1, column, "has a quote that is not closed on this line", "close the quote")
    return None


def _broken_mapping(here: yaml.Mark, begin: yaml.Mark, lines: list[str]) -> Fault:
    line = lines[here.line] if here.line < len(lines) else ""
    before = line[: here.column].rstrip()
    if before.endswith('"') and (opened := _open_quote(lines, begin.line, here.line)):
        return opened
    if before and re.search(r"['\"}\])]$", before):
        message = "has text after the end of the value"
        return Fault(here.line + 1, here.column + 1, message, "put the whole value in one pair of quotes")
    message = f"does not fit the lines above it, which begin in column {begin.column + 1}"
    return Fault(here.line + 1, here.column + 1, message, "correct the indentation; use the same for all keys")


# Positions


def position(node: yaml.Node) -> tuple[int, int]:
    """Return the line and the column of a node, from 1."""
    return node.start_mark.line + 1, node.start_mark.column + 1


def is_plain(node: yaml.Node | None) -> bool:
    """Return whether a node is a scalar without quotes."""
    return isinstance(node, yaml.ScalarNode) and not node.style


def pairs(node: yaml.Node | None) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
    """Return the keys and values of a mapping, without merge keys."""
    if not isinstance(node, yaml.MappingNode):
        return []
    return [(key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]


def child(node: yaml.Node | None, step: Step) -> tuple[yaml.Node, yaml.Node] | None:
    """Return the key and the value of a mapping's entry, or the item of a list twice. The last of equal keys counts."""
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
        return (node.value[step], node.value[step]) if step < len(node.value) else None
    found: tuple[yaml.Node, yaml.Node] | None = None
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value == "<<":
                for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    found = found or child(merged, step)
            elif isinstance(key, yaml.ScalarNode) and key.value == str(step):
                found = key, value
    return found


def walk(top: yaml.Node | None) -> Iterator[tuple[yaml.Node, tuple[Step, ...]]]:
    """Yield every node below a node, itself included, with the way to it. Anchors can form a cycle."""
    waiting: list[tuple[yaml.Node, tuple[Step, ...]]] = [(top, ())] if top is not None else []
    seen: set[int] = set()
    while waiting:
        node, way = waiting.pop(0)
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node, way
        if isinstance(node, yaml.SequenceNode):
            waiting.extend((item, (*way, i)) for i, item in enumerate(node.value))
        elif isinstance(node, yaml.MappingNode):
            waiting.extend((value, (*way, key.value)) for key, value in node.value if isinstance(key, yaml.ScalarNode))


def scalars(top: yaml.Node | None) -> Iterator[tuple[yaml.ScalarNode, tuple[Step, ...]]]:
    """Yield every scalar below a node that is not a key, with the way to it."""
    return ((node, way) for node, way in walk(top) if isinstance(node, yaml.ScalarNode))


def cycle(
    node: yaml.Node, above: tuple[yaml.Node, ...] = (), done: set[int] | None = None
) -> yaml.CollectionNode | None:
    """Return the first node that contains itself through an alias, or None."""
    done = set() if done is None else done
    if not isinstance(node, yaml.CollectionNode) or id(node) in done:
        return None
    if node in above:
        return node
    for item in node.value:
        for part in item if isinstance(item, tuple) else (item,):
            if found := cycle(part, (*above, node), done):
                return found
    done.add(id(node))
    return None


# Text that YAML accepts, but that nobody means


def duplicates(top: yaml.Node | None) -> Iterator[Problem]:
    """Find keys that occur twice in one mapping. YAML silently uses the last one."""
    for node, _ in walk(top):
        lines: dict[str, int] = {}
        for key, _value in pairs(node):
            line, column = position(key)
            if key.value in lines:
                yield Problem(
                    "",
                    f"is a duplicate: line {lines[key.value]} has the same key",
                    field=show(key.value, 40),
                    valid="remove one of them",
                    line=line,
                    column=column,
                )
            lines.setdefault(key.value, line)


_QUOTES = "\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u00ab\u00bb"
_STRANGE: Sequence[tuple[re.Pattern[str], str, str]] = (
    (re.compile(f"^[{_QUOTES}]|[{_QUOTES}]$"), "typographic quotes", 'use "straight quotes"'),
    (re.compile("^[\u2013\u2014\u2212\u2022\u00b7]"), "a dash that is not a hyphen", 'begin an item with "- "'),
    (
        re.compile("^[\u00a0\u2007\u202f\u200b\ufeff]|[\u00a0\u2007\u202f\u200b\ufeff]$"),
        "an invisible character, such as a non-breaking space",
        "replace it with an ordinary space",
    ),
    (re.compile(r"^-(?=[A-Za-z])(?!-)[^\n]* -[A-Za-z]"), "no space after the hyphen", 'begin an item with "- "'),
)


def strange_text(top: yaml.Node | None) -> Iterator[Problem]:
    """Find values and keys that begin or end with characters that a word processor has put there."""
    for node, _ in walk(top):
        for each in (node, *(key for key, _value in pairs(node))):
            if not isinstance(each, yaml.ScalarNode) or not is_plain(each):
                continue
            for pattern, what, valid in _STRANGE:
                if pattern.search(each.value):
                    line, column = position(each)
                    yield Problem("", f"has {what}", value=show(each.value), valid=valid, line=line, column=column)
                    break


def find(text: str, pattern: str | re.Pattern[str]) -> tuple[int, int] | None:
    """Return the line and column of the first match in a text."""
    found = re.search(pattern, text, re.MULTILINE) if isinstance(pattern, str) else pattern.search(text)
    if found is None:
        return None
    at = found.start(1) if found.re.groups else found.start()
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
