"""The actions of the page of a start, as forms that work without JavaScript, and the variables of the page."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from jupyterhub.handlers.base import BaseHandler
from jupyterhub.scopes import needs_scope
from jupyterhub.utils import url_escape_path, url_path_join
from tornado import web

from hpchub.hub.handlers import Throttled

if TYPE_CHECKING:
    from hpchub.hub.profiles_spawner import HPCProfilesSpawner

PATIENCE = 10.0
"""How long a request waits for the end of a start that it cancels, in seconds."""


async def waiting_page(handler: Any, user: Any, spawner: HPCProfilesSpawner) -> dict[str, Any]:
    """Return the variables of the page of a start.

    Args:
        handler: The handler of the request.
        user: JupyterHub's user who owns the session.
        spawner: The session's spawner.
    """
    return {
        "progress": spawner.start_progress,
        "now": time.time(),
        "cancel_url": _url(handler, "cancel", user, spawner.name),
        "mail_url": _url(handler, "mail-when-ready", user, spawner.name),
        "mail_address": await spawner.mail_address(),
        "wants_mail": spawner.wants_mail,
    }


def _url(handler: Any, action: str, user: Any, server_name: str) -> str:
    return str(url_path_join(handler.hub.base_url, action, user.escaped_name, url_escape_path(server_name)))


class StartActionHandler(Throttled, BaseHandler):  # type: ignore[misc]
    """A form of the page of a start."""

    def pending_spawner(self, user_name: str, server_name: str) -> tuple[Any, HPCProfilesSpawner]:
        """Return the user and the spawner of a session.

        Raises:
            web.HTTPError: There is no such session (404).
        """
        user = self.find_user(user_name)
        if user is None or (server_name and server_name not in user.orm_spawners):
            raise web.HTTPError(404, "There is no such session, or you may not see it.")
        return user, user.spawners[server_name]

    def show_progress(self, user: Any, server_name: str) -> None:
        """Redirect the browser to the page of a start."""
        self.redirect(_url(self, "spawn-pending", user, server_name))


class CancelHandler(StartActionHandler):
    """Cancel a start: ``POST /hub/cancel/USERNAME`` or ``…/USERNAME/SERVERNAME``. A running session goes on."""

    @web.authenticated
    @needs_scope("delete:servers")  # type: ignore[untyped-decorator]
    async def post(self, user_name: str, server_name: str = "") -> None:
        """Cancel the start, wait for some seconds, and show the home page."""
        user, spawner = self.pending_spawner(user_name, server_name)
        if spawner.pending in ("spawn", "check"):
            spawner.stop_requested(self.current_user.name)
            task = spawner.runtime.background("Cannot cancel a start", cancel_start(user, spawner))
            await asyncio.wait({task}, timeout=PATIENCE)
        self.redirect(url_path_join(self.hub.base_url, "home"))


class MailHandler(StartActionHandler):
    """Ask for a mail when a start is complete: ``POST /hub/mail-when-ready/USERNAME`` or ``…/USERNAME/SERVERNAME``.

    The field ``wanted`` is ``yes``, or anything else to withdraw the wish. The mail goes to the owner of the session.
    """

    @web.authenticated
    @needs_scope("servers")  # type: ignore[untyped-decorator]
    async def post(self, user_name: str, server_name: str = "") -> None:
        """Remember the wish, and show the page of the start again."""
        user, spawner = self.pending_spawner(user_name, server_name)
        if spawner.pending in ("spawn", "check"):
            wanted = self.get_body_argument("wanted", "") == "yes"
            spawner.wish_mail(wanted and bool(await spawner.mail_address()))
        self.show_progress(user, server_name)


async def cancel_start(user: Any, spawner: HPCProfilesSpawner) -> None:
    """Cancel a pending start in the same way as JupyterHub's API does.

    Args:
        user: JupyterHub's user who owns the session.
        spawner: The session's spawner.
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
