"""Sessions by PBS, Torque, Moab and LSF, on a lab whose schedulers are emulated."""

import pytest

from .lab import eventually


@pytest.mark.parametrize("cluster", ["pbs", "torque", "moab", "lsf"])
def test_a_session(browser_page, lab, cluster):
    """Choose, wait, compute on the node that the scheduler chose, and stop."""
    if cluster not in {profile["cluster"] for profile in lab.profiles()}:
        pytest.skip("this lab's schedulers are real")
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
