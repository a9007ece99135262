"""The hub's own endpoint for a job's report of the port that its notebook server listens on, and turns for starts."""

from __future__ import annotations

import hmac
from typing import Any

from jupyterhub.apihandlers import APIHandler
from jupyterhub.apihandlers.users import UserServerAPIHandler
from jupyterhub.handlers.pages import SpawnHandler
from tornado import web

from hpchub.hub.runtime import runtime


class InTurn:
    """Mixed in before a handler whose POST is much work for the hub."""

    async def prepare(self: Any) -> None:
        """Wait for a turn, then go on as JupyterHub does."""
        if self.request.method == "POST":
            await runtime(self.settings["hpchub_settings_file"]).turns.take()
        await super().prepare()  # type: ignore[misc]


class StartPageHandler(InTurn, SpawnHandler):  # type: ignore[misc]
    """JupyterHub's form of a start."""


class StartAPIHandler(InTurn, UserServerAPIHandler):  # type: ignore[misc]
    """JupyterHub's start by its REST API."""


class PortReportHandler(InTurn, APIHandler):  # type: ignore[misc]
    """``POST /hub/api/batchspawner`` with ``{"port": N}`` and the server's own token.

    In the place of batchspawner's handler of the same path, which sets any attribute of the spawner that the job
    names. This one takes one integer, within the configured range, once, while that very start waits for it, in this
    process of the hub's or a later one.
    """

    @web.authenticated
    def post(self) -> None:
        """Take the report: 201, or 4xx without any effect."""
        port = self._port()
        token = self.get_token()
        for spawner in getattr(self.current_user, "spawners", {}).values():
            if token is not None and spawner.token and hmac.compare_digest(spawner.token, token.hashed):
                break
        else:
            raise web.HTTPError(403, "This is not the token of a session that is starting.")
        if not spawner.report(port):
            raise web.HTTPError(409, "This session does not wait for a port.")
        self.set_status(201)
        self.finish({"message": "taken"})

    def _port(self) -> int:
        """The port in the request's body.

        Raises:
            web.HTTPError: 400, the body is anything else.
        """
        body: Any = self.get_json_body()
        ports = self.settings["hpchub_notebook_ports"]
        valid = f'the body is {{"port": N}} with N from {ports["first"]} to {ports["last"]}'
        if not isinstance(body, dict) or set(body) != {"port"}:
            raise web.HTTPError(400, valid)
        port = body["port"]
        if type(port) is not int or not ports["first"] <= port <= ports["last"]:
            raise web.HTTPError(400, valid)
        return port
