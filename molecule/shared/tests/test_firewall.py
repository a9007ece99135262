"""The firewall of compute nodes: only the hub and the node itself reach the notebook ports. It affects nothing else."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testinfra.host import Host

UNIT = "hpchub-firewall"

LISTEN = """
import socket, sys
sockets = [socket.create_server(("", int(port))) for port in sys.argv[1:]]
print("listening", flush=True)
while True:
    for each in sockets:
        each.settimeout(0.1)
        try:
            each.accept()[0].close()
        except TimeoutError:
            pass
"""
CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5).close()
except OSError as error:
    sys.exit(print(type(error).__name__))
print("connected")
"""


def connect(host: Host, address: str, port: int) -> str:
    """Connect from a host, and return ``connected`` or the name of the error."""
    return str(host.check_output("python3 -c %s %s %s", CONNECT, address, str(port)))


@pytest.fixture(scope="module")
def notebook(settings: dict[str, Any]) -> int:
    """Return a notebook port."""
    return int(settings["notebook_ports"]["last"]) - 1


@pytest.fixture(scope="module")
def other(settings: dict[str, Any]) -> int:
    """Return a port that is no notebook port."""
    return int(settings["notebook_ports"]["first"]) - 2


@pytest.fixture(scope="module")
def node(compute: Host, notebook: int, other: int) -> Iterator[Host]:
    """Return a compute node with a firewall. A program of the user alice listens there on both ports."""
    clusters = json.loads(compute.file("/etc/hpchub/profiles.json").content_string)["clusters"]
    if not any(cluster["firewall"] for cluster in clusters):
        pytest.skip("this inventory does not enable the firewall")
    listener = "hpchub-test-listener"
    command = "systemd-run --quiet --collect --uid=alice --unit=%s -- python3 -c %s %s %s"
    compute.check_output(command, listener, LISTEN, str(notebook), str(other))
    for _ in range(50):
        if connect(compute, "127.0.0.1", notebook) == "connected":
            break
        time.sleep(0.1)
    yield compute
    compute.check_output("systemctl stop %s", listener)


@pytest.fixture(scope="module")
def address(node: Host) -> str:
    """Return the IP address of the compute node."""
    return str(node.check_output("hostname --all-ip-addresses").split()[0])


def test_hub_can_connect(hub: Host, address: str, notebook: int) -> None:
    assert connect(hub, address, notebook) == "connected"


@pytest.mark.parametrize("name", ["login", "other_compute", "idp"])
def test_other_hosts_are_refused_immediately(
    request: pytest.FixtureRequest, address: str, name: str, notebook: int, other: int
) -> None:
    """A refused connection, unlike a dropped one, causes no timeout."""
    host: Host = request.getfixturevalue(name)
    assert connect(host, address, notebook) == "ConnectionRefusedError"
    assert connect(host, address, other) == "connected"


def test_node_itself_can_connect(node: Host, address: str, notebook: int) -> None:
    """Programs on the node reach the notebook server, for example programs that the user starts there."""
    for own in ("127.0.0.1", address):
        assert connect(node, own, notebook) == "connected"


def test_refused_connections_are_counted(login: Host, node: Host, address: str, notebook: int) -> None:
    def refused() -> int:
        rules = node.check_output("nft list table inet hpchub")
        (line,) = (line for line in rules.splitlines() if "reject with tcp reset" in line)
        return int(line.split("packets ")[1].split()[0])

    before = refused()
    connect(login, address, notebook)
    assert refused() == before + 1


def test_firewall_leaves_the_sites_tables_alone(login: Host, node: Host, address: str, notebook: int) -> None:
    """Reloading and stopping the firewall keeps other tables, and the firewall returns after nftables flushes them."""
    node.check_output("nft add table inet site")
    try:
        node.check_output("systemctl reload %s", UNIT)
        node.check_output("systemctl stop %s", UNIT)
        assert connect(login, address, notebook) == "connected"
        assert node.check_output("nft list tables") == "table inet site"
        node.check_output("systemctl start %s", UNIT)
        assert connect(login, address, notebook) == "ConnectionRefusedError"
        node.check_output("systemctl restart nftables")  # its configuration starts with `flush ruleset`
        for _ in range(50):  # systemctl does not wait until the firewall's unit has restarted as well
            if (answer := connect(login, address, notebook)) != "connected":
                break
            time.sleep(0.1)
        assert answer == "ConnectionRefusedError"
    finally:
        node.check_output("systemctl stop nftables && systemctl restart %s", UNIT)
        node.run("nft delete table inet site")


def test_firewall_starts_on_boot(node: Host) -> None:
    assert node.service(UNIT).is_enabled


def test_hub_and_login_node_have_no_firewall(hub: Host, login: Host) -> None:
    for host in (hub, login):
        assert not host.file(f"/etc/systemd/system/{UNIT}.service").exists
