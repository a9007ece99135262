"""The lab's batch systems: what root on a login node asks them, and the orders that root gives them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Job:
    """One job, in Slurm's words for its state."""

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
        run: Runs an argument vector as root on its login node and returns what it prints; ``check=False`` if it may
            fail.
    """

    query: tuple[str, ...]
    """Prints everybody's jobs that have not ended."""
    service = ""
    """The unit that answers questions."""

    def __init__(self, name: str, run: Callable[..., str]) -> None:
        self.name = name
        self.run = run

    def jobs(self, *, check: bool = True) -> list[Job]:
        """Everybody's jobs that have not ended; none if it does not answer and ``check`` is not set."""
        try:
            return self.parse(self.run(self.query))
        except (RuntimeError, ValueError):
            if check:
                raise
            return []

    @abstractmethod
    def parse(self, output: str) -> list[Job]:
        """Read what ``query`` prints."""

    @abstractmethod
    def cancel(self, job: Job) -> None:
        """End a job."""

    def stop(self) -> None:
        """It answers nobody; jobs run on."""
        self.run(["systemctl", "stop", self.service])

    def start(self) -> None:
        """It is back."""
        self.run(["systemctl", "start", self.service])

    @abstractmethod
    def add_queue(self, name: str) -> None:
        """A queue more, on all nodes; as it was before if it is there already."""

    @abstractmethod
    def drop_queue(self, name: str) -> bool:
        """Remove that queue, if no job holds on to it; whether there is none now."""


class Slurm(Batch):
    """Slurm; its queues are partitions."""

    query = ("squeue", "--noheader", "--format=%i|%u|%P|%T|%N|%j")
    service = "slurmctld"

    def parse(self, output: str) -> list[Job]:
        return [Job(*line.split("|", 5)) for line in output.splitlines()]

    def cancel(self, job: Job) -> None:
        self.run(["scancel", job.id])

    def add_queue(self, name: str) -> None:
        if self.drop_queue(name):  # of a run that was killed
            self.run(["scontrol", "create", f"PartitionName={name}", "Nodes=ALL", "MaxTime=60", "State=UP"])

    def drop_queue(self, name: str) -> bool:
        self.run(["scontrol", "delete", f"PartitionName={name}"], check=False)
        return not self.run(["sinfo", "--noheader", f"--partition={name}"])


class GridEngine(Batch):
    """Grid Engine; its administrator is an account of its own."""

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
    """HTCondor; a pool has no queues, a job names one by an attribute."""

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
            if ad["JobStatus"] not in (3, 4)  # removed and completed ones that have not left the queue
        ]

    def cancel(self, job: Job) -> None:
        self.run(["condor_rm", job.id])

    def add_queue(self, name: str) -> None:
        """Nothing to be done."""

    def drop_queue(self, name: str) -> bool:
        """Nothing to be done."""
        return True


class Emulated(Batch):
    """One of the emulator's flavours, whose name is the cluster's."""

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


_KINDS: dict[str, type[Batch]] = {"slurm": Slurm, "gridengine": GridEngine, "htcondor": HTCondor}


def batch_system(name: str, scheduler: str, run: Callable[..., str]) -> Batch:
    """A cluster's batch system; what has no kind of its own here is emulated in the lab."""
    return _KINDS.get(scheduler, Emulated)(name, run)
