"""Drafts of inventory entries for the queues of a scheduler. No I/O."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import yaml

from hpchub.messages import listing, show
from hpchub.model.entries import Cluster, GridEngineSite
from hpchub.names import QUEUE_NAME
from hpchub.schedulers import ANY_QUEUE, QueueLimits, QueueRules
from hpchub.units import format_memory, format_runtime

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_DAY = 86400
_MOST = {"cores": 100_000, "memory": 999_999_999, "runtime": 999 * _DAY, "gpus": 10_000}


def draft(cluster: Mapping[str, Any], queues: Sequence[QueueLimits]) -> tuple[dict[str, Any], list[str]]:
    """Return inventory entries for a scheduler's queues, and remarks about omissions and guesses.

    Args:
        cluster: The cluster's entry, as far as it is written.
        queues: The limits of the scheduler's queues.

    Returns:
        ``{"hpc_clusters": [CLUSTER], "hpc_profiles": [PROFILE, …]}``, and remarks of one line each. A queue gets two
        profiles if two sizes make sense.
    """
    entries, profiles, remarks = [], [], []
    site = cluster.get("grid_engine")
    environment = (site if isinstance(site, dict) else {}).get(
        "parallel_environment", GridEngineSite().parallel_environment
    )
    for limits in queues:
        if limits.name == ANY_QUEUE:
            remarks.append(f"{cluster['scheduler']} has no queues; the name here is only an example")
            limits = replace(limits, name="default")  # noqa: PLW2901
        where = f"queue {show(limits.name)}"
        if omission := _omission(limits):
            remarks.append(f"{where} is omitted, because {omission}")
            continue
        remarks += [f"{where} {remark}" for remark in _remarks(limits.rules)]
        if limits.environments is not None and environment not in limits.environments:
            has = listing(limits.environments) or "none"
            remarks.append(
                f"{where} has no parallel environment {show(environment)}, so its jobs get one core; it has {has}"
            )
            limits = replace(limits, cores=1)  # noqa: PLW2901
        missing = [name for name in ("cores", "memory", "runtime") if getattr(limits, name) is None]
        if missing:
            remarks.append(f"{where}: the scheduler has no limit for {listing(missing)}; the values here are guesses")
        most = {
            "cores": limits.cores or 1,
            "memory": limits.memory or 4096,
            "runtime": limits.runtime or _DAY,
            "gpus": limits.gpus or 0,
        }
        most = {name: min(value, _MOST[name]) for name, value in most.items()}
        sizes = _words(most) | _typed_gpus(limits, most["gpus"])
        entries.append({"name": limits.name, **{f"max_{name}": words for name, words in sizes.items()}})
        profiles += _draft_profiles(str(cluster["name"]), limits, most)
    keys: set[str] = set()
    for profile in profiles:
        # Keys can collide, because they are in lower case and have a limited length.
        key = profile["key"]
        others = (f"{key}-{number}" for number in itertools.count(2))
        profile["key"] = next(each for each in itertools.chain([key], others) if each not in keys)
        keys.add(profile["key"])
    described = {**cluster, "queues": entries}
    # Use the model's order of fields. Unknown fields stay for the author to fix.
    order = [*(name for name in Cluster.model_fields if name in described), *described]
    return {
        "hpc_clusters": [{name: described[name] for name in order}],
        "hpc_profiles": profiles,
    }, remarks


def _omission(limits: QueueLimits) -> str:
    """Return why the draft omits a queue, or an empty text."""
    if not re.fullmatch(QUEUE_NAME, limits.name):
        return "the inventory does not support its name"
    if not limits.open:
        return "it does not accept or start jobs at present"
    if limits.rules.min_nodes > 1:
        return f"its jobs need at least {limits.rules.min_nodes} nodes"
    return limits.rules.never or ("its jobs need a reservation" if limits.rules.needs_reservation else "")


def _typed_gpus(limits: QueueLimits, gpus: int) -> dict[str, Any]:
    """Return the types of a queue's GPUs in the inventory's notation, if all its GPUs have types."""
    counts = {kind: min(count, _MOST["gpus"]) for kind, count in (limits.gpu_types or {}).items() if count}
    if not counts or max(counts.values()) < gpus:
        return {}
    types = [{"type": kind, "count": count} for kind, count in counts.items()]
    return {"gpus": types[0] if len(types) == 1 else types}


def _remarks(rules: QueueRules) -> list[str]:
    """Return what a queue requires of its users and jobs."""
    found = [
        ("permits only the accounts", rules.accounts),
        ("does not permit the accounts", rules.denied_accounts or None),
        ("permits only the users", rules.users),
        ("permits only the groups", rules.groups),
        ("permits no jobs of", rules.denied or None),
        ("permits only the qualities of service", rules.qos),
        ("does not permit the qualities of service", rules.denied_qos or None),
        ("permits only the projects", rules.projects),
        ("permits no jobs of the projects", rules.denied_projects or None),
        ("starts jobs only at certain times:", (rules.times,) if rules.times else None),
    ]
    return [f"{words} {listing(names)}" for words, names in found if names is not None]


def _draft_profiles(cluster: str, limits: QueueLimits, most: dict[str, int]) -> list[dict[str, Any]]:
    """Return a small profile, and a profile with a GPU or a large part of a node."""
    # Use the largest kind of node, because a job must fit on a single node.
    node = max(limits.nodes, key=lambda size: (size[2], size[0], size[1]), default=None)
    cores, memory_mib, gpus = node or (most["cores"], most["memory"], most["gpus"])
    small = {"cores": 1, "memory": min(2048, memory_mib), "runtime": min(2 * 3600, most["runtime"]), "gpus": 0}
    large = {
        "cores": max(1, cores // max(4, gpus)),
        "memory": max(1, memory_mib // max(4, gpus)),
        "runtime": min(8 * 3600, most["runtime"]),
        "gpus": min(1, gpus),
    }
    drafts: list[dict[str, Any]] = []
    for word, size in (("small", small), ("gpu" if gpus else "large", large)):
        if drafts and size == small:
            continue
        if size["memory"] > 1024:
            size["memory"] -= size["memory"] % 1024
        words = _words(size)
        parts = [f"{size['cores']} core{'s' if size['cores'] > 1 else ''}", words["memory"]]
        parts += ["1 GPU"] * size["gpus"]
        hours, rest = divmod(size["runtime"], 3600)
        parts.append(words["runtime"] if rest else f"{hours} hour{'s' if hours > 1 else ''}")
        drafts.append(
            {
                "key": re.sub(r"[^a-z0-9_-]", "-", f"{cluster}-{limits.name}-{word}".lower())[:60],
                "display_name": f"{limits.name} {word}: {', '.join(parts)}",
                "cluster": cluster,
                "queue": limits.name,
                **words,
            }
        )
    return drafts


def _words(size: Mapping[str, int]) -> dict[str, Any]:
    """Return resources in the inventory's notation. A number of GPUs of zero is omitted."""
    words = {
        "cores": size["cores"],
        "memory": format_memory(size["memory"]),
        "runtime": format_runtime(size["runtime"]),
    }
    return {**words, "gpus": size["gpus"]} if size["gpus"] else words


class _Dumper(yaml.SafeDumper):
    """A YAML dumper that indents lists, as yamllint requires."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent always."""
        super().increase_indent(flow, False)


def to_yaml(entries: Mapping[str, Any]) -> str:
    """Return entries as YAML to paste into an inventory: one line per queue, one block per profile."""
    parts = [
        yaml.dump({name: value}, Dumper=_Dumper, default_flow_style=style, sort_keys=False, width=110)
        for (name, value), style in zip(entries.items(), (None, False), strict=True)
    ]
    return "\n".join(parts)
