"""Make a bundle: choose its files, download them, and write the archive."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hpchub import __version__
from hpchub.bundle import archive, npm, wheels
from hpchub.bundle.downloads import Download, fetch_all
from hpchub.bundle.manifest import BundleError, Manifest, Needs, Targets, missing_software

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True)
class Sources:
    """Where the files of a bundle are listed.

    Attributes:
        python_locks: The lock files of Python packages. Each is installed as a whole.
        npm_lock: The lock file of npm packages.
        registry: The address of the npm registry.
    """

    python_locks: Sequence[Path]
    npm_lock: Path
    registry: str = npm.REGISTRY


def is_current(path: Path, needs: Needs, targets: Targets) -> bool:
    """Return whether a bundle exists, is complete and unchanged, and contains this software for these targets."""
    try:
        found = archive.verify(path)
    except BundleError:
        return False
    return found.targets == targets and not missing_software(found, needs)


def choose_files(sources: Sources, targets: Targets, progress: Callable[[str], None]) -> dict[str, Download]:
    """Return the files of a bundle by their names, without downloading them.

    Args:
        sources: Where the files are listed.
        targets: The hosts that the bundle is for.
        progress: Called with a line of text before each step.

    Raises:
        BundleError: Something that the bundle needs does not exist.
    """
    found = npm.downloads(sources.npm_lock.read_text(), sources.registry)
    for python in targets.pythons:
        for architecture in targets.architectures:
            progress(f"Choosing the wheels for Python {python} on {architecture}")
            for lock in sources.python_locks:
                found += wheels.locked(lock, python, architecture)
    return {one.name: one for one in sorted(found, key=lambda one: one.name)}


def make(
    path: Path,
    needs: Needs,
    targets: Targets,
    files: dict[str, Download],
    progress: Callable[[int, int, Download], None],
) -> tuple[Manifest, str]:
    """Download the files of a bundle and write it.

    Args:
        path: The path of the bundle.
        needs: The software that it contains.
        targets: The hosts that it is for.
        files: The files.
        progress: Called after each file with the number of finished files, the number of all files, and the file.

    Returns:
        The manifest, and the SHA-256 of the bundle.

    Raises:
        BundleError: A file cannot be downloaded, or it has another hash.
    """
    # The temporary directory is beside the bundle, because /tmp may be a small file system in memory.
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as directory:
        found = fetch_all(files.values(), Path(directory), progress)
        made = datetime.now(UTC).isoformat(timespec="seconds")
        manifest = Manifest(__version__, made, needs, targets, found)
        return manifest, archive.write(path, manifest, {name: Path(directory) / name for name in found})
