"""IBM Spectrum LSF. Source: the command and configuration references of LSF 10.1.

What LSF says where it has no such job is on standard error, with exit code 0 (equinor/ert's tests of its LSF driver,
galaxyproject/galaxy pull request 7007) or 255, or a record of the JSON.

The hub's account has to see all of everybody's jobs: ``SECURE_JOB_INFO_LEVEL`` is 0. Levels 2 to 4 hide the jobs of
others, 1 and 5 no more of them than their description and the reason why they wait.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hpchub.schedulers.base import Job, JobState, QueueLimits, Scheduler, Unanswered, job_name
from hpchub.schedulers.options import WORD, ReservedOptions
from hpchub.schedulers.parsing import Twice, moment, read_json
from hpchub.units import parse_size, parse_whole, seconds

if TYPE_CHECKING:
    from hpchub.schedulers.request import ClusterSettings, JobRequest

# A suspended job keeps its processes. UNKWN and ZOMBI say that LSF has lost sight of the job's host: nothing is known.
_STATES = (
    dict.fromkeys(("PEND", "PSUSP", "FWD_PEND", "WAIT", "PROV"), JobState.PENDING)
    | dict.fromkeys(("RUN", "USUSP", "SSUSP"), JobState.RUNNING)
    | dict.fromkeys(("DONE", "EXIT", "PDONE", "PERR", "POST_DONE", "POST_ERR"), JobState.ENDED)
)

_FIELDS = "jobid jobindex stat user exec_host estimated_start_time job_name job_description pend_reason"
_NOT_FOUND = r"Job <{}> is not found"

_REASONS = (
    ("new job is waiting", "the scheduler has not looked at it yet"),
    ("job slot limit", "you, your group or the queue use as many cores as they may"),
    ("slot limit", "you, your group or the queue use as many cores as they may"),
    ("job limit", "you, your group or the queue run as many jobs as they may"),
    ("limit", "you, your group or the queue use as much as they may"),
    ("resource requirements not satisfied", "no node has what it needs"),
    ("resource reservation", "no node has enough of what it needs free right now"),
    ("resource (", "no node has enough of what it needs free right now"),
    ("not enough", "no node has enough of what it needs free right now"),
    ("load threshold", "the nodes are too busy right now"),
    ("fairshare", "other jobs come first"),
    ("lower priority", "other jobs come first"),
    ("suspended by", "it is held"),
    ("dependency", "it waits for another job"),
    ("start time", "its start time has not come"),
    ("queue is inactivated", "the queue is closed"),
    ("queue is closed", "the queue is closed"),
    ("closed by", "nodes are closed, perhaps because of a maintenance"),
    ("reservation", "its reservation has not begun, or another keeps the nodes that it needs"),
)


def _job(raw: Any) -> Job:
    told = {key: str(value).strip() for key, value in raw.items()} if isinstance(raw, dict) else {}
    job_id, index, word = told.get("JOBID", ""), told.get("JOBINDEX", ""), told.get("STAT", "")
    if index not in ("", "-", "0") and "[" not in job_id:
        job_id += f"[{index}]"
    if isinstance(raw, Twice):
        return Job(id=job_id, state=JobState.UNKNOWN, detail="not to be made out")
    state = _STATES.get(word, JobState.UNKNOWN)
    waits = state is JobState.PENDING
    return Job(
        id=job_id,
        state=state,
        detail=word,
        reason=told.get("PEND_REASON", "").strip("-; ") if waits else "",
        host="" if waits else _host(told.get("EXEC_HOST", "")),
        # A letter behind it says whether it is certain.
        start=moment(re.sub(r" [A-Z]$", "", told.get("ESTIMATED_START_TIME", ""))) if waits else "",
        name=told.get("JOB_NAME", ""),
        user=told.get("USER", ""),
        comment=told.get("JOB_DESCRIPTION", ""),
    )


def _host(exec_host: str) -> str:
    """The first of ``4*node1:2*node2``; ``node1@cluster2`` is another cluster's, ``lost_and_found`` no host at all."""
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


class LSF(Scheduler):
    """LSF's words."""

    name = "lsf"
    submit_command = ("bsub",)
    cancel_command = ("bkill",)
    # -X: hosts of a condensed group have the group's name without it.
    query_command = ("bjobs", "-json", "-X", "-a", "-u", "all", "-o", _FIELDS)
    no_jobs = r'^No (?:unfinished )?job found|^ *"JOBS": *"?0"?,'
    find_command = ("bjobs", "-json", "-X", "-o", _FIELDS)
    limits_command = ("bqueues", "-l")
    # The names once more: an answer that is cut off between two queues cannot be told from a whole one otherwise.
    limits_more = (("bqueues", "-w"), ("bparams", "-a"))
    job_id_pattern = r"[0-9]+"
    batchspawner_class = "LsfSpawner"
    reserved_options = _RESERVED

    def directives(self, profile: JobRequest, cluster: ClusterSettings, *, session: str, comment: str) -> list[str]:
        """See Scheduler.directives.

        Memory has its unit with it, whatever ``LSF_UNIT_FOR_LIMITS`` is, and is the host's, whatever
        ``RESOURCE_RESERVE_PER_TASK``. The account is ``-P``, LSF's project. ``node_constraint`` is what stands in
        ``select[…]``, as ``ib&&bigmem``. ``-env none``: the job starts from nothing but what its script sets.
        """
        minutes = -(-seconds(profile.runtime) // 60)
        select = f"select[{profile.node_constraint}] " if profile.node_constraint else ""
        memory = f"{profile.memory}B"
        found = [
            f"-J {job_name(session)}",
            f'-Jd "{comment}"',
            f"-q {profile.queue}",
            f"-n {profile.cores}",
            f'-R "{select}span[hosts=1] rusage[mem={memory}/host]"',
            f"-M {memory}",
            f"-W {minutes // 60}:{minutes % 60:02}",
            "-rn",
            '-env "none"',
            "-o .hpchub/logs/%J.log",
        ]
        if profile.gpus:
            found.append(f'-gpu "num={profile.gpus}"')
        if profile.account:
            found.append(f"-P {profile.account}")
        if profile.reservation:
            found.append(f"-U {profile.reservation}")
        return found + list(profile.options)

    def parse_submit(self, stdout: str) -> str:
        """``Job <123> is submitted to queue <normal>.`` in the last line; perhaps ``to default queue``."""
        last = (stdout.strip().splitlines() or [""])[-1].strip()
        found = re.fullmatch(r"Job <([0-9]+)> is submitted to (?:default )?queue <[^<>]+>\.", last)
        if found is None:
            raise Unanswered(f"bsub printed no job id but {stdout.strip()[:200]!r}")
        return found[1]

    def parse_query(self, stdout: str) -> dict[str, Job]:
        """The records, and how many they are. What LSF's library says while it waits for its server stands before."""
        if not stdout.strip():
            return {}
        found = read_json(re.sub(r"\A[^{]*^(?=\{)", "", stdout, flags=re.MULTILINE), "bjobs")
        records = found.get("RECORDS")
        if not isinstance(records, list) or str(found.get("JOBS")) != str(len(records)):
            raise Unanswered(f"bjobs printed something else than was asked for: {stdout[:200]!r}")
        jobs = [_job(raw) for raw in records if not (isinstance(raw, dict) and "ERROR" in raw)]
        by_id = {job.id: job for job in jobs}
        if "" in by_id or len(by_id) < len(jobs):
            raise Unanswered(f"bjobs printed a record that is not complete, or one twice: {stdout[:200]!r}")
        return by_id

    def parse_find(self, job_id: str, code: int, stdout: str, stderr: str) -> Job | None:
        """A job that has ended is known for ``CLEAN_PERIOD``; then bjobs says in so many words that it finds none."""
        not_found = _NOT_FOUND.format(job_id)
        if not_found in stderr.splitlines() or stdout.strip() == not_found or _error(stdout, job_id) == not_found:
            return None
        if not code and (job := self.parse_query(stdout).get(job_id)):
            return job
        raise Unanswered(f"bjobs says neither yes nor no (exit code {code}): {(stderr or stdout).strip()[:200]!r}")

    def parse_limits(self, stdout: str) -> list[QueueLimits]:
        """A paragraph a queue: names of limits in one line, and their values in the next."""
        text, names = _names(stdout)
        found = []
        for paragraph in re.split(r"^QUEUE: ", text, flags=re.MULTILINE)[1:]:
            status = re.search(r"\b(Open|Closed)(?:_\w+)?:(Active|Inact)", paragraph)
            if status is None or not re.search(r"^HOSTS:.*\n", paragraph, re.MULTILINE):
                raise Unanswered(f"bqueues printed a queue that is not complete: {paragraph[-200:]!r}")
            most = _maximums(paragraph)
            tasks = most.get("TASKLIMIT", most.get("PROCLIMIT", "")).split()
            minutes = re.match(r"[0-9]{1,9}(?:\.[0-9]+)?(?![0-9.])", most.get("RUNLIMIT", ""))
            found.append(
                QueueLimits(
                    name=paragraph.split(maxsplit=1)[0],
                    cores=parse_whole(tasks[-1]) if tasks else None,
                    memory=parse_size(most.get("MEMLIMIT", "")),
                    runtime=int(float(minutes[0]) * 60) if minutes else None,
                    open=status.groups() == ("Open", "Active"),
                )
            )
        if not found:
            raise Unanswered(f"bqueues printed no queues: {stdout[:200]!r}")
        if names is not None and names != {limits.name for limits in found}:
            raise Unanswered(f"bqueues -l and bqueues -w show other queues: {stdout[-200:]!r}")
        return found

    def parse_privacy(self, stdout: str) -> tuple[str, str] | None:
        """By the parameters. Where administrators of the cluster see all jobs, the account is taken for one."""
        told = dict(re.findall(r"^\s*(\w+JOB_INFO_\w+) = (.*)$", stdout, re.MULTILINE))
        level = told.get("SECURE_JOB_INFO_LEVEL", "").strip()
        if level not in ("2", "3", "4") or "cluster" in told.get("ENABLE_JOB_INFO_BY_ADMIN_ROLE", "").split():
            return None
        if not stdout.endswith("\n"):
            raise Unanswered(f"what bparams printed is cut off: {stdout[-200:]!r}")
        role = "ENABLE_JOB_INFO_BY_ADMIN_ROLE=cluster"
        return (
            f"hides the jobs of others from the hub's account (SECURE_JOB_INFO_LEVEL={level})",
            f"set it to 0 in lsb.params, or set {role} there and make the account an administrator of the cluster",
        )

    def explain(self, reason: str) -> str:
        """A reason is a sentence of LSF's, or several with a semicolon between them: the first that is known counts."""
        return next((words for part, words in _REASONS if part in reason.lower()), reason)


def _error(stdout: str, job_id: str) -> str:
    """What the answer's record says instead of the job."""
    try:
        records = read_json(stdout, "bjobs").get("RECORDS")
    except Unanswered:
        return ""
    found = [raw for raw in records if isinstance(raw, dict)] if isinstance(records, list) else []
    return str(found[0].get("ERROR", "")) if len(found) == 1 and str(found[0].get("JOBID")) == job_id else ""


def _names(stdout: str) -> tuple[str, set[str] | None]:
    """What stands before the table of ``bqueues -w``, and its queues; None where there is no table.

    Raises:
        Unanswered: what stands before the table is cut off.
    """
    heading = re.search(r"QUEUE_NAME +PRIO +STATUS .*", stdout)
    if heading is None:
        return stdout, None
    before = stdout[: heading.start()]
    if not before.endswith("\n"):
        raise Unanswered(f"bqueues printed a queue that is not complete: {before[-200:]!r}")
    return before, set(re.findall(r"^(\S+) +[0-9]+ +\w+:\w+(?: +[0-9-]+){8,} *\n", stdout, re.MULTILINE))


def _maximums(paragraph: str) -> dict[str, str]:
    """The limits of a queue that are no defaults."""
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
