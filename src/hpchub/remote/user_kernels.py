"""Find out why a kernel cannot start, from its files alone, and show the reason in the list of kernels.

No function here starts a program. All of them take files for unknown that do not answer or cannot be read for other
reasons than that they are missing: a kernel is never called broken because a file server is slow.

The role ``notebook_environment`` installs this file beside the launcher. The single-user server and the command
``hpchub-kernel`` use it. It uses the standard library only until the server starts (Python 3.9 and later).
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import shutil
import stat
import string
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LIMIT = 1_000_000
"""The largest file ``kernel.json``, in bytes."""
LIST_TIMEOUT = 10.0
"""How long a request for the list of kernels may wait for files, in seconds."""
START_TIMEOUT = 2.0
"""How long the start of a kernel may wait for the check of its files, in seconds."""
SHELLS = ("bash", "sh")
MODULE_VARIABLES = ("LMOD_CMD", "LMOD_DIR", "MODULEPATH", "MODULESHOME", "BASH_FUNC_module%%", "BASH_FUNC_module()")
MODULE_FILES = ("etc/profile.d/*mod*", "usr/share/lmod", "usr/share/modules", "usr/share/Modules", "opt/*lmod*")
ROOT = Path("/")
"""Where a module system leaves traces. A node with none of them has no module system."""
NO_IPYKERNEL = "ipykernel is not installed in"
HARMLESS = {"distutils-precedence.pth", "_virtualenv.pth", "a1_coverage.pth"}
"""Files in an environment that add no directories to its packages."""
MESSAGES = {
    errno.ENOENT: "does not exist",
    errno.ENOTDIR: "does not exist",
    errno.ELOOP: "links to itself",
    errno.EACCES: "cannot be read: permission denied",
}
"""The errors that mean that a file is unusable. After all others, it may be usable."""


class SpecError(Exception):
    """A file ``kernel.json`` is not valid. The text is the reason."""


def printable(value: object, limit: int = 200) -> str:
    """Return a value as one line without control characters."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(value)[: 4 * limit])
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def read_spec(directory: Path) -> dict[str, Any]:
    """Return the content of the file ``kernel.json`` in a kernel's directory.

    Raises:
        SpecError: The file is not valid, or it is certain that it cannot be read.
        OSError: The file may be readable at another time.
    """
    try:
        descriptor = os.open(directory / "kernel.json", os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in MESSAGES:
            raise SpecError(f"kernel.json {MESSAGES[error.errno]}") from None
        raise
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise SpecError("kernel.json is not a file")
        content = file.read(LIMIT + 1)
    if len(content) > LIMIT:
        raise SpecError(f"kernel.json is larger than {LIMIT} bytes")
    try:
        spec = json.loads(content)
    except (ValueError, RecursionError):
        raise SpecError("kernel.json is not JSON") from None
    return checked_spec(spec)


def checked_spec(spec: Any) -> dict[str, Any]:
    """Return the content of a ``kernel.json`` if its parts have the right types.

    Raises:
        SpecError: They have not.
    """
    if not isinstance(spec, dict):
        raise SpecError("kernel.json is not an object")
    argv = spec.get("argv")
    if not isinstance(argv, list) or not argv or not all(isinstance(word, str) and "\0" not in word for word in argv):
        raise SpecError("argv in kernel.json is not a list of texts")
    for name, kind in (("display_name", str), ("language", str), ("env", dict), ("metadata", dict)):
        if not isinstance(spec.get(name, kind()), kind):
            raise SpecError(f"{name} in kernel.json is not {'a text' if kind is str else 'an object'}")
    if not all(isinstance(value, str) for value in spec.get("env", {}).values()):
        raise SpecError("env in kernel.json contains a value that is not a text")
    return spec


def problem(directory: Path, spec: Mapping[str, Any], prefix: str = sys.prefix) -> str:
    """Return why a kernel cannot start on this host, in words, or empty if no reason is found.

    Args:
        directory: The kernel's directory.
        spec: The content of its ``kernel.json``.
        prefix: The environment of the notebook server.
    """
    if "kernel_provisioner" in spec.get("metadata", {}):
        return ""  # another program starts the kernel, perhaps on another host
    own = spec.get("metadata", {}).get("hpchub")
    if isinstance(own, dict) and own.get("modules") and not has_modules():
        return f"{os.uname().nodename} has no environment modules"
    if isinstance(own, dict) and "needs" in own:
        return problem_of_needs(own["needs"], search_path(spec.get("env", {})))
    places = {"resource_dir": str(directory), "prefix": prefix}
    argv = [re.sub(r"\{([a-z_]+)\}", lambda found: places.get(found[1], found[0]), word) for word in spec["argv"]]
    reason = _problem_of_command(argv, directory, search_path(spec.get("env", {})))
    if reason or not isinstance(own, dict) or "ipykernel_launcher" not in argv:
        return reason
    return problem_of_environment(own)


def problem_of_needs(needs: Any, path: str) -> str:
    """Return which need of a kernel of the site this host does not have, or empty.

    Args:
        needs: Pairs of a kind and a value; see ``hpchub.model.node_needs``. Those that have another form are ignored.
        path: Where to search for the names of programs.
    """
    for need in needs if isinstance(needs, list) else []:
        kind, value = need if isinstance(need, list) and len(need) == 2 else ("", [])
        name = value[0] if isinstance(value, list) and value and isinstance(value[0], str) else ""
        if kind == "modules" and not has_modules():
            return f"{os.uname().nodename} has no environment modules"
        if name and kind == "program":
            reason = problem_of_program(name, path)
        else:
            reason = problem_of_file(name) if name and kind in ("file", "directory") else ""
        is_directory = kind != "program" and reason.endswith(" is not a file")  # an image may be one
        if reason and not is_directory:
            return reason
    return ""


def problem_of_environment(own: Mapping[str, Any]) -> str:
    """Return why an environment cannot run a kernel, or empty. The environment may also find ipykernel elsewhere.

    Args:
        own: What ``hpchub-kernel add`` wrote about the kernel.
    """
    root = Path(str(own.get("environment")))
    if own.get("kind") not in ("venv", "conda") or own.get("modules") or not root.is_absolute():
        return ""
    try:
        if re.search(r"(?im)^include-system-site-packages\s*=\s*true", _read_head(root / "pyvenv.cfg")):
            return ""
        places = [*root.glob("lib*/python*/site-packages")]
        names = {name for place in places for name in os.listdir(place)}  # noqa: PTH208 only the names
    except OSError:
        return ""
    others = {name for name in names if name.endswith(".pth")} - HARMLESS
    if not places or others or "ipykernel_launcher.py" in names:
        return ""
    return f"{NO_IPYKERNEL} {printable(root)}"


def _read_head(path: Path) -> str:
    """Return the begin of a text file, or empty if there is no such file."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(LIMIT)
    except FileNotFoundError:
        return ""


def search_path(env: Mapping[str, str]) -> str:
    """Return the PATH of a kernel with these variables."""
    own = os.environ.get("PATH", os.defpath)
    return string.Template(env["PATH"]).safe_substitute(os.environ) if "PATH" in env else own


def _problem_of_command(argv: Sequence[str], directory: Path, path: str) -> str:
    words = list(argv)
    if re.fullmatch(r"python(3(\.[0-9]+)?)?", words[0]):
        return ""  # Jupyter takes the notebook server's Python
    if Path(words[0]).name == "env":
        reason = problem_of_program(words[0], path)
        words = _without_env(words[1:])
        if reason or not words:
            return reason
    # hpchub-kernel starts programs with shells that run scripts in the kernel's directory.
    while Path(words[0]).name in SHELLS:
        reason = problem_of_program(words[0], path)
        words = words[2:] if words[1:2] == ["-l"] else words[1:]
        if reason or not words or not words[0].startswith("/"):
            return reason
        reason = problem_of_file(words[0])
        is_ours = Path(words[0]).parent == directory
        words = words[1:]
        if reason or not is_ours or not words or "/" not in words[0]:  # the script decides where to search for a name
            return reason
    return problem_of_program(words[0], path)


def _without_env(words: list[str]) -> list[str]:
    """Return the command of env(1) without its options and variables. It is empty for unknown options."""
    while words:
        if words[0] in ("-u", "--unset"):
            words = words[2:]
        elif words[0].startswith("--unset=") or re.match(r"[A-Za-z_]\w*=", words[0]):
            words = words[1:]
        else:
            break
    return [] if words and words[0].startswith("-") else words


def problem_of_program(program: str, path: str) -> str:
    """Return why a program cannot be started, or empty.

    Args:
        program: Its path, or its name.
        path: Where to search for a name.
    """
    if "/" not in program:
        # A directory that does not answer may have it.
        found = shutil.which(program, path=path)
        return "" if found else f"the program {printable(program)} is not in the PATH of this session"
    reason = problem_of_file(program)
    if reason:
        return reason
    try:
        executable = os.access(program, os.X_OK)
    except OSError:
        return ""
    return "" if executable else f"{printable(program)} is not executable"


def problem_of_file(path: str) -> str:
    """Return why a file cannot be used on this host, or empty."""
    shown, node = printable(path), os.uname().nodename
    try:
        status = Path(path).stat()
    except OSError as error:
        if error.errno not in MESSAGES:
            return ""
        if error.errno == errno.ENOENT:
            target = dangling(Path(path))
            if target:
                return f"{shown} links to {printable(target)}, which does not exist on {node}"
        return f"{shown} {MESSAGES[error.errno]}" + (f" on {node}" if error.errno == errno.ENOENT else "")
    except ValueError:
        return f"{shown} is not a path"
    return "" if stat.S_ISREG(status.st_mode) else f"{shown} is not a file"


def dangling(path: Path) -> str:
    """Return the last target of a chain of links that ends nowhere, or empty if the path is no link."""
    last = path
    for _ in range(40):
        try:
            last = last.parent / last.readlink()
        except OSError:
            break
    return "" if last == path else str(last)


def has_modules() -> bool:
    """Return whether this host may have environment modules."""
    if any(os.environ.get(name) for name in MODULE_VARIABLES):
        return True
    return any(any(ROOT.glob(pattern)) for pattern in MODULE_FILES)


def within(seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a function that may wait for a file server, or None if it takes longer or fails."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(function(*arguments))
        except OSError:
            results.append(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else None


# -- the server's list of kernels


class BrokenKernel(KeyError):
    """The start of a kernel that cannot start. JupyterLab shows the text.

    It is a ``KeyError`` because Jupyter then answers 404 to requests for the kernel's files.
    """

    def __str__(self) -> str:
        return str(self.args[0])


def state(name: str, directory: Path, seconds: float = START_TIMEOUT) -> tuple[dict[str, Any], str]:
    """Return the content of a kernel as it is shown, and why it cannot start.

    Args:
        name: The kernel's name.
        directory: The kernel's directory.
        seconds: How long to wait for the files that a kernel of the inventory needs.

    Returns:
        A valid ``kernel.json``, and the reason, which is empty if none is found. Both are empty for kernels of others,
        except for those of the inventory.

    Raises:
        OSError: The files may be readable at another time.
    """
    if directory.stat().st_uid != os.getuid():
        return site_state(directory, seconds)
    try:
        spec = read_spec(directory)
        reason = problem(directory, spec)
    except SpecError as error:
        spec, reason = {"argv": []}, str(error)
    return {"display_name": name, "language": "", **spec}, reason


def site_state(directory: Path, seconds: float) -> tuple[dict[str, Any], str]:
    """Return the content of a kernel of the inventory, and why it cannot start. Both are empty for other kernels."""
    try:
        spec = read_spec(directory)
    except SpecError:
        return {}, ""
    if not is_of_site(spec):
        return {}, ""
    return spec, str(within(seconds, problem, directory, spec) or "")


def is_of_site(spec: Mapping[str, Any]) -> bool:
    """Return whether a kernel comes from the inventory."""
    own = spec.get("metadata", {}).get("hpchub")
    return isinstance(own, dict) and "needs" in own


class Reasons:
    """A mixin for Jupyter's ``KernelSpecManager``. It keeps broken kernels in the list, with the reason."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._listing: asyncio.Future[dict[str, Any]] | None = None
        self._last: dict[str, Any] = {}

    def get_kernel_spec(self, kernel_name: str) -> Any:
        """Return a kernel's spec.

        Raises:
            BrokenKernel: The kernel cannot start.
        """
        directory = self.find_kernel_specs().get(kernel_name.lower())  # type: ignore[attr-defined]
        found = within(START_TIMEOUT, state, kernel_name, Path(directory)) if directory else None
        if found and found[1]:
            shown, reason = found
            # The dialog does not wrap lines, so the reason is early.
            advice = f"More: hpchub-kernel check {kernel_name.lower()}"
            if is_of_site(shown):
                advice = "Please tell your support"
            raise BrokenKernel(f"{printable(shown['display_name'], 60)} does not work: {reason}. {advice}")
        return super().get_kernel_spec(kernel_name)  # type: ignore[misc]

    async def get_all_specs(self) -> dict[str, Any]:
        """Return all kernels. The server does not wait for slow file systems.

        Raises:
            TimeoutError: The directories with the kernels have never answered.
        """
        if self._listing is None or self._listing.done():
            self._listing = asyncio.ensure_future(asyncio.to_thread(self._all_specs))
        done, _ = await asyncio.wait({self._listing}, timeout=LIST_TIMEOUT)
        if done:
            self._last = self._listing.result()
        elif not self._last:
            raise TimeoutError("the directories with the kernels do not answer")
        return self._last

    def _all_specs(self) -> dict[str, Any]:
        found = {}
        end = time.monotonic() + 2 * START_TIMEOUT  # all kernels of the inventory may need the same file server
        for name, directory in self.find_kernel_specs().items():  # type: ignore[attr-defined]
            try:
                shown, reason = state(name, Path(directory), max(0.05, min(START_TIMEOUT, end - time.monotonic())))
                spec = broken(shown, reason) if reason else super().get_kernel_spec(name).to_dict()  # type: ignore[misc]
            except Exception as error:  # noqa: BLE001 one kernel must not hide the others
                self.log.warning("Kernel %s cannot be read: %s", name, error)  # type: ignore[attr-defined]
            else:
                found[name] = {"resource_dir": directory, "spec": spec}
        return found


def broken(shown: dict[str, Any], reason: str) -> dict[str, Any]:
    """Return the spec that JupyterLab gets of a kernel that cannot start."""
    return {
        "argv": shown["argv"],
        "env": {},
        "display_name": f"{printable(shown['display_name'], 60)} (does not work: {reason})",
        "language": shown["language"],
        "interrupt_mode": "signal",
        "metadata": {"hpchub": {"problem": reason}},
        "kernel_protocol_version": "",
    }


def spec_manager() -> type:
    """Return the server's class for the list of kernels."""
    from jupyter_client.kernelspec import KernelSpecManager  # noqa: PLC0415

    class UserKernelSpecManager(Reasons, KernelSpecManager):  # type: ignore[misc]
        """Jupyter's own manager, which names the reason if a user's kernel cannot start."""

    return UserKernelSpecManager
