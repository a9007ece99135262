"""Rules that compare places with the rest of a site, and profiles with their places. No I/O.

The rules work on drafts; see :mod:`hpchub.model.rules`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpchub.messages import did_you_mean, listing, show
from hpchub.model import fields as f
from hpchub.model.adjustable import Adjustable, Amount
from hpchub.model.places import ContainerPlace, HostPlace, Image
from hpchub.model.problems import Problem
from hpchub.units import mebibytes, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hpchub.model.rules import Draft

LIMITS = (
    ("cores", "max_cores", int),
    ("memory", "max_memory", mebibytes),
    ("runtime", "max_runtime", seconds),
    ("gpus", "max_gpus", f.gpus_of),
)
"""The fields of a profile with a limit, the limit, and the function that measures both."""
OF_CLUSTERS = ("queue", "account", "qos", "reservation", "node_constraint", "options")
"""The fields of a profile that only a batch scheduler understands."""


def compare_places(drafts: Mapping[str, Sequence[Draft]]) -> Iterator[Problem]:
    """Compare the places of a site, given by variable, with its clusters, its profiles and its access rules."""
    places = drafts["hpc_places"]
    clusters = [draft.written("name") for draft in drafts["hpc_clusters"]]
    first: dict[str, int] = {}
    for i, place in enumerate(places):
        name = place.written("name")
        if not isinstance(name, str):
            name = ""
        elif name in clusters:
            valid = "give each cluster and each place a different name"
            yield Problem(place.name, "is also the name of a cluster", field="name", value=show(name), valid=valid)
        elif name in first:
            valid = "give each entry a different name"
            yield Problem(
                place.name, f"is already used by entry {first[name]}", field="name", value=show(name), valid=valid
            )
        first.setdefault(name, i)
        yield from _compare_images(place)
        yield from _compare_accounts(place, drafts["hpc_access"])
    for service in drafts["hpc_service"]:
        host = service.get("api_host") or ""
        if any(place.kind and issubclass(place.kind, ContainerPlace) for place in places) and f.is_loopback(host):
            message = "means the container itself, where the hub does not run"
            valid = "write the name of the hub host as containers know it"
            yield Problem(service.name, message, field="api_host", value=show(host), valid=valid)
    for profile in drafts["hpc_profiles"]:
        yield from _compare_profile(profile, places)


def _compare_images(place: Draft) -> Iterator[Problem]:
    names: list[str] = []
    for image in place.items("images", Image):
        name = image.written("name")
        if not isinstance(name, str):
            continue
        if name in names:
            valid = "give each image a different name"
            yield Problem(image.name, "is already used by another image", field="name", value=show(name), valid=valid)
        names.append(name)


def _compare_accounts(place: Draft, access: Sequence[Draft]) -> Iterator[Problem]:
    kind = place.written("kind")
    if kind in ("docker", "swarm", "kubernetes") and any(each.get("hub_accounts") is False for each in access):
        message = "needs the users' accounts on the hub host, but hpc_access.hub_accounts is false"
        valid = "set hub_accounts to true, because the containers run with the users' uids"
        yield Problem(place.name, message, field="kind", value=show(kind), valid=valid)


def _compare_profile(profile: Draft, places: Sequence[Draft]) -> Iterator[Problem]:
    name = profile.get("place")
    if not name:
        if profile.written("image"):
            valid = "name a place of hpc_places, or remove image"
            yield Problem(profile.name, "has no meaning without a place", field="image", valid=valid)
        return
    if profile.written("cluster"):
        valid = "remove one of them, because a session runs either in a cluster or in a place"
        yield Problem(profile.name, "names both a cluster and a place", field="place", value=show(name), valid=valid)
    known = [str(draft.written("name")) for draft in places]
    place = next((draft for draft in places if draft.written("name") == name), None)
    if place is None:
        valid = did_you_mean(name, known) if known else "there are none; add hpc_places"
        yield Problem(profile.name, "is not a place of hpc_places", field="place", value=show(name), valid=valid)
        return
    is_host = place.kind is not None and issubclass(place.kind, HostPlace)
    yield from _compare_fields(profile, name, is_host=is_host)
    yield from _compare_limits(profile, place)
    yield from _compare_image(profile, place)


def _compare_fields(profile: Draft, place: str, *, is_host: bool) -> Iterator[Problem]:
    """Find fields that only a batch scheduler understands, and choices that only a cluster provides."""
    message = f"has no meaning in the place {show(place)}, which has no batch scheduler"
    alone = f"is not possible in the place {show(place)}, where a session has one node"
    nodes = profile.get("nodes") or 1
    if nodes > 1:
        valid = "remove it, or use a cluster with a batch scheduler"
        yield Problem(profile.name, alone, field="nodes", value=str(nodes), valid=valid)
    for field in OF_CLUSTERS:
        # The options of a host are those of its units; see hpchub.model.rules.
        if profile.written(field) not in (None, "", []) and not (is_host and field == "options"):
            yield Problem(profile.name, message, field=field, valid="remove it")
    adjustable = profile.get("adjustable")
    if not isinstance(adjustable, Adjustable):
        return
    if adjustable.nodes:
        yield Problem(
            profile.name, alone, field=adjustable.nodes.field_of_most("nodes"), valid="remove adjustable.nodes"
        )
    for field in (*OF_CLUSTERS, "gpu_type"):
        if field != "options" and adjustable.get(field):
            yield Problem(profile.name, message, field=f"adjustable.{field}", valid="remove it")
    if adjustable.kernel and not adjustable.kernel.choices and not is_host:
        valid = "add choices with the names of the image's kernels"
        yield Problem(profile.name, "has no choices", field="adjustable.kernel", valid=valid)


def _compare_limits(profile: Draft, place: Draft) -> Iterator[Problem]:
    where = f"place {show(place.written('name'))}"
    adjustable = profile.get("adjustable")
    for name, limit, size in LIMITS:
        asked, most = profile.get(name), place.get(limit)
        if asked is None or most is None:
            continue
        valid = f"request at most {most}, or raise {limit} of the place"
        if name == "gpus" and not f.gpus_of(most):
            valid = f"{where} has no GPUs; remove gpus, or set max_gpus of the place"
        message = f"is above {limit} {show(most)} of {where}"
        if size(asked) > size(most):
            yield Problem(profile.name, message, field=name, value=show(asked), valid=valid)
        limits = adjustable.get(name) if isinstance(adjustable, Adjustable) else None
        if isinstance(limits, Amount) and limits.most > size(most):
            value = max(limits.choices, key=type(limits).measure) if limits.choices else limits.max
            field = limits.field_of_most(name)
            yield Problem(profile.name, message, field=field, value=show(value), valid=valid)


def _compare_image(profile: Draft, place: Draft) -> Iterator[Problem]:
    image = profile.get("image")
    if not image or place.kind is None:
        return
    if not issubclass(place.kind, ContainerPlace):
        yield Problem(profile.name, "has no meaning in this place", field="image", valid="remove it")
        return
    known = [str(each.written("name")) for each in place.items("images", Image)]
    if image not in known:
        message = f"is not an image of place {show(place.written('name'))}"
        valid = did_you_mean(image, known) if known else f"valid: {listing(known)}"
        yield Problem(profile.name, message, field="image", value=show(image), valid=valid)
