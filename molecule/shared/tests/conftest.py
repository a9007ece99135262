"""Fixtures for the hosts under test.

Each fixture returns a testinfra host. testinfra connects over ssh, as Ansible does. The fixtures are named after the
role of a host, so that every test runs on every topology. If one container has several roles, it also has several ssh
names: on the single node, `hub`, `login1` and `compute1` are the same container.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import testinfra

if TYPE_CHECKING:
    from collections.abc import Generator

    from testinfra.host import Host

LAB = Path(os.environ.get("HPCHUB_LAB_DIR") or Path.home() / ".cache/hpchub/lab/demo")


def _host(name: str) -> Host:
    return testinfra.get_host(f"ssh://{name}", ssh_config=str(LAB / "ssh_config"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that uses ``login_node`` once for each login node of the topology."""
    if "login_node" in metafunc.fixturenames:
        try:
            names = [host["name"] for host in json.loads((LAB / "state.json").read_text())["hosts"]]
        except FileNotFoundError:  # pytest only collects the tests, and there is no lab
            names = []
        names = [name for name in names if name.startswith("login")] or ["login1"]
        metafunc.parametrize("login_node", names, scope="module")


@pytest.fixture(scope="session")
def state() -> dict[str, Any]:
    """Return the lab's state: url, idp_url, users with their passwords, and hosts with their addresses."""
    state: dict[str, Any] = json.loads((LAB / "state.json").read_text())
    return state


@pytest.fixture(scope="session")
def hosts(state: dict[str, Any]) -> dict[str, Host]:
    """Return all hosts of the lab. The keys are the names in the inventory."""
    return {host["name"]: _host(host["name"]) for host in state["hosts"]}


@pytest.fixture(scope="session")
def hub() -> Host:
    """Return the hub host."""
    return _host("hub")


@pytest.fixture(scope="session")
def login() -> Host:
    """Return the login node. The hub submits jobs there."""
    return _host("login1")


@pytest.fixture(scope="session")
def compute() -> Host:
    """Return a compute node."""
    return _host("compute1")


@pytest.fixture(scope="session")
def other_compute() -> Host:
    """Return a second compute node."""
    return _host("compute2")


@pytest.fixture(scope="session")
def idp() -> Host:
    """Return the host of the identity provider."""
    return _host("idp")


@pytest.fixture(scope="module")
def settings(hub: Host) -> dict[str, Any]:
    """Return the hub's settings."""
    found: dict[str, Any] = json.loads(hub.check_output("cat /etc/hpchub/hub.json"))
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the journal of all failed units to the report of a failed test."""
    report = yield
    if report.when != "call" or not report.failed:
        return report
    fixtures: dict[str, Any] = item.funcargs if isinstance(item, pytest.Function) else {}
    for name in ("hub", "login", "compute", "host"):
        if (host := fixtures.get(name)) is None:
            continue
        units = host.run("systemctl list-units --failed --plain --no-legend").stdout.split("\n")
        for unit in {line.split()[0] for line in units if line}:
            journal = host.run("journalctl --unit=%s --lines=40 --no-pager", unit)
            report.sections.append((f"the unit {unit} failed on the host {name}", journal.stdout))
    return report
