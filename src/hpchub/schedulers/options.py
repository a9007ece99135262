"""The check of the scheduler options that a profile adds. No I/O.

hpchub reserves the options that it sets itself. Each scheduler lists its reserved options in its own module.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from hpchub.messages import listing

VALUE = r"[A-Za-z0-9_.,:=@/+*&|()\[\]-]*"
"""The pattern of an option's value. It excludes quotes, spaces, dollar signs, semicolons and backquotes."""
GETOPT = re.compile(rf"--[a-z][a-z0-9-]*(?:={VALUE})?|-[A-Za-z](?: ?(?!-){VALUE})?")
"""The pattern of a long option, or of a letter with its value directly after it or after a space.

The value after a space cannot be a second option.
"""
LETTER = re.compile(rf"-[A-Za-z](?: (?!-){VALUE})?")
"""The pattern of a letter with its value after a space. Letters directly after it could be further options."""
WORD = re.compile(rf"-[A-Za-z][A-Za-z_]*(?: (?!-){VALUE})?")
"""The pattern of a word after one dash, with its value after a space."""

QOS = re.compile(r"(?:--qos=|-q |-l qos=|-sla )(\S+)")
"""The options of Slurm, Moab, Torque and LSF that request a quality of service."""


@dataclass(frozen=True)
class ReservedOptions:
    """The options of one scheduler that a profile must not add.

    hpchub sets these options itself, or they would change the nature of the job: an array, an interactive job, other
    files or another shell.

    Attributes:
        long: Names of reserved long options without dashes. The value is the field of a profile that replaces the
            option, or empty. getopt_long accepts an unambiguous prefix of a name, so every prefix is reserved too.
        short: Names of reserved options after one dash, in the same form.
        values: Long options with some reserved values: the pattern of these values, and the field of a profile.
        words: Options with one dash with some reserved words in their values: the words in lower case, each with the
            field of a profile.
        permitted: All other options with one dash that exist. If empty, every option that is not reserved is permitted.
        form: The pattern of one option.
        example: A list of two valid options, for error messages.
    """

    long: dict[str, str]
    short: dict[str, str]
    values: dict[str, tuple[str, str]] = field(default_factory=dict)
    words: dict[str, dict[str, str]] = field(default_factory=dict)
    permitted: frozenset[str] = frozenset()
    form: re.Pattern[str] = GETOPT
    example: str = "[--exclusive, --qos=debug]"

    def problem(self, option: str) -> tuple[str, str] | None:
        """Return what is wrong with a profile's option and what to do, or None if the option is permitted.

        Args:
            option: One option with its value, for example ``--exclusive`` or ``-q debug``.
        """
        if not self.form.fullmatch(option):
            return "is not a single option", f"write each option as a separate item, as in {self.example}"
        if option.startswith("--"):
            taken = self._reserved_long(option)
        else:
            name = option[1] if self.form is GETOPT else option[1:].partition(" ")[0]
            if self.permitted and name not in self.permitted | set(self.short):
                return "is not an option that hpchub knows", f"known options: {listing(sorted(self.permitted))}"
            taken = self._reserved_short(name, option)
        if not taken:
            return None
        fields = set(taken.values())
        if len(fields) == 1 and (name := fields.pop()):
            return f"repeats the field {name}", f"set {name} of the profile or its queue instead"
        return "is set by hpchub", "leave it out"

    def _reserved_long(self, option: str) -> dict[str, str]:
        name, _, value = option[2:].partition("=")
        return {full: name_of_field for full, name_of_field in self.long.items() if full.startswith(name)} | {
            full: name_of_field
            for full, (pattern, name_of_field) in self.values.items()
            if full.startswith(name) and re.fullmatch(pattern, value)
        }

    def _reserved_short(self, name: str, option: str) -> dict[str, str]:
        words = set(re.findall(r"[a-z_][a-z0-9_]*", option.partition(" ")[2].lower()))
        taken = {name: self.short[name]} if name in self.short else {}
        return taken | {word: field for word, field in self.words.get(name, {}).items() if word in words}
