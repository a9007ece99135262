"""The service of a session in a swarm, and what the answers of a manager mean. No I/O.

Source: the Docker Engine API, version 1.45, sections "Service", "Task", "Node" and "Secret"
(https://docs.docker.com/reference/api/engine/), and the errors of tasks of Docker Engine 26.1.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hpchub.messages import Message
from hpchub.places.docker.spec import LABEL_RUNTIME, environment, mounts
from hpchub.places.interface import JOB_ID, LABEL_SESSION, LABEL_USER, comment_of, labels
from hpchub.remote import docker_gate
from hpchub.schedulers import Cause, Ending, Job, JobState, Unanswered, job_name
from hpchub.schedulers.endings import ending_of_status
from hpchub.schedulers.reasons import Outlook, Reason
from hpchub.schedulers.terms import Terms
from hpchub.units import seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hpchub.model.entries import Profile
    from hpchub.model.places import PlaceBase, SwarmPlace

_AGAIN = Message("Please start your session again.")
_TELL = Message("Choose another profile, and tell the administrators of the service.")


class SwarmTerms(Terms):
    """The terms in which a swarm speaks of tasks."""

    name = "swarm"
    job_id_pattern = JOB_ID
    propagation = 15.0
    reasons = (
        (r"^created$", Reason("its secrets were created, but not the session", Outlook.NEVER, _AGAIN)),
        (r"^new$", Reason("the swarm chooses a node for it")),
        (r"^preparing$", Reason("a node prepares the session")),
        (
            r"host-mode port already in use|port is already allocated|address already in use",
            Reason("the port of your session is in use", Outlook.NEVER, _AGAIN),
        ),
        (r"insufficient resources", Reason("no node has enough free cores and memory")),
        (
            r"scheduling constraints not satisfied|unsupported platform|missing plugin",
            Reason("no node fits the profile", Outlook.NEVER, _TELL),
        ),
        (r"no suitable node", Reason("no node is available", Outlook.WAITS)),
        (
            r"no such image|manifest unknown|pull access denied|not found: manifest|repository does not exist",
            Reason("the image is not on the node", Outlook.NEVER, _TELL),
        ),
        (
            r"bind source path does not exist",
            Reason("a directory of the session does not exist on the node", Outlook.NEVER, _TELL),
        ),
        (
            r"executable file not found|no such file or directory",
            Reason("the image lacks a program that a session needs", Outlook.NEVER, _TELL),
        ),
        (r"no space left on device", Reason("the node has no room for another session", Outlook.NEVER, _AGAIN)),
        (r"network .*not found", Reason("the network for sessions is missing on the node", Outlook.NEVER, _TELL)),
        (r"^rejected", Reason("the node does not accept the session", Outlook.NEVER, _TELL)),
    )


TERMS = SwarmTerms()

_PENDING = {"new", "allocated", "pending", "assigned", "accepted", "preparing", "ready", "starting"}
_ENDED = {"complete", "failed", "shutdown", "remove", "orphaned"}


# What the manager answers


def jobs_of(secrets: Any, services: Any, tasks: Any, nodes: Any) -> dict[str, Job]:
    """Return the jobs of services by their ids. A secret without a service is a job that was never started.

    Args:
        secrets: The answer of ``GET /secrets``.
        services: The answer of ``GET /services``.
        tasks: The answer of ``GET /tasks``.
        nodes: The answer of ``GET /nodes``.

    Raises:
        Unanswered: An answer has another form.
    """
    try:
        known = {str(each["ID"]): each for each in nodes}
        found = [_job(each, None, {}, "created") for each in secrets]
        found += [_job(each, newest(each, tasks), known) for each in services]
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        raise Unanswered(f"the swarm describes its services in an unknown way: {error!r}") from None
    return {job.id: job for job in found if job is not None}


def newest(service: Mapping[str, Any], tasks: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the last task of a service. There is one at most, unless somebody has changed the service."""
    own = [each for each in tasks if each["ServiceID"] == service["ID"]]
    return max(own, key=lambda each: str(each["CreatedAt"]), default=None)


def _job(
    service: Mapping[str, Any], task: Mapping[str, Any] | None, nodes: Mapping[str, Any], without_task: str = "new"
) -> Job | None:
    name, found = str(service["Spec"]["Name"]), service["Spec"].get("Labels") or {}
    comment = comment_of(found)
    if not comment or name != job_name(str(found[LABEL_SESSION])):
        return None
    status: Mapping[str, Any] = task["Status"] if task else {"State": "new"}
    state, detail = str(status["State"]), _line(status.get("Err") or status["State"])
    node = nodes.get(str((task or {}).get("NodeID") or ""))
    job_state, reason = JobState.UNKNOWN, ""
    if state in _PENDING:
        job_state = JobState.PENDING
        reason = detail if status.get("Err") else without_task if node is None else "preparing"
    elif state == "rejected":
        # A rejected task never runs. As a reason of a wait, its error explains the failed start.
        job_state, reason = JobState.PENDING, f"rejected: {detail}"
    elif state == "running" and node is not None and node["Status"]["State"] == "ready":
        job_state = JobState.RUNNING
    elif state in _ENDED:
        job_state = JobState.ENDED
    return Job(
        name,
        job_state,
        detail=detail,
        reason=reason,
        host=address_of(node) if job_state is JobState.RUNNING and node else "",
        name=name,
        user=str(found[LABEL_USER]),
        comment=comment,
    )


def address_of(node: Mapping[str, Any]) -> str:
    """Return the address at which the hub reaches a node.

    A manager may know itself by an address of all interfaces.
    """
    manager, _, _ = str((node.get("ManagerStatus") or {}).get("Addr") or "").rpartition(":")
    return manager.strip("[]") or str(node["Status"].get("Addr") or "")


def _line(text: str) -> str:
    return " ".join(str(text).split())[:300]


def ending_of(service: Mapping[str, Any], task: Mapping[str, Any] | None, nodes: Mapping[str, Any]) -> Ending:
    """Return how the task of a service ended.

    Raises:
        Unanswered: It has not ended, or the answer has another form.
    """
    try:
        status = (task or {})["Status"]
        state, error = str(status["State"]), _line(status.get("Err") or "")
        code = int((status.get("ContainerStatus") or {}).get("ExitCode") or 0)
        limit = int((service["Spec"].get("Labels") or {}).get(LABEL_RUNTIME) or 0)
        node = nodes.get(str((task or {}).get("NodeID") or ""))
        name = str(node["Description"]["Hostname"]) if node else ""
    except (AttributeError, KeyError, TypeError, ValueError) as problem:
        raise Unanswered(f"the swarm describes a task in an unknown way: {problem!r}") from None
    if state == "orphaned" or (node and node["Status"]["State"] == "down"):
        return Ending(Cause.NODE_LOST, error, node=name)
    if state in ("shutdown", "remove"):
        return Ending(Cause.EVICTED, error or state, node=name)
    if state == "rejected":
        return Ending(Cause.FAILED, error)
    if state not in _ENDED:
        raise Unanswered(f"the task has not ended, it is {state}")
    if limit and code == 124:
        return Ending(Cause.TIME_LIMIT, f"exit status {code}")
    found = ending_of_status(code)
    return found if code else Ending(found.cause if state == "complete" else Cause.FAILED, error or found.detail)


def missing_isolation(network: Mapping[str, Any], nodes: Mapping[str, Any]) -> bool:
    """Return whether a network of a swarm lets containers reach each other.

    Args:
        network: The answer of ``GET /networks/NAME``.
        nodes: The same for the settings that each node has for this network.
    """
    is_own = network.get("Scope") == "swarm" and network.get("Driver") == "bridge"
    follows = (network.get("ConfigFrom") or {}).get("Network") == nodes.get("Name")
    return not (is_own and follows and (nodes.get("Options") or {}).get(ICC) == "false")


ICC = "com.docker.network.bridge.enable_icc"


# What the manager is asked for


def service(
    place: SwarmPlace,
    profile: Profile,
    *,
    hub: str,
    user: str,
    session: str,
    ids: tuple[int, int],
    groups: Sequence[int],
    port: int,
    secret: str,
) -> dict[str, Any]:
    """Return the description of a session's service; see ``docker_gate.service``."""
    image = place.image(profile.image)
    assert image is not None  # noqa: S101 the model has checked it
    names = {"type": "Type", "source": "Source", "target": "Target", "read_only": "ReadOnly"}
    return docker_gate.service(
        session_labels(profile, hub, user, session),
        image=image.image,
        program=docker_gate.command(seconds(profile.runtime), image.python, session),
        user=f"{ids[0]}:{ids[1]}",
        groups=[str(each) for each in groups],
        environment=[f"{name}={value}" for name, value in environment(place, user).items()],
        mounts=[{names[key]: value for key, value in each.items()} for each in mounts(place, user)],
        memory=profile.memory_mib * 1024 * 1024,
        nano_cpus=int(float(profile.cores) * 10**9),
        pids=place.pids,
        read_only=place.read_only,
        port=port,
        secret=secret,
        network=place.network,
        swarm={"constraints": place.constraints, "limit_cores": place.limit_cores},
    )


def session_labels(profile: Profile, hub: str, user: str, session: str) -> dict[str, str]:
    """Return the labels of a session's service and of its secret."""
    return {**labels(hub, user, session), LABEL_RUNTIME: str(seconds(profile.runtime))}


def plan(place: PlaceBase, profile: Profile) -> str:
    """Return the description of a session's service, with placeholders, for ``hpchub plan``."""
    swarm_place: SwarmPlace = place  # type: ignore[assignment]
    content = service(
        swarm_place,
        profile,
        hub="HUB~DATABASE",
        user="USER",
        session="SESSION",
        ids=(0, 0),
        groups=(),
        port=0,
        secret="SECRET",  # noqa: S106 a placeholder
    )
    content["TaskTemplate"]["ContainerSpec"]["User"] = "UID:GID"
    content["EndpointSpec"]["Ports"][0].update(TargetPort="PORT", PublishedPort="PORT")
    return json.dumps(content, indent=2)
