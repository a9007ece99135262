"""The common part of all client programs: requests to the server, and the injection of faults for tests."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab_emulator.common import Job, Unreachable, ask, read_config

if TYPE_CHECKING:
    from collections.abc import Callable

FAULTS = ("slow", "silent", "half", "error-exit0", "garbage-id", "locale", "refused")

# German messages for the fault "locale". LSF supports message catalogues. For the other schedulers, this emulates a
# wrapper script that translates the output.
_GERMAN = {
    "Unknown Job Id": "Unbekannte Jobkennung",
    "Unknown queue": "Unbekannte Warteschlange",
    "Job has finished": "Job ist beendet",
    "is not found": "wurde nicht gefunden",
    "No matching job found": "Kein passender Job gefunden",
    "is submitted to queue": "wurde eingereicht in Warteschlange",
    "is submitted to default queue": "wurde eingereicht in Standardwarteschlange",
    "is being terminated": "wird beendet",
    "invalid job specified": "ungültiger Job angegeben",
    "cancelled": "abgebrochen",
    "job_state": "Jobzustand",
    "Mon ": "Mo ", "Tue ": "Di ", "Wed ": "Mi ", "Thu ": "Do ", "Fri ": "Fr ", "Sat ": "Sa ", "Sun ": "So ",
}  # fmt: skip


class Cluster:
    """The connection to one flavour's cluster, with the permissions of the user who runs the program."""

    def __init__(self, flavour: str) -> None:
        """Read the configuration of the flavour. This does not open a connection yet."""
        self.flavour = flavour
        self.config = read_config()
        self.server: str = self.config["flavours"][flavour].get("server", flavour)

    def ask(self, op: str, **fields: Any) -> Any:
        """Send a request about this flavour to the server and return the answer.

        Raises:
            Unreachable: The server does not answer.
        """
        return ask(self.config, {"op": op, "flavour": self.flavour, **fields})

    def status(self) -> dict[str, Any]:
        """Return the jobs, queues and nodes; see ``Server.do_status``."""
        found: dict[str, Any] = self.ask("status")
        return found

    def submit(self, job: Job) -> dict[str, Any]:
        """Submit a job; see ``Server.do_submit``."""
        found: dict[str, Any] = self.ask("submit", job=job)
        return found

    def act(self, what: str, number: int, index: int | None = None) -> dict[str, Any]:
        """Delete, hold, release, suspend, resume or requeue a job; see ``Server.do_act``."""
        found: dict[str, Any] = self.ask("act", what=what, number=number, index=index)
        return found


def new_job(**fields: Any) -> Job:
    """Return a job with all fields that the server expects; ``fields`` overrides their defaults."""
    job: Job = {
        "name": "STDIN", "queue": "", "script": "", "nodes": 1, "cores": 1, "memory": 0, "gpus": 0, "runtime": None,
        "account": "", "project": "", "environment": {}, "origin": {}, "stdout": None,
        "stderr": None, "join": False, "append": False, "direct": False, "shell": "", "shell_argument": "",
        "rerunnable": True, "hold": "", "priority": 0, "mail": "a", "wanted_hosts": [], "features": [],
        "resources": {}, "arguments": "", "directory": str(Path.cwd()), "indices": None, "comment": "",
        "keep": "n", "outputs": ["", ""], "extra": {},
    }  # fmt: skip
    unknown = set(fields) - set(job)
    if unknown:
        raise KeyError(unknown)
    return job | fields


def run(flavour: str, program: str, command: Callable[[Cluster, list[str]], int], words: dict[str, Any]) -> int:
    """Run one client program and inject the fault that is set for its flavour.

    Args:
        flavour: The flavour of the program.
        program: The name of the program.
        command: The function that implements the program. It prints the output and returns the exit code.
        words: The flavour's behaviour on errors. ``refused`` returns the message and the exit code when the server
            does not answer. ``error`` returns the message for an error with exit code 0. ``submits`` states whether
            the program submits jobs.

    Returns:
        The exit code of the program.
    """
    cluster = Cluster(flavour)
    refusal, refusal_code = words["refused"](program, cluster.server)
    try:
        fault = cluster.ask("status")["fault"]
    except Unreachable:
        sys.stderr.write(refusal)
        return int(refusal_code)
    if fault.get("only") not in (None, program):
        fault = {}
    kind = fault.get("kind", "")
    if kind == "slow":
        time.sleep(float(fault["seconds"]))
    elif kind == "silent":
        while True:
            time.sleep(3600)
    elif kind == "refused":
        sys.stderr.write(refusal)
        return int(refusal_code)
    elif kind == "error-exit0" and not words["submits"]:
        sys.stderr.write(words["error"](program))
        return 0
    stdout, stderr = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            code = command(cluster, sys.argv[1:])
    except Unreachable:
        sys.stderr.write(refusal)
        return int(refusal_code)
    output, errors = stdout.getvalue(), stderr.getvalue()
    if kind == "half":
        output, code = output[: len(output) // 2], 0
    elif kind == "error-exit0":
        output, errors, code = "", words["error"](program), 0
    elif kind == "garbage-id" and words["submits"]:
        output = "Welcome to the cluster! Your job is important to us; $(reboot)\n"
    elif kind == "locale":
        for english, german in _GERMAN.items():
            output, errors = output.replace(english, german), errors.replace(english, german)
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(output)
        sys.stdout.flush()
    sys.stderr.write(errors)
    return code
