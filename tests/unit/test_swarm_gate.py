"""The gate of a swarm's manager permits sessions, and nothing else. Behind it is a stand-in for the manager."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
from swarm_engine import Swarm
from swarm_place import IMAGE, NAME, SESSION, UID, create, make_home, policy_of, portal

from hpchub.places.swarm import spec
from hpchub.remote import docker_gate
from hpchub.schedulers import job_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Swarm]:
    """Return a stand-in for a swarm, with an image of sessions that only wait."""
    found = Swarm(tmp_path)
    found.images = {IMAGE: ["sleep", "60"]}
    yield found
    found.close()


@pytest.fixture
def policy(tmp_path: Path, engine: Swarm) -> dict[str, Any]:
    """Return the policy that the inventory gives to the gate."""
    return policy_of(tmp_path, engine)


@pytest.fixture
def body(tmp_path: Path) -> dict[str, Any]:
    """Return the description of a service that the hub sends."""
    make_home(tmp_path)
    site_with_place = portal(tmp_path)
    place, granted = site_with_place.places[0], next(each for each in site_with_place.profiles if each.key == "cloudy")
    return spec.service(
        place,
        granted,
        hub="h~12345678",
        user="alice",
        session=SESSION,
        ids=(UID, UID),
        groups=[4300],
        port=20001,
        secret="abc123",
    )


def test_service_of_the_hub_passes_unchanged(body: dict[str, Any], policy: dict[str, Any]) -> None:
    sent = docker_gate.read_service(json.dumps(body).encode(), policy)
    assert json.loads(sent) == body


def of_container(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda body: body["TaskTemplate"]["ContainerSpec"].update(changes)


def of_task(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda body: body["TaskTemplate"].update(changes)


def of_service(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda body: body.update(changes)


def of_resources(part: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda body: body["TaskTemplate"]["Resources"][part].update(changes)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(of_container(CapabilityAdd=["ALL"]), id="capability"),
        pytest.param(of_container(CapabilityDrop=[]), id="keeps capabilities"),
        pytest.param(of_container(Privileges={"Seccomp": {"Mode": "unconfined"}}), id="no seccomp"),
        pytest.param(of_container(Configs=[{"ConfigID": "x"}]), id="config"),
        pytest.param(of_container(Hosts=["10.0.0.1 hub"]), id="names"),
        pytest.param(of_container(DNSConfig={"Nameservers": ["10.0.0.1"]}), id="name server"),
        pytest.param(of_container(Sysctls={"net.ipv4.ip_forward": "1"}), id="kernel setting"),
        pytest.param(of_container(Ulimits=[{"Name": "core", "Hard": 1}]), id="limit"),
        pytest.param(of_container(TTY=True), id="terminal"),
        pytest.param(of_container(Args=["sh"]), id="arguments"),
        pytest.param(of_container(Dir="/proc/self/fd/8"), id="directory"),
        pytest.param(of_container(Healthcheck={"Test": ["CMD", "sh"]}), id="health check"),
        pytest.param(of_container(Hostname="hub"), id="host name"),
        pytest.param(of_task(RestartPolicy={"Condition": "any"}), id="second start"),
        pytest.param(of_task(Placement={"Constraints": ["node.role==manager"]}), id="chosen node"),
        pytest.param(of_task(Networks=[{"Target": "host"}]), id="network of the host"),
        pytest.param(of_task(Networks=[{"Target": "hpchub"}, {"Target": "ingress"}]), id="second network"),
        pytest.param(of_task(LogDriver={"Name": "syslog"}), id="other log"),
        pytest.param(of_task(Runtime="plugin"), id="plugin"),
        pytest.param(of_task(PluginSpec={"Name": "x"}), id="plugin specification"),
        pytest.param(of_service(Mode={"Global": {}}), id="every node"),
        pytest.param(of_service(Mode={"Replicated": {"Replicas": 9}}), id="nine containers"),
        pytest.param(of_service(UpdateConfig={"Parallelism": 1}), id="update"),
    ],
)
def test_gate_describes_the_service_itself(
    body: dict[str, Any], policy: dict[str, Any], change: Callable[[dict[str, Any]], None]
) -> None:
    changed = copy.deepcopy(body)
    change(changed)
    assert changed != body
    assert json.loads(docker_gate.read_service(json.dumps(changed).encode(), policy)) == body


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(of_container(Image="alpine:latest"), "the image is not in the list", id="image"),
        pytest.param(of_container(User="0:0"), "the user is not a uid and a gid", id="root"),
        pytest.param(of_container(User="alice"), "a value of another type", id="user by name"),
        pytest.param(of_container(User="4343:4343"), "does not belong to uid 4343", id="uid of another"),
        pytest.param(of_container(Groups=["6"]), "group 6 belongs to the system", id="group of the disks"),
        pytest.param(of_container(Command=["sh"]), "the program is not hpchub-launch", id="program"),
        pytest.param(of_container(Env=["LD_PRELOAD=/x"]), "LD_PRELOAD is not permitted", id="environment"),
        pytest.param(of_container(ReadOnly=False), "the image can be written", id="writable image"),
        pytest.param(
            of_container(Mounts=[{"Type": "bind", "Source": "/", "Target": "/host"}]),
            "not permitted",
            id="root's files",
        ),
        pytest.param(
            of_container(Mounts=[{"Type": "volume", "Source": "x", "Target": "/x"}]), "not permitted", id="volume"
        ),
        pytest.param(of_container(Secrets=[{"SecretID": "../x"}]), "the secret is not an id", id="secret"),
        pytest.param(of_resources("Limits", MemoryBytes=9 << 30), "the memory is not limited", id="memory"),
        pytest.param(of_resources("Limits", MemoryBytes=0), "the memory is not limited", id="no memory limit"),
        pytest.param(of_resources("Limits", Pids=-1), "the processes are not limited", id="no process limit"),
        pytest.param(of_resources("Reservations", NanoCPUs=0), "the cores are not limited", id="no cores"),
        pytest.param(of_resources("Reservations", NanoCPUs=5 * 10**9), "too many cores", id="too many cores"),
        pytest.param(
            of_service(EndpointSpec={"Ports": [{"TargetPort": 22}]}), "a port is not permitted", id="other port"
        ),
        pytest.param(of_service(EndpointSpec={"Ports": []}), "a value of another type", id="no port"),
        pytest.param(of_service(Name="hpchub-0000000000000000"), "the name is not valid", id="other session"),
        pytest.param(of_service(Name="other"), "the name is not valid", id="other name"),
        pytest.param(of_service(Labels={}), "the labels are not those of a session", id="no labels"),
        pytest.param(of_service(TaskTemplate=None), "a value of another type", id="no task"),
    ],
)
def test_gate_refuses_everything_else(
    body: dict[str, Any], policy: dict[str, Any], change: Callable[[dict[str, Any]], None], problem: str
) -> None:
    changed = copy.deepcopy(body)
    change(changed)
    with pytest.raises(docker_gate.Refused) as caught:
        docker_gate.read_service(json.dumps(changed).encode(), policy)
    assert problem in str(caught.value)


def test_cores_are_limited_unless_the_site_says_otherwise(body: dict[str, Any], policy: dict[str, Any]) -> None:
    loose = {**policy, "swarm": {**policy["swarm"], "limit_cores": False}}
    found = json.loads(docker_gate.read_service(json.dumps(body).encode(), loose))["TaskTemplate"]["Resources"]
    assert "NanoCPUs" not in found["Limits"]
    assert found["Reservations"]["NanoCPUs"] == 2 * 10**9


SECRET = {
    "Name": NAME,
    "Labels": {"hpchub.hub": "h~1", "hpchub.user": "alice", "hpchub.session": SESSION, "hpchub.runtime": "60"},
    "Data": "eA==",
}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, ""),
        ({"Driver": {"Name": "x"}, "Templating": {"Name": "golang"}}, ""),
        ({"Name": "other"}, "the name is not valid"),
        ({"Name": job_name("00000000000000bb")}, "the name is not valid"),
        ({"Labels": {}}, "the labels are not those of a session"),
        ({"Labels": None}, "the labels are not those of a session"),
        ({"Data": None}, "the secret is not text"),
    ],
)
def test_gate_permits_secrets_of_sessions_only(change: dict[str, Any], problem: str) -> None:
    body = json.dumps({**SECRET, **change}).encode()
    if problem:
        with pytest.raises(docker_gate.Refused, match=problem):
            docker_gate.read_secret(body)
    else:
        assert json.loads(docker_gate.read_secret(body)) == SECRET


@pytest.mark.parametrize("text", ["[]", "1", "null"])
def test_description_that_is_no_object_is_refused(policy: dict[str, Any], text: str) -> None:
    with pytest.raises(docker_gate.Refused, match="the description is not an object"):
        docker_gate.read_secret(text.encode())
    with pytest.raises(docker_gate.Refused, match="the description is not an object"):
        docker_gate.read_service(text.encode(), policy)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/v1.45/swarm"),
        ("GET", "/v1.45/swarm/unlockkey"),
        ("GET", "/v1.45/info"),
        ("GET", f"/v1.45/secrets/{NAME}"),
        ("GET", "/v1.45/nodes/n1"),
        ("GET", "/v1.45/services/other"),
        ("GET", "/v1.45/configs"),
        ("POST", f"/v1.45/services/{NAME}/update?version=1"),
        ("POST", "/v1.45/nodes/n1/update?version=1"),
        ("POST", "/v1.45/swarm/leave?force=1"),
        ("POST", "/v1.45/swarm/update?version=1"),
        ("POST", "/v1.45/containers/create?name=x"),
        ("POST", f"/v1.45/containers/{NAME}/start"),
        ("POST", "/v1.45/networks/create"),
        ("DELETE", "/v1.45/nodes/n1"),
        ("DELETE", "/v1.45/services/other"),
        ("DELETE", "/v1.45/secrets/other"),
        ("DELETE", f"/v1.45/services/{NAME}/logs"),
        ("GET", "/v1.45/networks/ingress"),
        ("GET", "/v1.45/services/%2e%2e/info"),
    ],
)
def test_gate_of_a_manager_refuses_other_requests(policy: dict[str, Any], method: str, target: str) -> None:
    with pytest.raises(docker_gate.Refused):
        docker_gate.rewrite(method, target, b"", policy)


@pytest.mark.parametrize("name", ["secrets", "services", "tasks"])
def test_list_contains_only_sessions_whatever_the_hub_asks(policy: dict[str, Any], name: str) -> None:
    target, _ = docker_gate.rewrite("GET", f"/v1.45/{name}?filters=%7B%7D", b"", policy)
    assert target.startswith(f"/v1.45/{name}?filters=")
    assert "hpchub.hub" in target


def test_gate_of_a_host_without_a_swarm_knows_no_services(policy: dict[str, Any], body: dict[str, Any]) -> None:
    alone = {**policy, "swarm": None}
    for method, target in (("GET", "/services"), ("GET", "/nodes"), ("DELETE", f"/secrets/{NAME}")):
        with pytest.raises(docker_gate.Refused):
            docker_gate.rewrite(method, target, b"", alone)
    with pytest.raises(docker_gate.Refused):
        docker_gate.rewrite("POST", "/services/create", json.dumps(body).encode(), alone)


@pytest.mark.parametrize(("age", "left"), [(60 + 118, True), (60 + 122, False)])
def test_gate_ends_a_service_whose_user_has_stopped_its_timeout(
    engine: Swarm, policy: dict[str, Any], age: int, left: bool
) -> None:
    create(engine, policy, "h~1")
    engine.services[NAME].changed -= age
    docker_gate.end_overdue_services(str(engine.socket))
    assert (NAME in engine.services) is left
    assert NAME in engine.secrets
