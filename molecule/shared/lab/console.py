"""What the lab says while it works, and how it says that it cannot."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_START = time.monotonic()


class LabError(Exception):
    """Something a person can mend. The message is one line: what is wrong, then how to mend it."""


def say(message: str) -> None:
    """Print a progress line with the seconds since the start.

    On standard error, so that the standard output of a command stays its result.
    """
    print(f"[{time.monotonic() - _START:4.0f} s] {message}", file=sys.stderr, flush=True)


@contextmanager
def step(message: str) -> Iterator[None]:
    """Announce a step, and say how long it took when that was worth a line."""
    begin = time.monotonic()
    say(message)
    yield
    if (took := time.monotonic() - begin) >= 2:
        say(f"  done in {took:.0f} s")
