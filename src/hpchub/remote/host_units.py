#!/usr/bin/python3 -I
"""``host-units``: runs sessions as units of systemd, on a host without a scheduler.

:mod:`hpchub.remote.host_client` takes the place of a scheduler's commands, and sends each request to a unix socket. For
each connection, systemd starts this program as root. It reads one JSON request from standard input and writes one JSON
answer to standard output::

    {"action": "submit", "script": TEXT}
    {"action": "cancel", "id": ID}
    {"action": "query"}
    {"action": "find", "id": ID}
    {"action": "history", "id": ID}
    {"action": "usage", "ids": [ID, ...]}
    {"action": "limits"}

``host-units`` trusts nothing in a request. The user is the account that opened the connection, as the kernel reports
it. This account can submit sessions for itself and cancel its own. Only the gate's account may query, because the
answers show all users. There is no sudo, so a caller's terminal, limits and signals do not affect the program.

Each session is a transient unit ``hpchub-session-ID.service``, which runs as the user with limits for memory, cores,
tasks and time. If the host is full, the session waits in line, first come, first served, in turns for users with
several sessions. When a unit ends, systemd runs ``host-units ended ID``, which records how it ended and starts the next
sessions. A session whose unit has vanished with a restart of the host has ended too.

The settings are in ``/etc/hpchub/host.json``, which belongs to root. This file uses the standard library only (Python
3.9 and later).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import importlib.machinery
import importlib.util
import json
import os
import pwd
import re
import signal
import socket
import struct
import subprocess
import sys
import syslog
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

CONFIG = Path("/etc/hpchub/host.json")
STATE_DIRECTORY = Path("/var/lib/hpchub-host")
ROOT_PROGRAM = "/usr/local/libexec/hpchub/host-units"
USER_PROGRAM = "/usr/local/bin/hpchub-host"
GATE = Path("/usr/local/libexec/hpchub/gate")
CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")
SYSTEMD_RUN = "/usr/bin/systemd-run"
SYSTEMCTL = "/usr/bin/systemctl"

REQUEST_LIMIT = 256 * 1024  # bytes; a batch script needs a few thousand
JOBS_OF_USER = 50  # sessions of one user that wait or run
JOBS_AT_ALL = 2000
KEEP_ENDED = 7 * 24 * 3600  # seconds
SHOW_ENDED = 600  # how long the query shows a session after its end, in seconds
REQUEST_TIMEOUT = 10  # seconds for a caller to send its request
LOCK_TIMEOUT = 30
SYSTEMD_TIMEOUT = 20
STOP_TIMEOUT = 20  # seconds from SIGTERM to SIGKILL

JOB_ID = re.compile(r"[1-9][0-9]{0,18}")
UNIT = re.compile(r"hpchub-session-([1-9][0-9]{0,18})\.service")
TAG = re.compile(r"hpchub/[A-Za-z0-9_.~-]{1,300}/([A-Za-z0-9_][A-Za-z0-9_.@-]{0,63})/([0-9a-f]{16})")
DIRECTIVE = re.compile(r"#HPCHUB --([a-z-]{1,20})=(\S{1,500})")
NEEDED = ("name", "tag", "queue", "cores", "memory", "time")
WEIGHTS = {"nice": (0, 19), "cpu-weight": (1, 100), "io-weight": (1, 100)}
DESCRIPTION = re.compile(r"(hpchub/\S+) uid=(\d+) cores=(\d+) memory=(\d+) time=(\d+) since=(\d+)")
PATH = "/usr/local/bin:/usr/bin:/bin"


def load_gate() -> ModuleType:
    """Return the gate's module, which has the rules for users. On a host it is a program without a suffix."""
    if not GATE.is_file():
        from hpchub.remote import gate  # noqa: PLC0415 in the checkout

        return gate
    sys.dont_write_bytecode = True
    loader = importlib.machinery.SourceFileLoader("gate", str(GATE))
    spec = importlib.util.spec_from_loader("gate", loader)
    if spec is None:
        raise ImportError("gate")
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


gate = load_gate()
Refused = gate.Refused


class Unavailable(Exception):
    """systemd or the list of sessions cannot be used now. Nothing is known about any session."""


# -- the list of sessions


@contextlib.contextmanager
def opened_list() -> Iterator[dict[str, Any]]:
    """Lock and read the list of sessions. At the end of the block, write it if it has changed.

    Yields:
        ``{"last": NUMBER, "jobs": {ID: JOB}}``.

    Raises:
        Unavailable: The list is locked for too long, or is damaged.
    """
    STATE_DIRECTORY.mkdir(mode=0o711, exist_ok=True)
    (STATE_DIRECTORY / "scripts").mkdir(mode=0o711, exist_ok=True)
    for directory in (STATE_DIRECTORY, STATE_DIRECTORY / "scripts"):
        directory.chmod(0o711)  # users read their own scripts, and cannot list those of others
    with (STATE_DIRECTORY / "lock").open("w") as lock:
        deadline = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise Unavailable("the list of sessions is in use for too long") from None
                time.sleep(0.05)
        path = STATE_DIRECTORY / "jobs.json"
        try:
            text = path.read_text()
            state = json.loads(text)
            state["jobs"].keys(), int(state["last"])
        except FileNotFoundError:
            text, state = "", {"last": 0, "jobs": {}}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Unavailable(f"{path} is damaged; move it away after the sessions on this host have ended") from None
        yield state
        save(state, text)


def save(state: dict[str, Any], before: str = "") -> None:
    """Write the list of sessions so that it is complete at any time."""
    text = json.dumps(state)
    if text == before:
        return
    path = STATE_DIRECTORY / "jobs.json"
    new = path.with_suffix(".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(path)


def script_path(job_id: str) -> Path:
    """Return the path of a session's batch script."""
    return STATE_DIRECTORY / "scripts" / f"{job_id}.sh"


def end(job: dict[str, Any], result: str, **more: Any) -> None:
    """Record that a session has ended. The first record counts."""
    if job["state"] != "ended":
        job.update({"state": "ended", "ended": int(time.time()), "result": result, **more})
        script_path(job["id"]).unlink(missing_ok=True)


# -- systemd


def systemd(*command: str) -> str:
    """Run a command of systemd and return its output.

    Raises:
        Unavailable: The command fails or does not answer.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SYSTEMD_TIMEOUT,
            check=False,
            env={"PATH": PATH, "LANG": "C.UTF-8", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""},
            cwd="/",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]} does not answer: {error}") from None
    if done.returncode:
        raise Unavailable(f"{command[0]} failed: {(done.stderr.strip().splitlines() or [''])[-1][:300]}")
    return done.stdout


def units() -> dict[str, tuple[str, str]]:
    """Return the active state and the description of all units of sessions, by the ids of the sessions."""
    properties = "--property=Id,LoadState,ActiveState,Description,Job"
    text = systemd(SYSTEMCTL, "show", "--all", properties, "hpchub-session-*.service")
    found = {}
    for record in text.split("\n\n"):
        fields = dict(line.split("=", 1) for line in record.splitlines() if "=" in line)
        unit = UNIT.fullmatch(fields.get("Id", ""))
        state, queued = fields.get("ActiveState"), fields.get("Job", "") not in ("", "0")
        if unit and state and (state not in ("inactive", "failed") or queued):  # systemd may start it later
            found[unit[1]] = (state, fields.get("Description", ""))
    return found


def boot_id() -> str:
    """Return an id of this boot: the kernel's, and the start of process 1, because containers share the kernel's."""
    kernel = (PROC / "sys/kernel/random/boot_id").read_text().strip()
    return f"{kernel}/{(PROC / '1/stat').read_text().rpartition(')')[2].split()[19]}"


def is_shutting_down() -> bool:
    """Return whether the host is being shut down or restarted."""
    # The command fails in each state but "running".
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            [SYSTEMCTL, "is-system-running"], capture_output=True, text=True, timeout=SYSTEMD_TIMEOUT, check=False
        )
        return done.stdout.strip() == "stopping"
    return False


def reconcile(state: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Compare the list with the units of systemd, and return the units.

    A session whose unit is missing has ended: with a restart of the host if it started in an earlier boot. A unit that
    the list lacks is a session, because the list may have been lost. It counts against the capacity.

    Raises:
        Unavailable: systemd does not answer. The list is unchanged.
    """
    found, boot = units(), boot_id()
    for job in state["jobs"].values():
        if job["state"] == "running" and job["id"] not in found:
            end(job, "lost" if job["boot"] == boot else "host-restarted")
    for job_id, (_, description) in found.items():
        known = state["jobs"].get(job_id)
        if known is None and (words := DESCRIPTION.fullmatch(description)) and (tag := TAG.fullmatch(words[1])):
            uid, cores, memory, seconds, since = map(int, words.groups()[1:])
            state["last"] = max(state["last"], int(job_id))
            state["jobs"][job_id] = {
                "id": job_id,
                "state": "running",
                "boot": boot,
                "name": f"hpchub-{tag[2]}",
                "tag": words[1],
                "user": tag[1],
                "uid": uid,
                "cores": cores,
                "memory": memory,
                "time": seconds,
                "submitted": since,
                "started": since,
            }
    old = time.time() - KEEP_ENDED
    state["jobs"] = {key: job for key, job in state["jobs"].items() if job["state"] != "ended" or job["ended"] > old}
    return found


def start(job: dict[str, Any], config: dict[str, Any], state: dict[str, Any]) -> None:
    """Start the unit of a session.

    The list is written first, so that no session is started twice. If the command fails, the unit may exist
    nevertheless. Only if systemd states that it does not, the session has ended.
    """
    job.update({"state": "running", "started": int(time.time()), "boot": boot_id()})
    save(state)
    properties = {
        "Type": "exec",
        "MemoryMax": f"{job['memory']}M",
        "MemorySwapMax": "0",
        "CPUQuota": f"{job['cores'] * 100}%",
        "TasksMax": str(config["tasks"]),
        "RuntimeMaxSec": str(job["time"]),
        "NoNewPrivileges": "yes",
        "KillMode": "control-group",
        "SendSIGKILL": "yes",
        "TimeoutStopSec": str(STOP_TIMEOUT),
        # The operating system kills the largest process, usually a Jupyter kernel. The notebook server tells the user.
        "OOMPolicy": "continue",
        "Restart": "no",
        "UMask": "0077",
        "ExecStopPost": f"+{ROOT_PROGRAM} ended {job['id']}",
    }
    weights = {"nice": "Nice", "cpu-weight": "CPUWeight", "io-weight": "IOWeight"}
    properties.update({weights[name]: str(value) for name, value in job.get("weights", {}).items()})
    description = (
        f"{job['tag']} uid={job['uid']} cores={job['cores']} memory={job['memory']} time={job['time']}"
        f" since={job['started']}"
    )
    command = [
        *(SYSTEMD_RUN, "--quiet", "--no-block", "--collect", f"--unit=hpchub-session-{job['id']}"),
        *(f"--uid={job['uid']}", f"--gid={job['gid']}", f"--slice={config['slice']}", f"--description={description}"),
        *(f"--property={name}={value}" for name, value in properties.items()),
        *("--", USER_PROGRAM, "run", job["id"]),
    ]
    try:
        systemd(*command)
    except Unavailable as error:
        syslog.syslog(syslog.LOG_ERR, f"session {job['id']} cannot be started: {error}")
        with contextlib.suppress(Unavailable):
            if job["id"] not in units():
                end(job, "not-started", detail=str(error)[:300])


# -- the line


def shortage(job: dict[str, Any], running: list[dict[str, Any]], config: dict[str, Any]) -> str:
    """Return what the host lacks to start a session now: ``cores``, ``memory`` or ``sessions``, or an empty text."""
    capacity = config["capacity"]
    if len(running) >= capacity["sessions"]:
        return "sessions"
    return next(
        (name for name in ("cores", "memory") if sum(one[name] for one in running) + job[name] > capacity[name]), ""
    )


def of_state(state: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the sessions in a state, the earliest first."""
    return sorted((job for job in state["jobs"].values() if job["state"] == name), key=lambda job: int(job["id"]))


def line(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the waiting sessions in the order in which they start.

    First come, first served; but the second session of a user comes after the first ones of others, and so on. Those
    that run count, and those that have started since the line began, so that users take turns.
    """
    waiting = of_state(state, "waiting")
    begin = min((job["submitted"] for job in waiting), default=0)
    numbers: dict[int, int] = {}
    for job in state["jobs"].values():
        if job["state"] == "running" or job.get("started", -1) >= begin:
            numbers[job["uid"]] = numbers.get(job["uid"], 0) + 1
    ranked = []
    for job in waiting:
        ranked.append((numbers.get(job["uid"], 0), int(job["id"]), job))
        numbers[job["uid"]] = numbers.get(job["uid"], 0) + 1
    return [job for _, _, job in sorted(ranked, key=lambda each: each[:2])]


def start_waiting(state: dict[str, Any], config: dict[str, Any]) -> None:
    """Start the first sessions of the line, as far as the host has room for them. Nobody overtakes."""
    for job in line(state):
        if shortage(job, of_state(state, "running"), config):
            return
        try:
            account = gate.permitted_user(job["user"], config)
        except Refused as refusal:  # the account was removed or closed in the meantime
            end(job, "not-started", detail=str(refusal)[:300])
            continue
        if account.pw_uid != job["uid"]:
            end(job, "not-started", detail="the account has another uid now")
            continue
        start(job, config, state)


def expected_starts(state: dict[str, Any], config: dict[str, Any], now: float) -> dict[str, float]:
    """Return when each waiting session starts at the latest, if the time limits of the sessions before it apply."""
    running = [dict(job, until=job["started"] + job["time"]) for job in of_state(state, "running")]
    starts, at = {}, now
    for job in line(state):
        while running and shortage(job, running, config):
            first = min(running, key=lambda one: one["until"])
            running.remove(first)
            at = max(at, first["until"])
        starts[job["id"]] = at
        running.append(dict(job, until=at + job["time"]))
    return starts


# -- requests


def read_directives(text: str) -> dict[str, str]:
    """Return the directives of a batch script.

    Raises:
        Refused: A directive is not valid, or written twice.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("#HPCHUB"):
            directive = DIRECTIVE.fullmatch(line)
            if directive is None or directive[1] in found:
                raise Refused("the batch script has a directive that is not valid, or one twice")
            found[directive[1]] = directive[2]
    return found


def read_script(text: str, account: pwd.struct_passwd, config: dict[str, Any]) -> dict[str, Any]:
    """Return what a batch script requests.

    Raises:
        Refused: A directive is missing, unknown, not valid, written twice, above the host's limits or for another user.
    """
    found = read_directives(text)
    if missing := [name for name in NEEDED if name not in found]:
        raise Refused(f"the batch script does not have the directive --{missing[0]}")
    for name in found:
        if name not in NEEDED and name not in WEIGHTS:
            raise Refused(f"this host cannot provide {name}; it has no scheduler")
    tag = TAG.fullmatch(found["tag"])
    if not tag or tag[1] != account.pw_name or found["name"] != f"hpchub-{tag[2]}":
        raise Refused("the name and the tag are not those of a session of this user")
    if found["queue"] != config["limits"]["queue"]:
        raise Refused(f"the queue is not the one of this host, {config['limits']['queue']}")
    return {"name": found["name"], "tag": found["tag"], **read_amounts(found, config["limits"])}


def read_amounts(found: dict[str, str], limits: dict[str, Any]) -> dict[str, Any]:
    """Return the amounts and the weights of a request.

    Raises:
        Refused: One is not a number, or above the limit.
    """
    amounts, weights = {}, {}
    for field, limit in (("cores", "cores"), ("memory", "memory"), ("time", "runtime")):
        if not re.fullmatch(r"[1-9][0-9]{0,11}", found[field]):
            raise Refused(f"{field} is not a positive number")
        amounts[field] = int(found[field])
        if amounts[field] > limits[limit]:
            raise Refused(f"{field} is {found[field]}, but this host permits at most {limits[limit]}")
    for field, (least, most) in WEIGHTS.items():
        if field in found:
            if not re.fullmatch(r"[0-9]{1,3}", found[field]) or not least <= int(found[field]) <= most:
                raise Refused(f"{field} is not a number from {least} to {most}")
            weights[field] = int(found[field])
    return {**amounts, "weights": weights}


def submit(request: dict[str, Any], account: pwd.struct_passwd, config: dict[str, Any]) -> dict[str, Any]:
    """Put a session into the line, and start it if the host has room for it."""
    wanted = read_script(request["script"], account, config)
    with opened_list() as state:
        reconcile(state)
        alive = [job for job in state["jobs"].values() if job["state"] != "ended"]
        if sum(job["uid"] == account.pw_uid for job in alive) >= JOBS_OF_USER or len(alive) >= JOBS_AT_ALL:
            raise Refused("there are already too many sessions on this host; stop one, or try again later")
        # The time makes ids unique even if the list is lost.
        job_id = str(max(state["last"] + 1, int(time.time())))
        path = script_path(job_id)
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400), "w") as stream:
            stream.write(request["script"])
        os.chown(path, account.pw_uid, account.pw_gid)
        state["last"] = int(job_id)
        job = {
            "id": job_id,
            "state": "waiting",
            "user": account.pw_name,
            "uid": account.pw_uid,
            "gid": account.pw_gid,
            "submitted": int(time.time()),
            **wanted,
        }
        state["jobs"][job_id] = job
        start_waiting(state, config)
    if job["state"] == "ended":
        raise Refused(f"the session cannot be started on this host: {job.get('detail', '')}")
    return {"id": job_id}


def cancel(request: dict[str, Any], account: pwd.struct_passwd, config: dict[str, Any]) -> dict[str, Any]:
    """Cancel a session of the caller. One that has ended already is no error."""
    with opened_list() as state:
        reconcile(state)
        job = state["jobs"].get(request["id"])
        if job is None:
            raise Refused(f"there is no session {request['id']} on this host")
        if job["uid"] != account.pw_uid:
            raise Refused(f"session {request['id']} belongs to another user")
        if job["state"] == "waiting":
            end(job, "cancelled", by=account.pw_name)
        elif job["state"] == "running":
            job["by"] = account.pw_name
            save(state)
            systemd(SYSTEMCTL, "stop", "--no-block", f"hpchub-session-{job['id']}.service")
        start_waiting(state, config)
    return {}


def record(
    job: dict[str, Any], found: dict[str, tuple[str, str]], config: dict[str, Any], first: str, starts: dict[str, float]
) -> dict[str, Any]:
    """Return what the hub may know of a session."""
    shown = {name: job.get(name, "") for name in ("id", "state", "name", "user", "tag")}
    if job["state"] == "running":
        shown["host"] = config["host"]
        shown["state"] = "stopping" if found.get(job["id"], ("", ""))[0] == "deactivating" else "running"
    if job["state"] == "waiting":
        shown["reason"] = first if job["id"] == next(iter(starts), "") else "line"
        at = dt.datetime.fromtimestamp(starts[job["id"]], dt.timezone.utc)  # noqa: UP017 Python 3.9
        shown["place"] = list(starts).index(job["id"]) + 1
        shown["start"] = at.replace(tzinfo=None, microsecond=0).isoformat()
    return shown


def query(request: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Return all sessions, or the one with an id. Start those that can start."""
    with opened_list() as state:
        found = reconcile(state)
        start_waiting(state, config)
        now = time.time()
        starts = expected_starts(state, config, now)
        waiting = line(state)
        first = shortage(waiting[0], of_state(state, "running"), config) if waiting else ""
        if "id" in request:
            jobs = [job for job in state["jobs"].values() if job["id"] == request["id"]]
        else:
            jobs = [job for job in state["jobs"].values() if job["state"] != "ended" or job["ended"] > now - SHOW_ENDED]
        jobs.sort(key=lambda job: int(job["id"]))
        return {"jobs": [record(job, found, config, first, starts) for job in jobs]}


def history(request: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Return how a session ended."""
    with opened_list() as state:
        reconcile(state)
        job = state["jobs"].get(request["id"], {})
        names = ("id", "user", "state", "ended", "result", "status", "detail", "by")
        return {"job": {**{name: job[name] for name in names if name in job}, "host": config["host"]}}


def usage(request: dict[str, Any], _: dict[str, Any]) -> dict[str, Any]:
    """Return when sessions ran."""
    with opened_list() as state:
        jobs = [state["jobs"][key] for key in request["ids"] if key in state["jobs"]]
        return {
            "jobs": [[job["id"], job["name"], job["started"], job.get("ended", "")] for job in jobs if "started" in job]
        }


def limits(_: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Return the limits of a session on this host."""
    return {"limits": config["limits"]}


OF_USERS = {"submit": submit, "cancel": cancel}
OF_THE_GATE = {"query": query, "find": query, "history": history, "usage": usage, "limits": limits}
FIELDS = {"submit": "script", "cancel": "id", "find": "id", "history": "id", "usage": "ids"}


def read_request(stream: TextIO) -> dict[str, Any]:
    """Read one request.

    Raises:
        Refused: The request is not JSON, too long, or has not exactly the fields of its action.
    """
    try:
        request = json.loads(stream.read(REQUEST_LIMIT))
    except (ValueError, RecursionError):
        raise Refused(f"the request is not JSON, or longer than {REQUEST_LIMIT} characters") from None
    action = request.get("action") if isinstance(request, dict) else None
    if not isinstance(action, str) or action not in {**OF_USERS, **OF_THE_GATE}:
        raise Refused(f"the action is unknown; valid: {', '.join({**OF_USERS, **OF_THE_GATE})}")
    if set(request) != {"action"} | ({FIELDS[action]} if action in FIELDS else set()):
        raise Refused(f"{action} has fields that are not its own, or lacks one")
    ids = request.get("ids", [])
    ids = [*ids, request["id"]] if "id" in request and isinstance(ids, list) else ids
    if not isinstance(ids, list) or not all(isinstance(one, str) and JOB_ID.fullmatch(one) for one in ids):
        raise Refused("an id is not the number of a session")
    if "script" in request and (not isinstance(request["script"], str) or "\0" in request["script"]):
        raise Refused("script is not a text")
    return dict(request)


def serve(stream: TextIO, caller: int) -> dict[str, Any]:
    """Answer one request of an account.

    Args:
        stream: The request.
        caller: The uid of the account.
    """
    with time_limit(REQUEST_TIMEOUT):  # before the list is locked
        request = read_request(stream)
    config = read_config()
    action = request["action"]
    name = pwd.getpwuid(caller).pw_name
    if action in OF_USERS:
        account = gate.permitted_user(name, config)
        if account.pw_uid != caller:
            raise Refused(f"{name} has another uid")
        return OF_USERS[action](request, account, config)
    if caller != 0 and name != config["gate_account"]:
        raise Refused(f"{name} may not query the sessions of all users")
    return OF_THE_GATE[action](request, config)


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """End this program if a block takes longer."""
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def read_config() -> dict[str, Any]:
    """Return the settings of this host.

    Raises:
        Refused: This host has none.
    """
    try:
        config: dict[str, Any] = json.loads(CONFIG.read_text())
    except (OSError, ValueError):
        raise Refused(f"{CONFIG} cannot be read on this host") from None
    return config


def serve_end(job_id: str, environment: dict[str, str]) -> None:
    """Record how a unit ended, and start the next sessions. systemd runs this as root when a unit has ended."""
    if not JOB_ID.fullmatch(job_id):
        raise Refused("the id is not the number of a session")
    config, killed = read_config(), memory_kills()
    stopping = is_shutting_down()
    with opened_list() as state:
        job = state["jobs"].get(job_id)
        if job is not None:
            end(job, **how_it_ended(environment, killed=killed, stopping=stopping, by=job.get("by", "")))
        if not stopping:
            start_waiting(state, config)


def how_it_ended(environment: dict[str, str], *, killed: bool, stopping: bool, by: str) -> dict[str, Any]:
    """Return the result of a unit, from the variables that systemd sets for ``ExecStopPost=``."""
    result, code, status = (environment.get(name, "") for name in ("SERVICE_RESULT", "EXIT_CODE", "EXIT_STATUS"))
    for name, holds in {
        "cancelled": by,
        "host-restarted": stopping,
        "out-of-memory": result == "oom-kill" or (killed and code == "killed" and status == "KILL"),
        "time-limit": result == "timeout",
    }.items():
        if holds:
            return {"result": name, **({"by": by} if by else {})}
    if code == "exited" and status.isdecimal():
        return {"result": "exit", "status": int(status)}
    if code in ("killed", "dumped") and hasattr(signal, f"SIG{status}"):
        return {"result": "exit", "status": 256 + int(getattr(signal, f"SIG{status}"))}
    return {"result": "not-started", "detail": f"systemd: {result[:40]}"}


def memory_kills() -> bool:
    """Return whether the kernel has killed a process of this unit because it needed too much memory."""
    with contextlib.suppress(OSError, ValueError):
        for line in (PROC / "self/cgroup").read_text().splitlines():
            if line.startswith("0::/hpchub.slice/"):
                events = (CGROUPS / line[len("0::/") :] / "memory.events").read_text().splitlines()
                return any(int(event.split()[1]) > 0 for event in events if event.startswith("oom_kill "))
    return False


def main(arguments: list[str], environment: dict[str, str]) -> int:
    """Answer the request of a connection, or record the end of a unit (``ended ID``)."""
    os.umask(0o077)
    syslog.openlog("hpchub-host-units", syslog.LOG_PID, syslog.LOG_AUTH)
    answer: dict[str, Any] = {"ok": False}
    try:
        if arguments:
            serve_end(arguments[-1], environment)
            return 0
        answer = {"ok": True, **serve(sys.stdin, peer(sys.stdin.fileno()))}
    except Refused as refusal:
        syslog.syslog(syslog.LOG_WARNING, f"refused: {refusal}")
        answer.update({"refused": True, "error": str(refusal)})
    except Unavailable as error:
        syslog.syslog(syslog.LOG_ERR, str(error))
        answer["error"] = str(error)
    except Exception as error:  # noqa: BLE001 users may read the answer, so it must not be Python's own message
        syslog.syslog(syslog.LOG_ERR, f"unexpected error: {error!r}")
        answer["error"] = "the host made an unexpected error, which its system log explains"
    print(json.dumps(answer))
    return 0


def peer(descriptor: int) -> int:
    """Return the uid of the account that opened a connection, as the kernel reports it."""
    size = struct.calcsize("3i")
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(uid)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], dict(os.environ)))
