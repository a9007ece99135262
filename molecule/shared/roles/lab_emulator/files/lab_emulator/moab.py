"""Moab Workload Manager 9.1 (Administrator Guide, chapter 3: msub, mdiag, showq, checkjob, mjobctl, canceljob).

Moab schedules jobs for Torque. A job has the same number in both, and ``DRMJID`` contains Torque's full job id. The
output of ``--xml`` is one ``<Data>`` element. For an unknown job id, Moab prints ``ERROR:  invalid job specified (ID)``
on standard error and returns exit code 1. ``mdiag -j`` shows only jobs that have not completed. ``mdiag -j -w
completed=true`` and ``showq -c`` show the completed jobs.
"""

from __future__ import annotations

import re
import sys
import time
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

from lab_emulator import directives, qsub, torque
from lab_emulator.common import DAY, Job, Usage, clock
from lab_emulator.environment import full_id

if TYPE_CHECKING:
    from lab_emulator.client import Cluster

MSUB_LETTERS = "a:A:c:C:d:e:EfF:hIj:k:K:l:m:M:N:o:p:q:r:S:t:u:v:VW:xXz"
MSUB_USAGE = """\
Usage: msub [FLAGS] [<SCRIPT>]
  [ -a <DATE> ] [ -A <ACCOUNT> ] [ -c <OPTIONS> ] [ -C <DIRECTIVE_PREFIX> ] [ -d <DIRECTORY> ] [ -e <PATH> ]
  [ -E ] [ -F <FLAGS> ] [ -h ] [ -I ] [ -j <JOIN> ] [ -k <KEEP> ] [ -l <RESOURCELIST> ] [ -m <MAILOPTIONS> ]
  [ -M <USERLIST> ] [ -N <NAME> ] [ -o <PATH> ] [ -p <PRIORITY> ] [ -q <QUEUE> ] [ -r <y|n> ] [ -S <PATH> ]
  [ -t <JOBARRAY> ] [ -u <USERLIST> ] [ -v <VARLIST> ] [ -V ] [ -W <ATTRS> ] [ -x ] [ -z ]
"""


def refused(program: str, server: str) -> tuple[str, int]:
    """Return the message and the exit code when the server does not answer."""
    return f"ERROR:    cannot connect to server '{server}:42559' (Connection refused)\n", 1


def error(program: str) -> str:
    """Return the message of an error with exit code 0."""
    return "ERROR:    communication error with server\n"


def complain(text: str) -> int:
    """Print an error message and return the exit code, which is the same for all errors."""
    sys.stderr.write(f"ERROR:  {text}\n")
    return 1


def msub(cluster: Cluster, arguments: list[str]) -> int:
    """Submit a job, then print an empty line and the job's number."""
    xml = "--xml" in arguments
    arguments = [word for word in arguments if word not in ("--xml", "--format=xml")]
    try:
        options, script, name = qsub.read(arguments, MSUB_LETTERS, ("#PBS", "#MSUB"))
        # Moab writes an array as NAME.[1-3], where qsub expects only the indices.
        options = [(o, re.sub(r"^.*\[(.*)\].*$", r"\1", v) if o == "-t" else v) for o, v in options]
        asked = qsub.job(cluster, options, script, name, torque.RESOURCES - {"select"})
    except Usage as problem:
        sys.stderr.write(f"ERROR:    {problem}\n{MSUB_USAGE}")
        return 1
    except OSError as problem:
        return complain(f"  cannot open file '{arguments[-1]}' ({problem.strerror})")
    except qsub.Refused as refusal:
        return complain(f"  cannot submit job - {refusal}")
    if "-d" in dict(options):
        asked["directory"] = dict(options)["-d"]
    asked["arguments"] = " ".join(arguments)
    # All values of -l var=NAME:VALUE are combined, whereas a later value replaces an earlier one for other resources.
    lists = [item for option, value in options if option == "-l" for item in qsub.items(value)]
    asked["extra"]["vars"] = dict(
        value.split(":", 1) for name, value in lists if name.lower() == "var" and ":" in value
    )
    if "feature" in asked["resources"]:
        asked["features"] += re.split(r"[:,]", asked["resources"]["feature"])
    answer = cluster.submit(asked)
    if "error" in answer:
        return complain(f"  cannot submit job - {_complaint(answer)}")
    print(f'<Data><job JobID="{answer["number"]}"></job></Data>' if xml else f"\n{answer['number']}")
    return 0


def _complaint(answer: dict[str, Any]) -> str:
    if answer["error"] == "limit":
        what = {"runtime": "wclimit", "cores": "proc", "memory": "mem", "gpus": "gpus"}[answer["resource"]]
        shown = [clock(value) if what == "wclimit" else str(value) for value in (answer["asked"], answer["most"])]
        return (
            f"job violates class configuration '{what} too high for class '{answer['queue']}' "
            f"({shown[0]} > {shown[1]})'"
        )
    return {
        "queue": f"invalid class/queue specified '{answer.get('queue')}'",
        "closed": f"class/queue '{answer.get('queue')}' is disabled",
        "user": "root job submission is not allowed",
    }[str(answer["error"])]


# -- the description of a job

STATES = {"Q": "Idle", "H": "Idle", "R": "Running", "S": "Suspended", "E": "Running", "F": "Completed"}
REASONS = {
    "cores": "insufficient idle procs available", "memory": "insufficient memory available",
    "gpus": "insufficient GRES available", "nodes": "insufficient nodes available",
    "never": "no node can satisfy the job's requirements", "closed": "class is stopped", "": "",
}  # fmt: skip


def state(job: Job) -> str:
    """Return Moab's name for the state of a job (Administrator Guide, job states)."""
    if job["state"] == "H":
        return "Hold"
    if job["state"] == "F" and job["killed"] == "deleted":
        return "Removed"
    return STATES[job["state"]]


def queue_of(job: Job) -> str:
    """Return the section of showq that lists a job."""
    if job["state"] == "F":
        return "completed"
    if job["state"] in "RSE":
        return "active"
    return "blocked" if job["state"] == "H" or job["reason"] in ("never", "closed") else "eligible"


def name_of(job: Job) -> str:
    """Return the job id in Moab's format."""
    return str(job["number"]) if job["index"] is None else f"{job['number']}[{job['index']}]"


def attributes(job: Job, now: float) -> dict[str, str]:
    """Return the attributes of a job's XML element, sorted like Moab's."""
    found = {
        "Class": job["queue"], "DRMJID": full_id(job), "EEDuration": str(int((job["started"] or now) - job["created"])),
        "GJID": name_of(job), "Group": job["group"], "JobID": name_of(job), "JobName": job["name"],
        "PAL": cluster_partition(job), "ReqAWDuration": str(job["runtime"] or 0), "ReqNodes": str(job["nodes"]),
        "ReqProcs": str(job["cores"] * job["nodes"]), "StartPriority": "1", "StartTime": "0", "State": state(job),
        "SubmissionTime": str(int(job["created"])), "SuspendDuration": "0", "User": job["user"],
    }  # fmt: skip
    if job["account"]:
        found["Account"] = job["account"]
    if job["started"]:
        begin = str(int(job["started"]))
        spent = (job["ended"] or now) - job["started"]
        found |= {
            "AWDuration": str(int(spent)), "MasterHost": job["hosts"][0], "RsvStartTime": begin, "RunPriority": "1",
            "StartTime": begin, "StatPSDed": f"{spent * job['cores']:.6f}", "StatPSUtl": "0.000000",
        }  # fmt: skip
    elif job["state"] == "H":
        found |= {"BlockReason": "UserHold", "Hold": "User"}
    elif job["reason"] in ("never", "closed"):
        found |= {"BlockReason": "Policy", "Description": f"job {name_of(job)} is blocked: {REASONS[job['reason']]}"}
    elif job["estimate"]:
        found["RsvStartTime"] = str(int(job["estimate"]))
    if job["state"] == "F":
        found |= {"CompletionCode": str(job["exit"]), "CompletionTime": str(int(job["ended"]))}
    return dict(sorted(found.items()))


def cluster_partition(job: Job) -> str:
    """Return the partition of a job, which has the name of Moab's resource manager."""
    return str(job["server"])


def element(name: str, found: dict[str, str], inner: str = "") -> str:
    """Return an XML element. Moab writes a closing tag even if the element is empty."""
    return f"<{name}{''.join(f' {key}={quoteattr(value)}' for key, value in found.items())}>{inner}</{name}>"


def full_element(job: Job, now: float) -> str:
    """Return a job's element with requirements and variables, as in ``mdiag -j --xml`` and ``checkjob --xml``."""
    wants = {"ReqPartition": cluster_partition(job), "TCReqMin": str(job["nodes"]), "TPN": str(job["cores"])}
    if job["memory"]:
        wants["ReqNodeMem"] = f">={job['memory']}M"
    if job["hosts"]:
        wants = {"AllocNodeList": ",".join(f"{host}:{job['cores']}" for host in job["hosts"])} | wants
    inner = element("req", wants)
    if variables := job["extra"].get("vars"):
        inner += element(
            "Variables", {}, "".join(element("Variable", {"name": k}, _text(v)) for k, v in variables.items())
        )
    if reason := REASONS[job["reason"]] if job["state"] == "Q" else "":
        inner += element("Messages", {}, element("message", {"DATA": reason, "COUNT": "1"}))
    found = attributes(job, now) | {"EState": state(job), "Flags": "RESTARTABLE" if job["rerunnable"] else ""}
    return element("job", found, inner)


def _text(value: str) -> str:
    return quoteattr(value)[1:-1]


def _identify(text: str, jobs: list[Job]) -> list[Job]:
    found = re.fullmatch(r"(?:Moab\.)?([0-9]+)(?:\[([0-9]*)\])?(\.[\w.-]+)?", text)
    if not found:
        return []
    index = int(found[2]) if found[2] else None
    return [job for job in jobs if job["number"] == int(found[1]) and index in (None, job["index"])]


# -- mdiag


def mdiag(cluster: Cluster, arguments: list[str]) -> int:
    """Run ``mdiag -j [JOB] [--xml] [-w completed=true]`` or ``mdiag -c [CLASS] [--xml]``."""
    xml = bool({"--xml", "--format=xml"} & set(arguments))
    rest = [word for word in arguments if word not in ("--xml", "--format=xml", "-v", "--noblock")]
    if not rest or rest[0] not in ("-j", "-c", "-n"):
        sys.stderr.write("Usage: mdiag [-a|-b|-c|-f|-g|-G|-j|-L|-m|-n|-p|-q|-r|-R|-s|-S|-t|-T|-u] [ID] [--xml]\n")
        return 1
    status = cluster.status()
    if rest[0] == "-c":
        return _classes(status, xml=xml)
    jobs: list[Job] = status["jobs"]
    completed = "completed=true" in rest or "ALL=true" in rest
    alive = [job for job in jobs if job["state"] != "F"]
    chosen = jobs if "ALL=true" in rest else [job for job in jobs if job["state"] == "F"] if completed else alive
    names = [word for word in rest[1:] if "=" not in word and word not in ("-w", "ALL")]
    if names:
        # A job id on the command line also selects a completed job, as long as Moab remembers it.
        chosen = _identify(names[0], jobs)
        if not chosen:
            return complain(f"invalid job specified ({names[0]})")
    if xml:
        inner = "".join(full_element(job, status["now"]) for job in chosen)
        print(f"<Data><Object>job</Object>{inner}</Data>")
        return 0
    print(f"{'JobID':<19}{'State':>10}{'Proc':>6}{'WCLimit':>12}{'User':>10}{'Class':>14}  Opts/Messages\n")
    for job in chosen:
        limit = clock(job["runtime"] or 0)
        print(f"{name_of(job):<19}{state(job):>10}{job['cores']:>6}{limit:>12}{job['user']:>10}{job['queue']:>14}  -")
    return 0


def _classes(status: dict[str, Any], *, xml: bool) -> int:
    rows = []
    for queue in status["queues"]:
        limits = {"MAX.WCLIMIT": clock(queue["max_runtime"]) if queue.get("max_runtime") else None,
                  "MAX.PROC": queue.get("max_cores"), "MAX.MEM": queue.get("max_memory")}  # fmt: skip
        rows.append((queue, {name: str(value) for name, value in limits.items() if value is not None}))
    if xml:
        inner = "".join(
            element("class", {"ID": q["name"], "STATE": "Active" if q["open"] else "Closed", **limits})
            for q, limits in rows
        )
        print(f"<Data><Object>class</Object>{inner}</Data>")
        return 0
    print("Class/Queue Status\n")
    print(f"{'ClassID':<17} Priority Flags        QDef              QOSList* PartitionList        Target Limits\n")
    for queue, limits in rows:
        words = " ".join(f"{name}={value}" for name, value in limits.items())
        print(f"{queue['name']:<17} {1:>8} {'---':<12} {'---':<17} {'---':<8} {'---':<20} {0.0:>6.2f} {words}")
    return 0


# -- showq


def showq(cluster: Cluster, arguments: list[str]) -> int:
    """Run ``showq [-c|-i|-r|-b] [-u USER] [-w WHAT=NAME] [--xml]``."""
    xml = bool({"--xml", "--format=xml"} & set(arguments))
    try:
        options, _ = directives.parse([w for w in arguments if not w.startswith("--")], "bcginrvu:w:p:")
    except Usage as problem:
        sys.stderr.write(f"ERROR:    {problem}\nUsage: showq [-b|-c|-i|-r] [-u USER] [-w CONSTRAINT] [--xml]\n")
        return 1
    given = dict(options)
    status = cluster.status()
    constraints = dict(item.split("=", 1) for item in given.get("-w", "").split(",") if "=" in item)
    if "-u" in given:
        constraints["user"] = given["-u"]
    fields = {"user": "user", "class": "queue", "acct": "account", "group": "group"}
    jobs = [
        job
        for job in status["jobs"]
        if all(job[fields[name]] == value for name, value in constraints.items() if name in fields)
    ]
    shown = {"-c": ["completed"], "-r": ["active"], "-i": ["eligible"], "-b": ["blocked"]}
    queues = next((shown[flag] for flag in shown if flag in given), ["active", "eligible", "blocked"])
    if xml:
        nodes = list(status["nodes"].values())
        total = {
            "LocalConfigNodes": len(nodes),
            "LocalUpNodes": sum(node["up"] for node in nodes),
            "LocalUpProcs": sum(node["cores"] for node in nodes if node["up"]),
            "LocalAllocProcs": sum(node["used"]["cores"] for node in nodes),
            "time": int(status["now"]),
        }
        inner = element("cluster", {name: str(value) for name, value in total.items()})
        for queue in queues:
            mine = [job for job in jobs if queue_of(job) == queue]
            elements = "".join(element("job", attributes(job, status["now"])) for job in mine)
            inner += element("queue", {"count": str(len(mine)), "option": queue}, elements)
        print(f"<Data><Object>queue</Object>{inner}</Data>")
        return 0
    for queue in queues:
        mine = [job for job in jobs if queue_of(job) == queue]
        moment = "STARTTIME" if queue in ("active", "completed") else "QUEUETIME"
        print(f"\n{queue} jobs------------------------")
        print(f"{'JOBID':<19}{'USERNAME':>12}{'STATE':>11}{'PROCS':>6}{'REMAINING':>12}{moment:>21}\n")
        for job in mine:
            left = (job["runtime"] or 0) - (status["now"] - job["started"] if job["started"] else 0)
            days = f"{int(left // DAY)}:" if left >= DAY else ""
            date = time.strftime("%a %b %d %H:%M:%S", time.localtime(job["started"] or job["created"]))
            rest = f"{days}{clock(max(left, 0) % DAY)}"
            print(f"{name_of(job):<19}{job['user']:>12}{state(job):>11}{job['cores']:>6}{rest:>12}{date:>21}")
        print(f"\n{len(mine)} {queue} job{'' if len(mine) == 1 else 's'}")
    print(f"\nTotal jobs:  {len(jobs)}\n")
    return 0


# -- commands for one job


def checkjob(cluster: Cluster, arguments: list[str]) -> int:
    """Run ``checkjob JOB [--xml]``."""
    names = [word for word in arguments if not word.startswith("-")]
    if not names:
        sys.stderr.write("Usage: checkjob [exact:jobid|jobid] [-l POLICYLEVEL] [-n NODEID] [-v] [--xml]\n")
        return 1
    status = cluster.status()
    found = _identify(names[0], status["jobs"])
    if not found:
        return complain(f"invalid job specified: {names[0]}")
    if {"--xml", "--format=xml"} & set(arguments):
        print(f"<Data>{''.join(full_element(job, status['now']) for job in found)}</Data>")
        return 0
    job = found[0]
    print(f"job {name_of(job)}\n\nAName: {job['name']}\nState: {state(job)} ")
    if job["state"] == "F":
        print(
            f"Completion Code: {job['exit']}  Time: {time.strftime('%a %b %d %H:%M:%S', time.localtime(job['ended']))}"
        )
    account = f"  account:{job['account']}" if job["account"] else ""
    print(f"Creds:  user:{job['user']}  group:{job['group']}{account}  class:{job['queue']}")
    used = clock((job["ended"] or status["now"]) - job["started"]) if job["started"] else "00:00:00"
    print(f"WallTime:   {used} of {clock(job['runtime'] or 0)}")
    print(f"SubmitTime: {time.strftime('%a %b %d %H:%M:%S', time.localtime(job['created']))}")
    print(f"\nTotal Requested Tasks: {job['cores'] * job['nodes']}\n\nReq[0]  TaskCount: {job['cores'] * job['nodes']}")
    if job["hosts"]:
        print("\nAllocated Nodes:\n" + "".join(f"[{host}:{job['cores']}]" for host in job["hosts"]))
    if job["state"] == "H":
        print("Holds:          User")
    if job["state"] == "Q" and job["reason"]:
        print(f"NOTE:  job cannot run  ({REASONS[job['reason']]})")
    return 0


def _act(cluster: Cluster, what: str, names: list[str]) -> int:
    code = 0
    jobs = cluster.status()["jobs"]
    messages = {
        "delete": "job '{}' cancelled",
        "hold": "holds modified for job '{}'",
        "release": "holds modified for job '{}'",
        "suspend": "job '{}' suspended",
        "resume": "job '{}' resumed",
        "requeue": "job '{}' requeued",
    }
    for name in names:
        found = _identify(name, jobs)
        index = found[0]["index"] if found and "[" in name and "[]" not in name else None
        answer = cluster.act(what, found[0]["number"], index) if found else {"error": "unknown"}
        if answer.get("error") == "denied":
            user = cluster.status()["user"]
            code = complain(f"  user '{user}' is not authorized to perform task '{what}' on job '{name}'")
        elif answer.get("error") in ("unknown", "finished"):
            code = complain(f"invalid job specified ({name})")
        elif "error" in answer:
            code = complain(f"  cannot {what} job '{name}' (job is in state {answer['state']})")
        else:
            print(f"\n{messages[what].format(name)}\n")
    return code


def canceljob(cluster: Cluster, arguments: list[str]) -> int:
    """Run ``canceljob JOB…``."""
    if not arguments:
        sys.stderr.write("Usage: canceljob [jobexp|jobid]\n")
        return 1
    return _act(cluster, "delete", arguments)


def mjobctl(cluster: Cluster, arguments: list[str]) -> int:
    """Run ``mjobctl {-c|-h|-u|-s|-r|-R} JOB`` or ``mjobctl -q {diag|starttime} JOB``."""
    actions = {"-c": "delete", "-F": "delete", "-h": "hold", "-u": "release", "-s": "suspend", "-r": "resume",
               "-R": "requeue"}  # fmt: skip
    flag = next((word for word in arguments if word in (*actions, "-q")), None)
    names = [word for word in arguments if not word.startswith("-") and word not in ("user", "all", "system", "batch")]
    if flag is None or not names:
        sys.stderr.write("Usage: mjobctl [-c|-C|-F|-h|-m|-n|-N|-p|-q|-r|-R|-s|-S|-u|-w|-x] [ARGS] <JOBEXP>\n")
        return 1
    if flag == "-q":
        wanted = names[1] if len(names) > 1 else "ALL"
        return mdiag(cluster, ["-j", "--xml", *([] if wanted == "ALL" else [wanted])])
    return _act(cluster, actions[flag], names[0].split(","))


COMMANDS = {
    "msub": msub,
    "mdiag": mdiag,
    "showq": showq,
    "checkjob": checkjob,
    "canceljob": canceljob,
    "mjobctl": mjobctl,
}
