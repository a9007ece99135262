"""OpenPBS and PBS Professional. Source: their reference guides of 2021.1 and 2022.1, and openpbs/openpbs itself.

There: src/cmds/qstat.c (JSON; the exit code is the error's last byte), src/include/pbs_error.h (15001, so 153: unknown;
15139, so 35: finished), src/server/stat_job.c (who sees a job).

The hub's account has to see everybody's jobs: it is an operator, or the server has ``query_other_jobs = True``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from hpchub.schedulers.base import Job, JobState, QueueLimits, Scheduler, Unanswered, job_name
from hpchub.schedulers.options import LETTER, ReservedOptions
from hpchub.schedulers.parsing import Twice, moment, read_json
from hpchub.units import format_clock, parse_clock, parse_size, parse_whole, seconds

if TYPE_CHECKING:
    from hpchub.schedulers.request import ClusterSettings, JobRequest

TAG = "HPCHUB_TAG"
"""The variable of a job of PBS or Torque that says whose it is, as ``--comment`` does for Slurm."""

PENDING = dict.fromkeys("QHWT", JobState.PENDING)
RUNNING = dict.fromkeys("RSUB", JobState.RUNNING)
"""A suspended job (S, and U for a workstation in use) keeps its processes; B is an array that has begun."""

# An exiting job (E) has been told to end: whatever runs there no longer serves a notebook. A moved one (M) lives on
# another server, of which nothing is known here.
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

REASONS = (
    ("running job limit", "you, your group or the queue run as many jobs as they may"),
    ("job limit", "you, your group or the queue have as many jobs as they may"),
    (
        "would conflict with reservation or top job",
        "other jobs come first, or a reservation leaves it too little time",
    ),
    ("would conflict with top job", "other jobs come first"),
    ("insufficient amount of", "no node has enough of what it needs free right now"),
    ("not enough", "no node has enough of what it needs free right now"),
    ("not running: dedicated time", "a maintenance begins before it would end"),
    ("draining", "the service drains its nodes for a job that waits longer"),
    ("queue not started", "the queue is closed"),
    ("not in running state", "the queue or its reservation is closed"),
    ("can never run", "nothing here will ever give it what it asks for"),
    ("job held", "it is held"),
    ("limit", "you, your group or the queue use as much as they may"),
)
"""Parts of the comment that the scheduler gives a job, in small letters, the most telling first."""


JOB_ID = r"[0-9]+(?:\.[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)?"
"""As ``123.server``."""

EVERY_JOB = ("-r n", "-j oe", "-o /dev/null", "-S /bin/bash")
"""Of qsub and msub: never started a second time, no log of theirs, and a shell that is the same for everybody."""


def qsub_size(memory: str) -> str:
    """``4G`` is ``4gb``: the same unit of 1024 cubed bytes."""
    return f"{memory.lower()}b"


def host(exec_host: str) -> str:
    """The first node of ``node1/0*2+node2/1``, of Torque's ``node1/0-3`` and ``node1/0+node1/1``, of ``n1:15002/0``."""
    return re.split(r"[/:+*]", exec_host.strip().strip("()"), maxsplit=1)[0]


def tag(text: str) -> str:
    r"""The tag of a variable list, as ``A=b,C=d``; a comma of a value's own is ``\,``. Empty where it is said twice."""
    found = re.findall(rf"(?:^|(?<!\\),){TAG}=((?:[^,\\]|\\.)*)", text)
    return found[0] if len(found) == 1 else ""


def unknown_job(job_id: str, code: int, stderr: str) -> bool:
    """Whether it is PBS's or Torque's word for a job that it does not know."""
    number = re.escape(job_id.partition(".")[0])
    return code != 0 and re.search(rf"Unknown Job Id(?: Error)? {number}(?![0-9\[])", stderr, re.IGNORECASE) is not None


QUEUE_TABLE = ("qstat", "-Q")
"""All queues once more: an answer that is cut off between two of them cannot be told from a whole one otherwise."""
_TABLE = re.compile(r"Queue +Max +Tot +Ena +Str .*")


def queue_table(stdout: str) -> tuple[str, dict[str, tuple[str, bool]] | None]:
    """What stands before the table of ``qstat -Q``; and of its queues their kind's letter, and whether they are open.

    Names have 15 characters, as many as some servers show. None where there is no table.

    Raises:
        Unanswered: the table, or what stands before it, is cut off.
    """
    heading = _TABLE.search(stdout)
    before, lines = (stdout[: heading.start()], stdout[heading.end() :]) if heading else (stdout, "\n")
    rows = [line.split() for line in lines.splitlines() if line.strip(" -")]
    if not before.endswith("\n") or not lines.endswith("\n") or any(len(row) < 12 for row in rows):
        raise Unanswered(f"the answer on the queues is cut off: {stdout[-200:]!r}")
    return before, {row[0][:15]: (row[11][0], row[3] == row[4] == "yes") for row in rows} if heading else None


SERVER_COMMANDS = (("qstat", "-B", "-f"), ("echo", "account = {account}"))
"""Whether others' jobs are hidden, and who sees them all the same; and whose eyes the hub has."""
_SERVER = re.compile(r"^(?:Server: |account = ).*", re.MULTILINE | re.DOTALL)


def queues_only(stdout: str) -> str:
    """The queues of the limits commands' output, without what stands behind them of the server."""
    return _SERVER.sub("", stdout)


def hidden(stdout: str) -> tuple[str, str] | None:
    """See ``Scheduler.parse_privacy``. What is not set is not shown, and an attribute that is too long is wrapped."""
    found = _SERVER.search(stdout)
    told = re.findall(r"^ *(\w+) = (.*)$", found[0].replace("\n\t", ""), re.MULTILINE) if found else []
    server = dict(told)
    if "server_state" not in server or server.get("query_other_jobs") == "True":
        return None
    seeing = f"{server.get('managers', '')},{server.get('operators', '')}".split(",")
    account = re.search(r"^account = (.*)$", stdout, re.MULTILINE)
    if account is None:
        raise Unanswered(f"what qstat printed of the server is cut off: {stdout[-200:]!r}")
    if account[1] in [entry.partition("@")[0].strip() for entry in seeing]:
        return None
    right = 'qmgr -c "set server operators += hpchub@HOST"'
    return (
        "hides the jobs of others from the hub's account (query_other_jobs is not True)",
        f'make it an operator ({right}), or show them to all (qmgr -c "set server query_other_jobs = True")',
    )


def last_line(job_id_pattern: str, stdout: str, command: str) -> str:
    """The job's id in the last line of what a command printed.

    Raises:
        Unanswered: it is not one.
    """
    last = (stdout.strip().splitlines() or [""])[-1].strip()
    if not re.fullmatch(job_id_pattern, last):
        raise Unanswered(f"{command} printed no job id but {stdout.strip()[:200]!r}")
    return last


def plain(comment: str) -> str:
    """A waiting job's comment in plain words, where they are known."""
    return next((words for part, words in REASONS if part in comment.lower()), comment)


def _job(job_id: str, raw: Any) -> Job:
    if not isinstance(raw, dict) or isinstance(raw, Twice):
        return Job(id=job_id, state=JobState.UNKNOWN, detail="not to be made out")
    letter = str(raw.get("job_state", ""))
    state = _STATES.get(letter, JobState.UNKNOWN)
    told = raw.get("Variable_List", "")
    if isinstance(told, dict):
        told = "" if isinstance(told, Twice) else f"{TAG}={told.get(TAG, '')}"
    estimated = raw.get("estimated")
    start = estimated.get("start_time", "") if isinstance(estimated, dict) else raw.get("estimated.start_time", "")
    waits = state is JobState.PENDING
    return Job(
        id=job_id,
        state=state,
        detail=_DETAILS.get(letter, letter),
        reason=" ".join(str(raw.get("comment", "")).split()).removeprefix("Not Running: ") if waits else "",
        host=host(str(raw.get("exec_host", ""))),
        start=moment(str(start)) if waits else "",
        name=str(raw.get("Job_Name", "")),
        user=str(raw.get("Job_Owner", "")).partition("@")[0],
        comment=tag(str(told)),
    )


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


class PBS(Scheduler):
    """The words of PBS."""

    name = "pbs"
    submit_command = ("qsub",)
    cancel_command = ("qdel",)
    # Without -x: finished jobs may be a year's. Without -t: no session is an array, whose members that would show.
    query_command = ("qstat", "-f", "-F", "json")
    # Without -x, too: where no history is kept, it is refused with exit code 0.
    find_command = ("qstat", "-f", "-F", "json")
    limits_command = ("qstat", "-Q", "-f", "-F", "json")
    limits_more = SERVER_COMMANDS
    job_id_pattern = JOB_ID
    batchspawner_class = "PBSSpawner"
    reserved_options = _RESERVED

    def directives(self, profile: JobRequest, cluster: ClusterSettings, *, session: str, comment: str) -> list[str]:
        """See Scheduler.directives.

        A reservation is a queue of its own. The account is ``-A``, PBS's accounting string, as it is for Torque and
        Moab; ``-P``, a project, is left to the profile's options. ``node_constraint`` are further resources of the
        chunk, as ``arch=linux:ib=True``. The script itself writes the log: PBS's comes only when the job has ended.
        """
        chunk = f"select=1:ncpus={profile.cores}:mem={qsub_size(profile.memory)}"
        if profile.gpus:
            chunk += f":ngpus={profile.gpus}"
        if profile.node_constraint:
            chunk += f":{profile.node_constraint}"
        found = [
            f"-N {job_name(session)}",
            f"-v {TAG}={comment}",
            f"-q {profile.reservation or profile.queue}",
            f"-l {chunk}",
            f"-l walltime={format_clock(seconds(profile.runtime))}",
            *EVERY_JOB,
        ]
        if profile.account:
            found.append(f"-A {profile.account}")
        return found + list(profile.options)

    def parse_submit(self, stdout: str) -> str:
        """``qsub`` prints the id, as ``123.server``, in its last line."""
        return last_line(self.job_id_pattern, stdout, "qsub")

    def parse_query(self, stdout: str) -> dict[str, Job]:
        """An answer without ``Jobs`` knows of none; it is the server's, and says so."""
        found = read_json(stdout, "qstat")
        jobs = found.get("Jobs", {})
        if "pbs_server" not in found or not isinstance(jobs, dict) or isinstance(jobs, Twice):
            raise Unanswered(f"qstat printed something else than was asked for: {stdout[:200]!r}")
        return {job_id: _job(job_id, raw) for job_id, raw in jobs.items()}

    def parse_find(self, job_id: str, code: int, stdout: str, stderr: str) -> Job | None:
        """A server without history does not know a finished job; one with it says that it has finished."""
        if unknown_job(job_id, code, stderr):
            return None
        number = re.escape(job_id.partition(".")[0])
        # Some servers' qstat, as NASA's, has the server's full name in its messages.
        if code and re.search(rf"^qstat: {number}(?:\.\S+)? Job has finished\b", stderr, re.MULTILINE):
            return Job(id=job_id, state=JobState.ENDED, detail="finished")
        if not code and (job := self.parse_query(stdout).get(job_id)):
            return job
        raise Unanswered(f"qstat says neither yes nor no (exit code {code}): {(stderr or stdout).strip()[:200]!r}")

    def parse_limits(self, stdout: str) -> list[QueueLimits]:
        """Of ``resources_max``, which is a job's; all of a session's job is on one node."""
        queues = read_json(queues_only(stdout), "qstat").get("Queue")
        if not isinstance(queues, dict):
            raise Unanswered(f"qstat printed no queues: {stdout[:200]!r}")
        found = []
        for name, queue in queues.items():
            raw = queue if isinstance(queue, dict) else {}
            most = raw.get("resources_max", {})
            most = {key: str(value) for key, value in most.items()} if isinstance(most, dict) else {}
            found.append(
                QueueLimits(
                    name=name,
                    cores=parse_whole(most.get("ncpus", "")),
                    memory=parse_size(most.get("mem", "")),
                    runtime=parse_clock(most.get("walltime", "")),
                    gpus=parse_whole(most.get("ngpus", "")),
                    open=(raw.get("enabled"), raw.get("started")) == ("True", "True"),
                )
            )
        return found

    def parse_privacy(self, stdout: str) -> tuple[str, str] | None:
        """By what ``qstat -B -f`` says of the server."""
        return hidden(stdout)

    def explain(self, reason: str) -> str:
        """A reason is the comment that the scheduler gives the job."""
        return plain(reason)
