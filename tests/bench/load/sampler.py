"""Asks a hub again and again whether it is well, from a process of its own: ``sampler URL [SOCKET]``.

A line for each question: when it was asked, and the milliseconds that the answer took, or null when there was none. A
question does not wait for the answer to the one before: a hub that is busy for a second misses twenty, and all count.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import aiohttp

INTERVAL = 0.05  # seconds
PATIENCE = 10.0  # seconds


async def ask(session: aiohttp.ClientSession, url: str) -> None:
    """Ask once."""
    when, begin = time.time(), time.perf_counter()
    took: float | None = None
    try:
        async with session.get(url) as answer:
            if answer.status == 200:
                took = (time.perf_counter() - begin) * 1000
    except (OSError, aiohttp.ClientError):
        pass
    print(json.dumps([when, took]), flush=True)


async def main(url: str, socket: str = "") -> None:
    """Ask until the end."""
    connector = aiohttp.UnixConnector(socket, limit=0) if socket else aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    tasks: set[asyncio.Task[None]] = set()
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        due = time.monotonic()
        while True:
            task = asyncio.create_task(ask(session, url))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            due += INTERVAL
            await asyncio.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
