"""The limits that schedulers report for their queues, compared with the inventory. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpchub.gpus import gpu_type
from hpchub.messages import did_you_mean, listing, show
from hpchub.model.problems import Problem, label
from hpchub.schedulers import ANY_QUEUE, SCHEDULERS, QueueLimits, QueueRules, Unanswered
from hpchub.schedulers.options import QOS
from hpchub.units import format_memory, format_runtime, mebibytes, parse_size, parse_whole, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hpchub.model.entries import Cluster, Profile, Queue
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
            problems += _compare_queue_types(name, queue, limits)
            problems += _compare_state(name, limits)
            warnings += _restrictions(name, limits)
        for k, profile in enumerate(site.profiles):
            if profile.cluster == cluster.name:
                entry_of_profile = f"hpc_profiles[{k}]{label({'key': profile.key})}"
                problems += _compare_profile(entry_of_profile, profile, given, cluster)
                warnings += _uncertain_rules(entry_of_profile, profile, given)
    return problems, warnings


def _limits_of(profile: Profile, given: Mapping[str, QueueLimits]) -> QueueLimits | None:
    """Return the limits for a profile: those of its queue, with those of its quality of service."""
    limits = given.get(profile.queue) or given.get(ANY_QUEUE)
    return limits.with_qos.get(_qos(profile), limits) if limits else None


def _compare_queue(entry: str, queue: Queue, limits: QueueLimits) -> Iterator[Problem]:
    """Yield the limits of a queue's entry that are higher than the scheduler's."""
    for name, size, most, words in (
        ("max_cores", queue.max_cores, limits.cores, str),
        ("max_memory", mebibytes(queue.max_memory), limits.memory, format_memory),
        ("max_runtime", seconds(queue.max_runtime), limits.runtime, format_runtime),
        ("max_gpus", queue.max_gpus, limits.gpus, str),
        ("max_nodes", queue.max_nodes, limits.rules.max_nodes or None, str),
    ):
        if most is not None and size > most:
            yield Problem(
                entry,
                f"is above the scheduler's limit ({show(words(most)) if words is not str else most})",
                field=name,
                value=show(getattr(queue, name)),
                valid="lower it, or raise the scheduler's limit",
            )


def _compare_queue_types(entry: str, queue: Queue, limits: QueueLimits) -> Iterator[Problem]:
    """Yield the types of GPUs of a queue's entry that the scheduler's queue does not have."""
    for kind, number in getattr(queue.max_gpus, "types", {}).items():
        if limits.gpu_types is not None and limits.gpu_types.get(kind, 0) < number:
            yield Problem(
                entry,
                f"is above what a node of the queue has ({_types(limits.gpu_types)})",
                field="max_gpus",
                value=f"{number} of type {show(kind)}",
                valid="lower it, or correct the type",
            )


def _compare_profile(
    entry: str, profile: Profile, given: Mapping[str, QueueLimits], cluster: Cluster
) -> Iterator[Problem]:
    """Yield the reasons why a profile could never start."""
    limits, queue = _limits_of(profile, given), f"queue {show(profile.queue)}"
    if limits is None:
        yield Problem(
            entry,
            "is not a queue of the cluster's scheduler, so the profile could never start",
            field="queue",
            value=show(profile.queue),
            valid=did_you_mean(profile.queue, list(given)) if given else "it has no queues",
        )
        return
    yield from _compare_rules(entry, profile, limits)
    yield from _compare_resources(entry, profile, limits, cluster)
    environment = cluster.grid_engine.parallel_environment
    if profile.nodes > 1:
        environment = cluster.grid_engine.nodes_environment.replace("{cores}", str(profile.cores))
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
            yield _excess(entry, name, show(getattr(profile, name)), f"{excess} ({limit})", words(most))
    if limits.environments is not None and profile.nodes * profile.cores > 1 and environment not in limits.environments:
        has, several = listing(limits.environments) or "none", "several nodes" if profile.nodes > 1 else "several cores"
        yield Problem(
            entry,
            f"could never start: {several} need the parallel environment {show(environment)}, which {queue} lacks",
            valid=f"add it to the queue's pe_list, or set another one in grid_engine; the queue has {has}",
        )
    request, kind = (profile.cores, profile.memory_mib, int(profile.gpus)), gpu_type(profile.gpus)
    if kind and not found and limits.gpu_types is not None and limits.gpu_types.get(kind, 0) < profile.gpus:
        yield Problem(
            entry,
            f"could never start: no node of {queue} has {int(profile.gpus)} GPUs of type {show(kind)}",
            field="gpus",
            value=_gpus(profile.gpus),
            valid=f"its nodes have at most {_types(limits.gpu_types)}",
        )
        return
    types = limits.node_gpus or ({kind: profile.gpus},) * len(limits.nodes)
    fits = any(
        _fits(request, node) and (not kind or of_type.get(kind, 0) >= profile.gpus)
        for node, of_type in zip(limits.nodes, types, strict=True)
    )
    if limits.nodes and not found and not fits:
        yield Problem(
            entry,
            f"could never start: no node of {queue} has {_size(request)}{f' of type {kind}' if kind else ''}",
            valid=f"its nodes have {listing(map(_size, limits.nodes), 10)}",
        )


def _compare_state(entry: str, limits: QueueLimits) -> Iterator[Problem]:
    """Yield that a queue is closed. No session of its profiles starts until somebody opens it."""
    if not limits.open:
        why = f" ({limits.rules.closed})" if limits.rules.closed else ""
        valid = "open the queue, or set enabled: false for it until it is open again"
        yield Problem(entry, f"does not accept or start jobs at present{why}", valid=valid)


def _restrictions(entry: str, limits: QueueLimits) -> Iterator[Problem]:
    """Yield who may use a queue, as far as only some users may."""
    rules = limits.rules
    for what, names in (("users", rules.users), ("groups", rules.groups)):
        if names is not None:
            yield Problem(entry, f"permits only the {what} {listing(names) or 'none'}, so jobs of others never start")
    if rules.hosts is not None:
        valid = "check that the submit host is one of them"
        yield Problem(entry, f"accepts jobs only from the hosts {listing(rules.hosts) or 'none'}", valid=valid)
    if rules.projects is not None:
        yield Problem(entry, f"permits only the projects {listing(rules.projects)}, so jobs of others never start")
    if rules.denied_projects:
        yield Problem(entry, f"permits no jobs of the projects {listing(rules.denied_projects)}")
    if rules.times:
        yield Problem(entry, f"starts jobs only at certain times ({rules.times}), so users may wait for hours")
    if rules.denied:
        yield Problem(entry, f"permits no jobs of {listing(rules.denied)}")


def _compare_rules(entry: str, profile: Profile, limits: QueueLimits) -> Iterator[Problem]:
    """Yield the rules of a queue that prevent every start of a profile."""
    rules, queue = limits.rules, f"queue {show(limits.name)}"
    if rules.never:
        yield Problem(entry, f"could never start in {queue}: {rules.never}", valid="choose another queue")
    yield from _compare_nodes(entry, profile, limits, queue)
    if rules.needs_reservation and not profile.reservation:
        yield Problem(entry, f"could never start: {queue} needs a reservation", valid="set reservation")
    account, permitted = profile.account, rules.accounts
    if account and (account in rules.denied_accounts or (permitted is not None and account not in permitted)):
        yield Problem(
            entry,
            f"may not use {queue}, so the profile could never start",
            field="account",
            value=show(account),
            valid=f"use one of {listing(permitted)}" if permitted else "use another account, or another queue",
        )
    qos = _qos(profile)
    field, value = ("qos", profile.qos) if profile.qos else ("options", _option(profile, rf"({QOS.pattern})"))
    message = f"may not use {queue}, so the profile could never start"
    if qos and (qos in rules.denied_qos or (rules.qos is not None and qos not in rules.qos)):
        valid = f"use one of {listing(rules.qos)}" if rules.qos else "use another quality of service, or another queue"
        yield Problem(entry, message, field=field, value=show(value), valid=valid)
    elif qos and limits.with_qos and qos not in limits.with_qos:
        unknown = "is not a quality of service of the cluster, so the profile could never start"
        valid = did_you_mean(qos, list(limits.with_qos))
        yield Problem(entry, unknown, field=field, value=show(value), valid=valid)
    project = _option(profile, r"-P (\S+)")
    if project and (project in rules.denied_projects or (rules.projects and project not in rules.projects)):
        valid = f"use one of {listing(rules.projects)}" if rules.projects else "use another project, or another queue"
        yield Problem(entry, message, field="options", value=show(f"-P {project}"), valid=valid)
    for name, requested, words in (
        ("cores", profile.cores, str),
        ("memory", profile.memory_mib, format_memory),
        ("runtime", profile.runtime_seconds, format_runtime),
        ("gpus", int(profile.gpus), str),
    ):
        if requested * (1 if name == "runtime" else profile.nodes) < limits.least.get(name, 0):
            yield Problem(
                entry,
                f"is below the minimum of {queue}, so the profile could never start",
                field=name,
                value=_gpus(profile.gpus) if name == "gpus" else show(getattr(profile, name)),
                valid=f"request at least {words(limits.least[name])}",
            )


def _compare_nodes(entry: str, profile: Profile, limits: QueueLimits, queue: str) -> Iterator[Problem]:
    """Compare the nodes of a profile, and what they have together, with the limits of the queue."""
    rules = limits.rules
    if profile.nodes < rules.min_nodes:
        why = f"could never start in {queue}: its jobs need at least {rules.min_nodes} nodes"
        yield Problem(entry, why, field="nodes", value=str(profile.nodes), valid="choose another queue, or raise nodes")
    elif rules.max_nodes and profile.nodes > rules.max_nodes:
        bound = f"above the limit of {queue} ({rules.max_nodes})"
        yield _excess(entry, "nodes", str(profile.nodes), bound, str(rules.max_nodes))
    for name, requested, words in (
        ("cores", profile.cores, str),
        ("memory", profile.memory_mib, format_memory),
        ("gpus", int(profile.gpus), str),
    ):
        most = limits.of_job.get(name)
        if most is not None and requested <= most < profile.nodes * requested:
            total = f"{profile.nodes} nodes with {words(requested)} each have together"
            why = f"could never start: {total} more than a job of {queue} may have ({words(most)})"
            yield Problem(entry, why, field=name, value=words(requested), valid="choose another queue, or lower nodes")


def _uncertain_rules(entry: str, profile: Profile, given: Mapping[str, QueueLimits]) -> Iterator[Problem]:
    """Yield the rules of a queue that depend on what the profile leaves to the scheduler."""
    limits, queue = given.get(profile.queue) or given.get(ANY_QUEUE), f"queue {show(profile.queue)}"
    rules = limits.rules if limits else QueueRules()
    if rules.accounts is not None and not profile.account:
        valid = "set account, unless the default account of each user is one of them"
        yield Problem(entry, f"{queue} permits only the accounts {listing(rules.accounts)}", valid=valid)
    if rules.denied_accounts and not profile.account:
        valid = "set account, unless no user has such a default account"
        yield Problem(entry, f"{queue} does not permit the accounts {listing(rules.denied_accounts)}", valid=valid)
    if rules.denied_qos and not _qos(profile):
        valid = "set qos, unless no user has such a default"
        yield Problem(
            entry, f"{queue} does not permit the qualities of service {listing(rules.denied_qos)}", valid=valid
        )
    if rules.qos is not None and not _qos(profile):
        valid = "set qos, unless the default of each user is one of them"
        yield Problem(entry, f"{queue} permits only the qualities of service {listing(rules.qos)}", valid=valid)


def _qos(profile: Profile) -> str:
    """Return the quality of service of a profile, or of its options, or an empty text."""
    return profile.qos or _option(profile, QOS)


def _option(profile: Profile, pattern: str | re.Pattern[str]) -> str:
    """Return the first group of a pattern that matches one of the profile's options, or an empty text."""
    found = [re.fullmatch(pattern, option) for option in profile.options]
    return next((match[1] for match in found if match), "")


def _compare_resources(entry: str, profile: Profile, limits: QueueLimits, cluster: Cluster) -> Iterator[Problem]:
    """Compare a profile with the amounts of the resources that Grid Engine requests for it."""
    names, queue = cluster.grid_engine, f"queue {show(limits.name)}"
    share = -(-profile.memory_mib // profile.cores)
    per_slot = parse_size(limits.per_slot.get(names.memory_resource, ""))
    total = parse_size(limits.consumables.get(names.memory_resource, ""))
    gpus = parse_whole(limits.consumables.get(names.gpu_resource, ""))
    if per_slot is not None and share > per_slot:
        bound = f"above the limit of {queue} ({format_memory(per_slot)} per core)"
        yield _excess(entry, "memory", show(profile.memory), bound, format_memory(per_slot * profile.cores))
    elif total is not None and profile.memory_mib > total:
        bound = f"more than any node of {queue} has ({format_memory(total)})"
        yield _excess(entry, "memory", show(profile.memory), bound, format_memory(total))
    if gpus is not None and profile.gpus > gpus:
        yield _excess(entry, "gpus", _gpus(profile.gpus), f"more than any node of {queue} has ({gpus})", str(gpus))


def _excess(entry: str, field: str, value: str, bound: str, most: str) -> Problem:
    """Return the problem of a profile that requests too much of a resource.

    Args:
        entry: The profile's entry.
        field: The field of the resource.
        value: The request.
        bound: What the request exceeds, as the rest of "is ...".
        most: The largest request that is possible.
    """
    message = f"is {bound}, so the profile could never start"
    valid = "choose another queue" if most in ("0", "0M") else f"request at most {most}"
    return Problem(entry, message, field=field, value=value, valid=valid)


def _types(numbers: Mapping[str, int]) -> str:
    """Return numbers of GPUs by type, for messages."""
    return listing(f"{number} of type {name}" for name, number in numbers.items()) or "no types"


def _gpus(gpus: int) -> str:
    """Return a number of GPUs with its type, for messages."""
    kind = gpu_type(gpus)
    return f"{int(gpus)} of type {show(kind)}" if kind else str(int(gpus))


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
