#!/usr/bin/python3 -I
"""``hpchub-host``: the commands for sessions on a host without a scheduler. ``host-units`` carries them out.

The gate runs this program in place of a scheduler's commands, with the account of the user or with its own. It sends
each request to the socket of ``host-units``, and prints the answer in lines. In the unit of a session, the command
``hpchub-host run ID`` becomes the session's batch script.

This file uses the standard library only (Python 3.9 and later).
"""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
import socket
import sys
from typing import Any

SOCKET = "/run/hpchub-host.sock"
SCRIPTS = "/var/lib/hpchub-host/scripts"
ANSWER_TIMEOUT = 55  # seconds; the gate waits 60
UNKNOWN_JOB = 3  # the exit code of `find`
PATH = "/usr/local/bin:/usr/bin:/bin"

JOB_ID = re.compile(r"[1-9][0-9]{0,18}")
MARK = re.compile(r"[0-9a-f]{16}")


class Refused(Exception):
    """The host refuses a request."""


class Unavailable(Exception):
    """The host gives no answer. Nothing is known about any session."""


def ask(request: dict[str, Any]) -> dict[str, Any]:
    """Pass a request to the program that runs as root.

    Raises:
        Refused: It refuses the request.
        Unavailable: It gives no answer.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_TIMEOUT)
            connection.connect(SOCKET)
            connection.sendall(json.dumps(request).encode())
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile(encoding="utf-8") as stream:
                answer: dict[str, Any] = json.load(stream)
    except (OSError, ValueError) as error:
        raise Unavailable(f"{SOCKET} gives no answer: {error}") from None
    if answer["ok"]:
        return answer
    raise (Refused if answer.get("refused") else Unavailable)(answer["error"])


def run_session(job_id: str) -> None:
    """Become a session's batch script. The unit of the session runs this as the user.

    The log is in the user's home, which root never opens. Here the user's own rights apply.
    """
    account = pwd.getpwuid(os.getuid())
    os.chdir(account.pw_dir)
    log = os.open(f".hpchub/logs/{job_id}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    environment = {
        "HOME": account.pw_dir,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "SHELL": account.pw_shell or "/bin/sh",
        "PATH": PATH,
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "JOB_ID": job_id,
    }
    for ignored in ("SIGPIPE", "SIGXFSZ"):  # by Python
        signal.signal(getattr(signal, ignored), signal.SIG_DFL)
    os.execve("/bin/bash", ["/bin/bash", f"{SCRIPTS}/{job_id}.sh"], environment)  # noqa: S606 the unit runs this program


def lines_of(action: str, arguments: list[str]) -> list[str]:
    """Send the request of a command, and return the lines of its output."""
    if action in ("query", "find"):
        return records(arguments[0], {"action": action, **({"id": arguments[1]} if action == "find" else {})})
    request: dict[str, Any] = {"action": action}
    if action == "submit":
        request["script"] = sys.stdin.read()
    elif action == "usage":
        request["ids"] = arguments[0].split(",")
    elif arguments:
        request["id"] = arguments[0]
    if action == "run":
        raise Refused("the id is not the number of a session")
    answer = ask(request)
    if action == "usage":
        return ["|".join(map(str, job)) for job in answer["jobs"]]
    if action == "submit":
        return [f"job {answer['id']}"]
    return [json.dumps(answer[name]) for name in ("job", "limits") if name in answer]


def records(mark: str, request: dict[str, Any]) -> list[str]:
    """Return the sessions of an answer, one line each. The mark begins each line, so that nobody can forge one."""
    if not MARK.fullmatch(mark):
        raise Refused("the mark is not 16 hexadecimal digits")
    jobs = ask(request)["jobs"]
    if "id" in request and not jobs:
        return [f"{mark}|unknown {request['id']}"]
    return [f"{mark}|jobs {len(jobs)}", *(f"{mark}|{json.dumps(job)}" for job in jobs), f"{mark}|end"]


ARGUMENTS = {"submit": 0, "cancel": 1, "query": 1, "find": 2, "history": 1, "usage": 1, "limits": 0, "run": 1}


def main(arguments: list[str]) -> int:
    """Run the program."""
    if not arguments or ARGUMENTS.get(arguments[0]) != len(arguments) - 1:
        print(f"usage: hpchub-host {{{'|'.join(ARGUMENTS)}}} [...]", file=sys.stderr)
        return 2
    action, rest = arguments[0], arguments[1:]
    try:
        if action == "run" and JOB_ID.fullmatch(rest[0]):
            run_session(rest[0])
        lines = lines_of(action, rest)
    except (Refused, Unavailable, OSError) as error:
        print(f"hpchub-host: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return UNKNOWN_JOB if action == "find" and "|unknown " in lines[0] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
