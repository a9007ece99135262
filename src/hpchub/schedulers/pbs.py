"""OpenPBS and PBS Professional.

Sources: the reference guides of 2021.1 and 2022.1, and these files of openpbs/openpbs:

- src/cmds/qstat.c: the JSON output. The exit code is the last byte of the error number.
- src/include/pbs_error.h: error 15001, exit code 153, for an unknown job; 15139, exit code 35, for a finished job.
- src/server/stat_job.c: the users who may see a job.

The hub's account must see the jobs of all users. Either it is an operator, or the server has
``query_other_jobs = True``.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hpchub.gpus import gpu_type
from hpchub.schedulers.base import Job, JobState, QueueLimits, QueueRules, Scheduler, Unanswered, job_name
from hpchub.schedulers.endings import Cause, Ending, at_limit, ending_of_status
from hpchub.schedulers.options import LETTER, ReservedOptions
from hpchub.schedulers.parsing import (
    SHOWN,
    DuplicateKeys,
    find_job_id,
    incomplete_output,
    inconclusive,
    parse_time,
    read_json,
)
from hpchub.schedulers.pbs_knowledge import PBSKnowledge
from hpchub.schedulers.reasons import (
    ASK_FOR_TIME,
    CHOOSE_ANOTHER,
    DEPENDENCY,
    HOLD,
    HOLD_ADMIN,
    LAUNCH_FAILED,
    LICENCES,
    LIMIT_OF_JOBS,
    LIMIT_REACHED,
    MAINTENANCE,
    NO_FREE_NODE,
    NODES_DOWN,
    PRIORITY,
    QUEUE_CLOSED,
    REQUEUED,
    RESERVATION,
    SCHEDULER_FAILED,
    TIME_WINDOW,
    TOO_LARGE,
    UNSATISFIABLE,
    Outlook,
    Reason,
)
from hpchub.schedulers.records import Record, jobs_by_id, read_json_records, unreadable
from hpchub.units import format_clock, parse_clock, parse_size, parse_whole, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hpchub.schedulers.request import ClusterSettings, JobRequest

# PBS and Torque

TAG_VARIABLE = "HPCHUB_TAG"
"""The environment variable of a job that assigns it to a session, as ``--comment`` does for Slurm."""
QOS_VARIABLE = "HPCHUB_QOS"
"""The environment variable of a job with its quality of service, for the hooks of a site. PBS has no such concept."""

PENDING = dict.fromkeys("QHWT", JobState.PENDING)
RUNNING = dict.fromkeys("RSUB", JobState.RUNNING)
"""Suspended jobs (S, and U for a workstation in use) keep their processes. B is an array that has begun."""

JOB_ID = r"[0-9]+(?:\.[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)?"
"""The pattern of a job id, such as ``123.server``."""

RESERVATION_ID = r"[RSM][0-9]+(?:\.[A-Za-z0-9.-]+)?"
"""The pattern of the id of a reservation in PBS, such as ``R123.server``. S is a standing one, M a maintenance."""

COMMON_OPTIONS = ("-r n", "-j oe", "-o /dev/null", "-S /bin/bash")
"""Options of each job, for qsub and msub: no second start, no log of the scheduler, the same shell for all users."""


def qsub_size(memory: str) -> str:
    """Return a size in the notation of qsub: ``4G`` becomes ``4gb``. Both units are 1024 cubed bytes."""
    return f"{memory.lower()}b"


def read_job_id(job_id_pattern: str, stdout: str, program: str) -> str:
    """Return the job's id from the output of a submit command; see ``find_job_id``."""
    return find_job_id(stdout, rf"({job_id_pattern})", program)


def first_host(exec_host: str) -> str:
    """Return the first node of a job.

    PBS prints ``node1/0*2+node2/1`` or ``n1:15002/0``. Torque prints ``node1/0-3`` or ``node1/0+node1/1``.
    """
    return re.split(r"[/:+*]", exec_host.strip().strip("()"), maxsplit=1)[0]


def read_owner(text: str) -> str:
    """Return the user in ``USER@HOST``. The user's name may contain ``@`` too."""
    user, _, host = text.rpartition("@")
    return user or host


def read_tag(variables: str) -> str:
    r"""Return the tag from a list of variables such as ``A=b,C=d``, where ``\,`` is a comma within a value.

    Return an empty text if there is no tag or more than one.
    """
    found = re.findall(rf"(?:^|(?<!\\),){TAG_VARIABLE}=((?:[^,\\]|\\.)*)", variables)
    return found[0] if len(found) == 1 else ""


def waiting_reason(letter: str, comment: str, holds: str) -> str:
    """Return why a job waits: its comment, or the kinds of its holds, for example ``held (u)``."""
    reason = " ".join(comment.split()).removeprefix("Not Running: ")
    return reason or (f"held ({holds})" if letter == "H" and holds.strip("n ") else "")


def is_unknown_job(job_id: str, code: int, stderr: str) -> bool:
    """Return whether qstat reports that it does not know the job."""
    number = re.escape(job_id.partition(".")[0])
    return code != 0 and re.search(rf"Unknown Job Id(?: Error)? {number}(?![0-9\[])", stderr, re.IGNORECASE) is not None


_NO_NODE = Reason("no node has what your job needs at present", Outlook.WAITS_FOR_PERSON, CHOOSE_ANOTHER)
REFUSALS = (
    (r"Unknown queue|Queue is not enabled|Access to queue is denied", ("reservation", "queue")),
    (r"Invalid Account", ("account",)),
)
"""The messages of pbs_server about values of a job; see ``Scheduler.refusals``."""
REASONS: tuple[tuple[str, Reason], ...] = (
    (r"can never run|no longer be satisfied|invalid job/resv", TOO_LARGE),
    (r"would cross dedicated time|dedicated time", MAINTENANCE),
    (r"too many failed attempts|provisioning failed|security breach|stage.?in failed|bad password", LAUNCH_FAILED),
    (r"running job limit|running limit|job limit|running subjobs limit|job run limit|user run limit", LIMIT_OF_JOBS),
    (r"group run limit|max number of small cpusets|max token", LIMIT_OF_JOBS),
    (
        r"would conflict with reservation or top job",
        Reason("jobs with a higher priority start first, or your job would not end before a reservation begins"),
    ),
    (r"interfere with a (?:confirmed )?reservation|conflict with existing job/reservation", RESERVATION),
    (r"top job|backfill job|strict sorted order|strict fifo|preempt|sort_formula threshold", PRIORITY),
    (r"nonprimetime|primetime|cross into", TIME_WINDOW),
    (r"zero shares", Reason("your group has no share of the cluster", Outlook.WAITS_FOR_PERSON, ASK_FOR_TIME)),
    (r"specified .* does not exist|can't fit in the largest|bad requested resource", UNSATISFIABLE),
    (r"[AE]OE .* not available|multi-node job|ineligible type|cannot provision", _NO_NODE),
    (r"not eligible for|won't fit on", _NO_NODE),
    (r"not an execution queue|configured to be ignored", replace(QUEUE_CLOSED, words="the queue starts no jobs")),
    (r"would exceed .*limit|limit reached on resource|limit on resource", LIMIT_REACHED),
    (r"ineligible state: (?:job-|resv-|busy|provisioning|wait-prov|sleep)", NO_FREE_NODE),
    (r"ineligible state|not enough total nodes|nodes are too loaded|nodes not available", NODES_DOWN),
    (r"insufficient amount of|not enough|no available resources|too few free resources|exclusive node", NO_FREE_NODE),
    (r"draining", Reason("the scheduler keeps the nodes free for a job that has waited longer")),
    (r"queue not started", QUEUE_CLOSED),
    (r"not in running state", replace(QUEUE_CLOSED, words="the queue, or the reservation of your job, is closed")),
    (r"no PBS license", LICENCES),
    (r"^job run at|^job started on", REQUEUED),
    (r"scheduling error|pbs error|system error|not in queued state|invalid state|^job is invalid", SCHEDULER_FAILED),
    (r"^failed to run|send of job to|on mother superior|unable to create new subjob|undesirable", SCHEDULER_FAILED),
    (r"held by (?:an administrator|root|\S*admin)|\((?:[nup]*[so][a-z]*)\)", HOLD_ADMIN),
    (r"^held \(\w*p", LAUNCH_FAILED),
    (r"job held|^held|\(u\)", HOLD),
    (r"depend", DEPENDENCY),
    (r"limit|mission .*share", LIMIT_REACHED),
)
"""Parts of the comment that the scheduler gives a waiting job: src/scheduler/job_info.cpp of openpbs/openpbs, and
src/scheduler.cc/samples/fifo/config.h of adaptivecomputing/torque. ``Hold_Types`` of a held job without a comment is in
parentheses."""

# Queues of PBS, Torque, and Moab on top of them


def queue_rules(queue: Mapping[str, str]) -> QueueRules:
    """Return which jobs a queue of PBS or Torque accepts, from its attributes.

    A limit such as ``[u:PBS_GENERIC=0]`` or 0 permits no running job. A list such as ``+ann,-bob`` permits ann.
    """
    limits = ("max_run", "max_running", "max_user_run", "max_group_run", "max_queued", "max_queuable")
    zero = next((name for name in (*limits, "max_user_queuable") if limit_of(queue.get(name, "")) == "0"), "")
    never = f"it permits no jobs ({zero} is 0)" if zero else ""
    if queue.get("resources_max.nodect") == "0":
        never = "it permits no nodes (resources_max.nodect is 0)"
    if queue.get("from_route_only") == "True":
        never = "it accepts jobs from other queues only (from_route_only)"
    if "batch" in queue.get("disallowed_types", "").split(","):
        never = "it accepts no batch jobs (disallowed_types)"
    off = [name for name in ("enabled", "started") if queue.get(name) == "False"]

    def words(kind: str) -> list[str]:
        return [name.strip() for name in queue.get(f"acl_{kind}s", "").split(",") if name.strip()]

    def names(kind: str) -> tuple[str, ...] | None:
        if queue.get(f"acl_{kind}_enable") != "True" or "+" in words(kind):
            return None
        return tuple(name.removeprefix("+") for name in words(kind) if not name.startswith("-"))

    denied = [
        name[1:]
        for kind in ("user", "group")
        if queue.get(f"acl_{kind}_enable") == "True"
        for name in words(kind)
        if name.startswith("-") and name != "-"
    ]
    return QueueRules(
        never=never,
        denied=tuple(denied),
        closed=f"{' and '.join(off)} {'is' if len(off) == 1 else 'are'} False" if off else "",
        users=names("user"),
        groups=names("group"),
        hosts=names("host"),
        min_nodes=max(1, parse_whole(queue.get("resources_min.nodect", "")) or 1),
        max_nodes=parse_whole(queue.get("resources_max.nodect", "")),
    )


def limit_of(text: str) -> str:
    """Return the limit that applies to the user with the most rights, or an empty text if there is none.

    ``[u:PBS_GENERIC=2],[u:ann=8],[o:PBS_ALL=6]`` permits 8 for ann and 6 for all together, so the limit is 6.
    """
    text = text.strip(' "')
    if "[" not in text:
        return text
    kinds: dict[str, list[str]] = {}
    for kind, amount in re.findall(r"\[ *([ugpo]):[^=\]]*= *([^\]]*?) *\]", text):
        kinds.setdefault(kind, []).append(amount)
    generic = re.findall(r"\[ *([ugp]):\"?PBS_GENERIC|\[ *(o):", text)
    # Without a limit for everybody else, users without their own limit have none.
    limits = [max(kinds[kind], key=_amount) for kind in {"".join(each) for each in generic}]
    return min(limits, key=_amount, default="")


def _amount(text: str) -> int:
    """Return an amount of any resource, as a number that can be compared with the others."""
    number = parse_clock(text)
    return number if number is not None else parse_size(text) or 0


def most_of(queue: Mapping[str, str]) -> dict[str, int | None]:
    """Return the largest job of a queue of PBS or Torque.

    The attributes limit a job (``resources_max``), or all running or queued jobs of the queue, a user or a group.
    """
    kinds = ("resources_max", "resources_available", "max_run_res", "max_queued_res", "max_user_res", "max_group_res")

    def lowest(parse: Callable[[str], int | None], *resources: str) -> int | None:
        texts = [limit_of(queue.get(f"{kind}.{resource}", "")) for kind in kinds for resource in resources]
        return min((number for number in map(parse, texts) if number is not None), default=None)

    return {
        "cores": lowest(parse_whole, "ncpus", "procct"),
        "memory": lowest(parse_size, "mem"),
        "runtime": parse_clock(queue.get("resources_max.walltime", "")),
        "gpus": lowest(parse_whole, "ngpus"),
    }


def known_amounts(most: Mapping[str, int | None]) -> dict[str, int]:
    """Return the limits that ``most_of`` has found, except the run time."""
    return {name: number for name, number in most.items() if number is not None and name != "runtime"}


def least_of(queue: Mapping[str, str]) -> dict[str, int]:
    """Return the smallest job of a queue of PBS or Torque, from attributes like ``resources_min.ncpus``."""
    found = {
        "cores": parse_whole(queue.get("resources_min.ncpus", "") or queue.get("resources_min.procct", "")),
        "memory": parse_size(queue.get("resources_min.mem", "")),
        "runtime": parse_clock(queue.get("resources_min.walltime", "")),
        "gpus": parse_whole(queue.get("resources_min.ngpus", "")),
    }
    return {name: number for name, number in found.items() if number}


QUEUE_TABLE = ("qstat", "-Q")
"""The command that lists the queues again, as a table. It shows whether other output ends between two queues."""
_TABLE = re.compile(r"Queue +Max +Tot +Ena +Str .*")


def split_queue_table(stdout: str) -> tuple[str, dict[str, tuple[str, bool]] | None]:
    """Split the output of the limits commands at the table of ``qstat -Q``.

    Returns:
        The output before the table. For each queue of the table, the first letter of its type and whether it is open,
        or None if there is no table. The names have at most 15 characters, because some servers print no more.

    Raises:
        Unanswered: The table, or the output before it, is truncated.
    """
    heading = _TABLE.search(stdout)
    before, lines = (stdout[: heading.start()], stdout[heading.end() :]) if heading else (stdout, "\n")
    rows = [line.split() for line in lines.splitlines() if line.strip(" -")]
    if not before.endswith("\n") or not lines.endswith("\n"):
        raise incomplete_output("qstat", stdout)
    # A site's wrapper may print other lines.
    rows = [row for row in rows if len(row) >= 12 and {row[3], row[4]} <= {"yes", "no"}]
    return before, {row[0][:15]: (row[11][0], row[3] == row[4] == "yes") for row in rows} if heading else None


# Hidden jobs

SERVER_COMMANDS = (("qstat", "-B", "-f"), ("echo", "account = {account}"))
"""The commands that show the attributes of the server, and the account that runs the commands."""
_SERVER = re.compile(r"^(?:Server: |account = ).*", re.MULTILINE | re.DOTALL)


def without_server(stdout: str) -> str:
    """Return the output of the limits commands without the output of ``SERVER_COMMANDS``."""
    return _SERVER.sub("", stdout)


def server_limits(stdout: str) -> dict[str, str]:
    """Return the limits of the server, such as ``resources_max.ncpus``. A queue's own limits replace them."""
    found = _SERVER.search(stdout)
    text = found[0].replace("\n\t", "") if found else ""
    return dict(re.findall(r"^ *(resources_(?:max|min)\.\w+) = (.*?) *$", text, re.MULTILINE))


def server_privacy(stdout: str) -> tuple[str, str] | None:
    """Return how the server hides jobs; see ``Scheduler.parse_privacy``.

    qstat omits attributes that are not set, and wraps long ones.

    Raises:
        Unanswered: The output is truncated.
    """
    found = _SERVER.search(stdout)
    attributes = re.findall(r"^ *(\w+) = (.*)$", found[0].replace("\n\t", ""), re.MULTILINE) if found else []
    server = dict(attributes)
    if "server_state" not in server or server.get("query_other_jobs") == "True":
        return None
    privileged = f"{server.get('managers', '')},{server.get('operators', '')}".split(",")
    account = re.search(r"^account = (.*)$", stdout, re.MULTILINE)
    if account is None:
        raise incomplete_output("qstat", stdout)
    if account[1] in [entry.partition("@")[0].strip() for entry in privileged]:
        return None
    grant = 'qmgr -c "set server operators += hpchub@HOST"'
    show = 'qmgr -c "set server query_other_jobs = True"'
    return (
        "hides the jobs of other users from the hub's account (query_other_jobs is not True)",
        f"make the account an operator ({grant}), or show the jobs to all users ({show})",
    )


# PBS

# An exiting job (E) has received the signal to end, so its notebook server no longer answers. A moved job (M) continues
# on another server, so its state is unknown.
_RECORD = r'"([0-9][^"\s]*)"\s*:\s*\{'
_STATES = PENDING | RUNNING | dict.fromkeys("EXF", JobState.ENDED)
_DETAILS = {
    "B": "begun",
    "E": "exiting",
    "F": "finished",
    "H": "held",
    "M": "moved",
    "Q": "queued",
    "R": "running",
    "S": "suspended",
    "T": "in transit",
    "U": "suspended for a workstation's user",
    "W": "waiting",
    "X": "finished",
}


def _job(record: Record) -> Job:
    job_id, raw = record.key, record.value
    if not isinstance(raw, dict) or isinstance(raw, DuplicateKeys):
        return unreadable(job_id, record.raw or str(raw))
    letter = str(raw.get("job_state", ""))
    state = _STATES.get(letter, JobState.UNKNOWN)
    variables = raw.get("Variable_List", "")
    if isinstance(variables, dict):
        is_valid = not isinstance(variables, DuplicateKeys)
        variables = f"{TAG_VARIABLE}={variables.get(TAG_VARIABLE, '')}" if is_valid else ""
    estimated = raw.get("estimated")
    start = estimated.get("start_time", "") if isinstance(estimated, dict) else raw.get("estimated.start_time", "")
    waits = state is JobState.PENDING
    return Job(
        id=job_id,
        state=state,
        detail=_DETAILS.get(letter, letter),
        reason=waiting_reason(letter, str(raw.get("comment", "")), str(raw.get("Hold_Types", ""))) if waits else "",
        host=first_host(str(raw.get("exec_host", ""))),
        start=parse_time(str(start)) if waits else "",
        name=str(raw.get("Job_Name", "")),
        user=read_owner(str(raw.get("Job_Owner", ""))),
        comment=read_tag(str(variables)),
    )


# Options that profiles must not add, for PBS, Torque and Moab

QSUB_RESERVED = dict.fromkeys("CEFGIJNRSVXaefhijkoruvz", "") | {"A": "account", "q": "queue"}
RESOURCES_RESERVED = {
    "cput": "runtime",
    "mem": "memory",
    "mpiprocs": "cores",
    "ncpus": "cores",
    "ngpus": "gpus",
    "nodect": "cores",
    "nodes": "cores",
    "ompthreads": "cores",
    "pcput": "runtime",
    "pmem": "memory",
    "ppn": "cores",
    "procs": "cores",
    "pvmem": "memory",
    "select": "cores",
    "vmem": "memory",
    "walltime": "runtime",
}
ATTRIBUTES_RESERVED = {"advres": "reservation"} | dict.fromkeys(
    ("block", "interactive", "sandbox", "stagein", "stageout"), ""
)

_RESERVED = ReservedOptions(
    long={},
    short=QSUB_RESERVED,
    words={"l": RESOURCES_RESERVED | {"max_walltime": "runtime", "min_walltime": "runtime"}, "W": ATTRIBUTES_RESERVED},
    form=LETTER,
    example="[-l place=excl, -P physics]",
)


_PLACE = re.compile(r"-l *(?:.*,)?place=([^,]*)")
"""An option with the placement of the chunks."""
_KILLED_BY_LIMIT = {-26: Cause.OUT_OF_MEMORY, -27: Cause.OUT_OF_MEMORY, -29: Cause.TIME_LIMIT}
"""Exit statuses of jobs that exceeded a limit (src/include/job.h)."""
_NODE_FAILED = (-4, -5, -6, -14, -20)
"""Exit statuses of jobs after their node restarted or lost its connection (src/include/job.h)."""
_DELETED = "91"
"""The value of ``substate`` for jobs that somebody deleted."""


def ending_by_usage(status: int, used: Mapping[str, str], requested: Mapping[str, str]) -> Ending:
    """Return the ending of a job with an exit status. A killed job that had used up a limit was killed for it."""
    ending = ending_of_status(status)
    if ending.cause is Cause.KILLED:
        if at_limit(parse_clock(used.get("walltime", "")), parse_clock(requested.get("walltime", ""))):
            return Ending(Cause.TIME_LIMIT, ending.detail)
        if at_limit(parse_size(used.get("mem", "")), parse_size(requested.get("mem", ""))):
            return Ending(Cause.OUT_OF_MEMORY, ending.detail)
    return ending


def _texts(raw: Any) -> dict[str, str]:
    return {key: str(value) for key, value in raw.items()} if isinstance(raw, dict) else {}


class PBS(PBSKnowledge, Scheduler):
    """OpenPBS and PBS Professional."""

    name = "pbs"
    submit_command = ("qsub",)
    cancel_command = ("qdel",)
    # Without -x, because the history of finished jobs can cover a year. Without -t, which would list the members of
    # arrays, because no session is an array.
    query_command = ("qstat", "-f", "-F", "json")
    # Without -x, because a server without history rejects it with exit code 0.
    find_command = ("qstat", "-f", "-F", "json")
    limits_command = ("qstat", "-Q", "-f", "-F", "json")
    limits_more = SERVER_COMMANDS
    # A server without history rejects -x. Then it is unknown how a job ended.
    history_commands = (("qstat", "-x", "-f", "-F", "json"),)
    job_id_pattern = JOB_ID
    batchspawner_class = "PBSSpawner"
    dask_class = "PBSCluster"
    reserved_options = _RESERVED
    reasons = REASONS
    # A reservation is a queue.
    refusals = ((r"Unknown Reservation Id", ("reservation",)), *REFUSALS)

    def directives(self, profile: JobRequest, cluster: ClusterSettings, *, session: str, comment: str) -> list[str]:
        """Return the options of qsub.

        A reservation is a separate queue. The account is ``-A``, PBS's accounting string, as for Torque and Moab. A
        profile can set a project, ``-P``, in its options. Each chunk is a node, and ``mpiprocs`` is how often the file
        ``PBS_NODEFILE`` names it. ``node_constraint`` adds resources to the chunk, for example
        ``arch=linux:ib=True``. The script writes the log itself, because PBS writes its log only after the job's end.
        """
        chunk = f"select={profile.nodes}:ncpus={profile.cores}:mem={qsub_size(profile.memory)}"
        if profile.nodes > 1:
            chunk += f":mpiprocs={profile.cores}"
        if profile.gpus:
            chunk += f":ngpus={profile.gpus}"
        if kind := gpu_type(profile.gpus):
            chunk += f":{cluster.gpu_type_resource}={kind}"
        if profile.node_constraint:
            chunk += f":{profile.node_constraint}"
        found = [
            f"-N {job_name(session)}",
            f"-v {TAG_VARIABLE}={comment}" + (f",{QOS_VARIABLE}={profile.qos}" if profile.qos else ""),
            f"-q {profile.reservation or profile.queue}",
            f"-l {chunk}",
            *(["-l place=scatter"] if profile.nodes > 1 and not any(map(_PLACE.match, profile.options)) else []),
            f"-l walltime={format_clock(seconds(profile.runtime))}",
            *COMMON_OPTIONS,
        ]
        if profile.account:
            found.append(f"-A {profile.account}")
        return found + list(profile.options)

    def nodes_problem(self, cluster: ClusterSettings, *, gpus: int, options: Sequence[str]) -> tuple[str, str] | None:
        """Permit several nodes, unless an option would place them on one host."""
        for option in options:
            if (found := _PLACE.match(option)) and "scatter" not in found[1].split(":"):
                return f"is more than one node, which the option {option!r} could place on one host", (
                    "write the arrangement scatter in it, as in -l place=scatter:excl, or write 1"
                )
        return None

    def reservation_problem(self, reservation: str, cluster: ClusterSettings) -> tuple[str, str] | None:
        """Accept only the id of a reservation. Any other text would be a queue, perhaps one of another server."""
        names = {reservation, reservation.partition(".")[0]}
        if re.fullmatch(RESERVATION_ID, reservation) and not names & set(cluster.queue_names):
            return None
        return "is not the id of a reservation", "write the id of a reservation, as in R123, or leave it empty"

    def gpu_type_problem(self, gpu_type: str, cluster: ClusterSettings) -> tuple[str, str] | None:
        """Accept a type if the cluster names the resource that requests it."""
        if cluster.gpu_type_resource:
            return None
        return (
            f"names a type of GPU, but the cluster does not name the resource of {self.name} that requests it",
            "set gpu_type_resource of the cluster, or write only the number of GPUs",
        )

    def parse_submit(self, stdout: str) -> str:
        """Return the job's id. qsub prints it in a line, for example ``123.server``."""
        return read_job_id(self.job_id_pattern, stdout, "qsub")

    def parse_query(self, stdout: str) -> dict[str, Job]:
        """Return all jobs. If there are none, ``Jobs`` is missing, but the name of the server is present."""
        _, records = read_json_records(stdout, "qstat", field="Jobs", record=_RECORD, required="pbs_server")
        return jobs_by_id(map(_job, records), "qstat", stdout)

    def parse_find(self, job_id: str, code: int, stdout: str, stderr: str) -> Job | None:
        """Return a job, or None if the server does not know it.

        After a job's end, a server without history does not know it. A server with history reports that it has
        finished.
        """
        if is_unknown_job(job_id, code, stderr):
            return None
        number = re.escape(job_id.partition(".")[0])
        # Some servers print the job's id with their full name.
        if code and re.search(rf"^qstat: {number}(?:\.\S+)? Job has finished\b", stderr, re.MULTILINE):
            return Job(id=job_id, state=JobState.ENDED, detail="finished")
        if not code and (job := self.parse_query(stdout).get(job_id)):
            return job
        raise inconclusive("qstat", code, stdout, stderr)

    def parse_limits(self, stdout: str) -> list[QueueLimits]:
        """Return the queues. ``resources_max`` limits a whole job, so it limits each node too."""
        queues = read_json(without_server(stdout), "qstat").get("Queue")
        if not isinstance(queues, dict):
            raise Unanswered(f"qstat printed no queues: {stdout[:SHOWN]!r}")
        found = []
        for name, queue in queues.items():
            raw = queue if isinstance(queue, dict) else {}
            attributes = server_limits(stdout) | {key: str(value) for key, value in raw.items()}
            for field, resources in raw.items():
                if isinstance(resources, dict):
                    attributes |= {f"{field}.{key}": str(value) for key, value in resources.items()}
            most = most_of(attributes)
            found.append(
                QueueLimits(
                    name=name,
                    cores=most["cores"],
                    memory=most["memory"],
                    runtime=most["runtime"],
                    gpus=most["gpus"],
                    open=(raw.get("enabled"), raw.get("started")) == ("True", "True"),
                    rules=queue_rules(attributes),
                    least=least_of(attributes),
                    of_job=known_amounts(most),
                )
            )
        return found

    def parse_privacy(self, stdout: str) -> tuple[str, str] | None:
        """Return how the server hides jobs, from the output of ``qstat -B -f``."""
        return server_privacy(stdout)

    def parse_history(self, job_id: str, stdout: str) -> Ending:
        """Return how a job ended, from the server's history."""
        jobs = read_json(stdout, "qstat").get("Jobs")
        raw = jobs.get(job_id) if isinstance(jobs, dict) else None
        if not isinstance(raw, dict) or isinstance(raw, DuplicateKeys) or raw.get("job_state") not in ("F", "X"):
            raise Unanswered(f"qstat does not show the end of job {job_id}: {stdout[:SHOWN]!r}")
        found = re.fullmatch(r"-?[0-9]{1,5}", str(raw.get("Exit_status", "")))
        status = int(found[0]) if found else None
        if status in _KILLED_BY_LIMIT:
            return Ending(_KILLED_BY_LIMIT[status], f"exit status {status}")
        if status in _NODE_FAILED:
            return Ending(Cause.NODE_LOST, f"exit status {status}", node=first_host(str(raw.get("exec_host", ""))))
        ending = Ending(Cause.UNKNOWN)
        if status is not None:
            ending = ending_by_usage(status, _texts(raw.get("resources_used")), _texts(raw.get("Resource_List")))
        if str(raw.get("substate")) == _DELETED and ending.cause in (Cause.KILLED, Cause.FAILED, Cause.UNKNOWN):
            return Ending(Cause.CANCELLED, ending.detail)
        return ending
