"""Query the database, the versions, all clusters and all places of a hub, and print a line for each result.

Run ``python -m hpchub.cli.check_clusters [SETTINGS]`` on the hub host with the hub's account. The exit code is 1 if one
of them did not answer, or if versions do not work together; see ``hpchub.clusters.versions``. Differences between the
schedulers and the inventory are only warnings; see ``hpchub.clusters.limits``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpchub.backup.database import HubDatabase
from hpchub.backup.package import BackupError
from hpchub.cli.check_versions import query_versions
from hpchub.clusters.gate_client import Gate, make_gate
from hpchub.clusters.limits import LimitsReport, compare, parse_report
from hpchub.hub import DEFAULT_SETTINGS
from hpchub.hub.database import DatabaseError, check
from hpchub.places import kind_of
from hpchub.profile_file import load_profile_list
from hpchub.schedulers import SCHEDULERS, Unanswered

if TYPE_CHECKING:
    from hpchub.model.places import PlaceBase
    from hpchub.model.profile_list import ProfileList

_NOT_LISTED = "the profile list does not contain this cluster; run site.yml with --tags spawner_profiles"


async def query_jobs(gate: Gate, site: ProfileList) -> tuple[bool, str]:
    """Query the jobs of one cluster. Return whether its scheduler answers, and a line that describes the result."""
    cluster = site.cluster(gate.cluster)
    if cluster is None:
        return False, f"{gate.cluster}: {_NOT_LISTED}"
    try:
        jobs = SCHEDULERS[cluster.scheduler].parse_query(await gate.query())
    except Unanswered as error:
        # A disabled cluster may be away, for example for maintenance.
        return not cluster.enabled, f"{gate.cluster}: {'disabled; ' if not cluster.enabled else ''}{error}"
    return True, f"{gate.cluster}: the scheduler answers and lists {len(jobs)} jobs"


async def query_limits(gates: list[Gate], site: ProfileList) -> dict[str, LimitsReport]:
    """Query the limits of every cluster. Return the reports by the clusters' names."""

    async def query(gate: Gate) -> LimitsReport:
        cluster = site.cluster(gate.cluster)
        if cluster is None:
            return LimitsReport(unanswered=_NOT_LISTED)
        try:
            return parse_report(cluster.scheduler, await gate.limits())
        except Unanswered as error:
            return LimitsReport(unanswered=str(error))

    return dict(zip([gate.cluster for gate in gates], await asyncio.gather(*map(query, gates)), strict=True))


async def query_all(gates: list[Gate], site: ProfileList) -> tuple[list[tuple[bool, str]], list[str]]:
    """Query all clusters at the same time. Return the results in the order of the gates, and the warnings."""
    answers, reports = await asyncio.gather(
        asyncio.gather(*(query_jobs(gate, site) for gate in gates)), query_limits(gates, site)
    )
    problems, warnings = compare(site, reports)
    unknown = [f"{name}: {report.unanswered}" for name, report in reports.items() if report.unanswered]
    return answers, [f"warning: {line}" for line in [*problems, *warnings, *unknown]]


async def query_place(place: PlaceBase, settings: dict[str, Any]) -> tuple[bool, str]:
    """Return whether a place can be used, and a line that describes it."""
    try:
        connection = kind_of(place.kind).connection(place, settings)
        answer = await connection.check()
        obstacles = await connection.obstacles()
        await connection.close()
    except (Unanswered, ValueError) as error:
        return not place.enabled, f"{place.name}: {'disabled; ' if not place.enabled else ''}{error}"
    if obstacles:
        return not place.enabled, f"{place.name}: no session can start: {'; '.join(obstacles)}"
    return True, f"{place.name}: {answer}"


async def query_places(site: ProfileList, settings: dict[str, Any]) -> list[tuple[bool, str]]:
    """Ask all places at the same time. Return the results in the order of the places."""
    return await asyncio.gather(*(query_place(place, settings) for place in site.places))


def query_database(url: str) -> tuple[bool, str]:
    """Return whether the hub's database can be used and saved, and a line that describes it."""
    try:
        answer = check(url)
        HubDatabase(url).check_dump_program()
    except (DatabaseError, BackupError) as error:
        return False, str(error)
    return True, answer


def main(argv: list[str]) -> int:
    """Run the program and return its exit code."""
    path = Path(argv[0] if argv else DEFAULT_SETTINGS)
    settings = json.loads(path.read_text())
    gates = [make_gate(name, gate) for name, gate in settings["gates"].items()]
    site = load_profile_list(settings["profiles_file"])
    answers, warnings = asyncio.run(query_all(gates, site))
    answers += asyncio.run(query_places(site, settings))
    versions, more_warnings = asyncio.run(query_versions(settings, site))
    answers = [query_database(settings["db_url"]), *answers, *versions]
    for line in [*(line for _, line in answers), *warnings, *more_warnings]:
        print(line)
    return 0 if all(ok for ok, _ in answers) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
