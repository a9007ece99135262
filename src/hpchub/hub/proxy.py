"""The hub's proxy class. It also starts the hub's background tasks: orphan collector, drain watch and so on."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from aiohttp import ClientError, ClientTimeout
from jupyterhub import orm
from jupyterhub.httpclient import fetch
from jupyterhub.proxy import ConfigurableHTTPProxy
from jupyterhub.utils import url_path_join
from traitlets import Float, Unicode

from hpchub.hub import DEFAULT_SETTINGS, metrics, monitoring
from hpchub.hub.drains import DrainWatch
from hpchub.hub.grant import saved_job
from hpchub.hub.name_routes import NameRoutes
from hpchub.hub.orphans import OrphanCollector
from hpchub.hub.runtime import runtime
from hpchub.hub.tokens import TokenWatch
from hpchub.names import dns_label

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from hpchub.hub.ledger import Ledger

log = logging.getLogger(__name__)


BACKLOG = 4096
"""How many connections may wait while the hub is busy. This is Linux's default maximum.

Tornado's default is 128. A Unix socket refuses further connections, and the proxy then reports that the hub is down.
A class of students who press Start at the same time can reach that limit.
"""

SIGN_OFF_TIMEOUT = ClientTimeout(total=5)
"""How long a user who signs off waits for the proxy, in seconds."""


class HubProxy(NameRoutes, ConfigurableHTTPProxy):  # type: ignore[misc]
    """configurable-http-proxy as JupyterHub sees it, extended by the hub's background tasks.

    JupyterHub calls ``check_routes`` with all known users, first at the end of its own start and then periodically. At
    the first call, the database is loaded and each session of the previous process has its spawner. The background
    tasks can therefore start with this call.
    """

    settings_file = Unicode(
        DEFAULT_SETTINGS, config=True, help="The settings file, which the Ansible role jupyterhub writes."
    )

    watch_interval = Float(
        2.0, config=True, help="How often the hub checks whether the proxy has restarted, in seconds."
    )

    _orphan_collector: OrphanCollector | None = None

    async def check_routes(
        self, user_dict: dict[int, Any], service_dict: dict[str, Any], routes: dict[str, Any] | None = None
    ) -> None:
        """Start the background tasks at the first call, then check the routes. See JupyterHub's ``Proxy``."""
        if self._orphan_collector is None:
            shared = runtime(self.settings_file)
            # Tornado offers no public access to its listening sockets.
            for listener in self.app.http_server._sockets.values():  # noqa: SLF001
                listener.listen(BACKLOG)

            shared.open_ledger(self.app.db)
            _end_half_stopped_sessions(self.app.db, shared.ledger)

            def spawners() -> list[Any]:
                return [spawner for user in user_dict.values() for spawner in user.spawners.values()]

            recording = shared.recorder.run(self.app.db.get_bind())
            shared.background("The recording of events has stopped", recording)
            self._orphan_collector = OrphanCollector(shared, lambda: {spawner.session for spawner in spawners()})
            monitoring.start(shared, self.app, spawners)
            shared.background("The search for orphaned jobs has stopped", self._orphan_collector.run())
            shared.background("The check of the database has stopped", shared.health.watch(self.app.db.get_bind()))
            drains = DrainWatch(shared, lambda: list(user_dict.values()), self.delete_user)
            shared.background("The drain watch has stopped", drains.run())
            versions = shared.versions.watch(lambda: [each.name for each in shared.profiles.clusters if each.enabled])
            shared.background("The check of the versions has stopped", versions)
            watch = TokenWatch(self.app.db, self.app.authenticator, self.app.token_expires_in_max_seconds)
            shared.background("The check of the tokens has stopped", watch.run())
            shared.background("The proxy watch has stopped", self._watch(user_dict, service_dict))
        await super().check_routes(user_dict, service_dict, routes)
        await self.hold_all(user_dict)

    async def end_login(self, user: str, login: str | None) -> None:
        """Close the websockets of a browser after its user has signed off, and refuse the browser's login from now on.

        The user signs off even if the proxy does not answer. An error is only logged.

        Args:
            user: The name of the user.
            login: The id of the browser's login. Without it, the websockets of all browsers of the user are closed.
        """
        try:
            await fetch(
                url_path_join(self.api_url, "api/logins"),
                method="DELETE",
                headers={"Authorization": f"token {self.auth_token}"},
                data=json.dumps({"user": dns_label(user), "login": login}),
                timeout=SIGN_OFF_TIMEOUT,
            )
        except (ClientError, OSError) as error:
            log.error("Cannot close the websockets of %s, who has signed off: %r", user, error)

    async def get_all_routes(self) -> dict[str, Any]:
        """Return the proxy's routes, and remember their number."""
        routes: dict[str, Any] = await super().get_all_routes()
        metrics.proxy_routes.set(len(routes))
        return routes

    async def add_route(self, routespec: str, target: str, data: dict[str, Any] | None) -> None:
        """Add a route. The proxy expects the label of the user in the server's certificate, not the name."""
        if data and "user" in data:
            data = {**data, "user": dns_label(data["user"])}
        await super().add_route(routespec, target, data)

    async def _watch(self, user_dict: dict[int, Any], service_dict: dict[str, Any]) -> None:
        """Restore the routes when the proxy has restarted. A restarted proxy has a new socket and no routes."""
        socket = Path(unquote(urlsplit(self.api_url).netloc))
        known = _stamp(socket)
        while True:
            await asyncio.sleep(self.watch_interval)
            now = _stamp(socket)
            if now in (None, known):
                continue
            log.warning("The proxy has restarted; restoring its routes")
            try:
                await self.check_routes(user_dict, service_dict)
            except Exception as error:  # noqa: BLE001 the next check tries again after any error
                log.warning("Cannot restore the proxy's routes; the next check tries again: %r", error)
            else:
                known = now


def _end_half_stopped_sessions(db: Session, ledger: Ledger) -> None:
    """Record the end of sessions that an earlier hub process did not finish to stop.

    JupyterHub stops a session in two steps: it removes the server, and then the session's saved state.
    """
    for stopped in db.query(orm.Spawner).filter(orm.Spawner.server_id.is_(None)).all():
        if job := saved_job(stopped.state or {}):
            ledger.end(job.session, user=stopped.user.name, cluster=job.where, job_id=job.job_id)
            stopped.state = {key: stopped.state[key] for key in stopped.state if key not in ("grant", "job", "token")}
    db.commit()


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return values that differ between a file and its replacement, or None if the file does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns
