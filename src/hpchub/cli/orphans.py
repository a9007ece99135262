"""``hpchub orphans``: list the live jobs that the hub's database does not know, and let the hub end some of them."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING

from hpchub.cli import inventory
from hpchub.cli.database import hub_database
from hpchub.cli.failure import UNUSABLE, VALID
from hpchub.cli.output import count, print_json, table
from hpchub.hub.ledger import UnknownJob, end_unknown_job, unknown_jobs

if TYPE_CHECKING:
    import argparse

ALL = "ALL"


def orphans(options: argparse.Namespace) -> int:
    """Run ``hpchub orphans``."""
    url = inventory.hub_settings()["db_url"]
    with hub_database(url) as engine, engine.begin() as connection:
        found = unknown_jobs(connection)
        ending = [job for job in found if job.job_id in options.end or options.end == [ALL]]
        for job in ending:
            end_unknown_job(connection, job)
        missing = sorted(set(options.end) - {ALL} - {job.job_id for job in ending})
        found = unknown_jobs(connection)
    if options.json:
        print_json([job._asdict() for job in found])
    else:
        _print(found)
    for job_id in missing:
        valid = ", ".join(job.job_id for job in found) or "there are none"
        print(f"hpchub: job {job_id} is not in the list; valid: {valid}", file=sys.stderr)
    return UNUSABLE if missing else VALID


def _print(jobs: list[UnknownJob]) -> None:
    """Print the jobs as a table."""
    if not jobs:
        print("The hub knows the sessions of all live jobs that carry its name.")
        return
    rows = [("CLUSTER", "JOB", "USER", "SESSION", "DATABASE", "FOUND", "")]
    for job in jobs:
        found = datetime.fromtimestamp(job.found).astimezone().strftime("%Y-%m-%d %H:%M")
        note = "the hub is ending it" if job.end else ""
        rows.append((job.cluster, job.job_id, job.user, job.session, job.database or "-", found, note))
    print("\n".join(table(rows)))
    print(
        f"\n{count(len(jobs), 'job')}. The hub does not touch them. To end some of them: hpchub orphans --end JOB ..."
    )
