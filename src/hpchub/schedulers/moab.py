"""Moab Workload Manager. Source: the administrator's guides of Moab 7.2 and 9.1: msub, mdiag, checkjob, mjobctl.

Real answers: MatterMiners/tardis, tests/adapters_t/sites_t/test_moab.py; nextflow-io/nextflow issue 1224.

The hub's account has to see everybody's jobs: ``ADMINCFG[5] SERVICES=mdiag,checkjob USERS=...`` is enough.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hpchub.names import SESSION
from hpchub.schedulers.base import Job, JobState, QueueLimits, Scheduler, Unanswered, job_comment, job_name
from hpchub.schedulers.options import LETTER, ReservedOptions
from hpchub.schedulers.parsing import moment, read_xml
from hpchub.schedulers.pbs import EVERY_JOB, QUEUE_TABLE, host, last_line, qsub_size, queue_table
from hpchub.schedulers.torque import RESERVED as TORQUE_RESERVED
from hpchub.units import format_clock, parse_clock, parse_size, parse_whole, seconds

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from hpchub.schedulers.request import ClusterSettings, JobRequest

_PENDING = {
    "BatchHold",
    "Blocked",
    "Deferred",
    "Hold",
    "Idle",
    "Migrated",
    "NotQueued",
    "Staging",
    "Starting",
    "SystemHold",
    "UserHold",
}
_RUNNING = {"Running", "Suspended"}
# A job that is cancelled has been told to end, a vacated one has been, to be requeued or not.
_ENDED = {"Canceling", "Cancelling", "Completed", "Removed", "Vacated"}
_STATES = (
    dict.fromkeys(_PENDING, JobState.PENDING)
    | dict.fromkeys(_RUNNING, JobState.RUNNING)
    | dict.fromkeys(_ENDED, JobState.ENDED)
)

_REASONS = (
    ("idlepolicy", "you or your group have as many jobs in the queue as may be considered"),
    ("activepolicy", "you or your group use as much as you may"),
    ("maxjob", "you or your group run as many jobs as you may"),
    ("maxproc", "you or your group use as many cores as you may"),
    ("batchhold", "the scheduler holds it: it could not be started"),
    ("systemhold", "an administrator holds it"),
    ("userhold", "it is held"),
    ("depend", "it waits for another job"),
    ("starttime", "its start time has not come"),
    ("startdate", "its start time has not come"),
    ("noresources", "no node has enough of what it needs free right now"),
    ("reservation", "a reservation keeps the nodes that it needs"),
    ("queue", "the queue is closed"),
)


def _job(element: Element) -> Job:
    told = {name: value.strip() for name, value in element.attrib.items()}
    for request in element.findall("req")[:1]:
        told.setdefault("AllocNodeList", request.get("AllocNodeList", ""))
    word = told.get("State", "")
    state = _STATES.get(word, JobState.UNKNOWN)
    user, name, comment = told.get("User", ""), told.get("JobName", ""), ""
    if found := re.fullmatch(rf"(hpchub-({SESSION}))\.(.+)", name):
        name, comment = found[1], job_comment(found[3], user, found[2])
    hold, reason = told.get("Hold", ""), told.get("BlockReason", "")
    waits = state is JobState.PENDING
    nodes = told.get("AllocNodeList") or told.get("MasterHost", "")
    global_id = told.get("GJID", "")
    return Job(
        # Once its resource manager has it, a job called Moab.7 may go by the resource manager's number.
        id=global_id if "." in global_id else told.get("JobID", ""),
        state=state,
        detail=word,
        reason=(reason or (f"{hold}Hold" if hold else "")) if waits else "",
        host="" if waits else host(nodes.split(",")[0]),
        start=moment(told.get("EstRsvStartTime") or told.get("RsvStartTime", "")) if waits else "",
        name=name,
        user=user,
        comment=comment,
    )


_RESERVED = ReservedOptions(
    long={},
    short=TORQUE_RESERVED.short | {"s": ""},
    words={
        "l": TORQUE_RESERVED.words["l"]
        | {
            "advres": "reservation",
            "dmem": "memory",
            "template": "",
            "tpn": "cores",
            "trigger": "",
            "trig": "",
            "ttc": "cores",
            "wclimit": "runtime",
        },
        "W": TORQUE_RESERVED.words["W"] | {"trig": "", "trigger": ""},
    },
    form=LETTER,
    example="[-l qos=high, -m n]",
)


class Moab(Scheduler):
    """Moab's words, over Torque or PBS."""

    name = "moab"
    submit_command = ("msub",)
    cancel_command = ("mjobctl", "-c")
    query_command = ("mdiag", "-j", "--xml")
    # mdiag does not show completed jobs, and checkjob does, for JOBCPURGETIME.
    find_command = ("checkjob",)
    limits_command = ("mdiag", "-c")
    # Moab does not say which classes are closed. The queues of the Torque or PBS below it are its classes.
    limits_more = (QUEUE_TABLE,)
    # Its programs may answer of a memory that is renewed every 30 seconds ("has been cached by the remote server"), and
    # say until then that there is no such job.
    propagation = 90.0
    job_id_pattern = r"(?:[A-Za-z][A-Za-z0-9_-]{0,63}\.)?[0-9]+"
    batchspawner_class = "MoabSpawner"
    reserved_options = _RESERVED

    def directives(self, profile: JobRequest, cluster: ClusterSettings, *, session: str, comment: str) -> list[str]:
        """See Scheduler.directives.

        What mdiag shows of a job to somebody else is its name: it says the hub and the session, its owner the rest.
        ``-E`` tells the script the id that Moab gave the job, which is not the resource manager's. ``node_constraint``
        are features, as ``ib:bigmem`` for all of them or ``ib|opa`` for any.
        """
        found = [
            f"-N {job_name(session)}.{comment.split('/')[1]}",
            f"-q {profile.queue}",
            f"-l nodes=1:ppn={profile.cores}{f':gpus={profile.gpus}' if profile.gpus else ''}",
            f"-l mem={qsub_size(profile.memory)}",
            f"-l walltime={format_clock(seconds(profile.runtime))}",
            *EVERY_JOB,
            "-E",
        ]
        if profile.account:
            found.append(f"-A {profile.account}")
        if profile.reservation:
            found.append(f"-l advres={profile.reservation}")
        if profile.node_constraint:
            found.append(f"-l feature={profile.node_constraint}")
        return found + list(profile.options)

    def parse_submit(self, stdout: str) -> str:
        """``msub`` prints an empty line and the id, as ``123`` or ``Moab.123``."""
        return last_line(self.job_id_pattern, stdout, "msub")

    def parse_query(self, stdout: str) -> dict[str, Job]:
        """One element a job, in ``Data``; perhaps nothing at all where there are no jobs."""
        if not stdout.strip():
            return {}
        data = read_xml(stdout, "mdiag")
        jobs = [_job(element) for element in data.iter("job")]
        found = {job.id: job for job in jobs}
        if data.tag != "Data" or data.find(".//Error") is not None or "" in found or len(found) < len(jobs):
            raise Unanswered(f"mdiag printed something else than was asked for: {stdout[:200]!r}")
        return found

    def parse_find(self, job_id: str, code: int, stdout: str, stderr: str) -> Job | None:
        """``checkjob`` prints a paragraph of ``Name: value`` lines, or says that the job is none."""
        said = f"{stdout}\n{stderr}"
        if re.search(rf"^ERROR: +invalid job specified(?:[ :(']+{re.escape(job_id)}[)']*)?\s*$", said, re.MULTILINE):
            return None
        named = re.search(r"^(?:checking )?job (\S+)", stdout, re.MULTILINE)
        word = re.search(r"^State: (\S+)", stdout, re.MULTILINE)
        if code or named is None or named[1] != job_id or word is None:
            raise Unanswered(f"checkjob says neither yes nor no (exit code {code}): {said.strip()[:200]!r}")
        nodes = re.search(r"^Allocated Nodes:\s*\[([^\]:]+)", stdout, re.MULTILINE)
        return Job(
            id=job_id,
            state=_STATES.get(word[1], JobState.UNKNOWN),
            detail=word[1],
            host=nodes[1] if nodes else "",
        )

    def parse_limits(self, stdout: str) -> list[QueueLimits]:
        """A line a class that begins with its name, and lines behind it with what it limits, as ``MAX.WCLIMIT=…``."""
        text, table = queue_table(stdout)
        _, heading, rest = text.partition("ClassID")
        classes: dict[str, str] = {}
        name = ""
        for line in rest.splitlines()[1:]:
            if line[:1].strip():
                name = line.split()[0]
                classes[name] = line
            elif name:
                classes[name] += line
        if not heading:
            raise Unanswered(f"mdiag printed no classes: {stdout[:200]!r}")
        is_open = {name: each for name, (kind, each) in (table or {}).items() if kind == "E"}
        if lacking := is_open.keys() - {name[:15] for name in classes}:
            raise Unanswered(f"mdiag shows no class {min(lacking)}, which is a queue: {stdout[:200]!r}")
        found = []
        for name, text in classes.items():
            # With a dot or PER it is a job's; what all jobs of a class may have at once goes by MAXPROC and the like.
            most = dict(re.findall(r"\bMAX\.?((?<=\.)[A-Z]+|PROCPER[A-Z]+)(?:\[[^\]]*\])?=(\S+)", text))
            # Of a soft and a hard limit, as 16,32, the hard one.
            most = {limit: value.rpartition(",")[2] for limit, value in most.items()}
            cores = [parse_whole(most.get(limit, "")) for limit in ("PROC", "PROCPERJOB", "PROCPERNODE")]
            if name != "DEFAULT":
                found.append(
                    QueueLimits(
                        name=name,
                        cores=min((number for number in cores if number is not None), default=None),
                        memory=parse_size(f"{most.get('MEM', '')}m"),
                        runtime=parse_clock(most.get("WCLIMIT", "")),
                        open=is_open.get(name[:15], True),
                    )
                )
        return found

    def explain(self, reason: str) -> str:
        """A reason is Moab's block reason, as ``IdlePolicy:job 7 violates idle HARD MAXIPROC limit of 16 …``."""
        return next((words for part, words in _REASONS if part in reason.lower()), reason)
