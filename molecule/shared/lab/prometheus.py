"""The programs `prometheus` and `promtool` of Debian's package, without an installation that would start a service."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from lab.console import LabError
from lab.host import CACHE

PACKAGE = "prometheus"
FETCH = ("apt-get", "download", "-q", PACKAGE)
"""The command that downloads the package into the working directory. It needs no root."""


def program(name: str) -> Path:
    """Return the path of `prometheus` or `promtool`. If the package is not installed, download and unpack it.

    Raises:
        LabError: The package cannot be downloaded or unpacked.
    """
    if installed := shutil.which(name):
        return Path(installed)
    directory = CACHE / PACKAGE
    found = directory / "usr" / "bin" / name
    if not found.exists():
        directory.mkdir(parents=True, exist_ok=True)
        _run(*FETCH, directory=directory)
        for package in sorted(directory.glob("*.deb")):
            _run("dpkg-deb", "--extract", package.name, ".", directory=directory)
            package.unlink()
    return found


def _run(*command: str, directory: Path) -> None:
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise LabError(f"{command[0]} does not exist. To fix this, use Debian 12 or 13, or install {PACKAGE}") from None
    if done.returncode:
        detail = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise LabError(
            f"{' '.join(command)} failed ({detail}). To fix this, run apt-get update, or install {PACKAGE} yourself"
        )
