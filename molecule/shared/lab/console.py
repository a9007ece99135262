"""Progress messages and errors of the lab's command-line programs."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_START = time.monotonic()


class LabError(Exception):
    """An error that the user can fix.

    The message is one line. It first describes the problem and then explains how to fix it.
    """


def progress(message: str) -> None:
    """Print a progress message with the number of seconds since the start.

    The message goes to standard error, because standard output is reserved for the result of a command.
    """
    print(f"[{time.monotonic() - _START:4.0f} s] {message}", file=sys.stderr, flush=True)


@contextmanager
def step(message: str) -> Iterator[None]:
    """Announce a step. If it takes two seconds or more, print its duration afterwards."""
    begin = time.monotonic()
    progress(message)
    yield
    if (took := time.monotonic() - begin) >= 2:
        progress(f"  done in {took:.0f} s")
