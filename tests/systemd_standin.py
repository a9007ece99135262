"""A stand-in for systemd-run and systemctl, which keeps units as files and really starts their processes.

Its first argument is the path under which it was started, ``…/systemd-run`` or ``…/systemctl``. This directory has its
state: ``units/NAME.json`` for each loaded unit, and ``log`` with each command line. It covers what
:mod:`hpchub.remote.host_units` uses: transient services with ``RuntimeMaxSec=``, ``ExecStopPost=`` and
``KillMode=control-group``, ``show`` with a pattern, ``stop`` and ``is-system-running``. It neither changes the user nor
limits memory and cores. A file ``fail-COMMAND`` makes a command fail with its content as the message,
``fail-after-COMMAND`` the same after it has done its work, and ``stopping`` is a host that is being shut down.
"""

from __future__ import annotations

import contextlib
import ctypes
import fnmatch
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.argv.pop(0)
HERE = Path(sys.argv[0]).absolute().parent
UNITS = HERE / "units"
PR_SET_CHILD_SUBREAPER = 36


def write(path: Path, unit: dict[str, Any]) -> None:
    """Write a unit, so that readers see the old or the new state."""
    new = HERE / f".{path.name}.{os.getpid()}"
    new.write_text(json.dumps(unit))
    new.replace(path)


def fail(command: str) -> None:
    """Fail if a fault is switched on."""
    with contextlib.suppress(FileNotFoundError):
        sys.exit((HERE / f"fail-{command}").read_text())


def run(arguments: list[str]) -> None:
    """Start a transient unit, and supervise it in the background."""
    options = [word for word in arguments[: arguments.index("--")] if "=" in word]
    values = dict(word.removeprefix("--").split("=", 1) for word in options if not word.startswith("--property="))
    properties = dict(word.removeprefix("--property=").split("=", 1) for word in options if "--property=" in word)
    path = UNITS / f"{values['unit']}.service.json"
    if path.exists():
        sys.exit(f"Failed to start transient service unit: Unit {values['unit']}.service was already loaded.")
    unit = {**values, **properties, "command": arguments[arguments.index("--") + 1 :], "state": "activating"}
    write(path, unit)
    if os.fork() == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)
        supervise(path, unit)
        os._exit(0)


def supervise(path: Path, unit: dict[str, Any]) -> None:
    """Run the processes of a unit until its main process ends, then kill the others and run ``ExecStopPost=``."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    result = {"SERVICE_RESULT": "exit-code", "EXIT_CODE": "exited", "EXIT_STATUS": "203"}
    with contextlib.suppress(OSError):
        main = subprocess.Popen(unit["command"], start_new_session=True, env={"PATH": os.defpath})
        unit.update({"state": "active", "pid": main.pid})
        write(path, unit)
        timed_out = False
        try:
            code = main.wait(float(unit["RuntimeMaxSec"]))
        except subprocess.TimeoutExpired:
            timed_out = True
            main.terminate()
            code = main.wait(5)
        killed = {"EXIT_CODE": "killed", "EXIT_STATUS": signal.Signals(-code).name[3:]} if code < 0 else {}
        result = {"EXIT_CODE": "exited", "EXIT_STATUS": str(code), **killed}
        result["SERVICE_RESULT"] = (
            "timeout" if timed_out else "signal" if killed else "exit-code" if code else "success"
        )
    kill_rest()
    unit["state"] = "deactivating"
    write(path, unit)
    subprocess.run(shlex.split(unit["ExecStopPost"].removeprefix("+")), env={**os.environ, **result}, check=False)
    path.unlink()


def kill_rest() -> None:
    """Kill all processes that the unit has left behind, wherever they have moved."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while pids := children.read_text().split():
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(int(pid), signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.waitpid(-1, 0)


def control(arguments: list[str]) -> None:
    """Answer like systemctl."""
    command, name = arguments[0], arguments[-1]
    fail(command)
    if command == "is-system-running":
        sys.exit(print("stopping") if (HERE / "stopping").exists() else print("running"))
    for path in sorted(UNITS.glob("*.json")):
        unit, own = json.loads(path.read_text()), path.name.removesuffix(".json")
        if not fnmatch.fnmatch(own, name):
            continue
        if command == "show":
            print(f"Id={own}\nLoadState=loaded\nActiveState={unit['state']}\nDescription={unit['description']}")
            print(f"Job={unit.get('job', '')}\n")
        else:
            write(path, {**unit, "state": "deactivating"})
            os.kill(unit["pid"], signal.SIGTERM)


if __name__ == "__main__":
    with (HERE / "log").open("a") as log:
        log.write(json.dumps(sys.argv) + "\n")
    if Path(sys.argv[0]).name == "systemctl":
        control(sys.argv[1:])
    else:
        fail("systemd-run")
        run(sys.argv[1:])
        fail("after-systemd-run")
