"""The gate: permitted and refused requests, and the files that it leaves behind."""

from __future__ import annotations

import grp
import io
import json
import os
import pwd
import re
import stat
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hpchub.remote import gate

SESSION = "0123456789abcdef"
ACCOUNTS = {
    "alice": SimpleNamespace(pw_name="alice", pw_uid=2001, pw_gid=2100),
    "dave": SimpleNamespace(pw_name="dave", pw_uid=2004, pw_gid=100),
    "root": SimpleNamespace(pw_name="root", pw_uid=0, pw_gid=2100),
    "daemon": SimpleNamespace(pw_name="daemon", pw_uid=2, pw_gid=2100),
    "nobody": SimpleNamespace(pw_name="nobody", pw_uid=65534, pw_gid=2100),
}
GROUPS = {2100: "hpc", 100: "users"}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Configure a gate with three small programs as its scheduler, and create a home directory for alice."""
    home = tmp_path / "home"
    home.mkdir()
    ACCOUNTS["alice"].pw_dir = str(home)
    ACCOUNTS["alice"].pw_shell = "/bin/sh"

    def getpwnam(name: str) -> SimpleNamespace:
        return ACCOUNTS[name]

    monkeypatch.setattr(pwd, "getpwnam", getpwnam)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: ACCOUNTS["alice"])
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [gid])
    monkeypatch.setattr(grp, "getgrgid", lambda gid: SimpleNamespace(gr_name=GROUPS[gid]))
    monkeypatch.setattr(gate, "CONFIG_DIRECTORY", tmp_path)
    config = {
        "scheduler": "slurm",
        "submit": [sys.executable, "-c", "import sys; sys.stdin.read(); print(42)"],
        "cancel": [sys.executable, "-c", "import sys; print(sys.argv[1])"],
        "query": [sys.executable, "-c", "print('all jobs')"],
        "job_id_pattern": "[0-9]+",
        "permitted_groups": ["hpc"],
        "minimum_uid": 1000,
        "timeout": 5,
    }
    (tmp_path / "demo.json").write_text(json.dumps(config))
    return config


def submit(**changes: Any) -> dict[str, Any]:
    return {
        "action": "submit",
        "user": "alice",
        "session": SESSION,
        "script": "#!/bin/sh\n",
        "secrets": {"JUPYTERHUB_API_TOKEN": "t0ken"},
        "cluster": "demo",
    } | changes


def stream(request: object) -> io.StringIO:
    return io.StringIO(request if isinstance(request, str) else json.dumps(request))


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ("", "not JSON"),
        ("[]", "not an object"),
        ("x" * (gate.REQUEST_LIMIT + 1), "longer than"),
        ({"action": "run"}, "the action is unknown; valid: cancel, find, limits, query, submit"),
        ({"action": "query", "command": "id"}, "requires exactly these fields: action"),
        (submit(extra=1), "requires exactly these fields"),
        (submit(session="../../etc"), "16 hexadecimal"),
        (submit(script=["a"]), "script is not a string"),
        (submit(user="a\0b"), "user is not a string"),
        (submit(secrets={"A": 1}), "object of strings"),
    ],
    ids=["empty", "list", "long", "action", "query-extra", "extra", "session", "script", "nul", "secrets"],
)
def test_malformed_request_is_refused(request_: object, words: str) -> None:
    with pytest.raises(gate.Refused, match=words):
        gate.read_request(stream(request_))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("root", "system account"),
        ("daemon", "system account"),
        ("nobody", "system account"),
        ("dave", "not in a group that may run jobs here"),
        ("nobody-here", "no account"),
        ("-u", "the user name is not valid"),
        ("alice,root", "the user name is not valid"),
        ("#0", "the user name is not valid"),
        ("alice\n", "the user name is not valid"),
        ("Alice", "the user name is not valid"),
    ],
)
def test_user_without_permission_is_refused(config: dict[str, Any], name: str, words: str) -> None:
    with pytest.raises(gate.Refused, match=words):
        gate.permitted_user(name, config)


def test_account_nobody_is_refused(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    account = pwd.struct_passwd(("nobody", "x", 65534, os.getgid(), "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwnam", lambda name: account)
    with pytest.raises(gate.Refused, match="system account"):
        gate.permitted_user("nobody", config)


def test_minimum_uid_zero_does_not_admit_root(config: dict[str, Any]) -> None:
    with pytest.raises(gate.Refused, match="system account"):
        gate.permitted_user("root", config | {"minimum_uid": 0})


@pytest.mark.parametrize("cluster", ["", "../demo", "other", "demo.json"])
def test_unknown_cluster_is_refused(config: dict[str, Any], cluster: str) -> None:
    with pytest.raises(gate.Refused):
        gate.read_config(cluster)


def test_query_runs_the_configured_command(config: dict[str, Any]) -> None:
    answer = gate.serve_gate("demo", stream({"action": "query"}))
    assert answer["ok"]
    assert answer["stdout"] == "all jobs\n"


def test_query_failure_that_means_no_jobs_is_an_empty_answer(config: dict[str, Any]) -> None:
    config["query"] = [sys.executable, "-c", "import sys; sys.exit('No job found')"]
    config["no_jobs"] = "^No job found"
    (gate.CONFIG_DIRECTORY / "demo.json").write_text(json.dumps(config))
    answer = gate.serve_gate("demo", stream({"action": "query"}))
    assert (answer["ok"], answer["exit"], answer["stdout"], answer["stderr"]) == (True, 0, "", "")
    config["query"] = [sys.executable, "-c", "import sys; sys.exit('LSF is down')"]
    (gate.CONFIG_DIRECTORY / "demo.json").write_text(json.dumps(config))
    assert not gate.serve_gate("demo", stream({"action": "query"}))["ok"]


def test_each_query_has_a_different_mark(config: dict[str, Any]) -> None:
    config["query"] = [sys.executable, "-c", "import sys; print(sys.argv[1])", "--format={mark}|%i"]
    (gate.CONFIG_DIRECTORY / "demo.json").write_text(json.dumps(config))
    answers = {gate.serve_gate("demo", stream({"action": "query"}))["stdout"] for _ in range(2)}
    assert len(answers) == 2
    assert all(re.fullmatch(r"--format=[0-9a-f]{16}\|%i\n", answer) for answer in answers)


def test_only_the_owner_can_read_the_session_file(config: dict[str, Any]) -> None:
    answer = gate.serve_job(stream(submit()))
    assert answer["stdout"].strip() == "42"
    secrets = Path(ACCOUNTS["alice"].pw_dir) / ".hpchub" / f"{SESSION}.json"
    assert json.loads(secrets.read_text()) == {"JUPYTERHUB_API_TOKEN": "t0ken"}
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    assert stat.S_IMODE(secrets.parent.stat().st_mode) == 0o700


def test_failed_submission_removes_the_session_file(config: dict[str, Any], tmp_path: Path) -> None:
    config["submit"] = [sys.executable, "-c", "import sys; sys.exit('no such queue')"]
    (tmp_path / "demo.json").write_text(json.dumps(config))
    answer = gate.serve_job(stream(submit()))
    assert not answer["ok"]
    assert "no such queue" in answer["stderr"]
    assert not list((Path(ACCOUNTS["alice"].pw_dir) / ".hpchub").glob("*.json"))


def test_planted_symbolic_link_is_not_followed(config: dict[str, Any], tmp_path: Path) -> None:
    directory = Path(ACCOUNTS["alice"].pw_dir) / ".hpchub"
    directory.mkdir()
    (directory / f"{SESSION}.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(gate.Refused, match="cannot be written"):
        gate.serve_job(stream(submit()))
    assert not (tmp_path / "elsewhere").exists()


def test_job_program_refuses_requests_for_other_users(config: dict[str, Any]) -> None:
    with pytest.raises(gate.Refused, match="not for alice"):
        gate.serve_job(stream(submit(user="dave")))


@pytest.mark.parametrize("job_id", ["", "1 2", "1;id", "--user=bob", "1_[1-3]", "$(id)"])
def test_cancel_refuses_anything_but_a_job_id(config: dict[str, Any], job_id: str) -> None:
    request = {"action": "cancel", "user": "alice", "session": SESSION, "job_id": job_id, "cluster": "demo"}
    with pytest.raises(gate.Refused, match="job id"):
        gate.serve_job(stream(request))


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["/nonexistent/squeue"], 127, "not installed"),
        (["/etc/passwd"], 126, "cannot be run"),
        ([sys.executable, "-c", "import time; time.sleep(9)"], 124, "did not answer within 0.2 seconds"),
        ([sys.executable, "-c", "raise SystemExit(3)"], 3, "exit code 3"),
    ],
    ids=["missing", "not-executable", "hangs", "fails"],
)
def test_failing_command_is_explained(command: list[str], code: int, words: str) -> None:
    answer = gate.run(command, {"timeout": 0.2} if code == 124 else {})
    assert (answer["ok"], answer["exit"]) == (False, code)
    assert words in answer["error"]


def test_hanging_command_is_killed_with_its_children(tmp_path: Path) -> None:
    """A site's wrapper script may wait for a client that hangs."""
    wrapper = f"sleep 60 & echo $! > {tmp_path}/pid; wait"
    assert gate.run(["sh", "-c", wrapper], {"timeout": 0.5})["exit"] == 124
    process = Path("/proc", (tmp_path / "pid").read_text().strip(), "stat")
    deadline = time.monotonic() + 5
    while process.exists() and process.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_command_does_not_inherit_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIGPROXY_AUTH_TOKEN", "secret")
    answer = gate.run([sys.executable, "-c", "import os; print(sorted(os.environ))"], {})
    assert "CONFIGPROXY_AUTH_TOKEN" not in answer["stdout"]


def test_limits_join_the_output_of_all_successful_commands(config: dict[str, Any], tmp_path: Path) -> None:
    more = [["sh", "-c", "echo half; exit 1"], ["nowhere"], ["echo", "asked by {account}"]]
    (tmp_path / "demo.json").write_text(json.dumps({**config, "limits": ["echo", "first"], "limits_more": more}))
    found = gate.serve_gate("demo", stream({"action": "limits"}))
    assert found["ok"]
    assert found["stdout"] == "first\nasked by alice\n"
    (tmp_path / "demo.json").write_text(json.dumps({**config, "limits": ["false"], "limits_more": more}))
    found = gate.serve_gate("demo", stream({"action": "limits"}))
    assert not found["ok"]
    assert found["stdout"] == ""
