"""What the states, events and refusals of Kubernetes mean. The texts are those of its documents and components."""

from __future__ import annotations

from typing import Any

import pytest

from hpchub.places.interface import labels
from hpchub.places.kubernetes.terms import KubernetesTerms, ending_of, job_of
from hpchub.schedulers import JobState, Outlook
from hpchub.schedulers.endings import Cause

TERMS = KubernetesTerms()
SESSION = "1" * 16
NAME = f"hpchub-{SESSION}"
CREATED = "2026-01-01T10:00:00Z"


def pod(status: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    """Return a pod with a status."""
    marks = labels("hub.example.org~12345678", "alice", SESSION)
    return {
        "metadata": {"name": NAME, "annotations": marks, "creationTimestamp": CREATED, **metadata},
        "spec": {"nodeName": "worker1"},
        "status": status,
    }


def container(**state: Any) -> list[dict[str, Any]]:
    return [{"name": "notebook", "state": state}]


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"phase": "Pending", "containerStatuses": container(waiting={"reason": reason, "message": message})}


def unschedulable(message: str) -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"phase": "Pending", "conditions": [condition]}


def event(reason: str, message: str, at: str = "2026-01-01T10:00:05Z") -> dict[str, Any]:
    return {"reason": reason, "message": message, "lastTimestamp": at, "eventTime": None}


READY = {"phase": "Running", "podIP": "10.1.2.3", "containerStatuses": container(running={})}
STATES: dict[str, tuple[dict[str, Any], dict[str, Any], JobState, str]] = {
    "pending": ({"phase": "Pending"}, {}, JobState.PENDING, "Pending"),
    "running": (READY, {}, JobState.RUNNING, "Running"),
    "running without an address": ({"phase": "Running"}, {}, JobState.PENDING, "Running"),
    "succeeded": ({"phase": "Succeeded"}, {}, JobState.ENDED, "Succeeded"),
    "failed": ({"phase": "Failed", "reason": "Evicted"}, {}, JobState.ENDED, "Evicted"),
    "terminated": (
        {"phase": "Running", "containerStatuses": container(terminated={"exitCode": 1, "reason": "Error"})},
        {},
        JobState.ENDED,
        "Error",
    ),
    "terminating": (READY, {"deletionTimestamp": CREATED}, JobState.ENDED, "Terminating"),
    "unknown": ({"phase": "Unknown"}, {}, JobState.UNKNOWN, "Unknown"),
    "a new phase": ({"phase": "Hibernating"}, {}, JobState.UNKNOWN, "Hibernating"),
    "no status": ({}, {}, JobState.UNKNOWN, "no phase"),
    "node lost": (
        {**READY, "conditions": [{"type": "Ready", "status": "False", "reason": "NodeNotReady"}]},
        {},
        JobState.UNKNOWN,
        "NodeLost",
    ),
}


@pytest.mark.parametrize(("status", "metadata", "state", "detail"), STATES.values(), ids=STATES)
def test_state(status: dict[str, Any], metadata: dict[str, Any], state: JobState, detail: str) -> None:
    job = job_of(pod(status, **metadata))
    assert (job.state, job.detail) == (state, detail)


def test_a_deleted_pod_has_ended() -> None:
    assert job_of(pod(READY), deleted=True).state is JobState.ENDED


def test_only_a_running_pod_has_a_host() -> None:
    assert job_of(pod(READY)).host == "10.1.2.3"
    assert job_of(pod({"phase": "Pending", "podIP": "10.1.2.3"})).host == ""


@pytest.mark.parametrize("annotations", [None, {}, {"hpchub.user": "alice"}, labels("h~1", "bob", "short")])
def test_a_pod_without_valid_marks_is_no_session(annotations: Any) -> None:
    job = job_of(pod(READY, annotations=annotations))
    assert job.tag is None


WAITS, PERSON, NEVER = Outlook.WAITS, Outlook.WAITS_FOR_PERSON, Outlook.NEVER
REASONS: dict[str, tuple[dict[str, Any], str, Outlook]] = {
    "no cores": (unschedulable("0/3 nodes are available: 3 Insufficient cpu."), "no node has enough free cores", WAITS),
    "no memory": (unschedulable("0/1 nodes are available: 1 Insufficient memory."), "enough free memory", WAITS),
    "neither": (
        unschedulable("0/2 nodes are available: 1 Insufficient cpu, 1 Insufficient memory."),
        "enough free cores and memory",
        WAITS,
    ),
    "no GPUs": (unschedulable("0/2 nodes are available: 2 Insufficient nvidia.com/gpu."), "all GPUs are in use", WAITS),
    "labels": (
        unschedulable("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."),
        "no node has the labels",
        PERSON,
    ),
    "taint": (
        unschedulable("0/2 nodes are available: 2 node(s) had untolerated taint {dedicated: batch}."),
        "reserved for other work",
        PERSON,
    ),
    "cordoned": (
        unschedulable("0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/unschedulable: }."),
        "under maintenance",
        WAITS,
    ),
    "nodes lost": (
        unschedulable("0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }."),
        "the nodes do not answer",
        PERSON,
    ),
    "volume missing": (
        unschedulable('0/1 nodes are available: persistentvolumeclaim "hpchub-home-alice" not found.'),
        "the storage for your home does not exist",
        NEVER,
    ),
    "volume not bound": (
        unschedulable("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."),
        "is being created",
        WAITS,
    ),
    "image missing": (
        waiting("ImagePullBackOff", 'Back-off pulling image "r.org/x@sha256:1": failed to resolve: not found'),
        "does not exist in its registry",
        NEVER,
    ),
    "registry refuses": (
        waiting("ErrImagePull", "failed to authorize: 401 Unauthorized"),
        "does not accept the cluster's credentials",
        NEVER,
    ),
    "registry away": (
        waiting("ErrImagePull", "dial tcp: connection refused"),
        "cannot be downloaded at the moment",
        WAITS,
    ),
    "never pulled": (waiting("ErrImageNeverPull", "not present with pull policy of Never"), "not on the node", NEVER),
    "bad name": (waiting("InvalidImageName", "invalid reference"), "the name of the image is not valid", NEVER),
    "no start": (waiting("CreateContainerError", "exec: not found"), "cannot be started from its image", NEVER),
}


@pytest.mark.parametrize(("status", "words", "outlook"), REASONS.values(), ids=REASONS)
def test_reason(status: dict[str, Any], words: str, outlook: Outlook) -> None:
    job = job_of(pod(status))
    reason = TERMS.understand(job.reason)
    assert words in str(reason.words)
    assert reason.outlook is outlook
    assert reason.advice or outlook is not NEVER


CREATING = waiting("ContainerCreating")


def test_an_event_explains_a_pod_that_is_being_created() -> None:
    text = 'Multi-Attach error for volume "pvc-1" Volume is already used by pod(s) hpchub-2'
    job = job_of(pod(CREATING), [event("Scheduled", "assigned"), event("FailedAttachVolume", text)])
    assert "still in use on another node" in str(TERMS.explain(job.reason))


def test_the_last_event_counts() -> None:
    events = [
        event("FailedCreatePodSandBox", "no network", "2026-01-01T10:00:09Z"),
        event("FailedMount", "timeout", "2026-01-01T10:00:05Z"),
    ]
    assert "network" in str(TERMS.explain(job_of(pod(CREATING), events).reason))


def test_a_container_that_runs_has_no_reason() -> None:
    assert job_of(pod(READY), [event("FailedMount", "timeout")]).reason == ""


@pytest.mark.parametrize(("at", "never"), [("2026-01-01T10:00:02Z", False), ("2026-01-01T10:00:31Z", True)])
def test_a_secret_that_is_missing_for_long_never_comes(at: str, never: bool) -> None:
    text = f'MountVolume.SetUp failed for volume "session" : secret "{NAME}" not found'
    job = job_of(pod(CREATING), [event("FailedMount", text, at)])
    assert (TERMS.understand(job.reason).outlook is Outlook.NEVER) is never


ENDINGS: dict[str, tuple[dict[str, Any], Cause, str]] = {
    "deadline": ({"phase": "Failed", "reason": "DeadlineExceeded"}, Cause.TIME_LIMIT, "DeadlineExceeded"),
    "memory": (
        {"phase": "Failed", "containerStatuses": container(terminated={"exitCode": 137, "reason": "OOMKilled"})},
        Cause.OUT_OF_MEMORY,
        "OOMKilled",
    ),
    "evicted": (
        {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."},
        Cause.EVICTED,
        "Evicted: The node was low on resource: memory.",
    ),
    "drained": (
        {**READY, "phase": "Failed", "conditions": [{"type": "DisruptionTarget", "reason": "EvictionByEvictionAPI"}]},
        Cause.EVICTED,
        "EvictionByEvictionAPI",
    ),
    "node lost": (
        {**READY, "conditions": [{"type": "DisruptionTarget", "reason": "DeletionByTaintManager"}]},
        Cause.NODE_LOST,
        "DeletionByTaintManager",
    ),
    "node shut down": (
        {
            "phase": "Failed",
            "reason": "Terminated",
            "message": "Pod was terminated in response to node shutdown.",
        },
        Cause.NODE_LOST,
        "Terminated: Pod was terminated in response to node shutdown.",
    ),
    "preempted": (
        {**READY, "conditions": [{"type": "DisruptionTarget", "reason": "PreemptionByScheduler"}]},
        Cause.PREEMPTED,
        "PreemptionByScheduler",
    ),
    "finished": (
        {"phase": "Succeeded", "containerStatuses": container(terminated={"exitCode": 0, "reason": "Completed"})},
        Cause.FINISHED,
        "",
    ),
    "error": (
        {"phase": "Failed", "containerStatuses": container(terminated={"exitCode": 1, "reason": "Error"})},
        Cause.FAILED,
        "exit status 1",
    ),
    "killed": (
        {"phase": "Failed", "containerStatuses": container(terminated={"exitCode": 137, "reason": "Error"})},
        Cause.KILLED,
        "signal 9 (SIGKILL)",
    ),
    "no python in the image": (
        {
            "phase": "Failed",
            "containerStatuses": container(
                terminated={"exitCode": 128, "reason": "StartError", "message": 'exec: "python3": not found'}
            ),
        },
        Cause.FAILED,
        'StartError: exec: "python3": not found',
    ),
    "unknown": ({"phase": "Failed"}, Cause.UNKNOWN, ""),
}


@pytest.mark.parametrize(("status", "cause", "detail"), ENDINGS.values(), ids=ENDINGS)
def test_ending(status: dict[str, Any], cause: Cause, detail: str) -> None:
    ending = ending_of(pod(status))
    assert ending is not None
    assert (ending.cause, ending.detail) == (cause, detail)


def test_a_pod_that_runs_has_no_ending() -> None:
    assert ending_of(pod(READY)) is None


QUOTA = 'pods "x" is forbidden: exceeded quota: sessions, requested: {}, used: {}, limited: {}'
REFUSALS = {
    "cores": QUOTA.format("limits.cpu=4,requests.cpu=4", "limits.cpu=8", "limits.cpu=8"),
    "memory": QUOTA.format("requests.memory=8Gi", "requests.memory=8Gi", "requests.memory=8Gi"),
    "gpus": QUOTA.format("requests.nvidia.com/gpu=1", "requests.nvidia.com/gpu=1", "requests.nvidia.com/gpu=1"),
}


@pytest.mark.parametrize(("field", "message"), REFUSALS.items(), ids=REFUSALS)
def test_a_quota_names_the_field_of_the_profile(field: str, message: str) -> None:
    refusal = TERMS.refusal(message)
    assert refusal is not None
    assert refusal[1] == (field,)


def test_a_quota_of_pods_concerns_no_field() -> None:
    assert TERMS.refusal(QUOTA.format("pods=1", "pods=5", "pods=5")) is None
