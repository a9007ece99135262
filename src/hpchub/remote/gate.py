#!/usr/bin/python3 -I
"""The gate: the hub's only access to a scheduler. This file contains two programs for a submit host.

``gate`` runs with the hub's account on the submit host, behind a forced ssh command or a local unix socket.
It reads one JSON request from standard input and writes one JSON answer to standard output::

    {"action": "submit", "user": NAME, "session": HEX, "script": TEXT, "secrets": {NAME: VALUE}}
    {"action": "cancel", "user": NAME, "session": HEX, "job_id": ID}
    {"action": "query"}
    {"action": "find", "job_id": ID}
    {"action": "limits"}

    {"ok": BOOL, "exit": INT, "stdout": TEXT, "stderr": TEXT, "command": [ARGV], "error": TEXT}

``gate`` runs the queries with its own account. To submit or cancel a job, it passes the request to ``job``, which runs
as the user through sudo. sudo permits exactly this program, without arguments, for the permitted groups.

The scheduler's commands are in ``/etc/hpchub/gate.d/CLUSTER.json``, which belongs to root. A request cannot contain a
command. All data travels on standard input, so no secret and no script is ever in an argument list or an environment.

This file uses the standard library only (Python 3.9 and later), because a submit host may have nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import grp
import json
import os
import pwd
import re
import signal
import subprocess
import sys
import syslog
from pathlib import Path
from typing import Any, TextIO

CONFIG_DIRECTORY = Path("/etc/hpchub/gate.d")
JOB_PROGRAM = "/usr/local/libexec/hpchub/job"
REQUEST_LIMIT = 1024 * 1024  # bytes; a batch script and its secrets need a few thousand
KEEP_LOGS = 20

CLUSTER_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
USER_NAME = re.compile(r"(?![Rr][Oo][Oo][Tt](?:@|$))(?![0-9]+$)[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")
SESSION = re.compile(r"[0-9a-f]{16}")
NOBODY = 65534  # the uid of Linux's account nobody: a system account, although its uid is high
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"

FIELDS = {
    "submit": {"action", "user", "session", "script", "secrets"},
    "cancel": {"action", "user", "session", "job_id"},
    "query": {"action"},
    "find": {"action", "job_id"},
    "limits": {"action"},
}
QUERIES = ("query", "find", "limits")


class Refused(Exception):
    """A request is not permitted or not valid. The message is for the hub's log and for the user."""


def read_request(stream: TextIO) -> dict[str, Any]:
    """Read one request.

    Raises:
        Refused: The request is not JSON, too long, or does not have exactly the fields of its action.
    """
    text = stream.read(REQUEST_LIMIT + 1)
    if len(text) > REQUEST_LIMIT:
        raise Refused(f"the request is longer than {REQUEST_LIMIT} bytes")
    try:
        request = json.loads(text)
    except ValueError:
        raise Refused("the request is not JSON") from None
    if not isinstance(request, dict):
        raise Refused("the request is not an object")
    fields = FIELDS.get(str(request.get("action")))
    if fields is None:
        raise Refused("the action is unknown; valid: " + ", ".join(sorted(FIELDS)))
    if set(request) - {"cluster"} != fields:
        raise Refused(f"{request['action']} requires exactly these fields: {', '.join(sorted(fields))}")
    for field in fields - {"secrets"}:
        if not isinstance(request[field], str) or "\0" in request[field]:
            raise Refused(f"{field} is not a string")
    secrets = request.get("secrets", {})
    if not isinstance(secrets, dict) or not all(isinstance(v, str) for v in secrets.values()):
        raise Refused("secrets is not an object of strings")
    if "session" in fields and not SESSION.fullmatch(request["session"]):
        raise Refused("the session is not 16 hexadecimal digits")
    return request


def read_config(cluster: str | None) -> dict[str, Any]:
    """Read the configuration of a cluster, which defines what the gate may do.

    Raises:
        Refused: The cluster is not configured on this host.
    """
    if cluster is None or not CLUSTER_NAME.fullmatch(cluster):
        raise Refused("the name of the cluster is not valid")
    path = CONFIG_DIRECTORY / (cluster + ".json")
    try:
        config: dict[str, Any] = json.loads(path.read_text())
        return config
    except FileNotFoundError:
        raise Refused(f"this host is not a submit host of the cluster {cluster}") from None
    except (OSError, ValueError) as error:
        raise Refused(f"{path} cannot be read: {error}") from None


def permitted_user(name: str, config: dict[str, Any]) -> pwd.struct_passwd:
    """Return the account of a user, if the hub may submit jobs for this user.

    Raises:
        Refused: The name is not valid here, the account does not exist, has another name or is a system account, or it
            is not in a permitted group.
    """
    if not USER_NAME.fullmatch(name) or not re.fullmatch(config["user_pattern"], name):
        raise Refused("the user name is not valid")
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        raise Refused(f"{name} has no account on this cluster") from None
    if account.pw_name != name:
        # Some directories ignore case, or accept a name with and without its realm. The owner of the job would then
        # have another name than the session's user.
        raise Refused(f"the account {name} is called {account.pw_name} on this cluster")
    if account.pw_uid < max(1, int(config["minimum_uid"])) or account.pw_uid == NOBODY:
        raise Refused(f"{name} is a system account")
    if not group_names(account) & set(config["permitted_groups"]):
        raise Refused(
            f"{name} is not in a group that may run jobs here; permitted: {', '.join(config['permitted_groups'])}"
        )
    return account


def group_names(account: pwd.struct_passwd) -> set[str]:
    """Return the names and the numeric ids of an account's groups. Digits always mean an id, as in sudo's rule."""
    found = set()
    for gid in os.getgrouplist(account.pw_name, account.pw_gid):
        found.add(str(gid))
        try:
            name = grp.getgrgid(gid).gr_name
        except KeyError:
            continue
        if not name.isdigit():
            found.add(name)
    return found


def run(
    command: list[str],
    config: dict[str, Any],
    text: str = "",
    home: str = "/",
    extra: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Run one command without a shell and with a minimal environment. Return an answer."""
    environment = {"PATH": PATH, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "HOME": home}
    environment.update(extra or {})
    environment.update(config.get("environment", {}))
    try:
        # A new session, so that a timeout also kills the processes that a site's wrapper has started.
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=home,
            start_new_session=True,
        )
        stdout, stderr = process.communicate(text.encode(), timeout=float(config.get("timeout", 60)))
    except FileNotFoundError:
        return answer(command, 127, error=f"{command[0]} is not installed on {os.uname().nodename}")
    except OSError as error:
        return answer(
            command,
            126,
            error=f"{command[0]} cannot be run on {os.uname().nodename}: {error.strerror}",
        )
    except subprocess.TimeoutExpired:
        # sudo belongs to root and cannot be killed. It ends when the time limit of the program that it runs is over.
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=1)
        return answer(
            command,
            124,
            error=f"{command[0]} did not answer within {config.get('timeout', 60)} seconds",
        )
    return answer(
        command,
        process.returncode,
        stdout.decode(errors="replace"),
        stderr.decode(errors="replace"),
        "" if process.returncode == 0 else f"{command[0]} failed with exit code {process.returncode}",
    )


def answer(command: list[str], code: int, stdout: str = "", stderr: str = "", error: str = "") -> dict[str, Any]:
    """Return an answer in the format that the module's docstring describes."""
    return {
        "ok": code == 0,
        "exit": code,
        "stdout": stdout,
        "stderr": stderr,
        "command": list(command),
        "error": error,
    }


def checked_job_id(request: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """Return the job id of a request as a list of arguments, which is empty for actions without a job id.

    Raises:
        Refused: The id is not a job id of this scheduler.
    """
    if "job_id" not in request:
        return []
    if not re.fullmatch(config["job_id_pattern"], request["job_id"]):
        raise Refused(f"the job id is not a valid id for {config['scheduler']}")
    return [request["job_id"]]


def means_no_jobs(result: dict[str, Any], config: dict[str, Any]) -> bool:
    """Return whether a failed query only means that there are no jobs. Some schedulers report this as an error."""
    pattern = config.get("no_jobs", "")
    return bool(pattern and re.search(pattern, result["stdout"] + "\n" + result["stderr"], re.MULTILINE))


def serve_gate(cluster: str | None, stream: TextIO) -> dict[str, Any]:
    """Answer one request of the hub."""
    request = read_request(stream)
    config = read_config(cluster)
    if request["action"] in QUERIES:
        # Each record of the answer begins with this random mark. Users can put any text into the names of their jobs,
        # even line breaks, but they cannot predict the mark.
        mark = os.urandom(8).hex()
        command = [word.replace("{mark}", mark) for word in config.get(request["action"], [])]
        if not command:
            raise Refused(f"{request['action']} is not configured for {config['scheduler']} on this host")
        result = run([*command, *checked_job_id(request, config)], config)
        if request["action"] == "limits" and result["ok"]:
            own_name = pwd.getpwuid(os.geteuid()).pw_name
            for further in config.get("limits_more", []):
                more = run([word.replace("{account}", own_name) for word in further], config)
                result["stdout"] += more["stdout"] if more["ok"] else ""
        without_jobs = not result["ok"] or not result["stdout"].strip()
        if request["action"] == "query" and without_jobs and means_no_jobs(result, config):
            return answer(command, 0)
        return result
    account = permitted_user(request["user"], config)
    request["cluster"] = cluster
    command = ["sudo", "-n", "-u", account.pw_name, "--", JOB_PROGRAM]
    # Wait longer than the job program does, so that its timeout applies and its answer arrives.
    longer = dict(config, timeout=float(config.get("timeout", 60)) + 10)
    result = run(command, longer, json.dumps(request))
    if not result["ok"]:
        detail = (result["stderr"].strip().splitlines() or [""])[-1]
        result["error"] = f"cannot run jobs as {account.pw_name} on this host: {detail or result['error']}"
        return result
    try:
        answered: dict[str, Any] = json.loads(result["stdout"])
        return answered
    except ValueError:
        return answer(command, 1, result["stdout"], result["stderr"], "the job program did not send a valid answer")


def serve_job(stream: TextIO) -> dict[str, Any]:
    """Submit or cancel as the user who runs this program."""
    request = read_request(stream)
    config = read_config(request.get("cluster"))
    account = permitted_user(pwd.getpwuid(os.getuid()).pw_name, config)
    if request.get("user") != account.pw_name:
        raise Refused(f"the request is not for {account.pw_name}")
    home = account.pw_dir
    identity = {"USER": account.pw_name, "LOGNAME": account.pw_name, "SHELL": account.pw_shell or "/bin/sh"}
    directory = Path(home) / ".hpchub"
    secrets = directory / (request["session"] + ".json")
    if request["action"] == "cancel":
        result = run([*config["cancel"], *checked_job_id(request, config)], config, home=home, extra=identity)
        if result["ok"]:
            secrets.unlink(missing_ok=True)
        return result
    if not Path(home).is_dir():
        raise Refused(f"the home directory of {account.pw_name}, {home}, does not exist on this cluster")
    try:
        write_secrets(directory, secrets, request["secrets"])
    except OSError as error:
        secrets.unlink(missing_ok=True)
        raise Refused(
            f"the home directory of {account.pw_name} cannot be written ({error.strerror}); check its quota and its"
            " permissions"
        ) from None
    result = run(config["submit"], config, request["script"], home=home, extra=identity)
    # After a timeout, the job may still start later and need its secrets.
    if not result["ok"] and result["exit"] != 124:
        secrets.unlink(missing_ok=True)
    return result


def write_secrets(directory: Path, path: Path, secrets: dict[str, str]) -> None:
    """Write a session's secrets to a file that only the owner can read, and delete old logs."""
    logs = directory / "logs"
    directory.mkdir(mode=0o700, exist_ok=True)
    directory.chmod(0o700)
    logs.mkdir(mode=0o700, exist_ok=True)
    old = sorted(logs.glob("*.log"), key=lambda log: log.stat().st_mtime, reverse=True)
    for log in old[KEEP_LOGS:]:
        log.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump(secrets, stream)
        stream.flush()
        os.fsync(stream.fileno())  # a network file system reports a full disk or an exceeded quota only here


def main(argv: list[str] | None = None) -> int:
    """Run one of the two programs, depending on the name of the executable."""
    program = Path(sys.argv[0]).name
    parser = argparse.ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    if program != "job":
        parser.add_argument("--cluster", required=True, help=f"the name of a configuration in {CONFIG_DIRECTORY}")
    arguments = parser.parse_args(argv)
    syslog.openlog(f"hpchub-{program}", syslog.LOG_PID, syslog.LOG_AUTH)
    os.umask(0o077)
    try:
        result = serve_job(sys.stdin) if program == "job" else serve_gate(arguments.cluster, sys.stdin)
    except Refused as refusal:
        syslog.syslog(syslog.LOG_WARNING, f"refused: {refusal}")
        result = answer([], 1, error=str(refusal))
    else:
        syslog.syslog(syslog.LOG_INFO, f"{' '.join(result['command'])[:200]}: exit {result['exit']}")
    json.dump(result, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
