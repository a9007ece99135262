"""The hub's request handlers that show the progress of a start, its failure, and the state of a session."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

from jupyterhub.apihandlers import APIHandler
from jupyterhub.apihandlers.users import SpawnProgressAPIHandler
from jupyterhub.handlers.pages import SpawnPendingHandler
from jupyterhub.scopes import needs_scope
from jupyterhub.utils import url_escape_path, url_path_join
from tornado import web
from tornado.httputil import url_concat

from hpchub.hub.handlers import AnswersWithoutWriting, session_of
from hpchub.hub.outcome import TRY_AGAIN, UNEXPECTED
from hpchub.hub.page_texts import tr
from hpchub.hub.user_error import UserError
from hpchub.hub.waiting_handlers import waiting_page
from hpchub.messages import Message, sentences


class PendingPageHandler(SpawnPendingHandler):  # type: ignore[misc]
    """JupyterHub's page of a start. After a failed start, its link keeps the page that the user wanted to open.

    If the scheduler has refused a value of the form, the user returns to the form, which shows why beside the field.
    """

    @web.authenticated
    @needs_scope("servers")  # type: ignore[untyped-decorator]
    async def get(self, user_name: str, server_name: str = "") -> None:
        """Show the page, or redirect to the form."""
        user = self.find_user(user_name)
        if user is not None and server_name in user.orm_spawners:
            # JupyterHub forgets the spawner of a session with a name at its end. The page still explains the end.
            _ = user.spawners[server_name]
        await super().get(user_name, server_name)

    def render_template(self, name: str, sync: bool = False, **variables: Any) -> Any:
        """Render a template; see ``BaseHandler.render_template``. JupyterHub renders pages of errors with ``sync``.

        Raises:
            web.Finish: The request is answered with a redirect to the form.
        """
        if name == "not_running.html":
            # A start can fail while JupyterHub prepares this page, so the decision is made at the last moment.
            self._go_to_form_if_refused(variables["user"], variables["server_name"])
        target = self.get_argument("next", "") if "spawn_url" in variables else ""
        if target:
            variables["spawn_url"] = url_concat(variables["spawn_url"], {"next": target})
        if sync or name != "spawn_pending.html":
            return super().render_template(name, sync=sync, **variables)
        return self._render_waiting(name, variables)

    def _go_to_form_if_refused(self, user: Any, server_name: str) -> None:
        outcome = user.spawners[server_name].outcome
        if outcome and outcome.field:
            form = url_path_join(self.hub.base_url, "spawn", user.escaped_name, url_escape_path(server_name))
            target = self.get_argument("next", "")
            self.redirect(url_concat(form, {"next": target} if target else {}))
            raise web.Finish

    async def _render_waiting(self, name: str, variables: dict[str, Any]) -> Any:
        variables |= await waiting_page(self, variables["user"], variables["spawner"])
        return await super().render_template(name, **variables)


class ProgressHandler(SpawnProgressAPIHandler):  # type: ignore[misc]
    """JupyterHub's stream of a start's progress. It never contains the text of an unexpected exception.

    The events of a pending start also have the field ``html``: the steps of the start, as the page shows them.
    """

    async def send_event(self, event: dict[str, Any]) -> None:
        """Send an event. JupyterHub's event for a failed start contains the exception's text."""
        user = self.find_user(self.path_args[0])
        spawner = user.spawners[(*self.path_args, "")[1] or ""]
        if event.get("failed"):
            outcome = spawner.outcome
            message = outcome.public["text"] if outcome else sentences(UNEXPECTED, TRY_AGAIN)
            event = {"progress": 100, "failed": True, "message": message}
        elif event.get("ready"):
            event = {**event, "message": Message("Your session is ready.")}
        else:
            html = await self.render_template("progress.html", progress=spawner.start_progress, now=time.time())
            event = {**event, "html": html}
        await super().send_event(_read(event))


def _read(found: dict[str, Any]) -> dict[str, Any]:
    """Return the content of an answer with its texts in the reader's language."""
    return {name: tr(value) for name, value in found.items()}


class SessionHandler(AnswersWithoutWriting, APIHandler):  # type: ignore[misc]
    """The state of a session: ``GET /hub/api/hpchub/sessions/USERNAME`` or ``…/USERNAME/SERVERNAME``.

    The answer is ``{"state": STATE, "ending": ENDING, "ends_at": TIME, "times": TIMES, "job": JOB, "notices":
    NOTICES}``:

    - ``STATE`` is ``running``, ``starting``, ``ended`` or ``none`` (no session, and none is remembered).
    - ``ENDING`` is ``{"cause": …, "text": …, "at": TIME, "texts": TEXTS}`` if the state is ``ended``, else null. The
      causes are the values of ``hpchub.schedulers.Cause``, ``stopped`` (through the hub) and ``not_started``. The text
      is for users.
    - ``ends_at`` is when the session reaches its time limit or when the hub stops it for a drain. It is null if this is
      not known or there is no session.
    - ``TIMES`` is ``{"requested": …, "submitted": …, "started": …, "ready": …}``: when the session was requested, its
      job was submitted, its job started, and its notebook was ready. A time that is not known yet is null. Without a
      session, ``TIMES`` is null.
    - ``JOB`` is what the session was granted and where it runs; see ``HPCProfilesSpawner.job``. Without a session, it
      is null.
    - ``NOTICES`` are the announcements, and the drains that concern a running session; see ``Notice.public``. Each one
      also has ``TEXTS``.
    - ``TEXTS`` is ``{LANGUAGE: {NAME: TEXT}}``: those texts for users in every language. Texts of the site itself are
      the same in all of them.

    Times are in seconds since 1970. The owner may ask, with a cookie or a token, and so may everyone else who may open
    the server, including the server itself with its own token. If notebook servers have host names of their own, a page
    of such a host may read the answer about the session of this host, and about no other.
    """

    def check_xsrf_cookie(self) -> None:
        """Accept a request without an XSRF token, because the user's server does not have the hub's token.

        The request only reads, and a page of another origin cannot read the answer.
        """

    async def get(self, user_name: str, server_name: str = "") -> None:
        """Answer with the state of a session."""
        if self.current_user is None:
            # A notebook server that the hub does not know asks to be adopted after this answer.
            raise UserError(403, Message("Sign in, or send a valid token."))
        server_name = server_name or ""
        user = self.find_user(user_name)
        self._permit_host(user)
        permitted = self.has_scope(f"access:servers!server={user_name}/{server_name}")
        if not permitted or user is None or (server_name and server_name not in user.orm_spawners):
            raise UserError(404, Message("There is no such session, or you may not see it."))
        spawner = user.spawners[server_name]
        outcome = spawner.outcome
        notices = spawner.session_notices
        in_each = spawner.runtime.languages.each
        ending = outcome.public if outcome else {}
        ends = [end for end in (spawner.ends_at, *(notice["stop_at"] for notice in notices)) if end is not None]
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
                "ending": {**_read(ending), "texts": in_each({"text": ending["text"]})} if state == "ended" else None,
                "ends_at": min(ends, default=None) if state == "running" else None,
                "times": spawner.times,
                "job": spawner.job,
                "notices": [
                    {**_read(notice), "texts": in_each({name: notice[name] for name in ("title", "advice")})}
                    for notice in notices
                ],
            }
        )

    def _permit_host(self, user: Any) -> None:
        """Let a page of another host read the answer if it is the host of this user's notebook servers.

        Raises:
            UserError: It is the page of another host (403).
        """
        origin = self.request.headers.get("Origin", "")
        if not origin or urlsplit(origin).netloc == self.request.host:
            return
        if user is None or origin != user.host:
            raise UserError(403, Message("There is no such session, or you may not see it."))
        self.set_header("Access-Control-Allow-Origin", origin)
        self.set_header("Access-Control-Allow-Credentials", "true")
        self.set_header("Vary", "Origin")


class IdleHandler(APIHandler):  # type: ignore[misc]
    """The endpoint to which a session reports that nobody uses it: ``POST /hub/api/hpchub/idle``.

    The body is ``{"idle": SECONDS}``. The request carries the server's own token, so a session can only end itself. The
    hub stops it if its profile has an idle limit that the time reaches.
    """

    @web.authenticated
    def post(self) -> None:
        """Stop the session and answer 201, or answer 4xx and change nothing."""
        body: Any = self.get_json_body()
        idle = body.get("idle") if isinstance(body, dict) and set(body) == {"idle"} else None
        if type(idle) is not int or idle < 0:
            raise web.HTTPError(400, 'The request is not valid; send {"idle": N}, where N is a number of seconds.')
        if not session_of(self).end_idle(idle, self.proxy.delete_user):
            raise web.HTTPError(409, "This session has not reached an idle limit, or it is ending already.")
        self.set_status(201)
        self.finish({"message": "stopping"})
