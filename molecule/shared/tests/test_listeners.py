"""On every host of the inventory, only the programs listed here listen, and only on the ports listed here."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from testinfra.host import Host

INVENTORIES = Path(__file__).parents[3] / "inventories"
USERS = range(1000, 60000)
STANDBY = "hub2"
LOOPBACK = ("127.", "[::1]")
SOCKET = re.compile(r"(?P<protocol>tcp|udp) +\S+ +\d+ +\d+ +(?P<address>\S+):(?P<port>\d+) +\S+ *(?P<rest>.*)")

# The TCP ports of each program. The kernel truncates program names after 15 characters. Only HTCondor uses UDP.
EVERY_HOST = {"sshd": {22}}
# The programs of the batch systems. HTCondor's are the same on all hosts.
HTCONDOR: dict[str, Collection[int]] = dict.fromkeys(
    (
        *("condor_master", "condor_shared_p", "condor_collecto", "condor_negotia", "condor_schedd", "condor_startd"),
        *("condor_shadow", "condor_starter"),
    ),
    frozenset(range(9600, 9700)),
)
SLURM: dict[str, dict[str, Collection[int]]] = {
    "login_nodes": {"slurmctld": {6817}, "slurmdbd": {6819}},
    "compute_nodes": {"slurmd": {6818}},
}
GRID_ENGINE: dict[str, dict[str, Collection[int]]] = {
    "login_nodes": {"sge_qmaster": {6444}},
    "compute_nodes": {"sge_execd": {6445}},
}


class Listener(NamedTuple):
    """A listening socket in the output of ss."""

    protocol: str
    address: str
    port: int
    programs: frozenset[str]
    uid: int

    @property
    def local(self) -> bool:
        """Whether the socket listens only on the loopback address."""
        return self.address.startswith(LOOPBACK)


KERNEL = "the kernel"
"""The name of sockets that belong to no program."""


def listeners(host: Host) -> list[Listener]:
    """Return all listening sockets of a host."""
    found = []
    for line in host.check_output("ss -H -lntupe").splitlines():
        parts = SOCKET.match(line)
        assert parts, line
        uid = re.search(r"\buid:(\d+)", parts["rest"])
        programs = frozenset(re.findall(r'\("([^"]+)"', parts["rest"]))
        found.append(
            Listener(parts["protocol"], parts["address"], int(parts["port"]), programs, int(uid[1]) if uid else 0)
        )
    return found


def unexpected(
    host: Host, permitted: Mapping[str, Collection[int]], notebook_ports: Collection[int] = ()
) -> list[Listener]:
    """Return the listeners that belong neither to a permitted program and port nor to a user's session."""

    def is_expected(listener: Listener) -> bool:
        # The kernel itself listens for tunnels.
        if listener.protocol == "udp" and not listener.programs:
            return listener.port in permitted.get(KERNEL, ())
        datagrams = {*HTCONDOR, "dockerd"}
        if listener.protocol != "tcp" and not (listener.programs and listener.programs <= datagrams):
            return False
        # containerd listens for the streams of Kubernetes, which Docker does not use, on a port that it chooses.
        if listener.programs == {"containerd"} and listener.local:
            return True
        if listener.programs and all(listener.port in permitted.get(name, ()) for name in listener.programs):
            return True
        # A notebook server listens on a notebook port. Its kernels use other ports on the loopback address.
        session_port = listener.port in notebook_ports or (bool(notebook_ports) and listener.local)
        return listener.uid in USERS and session_port

    return [listener for listener in listeners(host) if not is_expected(listener)]


@pytest.fixture(scope="module")
def groups(state: dict[str, Any]) -> dict[str, set[str]]:
    """Return the groups of each host in the inventory."""
    inventory = InventoryManager(loader=DataLoader(), sources=[str(INVENTORIES / state["inventory"])])
    found = {host.name: {group.name for group in host.get_groups()} for host in inventory.get_hosts()}
    # The inventory contains one hub host. Its address is a variable, which may name the standby.
    return found | {host["name"]: found["hub"] for host in state["hosts"] if host["name"] == STANDBY}


def port_of(url: str) -> int:
    """Return the port in a URL, which must have one."""
    port = urlsplit(url).port
    assert port is not None, url
    return port


def permitted_on(groups: set[str], state: dict[str, Any], settings: dict[str, Any]) -> dict[str, set[int]]:
    """Return the permitted ports of each program on a host that belongs to the groups."""
    service, provider = port_of(state["url"]), port_of(state["idp_url"])
    portal = state["topology"] == "science_portal"
    permitted = {name: set(ports) for name, ports in EVERY_HOST.items()}
    batch_systems = {
        group: {
            "gridengine": GRID_ENGINE[group],
            "htcondor": HTCONDOR,
            "multi_cluster": SLURM[group] | GRID_ENGINE[group],
        }.get(state["topology"], SLURM[group])
        for group in ("login_nodes", "compute_nodes")
    }
    parts: dict[str, Mapping[str, Collection[int]]] = {
        # systemd listens for the lab's role lab_forward, which connects the hub host and the identity provider.
        "hub": {"apache2": {service, port_of(settings["api_url"])}, "systemd": {provider}},
        # python3 is the mail server, and the stand-in for Globus.
        "idp": {"apache2": {provider}, "systemd": {service}, "python3": {2525, 8447} if portal else {2525}},
        "state_store": {"postgres": {5432}},
        "mirror": {"apache2": {80, 443}},
        # python3 is the gate of a Docker host. The engine itself listens on a unix socket only.
        "docker_hosts": {"python3": {2376}},
        "kubernetes": {"lab-kubernetes": {6443}},
        **batch_systems,
    }
    if portal:
        # A swarm listens for its nodes. Its firewall refuses everybody else.
        parts["docker_hosts"] = {**parts["docker_hosts"], "dockerd": {2377, 7946}, KERNEL: {4789}}
        # The lab's tunnel between the hub and the pods.
        parts["hub"] = {**parts["hub"], KERNEL: {4789}}
        parts["kubernetes"] = {**parts["kubernetes"], KERNEL: {4789}}
    for group in parts.keys() & groups:
        for name, ports in parts[group].items():
            permitted.setdefault(name, set()).update(ports)
    permitted["systemd-socket-"] = permitted.get("systemd", set())
    return permitted


def test_only_expected_programs_listen(
    hosts: dict[str, Host], groups: dict[str, set[str]], state: dict[str, Any], settings: dict[str, Any]
) -> None:
    ports = settings["notebook_ports"]
    notebook_ports = range(ports["first"], ports["last"] + 1)
    found = {
        name: unexpected(
            host,
            permitted_on(groups[name], state, settings),
            notebook_ports if "compute_nodes" in groups[name] else (),
        )
        for name, host in hosts.items()
    }
    assert not {name: sockets for name, sockets in found.items() if sockets}


@pytest.mark.parametrize("name", ["hpchub-hub/hub.sock", "hpchub-proxy/public/proxy.sock", "hpchub-proxy/api/api.sock"])
def test_socket_queue_has_room_for_a_class_that_starts_together(hub: Host, name: str) -> None:
    (backlog,) = {
        fields[3] for line in hub.check_output("ss -xlH").splitlines() if (fields := line.split())[4] == f"/run/{name}"
    }
    assert int(backlog) == 4096


def test_every_host_of_the_inventory_is_checked(hosts: dict[str, Host], groups: dict[str, set[str]]) -> None:
    assert hosts.keys() == groups.keys()


def test_port_forwards_of_the_lab_listen_only_on_the_loopback_address(hub: Host, idp: Host) -> None:
    forwards = [each for host in (hub, idp) for each in listeners(host) if "systemd" in each.programs]
    assert forwards
    assert all(each.local for each in forwards)


@pytest.mark.parametrize("socket", ["SOCK_STREAM", "SOCK_DGRAM"])
def test_unexpected_listener_is_found(
    hub: Host, groups: dict[str, set[str]], state: dict[str, Any], settings: dict[str, Any], socket: str
) -> None:
    program = f"""
import socket, time
s = socket.socket(socket.AF_INET, socket.{socket})
s.bind(("0.0.0.0", 0))
if s.type == socket.SOCK_STREAM: s.listen()
time.sleep(60)
"""
    unit = "hpchub-test-listening"
    hub.check_output("systemd-run --quiet --collect --unit=%s -- python3 -c %s", unit, program)
    try:
        for _ in range(50):
            found = unexpected(hub, permitted_on(groups["hub" if "hub" in groups else "node"], state, settings))
            # ss does not know the program of a socket if the program has just started.
            if found and all(each.programs for each in found):
                break
            time.sleep(0.1)
    finally:
        hub.check_output("systemctl stop %s", unit)
    (listener,) = found
    assert listener.programs == {"python3"}
