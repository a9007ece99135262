"""Two clusters behind one hub: each has its own profiles, and the one's outage is not the other's."""

import time

import pytest


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


def test_an_outage_of_one_delays_nobody_on_the_other(lab, visitor):
    """Slurm is away: a start on Grid Engine takes what it takes, and the session on Slurm stays."""
    alice, bob = visitor(), visitor()
    alice.sign_in("alice")
    alice.start("small")
    (job,) = lab.jobs("alice")
    alice.page.goto(f"{lab.url}/hub/home")
    bob.sign_in("bob")
    lab.batches["mesabi"].stop()
    try:
        began = time.monotonic()
        notebook = bob.start("itasca").new_notebook("python3")
        assert notebook.run("6*7") == "42"
        assert time.monotonic() - began < 60
        time.sleep(45)
        assert alice.server().get("ready")
    finally:
        lab.batches["mesabi"].start()
    time.sleep(45)
    assert alice.server().get("ready")
    assert job.id in {each.id for each in lab.jobs("alice")}
