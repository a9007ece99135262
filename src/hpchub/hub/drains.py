"""The drain watch: when a drain begins, it ends waiting starts. At the time of ``stop_at``, it stops sessions.

A drain refuses starts when they are requested; see ``HPCProfilesSpawner``. This module treats what is there already.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from hpchub.hub.service_stop import stop_session
from hpchub.hub.session_spawner import SessionSpawner
from hpchub.messages import Message, sentences
from hpchub.model.notices import in_force

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from hpchub.hub.profiles_spawner import HPCProfilesSpawner
    from hpchub.hub.runtime import Runtime
    from hpchub.model.notices import Notice

log = logging.getLogger(__name__)

INTERVAL = 5.0
"""The time between two looks at the drains, in seconds."""
STOPS_AT_ONCE = 20
"""How many sessions the hub stops at the same time."""


class DrainWatch:
    """A background task that applies the drains to sessions and to starts that wait in a queue.

    Args:
        runtime: The objects that all spawners of the hub share.
        users: Returns JupyterHub's users.
        delete_route: Removes a user's server from the proxy: JupyterHub's ``Proxy.delete_user``.
    """

    def __init__(
        self, runtime: Runtime, users: Callable[[], Iterable[Any]], delete_route: Callable[[Any, str], Awaitable[None]]
    ) -> None:
        self._runtime = runtime
        self._users = users
        self._delete_route = delete_route
        self._free = asyncio.Semaphore(STOPS_AT_ONCE)

    async def run(self) -> None:
        """Apply the drains periodically. This method never returns."""
        while True:
            try:
                await self.apply(time.time())
            except Exception:
                log.exception("Cannot apply the drains now; trying again")
            await asyncio.sleep(INTERVAL)

    async def apply(self, now: float) -> None:
        """Apply the drains that are in force.

        Args:
            now: The time, in seconds since 1970.
        """
        active = [notice for notice in self._runtime.notices if notice.drain and notice.is_active(now)]
        if not active:
            return
        stops = []
        for user in self._users():
            for spawner in list(user.spawners.values()):
                child = spawner.child_spawner
                drains = [each for each in active if isinstance(child, SessionSpawner) and each.covers(child.profile)]
                if not drains:
                    continue
                due = [drain for drain in drains if drain.stops <= now]
                child.driver.drain(in_force(drains[0]))
                if due and spawner.ready and not spawner.pending:
                    stops.append(self._stop(spawner, due[0]))
        await asyncio.gather(*stops)

    async def _stop(self, spawner: HPCProfilesSpawner, drain: Notice) -> None:
        async with self._free:
            reason = sentences(
                Message("The service stopped this session."), Message("{drain}.", drain=drain.title), drain.sentence
            )
            await stop_session(spawner, reason, "drain", self._delete_route)
