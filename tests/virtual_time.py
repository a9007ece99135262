"""An event loop with a virtual clock, so that tests do not depend on the speed of the machine."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

START = 1000.0
"""The first time of the clock, in seconds. Like a monotonic clock, it does not start at 0."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits: when nothing is left to run, its clock jumps to the next timer.

    Use it only for code without real I/O. A test that would wait forever fails with a RuntimeError.
    """

    def __init__(self) -> None:
        self._now = START
        super().__init__(_NoWait(self.advance))

    def time(self) -> float:
        """Return the virtual time in seconds. Use this function as the clock of the code under test."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass, as work that occupies the loop would."""
        self._now += seconds


class _NoWait(selectors.DefaultSelector):
    def __init__(self, advance: Callable[[float], None]) -> None:
        super().__init__()
        self._advance = advance

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("every task waits, and there is no timer")
        self._advance(max(timeout, 0.0))
        return super().select(0)


def run(main: Callable[[VirtualTimeLoop], Coroutine[None, None, T]]) -> T:
    """Run ``main(loop)`` in virtual time and return its result."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualTimeLoop)
        return runner.run(main(loop))
