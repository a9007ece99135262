"""A stand-in for Slurm's commands ``sbatch``, ``scancel`` and ``squeue``, which really runs the jobs on this machine.

It keeps its state in ``$STANDIN``, a directory. Each job is a session of processes with an environment of its own, as
with ``--export=NIL``. If the directory contains a file ``hold``, new jobs wait. A file ``refuse`` contains a message
with which ``sbatch`` refuses. ``install`` writes the commands.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

COMMANDS = ("sbatch", "scancel", "squeue")


def install(directory: Path) -> dict[str, str]:
    """Write the commands, and return the variables that select them."""
    programs, state = directory / "bin", directory / "slurm"
    programs.mkdir()
    state.mkdir()
    for name in COMMANDS:
        path = programs / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} -I {__file__} {name} "$@"\n')
        path.chmod(0o755)
    return {"PATH": f"{programs}:{os.environ['PATH']}", "STANDIN": str(state)}


def processes_of(session: int) -> list[int]:
    """Return the processes of a session that are not zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(path.parent.name))
    return found


def jobs(state: Path) -> dict[str, dict[str, Any]]:
    """Return the jobs that wait or run, by their ids: ``{"script", "pid", "environment"}``. A waiting one has pid 0."""
    found = {}
    for path in sorted(state.glob("*.json")):
        with contextlib.suppress(FileNotFoundError, ValueError):
            job = json.loads(path.read_text())
            if not job["pid"] or processes_of(job["pid"]):
                found[path.stem] = job
    return found


def _is_new(path: Path) -> bool:
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def sbatch(state: Path, script: str) -> None:
    """Submit a script."""
    if (state / "refuse").exists():
        sys.exit(f"sbatch: error: {(state / 'refuse').read_text()}")
    number = str(next(each for each in range(1, 1000) if _is_new(state / f"{each}.id")))
    text = Path(script).read_text()
    kept = {} if "#SBATCH --export=NIL" in text else dict(os.environ)
    environment = {**kept, "SLURM_JOB_ID": number, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
    pid = 0
    if not (state / "hold").exists():
        (log,) = re.findall(r"^#SBATCH --output=(.*)$", text, re.MULTILINE)
        with Path(log.replace("%j", number)).open("w") as output:
            pid = subprocess.Popen(
                ["/bin/bash", "-s"],
                stdin=Path(script).open(),  # noqa: SIM115 the process has it
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            ).pid
    (state / f"{number}.json").write_text(json.dumps({"script": text, "pid": pid, "environment": dict(os.environ)}))
    print(f"Submitted batch job {number}")


def scancel(state: Path, number: str) -> None:
    """Cancel a job: SIGTERM, and then SIGKILL."""
    found = jobs(state).get(number)
    (state / f"{number}.cancelled").touch()
    (state / f"{number}.json").rename(state / f"{number}.gone")
    if found is None:
        sys.exit(f"scancel: error: Invalid job id {number}")
    if not found["pid"]:
        return
    for sent in (signal.SIGTERM, signal.SIGKILL):
        end = time.monotonic() + 3
        for process in processes_of(found["pid"]):
            with contextlib.suppress(OSError):
                os.kill(process, sent)
        while processes_of(found["pid"]) and time.monotonic() < end:
            time.sleep(0.05)


def squeue(state: Path) -> None:
    """List the jobs."""
    for number, job in jobs(state).items():
        (name,) = re.findall(r"^#SBATCH --job-name=(.*)$", job["script"], re.MULTILINE)
        print(number, name, "RUNNING" if job["pid"] else "PENDING")


if __name__ == "__main__":
    commands: dict[str, Any] = {"sbatch": sbatch, "scancel": scancel, "squeue": squeue}
    commands[sys.argv[1]](Path(os.environ["STANDIN"]), *sys.argv[2:])
