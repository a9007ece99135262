"""Sessions by PBS, Torque, Moab and LSF, on a lab whose schedulers are emulated."""

import time

import pytest

from .lab import eventually
from .students import SETTLED

TO_A_SUBMISSION = ("half", "garbage-id", "error-exit0")
FAULTS = ("slow", "half", "error-exit0", "locale", "refused")


@pytest.fixture(autouse=True)
def emulated(lab):
    if "lsf" not in lab.batches:
        pytest.skip("this lab's schedulers are real")


def order(lab, fault):
    """From now on each scheduler answers like this."""
    for name in lab.batches:
        lab.run("login1", ["lab-emulator", name, "fault", fault])


@pytest.mark.parametrize("cluster", ["pbs", "torque", "moab", "lsf"])
def test_a_session(browser_page, lab, cluster):
    """Choose, wait, compute on the node that the scheduler chose, and stop."""
    browser_page.sign_in("alice")
    notebooks = browser_page.start(cluster)
    (job,) = lab.jobs("alice")
    assert job.state == "RUNNING"
    notebook = notebooks.new_notebook("python3")
    assert notebook.run("import socket; print(socket.gethostname())") == job.node
    browser_page.stop_server()
    eventually("the job is gone", lambda: not lab.jobs("alice"))
    # Moab shows no ended job in its list: the hub asks for it by its name, a while later.
    eventually("the hub knows it", lambda: not browser_page.server(), timeout=90)
    # The log of the session is the user's, and has what the server said.
    logs = lab.run("login1", ["find", "/home/alice/.hpchub/logs", "-size", "+0", "-newermt", "-10 minutes"])
    assert f"/{job.id}" in logs


def test_wrong_answers_end_no_session(lab, students):
    """Each scheduler in turn is slow, breaks off, fails without saying so, speaks German or refuses: nobody notices."""
    jobs = students.start_and_wait()
    try:
        for fault in FAULTS:
            order(lab, fault)
            time.sleep(30)  # within which the hub asks
            assert students.all_ready(), fault
    finally:
        order(lab, "off")
    time.sleep(60)  # after which it has asked again
    assert students.agree() == jobs
    students.stop()


@pytest.mark.parametrize("fault", TO_A_SUBMISSION)
def test_wrong_answers_to_a_submission(lab, students, fault):
    """A class starts at once, and no job has an id: each becomes somebody's session, or ends."""
    order(lab, fault)
    try:
        students.start()
        assert not students.all_ready()
    finally:
        order(lab, "off")
    eventually("hub and schedulers agree", students.agree, timeout=SETTLED)
    time.sleep(5)
    assert students.agree()
    students.stop()
