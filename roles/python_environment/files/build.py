"""Make a Python environment in its place, as the JSON object on standard input says; print "built", or "there already".

Keys: ``directory`` of the environment, ``python`` that it is made with, ``lock`` and ``uv_lock`` (requirements with
hashes), ``uv`` (a program; empty to fetch the locked one), ``index`` (options of pip and uv), ``archive`` (a tar
archive in base64 with the source of a package; empty for none), ``files`` (objects with ``dest``, ``content``,
``mode``), ``removed`` (paths below the directory), ``stamp`` (the file that says it is complete).

One at a time below ``envs``: two runs of a playbook must not build, or clear, the same directory. The kernel gives the
lock back when this process ends, however it ends.
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

COMPLETE = "import os, sys, sysconfig; sys.exit(not os.path.isdir(sysconfig.get_path('purelib')))"


def run(*argv: str | Path) -> None:
    """Run a program to its end; SystemExit with what it said when it fails."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, argv))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")


def complete(directory: Path, stamp: str) -> bool:
    """Tell whether an environment is whole, and its interpreter still the one that it was installed for."""
    interpreter = directory / "bin" / "python"
    return (
        (directory / stamp).exists()
        and interpreter.exists()
        and subprocess.run([interpreter, "-I", "-c", COMPLETE], check=False).returncode == 0
    )


def remove(path: Path) -> None:
    """Remove a file or a directory that may not be there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def build(want: dict[str, Any]) -> None:
    """Make the environment, from nothing."""
    directory = Path(want["directory"])
    bootstrap = directory.parents[1] / ".uv"  # for the time of an installation only
    # What an interrupted installation left.
    remove(directory)
    remove(bootstrap)
    uv = want["uv"] or str(bootstrap / "bin" / "uv")
    if not want["uv"]:
        run(want["python"], "-m", "venv", bootstrap)
        (bootstrap / "uv.lock").write_text(want["uv_lock"] + "\n")
        pip = [bootstrap / "bin" / "python", "-m", "pip", "install", "--quiet", "--require-hashes"]
        run(*pip, "--only-binary", ":all:", *want["index"], "-r", bootstrap / "uv.lock")

    interpreter = directory / "bin" / "python"
    run(uv, "venv", "--no-project", "--python", want["python"], directory)
    lock = directory / "requirements.lock"
    lock.write_text(want["lock"] + "\n")
    # Compiled now: a user's server would do it at every start, and could not keep it in a tree of somebody else's.
    options = ["--quiet", "--python", interpreter, "--compile-bytecode"]
    run(uv, "pip", "sync", *options, "--require-hashes", *want["index"], lock)
    if want["archive"]:
        source = directory / "src"
        with tarfile.open(fileobj=io.BytesIO(base64.b64decode(want["archive"]))) as archive:
            archive.extractall(source)  # noqa: S202, we have packed it ourselves
        run(uv, "pip", "install", *options, "--no-index", "--no-deps", "--no-build-isolation", source)

    for file in want["files"]:
        path = directory / file["dest"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file["content"].replace("@ENVIRONMENT@", str(directory)))
        path.chmod(int(file.get("mode", "0644"), 8))
    # The package's source, and uv's lock, which everybody may write.
    for name in ["src", ".lock", *want["removed"]]:
        remove(directory / name)
    (directory / want["stamp"]).write_text(f"{directory.name}\n")
    remove(bootstrap)


def main() -> None:
    """Entry point."""
    # Root's umask is 077 on many hardened systems; users have to read what is installed here.
    os.umask(0o022)
    want = json.load(sys.stdin)
    directory = Path(want["directory"])
    # Not for users to open: whoever can may hold the lock.
    with os.fdopen(os.open(directory.parents[1] / ".building", os.O_WRONLY | os.O_CREAT, 0o600), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if complete(directory, want["stamp"]):
            print("there already")
        else:
            build(want)
            print("built")


if __name__ == "__main__":
    main()
