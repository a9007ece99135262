"""Ask every gate of the hub's settings for its bulk query, and say what answered: one line for each cluster.

``python -m hpchub.ask [SETTINGS]``, on the hub, as the hub's account. The exit code is 1 where one did not answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from hpchub.gates import Gate, make_gate
from hpchub.runtime import DEFAULT_SETTINGS
from hpchub.schedulers import Unanswered


async def ask(gate: Gate) -> tuple[bool, str]:
    """Whether one cluster's scheduler answers, and the line that says so."""
    try:
        answer = await gate.query()
    except Unanswered as error:
        return False, f"{gate.cluster}: {error}"
    return True, f"{gate.cluster}: the scheduler answers, and knows of {len(answer.splitlines())} jobs"


async def ask_all(gates: list[Gate]) -> list[tuple[bool, str]]:
    """All of them at once, in their order."""
    return await asyncio.gather(*map(ask, gates))


def main(argv: list[str]) -> int:
    """Entry point; returns the exit code."""
    path = Path(argv[0] if argv else DEFAULT_SETTINGS)
    settings = json.loads(path.read_text())
    answers = asyncio.run(ask_all([make_gate(name, gate) for name, gate in settings["gates"].items()]))
    for _, line in answers:
        print(line)
    return 0 if all(ok for ok, _ in answers) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
