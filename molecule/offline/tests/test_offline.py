"""The hosts reach only each other and the mirror, and the service was installed from the bundle."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import testinfra

if TYPE_CHECKING:
    from testinfra.host import Host

LAB = Path(os.environ.get("HPCHUB_LAB_DIR") or Path.home() / ".cache/hpchub/lab/offline")
OFFLINE = ("hub", "login1", "compute1", "compute2", "idp")
BUNDLE = "/var/cache/hpchub/bundle"
# The address of a public name server, and of the test network 192.0.2.0/24, which belongs to nobody.
ADDRESSES = ("1.1.1.1", "192.0.2.1")
CONNECT = """
import socket, sys
socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)
"""


def host(name: str) -> Host:
    return testinfra.get_host(f"ssh://{name}", ssh_config=str(LAB / "ssh_config"))


def mirror_of_debian() -> str:
    return str(json.loads((LAB / "state.json").read_text())["debian_mirror"])


@pytest.mark.parametrize("name", OFFLINE)
def test_host_has_no_route_to_other_networks(name: str) -> None:
    assert host(name).check_output("ip -4 route show default; ip -6 route show default") == ""
    for address in ADDRESSES:
        done = host(name).run("python3 -c %s %s 443", CONNECT, address)
        assert done.rc != 0
        assert "Network is unreachable" in done.stderr


@pytest.mark.parametrize("name", OFFLINE)
def test_host_reaches_no_package_index(name: str) -> None:
    for url in (
        "https://pypi.org/simple/",
        "https://registry.npmjs.org/",
        f"{mirror_of_debian()}/dists/trixie/InRelease",
    ):
        assert host(name).run("curl --silent --max-time 10 --output /dev/null %s", url).rc != 0


def test_the_same_request_succeeds_with_a_network() -> None:
    """Without this control, the other tests could pass for another reason."""
    url = f"{mirror_of_debian()}/dists/trixie/InRelease"
    host("mirror").check_output("curl --silent --fail --max-time 60 --output /dev/null %s", url)


@pytest.mark.parametrize("name", OFFLINE)
def test_host_reaches_the_mirror_and_the_other_hosts(name: str) -> None:
    url = "http://mirror/debian/dists/trixie/InRelease"
    host(name).check_output("curl --silent --fail --max-time 60 --output /dev/null %s", url)
    for other in OFFLINE:
        host(name).check_output("python3 -c %s %s 22", CONNECT, other)


@pytest.mark.parametrize(
    "request_",
    [
        "http://mirror/",
        "http://mirror/simple/pip/",
        "http://mirror/debian/../simple/pip/",
        "--proxy http://mirror http://pypi.org/simple/pip/",
        "--proxy http://mirror https://pypi.org/simple/pip/",
    ],
)
def test_mirror_serves_nothing_else(request_: str) -> None:
    done = host("hub").run(f"curl --silent --fail --path-as-is --max-time 20 {request_}")
    assert done.rc != 0
    assert not done.stdout


@pytest.mark.parametrize("name", ["hub", "login1"])
def test_host_that_installs_has_the_bundle(name: str) -> None:
    wheels = host(name).check_output(f"ls {BUNDLE}/wheels").split()
    assert any(wheel.startswith("jupyterhub-") for wheel in wheels)
    assert host(name).check_output(f"ls {BUNDLE}/npm").split()


@pytest.mark.parametrize("name", ["compute1", "compute2", "idp"])
def test_other_host_has_no_bundle(name: str) -> None:
    assert not host(name).file(BUNDLE).exists


@pytest.mark.parametrize(
    ("name", "environment"), [("hub", "/opt/hpchub/hub/current"), ("compute1", "/opt/hpchub/notebook/current")]
)
def test_environment_has_the_locked_packages(name: str, environment: str) -> None:
    locked = host(name).check_output(f"cat {environment}/requirements.lock")
    version = re.search(r"^jupyterhub==(\S+)", locked, re.MULTILINE)
    code = "from importlib.metadata import version; print(version('jupyterhub'))"
    assert version is not None
    assert host(name).check_output(f"{environment}/bin/python -I -c %s", code).strip() == version[1]


def test_proxy_has_the_locked_packages() -> None:
    installed = host("hub").check_output(
        "cat /opt/hpchub/proxy/current/node_modules/configurable-http-proxy/package.json"
    )
    wanted = json.loads(host("hub").check_output("cat /opt/hpchub/proxy/current/package.json"))["dependencies"]
    assert json.loads(installed)["version"] == wanted["configurable-http-proxy"]


def test_job_of_a_user_runs_the_notebook_server() -> None:
    """The browser tests of this scenario start whole sessions."""
    program = "/opt/hpchub/notebook/current/bin/python -I -m jupyterlab --version"
    command = f"runuser --login alice --command 'srun --partition=interactive --time=5 {program}'"
    assert re.fullmatch(r"[0-9]+[.][0-9.]+", host("login1").check_output(command).strip())
