"""Torque.

Sources: the administrator's guides of Torque 4.2 and 6.1, and these parts of adaptivecomputing/torque:

- src/cmds/qstat.c: the XML output. The exit code is the last byte of the error number.
- src/include/pbs_error_db.h: error 15001, exit code 153, for an unknown job.
- src/server/stat_job.c: the users who may see a job.
- Issue 357: until version 6.0, qstat prints nothing if there are no jobs.

The hub's account must see the jobs of all users. Either it is an operator, or the server has
``query_other_jobs = True``. If Torque is built for NUMA, it divides a host into the nodes ``HOST-0`` and ``HOST-1``.
``node_hosts`` of the cluster maps them to the host.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hpchub.gpus import gpu_type
from hpchub.schedulers.base import Job, JobState, QueueLimits, Scheduler, Unanswered, job_name
from hpchub.schedulers.endings import OWNER, Cause, Ending
from hpchub.schedulers.options import LETTER, ReservedOptions
from hpchub.schedulers.parsing import SHOWN, inconclusive
from hpchub.schedulers.pbs import (
    ATTRIBUTES_RESERVED,
    COMMON_OPTIONS,
    JOB_ID,
    PENDING,
    QSUB_RESERVED,
    QUEUE_TABLE,
    REASONS,
    REFUSALS,
    RESOURCES_RESERVED,
    RUNNING,
    SERVER_COMMANDS,
    TAG_VARIABLE,
    ending_by_usage,
    first_host,
    is_unknown_job,
    known_amounts,
    least_of,
    most_of,
    qsub_size,
    queue_rules,
    read_job_id,
    read_owner,
    read_tag,
    server_limits,
    server_privacy,
    split_queue_table,
    waiting_reason,
    without_server,
)
from hpchub.schedulers.pbs_knowledge import TorqueKnowledge
from hpchub.schedulers.records import jobs_by_id, read_xml, read_xml_records, unreadable
from hpchub.units import format_clock, format_memory, mebibytes, parse_whole, seconds

if TYPE_CHECKING:
    from collections.abc import Sequence
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


def _short_name(session: str) -> str:
    """Return the name of a session's job, with 15 characters.

    Old versions of Torque permit no more. The job's variables contain the whole name of the session.
    """
    return job_name(session)[:15]


def _job(record: tuple[Element | None, str]) -> Job:
    element, raw = record
    if element is None:
        ids = re.findall(r"<Job_Id>([^<>]+)</Job_Id>", raw)
        return unreadable(ids[0].strip() if len(ids) == 1 else "", raw)
    fields = [child.tag for child in element]
    values = {child.tag: (child.text or "").strip() for child in element if fields.count(child.tag) == 1}
    letter = values.get("job_state", "")
    if not letter or "Job_Owner" not in values:
        return unreadable(values.get("Job_Id", ""), element)
    state = _STATES.get(letter, JobState.UNKNOWN)
    name, comment = values.get("Job_Name", ""), read_tag(values.get("Variable_List", ""))
    session = comment.rpartition("/")[2]
    return Job(
        id=values.get("Job_Id", ""),
        state=state,
        detail=_DETAILS.get(letter, letter),
        reason=waiting_reason(letter, values.get("comment", ""), values.get("Hold_Types", ""))
        if state is JobState.PENDING
        else "",
        host=first_host(values.get("exec_host", "")),
        name=job_name(session) if name == _short_name(session) else name,
        user=read_owner(values.get("Job_Owner", "")),
        comment=comment,
    )


# Torque passes these attributes to Moab, which would start the job a second time.
_RESTART = {"resfailpolicy": "", "restartable": ""}

RESERVED = ReservedOptions(
    long={},
    short=QSUB_RESERVED | dict.fromkeys("DPTbdtwx", "") | {"L": "cores"},
    words={
        "l": RESOURCES_RESERVED
        | {"epilogue": "", "feature": "node_constraint", "gpus": "gpus", "procct": "cores", "prologue": ""}
        | _RESTART,
        "W": ATTRIBUTES_RESERVED | _RESTART,
    },
    form=LETTER,
    example="[-l qos=high, -m n]",
)


EXACT_NODES = "NMATCHPOLICY:EXACTNODE"
"""The extension of a job with which Maui and Moab place each of its nodes on another host. Otherwise they may count
cores only. Without Maui or Moab, Torque does so by itself, and ignores the extension."""


def size_of_nodes(profile: JobRequest) -> str:
    """Return the memory of all nodes of a job together, as Torque and Moab count it."""
    if profile.nodes == 1:
        return qsub_size(profile.memory)
    return qsub_size(format_memory(profile.nodes * mebibytes(profile.memory)))


def extension_problem(options: Sequence[str]) -> tuple[str, str] | None:
    """Find an option that replaces ``EXACT_NODES`` in a job with several nodes, because only the last one counts."""
    for option in options:
        if re.match(r"-W *(?:.*,)?x=", option):
            return (
                f"is more than one node, but the option {option!r} replaces the extension that distributes them",
                "remove the option, or write 1",
            )
    return None


def moab_reservation_problem(reservation: str) -> tuple[str, str] | None:
    """Check the name of a reservation of Maui or Moab. A colon or a comma would begin another flag or resource."""
    if re.fullmatch(r"[A-Za-z0-9_.@+-]+", reservation):
        return None
    return "is not the name of one reservation", "write letters, digits and _ . @ + -, or leave it empty"


_KILLED_BY_LIMIT = {-10: Cause.OUT_OF_MEMORY, -11: Cause.TIME_LIMIT}
"""Exit statuses of jobs that exceeded a limit ("Job exit status" in the administrator's guide)."""
_NODE_FAILED = (-4, -5, -6)
"""Exit statuses of jobs after their node restarted."""


class Torque(TorqueKnowledge, Scheduler):
    """Torque."""

    name = "torque"
    submit_command = ("qsub",)
    cancel_command = ("qdel",)
    query_command = ("qstat", "-x")
    find_command = ("qstat", "-x")
    limits_command = ("qstat", "-Q", "-f")
    limits_more = (QUEUE_TABLE, *SERVER_COMMANDS)
    # qstat knows a job for keep_completed seconds after its end. tracejob reads the logs of the server. It often works
    # only on the server's host, and only with the server's account.
    history_commands = (("qstat", "-x"), ("tracejob", "-q", "-n", "2"))
    job_id_pattern = JOB_ID
    batchspawner_class = "TorqueSpawner"
    dask_class = "PBSCluster"
    reserved_options = RESERVED
    reasons = REASONS
    refusals = tuple((pattern, fields[-1:]) for pattern, fields in REFUSALS)

    def directives(self, profile: JobRequest, cluster: ClusterSettings, *, session: str, comment: str) -> list[str]:
        """Return the options of qsub.

        A reservation and a quality of service are those of Maui or Moab. ``node_constraint`` is a list of node
        properties, for example ``ib:bigmem``. ``mem`` is the memory on all nodes together. The script writes the log
        itself, because Torque writes its log only after the job's end.
        """
        nodes = f"nodes={profile.nodes}:ppn={profile.cores}"
        if profile.gpus:
            nodes += f":gpus={profile.gpus}"
        if kind := gpu_type(profile.gpus):
            nodes += f":{kind}"
        if profile.node_constraint:
            nodes += f":{profile.node_constraint}"
        found = [
            f"-N {_short_name(session)}",
            f"-v {TAG_VARIABLE}={comment}",
            f"-q {profile.queue}",
            f"-l {nodes}",
            f"-l mem={size_of_nodes(profile)}",
            f"-l walltime={format_clock(seconds(profile.runtime))}",
            *COMMON_OPTIONS,
        ]
        if profile.account:
            found.append(f"-A {profile.account}")
        if profile.qos:
            found.append(f"-l qos={profile.qos}")
        extensions = [f"FLAGS:ADVRES:{profile.reservation}"] if profile.reservation else []
        if profile.nodes > 1:
            extensions.append(EXACT_NODES)
        if extensions:
            found.append(f"-W x={';'.join(extensions)}")
        return found + list(profile.options)

    def nodes_problem(self, cluster: ClusterSettings, *, gpus: int, options: Sequence[str]) -> tuple[str, str] | None:
        """Permit several nodes, unless an option replaces the extension that distributes them."""
        return extension_problem(options)

    def reservation_problem(self, reservation: str, cluster: ClusterSettings) -> tuple[str, str] | None:
        """Accept the name of one reservation, which cannot begin another flag or attribute of the job."""
        return moab_reservation_problem(reservation)

    def gpu_type_problem(self, gpu_type: str, cluster: ClusterSettings) -> tuple[str, str] | None:
        """Accept every type: a type is a property of nodes."""
        return None

    def parse_submit(self, stdout: str) -> str:
        """Return the job's id. qsub prints it in a line, for example ``123.server``."""
        return read_job_id(self.job_id_pattern, stdout, "qsub")

    def parse_query(self, stdout: str) -> dict[str, Job]:
        """Return all jobs. Some versions of ``qstat -x`` print nothing if there are none."""
        if not stdout.strip():
            return {}
        records = read_xml_records(stdout, "qstat", root="Data", record="Job")
        return jobs_by_id(map(_job, records), "qstat", stdout)

    def parse_find(self, job_id: str, code: int, stdout: str, stderr: str) -> Job | None:
        """Return a job, or None if the server does not know it.

        The server knows a job until ``keep_completed`` seconds after its end.
        """
        if is_unknown_job(job_id, code, stderr):
            return None
        if not code and (job := self.parse_query(stdout).get(job_id)):
            return job
        raise inconclusive("qstat", code, stdout, stderr)

    def parse_limits(self, stdout: str) -> list[QueueLimits]:
        """Return the queues. Each is a paragraph of ``Queue: NAME`` and lines ``    ATTRIBUTE = VALUE``.

        ``resources_max`` limits a job.
        """
        text, table = split_queue_table(without_server(stdout))
        found = []
        for paragraph in re.split(r"^Queue: ", text, flags=re.MULTILINE)[1:]:
            # A site's wrapper may print lines after the blank line at the end of a queue.
            name, _, rest = paragraph.partition("\n\n")[0].partition("\n")
            values = dict(re.findall(r"^ +([\w.]+) = (.*?) *$", rest, flags=re.MULTILINE))
            is_whole = all(re.fullmatch(r" +[\w.]+ = .*|\t.*|", line) for line in rest.splitlines())
            if not is_whole or not {values.get("enabled"), values.get("started")} <= {"True", "False"}:
                raise Unanswered(f"qstat printed an incomplete queue: {paragraph[-SHOWN:]!r}")
            values = server_limits(stdout) | values
            most = most_of(values)
            ppn = re.search(r"ppn=([0-9]+)", values.get("resources_max.nodes", ""))
            found.append(
                QueueLimits(
                    name=name.strip(),
                    cores=parse_whole(ppn[1]) if ppn else most["cores"],
                    memory=most["memory"],
                    runtime=most["runtime"],
                    open=(values.get("enabled"), values.get("started")) == ("True", "True"),
                    rules=queue_rules(values),
                    least=least_of(values),
                    of_job=known_amounts(most),
                )
            )
        if not found:
            raise Unanswered(f"qstat printed no queues: {stdout[:SHOWN]!r}")
        if table is not None and table.keys() != {limits.name[:15] for limits in found}:
            raise Unanswered(f"qstat -Q -f and qstat -Q list different queues: {stdout[-SHOWN:]!r}")
        return found

    def parse_privacy(self, stdout: str) -> tuple[str, str] | None:
        """Return how the server hides jobs, from the output of ``qstat -B -f``."""
        return server_privacy(stdout)

    def parse_history(self, job_id: str, stdout: str) -> Ending:
        """Return how a job ended, from the XML of qstat and the lines of tracejob that follow it."""
        document, end, log = stdout.partition("</Data>")
        jobs = [job for job in read_xml(document + end, "qstat") if job.findtext("Job_Id") == job_id] if end else []
        used, requested, owner, status = {}, {}, "", ""
        for job in jobs[:1]:
            used, requested = (
                {child.tag: (child.text or "").strip() for child in job.iterfind(f"{name}/*")}
                for name in ("resources_used", "Resource_List")
            )
            owner, status = job.findtext("Job_Owner", "").partition("@")[0], job.findtext("exit_status", "").strip()
        log = log if end else stdout
        if found := re.search(r" Exit_status=(-?[0-9]{1,5})\b", log):
            status = status or found[1]
        if found := re.search(r" Job deleted at request of ([^@\s]+)@", log):
            owner = owner or next(iter(re.findall(r"\buser=(\S+)", log)), "")
            return Ending(Cause.CANCELLED, by=OWNER if found[1] == owner else found[1])
        if not re.fullmatch(r"-?[0-9]{1,5}", status):
            raise Unanswered(f"qstat and tracejob do not show the end of job {job_id}: {stdout[:SHOWN]!r}")
        number = int(status)
        if number in _KILLED_BY_LIMIT:
            return Ending(_KILLED_BY_LIMIT[number], f"exit status {number}")
        if number in _NODE_FAILED:
            return Ending(Cause.NODE_LOST, f"exit status {number}")
        return ending_by_usage(number, used, requested)
