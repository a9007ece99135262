"""The metrics that come from events: sign-ins, starts and their stages, and the ends of sessions."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hpchub.hub import events, metrics
from hpchub.hub import metric_definitions as defined
from hpchub.hub.outcome import STOPPED
from hpchub.schedulers import Cause

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Histogram

    from hpchub.model.entries import Profile

PATIENCE = 600.0
"""How long the scheduler may take to explain the end of a session, in seconds. Then the cause is ``unknown``."""

sign_ins = metrics.counter(defined.SIGN_INS)
starts = metrics.counter(defined.STARTS)
ends = metrics.counter(defined.ENDS)
submission = metrics.histogram(defined.SUBMISSION_SECONDS)
queue_wait = metrics.histogram(defined.QUEUE_SECONDS)
launch = metrics.histogram(defined.LAUNCH_SECONDS)
start_time = metrics.histogram(defined.START_SECONDS)


class SessionMetrics:
    """A subscriber that counts and measures events."""

    def __init__(self) -> None:
        self._unexplained: dict[str, tuple[events.Session, float]] = {}
        """By name, the sessions that have ended without an explanation so far, and the time of the end."""
        for result in defined.SIGN_IN_RESULTS:
            sign_ins.labels(result)
        for reason in defined.REASONS:
            starts.labels("", "", "refused", reason)

    def prepare(self, profiles: Iterable[Profile]) -> None:
        """Create the counters of profiles with the value 0. Otherwise, Prometheus would miss the first event."""
        for profile in profiles:
            labels = profile.where, profile.key
            starts.labels(*labels, "ready", "")
            starts.labels(*labels, "stopped", "")
            for reason in defined.REASONS:
                starts.labels(*labels, "failed", reason)
            for cause in defined.CAUSES:
                ends.labels(*labels, cause)
            for histogram in (submission, queue_wait, launch, start_time):
                histogram.labels(*labels)

    def receive(self, event: events.Event) -> None:  # noqa: C901 one case for each event
        """Count an event."""
        match event:
            case events.SignedIn():
                sign_ins.labels("accepted").inc()
            case events.SignInRefused(reason=reason):
                sign_ins.labels(reason if reason in defined.SIGN_IN_RESULTS else "other").inc()
            case events.StartRefused(reason=reason):
                starts.labels("", "", "refused", _known(reason)).inc()
            case events.StartFailed(session=session, reason=reason):
                starts.labels(session.cluster, session.profile, "failed", _known(reason)).inc()
            case events.JobSubmitted(session=session, waited=seconds):
                _observe(submission, session, seconds)
            case events.JobStarted(session=session, waited=seconds):
                _observe(queue_wait, session, seconds)
            case events.SessionReady(session=session, launched=launched, waited=waited):
                starts.labels(session.cluster, session.profile, "ready", "").inc()
                _observe(launch, session, launched)
                _observe(start_time, session, waited)
            case events.SessionEnded(session=session, was_ready=False):
                starts.labels(session.cluster, session.profile, "stopped", "").inc()
            case events.SessionEnded(session=session, cause=cause) if cause == STOPPED:
                ends.labels(session.cluster, session.profile, STOPPED).inc()
            case events.SessionEnded(session=session):
                self._unexplained[session.name] = session, time.monotonic()
            case events.EndExplained(session=session, cause=cause) if session.name in self._unexplained:
                if cause != Cause.UNKNOWN.value:
                    self._end(session, cause)

    def give_up(self) -> None:
        """Count the sessions that the scheduler has not explained in time."""
        for session, at in list(self._unexplained.values()):
            if time.monotonic() - at >= PATIENCE:
                self._end(session, Cause.UNKNOWN.value)

    def _end(self, session: events.Session, cause: str) -> None:
        del self._unexplained[session.name]
        ends.labels(session.cluster, session.profile, cause).inc()


def _known(reason: str) -> str:
    return reason if reason in defined.REASONS else "other"


def _observe(histogram: Histogram, session: events.Session, seconds: float | None) -> None:
    if seconds is not None:
        histogram.labels(session.cluster, session.profile).observe(seconds)
