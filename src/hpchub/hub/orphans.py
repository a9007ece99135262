"""Ends the jobs that no session knows: of a cancel that failed, of a submission whose answer was lost."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from hpchub.schedulers import JobState, Unanswered

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpchub.hub.runtime import Runtime
    from hpchub.model.entries import Cluster

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
