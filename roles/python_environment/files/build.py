"""Build a Python environment, and print "built", or "already built" if it is complete.

The program reads a JSON object from standard input:

- ``directory``: the directory of the environment.
- ``python``: the interpreter to build it with.
- ``lock``, ``uv_lock``: the requirements with hashes, of the environment and of uv.
- ``further_locks``: more requirements with hashes, as a list of texts.
- ``uv``: the path of uv. If empty, the locked version is downloaded.
- ``index``: options for pip and uv that select a package index.
- ``archive``: a base64-encoded tar archive with the source of a package. If empty, no package is installed from source.
- ``files``: objects with ``dest``, ``content`` and ``mode``. ``@PURELIB@`` in ``dest`` is the packages' directory.
- ``removed``: paths to remove, relative to the directory.
- ``stamp``: the name of the file that marks the environment as complete.

The program holds a lock, so that two runs of a playbook never build in the same directory. The kernel releases the lock
when the process ends, even if it is killed.
"""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

PURELIB = "import sysconfig; print(sysconfig.get_path('purelib'), end='')"
COMPLETE = "import os, sys, sysconfig; sys.exit(not os.path.isdir(sysconfig.get_path('purelib')))"


def run(*argv: str | Path) -> None:
    """Run a program and wait for it.

    Raises:
        SystemExit: The program failed. The message contains its output.
    """
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, argv))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")


def complete(directory: Path, stamp: str) -> bool:
    """Return whether an environment is complete, and the system's Python still has the version it was built for."""
    interpreter = directory / "bin" / "python"
    return (
        (directory / stamp).exists()
        and interpreter.exists()
        and subprocess.run([interpreter, "-I", "-c", COMPLETE], check=False).returncode == 0
    )


def remove(path: Path) -> None:
    """Remove a file or a directory, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def build(want: dict[str, Any]) -> None:
    """Build the environment from scratch."""
    directory = Path(want["directory"])
    bootstrap = directory.parents[1] / ".uv"  # exists only during an installation
    # Remove what an interrupted installation left behind.
    remove(directory)
    remove(bootstrap)
    uv = want["uv"] or str(bootstrap / "bin" / "uv")
    if not want["uv"]:
        run(want["python"], "-m", "venv", bootstrap)
        (bootstrap / "uv.lock").write_text(want["uv_lock"] + "\n")
        pip: list[str | Path] = [bootstrap / "bin" / "python", "-m", "pip", "install", "--quiet", "--require-hashes"]
        run(*pip, "--only-binary", ":all:", *want["index"], "-r", bootstrap / "uv.lock")

    interpreter = directory / "bin" / "python"
    run(uv, "venv", "--no-project", "--python", want["python"], directory)
    locks = [directory / "requirements.lock"]
    locks += [directory / f"requirements-{number}.lock" for number, _ in enumerate(want["further_locks"], 2)]
    for path, text in zip(locks, [want["lock"], *want["further_locks"]], strict=True):
        path.write_text(text + "\n")
    # Compile now, because users cannot write to this directory, and their servers would compile at every start.
    options: list[str | Path] = ["--quiet", "--python", interpreter, "--compile-bytecode"]
    # If two locks contain different versions of a package, uv fails.
    run(uv, "pip", "sync", *options, "--require-hashes", *want["index"], *locks)
    if want["archive"]:
        source = directory / "src"
        with tarfile.open(fileobj=io.BytesIO(base64.b64decode(want["archive"]))) as archive:
            archive.extractall(source)  # noqa: S202, the role has packed this archive itself
        run(uv, "pip", "install", *options, "--no-index", "--no-deps", "--no-build-isolation", source)

    for name in want["removed"]:
        remove(directory / name)
    purelib = subprocess.run([interpreter, "-I", "-c", PURELIB], capture_output=True, text=True, check=True).stdout
    for file in want["files"]:
        path = directory / file["dest"].replace("@PURELIB@", purelib)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file["content"].replace("@ENVIRONMENT@", str(directory)))
        path.chmod(int(file.get("mode", "0644"), 8))
    # Remove the package's source, and uv's lock file, which every user could write to.
    for name in ["src", ".lock"]:
        remove(directory / name)
    (directory / want["stamp"]).write_text(f"{directory.name}\n")
    remove(bootstrap)


def main() -> None:
    """Run the program."""
    # On many hardened systems, the umask of root is 077. Users must be able to read the environment.
    os.umask(0o022)
    want = json.load(sys.stdin)
    directory = Path(want["directory"])
    # Users must not be able to open the lock file, because they could then hold the lock.
    with os.fdopen(os.open(directory.parents[1] / ".building", os.O_WRONLY | os.O_CREAT, 0o600), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if complete(directory, want["stamp"]):
            print("already built")
        else:
            build(want)
            print("built")


if __name__ == "__main__":
    main()
