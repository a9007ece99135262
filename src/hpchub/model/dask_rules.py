"""The rules of applications of the kind ``dask``: where they can be, and the size of their jobs. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpchub.messages import show
from hpchub.model.entries import Queue
from hpchub.model.problems import Problem
from hpchub.model.rules import advice_above_limit, unknown_reference
from hpchub.schedulers import SCHEDULERS
from hpchub.units import mebibytes, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hpchub.model.rules import Draft


def compare_dask(app: Draft, drafts: Mapping[str, Sequence[Draft]]) -> Iterator[Problem]:
    """Compare an application of the kind ``dask`` with the clusters and places that offer it, and with their queues."""
    only = app.get("clusters") or []
    for place in drafts["hpc_places"]:
        if (name := place.get("name")) in only:
            yield _no_scheduler(app, "clusters", name)
    for profile in drafts["hpc_profiles"]:
        if profile.get("place") and profile.get("interface") == app.get("name"):
            yield _no_scheduler(profile, "interface", profile.get("place"))
    for cluster in drafts["hpc_clusters"]:
        name, scheduler = cluster.get("name"), cluster.get("scheduler")
        if only and name not in only:
            continue
        if scheduler and not SCHEDULERS[scheduler].dask_class:
            message = f"is on cluster {show(name)}, but dask-jobqueue has no class for {scheduler}"
            yield Problem(app.name, message, field="clusters", valid="name the other clusters in clusters")
        yield from _compare_queues(app, cluster, drafts["hpc_profiles"])


def _no_scheduler(draft: Draft, field: str, place: str) -> Problem:
    message = f"needs a scheduler for its jobs, and the place {show(place)} has none"
    return Problem(draft.name, message, field=field, valid="name clusters only, or choose another interface")


def _compare_queues(app: Draft, cluster: Draft, profiles: Sequence[Draft]) -> Iterator[Problem]:
    """Compare the size of the jobs with the queue that they name, or else with each queue that sessions use."""
    queues = {draft.get("name"): draft for draft in cluster.items("queues", Queue)}
    where = show(cluster.get("name"))
    wanted = app.get("queue")
    if wanted and queues and wanted not in queues:
        yield unknown_reference(app, "queue", wanted, f"a queue of cluster {where}", [str(name) for name in queues])
        return
    here = [profile.get("queue") for profile in profiles if profile.get("cluster") == cluster.get("name")]
    for name in [wanted] if wanted else dict.fromkeys(here):
        for field, limit, size in (
            ("cores", "max_cores", int),
            ("memory", "max_memory", mebibytes),
            ("runtime", "max_runtime", seconds),
        ):
            asked, most = app.get(field), queues[name].get(limit) if name in queues else None
            if asked and most is not None and size(asked) > size(most):
                yield Problem(
                    app.name,
                    f"is above {limit} {show(most)} of queue {show(name)} of cluster {where}",
                    field=field,
                    value=show(asked),
                    valid=advice_above_limit(field, most, limit, str(name)),
                )
