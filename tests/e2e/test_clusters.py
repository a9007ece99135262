"""Two clusters behind one hub: each has its own profiles, and the one's outage is not the other's."""

import time

import pytest

from .lab import LabError


@pytest.fixture(autouse=True)
def two_clusters(lab):
    if lab.state["topology"] != "multi_cluster":
        pytest.skip("this lab has one cluster")


def test_sessions_on_both(lab, visitor):
    """Each computes on a node of the cluster that its profile names."""
    for name, profile, node in (("alice", "small", "compute1"), ("bob", "itasca", "compute2")):
        person = visitor()
        person.sign_in(name)
        notebook = person.start(profile).new_notebook("python3")
        assert notebook.run("import socket; print(socket.gethostname())") == node
        assert [job.node for job in lab.jobs(name)] == [node]


def test_an_outage_of_one_cluster_stops_nobody_on_the_other(lab, visitor):
    """While Slurm is stopped, a session starts on Grid Engine, and the running session on Slurm stays."""
    alice, bob = visitor(), visitor()
    alice.sign_in("alice")
    alice.start("small")
    (job,) = lab.jobs("alice")
    alice.page.goto(f"{lab.url}/hub/home")
    bob.sign_in("bob")
    lab.batches["mesabi"].stop()
    try:
        notebook = bob.start("itasca").new_notebook("python3")
        assert notebook.run("6*7") == "42"
        with pytest.raises(LabError):
            lab.batches["mesabi"].jobs()  # the outage lasted until here
        time.sleep(45)
        assert alice.server().get("ready")
    finally:
        lab.batches["mesabi"].start()
    time.sleep(45)
    assert alice.server().get("ready")
    assert job.id in {each.id for each in lab.jobs("alice")}
