"""Parse the options of a job: the ``#PBS`` and ``#BSUB`` lines of its script, and the command line."""

from __future__ import annotations

import getopt
import shlex
import sys
from pathlib import Path

from lab_emulator.common import Usage

Options = list[tuple[str, str]]


def read_script(arguments: list[str]) -> str:
    """Return the script, read from the named file or from standard input.

    Raises:
        OSError: The file cannot be read.
    """
    if arguments and arguments[0] != "-":
        return Path(arguments[0]).read_text()
    return sys.stdin.read()


def lines(script: str, prefixes: tuple[str, ...], *, everywhere: bool = False) -> list[str]:
    """Return the directives of a script without their prefix.

    PBS stops at the first line that is neither blank nor a comment (RG 2.57.3.1). LSF reads the whole script, so it
    needs ``everywhere``.
    """
    found = []
    for number, line in enumerate(script.splitlines()):
        word = line.split(maxsplit=1)[:1]
        if word and line.startswith(prefixes) and word[0] in prefixes:
            found.append(line[len(word[0]) :].strip())
        elif line.strip() and not line.startswith(("#", ":")) and not everywhere and number:
            break
    return found


def parse(arguments: list[str], options: str) -> tuple[Options, list[str]]:
    """Return the options in their original order, and the remaining arguments.

    Raises:
        Usage: An option is unknown, or its argument is missing.
    """
    try:
        return getopt.getopt(arguments, options)
    except getopt.GetoptError as error:
        how = "invalid option" if "recognized" in error.msg else "option requires an argument"
        raise Usage(f"{how} -- '{error.opt}'") from None


def split(line: str) -> list[str]:
    """Split a directive into words.

    Raises:
        Usage: A quote is not closed.
    """
    try:
        return shlex.split(line)
    except ValueError as error:
        raise Usage(f"directive error: {line}: {error}") from None
