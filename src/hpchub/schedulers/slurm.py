"""Slurm. Source: the manual pages of sbatch, squeue, scancel, scontrol and sinfo of Slurm 22.05 and 24.11."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hpchub.schedulers.base import Job, JobState, QueueLimits, Scheduler, Unanswered, job_name
from hpchub.schedulers.options import ReservedOptions
from hpchub.units import parse_whole, seconds

if TYPE_CHECKING:
    from hpchub.schedulers.request import ClusterSettings, JobRequest

_PENDING = {
    "PENDING",
    "CONFIGURING",
    "EXPEDITING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "RESV_DEL_HOLD",
    "SPECIAL_EXIT",
}
# A suspended job keeps its processes and its port; it answers again when it is resumed.
_RUNNING = {"RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING"}
# A completing job has been told to end: whatever runs there no longer serves a notebook.
_ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "COMPLETING",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "STAGE_OUT",
    "TIMEOUT",
}
# REVOKED is in none of them: so a cluster of a federation calls its own copy of a job that waits, runs or has run on
# another (src/slurmctld/fed_mgr.c). It must not end what lives there, and it will never start. Where squeue shows the
# other copy too, under the same id, that is the job; else nothing is known of it until this copy is forgotten, as any
# job is some minutes after its end.
_TRACE = "REVOKED"
_MARK = re.compile(r"[0-9a-f]{16}")
_STATES = (
    dict.fromkeys(_PENDING, JobState.PENDING)
    | dict.fromkeys(_RUNNING, JobState.RUNNING)
    | dict.fromkeys(_ENDED, JobState.ENDED)
)

_REASONS = {
    "Priority": "other jobs come first",
    "Resources": "no node has enough free cores and memory right now",
    "None": "the scheduler has not looked at it yet",
    "Dependency": "it waits for another job",
    "BeginTime": "its start time has not come",
    "ReqNodeNotAvail": "the nodes it needs are not available, perhaps because of a maintenance",
    "Reservation": "its reservation has not begun",
    "PartitionDown": "the queue is down",
    "PartitionInactive": "the queue is closed",
    "PartitionTimeLimit": "it asks for more time than the queue gives",
    "PartitionNodeLimit": "it asks for more than the queue has",
    "AssocGrpCpuLimit": "your group uses all the cores it may",
    "QOSMaxJobsPerUserLimit": "you run as many jobs as you may",
    "QOSMaxCpuPerUserLimit": "you use all the cores you may",
    "AssocMaxJobsLimit": "you run as many jobs as you may",
    "JobHeldAdmin": "an administrator holds it",
    "JobHeldUser": "it is held",
    "Licenses": "it waits for a licence",
}


_RESERVED = ReservedOptions(
    long={
        "account": "account",
        "array": "",
        "bbf": "",
        "chdir": "",
        "clusters": "cluster",
        "comment": "",
        "constraint": "node_constraint",
        "container": "",
        "cores-per-socket": "cores",
        "cpus-per-gpu": "cores",
        "cpus-per-task": "cores",
        "error": "",
        "export": "",
        "export-file": "",
        "get-user-env": "",
        "gid": "",
        "gpus": "gpus",
        "gpus-per-node": "gpus",
        "gpus-per-socket": "gpus",
        "gpus-per-task": "gpus",
        "help": "",
        "hold": "",
        "input": "",
        "job-name": "",
        "mem": "memory",
        "mem-per-cpu": "memory",
        "mem-per-gpu": "memory",
        "mincpus": "cores",
        "no-requeue": "",
        "nodes": "cores",
        "nodefile": "",
        "ntasks": "cores",
        "ntasks-per-core": "cores",
        "ntasks-per-gpu": "cores",
        "ntasks-per-node": "cores",
        "ntasks-per-socket": "cores",
        "open-mode": "",
        "output": "",
        "parsable": "",
        "partition": "queue",
        "quiet": "",
        "requeue": "",
        "reservation": "reservation",
        "sockets-per-node": "cores",
        "test-only": "",
        "threads-per-core": "cores",
        "time": "runtime",
        "time-min": "runtime",
        "tres-per-task": "gpus",
        "uid": "",
        "usage": "",
        "use-min-nodes": "",
        "verbose": "",
        "version": "",
        "wait": "",
        "wrap": "",
    },
    short={
        "A": "account",
        "B": "cores",
        "C": "node_constraint",
        "D": "",
        "F": "",
        "G": "gpus",
        "H": "",
        "J": "",
        "M": "cluster",
        "N": "cores",
        "Q": "",
        "V": "",
        "W": "",
        "a": "",
        "c": "cores",
        "e": "",
        "h": "",
        "i": "",
        "n": "cores",
        "o": "",
        "p": "queue",
        "t": "runtime",
        "v": "",
    },
    values={"gres": (r"(?:.*,)?(?:gres[:/])?gpu\b.*", "gpus")},
)


class Slurm(Scheduler):
    """Slurm's words."""

    name = "slurm"
    submit_command = ("sbatch", "--parsable")
    cancel_command = ("scancel",)
    # A name may hold anything, line breaks too, and so may a comment. They come last, and a record begins with what the
    # gate makes up for each query: nobody's job can put words of its own between those of others.
    query_command = (
        "squeue",
        "--noheader",
        "--all",
        "--states=all",
        "--format={mark}|%i|%T|%r|%B|%S|%u|%j|%k",
    )
    find_command = (*query_command, "--jobs")
    # Whether jobs are hidden is the configuration's word, which everybody may read. What a queue gives is said in two
    # places: the partition has its limits, and sinfo the sizes of its nodes, one line for each size. Who sees hidden
    # jobs all the same is in the database, where there is one.
    limits_command = ("scontrol", "show", "config")
    limits_more = (
        ("scontrol", "--all", "--oneliner", "show", "partition"),
        ("sinfo", "--noheader", "--all", "--exact", "--noconvert", "--format=node|%R|%c|%m|%G"),
        (
            *("sacctmgr", "--readonly", "--noheader", "--parsable2", "show", "user"),
            *("where", "name={account}", "format=User,AdminLevel"),
        ),
    )
    job_id_pattern = r"[0-9]+"
    batchspawner_class = "SlurmSpawner"
    reserved_options = _RESERVED

    def directives(self, profile: JobRequest, cluster: ClusterSettings, *, session: str, comment: str) -> list[str]:
        """See Scheduler.directives. ``--export=NIL``: the job starts from nothing but what its script sets."""
        found = [
            f"--job-name={job_name(session)}",
            f"--comment={comment}",
            f"--partition={profile.queue}",
            "--nodes=1",
            "--ntasks=1",
            f"--cpus-per-task={profile.cores}",
            f"--mem={profile.memory}",
            f"--time={profile.runtime}",
            "--no-requeue",
            "--export=NIL",
            "--output=.hpchub/logs/%j.log",
        ]
        if profile.gpus:
            found.append(f"--gres=gpu:{profile.gpus}")
        if profile.account:
            found.append(f"--account={profile.account}")
        if profile.reservation:
            found.append(f"--reservation={profile.reservation}")
        if profile.node_constraint:
            found.append(f"--constraint={profile.node_constraint}")
        return found + list(profile.options)

    def parse_submit(self, stdout: str) -> str:
        """``--parsable`` prints ``ID`` or ``ID;CLUSTER`` in its last line."""
        last = (stdout.strip().splitlines() or [""])[-1]
        found = re.fullmatch(rf"({self.job_id_pattern})(;[\w-]+)?", last)
        if found is None:
            raise Unanswered(f"sbatch printed no job id but {stdout.strip()[:200]!r}")
        return found[1]

    def parse_query(self, stdout: str) -> dict[str, Job]:
        """One record a job; one with too few fields means that the answer was cut off."""
        if not stdout.strip():
            return {}
        mark = stdout.partition("|")[0]
        if not _MARK.fullmatch(mark) or not stdout.endswith("\n"):
            raise Unanswered(f"squeue printed something else than was asked for: {stdout[:200]!r}")
        jobs = {}
        for record in stdout.removeprefix(f"{mark}|").split(f"\n{mark}|"):
            fields = record.split("|", 7)
            if len(fields) != 8:
                raise Unanswered(f"squeue printed a record that is not complete: {record[:200]!r}")
            number, word, reason, host, start, user, name, comment = (field.strip() for field in fields)
            if word == _TRACE and number in jobs:
                continue
            jobs[number] = Job(
                id=number,
                state=_STATES.get(word, JobState.UNKNOWN),
                detail=word,
                reason="" if reason in ("", "None") else reason,
                host="" if host in ("", "n/a", "(null)") else host,
                start="" if start in ("", "N/A") else start,
                name=name,
                user=user,
                comment=comment,
            )
        return jobs

    def parse_find(self, job_id: str, code: int, stdout: str, stderr: str) -> Job | None:
        """An ended job is known for ``MinJobAge`` seconds; then squeue says in so many words that it knows none."""
        if code and "Invalid job id specified" in stderr:
            return None
        job = self.parse_query(stdout).get(job_id)
        if code or job is None:
            raise Unanswered(f"squeue says neither yes nor no (exit code {code}): {(stderr or stdout).strip()[:200]!r}")
        return job

    def parse_limits(self, stdout: str) -> list[QueueLimits]:
        """One partition a line, ``KEY=VALUE`` by ``KEY=VALUE``, and one for each size of its nodes."""
        sizes: dict[str, list[tuple[int, int, int]]] = {}
        for line in stdout.splitlines():
            if line.startswith("node|"):
                found = re.fullmatch(r"node\|([^|]+)\|([0-9]{1,9})\|([0-9]{1,18})\|([^|]*)", line.rstrip())
                if found is None:
                    raise Unanswered(f"sinfo printed a line that is not complete: {line[:200]!r}")
                if int(found[2]):  # a partition without nodes has a line of zeros
                    sizes.setdefault(found[1], []).append((int(found[2]), int(found[3]), _gpus(found[4])))
        config = dict(re.findall(r"^(\w+) *= (.*)$", stdout, flags=re.MULTILINE))
        lines = [line for line in stdout.splitlines() if line.startswith("PartitionName=")]
        partitions = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines]
        names = {partition["PartitionName"] for partition in partitions}
        # A line of sinfo's may stand in what is left of one of scontrol's, and be of a partition that is cut off.
        is_whole = stdout.endswith("\n") and all("MaxTime" in partition for partition in partitions)
        if not names or not is_whole or sizes.keys() - names or any("|" in line for line in lines):
            raise Unanswered("scontrol shows no partitions, or not all of them")
        if not sizes and any(partition.get("TotalNodes") != "0" for partition in partitions):
            raise Unanswered("sinfo shows no nodes")
        return [_limits(partition, config, sizes.get(partition["PartitionName"], [])) for partition in partitions]

    def parse_privacy(self, stdout: str) -> tuple[str, str] | None:
        """``PrivateData`` hides; who is an operator in Slurm's database sees it all the same."""
        found = re.search(r"^PrivateData *= (.*)$", stdout, flags=re.MULTILINE)
        hidden = [word for word in found[1].split(",") if word in ("jobs", "nodes", "partitions")] if found else []
        if not hidden or re.search(r"^[^|\n]+\|(Operator|Administrator)$", stdout, flags=re.MULTILINE):
            return None
        right = "sacctmgr modify user where name=hpchub set adminlevel=Operator"
        return (
            f"hides the {' and '.join(hidden)} of others from the hub's account (PrivateData={','.join(hidden)})",
            f"make it an operator ({right}), or take {' and '.join(hidden)} out of PrivateData in slurm.conf",
        )

    def explain(self, reason: str) -> str:
        """A reason may carry a list after a comma, as in ``ReqNodeNotAvail, UnavailableNodes:n1``."""
        return _REASONS.get(reason.split(",", maxsplit=1)[0].strip(), reason)


def _limits(partition: dict[str, str], config: dict[str, str], nodes: list[tuple[int, int, int]]) -> QueueLimits:
    """What a partition gives, of its own limits, the cluster's and its nodes' sizes the least."""
    cores = _number(partition.get("MaxCPUsPerNode"))
    # A partition's own limit of memory stands in place of the cluster's.
    own = "MaxMemPerNode" in partition and _number(partition["MaxMemPerNode"]) is None
    memory = config if own else partition
    most, each = _number(memory.get("MaxMemPerNode")), _number(memory.get("MaxMemPerCPU"))
    given = []
    for has_cores, has_memory, gpus in dict.fromkeys(nodes):
        node_cores = min(has_cores, cores or has_cores)
        limits = (has_memory, most or has_memory, node_cores * each if each else has_memory)
        given.append((node_cores, min(limits), gpus))
    return QueueLimits(
        name=partition["PartitionName"],
        cores=max((size[0] for size in given), default=None),
        memory=max((size[1] for size in given), default=None),
        runtime=_seconds(partition["MaxTime"]),
        gpus=max((size[2] for size in given), default=None),
        open=partition.get("State") == "UP"
        and partition.get("RootOnly") != "YES"
        and partition.get("TotalNodes") != "0",
        nodes=tuple(given),
    )


def _number(word: str | None) -> int | None:
    """Of ``UNLIMITED``, 0 and what is not said: None."""
    return parse_whole(word or "") or None


def _gpus(gres: str) -> int:
    """``gpu:a100:2(S:0-1),gpu:v100:2,nic:1`` are 4."""
    items = (item.split(":") for item in re.sub(r"\([^)]*\)", "", gres).split(","))
    counts = (parse_whole(words[-1]) for words in items if words[0] == "gpu")
    return sum(1 if count is None else count for count in counts)


def _seconds(time: str) -> int | None:
    """``1-12:00:00`` or ``12:00:00``; None for ``UNLIMITED``."""
    if not re.fullmatch(r"(?:[0-9]{1,9}-)?[0-9]{1,9}:[0-9]{2}:[0-9]{2}", time):
        if time in ("UNLIMITED", "INFINITE"):
            return None
        raise Unanswered(f"scontrol printed a MaxTime that is none: {time[:40]!r}")
    return seconds(time)
