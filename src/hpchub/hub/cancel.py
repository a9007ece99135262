"""The cancellation of a start that is pending."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

PATIENCE = 10.0
"""How long to wait for the end of a start that is cancelled, in seconds."""


async def cancel_start(user: Any, spawner: Any) -> None:
    """Cancel a pending start in the same way as JupyterHub's API does.

    Args:
        user: JupyterHub's user who owns the session.
        spawner: The session's spawner, an ``HPCProfilesSpawner``.
    """
    if start := spawner._spawn_future:  # noqa: SLF001 JupyterHub offers no other access
        start.cancel()
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while spawner.pending in ("spawn", "check"):  # noqa: ASYNC110 JupyterHub only offers a flag
                await asyncio.sleep(0.05)
    if spawner.pending or not spawner.active:
        return
    spawner._stop_pending = True  # noqa: SLF001 JupyterHub's own handler marks the stop in this way
    try:
        await user.settings["proxy"].delete_user(user, spawner.name)
        await user.stop(spawner.name)
    finally:
        spawner._stop_pending = False  # noqa: SLF001
