"""Places beside clusters in one form. Some tests need a lab with Docker (``docker1``) or Kubernetes (``kube1``)."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from .lab import LabError, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from .lab import Lab
    from .pages import Visitor

PROGRAM = Path(__file__).resolve().parents[1] / "security" / "programs" / "container.py"
DOCKER = "docker1"
SWARM = ("docker2", "docker3")
"""The nodes of the swarm, the manager first."""
KUBERNETES = "kube1"
OF_PODS = {"user namespace", "secrets"}
"""What the attack program finds in a pod of the lab. podman permits user namespaces, which the runtimes of Kubernetes
forbid, and a pod has its Secret for as long as it runs."""


def places(lab: Lab) -> list[dict[str, Any]]:
    """Return the places of the lab."""
    found: list[dict[str, Any]] = lab.profile_list().get("places") or []
    return found


def profile_in(lab: Lab, place: str) -> str:
    """Return the key of a profile of a place or a cluster."""
    return next(str(each["key"]) for each in lab.profiles() if place in (each["place"], each["cluster"]))


@pytest.fixture(autouse=True)
def with_places(lab: Lab) -> None:
    if not places(lab):
        pytest.skip("this lab has no places")


@pytest.fixture
def docker_place(lab: Lab) -> dict[str, Any]:
    """Return a place with Docker."""
    found = next((each for each in places(lab) if each["kind"] == "docker"), None)
    if found is None:
        pytest.skip("this lab has no Docker host")
    return found


def containers(lab: Lab) -> list[str]:
    """Return the names of all containers of sessions, whatever their state."""
    return lab.run(DOCKER, ["docker", "ps", "--all", "--format", "{{.Names}}", "--filter", "label=hpchub.hub"]).split()


@pytest.fixture
def kubernetes_place(lab: Lab) -> dict[str, Any]:
    """Return a place with Kubernetes."""
    found = next((each for each in places(lab) if each["kind"] == "kubernetes"), None)
    if found is None:
        pytest.skip("this lab has no Kubernetes")
    return found


def pods(lab: Lab) -> list[str]:
    """Return the names of the containers of all pods that run."""
    return lab.run(KUBERNETES, ["podman", "ps", "--format", "{{.Names}}", "--filter", "name=k8s_"]).split()


@pytest.fixture
def swarm(lab: Lab) -> dict[str, Any]:
    """Return a place that is a swarm."""
    found = next((each for each in places(lab) if each["kind"] == "swarm"), None)
    if found is None:
        pytest.skip("this lab has no swarm")
    return found


def services(lab: Lab) -> list[str]:
    """Return the names of all services of sessions."""
    return lab.run(SWARM[0], ["docker", "service", "ls", "--format", "{{.Name}}"]).split()


def of_services(lab: Lab) -> dict[str, list[str]]:
    """Return what belongs to services: the containers of each node, and the secrets."""
    running = ["docker", "ps", "--all", "--format", "{{.Names}}", "--filter", "label=hpchub.hub"]
    found = {node: lab.run(node, running).split() for node in SWARM}
    return found | {"secrets": lab.run(SWARM[0], ["docker", "secret", "ls", "--format", "{{.Name}}"]).split()}


def left_in(lab: Lab, name: str) -> list[str]:
    """Return the jobs, containers, services or pods of a cluster or place that have not ended."""
    if name in lab.batches:
        return [job.id for job in lab.batches[name].jobs()]
    kind = next(each["kind"] for each in places(lab) if each["name"] == name)
    return {"docker": containers, "swarm": services, "kubernetes": pods}[kind](lab)


def test_form_starts_a_session_in_each_place(lab: Lab, visitor: Callable[[], Visitor]) -> None:
    """One form offers all clusters and places. A session computes in each place."""
    alice = visitor()
    alice.sign_in("alice")
    offered = alice.offered_profiles()
    # A host without a scheduler is in the list of clusters.
    for place in (*lab.profile_list()["clusters"], *places(lab)):
        key = profile_in(lab, place["name"])
        assert key in offered
        notebook = alice.start(key).new_notebook("python3")
        assert notebook.run("6*7") == "42"
        session = json.loads(alice.fetch("GET", "/hub/api/hpchub/sessions/alice").text)
        assert session["job"]["cluster"] == place["name"]
        status = alice.page.locator("#hpchub-status")
        for words in ("left", "memory", f"of {session['job']['memory'] / 2**30:.1f} GB", "CPU"):
            expect(status).to_contain_text(words, timeout=30_000)
        if session["job"]["place"]:
            expect(status).to_contain_text(f"in {place['name']}")
        expect(alice.page.get_by_text("official Jupyter news")).to_have_count(0)
        alice.stop_server()
        ended = re.sub(r"\s+", " ", alice.page.locator(".hpchub-ended").first.inner_text())
        assert ("the cluster" in ended) is not bool(session["job"]["place"]), ended


def test_container_is_removed_after_its_session(
    lab: Lab, visitor: Callable[[], Visitor], docker_place: dict[str, Any]
) -> None:
    alice = visitor()
    alice.sign_in("alice")
    alice.start(profile_in(lab, docker_place["name"]))
    assert len(containers(lab)) == 1
    alice.stop_server()
    eventually("the container is removed", lambda: not containers(lab))


@pytest.mark.parametrize("pause", [0.0, 0.2, 0.5, 1.0, 2.0, 5.0])
def test_killed_hub_leaves_no_container_that_nobody_knows(
    lab: Lab, visitor: Callable[[], Visitor], docker_place: dict[str, Any], pause: float
) -> None:
    """Kill the hub during a start. Each container then belongs to the session of the user, or it is removed."""
    alice = visitor()
    alice.sign_in("alice")
    key = profile_in(lab, docker_place["name"])
    assert alice.fetch("POST", "/hub/api/users/alice/server", body={"profile": key}).status in (201, 202)
    time.sleep(pause)
    lab.run("hub", ["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "jupyterhub"])

    def settled() -> bool:
        try:
            server = alice.server()
        except (AssertionError, KeyError, TypeError):
            return False
        left = containers(lab)
        return (bool(server.get("ready")) and len(left) == 1) or (not server and not left)

    eventually("the session runs, or nothing is left", settled, timeout=240, interval=2)
    alice.leave_nothing_running()
    eventually("nothing is left", lambda: not containers(lab), timeout=240, interval=2)


def test_killed_hub_leaves_nothing_behind_in_any_place(lab: Lab, visitor: Callable[[], Visitor]) -> None:
    """Kill the hub during a start in each cluster and place. The session runs, or nothing is left."""
    alice = visitor()
    alice.sign_in("alice")
    for name in [*lab.batches, *(each["name"] for each in places(lab))]:
        body = {"profile": profile_in(lab, name)}
        assert alice.fetch("POST", "/hub/api/users/alice/server", body=body).status in (201, 202), name
        time.sleep(1)
        lab.run("hub", ["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "jupyterhub"])

        def settled(name: str = name) -> bool:
            try:
                server = alice.server()
            except (AssertionError, KeyError, TypeError):
                return False
            left = left_in(lab, name)
            return (bool(server.get("ready")) and len(left) == 1) or (not server and not left)

        def gone(name: str = name) -> bool:
            return not left_in(lab, name)

        eventually(f"{name}: the session runs, or nothing is left", settled, timeout=240, interval=2)
        alice.leave_nothing_running()
        eventually(f"{name}: nothing is left", gone, timeout=240, interval=2)


def test_service_is_removed_with_everything_after_its_session(
    lab: Lab, visitor: Callable[[], Visitor], swarm: dict[str, Any]
) -> None:
    alice = visitor()
    alice.sign_in("alice")
    alice.start(profile_in(lab, swarm["name"]))
    (name,) = services(lab)
    assert of_services(lab)["secrets"] == [name]
    visible = lab.run(SWARM[0], ["docker", "service", "inspect", name])
    visible += lab.run(SWARM[0], ["docker", "secret", "inspect", name])
    for word in ("JUPYTERHUB", "TOKEN", "PRIVATE KEY"):
        assert word not in visible.upper()
    alice.stop_server()
    eventually("the service is removed", lambda: not services(lab))
    eventually("nothing is left", lambda: not any(of_services(lab).values()))


@pytest.mark.parametrize("pause", [0.0, 0.1, 0.2, 0.4, 1.0, 3.0])
def test_killed_hub_leaves_no_service_that_nobody_knows(
    lab: Lab, visitor: Callable[[], Visitor], swarm: dict[str, Any], pause: float
) -> None:
    """Kill the hub during a start. The service then belongs to the session of the user, or it is removed."""
    alice = visitor()
    alice.sign_in("alice")
    key = profile_in(lab, swarm["name"])
    assert alice.fetch("POST", "/hub/api/users/alice/server", body={"profile": key}).status in (201, 202)
    time.sleep(pause)
    lab.run("hub", ["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "jupyterhub"])

    def settled() -> bool:
        try:
            server = alice.server()
        except (AssertionError, KeyError, TypeError):
            return False
        left = services(lab)
        return (bool(server.get("ready")) and len(left) == 1) or (not server and not left)

    eventually("the session runs, or nothing is left", settled, timeout=240, interval=2)
    alice.leave_nothing_running()
    eventually("no service is left", lambda: not services(lab), timeout=240, interval=2)
    eventually("nothing is left", lambda: not any(of_services(lab).values()), timeout=240, interval=2)


def test_session_waits_for_a_node_of_the_swarm_and_says_why(
    lab: Lab, visitor: Callable[[], Visitor], swarm: dict[str, Any]
) -> None:
    """All nodes are emptied. The page of the start shows this, and the session starts when a node is back."""

    def set_nodes(availability: str) -> None:
        for node in SWARM:
            lab.run(SWARM[0], ["docker", "node", "update", f"--availability={availability}", node])

    alice = visitor()
    alice.sign_in("alice")
    alice.page.goto(f"{lab.url}/hub/spawn")
    set_nodes("drain")
    try:
        alice.choose_profile(profile_in(lab, swarm["name"]))
        message = alice.page.locator("#progress-message")
        expect(message).to_contain_text("no node is available", timeout=60_000)
    finally:
        set_nodes("active")
    assert alice.wait_for_lab().new_notebook("python3").run("6*7") == "42"


def test_node_of_the_swarm_that_is_away_ends_no_session(
    lab: Lab, visitor: Callable[[], Visitor], swarm: dict[str, Any]
) -> None:
    """The manager loses a node. The session on it goes on, and is unknown until the node is back."""
    alice = visitor()
    alice.sign_in("alice")
    lab.run(SWARM[0], ["docker", "node", "update", "--availability=drain", SWARM[0]])
    try:
        jupyter = alice.start(profile_in(lab, swarm["name"]))
    finally:
        lab.run(SWARM[0], ["docker", "node", "update", "--availability=active", SWARM[0]])
    ports = ["-p", "tcp", "-m", "multiport", "--ports", "2377,7946", "-j", "DROP"]
    lab.run(SWARM[1], ["iptables", "-w", "-I", "OUTPUT", *ports])
    try:

        def is_down() -> bool:
            return "Down" in lab.run(SWARM[0], ["docker", "node", "ls", "--format", "{{.Status}}"])

        eventually("the manager loses the node", is_down, timeout=120)
        time.sleep(30)
        assert alice.server().get("ready")
        assert jupyter.new_notebook("python3").run("6*7") == "42"
    finally:
        lab.run(SWARM[1], ["iptables", "-w", "-D", "OUTPUT", *ports])
    alice.stop_server()
    eventually("nothing is left", lambda: not any(of_services(lab).values()), timeout=240, interval=2)


def test_container_in_the_swarm_reaches_nothing_of_another_user(
    lab: Lab, visitor: Callable[[], Visitor], swarm: dict[str, Any]
) -> None:
    """Run our attack program in a container of the swarm, beside the container of another user."""
    key = profile_in(lab, swarm["name"])
    bob = visitor()
    bob.sign_in("bob")
    bob.start(key)
    (name,) = services(lab)
    (port,) = json.loads(lab.run(SWARM[0], ["docker", "service", "inspect", name]))[0]["Endpoint"]["Ports"]
    published = port["PublishedPort"]
    node = next(node for node, found in of_services(lab).items() if node in SWARM and found)
    (container,) = of_services(lab)[node]
    network = json.loads(lab.run(node, ["docker", "inspect", container]))[0]["NetworkSettings"]["Networks"]["hpchub"]
    targets = [f"{network['IPAddress']}:{published}", f"{network['Gateway']}:22", f"{network['Gateway']}:{published}"]
    # The other node, its gateways, and the ports of the swarm
    targets += [f"{lab.addresses[each]}:{number}" for each in SWARM for number in (22, 2376, 2377, 7946, published)]
    targets += [f"172.18.0.1:{number}" for number in (22, 2377, 7946)]
    targets += [f"{lab.addresses['hub']}:{number}" for number in (22, 8443)]
    targets += [f"{lab.addresses['login1']}:22"]
    alice = visitor()
    alice.sign_in("alice")
    notebook = alice.start(key).new_notebook("python3")
    assert len(services(lab)) == 2
    code = f"import sys; sys.argv = ['container.py', *{targets!r}]; exec({PROGRAM.read_text()!r})"
    # Each session has its own secret for as long as it runs, and no other one.
    assert json.loads(notebook.run(code)).keys() - {"secrets"} == set()


def test_pod_reaches_nothing_of_another_user(
    lab: Lab, visitor: Callable[[], Visitor], kubernetes_place: dict[str, Any]
) -> None:
    """Run our attack program in a pod, beside the pod of another user. It reaches the hub's API only."""
    key = profile_in(lab, kubernetes_place["name"])
    bob = visitor()
    bob.sign_in("bob")
    bob.start(key)
    (name,) = pods(lab)
    described = json.loads(lab.run(KUBERNETES, ["podman", "inspect", name]))[0]
    (network,) = described["NetworkSettings"]["Networks"].values()
    api = f"{lab.addresses['hub']}:8445"
    targets = [api, f"{network['IPAddress']}:8888", f"{network['Gateway']}:22"]
    ports = {"hub": (22, 8443), "login1": (22,), DOCKER: (22, 2376), KUBERNETES: (22, 6443), "idp": (8444,)}
    targets += [f"{lab.addresses[host]}:{port}" for host, found in ports.items() for port in found]
    alice = visitor()
    alice.sign_in("alice")
    notebook = alice.start(key).new_notebook("python3")
    code = f"import sys; sys.argv = ['container.py', *{targets!r}]; exec({PROGRAM.read_text()!r})"
    assert json.loads(notebook.run(code)).keys() - OF_PODS == {f"connection to {api}"}


def test_container_reaches_nothing_of_another_user(
    lab: Lab, visitor: Callable[[], Visitor], docker_place: dict[str, Any]
) -> None:
    """Run our attack program in a container, beside the container of another user."""
    key = profile_in(lab, docker_place["name"])
    bob = visitor()
    bob.sign_in("bob")
    bob.start(key)
    (name,) = containers(lab)
    described = json.loads(lab.run(DOCKER, ["docker", "inspect", name]))[0]
    (network,) = described["NetworkSettings"]["Networks"].values()
    ports = [each["HostPort"] for found in described["HostConfig"]["PortBindings"].values() for each in found]
    targets = [f"{network['IPAddress']}:{port}" for port in ports]
    targets += [f"{network['Gateway']}:{port}" for port in (22, 2375, 2376, *ports)]
    targets += [f"{lab.addresses[DOCKER]}:{port}" for port in (22, 2376, *ports)]
    targets += [f"{lab.addresses['hub']}:{port}" for port in (22, 8443)]
    targets += [f"{lab.addresses['login1']}:22"]
    alice = visitor()
    alice.sign_in("alice")
    notebook = alice.start(key).new_notebook("python3")
    code = f"import sys; sys.argv = ['container.py', *{targets!r}]; exec({PROGRAM.read_text()!r})"
    assert json.loads(notebook.run(code)) == {}


def test_secrets_are_invisible_on_the_docker_host(
    lab: Lab, visitor: Callable[[], Visitor], docker_place: dict[str, Any]
) -> None:
    alice = visitor()
    alice.sign_in("alice")
    alice.start(profile_in(lab, docker_place["name"]))
    (name,) = containers(lab)
    visible = lab.run(DOCKER, ["docker", "inspect", name])
    for word in ("JUPYTERHUB", "TOKEN", "PRIVATE KEY"):
        assert word not in visible.upper()


def test_engine_cannot_be_reached_from_the_network(lab: Lab, docker_place: dict[str, Any]) -> None:
    """The engine listens on its socket only. The gate demands the certificate of the hub."""
    for port in (2375, 2376):
        with pytest.raises(LabError):
            lab.run("login1", ["curl", "--fail", "--insecure", "--max-time", "5", f"https://{DOCKER}:{port}/version"])
    listening = lab.run(DOCKER, ["ss", "-Hltnp"])
    assert "dockerd" not in listening


def test_host_that_is_away_ends_no_session(
    lab: Lab, visitor: Callable[[], Visitor], docker_place: dict[str, Any]
) -> None:
    """The gate stops. The session goes on, and the page of another start shows that the host does not answer."""
    alice = visitor()
    alice.sign_in("alice")
    jupyter = alice.start(profile_in(lab, docker_place["name"]))
    unit = f"hpchub-docker-gate@{docker_place['name']}.service"
    lab.run(DOCKER, ["systemctl", "stop", unit])
    try:
        time.sleep(60)
        assert alice.server().get("ready")
        assert jupyter.new_notebook("python3").run("6*7") == "42"
    finally:
        lab.run(DOCKER, ["systemctl", "start", unit])
