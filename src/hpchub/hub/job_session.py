"""The life of a session's job as a pure state machine. It makes every decision, and the spawner does the I/O.

The spawner reports an event to ``JobSession.step``: an answer of the scheduler, the job's port report, or the end of a
wait. The step returns the new state and the action that the spawner carries out next. The state machine also contains
every message that a user reads while a session starts.
"""

# ruff: noqa: SLF001 - the transitions call each other on new states, which are instances of the same class

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, NamedTuple

from hpchub.hub import job_actions as actions
from hpchub.hub import job_events as events
from hpchub.hub.refusals import ADVICE, refused_value
from hpchub.messages import Message, sentences
from hpchub.names import SESSION
from hpchub.schedulers import Job, JobState, Outlook, Scheduler, Unanswered, job_name
from hpchub.units import seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpchub.model.entries import Cluster, Profile


TELL = Message("Please tell the administrators of the service.")
NO_CERTIFICATE = actions.Fail(
    Message(
        "Sessions cannot start at the moment, because the service cannot create the certificates of notebook servers."
    ),
    reason="no_certificate",
    status_code=503,
    advice=TELL,
)
INCOMPATIBLE = actions.Fail(
    Message(
        "Sessions cannot start on this cluster at the moment, because parts of the service "
        "have versions that do not work together."
    ),
    reason="incompatible",
    status_code=503,
    advice=TELL,
)


CONNECT_TIMEOUT = 30.0
"""How long to try the addresses of a node whose notebook server has started, in seconds."""
HOPELESS_AFTER = 10.0
"""How long snapshots must show that a job can never start, in seconds. Some reasons appear for a moment only."""


class Now(NamedTuple):
    """A reading of the two clocks, in seconds."""

    monotonic: float
    """The monotonic clock, which does not jump. The times of snapshots use it too."""
    wall: float
    """The time since 1970, which stays comparable after a restart of the hub."""


class Phase(Enum):
    """The stage of a start."""

    IDLE = auto()
    """No start is in progress."""
    SUBMITTING = auto()
    """The submit host is submitting the job."""
    SEARCHING = auto()
    """The submission was not answered. The hub searches for the job by its name."""
    QUEUED = auto()
    """The job is submitted and does not run yet."""
    LAUNCHING = auto()
    """The job runs. Its notebook server has not started yet."""
    CONNECTING = auto()
    """The notebook server has started. The hub tries the addresses of its node."""
    RECONNECTING = auto()
    """The hub was restarted and waits until it can reach the notebook server."""
    READY = auto()
    """The notebook server is ready."""


@dataclass(frozen=True)
class Context:
    """The facts that do not change during a session.

    Attributes:
        hub: The hub's name in the comments of its jobs.
        user: The session's user.
        cluster: The session's cluster.
        profile: The profile that the session was granted.
        scheduler: The cluster's scheduler.
        poll_interval: The time between two observations during a start, in seconds.
        launch_timeout: How long a notebook server may take to start after its job has started, in seconds.
    """

    hub: str
    user: str
    cluster: Cluster
    profile: Profile
    scheduler: Scheduler
    poll_interval: float
    launch_timeout: float


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
class JobSession:
    """The state of a session and its job.

    All times are on the monotonic clock, except ``requested``, ``submitted``, ``started``, ``reported`` and ``ready``.

    Attributes:
        context: The facts that do not change.
        session: The session's name, 16 hexadecimal digits, or empty if there is no session.
        job_id: The job's id, or empty until it is known.
        requested: When the user asked for the session, in seconds since 1970, or 0 if this is not known.
        submitted: When the job was submitted, in seconds since 1970, or 0.
        started: When the job started, in seconds since 1970, or 0 if this is not known.
        ready: When the user could open the notebook server for the first time, in seconds since 1970, or 0.
        host: The host of the notebook server, or empty until the server is ready.
        port: The port of the notebook server, or 0 until the job has reported it.
        phase: The stage of the start.
        message: The message on the progress page.
        status: The result of the last observation. ``ENDED`` means that the session is over.
        job: The job as the scheduler last showed it.
        silent: Whether the scheduler did not answer the last query for all jobs.
        last_seen: When a snapshot last contained the job.
        hopeless_since: When a snapshot first showed that the job can never start, and all later ones showed it too.
        patience: How long a live job may be missing from snapshots, in seconds.
        cancelled: Whether the scheduler confirmed the job's cancellation.
        addresses: The network interfaces that the job reported, each with its address.
        notice: The message that the job reported for the user, or empty.
        problem: The reason that the job reported for a failed start, or empty.
        drained: Why the job must not start a session any more, or empty.
        candidates: The hosts that may be the notebook server's, which the hub has not tried in this round.
        place: The place of the job in its queue, or None if it is not known.
        reported: When the job reported its port, in seconds since 1970, or 0 if this is not known.
        reported_at: When the job reported its port.
        node: The node on which the job started.
        deadline: When the current phase times out.
        submit_error: The last line of the submit command's error output.
        restarted: Whether the hub was restarted during this session.
    """

    context: Context
    session: str = ""
    job_id: str = ""
    requested: float = 0.0
    submitted: float = 0.0
    started: float = 0.0
    ready: float = 0.0
    host: str = ""
    port: int = 0
    phase: Phase = Phase.IDLE
    message: str = Message("Your job is being submitted.")
    status: JobState = JobState.UNKNOWN
    job: Job | None = None
    silent: bool = False
    last_seen: float = 0.0
    hopeless_since: float = math.inf
    patience: float = 0.0
    cancelled: bool = False
    addresses: tuple[tuple[str, str], ...] = ()
    notice: str = ""
    problem: str = ""
    drained: str = ""
    candidates: tuple[str, ...] = ()
    place: int | None = None
    reported: float = 0.0
    reported_at: float = -math.inf
    node: str = ""
    deadline: float = math.inf
    submit_error: str = ""
    restarted: bool = False

    # -- The saved part

    @property
    def saved(self) -> dict[str, Any]:
        """The part of the state that survives a restart of the hub, or an empty dictionary if there is no session."""
        if not self.session:
            return {}
        return {
            "session": self.session,
            "job_id": self.job_id,
            "submitted": self.submitted,
            "started": self.started,
            "host": self.host,
            "port": self.port,
            **({"requested": self.requested} if self.requested else {}),
            **({"ready": self.ready} if self.ready else {}),
            **({"addresses": [list(each) for each in self.addresses]} if self.addresses else {}),
        }

    @classmethod
    def restore(cls, context: Context, saved: Mapping[str, Any], now: Now) -> JobSession:
        """Return the session of an earlier hub process. Invalid values are ignored."""
        session, job_id = str(saved.get("session")), str(saved.get("job_id"))
        port = saved.get("port")
        return cls(
            context,
            session=session if re.fullmatch(SESSION, session) else "",
            job_id=job_id if re.fullmatch(context.scheduler.job_id_pattern, job_id) else "",
            requested=_time(saved, "requested"),
            submitted=_time(saved, "submitted"),
            started=_time(saved, "started"),
            ready=_time(saved, "ready"),
            host=str(saved.get("host", "")),
            port=port if type(port) is int else 0,
            addresses=_addresses(saved.get("addresses")),
            last_seen=now.monotonic,
            patience=context.scheduler.propagation,
        )

    def extend_patience(self, seconds: float) -> JobSession:
        """Return the session with more time for its job to appear, because the gate may still be submitting it."""
        return replace(self, patience=self.patience + seconds)

    @property
    def ends_at(self) -> float | None:
        """When the job reaches its time limit, in seconds since 1970, or None if its start is not known."""
        return self.started + seconds(self.context.profile.runtime) if self.started else None

    # -- The progress page

    @property
    def percent(self) -> int:
        """The progress of the start."""
        if self.port:
            return 90
        if self.job and self.job.state is JobState.RUNNING:
            return 60
        return 30 if self.job_id else 10

    # -- Steps

    def step(self, event: events.Event, now: Now) -> Step:  # noqa: C901, PLR0911, PLR0912 one case for each event
        """Return the new state and the next action after an event."""
        match event:
            case events.StartRequested(session, requested):
                fresh = JobSession(self.context, session=session, requested=requested, phase=Phase.SUBMITTING)
                return Step(replace(fresh, last_seen=now.monotonic))
            case events.SubmissionAnswered(answer):
                return self._submission_answered(answer, now)
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
            return Step(self, self._reported_failure())
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
                return Step(self, self._ended() if self.status is JobState.ENDED else self._wait())
            case Phase.CONNECTING, events.Waited():
                return self._connect(self._hosts, now)
            case Phase.RECONNECTING, events.Probed(reachable=True):
                return Step(replace(self, phase=Phase.READY), actions.Done(self._url))
            case Phase.RECONNECTING, events.Probed():
                return Step(self, actions.Observe(max_age=5.0))
            case Phase.RECONNECTING, events.Observed():
                over = self.status is JobState.ENDED
                return Step(self, self._ended() if over else actions.Wait(self.context.poll_interval))
            case Phase.RECONNECTING, events.Waited():
                return Step(self, actions.Probe(self.host, self.port))
        # The session was cleared while the spawner was busy.
        return Step(self, self._ended())

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
            name = self.context.cluster.name
            fail = self._refused(answer.stderr) or actions.Fail(
                Message(
                    "The cluster {cluster} did not accept your job: {error}",
                    cluster=name,
                    error=submit_error or answer.error,
                ),
                reason="refused",
                advice=Message("Choose another profile. If no profile works, ask for help."),
            )
            return Step(self, fail, note=f"the submission to {name} failed: {answer}")
        # A last line without its end may be cut off, and a part of an id is the id of another job.
        complete = answer.stdout[: answer.stdout.rfind("\n") + 1]
        try:
            job_id, certain = (self.context.scheduler.parse_submit(text) for text in (answer.stdout, complete))
        except Unanswered as error:
            return self._search(f"{error}: {answer}", submit_error, now)
        if job_id != certain:
            return self._search(f"the submit command's output is cut off: {answer}", submit_error, now)
        return replace(self, job_id=job_id)._submitted(now)

    def _refused(self, message: str) -> actions.Fail | None:
        """Return the failure if the scheduler's message names the value that it refuses."""
        refusal = refused_value(self.context.scheduler, self.context.profile, message)
        if refusal is None:
            return None
        return actions.Fail(refusal.text, reason="refused", advice=ADVICE, field=refusal.field)

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
        name = self.context.cluster.name
        message = Message("The cluster {cluster} does not answer at the moment.", cluster=name)
        if self.submit_error:
            message = Message(
                "The cluster {cluster} did not confirm your job: {error}.", cluster=name, error=self.submit_error
            )
        advice = Message("Please try again in a few minutes.")
        fail = actions.Fail(message, reason="unanswered", advice=advice)
        return Step(self, fail, note=f"the job of session {self.session} was not found on {name}")

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
                message=Message(
                    "Your job {job_id} runs on {host}. The notebook server is starting.",
                    job_id=self.job_id,
                    host=self.job.host,
                ),
            )
            return state._wait_for_report(now)
        if self.status is JobState.ENDED:
            return Step(self, self._ended())
        if self.job and self.last_seen - self.hopeless_since >= HOPELESS_AFTER:
            return Step(self, self._never_starts(self.job))
        # While the scheduler is silent, the job may have started.
        if self.job and not self.silent and self.submitted:
            profile = self.context.profile
            if now.wall - self.submitted > profile.max_wait_seconds:
                return Step(self, self._waited_too_long(profile))
        return Step(replace(self, message=self._queue_message()), self._wait())

    def _wait(self) -> actions.Wait:
        """Wait for the next observation. It comes sooner if the job has reported its port."""
        interval = self.context.poll_interval
        return actions.Wait(interval / 4 if self.port else interval)

    def _never_starts(self, job: Job) -> actions.Fail:
        refusal = refused_value(self.context.scheduler, self.context.profile, job.reason)
        advice = self.context.scheduler.understand(job.reason).advice
        return actions.Fail(
            Message(
                "Your job {job_id} can never start in the queue {queue} of {cluster}: {reason}.",
                job_id=self.job_id,
                queue=self.context.profile.queue,
                cluster=self.context.cluster.name,
                reason=self.context.scheduler.describe(job.reason),
            ),
            reason="never_starts",
            advice=advice,
            field=refusal.field if refusal else "",
        )

    def _waited_too_long(self, profile: Profile) -> actions.Fail:
        return actions.Fail(
            Message(
                "Your job {job_id} waited in the queue {queue} of {cluster} for longer than its profile "
                "allows ({max_wait}), so the start was cancelled.",
                job_id=self.job_id,
                queue=profile.queue,
                cluster=self.context.cluster.name,
                max_wait=profile.max_wait,
            ),
            reason="waited",
            advice=Message("Choose another profile, or try again when the cluster is less busy."),
        )

    def _queue_message(self) -> str:
        cluster = self.context.cluster.name
        if not self.job_id:
            return Message(
                "The service was restarted while it submitted your job to {cluster}. It is searching for the job.",
                cluster=cluster,
            )
        facts = {"job_id": self.job_id, "queue": self.context.profile.queue, "cluster": cluster}
        waits = Message("Your job {job_id} waits in the queue {queue} of {cluster}.", **facts)
        if self.silent:
            return sentences(
                waits, Message("The scheduler does not answer at the moment. Your job keeps its place in the queue.")
            )
        if self.status is JobState.UNKNOWN:
            return sentences(waits, Message("The scheduler has not reported its state yet."))
        if not (self.job and self.job.reason):
            return waits
        reason = self.context.scheduler.describe(self.job.reason)
        return sentences(
            Message("Your job {job_id} waits in the queue {queue} of {cluster}: {reason}.", **facts, reason=reason),
            self.context.scheduler.understand(self.job.reason).advice,
        )

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
            fail = actions.Fail(
                Message(
                    "Your job {job_id} runs on {node}, but its notebook server did not start within {seconds} seconds.",
                    job_id=self.job_id,
                    node=self.node,
                    seconds=f"{self.context.launch_timeout:g}",
                ),
                reason="no_report",
                advice=Message("To find the reason, read its log on the cluster: {log}", log=self._log),
            )
            return Step(self, fail)
        return Step(self, actions.Observe(max_age=5.0))

    def _check_launch(self, now: Now) -> Step:
        if self.status is JobState.ENDED:
            return Step(self, self._ended())
        if self.status is JobState.PENDING:
            state = replace(self, phase=Phase.QUEUED, started=0.0)
            note = f"job {self.job_id} is pending again, because its node did not start it"
            return Step(state, self._observe_queue(now), note)
        return Step(self, self._wait())

    def _ready(self, now: Now) -> Step:
        hosts = self._hosts
        if not hosts:
            return Step(self, self._no_address())
        if self.addresses:
            state = replace(self, phase=Phase.CONNECTING, deadline=now.monotonic + CONNECT_TIMEOUT)
            return state._connect(hosts, now)
        # The launcher of an older environment does not report addresses.
        state = replace(self, host=hosts[0])
        return state._reconnect() if self.restarted else state._connected()

    @property
    def _hosts(self) -> tuple[str, ...]:
        """The hosts that may be the notebook server's, the most likely one first."""
        node = (self.job and self.job.host) or self.node
        return tuple(self.context.cluster.hosts_of(node, self.addresses))

    def _connect(self, candidates: tuple[str, ...], now: Now) -> Step:
        """Try the first candidate. After the last one, begin a new round, until the timeout is over."""
        state = replace(self, candidates=candidates)
        if candidates:
            return Step(state, actions.Probe(candidates[0], self.port))
        if now.monotonic <= self.deadline:
            return Step(state, actions.Observe(max_age=5.0))
        if self.restarted:
            return replace(state, host=self._hosts[0])._reconnect()
        fail = actions.Fail(
            Message(
                "Your notebook server runs on {node}, but the service cannot connect to it (tried: "
                "{hosts}; port {port}).",
                node=self.node,
                hosts=", ".join(self._hosts),
                port=self.port,
            ),
            reason="unreachable",
            advice=sentences(
                TELL,
                Message(
                    "They must permit connections from the hub to the compute nodes, and make the names of the nodes"
                    " known to the hub or set node_address of the cluster."
                ),
            ),
        )
        return Step(state, fail)

    def _connected(self) -> Step:
        message = sentences(
            Message("Your notebook server is ready on {host}. Opening it.", host=self.host), self.notice
        )
        return Step(replace(self, phase=Phase.READY, message=message), actions.Done(self._url))

    def _no_address(self) -> actions.Fail:
        reported = ", ".join(f"{interface} {address}" for interface, address in self.addresses) or "none"
        return actions.Fail(
            Message(
                "Your notebook server runs on {node}, but none of the node's addresses ({reported}) "
                "matches node_address and networks of the cluster {cluster}.",
                node=self.node,
                reported=reported,
                cluster=self.context.cluster.name,
            ),
            reason="no_address",
            advice=TELL,
        )

    def _reported_failure(self) -> actions.Fail:
        facts = {"job_id": self.job_id, "problem": self.problem}
        message = Message("Your job {job_id} runs, but its notebook server could not start: {problem}", **facts)
        if self.job and self.job.host:
            message = Message(
                "Your job {job_id} runs on {host}, but its notebook server could not start: {problem}",
                host=self.job.host,
                **facts,
            )
        return actions.Fail(message, reason="problem")

    def _reconnect(self) -> Step:
        message = Message(
            "The service was restarted. It is waiting for your session on {host} to answer.", host=self.host
        )
        return Step(replace(self, phase=Phase.RECONNECTING, message=message), actions.Probe(self.host, self.port))

    @property
    def _url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}"

    @property
    def _log(self) -> str:
        return f"~/.hpchub/logs/{self.job_id}.log"

    def _ended(self) -> actions.Fail:
        if not self.job_id:
            return actions.Fail(
                Message("The service was restarted before your job was submitted."),
                reason="not_submitted",
                advice=Message("Please start your session again."),
            )
        return actions.Fail(
            Message("Your job {job_id} ended before its notebook server was ready.", job_id=self.job_id),
            reason="ended",
            advice=Message("If it ran, you find the reason in its log on the cluster: {log}", log=self._log),
        )


def _time(saved: Mapping[str, Any], name: str) -> float:
    """Return a saved time, or 0 if it is missing or invalid."""
    found = saved.get(name)
    return found if isinstance(found, float) else 0.0


def _addresses(saved: Any) -> tuple[tuple[str, str], ...]:
    """Return saved addresses without invalid entries."""
    entries = saved if isinstance(saved, list) else []
    return tuple(
        (entry[0], entry[1])
        for entry in entries
        if isinstance(entry, list) and len(entry) == 2 and all(isinstance(text, str) for text in entry)
    )
