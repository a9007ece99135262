"""The life of a session's job as a pure state machine. It makes every decision, and the spawner does the I/O.

The spawner reports an event to ``JobSession.step``: an answer of the scheduler, the job's port report, or the end of a
wait. The step returns the new state and the action that the spawner carries out next. ``SessionState`` has the facts,
and ``session_texts`` the sentences for the user.
"""

# ruff: noqa: SLF001 - the transitions call each other on new states, which are instances of the same class

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hpchub.hub import job_actions as actions
from hpchub.hub import job_events as events
from hpchub.hub import session_texts as texts
from hpchub.hub.remote_texts import failure_of
from hpchub.hub.session_state import Now, Phase, SessionState
from hpchub.messages import Message, sentences
from hpchub.schedulers import Job, JobState, Outlook, Scheduler, Unanswered, job_name

if TYPE_CHECKING:
    from collections.abc import Mapping

CONNECT_TIMEOUT = 30.0
"""How long to try the addresses of a node after its notebook server has started, in seconds."""
HOPELESS_AFTER = 10.0
"""How long snapshots must show that a job can never start, in seconds. Some reasons appear for a moment only."""


@dataclass(frozen=True)
class Step:
    """The result of an event.

    Attributes:
        state: The new state.
        action: The next action, or None if the event needs no reaction.
        note: A message for the log, or empty.
    """

    state: JobSession
    action: actions.Action | None = None
    note: str = ""


@dataclass(frozen=True)
class JobSession(SessionState):
    """The state of a session, and the decision what happens next."""

    # -- Steps

    def step(self, event: events.Event, now: Now) -> Step:  # noqa: C901, PLR0911, PLR0912 one case for each event
        """Return the new state and the next action after an event."""
        match event:
            case events.StartRequested(session, requested):
                fresh = JobSession(self.context, session=session, requested=requested, phase=Phase.SUBMITTING)
                fresh = replace(fresh, message=texts.submitting(fresh))
                return Step(replace(fresh, last_seen=now.monotonic))
            case events.SubmissionAnswered(answer):
                return self._submission_answered(answer, now)
            case events.SubmissionAccepted(job_id):
                return replace(self, job_id=job_id)._submitted(now)
            case events.SubmissionRefused(failure, note):
                return Step(self, failure, note)
            case events.SubmissionUnanswered(error):
                return self._search(error, "", now)
            case events.SubmissionEnded():
                return Step(replace(self, phase=Phase.IDLE) if self._submitting else self)
            case events.FollowRequested(after_restart):
                return self._follow(after_restart, now)
            case events.SnapshotTaken(taken, jobs, places):
                step = self._snapshot_taken(taken, jobs, now)
                return replace(step, state=replace(step.state, place=places.get(step.state.job_id)))
            case events.SnapshotUnanswered():
                return Step(replace(self, silent=True, status=JobState.UNKNOWN))
            case events.JobLookedUp(job):
                return self._job_looked_up(job)
            case events.LookUpUnanswered():
                return Step(replace(self, status=JobState.UNKNOWN))
            case events.PortReported() | events.ProblemReported():
                return self._reported(event, now)
            case events.DrainBegan(reason):
                return Step(replace(self, drained=reason) if self.phase is Phase.QUEUED else self)
            case events.ServerOpened():
                return Step(replace(self, ready=self.ready or now.wall))
            case events.CancelConfirmed():
                return Step(replace(self, cancelled=True))
            case events.Observed() | events.Waited() | events.TurnTaken() | events.Probed():
                return self._proceed(event, now)

    def _proceed(self, event: events.Completion, now: Now) -> Step:  # noqa: C901, PLR0911, PLR0912 one case for each
        """Continue the start after an action."""
        if self.problem and self.phase in (Phase.QUEUED, Phase.LAUNCHING):
            return Step(self, texts.reported_failure(self))
        if self.drained and self.phase is Phase.QUEUED and self.status is not JobState.RUNNING:
            return Step(self, actions.Fail(self.drained, reason="drained", status_code=503))
        match self.phase, event:
            case Phase.SEARCHING, events.Observed():
                return self._submitted(now) if self.job_id else Step(self, actions.Wait(self.context.poll_interval))
            case Phase.SEARCHING, events.Waited():
                return self._search_again(now)
            case Phase.QUEUED, events.Observed():
                return self._check_queue(now)
            case Phase.QUEUED, events.Waited():
                return Step(self, self._observe_queue(now))
            case Phase.LAUNCHING, events.Observed():
                return self._check_launch(now)
            case Phase.LAUNCHING, events.Waited():
                return self._wait_for_report(now)
            case Phase.LAUNCHING, events.TurnTaken():
                return self._ready(now)
            case Phase.CONNECTING, events.Probed(reachable=True):
                return replace(self, host=self.candidates[0])._connected()
            case Phase.CONNECTING, events.Probed():
                return self._connect(self.candidates[1:], now)
            case Phase.CONNECTING, events.Observed():
                return Step(self, texts.ended(self) if self.status is JobState.ENDED else self._wait())
            case Phase.CONNECTING, events.Waited():
                return self._connect(self.hosts, now)
            case Phase.RECONNECTING, events.Probed(reachable=True):
                return Step(replace(self, phase=Phase.READY), actions.Done(self.url))
            case Phase.RECONNECTING, events.Probed():
                return Step(self, actions.Observe(max_age=5.0))
            case Phase.RECONNECTING, events.Observed():
                over = self.status is JobState.ENDED
                return Step(self, texts.ended(self) if over else actions.Wait(self.context.poll_interval))
            case Phase.RECONNECTING, events.Waited():
                return Step(self, actions.Probe(self.host, self.port))
        # The session was cleared while the spawner was busy.
        return Step(self, texts.ended(self))

    # -- The submission

    @property
    def _submitting(self) -> bool:
        return self.phase in (Phase.SUBMITTING, Phase.SEARCHING)

    def _submission_answered(self, answer: events.SubmitAnswer, now: Now) -> Step:
        """Take the job's id from the answer, or search for the job if the answer does not contain it."""
        submit_error = (answer.stderr.strip().splitlines() or [""])[-1]
        if answer.timed_out:
            # The command was stopped at an unknown point.
            return self._search(str(answer), submit_error, now)
        if not answer.ok:
            fail = texts.refused(self, answer.stderr) or texts.not_accepted(self, failure_of(answer))
            return Step(self, fail, note=f"the submission to {self.context.cluster.name} failed: {answer}")
        # A last line without its end may be cut off, and a part of an id is the id of another job.
        scheduler = self.context.scheduler
        assert isinstance(scheduler, Scheduler)  # noqa: S101 only a cluster sends this answer
        complete = answer.stdout[: answer.stdout.rfind("\n") + 1]
        try:
            job_id, certain = (scheduler.parse_submit(text) for text in (answer.stdout, complete))
        except Unanswered as error:
            return self._search(f"{error}: {answer}", submit_error, now)
        if job_id != certain:
            return self._search(f"the submit command's output is cut off: {answer}", submit_error, now)
        return replace(self, job_id=job_id)._submitted(now)

    def _submitted(self, now: Now) -> Step:
        state = replace(
            self,
            phase=Phase.QUEUED,
            submitted=now.wall,
            last_seen=now.monotonic,
            patience=self.context.scheduler.propagation,
        )
        return Step(state, actions.Done())

    def _search(self, error: str, submit_error: str, now: Now) -> Step:
        """Search for the job for as long as a new job may take to appear in the scheduler's answers."""
        state = replace(
            self,
            phase=Phase.SEARCHING,
            submit_error=submit_error,
            deadline=now.monotonic + self.context.scheduler.propagation,
        )
        step = state._search_again(now)
        return replace(step, note=f"the submission to {self.context.cluster.name} is in doubt: {error}")

    def _search_again(self, now: Now) -> Step:
        if now.monotonic < self.deadline:
            return Step(self, actions.Observe(max_age=self.context.poll_interval))
        note = f"the job of session {self.session} was not found on {self.context.cluster.name}"
        return Step(self, texts.unanswered(self), note)

    # -- Observations of the job

    def _snapshot_taken(self, taken: float, jobs: Mapping[str, Job], now: Now) -> Step:
        """Find the session's job in a snapshot.

        The session is over only if the scheduler reports it: the job has ended, or the scheduler does not know the job
        although it has been missing for longer than a live job may be. Anything else is unknown.
        """
        state = replace(self, silent=False)
        found = state._find(jobs)
        if found is None:
            return state._missing(taken, jobs)
        note = ""
        if found.id != self.job_id:
            state = replace(state, job_id=found.id, submitted=self.submitted or now.wall)
            note = f"session {self.session} was found by its name: it is job {found.id}"
        # A job that is pending after its server had started was requeued. Its server and its secrets are lost.
        requeued = found.state is JobState.PENDING and bool(self.port) and taken > self.reported_at
        if requeued:
            note = f"job {found.id} was requeued after its server had started, so its session is over"
        state = replace(
            state,
            job=self.job if found.is_unreadable and self.job else found,
            status=JobState.ENDED if requeued else found.state,
            last_seen=max(self.last_seen, taken),
            hopeless_since=min(self.hopeless_since, taken) if state._is_hopeless(found) else math.inf,
            patience=self.context.scheduler.propagation,
        )
        return Step(state, note=note)

    def _find(self, jobs: Mapping[str, Job]) -> Job | None:
        """Return the job with the session's job id. If there is no id, or it belongs to another job, search by name."""
        job = jobs.get(self.job_id)
        if self.job_id and (job is None or not self._is_foreign(job)):
            return job
        for job in jobs.values():
            if job.user == self.context.user and job.session(self.context.hub) == self.session:
                return job
        return None

    def _is_hopeless(self, job: Job) -> bool:
        """Return whether a job waits for a reason that never ends by itself."""
        if job.is_unreadable:
            return self.hopeless_since < math.inf
        waits = job.state is JobState.PENDING and job.reason != ""
        return waits and self.context.scheduler.understand(job.reason).outlook is Outlook.NEVER

    def _is_foreign(self, job: Job) -> bool:
        """Return whether a job with this session's job id belongs to somebody else. Schedulers reuse ids.

        The name alone does not decide, because users can rename their jobs. The user alone does not decide either,
        because some schedulers use other user names than the hub.
        """
        if job.name == job_name(self.session):
            return False
        return job.user not in ("", self.context.user) or bool(job.session(self.context.hub))

    def _missing(self, taken: float, jobs: Mapping[str, Job]) -> Step:
        """Decide what it means that a snapshot does not contain the session's job."""
        # A cancelled job is expected to be missing, so the scheduler is asked for it at once.
        patience = 0.0 if self.cancelled else self.patience
        unknown = replace(self, status=JobState.UNKNOWN)
        if self._submitting or taken - self.last_seen <= patience:
            return Step(unknown)
        if not self.job_id and any(job.is_unreadable and self.session in job.comment for job in jobs.values()):
            return Step(unknown)
        if not self.job_id or self.job_id in jobs:
            return Step(replace(self, status=JobState.ENDED))
        return Step(unknown, actions.LookUpJob(self.job_id))

    def _job_looked_up(self, job: Job | None) -> Step:
        if job is None:
            return Step(replace(self, status=JobState.ENDED))
        # Some schedulers report no host for a single job.
        known = replace(job, host=job.host or (self.job.host if self.job else ""))
        return Step(replace(self, job=known, status=job.state))

    # -- The wait in the queue

    def _follow(self, after_restart: bool, now: Now) -> Step:
        state = replace(self, restarted=after_restart, phase=Phase.QUEUED)
        if after_restart and self.host:
            return state._reconnect()
        if after_restart:
            state = replace(state, message=Message("The service was restarted. Your session continues to start."))
        return Step(state, state._observe_queue(now))

    def _observe_queue(self, now: Now) -> actions.Observe:
        """Return the next observation. A snapshot from before the job's report is too old, because the job runs now."""
        # Waits are up to 10% shorter than the interval. Each observation needs a newer snapshot than the last one.
        max_age = 0.85 * self.context.poll_interval
        return actions.Observe(min(max_age, now.monotonic - self.reported_at))

    def _check_queue(self, now: Now) -> Step:
        if self.status is JobState.RUNNING and self.job and self.job.host:
            state = replace(
                self,
                phase=Phase.LAUNCHING,
                node=self.job.host,
                deadline=now.monotonic + self.context.launch_timeout,
                started=self.started or now.wall,
                message=texts.launching(self, self.job.host),
            )
            return state._wait_for_report(now)
        if self.status is JobState.ENDED:
            return Step(self, texts.ended(self))
        if self.job and self.last_seen - self.hopeless_since >= HOPELESS_AFTER:
            return Step(self, texts.never_starts(self, self.job))
        # While the scheduler is silent, the job may have started.
        longest = self.context.profile.max_wait_seconds
        if self.job and not self.silent and self.submitted and now.wall - self.submitted > longest:
            return Step(self, texts.waited_too_long(self))
        return Step(replace(self, message=texts.waiting(self)), self._wait())

    def _wait(self) -> actions.Wait:
        """Wait for the next observation. It comes sooner if the job has reported its port."""
        interval = self.context.poll_interval
        return actions.Wait(interval / 4 if self.port else interval)

    # -- The launch of the notebook server

    def _reported(self, event: events.PortReported | events.ProblemReported, now: Now) -> Step:
        """Accept the first report of a session. A returned state that is unchanged means that it was refused."""
        if not self.session or self.port or self.problem:
            return Step(self)
        state = replace(self, reported=now.wall, reported_at=now.monotonic)
        match event:
            case events.PortReported(port, addresses, notice):
                return Step(replace(state, port=port, addresses=addresses, notice=notice))
            case events.ProblemReported(problem):
                return Step(replace(state, problem=problem))

    def _wait_for_report(self, now: Now) -> Step:
        if self.port:
            # JupyterHub's work for a ready server blocks its event loop, and many jobs may start at once.
            return Step(self, actions.TakeTurn())
        if now.monotonic > self.deadline:
            return Step(self, texts.no_report(self))
        return Step(self, actions.Observe(max_age=5.0))

    def _check_launch(self, now: Now) -> Step:
        if self.status is JobState.ENDED:
            return Step(self, texts.ended(self))
        if self.status is JobState.PENDING:
            state = replace(self, phase=Phase.QUEUED, started=0.0)
            note = f"job {self.job_id} is pending again, because its node did not start it"
            return Step(state, self._observe_queue(now), note)
        return Step(self, self._wait())

    def _ready(self, now: Now) -> Step:
        hosts = self.hosts
        if not hosts:
            return Step(self, texts.no_address(self))
        if self.addresses:
            state = replace(self, phase=Phase.CONNECTING, deadline=now.monotonic + CONNECT_TIMEOUT)
            return state._connect(hosts, now)
        # The launcher of an older environment does not report addresses.
        state = replace(self, host=hosts[0])
        return state._reconnect() if self.restarted else state._connected()

    def _connect(self, candidates: tuple[str, ...], now: Now) -> Step:
        """Try the first candidate. After the last one, begin a new round, until the timeout is over."""
        state = replace(self, candidates=candidates)
        if candidates:
            return Step(state, actions.Probe(candidates[0], self.port))
        if now.monotonic <= self.deadline:
            return Step(state, actions.Observe(max_age=5.0))
        if self.restarted:
            return replace(state, host=self.hosts[0])._reconnect()
        return Step(state, texts.unreachable(self))

    def _connected(self) -> Step:
        message = sentences(
            Message("Your notebook server is ready on {host}. Opening it.", host=self.host), self.notice
        )
        return Step(replace(self, phase=Phase.READY, message=message), actions.Done(self.url))

    def _reconnect(self) -> Step:
        message = Message(
            "The service was restarted. It is waiting for your session on {host} to answer.", host=self.host
        )
        return Step(replace(self, phase=Phase.RECONNECTING, message=message), actions.Probe(self.host, self.port))
