"""The user mapping: how the account's name follows from the name that the single sign-on reports. No I/O.

:func:`map_name` is the specification. The web server applies the same steps, in
``roles/reverse_proxy/files/sign_on.lua``, and a test compares the two. Nobody gets an account by
default: a name that a step does not expect is refused.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from hpchub.messages import listing, show
from hpchub.model import fields as f
from hpchub.model.entry import Entry
from hpchub.model.patterns import takes_too_long

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LONGEST = 255
"""The largest number of bytes in a name that the single sign-on reports."""

# A subset of regular expressions that has the same meaning in Python and in PCRE.
_PART = re.compile(
    r"[A-Za-z0-9_.@*+?|(){},:=/ -]|\\[.@+_dw/*?|(){}\[\]^$-]|\[\^?(?:[A-Za-z0-9_.@+*=/:, -]|\\[.@+_dw-])+\]"
)
_PITFALLS = re.compile(r"\(\?(?!:)|[*+?}][*+]|\{,")
_GROUP = re.compile(r"\\([1-9])")


def _pattern(value: str) -> None:
    valid = r"write a regular expression for the whole name, as in ([a-z]+)\.(?:staff|student)"
    rest = _PART.sub("", value.removeprefix("^").removesuffix("$"))
    if rest or _PITFALLS.search(value):
        f.complain(
            f"contains {show(rest)}" if rest else "uses a construct that Apache or Python does not understand",
            f"use literal characters, sets, ( | ) and * + ? {{n,m}}, and ^ and $ only around the whole; {valid}",
        )
    try:
        re.compile(value)
    except re.error as error:
        f.complain(f"is not a regular expression: {error}", valid)
    if takes_too_long(value):
        f.complain(*f.AMBIGUOUS)


Pattern = Annotated[
    str,
    f.Text("a regular expression", r".{1,200}", "write a regular expression of at most 200 characters", check=_pattern),
]
Replacement = Annotated[
    str,
    f.Text(
        "a replacement",
        r"(?:[A-Za-z0-9_.@-]|\\[1-9]){1,100}",
        r"write letters, digits and _ . @ -, and \1 to \9 for the groups of the pattern",
    ),
]
Realm = Annotated[
    str,
    f.Text("a realm", r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", "write what follows the @ in the name, as in example.org"),
]
ReceivedName = Annotated[
    str,
    f.Text("a name", rf".{{1,{LONGEST}}}", f"write the name as the provider sends it, at most {LONGEST} characters"),
]


class Step(Entry):
    """One step of the user mapping. It has exactly one of these keys; ``pattern`` also needs ``replacement``."""

    claim: f.ClaimName | None = None
    """Start with this claim instead of `claims.user`. Only the first step can do this."""
    strip_realm: list[Realm] | None = Field(default=None, min_length=1)
    """Remove ``@REALM``. The list names the realms that are accepted. A name with another realm, or without one, is
    refused."""
    fold_case: Literal["lower"] | None = None
    """``lower``: change the letters A to Z to small letters."""
    pattern: Pattern | None = None
    """A regular expression for the whole name. A name that it does not match is refused."""
    replacement: Replacement | None = None
    r"""What replaces the name. ``\1`` stands for the first group of ``pattern``."""
    table: dict[ReceivedName, f.UserName] | None = None
    """The account of each name. A name that is not in the table is refused."""
    command: list[f.Argument] | None = Field(default=None, min_length=1)
    """A command of the site on the hub host. It gets the name on standard input and prints the account. If it fails or
    takes too long, nobody is signed in. It runs as an account of its own, without any rights."""
    timeout: Annotated[int, f.Whole(1, 20)] = 5
    """How long the command may take, in seconds."""
    remember: Annotated[int, f.Whole(0, 3600)] = 60
    """For how many seconds an answer of the command remains valid."""

    @property
    def verb(self) -> str:
        """The key that determines what the step does."""
        return next(iter(self.verbs()), "")

    def verbs(self) -> list[str]:
        """Return the keys that determine what the step does. A valid step has one."""
        return [name for name in VERBS if getattr(self, name) is not None]

    @model_serializer(mode="wrap")
    def _without_unused_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        unused = () if self.command else ("timeout", "remember")
        return {key: value for key, value in handler(self).items() if value is not None and key not in unused}

    @model_validator(mode="after")
    def _check(self) -> Step:
        verbs = self.verbs()
        if len(verbs) != 1:
            message = f"has the keys {listing(verbs)}" if verbs else "does nothing"
            f.complain(message, f"write exactly one of {listing(VERBS)} in each step")
        if (self.pattern is None) != (self.replacement is None):
            f.complain("has only one of pattern and replacement", "write both of them")
        if self.pattern is not None and self.replacement is not None:
            groups = re.compile(self.pattern).groups
            if wrong := [number for number in _GROUP.findall(self.replacement) if int(number) > groups]:
                f.complain(f"has a replacement with \\{wrong[0]}", f"the pattern has {groups} groups")
        if self.command is not None and not self.command[0].startswith("/"):
            f.complain("has a command without its full path", "write it, as in [/usr/local/bin/map-user]")
        if "{{" in str(self.command):
            f.complain("has a command with an argument for the name", "read the name from standard input")
        for account, names in _shared(self.table or {}):
            f.complain(
                f"gives the account {account} to {listing([show(name) for name in names])}",
                "give each account to one name; two people must not have one account",
            )
        return self


VERBS = ("claim", "strip_realm", "fold_case", "pattern", "table", "command")
"""The keys that determine what a step does."""


def _shared(table: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    names: dict[str, list[str]] = {}
    for name, account in table.items():
        names.setdefault(account, []).append(name)
    return [(account, each) for account, each in names.items() if len(each) > 1]


def check_steps(steps: Sequence[Step]) -> None:
    """Reject a mapping with steps that do not fit together."""
    if any(step.claim is not None for step in steps[1:]):
        f.complain("has a claim after another step", "write the claim first")
    if sum(step.command is not None for step in steps) > 1:
        f.complain("has more than one command", "let one command do all of it")


@dataclass(frozen=True)
class RefusedName(Exception):
    """The mapping gives no account to a name.

    Attributes:
        reason: One of ``characters``, ``realm``, ``pattern``, ``table``, ``command`` and ``unknown``. ``unknown``
            means that the command failed, so that the account may be known later.
    """

    reason: str


def map_name(
    steps: Sequence[Step], received: str, *, run: Callable[[Sequence[str], str], str | None] | None = None
) -> str:
    """Return the account of a name that the single sign-on reports.

    Args:
        steps: The mapping. A step with ``claim`` has already chosen the name.
        received: The name.
        run: Runs a command with a name, and returns what it prints. It returns None if the command fails.

    Raises:
        RefusedName: There is no account for the name.
    """
    try:
        length = len(received.encode())
    except UnicodeEncodeError:  # JSON can contain a half of a character
        raise RefusedName("characters") from None
    if not 0 < length <= LONGEST or any(ord(each) < 32 or ord(each) == 127 for each in received):
        raise RefusedName("characters")
    name = received
    for step in steps:
        name = _apply(step, name, run)
    return name


def person_key(steps: Sequence[Step], received: str) -> str:
    """Return what the hub knows a person by. If the mapping ignores case, a person may sign in with another one."""
    return received.translate(_LOWER) if any(step.fold_case for step in steps) else received


def _apply(step: Step, name: str, run: Callable[[Sequence[str], str], str | None] | None) -> str:
    if step.strip_realm is not None:
        return _strip(name, step.strip_realm)
    if step.fold_case is not None:
        return name.translate(_LOWER)
    if step.pattern is not None and step.replacement is not None:
        return _replace(name, step.pattern, step.replacement)
    if step.table is not None:
        if name not in step.table:
            raise RefusedName("table")
        return step.table[name]
    return _ask(step.command, name, run) if step.command is not None else name


def _ask(command: Sequence[str], name: str, run: Callable[[Sequence[str], str], str | None] | None) -> str:
    answer = run(command, name) if run is not None else None
    if not answer:
        raise RefusedName("unknown" if answer is None else "command")
    return answer


_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def _replace(name: str, pattern: str, replacement: str) -> str:
    # Apache compares bytes. Without the flags of str, Python's sets of characters are the same as Apache's.
    found = re.fullmatch(pattern.encode(), name.encode())
    if found is None:
        raise RefusedName("pattern")
    groups = found.groups()
    text = _GROUP.sub(lambda number: (groups[int(number[1]) - 1] or b"").decode(errors="replace"), replacement)
    if not text:
        raise RefusedName("pattern")
    return text


def _strip(name: str, realms: Sequence[str]) -> str:
    user, at, realm = name.partition("@")
    if not user or not at or realm not in realms:
        raise RefusedName("realm")
    return user
