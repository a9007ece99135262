r"""Grid Engine. Source: the manual pages of qsub, qstat, qdel and qconf of 8.1.9, and its programs.

``qstat`` shows no comment: the job's name says the hub as well, which may hold neither of ``/ : @ \ * ?``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from hpchub.names import SESSION
from hpchub.schedulers.base import Job, JobState, QueueLimits, Scheduler, Unanswered, job_comment, job_name
from hpchub.schedulers.options import VALUE, ReservedOptions
from hpchub.units import mebibytes, parse_clock, parse_whole, seconds

if TYPE_CHECKING:
    from hpchub.schedulers.request import ClusterSettings, JobRequest

_RESOURCE_REQUEST = re.compile(r"!?[A-Za-z_][A-Za-z0-9_.]*(?:!?=[A-Za-z0-9_.*|&!()\[\]:+-]+)?")
_NAME = re.compile(rf"hpchub-({SESSION})-([A-Za-z0-9.-]+)")
# What XML cannot hold, a job's name can.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
# One letter for each thing that is so: qstat(1), under "status".
_STATE = re.compile(r"[dEhNPqrRsStTw]+")

_REASONS = {
    "error": "its start has failed; an administrator can say why, and clear it",
    "hold": "it is held",
}


# One dash begins a whole word, which takes no value, one or two.
_RESERVED = ReservedOptions(
    long={},
    short={
        "@": "",
        "A": "account",
        "C": "",
        "N": "",
        "S": "",
        "V": "",
        "ar": "reservation",
        "b": "",
        "c": "",
        "ckpt": "",
        "clear": "",
        "cwd": "",
        "e": "",
        "h": "",
        "hard": "",
        "help": "",
        "i": "",
        "inherit": "",
        "j": "",
        "jsv": "",
        "l": "node_constraint",
        "masterq": "queue",
        "now": "",
        "o": "",
        "pe": "cores",
        "pty": "",
        "q": "queue",
        "r": "",
        "shell": "",
        "soft": "",
        "sync": "",
        "t": "",
        "tc": "",
        "terse": "",
        "u": "",
        "v": "",
        "verify": "",
        "wd": "",
        "xd": "",
    },
    form=re.compile(rf"-[A-Za-z@][a-z_]*(?: (?!-[A-Za-z@]){VALUE}){{0,2}}"),
    example="[-P physics, -p -100]",
)


class GridEngine(Scheduler):
    """Grid Engine's words."""

    name = "gridengine"
    submit_command = ("qsub", "-terse")
    cancel_command = ("qdel",)
    query_command = ("qstat", "-u", "*", "-xml")
    find_command = ("qstat", "-xml", "-j")
    limits_command = ("qconf", "-sq", "*")
    # Which queues there are, lest an answer that is cut off between two of them pass for a whole one, and which of them
    # start no jobs.
    limits_more = (("qstat", "-g", "c", "-xml"),)
    job_id_pattern = r"[1-9][0-9]{0,9}"
    directive_prefix = "#$"
    batchspawner_class = "GridengineSpawner"
    settings_field = "grid_engine"
    reserved_options = _RESERVED
    # The queue master knows a job before qsub prints its id, and forgets it when it has ended.
    propagation = 5.0

    def directives(self, profile: JobRequest, cluster: ClusterSettings, *, session: str, comment: str) -> list[str]:
        """See Scheduler.directives. What a resource is called, each site decides: see ``grid_engine`` of a cluster."""
        hub = comment.split("/")[1]
        site = cluster.grid_engine
        resources = {"h_rt": str(seconds(profile.runtime))}
        if site.memory_resource:
            shares = 1 if site.memory_per == "job" else profile.cores
            resources[site.memory_resource] = f"{-(-mebibytes(profile.memory) // shares)}M"
        if profile.gpus:
            resources[site.gpu_resource] = str(profile.gpus)
        found = [
            f"-N {job_name(session)}-{hub}",
            f"-q {profile.queue}",
            *([f"-pe {site.parallel_environment} {profile.cores}"] if profile.cores > 1 else []),
            f"-l {','.join(f'{name}={value}' for name, value in resources.items())}",
            "-r n",
            "-S /bin/bash",
            "-j y",
            "-o $HOME/.hpchub/logs/$JOB_ID.log",
        ]
        if profile.account:
            found.append(f"-A {profile.account}")
        if profile.reservation:
            found.append(f"-ar {profile.reservation}")
        if profile.node_constraint:
            found.append(f"-l {profile.node_constraint}")
        return found + list(profile.options)

    def constraint_problem(self, constraint: str, cluster: ClusterSettings) -> tuple[str, str] | None:
        """See Scheduler.constraint_problem. A constraint is a list of resource requests, as ``qsub -l`` takes it."""
        names = cluster.grid_engine
        taken = {
            "h_rt": "runtime",
            "h_vmem": "memory",
            "m_mem_free": "memory",
            "q": "queue",
            "qname": "queue",
            "s_rt": "runtime",
            "slots": "cores",
            names.gpu_resource: "gpus",
        }
        if names.memory_resource:
            taken[names.memory_resource] = "memory"
        for request in constraint.split(","):
            if not _RESOURCE_REQUEST.fullmatch(request):
                return "is not a list of resources", "write them as qsub -l takes them, as in arch=lx-amd64,infiniband"
            if name := taken.get(re.split("[=!]", request)[0]):
                return f"repeats the field {name}", f"set {name} of the profile instead"
        return None

    def parse_submit(self, stdout: str) -> str:
        """``-terse`` prints the id alone, in its last line."""
        last = (stdout.strip().splitlines() or [""])[-1]
        if not re.fullmatch(self.job_id_pattern, last):
            raise Unanswered(f"qsub printed no job id but {stdout.strip()[:200]!r}")
        return last

    def parse_query(self, stdout: str) -> dict[str, Job]:
        """One ``job_list`` a job; what is cut off is not XML."""
        root = _read(stdout, "job_info")
        if [part.tag for part in root] != ["queue_info", "job_info"]:
            raise Unanswered(f"qstat printed something else than was asked for: {stdout[:200]!r}")
        jobs = {}
        for element in root.iter("job_list"):
            job = _job(element)
            jobs[job.id] = job
        return jobs

    def parse_find(self, job_id: str, code: int, stdout: str, stderr: str) -> Job | None:
        """``qstat -j`` knows a job until it has ended, and says in so many words that it knows none."""
        if code in (0, 1) and "<unknown_jobs" in stdout:
            # Sun's and Univa's programs give this answer elements without a name, 8.1.9 does not.
            root = _read(re.sub("<(/?)>", r"<\1element>", stdout), "unknown_jobs")
            if {element.text for element in root.iter("ST_name")} == {job_id}:
                return None
        elif code == 0:
            root = _read(stdout, "detailed_job_info")
            if job_id in {element.text for element in root.iter("JB_job_number")}:
                return Job(id=job_id, state=JobState.UNKNOWN, detail="known to qstat -j")
        raise Unanswered(f"qstat says neither yes nor no (exit code {code}): {(stderr or stdout).strip()[:200]!r}")

    def parse_limits(self, stdout: str) -> list[QueueLimits]:
        """``qconf -sq`` says slots and the longest time; memory and GPUs are a host's or a quota's, not a queue's.

        A job may run on any of a queue's hosts: what it gets at most is the most that any of them gives.
        """
        text, begin, rest = stdout.partition("<?xml")
        is_open = _open(begin + rest) if begin else {}
        text = text.replace("\\\n", " ")
        queues = []
        for block in re.split(r"\n(?=qname )", text.strip()):
            entry = dict(line.split(None, 1) for line in block.splitlines() if len(line.split(None, 1)) == 2)
            slots = [parse_whole(value) for value in _values(entry.get("slots", ""))]
            if not {"qname", "slots", "h_rt", "complex_values"} <= entry.keys() or not text.endswith("\n"):
                raise Unanswered(f"qconf printed something else than was asked for: {text[-200:]!r}")
            names = [name for value in _values(entry.get("pe_list", "")) for name in value.split() if name != "NONE"]
            name, times = entry["qname"].strip(), [parse_clock(value) for value in _values(entry["h_rt"])]
            queues.append(
                QueueLimits(
                    name,
                    cores=_most(slots),
                    runtime=_most(times) if None not in times else None,  # INFINITY is no time
                    open=is_open.get(name, True),
                    environments=tuple(names) if "pe_list" in entry else None,
                )
            )
        if lacking := is_open.keys() - {limits.name for limits in queues}:
            raise Unanswered(f"qconf does not show the queue {min(lacking)}, which qstat shows: {text[-200:]!r}")
        return queues

    def explain(self, reason: str) -> str:
        """The bulk answer says no more than that a job waits, is held, or could not be started."""
        return _REASONS.get(reason, reason)


def _read(text: str, root: str) -> ET.Element:
    """An answer's XML; nobody's text in it can define anything."""
    if "<!" in text:
        raise Unanswered(f"Grid Engine printed a document type: {text[:200]!r}")
    try:
        found = ET.fromstring(_CONTROL.sub("?", text))  # noqa: S314 without a document type there is nothing to expand
    except ET.ParseError as error:
        raise Unanswered(f"Grid Engine's answer is not complete ({error}): {text[:200]!r}") from None
    if found.tag != root:
        raise Unanswered(f"Grid Engine printed something else than was asked for: {text[:200]!r}")
    return found


def _values(text: str) -> list[str]:
    """The values of all hosts, of ``1,[node1=8],[@big=64]``."""
    values = re.sub(r"\[[^\[\]=]*=", ",", text).replace("]", "").split(",")
    return [value.strip() for value in values if value.strip()]


def _most(numbers: list[int | None]) -> int | None:
    return max((number for number in numbers if number is not None), default=None)


def _open(text: str) -> dict[str, bool]:
    """Whether a queue starts jobs; not where an administrator has to see to all its slots, or there are none."""
    found = {}
    for element in _read(text, "job_info").iter("cluster_queue_summary"):
        slots = {tag: parse_whole(element.findtext(tag, "").strip()) or 0 for tag in ("total", "manual_intervention")}
        found[element.findtext("name", "").strip()] = slots["manual_intervention"] < slots["total"]
    return found


def _job(element: ET.Element) -> Job:
    def text(tag: str) -> str:
        return (element.findtext(tag) or "").strip()

    number, user, word, tasks = text("JB_job_number"), text("JB_owner"), text("state"), text("tasks")
    if not number.isdigit() or not user or not word:
        raise Unanswered(f"qstat printed a job that is not complete: {ET.tostring(element)[:200]!r}")
    name, comment = text("JB_name"), ""
    if ours := _NAME.fullmatch(name):
        name, comment = job_name(ours[1]), job_comment(ours[2], user, ours[1])
    return Job(
        # The tasks of an array are jobs of their own; hpchub has none.
        id=f"{number}.{tasks}" if tasks else number,
        state=_state(word),
        detail=word,
        reason="error" if "E" in word else "hold" if "h" in word and "q" in word else "",
        host=text("queue_name").partition("@")[2],
        name=name,
        user=user,
        comment=comment,
    )


def _state(word: str) -> JobState:
    """What the letters mean for a session.

    A job that is being deleted no longer serves. One in error waits for an administrator. One that is transferred to
    its node is running: its server may report before the node says that it has begun.
    """
    if not _STATE.fullmatch(word):
        return JobState.UNKNOWN
    if "d" in word:
        return JobState.ENDED
    if set(word) & set("qwE"):
        return JobState.PENDING
    return JobState.RUNNING if set(word) & set("rtsSTNP") else JobState.UNKNOWN
