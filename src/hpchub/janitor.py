"""Ends the jobs that no session knows: of a cancel that failed, of a submission whose answer was lost."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from jupyterhub.proxy import ConfigurableHTTPProxy
from traitlets import Float, Unicode

from hpchub.runtime import DEFAULT_SETTINGS, Runtime, runtime
from hpchub.schedulers import JobState, Unanswered

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpchub.model import Cluster

log = logging.getLogger(__name__)


class Janitor:
    """Compares each cluster's jobs with the hub's sessions, for as long as the hub runs.

    A job is cancelled when two successive answers of the scheduler, ``grace`` seconds apart or more, show it alive,
    and the hub knew of no session of its name either time. A session is known before its job is submitted.

    Args:
        runtime: gives the clusters, their pollers and their gates.
        sessions: the names of all sessions that the hub knows, whatever they wait for.
        interval: seconds between two looks at the pollers' shared answers.
        max_age: seconds for which an answer is new enough, so that a quiet hub asks no more often than that.
        grace: least time between the two answers, in seconds.
    """

    def __init__(
        self,
        runtime: Runtime,
        sessions: Callable[[], set[str]],
        *,
        interval: float = 30.0,
        max_age: float = 60.0,
        grace: float = 45.0,
    ) -> None:
        self._runtime = runtime
        self._sessions = sessions
        self._interval = interval
        self._max_age = max_age
        self._grace = grace
        self._suspects: dict[str, dict[str, float]] = {}

    async def run(self) -> None:
        """Look after every cluster, for ever."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                clusters = self._runtime.profiles.clusters
            except (OSError, ValueError) as error:
                log.error("there is no valid profile list: %s", error)
                continue
            for outcome in await asyncio.gather(*map(self.sweep, clusters), return_exceptions=True):
                if isinstance(outcome, Exception) and not isinstance(outcome, Unanswered):
                    log.error("looking for jobs without a session: %r", outcome)

    async def sweep(self, cluster: Cluster) -> None:
        """Look once at a cluster's answer.

        Raises:
            Unanswered: there is none; what was seen before is kept.
        """
        snapshot = await self._runtime.poller(cluster.name, cluster.scheduler).snapshot(self._max_age)
        known = self._sessions()
        before = self._suspects.get(cluster.name, {})
        orphans = {
            job.id: (job.user, session)
            for job in snapshot.jobs.values()
            if job.state is not JobState.ENDED
            and (session := job.session(self._runtime.hub_name))
            and session not in known
        }
        self._suspects[cluster.name] = {job_id: before.get(job_id, snapshot.taken) for job_id in orphans}
        for job_id, (user, session) in orphans.items():
            if snapshot.taken - self._suspects[cluster.name][job_id] < self._grace:
                continue
            log.warning("%s: job %s of %s has no session %s; cancelling it", cluster.name, job_id, user, session)
            try:
                await self._runtime.cancel(cluster.name, user=user, session=session, job_id=job_id)
            except Unanswered as error:
                log.warning("%s: cancelling job %s: %s; trying again", cluster.name, job_id, error)


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
