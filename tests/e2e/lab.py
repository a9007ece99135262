"""What a test may know about the lab that it runs against, and how it reaches the hosts.

Everything comes from ``state.json`` and ``ssh_config`` in ``HPCHUB_LAB_DIR``, which the lab writes.
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
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")

DEFAULT_DIRECTORY = Path.home() / ".cache" / "hpchub" / "lab" / "demo"


class LabError(RuntimeError):
    """The lab is not up, or a command on one of its hosts failed."""


@dataclass(frozen=True)
class User:
    """One of the lab's people; ``totp_secret`` is base32, empty for those without a second factor."""

    name: str
    password: str
    totp_secret: str = ""


@dataclass(frozen=True)
class Job:
    """One job, in Slurm's words for its state."""

    id: str
    user: str
    partition: str
    state: str
    node: str
    name: str


def totp(secret: str, at: float, *, step: int = 30, digits: int = 6) -> str:
    """The RFC 6238 code (HMAC-SHA1) of a base32 secret at a Unix time in seconds."""
    key = base64.b32decode(secret.upper() + "=" * (-len(secret) % 8))
    digest = hmac.new(key, struct.pack(">Q", int(at // step)), hashlib.sha1).digest()
    offset = digest[-1] & 0x0F
    number = struct.unpack(">I", digest[offset : offset + 4])[0] & 0x7FFFFFFF
    return str(number % 10**digits).zfill(digits)


def eventually(what: str, probe: Callable[[], T], *, timeout: float = 60, interval: float = 0.5) -> T:
    """The first truthy answer of ``probe``, asked every ``interval`` seconds.

    Raises:
        AssertionError: none came within ``timeout`` seconds; it names ``what`` and the last answer.
    """
    deadline = time.monotonic() + timeout
    while not (answer := probe()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:.0f} s: {what} (last answer: {answer!r})")
        time.sleep(interval)
    return answer


def _squeue(output: str) -> list[Job]:
    return [Job(*line.split("|", 5)) for line in output.splitlines()]


def _qstat(output: str) -> list[Job]:
    jobs = []
    for element in ET.fromstring(output).iter("job_list"):
        number, owner, name, word, where = (
            element.findtext(tag) or "" for tag in ("JB_job_number", "JB_owner", "JB_name", "state", "queue_name")
        )
        queue, _, node = where.partition("@")
        state = {"r": "RUNNING", "t": "RUNNING", "qw": "PENDING"}.get(word, word)
        jobs.append(Job(number, owner, queue, state, node, name))
    return jobs


def _condor_q(output: str) -> list[Job]:
    states = {1: "PENDING", 2: "RUNNING", 5: "HELD"}
    return [
        Job(
            str(ad["ClusterId"]),
            ad["Owner"],
            ad.get("HpchubQueue", ""),
            states.get(ad["JobStatus"], str(ad["JobStatus"])),
            ad.get("RemoteHost", "").rpartition("@")[2].split(".")[0],
            ad.get("HpchubTag", ""),
        )
        for ad in json.loads(output or "[]")
    ]


_CONDOR = "ClusterId,Owner,HpchubQueue,HpchubTag,JobStatus,RemoteHost"


@dataclass(frozen=True)
class Batch:
    """A batch system, as root on its login node sees it.

    Attributes:
        service: the unit that answers questions.
        query: prints everybody's jobs that have not ended.
        parse: reads that.
        cancel: ends all jobs of the user who is its last argument.
    """

    service: str
    query: tuple[str, ...]
    parse: Callable[[str], list[Job]]
    cancel: tuple[str, ...]


_BATCH = {
    "gridengine": Batch(
        "gridengine-master",
        ("qstat", "-u", "*", "-xml"),
        _qstat,
        ("runuser", "--user", "sgeadmin", "--", "qdel", "-u"),
    ),
    "htcondor": Batch("condor", ("condor_q", "-allusers", "-json", "-attributes", _CONDOR), _condor_q, ("condor_rm",)),
}
_SLURM = Batch("slurmctld", ("squeue", "--noheader", "--format=%i|%u|%P|%T|%N|%j"), _squeue, ("scancel", "--user"))


class Lab:
    """A running lab instance: its facts, and commands on its hosts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            self.state: dict[str, Any] = json.loads((directory / "state.json").read_text())
        except FileNotFoundError as error:
            raise LabError(f"no lab in {directory}: start one with bin/demo up, or set HPCHUB_LAB_DIR") from error

    @classmethod
    def from_environment(cls) -> Lab:
        """The instance in ``HPCHUB_LAB_DIR``, by default the demo."""
        return cls(Path(os.environ.get("HPCHUB_LAB_DIR") or DEFAULT_DIRECTORY))

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other tests away from this lab: its people can each do one thing at a time.

        Raises:
            LabError: other tests are at work on it.
        """
        with (self.directory / "tests.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LabError(f"other tests are at work on the lab in {self.directory}") from None
            yield

    @property
    def url(self) -> str:
        """The service's public URL, without a slash at its end."""
        return str(self.state["url"]).rstrip("/")

    @property
    def addresses(self) -> dict[str, str]:
        """Host name to IP address."""
        return {host["name"]: host["ip"] for host in self.state["hosts"]}

    def host(self, name: str) -> str:
        """The host that plays this part: itself, or the one host that plays them all."""
        return name if name in self.addresses else "node"

    def user(self, name: str) -> User:
        """One of the lab's people by name."""
        entry = next(user for user in self.state["users"] if user["name"] == name)
        return User(name, entry["password"], entry.get("totp_secret") or "")

    def run(self, host: str, argv: Sequence[str], *, check: bool = True, timeout: float = 120) -> str:
        """The standard output of a command that root runs on a host.

        Raises:
            LabError: it exited with another code than 0, and ``check`` is set.
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
            raise LabError(f"{host}: {shlex.join(argv)} exited {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    @property
    def batches(self) -> dict[str, Batch]:
        """The batch system of each login node."""
        topology = self.state["topology"]
        if topology == "multi_cluster":
            return {"login1": _SLURM, "login2": _BATCH["gridengine"]}
        return {"login1": _BATCH.get(topology, _SLURM)}

    def jobs(self, user: str = "") -> list[Job]:
        """The jobs that have not ended, one user's or everybody's."""
        emulated = [
            cluster["name"]
            for cluster in self.profile_list()["clusters"]
            if cluster["scheduler"] in ("pbs", "torque", "moab", "lsf")
        ]
        if emulated:
            jobs = [job for name in emulated for job in self._emulated_jobs(name)]
        else:
            jobs = [job for login, batch in self.batches.items() for job in batch.parse(self.run(login, batch.query))]
        return [job for job in jobs if user in ("", job.user)]

    def cancel_jobs(self, user: str) -> None:
        """End all jobs of a user."""
        for login, batch in self.batches.items():
            self.run(login, [*batch.cancel, user])

    def stop_scheduler(self, login: str = "login1") -> None:
        """The scheduler of a login node answers nobody; jobs run on."""
        self.run(login, ["systemctl", "stop", self.batches[login].service])

    def start_scheduler(self, login: str = "login1") -> None:
        """It is back."""
        self.run(login, ["systemctl", "start", self.batches[login].service])

    def _emulated_jobs(self, cluster: str) -> list[Job]:
        status = json.loads(self.run("login1", ["lab-emulator", cluster, "status"]))
        states = {"R": "RUNNING", "Q": "PENDING", "H": "PENDING", "S": "SUSPENDED", "E": "COMPLETING"}
        return [
            Job(str(j["number"]), j["user"], j["queue"], states[j["state"]], "".join(j["hosts"][:1]), j["name"])
            for j in status["jobs"]
            if j["state"] in states
        ]

    def profiles(self) -> list[dict[str, Any]]:
        """The profiles of the list on the hub host, in its order."""
        return list(self.profile_list()["profiles"])

    def profile_list(self) -> dict[str, Any]:
        """The whole profile list on the hub host."""
        found: dict[str, Any] = json.loads(self.run("hub", ["cat", "/etc/hpchub/profiles.json"]))
        return found

    def hub_users(self) -> set[str]:
        """The names of the accounts in the hub's database, read without touching it."""
        settings = json.loads(self.run("hub", ["cat", "/etc/hpchub/hub.json"]))
        database = settings["db_url"].removeprefix("sqlite:///")
        query = (
            "import sqlite3, sys; "
            "db = sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True); "
            "print(*(row[0] for row in db.execute('select name from users')), sep='\\n')"
        )
        return set(self.run("hub", ["python3", "-c", query, database]).split())
