#!/usr/bin/python3 -I
"""The gate: the hub's only access to a scheduler. This file contains two programs for a submit host.

``gate`` runs with the hub's account on the submit host, behind a forced ssh command or a local unix socket.
It reads one JSON request from standard input and writes one JSON answer to standard output::

    {"action": "submit", "user": NAME, "session": HEX, "script": TEXT, "secrets": {NAME: VALUE}}
    {"action": "cancel", "user": NAME, "session": HEX, "job_id": ID}
    {"action": "query"}
    {"action": "find", "job_id": ID}
    {"action": "limits"}
    {"action": "history", "job_id": ID}
    {"action": "usage", "job_ids": "ID,ID,..."}
    {"action": "log", "user": NAME, "job_id": ID}
    {"action": "versions"}
    {"action": "knowledge", "topic": NAME, "users": "NAME,NAME,..."}
    {"action": "doctor", "user": NAME}

    {"ok": BOOL, "exit": INT, "stdout": TEXT, "stderr": TEXT, "command": [ARGV], "error": TEXT}

If no command has run, ``stdout`` may contain the error as a message that the hub can translate, in JSON; see
``Refused``.

``gate`` runs the queries with its own account. To submit or cancel a job, to read the last lines of its log, or to
examine a home directory, it passes the request to ``job``, which runs as the user through sudo. sudo permits exactly
this program, without arguments, for the permitted groups.

The scheduler's commands are in ``/etc/hpchub/gate.d/CLUSTER.json``, which belongs to root. A request cannot contain a
command. All data travels on standard input, so no secret and no script is ever in an argument list or an environment.

This file uses the standard library only (Python 3.9 and later), because a submit host may have nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import grp
import hashlib
import json
import os
import pwd
import re
import signal
import stat
import subprocess
import sys
import syslog
import time
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

# Increase this number when a change makes the hub and an older gate misunderstand each other: another request or
# answer, or another output of the scheduler's commands in the configuration. The hub starts no session through a gate
# with another number. A new request that the hub can do without is no such change.
PROTOCOL = 1

CONFIG_DIRECTORY = Path("/etc/hpchub/gate.d")
JOB_PROGRAM = "/usr/local/libexec/hpchub/job"
REQUEST_LIMIT = 1024 * 1024  # bytes; a batch script and its secrets need a few thousand
USAGE_LIMIT = 500  # job ids in one request
KNOWLEDGE_USERS = 50  # names in one request
DOCTOR_TIMEOUT = 2  # seconds; a start waits for the doctor no longer
PROBE_BYTES = 64 * 1024
FULL = ("ENOSPC", "EDQUOT")  # errors of a file system on which nothing more can be stored
QUOTA_RESERVE = {"blocks": 1024, "files": 20}  # KiB and files that a session needs at least
VERSION_TIMEOUT = 10  # seconds for one small file, perhaps on a network file system
KEEP_LOGS = 20
LOG_BYTES = 32 * 1024  # how much of the end of a log the job program reads
LOG_LINES = 25
LOG_LINE_LENGTH = 400  # characters

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
    "history": {"action", "job_id"},
    "usage": {"action", "job_ids"},
    "log": {"action", "user", "job_id"},
    "versions": {"action"},
    "knowledge": {"action", "topic", "users"},
    "doctor": {"action", "user"},
}
QUERIES = ("query", "find", "limits")

REDACTED = "[redacted]"
WORDS = "token|secret|passw(?:or)?d|passphrase|passcode|(?:api|access|private|secret)[_-]?key|credential|xsrf|cookie"
# Text that may be a secret. A name in front of a secret stays, so that the line still makes sense.
SECRETS = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL | re.MULTILINE)
    for pattern in (
        # private keys, also if the log begins or ends within one
        r"-----BEGIN [A-Z0-9 ]{0,20}PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]{0,20}PRIVATE KEY-----|\Z)",
        r"\A(?:(?!-----BEGIN ).)*?-----END [A-Z0-9 ]{0,20}PRIVATE KEY-----",
        # the user and the password in a URL
        r"(?P<name>\b[a-z][a-z0-9+.-]{0,20}://)[^\s/@]*@",
        # the rest of a header
        r"(?P<name>\b(?:authorization|cookie)['\"]?\s*[:=]\s*)[^\n]+",
        r"(?P<name>\b(?:bearer|basic|token)\s+)(?=\S*[0-9])[a-z0-9+/._~=-]{8,}",
        # NAME=VALUE, NAME: VALUE, "NAME": "VALUE", --NAME VALUE
        rf"(?P<name>(?:{WORDS})[a-z0-9_.-]{{0,40}}['\"]?\s*(?:[=:]\s*|(?=['\"])))(?:\"[^\"\n]*\"?|'[^'\n]*'?|[^\s'\"&;,]+)",
        r"(?P<name>--[a-z0-9-]{0,40}(?:token|secret|password|passphrase|key)\s+)\S+",
        # well-known forms of tokens: JSON web tokens, forges, clouds
        r"\beyJ[a-z0-9_-]{8,2000}\.[a-z0-9_-]+(?:\.[a-z0-9_-]*)?",
        r"\b(?:gh[oprsu]_|github_pat_|gl[a-z]{2,5}-|xox[a-z]-|hf_|sk-|pypi-|AKIA|ASIA)[a-z0-9_-]{12,}",
        # long hexadecimal numbers, such as JupyterHub's tokens, and long texts in base 64
        r"\b[0-9a-f]{32,}\b",
        r"(?<![a-z0-9+/_-])(?=[a-z0-9+/_-]*[0-9])[a-z0-9+_-]{40,}={0,2}(?![a-z0-9+/_-])",
        r"^[a-z0-9+/]{60,}={0,2}$",
    )
)


class Refused(Exception):
    """A request is not permitted or not valid. The text is for the logs.

    Args:
        text: The text.
        name: The id of the message that the hub shows to the user, in the user's language; see
            ``hpchub.hub.remote_texts``. Empty: the hub shows the text.
        values: The values in the message.

    Attributes:
        message: The message: ``{"id": NAME, "values": {…}}``. It is empty if there is none.
    """

    def __init__(self, text: str, name: str = "", /, **values: str) -> None:
        super().__init__(text)
        self.message: dict[str, Any] = {"id": name, "values": values} if name else {}


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
        raise Refused(
            f"this host is not a submit host of the cluster {cluster}", "no_submit_host", cluster=cluster
        ) from None
    except OSError as error:
        raise Refused(
            f"{path} cannot be read on this host: {error.strerror}",
            "unreadable",
            path=str(path),
            reason=str(error.strerror),
        ) from None
    except ValueError:
        raise Refused(
            f"{path} cannot be read on this host, because it is not JSON", "not_json", path=str(path)
        ) from None


def permitted_user(name: str, config: dict[str, Any]) -> pwd.struct_passwd:
    """Return the account of a user, if the hub may submit jobs for this user.

    Raises:
        Refused: The name is not valid here, the account does not exist, has another name or is a system account, or it
            is not in a permitted group.
    """
    if not USER_NAME.fullmatch(name) or not re.fullmatch(config["user_pattern"], name):
        raise Refused("the user name is not valid", "user_name")
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        raise Refused(f"{name} has no account on this cluster", "no_account", user=name) from None
    if account.pw_name != name:
        # Some directories ignore case, or accept a name with and without its realm. The owner of the job would then
        # have another name than the session's user.
        raise Refused(
            f"the account {name} is called {account.pw_name} on this cluster",
            "other_name",
            user=name,
            name=account.pw_name,
        )
    if account.pw_uid < max(1, int(config["minimum_uid"])) or account.pw_uid == NOBODY:
        raise Refused(f"{name} is a system account", "system_account", user=name)
    if not group_names(account) & set(config["permitted_groups"]):
        groups = ", ".join(config["permitted_groups"])
        raise Refused(
            f"{name} is not in a group that may run jobs here; permitted: {groups}",
            "not_permitted",
            user=name,
            groups=groups,
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
        node = os.uname().nodename
        failure = Refused(f"{command[0]} is not installed on {node}", "not_installed", program=command[0], node=node)
        return answer(command, 127, failure=failure)
    except OSError as error:
        node = os.uname().nodename
        text = f"{command[0]} cannot be run on {node}: {error.strerror}"
        failure = Refused(text, "not_run", program=command[0], node=node, reason=str(error.strerror))
        return answer(command, 126, failure=failure)
    except subprocess.TimeoutExpired:
        # sudo belongs to root and cannot be killed. It ends when the time limit of the program that it runs is over.
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=1)
        seconds = str(config.get("timeout", 60))
        text = f"{command[0]} did not answer within {seconds} seconds"
        return answer(command, 124, failure=Refused(text, "no_answer", program=command[0], seconds=seconds))
    return answer(
        command,
        process.returncode,
        stdout.decode(errors="replace"),
        stderr.decode(errors="replace"),
        "" if process.returncode == 0 else f"{command[0]} failed with exit code {process.returncode}",
    )


def answer(
    command: list[str],
    code: int,
    stdout: str = "",
    stderr: str = "",
    error: str = "",
    *,
    failure: Refused | None = None,
) -> dict[str, Any]:
    """Return an answer in the format that the module's docstring describes.

    If there is a ``failure``, it also has the key ``message``, which ``written`` moves to ``stdout``.
    """
    found = {
        "ok": code == 0,
        "exit": code,
        "stdout": stdout,
        "stderr": stderr,
        "command": list(command),
        "error": str(failure or error),
    }
    return dict(found, message=failure.message) if failure and failure.message else found


def written(result: dict[str, Any]) -> dict[str, Any]:
    """Return an answer as it is sent. A hub of an earlier version accepts no further key."""
    found = {name: value for name, value in result.items() if name != "message"}
    return dict(found, stdout=json.dumps(result["message"])) if "message" in result else found


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


def query_history(request: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Run all commands that show how a job ended, and join the output of those that succeed.

    Raises:
        Refused: The configuration has no such commands, or the job id is not valid.
    """
    job_id = checked_job_id(request, config)
    results = [run([*command, *job_id], config) for command in config.get("history", [])]
    if not results:
        raise Refused(f"history is not configured for {config['scheduler']} on this host")
    succeeded = [result for result in results if result["ok"]]
    return dict((succeeded or results)[0], stdout="".join(result["stdout"] for result in succeeded))


def query_usage(request: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Run the command that shows when some jobs ran, according to the scheduler's accounting.

    Raises:
        Refused: The configuration has no such command, there are too many jobs, or a job id is not valid.
    """
    job_ids = request["job_ids"].split(",")
    command = config.get("usage", [])
    if not command:
        raise Refused(f"usage is not configured for {config['scheduler']} on this host")
    if len(job_ids) > USAGE_LIMIT:
        raise Refused(f"usage accepts at most {USAGE_LIMIT} job ids")
    for job_id in job_ids:
        checked_job_id({"job_id": job_id}, config)
    return run([*command, ",".join(job_ids)], config)


def query_versions(_: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Report the versions of this program and of the notebook environment as JSON.

    The version of the environment is the text of a file, or null if this host cannot read it.
    """
    command = config.get("notebook_version", [])
    found = run(command, dict(config, timeout=VERSION_TIMEOUT)) if command else answer(command, 1)
    versions = {
        "protocol": PROTOCOL,
        "program": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
        "notebook": found["stdout"] if found["ok"] else None,
    }
    return answer(command, 0, json.dumps(versions), found["stderr"])


def query_knowledge(request: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Run one command that shows what users can choose, perhaps for some users only.

    Users who may not run jobs here are left out. The answer is JSON: the output, and each user's groups.

    Raises:
        Refused: There is no such topic, or there are too many users, none, or some for a command without users.
    """
    command = config.get("knowledge", {}).get(request["topic"], [])
    if not command:
        raise Refused(f"the topic is unknown for {config['scheduler']} on this host")
    names = [name for name in request["users"].split(",") if name]
    if len(names) > KNOWLEDGE_USERS:
        raise Refused(f"knowledge accepts at most {KNOWLEDGE_USERS} users")
    if any("{users}" in word for word in command) != bool(names):
        raise Refused("the topic needs users, or accepts none")
    users = {}
    for name in names:
        with contextlib.suppress(Refused):
            users[name] = sorted(group_names(permitted_user(name, config)))
    if names and not users:
        raise Refused("none of the users may run jobs here")
    mark, words = os.urandom(8).hex(), []
    for word in command:
        words += list(users) if word == "{users}" else [word.replace("{users}", ",".join(users))]
    result = run([word.replace("{mark}", mark) for word in words], config, extra={"TZ": "UTC"})
    # The hub prefers another submit host if a command cannot run. It can do without this one.
    code = 0 if result["ok"] else 1
    return dict(result, exit=code, stdout=json.dumps({"users": users, "output": result["stdout"]}))


RECORDS = {"history": query_history, "usage": query_usage, "versions": query_versions, "knowledge": query_knowledge}


def serve_gate(cluster: str | None, stream: TextIO) -> dict[str, Any]:
    """Answer one request of the hub."""
    request = read_request(stream)
    config = read_config(cluster)
    if request["action"] in RECORDS:
        return RECORDS[request["action"]](request, config)
    if request["action"] in QUERIES:
        # Each record of the answer begins with this random mark. Users can put any text into the names of their jobs,
        # even line breaks, but they cannot predict the mark.
        mark = os.urandom(8).hex()
        command = [word.replace("{mark}", mark) for word in config.get(request["action"], [])]
        if not command:
            raise Refused(f"{request['action']} is not configured for {config['scheduler']} on this host")
        # The hub reads times without a time zone as UTC.
        result = run([*command, *checked_job_id(request, config)], config, extra={"TZ": "UTC"})
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
    is_doctor = request["action"] == "doctor"
    timeout = DOCTOR_TIMEOUT + 1 if is_doctor else float(config.get("timeout", 60)) + 10
    result = run(command, dict(config, timeout=timeout), json.dumps(request))
    if is_doctor and not result["ok"]:
        # The hub prefers another submit host if a command cannot run. A slow home directory is no reason for that.
        result["exit"] = 1
    if not result["ok"]:
        detail = (result["stderr"].strip().splitlines() or [""])[-1] or result["error"]
        text = f"cannot run jobs as {account.pw_name} on this host: {detail}"
        failure = Refused(text, "no_jobs", user=account.pw_name, reason=detail)
        return answer(command, result["exit"], stderr=result["stderr"], failure=failure)
    try:
        answered: dict[str, Any] = json.loads(result["stdout"])
        return answered
    except ValueError:
        failure = Refused("the job program did not send a valid answer", "invalid_answer")
        return answer(command, 1, stderr=result["stderr"] or result["stdout"], failure=failure)


def serve_job(stream: TextIO) -> dict[str, Any]:
    """Submit, cancel, read a log or examine the home directory as the user who runs this program."""
    request = read_request(stream)
    config = read_config(request.get("cluster"))
    account = permitted_user(pwd.getpwuid(os.getuid()).pw_name, config)
    if request.get("user") != account.pw_name:
        raise Refused(f"the request is not for {account.pw_name}")
    home = account.pw_dir
    if request["action"] == "log":
        (job_id,) = checked_job_id(request, config)
        return answer(["read", f"{job_id}.log"], 0, last_lines(read_log(home, f"{job_id}.log")))
    identity = {"USER": account.pw_name, "LOGNAME": account.pw_name, "SHELL": account.pw_shell or "/bin/sh"}
    if request["action"] == "doctor":
        with time_limit(DOCTOR_TIMEOUT + 1):
            return answer(["examine", home], 0, json.dumps(examine_home(home, config, identity)))
    directory = Path(home) / ".hpchub"
    secrets = directory / (request["session"] + ".json")
    if request["action"] == "cancel":
        result = run([*config["cancel"], *checked_job_id(request, config)], config, home=home, extra=identity)
        if result["ok"]:
            with contextlib.suppress(OSError):
                secrets.unlink(missing_ok=True)
        return result
    if not Path(home).is_dir():
        raise Refused(
            f"the home directory of {account.pw_name}, {home}, does not exist on this cluster", "no_home", home=home
        )
    try:
        write_secrets(directory, secrets, request["secrets"])
    except OSError as error:
        secrets.unlink(missing_ok=True)
        raise Refused(
            f"the home directory of {account.pw_name} cannot be written ({error.strerror}); check its quota and its"
            " permissions",
            "home_unwritable",
            home=home,
            reason=str(error.strerror),
        ) from None
    result = run(config["submit"], config, request["script"], home=home, extra=identity)
    # After a timeout, the job may still start later and need its secrets.
    if not result["ok"] and result["exit"] != 124:
        secrets.unlink(missing_ok=True)
    return result


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """End this program if a block takes longer. A home directory on a file system that hangs may never answer.

    The signal has no handler, because only a fatal signal interrupts the access to a network file system.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def examine_home(home: str, config: dict[str, Any], identity: dict[str, str]) -> dict[str, str]:
    """Return what would make a session fail in the user's home directory.

    Returns:
        ``home``: its path. ``error``: the name of the error if it cannot be written, such as ``EACCES``. ``quota``:
        ``blocks`` or ``files`` if the quota is used up, or if the home is full and it is clear of what. ``message``:
        what the site's quota command prints. All but ``home`` are empty if there is no problem.
    """
    found = {"home": home, "error": probe_home(home), "quota": "", "message": ""}
    if found["error"] in FULL and has_no_files_left(home):
        found["quota"] = "files"
    limits = dict(config, timeout=DOCTOR_TIMEOUT / 2)
    if config.get("quota"):
        found["message"] = last_lines(run(config["quota"], limits, home="/", extra=identity)["stdout"]).strip()
    else:
        quota = run(["quota", "--no-wrap", "--raw-grace"], limits, home="/", extra=identity)
        found["quota"] = used_up_quota(quota["stdout"], mount_source(home), time.time()) or found["quota"]
    return found


def has_no_files_left(path: str) -> bool:
    """Return whether a file system permits no further file, although it may have space. Some do not count files."""
    with contextlib.suppress(OSError):
        status = os.statvfs(path)
        return status.f_files > 0 and status.f_favail == 0 and status.f_bavail > 0
    return False


def probe_home(home: str) -> str:
    """Write and delete a small file in ``~/.hpchub``. Return the name of the error, or an empty text."""
    directory = Path(home) / ".hpchub"
    path = directory / (".doctor-" + os.urandom(8).hex())
    try:
        if not Path(home).is_dir():
            return "ENOENT"
        directory.mkdir(0o700, exist_ok=True)
        try:
            with path.open("xb") as probe:
                probe.write(b"0" * PROBE_BYTES)
                probe.flush()
                os.fsync(probe.fileno())
        finally:
            path.unlink(missing_ok=True)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "EIO")
    return ""


def mount_source(path: str) -> str:
    """Return the device or the network share that contains a path, as ``/proc/self/mounts`` names it."""
    real, found, longest = os.path.realpath(path), "", -1
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mounts").read_text(errors="replace").splitlines():
            source, point = line.split(" ")[:2]
            point = point.replace("\\040", " ")
            if len(point) >= longest and (real + "/").startswith(point.rstrip("/") + "/"):
                found, longest = source, len(point)
    return found


def used_up_quota(stdout: str, source: str, now: float) -> str:
    """Return ``blocks`` or ``files`` if the output of ``quota`` shows that one of them is used up, or an empty text.

    A row has the file system, and twice: the use, perhaps with a star, the quota, the limit and the end of the grace.
    """
    for line in stdout.splitlines():
        words = line.split()
        if (
            len(words) != 9
            or words[0] != source
            or not all(re.fullmatch(r"[0-9]{1,18}\*?", word) for word in words[1:])
        ):
            continue
        numbers = [int(word.rstrip("*")) for word in words[1:]]
        for kind, (used, soft, hard, grace) in (("blocks", numbers[:4]), ("files", numbers[4:])):
            if (hard and used + QUOTA_RESERVE[kind] > hard) or (soft and used > soft and 0 < grace <= now):
                return kind
    return ""


def read_log(home: str, name: str) -> str:
    """Return the end of a log in ``~/.hpchub/logs``. Follow no symbolic link, and read only the user's own file.

    Raises:
        Refused: The log cannot be read.
    """
    with contextlib.ExitStack() as stack:

        def open_beside(part: str, flags: int, directory: int | None = None) -> int:
            descriptor = os.open(part, flags | os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory)
            stack.callback(os.close, descriptor)
            return descriptor

        try:
            directory = open_beside(home, os.O_DIRECTORY)
            for part in (".hpchub", "logs"):
                directory = open_beside(part, os.O_NOFOLLOW | os.O_DIRECTORY, directory)
            log = open_beside(name, os.O_NOFOLLOW, directory)
            found = os.fstat(log)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                raise Refused(f"~/.hpchub/logs/{name} is not an ordinary file of the user")
            start = max(0, found.st_size - LOG_BYTES)
            text = os.pread(log, LOG_BYTES, start).decode(errors="replace")
        except FileNotFoundError:
            raise Refused(f"there is no log ~/.hpchub/logs/{name}") from None
        except OSError as error:
            raise Refused(f"the log ~/.hpchub/logs/{name} cannot be read ({error.strerror})") from None
    return text.partition("\n")[2] if start else text


def last_lines(text: str) -> str:
    """Return the last lines of a log as plain text: without control characters, and with secrets redacted."""
    text = re.sub(
        r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].{0,1000}?(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]", "", text, flags=re.DOTALL
    )
    # A progress bar writes one line again and again. Show its last state.
    text = re.sub(r"^.*\r(?=[^\r\n])", "", text, flags=re.MULTILINE)
    text = "".join(letter for letter in text if letter in "\n\t" or unicodedata.category(letter)[0] != "C")
    lines = [line.rstrip() for line in redact(text).splitlines()]
    lines = [line if len(line) <= LOG_LINE_LENGTH else f"{line[:LOG_LINE_LENGTH]}..." for line in lines if line]
    return "".join(f"{line}\n" for line in lines[-LOG_LINES:])


def redact(text: str) -> str:
    """Replace everything that may be a secret."""
    for pattern in SECRETS:
        text = pattern.sub(lambda found: (found.groupdict().get("name") or "") + REDACTED, text)
    return text


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
        result = answer([], 1, failure=refusal)
    except Exception as error:  # noqa: BLE001 users may read the answer, so it must not be Python's own message
        syslog.syslog(syslog.LOG_ERR, f"unexpected error: {error!r}")
        failure = Refused("the submit host made an unexpected error, which its system log explains", "unexpected")
        if isinstance(error, OSError) and error.strerror:
            path = str(error.filename or "a file")
            text = f"{path} cannot be used on the submit host: {error.strerror}"
            failure = Refused(text, "unusable", path=path, reason=error.strerror)
        result = answer([], 1, failure=failure)
    else:
        syslog.syslog(syslog.LOG_INFO, f"{' '.join(result['command'])[:200]}: exit {result['exit']}")
    json.dump(written(result), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
