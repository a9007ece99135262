"""The handler of the home page: it shows the user's sessions, and begins the choice of a profile for a new one."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jupyterhub.handlers.pages import HomeHandler
from jupyterhub.utils import url_escape_path, url_path_join
from sqlalchemy.exc import SQLAlchemyError
from tornado import web
from tornado.httputil import url_concat

from hpchub.hub.history import WEEK, past_sessions
from hpchub.hub.home import cards, ended_sessions, quick_start
from hpchub.hub.named_sessions import in_use
from hpchub.hub.page_texts import tr
from hpchub.hub.runtime import Runtime, runtime
from hpchub.hub.session_names import LONGEST, NameProblem, free_server_name, new_server_name
from hpchub.hub.start_error import StartError
from hpchub.messages import Message

if TYPE_CHECKING:
    from hpchub.hub.history import Past
    from hpchub.model.entries import Profile

PATIENCE = 0.05
"""How long the page waits for its checks, in seconds. A check that is late goes on."""


class HomePageHandler(HomeHandler):  # type: ignore[misc]
    """The home page: ``GET /hub/home``. With ``POST /hub/home``, a user gives a name to a new session."""

    @property
    def _runtime(self) -> Runtime:
        return runtime(self.settings["hpchub_settings_file"])

    @web.authenticated
    async def get(self) -> None:
        """Show the page."""
        await self._check()
        self.finish(await self._render())

    @web.authenticated
    async def post(self) -> None:
        """Lead to the form for a session with the given name, or show what is wrong with the name."""
        text = self.get_body_argument("name", "", strip=True)
        try:
            part, name = self._name(text)
        except NameProblem as error:
            self.set_status(400)
            self.finish(await self._render(problem=error.args[0], text=text[: LONGEST + 1]))
            return
        self.redirect(self._form_url(part, name), status=303)

    def _name(self, text: str) -> tuple[str, str]:
        """Return the part of the address and the name for a new session.

        Raises:
            NameProblem: The name is not valid, or is the name of a session that goes on.
        """
        used = self._used
        if not text:
            return free_server_name(used)
        rows = [row for row in self.current_user.orm_spawners.values() if row.name]
        part, name = new_server_name(text, [(row.name, row.display_name or row.name) for row in rows])
        if part in used:
            raise NameProblem(
                Message("Your session '{name}' goes on. Choose another name, or stop it first.", name=name)
            )
        return part, name

    def _form_url(self, part: str, name: str, **chosen: str) -> str:
        """Return the address of the form that starts a session, perhaps with fields that are chosen already."""
        if not part and not chosen:
            return str(url_path_join(self.hub.base_url, "spawn"))
        return url_concat(self._path("spawn", part), {**({"display_name": tr(name)} if part else {}), **chosen})

    @property
    def _used(self) -> set[str]:
        """The names of the servers that have a session."""
        user = self.current_user
        return {name for name in user.orm_spawners if in_use(user, name)}

    async def _check(self) -> None:
        """Let JupyterHub notice that sessions have ended, and find the user's groups, as far as this takes no time."""
        user, start = self.current_user, self._runtime.background
        ready = [each for each in list(user.spawners.values()) if each.ready]
        tasks = [start("Cannot check whether a session still runs", _ended(each)) for each in ready]
        tasks.append(start("Cannot find the groups of a user", user.spawner.find_groups()))
        await asyncio.wait(tasks, timeout=PATIENCE)

    async def _render(self, problem: str = "", text: str = "") -> Any:
        user, shared = self.current_user, self._runtime
        known, startable = self._profiles()
        going = cards(user)
        return await self.render_template(
            "home.html",
            user=user,
            notices=user.spawner.notices,
            cards=going,
            ended=ended_sessions(user, self._past(), known, [each.key for each in startable], shared.place_names),
            quick=quick_start(user) if startable else None,
            limit=shared.settings["max_sessions"],
            is_full=len(going) >= shared.settings["max_sessions"],
            name_problem=problem,
            name_text=text,
            longest_name=LONGEST,
            default_in_use=any(not card.server for card in going),
            session_url=user.server_url,
            free_url=lambda key: self._form_url(*free_server_name(self._used), profile=key),
            progress_url=lambda server: self._path("spawn-pending", server),
            start_url=lambda server: self._path("spawn", server),
            again_url=lambda server, key: url_concat(self._path("spawn", server), {"profile": key, "again": "on"}),
            stop_form_url=lambda server: self._path("stop", server),
            stop_url=lambda server: self._path("api/users", *(("servers", server) if server else ("server",))),
        )

    def _path(self, first: str, *others: str) -> str:
        """Return the address of a page or an endpoint of the hub that is about this user."""
        escaped = [url_escape_path(each) for each in others if each]
        return str(url_path_join(self.hub.base_url, first, self.current_user.escaped_name, *escaped))

    def _profiles(self) -> tuple[dict[str, Profile], list[Profile]]:
        """Return the profiles in the list, by key, and those that the user can start now.

        It also lets the hub find out what the user may request there, so that the form has it when it opens.
        """
        spawner = self.current_user.spawner
        try:
            known = {profile.key: profile for profile in spawner.profile_list.profiles}
        except StartError:
            return {}, []
        startable = spawner.startable
        for cluster in {each.where: None for each in startable}:
            spawner.known(cluster)
        return known, startable

    def _past(self) -> list[Past]:
        """Return the user's sessions in the event table that ended in the last week."""
        try:
            user, recorder = self.current_user, self._runtime.recorder
            found = past_sessions(self.db, recorder.name_of(user.name), time.time() - WEEK)
            names = {recorder.server_of(user.name, name): name for name in user.orm_spawners if name}
            return [replace(each, server=names.get(each.server, "")) for each in found]
        except (OSError, SQLAlchemyError) as error:
            self.log.error("Cannot read the past sessions of %s: %s", self.current_user.name, error)
            self.db.rollback()
            return []


async def _ended(spawner: Any) -> None:
    await spawner.poll_and_notify()
