"""What a cluster knows of its session: the definition, the time, the files, and the process that ends the jobs."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import distributed
from distributed.utils import get_ip

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).parent
SHORTEST = 60  # seconds; the shortest time that a job requests
OLD = 3600  # seconds after the end of a session
SECRET = ("JUPYTERHUB_", "JPY_", "HPCHUB_")  # the prefixes of variables that jobs and their commands do not get

WRAPPER = """\
#!/bin/bash
# A worker of a Dask cluster. The cluster in the session has written this file, and removes it at its end.
[ "$(date +%s)" -lt {ends} ] || exit 0
directory=$(mktemp -d "${{TMPDIR:-/tmp}}/hpchub-dask-XXXXXXXX") || exit 1
trap 'rm -rf "$directory"' EXIT
cd {where} 2>/dev/null || cd
export PYTHONPATH={own}${{PYTHONPATH:+:$PYTHONPATH}}
{prologue}
{command}
"""
"""What a job runs. Dask puts data that do not fit into memory into ``$directory``, which only the user can enter."""


class ClusterError(Exception):
    """The cluster cannot start here."""


class Keeper:
    """The process that cancels the jobs if this one cannot; see ``keeper.py``.

    Args:
        cancel: The command that cancels a job. Its id is the last argument.
        paths: Files and directories to remove at the end.
    """

    def __init__(self, cancel: Sequence[str], paths: Sequence[Path]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(HERE / "keeper.py"), json.dumps([list(cancel), [*map(str, paths)]])],
            stdin=subprocess.PIPE,
            env=without_secrets(),
            cwd="/",
            start_new_session=True,  # signals for the kernel are not for this process
        )

    def add(self, job_id: str) -> None:
        """Cancel this job at the end."""
        self._tell(f"+{job_id}\n")

    def remove(self, job_id: str) -> None:
        """Forget a job, because the cluster has cancelled it."""
        self._tell(f"-{job_id}\n")

    def _tell(self, line: str) -> None:
        assert self._process.stdin  # noqa: S101 it is a pipe
        with contextlib.suppress(OSError, ValueError):  # it has ended, or is ending
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()

    def end(self) -> None:
        """Let it remove the files and end."""
        assert self._process.stdin  # noqa: S101 it is a pipe
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)


class Plan:
    """What the jobs of one cluster have in common: the definition, the files, and the end of the session.

    Args:
        definition: The application's definition; see ``hpchub.clusters.dask_jobs``.
        submit: The command that submits a job.
        cancel: The command that cancels a job.
        prologue: Shell commands before the worker.

    Raises:
        ClusterError: The node cannot submit jobs.
    """

    def __init__(self, definition: dict[str, Any], *, submit: str, cancel: str, prologue: Sequence[str]) -> None:
        self.definition = definition
        session_seconds = definition["jobs"]["session_seconds"]
        # The launcher has written the file at the start of the session.
        self.ends = Path(os.environ["HPCHUB_FILE_APPS"]).stat().st_mtime + session_seconds
        self.prologue = prologue
        check_program(submit)
        name = secrets.token_hex(3)
        sockets = Path(os.environ["HPCHUB_APPS"], definition["name"])
        sockets.mkdir(mode=0o700, exist_ok=True)
        self.socket = sockets / name
        self.path = f"{os.environ.get('JUPYTERHUB_SERVICE_PREFIX', '/')}{definition['name']}/{name}"
        parent = Path.home() / ".hpchub" / "dask"
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_old(parent)
        self.directory = Path(tempfile.mkdtemp(prefix=f"{int(self.ends)}-", dir=parent))
        # The worker's Python may be one without this package.
        shutil.copyfile(HERE / "worker.py", self.directory / "hpchub_dask_worker.py")
        self.keeper = Keeper(shlex.split(cancel), [self.socket, self.directory])

    def security(self) -> distributed.Security:
        """Return a new certificate for this cluster, in files that only the user can read."""
        made = distributed.Security.temporary()
        paths = {}
        for name, content in (("certificate", made.tls_scheduler_cert), ("key", made.tls_scheduler_key)):
            paths[name] = str(self.directory / f"{name}.pem")
            write_private(Path(paths[name]), content)
        both = {f"tls_{role}_cert": paths["certificate"] for role in ("client", "scheduler", "worker")}
        both |= {f"tls_{role}_key": paths["key"] for role in ("client", "scheduler", "worker")}
        return distributed.Security(require_encryption=True, tls_ca_file=paths["certificate"], **both)

    def script(self, name: str) -> str:
        """Return the batch script of a job. It never requests more time than the session has left."""
        left = max(SHORTEST, min(self.definition["jobs"]["seconds"], int(self.ends - time.time())))
        minutes = -(-left // 60)
        found: str = self.definition["jobs"]["script"]
        for mark, text in (
            ("@HPCHUB_COMMAND@", str(self.command(name))),
            ("@HPCHUB_SECONDS@", str(left)),
            ("@HPCHUB_CLOCK@", f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"),
            ("@HPCHUB_MINUTES@", f"{minutes // 60}:{minutes % 60:02}"),
        ):
            found = found.replace(mark, text)
        return found

    def command(self, name: str) -> Path:
        """Return the path of the program that a job runs."""
        return self.directory / f"{name}.sh"

    def write_command(self, name: str, command: str) -> None:
        """Write the program that a job runs."""
        home, user = os.environ.get("HOME", ""), os.environ.get("USER", "")
        own = {"home": home, "user": user, "environment": sys.prefix}
        lines = [
            f"export {each}={shlex.quote(value.format_map(Unchanged(own)))}"
            for each, value in self.definition["environment"].items()
        ]
        shell = " ".join(map(shlex.quote, self.definition["shell"]))
        text = WRAPPER.format(
            ends=int(self.ends),
            where=shlex.quote(str(Path.cwd())),
            own=shlex.quote(str(self.directory)),
            prologue="\n".join([*lines, *self.prologue]),
            command=f"{shell} {command}".strip(),
        )
        write_private(self.command(name), text, mode=0o700)


class Unchanged(dict[str, str]):
    """Values for placeholders. A placeholder without a value stays as it is."""

    def __missing__(self, key: str) -> str:
        return f"{{{key}}}"


def find_definition(name: str | None) -> dict[str, Any]:
    """Return the definition of an application of the kind ``dask``.

    Raises:
        ClusterError: There is none, or none of this name.
    """
    path = os.environ.get("HPCHUB_FILE_APPS", "")
    try:
        apps = json.loads(Path(path).read_text(encoding="utf-8"))["apps"] if path else []
    except OSError as error:
        raise ClusterError(f"The applications of this session cannot be read: {error}. Start a new session.") from None
    found: dict[str, dict[str, Any]] = {app["name"]: app for app in apps if app.get("kind") == "dask" and "jobs" in app}
    if not found or "HPCHUB_APPS" not in os.environ:
        raise ClusterError(
            "This session offers no Dask clusters. Use it in a notebook of a session on a cluster that offers Dask."
        )
    if name is None:
        return next(iter(found.values()))
    if name not in found:
        raise ClusterError(f"This session has no application {name!r} for Dask. It has {', '.join(found)}.")
    return found[name]


def check_program(command: str) -> None:
    """Check that the node has the program that submits jobs.

    Raises:
        ClusterError: It has not.
    """
    program = shlex.split(command)[0]
    if not shutil.which(program):
        raise ClusterError(
            f"The program {program} is not on {socket.gethostname()}, so a session cannot start jobs here. Contact the"
            " support of this service: its nodes must be able to submit jobs."
        )


def own_address() -> str:
    """Return the address of this node that it uses towards the hub. Other nodes can reach it too."""
    host = urlsplit(os.environ.get("JUPYTERHUB_API_URL", "")).hostname
    return str(get_ip(host) if host else get_ip())


def without_secrets() -> dict[str, str]:
    """Return the environment without the session's secrets. Schedulers may show the environment of jobs."""
    return {name: value for name, value in os.environ.items() if not name.startswith(SECRET)}


def write_private(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file that only the user can read."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, mode), "w", encoding="utf-8") as file:
        file.write(text)


def remove_old(parent: Path) -> None:
    """Remove what clusters have left behind whose node has failed. The names begin with the end of the session."""
    for path in parent.iterdir():
        ends = path.name.partition("-")[0]
        if ends.isdigit() and int(ends) + OLD < time.time():
            shutil.rmtree(path, ignore_errors=True)
