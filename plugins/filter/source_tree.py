"""Filters that identify and pack a source tree on the controller."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SKIPPED = {"__pycache__", ".git", ".mypy_cache", ".pytest_cache", ".ruff_cache"}


def _files(root: Path, include: Iterable[str]) -> Iterator[tuple[str, Path]]:
    """Yield the relative name and the path of each source file, in the same order on every controller."""
    found = []
    for name in include:
        top = root / name
        for path in [top] if top.is_file() else top.rglob("*"):
            relative = path.relative_to(root)
            if path.is_file() and not any(p in SKIPPED or p.endswith(".egg-info") for p in relative.parts):
                found.append((relative.as_posix(), path))
    if not found:
        raise ValueError(f"{root} has no source files; expected at least one of: {', '.join(include)}")
    yield from sorted(found)


def tree_hash(root: str, include: Iterable[str]) -> str:
    """Return the SHA-256 of the names and contents of source files, in hexadecimal.

    Times, owners and modes do not matter, so that two checkouts of one commit have the same hash.

    Args:
        root: The directory of the source tree.
        include: The files and directories in it that belong to the source.

    Raises:
        ValueError: The source tree has none of these files.
    """
    digest = hashlib.sha256()
    for name, path in _files(Path(root), list(include)):
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def tree_archive(root: str, include: Iterable[str]) -> str:
    """Return source files as a gzipped tar archive in base64.

    Trees with the same :func:`tree_hash` give the same archive.

    Args:
        root: The directory of the source tree.
        include: The files and directories in it that belong to the source.

    Raises:
        ValueError: The source tree has none of these files.
    """
    raw = io.BytesIO()
    with gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for name, path in _files(Path(root), list(include)):
            content = path.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(content))
    return base64.b64encode(raw.getvalue()).decode("ascii")


class FilterModule:
    """The filters of this file, in the form that Ansible expects."""

    def filters(self) -> dict[str, object]:
        """Return the filters by name."""
        return {"tree_hash": tree_hash, "tree_archive": tree_archive}
