"""Remove old environments, and print the name of each.

Usage::

    prune.py PATH KEEP DAYS

The program removes an environment if it is neither the current nor the previous one, is not among the KEEP newest, was
replaced more than DAYS days ago, and no process on this host uses it.

The modification time of the file ``.replaced`` in an environment records when it was replaced. This program creates the
file when it first finds that the environment is not the current one. It removes the file if the environment becomes the
current one again.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path


def open_here(directory: Path) -> bool:
    """Return whether a process on this host maps a file in a directory, or names one in its command line."""
    inside = os.fsencode(directory) + b"/"
    for name in ("cmdline", "maps"):
        for path in Path("/proc").glob(f"[0-9]*/{name}"):
            try:
                if inside in path.read_bytes():
                    return True
            except OSError:  # the process has ended
                continue
    return False


def prune(path: Path, keep: int, days: float, now: float) -> list[str]:
    """Remove old environments.

    Args:
        path: The directory that contains ``envs`` and ``current``.
        keep: The number of newest environments to keep, including the current one.
        days: The minimum number of days to keep a replaced environment.
        now: The current time, in seconds since the epoch.

    Returns:
        The names of the removed environments.
    """
    current, previous = (path / "current").resolve(), (path / "previous").resolve()
    replaced = []
    for environment in (path / "envs").iterdir():
        marker = environment / ".replaced"
        if environment.resolve() == current:
            marker.unlink(missing_ok=True)
            continue
        if not marker.exists():
            marker.touch()
        replaced.append((marker.stat().st_mtime, environment))
    removed = []
    for since, environment in sorted(replaced, reverse=True)[max(keep - 1, 0) :]:
        if environment.resolve() == previous:  # a rollback needs it
            continue
        if now - since >= days * 86400 and not open_here(environment.resolve()):
            shutil.rmtree(environment)
            removed.append(environment.name)
    return removed


if __name__ == "__main__":
    print("\n".join(prune(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), time.time())))
