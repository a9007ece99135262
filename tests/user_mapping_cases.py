"""Names and the accounts that they get. Tests compare the model and the web server with this table."""

from __future__ import annotations

from typing import Any, NamedTuple

COMMAND_ANSWERS = {"u1": "anna", "first.last": "AB1234", "unknown-to-the-site": "", "AB": "2023abc"}
"""What the site's command prints. It fails for every other name."""


class Case(NamedTuple):
    """A mapping, and the account or the reason of the refusal, in brackets, for each name."""

    name: str
    steps: list[dict[str, Any]]
    expected: dict[str, str]


REALM = {"strip_realm": ["example.org", "EXAMPLE.ORG"]}
LOWER = {"fold_case": "lower"}
CASES = [
    Case(
        "no-step",
        [],
        {
            "anna": "anna", "first.last": "first.last", "AB1234": "AB1234", "2023abc": "2023abc", "a@b": "a@b",
            "a\nb": "[characters]", "a\x7f": "[characters]", "a\x00b": "[characters]", "x" * 255: "x" * 255,
            "x" * 256: "[characters]", "é" * 128: "[characters]",
        },
    ),
    Case(
        "realm",
        [REALM],
        {
            "anna@example.org": "anna", "anna@EXAMPLE.ORG": "anna", "anna": "[realm]", "anna@": "[realm]",
            "anna@Example.org": "[realm]", "anna@example.org.evil.com": "[realm]", "anna@evil.com": "[realm]",
            "@example.org": "[realm]", "anna@evil.com@example.org": "[realm]", "root@example.org@evil.com": "[realm]",
            "anna@example.org ": "[realm]", "anna@exampleXorg": "[realm]",
        },
    ),
    Case(
        "lower",
        [LOWER],
        {
            "AnnA": "anna", "ÉVA": "Éva", "AB-12_Z.X": "ab-12_z.x", "İI\u0131": "İi\u0131",
            "\u212aelvin": "\u212aelvin",
            "\u0410nna": "\u0410nna", "\uff21B": "\uff21b", "[\\]^_`{": "[\\]^_`{",
        },
    ),
    Case(
        "look-alikes",
        [REALM, {"pattern": r"([a-z]+)", "replacement": r"\1"}],
        {
            "\u0430nna@example.org": "[pattern]", "\uff41nna@example.org": "[pattern]",
            "an\u00adna@example.org": "[pattern]",
            "anna\u200b@example.org": "[pattern]", "anna@example\u2024org": "[realm]",
            "anna\uff20example.org": "[realm]",
            "..@example.org": "[pattern]", "-x@example.org": "[pattern]", "a/../b@example.org": "[pattern]",
            "$(id)@example.org": "[pattern]", "a;id@example.org": "[pattern]", "a b@example.org": "[pattern]",
        },
    ),
    Case(
        "pattern",
        [{"pattern": r"(?:staff|student)-([a-z]+)\.([a-z]+)", "replacement": r"\2_\1"}],
        {
            "staff-anna.berg": "berg_anna", "student-x.y": "y_x", "xstaff-anna.berg": "[pattern]",
            "staff-anna.bergx1": "[pattern]", "staff-anna.berg ": "[pattern]", "": "[characters]",
            "staff-annaxberg": "[pattern]",
        },
    ),
    Case(
        "group-without-a-match",
        [{"pattern": "(?:(a)|(b))(c?)", "replacement": r"x\1\2\3"}],
        {"a": "xa", "bc": "xbc", "c": "[pattern]"},
    ),
    Case("empty-result", [{"pattern": "(a?)b", "replacement": r"\1"}], {"ab": "a", "b": "[pattern]"}),
    Case(
        "bytes",
        [{"pattern": r"(\w+)(..)", "replacement": r"\1"}],
        {"aé": "a", "abc": "a", "éab": "[pattern]", "ab": "[pattern]"},
    ),
    Case("alternatives", [{"pattern": "a|ab", "replacement": "x"}], {"ab": "x", "a": "x", "abc": "[pattern]"}),
    Case(
        "anchors",
        [{"pattern": r"^[A-Z]{2}[0-9]{4}$", "replacement": "hpc"}],
        {"AB1234": "hpc", "AB12345": "[pattern]", "xAB1234": "[pattern]"},
    ),
    Case(
        "table",
        [{"table": {"anna@example.org": "anna", "https://id.example.org/7": "first.last", "Élodie B": "2023abc"}}],
        {
            "anna@example.org": "anna", "https://id.example.org/7": "first.last", "Élodie B": "2023abc",
            "ANNA@example.org": "[table]", "anna": "[table]", "__index": "[table]", "1": "[table]",
        },
    ),
    Case(
        "all-in-order",
        [REALM, LOWER, {"pattern": r"([a-z]+)\+hpc", "replacement": r"\1"}, {"table": {"anna": "AB1234"}}],
        {"Anna+hpc@example.org": "AB1234", "Anna@example.org": "[pattern]", "bob+hpc@example.org": "[table]",
         "Anna+hpc@evil.com": "[realm]"},
    ),
    Case(
        "command",
        [{"command": ["/usr/local/bin/map-user"]}],
        {"u1": "anna", "first.last": "AB1234", "unknown-to-the-site": "[command]", "x": "[unknown]", "AB": "2023abc"},
    ),
]  # fmt: skip
