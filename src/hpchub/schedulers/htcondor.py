"""HTCondor. Source: the manual of 23.0: condor_submit, condor_q, condor_rm, and the job ClassAd attributes.

A job's text is a submit description. Its ClassAd carries ``HpchubTag``, the comment of other schedulers, and
``HpchubQueue``: a pool has no queues, and what this word means there is its administrator's to say, as in
``START = TARGET.HpchubQueue =?= "interactive"`` on the machines of that queue.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from hpchub.names import SESSION
from hpchub.schedulers.base import ANY_QUEUE, Job, JobState, QueueLimits, Scheduler, Unanswered, job_name
from hpchub.schedulers.options import VALUE, ReservedOptions
from hpchub.units import mebibytes, seconds

if TYPE_CHECKING:
    from hpchub.schedulers.request import ClusterSettings, JobRequest

_STATES = {
    1: ("IDLE", JobState.PENDING),
    2: ("RUNNING", JobState.RUNNING),
    3: ("REMOVED", JobState.ENDED),
    4: ("COMPLETED", JobState.ENDED),
    # A held job has no process. It was submitted to be removed in this state, once it had begun.
    5: ("HELD", JobState.PENDING),
    # Its output is on the way back: its process has ended.
    6: ("TRANSFERRING_OUTPUT", JobState.ENDED),
    7: ("SUSPENDED", JobState.RUNNING),
}
_ATTRIBUTES = ("ClusterId", "ProcId", "JobStatus", "Owner", "HpchubTag", "RemoteHost", "HoldReason", "NumJobStarts")
_SIZES = ("TotalSlotCpus", "TotalSlotMemory", "TotalSlotGPUs")
_WHOLE = 'SlotType =!= "Dynamic"'
_TOTAL = re.compile(r"^Total for query: (\d+) jobs?;", re.MULTILINE)
_TAG = re.compile(rf"hpchub/[^/]+/[^/]+/({SESSION})")


# A command of the submit description, as --NAME=VALUE. They know neither small letters from capitals nor beginnings of
# names; small letters it is.
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
        "request_memory": "memory",
        "requirements": "node_constraint",
    },
    short={},
    form=re.compile(rf"--[a-z][a-z0-9_]*={VALUE}"),
    example="[--rank=Memory, --concurrency_limits=matlab]",
)


class HTCondor(Scheduler):
    """HTCondor's words."""

    name = "htcondor"
    submit_command = ("condor_submit", "-terse", "-")
    cancel_command = ("condor_rm",)
    query_command = ("condor_q", "-allusers", "-json", "-attributes", ",".join(_ATTRIBUTES))
    find_command = ("condor_q", "-allusers", "-totals")
    limits_command = ("condor_status", "-json", "-constraint", _WHOLE, "-attributes", ",".join(_SIZES))
    job_id_pattern = r"[1-9][0-9]{0,9}"
    batchspawner_class = "CondorSpawner"
    reserved_options = _RESERVED
    # The queue knows a job before condor_submit prints its id, and forgets it when it has ended.
    propagation = 5.0

    def directives(self, profile: JobRequest, cluster: ClusterSettings, *, session: str, comment: str) -> list[str]:
        """See Scheduler.directives.

        ``allowed_job_duration`` would hold a job whose time is over; ``periodic_remove`` ends it. A job that is held
        or waits again after it had begun ends too: its server is gone, and must not come back elsewhere.
        """
        # The queue hears of it at once; its counts of starts come minutes later.
        begun = "JobCurrentStartExecutingDate =!= undefined"
        over = f"JobStatus == 2 && time() - JobCurrentStartDate > {seconds(profile.runtime)}"
        node = f" && ({profile.node_constraint})" if profile.node_constraint else ""
        found = [
            f"batch_name = {job_name(session)}",
            f'+HpchubTag = "{comment}"',
            f'+HpchubQueue = "{profile.queue}"',
            f"request_cpus = {profile.cores}",
            f"request_memory = {mebibytes(profile.memory)}",
            *([f"request_gpus = {profile.gpus}"] if profile.gpus else []),
            f"periodic_remove = ({over}) || ((JobStatus == 1 || JobStatus == 5) && {begun})",
            *([f"accounting_group = {profile.account}"] if profile.account else []),
            *([f'+HpchubReservation = "{profile.reservation}"'] if profile.reservation else []),
            f"requirements = !({begun}){node}",
        ]
        return found + [" = ".join(option.removeprefix("--").split("=", 1)) for option in profile.options]

    def constraint_problem(self, constraint: str, cluster: ClusterSettings) -> tuple[str, str] | None:
        """See Scheduler.constraint_problem. A constraint is a ClassAd expression."""
        if _is_expression(constraint):
            return None
        return "is not an expression", "write attributes joined by && and ||, as in HasIB&&(Model==7||!Old)"

    def parse_submit(self, stdout: str) -> str:
        """``-terse`` prints the first and the last job, as ``7.0 - 7.0``: one job, and no more."""
        last = (stdout.strip().splitlines() or [""])[-1]
        found = re.fullmatch(rf"({self.job_id_pattern})\.0 - \1\.0", last.strip())
        if found is None:
            raise Unanswered(f"condor_submit printed no job id but {stdout.strip()[:200]!r}")
        return found[1]

    def parse_query(self, stdout: str) -> dict[str, Job]:
        """A JSON list of ClassAds; nothing at all where there is no job."""
        if not stdout.strip():
            return {}
        try:
            ads = json.loads(stdout)
        except ValueError:
            raise Unanswered(f"condor_q printed something else than was asked for: {stdout[:200]!r}") from None
        if not isinstance(ads, list):
            raise Unanswered(f"condor_q printed something else than was asked for: {stdout[:200]!r}")
        jobs = [_job(ad) for ad in ads]
        return {job.id: job for job in jobs}

    def parse_find(self, job_id: str, code: int, stdout: str, stderr: str) -> Job | None:
        """The queue's own count of jobs of this id; a list without any would be an empty text."""
        found = _TOTAL.search(stdout)
        if code == 0 and found and not stderr.strip():
            if not int(found[1]):
                return None
            return Job(id=job_id, state=JobState.UNKNOWN, detail="known to condor_q")
        raise Unanswered(f"condor_q says neither yes nor no (exit code {code}): {(stderr or stdout).strip()[:200]!r}")

    def parse_limits(self, stdout: str) -> list[QueueLimits]:
        """A JSON list of slots. A pool has no queues: what its machines give holds for whatever a queue is called."""
        try:
            nodes = {tuple(int(slot.get(name, 0)) for name in _SIZES) for slot in json.loads(stdout)}
        except (ValueError, TypeError, AttributeError, OverflowError):
            nodes = set()
        if not nodes:
            raise Unanswered(f"condor_status printed no machines: {stdout[:200]!r}")
        most = (max(sizes) for sizes in zip(*nodes, strict=True))
        limits = dict(zip(("cores", "memory", "gpus"), most, strict=True))
        return [QueueLimits(ANY_QUEUE, **limits, nodes=tuple((c, m, g) for c, m, g in sorted(nodes)))]


_TERM = re.compile(r"!*[A-Za-z_][A-Za-z0-9_.]*(?:(?:==|!=|=\?=|=!=)-?[A-Za-z0-9_.]+)?")


def _is_expression(text: str) -> bool:
    """Return whether a text consists of ClassAd terms joined by && and ||, with matching parentheses."""
    while (inner := re.sub(r"!*\(([^()]*)\)", lambda found: "x" if _is_flat(found[1]) else "(", text)) != text:
        text = inner
    return _is_flat(text)


def _is_flat(text: str) -> bool:
    return all(_TERM.fullmatch(term) for term in re.split(r"&&|\|\|", text))


def _job(ad: object) -> Job:
    if not isinstance(ad, dict):
        raise Unanswered(f"condor_q printed a job that is not complete: {ad!r:.200}")
    cluster, proc, status, user = (ad.get(name) for name in ("ClusterId", "ProcId", "JobStatus", "Owner"))
    if type(cluster) is not int or type(proc) is not int or type(status) is not int or not isinstance(user, str):
        raise Unanswered(f"condor_q printed a job that is not complete: {ad!r:.200}")
    word, state = _STATES.get(status, (f"JobStatus {status}", JobState.UNKNOWN))
    tag, slot, hold = (str(ad.get(name, "")) for name in ("HpchubTag", "RemoteHost", "HoldReason"))
    ours = _TAG.fullmatch(tag)
    return Job(
        # hpchub's jobs are the first of their cluster; the others of somebody's have two numbers.
        id=str(cluster) if proc == 0 else f"{cluster}.{proc}",
        state=state,
        detail=word,
        reason=hold if status == 5 else "",
        host=slot.rpartition("@")[2],
        name=job_name(ours[1]) if ours else "",
        user=user,
        comment=tag,
    )
