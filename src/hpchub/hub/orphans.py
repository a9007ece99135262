"""The cancellation of orphaned jobs: jobs of this hub that belong to no session.

A job becomes an orphan if its cancellation fails, or if the answer to its submission is lost and the job appears later.
"""

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


class OrphanCollector:
    """A background task that compares each cluster's jobs with the hub's sessions and cancels orphaned jobs.

    The collector cancels a job if two answers of the scheduler, at least ``grace`` seconds apart, show the job alive
    while the hub has no session for it. A new job is never an orphan, because the hub records each session before it
    submits the job.

    Args:
        runtime: The hub's runtime, which provides the clusters, pollers and gates.
        sessions: A function that returns the names of all sessions that the hub knows, in any state.
        interval: The time between two checks, in seconds.
        max_age: The maximum age of the scheduler answer that a check uses, in seconds.
        grace: The minimum time between the two answers that show an orphan, in seconds.
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
        """For each cluster: the job ids without a session, and when each was first seen (monotonic clock)."""

    async def run(self) -> None:
        """Check every cluster periodically. This method never returns."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                clusters = self._runtime.profiles.clusters
            except (OSError, ValueError) as error:
                log.error("Cannot search for orphaned jobs without a valid profile list: %s", error)
                continue
            for outcome in await asyncio.gather(*map(self.sweep, clusters), return_exceptions=True):
                if isinstance(outcome, Exception) and not isinstance(outcome, Unanswered):
                    log.error("The search for orphaned jobs failed: %r", outcome)

    async def sweep(self, cluster: Cluster) -> None:
        """Check one cluster once, and cancel the jobs that have been orphans for long enough.

        Raises:
            Unanswered: The scheduler did not answer. The list of suspects is kept.
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
            log.warning(
                "Cancelling orphaned job %s of user %s on cluster %s: the hub has no session %s",
                *(job_id, user, cluster.name, session),
            )
            try:
                await self._runtime.cancel(cluster.name, user=user, session=session, job_id=job_id)
            except Unanswered as error:
                log.warning(
                    "Cannot cancel orphaned job %s on cluster %s; the next check tries again: %s",
                    *(job_id, cluster.name, error),
                )
