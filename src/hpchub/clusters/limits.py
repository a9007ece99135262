"""What the schedulers say of their queues: compared with the inventory, and as a draft of its entries. No I/O."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import yaml

from hpchub.messages import did_you_mean, listing, show
from hpchub.model.entries import Cluster, GridEngineSite
from hpchub.model.problems import Problem, label
from hpchub.names import QUEUE_NAME
from hpchub.schedulers import ANY_QUEUE, SCHEDULERS, QueueLimits, Unanswered
from hpchub.units import format_memory, format_runtime, mebibytes, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hpchub.model.entries import Profile, Queue
    from hpchub.model.profile_list import ProfileList


@dataclass(frozen=True)
class Told:
    """What a cluster's scheduler told.

    Attributes:
        queues: its queues.
        hidden: see ``Scheduler.parse_privacy``.
        unanswered: why there are no queues, or empty.
    """

    queues: Sequence[QueueLimits] = ()
    hidden: tuple[str, str] | None = None
    unanswered: str = ""


def read(scheduler: str, stdout: str) -> Told:
    """Read the output of a scheduler's limits commands."""
    words = SCHEDULERS[scheduler]
    hidden = None
    try:
        hidden = words.parse_privacy(stdout)
        return Told(words.parse_limits(stdout), hidden)
    except Unanswered as error:
        return Told(hidden=hidden, unanswered=str(error))


def compare(site: ProfileList, told: Mapping[str, Told]) -> tuple[list[Problem], list[Problem]]:
    """What the inventory says and a scheduler does not give, and what is only to be known: problems, and warnings.

    Args:
        site: the inventory's clusters and profiles.
        told: what the scheduler of each cluster told, by the cluster's name. Those that are missing are not compared.
    """
    problems: list[Problem] = []
    warnings: list[Problem] = []
    for i, cluster in enumerate(site.clusters):
        entry = f"hpc_clusters[{i}]{label({'name': cluster.name})}"
        answer = told.get(cluster.name, Told())
        if answer.hidden:
            problems.append(Problem(entry, answer.hidden[0], valid=answer.hidden[1]))
        if cluster.name not in told or answer.unanswered:
            continue
        given = {limits.name: limits for limits in answer.queues}
        environment = cluster.grid_engine.parallel_environment
        for j, queue in enumerate(cluster.queues):
            name = f"{entry} queues[{j}]{label({'name': queue.name})}"
            limits = given.get(queue.name) or given.get(ANY_QUEUE)
            if limits is None:
                valid = did_you_mean(queue.name, list(given)) if given else "it has none"
                message = f"is not a queue of the cluster's {cluster.scheduler}"
                problems.append(Problem(name, message, field="name", value=show(queue.name), valid=valid))
                continue
            problems += _queue(name, queue, limits)
            if not limits.open:
                warnings.append(Problem(name, "takes or starts no jobs at present"))
        for k, profile in enumerate(site.profiles):
            if profile.cluster == cluster.name:
                problems += _profile(f"hpc_profiles[{k}]{label({'key': profile.key})}", profile, given, environment)
    return problems, warnings


def _queue(entry: str, queue: Queue, limits: QueueLimits) -> Iterator[Problem]:
    """A queue's entry against what the scheduler gives."""
    for name, size, most, words in (
        ("max_cores", queue.max_cores, limits.cores, str),
        ("max_memory", mebibytes(queue.max_memory), limits.memory, format_memory),
        ("max_runtime", seconds(queue.max_runtime), limits.runtime, format_runtime),
        ("max_gpus", queue.max_gpus, limits.gpus, str),
    ):
        if most is not None and size > most:
            yield Problem(
                entry,
                f"is more than the scheduler gives ({show(words(most)) if words is not str else most})",
                field=name,
                value=show(getattr(queue, name)),
                valid="lower it, or have the scheduler's limit raised",
            )


def _profile(entry: str, profile: Profile, given: Mapping[str, QueueLimits], environment: str) -> Iterator[Problem]:
    """A profile that could never start."""
    limits, queue = given.get(profile.queue) or given.get(ANY_QUEUE), f"queue {show(profile.queue)}"
    if limits is None:
        yield Problem(
            entry,
            "is not a queue of the cluster's scheduler: it could never start",
            field="queue",
            value=show(profile.queue),
            valid=did_you_mean(profile.queue, list(given)) if given else "it has none",
        )
        return
    found = False
    for name, asked, most, words in (
        ("cores", profile.cores, limits.cores, str),
        ("memory", profile.memory_mib, limits.memory, format_memory),
        ("runtime", profile.runtime_seconds, limits.runtime, format_runtime),
        ("gpus", profile.gpus, limits.gpus, str),
    ):
        if most is not None and asked > most:
            found = True
            where = f"{queue} gives" if name == "runtime" else f"a node of {queue} gives"
            yield Problem(
                entry,
                f"is more than {where} ({show(words(most)) if words is not str else most}): it could never start",
                field=name,
                value=show(getattr(profile, name)),
                valid=f"ask for at most {words(most)}",
            )
    if limits.environments is not None and profile.cores > 1 and environment not in limits.environments:
        has = listing(limits.environments) or "none"
        yield Problem(
            entry,
            f"could never start: {queue} has no parallel environment {show(environment)}, which several cores need",
            valid=f"add it to its pe_list, or write another into grid_engine: it has {has}",
        )
    asks = (profile.cores, profile.memory_mib, profile.gpus)
    if limits.nodes and not found and not any(all(a <= b for a, b in zip(asks, n, strict=True)) for n in limits.nodes):
        yield Problem(
            entry,
            f"could never start: no node of {queue} has {_size(asks)}",
            valid=f"its nodes have {listing(map(_size, limits.nodes), 10)}",
        )


def _size(node: tuple[int, int, int]) -> str:
    cores, mebibytes, gpus = node
    parts = [
        f"{cores} core{'s' if cores > 1 else ''}",
        format_memory(mebibytes),
        f"{gpus} GPU{'s' if gpus > 1 else ''}",
    ]
    return " and ".join(parts if gpus else parts[:2])


# Drafts

_DAY = 86400
_MOST = {"cores": 100_000, "memory": 999_999_999, "runtime": 999 * _DAY, "gpus": 10_000}


def draft(cluster: Mapping[str, Any], queues: Sequence[QueueLimits]) -> tuple[dict[str, Any], list[str]]:
    """Entries of the inventory for the queues that a scheduler has, and what was left out or guessed of them.

    Args:
        cluster: the cluster's entry as far as it is written.
        queues: what its scheduler told.

    Returns:
        ``{"hpc_clusters": [CLUSTER], "hpc_profiles": [PROFILE, …]}``, with two profiles for each queue that has room
        for two, and remarks, one a line.
    """
    entries, profiles, remarks = [], [], []
    site = cluster.get("grid_engine")
    environment = (site if isinstance(site, dict) else {}).get(
        "parallel_environment", GridEngineSite().parallel_environment
    )
    for limits in queues:
        if limits.name == ANY_QUEUE:
            remarks.append(f"{cluster['scheduler']} has no queues: what stands here is no name of its")
            limits = replace(limits, name="default")  # noqa: PLW2901
        where = f"queue {show(limits.name)}"
        if not re.fullmatch(QUEUE_NAME, limits.name):
            remarks.append(f"{where} is left out: its name is not one that the inventory takes")
            continue
        if not limits.open:
            remarks.append(f"{where} is left out: it takes or starts no jobs at present")
            continue
        if limits.environments is not None and environment not in limits.environments:
            has = listing(limits.environments) or "none"
            remarks.append(
                f"{where} has no parallel environment {show(environment)}, so jobs of one core; it has {has}"
            )
            limits = replace(limits, cores=1)  # noqa: PLW2901
        unsaid = [name for name in ("cores", "memory", "runtime") if getattr(limits, name) is None]
        if unsaid:
            remarks.append(f"{where}: the scheduler has no limit of {listing(unsaid)}; what stands here is a guess")
        most = {
            "cores": limits.cores or 1,
            "memory": limits.memory or 4096,
            "runtime": limits.runtime or _DAY,
            "gpus": limits.gpus or 0,
        }
        most = {name: min(value, _MOST[name]) for name, value in most.items()}
        entries.append({"name": limits.name, **{f"max_{name}": words for name, words in _words(most).items()}})
        profiles += _draft_profiles(str(cluster["name"]), limits, most)
    keys: set[str] = set()
    for profile in profiles:
        # Queues whose names differ by their capitals alone, or behind where a key ends.
        key = profile["key"]
        others = (f"{key}-{number}" for number in itertools.count(2))
        profile["key"] = next(each for each in itertools.chain([key], others) if each not in keys)
        keys.add(profile["key"])
    described = {**cluster, "queues": entries}
    # In the order in which the model has the fields; what it does not know is the writer's to mend.
    order = [*(name for name in Cluster.model_fields if name in described), *described]
    return {
        "hpc_clusters": [{name: described[name] for name in order}],
        "hpc_profiles": profiles,
    }, remarks


def _draft_profiles(cluster: str, limits: QueueLimits, most: dict[str, int]) -> list[dict[str, Any]]:
    """A small profile, and one that takes a GPU or a good part of a node."""
    # Of several kinds of nodes the one with most: what is asked of it has to fit on one of them.
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
        told = [f"{size['cores']} core{'s' if size['cores'] > 1 else ''}", words["memory"]]
        told += ["1 GPU"] * size["gpus"]
        hours, rest = divmod(size["runtime"], 3600)
        told.append(words["runtime"] if rest else f"{hours} hour{'s' if hours > 1 else ''}")
        drafts.append(
            {
                "key": re.sub(r"[^a-z0-9_-]", "-", f"{cluster}-{limits.name}-{word}".lower())[:60],
                "display_name": f"{limits.name} {word}: {', '.join(told)}",
                "cluster": cluster,
                "queue": limits.name,
                **words,
            }
        )
    return drafts


def _words(size: Mapping[str, int]) -> dict[str, Any]:
    """Resources as the inventory writes them; no GPUs are left out."""
    words = {
        "cores": size["cores"],
        "memory": format_memory(size["memory"]),
        "runtime": format_runtime(size["runtime"]),
    }
    return {**words, "gpus": size["gpus"]} if size["gpus"] else words


class _Dumper(yaml.SafeDumper):
    """Indents lists, as yamllint wants them."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Never without indentation."""
        super().increase_indent(flow, False)


def to_yaml(entries: Mapping[str, Any]) -> str:
    """Entries as they are pasted into an inventory: a queue is a line, a profile a block."""
    parts = [
        yaml.dump({name: value}, Dumper=_Dumper, default_flow_style=style, sort_keys=False, width=110)
        for (name, value), style in zip(entries.items(), (None, False), strict=True)
    ]
    return "\n".join(parts)
