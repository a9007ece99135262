"""What all clients share: how they reach the server, and what may go wrong on the way."""

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

# What an administrator's German message catalogue would say; LSF has such catalogues, for the others it is a wrapper's.
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
    """One flavour, as the user of this process sees it."""

    def __init__(self, flavour: str) -> None:
        """Belong to that flavour."""
        self.flavour = flavour
        self.config = read_config()
        self.server: str = self.config["flavours"][flavour].get("server", flavour)

    def ask(self, op: str, **fields: Any) -> Any:
        """Ask the server about this flavour.

        Raises:
            Unreachable: it does not answer.
        """
        return ask(self.config, {"op": op, "flavour": self.flavour, **fields})

    def status(self) -> dict[str, Any]:
        """See ``Server.do_status``."""
        found: dict[str, Any] = self.ask("status")
        return found

    def submit(self, job: Job) -> dict[str, Any]:
        """See ``Server.do_submit``."""
        found: dict[str, Any] = self.ask("submit", job=job)
        return found

    def act(self, what: str, number: int, index: int | None = None) -> dict[str, Any]:
        """See ``Server.do_act``."""
        found: dict[str, Any] = self.ask("act", what=what, number=number, index=index)
        return found


def new_job(**fields: Any) -> Job:
    """A job with everything that the server wants to know."""
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
    """Run one client, with whatever fault its flavour has.

    Args:
        flavour: whose client it is.
        program: the name it was called by.
        command: what it does; prints, and returns its exit code.
        words: what it says when the server is away (``refused``: text and exit code), when an error comes with exit
            code 0 (``error``), and whether it submits (``submits``).
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
    said, complained = stdout.getvalue(), stderr.getvalue()
    if kind == "half":
        said, code = said[: len(said) // 2], 0
    elif kind == "error-exit0":
        said, complained, code = "", words["error"](program), 0
    elif kind == "garbage-id" and words["submits"]:
        said = "Welcome to the cluster! Your job is important to us; $(reboot)\n"
    elif kind == "locale":
        for english, german in _GERMAN.items():
            said, complained = said.replace(english, german), complained.replace(english, german)
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(said)
        sys.stdout.flush()
    sys.stderr.write(complained)
    return code
