"""What a session's container gets, and what the answers of a Docker engine mean. No I/O."""

from __future__ import annotations

import datetime as dt
import json
import re
from typing import TYPE_CHECKING, Any

from hpchub.hub.job_actions import Fail
from hpchub.hub.place_texts import TELL
from hpchub.messages import Message, marked
from hpchub.places.interface import (
    JOB_ID,
    LABEL_HUB,
    LABEL_SESSION,
    LABEL_USER,
    Refused,
    comment_of,
    labels,
    secret_path,
)
from hpchub.remote import docker_gate
from hpchub.schedulers import Cause, Ending, Job, JobState, Outlook, Reason, Unanswered, job_name
from hpchub.schedulers.endings import ending_of_status
from hpchub.schedulers.terms import Terms
from hpchub.units import seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hpchub.model.entries import Profile
    from hpchub.model.places import DockerPlace, EnginePlace, PlaceBase

LABEL_RUNTIME = "hpchub.runtime"
"""The label with the time limit, in seconds."""


class DockerTerms(Terms):
    """The terms of Docker."""

    name = "docker"
    job_id_pattern = JOB_ID
    propagation = 10.0
    reasons = (
        (
            "^created$",
            Reason(
                "your session was created, but it was not started",
                Outlook.NEVER,
                "Please start your session again.",
            ),
        ),
    )


TERMS = DockerTerms()

_STATES = {
    "created": JobState.PENDING,
    "running": JobState.RUNNING,
    "paused": JobState.RUNNING,
    "restarting": JobState.RUNNING,
    "exited": JobState.ENDED,
    "dead": JobState.ENDED,
    "removing": JobState.ENDED,
}


# What the engine answers


def job_of(record: Any, published_at: str, network: str) -> Job | None:
    """Return the job of a container in the engine's list, or None if it is not a session's container.

    Args:
        record: A container in the answer of ``GET /containers/json``, or of ``GET /containers/ID/json``.
        published_at: The address on which the host publishes ports, or empty if the hub uses the container's address.
        network: The network of the containers.

    Raises:
        Unanswered: The record has another form.
    """
    try:
        inspected = isinstance(record["State"], dict)
        found = record["Config"]["Labels"] if inspected else record["Labels"]
        names = [record["Name"]] if inspected else record["Names"]
        state = record["State"]["Status"] if inspected else record["State"]
        detail = state if inspected else record.get("Status") or state
        networks = (record.get("NetworkSettings") or {}).get("Networks") or {}
        address = str((networks.get(network) or {}).get("IPAddress") or "")
        name = str(names[0]).lstrip("/")
        comment = comment_of(found or {})
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise Unanswered(f"the engine describes a container in an unknown way: {error!r}") from None
    if not comment or name != job_name(str(found[LABEL_SESSION])):
        return None
    status = _STATES.get(str(state), JobState.UNKNOWN)
    return Job(
        name,
        status,
        detail=str(detail),
        reason="created" if status is JobState.PENDING else "",
        host=(published_at or address) if status is JobState.RUNNING else "",
        name=name,
        user=str(found[LABEL_USER]),
        comment=comment,
    )


def ending_of(record: Mapping[str, Any]) -> Ending:
    """Return how a container ended.

    Args:
        record: The answer of ``GET /containers/ID/json``.

    Raises:
        Unanswered: It has not ended, or the answer has another form.
    """
    try:
        state, found = record["State"], record["Config"]["Labels"] or {}
        status, code, killed = str(state["Status"]), int(state["ExitCode"]), bool(state.get("OOMKilled"))
        ran = _moment(state["FinishedAt"]) - _moment(state["StartedAt"])
        limit = int(found.get(LABEL_RUNTIME) or 0)
    except (KeyError, TypeError, ValueError) as error:
        raise Unanswered(f"the engine describes a container in an unknown way: {error!r}") from None
    if _STATES.get(status) is not JobState.ENDED:
        raise Unanswered(f"the container has not ended, it is {status}")
    if killed:
        return Ending(Cause.OUT_OF_MEMORY, "OOMKilled")
    if limit and (code == 124 or ran >= limit):
        return Ending(Cause.TIME_LIMIT, f"exit status {code}")
    return ending_of_status(code)


def _moment(text: str) -> float:
    """Return a time of the engine in seconds since 1970. It has nine digits after the point."""
    return dt.datetime.fromisoformat(re.sub(r"\.[0-9]+", "", text)).timestamp()


def belongs_to(record: Mapping[str, Any], *, user: str, session: str) -> bool:
    """Return whether a container carries the labels of a session."""
    found = (record.get("Config") or {}).get("Labels") or {}
    return bool(found.get(LABEL_HUB)) and (found.get(LABEL_USER), found.get(LABEL_SESSION)) == (user, session)


_EXPLANATIONS: tuple[tuple[str, str, str, str], ...] = (
    (
        r"no such image|manifest unknown|image .*not found",
        "no_image",
        marked("The image of this profile is not on the host {place}."),
        marked("Choose another profile, and tell the administrators of the service, who must load the image."),
    ),
    (
        r"bind source path does not exist: ?(?P<path>\S*)",
        "no_home",
        marked("The directory {path} does not exist on the host {place}."),
        marked("Please tell the administrators of the service, who must create it."),
    ),
    (
        r"exec: \"?(?P<path>[^\s\":]+)\"?: (?:executable file not found|stat .*no such file)",
        "bad_image",
        marked("The image of this profile lacks the program {path}, so it cannot run a session."),
        marked("Choose another profile, and tell the administrators of the service."),
    ),
    (
        r"no space left on device|quota exceeded|cannot allocate memory|address pools|no available .*address",
        "full",
        marked("The host {place} has no room for another session at the moment."),
        marked("Please try again in a few minutes."),
    ),
    (
        r"is already in use by container|name .* is already in use|conflicts with an existing object",
        "conflict",
        marked("A container with the name of your session exists already on the host {place}."),
        marked("Please start your session again."),
    ),
    (
        r"network .*not found|could not find (?:the )?network",
        "no_network",
        marked("The network for sessions is missing on the host {place}."),
        marked("Please tell the administrators of the service."),
    ),
    (
        r"not a swarm manager|does not have a leader|lost quorum",
        "no_swarm",
        marked("The swarm {place} has no manager that works."),
        marked("Please tell the administrators of the service."),
    ),
    (
        r"client version .* is too (?:old|new)|API version",
        "api_version",
        marked("The host {place} has a version of Docker that does not work with the service."),
        marked("Please tell the administrators of the service."),
    ),
    (
        r"all GPUs are in use",
        "full",
        marked("All GPUs of the host {place} are in use at the moment."),
        marked("Please try again later, or choose a profile without GPUs."),
    ),
    (
        r"hpchub refuses: (?P<path>.*)",
        "not_permitted",
        marked("The host {place} does not permit this session: {path}."),
        marked("Please tell the administrators of the service."),
    ),
)
"""Messages of the engine: a pattern, a label for metrics, what the user reads, and what the user can do."""


def explain(place: str, text: str) -> Refused:
    """Return the failure of a start that the engine refused.

    Args:
        place: The name of the place.
        text: The message of the engine.
    """
    for pattern, reason, message, advice in _EXPLANATIONS:
        if found := re.search(pattern, text, re.IGNORECASE):
            path = (found.groupdict().get("path") or "").rstrip(".")
            words = Message(message, place=place, path=path)
            fail = Fail(words, reason=reason, status_code=503, advice=Message(advice))
            return Refused(fail, f"{place} refuses the container: {text[:500]}")
    message = Message("The host {place} could not create your session.", place=place)
    fail = Fail(message, reason="refused", status_code=503, advice=TELL)
    return Refused(fail, f"{place} refuses the container: {text[:500]}")


PORT_TAKEN = re.compile(r"port is already allocated|address already in use", re.IGNORECASE)
"""The engine's message if another container or program has the port."""


# What the engine is asked for


def path_for(template: str, user: str) -> str:
    """Return a path of the inventory for a user."""
    return template.replace("{user}", user)


def create_options(
    place: DockerPlace, profile: Profile, *, hub: str, user: str, session: str, ids: tuple[int, int]
) -> dict[str, Any]:
    """Return the arguments of docker's ``create_container`` for a session, without its host configuration."""
    image = place.image(profile.image)
    assert image is not None  # noqa: S101 the model has checked it
    return {
        "user": f"{ids[0]}:{ids[1]}",
        "entrypoint": docker_gate.command(seconds(profile.runtime), image.python, session),
        "stdin_open": True,
        "labels": {**labels(hub, user, session), LABEL_RUNTIME: str(seconds(profile.runtime))},
        "working_dir": "/",
        "stop_signal": "SIGTERM",
        "healthcheck": {"test": ["NONE"]},
        "use_config_proxy": False,
    }


def host_options(place: DockerPlace, profile: Profile, ids: tuple[int, int], groups: Sequence[int]) -> dict[str, Any]:
    """Return the arguments of docker's ``create_host_config`` for a session, besides those of dockerspawner's traits.

    A container has no privilege: no capability, no setuid program, no namespace of the host, no device, no socket. It
    writes to no disk of the host but the home's, and its output is limited.
    """
    memory = profile.memory_mib * 1024 * 1024
    options: dict[str, Any] = {
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "privileged": False,
        "read_only": place.read_only,
        "tmpfs": docker_gate.tmpfs(*ids),
        "init": True,
        "ipc_mode": "private",
        "memswap_limit": memory,
        "pids_limit": place.pids,
        "group_add": [str(group) for group in groups],
        "log_config": {key.lower(): value for key, value in docker_gate.LOG.items()},
    }
    if profile.gpus:
        options["device_requests"] = [{"Count": int(profile.gpus), "Capabilities": [["gpu"]]}]
    return options


def mounts(place: EnginePlace, user: str) -> list[dict[str, Any]]:
    """Return the mounts of a session. The engine does not create a source that is missing."""
    found = [(place.home, path_for(place.home, user), False)]
    found += [(each.source, path_for(each.target, user), each.read_only) for each in place.mounts]
    return [
        {"source": path_for(source, user), "target": target, "type": "bind", "read_only": read_only}
        for source, target, read_only in found
    ]


def environment(place: EnginePlace, user: str) -> dict[str, str]:
    """Return the environment of a session's container. Everybody with access to the engine can read it."""
    return {"HOME": path_for(place.home, user), "USER": user, "LOGNAME": user, "SHELL": "/bin/bash"}


def message(files: Mapping[str, str]) -> bytes:
    """Return the files of a session as its container reads them; see ``docker_gate.RECEIVE``."""
    content = json.dumps(files).encode()
    return b"%d\n%b" % (len(content), content)


def plan(place: PlaceBase, profile: Profile) -> str:
    """Return the description of a session's container, with placeholders, for ``hpchub plan``."""
    docker_place: DockerPlace = place  # type: ignore[assignment]
    image = docker_place.image(profile.image)
    created = create_options(docker_place, profile, hub="HUB~DATABASE", user="USER", session="SESSION", ids=(0, 0))
    created["user"] = "UID:GID"
    content = {
        "image": image.image if image else "",
        **created,
        "network": docker_place.network,
        "published_at": docker_place.published_at,
        "cpus": profile.cores,
        "memory": profile.memory,
        "mounts": mounts(docker_place, "USER"),
        "secrets": secret_path("SESSION"),
        **host_options(docker_place, profile, (0, 0), ()),
    }
    return json.dumps(content, indent=2)
