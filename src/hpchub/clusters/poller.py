"""The pollers of clusters and places: one bulk query serves all sessions.

The load on the scheduler does not grow with the number of sessions. A query runs only when a session needs a newer
answer than the last one. An idle hub therefore queries as often as JupyterHub polls a single server: see
``Spawner.poll_interval`` in :mod:`hpchub.hub.config`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from hpchub.schedulers import Job, JobState, Scheduler, Unanswered

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hpchub.clusters.gate_client import Answer
    from hpchub.schedulers.terms import Terms

log = logging.getLogger(__name__)

PRIVACY_INTERVAL = 300.0
"""How long the poller caches whether the scheduler hides jobs, in seconds."""
PRIVACY_ATTEMPTS = 3
"""After this many queries without an answer, the poller assumes that the scheduler hides no jobs."""
FIND_PAUSE = 5.0
"""How long the poller does not look up single jobs after a lookup that failed, in seconds."""


class GateQueries(Protocol):
    """The requests of a gate that a poller uses."""

    async def query(self) -> str:
        """See Gate.query."""

    async def find(self, job_id: str) -> Answer:
        """See Gate.find."""

    async def limits(self) -> str:
        """See Gate.limits."""


@dataclass(frozen=True)
class Snapshot:
    """One complete answer of the scheduler.

    Attributes:
        taken: When the query started, in seconds of the monotonic clock.
        jobs: Every job by id.
    """

    taken: float
    jobs: dict[str, Job] = field(default_factory=dict)

    @property
    def is_damaged(self) -> bool:
        """Whether the answer contains a damaged record. It may be the record of any job that the answer lacks."""
        return any(job.is_unreadable for job in self.jobs.values())


@contextlib.contextmanager
def errors_mean_unanswered() -> Iterator[None]:
    """Treat an answer that cannot be parsed as no answer.

    Raises:
        Unanswered: Replaces every other exception. The log contains the original one.
    """
    try:
        yield
    except Unanswered:
        raise
    except Exception as error:
        log.exception("the scheduler's answer cannot be parsed")
        raise Unanswered(f"its answer cannot be parsed: {error!r}") from error


class BulkPoller(ABC):
    """The bulk query of one cluster or place, shared by all sessions.

    A subclass asks: all jobs with ``_read``, and one job with ``_look_up``.

    Args:
        terms: The terms of the scheduler or of the place.
        interval: The minimum time from the start of a query to the start of the next one, in seconds.
        longest_backoff: The maximum time between attempts while the scheduler is slow or silent, in seconds.

    Attributes:
        answered: When the query started that got the last answer, on the monotonic clock. Before the first answer, when
            the poller was created.
        failures: How many queries in a row had no answer.
        total_failures: How many queries had no answer, since the poller was created.
    """

    def __init__(
        self,
        terms: Terms,
        *,
        interval: float = 1.0,
        longest_backoff: float = 60.0,
    ) -> None:
        self.terms = terms
        self._interval = interval
        self._longest_backoff = longest_backoff
        self._snapshot: Snapshot | None = None
        self.answered = time.monotonic()
        self.failures = 0
        self.total_failures = 0
        self._placed: tuple[Snapshot, dict[str, int]] | None = None
        self._next = 0.0
        self._running: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()
        self._lookup_pause: tuple[float, str] = (0.0, "")  # end of the pause, and its reason

    @abstractmethod
    async def _read(self) -> dict[str, Job]:
        """Ask for all jobs, and return them by their ids.

        Raises:
            Unanswered: There is no complete answer.
        """

    @abstractmethod
    async def _look_up(self, job_id: str) -> Job | None:
        """Ask for one job. Return None only if the answer states that it does not exist.

        Raises:
            Unanswered: The answer is unclear.
        """

    def latest(self, max_age: float) -> Snapshot | None:
        """Return the last answer if it is at most ``max_age`` seconds old. Ask nobody."""
        known = self._snapshot
        return known if known is not None and time.monotonic() - known.taken <= max_age else None

    async def snapshot(self, max_age: float) -> Snapshot:
        """Return an answer that is at most ``max_age`` seconds old.

        Raises:
            Unanswered: The scheduler does not answer now, so nothing is known.
        """
        wanted = time.monotonic() - max_age
        if self._snapshot is not None and self._snapshot.taken >= wanted:
            return self._snapshot
        if self._running is None:
            if self.failures and time.monotonic() < self._next:
                raise Unanswered("the scheduler does not answer")
            self._running = asyncio.create_task(self._query())
        # Shield the query: when a session stops while it waits, the other sessions still need the answer.
        await asyncio.shield(self._running)
        if self.failures or self._snapshot is None:
            raise Unanswered("the scheduler does not answer")
        return self._snapshot

    def places(self, snapshot: Snapshot) -> Mapping[str, int]:
        """Return the place of each pending job in its queue, by the job's id; see ``Scheduler.places``.

        All sessions share the places of an answer.
        """
        if self._placed is None or self._placed[0] is not snapshot:
            try:
                found = self.terms.places(snapshot.jobs)
            except Exception:
                log.exception("cannot find the places of the jobs in the queues")
                found = {}
            self._placed = snapshot, found
        return self._placed[1]

    async def find(self, job_id: str, snapshot: Snapshot) -> Job | None:
        """Look up a job that is missing from the bulk answer. Return None if the scheduler denies that it exists.

        Only one lookup runs at a time. If the job exists, the bulk answer was incomplete and is discarded, unless the
        job's record may be a damaged one.

        Raises:
            Unanswered: The answer is unclear, or the scheduler hides jobs, or there is a newer bulk answer now.
        """
        async with self._one_at_a_time:
            if self._snapshot is not snapshot:
                raise Unanswered("there is a newer bulk answer, or no valid one")
            if time.monotonic() < self._lookup_pause[0]:
                raise Unanswered(self._lookup_pause[1])
            try:
                with errors_mean_unanswered():
                    return await self._find(job_id, snapshot)
            except Unanswered as error:
                self._lookup_pause = time.monotonic() + FIND_PAUSE, str(error)
                raise

    async def _find(self, job_id: str, snapshot: Snapshot) -> Job | None:
        job = await self._look_up(job_id)
        is_live = job is not None and job.state is not JobState.ENDED
        if job is not None and is_live and self._snapshot is snapshot and not snapshot.is_damaged:
            self._snapshot = None
            self._failed(f"its bulk answer does not show job {job_id}, which exists ({job.detail})")
        return job

    def _failed(self, reason: object) -> None:
        self.failures += 1
        self.total_failures += 1
        wait = min(self._longest_backoff, self._interval * 2 ** min(self.failures, 16))
        self._next = time.monotonic() + wait * random.uniform(0.5, 1.0)  # noqa: S311 jitter, not a secret
        log.warning("%s does not answer (%d times): %s", self.terms.name, self.failures, reason)

    async def _query(self) -> None:
        try:
            await asyncio.sleep(max(0.0, self._next - time.monotonic()))
            started = time.monotonic()
            self._next = started + self._interval
            try:
                with errors_mean_unanswered():
                    jobs = await self._read()
            except Unanswered as error:
                self._failed(error)
            else:
                # Query a slow scheduler less often, so that our queries take at most a fifth of its time.
                pause = min(5 * (time.monotonic() - started), self._longest_backoff)
                self._next = max(self._next, started + pause * random.uniform(1.0, 1.2))  # noqa: S311 jitter
                if self.failures:
                    log.warning("%s answers again", self.terms.name)
                self.failures = 0
                self.answered = started
                self._snapshot = Snapshot(taken=started, jobs=jobs)
        finally:
            self._running = None


class Poller(BulkPoller):
    """The poller of a cluster. It asks the scheduler through the cluster's gate.

    Args:
        scheduler: The scheduler, which parses the answers.
        gate: The gate, which runs the queries and returns their output. It raises Unanswered if there is no output.
        options: See ``BulkPoller``.
    """

    def __init__(self, scheduler: Scheduler, gate: GateQueries, **options: float) -> None:
        super().__init__(scheduler, **options)
        self.scheduler = scheduler
        self._gate = gate
        self._hidden: tuple[str, str] | None = None
        self._privacy_checked = -PRIVACY_INTERVAL
        self._privacy_failures = 0  # in a row

    async def _read(self) -> dict[str, Job]:
        return self.scheduler.parse_query(await self._gate.query())

    async def _look_up(self, job_id: str) -> Job | None:
        answer = await self._gate.find(job_id)
        job = self.scheduler.parse_find(job_id, answer.exit, answer.stdout, answer.stderr)
        if job is None and (hidden := await self._privacy()):
            raise Unanswered(f"{self.scheduler.name} shows no job {job_id}, and {hidden[0]}; {hidden[1]}")
        return job

    async def _privacy(self) -> tuple[str, str] | None:
        """Return what hides jobs from the hub's account and the right that it needs. A hidden job seems not to exist.

        Raises:
            Unanswered: The scheduler did not answer. After some attempts, the poller assumes that no jobs are hidden.
        """
        if time.monotonic() - self._privacy_checked >= PRIVACY_INTERVAL:
            try:
                with errors_mean_unanswered():
                    self._hidden = self.scheduler.parse_privacy(await self._gate.limits())
                self._privacy_failures = 0
            except Unanswered as error:
                log.warning("%s does not report whether it hides jobs: %s", self.scheduler.name, error)
                self._privacy_failures += 1
                if self._privacy_failures < PRIVACY_ATTEMPTS:
                    raise
            self._privacy_checked = time.monotonic()
            if self._hidden:
                log.warning("%s %s; %s", self.scheduler.name, *self._hidden)
        return self._hidden
