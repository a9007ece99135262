"""Filters that check values before they become part of Apache's configuration."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ansible.errors import AnsibleFilterError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Kind(NamedTuple):
    """The values that an argument may have.

    Attributes:
        pattern: A regular expression that matches the whole value. No pattern matches a line break, a quote, or a
            variable or expression of Apache.
        valid: A description of the valid values, for the error message.
    """

    pattern: str
    valid: str


KINDS = {
    "word": Kind(r"[A-Za-z0-9._~:/@+-]+", "letters, digits and the characters . _ ~ : / @ + -"),
    "origin": Kind(r"https://[A-Za-z0-9.:-]+", "an address such as https://jupyter.example.org, without a path"),
    "url": Kind(r"https://[A-Za-z0-9._~:/?&=%+-]+", "an address that starts with https://"),
    "ldap_url": Kind(r"ldaps?://[A-Za-z0-9.-]+(?::[0-9]+)?", "an address such as ldaps://ldap.example.org"),
    "ldap_text": Kind(
        r"[A-Za-z0-9 ._=,@:*()&|!~<>+-]*",
        "letters, digits, spaces and the characters . _ = , @ : * ( ) & | ! ~ < > + -",
    ),
    "path": Kind(r"/[A-Za-z0-9_./-]+", "an absolute path of letters, digits and the characters _ . / -"),
    # Apache also accepts host names, and would trust every address that the DNS returns for them.
    "network": Kind(
        r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?:/[0-9]{1,2})?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:/[0-9]{1,3})?",
        "an IP address, or a network such as 10.0.0.0/8 or fd00::/8",
    ),
    "separator": Kind(r"[;,:| ]{0,2}", "at most two of the characters ; , : | and space"),
    "pattern": Kind(
        r"\^?(?:[A-Za-z0-9_.@*+?|(){}\[\],:-]|\[\^|\\[.@+_dw-])+\$?",
        "a regular expression of literal characters, sets, ( | ) * + ? {n,m}, and ^ and $ around the whole only",
    ),
    "claim": Kind(r"[A-Za-z0-9_-]+", "the name of a claim at the top level, of letters, digits and the characters _ -"),
    "regex": Kind(
        r"[^\"$\s{}]*\$?", "a regular expression without spaces, quotes and braces, and with $ at its end only"
    ),
}


def apache_problems(arguments: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the values that could change the meaning of Apache's configuration.

    The site's model already checks what the values mean. This check is for a role that is used without the model. It
    only makes sure that no value can add a directive, read a variable, or end the argument that contains it.

    Args:
        arguments: For each of ``KINDS``, the arguments of that kind by name. A value is text or a list of texts.

    Returns:
        One message for each argument that has invalid values.

    Raises:
        AnsibleFilterError: A kind is unknown.
    """
    problems = []
    for name, values in arguments.items():
        if name not in KINDS:
            raise AnsibleFilterError(f'apache_problems: kind "{name}" is unknown; valid: {", ".join(KINDS)}')
        kind = KINDS[name]
        for argument, value in values.items():
            items = [value] if isinstance(value, str) else value
            if refused := [str(item) for item in items if not re.fullmatch(kind.pattern, str(item))]:
                shown = ", ".join(f'"{item}"' for item in refused)
                problems.append(f"{argument}: {shown} cannot be part of Apache's configuration; write {kind.valid}")
    return problems


def apache_group(group: str, separator: str = "") -> str:
    """Return the regular expression with which mod_auth_openidc recognises a group exactly.

    ``Require claim`` with a value ignores blanks in Debian 12. A regular expression compares every character.

    Args:
        group: The name of the group.
        separator: The text between two groups in a claim that is text, or empty if such a text is one group.

    Returns:
        The expression for use between double quotes. Each special character, also of Apache's own syntax, is written in
        hexadecimal digits. Its backslash is doubled, because Apache interprets the argument as an expression first.
    """
    begin, end = (rf"(?:^|{_literal(separator)})", rf"(?:{_literal(separator)}|\\z)") if separator else ("^", r"\\z")
    return begin + _literal(group) + end


def _literal(text: str) -> str:
    """Return a regular expression that matches exactly a text. Non-ASCII characters are UTF-8, as in the claims."""
    return re.sub(rb"[^A-Za-z0-9_/=:,@ -]", lambda found: rb"\\x%02x" % ord(found[0]), text.encode()).decode()


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, object]:
        """Return the filters by name."""
        return {"apache_problems": apache_problems, "apache_group": apache_group}
