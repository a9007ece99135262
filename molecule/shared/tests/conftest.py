"""The hosts under test, by what they are rather than by name, so that every test runs on every topology.

Each fixture is a testinfra host, reached over ssh as Ansible reaches it. Where one container is several of these, its
other names lead to it too: `testinfra_hosts = ["ssh://login1"]` works on the single node as well.
"""

import json
import os
from pathlib import Path

import pytest
import testinfra

LAB = Path(os.environ.get("HPCHUB_LAB_DIR") or Path.home() / ".cache/hpchub/lab/demo")


def _host(name):
    return testinfra.get_host(f"ssh://{name}", ssh_config=str(LAB / "ssh_config"))


def pytest_generate_tests(metafunc):
    """``login_node`` is the name of each login node."""
    if "login_node" in metafunc.fixturenames:
        try:
            names = [host["name"] for host in json.loads((LAB / "state.json").read_text())["hosts"]]
        except FileNotFoundError:  # nothing but a list of the tests is asked for
            names = []
        names = [name for name in names if name.startswith("login")] or ["login1"]
        metafunc.parametrize("login_node", names, scope="module")


@pytest.fixture(scope="session")
def state():
    """What the lab knows: url, idp_url, users with passwords, hosts with addresses."""
    return json.loads((LAB / "state.json").read_text())


@pytest.fixture(scope="session")
def hosts(state):
    """Every host, by its name in the inventory."""
    return {host["name"]: _host(host["name"]) for host in state["hosts"]}


@pytest.fixture(scope="session")
def hub():
    """The hub host."""
    return _host("hub")


@pytest.fixture(scope="session")
def login():
    """The login node, from which the hub submits."""
    return _host("login1")


@pytest.fixture(scope="session")
def compute():
    """A compute node."""
    return _host("compute1")


@pytest.fixture(scope="session")
def neighbour():
    """Another compute node."""
    return _host("compute2")


@pytest.fixture(scope="session")
def idp():
    """The identity provider's host."""
    return _host("idp")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """When a test fails, show the journal of the units that are down."""
    outcome = yield
    report = outcome.get_result()
    if report.when != "call" or not report.failed:
        return
    for name in ("hub", "login", "compute", "host"):
        if (host := item.funcargs.get(name)) is None:
            continue
        units = host.run("systemctl list-units --failed --plain --no-legend").stdout.split("\n")
        for unit in {line.split()[0] for line in units if line}:
            journal = host.run("journalctl --unit=%s --lines=40 --no-pager", unit)
            report.sections.append((f"{name}: {unit} is down", journal.stdout))
