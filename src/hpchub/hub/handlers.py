"""The hub's own request handlers: throttled starts, pages of starts, a job's port report, and a session's state."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any

from jupyterhub.apihandlers import APIHandler
from jupyterhub.apihandlers.users import SpawnProgressAPIHandler, UserServerAPIHandler
from jupyterhub.handlers.pages import SpawnHandler, SpawnPendingHandler
from jupyterhub.scopes import needs_scope
from tornado import web
from tornado.httputil import url_concat

from hpchub.hub.outcome import UNEXPECTED
from hpchub.hub.runtime import runtime

if TYPE_CHECKING:
    from collections.abc import Awaitable


class Throttled:
    """A mixin for handlers whose POST requests need much of the hub's time."""

    async def prepare(self: Any) -> None:
        """Wait for a turn if this is a POST request, then continue as JupyterHub does."""
        if self.request.method == "POST":
            await runtime(self.settings["hpchub_settings_file"]).throttle.wait_for_turn()
        await super().prepare()  # type: ignore[misc]


class StartPageHandler(Throttled, SpawnHandler):  # type: ignore[misc]
    """JupyterHub's page that starts a server, throttled. A link to the page preselects a profile and starts nothing."""

    def _get_user_options(self, query_options: dict[str, list[str]]) -> dict[str, list[str]]:
        """Return no options: the form reads the profile of a link, and only the form can start a session."""
        return {}

    async def _render_form(
        self, for_user: Any, spawner_options_form: str, message: str = "", html_message: str = ""
    ) -> Any:
        """Render the form. JupyterHub's message for an unexpected error is not for users."""
        is_internal = bool(message) and message.startswith("HTTP 5")
        return await super()._render_form(
            for_user, spawner_options_form, UNEXPECTED if is_internal else message, html_message
        )


class StartAPIHandler(Throttled, UserServerAPIHandler):  # type: ignore[misc]
    """JupyterHub's REST endpoint that starts and stops a server, throttled."""

    @needs_scope("delete:servers")
    async def delete(self, user_name: str, server_name: str = "") -> None:
        """Stop a server, and remember who asked for it."""
        user = self.find_user(user_name)
        if user is not None and server_name in user.spawners:
            user.spawners[server_name].stopped_by = self.current_user.name
        await super().delete(user_name, server_name)


class PendingPageHandler(SpawnPendingHandler):  # type: ignore[misc]
    """JupyterHub's page of a start. After a failed start, its link keeps the page that the user wanted to open."""

    def render_template(self, name: str, **variables: Any) -> Any:
        """Render a template; see ``BaseHandler.render_template``."""
        target = self.get_argument("next", "")
        if target and "spawn_url" in variables:
            variables["spawn_url"] = url_concat(variables["spawn_url"], {"next": target})
        return super().render_template(name, **variables)


class ProgressHandler(SpawnProgressAPIHandler):  # type: ignore[misc]
    """JupyterHub's stream of a start's progress. It never contains the text of an unexpected exception."""

    def send_event(self, event: dict[str, Any]) -> Awaitable[None]:
        """Send an event. JupyterHub's event for a failed start contains the exception's text."""
        if event.get("failed"):
            user = self.find_user(self.path_args[0])
            outcome = user.spawners[(*self.path_args, "")[1] or ""].outcome
            event = {"progress": 100, "failed": True, "message": outcome.text if outcome else UNEXPECTED}
        return super().send_event(event)  # type: ignore[no-any-return]


class SessionHandler(APIHandler):  # type: ignore[misc]
    """The state of a session: ``GET /hub/api/hpchub/sessions/USERNAME`` or ``…/USERNAME/SERVERNAME``.

    The answer is ``{"state": STATE, "ending": ENDING, "ends_at": TIME}``:

    - ``STATE`` is ``running``, ``starting``, ``ended`` or ``none`` (no session, and none is remembered).
    - ``ENDING`` is ``{"cause": …, "text": …, "at": TIME}`` if the state is ``ended``, else null. The causes are the
      values of ``hpchub.schedulers.Cause``, ``stopped`` (through the hub) and ``not_started``. The text is for users.
    - ``ends_at`` is when the session reaches its time limit, or null if this is not known or there is no session.

    Times are in seconds since 1970. The owner may ask, with a cookie or a token, and so may everyone else who may open
    the server, including the server itself with its own token.
    """

    def check_xsrf_cookie(self) -> None:
        """Accept a request without an XSRF token, because the user's server does not have the hub's token.

        The request only reads, and a page of another origin cannot read the answer.
        """

    async def get(self, user_name: str, server_name: str = "") -> None:
        """Answer with the state of a session."""
        server_name = server_name or ""
        user = self.find_user(user_name)
        permitted = self.has_scope(f"access:servers!server={user_name}/{server_name}")
        if not permitted or user is None or (server_name and server_name not in user.orm_spawners):
            raise web.HTTPError(404, "There is no such session, or you may not see it.")
        spawner = user.spawners[server_name]
        outcome = spawner.outcome
        if spawner.is_serving:
            state = "running"
        elif spawner.pending in ("spawn", "check"):
            state = "starting"
        else:
            state = "ended" if outcome else "none"
        self.set_header("Cache-Control", "no-store")
        self.finish(
            {
                "state": state,
                "ending": outcome.public if outcome and state == "ended" else None,
                "ends_at": spawner.ends_at if state == "running" else None,
            }
        )


class PortReportHandler(Throttled, APIHandler):  # type: ignore[misc]
    """The endpoint to which a job reports its port: ``POST /hub/api/batchspawner`` with ``{"port": N}``.

    The request carries the server's own token. This handler replaces batchspawner's handler of the same path, which
    lets the job set any attribute of the spawner. It accepts only one integer in the configured range, once, while the
    start of this server is pending. It does not matter whether this process or an earlier one began the start.
    """

    @web.authenticated
    def post(self) -> None:
        """Accept the port and answer 201, or answer 4xx and change nothing."""
        port = self._port()
        token = self.get_token()
        for spawner in getattr(self.current_user, "spawners", {}).values():
            if token is not None and spawner.token and hmac.compare_digest(spawner.token, token.hashed):
                break
        else:
            raise web.HTTPError(403, "This token does not belong to a session that is starting.")
        if not spawner.report(port):
            raise web.HTTPError(409, "This session is not waiting for a port.")
        self.set_status(201)
        self.finish({"message": "taken"})

    def _port(self) -> int:
        """Return the port from the request's body.

        Raises:
            web.HTTPError: The body is not valid (400).
        """
        body: Any = self.get_json_body()
        ports = self.settings["hpchub_notebook_ports"]
        valid = f'send {{"port": N}}, where N is an integer from {ports["first"]} to {ports["last"]}'
        if not isinstance(body, dict) or set(body) != {"port"}:
            raise web.HTTPError(400, f"The request's body is not valid; {valid}.")
        port = body["port"]
        if type(port) is not int or not ports["first"] <= port <= ports["last"]:
            raise web.HTTPError(400, f"The port is not valid; {valid}.")
        return port
