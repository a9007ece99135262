"""What all places share: the start, the end, restarts of the hub, orphans. The place itself is one in memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from fake_place import FakeConnection, FakeSpawner, reset, show
from hub_app import eventually, profile, site

from hpchub import places
from hpchub.hub.job_events import PortReported, ProblemReported
from hpchub.hub.orphans import OrphanCollector
from hpchub.hub.outcome import NOT_STARTED
from hpchub.hub.start_error import StartError
from hpchub.model.profile_list import profile_list
from hpchub.model.site import SiteError
from hpchub.schedulers import JobState, job_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hub_app import Hub

CLOUD = profile("cloudy", place="cloud")
for _name in ("cluster", "queue"):
    del CLOUD[_name]


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Return the entry of a place in memory."""
    monkeypatch.setitem(places.KINDS, "docker", "fake_place")
    yield reset()
    reset()


@pytest.fixture
def hub(hub: Hub, place: dict[str, Any], tmp_path: Path) -> Hub:
    """Return a hub with a cluster and a place."""
    content = profile_list(site(profile("small"), CLOUD, hpc_places=[place]))
    (tmp_path / "profiles.json").write_text(json.dumps(content))
    hub.app.config.FakeSpawner.startup_poll_interval = 0.01
    hub.app.config.FakeSpawner.stop_timeout = 0.1
    return hub


def begin(hub: Hub) -> Any:
    """Return a spawner that is about to start a session in the place."""
    spawner = hub.new_spawner()
    spawner.clear_state()
    spawner.child_spawner = None
    spawner.user_options = {"profile": "cloudy"}
    spawner.construct_child()
    return spawner


async def started(hub: Hub, spawner: Any) -> str:
    """Start a session, report its port, and return the server's URL."""
    spawner._spawn_pending = True
    start = asyncio.ensure_future(spawner.start())
    await eventually(lambda: bool(FakeConnection.stored))
    assert spawner.report(PortReported(20001))
    url = await asyncio.wait_for(start, 5)
    spawner._spawn_pending = False
    return str(url)


async def test_session_starts_in_its_place_and_not_in_a_cluster(hub: Hub) -> None:
    spawner = begin(hub)
    assert isinstance(spawner.child_spawner, FakeSpawner)
    assert await started(hub, spawner) == "https://127.0.0.1:20001"
    assert spawner.job["cluster"] == "cloud"
    assert spawner.job["id"] == job_name(spawner.session)
    assert not hub.jobs
    assert FakeConnection.secrets[spawner.session]["JUPYTERHUB_API_URL"].startswith("https://")


async def test_session_is_in_the_ledger_before_it_is_created(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[bool] = []

    async def create(self: Any, session: str, secrets: Any) -> None:
        known.append(hub.runtime.ledger.knows(session))
        show(session, "alice", JobState.RUNNING, hub=hub.runtime.hub_name)

    monkeypatch.setattr(FakeSpawner, "create", create)
    await started(hub, begin(hub))
    assert known == [True]


@pytest.mark.parametrize(
    ("fault", "text", "status"),
    [
        ("refused", "The place has no room.", 400),
        ("lost", "cloud does not answer at the moment.", 503),
        ("network", "versions that do not work together", 503),
    ],
)
async def test_failed_start_says_why(hub: Hub, fault: str, text: str, status: int) -> None:
    FakeConnection.faults.add(fault)
    spawner = begin(hub)
    with pytest.raises(StartError) as caught:
        await spawner.start()
    assert text in caught.value.message
    assert caught.value.status_code == status
    assert spawner.outcome.cause == NOT_STARTED
    assert not FakeConnection.stored


async def test_session_of_a_start_in_doubt_is_found(hub: Hub) -> None:
    FakeConnection.faults.add("in doubt")
    assert await started(hub, begin(hub)) == "https://127.0.0.1:20001"


async def test_problem_that_the_session_reports_is_shown(hub: Hub) -> None:
    spawner = begin(hub)
    spawner._spawn_pending = True
    start = asyncio.ensure_future(spawner.start())
    await eventually(lambda: bool(FakeConnection.stored))
    assert spawner.report(ProblemReported("the image has no jupyterhub"))
    with pytest.raises(StartError, match="could not start: the image has no jupyterhub"):
        await start
    assert spawner.outcome.log == ("hpchub-launch: the last line",)


async def test_silent_place_ends_no_session(hub: Hub) -> None:
    spawner = begin(hub)
    await started(hub, spawner)
    FakeConnection.faults.add("silent")
    spawner.child_spawner.answer_max_age = 0.0
    assert await spawner.poll() is None
    FakeConnection.faults.clear()
    hub.runtime.poller("cloud")._next = 0.0
    show(spawner.session, "alice", JobState.ENDED)
    assert await spawner.poll() == 1


async def test_session_that_is_missing_in_one_answer_goes_on(hub: Hub) -> None:
    spawner = begin(hub)
    await started(hub, spawner)
    spawner.child_spawner.answer_max_age = 0.0
    FakeConnection.faults.add("hides")
    spawner.child_spawner.driver.state = replace(spawner.child_spawner.driver.state, last_seen=time.monotonic() - 60)
    assert await spawner.poll() is None
    assert "find" in FakeConnection.queries


async def test_one_query_serves_all_sessions(hub: Hub) -> None:
    await started(hub, begin(hub))
    FakeConnection.queries.clear()
    poller = hub.runtime.poller("cloud")
    await asyncio.gather(*(poller.snapshot(0.001) for _ in range(50)))
    assert FakeConnection.queries.count("jobs") == 1


async def test_stop_removes_the_session(hub: Hub) -> None:
    spawner = begin(hub)
    await started(hub, spawner)
    await spawner.stop()
    assert not FakeConnection.stored


async def test_end_is_explained(hub: Hub) -> None:
    spawner = begin(hub)
    await started(hub, spawner)
    show(spawner.session, "alice", JobState.ENDED)
    spawner.child_spawner.answer_max_age = 0.0
    assert await spawner.poll() == 1
    spawner.run_post_stop_hook()
    await eventually(lambda: spawner.outcome.cause != "unknown")
    assert spawner.outcome.cause == "out_of_memory"


async def test_session_goes_on_after_a_restart_of_the_hub(hub: Hub) -> None:
    spawner = begin(hub)
    await started(hub, spawner)
    state, session = spawner.get_state(), spawner.session
    assert set(state["grant"]) == {"profile", "place"}
    restored = begin(hub)
    restored.child_spawner = None
    restored.load_state(state)
    assert restored.session == session
    assert restored.child_spawner.cluster.name == "cloud"
    restored.child_spawner.answer_max_age = 0.0
    assert await restored.poll() is None


async def test_created_session_that_was_never_started_fails_after_a_restart(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpchub.hub.job_session.HOPELESS_AFTER", 0.05)
    spawner = begin(hub)
    spawner.child_spawner.driver.begin()
    show(spawner.session, "alice", JobState.PENDING, hub=hub.runtime.hub_name, reason="never started")
    with pytest.raises(StartError, match="can never start in cloud: it was never started"):
        await asyncio.wait_for(spawner.child_spawner.adopt(), 5)


def collector(hub: Hub, *sessions: str) -> OrphanCollector:
    return OrphanCollector(hub.runtime, lambda: set(sessions), max_age=0.0, grace=0.0)


SESSION = "00000000000000aa"


@pytest.mark.parametrize(
    ("state", "known", "over", "hub_name", "stays"),
    [
        pytest.param(JobState.RUNNING, False, True, "", False, id="a live one whose session is over goes"),
        pytest.param(JobState.PENDING, False, True, "", False, id="a created one whose session is over goes"),
        pytest.param(JobState.RUNNING, True, False, "", True, id="a known one stays"),
        pytest.param(JobState.RUNNING, False, False, "", True, id="a live one that the ledger does not know stays"),
        pytest.param(JobState.ENDED, False, False, "", False, id="an ended one goes"),
        pytest.param(JobState.ENDED, True, False, "", True, id="an ended one of a known session stays"),
        pytest.param(JobState.ENDED, False, False, "other.example.org~12345678", True, id="another hub's stays"),
        pytest.param(JobState.RUNNING, False, True, "other.example.org~12345678", True, id="another hub's live one"),
        pytest.param(JobState.ENDED, False, False, "hub.example.org~00000000", True, id="another database's stays"),
    ],
)
async def test_sweep_removes_what_nobody_knows(  # noqa: PLR0917 a table
    hub: Hub, state: JobState, known: bool, over: bool, hub_name: str, stays: bool
) -> None:
    if over:
        hub.runtime.ledger.end(SESSION, user="alice", cluster="cloud", job_id="")
    show(SESSION, "alice", state, hub=hub_name or hub.runtime.hub_name)
    sweeper = collector(hub, *([SESSION] if known else []))
    place = hub.runtime.profiles.place("cloud")
    assert place is not None
    for _ in range(2):
        hub.runtime.poller("cloud")._next = 0.0
        await sweeper.sweep(place)
    assert bool(FakeConnection.stored) is stays


async def test_silent_place_loses_nothing_in_a_sweep(hub: Hub) -> None:
    show(SESSION, "alice", JobState.ENDED, hub=hub.runtime.hub_name)
    FakeConnection.faults.add("jobs")
    place = hub.runtime.profiles.place("cloud")
    assert place is not None
    with contextlib.suppress(Exception):
        await collector(hub).sweep(place)
    assert FakeConnection.stored


async def test_session_after_its_time_limit_is_ended_by_the_hub(hub: Hub) -> None:
    spawner = begin(hub)
    await started(hub, spawner)
    child = spawner.child_spawner
    child.driver.state = replace(child.driver.state, started=time.time() - child.profile.runtime_seconds - 61)
    await spawner.poll()
    await eventually(lambda: "end" in FakeConnection.queries)
    assert FakeConnection.stored[job_name(spawner.session)].state is JobState.ENDED


async def test_form_offers_clusters_and_places(hub: Hub) -> None:
    form = await begin(hub).get_options_form()
    assert "up to 1 h in cloud" in form
    assert "in the queue q of the cluster demo" in form


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"place": "clod"}, 'place "clod" is not a place of hpc_places; did you mean "cloud"?'),
        ({"cluster": "demo", "queue": "q"}, "names both a cluster and a place"),
        ({"cores": 5}, 'cores 5 is above max_cores 4 of place "cloud"; request at most 4'),
        ({"memory": "9G"}, 'memory "9G" is above max_memory "8G" of place "cloud"'),
        ({"runtime": "9:00:00"}, "is above max_runtime"),
        ({"gpus": 1}, 'place "cloud" has no GPUs; remove gpus'),
        ({"image": "smal"}, 'image "smal" is not an image of place "cloud"; did you mean "small"?'),
        ({"queue": "q"}, 'queue has no meaning in the place "cloud", which has no batch scheduler; remove it'),
        ({"account": "a"}, "account has no meaning in the place"),
        ({"options": ["--x"]}, "options has no meaning in the place"),
        ({"adjustable": {"cores": {"max": 5}}}, "adjustable.cores.max 5 is above max_cores 4"),
        ({"adjustable": {"kernel": {}}}, "adjustable.kernel has no choices"),
        ({"adjustable": {"queue": {"choices": ["q"]}}}, "adjustable.queue has no meaning"),
    ],
)
def test_mistake_in_a_profile_is_explained(place: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(SiteError) as caught:
        site({**CLOUD, **change}, hpc_places=[place])
    assert message in str(caught.value)


IMAGE_ID = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "demo"}, 'name "demo" is also the name of a cluster'),
        ({"kind": "doker"}, 'kind "doker" is unknown; did you mean "docker"?'),
        ({"url": "tcp://docker1:2375"}, "is not the address of a Docker engine; write https://HOST:2376"),
        ({"images": []}, "images is empty"),
        ({"images": [{"name": "a", "image": "jupyter/scipy:latest"}]}, "has no digest, so its content could change"),
        ({"images": [{"name": "a", "image": "jupyter/scipy@sha256:12"}]}, "64 hexadecimal digits"),
        ({"images": [{"name": "a", "image": f"x:latest@{IMAGE_ID}"}]}, "without a tag"),
        ({"images": [{"name": "a", "image": IMAGE_ID}] * 2}, 'name "a" is already used by another image'),
        ({"network": "host"}, "isolate nobody"),
        ({"home": "/home/../{user}"}, "contains an empty part, . or .."),
        ({"home": "/home/x{user}"}, "contains {user} as a part of a name"),
        ({"mounts": [{"source": "/etc/ssl", "target": "/x"}]}, "belongs to the system of the Docker host"),
        ({"mounts": [{"source": "/var/run/docker.sock", "target": "/x"}]}, "belongs to the system"),
        ({"address": "docker1"}, "has an address, but the engine is on the hub host"),
    ],
)
def test_mistake_in_a_place_is_explained(place: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(SiteError) as caught:
        site(CLOUD, hpc_places=[{**place, **change}])
    assert message in str(caught.value)


def test_site_may_have_places_and_no_clusters(place: dict[str, Any]) -> None:
    found = site(CLOUD, hpc_places=[place], hpc_clusters=[])
    assert profile_list(found)["places"][0]["name"] == "cloud"


def test_profile_without_cluster_and_place_is_refused(place: dict[str, Any]) -> None:
    nowhere = {name: value for name, value in CLOUD.items() if name != "place"}
    with pytest.raises(SiteError, match="cluster is missing; add it, or a place"):
        site(nowhere, hpc_places=[place])
