"""Ask every gate of the hub's settings for its bulk query; one line for each. Runs on the hub, as the hub's account."""

import asyncio
import json
import sys
from pathlib import Path

from hpchub.gates import make_gate
from hpchub.schedulers import Unanswered


async def ask(cluster: str, settings: dict[str, str]) -> str:
    """The cluster's line; raises Unanswered."""
    answer = await make_gate(cluster, settings).query()
    return f"{cluster}: the scheduler answers, {len(answer.splitlines())} lines about its jobs"


async def main(path: str) -> int:
    """Ask them all at once."""
    gates = json.loads(Path(path).read_text())["gates"]
    answers = await asyncio.gather(*(ask(name, gate) for name, gate in gates.items()), return_exceptions=True)
    for cluster, answer in zip(gates, answers, strict=True):
        print(answer if isinstance(answer, str) else f"{cluster}: {answer}")
    unexpected = [a for a in answers if isinstance(a, BaseException) and not isinstance(a, Unanswered)]
    if unexpected:
        raise unexpected[0]
    return int(any(isinstance(answer, Unanswered) for answer in answers))


sys.exit(asyncio.run(main(sys.argv[1])))
