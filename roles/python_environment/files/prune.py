"""Remove environments that were replaced long ago; print the name of each.

    prune.py PATH KEEP DAYS

An environment goes when it is not the current one, is not among the KEEP newest, was replaced more than DAYS days ago,
and no process of this host has it open. When it was replaced is the time of its file ``.replaced``, which is made here
at the first sight of an environment that is no longer current, and removed from one that is current again.
"""

import os
import shutil
import sys
import time


def open_here(directory):
    """Tell whether a process of this host has a file below ``directory`` mapped, or is called by such a name."""
    inside = os.fsencode(directory) + b"/"
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for name in ("cmdline", "maps"):
            try:
                with open(f"/proc/{pid}/{name}", "rb") as file:
                    if inside in file.read():
                        return True
            except OSError:  # gone meanwhile
                break
    return False


def prune(path, keep, days, now):
    """Return the names of the environments removed below ``path``."""
    envs = os.path.join(path, "envs")
    current = os.path.realpath(os.path.join(path, "current"))
    others = []
    for name in os.listdir(envs):
        directory = os.path.join(envs, name)
        marker = os.path.join(directory, ".replaced")
        if os.path.realpath(directory) == current:
            if os.path.exists(marker):
                os.unlink(marker)
            continue
        if not os.path.exists(marker):
            with open(marker, "w"):
                pass
        others.append((os.path.getmtime(marker), name))
    removed = []
    for replaced, name in sorted(others, reverse=True)[max(keep - 1, 0) :]:
        directory = os.path.join(envs, name)
        if now - replaced >= days * 86400 and not open_here(directory):
            shutil.rmtree(directory)
            removed.append(name)
    return removed


if __name__ == "__main__":
    print("\n".join(prune(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), time.time())))
