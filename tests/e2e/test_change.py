"""The administrator changes the inventory while people work."""

import copy

import pytest

from .lab import eventually
from .site import Site

QUEUE = "e2e"
PROFILES = ("--tags", "spawner_profiles")


@pytest.fixture
def site(lab, tmp_path):
    """The lab's site, which is put back as it was afterwards; the first cluster's scheduler has a new queue."""
    site = Site(lab, tmp_path)
    before = copy.deepcopy((site.profiles, site.clusters))
    batch = lab.batches[site.clusters[0]["name"]]
    batch.add_queue(QUEUE)
    yield site
    site.profiles, site.clusters = before
    site.apply(*PROFILES)
    eventually("the queue is gone", lambda: batch.drop_queue(QUEUE))


def test_a_new_queue_and_profile(site, lab, visitor):
    """Bob is offered the profile, and it starts; Alice's session goes on undisturbed, and so does the hub."""
    alice, bob = visitor(), visitor()
    alice.sign_in("alice")
    notebook = alice.start(lab.profiles()[0]["key"]).new_notebook("python3")
    notebook.run("kept = 6*7")
    before = lab.jobs("alice")
    hub = ["systemctl", "show", "--property=MainPID,ActiveEnterTimestamp", "jupyterhub"]
    started = lab.run("hub", hub)

    (cluster, *_) = site.clusters
    queue = {"name": QUEUE, "max_cores": 1, "max_memory": "1G", "max_runtime": "1:00:00", "max_gpus": 0}
    cluster["queues"] = [*cluster["queues"], queue]
    new = {"key": "e2e", "display_name": "Added while Alice works", "cluster": cluster["name"], "queue": QUEUE}
    site.profiles = [*site.profiles, {**new, "cores": 1, "memory": "512M", "runtime": "0:30:00"}]
    site.apply(*PROFILES)

    bob.sign_in("bob")
    assert new["display_name"] in bob.offered_profiles()["e2e"]
    bob.start("e2e")
    (job,) = lab.jobs("bob")
    assert job.partition == QUEUE

    assert notebook.run("kept") == "42"
    assert lab.jobs("alice") == before
    assert lab.run("hub", hub) == started

    # The profile goes while Bob's session of that profile runs: the form forgets it, the session does not.
    site.profiles = [profile for profile in site.profiles if profile["key"] != "e2e"]
    site.apply(*PROFILES)
    carol = visitor()
    carol.sign_in("carol")
    assert "e2e" not in carol.offered_profiles()
    assert lab.jobs("bob") == [job]
