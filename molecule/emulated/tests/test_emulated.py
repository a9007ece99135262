"""With each emulated scheduler, a job runs as its user on a compute node, and no other user can cancel it."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import testinfra

if TYPE_CHECKING:
    from collections.abc import Callable

    from testinfra.host import Host

LAB = Path(os.environ.get("HPCHUB_LAB_DIR") or Path.home() / ".cache/hpchub/lab/emulated")
PROGRAMS = {
    "pbs": ("qsub", "qdel"),
    "torque": ("qsub", "qdel"),
    "moab": ("msub", "canceljob"),
    "lsf": ("bsub", "bkill"),
}


@pytest.fixture(scope="module")
def login() -> Host:
    """Return the login node, which runs the server of the emulated schedulers."""
    return testinfra.get_host("ssh://login1", ssh_config=str(LAB / "ssh_config"))


def job_status(login: Host, flavour: str, number: int) -> dict[str, Any]:
    """Return the server's record of a job."""
    jobs: list[dict[str, Any]] = json.loads(login.check_output(f"lab-emulator {flavour} status"))["jobs"]
    return next(job for job in jobs if job["number"] == number)


def until(condition: Callable[[], object]) -> None:
    """Wait up to 30 seconds until the condition is true."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.mark.parametrize("flavour", PROGRAMS)
def test_job_runs_as_its_user_and_only_the_user_can_cancel_it(login: Host, flavour: str) -> None:
    submit, cancel = (f"/opt/lab-emulator/{flavour}/bin/{name}" for name in PROGRAMS[flavour])
    printed = login.check_output(f"su - alice -c 'echo sleep 300 | {submit}'")
    found = re.search("[0-9]+", printed)
    assert found is not None, printed
    number = int(found[0])
    until(lambda: job_status(login, flavour, number)["session_id"])
    job = job_status(login, flavour, number)
    node = testinfra.get_host(f"ssh://{job['hosts'][0]}", ssh_config=str(LAB / "ssh_config"))
    processes = node.check_output(f"ps -o user= -o args= --sid {job['session_id']}").splitlines()
    assert {line.split()[0] for line in processes} == {"alice"}
    assert any(line.endswith("sleep 300") for line in processes)
    # LSF exits with 255, which testinfra would interpret as a failure of ssh.
    assert login.run(f"su - bob -c '{cancel} {number}' || exit 1").rc == 1
    assert job_status(login, flavour, number)["state"] == "R"
    login.check_output(f"su - alice -c '{cancel} {number}'")
    until(lambda: job_status(login, flavour, number)["state"] == "F")
    assert not node.check_output(f"ps -o pid= --sid {job['session_id']} || true")


def test_only_root_can_read_the_key(login: Host) -> None:
    key = login.file("/opt/lab-emulator/key")
    assert (key.user, key.mode) == ("root", 0o600)
