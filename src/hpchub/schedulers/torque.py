"""Torque. Source: the administrator's guides of Torque 4.2 and 6.1, and adaptivecomputing/torque itself.

There: src/cmds/qstat.c (XML; the exit code is the error's last byte), src/include/pbs_error_db.h (15001, so 153:
unknown), src/server/stat_job.c (who sees a job), issue 357 (nothing at all where there are no jobs, until 6.0).

The hub's account has to see everybody's jobs: it is an operator, or the server has ``query_other_jobs = True``. Built
for NUMA, Torque calls the parts of one host ``HOST-0``, ``HOST-1``: where they are, ``node_hosts`` of the cluster says.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hpchub.schedulers.base import Job, JobState, QueueLimits, Scheduler, Unanswered, job_name
from hpchub.schedulers.options import LETTER, ReservedOptions
from hpchub.schedulers.parsing import read_xml
from hpchub.schedulers.pbs import (
    ATTRIBUTES_RESERVED,
    EVERY_JOB,
    JOB_ID,
    PENDING,
    QSUB_RESERVED,
    QUEUE_TABLE,
    RESOURCES_RESERVED,
    RUNNING,
    SERVER_COMMANDS,
    TAG,
    hidden,
    host,
    last_line,
    plain,
    qsub_size,
    queue_table,
    queues_only,
    tag,
    unknown_job,
)
from hpchub.units import format_clock, parse_clock, parse_size, parse_whole, seconds

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from hpchub.schedulers.request import ClusterSettings, JobRequest

_STATES = PENDING | RUNNING | dict.fromkeys("EC", JobState.ENDED)
_DETAILS = {
    "C": "completed",
    "E": "exiting",
    "H": "held",
    "Q": "queued",
    "R": "running",
    "S": "suspended",
    "T": "in transit",
    "W": "waiting",
}


def _short(session: str) -> str:
    """15 characters, as many as a name had in Torque's old versions; the session is in the job's variables."""
    return job_name(session)[:15]


def _job(element: Element) -> Job:
    fields = [child.tag for child in element]
    told = {child.tag: (child.text or "").strip() for child in element if fields.count(child.tag) == 1}
    letter = told.get("job_state", "")
    state = _STATES.get(letter, JobState.UNKNOWN)
    name, comment = told.get("Job_Name", ""), tag(told.get("Variable_List", ""))
    session = comment.rpartition("/")[2]
    return Job(
        id=told.get("Job_Id", ""),
        state=state,
        detail=_DETAILS.get(letter, letter),
        reason=told.get("comment", "").removeprefix("Not Running: ") if state is JobState.PENDING else "",
        host=host(told.get("exec_host", "")),
        name=job_name(session) if name == _short(session) else name,
        user=told.get("Job_Owner", "").partition("@")[0],
        comment=comment,
    )


# Of Moab, to which Torque hands them on: a session is never started a second time.
_AGAIN = {"resfailpolicy": "", "restartable": ""}

RESERVED = ReservedOptions(
    long={},
    short=QSUB_RESERVED | dict.fromkeys("DPTbdtwx", "") | {"L": "cores"},
    words={
        "l": RESOURCES_RESERVED
        | {"epilogue": "", "feature": "node_constraint", "gpus": "gpus", "procct": "cores", "prologue": ""}
        | _AGAIN,
        "W": ATTRIBUTES_RESERVED | _AGAIN,
    },
    form=LETTER,
    example="[-l qos=high, -m n]",
)


class Torque(Scheduler):
    """Torque's words."""

    name = "torque"
    submit_command = ("qsub",)
    cancel_command = ("qdel",)
    query_command = ("qstat", "-x")
    find_command = ("qstat", "-x")
    limits_command = ("qstat", "-Q", "-f")
    limits_more = (QUEUE_TABLE, *SERVER_COMMANDS)
    job_id_pattern = JOB_ID
    batchspawner_class = "TorqueSpawner"
    reserved_options = RESERVED

    def directives(self, profile: JobRequest, cluster: ClusterSettings, *, session: str, comment: str) -> list[str]:
        """See Scheduler.directives.

        A reservation is one of Maui's or Moab's. ``node_constraint`` are properties of the node, as ``ib:bigmem``. The
        script itself writes the log: Torque's comes only when the job has ended.
        """
        nodes = f"nodes=1:ppn={profile.cores}"
        if profile.gpus:
            nodes += f":gpus={profile.gpus}"
        if profile.node_constraint:
            nodes += f":{profile.node_constraint}"
        found = [
            f"-N {_short(session)}",
            f"-v {TAG}={comment}",
            f"-q {profile.queue}",
            f"-l {nodes}",
            f"-l mem={qsub_size(profile.memory)}",
            f"-l walltime={format_clock(seconds(profile.runtime))}",
            *EVERY_JOB,
        ]
        if profile.account:
            found.append(f"-A {profile.account}")
        if profile.reservation:
            found.append(f"-W x=FLAGS:ADVRES:{profile.reservation}")
        return found + list(profile.options)

    def parse_submit(self, stdout: str) -> str:
        """``qsub`` prints the id, as ``123.server``, in its last line."""
        return last_line(self.job_id_pattern, stdout, "qsub")

    def parse_query(self, stdout: str) -> dict[str, Job]:
        """``qstat -x`` prints nothing at all where there are no jobs."""
        if not stdout.strip():
            return {}
        data = read_xml(stdout, "qstat")
        jobs = [_job(element) for element in data]
        found = {job.id: job for job in jobs}
        if data.tag != "Data" or {element.tag for element in data} - {"Job"} or "" in found or len(found) < len(jobs):
            raise Unanswered(f"qstat printed something else than was asked for: {stdout[:200]!r}")
        return found

    def parse_find(self, job_id: str, code: int, stdout: str, stderr: str) -> Job | None:
        """A completed job is known for ``keep_completed`` seconds."""
        if unknown_job(job_id, code, stderr):
            return None
        if not code and (job := self.parse_query(stdout).get(job_id)):
            return job
        raise Unanswered(f"qstat says neither yes nor no (exit code {code}): {(stderr or stdout).strip()[:200]!r}")

    def parse_limits(self, stdout: str) -> list[QueueLimits]:
        """A paragraph a queue, ``Queue: NAME`` and then ``    NAME = VALUE``; a job's most is in ``resources_max``."""
        text, table = queue_table(queues_only(stdout))
        found = []
        for paragraph in re.split(r"^Queue: ", text, flags=re.MULTILINE)[1:]:
            name, _, rest = paragraph.partition("\n")
            told = dict(re.findall(r"^ +([\w.]+) = (.*?) *$", rest, flags=re.MULTILINE))
            is_whole = all(re.fullmatch(r" +[\w.]+ = .*|\t.*|", line) for line in rest.splitlines())
            if not is_whole or not {told.get("enabled"), told.get("started")} <= {"True", "False"}:
                raise Unanswered(f"qstat printed a queue that is not complete: {paragraph[-200:]!r}")
            ppn = re.search(r"ppn=([0-9]+)", told.get("resources_max.nodes", ""))
            found.append(
                QueueLimits(
                    name=name.strip(),
                    cores=parse_whole(ppn[1] if ppn else told.get("resources_max.ncpus", "")),
                    memory=parse_size(told.get("resources_max.mem", "")),
                    runtime=parse_clock(told.get("resources_max.walltime", "")),
                    open=(told.get("enabled"), told.get("started")) == ("True", "True"),
                )
            )
        if not found:
            raise Unanswered(f"qstat printed no queues: {stdout[:200]!r}")
        if table is not None and table.keys() != {limits.name[:15] for limits in found}:
            raise Unanswered(f"qstat -Q -f and qstat -Q show other queues: {stdout[-200:]!r}")
        return found

    def parse_privacy(self, stdout: str) -> tuple[str, str] | None:
        """By what ``qstat -B -f`` says of the server."""
        return hidden(stdout)

    def explain(self, reason: str) -> str:
        """A reason is the comment that the scheduler gives the job."""
        return plain(reason)
