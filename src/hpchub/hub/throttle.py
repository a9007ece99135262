"""Turns on the hub's one event loop: what takes long comes one at a time, so that everybody else gets answers between.

A start is tens of milliseconds of the hub's own work, most of it JupyterHub's. A class of students that starts at once
is a queue of it, in which each page and each health check would wait for its end.
"""

from __future__ import annotations

import asyncio
import time

PAUSE = 0.005  # seconds
PATIENCE = 0.2  # seconds


class Turns:
    """One turn after the other, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._next = asyncio.Lock()
        self._taken = -PATIENCE

    async def take(self) -> None:
        """Wait for a turn: nobody else was given one meanwhile, and the loop has done what it had to do.

        That is so when a short sleep ends in time. On a machine that is too busy for that it is enough to have waited.
        Who comes alone does not wait at all.
        """
        if not self._next.locked() and time.monotonic() - self._taken > PATIENCE:
            self._taken = time.monotonic()
            return
        async with self._next:
            deadline = time.monotonic() + PATIENCE
            now = time.monotonic()
            while True:
                asleep = now
                await asyncio.sleep(PAUSE)
                now = time.monotonic()
                if now - asleep < 2 * PAUSE or now > deadline:
                    self._taken = now
                    return
