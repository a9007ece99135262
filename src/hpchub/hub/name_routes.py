"""The routes of sessions that are over, while the user's session without a name runs.

The address of a session with a name, ``/user/NAME/PART/``, is below that of the session without a name. After the
end of the first one, the proxy would send its requests to the second one. A browser tab would then ask another session
for its files and kernels, and take the answers for its own. Such addresses lead to the hub instead.
"""

from __future__ import annotations

import logging
from typing import Any

from jupyterhub import orm
from jupyterhub.utils import url_escape_path, url_path_join

log = logging.getLogger(__name__)

HELD = "hpchub_held"
"""The mark of a route that leads to the hub because its session does not run."""


class NameRoutes:
    """A mixin for JupyterHub's proxies that sends the requests for sessions that are over to the hub."""

    _held: frozenset[str] = frozenset()

    async def add_user(self: Any, user: Any, server_name: str = "") -> None:
        """Add the route of a session; see ``Proxy.add_user``."""
        await super().add_user(user, server_name)  # type: ignore[misc]
        if not server_name:
            for name in sorted(user.orm_spawners):
                await self._hold(user, name)

    async def delete_user(self: Any, user: Any, server_name: str = "") -> None:
        """Remove the route of a session; see ``Proxy.delete_user``."""
        await super().delete_user(user, server_name)  # type: ignore[misc]
        await self._hold(user, server_name, ends=True)

    async def get_all_routes(self: Any) -> dict[str, Any]:
        """Return the proxy's routes except for those of sessions that are over, which JupyterHub does not know."""
        routes: dict[str, Any] = await super().get_all_routes()  # type: ignore[misc]
        self._held = frozenset(spec for spec, route in routes.items() if HELD in route["data"])
        return {spec: route for spec, route in routes.items() if spec not in self._held}

    async def hold_all(self: Any, user_dict: dict[int, Any]) -> None:
        """Restore the routes of sessions that are over, and remove those of names that do not exist any more.

        Args:
            user_dict: JupyterHub's users, by their ids. Those without an entry have no session.
        """
        known = set()
        named = self.app.db.query(orm.Spawner.user_id, orm.Spawner.name).filter(orm.Spawner.name != "").all()
        for user_id, name in named:
            # Reading an item of this dictionary would create the user's object.
            user = dict.get(user_dict, user_id)
            if user is not None and _runs(user, ""):
                known.add(_spec(user, name))
                if _spec(user, name) not in self._held:
                    await self._hold(user, name)
        for spec in self._held - known:
            await self.delete_route(spec)
        self._held = frozenset()

    async def _hold(self: Any, user: Any, name: str, *, ends: bool = False) -> None:
        """Send the requests for a session to the hub, unless it runs, or the proxy does so without a route."""
        if not name or not _runs(user, "") or (_runs(user, name) and not ends):
            return
        try:
            await self.add_route(_spec(user, name), self.hub.host, {HELD: True})
        except Exception as error:  # noqa: BLE001 the periodic check of the routes repeats this after any error
            log.warning("Cannot send requests for the session %s of %s to the hub: %r", name, user.name, error)


def _spec(user: Any, name: str) -> str:
    return str(url_path_join(user.proxy_spec, url_escape_path(name), "/"))


def _runs(user: Any, name: str) -> bool:
    """Return whether a session runs, or is about to."""
    spawner = dict.get(user.spawners, name)
    return spawner is not None and bool(spawner.active)
