"""Open files of the hub host as root, without following links that another account may have made."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Obstacle(OSError):
    """A path is a link or of another kind, or leads through a link."""


@contextmanager
def directory_of(path: Path) -> Iterator[int]:
    """Open the directory of a path. Names in it stay there, even if somebody replaces a directory on the way.

    Raises:
        Obstacle: There is a link on the way, in a directory where not only root can write.
        FileNotFoundError: The directory does not exist.
    """
    here = os.open("/", _DIRECTORY)
    try:
        for name in path.absolute().parts[1:-1]:
            following = _enter(here, name, path)
            os.close(here)
            here = following
        yield here
    finally:
        os.close(here)


def _enter(here: int, name: str, path: Path) -> int:
    try:
        return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
    owner = os.fstat(here)
    if owner.st_uid == 0 and not owner.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return os.open(name, _DIRECTORY, dir_fd=here)
    raise Obstacle(f"{path} cannot be used, because {name} is a link or of another kind; move it away first")


def sync(directory: int) -> None:
    """Wait until the names in an open directory would survive a power failure."""
    readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.fsync(readable)
    finally:
        os.close(readable)


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file for reading.

    Raises:
        Obstacle: It is no regular file, or there is a link on the way.
        FileNotFoundError: It does not exist.
    """
    with directory_of(path) as directory:
        try:
            # Without O_NONBLOCK, a pipe would wait for a writer.
            number = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO):
                raise
        else:
            if stat.S_ISREG(os.fstat(number).st_mode):
                return os.fdopen(number, "rb")
            os.close(number)
    raise Obstacle(f"{path} is a link or of another kind on this host; move it away first")
