"""A throttle that keeps the hub responsive while many sessions start at once.

A start blocks the hub's event loop for tens of milliseconds, mostly in JupyterHub's own code. If a whole class starts
sessions at once, every page and every health check would wait until all starts are done. The throttle lets one start
run at a time and gives the event loop time for other requests in between.
"""

from __future__ import annotations

import asyncio
import time

PAUSE = 0.005
"""How long a waiting task sleeps before it checks the event loop again, in seconds."""

LONGEST_WAIT = 0.2
"""How long the first task in the queue waits at most, in seconds."""


class Throttle:
    """A queue for work that blocks the event loop. Tasks get their turns in the order in which they asked for them."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._last_turn = -LONGEST_WAIT

    async def wait_for_turn(self) -> None:
        """Wait until the previous turn is over and the event loop has handled other requests.

        The event loop is free when a short sleep ends in time. On a machine that is too busy for that, the turn begins
        after ``LONGEST_WAIT``. If no other task has had a turn for that long, the method returns at once.
        """
        if not self._lock.locked() and time.monotonic() - self._last_turn > LONGEST_WAIT:
            self._last_turn = time.monotonic()
            return
        async with self._lock:
            deadline = time.monotonic() + LONGEST_WAIT
            now = time.monotonic()
            while True:
                asleep = now
                await asyncio.sleep(PAUSE)
                now = time.monotonic()
                if now - asleep < 2 * PAUSE or now > deadline:
                    self._last_turn = now
                    return
