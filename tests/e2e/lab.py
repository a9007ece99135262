"""The running lab: its state, and commands on its hosts.

The lab writes ``state.json`` and ``ssh_config`` to ``HPCHUB_LAB_DIR``. Tests read nothing else.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import json
import os
import shlex
import struct
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .batches import Batch, Job, batch_system

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")

NODES = ("compute1", "compute2")
LOGIN_FILE = "/etc/profile.d/zz-hpchub-test.sh"
"""A file that every job of a compute node reads. Tests create it and remove it."""
HUB_PROGRAM = "/opt/hpchub/hub/current/bin/hpchub"
DATABASE = "/var/lib/hpchub/jupyterhub.sqlite"
DEFAULT_DIRECTORY = Path.home() / ".cache" / "hpchub" / "lab" / "demo"


class LabError(RuntimeError):
    """The lab is not up, or a command on one of its hosts failed."""


@dataclass(frozen=True)
class User:
    """A test account; ``totp_secret`` is base32, or empty without a second factor."""

    name: str
    password: str
    totp_secret: str = ""


def totp(secret: str, at: float, *, step: int = 30, digits: int = 6) -> str:
    """Return the RFC 6238 code (HMAC-SHA1) of a base32 secret at a Unix time in seconds."""
    key = base64.b32decode(secret.upper() + "=" * (-len(secret) % 8))
    digest = hmac.new(key, struct.pack(">Q", int(at // step)), hashlib.sha1).digest()
    offset = digest[-1] & 0x0F
    number = struct.unpack(">I", digest[offset : offset + 4])[0] & 0x7FFFFFFF
    return str(number % 10**digits).zfill(digits)


def eventually(what: str, probe: Callable[[], T | None], *, timeout: float = 60, interval: float = 0.5) -> T:
    """Call ``probe`` every ``interval`` seconds until it returns a truthy value, and return that value.

    Raises:
        AssertionError: The timeout, in seconds, has passed. The message names ``what`` and the last value.
    """
    deadline = time.monotonic() + timeout
    while not (answer := probe()):
        if time.monotonic() > deadline:
            raise AssertionError(f"timed out after {timeout:.0f} s: {what} (last value: {answer!r})")
        time.sleep(interval)
    return answer


class Lab:
    """A running lab instance."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            self.state: dict[str, Any] = json.loads((directory / "state.json").read_text())
        except FileNotFoundError as error:
            raise LabError(f"no lab is running in {directory}; run bin/demo up, or set HPCHUB_LAB_DIR") from error

    @classmethod
    def from_environment(cls) -> Lab:
        """Return the instance in ``HPCHUB_LAB_DIR``, by default the demo."""
        return cls(Path(os.environ.get("HPCHUB_LAB_DIR") or DEFAULT_DIRECTORY))

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Lock the lab, because its test accounts can run only one test at a time.

        Raises:
            LabError: Another test run has locked the lab.
        """
        with (self.directory / "tests.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LabError(f"another test run uses the lab in {self.directory}; wait until it ends") from None
            yield

    @property
    def url(self) -> str:
        """The service's public URL, without a trailing slash."""
        return str(self.state["url"]).rstrip("/")

    @property
    def addresses(self) -> dict[str, str]:
        """The IP address of each host, by host name."""
        return {host["name"]: host["ip"] for host in self.state["hosts"]}

    def host(self, name: str) -> str:
        """Return the host with this role: the host of that name, or ``node`` in a single-node lab."""
        return name if name in self.addresses else "node"

    def user(self, name: str) -> User:
        """Return a test account by its name."""
        entry = next(user for user in self.state["users"] if user["name"] == name)
        return User(name, entry["password"], entry.get("totp_secret") or "")

    def run(self, host: str, argv: Sequence[str], *, check: bool = True, timeout: float = 120) -> str:
        """Run a command on a host as root and return its standard output.

        Raises:
            LabError: ``check`` is set and the command failed.
        """
        done = subprocess.run(
            ["ssh", "-F", str(self.directory / "ssh_config"), self.host(host), "--", shlex.join(argv)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise LabError(f"{host}: {shlex.join(argv)} exited with code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    @cached_property
    def batches(self) -> dict[str, Batch]:
        """The batch system of each cluster, by cluster name."""
        return {
            cluster["name"]: batch_system(cluster["name"], cluster["scheduler"], self._shell(cluster["submit"]))
            for cluster in self.profile_list()["clusters"]
        }

    def _shell(self, submit: dict[str, Any]) -> Callable[..., str]:
        return partial(self.run, submit.get("host") or "hub")

    def jobs(self, user: str = "") -> list[Job]:
        """Return the jobs that have not ended, of one user or of all users."""
        return [job for batch in self.batches.values() for job in batch.jobs() if user in ("", job.user)]

    def cancel_jobs(self, user: str) -> None:
        """Cancel all jobs of a user."""
        for batch in self.batches.values():
            for job in batch.jobs():
                if job.user == user:
                    batch.cancel(job)

    def profiles(self) -> list[dict[str, Any]]:
        """Return the profiles that the hub host offers to everybody, in their order."""
        profiles = self.profile_list()["profiles"]
        return [each for each in profiles if not any(each.get(name) for name in ("groups", "unix_groups", "users"))]

    def profile_list(self) -> dict[str, Any]:
        """Return the whole profile list of the hub host."""
        found: dict[str, Any] = json.loads(self.run("hub", ["cat", "/etc/hpchub/profiles.json"]))
        return found

    def hub_settings(self) -> dict[str, Any]:
        """Return the hub's settings."""
        found: dict[str, Any] = json.loads(self.run("hub", ["cat", "/etc/hpchub/hub.json"]))
        return found

    def worded(self, key: str, language: str, text: str) -> str:
        """Return the words of this site for a text of the service: those of its inventory, or else ``text``."""
        return str(self.hub_settings().get("texts", {}).get(key, {}).get(language, text))

    def database(self, statement: str) -> list[list[Any]]:
        """Run a statement on the hub's database with the hub's account, and return its rows."""
        program = (
            "import json, sys; from sqlalchemy import create_engine, text; "
            "connection = create_engine(sys.argv[1]).connect(); result = connection.execute(text(sys.argv[2])); "
            "rows = [list(row) for row in result] if result.returns_rows else []; connection.commit(); "
            "print(json.dumps(rows, default=str))"
        )
        argv = ["/opt/hpchub/hub/current/bin/python", "-I", "-c", program, self.hub_settings()["db_url"], statement]
        found: list[list[Any]] = json.loads(self.run("hub", ["runuser", "--user", "jupyterhub", "--", *argv]))
        return found

    def unknown_jobs(self) -> set[str]:
        """Return the ids of the jobs that carry the hub's name and that its database does not know."""
        return {job["job_id"] for job in json.loads(self.run("hub", [HUB_PROGRAM, "orphans", "--json"]))}

    def back_up_database(self) -> Callable[[], None]:
        """Copy the hub's database. Return a function that kills the hub and starts it again with the copy."""
        url = self.hub_settings()["db_url"].replace("postgresql+psycopg:", "postgresql:")
        as_hub = ["runuser", "--user", "jupyterhub", "--"]
        copy = f"{DATABASE}.backup"
        self.run("hub", ["rm", "-f", copy])
        if url.startswith("postgresql:"):
            back_up = ["pg_dump", f"--dbname={url}", f"--file={copy}", "--no-owner", "--clean", "--if-exists"]
            replace = [*as_hub, "psql", "--quiet", "--set=ON_ERROR_STOP=1", f"--dbname={url}", f"--file={copy}"]
        else:
            script = (
                "import os, sqlite3, sys; os.umask(0o077); source, target = map(sqlite3.connect, sys.argv[1:]);"
                " source.backup(target); target.close()"
            )
            back_up = ["python3", "-c", script, DATABASE, copy]
            replace = ["sh", "-c", f"rm -f {DATABASE} {DATABASE}-*; mv {copy} {DATABASE}"]
        self.run("hub", [*as_hub, *back_up])

        def restore() -> None:
            self.run("hub", ["systemctl", "kill", "--signal=KILL", "jupyterhub"])
            self.run("hub", ["systemctl", "stop", "jupyterhub"])
            self.run("hub", replace)
            self.run("hub", ["systemctl", "reset-failed", "jupyterhub"], check=False)
            self.run("hub", ["systemctl", "start", "jupyterhub"])
            request = ["curl", "--silent", "--unix-socket", "/run/hpchub-proxy/public/proxy.sock"]
            api = [*request, "http://localhost/hub/api/"]
            eventually("the hub answers", lambda: "version" in self.run("hub", api, check=False))

        return restore

    def hub_users(self) -> set[str]:
        """Return the account names in the hub's database."""
        return {name for (name,) in self.database("SELECT name FROM users")}
