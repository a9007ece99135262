"""The lab's batch systems, queried and controlled as root on a login node."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar
from xml.etree import ElementTree as ET

from hpchub.schedulers import SCHEDULERS, JobState

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Job:
    """One job; ``state`` uses Slurm's names."""

    id: str
    user: str
    partition: str
    state: str
    node: str
    name: str


class Batch(ABC):
    """A batch system.

    Args:
        name: The cluster's name in the inventory.
        run: Runs an argument vector as root on the login node and returns its output. With ``check=False`` the command
            may fail.
    """

    query: tuple[str, ...]
    """The command that lists all users' jobs that have not ended."""
    service = ""
    """The systemd unit that answers queries."""

    def __init__(self, name: str, run: Callable[..., str]) -> None:
        self.name = name
        self.run = run

    def jobs(self, *, check: bool = True) -> list[Job]:
        """Return all users' jobs that have not ended. Without ``check``, return an empty list if the query fails."""
        try:
            return self.parse(self.run(self.query))
        except (RuntimeError, ValueError):
            if check:
                raise
            return []

    @abstractmethod
    def parse(self, output: str) -> list[Job]:
        """Parse the output of ``query``."""

    @abstractmethod
    def cancel(self, job: Job) -> None:
        """Cancel a job."""

    def stop(self) -> None:
        """Stop answering queries. Jobs keep running."""
        self.run(["systemctl", "stop", self.service])

    def start(self) -> None:
        """Answer queries again."""
        self.run(["systemctl", "start", self.service])

    def set_queue(self, name: str, *, is_open: bool) -> None:
        """Let a queue start jobs, or let its jobs wait.

        Raises:
            NotImplementedError: The batch system has no such queues.
        """
        raise NotImplementedError

    @abstractmethod
    def add_queue(self, name: str) -> None:
        """Add a queue on all nodes. Do nothing if the queue exists."""

    @abstractmethod
    def drop_queue(self, name: str) -> bool:
        """Remove a queue, unless a job uses it. Return whether the queue is gone."""


class Slurm(Batch):
    """Slurm. Its queues are called partitions."""

    query = ("squeue", "--noheader", "--format=%i|%u|%P|%T|%N|%j")
    service = "slurmctld"

    def parse(self, output: str) -> list[Job]:
        return [Job(*line.split("|", 5)) for line in output.splitlines()]

    def cancel(self, job: Job) -> None:
        self.run(["scancel", job.id])

    def set_queue(self, name: str, *, is_open: bool) -> None:
        self.run(["scontrol", "update", f"PartitionName={name}", f"State={'UP' if is_open else 'DOWN'}"])

    def add_queue(self, name: str) -> None:
        if self.drop_queue(name):  # left over by a test run that was killed
            self.run(["scontrol", "create", f"PartitionName={name}", "Nodes=ALL", "MaxTime=60", "State=UP"])

    def drop_queue(self, name: str) -> bool:
        self.run(["scontrol", "delete", f"PartitionName={name}"], check=False)
        return not self.run(["sinfo", "--noheader", f"--partition={name}"])


class GridEngine(Batch):
    """Grid Engine. It has a separate administrator account."""

    query = ("qstat", "-u", "*", "-xml")
    service = "gridengine-master"
    _states: ClassVar = {"r": "RUNNING", "t": "RUNNING", "qw": "PENDING"}

    def parse(self, output: str) -> list[Job]:
        jobs = []
        for element in ET.fromstring(output).iter("job_list"):
            number, owner, name, word, where = (
                element.findtext(tag) or "" for tag in ("JB_job_number", "JB_owner", "JB_name", "state", "queue_name")
            )
            queue, _, node = where.partition("@")
            jobs.append(Job(number, owner, queue, self._states.get(word, word), node, name))
        return jobs

    def cancel(self, job: Job) -> None:
        self._administer(f"qdel {job.id}")

    def set_queue(self, name: str, *, is_open: bool) -> None:
        self._administer(f"qmod {'-e' if is_open else '-d'} {name}")

    def add_queue(self, name: str) -> None:
        of_another = "qconf -sq $(qconf -sql | head -1)"
        self._administer(
            f"qconf -sql | grep -qx {name} || "
            f"(umask 022; f=$(mktemp); {of_another} | sed 's/^qname .*/qname {name}/' > $f; qconf -Aq $f; rm $f)"
        )

    def drop_queue(self, name: str) -> bool:
        self._administer(f"qconf -dq {name}", check=False)
        return name not in self.run(["qconf", "-sql"]).split()

    def _administer(self, command: str, *, check: bool = True) -> None:
        self.run(["runuser", "--user", "sgeadmin", "--", "sh", "-c", command], check=check)


class HTCondor(Batch):
    """HTCondor. A pool has no queues; each job names a queue in an attribute."""

    query = (
        "condor_q",
        "-allusers",
        "-json",
        "-attributes",
        "ClusterId,Owner,HpchubQueue,HpchubTag,JobStatus,RemoteHost",
    )
    service = "condor"
    _states: ClassVar = {1: "PENDING", 2: "RUNNING", 5: "HELD"}

    def parse(self, output: str) -> list[Job]:
        return [
            Job(
                str(ad["ClusterId"]),
                ad["Owner"],
                ad.get("HpchubQueue", ""),
                self._states.get(ad["JobStatus"], str(ad["JobStatus"])),
                ad.get("RemoteHost", "").rpartition("@")[2].split(".")[0],
                ad.get("HpchubTag", ""),
            )
            for ad in json.loads(output or "[]")
            if ad["JobStatus"] not in (3, 4)  # skip removed and completed jobs that are still in the queue
        ]

    def cancel(self, job: Job) -> None:
        self.run(["condor_rm", job.id])

    def add_queue(self, name: str) -> None:
        """Do nothing, because HTCondor has no queues."""

    def drop_queue(self, name: str) -> bool:
        """Do nothing, because HTCondor has no queues."""
        return True


class Units(Batch):
    """A host without a scheduler, which runs sessions as units of systemd."""

    query = ("hpchub-host", "query", "0" * 16)
    service = "hpchub-host.socket"

    def parse(self, output: str) -> list[Job]:
        found = SCHEDULERS["systemd"].parse_query(output).values()
        return [
            Job(each.id, each.user, "host", each.state.name, each.host, each.name)
            for each in found
            if each.state in (JobState.PENDING, JobState.RUNNING)
        ]

    def cancel(self, job: Job) -> None:
        self.run(["runuser", "--user", job.user, "--", "hpchub-host", "cancel", job.id])

    def add_queue(self, name: str) -> None:
        """Do nothing, because a host has no queues."""

    def drop_queue(self, name: str) -> bool:
        """Do nothing, because a host has no queues."""
        return True


class Emulated(Batch):
    """An emulated scheduler. Its name is the name of the cluster."""

    _states: ClassVar = {"R": "RUNNING", "Q": "PENDING", "H": "PENDING", "S": "SUSPENDED", "E": "COMPLETING"}

    def __init__(self, name: str, run: Callable[..., str]) -> None:
        super().__init__(name, run)
        self.query = ("lab-emulator", name, "status")

    def parse(self, output: str) -> list[Job]:
        return [
            Job(str(j["number"]), j["user"], j["queue"], self._states[j["state"]], "".join(j["hosts"][:1]), j["name"])
            for j in json.loads(output)["jobs"]
            if j["state"] in self._states
        ]

    def cancel(self, job: Job) -> None:
        self._order("delete", job.id)

    def stop(self) -> None:
        self._order("fault", "silent")

    def start(self) -> None:
        self._order("fault", "off")

    def add_queue(self, name: str) -> None:
        self._order("queue", name, "new")

    def drop_queue(self, name: str) -> bool:
        self._order("queue", name, "drop")
        return True

    def _order(self, *words: str) -> None:
        self.run(["lab-emulator", self.name, *words])


_KINDS: dict[str, type[Batch]] = {"slurm": Slurm, "gridengine": GridEngine, "htcondor": HTCondor, "systemd": Units}


def batch_system(name: str, scheduler: str, run: Callable[..., str]) -> Batch:
    """Return a cluster's batch system. The lab emulates every scheduler that has no class here."""
    return _KINDS.get(scheduler, Emulated)(name, run)
