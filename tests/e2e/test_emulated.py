"""Sessions with PBS, Torque, Moab and LSF, in a lab that emulates these schedulers."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from .lab import eventually
from .students import SETTLED

if TYPE_CHECKING:
    from .lab import Lab
    from .pages import Visitor
    from .students import Class

SUBMISSION_FAULTS = ("half", "garbage-id", "error-exit0")
FAULTS = ("slow", "half", "error-exit0", "locale", "refused")


@pytest.fixture(autouse=True)
def emulated(lab: Lab) -> None:
    if "lsf" not in lab.batches:
        pytest.skip("this lab has no emulated scheduler")


def submissions(lab: Lab) -> set[tuple[str, int, str]]:
    """Return the cluster, number and user of every job that the emulated schedulers know, including ended jobs.

    The emulators' own control program lists them, and no fault affects it.
    """
    found = set()
    for name in lab.batches:
        jobs = json.loads(lab.run("login1", ["lab-emulator", name, "status"]))["jobs"]
        found |= {(name, job["number"], job["user"]) for job in jobs}
    return found


def set_fault(lab: Lab, fault: str) -> None:
    """Make every emulated scheduler answer with this fault."""
    for name in lab.batches:
        lab.run("login1", ["lab-emulator", name, "fault", fault])


@pytest.mark.parametrize("cluster", ["pbs", "torque", "moab", "lsf"])
def test_session_computes_on_the_node_that_the_scheduler_chose(browser_page: Visitor, lab: Lab, cluster: str) -> None:
    """A user chooses a profile, waits, computes on the chosen node and stops the session."""
    browser_page.sign_in("alice")
    notebooks = browser_page.start(cluster)
    (job,) = lab.jobs("alice")
    assert job.state == "RUNNING"
    notebook = notebooks.new_notebook("python3")
    assert notebook.run("import socket; print(socket.gethostname())") == job.node
    browser_page.stop_server()
    eventually("the job is gone", lambda: not lab.jobs("alice"))
    # Moab's list shows no ended jobs, so the hub queries the job by its name a little later.
    eventually("the hub sees that the job has ended", lambda: not browser_page.server(), timeout=90)
    # The session's log is in the user's home directory and holds the notebook server's output.
    logs = lab.run("login1", ["find", "/home/alice/.hpchub/logs", "-size", "+0", "-newermt", "-10 minutes"])
    assert f"/{job.id}" in logs


def test_faulty_poll_answers_end_no_session(lab: Lab, students: Class) -> None:
    """Schedulers are slow, stop halfway, exit with 0 on errors, answer in German or refuse. No session ends."""
    jobs = students.start_and_wait()
    try:
        for fault in FAULTS:
            set_fault(lab, fault)
            time.sleep(30)  # The hub polls within this time.
            assert students.all_ready(), fault
    finally:
        set_fault(lab, "off")
    time.sleep(60)  # By then, the hub has polled again.
    assert students.agree() == jobs
    students.stop()


@pytest.mark.parametrize("fault", SUBMISSION_FAULTS)
def test_faulty_submission_answers_leave_one_job_per_session(lab: Lab, students: Class, fault: str) -> None:
    """A whole class starts, and no submission returns a job id. Each job becomes a session or is ended."""
    everybody = {student.name for student in students.students}
    before = submissions(lab)
    set_fault(lab, fault)
    try:
        students.start()
        eventually(
            "the scheduler has accepted a job of every student",
            lambda: {user for _, _, user in submissions(lab) - before} >= everybody,
            timeout=120,
        )
    finally:
        set_fault(lab, "off")
    eventually("the hub and the schedulers agree", students.agree, timeout=SETTLED)
    time.sleep(5)
    assert students.agree()
    students.stop()
