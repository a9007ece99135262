"""A class starts at once; its scheduler goes away, and the hub is killed again and again: one session, one job."""

import os
import random
import time

import pytest

from .lab import eventually
from .students import SETTLED

OUTAGE = float(os.environ.get("HPCHUB_OUTAGE", "45"))  # seconds
KILLS = int(os.environ.get("HPCHUB_KILLS", "3"))
BURST = 4.0  # seconds within which everybody starts, and the hub is killed
KILL = ["systemctl", "kill", "--signal=KILL", "jupyterhub"]


def test_an_outage_of_the_scheduler(lab, students):
    """The controller is away, and comes back: nobody has lost a session, and nobody has two."""
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
    time.sleep(60)  # after which the hub has asked again, and would have missed whom it forgot
    assert students.agree() == jobs
    students.stop()


@pytest.mark.parametrize("number", range(KILLS))
def test_the_hub_is_killed_in_a_burst_of_starts(lab, students, number):
    """At any moment: what was begun becomes a session with one job, or nothing."""
    moment = random.uniform(0, 2 * BURST)
    killing = students.pool.submit(lambda: (time.sleep(moment), lab.run("hub", KILL)))
    students.start(within=BURST)
    killing.result()
    eventually(f"hub and scheduler agree after a kill at {moment:.2f} s", students.agree, timeout=SETTLED)
    time.sleep(5)
    assert students.agree()
    students.stop()
