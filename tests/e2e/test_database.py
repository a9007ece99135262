"""The hub's PostgreSQL server has a fault while a class starts, ends and uses sessions. Each session survives it."""

from __future__ import annotations

import os
import random
import threading
import time
from typing import TYPE_CHECKING

import pytest

from .database import Server
from .lab import eventually
from .students import SETTLED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .lab import Lab
    from .students import Class

OUTAGE = float(os.environ.get("HPCHUB_OUTAGE", "45"))  # How long the database is away, in seconds.
FAULTS = int(os.environ.get("HPCHUB_KILLS", "1"))  # How often each fault happens.
MORE_FAULTS = ("restart", "cut_connections")  # The database is killed in each run, and fails in these ways with --all.
BURST = 6.0  # Sessions start and end within this time, in seconds, around each fault.
NOTICED = 40  # How long the health check may take to notice a fault and its end, in seconds.


@pytest.fixture(scope="module")
def server(lab: Lab) -> Server:
    """Return the server of the hub's database."""
    if not Server.exists(lab):
        pytest.skip("the hub's database is not PostgreSQL")
    return Server(lab)


@pytest.fixture
def sessions(students: Class, server: Server) -> Iterator[list[list[str]]]:
    """Start a session for each student. Return their jobs."""
    yield students.start_and_wait()
    students.stop()


def health(students: Class) -> int:
    """Return the status of the health check, or 0 if nothing answers."""
    try:
        return students.students[0].ask("/hub/health").status
    except OSError:
        return 0


def wait_for_health(students: Class, *, green: bool) -> None:
    eventually(
        f"the health check is {'green' if green else 'red'}",
        lambda: (health(students) == 200) is green,
        timeout=NOTICED + 40 * green,
        interval=1,
    )


def churn(lab: Lab, students: Class) -> None:
    """Let the jobs of some students end by themselves, and start a session for all who have none."""
    for student in random.sample(students.students, len(students.students) // 2):
        time.sleep(random.uniform(0, BURST / len(students.students)))
        lab.cancel_jobs(student.name)
    students.start(within=BURST)


def settle(students: Class) -> None:
    """Wait until the hub and the scheduler agree, and then check that they still do."""
    eventually("the hub and the scheduler agree", students.agree, timeout=SETTLED)
    time.sleep(10)
    assert students.agree()


@pytest.mark.slow
def test_outage_loses_no_session(students: Class, server: Server, sessions: list[list[str]]) -> None:
    """The database is away for a while. After it, each student has exactly the session of before."""
    server.stop()
    try:
        wait_for_health(students, green=False)
        deadline = time.monotonic() + OUTAGE
        while time.monotonic() < deadline:
            assert students.jobs() == sessions
            assert health(students) != 200
            time.sleep(5)
    finally:
        server.start()
    wait_for_health(students, green=True)
    eventually("all sessions are ready", students.all_ready, timeout=SETTLED)
    assert students.agree() == sessions


@pytest.mark.slow
@pytest.mark.usefixtures("sessions")
def test_jobs_start_and_end_while_the_database_is_away(lab: Lab, students: Class, server: Server) -> None:
    """Jobs end during an outage, and their students start again during it. Nobody is stuck."""
    work = threading.Thread(target=churn, args=(lab, students))
    work.start()
    time.sleep(random.uniform(0, BURST))
    server.stop()
    time.sleep(min(OUTAGE, 30))
    server.start()
    work.join()
    wait_for_health(students, green=True)
    settle(students)


@pytest.mark.parametrize(
    "fault", ["kill", *(pytest.param(fault, marks=pytest.mark.slow) for fault in MORE_FAULTS)] * FAULTS
)
@pytest.mark.usefixtures("sessions")
def test_jobs_start_and_end_during_a_fault(lab: Lab, students: Class, server: Server, fault: str) -> None:
    """The server restarts or dies, or all connections are cut, at a random moment of a burst of starts and ends."""
    work = threading.Thread(target=churn, args=(lab, students))
    work.start()
    for _ in range(20 if fault == "cut_connections" else 1):
        time.sleep(random.uniform(0, BURST if fault != "cut_connections" else 0.6))
        getattr(server, fault)()
    work.join()
    wait_for_health(students, green=True)
    settle(students)


@pytest.mark.slow
@pytest.mark.usefixtures("sessions")
def test_jobs_start_and_end_while_the_disk_is_full(lab: Lab, students: Class, server: Server) -> None:
    """The health check is red, the sessions that go on are usable, and nobody is stuck afterwards."""
    try:
        with server.full_disk():
            wait_for_health(students, green=False)
            churn(lab, students)
            time.sleep(20)
            assert health(students) != 200
        wait_for_health(students, green=True)
        settle(students)
    finally:
        server.leave_small_disk()
    wait_for_health(students, green=True)
    settle(students)
