"""The events that changes of a session's state cause. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpchub.hub.events import JobStarted, JobSubmitted, Session, SessionReady, SessionRestored
from hpchub.units import seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpchub.hub.events import SessionEvent
    from hpchub.hub.job_session import JobSession


def facts(state: JobSession) -> Session:
    """Return the facts of a session that do not change."""
    context = state.context
    profile = context.profile
    return Session(
        name=state.session,
        user=context.user,
        cluster=context.cluster.name,
        queue=profile.queue,
        profile=profile.key,
        cores=profile.nodes * profile.cores,
        gpus=profile.nodes * int(profile.gpus),
        runtime=seconds(profile.runtime),
    )


def progress(before: JobSession, after: JobSession, at: float) -> Iterator[SessionEvent]:
    """Yield what has happened to a session between two states.

    Args:
        before: The state before.
        after: The state after.
        at: The time now, in seconds since 1970.
    """
    if not after.session or before.session != after.session:
        return
    session, job_id = facts(after), after.job_id
    if job_id and not before.job_id:
        yield JobSubmitted(at=at, session=session, job_id=job_id, waited=_between(after.requested, at))
    if after.started and not before.started:
        waited = _between(after.submitted, after.started)
        yield JobStarted(at=after.started, session=session, job_id=job_id, node=after.node, waited=waited)
    if after.ready and not before.ready and after.requested:
        # A session that an older version began has no time of its request. It may have been ready long before.
        launched, waited = _between(after.started, after.ready), _between(after.requested, after.ready)
        yield SessionReady(at=after.ready, session=session, job_id=job_id, launched=launched, waited=waited)


def restored(state: JobSession) -> SessionRestored:
    """Return what is known of a session that a restarted hub continues."""
    return SessionRestored(
        session=facts(state),
        job_id=state.job_id,
        requested=state.requested,
        submitted=state.submitted,
        started=state.started,
        ready=state.ready,
    )


def _between(start: float, end: float) -> float | None:
    """Return the time between two times, or None if the first one is unknown. The clock may have been set back."""
    return max(0.0, end - start) if start else None
