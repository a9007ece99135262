"""Rules for the users of a profile, and for the fields that they may change. No I/O.

The rules work on drafts; see :mod:`hpchub.model.rules`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hpchub.gpus import gpu_type
from hpchub.messages import show
from hpchub.model import fields as f
from hpchub.model.adjustable import Adjustable, Amount, Word
from hpchub.model.entries import Cluster, Queue
from hpchub.model.problems import Problem
from hpchub.model.rules import DEFAULT_SETTINGS, Draft, advice_above_limit, kernel_names, unknown_reference
from hpchub.schedulers import SCHEDULERS
from hpchub.schedulers.options import QOS
from hpchub.units import mebibytes, seconds

if TYPE_CHECKING:
    from hpchub.schedulers import Scheduler


def compare_choices(drafts: Mapping[str, Sequence[Draft]]) -> Iterator[Problem]:
    """Compare what users may choose with the rest of a site, given by variable."""
    access = next(iter(drafts["hpc_access"]), None)
    for profile in drafts["hpc_profiles"]:
        yield from _compare_restriction(profile, access)
        adjustable = _adjustable(profile)
        yield from _compare_qos(profile, adjustable)
        if adjustable is None:
            continue
        for name in adjustable.names:
            yield from _compare_own_value(profile, name, adjustable.get(name))
        cluster = profile.get("cluster")
        if adjustable.kernel and cluster:
            known = kernel_names(drafts["hpc_kernels"], cluster)
            for each in adjustable.kernel.choices:
                if each not in known:
                    what = f"a kernel of cluster {show(cluster)}"
                    yield unknown_reference(profile, "adjustable.kernel.choices", each, what, known)
        for draft in drafts["hpc_clusters"]:
            if cluster and draft.written("name") == cluster:
                yield from _compare_queues(profile, adjustable, draft)
                if scheduler := draft.get("scheduler"):
                    yield from _compare_words(profile, adjustable, draft, SCHEDULERS[scheduler])


def _adjustable(profile: Draft) -> Adjustable | None:
    """Return the fields that users may change, or None if they have a mistake."""
    found = profile.get("adjustable")
    if isinstance(found, Mapping):  # the profile has a mistake elsewhere
        found = Adjustable.model_validate(found)
    return found if isinstance(found, Adjustable) else None


def _compare_own_value(profile: Draft, name: str, limits: Amount | Word | None) -> Iterator[Problem]:
    """Compare the profile's own value of a field with the limits of the field. It is the value without a choice."""
    own = _own_value(profile, name)
    if own is None or limits is None or limits.default is not None:
        return
    if isinstance(limits, Amount):
        if not limits.accepts(type(limits).measure(own)):
            valid = f"write {limits.valid}, or add default to adjustable.{name}"
            message = f"is outside of adjustable.{name}"
            yield Problem(profile.name, message, field=_own_field(name), value=show(own), valid=valid)
    elif own and limits.choices and own not in limits.choices:
        valid = f"add it to adjustable.{name}.choices, or add default to adjustable.{name}"
        message = f"is not one of adjustable.{name}.choices"
        yield Problem(profile.name, message, field=_own_field(name), value=show(own), valid=valid)


def _own_field(name: str) -> str:
    return {"kernel": "default_kernel", "gpu_type": "gpus"}.get(name, name)


def _own_value(profile: Draft, name: str) -> Any:
    """Return the profile's own value of an adjustable field, or None if it has a problem."""
    value = profile.get(_own_field(name))
    if name == "gpu_type":
        return gpu_type(f.gpus_of(value))
    return int(f.gpus_of(value)) if name == "gpus" else value


def _compare_queues(profile: Draft, adjustable: Adjustable, cluster: Draft) -> Iterator[Problem]:
    """Compare the queues that users may choose with those of the cluster, and the largest amounts with their limits."""
    queues = {str(draft.written("name")): draft for draft in cluster.items("queues", Queue)}
    names = [str(profile.get("queue"))]
    if adjustable.queue:
        names = adjustable.queue.choices
        for each in names:
            if each not in queues:
                where = f"a queue of cluster {show(cluster.written('name'))}"
                yield unknown_reference(profile, "adjustable.queue.choices", each, where, list(queues))
    for name, limit, size in (
        ("nodes", "max_nodes", int),
        ("cores", "max_cores", int),
        ("memory", "max_memory", mebibytes),
        ("runtime", "max_runtime", seconds),
        ("gpus", "max_gpus", f.gpus_of),
    ):
        limits = adjustable.get(name)
        known = [value for each in names if each in queues and (value := queues[each].get(limit)) is not None]
        if not isinstance(limits, Amount) or not known:
            continue
        most = max(known, key=size)
        if limits.most > size(most):
            value = max(limits.choices, key=type(limits).measure) if limits.choices else limits.max
            message = (
                f"is above {limit} {show(most)} of {'its queues' if len(names) > 1 else f'queue {show(names[0])}'}"
            )
            field = limits.field_of_most(name)
            valid = advice_above_limit(name, most, limit, names[0])
            yield Problem(profile.name, message, field=field, value=show(value), valid=valid)


def _compare_words(profile: Draft, adjustable: Adjustable, cluster: Draft, scheduler: Scheduler) -> Iterator[Problem]:
    """Check the choices in the scheduler's own syntax."""
    settings = cluster.value if isinstance(cluster.value, Cluster) else DEFAULT_SETTINGS
    for name, check in (
        ("node_constraint", scheduler.constraint_problem),
        ("gpu_type", scheduler.gpu_type_problem),
        ("reservation", scheduler.reservation_problem),
    ):
        if not (limits := adjustable.get(name)):
            continue
        for part, values in (("choices", limits.choices), ("default", [limits.default])):
            for each in map(str, filter(None, values)):
                if found := check(each, settings):
                    field = f"adjustable.{name}.{part}"
                    yield Problem(profile.name, found[0], field=field, value=show(each), valid=found[1])


def _compare_restriction(profile: Draft, access: Draft | None) -> Iterator[Problem]:
    """Find a restriction to Unix groups on a hub host that does not know the users' accounts."""
    if profile.get("unix_groups") and access is not None and access.get("hub_accounts") is False:
        message = "needs the users' accounts on the hub host, but hpc_access.hub_accounts is false"
        valid = "use groups of the identity provider in groups, or set hub_accounts to true"
        yield Problem(profile.name, message, field="unix_groups", valid=valid)
    blocked = access.get("blocked_users") or [] if access else []
    for user in profile.get("users") or []:
        if user in blocked:
            message = "is in hpc_access.blocked_users"
            yield Problem(profile.name, message, field="users", value=show(user), valid="leave one of them out")


def _compare_qos(profile: Draft, adjustable: Adjustable | None) -> Iterator[Problem]:
    """Find a quality of service in the options of a profile that sets it in its field too. The option would win."""
    field = "qos" if profile.get("qos") else "adjustable.qos"
    if not profile.get("qos") and not (adjustable and adjustable.qos):
        return
    for option in profile.get("options") or []:
        if QOS.fullmatch(option):
            yield Problem(
                profile.name, f"repeats the field {field}", field="options", value=show(option), valid="remove one"
            )
