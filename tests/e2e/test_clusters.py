"""Two clusters behind one hub. Each has its own profiles, and an outage of one does not affect the other."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from .lab import LabError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .lab import Lab
    from .pages import Visitor


@pytest.fixture(autouse=True)
def two_clusters(lab: Lab) -> None:
    if lab.state["topology"] != "multi_cluster":
        pytest.skip("this lab has one cluster")


def test_sessions_run_on_the_cluster_of_their_profile(lab: Lab, visitor: Callable[[], Visitor]) -> None:
    """Each session computes on a node of its profile's cluster."""
    for name, profile, node in (("alice", "small", "compute1"), ("bob", "itasca", "compute2")):
        person = visitor()
        person.sign_in(name)
        notebook = person.start(profile).new_notebook("python3")
        assert notebook.run("import socket; print(socket.gethostname())") == node
        assert [job.node for job in lab.jobs(name)] == [node]


def test_outage_of_one_cluster_does_not_affect_the_other(lab: Lab, visitor: Callable[[], Visitor]) -> None:
    """Slurm is down. A session starts on Grid Engine meanwhile, and the session on Slurm stays."""
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
