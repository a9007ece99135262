"""The spawner that runs a session as a batch job.

It implements the interfaces of JupyterHub and batchspawner. Where batchspawner runs shell commands and matches their
output with regular expressions, hpchub uses the gate of the cluster and ``hpchub.schedulers``.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import batchspawner
from batchspawner import JobStatus

from hpchub.clusters.knowledge import COUNT_AGE
from hpchub.hub.backend import Backend, ClusterBackend
from hpchub.hub.session_spawner import SessionSpawner
from hpchub.hub.start_error import StartError
from hpchub.schedulers import SCHEDULERS, JobState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpchub.hub.session_state import Context
    from hpchub.schedulers.terms import Terms

_STATUS = {
    JobState.PENDING: JobStatus.PENDING,
    JobState.RUNNING: JobStatus.RUNNING,
    JobState.ENDED: JobStatus.NOTFOUND,
    JobState.UNKNOWN: JobStatus.UNKNOWN,
}


class JobSpawner(SessionSpawner, batchspawner.BatchSpawnerBase):  # type: ignore[misc]
    """A spawner that runs one session as a batch job.

    ``spawner_class`` combines it with batchspawner's class for the cluster's scheduler.
    """

    @property
    def terms(self) -> Terms:
        """The terms of the cluster's scheduler."""
        return SCHEDULERS[self.cluster.scheduler]

    def make_backend(self, context: Context) -> Backend:
        """Return how the driver reaches the cluster."""
        return ClusterBackend(context, self.runtime)

    async def find_obstacles(self) -> Sequence[object]:
        """Return the parts of the cluster that do not work with this hub."""
        return await self.runtime.versions.obstacles(self.cluster.name)

    async def ask_doctor(self) -> None:
        """Ask what would make the job fail. A doctor that does not know it in time prevents nothing.

        Raises:
            StartError: The job would fail (409).
        """
        name = self.cluster.name
        try:
            latest = self.runtime.poller(name, self.cluster.scheduler).latest(COUNT_AGE)
            jobs = latest.jobs.values() if latest else None
            found = await self.runtime.knowledge(name).findings(self.user.name, self.profile, jobs)
        except Exception:
            self.log.exception("%s: the doctor has failed; the start goes on", self._log_name)
            return
        if found:
            self.log.warning("%s: no session can start on %s: %s", self._log_name, name, found[0].message)
            error = StartError(found[0].message, reason="doctor", status_code=409)
            error.advice = found[0].advice
            raise error

    # -- batchspawner's three commands

    async def submit_batch_script(self) -> str:
        """Submit the job and return its id; see ``JobDriver.submit``."""
        await self.driver.submit(self.get_env)
        return self.job_id

    async def query_job_status(self, max_age: float | None = None) -> JobStatus:
        """Return the job's status; see ``JobDriver.observe``. The default of ``max_age`` is ``answer_max_age``."""
        state = await self.driver.observe(self.answer_max_age if max_age is None else max_age)
        if job := self.driver.state.job:
            self.job_status = f"{job.detail} {job.host}".strip()
        return _STATUS[state]

    async def cancel_batch_job(self) -> None:
        """Cancel the job; see ``JobDriver.cancel``."""
        await self.driver.cancel(self.stop_timeout)

    # -- the methods of ``SessionSpawner`` go through those of batchspawner, so that a site's subclass can extend them

    def get_env(self) -> dict[str, str]:
        """Return the environment of the notebook server; see ``SessionSpawner.session_environment``."""
        return self.session_environment()

    async def submit(self) -> None:
        """Submit the job."""
        await self.submit_batch_script()

    async def job_state(self) -> JobState:
        """Return the job's state."""
        await self.query_job_status()
        return self.driver.state.status if self.session else JobState.ENDED

    def clear_state(self) -> None:
        """Forget the session, and record that it is over."""
        super().clear_state()
        self.job_status = ""


@functools.cache
def spawner_class(scheduler: str) -> type[JobSpawner]:
    """Return the spawner class of a scheduler: ``JobSpawner`` combined with batchspawner's class.

    Args:
        scheduler: The scheduler's name.
    """
    implementation = SCHEDULERS[scheduler]
    base = getattr(batchspawner, implementation.batchspawner_class)
    bases = (JobSpawner,) if issubclass(JobSpawner, base) else (JobSpawner, base)
    return type(f"{type(implementation).__name__}JobSpawner", bases, {"__doc__": f"A session's job in {scheduler}."})
