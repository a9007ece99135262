"""What a user reads while a session starts in a place, and why a start failed there. No I/O.

``session_texts`` has the texts of clusters, and calls these functions for a place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpchub.hub import job_actions as actions
from hpchub.messages import Message, sentences
from hpchub.schedulers import Cause, JobState
from hpchub.units import memory_in_words, runtime_in_words

if TYPE_CHECKING:
    from hpchub.hub.session_state import SessionState
    from hpchub.model.entries import Profile
    from hpchub.schedulers import Ending, Job

TELL = Message("Please tell the administrators of the service.")
AGAIN = Message("Please try again in a few minutes.")


def submitting(state: SessionState) -> str:
    """Return the message of the progress page before the place has created the session."""
    return Message("Your session is being created in {place}.", place=state.context.cluster.name)


def not_accepted(state: SessionState, error: str) -> actions.Fail:
    """Return the failure of a start that the place refused.

    Args:
        state: The session.
        error: The reason of the place.
    """
    message = Message("{place} did not create your session: {error}", place=state.context.cluster.name, error=error)
    return actions.Fail(message, reason="refused", advice=TELL)


def unanswered(state: SessionState) -> actions.Fail:
    """Return the failure of a start when the place did not answer and has no such session."""
    message = Message("{place} does not answer at the moment.", place=state.context.cluster.name)
    return actions.Fail(message, reason="unanswered", status_code=503, advice=AGAIN)


def never_starts(state: SessionState, job: Job) -> actions.Fail:
    """Return the failure of a start that waits for a reason that never ends by itself."""
    terms = state.context.scheduler
    message = Message(
        "Your session can never start in {place}: {reason}.",
        place=state.context.cluster.name,
        reason=terms.describe(job.reason),
    )
    return actions.Fail(message, reason="never_starts", advice=terms.understand(job.reason).advice or TELL)


def waited_too_long(state: SessionState) -> actions.Fail:
    """Return the failure of a start that waited for longer than its profile allows."""
    profile = state.context.profile
    message = Message(
        "Your session waited in {place} for longer than its profile allows ({max_wait}), so the start was cancelled.",
        place=state.context.cluster.name,
        max_wait=runtime_in_words(profile.max_wait_seconds),
    )
    advice = Message("Choose another profile, or try again when fewer sessions run.")
    return actions.Fail(message, reason="waited", advice=advice)


def waiting(state: SessionState) -> str:
    """Return the message of the progress page while the session does not run yet."""
    place = state.context.cluster.name
    if not state.job_id:
        return Message(
            "The service was restarted while {place} created your session. It is searching for the session.",
            place=place,
        )
    waits = Message("Your session waits in {place}.", place=place)
    if state.silent:
        return sentences(waits, Message("{place} does not answer at the moment. Your session goes on.", place=place))
    if state.status is JobState.UNKNOWN or not (state.job and state.job.reason):
        return waits
    terms = state.context.scheduler
    reason = terms.describe(state.job.reason)
    return sentences(
        Message("Your session waits in {place}: {reason}.", place=place, reason=reason),
        terms.understand(state.job.reason).advice,
    )


def launching(state: SessionState) -> str:
    """Return the message of the progress page while the notebook server starts."""
    return Message("Your session runs in {place}. The notebook server is starting.", place=state.context.cluster.name)


def no_report(state: SessionState) -> actions.Fail:
    """Return the failure of a start when the notebook server did not report in time."""
    message = Message(
        "Your session runs in {place}, but its notebook server did not start within {seconds} seconds.",
        place=state.context.cluster.name,
        seconds=f"{state.context.launch_timeout:g}",
    )
    return actions.Fail(message, reason="no_report", advice=TELL)


def unreachable(state: SessionState) -> actions.Fail:
    """Return the failure of a start when the hub cannot reach the notebook server."""
    message = Message(
        "Your notebook server runs in {place}, but the service cannot connect to it (tried: {hosts}; port {port}).",
        place=state.context.cluster.name,
        hosts=", ".join(state.hosts),
        port=state.port,
    )
    advice = Message("They must permit connections from the hub to the sessions of this place.")
    return actions.Fail(message, reason="unreachable", advice=sentences(TELL, advice))


def reported_failure(state: SessionState) -> actions.Fail:
    """Return the failure of a start because the session reported a problem."""
    message = Message(
        "Your session runs in {place}, but its notebook server could not start: {problem}",
        place=state.context.cluster.name,
        problem=state.problem,
    )
    return actions.Fail(message, reason="problem", advice=TELL)


def ended(state: SessionState) -> actions.Fail:
    """Return the failure of a start because the session ended."""
    again = Message("Please start your session again.")
    if not state.job_id:
        message = Message("The service was restarted before your session was created.")
        return actions.Fail(message, reason="not_submitted", advice=again)
    message = Message(
        "Your session ended in {place} before its notebook server was ready.", place=state.context.cluster.name
    )
    return actions.Fail(message, reason="ended", advice=again)


def explain(  # noqa: PLR0911 one text for each cause
    ending: Ending, *, profile: Profile, place: str, detail: str, starting: bool
) -> str:
    """Return how a session in a place ended, or an empty text if a session in a cluster has the same text.

    Args:
        ending: The ending that the place reported.
        profile: The session's profile.
        place: The name of the place.
        detail: The cause in the place's terms, with a space and in parentheses, or empty.
        starting: Whether the session had not started yet.
    """
    match ending.cause:
        case Cause.FINISHED | Cause.FAILED | Cause.KILLED if starting:
            return Message(
                "Your session ended in {place} before its notebook server was ready{detail}.",
                place=place,
                detail=detail,
            )
        case Cause.KILLED:
            return Message(
                "The program of your session was ended by force, and {place} did not report why{detail}.",
                place=place,
                detail=detail,
            )
        case Cause.TIME_LIMIT:
            runtime = runtime_in_words(profile.runtime_seconds)
            return Message(
                "Your session reached its time limit of {runtime}, so {place} ended it.",
                runtime=runtime,
                place=place,
            )
        case Cause.OUT_OF_MEMORY:
            memory = memory_in_words(profile.memory_mib)
            return Message(
                "Your session needed more than the {memory} of memory that its profile has, so {place} ended it.",
                memory=memory,
                place=place,
            )
        case Cause.NODE_LOST:
            return Message("The host of your session in {place} failed{detail}.", place=place, detail=detail)
        case Cause.CANCELLED:
            return Message("Your session was removed from {place}, but not through this service.", place=place)
        case Cause.EVICTED:
            return Message(
                "{place} removed your session from its node, because the node was emptied or had too little memory or"
                " disk space{detail}.",
                place=place,
                detail=detail,
            )
        case Cause.PREEMPTED:
            return Message("{place} ended your session because it needed the node for others.", place=place)
        case Cause.UNKNOWN:
            return Message("Your session has ended, and {place} did not report why.", place=place)
    return ""
