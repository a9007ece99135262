"""A whole class starts at once while the scheduler is down or the hub is killed. Each session keeps one job."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

import pytest

from .lab import eventually
from .students import SETTLED

if TYPE_CHECKING:
    from .lab import Lab
    from .students import Class

OUTAGE = float(os.environ.get("HPCHUB_OUTAGE", "45"))  # How long the scheduler is down, in seconds.
KILLS = int(os.environ.get("HPCHUB_KILLS", "3"))
BURST = 4.0  # All students start within this time, in seconds, and the hub is killed around it.
KILL = ["systemctl", "kill", "--signal=KILL", "jupyterhub"]


@pytest.mark.slow
def test_scheduler_outage_loses_no_session(lab: Lab, students: Class) -> None:
    """After the scheduler is back, each student has exactly the session of before."""
    jobs = students.start_and_wait()
    for batch in lab.batches.values():
        batch.stop()
    try:
        deadline = time.monotonic() + OUTAGE
        while time.monotonic() < deadline:
            assert students.all_ready()
            time.sleep(5)
    finally:
        for batch in lab.batches.values():
            batch.start()
    time.sleep(60)  # By then, the hub has polled again and would have dropped any session that it lost.
    assert students.agree() == jobs
    students.stop()


@pytest.mark.parametrize("number", range(KILLS))
def test_hub_killed_during_a_burst_of_starts_leaves_one_job_per_session(lab: Lab, students: Class, number: int) -> None:
    """The hub is killed at a random moment. Each start becomes one session with one job, or nothing."""
    moment = random.uniform(0, 2 * BURST)

    def kill() -> None:
        time.sleep(moment)
        lab.run("hub", KILL)

    killing = students.pool.submit(kill)
    answers = students.start(within=BURST)
    killing.result()
    refused = [answer for answer in answers if answer is not None and answer.status not in {201, 202}]
    assert len(refused) < len(answers), f"the hub refused every start: {refused[0]}"
    eventually(f"the hub and the scheduler agree after a kill at {moment:.2f} s", students.agree, timeout=SETTLED)
    time.sleep(5)
    assert students.agree()
    students.stop()
