"""Rules that compare drains with one another, and with the clusters and profiles. No I/O."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hpchub.model.entries import Queue
from hpchub.model.notices import Drain, unknown_target
from hpchub.model.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hpchub.model.rules import Draft


def compare_drains(drafts: Mapping[str, Sequence[Draft]]) -> Iterator[Problem]:
    """Find drains of what does not exist, and drains of the same target that overlap.

    Args:
        drafts: The entries of a site, by variable.
    """
    places = [draft for draft in drafts["hpc_places"] if isinstance(draft.written("name"), str)]
    clusters = [*(draft for draft in drafts["hpc_clusters"] if isinstance(draft.written("name"), str)), *places]
    queues = {draft.written("name"): _names(draft.items("queues", Queue), "name") for draft in clusters}
    profiles = _names(drafts["hpc_profiles"], "key")
    checked: list[tuple[int, Drain]] = []
    for i, draft in enumerate(drafts["hpc_drains"]):
        cluster, queue, profile = (draft.get(name) or "" for name in ("cluster", "queue", "profile"))
        found = unknown_target(cluster, queue, profile, queues=queues, profiles=profiles)
        if found and clusters:  # otherwise hpc_clusters has a problem that was already reported
            yield replace(found, entry=draft.name)
        drain = draft.value
        if not isinstance(drain, Drain):
            continue
        for j, other in checked:
            if drain.overlaps(other):
                valid = "change the times of one of them, or remove it"
                yield Problem(draft.name, f"overlaps entry {j}, which drains the same", valid=valid)
        checked.append((i, drain))


def _names(drafts: Sequence[Draft], name: str) -> list[str]:
    return [value for draft in drafts if isinstance(value := draft.written(name), str)]
