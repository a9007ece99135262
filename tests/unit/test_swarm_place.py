"""Sessions in a swarm. The manager is a stand-in behind the real gate; see ``tests/swarm_engine.py``."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from docker_engine import Refusal
from hub_app import eventually
from swarm_engine import NODES, Swarm
from swarm_place import BARE, IMAGE, NAME, SESSION, UID, create, make_home, policy_of, portal

from hpchub.cli.check_clusters import query_place
from hpchub.deploy.role_arguments import docker_gates, docker_swarm
from hpchub.hub.job_events import PortReported
from hpchub.hub.orphans import OrphanCollector
from hpchub.hub.start_error import StartError
from hpchub.model.profile_list import profile_list
from hpchub.model.site import SiteError
from hpchub.places import kind_of
from hpchub.places.accounts import Account
from hpchub.places.swarm import spec
from hpchub.remote import docker_gate
from hpchub.schedulers import Cause, JobState, Unanswered, job_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hub_app import Hub


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Swarm]:
    """Return a stand-in for a swarm, with an image of sessions that only wait, and one that runs the launcher."""
    found = Swarm(tmp_path)
    found.images = {IMAGE: ["sleep", "60"], BARE: None}
    yield found
    found.close()


@pytest.fixture
def policy(tmp_path: Path, engine: Swarm) -> dict[str, Any]:
    """Return the policy that the inventory gives to the gate."""
    return policy_of(tmp_path, engine)


@pytest.fixture
def hub(hub: Hub, policy: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Return a hub with a place on the stand-in, behind the gate."""
    make_home(tmp_path)
    (tmp_path / "profiles.json").write_text(json.dumps(profile_list(portal(tmp_path))))
    hub.app.config.SwarmSessionSpawner.startup_poll_interval = 0.01
    hub.app.config.SwarmSessionSpawner.stop_timeout = 2.0
    monkeypatch.setattr("hpchub.hub.job_session.HOPELESS_AFTER", 0.3)
    monkeypatch.setattr("hpchub.places.accounts.find_account", lambda name, _: Account(UID, UID, (4300,)))
    server = docker_gate.serve(policy)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield hub
    server.shutdown()
    server.server_close()


def begin(hub: Hub, key: str = "cloudy") -> Any:
    """Return a spawner that is about to start a session in the swarm."""
    spawner = hub.user().spawners[""]
    spawner.user_options = {"profile": key}
    spawner.construct_child()
    return spawner


async def started(spawner: Any) -> str:
    """Start a session, report its port, and return the server's URL."""
    spawner._spawn_pending = True
    start = asyncio.ensure_future(spawner.start())
    await eventually(lambda: spawner.child_spawner.job_id or start.done())
    if not start.done():
        assert spawner.report(PortReported(spawner.child_spawner.port))
    url = await asyncio.wait_for(start, 20)
    spawner._spawn_pending = False
    return str(url)


async def test_session_runs_in_a_service_without_any_privilege(hub: Hub, engine: Swarm) -> None:
    spawner = begin(hub)
    assert await started(spawner) == f"https://127.0.0.1:{spawner.child_spawner.port}"
    (service,) = engine.services.values()
    task, container = service.spec["TaskTemplate"], service.template
    assert service.spec["Name"] == job_name(spawner.session)
    assert container["Image"] == IMAGE
    assert container["User"] == f"{UID}:{UID}"
    assert container["Groups"] == ["4300"]
    assert container["Command"][:6] == ["timeout", "-s", "TERM", "-k", "30", "60"]
    assert container["CapabilityDrop"] == ["ALL"]
    assert container["Privileges"] == {"NoNewPrivileges": True}
    assert container["ReadOnly"] is True
    assert container["Healthcheck"] == {"Test": ["NONE"]}
    home = hub.runtime.profiles.place("cloud").home.replace("{user}", "alice")  # type: ignore[union-attr]
    assert container["Mounts"][0] == {"Type": "bind", "Source": home, "Target": home, "ReadOnly": False}
    assert {each["Target"]: each["TmpfsOptions"]["SizeBytes"] for each in container["Mounts"][1:]} == {
        "/tmp": 1 << 30,
        "/run/hpchub": 4 << 20,
    }
    assert task["Resources"] == {
        "Limits": {"MemoryBytes": 2 << 30, "NanoCPUs": 2 * 10**9, "Pids": 1024},
        "Reservations": {"MemoryBytes": 2 << 30, "NanoCPUs": 2 * 10**9},
    }
    assert task["RestartPolicy"] == {"Condition": "none"}
    assert task["Networks"] == [{"Target": "hpchub"}]
    assert task["LogDriver"] == {"Name": "json-file", "Options": {"max-size": "5m", "max-file": "1"}}
    assert service.spec["Mode"] == {"Replicated": {"Replicas": 1}}
    (port,) = service.spec["EndpointSpec"]["Ports"]
    assert port["PublishMode"] == "host"


async def test_secrets_are_in_a_secret_of_the_swarm_and_nowhere_else(hub: Hub, engine: Swarm) -> None:
    spawner = begin(hub)
    spawner.api_token = spawner.child_spawner.api_token = "a-token-of-the-session"
    spawner.token = "its-hash"
    await started(spawner)
    (service,) = engine.services.values()
    (secret,) = engine.secrets.values()
    size, _, content = secret["data"].partition(b"\n")
    assert int(size) == len(content)
    files = json.loads(content)
    assert json.loads(files["session.json"])["JUPYTERHUB_API_TOKEN"] == spawner.api_token
    assert len(secret["data"]) < 400 * 1024
    (reference,) = service.template["Secrets"]
    assert reference["File"] == {"Name": NAME.replace(SESSION, spawner.session), "UID": f"{UID}", "GID": f"{UID}"} | {
        "Mode": 0o400
    }
    visible = json.dumps([service.described, service.task(), engine.list_secrets()])
    assert spawner.api_token not in visible
    assert "JUPYTERHUB" not in visible
    assert "PRIVATE KEY" not in visible


async def test_launcher_of_the_hub_runs_in_the_image(hub: Hub) -> None:
    """The hub gives this session no token, so the launcher ends after it has read its file."""
    spawner = begin(hub, "bare")
    with pytest.raises(StartError, match="ended in cloud before"):
        await spawner.start()
    assert "session.json lacks JUPYTERHUB_API_TOKEN" in spawner.outcome.log[-1]


async def test_stop_removes_the_service_and_the_secret(hub: Hub, engine: Swarm) -> None:
    spawner = begin(hub)
    await started(spawner)
    await spawner.stop()
    assert (engine.services, engine.secrets) == ({}, {})


@pytest.mark.parametrize(
    ("request_name", "fault", "text"),
    [
        (
            "create",
            Refusal(500, "rpc error: code = Unknown desc = The swarm does not have a leader."),
            "no manager that",
        ),
        ("create secret", Refusal(503, "This node is not a swarm manager."), "no manager that works"),
        ("create", Refusal(409, "name conflicts with an existing object: service x already exists"), "exists already"),
        ("create", Refusal(500, "something else"), "could not create your session"),
        ("network", Refusal(404, "network hpchub not found"), "versions that do not work together"),
    ],
)
async def test_refusal_of_the_manager_is_explained(
    hub: Hub, engine: Swarm, request_name: str, fault: Refusal, text: str
) -> None:
    engine.faults[request_name] = fault
    with pytest.raises(StartError) as caught:
        await started(begin(hub))
    assert text in caught.value.message
    assert (engine.services, engine.secrets) == ({}, {})


def without_image(engine: Swarm) -> None:
    for node in engine.nodes.values():
        node.missing.add(IMAGE)


def without_node(engine: Swarm) -> None:
    engine.nodes = {}


def drained(engine: Swarm) -> None:
    for node in engine.nodes.values():
        node.availability = "drain"


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (without_image, "can never start in cloud: the image is not on the node (rejected: No such image"),
        (lambda engine: engine.images.pop(IMAGE), "The image of this profile is not on the host cloud."),
        (lambda engine: engine.volumes.update({IMAGE: ["/data"]}), "the image declares the volumes /data"),
    ],
    ids=["nodes", "manager", "volume"],
)
async def test_image_that_cannot_run_is_explained(
    hub: Hub, engine: Swarm, fault: Callable[[Swarm], object], text: str
) -> None:
    fault(engine)
    spawner = begin(hub)
    with pytest.raises(StartError) as caught:
        await spawner.start()
    assert text in caught.value.message
    await spawner.stop()
    assert (engine.services, engine.secrets) == ({}, {})


@pytest.mark.parametrize(
    ("fault", "text"),
    [(without_node, "no node is available"), (drained, "no node is available")],
    ids=["no node", "drained nodes"],
)
async def test_session_without_a_suitable_node_waits_and_says_why(
    hub: Hub, engine: Swarm, fault: Callable[[Swarm], object], text: str
) -> None:
    fault(engine)
    spawner = begin(hub)
    start = asyncio.ensure_future(spawner.start())
    await eventually(lambda: text in spawner.child_spawner.driver.state.message)
    assert not start.done()
    start.cancel()


@pytest.mark.parametrize(
    ("reason", "outlook"),
    [
        ("new", "WAITS"),
        ("preparing", "WAITS"),
        ("no suitable node (insufficient resources on 2 nodes)", "WAITS"),
        ("no suitable node (scheduling constraints not satisfied on 2 nodes)", "NEVER"),
        (
            "no suitable node (scheduling constraints not satisfied on 1 node; insufficient resources on 1 node)",
            "WAITS",
        ),
        ("no suitable node (host-mode port already in use on 2 nodes)", "NEVER"),
        ("no suitable node", "WAITS"),
        ("rejected: No such image: sha256:1", "NEVER"),
        ('rejected: invalid mount config for type "bind": bind source path does not exist: /home/a', "NEVER"),
        ("rejected: something else", "NEVER"),
    ],
)
def test_reason_has_words_and_an_outlook(reason: str, outlook: str) -> None:
    found = spec.TERMS.understand(reason)
    assert found.outlook.name == outlook
    assert found.words != reason
    assert found.advice or outlook == "WAITS"


async def test_answer_that_is_lost_ends_no_session(hub: Hub, engine: Swarm) -> None:
    spawner = begin(hub)
    await started(spawner)
    spawner.child_spawner.answer_max_age = 0.0
    for fault in (
        Refusal(500, "context deadline exceeded"),
        Refusal(404, "page not found"),
        Refusal(503, "This node is not a swarm manager."),
        Refusal(500, "The swarm does not have a leader. network x not found"),
    ):
        for names in (("services", "inspect"), ("tasks",), ("nodes",), ("secrets",)):
            engine.faults = dict.fromkeys(names, fault)
            hub.runtime.poller("cloud")._next = 0.0
            assert await spawner.poll() is None
            with pytest.raises(Unanswered):
                await hub.runtime.place("cloud").find(job_name(spawner.session))


async def test_node_that_is_away_ends_no_session(hub: Hub, engine: Swarm) -> None:
    spawner = begin(hub)
    await started(spawner)
    engine.nodes["n1"].state = "down"
    found = await hub.runtime.place("cloud").find(job_name(spawner.session))
    assert found is not None
    assert found.state is JobState.UNKNOWN
    spawner.child_spawner.answer_max_age = 0.0
    hub.runtime.poller("cloud")._next = 0.0
    assert await spawner.poll() is None


async def test_four_requests_serve_all_sessions(hub: Hub, engine: Swarm) -> None:
    await started(begin(hub))
    hub.runtime.poller("cloud")._next = 0.0
    engine.requests.clear()
    poller = hub.runtime.poller("cloud")
    await asyncio.gather(*(poller.snapshot(0.001) for _ in range(100)))
    assert engine.requests == ["secrets", "services", "tasks", "nodes"]


async def test_session_that_ends_tells_why(hub: Hub, engine: Swarm) -> None:
    spawner = begin(hub)
    await started(spawner)
    (service,) = engine.services.values()
    assert service.container is not None
    service.container.stop(0.1)
    spawner.child_spawner.answer_max_age = 0.0
    hub.runtime.poller("cloud")._next = 0.0
    assert await spawner.poll() == 1
    spawner.run_post_stop_hook()
    await eventually(lambda: spawner.outcome.cause != "unknown")
    assert spawner.outcome.cause == "killed"


async def test_session_after_its_time_limit_is_removed_by_the_hub(hub: Hub, engine: Swarm) -> None:
    spawner = begin(hub)
    await started(spawner)
    place, name = hub.runtime.place("cloud"), job_name(spawner.session)
    await place.end(name, user="alice", session=spawner.session)
    assert not engine.services
    assert (await place.ending(name)).cause is Cause.TIME_LIMIT
    await place.remove(name, user="alice", session=spawner.session)
    assert not engine.secrets
    with pytest.raises(Unanswered, match="does not know"):
        await place.ending(name)


async def test_service_that_a_killed_hub_left_is_removed(hub: Hub, engine: Swarm, policy: dict[str, Any]) -> None:
    hub.runtime.ledger.end(SESSION, user="alice", cluster="cloud", job_id="")
    create(engine, policy, hub.runtime.hub_name)
    sweeper = OrphanCollector(hub.runtime, set, max_age=0.0, grace=0.0)
    place = hub.runtime.profiles.place("cloud")
    assert place is not None
    for _ in range(2):
        hub.runtime.poller("cloud")._next = 0.0
        await sweeper.sweep(place)
    assert (engine.services, engine.secrets) == ({}, {})


async def test_service_of_another_hub_is_never_touched(hub: Hub, engine: Swarm, policy: dict[str, Any]) -> None:
    create(engine, policy, "other.example.org~00000000")
    hub.runtime.ledger.end(SESSION, user="alice", cluster="cloud", job_id="")
    sweeper = OrphanCollector(hub.runtime, set, max_age=0.0, grace=0.0)
    place = hub.runtime.profiles.place("cloud")
    assert place is not None
    await sweeper.sweep(place)
    await sweeper.sweep(place)
    with pytest.raises(Unanswered, match="is not that of session"):
        await hub.runtime.place("cloud").remove(NAME, user="bob", session=SESSION)
    with pytest.raises(Unanswered, match="is not the service of session"):
        await hub.runtime.place("cloud").remove(NAME, user="alice", session="00000000000000cc")
    assert NAME in engine.services
    assert NAME in engine.secrets


async def test_secret_whose_service_was_never_created_is_removed(
    hub: Hub, engine: Swarm, policy: dict[str, Any]
) -> None:
    """The hub was killed between the two."""
    hub.runtime.ledger.end(SESSION, user="alice", cluster="cloud", job_id="")
    create(engine, policy, hub.runtime.hub_name)
    engine.remove_service(NAME)
    found = await hub.runtime.place("cloud").find(NAME)
    assert found is not None
    assert (found.state, spec.TERMS.understand(found.reason).outlook.name) == (JobState.PENDING, "NEVER")
    sweeper = OrphanCollector(hub.runtime, set, max_age=0.0, grace=0.0)
    place = hub.runtime.profiles.place("cloud")
    assert place is not None
    for _ in range(2):
        hub.runtime.poller("cloud")._next = 0.0
        await sweeper.sweep(place)
    assert not engine.secrets


async def test_check_names_what_is_missing(hub: Hub, engine: Swarm) -> None:
    place = hub.runtime.profiles.place("cloud")
    assert place is not None
    engine.nodes["n2"].availability = "drain"
    line = "cloud: Docker 26.1.5 answers, lists 0 sessions, and 1 of 2 nodes are ready"
    assert await query_place(place, hub.runtime.settings) == (True, line)
    engine.nodes["n1"].state = "down"
    works, line = await query_place(place, hub.runtime.settings)
    assert not works
    assert "no node of the swarm is ready and active" in line


OVERLAY = {"Scope": "swarm", "Driver": "overlay"}
SHARED = {"Scope": "local", "Driver": "null", "Options": {}}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"hpchub": None}, "has no Docker network hpchub for a swarm; run playbooks/places.yml"),
        ({NODES: None}, "has no Docker network hpchub for a swarm"),
        ({"hpchub": OVERLAY}, "lets containers reach each other"),
        ({NODES: SHARED}, "lets containers reach each other"),
    ],
    ids=["no network", "no settings", "overlay", "shared bridge"],
)
async def test_network_that_does_not_isolate_users_prevents_starts(
    hub: Hub, engine: Swarm, change: dict[str, Any], text: str
) -> None:
    engine.networks = {name: each for name, each in (engine.networks | change).items() if each}
    (found,) = await hub.runtime.place("cloud").obstacles()
    assert text in found
    with pytest.raises(StartError):
        await begin(hub).start()
    assert not engine.services


@pytest.mark.parametrize(
    ("status", "node", "cause"),
    [
        ({"State": "complete"}, "ready", Cause.FINISHED),
        ({"State": "failed", "ContainerStatus": {"ExitCode": 1}}, "ready", Cause.FAILED),
        ({"State": "failed", "ContainerStatus": {"ExitCode": 137}}, "ready", Cause.KILLED),
        ({"State": "failed", "ContainerStatus": {"ExitCode": 124}}, "ready", Cause.TIME_LIMIT),
        ({"State": "failed", "Err": "starting container failed"}, "ready", Cause.FAILED),
        ({"State": "rejected", "Err": "No such image"}, "ready", Cause.FAILED),
        ({"State": "shutdown"}, "ready", Cause.EVICTED),
        ({"State": "orphaned"}, "ready", Cause.NODE_LOST),
        ({"State": "running"}, "down", Cause.NODE_LOST),
    ],
)
def test_end_has_a_cause(status: dict[str, Any], node: str, cause: Cause) -> None:
    service = {"ID": "s", "Spec": {"Labels": {"hpchub.runtime": "60"}}}
    nodes = {"n": {"ID": "n", "Description": {"Hostname": "n1"}, "Status": {"State": node}}}
    assert spec.ending_of(service, {"ServiceID": "s", "NodeID": "n", "Status": status}, nodes).cause is cause


@pytest.mark.parametrize("task", [None, {}, {"Status": None}, {"Status": {"State": "running"}}])
def test_task_that_has_not_ended_has_no_ending(task: Any) -> None:
    with pytest.raises(Unanswered):
        spec.ending_of({"Spec": {"Labels": {}}}, task, {})


@pytest.mark.parametrize("answer", [[{}], [{"ID": "s", "Spec": None}], [None], [{"ID": "s", "Spec": {"Name": 1}}]])
def test_answer_in_an_unknown_form_is_no_answer(answer: Any) -> None:
    with pytest.raises(Unanswered):
        spec.jobs_of([], answer, [{}], [])


def test_manager_is_reached_at_its_own_address() -> None:
    manager = {"Status": {"Addr": "0.0.0.0"}, "ManagerStatus": {"Addr": "10.0.0.5:2377"}}
    assert spec.address_of(manager) == "10.0.0.5"
    assert spec.address_of({"Status": {"Addr": "10.0.0.6"}}) == "10.0.0.6"


# -- the inventory


def test_each_node_knows_its_part(tmp_path: Path) -> None:
    found = portal(tmp_path)
    assert not docker_gates(found, "docker3")
    manager, worker = docker_swarm(found, "docker2"), docker_swarm(found, "docker3")
    assert (manager["is_manager"], worker["is_manager"]) == (True, False)
    assert worker["manager"] == "docker2"
    assert worker["images"] == [IMAGE, BARE]
    assert docker_swarm(found, "docker1") == {}


def test_node_labels_become_constraints_of_the_gate(tmp_path: Path) -> None:
    labels = [{"label": "jupyter", "value": "yes"}]
    (gate,) = docker_gates(portal(tmp_path, node_labels=labels), "docker2")
    assert gate["policy"]["swarm"]["constraints"] == ["node.labels.jupyter==yes"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"max_gpus": 1}, "has max_gpus, which a swarm cannot grant safely"),
        ({"workers": ["docker2"]}, 'has "docker2" as host and as a worker'),
    ],
)
def test_swarm_that_cannot_work_is_explained(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    with pytest.raises(SiteError) as caught:
        portal(tmp_path, **change)
    assert text in str(caught.value)


def test_plan_shows_the_service(tmp_path: Path) -> None:
    found = portal(tmp_path)
    granted = next(each for each in found.profiles if each.key == "cloudy")
    content = json.loads(kind_of("swarm").plan(found.places[0], granted))
    assert content["TaskTemplate"]["ContainerSpec"]["User"] == "UID:GID"
    assert content["Name"] == "hpchub-SESSION"
