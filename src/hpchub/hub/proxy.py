"""The hub's view of the proxy: it starts the search for orphaned jobs and restores the routes of a restarted proxy."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from jupyterhub.proxy import ConfigurableHTTPProxy
from traitlets import Float, Unicode

from hpchub.hub.orphans import Janitor
from hpchub.hub.runtime import DEFAULT_SETTINGS, runtime

log = logging.getLogger(__name__)


BACKLOG = 4096
"""Connections that may wait for a busy hub; Linux allows no more by default. Tornado's 128 are a class of students that
presses Start at once: a unix socket turns away whoever comes after them, and the proxy says that there is no hub."""


class HubProxy(ConfigurableHTTPProxy):  # type: ignore[misc]
    """The proxy, as JupyterHub sees it, and what starts the janitor and looks whether the proxy is another one.

    JupyterHub calls ``check_routes`` when it has started, and regularly from then on, with every user that it knows:
    by the first call its database is loaded and each session of the process before has its spawner.
    """

    settings_file = Unicode(DEFAULT_SETTINGS, config=True, help="The settings file that the role jupyterhub writes.")

    watch_interval = Float(2.0, config=True, help="Seconds between two looks whether the proxy was started again.")

    _janitor: Janitor | None = None

    async def check_routes(
        self, user_dict: dict[int, Any], service_dict: dict[str, Any], routes: dict[str, Any] | None = None
    ) -> None:
        """See JupyterHub's Proxy."""
        if self._janitor is None:
            shared = runtime(self.settings_file)
            for listener in self.app.http_server._sockets.values():  # noqa: SLF001 tornado has no other way to them
                listener.listen(BACKLOG)

            def sessions() -> set[str]:
                return {spawner.session for user in user_dict.values() for spawner in user.spawners.values()}

            self._janitor = Janitor(shared, sessions)
            shared.background("the janitor has ended", self._janitor.run())
            shared.background("nobody looks after the proxy", self._watch(user_dict, service_dict))
        await super().check_routes(user_dict, service_dict, routes)

    async def _watch(self, user_dict: dict[int, Any], service_dict: dict[str, Any]) -> None:
        """Give a proxy that was started again its routes: it has none, and a new socket."""
        socket = Path(unquote(urlsplit(self.api_url).netloc))
        known = _stamp(socket)
        while True:
            await asyncio.sleep(self.watch_interval)
            now = _stamp(socket)
            if now in (None, known):
                continue
            log.warning("the proxy was started again: its routes are set anew")
            try:
                await self.check_routes(user_dict, service_dict)
            except Exception as error:  # noqa: BLE001 whatever it is, the next look tries again
                log.warning("setting the proxy's routes: %r", error)
            else:
                known = now


def _stamp(path: Path) -> tuple[int, int] | None:
    """What tells a file from the one that was there before; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns
