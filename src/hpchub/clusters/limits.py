"""The limits that schedulers report for their queues, compared with the inventory. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpchub.messages import did_you_mean, listing, show
from hpchub.model.problems import Problem, label
from hpchub.schedulers import ANY_QUEUE, SCHEDULERS, QueueLimits, Unanswered
from hpchub.units import format_memory, format_runtime, mebibytes, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hpchub.model.entries import Profile, Queue
    from hpchub.model.profile_list import ProfileList


@dataclass(frozen=True)
class LimitsReport:
    """A scheduler's answer to the query for its limits.

    Attributes:
        queues: The limits of its queues.
        hidden: What hides jobs from the hub, and what to do; see ``Scheduler.parse_privacy``.
        unanswered: The reason if there was no answer, otherwise empty.
    """

    queues: Sequence[QueueLimits] = ()
    hidden: tuple[str, str] | None = None
    unanswered: str = ""


def parse_report(scheduler: str, stdout: str) -> LimitsReport:
    """Parse the output of a scheduler's limits commands."""
    parser = SCHEDULERS[scheduler]
    hidden = None
    try:
        hidden = parser.parse_privacy(stdout)
        return LimitsReport(parser.parse_limits(stdout), hidden)
    except Unanswered as error:
        return LimitsReport(hidden=hidden, unanswered=str(error))


def compare(site: ProfileList, reports: Mapping[str, LimitsReport]) -> tuple[list[Problem], list[Problem]]:
    """Compare an inventory with the limits of its schedulers. Return the problems and the warnings.

    Args:
        site: The inventory's clusters and profiles.
        reports: The reports by cluster name. A cluster without a report is not compared.
    """
    problems: list[Problem] = []
    warnings: list[Problem] = []
    for i, cluster in enumerate(site.clusters):
        entry = f"hpc_clusters[{i}]{label({'name': cluster.name})}"
        report = reports.get(cluster.name, LimitsReport())
        if report.hidden:
            problems.append(Problem(entry, report.hidden[0], valid=report.hidden[1]))
        if cluster.name not in reports or report.unanswered:
            continue
        given = {limits.name: limits for limits in report.queues}
        environment = cluster.grid_engine.parallel_environment
        for j, queue in enumerate(cluster.queues):
            if not queue.enabled:
                continue
            name = f"{entry} queues[{j}]{label({'name': queue.name})}"
            limits = given.get(queue.name) or given.get(ANY_QUEUE)
            if limits is None:
                valid = did_you_mean(queue.name, list(given)) if given else "it has no queues"
                message = f"is not a queue of the cluster's scheduler, {cluster.scheduler}"
                problems.append(Problem(name, message, field="name", value=show(queue.name), valid=valid))
                continue
            problems += _compare_queue(name, queue, limits)
            if not limits.open:
                warnings.append(Problem(name, "does not accept or start jobs at present"))
        for k, profile in enumerate(site.profiles):
            if profile.cluster == cluster.name:
                entry_of_profile = f"hpc_profiles[{k}]{label({'key': profile.key})}"
                problems += _compare_profile(entry_of_profile, profile, given, environment)
    return problems, warnings


def _compare_queue(entry: str, queue: Queue, limits: QueueLimits) -> Iterator[Problem]:
    """Yield the limits of a queue's entry that are higher than the scheduler's."""
    for name, size, most, words in (
        ("max_cores", queue.max_cores, limits.cores, str),
        ("max_memory", mebibytes(queue.max_memory), limits.memory, format_memory),
        ("max_runtime", seconds(queue.max_runtime), limits.runtime, format_runtime),
        ("max_gpus", queue.max_gpus, limits.gpus, str),
    ):
        if most is not None and size > most:
            yield Problem(
                entry,
                f"is above the scheduler's limit ({show(words(most)) if words is not str else most})",
                field=name,
                value=show(getattr(queue, name)),
                valid="lower it, or raise the scheduler's limit",
            )


def _compare_profile(
    entry: str, profile: Profile, given: Mapping[str, QueueLimits], environment: str
) -> Iterator[Problem]:
    """Yield the reasons why a profile could never start."""
    limits, queue = given.get(profile.queue) or given.get(ANY_QUEUE), f"queue {show(profile.queue)}"
    if limits is None:
        yield Problem(
            entry,
            "is not a queue of the cluster's scheduler, so the profile could never start",
            field="queue",
            value=show(profile.queue),
            valid=did_you_mean(profile.queue, list(given)) if given else "it has no queues",
        )
        return
    found = False
    for name, requested, most, words in (
        ("cores", profile.cores, limits.cores, str),
        ("memory", profile.memory_mib, limits.memory, format_memory),
        ("runtime", profile.runtime_seconds, limits.runtime, format_runtime),
        ("gpus", profile.gpus, limits.gpus, str),
    ):
        if most is not None and requested > most:
            found = True
            limit = show(words(most)) if words is not str else most
            excess = f"above the limit of {queue}" if name == "runtime" else f"more than any node of {queue} has"
            yield Problem(
                entry,
                f"is {excess} ({limit}), so the profile could never start",
                field=name,
                value=show(getattr(profile, name)),
                valid=f"request at most {words(most)}",
            )
    if limits.environments is not None and profile.cores > 1 and environment not in limits.environments:
        has = listing(limits.environments) or "none"
        yield Problem(
            entry,
            f"could never start: several cores need the parallel environment {show(environment)}, which {queue} lacks",
            valid=f"add it to the queue's pe_list, or set another one in grid_engine; the queue has {has}",
        )
    request = (profile.cores, profile.memory_mib, profile.gpus)
    if limits.nodes and not found and not any(_fits(request, node) for node in limits.nodes):
        yield Problem(
            entry,
            f"could never start: no node of {queue} has {_size(request)}",
            valid=f"its nodes have {listing(map(_size, limits.nodes), 10)}",
        )


def _fits(request: tuple[int, int, int], node: tuple[int, int, int]) -> bool:
    return all(needed <= available for needed, available in zip(request, node, strict=True))


def _size(node: tuple[int, int, int]) -> str:
    cores, mebibytes, gpus = node
    parts = [
        f"{cores} core{'s' if cores > 1 else ''}",
        format_memory(mebibytes),
        f"{gpus} GPU{'s' if gpus > 1 else ''}",
    ]
    return " and ".join(parts if gpus else parts[:2])
