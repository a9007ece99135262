r"""Grid Engine.

Sources: the manual pages of qsub, qstat, qdel and qconf of version 8.1.9, and its programs.

qstat shows no comment. Therefore the job's name contains the hub too. It must not contain ``/ : @ \ * ?``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hpchub.gpus import gpu_type
from hpchub.names import SESSION
from hpchub.schedulers.base import Job, JobState, QueueLimits, QueueRules, Scheduler, Unanswered, job_comment, job_name
from hpchub.schedulers.endings import OWNER, Cause, Ending, at_limit, ending_of_status
from hpchub.schedulers.gridengine_knowledge import GridEngineKnowledge
from hpchub.schedulers.options import VALUE, ReservedOptions
from hpchub.schedulers.parsing import (
    SHOWN,
    find_job_id,
    incomplete_output,
    inconclusive,
    unexpected_output,
)
from hpchub.schedulers.reasons import (
    DEPENDENCY,
    HOLD,
    LIMIT_REACHED,
    NO_ACCESS,
    NO_FREE_NODE,
    NOT_CONSIDERED,
    PREPARING,
    QUEUE_CLOSED,
    START_TIME,
    TELL,
    TIME_WINDOW,
    UNSATISFIABLE,
    Outlook,
    Reason,
)
from hpchub.schedulers.records import jobs_by_id, read_xml, read_xml_records, unreadable
from hpchub.units import mebibytes, parse_clock, parse_size, parse_whole, seconds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from xml.etree import ElementTree as ET

    from hpchub.schedulers.request import ClusterSettings, JobRequest

_RESOURCE_REQUEST = re.compile(r"!?[A-Za-z_][A-Za-z0-9_.]*(?:!?=[A-Za-z0-9_.*|&!()\[\]:+-]+)?")
_NAME = re.compile(rf"hpchub-({SESSION})-([A-Za-z0-9.~-]+)")
# Each letter stands for one property of the job; see "status" in qstat(1).
_STATE = re.compile(r"[dEhNPqrRsStTw]+")

# qstat shows only that a job waits, is on hold, or could not be started. The other texts are those of qstat -j
# (source/libs/sched/msg_schedd.h). Most of them describe one queue or host of many, so they decide nothing.
_REASONS: tuple[tuple[str, Reason], ...] = (
    (
        r"^error$|error state",
        Reason(
            "your job could not be started; an administrator can find the reason and release the job",
            Outlook.NEVER,
            TELL,
        ),
    ),
    (r"^hold$|hold state", HOLD),
    (r"^jobs can ?not run because (?:no host can satisfy|queue do not provides|excluded project)", UNSATISFIABLE),
    (r"^jobs can ?not run .*(?:can ?not be sati\w*fied|do not request 'forced'|0 slots)", UNSATISFIABLE),
    (r"^jobs can ?not run .*(?:its hard queue|not a parallel queue|not in queue list|not of type)", UNSATISFIABLE),
    (r"not assigned to a project|no matching pe|ckpt object not found|job is not parallel", UNSATISFIABLE),
    (r"not in range of job|not interactive", UNSATISFIABLE),
    (r"suitable access permissions|no access to pe", NO_ACCESS),
    (r"unknown resource|non requestable|invalid dynamical limit", UNSATISFIABLE),
    (r"advance reservation", Reason("the reservation of your job has not begun, or does not fit")),
    (r"execution time not reached", START_TIME),
    (r"dependenc", DEPENDENCY),
    (r"calendar|runtime of \S+ sec\. is too long", TIME_WINDOW),
    (r"exceeds? limit|user limitations|max_aj_instances", LIMIT_REACHED),
    (r"job filter|no messages|information", NOT_CONSIDERED),
    (r"not available for parallel|pe (?:\S+ )?dropped|only offers", NO_FREE_NODE),
    (r"disabled|suspended|not available|0 slots", QUEUE_CLOSED),
    (r"clean ?up", PREPARING),
    (r"permission|correct project|excluded project", Reason("only queues that you may not use are free")),
    (r"full|overloaded|alarm|slots|cannot run|offers only|forced", NO_FREE_NODE),
)

# An option is a word after one dash, and has up to two values.
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


class GridEngine(GridEngineKnowledge, Scheduler):
    """Grid Engine."""

    name = "gridengine"
    submit_command = ("qsub", "-terse")
    cancel_command = ("qdel",)
    query_command = ("qstat", "-u", "*", "-xml")
    find_command = ("qstat", "-xml", "-j")
    history_commands = (("qacct", "-j"),)
    limits_command = ("qconf", "-sq", "*")
    # qstat lists the queues again. It shows whether the output of qconf ends between two queues, and which queues start
    # no jobs.
    limits_more = (("qstat", "-g", "c", "-xml"),)
    job_id_pattern = r"[1-9][0-9]{0,9}"
    directive_prefix = "#$"
    batchspawner_class = "GridengineSpawner"
    dask_class = "SGECluster"
    settings_field = "grid_engine"
    reserved_options = _RESERVED
    reasons = _REASONS
    # The messages of sge_qmaster. The account, -A, is any text, so Grid Engine never refuses it.
    refusals = (
        (r"advance reservation(?: id)? \S+ (?:is invalid|does not exist)", ("reservation",)),
        (r"duration is longer than duration of the advance reservation", ("runtime",)),
        (r"requests unknown queue", ("queue",)),
        (r"your job is not allowed to run in any queue", ("queue",)),
    )
    # The queue master lists a job before qsub prints its id, until the job has ended.
    propagation = 5.0

    def directives(self, profile: JobRequest, cluster: ClusterSettings, *, session: str, comment: str) -> list[str]:
        """Return the options of qsub. Each site chooses the names of resources; see ``grid_engine`` of a cluster.

        Grid Engine has no quality of service. It becomes the variable ``HPCHUB_QOS`` of the job's context, for the
        site's own policies. The allocation rule of the parallel environment distributes the slots to the nodes.
        """
        hub = comment.split("/")[1]
        site = cluster.grid_engine
        resources = {"h_rt": str(seconds(profile.runtime))}
        if site.memory_resource:
            shares = 1 if site.memory_per == "job" else profile.cores
            resources[site.memory_resource] = f"{-(-mebibytes(profile.memory) // shares)}M"
        if profile.gpus:
            resources[site.gpu_resource] = str(profile.gpus)
        if kind := gpu_type(profile.gpus):
            resources[cluster.gpu_type_resource] = kind
        slots = profile.nodes * profile.cores
        environment = site.parallel_environment
        if profile.nodes > 1:
            environment = site.nodes_environment.replace("{cores}", str(profile.cores))
        found = [
            f"-N {job_name(session)}-{hub}",
            f"-q {profile.queue}",
            *([f"-pe {environment} {slots}"] if slots > 1 else []),
            f"-l {','.join(f'{name}={value}' for name, value in resources.items())}",
            "-r n",
            "-S /bin/bash",
            "-j y",
            "-o $HOME/.hpchub/logs/$JOB_ID.log",
        ]
        if profile.account:
            found.append(f"-A {profile.account}")
        if profile.qos:
            found.append(f"-ac HPCHUB_QOS={profile.qos}")
        if profile.reservation:
            found.append(f"-ar {profile.reservation}")
        if profile.node_constraint:
            found.append(f"-l {profile.node_constraint}")
        return found + list(profile.options)

    def nodes_problem(self, cluster: ClusterSettings, *, gpus: int, options: Sequence[str]) -> tuple[str, str] | None:
        """Permit several nodes if the parallel environment is known and each resource counts on each node.

        A resource of the kind JOB, as the one for GPUs is, counts on the first node only.
        """
        site = cluster.grid_engine
        if not site.nodes_environment:
            return (
                "is more than one node, but the cluster names no parallel environment for several nodes",
                "set grid_engine.nodes_environment of the cluster, as in mpi_{cores}, or write 1",
            )
        if site.memory_resource and site.memory_per == "job":
            return (
                "is more than one node, but memory_per is job, so only the first node would reserve memory",
                "use a memory resource that counts per slot, and set memory_per: slot, or write 1",
            )
        if gpus:
            return (
                "is more than one node, but Grid Engine would grant the GPUs on the first node only",
                "remove gpus, or write 1",
            )
        return None

    def constraint_problem(self, constraint: str, cluster: ClusterSettings) -> tuple[str, str] | None:
        """Check a constraint, which is a list of resource requests in the syntax of ``qsub -l``."""
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
                return "is not a list of resources", "use the syntax of qsub -l, as in arch=lx-amd64,infiniband"
            if name := taken.get(re.split("[=!]", request)[0]):
                return f"repeats the field {name}", f"set {name} of the profile instead"
        return None

    def gpu_type_problem(self, gpu_type: str, cluster: ClusterSettings) -> tuple[str, str] | None:
        """Accept a type if the cluster names the resource that requests it."""
        if cluster.gpu_type_resource:
            return None
        return (
            f"names a type of GPU, but the cluster does not name the resource of {self.name} that requests it",
            "set gpu_type_resource of the cluster, or write only the number of GPUs",
        )

    def parse_submit(self, stdout: str) -> str:
        """Return the job's id. ``-terse`` prints a line with the id only."""
        return find_job_id(stdout, rf"({self.job_id_pattern})", "qsub")

    def parse_query(self, stdout: str) -> dict[str, Job]:
        """Return all jobs, one per ``job_list``. Truncated output is not valid XML."""
        if not re.search(r"<queue_info[\s/>].*<job_info[\s/>]", stdout, re.DOTALL):
            raise unexpected_output("qstat", stdout)
        records = read_xml_records(stdout, "qstat", root="job_info", record="job_list")
        return jobs_by_id(map(_job, records), "qstat", stdout)

    def parse_find(self, job_id: str, code: int, stdout: str, stderr: str) -> Job | None:
        """Return a job, or None for the answer that it is unknown.

        Grid Engine knows a job until its end. ``qstat -j`` does not show its state.
        """
        if code in (0, 1) and "<unknown_jobs" in stdout:
            # The programs of Sun and Univa print elements without a name in this answer. Version 8.1.9 does not.
            root = _read_xml(re.sub("<(/?)>", r"<\1element>", stdout), "unknown_jobs")
            if {element.text for element in root.iter("ST_name")} == {job_id}:
                return None
        elif code == 0:
            root = _read_xml(stdout, "detailed_job_info")
            if job_id in {element.text for element in root.iter("JB_job_number")}:
                return Job(id=job_id, state=JobState.UNKNOWN, detail="known to qstat -j")
        raise inconclusive("qstat", code, stdout, stderr)

    def parse_limits(self, stdout: str) -> list[QueueLimits]:
        """Return the queues. ``qconf -sq`` shows slots and the longest time.

        Memory and GPUs are limits of hosts or quotas, not of queues. A job can run on any host of a queue, so the
        limit is the highest limit of any host.
        """
        text, declaration, rest = stdout.partition("<?xml")
        open_queues = _open_queues(declaration + rest) if declaration else {}
        text = text.replace("\\\n", " ")
        queues = []
        # A site's wrapper may print lines before the first queue.
        text = re.sub(r"\A.*?^(?=qname )", "", text, count=1, flags=re.DOTALL | re.MULTILINE)
        for block in re.split(r"\n(?=qname )", text.strip()):
            entry = dict(line.split(None, 1) for line in block.splitlines() if len(line.split(None, 1)) == 2)
            slots = [parse_whole(value) for value in _values(entry.get("slots", ""))]
            if not {"qname", "slots", "h_rt", "complex_values"} <= entry.keys() or not text.endswith("\n"):
                raise incomplete_output("qconf", text)
            names = [name for value in _values(entry.get("pe_list", "")) for name in value.split() if name != "NONE"]
            name, times = entry["qname"].strip(), [parse_clock(value) for value in _values(entry["h_rt"])]
            queues.append(
                QueueLimits(
                    name,
                    cores=max((number for number in slots if number is not None), default=None),
                    runtime=_longest(times),
                    open=open_queues.get(name, True),
                    rules=_rules(entry),
                    consumables=_consumables(entry["complex_values"]),
                    per_slot={name: limit for name in ("h_vmem", "s_vmem") if (limit := _largest(entry.get(name, "")))},
                    environments=tuple(names) if "pe_list" in entry else None,
                )
            )
        if missing := open_queues.keys() - {queue.name for queue in queues}:
            raise Unanswered(f"qconf does not list the queue {min(missing)}, but qstat does: {text[-SHOWN:]!r}")
        return queues

    def parse_history(self, job_id: str, stdout: str) -> Ending:
        """Return how a job ended, from the accounting record of qacct. Job ids recur, so the last record counts.

        "failed" is a code of sge_status(5). Univa's version also shows who deleted the job.
        """
        records = [
            dict(re.findall(r"^(\w+) +(\S.*?) *$", part, re.MULTILINE))
            for part in re.split(r"^=+$", stdout, flags=re.MULTILINE)
        ]
        record = next((each for each in reversed(records) if each.get("jobnumber") == job_id), {})
        failed, status = (parse_whole(record.get(name, "").split(" ")[0]) for name in ("failed", "exit_status"))
        if failed is None or status is None:
            raise Unanswered(f"qacct does not show the end of job {job_id}: {stdout[:SHOWN]!r}")
        detail = f"failed {record['failed']}" if failed else ""
        deleted_by = record.get("deleted_by", "NONE")
        if deleted_by != "NONE":
            return Ending(Cause.CANCELLED, detail, by=OWNER if deleted_by == record.get("owner") else deleted_by)
        requests = f"{record.get('category', '')} {record.get('hard_resources', '')}"
        h_rt, h_vmem = (re.search(rf"\b{name}=([0-9.:]+[A-Za-z]?)", requests) for name in ("h_rt", "h_vmem"))
        killed = failed in (37, 100) or status > 128
        wallclock = parse_whole(record.get("ru_wallclock", "").partition(".")[0].removesuffix("s"))
        if killed and h_rt and at_limit(wallclock, parse_clock(h_rt[1])):
            return Ending(Cause.TIME_LIMIT, detail)
        if killed and h_vmem and at_limit(parse_size(record.get("maxvmem", "")), _all_slots(h_vmem[1], record)):
            return Ending(Cause.OUT_OF_MEMORY, detail)
        if failed in (0, 100) and (status or not failed):
            return ending_of_status(status)
        if failed in (18, 19):
            return Ending(Cause.NODE_LOST, detail, node=record.get("hostname", ""))
        return Ending(Cause.KILLED if failed in (17, 37, 100) else Cause.FAILED, detail)


def _all_slots(size: str, record: dict[str, str]) -> int | None:
    """Return a size per slot, multiplied by the number of the job's slots, in MiB."""
    one, slots = parse_size(size), parse_whole(record.get("slots", "")) or 1
    return one * slots if one else None


def _read_xml(text: str, root: str) -> ET.Element:
    """Return the root of the XML that qstat prints."""
    found = read_xml(text, "qstat")
    if found.tag != root:
        raise unexpected_output("qstat", text)
    return found


def _values(text: str) -> list[str]:
    """Return the values of all hosts: 1, 8 and 64 of ``1,[node1=8],[@big=64]``."""
    values = re.sub(r"\[[^\[\]=]*=", ",", text).replace("]", "").split(",")
    return [value.strip() for value in values if value.strip()]


def _longest(times: list[int | None]) -> int | None:
    """Return the longest time, or None if a host has no limit (INFINITY)."""
    known = [time for time in times if time is not None]
    return max(known) if known and len(known) == len(times) else None


def _rules(entry: dict[str, str]) -> QueueRules:
    """Return which jobs a queue accepts. The names are those of user lists and projects; NONE means no restriction."""

    def names(field: str) -> tuple[str, ...]:
        # A host can have other lists. Only a restriction of all hosts is certain.
        words = entry.get(field, "NONE")
        return () if "[" in words else tuple(word for word in re.split(r"[ ,]+", words.strip()) if word != "NONE")

    kinds = _values(entry.get("qtype", "BATCH"))
    is_batch = any("BATCH" in kind.split() for kind in kinds)
    environments = {name for value in _values(entry.get("pe_list", "NONE")) for name in value.split()}
    never = "" if is_batch or environments - {"NONE", "make"} else "it accepts no batch jobs (qtype)"
    calendar = entry.get("calendar", "NONE").strip()
    return QueueRules(
        never="it has no hosts (hostlist)" if entry.get("hostlist", "").strip() == "NONE" else never,
        groups=names("user_lists") or None,
        denied=names("xuser_lists"),
        projects=names("projects") or None,
        denied_projects=names("xprojects"),
        times="" if "NONE" in _values(calendar) else f"calendar {calendar}",
    )


def _consumables(text: str) -> dict[str, str]:
    """Return the largest amount of each resource on one host: ``h_vmem=128G,gpu=2,[node1=gpu=4]``."""
    found: dict[str, str] = {}
    for name, amount in re.findall(r"([A-Za-z_][\w.]*)=([0-9.]+[kKmMgGtT]?)(?=[,\]\s]|$)", text):
        if (parse_size(amount) or 0) >= (parse_size(found.get(name, "")) or 0):
            found[name] = amount
    return found


def _largest(text: str) -> str:
    """Return the largest size of all hosts, or an empty text if one of them has no limit."""
    sizes = {value: parse_size(value) for value in _values(text)}
    known = {value: size for value, size in sizes.items() if size is not None}
    return max(known, key=lambda value: known[value]) if known and len(known) == len(sizes) else ""


def _open_queues(text: str) -> dict[str, bool]:
    """Return whether each queue starts jobs.

    A queue starts no jobs if it has no slots, or if all its slots need an administrator's intervention.
    """
    found = {}
    for element in _read_xml(text, "job_info").iter("cluster_queue_summary"):
        slots = {tag: parse_whole(element.findtext(tag, "").strip()) or 0 for tag in ("total", "manual_intervention")}
        found[element.findtext("name", "").strip()] = slots["manual_intervention"] < slots["total"]
    return found


def _job(record: tuple[ET.Element | None, str]) -> Job:
    element, raw = record

    def text(tag: str) -> str:
        return (element.findtext(tag) or "").strip() if element is not None else ""

    number, user, word, tasks = text("JB_job_number"), text("JB_owner"), text("state"), text("tasks")
    if not number.isdigit() or not user or not word:
        ids = [number] if number.isdigit() else re.findall(r"<JB_job_number>\s*([0-9]+)\s*</JB_job_number>", raw)
        return unreadable(ids[0] if len(ids) == 1 else "", raw if element is None else element)
    name, comment = text("JB_name"), ""
    if ours := _NAME.fullmatch(name):
        name, comment = job_name(ours[1]), job_comment(ours[2], user, ours[1])
    priority = text("JAT_prio")
    return Job(
        # The tasks of an array are separate jobs. No session is an array.
        id=f"{number}.{tasks}" if tasks else number,
        state=_state(word),
        detail=word,
        reason="error" if "E" in word else "hold" if "h" in word and "q" in word else "",
        host=text("queue_name").partition("@")[2],
        name=name,
        user=user,
        comment=comment,
        priority=float(priority) if re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", priority) else None,
    )


def _state(word: str) -> JobState:
    """Return what the letters of a job's state mean for a session.

    A job that is being deleted no longer serves notebooks. A job in an error state waits for an administrator. A job
    that is being transferred to its node counts as running, because its server may report its port before the node
    reports the start.
    """
    if not _STATE.fullmatch(word):
        return JobState.UNKNOWN
    if "d" in word:
        return JobState.ENDED
    if set(word) & set("qwE"):
        return JobState.PENDING
    return JobState.RUNNING if set(word) & set("rtsSTNP") else JobState.UNKNOWN
