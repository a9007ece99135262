"""The join with the scheduler's accounting: when the jobs really ran."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpchub.remote.gate import USAGE_LIMIT
from hpchub.schedulers import SCHEDULERS, Unanswered, job_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hpchub.clusters.gate_client import Gate
    from hpchub.report.records import Record


async def join(
    records: Sequence[Record], gates: Mapping[str, Gate], schedulers: Mapping[str, str], now: float
) -> list[str]:
    """Add to each session when its job ran, if the cluster's scheduler has an accounting.

    A session keeps the times that the hub saw if the accounting has no job with its id and its name.

    Args:
        records: The sessions.
        gates: The gate of each cluster.
        schedulers: The name of each cluster's scheduler.
        now: The time now, in seconds since 1970. A job that runs lasts until now.

    Returns:
        The problems, one sentence for each cluster that did not answer.
    """
    problems = []
    for cluster, gate in gates.items():
        scheduler = SCHEDULERS.get(schedulers.get(cluster, ""))
        known = {record.job_id: record for record in records if record.cluster == cluster and record.job_id}
        if scheduler is None or not scheduler.usage_command or not known:
            continue
        job_ids = list(known)
        try:
            for first in range(0, len(job_ids), USAGE_LIMIT):
                answer = await gate.usage(job_ids[first : first + USAGE_LIMIT])
                for job_id, (name, start, end) in scheduler.parse_usage(answer).items():
                    record = known.get(job_id)
                    if record is not None and name == job_name(record.session):
                        record.accounted = start, now if end is None else end
        except (Unanswered, ValueError) as error:
            problems.append(f"the accounting of {cluster} did not answer, so the hub's own times are used: {error}")
    return problems
