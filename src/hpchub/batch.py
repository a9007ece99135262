"""The spawners that run one session's batch job: batchspawner's classes, with the gate and the poller behind them.

Everything that batchspawner says of a scheduler by shell lines and regular expressions, ``hpchub.schedulers`` says as
argument vectors and parsers; what JupyterHub sees stays batchspawner's interface.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, Any

import batchspawner
from batchspawner import JobStatus
from jupyterhub.spawner import Spawner, SpawnException
from traitlets import Bool, Dict, Float, Unicode

from hpchub.model import Cluster, Profile
from hpchub.runtime import Runtime, runtime
from hpchub.schedulers import SCHEDULERS, Job, JobState, Scheduler, Unanswered, render_batch_script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_STATUS = {
    JobState.PENDING: JobStatus.PENDING,
    JobState.RUNNING: JobStatus.RUNNING,
    JobState.ENDED: JobStatus.NOTFOUND,
    JobState.UNKNOWN: JobStatus.UNKNOWN,
}

_PASSED_ON = ("JUPYTERHUB_", "HPCHUB_")


class StartError(SpawnException):  # type: ignore[misc]
    """A session that is not started, in words for its user: pages show the message and nothing around it."""

    def __str__(self) -> str:
        return str(self.message)


class JobSpawner(batchspawner.BatchSpawnerBase):  # type: ignore[misc]
    """One session's job. Mixed in before batchspawner's class of the scheduler."""

    settings_file = Unicode(help="The hub's settings file; see hpchub.runtime.")
    cluster = Dict(help="The cluster, as the profile list has it.")
    profile = Dict(help="What this session was granted, as the profile list had it when it started.")

    session = Unicode(help="This session's name, 16 hexadecimal digits: in the job's name and its files.")
    reported = Bool(False, help="Whether the job has told its port.")
    launch_timeout = Float(
        360, help="Seconds from the job's start until its server's report; the launcher gives up before, and says why."
    )
    stop_timeout = Float(30, help="Seconds to wait for the job's end after it was cancelled.")
    startup_poll_interval = Float(1.0, help="Seconds between two looks at the scheduler's answer during a start.")
    answer_max_age = Float(20.0, help="Seconds for which an answer of the scheduler's is new enough for a poll.")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._seen = time.monotonic()
        self._job: Job | None = None
        self._message = "Your job is being submitted."
        self.save: Callable[[], None] = lambda: None
        """Writes the session down at once; set by the profiles spawner, which owns the database row."""

    # -- what it works with

    @property
    def runtime(self) -> Runtime:
        """What this hub's spawners share."""
        return runtime(self.settings_file)

    @property
    def _cluster(self) -> Cluster:
        return Cluster.model_validate(self.cluster)

    @property
    def _profile(self) -> Profile:
        return Profile.model_validate(self.profile)

    @property
    def scheduler(self) -> Scheduler:
        """The cluster's scheduler."""
        return SCHEDULERS[self.cluster["scheduler"]]

    # -- the job's environment

    def get_env(self) -> dict[str, str]:
        """What the notebook server needs of the hub. It travels in an owner-only file, never through the scheduler.

        batchspawner's classes add the account's HOME and SHELL as the hub host sees them; the job has its own.
        """
        env = {
            name: str(value)
            for name, value in Spawner.get_env(self).items()
            if name.startswith(_PASSED_ON) and value is not None
        }
        first, last = (
            self.runtime.settings["notebook_ports"]["first"],
            self.runtime.settings["notebook_ports"]["last"],
        )
        env.update(
            HPCHUB_SESSION=self.session,
            HPCHUB_PORT_FIRST=str(first),
            HPCHUB_PORT_LAST=str(last),
            HPCHUB_INTERFACE=self._profile.interface,
            HPCHUB_DEFAULT_KERNEL=self._profile.default_kernel,
            HPCHUB_API_CA=self.runtime.api_ca,
            **self._server_identity(),
        )
        return env

    def _server_identity(self) -> dict[str, str]:
        """By what the server proves to the proxy whose it is; made anew for each session.

        Raises:
            StartError: 503, the hub has no authority to sign it.
        """
        try:
            identity = self.runtime.authority.issue(self.user.name)
        except (OSError, ValueError) as error:
            self.log.error("%s: no certificate can be made: %s", self._log_name, error)
            raise StartError(
                "Notebook servers cannot be started at the moment: the hub cannot make their certificates."
                " Please tell those who run it.",
                reason="no_certificate",
                status_code=503,
            ) from None
        return {
            "HPCHUB_TLS_KEY": identity.key,
            "HPCHUB_TLS_CERTIFICATE": identity.certificate,
            "HPCHUB_TLS_CLIENTS": identity.clients,
        }

    # -- batchspawner's three commands, through the gate

    async def submit_batch_script(self) -> str:
        """Submit the profile's batch script.

        Raises:
            StartError: the scheduler refused; the message says its reason.
        """
        script = render_batch_script(
            self._cluster,
            self._profile,
            session=self.session,
            hub=self.runtime.hub_name,
            username=self.user.name,
            template_dir=self.runtime.template_dir(),
        )
        name = self.cluster["name"]
        try:
            answer = await self.runtime.gate(name).request(
                "submit", user=self.user.name, session=self.session, script=script, secrets=self.get_env()
            )
            if answer.ok:
                self.job_id = self.scheduler.parse_submit(answer.stdout)
        except Unanswered as error:
            self.log.error("%s: submitting to %s: %s", self._log_name, name, error)
            raise StartError(
                f"The cluster {name} does not answer right now. Please try again in a few minutes.",
                reason="unanswered",
            ) from None
        if not answer.ok:
            self.log.error("%s: submitting to %s: %s", self._log_name, name, answer)
            detail = (answer.stderr.strip().splitlines() or [answer.error])[-1]
            raise StartError(f"The cluster {name} did not take the job: {detail}", reason="refused")
        self._seen = time.monotonic()
        self._job = None
        self.log.info("%s: session %s is job %s on %s", self._log_name, self.session, self.job_id, name)
        return str(self.job_id)

    async def query_job_status(self, max_age: float | None = None) -> JobStatus:
        """What is known of the job, from the cluster's shared answer.

        Only the scheduler's word that the job has ended is an end, or its silence about the job in complete answers
        for longer than it takes to propagate. No answer is UNKNOWN.
        """
        if not self.job_id:
            return JobStatus.NOTFOUND
        try:
            poller = self.runtime.poller(self.cluster["name"], self.cluster["scheduler"])
            snapshot = await poller.snapshot(self.answer_max_age if max_age is None else max_age)
        except (Unanswered, ValueError):
            return JobStatus.UNKNOWN
        job = snapshot.jobs.get(self.job_id)
        if job is None:
            missing = snapshot.taken - self._seen
            return JobStatus.NOTFOUND if missing > self.scheduler.propagation else JobStatus.UNKNOWN
        self._seen = max(self._seen, snapshot.taken)
        self._job = job
        self.job_status = f"{job.detail} {job.host}".strip()
        return _STATUS[job.state]

    async def cancel_batch_job(self) -> None:
        """Cancel the job, three times where it does not work at once.

        Raises:
            RuntimeError: it could not be cancelled.
        """
        name = self.cluster["name"]
        problem = ""
        for attempt in range(3):
            await asyncio.sleep(attempt * 2)
            try:
                answer = await self.runtime.gate(name).request(
                    "cancel", user=self.user.name, session=self.session, job_id=self.job_id
                )
            except (Unanswered, ValueError) as error:
                problem = str(error)
            else:
                if answer.ok:
                    return
                problem = str(answer)
            self.log.warning("%s: cancelling job %s on %s: %s", self._log_name, self.job_id, name, problem)
        raise RuntimeError(f"job {self.job_id} on {name} could not be cancelled: {problem}")

    # -- JupyterHub's start, poll and stop

    async def start(self) -> str:
        """Submit, wait for the job to run and for its port.

        Returns:
            the notebook server's URL.

        Raises:
            StartError: with what went wrong in words for the user.
        """
        self.session = secrets.token_hex(8)
        self.reported = False
        self.ip, self.port = "0.0.0.0", 0  # noqa: S104 the proxy is on another host; the launcher chooses the port
        await self.submit_batch_script()
        self.save()
        await self._wait_until_running()
        deadline = time.monotonic() + self.launch_timeout
        host = self._job.host if self._job else ""
        self._message = f"Your job {self.job_id} runs on {host}. The notebook server is starting."
        while not self.reported:
            if time.monotonic() > deadline:
                raise StartError(
                    f"Your job {self.job_id} runs on {host}, but its notebook server did not report within"
                    f" {self.launch_timeout:g} seconds. Its log is ~/.hpchub/logs/{self.job_id}.log on the cluster.",
                    reason="no_report",
                )
            if await self.query_job_status(max_age=5.0) == JobStatus.NOTFOUND:
                raise self._ended()
            await asyncio.sleep(0.1)
        self.ip = host
        self._message = f"The notebook server answers on {host}. Opening it."
        self.log.info("%s: job %s listens on %s:%d", self._log_name, self.job_id, host, self.port)
        return f"https://{host}:{self.port}"

    async def _wait_until_running(self) -> None:
        """Wait in the queue, however long it takes: a queue is not a failure."""
        while True:
            status = await self.query_job_status(max_age=self.startup_poll_interval)
            if status == JobStatus.RUNNING and self._job and self._job.host:
                return
            if status == JobStatus.NOTFOUND:
                raise self._ended()
            self._message = self._pending_message(status)
            await asyncio.sleep(self.startup_poll_interval)

    def _pending_message(self, status: JobStatus) -> str:
        where = f"Your job {self.job_id} waits in the queue {self.profile['queue']} of {self.cluster['name']}"
        if status == JobStatus.UNKNOWN:
            return f"{where}; the scheduler has not said more yet."
        if self._job and self._job.reason:
            where += f": {self.scheduler.explain(self._job.reason)} ({self._job.reason})"
        if self._job and self._job.start:
            where += f". Expected to start: {self._job.start.replace('T', ' ')}"
        return f"{where}."

    def _ended(self) -> StartError:
        detail = self._job.detail if self._job else "gone from the queue"
        log = f"~/.hpchub/logs/{self.job_id}.log"
        return StartError(
            f"Your job {self.job_id} ended before its notebook server was ready ({detail})."
            f" If it ran, its log is {log} on the cluster.",
            reason="ended",
        )

    def report(self, port: int) -> bool:
        """Take the job's report of its port: once, while its start waits for it. Returns whether it was taken."""
        if self.reported or not self.job_id:
            return False
        self.port = port
        self.reported = True
        return True

    async def poll(self) -> int | None:
        """None while the job runs, waits, or nothing is known; 1 when it has ended."""
        if await self.query_job_status() != JobStatus.NOTFOUND:
            return None
        self.clear_state()
        return 1

    async def stop(self, now: bool = False) -> None:
        """Cancel the job and, unless ``now``, wait until the scheduler says that it has ended."""
        if not self.job_id:
            return
        await self.cancel_batch_job()
        deadline = time.monotonic() + self.stop_timeout
        while not now and time.monotonic() < deadline:
            if await self.query_job_status(max_age=1.0) == JobStatus.NOTFOUND:
                return
            await asyncio.sleep(1)

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """What the progress page shows: each message once."""
        shown = ""
        while True:
            if self._message != shown:
                shown = self._message
                yield {"progress": self._percent(), "message": shown}
            await asyncio.sleep(0.5)

    def _percent(self) -> int:
        if self.reported:
            return 90
        if self._job and self._job.state == JobState.RUNNING:
            return 60
        return 30 if self.job_id else 10

    # -- what survives a restart of the hub

    def get_state(self) -> dict[str, Any]:
        """The job, and the session by which it is found."""
        return {"job_id": self.job_id, "session": self.session} if self.job_id else {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take a session up again. Only an id and a session that are well formed are taken."""
        self.job_id = str(state.get("job_id", ""))
        self.session = str(state.get("session", ""))
        self.reported = True
        self._seen = time.monotonic()

    def clear_state(self) -> None:
        """Forget the job."""
        super().clear_state()
        self.session = ""


class SlurmJobSpawner(JobSpawner, batchspawner.SlurmSpawner):  # type: ignore[misc]
    """A session's job under Slurm."""


SPAWNERS: dict[str, type[JobSpawner]] = {"slurm": SlurmJobSpawner}
"""The spawner class of each scheduler."""
