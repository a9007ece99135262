"""Downloads: a file with its address, and the hash that it must have."""

from __future__ import annotations

import base64
import hashlib
import http.client
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpchub.bundle.manifest import BundleError, File

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

_TOGETHER = 8
_TIMEOUT = 60
_CHUNK = 2**20
_ATTEMPTS = 3


@dataclass(frozen=True)
class Download:
    """A file to download.

    Attributes:
        name: The name in the bundle, as in ``wheels/NAME``.
        url: The address.
        algorithm: The name of the hash function, as in ``sha256``.
        hash: The hash that the file must have, in hexadecimal.
        size: The size in bytes, or 0 if it is unknown.
    """

    name: str
    url: str
    algorithm: str
    hash: str
    size: int = 0


def hash_of_integrity(integrity: str) -> tuple[str, str]:
    """Return the hash function and the hash of a value of npm, as in ``sha512-BASE64``.

    Raises:
        BundleError: The value is not valid.
    """
    algorithm, _, encoded = integrity.partition("-")
    try:
        found = base64.b64decode(encoded, validate=True).hex()
    except ValueError:
        found = ""
    if algorithm not in {"sha256", "sha384", "sha512"} or not found:
        raise BundleError(f"cannot be made: package-lock.json has the hash {integrity!r}, which is not valid")
    return algorithm, found


def fetch(download: Download, path: Path) -> File:
    """Download a file.

    Raises:
        BundleError: The file cannot be downloaded, or it has another hash.
    """
    if not download.url.startswith(("https://", "http://")):
        raise BundleError(f"cannot be made: {download.url} is not an address of the web")
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _fetch(download, path)
        except (OSError, http.client.HTTPException) as error:  # this includes urllib's exceptions
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            if attempt == _ATTEMPTS:
                reason = getattr(error, "reason", error)
                raise BundleError(f"cannot be made: {download.url} cannot be downloaded ({reason})") from None
    raise AssertionError  # not reached


def _fetch(download: Download, path: Path) -> File:
    expected, ours, size = hashlib.new(download.algorithm), hashlib.sha256(), 0
    with urllib.request.urlopen(download.url, timeout=_TIMEOUT) as answer, path.open("wb") as file:  # noqa: S310
        while chunk := answer.read(_CHUNK):
            expected.update(chunk)
            ours.update(chunk)
            size += len(chunk)
            file.write(chunk)
    if expected.hexdigest() != download.hash:
        raise BundleError(f"cannot be made: {download.url} does not have the expected hash")
    return File(ours.hexdigest(), size)


def fetch_all(
    downloads: Iterable[Download], directory: Path, progress: Callable[[int, int, Download], None]
) -> dict[str, File]:
    """Download files into a directory, several at once, and return their hashes and sizes by their names.

    Args:
        downloads: The files. Each name is also the path of the file in the directory.
        directory: The directory.
        progress: Called after each file with the number of finished files, the number of all files, and the file.

    Raises:
        BundleError: A file cannot be downloaded, or it has another hash.
    """
    wanted = {download.name: download for download in downloads}
    for name in wanted:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, File] = {}
    with ThreadPoolExecutor(_TOGETHER) as pool:
        running = {name: pool.submit(fetch, download, directory / name) for name, download in wanted.items()}
        try:
            for number, (name, future) in enumerate(running.items(), 1):
                found[name] = future.result()
                progress(number, len(wanted), wanted[name])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return found
