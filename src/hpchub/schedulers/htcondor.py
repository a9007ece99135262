"""HTCondor.

Sources: condor_submit, condor_q, condor_rm and the job ClassAd attributes in the manual of version 23.0.

The batch script is a submit description. The job's ClassAd has the attribute ``HpchubTag``, which corresponds to the
comment in other schedulers, and the attribute ``HpchubQueue``. A pool has no queues, so the administrator of the pool
decides what a queue means. For example, the machines of a queue can have
``START = TARGET.HpchubQueue =?= "interactive"``.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from hpchub.gpus import gpu_type
from hpchub.names import SESSION
from hpchub.schedulers.base import Job, JobState, QueueLimits, QueueRules, Scheduler, Unanswered, job_name
from hpchub.schedulers.endings import OWNER, Cause, Ending, ending_of_status, signal_name
from hpchub.schedulers.htcondor_knowledge import HTCondorKnowledge
from hpchub.schedulers.knowledge import ANY_QUEUE
from hpchub.schedulers.options import VALUE, ReservedOptions
from hpchub.schedulers.parsing import SHOWN, DuplicateKeys, find_job_id, inconclusive
from hpchub.schedulers.reasons import (
    CHOOSE_ANOTHER,
    HOLD,
    LAUNCH_FAILED,
    LICENCES,
    LIMIT_REACHED,
    NO_ACCESS,
    NO_FREE_NODE,
    PREPARING,
    PRIORITY,
    TOO_LARGE,
    Outlook,
    Reason,
)
from hpchub.schedulers.records import Record, jobs_by_id, read_json_records, unreadable
from hpchub.units import mebibytes, seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpchub.schedulers.request import ClusterSettings, JobRequest

_STATES = {
    1: ("IDLE", JobState.PENDING),
    2: ("RUNNING", JobState.RUNNING),
    3: ("REMOVED", JobState.ENDED),
    4: ("COMPLETED", JobState.ENDED),
    # A held job has no process. If it had already started, its submit description makes HTCondor remove it.
    5: ("HELD", JobState.PENDING),
    # HTCondor transfers the job's output back. Its process has ended.
    6: ("TRANSFERRING_OUTPUT", JobState.ENDED),
    7: ("SUSPENDED", JobState.RUNNING),
}
_ATTRIBUTES = (
    *("ClusterId", "ProcId", "JobStatus", "Owner", "HpchubTag", "RemoteHost", "HoldReason", "HoldReasonCode"),
    *("LastRejMatchReason", "NumJobStarts"),
)
# A held job has HoldReason and HoldReasonCode (docs/codes-other-values/hold-table.rst of htcondor/htcondor). An idle
# job has LastRejMatchReason (src/condor_negotiator.V6/matchmaker.cpp).
_REASONS: tuple[tuple[str, Reason], ...] = (
    (r"\[code (?:1|15)\]|submitted on hold|via condor_hold", HOLD),
    (r"\[code 16\]|spooling", PREPARING),
    (
        r"\[code (?:3|5|21|26|27)\]|periodic_hold|want_hold",
        Reason("a rule of the pool has put your job on hold", Outlook.NEVER, CHOOSE_ANOTHER),
    ),
    (r"\[code 34\]", TOO_LARGE),
    (r"\[code 23\]", NO_ACCESS),
    (r"\[code [0-9]+\]", LAUNCH_FAILED),
    (r"no match found|preemption_requirements", NO_FREE_NODE),
    (r"insufficient priority", PRIORITY),
    (r"concurrency limit", LICENCES),
    (r"(?:share|limit|quota|ceiling) exceeded|limit", LIMIT_REACHED),
)
_HISTORY = (
    *("ClusterId", "Owner", "JobStatus", "LastJobStatus", "ExitCode", "ExitBySignal", "ExitSignal", "RemoveReason"),
    *("HoldReason", "HoldReasonCode", "LastHoldReason", "LastHoldReasonCode", "LastRemoteHost"),
)
_OUT_OF_MEMORY = 34
"""The code of a hold because the job exceeded its memory ("HoldReasonCode" in the manual)."""
_SIZES = ("TotalSlotCpus", "TotalSlotMemory", "TotalSlotGPUs")
_MACHINE = (*_SIZES, "Start")
# Dynamic slots are parts of other slots.
_WHOLE = 'SlotType =!= "Dynamic"'
_TOTAL = re.compile(r"^Total for query: (\d+) jobs?;", re.MULTILINE)
_TAG = re.compile(rf"hpchub/[^/]+/[^/]+/({SESSION})")

# An option is a command of the submit description, written as --NAME=VALUE. HTCondor ignores case and does not accept
# abbreviations of names. hpchub accepts only lower case.
_RESERVED = ReservedOptions(
    long=dict.fromkeys(
        (
            *("accounting_group_user", "allowed_execute_duration", "allowed_job_duration", "arguments", "batch_name"),
            *("cron_hour", "cron_minute", "deferral_time", "docker_image", "env", "environment", "error"),
            *("executable", "getenv", "hold", "initialdir", "input", "job_lease_duration", "leave_in_queue"),
            *("max_retries", "on_exit_hold", "on_exit_remove", "output", "periodic_hold", "periodic_release"),
            *("periodic_remove", "queue", "remote_initialdir", "run_as_owner", "should_transfer_files"),
            *("stream_error", "stream_output", "transfer_executable", "transfer_input_files", "universe"),
        ),
        "",
    )
    | {
        "accounting_group": "account",
        "request_cpus": "cores",
        "request_gpus": "gpus",
        "require_gpus": "gpus",
        "request_memory": "memory",
        "requirements": "node_constraint",
    },
    short={},
    form=re.compile(rf"--[a-z][a-z0-9_]*={VALUE}"),
    example="[--rank=Memory, --concurrency_limits=matlab]",
)


class HTCondor(HTCondorKnowledge, Scheduler):
    """HTCondor."""

    name = "htcondor"
    submit_command = ("condor_submit", "-terse", "-")
    cancel_command = ("condor_rm",)
    query_command = ("condor_q", "-allusers", "-json", "-attributes", ",".join(_ATTRIBUTES))
    find_command = ("condor_q", "-allusers", "-totals")
    history_commands = (("condor_history", "-limit", "1", "-json", "-attributes", ",".join(_HISTORY)),)
    limits_command = ("condor_status", "-json", "-constraint", _WHOLE, "-attributes", ",".join(_MACHINE))
    job_id_pattern = r"[1-9][0-9]{0,9}"
    batchspawner_class = "CondorSpawner"
    dask_class = "HTCondorCluster"
    reserved_options = _RESERVED
    reasons = _REASONS
    # The queue lists a job before condor_submit prints its id, until the job has ended.
    propagation = 5.0

    def directives(self, profile: JobRequest, cluster: ClusterSettings, *, session: str, comment: str) -> list[str]:
        """Return the commands of the submit description.

        At the end of the job's time, ``allowed_job_duration`` would only put it on hold. ``periodic_remove`` ends it.
        It also ends a job that is on hold or waits again after it had started, because its server is gone and must not
        start again elsewhere.
        """
        # The queue learns this date immediately. The number of starts arrives minutes later.
        started = "JobCurrentStartExecutingDate =!= undefined"
        overdue = f"JobStatus == 2 && time() - JobCurrentStartDate > {seconds(profile.runtime)}"
        node = f" && ({profile.node_constraint})" if profile.node_constraint else ""
        found = [
            f"batch_name = {job_name(session)}",
            f'+HpchubTag = "{comment}"',
            f'+HpchubQueue = "{profile.queue}"',
            f"request_cpus = {profile.cores}",
            f"request_memory = {mebibytes(profile.memory)}",
            *([f"request_gpus = {profile.gpus}"] if profile.gpus else []),
            *([f'require_gpus = regexp("{kind}", DeviceName, "i")'] if (kind := gpu_type(profile.gpus)) else []),
            f"periodic_remove = ({overdue}) || ((JobStatus == 1 || JobStatus == 5) && {started})",
            *([f"accounting_group = {profile.account}"] if profile.account else []),
            *([f'+HpchubQos = "{profile.qos}"'] if profile.qos else []),
            *([f'+HpchubReservation = "{profile.reservation}"'] if profile.reservation else []),
            f"requirements = !({started}){node}",
        ]
        return found + [" = ".join(option.removeprefix("--").split("=", 1)) for option in profile.options]

    def nodes_problem(self, cluster: ClusterSettings, *, gpus: int, options: Sequence[str]) -> tuple[str, str] | None:
        """Refuse several nodes."""
        return (
            "is more than one node, but a job of HTCondor's vanilla universe, in which sessions run, has one node",
            "write 1, or remove it",
        )

    def constraint_problem(self, constraint: str, cluster: ClusterSettings) -> tuple[str, str] | None:
        """Check a constraint, which is a ClassAd expression."""
        if _is_expression(constraint):
            return None
        return "is not an expression", "write attributes joined by && and ||, as in HasIB&&(Model==7||!Old)"

    def gpu_type_problem(self, gpu_type: str, cluster: ClusterSettings) -> tuple[str, str] | None:
        """Accept every type: a type is a part of the device's name."""
        return None

    def parse_submit(self, stdout: str) -> str:
        """Return the job's id. ``-terse`` prints the first and the last job, which must be the same: ``7.0 - 7.0``."""
        return find_job_id(stdout, rf"({self.job_id_pattern})\.0 - \1\.0", "condor_submit")

    def parse_query(self, stdout: str) -> dict[str, Job]:
        """Return all jobs from a JSON list of ClassAds. If there are none, condor_q prints nothing."""
        if not stdout.strip():
            return {}
        _, ads = read_json_records(stdout, "condor_q", record=r'\{\s*"[A-Z]', listed=True)
        return jobs_by_id(map(_job, ads), "condor_q", stdout)

    def parse_find(self, job_id: str, code: int, stdout: str, stderr: str) -> Job | None:
        """Return a job, or None if the queue counts no jobs with this id.

        The count is a statement of the queue. A list without jobs would be an empty output, which proves nothing.
        """
        found = _TOTAL.search(stdout)
        if code == 0 and found and not stderr.strip():
            if not int(found[1]):
                return None
            return Job(id=job_id, state=JobState.UNKNOWN, detail="known to condor_q")
        raise inconclusive("condor_q", code, stdout, stderr)

    def parse_limits(self, stdout: str) -> list[QueueLimits]:
        """Return the limits of the machines from a JSON list of slots.

        They apply to every queue of the inventory. A machine's condition START can restrict it to the jobs of some
        queues: it compares the attribute ``HpchubQueue``.
        """
        try:
            _, records = read_json_records(stdout, "condor_status", record=r'\{\s*"[A-Z]', listed=True)
            slots = [record.value for record in records]
            # START is the condition for a machine to start jobs. A machine that is drained has false.
            willing = [slot for slot in slots if slot.get("Start") is not False]
            machines = [(_sizes(slot), _queues(str(slot.get("Start", "")))) for slot in willing or slots]
        except (Unanswered, ValueError, TypeError, AttributeError, OverflowError):
            machines = []
        if not machines:
            raise Unanswered(f"condor_status printed no machines: {stdout[:SHOWN]!r}")
        rules = QueueRules(closed="" if willing else "START is false on every machine")
        found = []
        for name in sorted({ANY_QUEUE}.union(*(required | excluded for _, (required, excluded) in machines))):
            nodes = sorted(
                {sizes for sizes, (some, others) in machines if (not some or name in some) and name not in others}
            )
            if not nodes and name != ANY_QUEUE:
                found.append(QueueLimits(name, rules=QueueRules(never="no machine starts its jobs (START)")))
            if nodes:
                cores, memory, gpus = (max(sizes) for sizes in zip(*nodes, strict=True))
                found.append(
                    QueueLimits(name, cores, memory, None, gpus, not rules.closed, nodes=tuple(nodes), rules=rules)
                )
        return found

    def parse_history(self, job_id: str, stdout: str) -> Ending:  # noqa: PLR0911 one return for each cause
        """Return how a job ended, from the ClassAd in the history.

        ``periodic_remove`` removes a job at the end of its time, and a job that is on hold or waits again after it had
        started; see ``directives``.
        """
        try:
            ads = [ad for ad in json.loads(stdout) if str(ad.get("ClusterId")) == job_id]
        except (ValueError, TypeError, AttributeError, RecursionError):
            ads = []
        if not ads or ads[0].get("JobStatus") not in (3, 4):
            raise Unanswered(f"condor_history does not show the end of job {job_id}: {stdout[:SHOWN]!r}")
        ad = ads[0]
        removed = str(ad.get("RemoveReason", ""))
        held = str(ad.get("HoldReason") or ad.get("LastHoldReason") or "")
        if _OUT_OF_MEMORY in (ad.get("HoldReasonCode"), ad.get("LastHoldReasonCode")):
            return Ending(Cause.OUT_OF_MEMORY, held)
        if found := re.search(r"\bby user ([^\s()@]+)", removed):
            return Ending(Cause.CANCELLED, removed, by=OWNER if found[1] == ad.get("Owner") else found[1])
        if "PeriodicRemove" in removed:
            match ad.get("LastJobStatus"):
                case 1:
                    return Ending(Cause.NODE_LOST, removed, node=str(ad.get("LastRemoteHost", "")).rpartition("@")[2])
                case 5:
                    return Ending(Cause.FAILED, held)
                case _:
                    return Ending(Cause.TIME_LIMIT, removed)
        if removed or ad["JobStatus"] == 3:
            return Ending(Cause.CANCELLED, removed)
        if ad.get("ExitBySignal") is True and type(ad.get("ExitSignal")) is int:
            return Ending(Cause.KILLED, signal_name(ad["ExitSignal"]))
        return ending_of_status(ad["ExitCode"]) if type(ad.get("ExitCode")) is int else Ending(Cause.UNKNOWN)


def _sizes(slot: dict[str, Any]) -> tuple[int, int, int]:
    """Return the cores, the memory in MiB and the GPUs of a slot."""
    cores, memory, gpus = (int(slot.get(name, 0)) for name in _SIZES)
    return cores, memory, gpus


_QUEUE = re.compile(r'(?:TARGET\.)?HpchubQueue\s*(=\?=|==|=!=|!=)\s*\\?"([^"\\]+)\\?"')


def _queues(start: str) -> tuple[set[str], set[str]]:
    """Return the queues that a machine's START requires, and those that it excludes.

    The condition must consist of terms joined by &&. Terms with || compare only queues.
    """
    terms = _QUEUE.sub(lambda found: "is" if found[1] in ("=?=", "==") else "not", start)
    terms = re.sub(r"\(? *is(?: *\|\| *is)+ *\)?", "is", terms)
    if re.search(r"\|\||\?|! *\(* *(?:is|not)\b|\bHpchubQueue\b|ifThenElse", terms):
        return set(), set()
    required: set[str] = set()
    excluded: set[str] = set()
    for sign, name in _QUEUE.findall(start):
        (required if sign in ("=?=", "==") else excluded).add(name)
    return required, excluded


_TERM = re.compile(r"!*[A-Za-z_][A-Za-z0-9_.]*(?:(?:==|!=|=\?=|=!=)-?[A-Za-z0-9_.]+)?")


def _is_expression(text: str) -> bool:
    """Return whether a text consists of ClassAd terms joined by && and ||, with matching parentheses."""
    while (inner := re.sub(r"!*\(([^()]*)\)", lambda found: "x" if _is_flat(found[1]) else "(", text)) != text:
        text = inner
    return _is_flat(text)


def _is_flat(text: str) -> bool:
    return all(_TERM.fullmatch(term) for term in re.split(r"&&|\|\|", text))


def _job(record: Record) -> Job:
    ad = record.value
    if not isinstance(ad, dict) or isinstance(ad, DuplicateKeys):
        ids = [re.findall(rf'"{name}"\s*:\s*([0-9]+)', record.raw) for name in ("ClusterId", "ProcId")]
        is_clear = [len(found) for found in ids] == [1, 1]
        return unreadable(_job_id(int(ids[0][0]), int(ids[1][0])) if is_clear else "", record.raw)
    cluster, proc, status, user = (ad.get(name) for name in ("ClusterId", "ProcId", "JobStatus", "Owner"))
    if type(cluster) is not int or type(proc) is not int:
        return unreadable("", str(ad))
    if type(status) is not int or not isinstance(user, str):
        return unreadable(_job_id(cluster, proc), str(ad))
    word, state = _STATES.get(status, (f"JobStatus {status}", JobState.UNKNOWN))
    tag, slot = (str(ad.get(name, "")) for name in ("HpchubTag", "RemoteHost"))
    ours = _TAG.fullmatch(tag)
    return Job(
        id=_job_id(cluster, proc),
        state=state,
        detail=word,
        reason=_reason(ad),
        host=slot.rpartition("@")[2],
        name=job_name(ours[1]) if ours else "",
        user=user,
        comment=tag,
    )


def _reason(ad: dict[str, Any]) -> str:
    """Return why a job is on hold, with the code of the reason, or why the pool did not accept it."""
    if ad.get("JobStatus") == 5:
        code = ad.get("HoldReasonCode")
        return f"{ad.get('HoldReason', '')} [code {code}]" if type(code) is int else str(ad.get("HoldReason", ""))
    return str(ad.get("LastRejMatchReason", "")).strip() if ad.get("JobStatus") == 1 else ""


def _job_id(cluster: int, proc: int) -> str:
    """Return a job's id. A session's job is the only job of its cluster. The id of a further job has two numbers."""
    return str(cluster) if proc == 0 else f"{cluster}.{proc}"
