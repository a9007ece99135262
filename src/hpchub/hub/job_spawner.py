"""The spawners that run one session's batch job: batchspawner's classes, with the gate and the poller behind them.

Everything that batchspawner says of a scheduler by shell lines and regular expressions, ``hpchub.schedulers`` says as
argument vectors and parsers; what JupyterHub sees stays batchspawner's interface.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import re
import secrets
import time
from typing import TYPE_CHECKING, Any

import batchspawner
from batchspawner import JobStatus
from jupyterhub.spawner import Spawner, SpawnException
from traitlets import Dict, Float, Integer, Unicode

from hpchub.clusters.batch_script import render_batch_script
from hpchub.hub.runtime import Runtime, runtime
from hpchub.model.entries import Cluster, Profile
from hpchub.schedulers import SCHEDULERS, Job, JobState, Scheduler, Unanswered, job_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from hpchub.clusters.gate_client import Answer
    from hpchub.clusters.poller import Poller, Snapshot

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

    @property
    def jupyterhub_message(self) -> str:
        """What JupyterHub shows whoever comes back to a start that has failed."""
        return str(self)


class JobSpawner(batchspawner.BatchSpawnerBase):  # type: ignore[misc]
    """One session's job. Mixed in before batchspawner's class of the scheduler."""

    settings_file = Unicode(help="The hub's settings file; see hpchub.hub.runtime.")
    cluster = Dict(help="The cluster, as the profile list has it.")
    profile = Dict(help="What this session was granted, as the profile list had it when it started.")

    session = Unicode(help="This session's name, 16 hexadecimal digits: in the job's name and its files.")
    submitted = Float(0.0, help="When its job was submitted, in seconds since 1970; 0 until then.")
    notebook_port = Integer(0, help="The port that the job has told; 0 until then.")
    notebook_host = Unicode(help="The node on which the notebook server listens; empty until its port is known.")
    launch_timeout = Float(
        360,
        config=True,
        help="Seconds from the job's start until its server's report, while this process of the hub looks on.",
    )
    stop_timeout = Float(30, config=True, help="Seconds to wait for the job's end after it was cancelled.")
    startup_poll_interval = Float(
        1.5, config=True, help="Seconds between two looks at the scheduler's answer during a start."
    )
    poll_patience = Float(2.0, config=True, help="Seconds for which a poll, and whose page waits for it, waits.")
    answer_max_age = Float(
        20.0, config=True, help="Seconds for which an answer of the scheduler's is new enough for a poll."
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._seen = time.monotonic()
        self._patience = 0.0
        self._reported = 0.0
        self._cancelled = False
        self._submission: asyncio.Future[str] | None = None
        self._report = asyncio.Event()
        self._job: Job | None = None
        self._silence = False  # the scheduler's, at the last look
        self._question: asyncio.Future[JobStatus] | None = None  # of a poll that did not wait for the answer
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
                "Sessions cannot start at the moment, because the service cannot create the certificates of notebook"
                " servers. Please tell the administrators of the service.",
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
        """Submit the profile's batch script, and write the job's id down.

        Raises:
            StartError: the scheduler refused, and the message says its reason; or it did not answer, and the job is
                not there. Should it come later, it is a job without a session, which the orphan collector cancels.
        """
        script = render_batch_script(
            self._cluster,
            self._profile,
            session=self.session,
            hub=self.runtime.hub_name,
            username=self.user.name,
            template_dir=self.runtime.template_dir(),
        )
        name, said = self.cluster["name"], ""
        try:
            answer = await self.runtime.gate(name).request(
                "submit", user=self.user.name, session=self.session, script=script, secrets=self.get_env()
            )
            said = (answer.stderr.strip().splitlines() or [""])[-1]
            if answer.timed_out:
                raise Unanswered(str(answer))  # noqa: TRY301 what it did, nobody knows either
            if answer.ok:
                self.job_id = self._job_id_in(answer)
        except Unanswered as error:
            self.log.warning("%s: submitting to %s: %s", self._log_name, name, error)
            await self._find(said)
        else:
            if not answer.ok:
                self.log.error("%s: submitting to %s: %s", self._log_name, name, answer)
                raise StartError(
                    f"The cluster {name} did not accept your job: {said or answer.error}", reason="refused"
                )
        self._seen = time.monotonic()
        self._patience = self.scheduler.propagation
        self.submitted = time.time()
        self.save()
        self.log.info("%s: session %s is job %s on %s", self._log_name, self.session, self.job_id, name)
        return str(self.job_id)

    def _job_id_in(self, answer: Answer) -> str:
        """The job's id, from what the submit command printed.

        Raises:
            Unanswered: it is not one, or was cut off; a part of a number is another job's.
        """
        try:
            if answer.stdout.endswith("\n"):
                return self.scheduler.parse_submit(answer.stdout)
        except Unanswered as error:
            raise Unanswered(f"{error}: {answer}") from None
        raise Unanswered(f"the submit command's output does not end with its line: {answer}")

    async def _find(self, said: str) -> None:
        """Look for the job by its name, for as long as it takes to propagate: its submission was not answered.

        Args:
            said: the last line of what the submit command said instead, or empty.

        Raises:
            StartError: it is not there, or the scheduler does not answer.
        """
        deadline = time.monotonic() + self.scheduler.propagation
        name = self.cluster["name"]
        while time.monotonic() < deadline:
            with contextlib.suppress(Unanswered):
                if self._take(await self._snapshot(self.startup_poll_interval)):
                    return
            await asyncio.sleep(self.startup_poll_interval)
        self.log.error("%s: the job of session %s is not found on %s", self._log_name, self.session, name)
        raise StartError(
            f"The cluster {name} {f'did not confirm your job: {said}' if said else 'does not answer at the moment'}."
            " Please try again in a few minutes.",
            reason="unanswered",
        )

    @property
    def _poller(self) -> Poller:
        return self.runtime.poller(self.cluster["name"], self.cluster["scheduler"])

    async def _snapshot(self, max_age: float) -> Snapshot:
        return await self._poller.snapshot(max_age)

    def _take(self, snapshot: Snapshot) -> Job | None:
        """The session's job in an answer: by its id, or by its name where no job of this id is the session's."""
        job = snapshot.jobs.get(self.job_id)
        if self.job_id and (job is None or not self._is_foreign(job)):
            return job
        for job in snapshot.jobs.values():
            if job.user == self.user.name and job.session(self.runtime.hub_name) == self.session:
                self.log.warning("%s: session %s is found as job %s", self._log_name, self.session, job.id)
                self.job_id = job.id
                self.submitted = self.submitted or time.time()
                self.save()
                return job
        return None

    def _is_foreign(self, job: Job) -> bool:
        """Whether a job of this session's id is another's: ids are given again, in time.

        A user may have renamed the session's job, and some sites' schedulers have other names for their users.
        """
        if job.name == job_name(self.session):
            return False
        return job.user not in ("", self.user.name) or bool(job.session(self.runtime.hub_name))

    async def query_job_status(self, max_age: float | None = None) -> JobStatus:
        """What is known of the job, from the cluster's shared answer.

        Only the scheduler's word is an end: that the job has ended, or, when its shared answers have not shown the job
        for longer than it takes to propagate, that there is none of this id. No answer is UNKNOWN. A job that waits
        again after its server was ready was requeued: that server is gone, and so is the session.
        """
        if not self.session:
            return JobStatus.NOTFOUND
        try:
            snapshot = await self._snapshot(self.answer_max_age if max_age is None else max_age)
        except (Unanswered, ValueError):
            self._silence = True
            return JobStatus.UNKNOWN
        self._silence = False
        job = self._take(snapshot)
        if job is None:
            return await self._missing(snapshot)
        self._seen = max(self._seen, snapshot.taken)
        self._patience = self.scheduler.propagation
        self._job = job
        self.job_status = f"{job.detail} {job.host}".strip()
        if job.state is JobState.PENDING and self.notebook_port and snapshot.taken > self._reported:
            self.log.warning("%s: job %s was requeued; its session is over", self._log_name, self.job_id)
            return JobStatus.NOTFOUND
        return _STATUS[job.state]

    async def _missing(self, snapshot: Snapshot) -> JobStatus:
        """What is known of a job that the shared answer does not show."""
        submitting = self._submission is not None and not self._submission.done()
        # A job that was cancelled is expected to be missing: the scheduler's word on it is asked for at once.
        patience = 0.0 if self._cancelled else self._patience
        if submitting or snapshot.taken - self._seen <= patience:
            return JobStatus.UNKNOWN
        if not self.job_id or self.job_id in snapshot.jobs:
            return JobStatus.NOTFOUND
        try:
            job = await self._poller.find(self.job_id, snapshot)
        except Unanswered:
            return JobStatus.UNKNOWN
        if job is None:
            return JobStatus.NOTFOUND
        # Some schedulers say no more of a single job than that it is there.
        self._job = dataclasses.replace(job, host=job.host or (self._job.host if self._job else ""))
        return _STATUS[job.state]

    async def cancel_batch_job(self) -> None:
        """Cancel the job, again and again for ``stop_timeout`` seconds.

        Raises:
            Unanswered: the scheduler has not said that it is cancelled, nor that it has ended.
        """
        name = self.cluster["name"]
        deadline = time.monotonic() + self.stop_timeout
        while True:
            try:
                await self.runtime.cancel(name, user=self.user.name, session=self.session, job_id=self.job_id)
            except (Unanswered, ValueError) as error:
                self.log.warning("%s: cancelling job %s on %s: %s", self._log_name, self.job_id, name, error)
                if time.monotonic() > deadline:
                    raise Unanswered(str(error)) from None
            else:
                return
            if await self.query_job_status(max_age=1.0) == JobStatus.NOTFOUND:
                return
            await asyncio.sleep(2)

    # -- JupyterHub's start, poll and stop

    async def start(self) -> str:
        """Submit, wait for the job to run and for its port.

        The session is written down before its job is submitted: whenever the hub ends, the next one looks for it.

        Returns:
            the notebook server's URL.

        Raises:
            StartError: with what went wrong in words for the user.
        """
        self.session, self.submitted = secrets.token_hex(8), 0.0
        self._report.clear()
        self._cancelled = False
        self.notebook_host, self.notebook_port = "", 0
        self.ip, self.port = "0.0.0.0", 0  # noqa: S104 the proxy is on another host; the launcher chooses the port
        self.save()
        self._submission = asyncio.ensure_future(self.submit_batch_script())
        # A start that is stopped meanwhile must not leave a job of which nobody knows: stop() waits for the answer.
        await asyncio.shield(self._submission)
        return await self._follow()

    async def adopt(self) -> str:
        """Go on with a session of the hub's process before, for as long as its job lives.

        A start that was pending goes on. A server that was ready is waited for until it can be reached.

        Returns:
            the notebook server's URL.

        Raises:
            StartError: the job has ended.
        """
        if not self.notebook_host:
            self._message = "The service was restarted. Your session continues to start."
            await self._follow()
        self._message = f"The service was restarted. It is waiting for your session on {self.notebook_host} to answer."
        while not await self._reachable():
            if await self.query_job_status(max_age=5.0) == JobStatus.NOTFOUND:
                raise self._ended()
            await asyncio.sleep(self.startup_poll_interval)
        return self._url(self.notebook_host, self.notebook_port)

    async def _reachable(self) -> bool:
        try:
            opening = asyncio.open_connection(self.notebook_host, self.notebook_port)
            _, writer = await asyncio.wait_for(opening, timeout=5)
        except OSError:
            return False
        writer.close()
        return True

    def _url(self, host: str, port: int) -> str:
        """A session's address."""
        return f"https://{host}:{port}"

    async def _follow(self) -> str:
        """From the submitted job to its server's URL."""
        await self._wait_until_running()
        deadline = time.monotonic() + self.launch_timeout
        host = self._job.host if self._job else ""
        self._message = f"Your job {self.job_id} runs on {host}. The notebook server is starting."
        while not self.notebook_port:
            if time.monotonic() > deadline:
                raise StartError(
                    f"Your job {self.job_id} runs on {host}, but its notebook server did not start within"
                    f" {self.launch_timeout:g} seconds. To find the reason, read its log on the cluster:"
                    f" ~/.hpchub/logs/{self.job_id}.log",
                    reason="no_report",
                )
            status = await self.query_job_status(max_age=5.0)
            if status == JobStatus.NOTFOUND:
                raise self._ended()
            if status == JobStatus.PENDING:
                self.log.warning("%s: job %s waits again, its node did not start it", self._log_name, self.job_id)
                return await self._follow()
            await self._until_report()
        # What JupyterHub does from here on is much work, and many jobs may have started at once.
        await self.runtime.throttle.wait_for_turn()
        self.notebook_host = self._cluster.host_of((self._job and self._job.host) or host)
        self.save()
        self._message = f"Your notebook server is ready on {self.notebook_host}. Opening it."
        self.log.info(
            "%s: job %s listens on %s:%d", self._log_name, self.job_id, self.notebook_host, self.notebook_port
        )
        return self._url(self.notebook_host, self.notebook_port)

    async def _wait_until_running(self) -> None:
        """Wait in the queue: no failure, but for as long as the profile says.

        Raises:
            StartError: the job has ended, or the scheduler still lets it wait.
        """
        while True:
            # A job that has reported runs: an answer from before that is too old.
            age = time.monotonic() - self._reported if self.notebook_port else self.startup_poll_interval
            status = await self.query_job_status(max_age=min(age, 0.85 * self.startup_poll_interval))
            if status == JobStatus.RUNNING and self._job and self._job.host:
                return
            if status == JobStatus.NOTFOUND:
                raise self._ended()
            # A job of which the scheduler says something strange waits too; in silence nothing is given up.
            if self._job and not self._silence and self.submitted and self._waited_too_long():
                raise StartError(
                    f"Your job {self.job_id} waited in the queue {self.profile['queue']} of {self.cluster['name']} for"
                    f" longer than its profile allows ({self._profile.max_wait}), so the start was cancelled."
                    " Choose another profile, or try again when the cluster is less busy.",
                    reason="waited",
                )
            self._message = self._pending_message(status)
            await self._until_report()

    async def _until_report(self) -> None:
        """Wait for the job's report, or for about ``startup_poll_interval``: not all sessions look at the same time."""
        seconds = self.startup_poll_interval * random.uniform(0.9, 1.1)  # noqa: S311 not a secret
        if self.notebook_port:
            await asyncio.sleep(seconds / 4)
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._report.wait(), seconds)

    def _waited_too_long(self) -> bool:
        return time.time() - self.submitted > self._profile.max_wait_seconds

    def _pending_message(self, status: JobStatus) -> str:
        if not self.job_id:
            return (
                f"The service was restarted while it submitted your job to {self.cluster['name']}."
                " It is searching for the job."
            )
        where = f"Your job {self.job_id} waits in the queue {self.profile['queue']} of {self.cluster['name']}"
        if self._silence:
            return f"{where}. The scheduler does not answer at the moment. Your job keeps its place in the queue."
        if status == JobStatus.UNKNOWN:
            return f"{where}. The scheduler has not reported its state yet."
        if self._job and self._job.reason:
            where += f": {self.scheduler.explain(self._job.reason)} ({self._job.reason})"
        if self._job and self._job.start:
            where += f". Expected to start: {self._job.start.replace('T', ' ')}"
        return f"{where}."

    def _ended(self) -> StartError:
        if not self.job_id:
            message = "The service was restarted before your job was submitted. Please start your session again."
            return StartError(message, reason="not_submitted")
        # What it was when last seen is no word for its end.
        detail = f" ({self._job.detail})" if self._job and self._job.state is JobState.ENDED else ""
        log = f"~/.hpchub/logs/{self.job_id}.log"
        return StartError(
            f"Your job {self.job_id} ended before its notebook server was ready{detail}."
            f" If it ran, you find the reason in its log on the cluster: {log}",
            reason="ended",
        )

    def report(self, port: int) -> bool:
        """Take the job's report of its port, once, and write it down. Returns whether it was taken."""
        if not self.session or self.notebook_port:
            return False
        self.notebook_port = port
        self._reported = time.monotonic()
        self._report.set()
        self.save()
        return True

    async def poll(self) -> int | None:
        """None while the job runs, waits, or nothing is known; 1 when it has ended.

        Never raises: JupyterHub takes an exception at its start for the end of the session. Pages wait for this, as
        the one that a user comes home to: of a scheduler that is slow, or hangs, the next poll takes the answer.
        """
        question = self._question or asyncio.ensure_future(self.query_job_status())
        done, _ = await asyncio.wait({question}, timeout=self.poll_patience)
        self._question = None if done else question
        if not done:
            return None
        try:
            status = question.result()
        except Exception:
            self.log.exception("%s: job %s is not known to have ended", self._log_name, self.job_id)
            return None
        return 1 if status == JobStatus.NOTFOUND else None

    async def stop(self, now: bool = False) -> None:
        """Cancel the job and, unless ``now``, wait until the scheduler says that it has ended.

        JupyterHub forgets the session, whether this raises or not. What is left, the orphan collector cancels.
        """
        if self._submission is not None:
            await asyncio.wait({self._submission})
        if not self.job_id:
            await self.query_job_status(max_age=1.0)
        if not self.job_id:
            return
        try:
            await self.cancel_batch_job()
        except Unanswered as error:
            self.log.error("%s: job %s is left to the orphan collector: %s", self._log_name, self.job_id, error)
            return
        self._cancelled = True
        if now:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.stop_timeout):
                while await self.query_job_status(max_age=1.0) != JobStatus.NOTFOUND:  # noqa: ASYNC110 another host's
                    await asyncio.sleep(1)

    def abandon(self) -> None:
        """Forget the session at once, and cancel its job as soon as that is possible."""
        if self.job_id:
            self.runtime.background(
                f"job {self.job_id} is left to the orphan collector",
                self.runtime.cancel(
                    self.cluster["name"], user=self.user.name, session=self.session, job_id=self.job_id
                ),
            )
        self.clear_state()

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """What the progress page shows: each message once."""
        shown = ""
        while True:
            if self._message != shown:
                shown = self._message
                yield {"progress": self._percent(), "message": shown}
            await asyncio.sleep(0.5)

    def _percent(self) -> int:
        if self.notebook_port:
            return 90
        if self._job and self._job.state == JobState.RUNNING:
            return 60
        return 30 if self.job_id else 10

    # -- what survives a restart of the hub

    def get_state(self) -> dict[str, Any]:
        """Shape: ``{"session", "job_id", "submitted", "host", "port"}``, or empty where there is no session.

        The job's id is empty until its submission is answered, the port 0 until it is reported, the host empty until
        both are known.
        """
        if not self.session:
            return {}
        return {
            "session": self.session,
            "job_id": self.job_id,
            "submitted": self.submitted,
            "host": self.notebook_host,
            "port": self.notebook_port,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take a session up again. Only what is well formed is taken.

        A job without an id may still be in the hands of a gate that outlived the hub, and is looked for longer.
        """
        session, job_id, port = str(state.get("session")), str(state.get("job_id")), state.get("port")
        self.session = session if re.fullmatch(r"[0-9a-f]{16}", session) else ""
        self.job_id = job_id if re.fullmatch(self.scheduler.job_id_pattern, job_id) else ""
        self.notebook_host = str(state.get("host", ""))
        self.notebook_port = port if type(port) is int else 0
        submitted = state.get("submitted")
        self.submitted = submitted if isinstance(submitted, float) else 0.0
        self._seen = time.monotonic()
        self._patience = self.scheduler.propagation
        if not self.job_id:
            self._patience += self.runtime.gate(self.cluster["name"]).timeout

    def clear_state(self) -> None:
        """Forget the session."""
        super().clear_state()
        self.session, self.submitted = "", 0.0
        self.notebook_host, self.notebook_port = "", 0


class SlurmJobSpawner(JobSpawner, batchspawner.SlurmSpawner):  # type: ignore[misc]
    """A session's job under Slurm."""


class TorqueJobSpawner(JobSpawner, batchspawner.TorqueSpawner):  # type: ignore[misc]
    """A session's job under Torque."""


class MoabJobSpawner(JobSpawner, batchspawner.MoabSpawner):  # type: ignore[misc]
    """A session's job under Moab."""


class PBSJobSpawner(JobSpawner, batchspawner.PBSSpawner):  # type: ignore[misc]
    """A session's job under PBS."""


class LsfJobSpawner(JobSpawner, batchspawner.LsfSpawner):  # type: ignore[misc]
    """A session's job under LSF."""


class MultiSlurmJobSpawner(JobSpawner, batchspawner.MultiSlurmSpawner):  # type: ignore[misc]
    """A session's job under Slurm with several daemons on one host."""


class GridEngineJobSpawner(JobSpawner, batchspawner.GridengineSpawner):  # type: ignore[misc]
    """A session's job under Grid Engine, Univa's and Altair's too."""


class HTCondorJobSpawner(JobSpawner, batchspawner.CondorSpawner):  # type: ignore[misc]
    """A session's job under HTCondor."""


SPAWNERS: dict[str, type[JobSpawner]] = {
    "slurm": SlurmJobSpawner,
    "torque": TorqueJobSpawner,
    "moab": MoabJobSpawner,
    "pbs": PBSJobSpawner,
    "lsf": LsfJobSpawner,
    "multislurm": MultiSlurmJobSpawner,
    "gridengine": GridEngineJobSpawner,
    "uge": GridEngineJobSpawner,
    "htcondor": HTCondorJobSpawner,
}
"""The spawner class of each scheduler."""
