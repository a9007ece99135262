"""Cancel the jobs of a Dask cluster when the process that has started them is gone.

    python -I -S keeper.py '[[CANCEL, …], [PATH, …]]'

The program reads lines from its standard input: ``+ID`` for a job that was submitted, and ``-ID`` for one that was
cancelled. At the end of the input, or if a signal ends the session, it removes the paths and cancels the remaining
jobs. It uses the standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

INTERVAL = 2.0  # seconds between two looks at the parent. A fork of it may keep the pipe open.
TRIES = 3
PAUSE = 3.0  # seconds between two tries
TIMEOUT = 30.0  # seconds


def follow(jobs: set[str]) -> None:
    """Keep the set of jobs up to date until the parent is gone, or until a signal."""
    parent = os.getppid()
    rest = b""
    while os.getppid() == parent:
        if not select.select([0], [], [], INTERVAL)[0]:
            continue
        data = os.read(0, 65536)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            job_id = line[1:].decode()
            if line.startswith(b"+"):
                jobs.add(job_id)
            else:
                jobs.discard(job_id)


def cancel(command: list[str], job_id: str) -> None:
    """Cancel a job. A scheduler may be busy, so try again."""
    for number in range(TRIES):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            if subprocess.run([*command, job_id], capture_output=True, timeout=TIMEOUT, check=False).returncode == 0:
                return
        if number < TRIES - 1:
            time.sleep(PAUSE)


def main() -> None:
    """Run the program."""
    command, paths = json.loads(sys.argv[1])
    jobs: set[str] = set()

    def end(*_arguments: Any) -> None:
        raise SystemExit

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(SystemExit):
        follow(jobs)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for path in map(Path, paths):  # first, so that a job that starts now finds nothing
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda job_id: cancel(command, job_id), sorted(jobs)))


if __name__ == "__main__":
    main()
