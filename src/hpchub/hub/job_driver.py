"""The I/O of a session: the driver carries out what the state machine ``JobSession`` decides."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import ssl
import time
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from hpchub.hub import job_actions as actions
from hpchub.hub import job_events as events
from hpchub.hub.job_session import JobSession
from hpchub.hub.session_events import progress
from hpchub.hub.session_state import Now
from hpchub.hub.start_error import StartError
from hpchub.schedulers import JobState, Unanswered

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Coroutine, Mapping
    from typing import Any

    from hpchub.hub.backend import Backend
    from hpchub.hub.runtime import Runtime


class JobDriver:
    """A session's connection to its cluster or place, to the clock and to the database.

    Args:
        backend: What runs the job: a cluster or a place.
        runtime: The objects that all spawners of the hub share.
        log: The spawner's logger.
        label: The spawner's name in the log.

    Attributes:
        state: The state of the session.
        save: Saves the session in the database. It is called whenever the saved part of the state has changed.
    """

    def __init__(self, backend: Backend, runtime: Runtime, *, log: logging.Logger, label: str) -> None:
        self.state = JobSession(backend.context, last_seen=time.monotonic())
        self.save: Callable[[], None] = lambda: None
        self._runtime = runtime
        self._log = log
        self._label = label
        self._backend = backend
        self._cluster = backend.context.cluster
        self._report = asyncio.Event()
        self._submission: asyncio.Future[None] | None = None
        self._distrusts = False

    # -- the state machine

    def _step(self, event: events.Event) -> actions.Action | None:
        """Give an event to the state machine, save the session if it has changed, and return the next action.

        Raises:
            SQLAlchemyError: The beginning of a session or a job's report cannot be saved, so it did not happen.
        """
        before, now = self.state, _now()
        step = before.step(event, now)
        self.state = step.state
        if step.note:
            self._log.warning("%s: %s", self._label, step.note)
        if self.state.saved != before.saved:
            for happened in progress(before, self.state, now.wall):
                self._runtime.events.emit(happened)
            try:
                self.save()
            except SQLAlchemyError as error:
                if isinstance(event, events.StartRequested | events.PortReported | events.ProblemReported):
                    self.state = before
                    raise
                # The hub finds the job by its session's name, which is saved before the submission.
                self._log.error("%s: cannot save session %s now: %s", self._label, self.state.session, error)
        return step.action

    async def _drive(self, event: events.Event) -> str:
        """Carry out the actions of the state machine until one of them ends the task. Return the resulting URL.

        Raises:
            StartError: The start has failed.
        """
        while True:
            match self._step(event):
                case actions.Observe(max_age):
                    await self.observe(max_age)
                    event = events.Observed()
                case actions.Wait(seconds):
                    await self._wait(seconds)
                    event = events.Waited()
                case actions.TakeTurn():
                    await self._runtime.throttle.wait_for_turn()
                    event = events.TurnTaken()
                case actions.Probe(host, port):
                    event = events.Probed(await self._reachable(host, port))
                case actions.Done(url):
                    return url
                case actions.Fail() as failure:
                    raise StartError.of(failure)
                case action:
                    raise AssertionError(f"no task ends with {action}")

    async def _wait(self, seconds: float) -> None:
        """Wait for the time, or until the job reports its port. The jitter keeps sessions from polling in step."""
        seconds *= random.uniform(0.9, 1.1)  # noqa: S311 not a secret
        if self.state.port:
            await asyncio.sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._report.wait(), seconds)

    async def _reachable(self, host: str, port: int) -> bool:
        """Return whether a notebook server with a certificate of this hub's authority answers.

        JupyterHub ends a session if it cannot verify the server's certificate afterwards.
        """
        try:
            connection = asyncio.open_connection(host, port, ssl=self._runtime.client_context)
            _, writer = await asyncio.wait_for(connection, timeout=5)
        except ssl.SSLCertVerificationError as error:
            if not self._distrusts:
                self._distrusts = True
                self._log.warning("%s: the hub does not trust the server at %s: %s", self._label, host, error)
            return False
        except (OSError, ValueError):
            return False
        writer.close()
        return True

    # -- the start

    def begin(self, requested: float = 0.0) -> None:
        """Begin a new session and save it. Its job is not submitted yet.

        Args:
            requested: When the user asked for the session, in seconds since 1970, or 0 if this is not known.
        """
        self._report.clear()
        self._step(events.StartRequested(secrets.token_hex(8), requested))

    async def submit(self, environment: Callable[[], Mapping[str, str]]) -> None:
        """Submit the job. If the submission is not answered, search for the job.

        A cancellation of the caller does not cancel the submission, because it could leave a job behind. ``stop`` waits
        for the submission.

        Args:
            environment: Returns the environment of the notebook server, which the gate stores in a file that only the
                user can read.

        Raises:
            StartError: The scheduler refused the job, or the job was not found. If the job appears later, it is an
                orphan, and the orphan collector cancels it.
        """
        self._submission = asyncio.ensure_future(self._submit(environment))
        await asyncio.shield(self._submission)

    async def _submit(self, environment: Callable[[], Mapping[str, str]]) -> None:
        try:
            await self._drive(await self._backend.submit(self.state, environment))
        finally:
            self._step(events.SubmissionEnded())
        session, job_id = self.state.session, self.state.job_id
        self._log.info("%s: session %s is job %s on %s", self._label, session, job_id, self._cluster.name)

    async def follow(self, *, after_restart: bool = False) -> str:
        """Wait until the job's notebook server is ready. Return the server's URL.

        Args:
            after_restart: Whether an earlier hub process began the session.

        Raises:
            StartError: The start has failed, or the job has ended.
        """
        url = await self._drive(events.FollowRequested(after_restart))
        self._log.info("%s: the server of job %s is ready at %s", self._label, self.state.job_id, url)
        return url

    def opened(self) -> None:
        """Record when the user could open the notebook server for the first time."""
        self._step(events.ServerOpened())

    def report(self, report: events.PortReported | events.ProblemReported) -> bool:
        """Accept the job's report and save it. Return False if no session is waiting for one."""
        before = self.state
        self._step(report)
        if self.state is before:
            return False
        self._report.set()
        return True

    def drain(self, reason: str) -> None:
        """End the start if its job still waits in the queue. A session that has started goes on.

        Args:
            reason: The explanation for the user.
        """
        self._step(events.DrainBegan(reason))

    # -- the job

    async def observe(self, max_age: float) -> JobState:
        """Update the session from a scheduler answer that all sessions of the cluster share.

        Args:
            max_age: The maximum age of the answer, in seconds.

        Returns:
            The state of the job. ``ENDED`` means that the session is over.
        """
        if not self.state.session:
            return JobState.ENDED
        try:
            poller = self._backend.poller
            snapshot = await poller.snapshot(max_age)
        except (Unanswered, ValueError):
            self._step(events.SnapshotUnanswered())
            return self.state.status
        places = {} if self.state.port else poller.places(snapshot)
        action = self._step(events.SnapshotTaken(snapshot.taken, snapshot.jobs, places))
        if isinstance(action, actions.LookUpJob):
            try:
                job = await poller.find(action.job_id, snapshot)
            except Unanswered:
                self._step(events.LookUpUnanswered())
            else:
                self._step(events.JobLookedUp(job))
        return self.state.status

    def request_cancellation(self) -> Coroutine[Any, Any, None]:
        """Return a coroutine that asks the scheduler once to cancel the current job.

        Raises:
            Unanswered: The scheduler did not confirm the cancellation.
            ValueError: The hub's settings do not contain the cluster.
        """
        state = self.state
        return self._backend.cancel(session=state.session, job_id=state.job_id)

    async def cancel(self, stop_timeout: float) -> None:
        """Cancel the job, and retry a failed cancellation.

        Args:
            stop_timeout: How long to retry, in seconds.

        Raises:
            Unanswered: The scheduler has confirmed neither the cancellation nor the job's end.
        """
        deadline = time.monotonic() + stop_timeout
        while True:
            try:
                await self.request_cancellation()
            except (Unanswered, ValueError) as error:
                self._log.warning("%s: cannot cancel job %s: %s", self._label, self.state.job_id, error)
                if time.monotonic() > deadline:
                    raise Unanswered(str(error)) from None
            else:
                break
            if await self.observe(max_age=1.0) is JobState.ENDED:
                break
            await asyncio.sleep(2)
        self._step(events.CancelConfirmed())

    async def stop(self, stop_timeout: float, *, wait: bool) -> None:
        """Cancel the job. If the cancellation fails, leave the job to the orphan collector.

        Args:
            stop_timeout: How long to retry the cancellation, and how long to wait for the job's end, in seconds.
            wait: Whether to wait for the job's end.
        """
        if self._submission is not None:
            await asyncio.wait({self._submission})
        if not self.state.job_id:
            await self.observe(max_age=1.0)
        if not self.state.job_id:
            return
        try:
            await self.cancel(stop_timeout)
        except Unanswered as error:
            job_id = self.state.job_id
            self._log.error("%s: job %s is left to the orphan collector: %s", self._label, job_id, error)
            return
        if wait:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(stop_timeout):
                    while await self.observe(max_age=1.0) is not JobState.ENDED:  # noqa: ASYNC110 remote state
                        await asyncio.sleep(1)

    # -- a restart of the hub

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Restore a session that an earlier hub process saved. Invalid values are ignored.

        Raises:
            ValueError: The job's id is unknown, and the hub's settings do not contain the cluster.
        """
        self.state = JobSession.restore(self.state.context, saved, _now())
        if not self.state.job_id:
            # The gate or the place may still be submitting the job for the earlier hub process.
            self.state = self.state.extend_patience(self._backend.timeout)

    def forget(self) -> None:
        """Forget the session. An open progress page keeps its last message."""
        self.state = JobSession(self.state.context, last_seen=time.monotonic(), message=self.state.message)


def _now() -> Now:
    return Now(time.monotonic(), time.time())
