"""A job of each emulated scheduler is its user's, on a compute node, and nobody else's to end."""

import json
import os
import re
import time
from pathlib import Path

import pytest
import testinfra

LAB = Path(os.environ.get("HPCHUB_LAB_DIR") or Path.home() / ".cache/hpchub/lab/emulated")
PROGRAMS = {
    "pbs": ("qsub", "qdel"),
    "torque": ("qsub", "qdel"),
    "moab": ("msub", "canceljob"),
    "lsf": ("bsub", "bkill"),
}


@pytest.fixture(scope="module")
def login():
    return testinfra.get_host("ssh://login1", ssh_config=str(LAB / "ssh_config"))


def state(login, flavour, number):
    jobs = json.loads(login.check_output(f"lab-emulator {flavour} status"))["jobs"]
    return next(job for job in jobs if job["number"] == number)


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.mark.parametrize("flavour", PROGRAMS)
def test_a_job(login, flavour):
    submit, cancel = (f"/opt/lab-emulator/{flavour}/bin/{name}" for name in PROGRAMS[flavour])
    printed = login.check_output(f"su - alice -c 'echo sleep 300 | {submit}'")
    number = int(re.search("[0-9]+", printed)[0])
    until(lambda: state(login, flavour, number)["session_id"])
    job = state(login, flavour, number)
    node = testinfra.get_host(f"ssh://{job['hosts'][0]}", ssh_config=str(LAB / "ssh_config"))
    processes = node.check_output(f"ps -o user= -o args= --sid {job['session_id']}").splitlines()
    assert {line.split()[0] for line in processes} == {"alice"}
    assert any(line.endswith("sleep 300") for line in processes)
    # ssh says 255, LSF's code, when it fails itself.
    assert login.run(f"su - bob -c '{cancel} {number}' || exit 1").rc == 1
    assert state(login, flavour, number)["state"] == "R"
    login.check_output(f"su - alice -c '{cancel} {number}'")
    until(lambda: state(login, flavour, number)["state"] == "F")
    assert not node.check_output(f"ps -o pid= --sid {job['session_id']} || true")


def test_the_key_is_root_s(login):
    key = login.file("/opt/lab-emulator/key")
    assert (key.user, key.mode) == ("root", 0o600)
