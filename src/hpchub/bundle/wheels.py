"""The wheels of lock files: uv chooses the versions, and this module chooses the file for each target."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from hpchub.bundle.downloads import Download
from hpchub.bundle.manifest import GLIBC, BundleError

if TYPE_CHECKING:
    from packaging.tags import Tag

_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_OLDEST = {"x86_64": 5, "aarch64": 17}
"""The first version of glibc 2 that has wheels of an architecture."""
ARCHITECTURES = tuple(_OLDEST)


def tags(python: str, architecture: str) -> list[Tag]:
    """Return the tags of the wheels that a target can install, the best first.

    Args:
        python: The version of Python, as in ``3.13``.
        architecture: The architecture, as in ``x86_64``.
    """
    major, minor = map(int, python.split("."))
    platforms = [f"manylinux_{GLIBC[0]}_{n}_{architecture}" for n in range(GLIBC[1], _OLDEST[architecture] - 1, -1)]
    old = ["manylinux2014", *(["manylinux2010", "manylinux1"] if architecture == "x86_64" else [])]
    platforms += [f"{name}_{architecture}" for name in old] + [f"linux_{architecture}"]
    return [
        *cpython_tags((major, minor), platforms=platforms),
        *compatible_tags((major, minor), f"cp{major}{minor}", platforms),
    ]


def locked(lock: Path, python: str, architecture: str) -> list[Download]:
    """Return the wheels of a lock file for a target.

    Raises:
        BundleError: A package has no wheel for the target, or a wheel is not the one that the lock file names.
    """
    command = [
        *(uv_program(), "pip", "compile", "--no-header", "--only-binary", ":all:", "--format", "pylock.toml"),
        *("--python-version", python, "--python-platform", f"{architecture}-manylinux_{GLIBC[0]}_{GLIBC[1]}"),
        *("--no-deps", str(lock)),
    ]
    environment = {**os.environ, "UV_NO_PROGRESS": "true", "UV_PYTHON_DOWNLOADS": "never"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = " ".join(re.split(r"^error: ", done.stderr, maxsplit=1, flags=re.MULTILINE)[-1].split())
        raise BundleError(f"cannot be made for Python {python} on {architecture}: {reason[:600]}")
    hashes = {*_HASH.findall(lock.read_text())}
    order = {tag: rank for rank, tag in enumerate(tags(python, architecture))}
    chosen = []
    for package in tomllib.loads(done.stdout).get("packages", []):
        name = canonicalize_name(package["name"])
        wheel = choose(package, order, hashes or None)
        if wheel is None:
            raise BundleError(
                f"cannot be made: {name} {package.get('version', '')} has no wheel for Python {python} on "
                f"{architecture} that the lock file permits"
            )
        chosen.append(wheel)
    return chosen


def choose(package: dict[str, Any], order: dict[Tag, int], hashes: set[str] | None) -> Download | None:
    """Return the best wheel of a package, or None if no wheel fits.

    Args:
        package: The package's entry in a file ``pylock.toml``.
        order: The rank of each tag, with 0 for the best one.
        hashes: The permitted hashes, or None if any hash is permitted.
    """
    found = []
    for wheel in package.get("wheels", []):
        url = wheel.get("url", "")
        file = wheel.get("name") or urllib.parse.unquote(url.rpartition("/")[2].partition("#")[0])
        expected = wheel.get("hashes", {}).get("sha256", "")
        try:
            ranks = [order[tag] for tag in parse_wheel_filename(file)[3] if tag in order]
        except InvalidWheelFilename:
            continue
        if ranks and expected and (hashes is None or expected in hashes):
            found.append((min(ranks), Download(f"wheels/{file}", url, "sha256", expected, wheel.get("size", 0))))
    return min(found, key=lambda one: one[0])[1] if found else None


def uv_program() -> str:
    """Return the path of uv.

    Raises:
        BundleError: It is not installed.
    """
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise BundleError(
            "cannot be made: the program uv is not installed; run bin/hpchub of a checkout, or install uv"
        )
    return found
