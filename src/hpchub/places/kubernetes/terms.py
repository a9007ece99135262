"""The terms of Kubernetes: why pods wait, what their states mean for a session, and how they end. No I/O.

Source: "Pod Lifecycle" and "Images" (kubernetes.io/docs/concepts/), and the texts that the scheduler, the kubelet and
the API server put into conditions, states and events.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Any

from hpchub.messages import Message
from hpchub.places.interface import JOB_ID, LABEL_USER, comment_of
from hpchub.schedulers import Job, JobState
from hpchub.schedulers.endings import Cause, Ending, ending_of_status
from hpchub.schedulers.reasons import TELL, Outlook, Reason
from hpchub.schedulers.terms import Terms

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SECRET_DELAY = 20.0
"""After this time, a pod that still misses its Secret will never get it, in seconds.

The hub creates the Secret right after the pod. If the hub is killed between the two, nobody creates it.
"""

_EXPLAINED = ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox")
"""The reasons of events that explain why a pod waits. Other causes are in the pod itself."""

_BROKEN_IMAGE = Message("Choose another profile, and tell the administrators of this service.")
TELL_SERVICE = Message("Tell the administrators of this service.")


class KubernetesTerms(Terms):
    """The terms in which Kubernetes speaks of pods."""

    name = "kubernetes"
    job_id_pattern = JOB_ID
    propagation = 15.0
    reasons = (
        (
            r"^SecretLost",
            Reason(
                "the start was interrupted before the session had all that it needs",
                Outlook.NEVER,
                Message("Start your session again."),
            ),
        ),
        (r"InvalidImageName", Reason("the name of the image is not valid", Outlook.NEVER, _BROKEN_IMAGE)),
        (
            r"ErrImageNeverPull",
            Reason("the image is not on the node, and may not be downloaded", Outlook.NEVER, _BROKEN_IMAGE),
        ),
        (
            r"Image.*(not found|manifest unknown|does not exist)",
            Reason("the image does not exist in its registry", Outlook.NEVER, _BROKEN_IMAGE),
        ),
        (
            r"Image.*(unauthorized|authentication required|denied|forbidden)",
            Reason("the registry of the image does not accept the cluster's credentials", Outlook.NEVER, _BROKEN_IMAGE),
        ),
        (
            r"ErrImagePull|ImagePullBackOff|ImageInspectError|RegistryUnavailable",
            Reason("the image cannot be downloaded at the moment; the cluster tries again"),
        ),
        (
            r"CreateContainerConfigError|CreateContainerError|RunContainerError|StartError",
            Reason("the container cannot be started from its image", Outlook.NEVER, _BROKEN_IMAGE),
        ),
        (
            r"persistentvolumeclaim .* not found",
            Reason("the storage for your home does not exist", Outlook.NEVER, TELL_SERVICE),
        ),
        (r"unbound immediate PersistentVolumeClaims", Reason("the storage for your home is being created")),
        (
            r"Multi-Attach",
            Reason(
                "your home is still in use on another node; it is released soon after your last session there has ended"
            ),
        ),
        (
            r"FailedMount|FailedAttachVolume|MountVolume|AttachVolume",
            Reason("your home cannot be attached to the node at the moment; the cluster tries again"),
        ),
        (
            r"FailedCreatePodSandBox|NetworkPlugin",
            Reason("the node cannot give the pod a network at the moment; the cluster tries again"),
        ),
        (r"Insufficient (nvidia|amd|gpu|[a-z.]*/)", Reason("all GPUs are in use")),
        (
            r"Insufficient cpu.*Insufficient memory|Insufficient memory.*Insufficient cpu",
            Reason("no node has enough free cores and memory"),
        ),
        (r"Insufficient cpu", Reason("no node has enough free cores")),
        (r"Insufficient memory", Reason("no node has enough free memory")),
        (r"Insufficient pods|Too many pods", Reason("all nodes run as many pods as they may")),
        (r"Insufficient", Reason("no node has enough free resources")),
        (
            r"didn't match.*(affinity|selector)",
            Reason("no node has the labels that the profile asks for", Outlook.WAITS_FOR_PERSON, TELL),
        ),
        (
            r"untolerated taint.*(unreachable|not-ready)",
            Reason("the nodes do not answer at the moment", Outlook.WAITS_FOR_PERSON, TELL),
        ),
        (r"untolerated taint.*unschedulable", Reason("all suitable nodes are under maintenance")),
        (r"untolerated taint", Reason("all free nodes are reserved for other work", Outlook.WAITS_FOR_PERSON, TELL)),
        (
            r"SchedulingGated",
            Reason("the pod is on hold until the cluster releases it", Outlook.WAITS_FOR_PERSON, TELL),
        ),
        (r"^Unschedulable", Reason("no node can run the session at the moment")),
        (r"^(ContainerCreating|PodInitializing)", Reason("the node prepares the session")),
    )
    refusals = (
        (r"exceeded quota:.*requested: [^:]*requests\.(nvidia|amd|[a-z.]+/)[^:]*", ("gpus",)),
        (r"exceeded quota:.*requested: [^:]*(requests|limits)\.cpu=[^,: ]*", ("cores",)),
        (r"exceeded quota:.*requested: [^:]*(requests|limits)\.memory=[^,: ]*", ("memory",)),
    )


def job_of(pod: Mapping[str, Any], events: Iterable[Mapping[str, Any]] = (), *, deleted: bool = False) -> Job:
    """Return a pod as a job.

    Args:
        pod: The pod, as the API returns it.
        events: The events about this pod.
        deleted: Whether the API has reported that the pod is deleted.
    """
    metadata, status = pod["metadata"], pod.get("status") or {}
    annotations = metadata.get("annotations") or {}
    state, detail = _state(pod, deleted=deleted)
    return Job(
        id=str(metadata["name"]),
        state=state,
        detail=detail,
        reason=_reason(pod, events) if state is JobState.PENDING else "",
        host=str(status.get("podIP") or "") if state is not JobState.PENDING else "",
        name=str(metadata["name"]),
        user=str(annotations.get(LABEL_USER, "")),
        comment=comment_of(annotations),
    )


def _state(pod: Mapping[str, Any], *, deleted: bool) -> tuple[JobState, str]:
    """Return the state of a pod, and its detail in the terms of Kubernetes."""
    status = pod.get("status") or {}
    phase, reason = str(status.get("phase", "")), str(status.get("reason") or "")
    terminated = [each["state"]["terminated"] for each in _containers(pod) if each["state"].get("terminated")]
    if phase in ("Succeeded", "Failed") or terminated:
        detail = reason or next((str(each.get("reason") or "") for each in terminated), "")
        return JobState.ENDED, detail or phase
    if deleted or metadata_time(pod, "deletionTimestamp"):
        return JobState.ENDED, "Deleted" if deleted else "Terminating"
    if phase == "Pending":
        return JobState.PENDING, "Pending"
    if phase == "Running":
        ready: Mapping[str, Any] = next(
            (each for each in status.get("conditions") or [] if each["type"] == "Ready"), {}
        )
        lost = reason == "NodeLost" or ready.get("reason") in ("NodeNotReady", "NodeStatusUnknown")
        if lost:  # the session goes on, as far as anybody knows
            return JobState.UNKNOWN, "NodeLost"
        # Until the pod has an address, nobody can reach its server.
        return (JobState.RUNNING, "Running") if status.get("podIP") else (JobState.PENDING, "Running")
    return JobState.UNKNOWN, phase or "no phase"


def _containers(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [each for each in (pod.get("status") or {}).get("containerStatuses") or [] if each.get("state")]


def _reason(pod: Mapping[str, Any], events: Iterable[Mapping[str, Any]]) -> str:
    """Return why a pod waits: from its condition, from the state of its container, or from the last event."""
    status = pod.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return _line(condition.get("reason"), condition.get("message"))
    waiting: Mapping[str, Any] = next(
        (each["state"]["waiting"] for each in _containers(pod) if each["state"].get("waiting")), {}
    )
    if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
        return _line(waiting.get("reason"), waiting.get("message"))
    explaining = [each for each in events if each.get("reason") in _EXPLAINED]
    last = max(explaining, key=event_time, default=None)
    if last is None:
        return _line(waiting.get("reason"), waiting.get("message"))
    text = str(last.get("message") or "")
    if re.search(r'secret "hpchub-[0-9a-f]{16}" not found', text):
        created = metadata_time(pod, "creationTimestamp")
        return "SecretLost" if event_time(last) - created > SECRET_DELAY else ""
    return _line(last.get("reason"), text)


def _line(reason: Any, message: Any) -> str:
    """Return a reason and its message as one line of limited length."""
    return " ".join(f"{reason or ''}: {message or ''}".strip(": ").split())[:500]


def metadata_time(pod: Mapping[str, Any], name: str) -> float:
    """Return a time of an object's metadata, in seconds since 1970, or 0."""
    return _seconds(pod["metadata"].get(name))


def event_time(event: Mapping[str, Any]) -> float:
    """Return when an event occurred for the last time, in seconds since 1970, or 0."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return max(map(_seconds, times))


def _seconds(text: Any) -> float:
    try:
        return dt.datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return 0.0


def ending_of(pod: Mapping[str, Any]) -> Ending | None:  # noqa: PLR0911 one case for each cause
    """Return how a pod ended, or None if it has not ended.

    A pod that is deleted while it runs is not ended yet: what becomes of it is unknown.
    """
    status = pod.get("status") or {}
    reason, message = str(status.get("reason") or ""), str(status.get("message") or "")
    node = str((pod.get("spec") or {}).get("nodeName") or "")
    disrupted: Mapping[str, Any] = next(
        (each for each in status.get("conditions") or [] if each["type"] == "DisruptionTarget"), {}
    )
    why = str(disrupted.get("reason") or "")
    terminated: Mapping[str, Any] = next(
        (each["state"]["terminated"] for each in _containers(pod) if each["state"].get("terminated")), {}
    )
    if reason == "DeadlineExceeded":
        return Ending(Cause.TIME_LIMIT, reason)
    if terminated.get("reason") == "OOMKilled":
        return Ending(Cause.OUT_OF_MEMORY, "OOMKilled")
    if reason in ("NodeLost", "NodeShutdown", "Terminated") or why == "DeletionByTaintManager":
        return Ending(Cause.NODE_LOST, _line(reason or why, message), node=node)
    if reason in ("Preempting", "Preempted") or why == "PreemptionByScheduler":
        return Ending(Cause.PREEMPTED, _line(reason or why, message))
    if reason == "Evicted" or why in ("EvictionByEvictionAPI", "TerminationByKubelet"):
        return Ending(Cause.EVICTED, _line(reason or why, message), node=node)
    if terminated.get("reason") in ("StartError", "ContainerCannotRun"):
        return Ending(Cause.FAILED, _line(terminated["reason"], terminated.get("message")))
    if terminated:
        return ending_of_status(int(terminated.get("exitCode") or 0))
    if status.get("phase") in ("Succeeded", "Failed"):
        return Ending(Cause.UNKNOWN, _line(reason, message))
    return None
