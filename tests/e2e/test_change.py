"""The administrator changes the inventory while users work."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest

from .lab import eventually
from .site import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .lab import Lab
    from .pages import Visitor

QUEUE = "e2e"
PROFILES = ("--tags", "spawner_profiles")


@pytest.fixture
def site(lab: Lab, tmp_path: Path) -> Iterator[Site]:
    """Return the lab's site, with a new queue on the first cluster. Restore both afterwards."""
    site = Site(lab, tmp_path)
    before = copy.deepcopy((site.profiles, site.clusters))
    batch = lab.batches[site.clusters[0]["name"]]
    batch.add_queue(QUEUE)
    yield site
    site.profiles, site.clusters = before
    site.apply(*PROFILES)
    eventually("the queue is gone", lambda: batch.drop_queue(QUEUE))


def test_new_queue_and_profile_leave_running_sessions_undisturbed(
    site: Site, lab: Lab, visitor: Callable[[], Visitor]
) -> None:
    """Bob sees the new profile and starts it. Alice's session continues, and the hub does not restart."""
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

    # Remove the profile while Bob's session uses it. The form no longer offers it, but the session continues.
    site.profiles = [profile for profile in site.profiles if profile["key"] != "e2e"]
    site.apply(*PROFILES)
    carol = visitor()
    carol.sign_in("carol")
    assert "e2e" not in carol.offered_profiles()
    assert lab.jobs("bob") == [job]
