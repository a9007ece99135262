"""Places that are single hosts without a scheduler: the kinds ``ssh`` and ``local``. No I/O.

systemd runs their sessions, and the hub reaches them through a gate. For everything but the inventory, such a place is
therefore a cluster with one queue and the scheduler ``systemd``. :func:`with_hosts` makes these clusters.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hpchub.messages import listing, show
from hpchub.model.entries import Cluster, Profile, Queue, Submit
from hpchub.model.places import HostPlace, LocalPlace
from hpchub.model.problems import Problem
from hpchub.model.rules import Draft
from hpchub.units import mebibytes, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hpchub.model.entries import Access

QUEUE = "host"
"""The name of the only queue of such a place."""
SCHEDULER = "systemd"
"""The scheduler of such a place."""


def as_cluster(place: HostPlace) -> Cluster:
    """Return the cluster that a place is for everything but the inventory."""
    submit = Submit(method="local") if place.is_hub_host else Submit(method="ssh", host=place.host)
    limits = {name: getattr(place, name) for name in ("max_cores", "max_memory", "max_runtime")}
    return Cluster(
        name=place.name,
        scheduler=SCHEDULER,
        submit=submit,
        networks=place.networks,
        software=place.software,
        firewall=place.firewall,
        queues=[Queue(name=QUEUE, **limits)],
        directories=place.directories,
        quota_command=place.quota_command,
        enabled=place.enabled,
    )


def host_settings(place: HostPlace, access: Access, gate_account: str) -> dict[str, Any]:
    """Return the content of ``/etc/hpchub/host.json``; see :mod:`hpchub.remote.host_units`."""
    limits = as_cluster(place).queues[0]
    return {
        "host": place.host,
        "gate_account": gate_account,
        "slice": "hpchub.slice",
        "tasks": place.tasks,
        "capacity": {"cores": place.cores, "memory": mebibytes(place.memory), "sessions": place.max_sessions},
        "limits": {
            "queue": limits.name,
            "cores": limits.max_cores,
            "memory": mebibytes(limits.max_memory),
            "runtime": seconds(limits.max_runtime),
        },
        "permitted_groups": list(access.job_groups),
        "user_pattern": access.user_pattern,
        "minimum_uid": access.minimum_uid,
    }


# Drafts; see hpchub.model.rules


def with_hosts(drafts: Mapping[str, list[Draft]]) -> dict[str, list[Draft]]:
    """Return the drafts of a site with a cluster for each valid host place, and with the profiles of these clusters."""
    places = {draft.value.name: draft for draft in drafts["hpc_places"] if isinstance(draft.value, HostPlace)}
    clusters = []
    for draft in places.values():
        cluster = as_cluster(draft.value)  # type: ignore[arg-type]
        clusters.append(Draft(draft.name, cluster.model_dump(mode="json"), Cluster, value=cluster))
    profiles = [_moved(draft) if draft.written("place") in places else draft for draft in drafts["hpc_profiles"]]
    return {**drafts, "hpc_clusters": [*drafts["hpc_clusters"], *clusters], "hpc_profiles": profiles}


def _moved(draft: Draft) -> Draft:
    """Return a profile of a host place as a profile of the place's cluster."""
    raw = {**draft.raw, "cluster": draft.raw["place"], "queue": QUEUE}
    raw.pop("place")
    value = draft.value
    if isinstance(value, Profile):
        value = value.model_copy(update={"cluster": value.place, "queue": QUEUE, "place": ""})
    return replace(draft, raw=raw, value=value)


def in_terms_of_hosts(found: Sequence[Problem], before: Sequence[Problem]) -> Iterator[Problem]:
    """Return the problems of drafts from :func:`with_hosts` in terms of the inventory.

    Args:
        found: The problems.
        before: The problems that were found before. Those of the same fields are left out.
    """
    reported = {(problem.entry, problem.field) for problem in before}
    for problem in found:
        if problem.entry.startswith("hpc_places") and problem.field == "submit.host":
            yield replace(problem, field="host")
        elif not (problem.entry.startswith("hpc_profiles") and (problem.entry, problem.field) in reported):
            yield problem


def compare_hosts(
    drafts: Mapping[str, Sequence[Draft]], groups: Mapping[str, Sequence[str]] | None
) -> Iterator[Problem]:
    """Compare host places with one another, with the rules for access, and with the hub host.

    Args:
        drafts: The entries of a site, by variable.
        groups: The hosts of each group of the inventory, or None if there is no inventory.
    """
    for draft in drafts["hpc_clusters"]:
        if draft.written("scheduler") == SCHEDULER:
            valid = "describe the host in hpc_places, with the kind ssh or local"
            message = "is not a scheduler of clusters"
            yield Problem(draft.name, message, field="scheduler", value=show(SCHEDULER), valid=valid)
    first: dict[str, str] = {}
    stated = any(draft.get("sessions_on_hub_host") for draft in drafts["hpc_access"])
    for draft in drafts["hpc_places"]:
        place = draft.value
        if not isinstance(place, HostPlace):
            continue
        value = show(place.host)
        if place.host in first:
            valid = "describe each host in one place; its profiles can have different sizes"
            message = f"is already the host of place {show(first[place.host])}"
            yield Problem(draft.name, message, field="host", value=value, valid=valid)
        first.setdefault(place.host, place.name)
        if place.is_hub_host and not stated:
            valid = "set hpc_access.sessions_on_hub_host: true too, if users may run programs beside the hub's secrets"
            yield Problem(draft.name, "is stated only once", field="on_hub_host", value="true", valid=valid)
        hub = (groups or {}).get("hub", [])
        if groups is None or not hub:
            continue
        if place.host in hub and not place.is_hub_host:
            valid = "name another host; the documentation of the kind local tells what running sessions here means"
            yield Problem(draft.name, "is the hub host", field="host", value=value, valid=valid)
        elif place.is_hub_host and place.host not in hub:
            valid = f"remove on_hub_host, or name {listing(hub)}"
            message = "is not the hub host, but on_hub_host is true"
            yield Problem(draft.name, message, field="host", value=value, valid=valid)


def warnings_of_hosts(places: Sequence[object]) -> Iterator[Problem]:
    """Return the warnings about host places that are permitted, but dangerous."""
    for i, place in enumerate(places):
        if isinstance(place, LocalPlace) and place.on_hub_host:
            message = "runs users' programs on the hub host, beside the hub's secrets"
            valid = "name another host, unless all users are trusted"
            yield Problem(f"hpc_places[{i}] ({place.name})", message, valid=valid)
