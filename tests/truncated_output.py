"""A check that the tests of each scheduler call with output of the scheduler's programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hpchub.schedulers import Scheduler, Unanswered

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpchub.schedulers import Job


def check_truncated_query(scheduler: Scheduler, stdout: str) -> None:
    """Truncate the output of a query command at each position, and check that no part of a job passes for a job.

    The scheduler must raise ``Unanswered``, or return jobs that are the same as in the whole output. It may lack the
    last jobs, because the hub looks up each missing job before it ends a session.

    Args:
        scheduler: The scheduler.
        stdout: The whole output, with at least one job.
    """
    whole: Mapping[str, Job] = scheduler.parse_query(stdout)
    assert whole
    for length in range(1, len(stdout)):
        try:
            jobs = scheduler.parse_query(stdout[:length])
        except Unanswered:
            continue
        for job_id, job in jobs.items():
            if whole.get(job_id) != job:
                pytest.fail(f"the output truncated after {stdout[:length][-40:]!r} contains {job}")
