"""What a user reads while a session starts, and why a start failed. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpchub.hub import job_actions as actions
from hpchub.hub import place_texts
from hpchub.hub.refusals import ADVICE, refused_value
from hpchub.messages import Message, marked, sentences
from hpchub.schedulers import JobState
from hpchub.units import runtime_in_words

if TYPE_CHECKING:
    from hpchub.hub.session_state import SessionState
    from hpchub.schedulers import Job


TELL = place_texts.TELL
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


# The submission


def submitting(state: SessionState) -> str:
    """Return the message of the progress page before there is a job."""
    if state.context.is_place:
        return place_texts.submitting(state)
    return Message("Your job is being submitted.")


def not_accepted(state: SessionState, error: str) -> actions.Fail:
    """Return the failure of a start because the scheduler refused the job.

    Args:
        state: The session.
        error: The scheduler's reason.
    """
    if state.context.is_place:
        return place_texts.not_accepted(state, error)
    return actions.Fail(
        Message(
            "The cluster {cluster} did not accept your job: {error}", cluster=state.context.cluster.name, error=error
        ),
        reason="refused",
        advice=Message("Choose another profile. If no profile works, ask for help."),
    )


def refused(state: SessionState, message: str) -> actions.Fail | None:
    """Return the failure if the scheduler's message names the value that it refuses."""
    refusal = refused_value(state.context.scheduler, state.context.profile, message)
    if refusal is None:
        return None
    return actions.Fail(refusal.text, reason="refused", advice=ADVICE, field=refusal.field)


def unanswered(state: SessionState) -> actions.Fail:
    """Return the failure of a start without an answer to the submission, and without a job."""
    if state.context.is_place:
        return place_texts.unanswered(state)
    name = state.context.cluster.name
    message = Message("The cluster {cluster} does not answer at the moment.", cluster=name)
    if state.submit_error:
        message = Message(
            "The cluster {cluster} did not confirm your job: {error}.", cluster=name, error=state.submit_error
        )
    return actions.Fail(message, reason="unanswered", advice=Message("Please try again in a few minutes."))


# The wait in the queue


def never_starts(state: SessionState, job: Job) -> actions.Fail:
    """Return the failure of a start because the job waits for a reason that never ends by itself."""
    if state.context.is_place:
        return place_texts.never_starts(state, job)
    refusal = refused_value(state.context.scheduler, state.context.profile, job.reason)
    advice = state.context.scheduler.understand(job.reason).advice
    return actions.Fail(
        Message(
            "Your job {job_id} can never start in the queue {queue} of {cluster}: {reason}.",
            job_id=state.job_id,
            queue=state.context.profile.queue,
            cluster=state.context.cluster.name,
            reason=state.context.scheduler.describe(job.reason),
        ),
        reason="never_starts",
        advice=advice,
        field=refusal.field if refusal else "",
    )


def waited_too_long(state: SessionState) -> actions.Fail:
    """Return the failure of a start because the job waited for longer than its profile allows."""
    if state.context.is_place:
        return place_texts.waited_too_long(state)
    profile = state.context.profile
    return actions.Fail(
        Message(
            "Your job {job_id} waited in the queue {queue} of {cluster} for longer than its profile "
            "allows ({max_wait}), so the start was cancelled.",
            job_id=state.job_id,
            queue=profile.queue,
            cluster=state.context.cluster.name,
            max_wait=runtime_in_words(profile.max_wait_seconds),
        ),
        reason="waited",
        advice=Message("Choose another profile, or try again when the cluster is less busy."),
    )


def waiting(state: SessionState) -> str:
    """Return the message of the progress page while the job waits in the queue."""
    if state.context.is_place:
        return place_texts.waiting(state)
    cluster = state.context.cluster.name
    if not state.job_id:
        return Message(
            "The service was restarted while it submitted your job to {cluster}. It is searching for the job.",
            cluster=cluster,
        )
    facts = {"job_id": state.job_id, "queue": state.context.profile.queue, "cluster": cluster}
    waits = Message("Your job {job_id} waits in the queue {queue} of {cluster}.", **facts)
    if state.silent:
        return sentences(
            waits, Message("The scheduler does not answer at the moment. Your job keeps its place in the queue.")
        )
    if state.status is JobState.UNKNOWN:
        return sentences(waits, Message("The scheduler has not reported its state yet."))
    if not (state.job and state.job.reason):
        return waits
    reason = state.context.scheduler.describe(state.job.reason)
    return sentences(
        Message("Your job {job_id} waits in the queue {queue} of {cluster}: {reason}.", **facts, reason=reason),
        state.context.scheduler.understand(state.job.reason).advice,
    )


# The launch of the notebook server


def launching(state: SessionState, host: str) -> str:
    """Return the message of the progress page while the notebook server starts.

    Args:
        state: The session.
        host: The node of the job.
    """
    if state.context.is_place:
        return place_texts.launching(state)
    return Message("Your job {job_id} runs on {host}. The notebook server is starting.", job_id=state.job_id, host=host)


def no_report(state: SessionState) -> actions.Fail:
    """Return the failure of a start because the notebook server reported nothing in time."""
    if state.context.is_place:
        return place_texts.no_report(state)
    return actions.Fail(
        Message(
            "Your job {job_id} runs on {node}, but its notebook server did not start within {seconds} seconds.",
            job_id=state.job_id,
            node=state.node,
            seconds=f"{state.context.launch_timeout:g}",
        ),
        reason="no_report",
        advice=Message("To find the reason, read its log on the cluster: {log}", log=state.log),
    )


def unreachable(state: SessionState) -> actions.Fail:
    """Return the failure of a start because the notebook server does not answer the hub."""
    if state.context.is_place:
        return place_texts.unreachable(state)
    return actions.Fail(
        Message(
            "Your notebook server runs on {node}, but the service cannot connect to it (tried: {hosts}; port {port}).",
            node=state.node,
            hosts=", ".join(state.hosts),
            port=state.port,
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


def no_address(state: SessionState) -> actions.Fail:
    """Return the failure of a start because the node reported no address in the cluster's networks."""
    reported = ", ".join(f"{interface} {address}" for interface, address in state.addresses)
    return actions.Fail(
        Message(
            "Your notebook server runs on {node}, but none of the node's addresses ({reported}) "
            "matches node_address and networks of the cluster {cluster}.",
            node=state.node,
            reported=reported or Message(marked("none")),
            cluster=state.context.cluster.name,
        ),
        reason="no_address",
        advice=TELL,
    )


def reported_failure(state: SessionState) -> actions.Fail:
    """Return the failure of a start because the job reported a problem."""
    if state.context.is_place:
        return place_texts.reported_failure(state)
    facts = {"job_id": state.job_id, "problem": state.problem}
    message = Message("Your job {job_id} runs, but its notebook server could not start: {problem}", **facts)
    if state.job and state.job.host:
        message = Message(
            "Your job {job_id} runs on {host}, but its notebook server could not start: {problem}",
            host=state.job.host,
            **facts,
        )
    return actions.Fail(message, reason="problem")


def ended(state: SessionState) -> actions.Fail:
    """Return the failure of a start because the job ended."""
    if state.context.is_place:
        return place_texts.ended(state)
    if not state.job_id:
        return actions.Fail(
            Message("The service was restarted before your job was submitted."),
            reason="not_submitted",
            advice=Message("Please start your session again."),
        )
    return actions.Fail(
        Message("Your job {job_id} ended before its notebook server was ready.", job_id=state.job_id),
        reason="ended",
        advice=Message("If it ran, you find the reason in its log on the cluster: {log}", log=state.log),
    )
