"""The cancellation of orphaned jobs: live jobs of sessions that this hub's database recorded as over.

A job becomes an orphan if its cancellation fails, or if the answer to its submission is lost and the job appears later.

A job that carries the hub's name is not an orphan if the database does not know its session. The database may be new,
older than the job (a restored backup), or the database of a second hub with the same host name. The hub does not touch
such a job. It lists it for the administrators; see ``hpchub orphans``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from hpchub.hub import metrics
from hpchub.model.places import PlaceBase
from hpchub.schedulers import JobState, Unanswered

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpchub.clusters.poller import Snapshot
    from hpchub.hub.ledger import UnknownJob
    from hpchub.hub.runtime import Runtime
    from hpchub.model.entries import Cluster
    from hpchub.schedulers import Job

log = logging.getLogger(__name__)

FEW = 3
"""If more live jobs of a cluster are unknown, the hub cancels no job, and its health check fails."""

NEW = 3600.0
"""A job of another database that is found within this time after the creation of this one counts as lost, in seconds.

Later ones belong to a second hub with the same host name.
"""

EXPLAINED = 120.0
"""How long a job that has ended stays in a place, in seconds. By then, the hub has found out how it ended."""

TOLD = "was ended by an administrator"

ALARM = (
    "This hub's database does not know many live jobs that carry the hub's name, so the hub cancels no job. Perhaps the"
    " database was lost or replaced by an older one. On the hub host, 'hpchub orphans' lists the jobs."
)


class OrphanCollector:
    """A background task that compares each cluster's jobs with the hub's sessions and cancels orphaned jobs.

    The collector cancels a job if two answers of the scheduler, at least ``grace`` seconds apart, show the job alive
    while the database records its session as over. A new job is never an orphan, because the hub records each session
    before it submits the job.

    Args:
        runtime: The hub's runtime, which provides the clusters, pollers, gates and the ledger.
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
        self._remains: dict[str, dict[str, float]] = {}
        """For each place: the ids of the jobs that have ended, and when each was first seen (monotonic clock)."""
        self._reported: dict[str, set[str]] = {}
        """For each cluster: the ids of the unknown jobs that the log already contains."""

    async def run(self) -> None:
        """Check every cluster periodically. This method never returns."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                profiles = self._runtime.profiles
            except (OSError, ValueError) as error:
                log.error("Cannot search for orphaned jobs without a valid profile list: %s", error)
                continue
            everywhere: list[Cluster | PlaceBase] = [*profiles.clusters, *profiles.places]
            shown = self._runtime.health.places
            for name in shown.keys() - {each.name for each in profiles.places}:
                del shown[name]
            for outcome in await asyncio.gather(*map(self.sweep, everywhere), return_exceptions=True):
                if isinstance(outcome, Exception) and not isinstance(outcome, Unanswered):
                    log.error("The search for orphaned jobs failed: %r", outcome)

    async def sweep(self, cluster: Cluster | PlaceBase) -> None:
        """Check one cluster or place once, and cancel the jobs that have been orphans for long enough.

        Raises:
            Unanswered: The scheduler did not answer. The list of suspects is kept.
            SQLAlchemyError: The database cannot be used, so nothing is cancelled.
        """
        scheduler = "" if isinstance(cluster, PlaceBase) else cluster.scheduler
        try:
            snapshot = await self._runtime.poller(cluster.name, scheduler).snapshot(self._max_age)
        finally:
            if isinstance(cluster, PlaceBase):
                self._report_alarm(cluster.name)
        jobs = {
            job.id: job
            for job in snapshot.jobs.values()
            if job.state is not JobState.ENDED and job.tag and job.tag.host == self._runtime.host
        }
        orphans, unknown = self._compare(cluster.name, jobs)
        before = self._suspects.get(cluster.name, {})
        self._suspects[cluster.name] = {job_id: before.get(job_id, snapshot.taken) for job_id in orphans}
        metrics.unknown_jobs.labels(cluster.name).set(len(unknown))
        self._report(cluster.name, unknown)
        for job_id, (user, session, reason) in orphans.items():
            if self._runtime.health.alarms and reason != TOLD:
                continue
            if snapshot.taken - self._suspects[cluster.name][job_id] < self._grace:
                continue
            log.warning(
                "Cancelling orphaned job %s of user %s on cluster %s: session %s %s",
                *(job_id, user, cluster.name, session, reason),
            )
            try:
                await self._runtime.cancel(cluster.name, user=user, session=session, job_id=job_id)
            except Unanswered as error:
                log.warning(
                    "Cannot cancel orphaned job %s on cluster %s; the next check tries again: %s",
                    *(job_id, cluster.name, error),
                )

        if isinstance(cluster, PlaceBase):
            await self._remove_remains(cluster.name, snapshot)

    async def _remove_remains(self, place: str, snapshot: Snapshot) -> None:
        """Remove the jobs that have ended, after the time in which the hub finds out how they ended.

        A scheduler forgets a job that has ended. A place keeps it, with its files, until somebody removes it.
        """
        known, database = self._sessions(), self._runtime.ledger.database
        over = {
            job.id: (job.user, job.tag.session)
            for job in snapshot.jobs.values()
            if job.state is JobState.ENDED
            and job.tag
            and (job.tag.host, job.tag.database) == (self._runtime.host, database)
            and job.tag.session not in known
        }
        before = self._remains.get(place, {})
        self._remains[place] = {job_id: before.get(job_id, snapshot.taken) for job_id in over}
        for job_id, (user, session) in over.items():
            if snapshot.taken - self._remains[place][job_id] < max(self._grace, EXPLAINED if self._grace else 0.0):
                continue
            try:
                await self._runtime.cancel(place, user=user, session=session, job_id=job_id)
            except (Unanswered, ValueError) as error:
                log.warning("Cannot remove %s, which has ended in %s: %s", job_id, place, error)

    def _compare(self, cluster: str, jobs: dict[str, Job]) -> tuple[dict[str, tuple[str, str, str]], list[UnknownJob]]:
        """Compare a cluster's jobs with the hub's sessions and its database.

        Returns:
            The owner and the session of each job to cancel and why, by the job's id. Then the unknown jobs.
        """
        ledger = self._runtime.ledger
        known = self._sessions()
        strangers = {job.id: (job.user, job.tag) for job in jobs.values() if job.tag and job.tag.session not in known}
        try:
            ledger.tidy()
            ended = ledger.ended(tag.session for _, tag in strangers.values())
            over = {
                job_id: (user, tag.session, "is over")
                for job_id, (user, tag) in strangers.items()
                if ended.get(tag.session) == (user, cluster) and tag.database in ("", ledger.database)
            }
            unknown = ledger.update_unknown(
                cluster, {job_id: stranger for job_id, stranger in strangers.items() if job_id not in over}
            )
        except Exception:
            ledger.db.rollback()
            raise
        told = {row.job_id: (row.user, row.session, TOLD) for row in unknown if row.end}
        limit = self._runtime.settings["unknown_jobs_end_after"]
        late = {
            row.job_id: (row.user, row.session, "is unknown, and its time is over")
            for row in unknown
            if limit and row.database == ledger.database and time.time() - row.found > limit
        }
        return {**late, **over, **told}, [row for row in unknown if not row.end]

    def _report_alarm(self, place: str) -> None:
        """Let the health check show what an administrator must do for a place, or no longer."""
        alarm, shown = self._runtime.place(place).alarm, self._runtime.health.places
        if alarm and shown.get(place) != alarm:
            log.error("%s", alarm)
        if alarm:
            shown[place] = alarm
        else:
            shown.pop(place, None)

    def _report(self, cluster: str, unknown: list[UnknownJob]) -> None:
        """Report unknown jobs in the log. If they are many, raise the alarm, else end it."""
        ledger = self._runtime.ledger
        reported = self._reported.get(cluster, set())
        for row in unknown:
            if row.job_id not in reported:
                log.warning(
                    "Job %s of user %s on cluster %s carries this hub's name, but %s. The hub does not touch it;"
                    " see 'hpchub orphans'",
                    *(row.job_id, row.user, cluster, origin(row, ledger.database)),
                )
        self._reported[cluster] = {row.job_id for row in unknown}
        lost = [row for row in unknown if row.database == ledger.database or row.found - ledger.created < NEW]
        if len(lost) > FEW:
            log.error("%d live jobs on cluster %s are unknown. %s", len(lost), cluster, ALARM)
            self._runtime.health.alarms[cluster] = ALARM
        else:
            self._runtime.health.alarms.pop(cluster, None)


def origin(job: UnknownJob, database: str) -> str:
    """Return why the hub does not know a job.

    Args:
        job: The job.
        database: The id of the hub's database.
    """
    if not job.database:
        return f"an older version submitted it, and the database does not know its session {job.session}"
    if job.database != database:
        return f"its session {job.session} belongs to another database ({job.database}; this one is {database})"
    return f"the database does not know its session {job.session}"
