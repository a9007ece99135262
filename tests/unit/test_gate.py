"""The gate: permitted and refused requests, and the files that it leaves behind."""

from __future__ import annotations

import contextlib
import errno
import grp
import hashlib
import io
import json
import os
import pwd
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from hpchub.remote import gate

if TYPE_CHECKING:
    from collections.abc import Iterator

SESSION = "0123456789abcdef"
ACCOUNTS = {
    "alice": SimpleNamespace(pw_name="alice", pw_uid=2001, pw_gid=2100),
    "dave": SimpleNamespace(pw_name="dave", pw_uid=2004, pw_gid=100),
    "root": SimpleNamespace(pw_name="root", pw_uid=0, pw_gid=2100),
    "toor": SimpleNamespace(pw_name="toor", pw_uid=0, pw_gid=2100),
    "daemon": SimpleNamespace(pw_name="daemon", pw_uid=2, pw_gid=2100),
    "nobody": SimpleNamespace(pw_name="nobody", pw_uid=65534, pw_gid=2100),
}
NAMES = ["first.last", "2023abc", "AB1234", "ann@CL.ORG"]
ACCOUNTS |= {
    name: SimpleNamespace(pw_name=name, pw_uid=3001 + number, pw_gid=2100) for number, name in enumerate(NAMES)
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
        "user_pattern": "[a-z_][a-z0-9_-]{0,31}",
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
        (
            {"action": "run"},
            "the action is unknown; valid: cancel, doctor, find, history, knowledge, limits, log, query, submit, ",
        ),
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
        ("root", "the user name is not valid"),
        ("toor", "system account"),
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
        gate.permitted_user("toor", config | {"minimum_uid": 0})


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


def write_config(config: dict[str, Any], **changes: Any) -> None:
    (gate.CONFIG_DIRECTORY / "demo.json").write_text(json.dumps(config | changes))


def session_file() -> Path:
    return Path(ACCOUNTS["alice"].pw_dir) / ".hpchub" / f"{SESSION}.json"


def test_broken_configuration_is_refused(config: dict[str, Any]) -> None:
    (gate.CONFIG_DIRECTORY / "demo.json").write_text('{"scheduler": ')
    with pytest.raises(gate.Refused, match=r"demo\.json cannot be read"):
        gate.serve_gate("demo", stream({"action": "query"}))


def test_missing_cluster_name_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(gate.Refused, match="name of the cluster is not valid"):
        gate.serve_job(stream({name: value for name, value in submit().items() if name != "cluster"}))


@pytest.mark.parametrize("name", NAMES)
def test_site_can_permit_the_names_of_its_directory(config: dict[str, Any], name: str) -> None:
    with pytest.raises(gate.Refused, match="the user name is not valid"):
        gate.permitted_user(name, config)
    assert gate.permitted_user(name, config | {"user_pattern": "[A-Za-z0-9._@-]+"}).pw_name == name


@pytest.mark.parametrize("name", ["root", "Root", "root@CL.ORG", "0", "1000", "..", "-x", "", "a/b", "a b", "alice\n"])
def test_no_pattern_permits_these_names(config: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwnam", lambda name: SimpleNamespace(pw_name=name, pw_uid=2000, pw_gid=2100))
    with pytest.raises(gate.Refused, match="the user name is not valid"):
        gate.permitted_user(name, config | {"user_pattern": "(?s).*"})


def test_alias_of_an_account_is_refused(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwnam", lambda name: ACCOUNTS["alice"])
    with pytest.raises(gate.Refused, match="the account alias is called alice on this cluster"):
        gate.permitted_user("alias", config)


@pytest.mark.parametrize(
    ("permitted", "group", "admitted"),
    [
        ("HPC Users", ("HPC Users", 7001), True),
        ("HPC Users", ("HPCUsers", 7001), False),
        ("hpc", ("HPC", 7001), False),
        ("grp@REALM", ("grp@REALM", 7001), True),
        ("CN=HPC,OU=x", ("CN=HPC,OU=x", 7001), True),
        ("a,hpc", ("hpc", 7001), False),
        ("hpc", ("a,hpc", 7001), False),
        ("7001", ("hpc", 7001), True),
        ("7001", ("7001", 8000), False),
        ("8000", ("7001", 8000), True),
    ],
)
def test_groups_are_compared_exactly_and_digits_are_ids(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, permitted: str, group: tuple[str, int], admitted: bool
) -> None:
    name, gid = group
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid_: [gid])
    monkeypatch.setattr(grp, "getgrgid", lambda gid: SimpleNamespace(gr_name=name))
    if admitted:
        assert gate.permitted_user("alice", config | {"permitted_groups": [permitted]})
    else:
        with pytest.raises(gate.Refused, match="not in a group that may run jobs here"):
            gate.permitted_user("alice", config | {"permitted_groups": [permitted]})


def test_group_without_a_name_neither_permits_nor_disturbs(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [999999, gid])
    assert gate.permitted_user("alice", config).pw_name == "alice"
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [999999])
    with pytest.raises(gate.Refused, match="not in a group that may run jobs here; permitted: hpc"):
        gate.permitted_user("alice", config)


@pytest.mark.parametrize("job_id", ["1;id", "--user=bob", "1\n2"])
def test_look_up_refuses_anything_but_a_job_id(config: dict[str, Any], job_id: str) -> None:
    write_config(config, find=["echo"])
    with pytest.raises(gate.Refused, match="the job id is not a valid id for slurm"):
        gate.serve_gate("demo", stream({"action": "find", "job_id": job_id}))
    assert gate.serve_gate("demo", stream({"action": "find", "job_id": "17"}))["stdout"] == "17\n"


def test_action_that_is_not_configured_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(gate.Refused, match="limits is not configured for slurm on this host"):
        gate.serve_gate("demo", stream({"action": "limits"}))


# From the gate to the job program


class Sudo:
    """Takes the place of `gate.run` and answers like the job program that sudo starts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.command: list[str] = []
        self.timeout = 0.0
        self.request: dict[str, Any] = {}
        self.result = gate.answer(["sudo"], 0, json.dumps(gate.answer(["sbatch"], 0, "42\n")))
        monkeypatch.setattr(gate, "run", self)

    def __call__(self, command: list[str], config: dict[str, Any], text: str = "") -> dict[str, Any]:
        self.command, self.timeout, self.request = command, config["timeout"], json.loads(text)
        return self.result


@pytest.fixture
def sudo(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Sudo:
    return Sudo(monkeypatch)


def request_from_the_hub() -> dict[str, Any]:
    return {name: value for name, value in submit().items() if name != "cluster"}


def test_submission_runs_as_the_user_and_in_the_gate_s_cluster(sudo: Sudo) -> None:
    assert gate.serve_gate("demo", stream(request_from_the_hub()))["stdout"] == "42\n"
    assert sudo.command == ["sudo", "-n", "-u", "alice", "--", gate.JOB_PROGRAM]
    assert sudo.request == submit()
    assert sudo.timeout == 15  # longer than the job program's own 5 seconds


@pytest.mark.parametrize("user", ["root", "dave", "-u"])
def test_submission_for_a_user_without_permission_never_reaches_sudo(sudo: Sudo, user: str) -> None:
    with pytest.raises(gate.Refused):
        gate.serve_gate("demo", stream(request_from_the_hub() | {"user": user}))
    assert sudo.command == []


def test_failure_of_sudo_is_explained_with_its_last_message(sudo: Sudo) -> None:
    sudo.result = gate.answer(["sudo"], 1, stderr="a warning\nsudo: a password is required\n", error="sudo failed")
    answer = gate.serve_gate("demo", stream(request_from_the_hub()))
    assert not answer["ok"]
    assert answer["error"] == "cannot run jobs as alice on this host: sudo: a password is required"
    sudo.result = gate.answer(["sudo"], 127, error="sudo is not installed")
    answer = gate.serve_gate("demo", stream(request_from_the_hub()))
    assert answer["error"] == "cannot run jobs as alice on this host: sudo is not installed"


def test_invalid_answer_of_the_job_program_is_a_failure(sudo: Sudo) -> None:
    sudo.result = gate.answer(["sudo"], 0, "Last login: yesterday\n")
    answer = gate.serve_gate("demo", stream(request_from_the_hub()))
    assert (answer["ok"], answer["error"]) == (False, "the job program did not send a valid answer")


# The job program


@pytest.mark.parametrize(("code", "exists"), [(0, False), (1, True)], ids=["cancelled", "failed"])
def test_cancellation_removes_the_session_file_only_if_it_succeeds(
    config: dict[str, Any], code: int, exists: bool
) -> None:
    write_config(config, cancel=[sys.executable, "-c", f"raise SystemExit({code})"])
    session_file().parent.mkdir()
    session_file().write_text("{}")
    request = {"action": "cancel", "user": "alice", "session": SESSION, "job_id": "7", "cluster": "demo"}
    assert gate.serve_job(stream(request))["exit"] == code
    assert session_file().exists() is exists


def test_session_file_stays_when_the_submission_times_out(config: dict[str, Any]) -> None:
    """The job may have been submitted, and needs the file when it starts."""
    write_config(config, submit=[sys.executable, "-c", "import time; time.sleep(9)"], timeout=0.3)
    assert gate.serve_job(stream(submit()))["exit"] == 124
    assert session_file().exists()


def test_missing_home_directory_is_explained(config: dict[str, Any]) -> None:
    Path(ACCOUNTS["alice"].pw_dir).rmdir()
    with pytest.raises(gate.Refused, match=r"the home directory of alice, .*/home, does not exist on this cluster"):
        gate.serve_job(stream(submit()))


def test_only_the_newest_logs_are_kept(config: dict[str, Any]) -> None:
    logs = session_file().parent / "logs"
    logs.mkdir(parents=True)
    for age in range(gate.KEEP_LOGS + 3):
        (logs / f"{age}.log").write_text("")
        os.utime(logs / f"{age}.log", (10_000 - age, 10_000 - age))
    (logs / "notes.txt").write_text("")
    gate.serve_job(stream(submit()))
    assert {path.name for path in logs.iterdir()} == {f"{age}.log" for age in range(gate.KEEP_LOGS)} | {"notes.txt"}


# The end of a job


def test_history_joins_the_output_of_all_successful_commands(config: dict[str, Any]) -> None:
    write_config(
        config, history=[["nowhere"], ["sh", "-c", "echo half; exit 1"], ["echo", "first"], ["echo", "second"]]
    )
    found = gate.serve_gate("demo", stream({"action": "history", "job_id": "17"}))
    assert (found["ok"], found["stdout"]) == (True, "first 17\nsecond 17\n")
    write_config(config, history=[["nowhere"], ["false"]])
    found = gate.serve_gate("demo", stream({"action": "history", "job_id": "17"}))
    assert (found["ok"], found["stdout"], found["exit"]) == (False, "", 127)


def test_history_that_is_not_configured_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(gate.Refused, match="history is not configured for slurm on this host"):
        gate.serve_gate("demo", stream({"action": "history", "job_id": "17"}))


def test_usage_passes_the_ids_of_the_jobs_as_one_argument(config: dict[str, Any]) -> None:
    write_config(config, usage=["echo", "--jobs"])
    found = gate.serve_gate("demo", stream({"action": "usage", "job_ids": "17,18,19"}))
    assert (found["ok"], found["stdout"]) == (True, "--jobs 17,18,19\n")


def test_usage_that_is_not_configured_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(gate.Refused, match="usage is not configured for slurm on this host"):
        gate.serve_gate("demo", stream({"action": "usage", "job_ids": "17"}))


@pytest.mark.parametrize("job_ids", ["", "17,", "17,--user=bob", "17, 18", "1;id", "17\n18", "17,18\n"])
def test_usage_refuses_anything_but_job_ids(config: dict[str, Any], job_ids: str) -> None:
    write_config(config, usage=["echo"])
    with pytest.raises(gate.Refused, match="the job id is not a valid id for slurm"):
        gate.serve_gate("demo", stream({"action": "usage", "job_ids": job_ids}))


def test_usage_refuses_too_many_jobs(config: dict[str, Any]) -> None:
    write_config(config, usage=["echo"])
    with pytest.raises(gate.Refused, match="usage accepts at most 500 job ids"):
        gate.serve_gate("demo", stream({"action": "usage", "job_ids": ",".join(["17"] * 501)}))


def test_versions_are_those_of_the_program_and_of_the_notebook_environment(
    config: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "hpchub-launch.json"
    file.write_text('{"versions": {}}\n')
    write_config(config, notebook_version=["cat", str(file)])
    found = gate.serve_gate("demo", stream({"action": "versions"}))
    program = hashlib.sha256(Path(gate.__file__).read_bytes()).hexdigest()
    assert found["ok"]
    assert json.loads(found["stdout"]) == {
        "protocol": gate.PROTOCOL,
        "program": program,
        "notebook": '{"versions": {}}\n',
    }


@pytest.mark.parametrize("command", [["cat", "/nowhere/file"], ["nowhere"], []], ids=["file", "program", "old"])
def test_environment_that_cannot_be_read_has_no_version(config: dict[str, Any], command: list[str]) -> None:
    write_config(config, notebook_version=command)
    found = gate.serve_gate("demo", stream({"action": "versions"}))
    assert found["ok"]
    assert json.loads(found["stdout"])["notebook"] is None


@pytest.mark.parametrize("job_id", ["1;id", "--user=bob", "1\n2", "../17"])
@pytest.mark.parametrize("action", ["history", "log"])
def test_requests_about_a_job_refuse_anything_but_a_job_id(config: dict[str, Any], action: str, job_id: str) -> None:
    write_config(config, history=[["echo"]])
    request = {"action": action, "job_id": job_id} | ({"user": "alice"} if action == "log" else {})
    with pytest.raises(gate.Refused, match="the job id is not a valid id for slurm"):
        gate.serve_job(stream(request | {"cluster": "demo"})) if action == "log" else gate.serve_gate(
            "demo", stream(request)
        )


# The last lines of a log


@pytest.fixture
def logs(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return alice's directory of logs."""
    directory = session_file().parent / "logs"
    directory.mkdir(parents=True)
    return directory


def read_log() -> list[str]:
    request = {"action": "log", "user": "alice", "job_id": "17", "cluster": "demo"}
    text: str = gate.serve_job(stream(request))["stdout"]
    return text.splitlines()


def test_log_is_read_as_the_user(sudo: Sudo) -> None:
    gate.serve_gate("demo", stream({"action": "log", "user": "alice", "job_id": "17"}))
    assert sudo.command == ["sudo", "-n", "-u", "alice", "--", gate.JOB_PROGRAM]
    assert sudo.request == {"action": "log", "user": "alice", "job_id": "17", "cluster": "demo"}
    sudo.command = []
    with pytest.raises(gate.Refused):
        gate.serve_gate("demo", stream({"action": "log", "user": "dave", "job_id": "17"}))
    assert sudo.command == []


def test_only_the_last_lines_of_a_log_are_read(logs: Path) -> None:
    (logs / "17.log").write_text("".join(f"line {number}\n\n" for number in range(10_000)))
    assert read_log() == [f"line {number}" for number in range(10_000 - gate.LOG_LINES, 10_000)]
    (logs / "17.log").write_text("x" * (gate.LOG_BYTES * 2))
    assert read_log() == []
    (logs / "17.log").write_text("y " * 1000)
    assert read_log() == ["y " * (gate.LOG_LINE_LENGTH // 2) + "..."]


def make_link(path: Path, target: Path) -> None:
    target.write_text("secret of somebody else")
    path.symlink_to(target)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: make_link(path, path.parents[2] / "elsewhere"),
        os.mkfifo,
        lambda path: path.mkdir(),
        lambda path: path.symlink_to("/dev/zero"),
    ],
    ids=["link", "pipe", "directory", "device"],
)
def test_only_an_ordinary_file_is_read(logs: Path, make: Any) -> None:
    make(logs / "17.log")
    with pytest.raises(gate.Refused, match=r"cannot be read|is not an ordinary file"):
        read_log()


def test_linked_directory_of_logs_is_not_followed(logs: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "17.log").write_text("secret of somebody else")
    logs.rmdir()
    logs.symlink_to(elsewhere)
    with pytest.raises(gate.Refused, match="cannot be read"):
        read_log()


def test_file_of_another_user_is_not_read(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (logs / "17.log").write_text("secret of somebody else")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(gate.Refused, match="not an ordinary file of the user"):
        read_log()


def test_missing_log_is_explained(logs: Path) -> None:
    with pytest.raises(gate.Refused, match=r"there is no log ~/\.hpchub/logs/17\.log"):
        read_log()


HEX = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("http://127.0.0.1:8888/lab?token=abc&x=1", "http://127.0.0.1:8888/lab?token=[redacted]&x=1"),
        ("JUPYTERHUB_API_TOKEN=abc def", "JUPYTERHUB_API_TOKEN=[redacted] def"),
        ('{"api_token": "abc def", "port": 1}', '{"api_token": [redacted], "port": 1}'),
        ("Authorization: Bearer abc.def", "Authorization: [redacted]"),
        ("sent token 12345678abcdef", "sent token [redacted]"),
        ("the token authentication is on", "the token authentication is on"),
        ("Cookie: a=b; c=d", "Cookie: [redacted]"),
        ("password: hunter2", "password: [redacted]"),
        ("aws_secret_access_key = wJalrXUtnFEMI", "aws_secret_access_key = [redacted]"),
        ("mysql --password hunter2 db", "mysql --password [redacted] db"),
        ("https://ann:hunter2@git.example.org/x", "https://[redacted]git.example.org/x"),
        (f"user {HEX} connected", "user [redacted] connected"),
        ("ghp_abcdefghijklmnop1234", "[redacted]"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.abc-_d", "[redacted]"),
        ("A1" * 40, "[redacted]"),
        ("to\0ken=abc", "token=[redacted]"),
        ("\x1b[31mtoken\x1b[0m=abc", "token=[redacted]"),
        ("session 0123456789abcdef of job 17 on n1:20001", "session 0123456789abcdef of job 17 on n1:20001"),
        (f"/opt/env/venv-483558c0155b/lib/python3.11/{'site_packages/' * 4}x.py", None),
        ("\x1b]0;title\x07text\x1b[1;31m red\x07", "text red"),
        ("10%\r50%\r100% done", "100% done"),
        ("right\u202eleft\u200b\u2066", "rightleft"),
        ("<script>alert(1)</script>", None),
        ("müsli \N{SNOWMAN}", None),
    ],
)
def test_log_lines_are_plain_text_without_secrets(logs: Path, line: str, shown: str | None) -> None:
    (logs / "17.log").write_text(f"begin\n{line}\nend\n")
    assert read_log() == ["begin", line if shown is None else shown, "end"]


def test_private_keys_are_redacted_even_if_the_log_begins_or_ends_within_one() -> None:
    begin, key, end = "-----BEGIN RSA PRIVATE KEY-----", "aGVsbG8K", "-----END RSA PRIVATE KEY-----"
    assert gate.last_lines(f"a\n{begin}\n{key}\n{end}\nb\n") == "a\n[redacted]\nb\n"
    assert gate.last_lines(f"a\n{begin}\n{key}\n") == "a\n[redacted]\n"
    assert gate.last_lines(f"{key}\n{end}\nb\n") == "[redacted]\nb\n"


@pytest.mark.parametrize(
    "text", ["a", "a.", "token", "token=", "eyJ-", "\x1b]", "\x1b", "-----BEGIN ", "://", "A1+", "\r"]
)
def test_long_logs_are_redacted_quickly(text: str) -> None:
    begin = time.monotonic()
    gate.last_lines(text * (gate.LOG_BYTES // len(text)))
    assert time.monotonic() - begin < 5


# The entry point


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Return what the programs write to the system log, and restore the process's file mode mask."""
    entries: list[str] = []
    monkeypatch.setattr("syslog.openlog", lambda ident, *_: entries.append(ident))
    monkeypatch.setattr("syslog.syslog", lambda _, text: entries.append(text))
    mask = os.umask(0o022)
    yield entries
    os.umask(mask)


def test_refusal_is_a_logged_answer(
    config: dict[str, Any], log: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/libexec/hpchub/gate"])
    monkeypatch.setattr(sys, "stdin", stream({"action": "run"}))
    assert gate.main(["--cluster", "demo"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["ok"], answer["command"]) == (False, [])
    assert answer["error"].startswith("the action is unknown")
    assert log == ["hpchub-gate", f"refused: {answer['error']}"]


def test_job_program_answers_logs_and_protects_its_files(
    config: dict[str, Any], log: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/libexec/hpchub/job"])
    monkeypatch.setattr(sys, "stdin", stream(submit()))
    assert gate.main([]) == 0
    assert json.loads(capsys.readouterr().out)["stdout"] == "42\n"
    assert log[0] == "hpchub-job"
    assert log[1].endswith("exit 0")
    assert "t0ken" not in "".join(log)
    assert os.umask(0o022) == 0o077


@pytest.mark.usefixtures("config")
def test_refusal_is_answered_with_a_message_for_the_user(
    log: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The answer has the same fields as always, because a hub of an earlier version accepts no others."""
    monkeypatch.setattr(sys, "argv", ["/usr/libexec/hpchub/gate"])
    monkeypatch.setattr(sys, "stdin", stream(request_from_the_hub() | {"user": "nobody-knows"}))
    assert gate.main(["--cluster", "demo"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer) == {"ok", "exit", "stdout", "stderr", "command", "error"}
    assert json.loads(answer["stdout"]) == {"id": "no_account", "values": {"user": "nobody-knows"}}
    assert answer["error"] == "nobody-knows has no account on this cluster"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            PermissionError(13, "Permission denied", "/home/alice"),
            "/home/alice cannot be used on the submit host: Perm",
        ),
        (KeyError("job_id"), "the submit host made an unexpected error, which its system log explains"),
    ],
)
@pytest.mark.usefixtures("config")
def test_unexpected_error_is_answered_in_plain_words(
    log: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    words: str,
) -> None:
    def fail(stream: object) -> None:
        raise error

    monkeypatch.setattr(gate, "serve_job", fail)
    monkeypatch.setattr(sys, "argv", ["/usr/libexec/hpchub/job"])
    assert gate.main([]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["error"].startswith(words)
    assert "Error" not in answer["error"]
    assert repr(error) in log[-1]


def test_gate_requires_a_cluster(
    log: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/libexec/hpchub/gate"])
    with pytest.raises(SystemExit):
        gate.main([])
    assert "--cluster" in capsys.readouterr().err


# Knowledge


def ask(topic: str, users: str = "") -> dict[str, Any]:
    return gate.serve_gate("demo", stream({"action": "knowledge", "topic": topic, "users": users}))


def test_knowledge_runs_the_command_of_the_topic(config: dict[str, Any]) -> None:
    write_config(config, knowledge={"nodes": ["echo", "{mark}"], "jobs": ["echo", "jobs"]})
    found = ask("nodes")
    content = json.loads(found["stdout"])
    assert (found["ok"], content["users"]) == (True, {})
    assert re.fullmatch(r"[0-9a-f]{16}\n", content["output"])
    assert ask("nodes")["stdout"] != found["stdout"]


@pytest.mark.parametrize("topic", ["", "jobs", "users", "../nodes", "knowledge"])
def test_unknown_topic_is_refused(config: dict[str, Any], topic: str) -> None:
    write_config(config, knowledge={"nodes": ["echo"]})
    with pytest.raises(gate.Refused, match="the topic is unknown for slurm on this host"):
        ask(topic)


def test_knowledge_passes_the_users_as_a_part_of_a_word_or_as_words(config: dict[str, Any]) -> None:
    write_config(config, user_pattern=".*", knowledge={"one": ["echo", "name={users}"], "each": ["echo", "{users}"]})
    names = "alice,first.last"
    assert json.loads(ask("one", names)["stdout"]) == {
        "users": {"alice": ["2100", "hpc"], "first.last": ["2100", "hpc"]},
        "output": "name=alice,first.last\n",
    }
    assert ask("each", names)["command"] == ["echo", "alice", "first.last"]


@pytest.mark.parametrize("name", ["root", "daemon", "dave", "nobody-here", "-u", "alice\n", "a b", "{mark}", "*"])
def test_knowledge_leaves_out_users_who_may_not_run_jobs(config: dict[str, Any], name: str) -> None:
    write_config(config, knowledge={"users": ["echo", "{users}"]})
    assert ask("users", f"{name},alice")["command"] == ["echo", "alice"]
    with pytest.raises(gate.Refused, match="none of the users may run jobs here"):
        ask("users", name)


def test_knowledge_refuses_too_many_users_and_users_for_the_whole_cluster(config: dict[str, Any]) -> None:
    write_config(config, knowledge={"nodes": ["echo"], "users": ["echo", "{users}"]})
    with pytest.raises(gate.Refused, match="at most 50 users"):
        ask("users", ",".join(["alice"] * 51))
    for topic, users in (("nodes", "alice"), ("users", "")):
        with pytest.raises(gate.Refused, match="needs users, or accepts none"):
            ask(topic, users)


@pytest.mark.parametrize("command", [["nowhere"], ["false"], ["sh", "-c", "sleep 9"]])
def test_knowledge_that_fails_does_not_make_the_hub_prefer_another_host(
    config: dict[str, Any], command: list[str]
) -> None:
    write_config(config, timeout=0.2, knowledge={"nodes": command})
    found = ask("nodes")
    assert (found["ok"], found["exit"]) == (False, 1)
    assert found["error"]


# The doctor

QUOTA = """\
Disk quotas for user alice (uid 2001):
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
       /dev/sda    {}     {}
      /dev/sdb1  999999*  10     10       1       10      10      10      1
"""


def examine() -> Any:
    found = gate.serve_job(stream({"action": "doctor", "user": "alice", "cluster": "demo"}))
    assert found["ok"]
    return json.loads(found["stdout"])


def test_doctor_finds_nothing_in_a_healthy_home(config: dict[str, Any]) -> None:
    home = ACCOUNTS["alice"].pw_dir
    assert examine() == {"home": home, "error": "", "quota": "", "message": ""}
    assert not list((Path(home) / ".hpchub").iterdir())
    assert stat.S_IMODE((Path(home) / ".hpchub").stat().st_mode) == 0o700


def test_doctor_reports_a_home_that_does_not_exist(config: dict[str, Any], tmp_path: Path) -> None:
    ACCOUNTS["alice"].pw_dir = str(tmp_path / "gone")
    assert examine()["error"] == "ENOENT"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EROFS])
def test_doctor_reports_a_home_that_cannot_be_written(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    assert examine()["error"] == errno.errorcode[number]
    assert not list((Path(ACCOUNTS["alice"].pw_dir) / ".hpchub").iterdir())


@pytest.fixture
def small_home(config: dict[str, Any], tmp_path: Path) -> Iterator[Path]:
    """A home with a real limit of files and of space."""
    home = tmp_path / "small"
    home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k,nr_inodes=8", "tmpfs", str(home)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a file system")
    ACCOUNTS["alice"].pw_dir = str(home)
    yield home
    subprocess.run(["umount", "--lazy", home], check=True)


@pytest.mark.parametrize(("kind", "expected"), [("files", "files"), ("space", ""), ("both", "")])
def test_doctor_tells_too_many_files_from_too_little_space(small_home: Path, kind: str, expected: str) -> None:
    for each in range(7) if kind != "space" else ():
        (small_home / str(each)).touch()
    if kind != "files":
        with contextlib.suppress(OSError), (small_home / "0").open("wb") as full:
            full.write(bytes(1024 * 1024))
    found = examine()
    assert (found["error"], found["quota"]) == ("ENOSPC", expected)


def test_doctor_shows_what_the_quota_command_of_the_site_prints(config: dict[str, Any]) -> None:
    write_config(config, quota=["sh", "-c", "echo 'Your project is full.'; echo token=abc; exit 1"])
    assert examine()["message"] == "Your project is full.\ntoken=[redacted]"
    write_config(config, quota=["nowhere"])
    assert examine()["message"] == ""


@pytest.mark.parametrize(
    ("blocks", "files", "expected"),
    [
        ("10 0 0 0", "10 0 0 0", ""),
        ("5000 9000 10000 0", "10 100 200 0", ""),
        ("9500* 9000 99999 2000", "10 100 200 0", ""),
        ("9500* 9000 99999 999", "10 100 200 0", "blocks"),
        ("9999* 9000 10000 2000", "10 100 200 0", "blocks"),
        ("5000 9000 10000 0", "200* 100 200 2000", "files"),
        ("5000 9000 10000 0", "199* 100 200 2000", "files"),
        ("x 9000 10000 0", "10 100 200 0", ""),
    ],
)
def test_doctor_reads_the_quota_of_the_home(blocks: str, files: str, expected: str) -> None:
    assert gate.used_up_quota(QUOTA.format(blocks, files), "/dev/sda", 1000) == expected


def test_home_belongs_to_the_mount_with_the_longest_path() -> None:
    assert gate.mount_source("/proc/self") == "proc"
    assert gate.mount_source("/nowhere/at/all") == gate.mount_source("/")


def test_slow_doctor_ends_in_time(config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "sudo"
    program.write_text("#!/bin/sh\nsleep 30\n")
    program.chmod(0o700)
    monkeypatch.setattr(gate, "PATH", f"{tmp_path}:{gate.PATH}")
    monkeypatch.setattr(gate, "DOCTOR_TIMEOUT", -0.8)
    began = time.monotonic()
    found = gate.serve_gate("demo", stream({"action": "doctor", "user": "alice"}))
    assert time.monotonic() - began < 2
    assert (found["ok"], found["exit"]) == (False, 1)


HANGING_DOCTOR = """
import contextlib, io, json, pwd, sys, time
from hpchub.remote import gate
gate.DOCTOR_TIMEOUT = -0.5
account = pwd.getpwuid(gate.os.getuid())
gate.read_config = lambda _: {}
gate.permitted_user = lambda *_: account
gate.probe_home = lambda _: time.sleep(10)
request = {"action": "doctor", "user": account.pw_name, "cluster": "demo"}
gate.serve_job(io.StringIO(json.dumps(request)))
"""


def test_doctor_ends_itself_if_the_home_hangs() -> None:
    """sudo belongs to root, so the gate cannot kill it. Each start would leave a process otherwise."""
    began = time.monotonic()
    found = subprocess.run([sys.executable, "-c", HANGING_DOCTOR], check=False)
    assert found.returncode == -signal.SIGALRM
    assert time.monotonic() - began < 5


def test_doctor_in_time_leaves_no_alarm(config: dict[str, Any]) -> None:
    examine()
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
