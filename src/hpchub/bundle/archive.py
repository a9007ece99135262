"""The file of a bundle: a tar archive that begins with its manifest."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hpchub.bundle.manifest import BundleError, Manifest
from hpchub.messages import show

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MANIFEST = "manifest.json"
_LARGEST_MANIFEST = 16 * 2**20


def write(path: Path, manifest: Manifest, sources: Mapping[str, Path]) -> str:
    """Write a bundle. A file of this name exists only if it is complete.

    Args:
        path: The path of the bundle.
        manifest: Its manifest.
        sources: The path of each file of the manifest.

    Returns:
        The SHA-256 of the bundle, in hexadecimal.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as archive:
            text = manifest.as_text().encode()
            archive.addfile(_entry(MANIFEST, len(text)), io.BytesIO(text))
            for name in sorted(manifest.files):
                with sources[name].open("rb") as file:
                    archive.addfile(_entry(name, manifest.files[name].size), file)
        with partial.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return found


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size = size
    entry.mode = 0o644
    return entry


def read_manifest(path: Path) -> Manifest:
    """Return the manifest of a bundle, without a check of its files.

    Raises:
        BundleError: The file is not a bundle.
    """
    with _opened(path) as archive:
        return _manifest(archive)


def verify(path: Path) -> Manifest:
    """Return the manifest of a bundle after a check that all of its files are complete and unchanged.

    Raises:
        BundleError: The bundle is truncated or changed, or the file is not a bundle.
    """
    with _opened(path) as archive:
        manifest = _manifest(archive)
        for name, wanted in sorted(manifest.files.items()):
            found = _member(archive, name)
            if found is None:
                raise BundleError(f"is truncated: {name} is missing or incomplete")
            if found != wanted.sha256:
                raise BundleError(f"was changed: {name} differs from its hash in the manifest")
        _check_end(path, archive.offset)
        return manifest


def _check_end(path: Path, offset: int) -> None:
    """Check that only the padding of a tar archive follows after the last file."""
    with path.open("rb") as file:
        file.seek(offset)
        padding = file.read(2 * tarfile.RECORDSIZE)
    if any(padding):
        raise BundleError("was changed: something follows after its last file")
    if len(padding) < 2 * tarfile.BLOCKSIZE or (offset + len(padding)) % tarfile.RECORDSIZE:
        raise BundleError("is truncated: its end is missing")


def _member(archive: tarfile.TarFile, name: str) -> str | None:
    """Return the hash of the archive's next file, which must have this name, or None if the archive ends before."""
    try:
        entry = archive.next()
        if entry is None:
            return None
        if entry.name != name or not entry.isreg():
            raise BundleError(f"was changed: it contains {show(entry.name)} in the place of {name}")
        file = archive.extractfile(entry)
        return "" if file is None else hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    except (tarfile.TarError, EOFError):
        return None


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, "r:") as archive:
            yield archive
    except tarfile.TarError:
        raise BundleError("is not a bundle of hpchub") from None
    except OSError as error:
        raise BundleError(f"cannot be read: {error.strerror or error}") from None


def _manifest(archive: tarfile.TarFile) -> Manifest:
    entry = archive.next()
    if entry is None or entry.name != MANIFEST or not entry.isreg() or entry.size > _LARGEST_MANIFEST:
        raise BundleError("is not a bundle of hpchub")
    try:
        file = archive.extractfile(entry)
        text = file.read().decode() if file is not None else ""
    except (tarfile.TarError, EOFError, UnicodeDecodeError):
        raise BundleError("is truncated or changed: its manifest cannot be read") from None
    return Manifest.from_text(text)
