"""``hpchub lock``: choose the versions of the packages and extensions that a site adds to its notebook environments."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hpchub.bundle.manifest import BundleError
from hpchub.cli import inventory
from hpchub.cli.failure import VALID, WRONG, Failure
from hpchub.cli.output import count
from hpchub.deploy import site_locks
from hpchub.deploy.inventory_files import shown
from hpchub.deploy.software import Software
from hpchub.model.packages import conflicts, header, pins, stale, to_lock

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

LOCK_HELP = """\
The variables hpc_notebook_packages, hpc_extensions and hpc_kernels of the inventory add Python packages to the notebook
environments. This command lets uv choose versions that fit together, and writes them with their hashes to
PATH/files/locks/CLUSTER.lock. Commit these files with the inventory. A deployment installs exactly these versions. It
does not begin if a file is missing or does not fit the inventory.

The versions in hpchub's own lock files never change. A package that needs another one is a conflict. All packages must
exist as wheels.

Run this command again after a change of these variables and after an upgrade of hpchub. Versions in an existing file
stay if they still fit. The command contacts the package index of PyPI, or the one that UV_DEFAULT_INDEX names, and no
host of the inventory.

"""


def add_lock(command: Callable[..., argparse.ArgumentParser], codes: str) -> argparse.ArgumentParser:
    """Add the command to the parser of the command line.

    Args:
        command: Adds a command with a name, a help text, a function, and further help.
        codes: The description of the exit codes.
    """
    added = command("lock", "choose and lock the versions of the site's own Python packages", lock, LOCK_HELP + codes)
    added.add_argument("path", metavar="PATH", type=Path, help="the inventory")
    added.add_argument("--upgrade", action="store_true", help="choose the newest versions, also for locked packages")
    return added


def lock(options: argparse.Namespace) -> int:
    """Run ``hpchub lock``."""
    checked = inventory.read(options.path, options.vault)
    # Other problems do not matter here. One of them may be that a lock file is missing.
    if checked.software is None:
        for problem in checked.problems:
            print(problem["text"])
        print(f"hpchub: {options.path}: {count(len(checked.problems), 'problem')}", file=sys.stderr)
        return WRONG
    software = Software.from_dict(checked.software)
    for cluster in software.further:
        try:
            _lock(options.path, software, cluster, upgrade=options.upgrade)
        except (site_locks.LockError, BundleError) as error:
            raise Failure(f"cluster {cluster}: {error}", WRONG) from None
        except OSError as error:
            raise Failure(f"a lock file cannot be read or written: {error}") from None
    return VALID


def _lock(source: Path, software: Software, cluster: str, *, upgrade: bool) -> None:
    base = [path.read_text() for path in software.base]
    if wrong := list(conflicts(software.further[cluster], pins(base))):
        raise site_locks.LockError("\n".join(map(str, wrong)))
    needed = to_lock(software.further[cluster], pins(base))
    path = site_locks.find([source], cluster)
    former = path.read_text() if path else ""
    resolved = site_locks.resolve(needed, software.base, "" if upgrade else former) if needed else ""
    for extension in software.extensions.get(cluster, ()):
        for name in site_locks.check_extension(extension, [resolved, *base]):
            advice = f"to turn it on, add server_extensions: [{name}]"
            print(f"{cluster}: {extension.package} has the server extension {name}, which stays off; {advice}")
    if needed:
        _write(path or site_locks.directory(source) / f"{cluster}.lock", former, resolved, cluster, software)
    elif path:
        path.unlink()
        print(f"{shown(path)}: removed, because no package of cluster {cluster} needs it")
    else:
        print(f"{cluster}: no lock file is needed")


def _write(path: Path, former: str, resolved: str, cluster: str, software: Software) -> None:
    digest = site_locks.base_digest(software.base)
    needed = to_lock(software.further[cluster], pins(one.read_text() for one in software.base))
    text = header(cluster, needed, digest) + resolved
    if text == former:
        print(f"{shown(path)}: unchanged")
        return
    if fault := stale(text, needed, digest):  # the next deployment would refuse it
        raise Failure(f"cluster {cluster}: the new lock file {fault}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(f"{shown(path)}: {count(len(pins([text])), 'package')} for {', '.join(needed)}")
