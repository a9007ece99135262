"""The firewall of compute nodes: at notebook ports it admits the hub and the node itself, and touches nothing else."""

import time

import pytest

UNIT = "hpchub-firewall"
NOTEBOOK = 29998  # of the range that every inventory of the lab has
OTHER = 19998

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


def connect(host, address, port):
    """``connected``, or the error's name: one that waits is a TimeoutError."""
    return host.check_output("python3 -c %s %s %s", CONNECT, address, str(port))


@pytest.fixture(scope="module")
def node(compute):
    """A compute node with a firewall, where a program of alice's listens at a notebook port and at another one."""
    if not compute.file(f"/etc/systemd/system/{UNIT}.service").exists:
        pytest.skip("the inventory has no firewall")
    listener = "hpchub-test-listener"
    command = "systemd-run --quiet --collect --uid=alice --unit=%s -- python3 -c %s %s %s"
    compute.check_output(command, listener, LISTEN, str(NOTEBOOK), str(OTHER))
    for _ in range(50):
        if connect(compute, "127.0.0.1", NOTEBOOK) == "connected":
            break
        time.sleep(0.1)
    yield compute
    compute.check_output("systemctl stop %s", listener)


@pytest.fixture(scope="module")
def address(node):
    return node.check_output("hostname --all-ip-addresses").split()[0]


def test_the_hub_passes(hub, address):
    assert connect(hub, address, NOTEBOOK) == "connected"


@pytest.mark.parametrize("name", ["login", "neighbour", "idp"])
def test_others_are_told_at_once(request, address, name):
    other = request.getfixturevalue(name)
    assert connect(other, address, NOTEBOOK) == "ConnectionRefusedError"
    assert connect(other, address, OTHER) == "connected"


def test_the_node_itself_passes(node, address):
    """A user's own programs reach the user's own server."""
    for own in ("127.0.0.1", address):
        assert connect(node, own, NOTEBOOK) == "connected"


def test_it_counts_what_it_refuses(login, node, address):
    def refused():
        rules = node.check_output("nft list table inet hpchub")
        (line,) = (line for line in rules.splitlines() if "reject with tcp reset" in line)
        return int(line.split("packets ")[1].split()[0])

    before = refused()
    connect(login, address, NOTEBOOK)
    assert refused() == before + 1


def test_the_sites_own_tables_stay(login, node, address):
    """Ours is replaced and removed without them, and comes back where they are all flushed and loaded again."""
    node.check_output("nft add table inet site")
    try:
        node.check_output("systemctl reload %s", UNIT)
        node.check_output("systemctl stop %s", UNIT)
        assert connect(login, address, NOTEBOOK) == "connected"
        assert node.check_output("nft list tables") == "table inet site"
        node.check_output("systemctl start %s", UNIT)
        assert connect(login, address, NOTEBOOK) == "ConnectionRefusedError"
        node.check_output("systemctl restart nftables")  # begins with: flush ruleset
        for _ in range(50):  # systemctl waits for the site's unit, not for ours behind it
            if (answer := connect(login, address, NOTEBOOK)) != "connected":
                break
            time.sleep(0.1)
        assert answer == "ConnectionRefusedError"
    finally:
        node.check_output("systemctl stop nftables && systemctl restart %s", UNIT)
        node.run("nft delete table inet site")


def test_it_is_there_after_a_boot(node):
    assert node.service(UNIT).is_enabled


def test_other_hosts_have_none(hub, login):
    for host in (hub, login):
        assert not host.file(f"/etc/systemd/system/{UNIT}.service").exists
