"""Who listens on which port: on every host of the inventory, what is said here and nothing else."""

import json
import re
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader

INVENTORIES = Path(__file__).parents[3] / "inventories"
USERS = range(1000, 60000)
LOOPBACK = ("127.", "[::1]")
SOCKET = re.compile(r"(?P<protocol>tcp|udp) +\S+ +\d+ +\d+ +(?P<address>\S+):(?P<port>\d+) +\S+ *(?P<rest>.*)")

# Programs, as the kernel shortens their names, and their ports over TCP. Nothing but HTCondor listens over UDP.
EVERY_HOST = {"sshd": {22}}
# The batch system's, by topology; Slurm's where none is named.
HTCONDOR = dict.fromkeys(
    (
        *("condor_master", "condor_shared_p", "condor_collecto", "condor_negotia", "condor_schedd", "condor_startd"),
        *("condor_shadow", "condor_starter"),
    ),
    frozenset(range(9600, 9700)),
)
SLURM = ({"slurmctld": {6817}}, {"slurmd": {6818}})
GRID_ENGINE = ({"sge_qmaster": {6444}}, {"sge_execd": {6445}})
LOGIN_NODE, COMPUTE_NODE = (
    {"gridengine": grid_engine, "htcondor": HTCONDOR, "multi_cluster": slurm | grid_engine}
    for slurm, grid_engine in zip(SLURM, GRID_ENGINE, strict=True)
)


class Listener(NamedTuple):
    """One listening socket, as ss shows it."""

    protocol: str
    address: str
    port: int
    programs: frozenset[str]
    uid: int

    @property
    def local(self):
        return self.address.startswith(LOOPBACK)


def listeners(host):
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


def unexpected(host, permitted, notebook_ports=()):
    """Listeners that are neither a permitted program at one of its ports nor of a user's session."""

    def known(listener):
        named = listener.programs and all(listener.port in permitted.get(name, ()) for name in listener.programs)
        # A session's server, and on the loopback address the ports of its kernels.
        at_home = listener.port in notebook_ports or (notebook_ports and listener.local)
        usual = listener.protocol == "tcp" or (listener.programs and listener.programs <= HTCONDOR.keys())
        return usual and (named or (listener.uid in USERS and at_home))

    return [listener for listener in listeners(host) if not known(listener)]


@pytest.fixture(scope="module")
def groups(state):
    """The groups of each host of the inventory."""
    inventory = InventoryManager(loader=DataLoader(), sources=[str(INVENTORIES / state["inventory"])])
    return {host.name: {group.name for group in host.get_groups()} for host in inventory.get_hosts()}


@pytest.fixture(scope="module")
def settings(hub):
    """The ports that the hub's own settings name."""
    return json.loads(hub.check_output("cat /etc/hpchub/hub.json"))


def permitted_on(groups, state, settings):
    """Program to ports on a host of these groups; one that is many things has the ports of all."""
    service, provider = urlsplit(state["url"]).port, urlsplit(state["idp_url"]).port
    permitted = {name: set(ports) for name, ports in EVERY_HOST.items()}
    parts = {
        # The lab's own: the hub host and the provider find each other at their public addresses; see lab_forward.
        "hub": {"apache2": {service, urlsplit(settings["api_url"]).port}, "systemd": {provider}},
        "idp": {"apache2": {provider}, "systemd": {service}},
        "login_nodes": LOGIN_NODE.get(state["topology"], SLURM[0]),
        "compute_nodes": COMPUTE_NODE.get(state["topology"], SLURM[1]),
    }
    for group in parts.keys() & groups:
        for name, ports in parts[group].items():
            permitted.setdefault(name, set()).update(ports)
    permitted["systemd-socket-"] = permitted.get("systemd", set())
    return permitted


def test_nothing_else_listens(hosts, groups, state, settings):
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
def test_a_class_that_starts_at_once_can_wait_at_the_socket(hub, name):
    (waiting,) = {
        fields[3] for line in hub.check_output("ss -xlH").splitlines() if (fields := line.split())[4] == f"/run/{name}"
    }
    assert int(waiting) == 4096


def test_every_host_of_the_inventory_is_looked_at(hosts, groups):
    assert hosts.keys() == groups.keys()


def test_the_labs_own_forwards_are_out_of_the_networks_reach(hub, idp):
    forwards = [each for host in (hub, idp) for each in listeners(host) if "systemd" in each.programs]
    assert forwards
    assert all(each.local for each in forwards)


@pytest.mark.parametrize("socket", ["SOCK_STREAM", "SOCK_DGRAM"])
def test_a_stranger_is_found(hub, groups, state, settings, socket):
    program = f"""
import socket, time
s = socket.socket(socket.AF_INET, socket.{socket})
s.bind(("0.0.0.0", 0))
if s.type == socket.SOCK_STREAM: s.listen()
time.sleep(60)
"""
    unit = "hpchub-test-stranger"
    hub.check_output("systemd-run --quiet --collect --unit=%s -- python3 -c %s", unit, program)
    try:
        for _ in range(50):
            if found := unexpected(hub, permitted_on(groups["hub" if "hub" in groups else "node"], state, settings)):
                break
            time.sleep(0.1)
    finally:
        hub.check_output("systemctl stop %s", unit)
    (stranger,) = found
    assert stranger.programs == {"python3"}
