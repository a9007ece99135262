"""Send health checks to a hub at a constant rate, from a separate process: ``sampler URL [SOCKET]``.

It writes a line for each request: the time of the request and the response time in milliseconds, or null without a
response. A request does not wait for the previous response, so a hub that blocks for a second delays twenty requests.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import aiohttp

INTERVAL = 0.05
"""Time between two requests, in seconds."""
TIMEOUT = 10.0
"""Timeout of a request, in seconds."""


async def ask(session: aiohttp.ClientSession, url: str) -> None:
    """Send one request and print its line."""
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
    """Send requests until the process is terminated."""
    connector = aiohttp.UnixConnector(socket, limit=0) if socket else aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
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
