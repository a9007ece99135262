"""Slurm.

Sources: the manual pages of sbatch, squeue, scancel, scontrol, sinfo and sacctmgr, of versions 22.05 and 24.11.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from hpchub.gpus import gpu_type
from hpchub.messages import Message, marked
from hpchub.names import SESSION
from hpchub.schedulers.base import Job, JobState, QueueLimits, QueueRules, Scheduler, Unanswered, job_name
from hpchub.schedulers.endings import OWNER, Cause, Ending, signal_name
from hpchub.schedulers.options import ReservedOptions
from hpchub.schedulers.parsing import (
    SHOWN,
    find_job_id,
    inconclusive,
    unexpected_output,
)
from hpchub.schedulers.reasons import (
    ASK_FOR_ACCOUNT,
    ASK_FOR_TIME,
    CHOOSE_ANOTHER,
    CHOOSE_SMALLER,
    DEPENDENCY,
    DEPENDENCY_NEVER,
    HOLD,
    HOLD_ADMIN,
    LAUNCH_FAILED,
    LICENCES,
    LIMIT_OF_JOBS,
    LIMIT_REACHED,
    MAINTENANCE,
    NO_ACCESS,
    NO_FREE_NODE,
    NODES_DOWN,
    NOT_CONSIDERED,
    PREPARING,
    PRIORITY,
    QUEUE_CLOSED,
    RESERVATION,
    START_TIME,
    TOO_LARGE,
    TOO_LONG,
    UNSATISFIABLE,
    Outlook,
    Reason,
)
from hpchub.schedulers.records import unreadable
from hpchub.schedulers.slurm_knowledge import SlurmKnowledge
from hpchub.units import parse_size, parse_whole, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
# A suspended job keeps its processes and its port. Its server answers again when the job is resumed.
_RUNNING = {"RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING"}
# A completing job has received the signal to end, so its notebook server no longer answers.
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
# A cluster of a federation uses this state for its own copy of a job that waits, runs or has run on another cluster
# (src/slurmctld/fed_mgr.c). The copy never starts, but it must not end the session on the other cluster. If squeue also
# lists the other copy, under the same id, that one is the job. Otherwise the state of the job is unknown until Slurm
# forgets the copy, some minutes after its end.
_REVOKED = "REVOKED"
_MARK = re.compile(r"^([0-9a-f]{16})\|", re.MULTILINE)
_HEADING = "JOBID"
_TAG = rf"hpchub/[^/\n]+/[^/\n]+/{SESSION}"
_STATES = (
    dict.fromkeys(_PENDING, JobState.PENDING)
    | dict.fromkeys(_RUNNING, JobState.RUNNING)
    | dict.fromkeys(_ENDED, JobState.ENDED)
)

_RESOURCES = {
    "CPU": marked("cores"),
    "Mem(?:ory)?": marked("memory"),
    "Node": marked("nodes"),
    "GRES": marked("GPUs"),
    "License": marked("licences"),
    "Energy": marked("energy"),
    "Billing": marked("computing budget"),
    "BB": marked("fast storage"),
    "Unknown": marked("resources"),
}
_TIME_USED_UP = Reason("your group has used up its computing time", Outlook.WAITS_FOR_PERSON, ASK_FOR_TIME)
_QOS_NOT_PERMITTED = Reason("you may not use the quality of service of your job", Outlook.NEVER, CHOOSE_ANOTHER)
_NODES_TAKEN = Reason("the nodes for your job are switched off, in maintenance, or reserved for others")


def _reasons() -> Iterator[tuple[str, Reason]]:
    """Yield the reasons of src/common/job_state_reason.c, and the texts that replace them."""
    never = Outlook.NEVER
    yield from (
        # Texts
        (r"requeued held$|^job requeued in|^JobLaunchFailure|^JobHoldMaxRequeue|^Unable to load job", LAUNCH_FAILED),
        (r"^burst.?buffer[ _/:]|^datawarp:|^Could not find burst buffer|^Invalid burst buffer", LAUNCH_FAILED),
        (r"not in group permitted to use|account not (?:known|permitted)", NO_ACCESS),
        (r"QOS not (?:known|permitted)", _QOS_NOT_PERMITTED),
        (r"^Nodes required for job are DOWN", _NODES_TAKEN),
        (r"^ReqNodeNotAvail, ?Reserved for maintenance", MAINTENANCE),
        (r"^ReqNodeNotAvail, ?May be reserved", RESERVATION),
        (r"Job is at or exceeds .* group (?:max TRES|wall)", _TIME_USED_UP),
        (r"Job is at or exceeds .* max TRES", TOO_LARGE),
        # Single reasons
        (r"^(?:None|WaitingForScheduling)\b", NOT_CONSIDERED),
        (r"^(?:Priority|SchedDefer)\b", PRIORITY),
        (r"^Resources\b", Reason("no node has enough free cores and memory at the moment")),
        (r"^(?:Prolog|Cleaning|BurstBufferStageIn|BurstBufferResources)\b", PREPARING),
        (r"^DependencyNeverSatisfied\b", DEPENDENCY_NEVER),
        (r"^Dependency\b", DEPENDENCY),
        (r"^BeginTime\b", START_TIME),
        (r"^ReqNodeNotAvail\b", replace(NODES_DOWN, outlook=Outlook.WAITS, advice="")),
        (r"^(?:NodeDown|FrontEndDown|BlockMaxError|BlockFreeAction)\b", NODES_DOWN),
        (r"^Constraints\b", NO_FREE_NODE),
        (
            r"^Reservation(?:Deleted|Invalid|.* (?:was deleted|is invalid|has ended)$)",
            Reason("the reservation of your job is over", never, CHOOSE_ANOTHER),
        ),
        (r"^Reservation\b", Reason("the reservation of your job has not begun")),
        (r"^PartitionDown\b", replace(QUEUE_CLOSED, words="the queue does not start jobs at the moment")),
        (r"^PartitionInactive\b", QUEUE_CLOSED),
        (r"^PartitionTimeLimit\b", TOO_LONG),
        (r"^PartitionNodeLimit\b", replace(NODES_DOWN, words="the queue has no usable node for your job")),
        (r"^PartitionConfig\b", Reason("the queue does not permit jobs like yours", never, CHOOSE_ANOTHER)),
        (r"^JobHeldAdmin\b", HOLD_ADMIN),
        (r"^JobHeldUser\b", HOLD),
        (r"^Licenses\b", LICENCES),
        (r"^JobArrayTaskLimit\b", LIMIT_OF_JOBS),
        (r"^BadConstraints\b", UNSATISFIABLE),
        (r"^InvalidAccount\b", Reason("your account does not exist, or is closed", never, ASK_FOR_ACCOUNT)),
        (r"^AccountNotAllowed\b", Reason("your account may not use the queue", never, ASK_FOR_ACCOUNT)),
        (r"^InvalidQOS\b", Reason("your quality of service does not exist", never, CHOOSE_ANOTHER)),
        (r"^QOSNotAllowed\b", _QOS_NOT_PERMITTED),
        (r"^MaxMemPerLimit\b", Reason("your job requests more memory than the queue permits", never, CHOOSE_SMALLER)),
        (r"^DeadLine\b", Reason("your job cannot end before its deadline", never, CHOOSE_ANOTHER)),
        (r"^BurstBufferOperation\b|^SystemFailure\b", LAUNCH_FAILED),
        (r"^(?:NonZeroExitCode|RaisedSignal|TimeLimit|InactiveLimit|OutOfMemory)\b", LAUNCH_FAILED),
        (r"^FedJobLock\b", Reason("the clusters are agreeing on which of them runs your job")),
        (r"^NvidiaImexChannels\b|^MpiPortsBusy\b", NO_FREE_NODE),
        (r"^MaxPoweredUpNodes\b|^Power", Reason("no more nodes may be switched on at the moment")),
        (r"^AccountingPolicy\b|^(?:Association|QOS)(?:Job|Resource)Limit\b", LIMIT_REACHED),
        (r"^(?:Association|QOS)TimeLimit\b|^QOSUsageThreshold\b", _TIME_USED_UP),
        (r"^(?:Assoc|QOS)MaxWallDurationPerJobLimit\b", TOO_LONG),
        (r"^(?:Assoc|QOS)GrpWallLimit\b", _TIME_USED_UP),
        (r"^(?:Assoc|QOS)GrpSubmitJobsLimit\b", Reason("your group already has as many jobs as it may have")),
        (r"^(?:Assoc|QOS)GrpJobsLimit\b", Reason("your group already has as many running jobs as it may have")),
        (r"^(?:Assoc|QOS)MaxSubmitJob|^MaxSubmitJobs", Reason("you already have as many jobs as you may have")),
        (r"^(?:Assoc|QOS)MaxJobs", Reason("you already have as many running jobs as you may have")),
        (r"^MaxJobsPerAccount", Reason("your group already has as many running jobs as it may have")),
    )
    # Limits of a resource
    for part, name in _RESOURCES.items():
        words = Message(name)
        yield (
            rf"^(?:Assoc|QOS)Grp{part}RunMin",
            Reason(Message("the running jobs of your group use {words} for long enough", words=words)),
        )
        yield (
            rf"^(?:Assoc|QOS)Grp{part}Min",
            replace(_TIME_USED_UP, words=Message("your group has used up its {words} time", words=words)),
        )
        yield (
            rf"^(?:Assoc|QOS)Grp{part}",
            Reason(Message("your group already uses all the {words} that it may use", words=words)),
        )
        too_much = Reason(
            Message("your job requests more {words} than one job may have", words=words), never, CHOOSE_SMALLER
        )
        yield rf"^(?:Assoc|QOS)Max{part}s?(?:Min(?:ute)?s)?Per(?:Job|Node)", too_much
        yield (
            rf"^QOSMin{part}",
            Reason(Message("your job requests less {words} than it must", words=words), never, CHOOSE_ANOTHER),
        )
        yield (
            rf"^(?:QOS)?Max{part}s?(?:RunMins)?PerUser",
            Reason(Message("you already use all the {words} that you may use", words=words)),
        )
        yield (
            rf"^Max{part}(?:RunMins)?PerAccount",
            Reason(Message("your group already uses all the {words} that it may use", words=words)),
        )
    # Limits of resources that newer versions or sites add
    yield r"^(?:Assoc|QOS)Grp|^(?:QOS)?Max\w+Per(?:User|Account)", LIMIT_REACHED


_CAUSES = {
    "BOOT_FAIL": Cause.NODE_LOST,
    "CANCELLED": Cause.CANCELLED,
    "COMPLETED": Cause.FINISHED,
    "DEADLINE": Cause.TIME_LIMIT,
    "FAILED": Cause.FAILED,
    "NODE_FAIL": Cause.NODE_LOST,
    "OUT_OF_MEMORY": Cause.OUT_OF_MEMORY,
    "PREEMPTED": Cause.PREEMPTED,
    "TIMEOUT": Cause.TIME_LIMIT,
}

_QOS_FIELDS = ("Name", "MaxTRES", "MaxTRESPerNode", "MaxWall", "MinTRES", "GrpTRES", "MaxTRESPU", "Flags")
_PRIVATE = {"jobs": "the jobs of other users", "nodes": "the nodes", "partitions": "the partitions"}
"""Values of ``PrivateData`` that matter to hpchub, each with what it hides."""

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
        "nodes": "nodes",
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
        "N": "nodes",
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


class Slurm(SlurmKnowledge, Scheduler):
    """Slurm."""

    name = "slurm"
    submit_command = ("sbatch", "--parsable")
    cancel_command = ("scancel",)
    # Names and comments can contain any text, including line breaks. They come last, and each record begins and ends
    # with the random mark of the query. Therefore no job can forge the record of another job, and lines that a site's
    # wrapper prints before and after the records belong to no job. The heading is a record too, so that an answer
    # without jobs is not empty.
    # The partition and the priority follow the expected start, because gates of earlier versions do not ask for them.
    query_command = ("squeue", "--all", "--states=all", "--format={mark}|%i|%T|%r|%B|%S;%P;%Q|%u|%j|%k|{mark}")
    find_command = (*query_command, "--jobs")
    # Every user may read the configuration, which shows whether jobs are hidden. The limits of a queue come from two
    # commands: scontrol shows the limits of the partition, and sinfo shows the sizes of its nodes, one line per size.
    # If there is an accounting database, it shows which users may see hidden jobs.
    limits_command = ("scontrol", "show", "config")
    limits_more = (
        ("scontrol", "--all", "--oneliner", "show", "partition"),
        ("sinfo", "--noheader", "--all", "--exact", "--noconvert", "--format=node|%R|%c|%m|%G"),
        (
            *("sacctmgr", "--readonly", "--noheader", "--parsable2", "show", "user"),
            *("where", "name={account}", "format=User,AdminLevel"),
        ),
        # The limits of a partition can be those of a quality of service.
        ("sacctmgr", "--readonly", "--noheader", "--parsable2", "show", "qos", f"format={','.join(_QOS_FIELDS)}"),
    )
    # scontrol knows a job for MinJobAge seconds after its end. sacct needs an accounting database, and shows who
    # cancelled the job.
    history_commands = (
        ("scontrol", "--oneliner", "show", "job"),
        (
            *("sacct", "--allusers", "--noheader", "--parsable2"),
            *("--format=JobIDRaw,State,ExitCode,UID,NodeList", "--jobs"),
        ),
    )
    usage_command = (
        *("env", "SLURM_TIME_FORMAT=%s", "sacct", "--allusers", "--allocations", "--noheader", "--parsable2"),
        *("--format=JobIDRaw,JobName,Start,End", "--jobs"),
    )
    job_id_pattern = r"[0-9]+"
    batchspawner_class = "SlurmSpawner"
    dask_class = "SLURMCluster"
    reserved_options = _RESERVED
    reasons = tuple(_reasons())
    # src/common/slurm_errno.c, and the reasons of jobs that Slurm accepts and then never starts.
    refusals = (
        (r"Invalid qos specification|\bInvalidQOS\b|\bQOSNotAllowed\b|QOS not permitted[^()]*", ("qos",)),
        (r"Invalid account or account/partition combination specified", ("account",)),
        (r"\bInvalidAccount\b|\bAccountNotAllowed\b|account not permitted[^()]*", ("account",)),
        (r"Requested reservation (?:is invalid|not usable now)", ("reservation",)),
        (r"Access denied to requested reservation|\bReservationDeleted\b", ("reservation",)),
        (r"Invalid partition name specified|group not permitted to use this partition", ("queue",)),
        (r"Requ\w+ partition (?:configuration )?not available[^()]*", ("queue",)),
        (r"Invalid feature specification", ("node_constraint",)),
        (r"Invalid generic resource \(gres\) specification", ("gpu_type", "gpus")),
        # No node has a GPU of this type. Slurm gives the same message for a job that is larger than each node.
        (r"Requested node configuration is not available", ("gpu_type", "node_constraint", "")),
        (r"Node count specification invalid", ("nodes",)),
        (r"Requested time limit is invalid", ("runtime",)),
        (r"Memory required by task is not available", ("memory",)),
    )

    def directives(self, profile: JobRequest, cluster: ClusterSettings, *, session: str, comment: str) -> list[str]:
        """Return the options of sbatch. ``--export=NIL`` starts the job with Slurm's variables only.

        Memory and GPUs are per node. A job with several nodes has as many tasks, so each node has one task, with all of
        its cores. With ``--ntasks-per-node``, each ``srun`` with more tasks would print a warning.
        """
        found = [
            f"--job-name={job_name(session)}",
            f"--comment={comment}",
            f"--partition={profile.queue}",
            f"--nodes={profile.nodes}",
            f"--ntasks={profile.nodes}",
            f"--cpus-per-task={profile.cores}",
            f"--mem={profile.memory}",
            f"--time={profile.runtime}",
            "--no-requeue",
            "--export=NIL",
            "--output=.hpchub/logs/%j.log",
        ]
        if profile.gpus:
            kind = gpu_type(profile.gpus)
            found.append(f"--gres=gpu:{kind}:{profile.gpus}" if kind else f"--gres=gpu:{profile.gpus}")
        if profile.account:
            found.append(f"--account={profile.account}")
        if profile.qos:
            found.append(f"--qos={profile.qos}")
        if profile.reservation:
            found.append(f"--reservation={profile.reservation}")
        if profile.node_constraint:
            found.append(f"--constraint={profile.node_constraint}")
        return found + list(profile.options)

    def nodes_problem(self, cluster: ClusterSettings, *, gpus: int, options: Sequence[str]) -> tuple[str, str] | None:
        """Permit several nodes."""
        return None

    def gpu_type_problem(self, gpu_type: str, cluster: ClusterSettings) -> tuple[str, str] | None:
        """Accept every type: a type is a part of --gres."""
        return None

    def parse_submit(self, stdout: str) -> str:
        """Return the job's id. ``--parsable`` prints a line ``ID`` or ``ID;CLUSTER``. A wrapper may omit the option."""
        line = rf"(?:Submitted batch job )?({self.job_id_pattern})(?:;[\w-]+| on cluster [\w-]+)?"
        return find_job_id(stdout, line, "sbatch")

    def parse_query(self, stdout: str) -> dict[str, Job]:
        """Return all jobs, one per record. An incomplete record at the end means that the output is truncated."""
        if not stdout.strip():
            return {}
        # A site's wrapper may print lines before the first record, and use a terminal, which changes line breaks.
        stdout = stdout.replace("\r\n", "\n")
        begin = _MARK.search(stdout)
        if begin is None or not stdout.endswith("\n"):
            raise unexpected_output("squeue", stdout)
        mark, end = begin[1], f"|{begin[1]}\n"
        records = stdout[begin.end() :].split(f"\n{mark}|")
        has_ends = f"{records[0]}\n".partition(end)[1] != ""
        jobs: dict[str, Job] = {}
        for i, record in enumerate(records, 1):
            text, found_end, _ = f"{record}\n".partition(end)
            fields = text.split("|", 7)
            is_whole = len(fields) == 8 and (found_end != "" or not has_ends)
            if not is_whole and i == len(records):
                raise Unanswered(f"squeue printed an incomplete record: {record[:SHOWN]!r}")
            if not is_whole:
                number = fields[0].strip()
                jobs[number] = unreadable(number, record)
                continue
            number, word, reason, host, place, user, name, comment = (field.strip() for field in fields)
            start, queue, priority = (*place.split(";"), "", "")[:3]
            if number == _HEADING or (word == _REVOKED and number in jobs):
                continue
            # Without an end mark, the lines of a wrapper may follow the last record.
            if not has_ends and i == len(records) and (ours := re.match(rf"{_TAG}(?=\n)", comment)):
                comment = ours[0]
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
                queue=queue,
                priority=float(priority) if re.fullmatch(r"[0-9]{1,12}", priority) else None,
            )
        return jobs

    def parse_find(self, job_id: str, code: int, stdout: str, stderr: str) -> Job | None:
        """Return a job, or None for the message that its id is invalid.

        Slurm knows a job until ``MinJobAge`` seconds after its end.
        """
        if code and "Invalid job id specified" in stderr:
            return None
        job = self.parse_query(stdout).get(job_id)
        if code or job is None:
            raise inconclusive("squeue", code, stdout, stderr)
        return job

    def parse_limits(self, stdout: str) -> list[QueueLimits]:
        """Return the partitions. scontrol prints one line per partition, sinfo one line per size of its nodes."""
        sizes: dict[str, list[_Size]] = {}
        for line in stdout.splitlines():
            if line.startswith("node|"):
                found = re.fullmatch(r"node\|([^|]+)\|([0-9]{1,9})\|([0-9]{1,18})\|([^|]*)", line.rstrip())
                if found is None:
                    raise Unanswered(f"sinfo printed an incomplete line: {line[:SHOWN]!r}")
                if int(found[2]):  # sinfo prints a line of zeros for a partition without nodes
                    size = _Size(int(found[2]), int(found[3]), *_gpus(found[4]))
                    sizes.setdefault(found[1], []).append(size)
        rows = [line.split("|") for line in stdout.splitlines()]
        qos = {row[0]: dict(zip(_QOS_FIELDS, row, strict=True)) for row in rows if len(row) == len(_QOS_FIELDS)}
        config = dict(re.findall(r"^(\w+) *= (.*)$", stdout, flags=re.MULTILINE))
        lines = [line for line in stdout.splitlines() if line.startswith("PartitionName=")]
        partitions = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines]
        names = {partition["PartitionName"] for partition in partitions}
        # If scontrol's output is truncated within a line, the rest of this line is sinfo's. If it is truncated between
        # two lines, sinfo shows partitions that scontrol does not show.
        is_whole = stdout.endswith("\n") and all("MaxTime" in partition for partition in partitions)
        if not names or not is_whole or sizes.keys() - names or any("|" in line for line in lines):
            raise Unanswered("scontrol printed no partitions, or not all of them")
        if not sizes and any(partition.get("TotalNodes") != "0" for partition in partitions):
            raise Unanswered("sinfo printed no nodes")
        limits: list[QueueLimits] = []
        for partition in partitions:
            nodes = sizes.get(partition["PartitionName"], [])
            own = qos.get(partition.get("QoS", ""), {}) | {"Flags": ""}  # the flags concern the job's own
            others = {name: _limits(partition, config, nodes, _merge(own, each)) for name, each in qos.items()}
            limits.append(replace(_limits(partition, config, nodes, own), with_qos=others))
        return limits

    def parse_privacy(self, stdout: str) -> tuple[str, str] | None:
        """Return what ``PrivateData`` hides. Operators and administrators in Slurm's database see everything."""
        found = re.search(r"^PrivateData *= (.*)$", stdout, flags=re.MULTILINE)
        hidden = [word for word in found[1].split(",") if word in _PRIVATE] if found else []
        if not hidden or re.search(r"^[^|\n]+\|(Operator|Administrator)$", stdout, flags=re.MULTILINE):
            return None
        right = "sacctmgr modify user where name=hpchub set adminlevel=Operator"
        what = " and ".join(_PRIVATE[word] for word in hidden)
        return (
            f"hides {what} from the hub's account (PrivateData={','.join(hidden)})",
            f"make the account an operator ({right}), or remove {' and '.join(hidden)} from PrivateData in slurm.conf",
        )

    def parse_usage(self, stdout: str) -> dict[str, tuple[str, float, float | None]]:
        """Return the jobs of sacct's lines. Times are numbers, or words such as ``Unknown``."""
        found = {}
        for line in stdout.splitlines():
            match line.split("|"):
                case [job_id, name, start, end] if start.isdigit():
                    found[job_id] = name, float(start), float(end) if end.isdigit() else None
        return found

    def understand(self, reason: str) -> Reason:
        """Explain a reason. It can be a text, and a site's program may print underscores instead of blanks."""
        text = reason.replace("_", " ")
        found = super().understand(text)
        return Reason(reason) if found.words == text else found

    def parse_history(self, job_id: str, stdout: str) -> Ending:
        """Return how a job ended, from the line of scontrol and the lines of sacct for the job and its steps."""
        found = re.search(rf"^JobId={job_id} .*$", stdout, re.MULTILINE)
        shown = dict(re.findall(r" (JobState|ExitCode|NodeList)=(\S*)", found[0])) if found else {}
        rows = [line.split("|") for line in stdout.splitlines() if line.startswith((f"{job_id}|", f"{job_id}."))]
        recorded = {row[0]: row for row in rows if len(row) == 5}
        word, code, node = (shown.get(name, "") for name in ("JobState", "ExitCode", "NodeList"))
        by = ""
        if job := recorded.get(job_id):
            end, _, canceller = job[1].partition(" by ")
            # The record in the database may be older than the answer of scontrol.
            word, code, node = (end, job[2], job[4]) if end in _CAUSES or not word else (word, code, node)
            by = {job[3]: OWNER, "0": "root"}.get(canceller, canceller and f"uid {canceller}")
        cause = _CAUSES.get(word)
        if cause is None:
            raise Unanswered(f"scontrol and sacct do not show the end of job {job_id}: {stdout[:SHOWN]!r}")
        if cause is Cause.FAILED:
            if any(row[1] == "OUT_OF_MEMORY" for row in recorded.values()):
                return Ending(Cause.OUT_OF_MEMORY, "OUT_OF_MEMORY")
            status, _, number = code.partition(":")
            if number not in ("", "0"):
                return Ending(Cause.KILLED, signal_name(int(number))) if number.isdigit() else Ending(cause, word)
            return Ending(cause, f"exit status {status}")
        lost = node if cause is Cause.NODE_LOST and node not in ("(null)", "None assigned") else ""
        return Ending(cause, word, by if cause is Cause.CANCELLED else "", lost)


class _Size(NamedTuple):
    """The size of a node: its cores, memory in MiB and GPUs, and the GPUs of each type."""

    cores: int
    memory: int
    gpus: int
    types: tuple[tuple[str, int], ...]


def _merge(partition: dict[str, str], job: dict[str, str]) -> dict[str, str]:
    """Return the limits of a job with a quality of service in a partition that has one too.

    A limit of the partition's applies, unless the job's has the flag OverPartQOS.
    """
    flags = job["Flags"].split(",")
    first, second = (job, partition) if "OverPartQOS" in flags else (partition, job)
    found = {name: first.get(name) or second.get(name, "") for name in job}
    return found | {"Flags": job["Flags"], "Name": job["Name"]}


def _limits(partition: dict[str, str], config: dict[str, str], nodes: list[_Size], qos: dict[str, str]) -> QueueLimits:
    """Return the lowest limits: those of the partition, its quality of service, the cluster and the nodes' sizes."""
    max_cores = _number(partition.get("MaxCPUsPerNode"))
    # The memory limit of a partition replaces the limit of the cluster.
    is_unlimited = "MaxMemPerNode" in partition and _number(partition["MaxMemPerNode"]) is None
    source = config if is_unlimited else partition
    per_node, per_core = _number(source.get("MaxMemPerNode")), _number(source.get("MaxMemPerCPU"))
    most = _lowest(*(_tres(qos.get(name, "")) for name in ("MaxTRES", "MaxTRESPerNode", "GrpTRES", "MaxTRESPU")))
    usable: list[_Size] = []
    for cores, memory, gpus, types in dict.fromkeys(nodes):
        usable_cores = min(cores, max_cores or cores, most.get("cpu", cores))
        limits = (memory, per_node or memory, usable_cores * per_core if per_core else memory, most.get("mem", memory))
        gpus = min(gpus, most.get("gres/gpu", gpus))  # noqa: PLW2901
        kinds = tuple((kind, min(number, gpus, most.get(f"gres/gpu:{kind}", gpus))) for kind, number in types)
        usable.append(_Size(usable_cores, min(limits), gpus, kinds))
    times = [_seconds(partition["MaxTime"]), _seconds(qos["MaxWall"]) if qos.get("MaxWall") else None]
    names = {"cpu": "cores", "mem": "memory", "gres/gpu": "gpus"}
    of_job = _lowest(*(_tres(qos.get(name, "")) for name in ("MaxTRES", "GrpTRES", "MaxTRESPU")))
    least = {name.partition(":")[0]: number for name, number in _tres(qos.get("MinTRES", "")).items()}
    kinds_of = [dict(size.types) for size in usable]
    gpu_types = {kind: max(each.get(kind, 0) for each in kinds_of) for one in kinds_of for kind in one}
    return QueueLimits(
        name=partition["PartitionName"],
        cores=max((size.cores for size in usable), default=None),
        memory=max((size.memory for size in usable), default=None),
        runtime=min((time for time in times if time is not None), default=None),
        gpus=max((size.gpus for size in usable), default=None),
        open=partition.get("State") == "UP"
        and partition.get("RootOnly") != "YES"
        and partition.get("TotalNodes") != "0",
        nodes=tuple(size[:3] for size in usable),
        rules=_rules(partition, most, qos),
        least={names[name]: number for name, number in sorted(least.items()) if name in names},
        gpu_types=gpu_types,
        node_gpus=tuple(kinds_of),
        of_job={names[name]: number for name, number in of_job.items() if name in names},
    )


def _rules(partition: dict[str, str], most: dict[str, int], qos: dict[str, str]) -> QueueRules:
    """Return which jobs a partition accepts."""
    state = partition.get("State", "")
    most_nodes = [parse_whole(partition.get("MaxNodes", "")), most.get("node")]
    reasons = {
        "it permits no nodes (MaxNodes=0)": partition.get("MaxNodes") == "0" or most.get("node") == 0,
        "only root may use it (RootOnly)": partition.get("RootOnly") == "YES",
        "it has no nodes": partition.get("TotalNodes") == "0",
    }
    return QueueRules(
        never=next((reason for reason, holds in reasons.items() if holds), ""),
        closed="" if state in ("UP", "") else f"its state is {state}",
        accounts=_names(partition.get("AllowAccounts", "ALL")),
        denied_accounts=_names(partition.get("DenyAccounts", "ALL")) or (),
        groups=_names(partition.get("AllowGroups", "ALL")),
        qos=_names(partition.get("AllowQos", "ALL")),
        denied_qos=_names(partition.get("DenyQos", "ALL")) or (),
        hosts=_names(partition.get("AllocNodes", "ALL")),
        min_nodes=max(1, parse_whole(partition.get("MinNodes", "")) or 1),
        max_nodes=min((number for number in most_nodes if number is not None), default=None),
        needs_reservation=partition.get("ReqResv") == "YES" or "RequiresReservation" in qos.get("Flags", ""),
    )


def _names(words: str) -> tuple[str, ...] | None:
    """Return the names of a list, or None for ``ALL``."""
    return None if words in ("ALL", "", "(null)", "NONE") else tuple(words.split(","))


def _tres(text: str) -> dict[str, int]:
    """Return the amounts of resources, memory in MiB: ``cpu=4,mem=16G,gres/gpu=1``."""
    found = {}
    for name, number, unit in re.findall(r"([\w/:.-]+)=([0-9]{1,12}(?:\.[0-9]{1,9})?)([KMGTP]?)(?=,|$)", text):
        size = parse_size(f"{number}{unit.lower() or 'm'}") if name == "mem" else int(float(number))
        found[name] = size or 0
    return found


def _lowest(*limits: dict[str, int]) -> dict[str, int]:
    """Return the lowest limit of each resource."""
    return {name: min(each[name] for each in limits if name in each) for limit in limits for name in limit}


def _number(word: str | None) -> int | None:
    """Return a limit, or None for ``UNLIMITED``, 0 and a missing value."""
    return parse_whole(word or "") or None


def _gpus(gres: str) -> tuple[int, tuple[tuple[str, int], ...]]:
    """Return the number of GPUs of a node, and of each type: 4 for ``gpu:a100:2(S:0-1),gpu:v100:2,nic:1``."""
    types: dict[str, int] = {}
    total = 0
    for words in (item.split(":") for item in re.sub(r"\([^)]*\)", "", gres).split(",")):
        if words[0] == "gpu":
            count = parse_whole(words[-1]) if len(words) > 1 else None
            number = 1 if count is None else count
            total += number
            if len(words) > 2 or (len(words) == 2 and count is None and not words[1].isdigit()):
                types[words[1]] = types.get(words[1], 0) + number
    return total, tuple(types.items())


def _seconds(time: str) -> int | None:
    """Return the seconds of ``1-12:00:00`` or ``12:00:00``, or None for ``UNLIMITED``."""
    if not re.fullmatch(r"(?:[0-9]{1,9}-)?[0-9]{1,9}:[0-9]{2}:[0-9]{2}", time):
        if time in ("UNLIMITED", "INFINITE"):
            return None
        raise Unanswered(f"scontrol printed an invalid MaxTime: {time[:40]!r}")
    return seconds(time)
