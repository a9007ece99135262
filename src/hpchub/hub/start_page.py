"""The page with the start form: ``/hub/spawn``. It also saves and deletes the users' settings."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from jupyterhub.handlers.base import BaseHandler
from jupyterhub.handlers.pages import SpawnHandler
from jupyterhub.scopes import needs_scope
from tornado import web
from tornado.httputil import url_concat

from hpchub.hub.form import ATTEMPT
from hpchub.hub.handlers import Throttled
from hpchub.hub.named_sessions import NamedSessions, forget_if_too_many
from hpchub.hub.outcome import TRY_AGAIN, UNEXPECTED
from hpchub.hub.saved_settings import BadName, checked_name
from hpchub.hub.start_error import StartError
from hpchub.hub.user_error import UserError
from hpchub.messages import Message, sentences
from hpchub.model.choice import NAMES


class AvailabilityHandler(BaseHandler):  # type: ignore[misc]
    """When a choice would start: ``GET /hub/availability/USERNAME?profile=KEY&cores=4&…``.

    The answer is a part of the form, which asks for it when the user changes a field. It comes from what the hub knows
    already, and asks no scheduler.
    """

    @web.authenticated
    @needs_scope("servers")  # type: ignore[untyped-decorator]
    async def get(self, user_name: str) -> None:
        """Answer with HTML. It is empty if the start is not known or the choice is not valid."""
        user = self.find_user(user_name)
        if user is None:
            raise UserError(404, Message("There is no such user, or you may not see it."))
        key = self.get_query_argument("profile", "")
        fields = {name: self.get_query_argument(name) for name in NAMES if name in self.request.query_arguments}
        self.set_header("Cache-Control", "no-store")
        target = self.get_query_argument("next", "")
        self.finish(await user.spawner.availability(key, fields, target))


class StartPageHandler(Throttled, NamedSessions, SpawnHandler):  # type: ignore[misc]
    """JupyterHub's page that starts a server, throttled. A link to the page fills in the form and starts nothing.

    The form can also save the choice under a name, with a start or without one, and delete saved settings.
    """

    def _get_user_options(self, query_options: dict[str, list[str]]) -> dict[str, list[str]]:
        """Return no options: the form reads the values of a link, and only the form can start a session."""
        return {}

    @needs_scope("servers")  # type: ignore[untyped-decorator]
    async def _get(self, user_name: str, server_name: str, display_name: str) -> None:
        """Show the form. If there is no room for one more name, only the start of the session makes it."""
        user = self.find_user(user_name)
        is_new = user is not None and bool(server_name) and server_name not in user.orm_spawners
        try:
            await super()._get(user_name=user_name, server_name=server_name, display_name=display_name)
        finally:
            if is_new:
                forget_if_too_many(user, server_name)

    async def _render_form(
        self, for_user: Any, spawner_options_form: str, message: str = "", html_message: str = ""
    ) -> Any:
        """Render the form. JupyterHub's message for an unexpected error is not for users.

        After a refusal, JupyterHub passes the form of the session without a name, whichever session was asked for.
        """
        spawner = for_user.spawners[(*self.path_args, None, None)[1] or ""]
        if message and spawner.name:
            spawner.handler = self
            try:
                spawner_options_form = await spawner.get_options_form()
            finally:
                spawner.handler = None
        self._session = spawner
        is_internal = bool(message) and message.startswith("HTTP 5")
        return await super()._render_form(
            for_user, spawner_options_form, sentences(UNEXPECTED, TRY_AGAIN) if is_internal else message, html_message
        )

    def render_template(self, name: str, **variables: Any) -> Any:
        """Render a template; see ``BaseHandler.render_template``. The form is about the session that was asked for."""
        if "spawner" in variables:
            variables["spawner"] = self._session
        return super().render_template(name, **variables)

    @needs_scope("servers")  # type: ignore[untyped-decorator]
    async def _post(self, user_name: str, server_name: str, display_name: str) -> None:
        """Save or delete a setting if the form asks for it, and otherwise start a session."""
        form = self._form()
        name = (form.get("settings_name") or [""])[0]
        deleted = (form.get("delete_settings") or [""])[0]
        saves = "save_settings" in form
        user = self.current_user if user_name == self.current_user.name else self.find_user(user_name)
        if user is None:
            raise UserError(404, Message("There is no such user, or you may not see it."))
        await user.spawner.find_groups()
        if not (saves or deleted or name.strip()):
            await self._start(user, server_name, display_name)
            return
        if deleted:
            user.spawner.saved_settings.delete(deleted)
            self._go_to_form()
            return
        try:
            name = self._save(user.spawner, form, name)
        except StartError as error:
            await self._show_form_again(user, str(error))
            return
        if saves:
            self._go_to_form(name)
            return
        await self._start(user, server_name, display_name)

    async def _start(self, user: Any, server_name: str, display_name: str) -> None:
        """Start a session. If it starts or runs already, for example after a double click, show it."""
        spawner = dict.get(user.spawners, server_name)  # reading the item would create a spawner
        if spawner is not None and spawner.ready:
            self.redirect(self.get_next_url(user, default=user.server_url(server_name)))
        elif spawner is not None and spawner.active:
            self.redirect(self._get_pending_url(user, server_name))
        else:
            display_name = (server_name and self.get_query_argument("display_name", "")) or display_name
            await super()._post(user_name=user.name, server_name=server_name, display_name=display_name)

    async def _wrap_spawn_single_user(  # noqa: PLR0917 as in JupyterHub
        self,
        user: Any,
        server_name: str,
        display_name: str,
        spawner: Any,
        pending_url: str,
        options: dict[str, Any] | None = None,
    ) -> Any:
        """Start a session. If the start fails at once, show the page that explains it.

        Raises:
            StartError: The form explains why no session was started: the choice is not valid, or the scheduler has
                refused a value.
        """
        before = spawner.outcome
        try:
            return await super()._wrap_spawn_single_user(user, server_name, display_name, spawner, pending_url, options)
        except StartError:
            outcome = spawner.outcome
            if outcome is None or outcome == before or outcome.field:
                raise
            return self.redirect(pending_url)

    def _form(self) -> dict[str, list[str]]:
        """Return the content of the form.

        Raises:
            web.HTTPError: It contains text that is not UTF-8 (400).
        """
        try:
            return {key: [each.decode() for each in values] for key, values in self.request.body_arguments.items()}
        except UnicodeDecodeError:
            raise UserError(400, Message("The form contains text in an unknown encoding. Send it as UTF-8.")) from None

    @staticmethod
    def _save(spawner: Any, form: dict[str, list[str]], name: str) -> str:
        """Save the choice in the form, and return its name.

        Raises:
            StartError: The choice or the name is not valid (400).
        """
        try:
            name = checked_name(name)
            return str(spawner.saved_settings.save(name, spawner.read_form(form)))
        except BadName as error:
            with suppress(StartError):
                spawner.read_form(form)  # the form also shows what is wrong with the choice
            if attempt := ATTEMPT.get():
                attempt.name_complaint = error.args[0]
            raise StartError(
                sentences(Message("Nothing was saved, and no session was started."), error.args[0]), reason="bad_name"
            ) from None

    async def _show_form_again(self, user: Any, message: str) -> None:
        """Show the form with what the user has sent, and messages."""
        self.set_status(400)
        form = await user.spawner.get_options_form()
        self.finish(await self._render_form(for_user=user, spawner_options_form=form, message=message))

    def _go_to_form(self, name: str = "") -> None:
        """Redirect to the form, filled in with a saved setting."""
        query = {"settings": name} if name else {}
        if target := self.get_argument("next", ""):
            query["next"] = target
        self.redirect(url_concat(self.request.path, query), status=303)
