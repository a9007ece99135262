"""The user's own Jupyter kernels: the directory that contains them, and how kernels are added and removed there.

Nothing here writes into a directory of somebody else. A kernel appears as a whole or not at all.
This file uses the standard library only (Python 3.9 and later).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpchub.remote import user_kernels
from hpchub.remote.user_kernels import SpecError, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

WORKS, BROKEN, UNUSABLE = 0, 1, 2
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
VALID_NAMES = "write lower-case letters, digits, . _ and -, a letter or digit first, at most 64 characters"
SETTINGS = Path(sys.prefix, "etc", "hpchub-launch.json")
FULL = (errno.ENOSPC, errno.EDQUOT)


class Failure(Exception):
    """An error that ends the command. The message may have several lines."""

    def __init__(self, message: str, code: int = UNUSABLE) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Kernel:
    """A kernel in the user's directory.

    Attributes:
        name: Its name. Jupyter ignores case, so this is in lower case.
        directory: Its directory, or a link to it.
        spec: The content of its ``kernel.json``, or nothing if it is not valid.
        problem: Why it cannot start, as far as its files show it, or empty.
        hidden_by: The directory of the centre's kernel of the same name, which Jupyter prefers, or empty.
    """

    name: str
    directory: Path
    spec: Mapping[str, Any]
    problem: str
    hidden_by: str = ""

    @property
    def own(self) -> Mapping[str, Any]:
        """What ``hpchub-kernel add`` wrote about the kernel, or nothing."""
        own = self.spec.get("metadata", {}).get("hpchub", {})
        return own if isinstance(own, dict) else {}

    @property
    def display_name(self) -> str:
        """The name that JupyterLab shows."""
        return printable(self.spec.get("display_name") or self.name, 60)

    @property
    def kind(self) -> str:
        """``venv``, ``conda``, ``module``, ``python``, or ``other`` if another program wrote the kernel."""
        return printable(self.own.get("kind") or "other", 20)

    @property
    def modules(self) -> list[str]:
        """The modules that the kernel loads."""
        modules = self.own.get("modules")
        return [printable(each) for each in modules] if isinstance(modules, list) else []

    @property
    def environment(self) -> str:
        """The environment: its directory, its modules, or the program that starts the kernel."""
        own = [*self.modules, *([printable(self.own["environment"])] if self.own.get("environment") else [])]
        if own:
            return " ".join(own)
        argv = self.spec.get("argv", [""])
        paths = (word for word in argv if word.startswith("/") and Path(word).name not in ("env", "bash", "sh"))
        return printable(next(paths, argv[0]))


def kernels_directory(env: Mapping[str, str] | None = None) -> Path:
    """Return the directory with the user's kernels, as ``jupyter_core`` finds it on Linux.

    Raises:
        Failure: This session has a temporary directory in its place.
    """
    env = os.environ if env is None else env
    home = Path(os.path.realpath(Path("~").expanduser()))
    data = Path(env.get("JUPYTER_DATA_DIR") or Path(env.get("XDG_DATA_HOME") or home / ".local" / "share", "jupyter"))
    kernels = Path(os.path.abspath(data)) / "kernels"  # noqa: PTH100 the links are checked later
    runtime = Path(env.get("JUPYTER_RUNTIME_DIR", "/"))
    if runtime.parent.name.startswith("hpchub-") and data == runtime.parent / "data" and not kernels.is_symlink():
        raise Failure(
            f"this session cannot write to your Jupyter directory, so it has {data} in its place, which is deleted at"
            " its end; free space or correct the permissions of the directory that the session's log names, and start a"
            " new session"
        )
    return kernels


def centre_kernels(env: Mapping[str, str] | None = None, settings: Path = SETTINGS) -> dict[str, Path]:
    """Return the directories of the centre's kernels by name. Jupyter prefers them to the user's."""
    env = os.environ if env is None else env
    places = [place for place in env.get("JUPYTER_PATH", "").split(os.pathsep) if place]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        places += map(str, json.loads(settings.read_text(encoding="utf-8"))["jupyter_path"])
    found: dict[str, Path] = {}
    for place in places:
        with contextlib.suppress(OSError):
            for path in Path(place, "kernels").iterdir():
                if (path / "kernel.json").is_file():
                    found.setdefault(path.name.lower(), path)
    return found


class Store:
    """The kernels in the user's directory.

    Args:
        path: The directory. It need not exist yet.
        centre: The directories of the centre's kernels by name.
    """

    def __init__(self, path: Path, centre: Mapping[str, Path]) -> None:
        self.path = path
        self.centre = {name: place for name, place in centre.items() if place.parent != path}

    def kernels(self) -> list[Kernel]:
        """Return the kernels, sorted by name.

        Raises:
            Failure: The directory cannot be read.
        """
        try:
            entries = sorted(self.path.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise Failure(f"{self.path} cannot be read: {error.strerror}; check its permissions") from None
        return [self._kernel(path) for path in entries if self._is_kernel(path)]

    @staticmethod
    def _is_kernel(path: Path) -> bool:
        if path.name.startswith("."):
            return False
        try:
            return os.path.lexists(path / "kernel.json") or (path.is_symlink() and not path.exists())
        except OSError:
            return True  # it cannot be read

    def _kernel(self, path: Path) -> Kernel:
        name = path.name.lower()
        spec: dict[str, Any] = {}
        try:
            target = user_kernels.dangling(path)
            if target and not path.exists():
                raise SpecError(f"its directory links to {printable(target)}, which does not exist")  # noqa: TRY301
            spec = user_kernels.read_spec(path)
            problem = user_kernels.problem(path, spec)
        except SpecError as error:
            problem = str(error)
        except OSError as error:
            problem = f"it cannot be read: {error.strerror}"
        if not re.fullmatch(r"[a-z0-9._-]+", name):
            problem = "its name is not valid; rename the directory"
        return Kernel(printable(name, 80), path, spec, problem, str(self.centre.get(name, "")))

    def find(self, name: str) -> Kernel:
        """Return the kernel with a name.

        Raises:
            Failure: There is none.
        """
        kernels = self.kernels()
        for kernel in kernels:
            if kernel.name == name.lower():
                return kernel
        if name.lower() in self.centre:
            raise Failure(
                f"{printable(name)} is a kernel of your centre, in {self.centre[name.lower()]}, and not yours"
            )
        valid = ", ".join(kernel.name for kernel in kernels)
        have = f"you have {valid}" if valid else "you have none; hpchub-kernel add ENV adds one"
        raise Failure(f"you have no kernel {printable(name)!r} in {self.path}; {have}")

    def check_free(self, name: str, *, force: bool) -> Path | None:
        """Check that a kernel can be added under a name. Return the directory of the kernel that it replaces.

        Raises:
            Failure: The name is not valid, or it is in use.
        """
        if not NAME.fullmatch(name):
            raise Failure(f"{printable(name)!r} is not valid as the name of a kernel; {VALID_NAMES}")
        if name in self.centre:
            raise Failure(
                f"your centre has a kernel {name}, in {self.centre[name]}, and Jupyter would never use yours; choose"
                " another name with --name"
            )
        with contextlib.suppress(OSError):
            for path in self.path.iterdir():
                if path.name.lower() == name:
                    if not force:
                        raise Failure(
                            f"{path} exists; choose another name with --name, or replace the kernel with --force"
                        )
                    return path
        return None

    def prepare(self) -> Path:
        """Create the directory if necessary, and return it without links.

        Raises:
            Failure: It is not the user's, or cannot be created.
        """
        path = Path(os.path.realpath(self.path))
        existing = next(each for each in (path, *path.parents) if os.path.lexists(each))
        try:
            status = existing.stat()
            if status.st_uid != os.getuid():
                raise Failure(
                    f"{existing} belongs to uid {status.st_uid}, and not to you; remove the link to it, or set"
                    " JUPYTER_DATA_DIR to a directory of your own"
                )
            if status.st_mode & 0o002:
                raise Failure(f"everybody can write to {existing}; run: chmod o-w {existing}")
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Failure(explain(error, path)) from None
        return path

    def add(self, name: str, files: Mapping[str, str], *, force: bool) -> Path:
        """Add a kernel, and return its directory.

        Args:
            name: Its name.
            files: The texts of its files, by name.
            force: Whether to replace a kernel of the same name.

        Raises:
            Failure: The name is in use, or the files cannot be written.
        """
        replaced = self.check_free(name, force=force)
        base = self.prepare()
        target = base / name
        try:
            with self._staging(base) as staging:
                new = staging / name
                new.mkdir(mode=0o700)
                for file, text in files.items():
                    write(new / file, text)
                if replaced:
                    old = base / replaced.name
                    old.rename(staging / "replaced")
                try:
                    new.rename(target)
                except OSError:
                    if replaced:
                        (staging / "replaced").rename(old)
                    raise
        except OSError as error:
            raise Failure(explain(error, target)) from None
        return target

    def remove(self, kernel: Kernel) -> None:
        """Remove a kernel. If its directory is a link, only the link is removed.

        Raises:
            Failure: It belongs to somebody else, or cannot be removed.
        """
        base = self.prepare()
        path = base / kernel.directory.name
        try:
            owner = path.lstat().st_uid
            if owner != os.getuid():
                raise Failure(f"{path} belongs to uid {owner}, and not to you; ask the owner to remove it")
            with self._staging(base) as staging:
                path.rename(staging / "removed")  # of a link, only the link
        except OSError as error:
            raise Failure(explain(error, path)) from None

    @staticmethod
    @contextlib.contextmanager
    def _staging(base: Path) -> Any:
        """Create a directory that Jupyter does not search, on the same file system, and remove it afterwards."""
        path = Path(tempfile.mkdtemp(prefix=".hpchub-", dir=base))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)  # never follows links


def write(path: Path, text: str) -> None:
    """Write a new file that only its owner can read.

    Raises:
        OSError: The file cannot be written. A network file system reports a full quota only when it is closed.
    """
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def explain(error: OSError, path: Path) -> str:
    """Return an error of a file system in words."""
    if error.errno in FULL:
        return f"{path} cannot be written, because your home directory is full; delete files that you do not need"
    if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
        return f"{path} exists; choose another name with --name, or replace the kernel with --force"
    return f"{path} cannot be written: {error.strerror}; check the permissions of {path.parent}"
