"""Option lists of batch scripts: ``#PBS`` and ``#BSUB`` lines, and what the command line says over them."""

from __future__ import annotations

import getopt
import shlex
import sys
from pathlib import Path

from lab_emulator.common import Usage

Options = list[tuple[str, str]]


def read_script(arguments: list[str]) -> str:
    """The script from the file that is named, or from standard input.

    Raises:
        OSError: it cannot be read.
    """
    if arguments and arguments[0] != "-":
        return Path(arguments[0]).read_text()
    return sys.stdin.read()


def lines(script: str, prefixes: tuple[str, ...], *, everywhere: bool = False) -> list[str]:
    """The directives of a script, without the prefix.

    PBS stops at the first line that is neither blank nor a comment (RG 2.57.3.1); LSF reads the whole script.
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
    """Options in the order in which they are given, and what is left.

    Raises:
        Usage: an option is unknown, or lacks its argument.
    """
    try:
        return getopt.getopt(arguments, options)
    except getopt.GetoptError as error:
        how = "invalid option" if "recognized" in error.msg else "option requires an argument"
        raise Usage(f"{how} -- '{error.opt}'") from None


def split(line: str) -> list[str]:
    """The words of a directive; everything after `` #`` is a comment of LSF's.

    Raises:
        Usage: a quote is not closed.
    """
    try:
        return shlex.split(line)
    except ValueError as error:
        raise Usage(f"directive error: {line}: {error}") from None
