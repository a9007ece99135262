"""Remove environments that were replaced long ago; print the name of each.

    prune.py PATH KEEP DAYS

An environment goes when it is not the current one, is not among the KEEP newest, was replaced more than DAYS days ago,
and no process of this host has it open. When it was replaced is the time of its file ``.replaced``, which is made here
at the first sight of an environment that is no longer current, and removed from one that is current again.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path


def open_here(directory: Path) -> bool:
    """Tell whether a process of this host has a file below a directory mapped, or was called by such a name."""
    inside = os.fsencode(directory) + b"/"
    for name in ("cmdline", "maps"):
        for path in Path("/proc").glob(f"[0-9]*/{name}"):
            try:
                if inside in path.read_bytes():
                    return True
            except OSError:  # the process is gone
                continue
    return False


def prune(path: Path, keep: int, days: float, now: float) -> list[str]:
    """Remove what is to go below ``path``, and return the names; ``now`` is the time in seconds since 1970."""
    current = (path / "current").resolve()
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
        if now - since >= days * 86400 and not open_here(environment.resolve()):
            shutil.rmtree(environment)
            removed.append(environment.name)
    return removed


if __name__ == "__main__":
    print("\n".join(prune(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), time.time())))
