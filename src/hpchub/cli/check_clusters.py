"""Ask every gate of the hub's settings, and say what answered: one line for each cluster.

Below them stands what the schedulers do not give as the inventory says it: warnings, see ``hpchub.clusters.limits``.

Run ``python -m hpchub.cli.check_clusters [SETTINGS]`` on the hub host as the hub's account. The exit code is 1 if a
cluster did not answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hpchub.clusters import limits as live
from hpchub.clusters.gate_client import Gate, make_gate
from hpchub.deploy.profile_file import load_profile_list
from hpchub.hub.runtime import DEFAULT_SETTINGS
from hpchub.schedulers import SCHEDULERS, Unanswered

if TYPE_CHECKING:
    from hpchub.model.profile_list import ProfileList


async def ask(gate: Gate, site: ProfileList) -> tuple[bool, str]:
    """Whether one cluster's scheduler answers, and the line that says so."""
    cluster = site.cluster(gate.cluster)
    if cluster is None:
        return False, f"{gate.cluster}: the profile list has no such cluster"
    try:
        jobs = SCHEDULERS[cluster.scheduler].parse_query(await gate.query())
    except Unanswered as error:
        return False, f"{gate.cluster}: {error}"
    return True, f"{gate.cluster}: the scheduler answers, and knows of {len(jobs)} jobs"


async def ask_limits(gates: list[Gate], site: ProfileList) -> dict[str, live.Told]:
    """What each cluster's scheduler says of its queues, by the cluster's name."""

    async def one(gate: Gate) -> live.Told:
        cluster = site.cluster(gate.cluster)
        if cluster is None:
            return live.Told(unanswered="the profile list has no such cluster")
        try:
            return live.read(cluster.scheduler, await gate.limits())
        except Unanswered as error:
            return live.Told(unanswered=str(error))

    return dict(zip([gate.cluster for gate in gates], await asyncio.gather(*map(one, gates)), strict=True))


async def ask_all(gates: list[Gate], site: ProfileList) -> tuple[list[tuple[bool, str]], list[str]]:
    """All of them at once, in their order; and the warnings."""
    answers, told = await asyncio.gather(asyncio.gather(*(ask(gate, site) for gate in gates)), ask_limits(gates, site))
    problems, warnings = live.compare(site, told)
    unknown = [f"{name}: {answer.unanswered}" for name, answer in told.items() if answer.unanswered]
    return answers, [f"warning: {line}" for line in [*problems, *warnings, *unknown]]


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    path = Path(argv[0] if argv else DEFAULT_SETTINGS)
    settings = json.loads(path.read_text())
    gates = [make_gate(name, gate) for name, gate in settings["gates"].items()]
    answers, warnings = asyncio.run(ask_all(gates, load_profile_list(settings["profiles_file"])))
    for line in [*(line for _, line in answers), *warnings]:
        print(line)
    return 0 if all(ok for ok, _ in answers) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
