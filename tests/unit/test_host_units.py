"""Sessions as units of a host without a scheduler. The units are real processes of a stand-in for systemd."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import host_driver
import pytest

from hpchub.remote import host_client, host_units
from hpchub.schedulers import SCHEDULERS, Cause, JobState, job_comment, job_name
from hpchub.schedulers.endings import OWNER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TESTS = Path(__file__).resolve().parents[1]
SYSTEMD = SCHEDULERS["systemd"]
HUB = "hub.example.org~0a1b2c3d"
MARK = "0123456789abcdef"
ALICE, BOB, DAVE, GATE, ROOT = 2001, 2002, 2004, 998, 0
SESSION = "0123456789abcdef"


class Host:
    """A host of a test.

    Attributes:
        directory: Everything that belongs to it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config: dict[str, Any] = {
            "host": "bigmem1",
            "gate_account": "hpchub",
            "slice": "hpchub.slice",
            "tasks": 512,
            "capacity": {"cores": 4, "memory": 8192, "sessions": 3},
            "limits": {"queue": "host", "cores": 4, "memory": 4096, "runtime": 7200},
            "permitted_groups": ["hpc"],
            "user_pattern": "[a-z_][a-z0-9_.-]{0,31}",
            "minimum_uid": 1000,
        }
        for name in ("units", "proc/sys/kernel/random", "proc/1", "proc/self", "cgroups"):
            (directory / name).mkdir(parents=True)
        for name in ("systemd-run", "systemctl"):
            program = f'#!/bin/sh\nexec {sys.executable} {TESTS}/systemd_standin.py "$0" "$@"\n'
            (directory / name).write_text(program)
        for name, kind in (("host-units", "units"), ("hpchub-host", "client")):
            (directory / name).write_text(
                f'#!/bin/sh\nexec {sys.executable} {TESTS}/host_driver.py {directory} {kind} "$@"\n'
            )
        for name in ("systemd-run", "systemctl", "host-units", "hpchub-host"):
            (directory / name).chmod(0o755)
        self.boot("first", 100)
        self.accounts = [
            self.account("alice", ALICE, "hpc"),
            self.account("bob", BOB, "hpc"),
            self.account("dave", DAVE, "users"),
            self.account("hpchub", GATE, "hpchub"),
            self.account("root", ROOT, "hpc"),
        ]
        self.write()

    def account(self, name: str, uid: int, group: str) -> dict[str, Any]:
        home = self.directory / "home" / name
        (home / ".hpchub" / "logs").mkdir(parents=True)
        return {
            "pw_name": name,
            "pw_uid": uid,
            "pw_gid": 100,
            "pw_dir": str(home),
            "pw_shell": "/bin/sh",
            "groups": [group],
        }

    def write(self) -> None:
        (self.directory / "host.json").write_text(json.dumps(self.config))
        (self.directory / "accounts").write_text(json.dumps(self.accounts))

    def boot(self, name: str, start: int) -> None:
        (self.directory / "proc/sys/kernel/random/boot_id").write_text(f"{name}\n")
        fields = ["S", *["0"] * 18, str(start), "0"]
        (self.directory / "proc/1/stat").write_text(f"1 (systemd) {' '.join(fields)}\n")

    def ask(self, caller: int, **request: Any) -> dict[str, Any]:
        return host_units.serve(io.StringIO(json.dumps(request)), caller)

    def submit(self, caller: int = ALICE, body: str = "sleep 60", **changes: object) -> str:
        return str(self.ask(caller, action="submit", script=script(body, **changes))["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        jobs: list[dict[str, Any]] = self.ask(GATE, action="find", id=job_id)["jobs"]
        return jobs[0]

    def state(self, job_id: str) -> str:
        return str(self.job(job_id)["state"])

    def ending(self, job_id: str) -> dict[str, Any]:
        wait_until(lambda: self.state(job_id) == "ended")
        found: dict[str, Any] = self.ask(GATE, action="history", id=job_id)["job"]
        return found

    def unit(self, job_id: str) -> dict[str, Any]:
        path = self.directory / "units" / f"hpchub-session-{job_id}.service.json"
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def units(self) -> list[str]:
        return sorted(path.name for path in (self.directory / "units").iterdir())

    def commands(self, program: str) -> list[list[str]]:
        lines = (self.directory / "log").read_text().splitlines()
        return [command for line in lines if Path((command := json.loads(line))[0]).name == program]

    def fault(self, name: str, text: str = "Failed to connect to bus\n") -> None:
        (self.directory / name).write_text(text)

    def stored(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / "state" / "jobs.json").read_text())
        return found

    def power_off(self) -> None:
        """Kill all units without a trace, as a failing host does."""
        for path in (self.directory / "units").iterdir():
            pid = json.loads(path.read_text())["pid"]
            parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
            os.kill(int(parent), 9)
            os.killpg(pid, 9)
            path.unlink()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """Return a host, and end its units after the test."""
    found = Host(tmp_path)
    host_driver.set_up(tmp_path, monkeypatch.setattr)
    yield found
    found.config["capacity"]["sessions"] = 0  # start none of those that wait
    found.write()
    wait_until(lambda: all(path.stat().st_size for path in (tmp_path / "units").iterdir()))
    for path in (tmp_path / "units").iterdir():
        with contextlib.suppress(OSError, KeyError):
            os.killpg(json.loads(path.read_text())["pid"], 9)
    wait_until(lambda: not found.units())


def script(body: str = "sleep 60", **changes: object) -> str:
    """Return a batch script. A directive with None is left out."""
    user = str(changes.pop("user", "alice"))
    session = str(changes.pop("session", SESSION))
    values: dict[str, object] = {
        "name": job_name(session),
        "tag": job_comment(HUB, user, session),
        "queue": "host",
        "cores": 1,
        "memory": 1024,
        "time": 3600,
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    lines = [f"#HPCHUB --{name}={value}" for name, value in values.items() if value is not None]
    return "\n".join(["#!/bin/bash", *lines, body, ""])


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    for _ in range(400):
        if condition():
            return
        time.sleep(0.025)
    raise AssertionError("the condition does not become true")


# Start and end


def test_a_session_runs_as_a_unit_with_its_limits(host: Host) -> None:
    job_id = host.submit(cores=2, memory=2048, time=600, nice=5, cpu_weight=50)
    unit = host.unit(job_id)
    assert (unit["uid"], unit["gid"], unit["slice"]) == ("2001", "100", "hpchub.slice")
    expected = {
        "MemoryMax": "2048M",
        "MemorySwapMax": "0",
        "CPUQuota": "200%",
        "TasksMax": "512",
        "RuntimeMaxSec": "600",
        "NoNewPrivileges": "yes",
        "KillMode": "control-group",
        "SendSIGKILL": "yes",
        "Restart": "no",
        "UMask": "0077",
        "Nice": "5",
        "CPUWeight": "50",
    }
    assert {name: unit[name] for name in expected} == expected
    assert unit["command"] == [str(host.directory / "hpchub-host"), "run", job_id]
    assert host.job(job_id)["host"] == "bigmem1"
    assert f"{job_id}.sh 2001 100\n" in (host.directory / "owners").read_text()


def test_the_script_runs_in_the_home_with_a_clean_environment_and_a_log(host: Host) -> None:
    job_id = host.submit(body="pwd; env | sort; echo problem >&2; umask")
    assert host.ending(job_id)["result"] == "exit"
    home = host.directory / "home" / "alice"
    log = home / ".hpchub" / "logs" / f"{job_id}.log"
    lines = log.read_text().splitlines()
    assert lines[0] == str(home)
    assert "problem" in lines
    names = {line.partition("=")[0] for line in lines if "=" in line}
    assert names == {"HOME", "JOB_ID", "LANG", "LOGNAME", "PATH", "PWD", "SHELL", "SHLVL", "USER", "_"}
    assert f"JOB_ID={job_id}" in lines
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_symlinked_home_works_and_root_opens_nothing_in_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    home = host.directory / "home" / "alice"
    home.rename(host.directory / "elsewhere")
    home.symlink_to(host.directory / "elsewhere")
    opened: list[str] = []
    real = os.open

    def recorded(path: Any, *rest: Any, **more: Any) -> int:
        opened.append(str(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "open", recorded)
    job_id = host.submit(body="echo hello")
    host.ending(job_id)
    assert (host.directory / "elsewhere/.hpchub/logs" / f"{job_id}.log").read_text() == "hello\n"
    assert not [path for path in opened if "/home/" in path or "elsewhere" in path]


@pytest.mark.parametrize(
    ("body", "changes", "cause", "detail"),
    [
        pytest.param("exit 0", {}, Cause.FINISHED, "", id="finished"),
        pytest.param("exit 7", {}, Cause.FAILED, "exit status 7", id="exit-status"),
        pytest.param("kill -SEGV $$", {}, Cause.KILLED, "signal 11 (SIGSEGV)", id="signal"),
        pytest.param("sleep 60", {"time": 1}, Cause.TIME_LIMIT, "time-limit", id="time-limit"),
    ],
)
def test_the_end_of_a_unit_is_kept(host: Host, body: str, changes: dict[str, Any], cause: Cause, detail: str) -> None:
    job_id = host.submit(body=body, **changes)
    found = SYSTEMD.parse_history(job_id, json.dumps(host.ending(job_id)))
    assert (found.cause, found.detail) == (cause, detail)
    assert not list((host.directory / "state" / "scripts").iterdir())


def test_processes_that_leave_the_group_end_with_the_session(host: Host) -> None:
    pid_file = host.directory / "pid"
    job_id = host.submit(body=f"setsid sh -c 'echo $$ > {pid_file}; exec sleep 600' & sleep 0.3; exit 0")
    host.ending(job_id)
    assert not Path(f"/proc/{pid_file.read_text().strip()}").exists()


def test_out_of_memory_is_known_from_the_control_group(host: Host) -> None:
    (host.directory / "proc/self/cgroup").write_text("0::/hpchub.slice/hpchub-session-1.service\n")
    group = host.directory / "cgroups/hpchub.slice/hpchub-session-1.service"
    group.mkdir(parents=True)
    (group / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    killed, ended = host.submit(body="kill -KILL $$"), host.submit(body="exit 0")
    assert SYSTEMD.parse_history(killed, json.dumps(host.ending(killed))).cause is Cause.OUT_OF_MEMORY
    assert SYSTEMD.parse_history(ended, json.dumps(host.ending(ended))).cause is Cause.FINISHED
    (group / "memory.events").write_text("low 0\noom 1\noom_kill 0\n")
    killed = host.submit(body="kill -KILL $$")
    assert SYSTEMD.parse_history(killed, json.dumps(host.ending(killed))).cause is Cause.KILLED


@pytest.mark.parametrize(
    ("result", "expected"),
    [("oom-kill", "out-of-memory"), ("timeout", "time-limit"), ("resources", "not-started")],
)
def test_the_result_of_systemd(result: str, expected: str) -> None:
    found = host_units.how_it_ended({"SERVICE_RESULT": result}, killed=False, stopping=False, by="")
    assert found["result"] == expected


# The line


def test_a_full_host_lets_sessions_wait_in_line(host: Host) -> None:
    first = host.submit(cores=3, time=600)
    second = host.submit(BOB, user="bob", cores=2, time=300)
    third = host.submit(cores=1)
    assert [host.state(each) for each in (first, second, third)] == ["running", "waiting", "waiting"]
    jobs = {job["id"]: job for job in host.ask(GATE, action="query")["jobs"]}
    assert (jobs[second]["reason"], jobs[third]["reason"]) == ("cores", "line")
    parsed = SYSTEMD.parse_query(answer(list(jobs.values())))
    assert SYSTEMD.places(parsed) == {second: 1, third: 2}
    assert parsed[second].expected == pytest.approx(time.time() + 600, abs=5)
    assert len(host.units()) == 1
    host.ask(ALICE, action="cancel", id=first)
    wait_until(lambda: host.state(third) == "running")
    assert host.state(second) == "running"


@pytest.mark.parametrize(
    ("changes", "reason"), [({"memory": 4096}, "memory"), ({"cores": 2}, "cores"), ({}, "sessions")]
)
def test_the_reason_of_a_wait(host: Host, changes: dict[str, Any], reason: str) -> None:
    host.config["capacity"] = {"cores": 3, "memory": 8192 if reason != "memory" else 5000, "sessions": 2}
    host.write()
    host.submit(cores=1 if reason == "sessions" else 2, memory=1024)
    if reason == "sessions":
        host.submit()
    job_id = host.submit(**changes)
    assert host.job(job_id)["reason"] == reason
    assert SYSTEMD.explain(reason) != reason


def test_the_end_of_a_unit_starts_the_next_session_without_the_hub(host: Host) -> None:
    host.submit(cores=4, body="sleep 0.5")
    second = host.submit(cores=4)
    assert len(host.units()) == 1
    wait_until(lambda: host.units() == [f"hpchub-session-{second}.service.json"])


def test_an_account_that_is_closed_while_its_session_waits_starts_nothing(host: Host) -> None:
    host.submit(BOB, user="bob", cores=4, body="sleep 0.5")
    second = host.submit(cores=4)
    host.accounts[0]["groups"] = ["users"]
    host.write()
    found = SYSTEMD.parse_history(second, json.dumps(host.ending(second)))
    assert found.cause is Cause.FAILED
    assert "not in a group" in found.detail


def test_an_account_with_another_uid_starts_nothing(host: Host) -> None:
    host.submit(BOB, user="bob", cores=4, body="sleep 0.5")
    second = host.submit(cores=4)
    host.accounts[0]["pw_uid"] = 2999
    host.write()
    assert host.ending(second)["result"] == "not-started"
    assert not [command for command in host.commands("systemd-run") if "--uid=2999" in command]


def test_one_user_cannot_fill_the_line(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_units, "JOBS_OF_USER", 2)
    host.submit()
    host.submit()
    with pytest.raises(host_units.Refused, match="too many sessions"):
        host.submit()
    host.submit(BOB, user="bob")


def test_users_with_many_sessions_take_turns_with_others(host: Host) -> None:
    running = host.submit(cores=4)
    hers = [host.submit(cores=4) for _ in range(3)]
    his = [host.submit(BOB, user="bob", cores=4, time=60) for _ in range(2)]
    parsed = SYSTEMD.parse_query(answer(host.ask(GATE, action="query")["jobs"]))
    assert SYSTEMD.places(parsed) == {his[0]: 1, hers[0]: 2, his[1]: 3, hers[1]: 4, hers[2]: 5}
    ended = []
    while host.state(his[0]) != "running":
        (job_id,) = (each for each in (running, *hers) if host.state(each) == "running")
        host.ask(ALICE, action="cancel", id=job_id)
        ended.append(job_id)
        wait_until(lambda: "running" in {host.state(each) for each in (*hers, *his) if each not in ended})
    assert len(ended) <= 2
    assert [host.state(each) for each in hers[1:]] == ["waiting", "waiting"]


# The rights of each user


@pytest.mark.parametrize(
    ("caller", "message"),
    [
        pytest.param(DAVE, "not in a group", id="not-permitted"),
        pytest.param(GATE, "system account", id="the-gate's-account"),
        pytest.param(ROOT, "not valid", id="root"),
    ],
)
def test_who_may_not_submit(host: Host, caller: int, message: str) -> None:
    with pytest.raises(host_units.Refused, match=message):
        host.submit(caller, user="alice")
    assert not host.units()


def test_a_second_account_with_the_same_name_is_refused(host: Host) -> None:
    host.accounts.insert(0, {**host.accounts[0], "pw_uid": 2000})
    host.write()
    with pytest.raises(host_units.Refused, match="another uid"):
        host.submit(ALICE)


@pytest.mark.parametrize("action", ["query", "find", "history", "usage", "limits"])
def test_only_the_gate_and_root_may_query(host: Host, action: str) -> None:
    every: dict[str, dict[str, Any]] = {"find": {"id": "7"}, "history": {"id": "7"}, "usage": {"ids": ["7"]}}
    fields = every.get(action, {})
    with pytest.raises(host_units.Refused, match="alice may not query"):
        host.ask(ALICE, action=action, **fields)
    assert host.ask(GATE, action=action, **fields) == host.ask(ROOT, action=action, **fields)


def test_a_user_cannot_cancel_the_session_of_another_user(host: Host) -> None:
    running, waiting = host.submit(cores=4), host.submit(cores=4)
    for job_id in (running, waiting):
        with pytest.raises(host_units.Refused, match="belongs to another user"):
            host.ask(BOB, action="cancel", id=job_id)
    assert (host.state(running), host.state(waiting)) == ("running", "waiting")


def test_cancelled_sessions(host: Host) -> None:
    running, waiting = host.submit(cores=4), host.submit(cores=4)
    for job_id in (waiting, running):
        host.ask(ALICE, action="cancel", id=job_id)
        found = SYSTEMD.parse_history(job_id, json.dumps(host.ending(job_id)))
        assert (found.cause, found.by) == (Cause.CANCELLED, OWNER)
        assert host.ask(ALICE, action="cancel", id=job_id) == {}
    assert not host.units()
    with pytest.raises(host_units.Refused, match="no session 7"):
        host.ask(ALICE, action="cancel", id="7")


def test_a_session_that_stops_has_ended_for_the_hub(host: Host) -> None:
    job_id = host.submit(body="trap '' TERM; while :; do sleep 0.1; done")
    wait_until(lambda: host.unit(job_id)["state"] == "active")
    host.ask(ALICE, action="cancel", id=job_id)
    wait_until(lambda: host.state(job_id) == "stopping")
    jobs = host.ask(GATE, action="query")["jobs"]
    assert SYSTEMD.parse_query(answer(jobs))[job_id].state is JobState.ENDED


# Input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"user": "bob"}, "not those of a session of this user", id="tag-of-another-user"),
        pytest.param({"name": "hpchub-fedcba9876543210"}, "not those", id="name-of-another-session"),
        pytest.param({"name": None}, "does not have the directive --name", id="no-name"),
        pytest.param({"tag": "hpchub/h/alice/$(id)"}, "not those", id="shell-code-in-the-tag"),
        pytest.param({"cores": 5}, "at most 4", id="too-many-cores"),
        pytest.param({"memory": 4097}, "at most 4096", id="too-much-memory"),
        pytest.param({"time": 7201}, "at most 7200", id="too-long"),
        pytest.param({"cores": 0}, "not a positive number", id="no-cores"),
        pytest.param({"cores": "1e9"}, "not a positive number", id="cores-in-another-notation"),
        pytest.param({"memory": "infinity"}, "not a positive number", id="memory-without-limit"),
        pytest.param({"memory": -1}, "not a positive number", id="negative-memory"),
        pytest.param({"time": "\u0661"}, "not a positive number", id="digits-of-another-script"),
        pytest.param({"nice": -5}, "not a number from 0 to 19", id="negative-nice"),
        pytest.param({"nice": 20}, "not a number from 0 to 19", id="nice-above-19"),
        pytest.param({"cpu_weight": 1000}, "from 1 to 100", id="weight-above-the-default"),
        pytest.param({"queue": "other"}, "the one of this host, host", id="another-queue"),
        pytest.param({"gpus": 1}, "cannot provide gpus", id="gpus"),
        pytest.param({"qos": "x"}, "cannot provide qos", id="quality-of-service"),
        pytest.param({"property": "User=root"}, "cannot provide property", id="property-of-systemd"),
        pytest.param({"nice": "1 --uid=0"}, "not valid", id="second-option"),
    ],
)
def test_a_request_that_is_refused(host: Host, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(host_units.Refused, match=message):
        host.submit(**changes)
    assert not host.units()
    assert not host.ask(GATE, action="query")["jobs"]


def test_a_directive_twice_is_refused(host: Host) -> None:
    with pytest.raises(host_units.Refused, match="one twice"):
        host.submit(body="#HPCHUB --cores=4")


@pytest.mark.parametrize(
    "request_text",
    [
        pytest.param("{", id="no-json"),
        pytest.param("[]", id="no-object"),
        pytest.param("[" * 100_000, id="deeply-nested"),
        pytest.param('{"action": "reboot"}', id="unknown-action"),
        pytest.param('{"action": ["query"]}', id="action-is-a-list"),
        pytest.param('{"action": "query", "uid": 0}', id="further-field"),
        pytest.param('{"action": "cancel"}', id="missing-field"),
        pytest.param('{"action": "cancel", "id": "7;reboot"}', id="shell-code"),
        pytest.param('{"action": "cancel", "id": "-7"}', id="option"),
        pytest.param('{"action": "cancel", "id": "../7"}', id="path"),
        pytest.param('{"action": "cancel", "id": 7}', id="number"),
        pytest.param('{"action": "cancel", "id": "7\\n"}', id="line-break"),
        pytest.param('{"action": "usage", "ids": "7"}', id="ids-are-no-list"),
        pytest.param('{"action": "usage", "ids": ["7", "x"]}', id="one-bad-id"),
        pytest.param('{"action": "submit", "script": 7}', id="script-is-a-number"),
        pytest.param('{"action": "submit", "script": "\\u0000"}', id="zero-byte"),
        pytest.param('{"action": "submit", "script": "' + "x" * 300_000 + '"}', id="too-long"),
    ],
)
def test_a_request_that_is_not_valid(host: Host, request_text: str) -> None:
    for caller in (ALICE, GATE, ROOT):
        with pytest.raises(host_units.Refused):
            host_units.serve(io.StringIO(request_text), caller)
    assert not (host.directory / "log").exists()


@pytest.mark.parametrize("name", ["first.last", "a-b_c", "x" * 32])
def test_odd_names_reach_systemd_as_numbers(host: Host, name: str) -> None:
    host.accounts.append(host.account(name, 2010, "hpc"))
    host.write()
    job_id = host.submit(2010, user=name)
    (command,) = host.commands("systemd-run")
    assert "--uid=2010" in command
    assert [word for word in command if name in word] == [word for word in command if word.startswith("--description=")]
    assert host.job(job_id)["user"] == name


@pytest.mark.parametrize("name", ["a b", "-x", "a;reboot", "a\nb", "%h", "$(id)", "a/b", "4711", "--uid=0"])
def test_names_with_a_meaning_are_refused(host: Host, name: str) -> None:
    host.accounts.append({**host.accounts[0], "pw_name": name, "pw_uid": 2010})
    host.write()
    with pytest.raises(host_units.Refused, match="not valid"):
        host.submit(2010, user=name)


# Failures


def test_a_restart_of_the_host_ends_its_sessions_and_keeps_the_line(host: Host) -> None:
    running, waiting = host.submit(cores=4), host.submit(cores=4)
    wait_until(lambda: host.unit(running)["state"] == "active")
    host.power_off()
    host.boot("second", 100)
    assert host.state(running) == "ended"
    found = SYSTEMD.parse_history(running, json.dumps(host.ending(running)))
    assert (found.cause, found.detail, found.node) == (Cause.NODE_LOST, "host restarted", "bigmem1")
    assert host.state(waiting) == "running"


def test_the_restart_of_a_container_is_a_restart_of_the_host(host: Host) -> None:
    running = host.submit()
    wait_until(lambda: host.unit(running)["state"] == "active")
    host.power_off()
    host.boot("first", 200)
    assert host.ending(running)["result"] == "host-restarted"


def test_a_unit_that_disappears_in_the_same_boot_has_ended_for_an_unknown_reason(host: Host) -> None:
    running = host.submit()
    wait_until(lambda: host.unit(running)["state"] == "active")
    host.power_off()
    assert SYSTEMD.parse_history(running, json.dumps(host.ending(running))).cause is Cause.UNKNOWN


def test_a_unit_that_systemd_has_only_queued_has_not_ended(host: Host) -> None:
    running = host.submit()
    wait_until(lambda: host.unit(running)["state"] == "active")
    path = host.directory / "units" / f"hpchub-session-{running}.service.json"
    path.write_text(json.dumps({**host.unit(running), "state": "inactive", "job": "4711"}))
    assert host.state(running) == "running"
    path.write_text(json.dumps({**host.unit(running), "state": "inactive", "job": ""}))
    assert host.state(running) == "ended"


def test_sessions_that_end_while_the_host_shuts_down(host: Host) -> None:
    running, waiting = host.submit(cores=4), host.submit(cores=4)
    host.fault("stopping", "")
    wait_until(lambda: host.unit(running)["state"] == "active")
    os.kill(host.unit(running)["pid"], 15)
    wait_until(lambda: not host.units())
    assert host.stored()["jobs"][running]["result"] == "host-restarted"
    assert host.stored()["jobs"][waiting]["state"] == "waiting"


def test_an_unknown_answer_of_systemd_ends_nothing(host: Host) -> None:
    running = host.submit()
    host.fault("fail-show")
    before = host.stored()
    for request in ({"action": "query"}, {"action": "find", "id": running}, {"action": "history", "id": running}):
        with pytest.raises(host_units.Unavailable, match="Failed to connect to bus"):
            host.ask(GATE, **request)
    with pytest.raises(host_units.Unavailable):
        host.submit()
    assert host.stored() == before
    (host.directory / "fail-show").unlink()
    assert host.state(running) == "running"


def test_a_unit_that_cannot_be_started(host: Host) -> None:
    host.fault("fail-systemd-run", "Failed to start transient service unit: no\n")
    with pytest.raises(host_units.Refused, match=r"cannot be started on this host: .*transient service unit: no"):
        host.submit()
    assert not [job for job in host.ask(GATE, action="query")["jobs"] if job["state"] != "ended"]
    (host.directory / "fail-systemd-run").unlink()
    assert host.state(host.submit()) == "running"


def test_a_unit_whose_start_has_an_unknown_result_is_not_started_twice(host: Host) -> None:
    host.fault("fail-after-systemd-run", "Connection timed out\n")
    job_id = host.submit()
    assert host.state(job_id) == "running"
    assert len(host.commands("systemd-run")) == 1


def test_a_damaged_list_ends_nothing(host: Host) -> None:
    running = host.submit()
    path = host.directory / "state" / "jobs.json"
    for text in ("", "{", "[]", '{"jobs": [], "last": 1}', '{"last": 1}'):
        path.write_text(text)
        with pytest.raises(host_units.Unavailable, match="damaged"):
            host.ask(GATE, action="find", id=running)
        assert path.read_text() == text


def test_a_lost_list_is_restored_from_the_units(host: Host) -> None:
    running = host.submit(cores=3, memory=2048)
    before = host.job(running)
    (host.directory / "state" / "jobs.json").unlink()
    assert host.job(running) == before
    second = host.submit(cores=2)
    assert host.state(second) == "waiting"
    assert int(second) >= int(running)
    with pytest.raises(host_units.Refused, match="another user"):
        host.ask(BOB, action="cancel", id=running)


def test_ids_are_never_used_twice(host: Host) -> None:
    begin = int(time.time())
    ids = [host.submit(body="exit 0") for _ in range(3)]
    assert len(set(ids)) == 3
    assert min(map(int, ids)) >= begin  # a lost list gives no lower one, although systemd no longer knows its sessions
    (host.directory / "state" / "jobs.json").unlink()
    wait_until(lambda: int(time.time()) > max(map(int, ids)))
    assert host.submit(body="exit 0") not in ids


def test_the_list_is_written_before_a_unit_starts(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a power failure could leave a unit that no record mentions, and start it twice."""
    seen: list[str] = []

    def systemd(*command: str) -> str:
        if Path(command[0]).name == "systemd-run":
            seen.append(host.stored()["jobs"].popitem()[1]["state"])
            raise KeyboardInterrupt
        return ""

    monkeypatch.setattr(host_units, "systemd", systemd)
    with pytest.raises(KeyboardInterrupt):
        host.submit()
    assert seen == ["running"]


def test_the_list_is_locked(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_units, "LOCK_TIMEOUT", 0.2)
    with host_units.opened_list(), pytest.raises(host_units.Unavailable, match="in use"):
        host.ask(GATE, action="query")


def test_others_read_neither_the_list_nor_the_scripts(host: Host) -> None:
    job_id = host.submit()
    state = host.directory / "state"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (state, *state.rglob("*"))}
    assert (modes["state"], modes["scripts"]) == (0o711, 0o711)
    assert (modes["jobs.json"], modes[f"{job_id}.sh"]) == (0o600, 0o400)


def test_old_endings_are_forgotten(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = host.submit(body="exit 0")
    host.ending(job_id)
    monkeypatch.setattr(host_units, "SHOW_ENDED", -1)
    assert host.ask(GATE, action="query")["jobs"] == []
    assert host.state(job_id) == "ended"
    monkeypatch.setattr(host_units, "KEEP_ENDED", -1)
    assert host.ask(GATE, action="find", id=job_id)["jobs"] == []


def test_two_hubs_share_the_line_and_not_the_sessions(host: Host) -> None:
    ours = host.submit(cores=4)
    other = "test.example.org~ffffffff"
    theirs = host.submit(cores=4, tag=job_comment(other, "alice", SESSION))
    jobs = SYSTEMD.parse_query(answer(host.ask(GATE, action="query")["jobs"]))
    assert (jobs[ours].session(HUB), jobs[theirs].session(HUB)) == (SESSION, "")
    assert jobs[theirs].session(other) == SESSION
    assert (jobs[ours].state, jobs[theirs].state) == (JobState.RUNNING, JobState.PENDING)


# The programs


def answer(jobs: list[dict[str, Any]]) -> str:
    """Return what hpchub-host prints for jobs."""
    return "\n".join([f"{MARK}|jobs {len(jobs)}", *(f"{MARK}|{json.dumps(job)}" for job in jobs), f"{MARK}|end", ""])


@pytest.fixture
def served(host: Host) -> Iterator[Host]:
    """Return a host with a socket that answers: one process for each connection, as systemd starts it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(host.directory / "socket"))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection = listener.accept()[0]
                except OSError:
                    return
                with connection:
                    caller = (host.directory / "caller").read_text()
                    subprocess.run(
                        [str(host.directory / "host-units")],
                        stdin=connection.fileno(),
                        stdout=connection.fileno(),
                        env={**os.environ, "CALLER": caller},
                        check=False,
                    )

        threading.Thread(target=serve, daemon=True).start()
        yield host
        listener.shutdown(socket.SHUT_RDWR)


def test_the_commands_of_the_scheduler(served: Host) -> None:
    def run(caller: int, *command: str, text: str = "") -> subprocess.CompletedProcess[str]:
        (served.directory / "caller").write_text(str(caller))
        program = str(served.directory / command[0])
        return subprocess.run([program, *command[1:]], input=text, capture_output=True, text=True, check=False)

    def of_gate(*command: str) -> subprocess.CompletedProcess[str]:
        return run(GATE, *(word.replace("{mark}", MARK) for word in command))

    job_id = SYSTEMD.parse_submit(run(ALICE, *SYSTEMD.submit_command, text=script()).stdout)
    jobs = SYSTEMD.parse_query(of_gate(*SYSTEMD.query_command).stdout)
    assert (list(jobs), jobs[job_id].state) == ([job_id], JobState.RUNNING)
    assert jobs[job_id].session(HUB) == SESSION
    for known in (job_id, "7"):
        found = of_gate(*SYSTEMD.find_command, known)
        job = SYSTEMD.parse_find(known, found.returncode, found.stdout, found.stderr)
        assert (job is not None) == (known == job_id)
    (limits,) = SYSTEMD.parse_limits(of_gate(*SYSTEMD.limits_command).stdout)
    assert (limits.name, limits.cores, limits.memory, limits.runtime) == ("host", 4, 4096, 7200)
    denied = run(BOB, *SYSTEMD.cancel_command, job_id)
    assert (denied.returncode, "belongs to another user" in denied.stderr) == (1, True)
    assert run(ALICE, *SYSTEMD.cancel_command, job_id).returncode == 0
    wait_until(lambda: not served.units())
    (history,) = SYSTEMD.history_commands
    assert SYSTEMD.parse_history(job_id, of_gate(*history, job_id).stdout).cause is Cause.CANCELLED
    usage = SYSTEMD.parse_usage(of_gate(*SYSTEMD.usage_command, f"{job_id},7").stdout)
    assert usage[job_id][0] == job_name(SESSION)
    assert usage[job_id][2] is not None
    failed = run(ALICE, *SYSTEMD.query_command)
    assert (failed.returncode, failed.stdout) == (1, "")


def test_a_host_that_gives_no_answer_ends_nothing(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert host_client.main(["find", MARK, "7"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "gives no answer" in printed.err


@pytest.mark.parametrize("arguments", [[], ["reboot"], ["query"], ["find", MARK], ["cancel", "1", "2"]])
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert host_client.main(arguments) == 2
    assert "usage: hpchub-host" in capsys.readouterr().err


@pytest.mark.parametrize("mark", ["", "x" * 16, f"{MARK}\n{MARK}", "{mark}"])
def test_the_mark_of_a_query_is_checked(mark: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert host_client.main(["query", mark]) == 1
    assert "the mark is not" in capsys.readouterr().err


@pytest.mark.parametrize("job_id", ["../7", "-1", "7;id", ""])
def test_run_accepts_only_ids(job_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert host_client.main(["run", job_id]) == 1
    assert "not the number of a session" in capsys.readouterr().err


def test_the_kernel_reports_the_caller() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert PEER(ours.fileno()) == os.getuid()
    assert ours.fileno() == -1


PEER = host_units.peer


def test_a_caller_who_sends_nothing_is_cut_off(host: Host) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); import host_driver, pathlib; from hpchub.remote import host_units"
    )
    code += "; host_driver.set_up(pathlib.Path(sys.argv[1])); host_units.REQUEST_TIMEOUT = 1; host_units.main([], {})"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(host.directory), str(TESTS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "CALLER": "2001", "PYTHONPATH": str(TESTS)},
    ) as process:
        assert process.wait(20) == -14


def test_errors_do_not_show_internals(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(host_units, "serve", lambda *_: 1 / 0)
    monkeypatch.setenv("CALLER", "2001")
    host_units.main([], {})
    found = json.loads(capsys.readouterr().out)
    assert found == {"ok": False, "error": "the host made an unexpected error, which its system log explains"}


def test_the_patterns_are_those_of_the_package() -> None:
    from hpchub import names  # noqa: PLC0415

    tag = f"hpchub/{HUB}/ann@CL.ORG/{SESSION}"
    assert host_units.TAG.fullmatch(tag)
    assert names.SESSION == "[0-9a-f]{16}"
    for program in (host_units, host_client):
        assert re.fullmatch(program.JOB_ID.pattern, SYSTEMD.job_id_pattern) is None
        assert program.JOB_ID.pattern == SYSTEMD.job_id_pattern
