"""The packages of an npm lock file: their addresses, and a lock file that names local copies."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from hpchub.bundle.downloads import Download, hash_of_integrity
from hpchub.bundle.manifest import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterator

REGISTRY = "https://registry.npmjs.org"


def downloads(lock: str, registry: str = REGISTRY) -> list[Download]:
    """Return the archives of a lock file's packages.

    Args:
        lock: The text of ``package-lock.json``.
        registry: The address of the registry.

    Raises:
        BundleError: The lock file is not valid.
    """
    found = []
    for name, package in _packages(json.loads(lock)):
        algorithm, expected = hash_of_integrity(str(package.get("integrity", "")))
        file = f"{name.rpartition('/')[2]}-{package['version']}.tgz"
        url = f"{registry.rstrip('/')}/{name}/-/{file}"
        found.append(Download(f"npm/{_file(name, package)}", url, algorithm, expected))
    return found


def local_lock(lock: str, directory: str) -> str:
    """Return a lock file with packages from a directory instead of a registry.

    Args:
        lock: The text of ``package-lock.json``.
        directory: The absolute path of the directory with the archives.

    Raises:
        BundleError: The lock file is not valid.
    """
    content = json.loads(lock)
    for name, package in _packages(content):
        package["resolved"] = f"file:{directory}/{_file(name, package)}"
    return json.dumps(content, indent=2) + "\n"


def _packages(content: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the entry of each package, except for those that only developers need."""
    if content.get("lockfileVersion") != 3:
        raise BundleError("cannot be made: package-lock.json does not have lockfileVersion 3")
    for path, package in content["packages"].items():
        if path and not package.get("dev") and not package.get("link"):
            yield package.get("name") or path.rpartition("node_modules/")[2], package


def _file(name: str, package: dict[str, Any]) -> str:
    return f"{re.sub('[^A-Za-z0-9._-]', '-', name).lstrip('-.')}-{package['version']}.tgz"
