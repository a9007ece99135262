"""Asks each cluster's scheduler about all sessions at once.

However many sessions there are, and whatever they wait for, one answer serves them all. It is asked for when
somebody wants an answer newer than the last one, so a quiet hub asks as often as JupyterHub polls one server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from hpchub.schedulers import Job, JobState, Scheduler, Unanswered

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpchub.clusters.gate_client import Answer

log = logging.getLogger(__name__)

PRIVACY_INTERVAL = 300.0
"""Seconds for which it is taken as known whether the scheduler hides jobs."""
PRIVACY_ATTEMPTS = 3
"""How often a scheduler is asked whether it hides jobs, until it is believed without a word on it."""
FIND_PAUSE = 5.0
"""Seconds for which no single job is asked for after a question that was not answered: all sessions may have one."""


class Questions(Protocol):
    """What a poller needs of a gate."""

    async def query(self) -> str:
        """See Gate.query."""

    async def find(self, job_id: str) -> Answer:
        """See Gate.find."""

    async def limits(self) -> str:
        """See Gate.limits."""


@dataclass(frozen=True)
class Snapshot:
    """One complete answer of the scheduler's.

    Attributes:
        taken: when it was asked for, in seconds of the monotonic clock.
        jobs: every job by id.
    """

    taken: float
    jobs: dict[str, Job] = field(default_factory=dict)


@contextlib.contextmanager
def _mistakes_are_silence() -> Iterator[None]:
    """Whatever is not understood of an answer is none.

    Raises:
        Unanswered: in place of any other exception, which goes to the log.
    """
    try:
        yield
    except Unanswered:
        raise
    except Exception as error:
        log.exception("an answer of the scheduler's is not understood")
        raise Unanswered(f"its answer is not understood: {error!r}") from error


class Poller:
    """One cluster's bulk query, shared by every session.

    Args:
        scheduler: which parses the answer.
        gate: runs the questions and returns their output; raises Unanswered when there is none.
        interval: least time between the begins of two queries, in seconds.
        longest_backoff: longest time between two attempts while the scheduler does not answer, or slowly, in seconds.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        gate: Questions,
        *,
        interval: float = 1.0,
        longest_backoff: float = 60.0,
    ) -> None:
        self.scheduler = scheduler
        self.queries = 0
        self._gate = gate
        self._interval = interval
        self._longest_backoff = longest_backoff
        self._snapshot: Snapshot | None = None
        self._failures = 0
        self._next = 0.0
        self._running: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()
        self._hidden: tuple[str, str] | None = None
        self._looked = -PRIVACY_INTERVAL
        self._unsaid = 0  # questions after hidden jobs that were not answered, one after the other
        self._no_find: tuple[float, str] = (0.0, "")  # until when, and why

    async def snapshot(self, max_age: float) -> Snapshot:
        """An answer that is at most ``max_age`` seconds old.

        Raises:
            Unanswered: the scheduler does not answer now; nothing is known.
        """
        wanted = time.monotonic() - max_age
        if self._snapshot is not None and self._snapshot.taken >= wanted:
            return self._snapshot
        if self._running is None:
            if self._failures and time.monotonic() < self._next:
                raise Unanswered("the scheduler does not answer")
            self._running = asyncio.create_task(self._ask())
        # Shielded: one session that is stopped while it waits must not take the answer from the others.
        await asyncio.shield(self._running)
        if self._failures or self._snapshot is None:
            raise Unanswered("the scheduler does not answer")
        return self._snapshot

    async def find(self, job_id: str, snapshot: Snapshot) -> Job | None:
        """What the scheduler says of a job that its bulk answer does not show; None for its word that there is none.

        One question at a time. A job that is there makes the answer one that was cut off, and worth nothing.

        Raises:
            Unanswered: it says neither, or hides jobs, or there is a newer bulk answer by now.
        """
        async with self._one_at_a_time:
            if self._snapshot is not snapshot:
                raise Unanswered("there is a newer answer, or none")
            if time.monotonic() < self._no_find[0]:
                raise Unanswered(self._no_find[1])
            try:
                with _mistakes_are_silence():
                    return await self._find(job_id, snapshot)
            except Unanswered as error:
                self._no_find = time.monotonic() + FIND_PAUSE, str(error)
                raise

    async def _find(self, job_id: str, snapshot: Snapshot) -> Job | None:
        answer = await self._gate.find(job_id)
        job = self.scheduler.parse_find(job_id, answer.exit, answer.stdout, answer.stderr)
        if job is not None and job.state is not JobState.ENDED and self._snapshot is snapshot:
            self._snapshot = None
            self._failed(f"its answer does not show job {job_id}, which is there ({job.detail})")
        if job is None and (hidden := await self._privacy()):
            raise Unanswered(f"{self.scheduler.name} shows no job {job_id}, and {hidden[0]}; {hidden[1]}")
        return job

    async def _privacy(self) -> tuple[str, str] | None:
        """What hides jobs from the hub's account, and the right that it needs: a hidden job looks like none.

        Raises:
            Unanswered: it does not say. Who never does, since this cannot be asked there, hides none.
        """
        if time.monotonic() - self._looked >= PRIVACY_INTERVAL:
            try:
                with _mistakes_are_silence():
                    self._hidden = self.scheduler.parse_privacy(await self._gate.limits())
                self._unsaid = 0
            except Unanswered as error:
                log.warning("%s does not say whether it hides jobs: %s", self.scheduler.name, error)
                self._unsaid += 1
                if self._unsaid < PRIVACY_ATTEMPTS:
                    raise
            self._looked = time.monotonic()
            if self._hidden:
                log.warning("%s %s; %s", self.scheduler.name, *self._hidden)
        return self._hidden

    def _failed(self, why: object) -> None:
        self._failures += 1
        wait = min(self._longest_backoff, self._interval * 2 ** min(self._failures, 16))
        self._next = time.monotonic() + wait * random.uniform(0.5, 1.0)  # noqa: S311 jitter, not a secret
        log.warning("%s does not answer (%d times): %s", self.scheduler.name, self._failures, why)

    async def _ask(self) -> None:
        try:
            await asyncio.sleep(max(0.0, self._next - time.monotonic()))
            began = time.monotonic()
            self.queries += 1
            self._next = began + self._interval
            try:
                with _mistakes_are_silence():
                    jobs = self.scheduler.parse_query(await self._gate.query())
            except Unanswered as error:
                self._failed(error)
            else:
                # A scheduler that is slow to answer is asked less often: at most a fifth of its time is ours.
                pause = min(5 * (time.monotonic() - began), self._longest_backoff)
                self._next = max(self._next, began + pause * random.uniform(1.0, 1.2))  # noqa: S311 jitter
                if self._failures:
                    log.warning("%s answers again", self.scheduler.name)
                self._failures = 0
                self._snapshot = Snapshot(taken=began, jobs=jobs)
        finally:
            self._running = None
