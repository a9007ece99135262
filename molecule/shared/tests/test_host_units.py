"""A host without a scheduler runs sessions as units of systemd, and accepts only what its accounts may do."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from hpchub.schedulers import SCHEDULERS, Cause, job_comment, job_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from testinfra.backend.base import CommandResult
    from testinfra.host import Host

SYSTEMD = SCHEDULERS["systemd"]
SESSION = "00000000000000aa"
MARK = "0123456789abcdef"
SOCKET = "/run/hpchub-host.sock"


@pytest.fixture(scope="module")
def bigmem(hosts: dict[str, Host]) -> Host:
    """Return the host that runs sessions itself."""
    for host in hosts.values():
        if host.file("/etc/hpchub/host.json").exists:
            return host
    pytest.skip("no host of this topology runs sessions itself")


def run(host: Host, account: str, *words: str, text: str = "") -> CommandResult:
    """Run hpchub-host with an account."""
    command = " ".join(host.backend.quote("%s", word) for word in ("hpchub-host", *words))
    return host.run("printf %%s %s | runuser -u %s -- sh -c %s", text, account, f"cd / && {command}")


def script(user: str = "alice", body: str = "sleep 60", **changes: object) -> str:
    """Return a batch script."""
    values = {
        "name": job_name(SESSION),
        "tag": job_comment("test~00000000", user, SESSION),
        "queue": "host",
        "cores": 1,
        "memory": 256,
        "time": 600,
        **changes,
    }
    return "\n".join(["#!/bin/bash", *(f"#HPCHUB --{name}={value}" for name, value in values.items()), body, ""])


@pytest.fixture
def start(bigmem: Host) -> Iterator[Callable[..., str]]:
    """Return a function that starts a session of alice, and cancel the sessions after the test."""
    started = []
    bigmem.check_output("install -d -o alice -g hpc -m 0700 /home/alice/.hpchub /home/alice/.hpchub/logs")

    def run_script(**changes: Any) -> str:
        done = run(bigmem, "alice", "submit", text=script(**changes))
        assert done.rc == 0, done.stderr
        started.append(SYSTEMD.parse_submit(done.stdout))
        return started[-1]

    yield run_script
    for job_id in started:
        run(bigmem, "alice", "cancel", job_id)


def state(host: Host, job_id: str) -> str:
    """Return the state of a session."""
    done = run(host, "hpchub", "find", MARK, job_id)
    job = SYSTEMD.parse_find(job_id, done.rc, done.stdout, done.stderr)
    assert job is not None
    return job.detail


def ending(host: Host, job_id: str) -> Any:
    """Wait for the end of a session, and return it."""
    for _ in range(120):
        if state(host, job_id) == "ended":
            return SYSTEMD.parse_history(job_id, run(host, "hpchub", "history", job_id).stdout)
        time.sleep(0.5)
    pytest.fail(f"session {job_id} does not end")


def test_a_session_is_a_unit_of_its_user_with_limits(bigmem: Host, start: Callable[..., str]) -> None:
    job_id = start()
    unit = f"hpchub-session-{job_id}.service"
    names = "MainPID,NoNewPrivileges,KillMode,MemoryMax,CPUQuotaPerSecUSec,TasksMax,RuntimeMaxUSec,Slice,ExecStopPost"
    text = bigmem.check_output("systemctl show --property=%s %s", names, unit)
    shown = dict(line.split("=", 1) for line in text.splitlines())
    expected = {
        "NoNewPrivileges": "yes",
        "KillMode": "control-group",
        "MemoryMax": str(256 * 1024**2),
        "CPUQuotaPerSecUSec": "1s",
        "RuntimeMaxUSec": "10min",
        "Slice": "hpchub.slice",
    }
    assert {name: shown[name] for name in expected} == expected
    assert int(shown["TasksMax"]) < 100_000
    status = bigmem.check_output("cat /proc/%s/status", shown["MainPID"])
    uid = bigmem.check_output("id -u alice")
    assert re.search(rf"^Uid:\s+{uid}\s+{uid}\s", status, re.MULTILINE)
    fields = dict(line.split(":", 1) for line in status.splitlines())
    assert set(fields["Groups"].split()) == set(bigmem.check_output("id -G alice").split())
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        pytest.param({"body": "exit 0"}, Cause.FINISHED, id="finished"),
        pytest.param({"body": "exit 7"}, Cause.FAILED, id="failed"),
        pytest.param({"body": "kill -KILL $$"}, Cause.KILLED, id="killed"),
        pytest.param({"time": 2}, Cause.TIME_LIMIT, id="time-limit"),
    ],
)
def test_the_end_of_a_session_is_kept(
    bigmem: Host, start: Callable[..., str], changes: dict[str, Any], cause: Cause
) -> None:
    assert ending(bigmem, start(**changes)).cause is cause


def test_processes_in_the_background_end_too(bigmem: Host, start: Callable[..., str]) -> None:
    job_id = start(body="setsid sleep 7654321 & sleep 2")
    ending(bigmem, job_id)
    assert bigmem.run("pgrep -f '^sleep 7654321'").rc == 1


def test_only_the_owner_cancels_a_session(bigmem: Host, start: Callable[..., str]) -> None:
    job_id = start()
    assert "belongs to another user" in run(bigmem, "bob", "cancel", job_id).stderr
    assert state(bigmem, job_id) == "running"
    assert run(bigmem, "alice", "cancel", job_id).rc == 0
    assert ending(bigmem, job_id).cause is Cause.CANCELLED


def test_a_full_host_lets_sessions_wait(bigmem: Host, start: Callable[..., str]) -> None:
    capacity = json.loads(bigmem.file("/etc/hpchub/host.json").content_string)["capacity"]
    ids = [start() for _ in range(capacity["sessions"] + 1)]
    assert state(bigmem, ids[-1]) == "waiting"
    run(bigmem, "alice", "cancel", ids[0])
    for _ in range(60):
        if state(bigmem, ids[-1]) == "running":
            return
        time.sleep(0.5)
    pytest.fail("the session that waited does not start")


@pytest.mark.parametrize(
    ("account", "user"), [("dave", "dave"), ("hpchub", "alice"), ("bob", "alice"), ("www-data", "www-data")]
)
def test_nobody_starts_a_session_for_another_account(bigmem: Host, account: str, user: str) -> None:
    done = run(bigmem, account, "submit", text=script(user))
    assert done.rc == 1
    assert done.stderr.startswith("hpchub-host: ")
    assert "gives no answer" not in done.stderr


def test_only_the_gate_queries_all_sessions(bigmem: Host) -> None:
    assert run(bigmem, "hpchub", "query", MARK).rc == 0
    assert "may not query" in run(bigmem, "alice", "query", MARK).stderr


def test_root_programs_and_their_files_belong_to_root(bigmem: Host) -> None:
    for path in ("/usr/local/bin/hpchub-host", "/usr/local/libexec/hpchub/host-units", "/etc/hpchub/host.json"):
        file = bigmem.file(path)
        assert (file.user, file.mode & 0o022) == ("root", 0), path
    assert bigmem.file("/var/lib/hpchub-host").mode == 0o711
    assert bigmem.file("/var/lib/hpchub-host/jobs.json").mode == 0o600
    assert bigmem.file(SOCKET).user == "root"
