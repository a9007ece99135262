"""Problems of an inventory, in messages that help the person who wrote it to fix them. No I/O.

A :class:`Problem` is one line: the entry, the field, the value if it may be shown, what is wrong, and what is valid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpchub.messages import show


@dataclass(frozen=True)
class Problem:
    """One problem of an inventory.

    Attributes:
        entry: The entry that has the problem, as in ``hpc_profiles[2] (key "big")``.
        message: What is wrong, as in ``is not a size``.
        field: The field of the entry. Empty if the entry itself is wrong.
        value: The value as :func:`show` prints it. Empty if there is no value or it may not be shown.
        valid: What to write instead, or empty.
        file: The path of the file, if it is known.
        line: The line in the file, from 1. It is 0 if it is unknown.
        column: The column in the line, from 1.
    """

    entry: str
    message: str
    field: str = ""
    value: str = ""
    valid: str = ""
    file: str = ""
    line: int = 0
    column: int = 0

    @property
    def place(self) -> str:
        """The place in the inventory's files, as ``FILE:LINE:COLUMN``, or as much of it as is known."""
        return self.file + (f":{self.line}:{self.column}" if self.file and self.line else "")

    def __str__(self) -> str:
        text = " ".join(part for part in (self.field, self.value, self.message) if part)
        head = "".join(f"{part}: " for part in (self.place, self.entry) if part)
        return f"{head}{text}" + (f"; {self.valid}" if self.valid else "")

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes for JSON, and the whole message as ``text``."""
        return {
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "entry": self.entry,
            "field": self.field,
            "value": self.value,
            "message": self.message,
            "valid": self.valid,
            "text": str(self),
        }


class SiteError(ValueError):
    """The inventory has problems. The attribute ``problems`` lists all of them, in the order of the inventory."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(frozen=True)
class Unresolved:
    """A value that Ansible cannot evaluate, because its expression is wrong. Every field rejects it with the reason.

    Attributes:
        reason: Ansible's message.
        advice: What to do, if it is known.
    """

    reason: str
    advice: str = ""

    @property
    def message(self) -> str:
        """The reason, on one line."""
        reason = self.reason.partition(" Use -vvv")[0]  # advice for ansible-playbook
        return f"cannot be evaluated: {' '.join(reason.split())[:200].rstrip('.')}"

    @property
    def valid(self) -> str:
        """What to do."""
        if self.advice:
            return self.advice
        if undefined := re.search(r"'(\w+)' is undefined$", self.reason):
            if undefined[1].startswith("ansible_"):
                return "write the value itself, because the check does not query the hosts"
            return "define it in the inventory; a secret belongs in its vault"
        if "lookup plugin" in self.reason and "was not found" not in self.reason:
            return "correct the path or name in the lookup"
        return "correct the expression between {{ and }}"


def label(value: object) -> str:
    """Return the text that identifies an entry of a list beside its number: `` (key "big")``, or an empty text."""
    if isinstance(value, Mapping):
        for word in ("key", "name"):
            if isinstance(value.get(word), (str, int)):
                return f" ({word} {show(value[word], 40)})"
    return ""


_QUOTED = r'"(?:[^"\\]|\\.)*(?:"|…$|…(?=\)))'
_LABEL = re.compile(rf" \((?:key|name) (?:{_QUOTED}|[0-9]+|true|false)\)")
_STEP = re.compile(rf"([A-Za-z_][A-Za-z0-9_]*)|\[([0-9]+)\]|({_QUOTED})")


def way(problem: Problem) -> tuple[int | str, ...]:
    """Return the way from the variables to a problem's value, as in ``("hpc_clusters", 0, "queues", 1, "max_memory")``.

    This is the reverse of :func:`locate` and :func:`label`.
    """
    steps: list[int | str] = []
    for text in (_LABEL.sub("", problem.entry), problem.field):
        for name, number, quoted in _STEP.findall(text):
            steps.append(name or (int(number) if number else quoted[1:-1]))
    return tuple(steps)


@dataclass(frozen=True)
class Location:
    """Where a value is in the inventory.

    Attributes:
        entry: The entry, as in ``hpc_clusters[0] (name "demo") queues[1] (name "batch")``.
        field: The field of the entry, as in ``max_memory``.
        value: The value as it was written.
    """

    entry: str
    field: str
    value: Any


def locate(entry: str, raw: object, location: Sequence[int | str]) -> Location:
    """Translate a pydantic location to the entry and the field that the inventory contains.

    An item of a list of mappings is an entry too. The location ``("queues", 1, "max_memory")`` of a cluster therefore
    gives the entry ``hpc_clusters[0] (name "demo") queues[1] (name "batch")`` and the field ``max_memory``.
    """
    field = ""
    value: Any = raw
    for step in location:
        if isinstance(step, int):
            value = value[step] if isinstance(value, Sequence) and -1 < step < len(value) else None
            field += f"[{step}]"
            if isinstance(value, Mapping):
                entry, field = f"{entry} {field}{label(value)}", ""
        elif step == "[key]":  # pydantic's name for a mapping's key
            value = None
        else:
            value = value.get(step) if isinstance(value, Mapping) else None
            name = step if step.isidentifier() else show(step, 40)
            field = f"{field}.{name}" if field else name
    return Location(entry, field, value)
