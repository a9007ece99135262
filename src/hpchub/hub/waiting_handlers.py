"""The actions of the page of a start, as forms that work without JavaScript, and the variables of the page."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from jupyterhub.handlers.base import BaseHandler
from jupyterhub.scopes import needs_scope
from jupyterhub.utils import url_escape_path, url_path_join
from tornado import web

from hpchub.hub.cancel import PATIENCE, cancel_start
from hpchub.hub.handlers import Throttled
from hpchub.hub.named_sessions import in_use
from hpchub.hub.page_texts import tr
from hpchub.hub.session_names import free_server_name
from hpchub.hub.start_page import StartPageHandler
from hpchub.hub.user_error import UserError
from hpchub.messages import Message, marked

if TYPE_CHECKING:
    from hpchub.hub.profiles_spawner import HPCProfilesSpawner

_NOT_BESIDE = marked("This profile cannot start beside the start that waits. Choose one of the smaller profiles there.")


async def waiting_page(handler: Any, user: Any, spawner: HPCProfilesSpawner) -> dict[str, Any]:
    """Return the variables of the page of a start.

    Args:
        handler: The handler of the request.
        user: JupyterHub's user who owns the session.
        spawner: The session's spawner.
    """
    partner = spawner.runtime.replacements.partner(spawner.key)
    return {
        "progress": spawner.start_progress,
        "now": time.time(),
        "cancel_url": _url(handler, "cancel", user, spawner.name),
        "mail_url": _url(handler, "mail-when-ready", user, spawner.name),
        "mail_address": await spawner.mail_address(),
        "wants_mail": spawner.wants_mail,
        "smaller_url": _url(handler, "smaller", user, spawner.name),
        "smaller_profiles": spawner.smaller_profiles,
        "partner_url": partner and _url(handler, "spawn-pending", user, partner.server),
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
            raise UserError(404, Message("There is no such session, or you may not see it."))
        return user, user.spawners[server_name]

    async def cancel(self, user: Any, spawner: HPCProfilesSpawner) -> None:
        """Cancel a start, and wait for some seconds. A session that does not start stays as it is."""
        if spawner.pending in ("spawn", "check"):
            spawner.stop_requested(self.current_user.name)
            task = spawner.runtime.background("Cannot cancel a start", cancel_start(user, spawner))
            await asyncio.wait({task}, timeout=PATIENCE)

    def show_progress(self, user: Any, server_name: str) -> None:
        """Redirect the browser to the page of a start."""
        self.redirect(_url(self, "spawn-pending", user, server_name))


class CancelHandler(StartActionHandler):
    """Cancel a start: ``POST /hub/cancel/USERNAME`` or ``…/USERNAME/SERVERNAME``. A running session goes on."""

    @web.authenticated
    @needs_scope("delete:servers")  # type: ignore[untyped-decorator]
    async def post(self, user_name: str, server_name: str = "") -> None:
        """Cancel the start, wait for some seconds, and show the home page."""
        await self.cancel(*self.pending_spawner(user_name, server_name))
        self.redirect(url_path_join(self.hub.base_url, "home"))


class StopHandler(StartActionHandler):
    """End a session: ``POST /hub/stop/USERNAME`` or ``…/USERNAME/SERVERNAME``. A start is cancelled.

    The home page uses it if the browser has no JavaScript.
    """

    @web.authenticated
    @needs_scope("delete:servers")  # type: ignore[untyped-decorator]
    async def post(self, user_name: str, server_name: str = "") -> None:
        """End the session, wait for some seconds, and show the home page."""
        user, spawner = self.pending_spawner(user_name, server_name)
        await self.cancel(user, spawner)
        if spawner.ready and not spawner.pending:
            spawner.stop_requested(self.current_user.name)
            await self.stop_single_user(user, spawner.name)
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


class SwitchHandler(StartPageHandler):
    """Start a smaller profile while a start waits: ``POST /hub/smaller/USERNAME`` or ``…/USERNAME/SERVERNAME``.

    The field ``profile`` is the key of the profile. The first start keeps its place in the queue. It is cancelled when
    the second session is ready, and the other way round.
    """

    @needs_scope("servers")  # type: ignore[untyped-decorator]
    async def _post(self, user_name: str, server_name: str, display_name: str) -> None:
        """Start the second session, and show its page."""
        user = self.find_user(user_name)
        if user is None or (server_name and server_name not in user.orm_spawners):
            raise UserError(404, Message("There is no such session, or you may not see it."))
        first = user.spawners[server_name]
        if first.pending not in ("spawn", "check"):
            self.redirect(_url(self, "spawn-pending", user, server_name))
            return
        key = self.get_body_argument("profile", "")
        if key not in [each.key for each in first.smaller_profiles]:
            raise UserError(400, Message(_NOT_BESIDE))
        used = {name for name in user.orm_spawners if in_use(user, name)} | {server_name}
        part, name = free_server_name(used)
        name = tr(name)
        if part:
            await self._check_named_server_request(user, part, name)
        second = user.get_or_create_spawner(part, name, replace_failed=True)
        replacements = first.runtime.replacements
        if not replacements.add(first.key, second.key):
            raise UserError(400, Message(_NOT_BESIDE))
        try:
            await self._wrap_spawn_single_user(
                user, part, name, second, _url(self, "spawn-pending", user, part), {"profile": key}
            )
        except Exception:
            replacements.remove(second.key)
            raise
