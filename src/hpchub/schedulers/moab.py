"""Moab Workload Manager.

Sources: msub, mdiag, checkjob and mjobctl in the administrator's guides of Moab 7.2 and 9.1.

Output of real servers: MatterMiners/tardis, tests/adapters_t/sites_t/test_moab.py; nextflow-io/nextflow, issue 1224.

The hub's account must see the jobs of all users. ``ADMINCFG[5] SERVICES=mdiag,checkjob USERS=...`` is sufficient.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hpchub.gpus import gpu_type
from hpchub.names import SESSION
from hpchub.schedulers.base import Job, JobState, QueueLimits, QueueRules, Scheduler, Unanswered, job_comment, job_name
from hpchub.schedulers.endings import Cause, Ending, at_limit, ending_of_status
from hpchub.schedulers.options import LETTER, ReservedOptions
from hpchub.schedulers.parsing import (
    SHOWN,
    inconclusive,
    parse_time,
    unexpected_output,
)
from hpchub.schedulers.pbs import (
    COMMON_OPTIONS,
    QUEUE_TABLE,
    first_host,
    read_job_id,
    split_queue_table,
)
from hpchub.schedulers.reasons import (
    ASK_FOR_TIME,
    DEPENDENCY,
    HOLD,
    HOLD_ADMIN,
    LAUNCH_FAILED,
    LIMIT_REACHED,
    NO_ACCESS,
    NO_FREE_NODE,
    NOT_CONSIDERED,
    PREPARING,
    PRIORITY,
    QUEUE_CLOSED,
    RESERVATION,
    START_TIME,
    TELL,
    TOO_LARGE,
    UNSATISFIABLE,
    Outlook,
    Reason,
)
from hpchub.schedulers.records import jobs_by_id, read_xml_records, unreadable
from hpchub.schedulers.torque import EXACT_NODES, extension_problem, moab_reservation_problem, size_of_nodes
from hpchub.schedulers.torque import RESERVED as TORQUE_RESERVED
from hpchub.units import format_clock, parse_clock, parse_size, parse_whole, seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
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
# A job that is being cancelled has received the signal to end. A vacated job has ended, although Moab may requeue it.
_ENDED = {"Canceling", "Cancelling", "Completed", "Removed", "Vacated"}
_STATES = (
    dict.fromkeys(_PENDING, JobState.PENDING)
    | dict.fromkeys(_RUNNING, JobState.RUNNING)
    | dict.fromkeys(_ENDED, JobState.ENDED)
)

_REASONS: tuple[tuple[str, Reason], ...] = (
    # Whatever the reason, a deferred job is tried again, and nobody but an administrator releases a batch hold.
    (r"^defer", Reason("your job could not be started, and the scheduler will try again later")),
    (
        r"^batchhold",
        Reason("the scheduler has put your job on hold, because it could not be started", Outlook.NEVER, TELL),
    ),
    (r"idlepolicy", Reason("you or your group already have as many waiting jobs as the scheduler considers")),
    (r"activepolicy", Reason("you or your group already use as much as you may use")),
    (r"hardpolicy|violates .*(?:per ?job|maxwc|max\.|class config)", TOO_LARGE),
    (r"maxjob", Reason("you or your group already have as many running jobs as you may have")),
    (r"maxproc", Reason("you or your group already use as many cores as you may use")),
    (r"system ?limits?|exceeds .*limit", TOO_LARGE),
    (r"policy ?violation|throttl", LIMIT_REACHED),
    (
        r"bank ?failure|no ?funds|allocation|insufficient funds|cannot debit",
        Reason("your project has used up its computing time", Outlook.WAITS_FOR_PERSON, ASK_FOR_TIME),
    ),
    (r"rm ?failure|rm ?reject|node ?failure|run ?failure|launch", LAUNCH_FAILED),
    (r"systemhold", HOLD_ADMIN),
    (r"userhold|jobhold|^hold", HOLD),
    (r"data ?stag|staging", PREPARING),
    (r"depend", DEPENDENCY),
    (r"starttime|startdate|releasetime|not reached", START_TIME),
    (r"qos ?(?:not|access)|credential|no ?access|access ?denied|not authorized", NO_ACCESS),
    (r"noclass|class .*not|partition ?access|feature|no ?match", UNSATISFIABLE),
    (r"noresources|no ?resource|insufficient|not ?enough|notimefree|no ?time", NO_FREE_NODE),
    (r"reservation|rsv", RESERVATION),
    (r"priority|fairshare", PRIORITY),
    (r"queue|class", QUEUE_CLOSED),
    (r"state|nonidle|eligib", NOT_CONSIDERED),
)


def _job(record: tuple[Element | None, str]) -> Job:
    element, raw = record
    if element is None:
        ids = dict(re.findall(r'\s(GJID|JobID)="([A-Za-z0-9_.\[\]-]+)"', raw))
        return unreadable(_job_id(ids) if raw.count(" JobID=") == 1 else "", raw)
    values = {name: value.strip() for name, value in element.attrib.items()}
    for request in element.findall("req")[:1]:
        values.setdefault("AllocNodeList", request.get("AllocNodeList", ""))
    word = values.get("State", "")
    state = _STATES.get(word, JobState.UNKNOWN)
    user, name, comment = values.get("User", ""), values.get("JobName", ""), ""
    if found := re.fullmatch(rf"(hpchub-({SESSION}))\.(.+)", name):
        name, comment = found[1], job_comment(found[3], user, found[2])
    hold, reason = values.get("Hold", ""), values.get("BlockReason", "")
    waits = state is JobState.PENDING
    nodes = values.get("AllocNodeList") or values.get("MasterHost", "")
    priority = values.get("StartPriority", "")
    return Job(
        id=_job_id(values),
        state=state,
        detail=word,
        reason=(reason or (f"{hold}Hold" if hold else "")) if waits else "",
        host="" if waits else first_host(nodes.split(",")[0]),
        start=parse_time(values.get("EstRsvStartTime") or values.get("RsvStartTime", "")) if waits else "",
        name=name,
        user=user,
        comment=comment,
        queue=values.get("Class", ""),
        priority=float(priority) if waits and re.fullmatch(r"-?[0-9]{1,12}", priority) else None,
    )


def _rules(text: str) -> QueueRules:
    """Return which jobs a class accepts, from lists like ``REQUIREDUSERLIST=ann,bob``."""
    lists = {
        name: tuple(each for each in re.split(r"[,:+]", words.strip("[]")) if each)
        for name, words in re.findall(
            r"\b((?:REQ(?:UIRED)?|EXCL(?:UDED?)?)\.?(?:USER|ACCOUNT|GROUP|QOS)LIST)=(\S+)", text
        )
    }

    def of(kind: str, *words: str) -> tuple[str, ...] | None:
        return next((lists[name] for name in lists if name.startswith(words) and kind in name), None)

    denied = [*(of("USER", "EXCL") or ()), *(of("GROUP", "EXCL") or ())]
    never = ""
    if zero := re.search(r"\bMAX(?:\.?NODE|JOB)(?:\[[^\]]*\])?=(?:[0-9]+,)?0(?=\s|$)", text):
        never = f"it permits no jobs ({zero[0]})"
    return QueueRules(
        never=never,
        qos=of("QOS", "REQ"),
        denied_qos=of("QOS", "EXCL") or (),
        accounts=of("ACCOUNT", "REQ"),
        denied_accounts=of("ACCOUNT", "EXCL") or (),
        users=of("USER", "REQ"),
        groups=of("GROUP", "REQ"),
        denied=tuple(denied),
        min_nodes=max(1, int(least[1])) if (least := re.search(r"\bMIN\.NODE=([0-9]{1,6})\b", text)) else 1,
        max_nodes=int(most[1]) if (most := re.search(r"\bMAX\.NODE=([0-9]{1,6})\b", text)) else None,
    )


def _least(text: str) -> dict[str, int]:
    """Return the smallest job of a class, from limits like ``MIN.PROC=4``."""
    limits = dict(re.findall(r"\bMIN\.(PROC|MEM|WCLIMIT)=(\S+)", text))
    found = {
        "cores": parse_whole(limits.get("PROC", "")),
        "memory": parse_size(f"{limits.get('MEM', '')}m"),
        "runtime": parse_clock(limits.get("WCLIMIT", "")),
    }
    return {name: number for name, number in found.items() if number}


def _job_id(values: Mapping[str, str]) -> str:
    """Return a job's id. When the resource manager has accepted the job Moab.7, JobID may be its number there."""
    global_id = values.get("GJID", "")
    return global_id if "." in global_id else values.get("JobID", "")


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
    """Moab Workload Manager, on top of Torque or PBS."""

    name = "moab"
    submit_command = ("msub",)
    cancel_command = ("mjobctl", "-c")
    query_command = ("mdiag", "-j", "--xml")
    # mdiag does not show completed jobs. checkjob shows them until JOBCPURGETIME after their end.
    find_command = ("checkjob",)
    history_commands = (("checkjob", "-v"),)
    limits_command = ("mdiag", "-c")
    # mdiag does not show which classes are closed. The classes are the queues of Torque or PBS.
    limits_more = (QUEUE_TABLE,)
    # Moab's programs may answer from a cache, which Moab refreshes every 30 seconds ("has been cached by the remote
    # server"). Until then, they report that a new job does not exist.
    propagation = 90.0
    job_id_pattern = r"(?:[A-Za-z][A-Za-z0-9_-]{0,63}\.)?[0-9]+"
    batchspawner_class = "MoabSpawner"
    dask_class = "MoabCluster"
    reserved_options = _RESERVED
    reasons = _REASONS

    def directives(self, profile: JobRequest, cluster: ClusterSettings, *, session: str, comment: str) -> list[str]:
        """Return the options of msub.

        mdiag shows the job's name and owner to other accounts, but no comment. Therefore the name contains the session
        and the hub. ``-E`` passes the job's id in Moab to the script, because it differs from the id in the resource
        manager. ``node_constraint`` is a list of features, for example ``ib:bigmem`` for all of them, or ``ib|opa`` for
        any of them.
        """
        found = [
            f"-N {job_name(session)}.{comment.split('/')[1]}",
            f"-q {profile.queue}",
            f"-l nodes={profile.nodes}:ppn={profile.cores}{f':gpus={profile.gpus}' if profile.gpus else ''}",
            f"-l mem={size_of_nodes(profile)}",
            f"-l walltime={format_clock(seconds(profile.runtime))}",
            *COMMON_OPTIONS,
            "-E",
        ]
        if profile.account:
            found.append(f"-A {profile.account}")
        if profile.qos:
            found.append(f"-l qos={profile.qos}")
        if profile.reservation:
            found.append(f"-l advres={profile.reservation}")
        if profile.nodes > 1:
            found.append(f"-W x={EXACT_NODES}")
        features = [each for each in (gpu_type(profile.gpus), profile.node_constraint) if each]
        if features:
            found.append(f"-l feature={':'.join(features)}")
        return found + list(profile.options)

    def nodes_problem(self, cluster: ClusterSettings, *, gpus: int, options: Sequence[str]) -> tuple[str, str] | None:
        """Permit several nodes, unless an option replaces the extension that distributes them."""
        return extension_problem(options)

    def reservation_problem(self, reservation: str, cluster: ClusterSettings) -> tuple[str, str] | None:
        """Accept the name of one reservation, which cannot begin another resource of the job."""
        return moab_reservation_problem(reservation)

    def gpu_type_problem(self, gpu_type: str, cluster: ClusterSettings) -> tuple[str, str] | None:
        """Accept every type: a type is a feature of nodes."""
        return None

    def parse_submit(self, stdout: str) -> str:
        """Return the job's id. msub prints an empty line and the id, for example ``123`` or ``Moab.123``."""
        return read_job_id(self.job_id_pattern, stdout, "msub")

    def parse_query(self, stdout: str) -> dict[str, Job]:
        """Return all jobs, one element each in ``Data``. If there are none, mdiag may print nothing."""
        if not stdout.strip():
            return {}
        records = read_xml_records(stdout, "mdiag", root="Data", record="job")
        if not records and "<Error" in stdout:
            raise unexpected_output("mdiag", stdout)
        return jobs_by_id(map(_job, records), "mdiag", stdout)

    def parse_find(self, job_id: str, code: int, stdout: str, stderr: str) -> Job | None:
        """Return a job from the lines ``Name: value`` of checkjob, or None for the message that the job is invalid."""
        output = f"{stdout}\n{stderr}"
        if re.search(rf"^ERROR: +invalid job specified(?:[ :(']+{re.escape(job_id)}[)']*)?\s*$", output, re.MULTILINE):
            return None
        named = re.search(r"^(?:checking )?job (\S+)", stdout, re.MULTILINE)
        word = re.search(r"^State: (\S+)", stdout, re.MULTILINE)
        if code or named is None or named[1] != job_id or word is None:
            raise inconclusive("checkjob", code, output, "")
        nodes = re.search(r"^Allocated Nodes:\s*\[([^\]:]+)", stdout, re.MULTILINE)
        return Job(
            id=job_id,
            state=_STATES.get(word[1], JobState.UNKNOWN),
            detail=word[1],
            host=nodes[1] if nodes else "",
        )

    def parse_limits(self, stdout: str) -> list[QueueLimits]:
        """Return the classes. Each is a line that starts with its name, and lines of limits like ``MAX.WCLIMIT=…``."""
        text, table = split_queue_table(stdout)
        _, heading, rest = text.partition("ClassID")
        classes: dict[str, str] = {}
        name = ""
        for line in rest.splitlines()[1:]:
            if line[:1].strip():
                # A site's wrapper may print lines after the classes. The second column of a class is a number.
                name = line.split()[0] if re.match(r"\S+\s+-?[0-9]+\s", line) else ""
                classes |= {name: line} if name else {}
            elif name:
                classes[name] += line
        if not heading:
            raise Unanswered(f"mdiag printed no classes: {stdout[:SHOWN]!r}")
        # E is an execution queue. Other queues pass jobs on, and are not classes.
        open_queues = {name: is_open for name, (kind, is_open) in (table or {}).items() if kind == "E"}
        if missing := open_queues.keys() - {name[:15] for name in classes}:
            raise Unanswered(f"mdiag printed no class for the queue {min(missing)}: {stdout[:SHOWN]!r}")
        found = []
        for name, text in classes.items():
            # Names with a dot or PER limit one job. MAXPROC limits all jobs of the class together, so each of them too.
            limits = dict(re.findall(r"\bMAX\.?((?<=\.)[A-Z]+|PROCPER[A-Z]+|PROC)(?:\[[^\]]*\])?=(\S+)", text))
            # 16,32 is a soft and a hard limit. The hard limit applies.
            limits = {limit: value.rpartition(",")[2] for limit, value in limits.items()}
            cores = [parse_whole(limits.get(limit, "")) for limit in ("PROC", "PROCPERJOB", "PROCPERNODE")]
            of_job = [number for number in cores[:2] if number is not None]
            if name != "DEFAULT":
                found.append(
                    QueueLimits(
                        name=name,
                        cores=min((number for number in cores if number is not None), default=None),
                        memory=parse_size(f"{limits.get('MEM', '')}m"),
                        runtime=parse_clock(limits.get("WCLIMIT", "")),
                        open=open_queues.get(name[:15], True),
                        rules=_rules(text),
                        least=_least(text),
                        of_job={"cores": min(of_job)} if of_job else {},
                    )
                )
        return found

    def parse_history(self, job_id: str, stdout: str) -> Ending:
        """Return how a job ended, from the lines of ``checkjob -v``."""
        named = re.search(r"^(?:checking )?job (\S+)", stdout, re.MULTILINE)
        word = re.search(r"^State: (\S+)", stdout, re.MULTILINE)
        if named is None or named[1] != job_id or word is None or word[1] not in ("Completed", "Removed", "Vacated"):
            raise Unanswered(f"checkjob does not show the end of job {job_id}: {stdout[:SHOWN]!r}")
        clock = re.search(r"^WallTime: +(\S+) of (\S+)", stdout, re.MULTILINE)
        limit_reached = clock and at_limit(parse_clock(clock[1]), parse_clock(clock[2]))
        if limit_reached or re.search(r"exceeded (?:wc|wallclock|walltime) ?limit", stdout, re.IGNORECASE):
            return Ending(Cause.TIME_LIMIT, word[1])
        code = re.search(r"^Completion Code: (CNCLD)?\(?(-?[0-9]{1,5})?", stdout, re.MULTILINE)
        if word[1] == "Removed" or (code and code[1]):
            return Ending(Cause.CANCELLED, word[1])
        if word[1] == "Vacated":
            return Ending(Cause.PREEMPTED, word[1])
        return ending_of_status(int(code[2])) if code and code[2] else Ending(Cause.UNKNOWN, word[1])
