"""IBM Spectrum LSF.

Sources: the command and configuration references of LSF 10.1.

If a job does not exist, bjobs prints a message on standard error, with exit code 0 (tests of the LSF driver in
equinor/ert; galaxyproject/galaxy, pull request 7007) or 255, or a record with an error in its JSON.

The hub's account must see the jobs of all users: ``SECURE_JOB_INFO_LEVEL`` is 0. Levels 2 to 4 hide the jobs of other
users. Levels 1 and 5 hide only their descriptions and the reasons why they wait.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from hpchub.gpus import gpu_type
from hpchub.schedulers.base import Job, JobState, QueueLimits, QueueRules, Scheduler, Unanswered, job_name
from hpchub.schedulers.endings import OWNER, Cause, Ending, ending_of_status
from hpchub.schedulers.lsf_knowledge import LSFKnowledge
from hpchub.schedulers.options import WORD, ReservedOptions
from hpchub.schedulers.parsing import (
    SHOWN,
    DuplicateKeys,
    find_job_id,
    incomplete_output,
    inconclusive,
    parse_time,
    read_json,
    unexpected_output,
)
from hpchub.schedulers.reasons import (
    DEPENDENCY,
    DEPENDENCY_NEVER,
    HOLD,
    LAUNCH_FAILED,
    LICENCES,
    LIMIT_OF_JOBS,
    LIMIT_REACHED,
    NO_ACCESS,
    NO_FREE_NODE,
    NOT_CONSIDERED,
    PRIORITY,
    QUEUE_CLOSED,
    REQUEUED,
    SCHEDULER_FAILED,
    START_TIME,
    TIME_WINDOW,
    UNSATISFIABLE,
    Outlook,
    Reason,
    find_reason,
)
from hpchub.schedulers.records import Record, jobs_by_id, read_json_records, unreadable
from hpchub.units import parse_size, parse_whole, seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpchub.schedulers.request import ClusterSettings, JobRequest

# A suspended job keeps its processes. UNKWN and ZOMBI mean that LSF cannot reach the job's host, so the job's state is
# unknown.
_STATES = (
    dict.fromkeys(("PEND", "PSUSP", "FWD_PEND", "WAIT", "PROV"), JobState.PENDING)
    | dict.fromkeys(("RUN", "USUSP", "SSUSP"), JobState.RUNNING)
    | dict.fromkeys(("DONE", "EXIT", "PDONE", "PERR", "POST_DONE", "POST_ERR"), JobState.ENDED)
)

_FIELDS = "jobid jobindex stat user exec_host estimated_start_time job_name job_description pend_reason"
_NOT_FOUND = r"Job <{}> is not found"

# The texts of lsb_pendreason(3). Some sites add details to them, such as a number of hosts.
_REASONS: tuple[tuple[str, Reason], ...] = (
    (r"new job is waiting|waiting for (?:re-?)?scheduling|rescheduling", NOT_CONSIDERED),
    (r"dependency condition invalid|never satisfied|event is rejected", DEPENDENCY_NEVER),
    (r"dependency", DEPENDENCY),
    (r"suspended by (?:the )?user", HOLD),
    (r"suspended by .*admin|suspended by lsf", HOLD),
    (r"no longer satisfies|bad resource|bad host name|bad res|checkpoint directory is invalid|label", UNSATISFIABLE),
    (r"can't run jobs submitted by root|no permission to run|no such user account|determine user account", NO_ACCESS),
    (r"not used by the queue|first exe\w+ host is not eligible", UNSATISFIABLE),
    (r"unable to (?:access job file|set job's env|determine job's home|open job's|copy restarting)", LAUNCH_FAILED),
    (r"initialization failed|get user password|retry limit|re-?queue limit", LAUNCH_FAILED),
    (r"pre-exec command", Reason("a preparation on the node failed, and the scheduler will try again")),
    (r"queue is (?:in)?activated by its time|run window|dispatch window|deadline", TIME_WINDOW),
    (r"queue is inactivated|queue is closed|inactive queue", QUEUE_CLOSED),
    (
        r"job slot limit|slot limit|job slots?|job quota|exceeds quota",
        Reason("the limit of cores is reached, for you, your group or the queue"),
    ),
    (r"job limit|running element limit", LIMIT_OF_JOBS),
    (r"requirements? (?:for resource reservation|for reserving resource)|for reserv", NO_FREE_NODE),
    (r"limit|pending job threshold", LIMIT_REACHED),
    (
        r"resource requirements not satisfied|spanning requirement|not the same type|not specified in job",
        Reason("no node has what your job needs"),
    ),
    (r"resource reservation|resource \(|not enough|unable to allocate memory", NO_FREE_NODE),
    (r"exclusive|just started a job|gpu|not satisfied|waiting for allocation", NO_FREE_NODE),
    (r"load threshold|load information|host load", Reason("the nodes are too busy at the moment")),
    (r"fairshare|lower priority|compete|preempt", PRIORITY),
    (r"start time|postponed|delayed", START_TIME),
    (
        r"closed by|host is locked|lim is unreachable|unable to reach|not usable|disabled",
        Reason("nodes are closed, perhaps because of maintenance"),
    ),
    (r"licen[cs]e", LICENCES),
    (r"requeue", REQUEUED),
    (r"not ready for scheduling|unable to schedule|failed in (?:talking|receiving)|failed to accept", SCHEDULER_FAILED),
    (r"fork|communicate with job|zombie|get the pid|lock host", SCHEDULER_FAILED),
    (
        r"reservation",
        Reason("the reservation of your job has not begun, or the nodes that it needs are reserved for others"),
    ),
)


def _job(record: Record) -> Job:
    raw = record.value
    values = {key: str(value).strip() for key, value in raw.items()} if isinstance(raw, dict) else {}
    job_id, index, word = values.get("JOBID", ""), values.get("JOBINDEX", ""), values.get("STAT", "")
    if index not in ("", "-", "0") and "[" not in job_id:
        job_id += f"[{index}]"
    if not job_id and (found := re.search(r'"JOBID"\s*:\s*"([0-9]+)"', record.raw)):
        job_id = found[1]
    if not isinstance(raw, dict) or isinstance(raw, DuplicateKeys):
        return unreadable(job_id, record.raw or str(raw))
    state = _STATES.get(word, JobState.UNKNOWN)
    waits = state is JobState.PENDING
    return Job(
        id=job_id,
        state=state,
        detail=word,
        reason=values.get("PEND_REASON", "").strip("-; ") if waits else "",
        host="" if waits else _first_host(values.get("EXEC_HOST", "")),
        # A letter after the time shows whether it is certain.
        start=parse_time(re.sub(r" [A-Z]$", "", values.get("ESTIMATED_START_TIME", ""))) if waits else "",
        name=values.get("JOB_NAME", ""),
        user=values.get("USER", ""),
        comment=values.get("JOB_DESCRIPTION", ""),
    )


def _first_host(exec_host: str) -> str:
    """Return the first node of ``4*node1:2*node2`` or ``node1@cluster2``, or an empty text for ``lost_and_found``."""
    found = exec_host.partition(":")[0].rpartition("*")[2].partition("@")[0].strip("-")
    return "" if found == "lost_and_found" else found


_RESERVED_NAMES = """
    H I IS ISp ISs IX Ip Is J Jd K L V Z Zs b csm cwd e env eo h i is json jsdl jsdl_strict o oo outdir pack r rn rnc t
    tty w yaml
"""
_PERMITTED_NAMES = """
    B C D F G Lp N R S T a app core_isolation data eptl g hl m network ptl s sla smt sp step_cgroup ti u ul wa wt x
"""
_RESERVED = ReservedOptions(
    long={},
    short=dict.fromkeys(re.findall(r"\w+", _RESERVED_NAMES), "")
    | {
        "M": "memory",
        "P": "account",
        "U": "reservation",
        "W": "runtime",
        "We": "runtime",
        "c": "runtime",
        "gpu": "gpus",
        "n": "cores",
        "q": "queue",
        "v": "memory",
    },
    words={
        "R": {
            "mem": "memory",
            "ngpus": "gpus",
            "ngpus_physical": "gpus",
            "select": "node_constraint",
            "span": "cores",
        }
    },
    permitted=frozenset(re.findall(r"\w+", _PERMITTED_NAMES)),
    form=WORD,
    example="[-x, -app jupyter]",
)


_TERMINATIONS = {
    "CHKPNT": Cause.PREEMPTED,
    "DEADLINE": Cause.TIME_LIMIT,
    "LOAD": Cause.PREEMPTED,
    "MEMLIMIT": Cause.OUT_OF_MEMORY,
    "PREEMPT": Cause.PREEMPTED,
    "RUNLIMIT": Cause.TIME_LIMIT,
    "SWAP": Cause.OUT_OF_MEMORY,
    "WINDOW": Cause.TIME_LIMIT,
    "ZOMBIE": Cause.NODE_LOST,
}
"""The keywords of termination reasons, without ``TERM_`` ("Job termination reason logging" in the manual)."""


class LSF(LSFKnowledge, Scheduler):
    """IBM Spectrum LSF."""

    name = "lsf"
    submit_command = ("bsub",)
    cancel_command = ("bkill",)
    # Without -X, hosts of a condensed group have the name of the group.
    query_command = ("bjobs", "-json", "-X", "-a", "-u", "all", "-o", _FIELDS)
    no_jobs = r'^No (?:unfinished )?job found|^ *"JOBS": *"?0"?,'
    find_command = ("bjobs", "-json", "-X", "-o", _FIELDS)
    # bjobs knows a job for CLEAN_PERIOD seconds after its end. bhist reads the event log, and shows who killed the job.
    history_commands = (("bjobs", "-json", "-o", "jobid stat user exit_code exit_reason"), ("bhist", "-l"))
    limits_command = ("bqueues", "-l")
    # bqueues -w lists the names of the queues again. It shows whether the output of bqueues -l ends between two queues.
    limits_more = (("bqueues", "-w"), ("bparams", "-a"))
    job_id_pattern = r"[0-9]+"
    batchspawner_class = "LsfSpawner"
    dask_class = "LSFCluster"
    reserved_options = _RESERVED
    reasons = _REASONS
    # The messages of bsub; see lsb_perror(3).
    refusals = (
        (r"No such queue|Queue has been closed|User cannot use the queue", ("queue",)),
        (r"Invoker is not in specified project group", ("account",)),
        (r"Bad resource requirement syntax|Bad resource name", ("node_constraint",)),
    )

    def directives(self, profile: JobRequest, cluster: ClusterSettings, *, session: str, comment: str) -> list[str]:
        """Return the options of bsub.

        Memory has a unit, so ``LSF_UNIT_FOR_LIMITS`` does not change it. It is per host, so
        ``RESOURCE_RESERVE_PER_TASK`` does not change it either. The account is ``-P``, LSF's project. The quality of
        service is ``-sla``, LSF's service class. ``-n`` is the number of cores on all nodes, and ``span`` says how many
        of them are on each. GPUs are per host too.
        ``node_constraint`` is the content of ``select[…]``, for example ``ib&&bigmem``. ``-env none`` starts the job
        without the submitter's environment.
        """
        minutes = -(-seconds(profile.runtime) // 60)
        select = f"select[{profile.node_constraint}] " if profile.node_constraint else ""
        memory = f"{profile.memory}B"
        span = "hosts=1" if profile.nodes == 1 else f"ptile={profile.cores}"
        found = [
            f"-J {job_name(session)}",
            f'-Jd "{comment}"',
            f"-q {profile.queue}",
            f"-n {profile.nodes * profile.cores}",
            f'-R "{select}span[{span}] rusage[mem={memory}/host]"',
            f"-M {memory}",
            f"-W {minutes // 60}:{minutes % 60:02}",
            "-rn",
            '-env "none"',
            "-o .hpchub/logs/%J.log",
        ]
        if profile.gpus:
            kind = gpu_type(profile.gpus)
            found.append(f'-gpu "num={profile.gpus}{f":gmodel={kind}" if kind else ""}"')
        if profile.account:
            found.append(f"-P {profile.account}")
        if profile.qos:
            found.append(f"-sla {profile.qos}")
        if profile.reservation:
            found.append(f"-U {profile.reservation}")
        return found + list(profile.options)

    def nodes_problem(self, cluster: ClusterSettings, *, gpus: int, options: Sequence[str]) -> tuple[str, str] | None:
        """Permit several nodes."""
        return None

    def gpu_type_problem(self, gpu_type: str, cluster: ClusterSettings) -> tuple[str, str] | None:
        """Accept every type: a type is the model of -gpu."""
        return None

    def parse_submit(self, stdout: str) -> str:
        """Return the job's id. bsub prints ``Job <123> is submitted to queue <normal>.``, or ``default queue``."""
        return find_job_id(stdout, r"Job <([0-9]+)> is submitted to (?:default )?queue <[^<>]+>\.", "bsub")

    def parse_query(self, stdout: str) -> dict[str, Job]:
        """Return all jobs. The output must contain as many records as it announces.

        LSF's library may print messages before the JSON, while it waits for its server.
        """
        if not stdout.strip():
            return {}
        fields, records = read_json_records(
            stdout, "bjobs", field="RECORDS", record=r'\{\s*"JOBID"\s*:', required="JOBS", listed=True
        )
        if str(fields.get("JOBS")) != str(len(records)):
            raise unexpected_output("bjobs", stdout)
        jobs = [_job(one) for one in records if not (isinstance(one.value, dict) and "ERROR" in one.value)]
        return jobs_by_id(jobs, "bjobs", stdout)

    def parse_find(self, job_id: str, code: int, stdout: str, stderr: str) -> Job | None:
        """Return a job, or None for the message that it is not found.

        LSF knows a job until ``CLEAN_PERIOD`` after its end.
        """
        not_found = _NOT_FOUND.format(job_id)
        if not_found in stderr.splitlines() or stdout.strip() == not_found or _error(stdout, job_id) == not_found:
            return None
        if not code and (job := self.parse_query(stdout).get(job_id)):
            return job
        raise inconclusive("bjobs", code, stdout, stderr)

    def parse_limits(self, stdout: str) -> list[QueueLimits]:
        """Return the queues. Each is a paragraph, with names of limits in one line and their values in the next."""
        text, names = _split_queue_table(stdout)
        found = []
        for paragraph in re.split(r"^QUEUE: ", text, flags=re.MULTILINE)[1:]:
            status = re.search(r"\b(?:Open|Closed)(?:_\w+)?:(?:Active|Inact(?:_\w+)?)\b", paragraph)
            if status is None or not re.search(r"^HOSTS:.*\n", paragraph, re.MULTILINE):
                raise Unanswered(f"bqueues printed an incomplete queue: {paragraph[-SHOWN:]!r}")
            limits = _maximum_limits(paragraph)
            tasks = limits.get("TASKLIMIT", limits.get("PROCLIMIT", "")).split()
            minutes = re.match(r"[0-9]{1,9}(?:\.[0-9]+)?(?![0-9.])", limits.get("RUNLIMIT", ""))
            numbers = [parse_whole(tasks[-1]) if tasks else None, *_slot_limits(paragraph)]
            of_job = [number for number in numbers[:3] if number is not None]
            found.append(
                QueueLimits(
                    name=paragraph.split(maxsplit=1)[0],
                    cores=min((number for number in numbers if number is not None), default=None),
                    memory=parse_size(limits.get("MEMLIMIT", "")),
                    runtime=int(float(minutes[0]) * 60) if minutes else None,
                    open=not (rules := _rules(paragraph, status[0])).closed,
                    rules=rules,
                    of_job={"cores": min(of_job)} if of_job else {},
                    least={"cores": int(tasks[0])} if len(tasks) > 1 and parse_whole(tasks[0]) else {},
                )
            )
        if not found:
            raise Unanswered(f"bqueues printed no queues: {stdout[:SHOWN]!r}")
        if names is not None and names != {queue.name for queue in found}:
            raise Unanswered(f"bqueues -l and bqueues -w list different queues: {stdout[-SHOWN:]!r}")
        return found

    def parse_privacy(self, stdout: str) -> tuple[str, str] | None:
        """Return how LSF hides jobs, from the output of ``bparams -a``.

        If administrators of the cluster see all jobs, assume that the account is one of them.
        """
        parameters = dict(re.findall(r"^\s*(\w+JOB_INFO_\w+) = (.*)$", stdout, re.MULTILINE))
        level = parameters.get("SECURE_JOB_INFO_LEVEL", "").strip()
        if level not in ("2", "3", "4") or "cluster" in parameters.get("ENABLE_JOB_INFO_BY_ADMIN_ROLE", "").split():
            return None
        if not stdout.endswith("\n"):
            raise incomplete_output("bparams", stdout)
        role = "ENABLE_JOB_INFO_BY_ADMIN_ROLE=cluster"
        return (
            f"hides the jobs of other users from the hub's account (SECURE_JOB_INFO_LEVEL={level})",
            f"set it to 0 in lsb.params, or set {role} there and make the account an administrator of the cluster",
        )

    def understand(self, reason: str) -> Reason:
        """Explain a reason, which is one or several texts of LSF with semicolons between them.

        A text can describe some of the hosts only. Therefore a job can still start if one of the texts is no obstacle.
        """
        found = [find_reason(text.strip(), self.reasons) for text in reason.split(";") if text.strip(" -")]
        for outlook in Outlook:
            if candidates := [each for each in found if each.outlook is outlook]:
                return next((each for each in candidates if each.words not in reason), Reason(reason))
        return Reason(reason)

    def parse_history(self, job_id: str, stdout: str) -> Ending:
        """Return how a job ended, from the record of bjobs and the lines of bhist that follow it.

        bhist wraps its lines, and indents the rest of a line.
        """
        record = re.search(rf'\{{\s*"JOBID":"{job_id}"[^{{}}]*\}}', stdout)
        values = {key: str(value) for key, value in read_json(record[0], "bjobs").items()} if record else {}
        text = re.sub(r"\n {10,}", "", stdout[record.end() :] if record else stdout)
        log = text if f"Job <{job_id}>" in text else ""
        code = re.search(r"\bExited with exit code ([0-9]{1,3})\b", log)
        status = values.get("EXIT_CODE", "") or (code[1] if code else "")
        ended = values.get("STAT") in ("DONE", "EXIT") or re.search(
            r": (?:Done successfully|Exited\b|Completed <exit>)", log
        )
        if not ended:
            raise Unanswered(f"bjobs and bhist do not show the end of job {job_id}: {stdout[:SHOWN]!r}")
        reason = values.get("EXIT_REASON", "") + "".join(re.findall(r"; (TERM_\w+)", log)[-1:])
        word = re.search(r"TERM_(?:FORCE_)?(\w+)", reason)
        who = re.search(r"Signal <\w+> requested by user or administrator <([^<>]+)>", log)
        owner = values.get("USER") or next(iter(re.findall(r"User <([^<>]+)>", log)), "")
        if word and word[1] in _TERMINATIONS:
            return Ending(_TERMINATIONS[word[1]], word[0])
        if word and word[1] in ("OWNER", "ADMIN"):
            by = who[1] if who else "" if word[1] == "ADMIN" else owner
            return Ending(Cause.CANCELLED, word[0], by=OWNER if by == owner or word[1] == "OWNER" else by)
        if who:
            return Ending(Cause.CANCELLED, who[0], by=OWNER if who[1] == owner else who[1])
        if values.get("STAT") == "DONE" or ": Done successfully" in log:
            return Ending(Cause.FINISHED)
        return ending_of_status(int(status)) if status.isdigit() else Ending(Cause.UNKNOWN, word[0] if word else "")


def _slot_limits(paragraph: str) -> list[int | None]:
    """Return the limits of slots of a queue: of all jobs, of each user (UJOB_LIMIT), and of each host.

    A session's job belongs to one user. The last limit is that of each of its hosts.
    """
    table = re.search(r"^ *PRIO +NICE +STATUS +(MAX +JL/U +JL/P +JL/H)\b.*\n(.*)$", paragraph, re.MULTILINE)
    words = table[2].split()[3:7] if table else []
    return [parse_whole(word) for word in (*words[:2], *words[3:])]


def _rules(paragraph: str, status: str) -> QueueRules:
    """Return which jobs a queue accepts. A name of USERS with a slash at its end is a group."""
    found = re.search(r"^USERS:(.*)$", paragraph, re.MULTILINE)
    words = found[1].split() if found else ["all"]
    names = None if "all" in words else tuple(words)
    hosts = re.search(r"^HOSTS:(.*)$", paragraph, re.MULTILINE)
    never = "it has no hosts" if hosts and hosts[1].strip() in ("", "none") else ""
    if re.search(r"^SCHEDULING POLICIES:.*\bONLY_INTERACTIVE\b", paragraph, re.MULTILINE):
        never = "it accepts no batch jobs (ONLY_INTERACTIVE)"
    times = re.findall(r"^(?:RUN|DISPATCH)_WINDOW: *(\S.*?) *$", paragraph, re.MULTILINE)
    return QueueRules(
        never=never,
        closed="" if re.fullmatch(r"Open:(?:Active|Inact_Win)", status) else f"its status is {status}",
        times=" and ".join(times),
        users=tuple(name for name in names if not name.startswith("~")) or None if names else None,
        denied=tuple(name[1:] for name in words if name.startswith("~")),
    )


def _error(stdout: str, job_id: str) -> str:
    """Return the error that the only record of the output contains instead of the job, or an empty text."""
    try:
        records = read_json(stdout, "bjobs").get("RECORDS")
    except Unanswered:
        return ""
    found = [raw for raw in records if isinstance(raw, dict)] if isinstance(records, list) else []
    return str(found[0].get("ERROR", "")) if len(found) == 1 and str(found[0].get("JOBID")) == job_id else ""


def _split_queue_table(stdout: str) -> tuple[str, set[str] | None]:
    """Return the output before the table of ``bqueues -w``, and the queues of the table, or None without a table.

    Raises:
        Unanswered: The output before the table is truncated.
    """
    heading = re.search(r"QUEUE_NAME +PRIO +STATUS .*", stdout)
    if heading is None:
        return stdout, None
    before = stdout[: heading.start()]
    if not before.endswith("\n"):
        raise Unanswered(f"bqueues printed an incomplete queue: {before[-SHOWN:]!r}")
    return before, set(re.findall(r"^(\S+) +[0-9]+ +\w+:\w+(?: +[0-9-]+){8,} *\n", stdout, re.MULTILINE))


def _maximum_limits(paragraph: str) -> dict[str, str]:
    """Return the limits of a queue by name, without the default limits."""
    lines = re.sub(r"DEFAULT LIMITS:.*?(?=MAXIMUM LIMITS:|\n\n|\Z)", "", paragraph, flags=re.DOTALL).splitlines()
    found = {}
    for heading, values in pairwise(lines):
        names = heading.split()
        if not names or not all(re.fullmatch(r"[A-Z]+LIMIT", name) for name in names):
            continue
        many = re.findall(r"[0-9.]+ (?:min|[KMGTPE]B?)(?: of \S+)?|[0-9.]+", values)
        if len(names) == 1:
            found[names[0]] = values.strip()
        elif len(names) == len(many):
            found |= dict(zip(names, many, strict=True))
    return found
