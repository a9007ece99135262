"""PBS Professional and OpenPBS (Reference Guide 2022.1: 2.41 pbsnodes, 2.46 qdel, 2.55 qstat, 2.57 qsub, 14 errors).

qsub and qstat call ``exit(number)`` with the number of an error, so the exit code is the number's last byte. For
example, ``15001 & 255`` is 153 for an unknown job. A finished job gives 35, an unknown queue 170 and a limit 188.
"""

from __future__ import annotations

import json
import re
import sys
import time
from typing import TYPE_CHECKING, Any

from lab_emulator import directives, qsub
from lab_emulator.common import Job, Usage, clock, owner
from lab_emulator.environment import full_id

if TYPE_CHECKING:
    from lab_emulator.client import Cluster

UNKNOWN_JOB, DENIED, BAD_STATE, UNKNOWN_QUEUE, CLOSED, BAD_USER, LIMIT, FINISHED = (
    15001, 15007, 15016, 15018, 15021, 15023, 15036, 15139,
)  # fmt: skip

RESOURCES = {
    "select", "place", "walltime", "mem", "ncpus", "ngpus", "nodes", "host", "vnode", "vmem", "pmem", "pvmem", "cput",
    "pcput", "arch", "software", "file", "nice", "mpiprocs", "ompthreads", "min_walltime", "max_walltime", "aoe",
    "naccelerators", "preempt_targets", "site", "soft_walltime", "start_time", "nodect",
}  # fmt: skip

QSUB_LETTERS = "a:A:c:C:e:fhIj:J:k:l:m:M:N:o:p:P:q:r:R:S:u:v:VW:Xz"
QSUB_USAGE = """\
usage: qsub [-a date_time] [-A account_string] [-c interval]
\t[-C directive_prefix] [-e path] [-f ] [-h ] [-I [-X]] [-j oe|eo] [-J X-Y[:Z]]
\t[-k keep] [-l resource_list] [-m mail_options] [-M user_list]
\t[-N jobname] [-o path] [-p priority] [-P project] [-q queue] [-r y|n]
\t[-R o|e|oe] [-S path] [-u user_list] [-v variable_list] [-V ]
\t[-W otherattributes=value...] [-z] [script | -- command [arg1 ...]]
       qsub --version
"""
QSTAT_LETTERS = "aiJpr:HTEt1nsu:xfF:D:QqBGMw"
QSTAT_USAGE = """\
usage: 
qstat [-f] [-J] [-p] [-t] [-x] [-E] [-F format | -w] [-D delim] [ job_identifier... | destination... ]
qstat [-a|-i|-r|-H|-T] [-J] [-t] [-u user] [-n] [-s] [-G|-M] [-1] [-w]
\t[ job_identifier... | destination... ]
qstat -Q [-f] [-F format] [-D delim] [ destination... ]
qstat -q [-G|-M] [ destination... ]
qstat -B [-f] [-F format] [-D delim] [ server_name... ]
qstat --version
"""  # noqa: W291 - the real program prints this trailing space
VERSION = "22.05.11"


def refused(program: str, server: str) -> tuple[str, int]:
    """Return the message and the exit code when the server does not answer. PBS uses the system's ECONNREFUSED."""
    text = f"Connection refused\n{program}: cannot connect to server {server} (errno=111)\n"
    return text, 255 if program == "qstat" else 111


def error(program: str) -> str:
    """Return the message of an error with exit code 0, which a site's wrapper script may cause."""
    return f"{program}: End of File\n"


def fail(program: str, text: str, number: int) -> int:
    """Print an error message and return the exit code of the error."""
    sys.stderr.write(f"{program}: {text}\n")
    return number & 255


def identify(text: str) -> tuple[int, int | None] | None:
    """Parse a job id, for example ``12``, ``12.server``, ``12[]`` or ``12[3].server``.

    Returns:
        The job's number and its index in an array, or None if the text is not a job id.
    """
    found = re.fullmatch(r"([0-9]+)(\[([0-9]*)\])?(\.[\w.-]+)?(@[\w.-]+)?", text)
    return (int(found[1]), int(found[3]) if found[3] else None) if found else None


def named(text: str, server: str) -> str:
    """Return a job id in the format of error messages, which includes the server."""
    return text if "." in text else f"{text}.{server}"


# -- qsub


def qsub_command(cluster: Cluster, arguments: list[str]) -> int:
    """Submit a job and print its id."""
    if arguments[:1] == ["--version"]:
        print(f"pbs_version = {VERSION}")
        return 0
    try:
        options, script, name = qsub.read(arguments, QSUB_LETTERS)
        asked = qsub.job(cluster, options, script, name, RESOURCES)
    except Usage as problem:
        sys.stderr.write(f"qsub: {problem}\n{QSUB_USAGE}")
        return 2
    except OSError as problem:
        sys.stderr.write(f"qsub: script file:: {problem.strerror}\n")
        return 1
    except qsub.Refused as refusal:
        return fail("qsub", str(refusal), refusal.number)
    if "select" in asked["resources"] and (both := {"ncpus", "mem", "ngpus"} & set(asked["resources"])):
        return fail(
            "qsub",
            f'"-lresource=" cannot be used with "select" or "place", resource is: {min(both)}',
            15109,
        )
    asked["arguments"] = " ".join(arguments)
    answer = cluster.submit(asked)
    if "error" in answer:
        texts = {
            "queue": ("Unknown queue", UNKNOWN_QUEUE), "closed": ("Queue is not enabled", CLOSED),
            "user": ("Bad UID for job execution", BAD_USER),
            "limit": ("Job violates queue and/or server resource limits", LIMIT),
        }  # fmt: skip
        return fail("qsub", *texts[answer["error"]])
    print(f"{answer['number']}{'[]' if asked['indices'] else ''}.{cluster.server}")
    return 0


# -- qstat


def qstat_command(cluster: Cluster, arguments: list[str]) -> int:
    """Show jobs, queues or the server."""
    if arguments[:1] == ["--version"]:
        print(f"pbs_version = {VERSION}")
        return 0
    try:
        # C's getopt lets options follow operands.
        options, rest = _permuted(arguments, "aiJpr" + QSTAT_LETTERS[6:])
        given = dict(options)
        if given.get("-F", "json") not in ("json", "dsv") or ("-F" in given and "-f" not in given):
            raise Usage("conflicting options.")
    except Usage as problem:
        sys.stderr.write(f"qstat: {problem}\n{QSTAT_USAGE}")
        return 2
    status = cluster.status()
    if "-Q" in given or "-q" in given:
        return _queues(cluster, status, given, rest)
    if "-B" in given:
        return _server(cluster, status, given)
    code, jobs = _chosen(cluster, status, given, rest)
    if "-f" not in given:
        _table(jobs, status, given)
    elif given.get("-F") == "json":
        shown = _prologue(cluster, status)
        if jobs:
            shown["Jobs"] = dict(jobs)
        print(_json(shown))
    elif given.get("-F") == "dsv":
        for identifier, found in jobs:
            flat = [f"{name}={value}" for name, value in _flat(found)]
            print(given.get("-D", "|").join([f"Job Id: {identifier}", *flat]))
    else:
        for identifier, found in jobs:
            print(f"Job Id: {identifier}")
            for name, value in _flat(found):
                print(attribute_line(name, value, wide="-w" in given))
            print()
    return code


def _permuted(arguments: list[str], letters: str) -> tuple[directives.Options, list[str]]:
    options: directives.Options = []
    operands: list[str] = []
    while arguments:
        found, rest = directives.parse(arguments, letters)
        options += found
        operands += rest[:1]
        arguments = rest[1:]
    return options, operands


def _prologue(cluster: Cluster, status: dict[str, Any]) -> dict[str, Any]:
    return {"timestamp": int(status["now"]), "pbs_version": VERSION, "pbs_server": cluster.server}


def _json(shown: dict[str, Any]) -> str:
    return json.dumps(shown, indent=4, separators=(",", ":"))


def _chosen(
    cluster: Cluster, status: dict[str, Any], given: dict[str, str], operands: list[str]
) -> tuple[int, list[tuple[str, dict[str, Any]]]]:
    """Return the exit code and the selected jobs. The exit code is not 0 if an operand was not found."""
    history, subjobs = "-x" in given or "-H" in given, "-t" in given
    jobs = status["jobs"]
    users = set(given.get("-u", "").split(",")) - {""}
    if users:
        jobs = [job for job in jobs if job["user"] in users]
    if not operands:
        return 0, _entries([job for job in jobs if history or job["state"] != "F"], status, subjobs=subjobs)
    code, found = 0, []
    for operand in operands:
        identifier = identify(operand)
        if identifier is None:
            if operand not in {queue["name"] for queue in status["queues"]}:
                code = fail("qstat", f"Unknown queue {operand}", UNKNOWN_QUEUE)
            found += [job for job in jobs if job["queue"] == operand and (history or job["state"] != "F")]
            continue
        number, index = identifier
        mine = [job for job in jobs if job["number"] == number and index in (None, job["index"])]
        if not mine:
            code = fail("qstat", f"Unknown Job Id {named(operand, cluster.server)}", UNKNOWN_JOB)
        elif not history and all(job["state"] == "F" for job in mine):
            text = (
                f"{named(operand, cluster.server)} Job has finished, use -x or -H to obtain historical job information"
            )
            code = fail("qstat", text, FINISHED)
        else:
            found += mine
            subjobs = subjobs or index is not None
    return code, _entries(found, status, subjobs=subjobs)


def _entries(jobs: list[Job], status: dict[str, Any], *, subjobs: bool) -> list[tuple[str, dict[str, Any]]]:
    """Return the ids and attributes of jobs. An array is one entry, unless ``-t`` shows its subjobs."""
    found: dict[str, dict[str, Any]] = {}
    for job in jobs:
        if job["index"] is not None:
            parent = f"{job['number']}[].{job['server']}"
            family = [other for other in jobs if other["number"] == job["number"]]
            if parent not in found and (not subjobs or len(family) > 1):
                found[parent] = array_attributes(family, status["now"])
            if not subjobs:
                continue
        found[full_id(job)] = attributes(job, status["now"])
    return list(found.items())


COMMENTS = {
    "cores": "Not Running: Insufficient amount of resource: ncpus",
    "memory": "Not Running: Insufficient amount of resource: mem",
    "gpus": "Not Running: Insufficient amount of resource: ngpus",
    "nodes": "Not Running: Not enough free nodes available",
    "never": "Can Never Run: Insufficient amount of resource: ncpus (R: more than any node has)",
    "closed": "Not Running: Queue not started.",
    "": "",
}
SUBSTATES = {"Q": 10, "H": 20, "R": 42, "S": 43, "E": 51, "F": 92}


def comment(job: Job) -> str:
    """Return the scheduler's comment on a job (RG 5.11, ``comment``)."""
    if job["state"] == "H":
        return f"Job held by {job['user']} on {time.ctime(job['changed'])}"
    if job["state"] == "Q":
        return COMMENTS[job["reason"]]
    if job["started"] is None:
        return f"job deleted as {job['deleted_by']}" if job["deleted_by"] else ""
    run = f"Job run at {time.strftime('%a %b %d at %H:%M', time.localtime(job['started']))} on {vnodes(job)}"
    if job["state"] == "F":
        return f"{run} and {'failed' if job['exit'] else 'finished'}"
    return run


def vnodes(job: Job) -> str:
    """Return the allocated nodes, for example ``(node:ncpus=2:mem=1024kb)``, separated by ``+``."""
    memory = f":mem={job['memory'] * 1024}kb" if job["memory"] else ""
    gpus = f":ngpus={job['gpus']}" if job["gpus"] else ""
    return "+".join(f"({host}:ncpus={job['cores']}{memory}{gpus})" for host in job["hosts"])


def output_path(job: Job, which: int) -> str:
    """Return the HOST:PATH of an output file: ``which`` is 0 for standard output and 1 for standard error."""
    letter = "oe"[which]
    path = job["outputs"][which] or f"{job['origin']['PBS_O_WORKDIR']}/{job['name']}.{letter}{job['number']}"
    return f"{job['host']}:{path}"


def state(job: Job) -> str:
    """Return the letter of a job's state (RG 8.1). A finished subjob has the state X."""
    return "X" if job["state"] == "F" and job["index"] is not None else str(job["state"])


def resource_list(job: Job) -> dict[str, Any]:
    """Return ``Resource_List`` with the defaults that the server adds."""
    memory = {"mem": f"{job['memory'] * job['nodes']}mb"} if job["memory"] else {}
    gpus = {"ngpus": job["gpus"]} if job["gpus"] else {}
    given = {name: value for name, value in job["resources"].items() if name not in ("mem", "ncpus", "ngpus")}
    chunk = ":".join(
        [f"{job['nodes']}:ncpus={job['cores']}"]
        + ([f"mem={job['memory']}mb"] if job["memory"] else [])
        + ([f"ngpus={job['gpus']}"] if job["gpus"] else [])
    )
    return {
        **memory, "ncpus": job["cores"] * job["nodes"], **gpus, "nodect": job["nodes"], "place": "pack",
        "select": chunk, **given, "walltime": clock(job["runtime"] or 0),
    }  # fmt: skip


def attributes(job: Job, now: float) -> dict[str, Any]:
    """Return all attributes of a job in the server's order. An attribute without a value is missing."""
    used = (job["ended"] or now) - job["started"] if job["started"] else 0
    ran = {
        "resources_used": {
            "cpupct": 0, "cput": "00:00:00", "mem": "12340kb", "ncpus": job["cores"], "vmem": "98760kb",
            "walltime": clock(used),
        },
    } if job["started"] and job["reported"] else {}  # fmt: skip
    places = "+".join(f"{host}/0*{job['cores']}" if job["cores"] > 1 else f"{host}/0" for host in job["hosts"])
    placed = {"exec_host": places, "exec_vnode": vnodes(job)} if job["hosts"] else {}
    variables = job["origin"] | job["extra"]["variables"]
    started = {"stime": time.ctime(job["started"])} if job["started"] else {}
    session = {"session_id": job["session_id"]} if job["session_id"] else {}
    estimate = (
        {"estimated": {"start_time": time.ctime(job["estimate"])}} if job["estimate"] and job["state"] == "Q" else {}
    )
    ended = {"Exit_status": job["exit"]} if job["exit"] is not None else {}
    account = {"Account_Name": job["account"]} if job["account"] else {}
    commented = {"comment": comment(job)} if comment(job) else {}
    array = (
        {"array_id": f"{job['number']}[].{job['server']}", "array_index": job["index"]}
        if job["index"] is not None
        else {}
    )
    shell = {"Shell_Path_List": job["shell"]} if job["extra"].get("shell") else {}
    return {
        "Job_Name": job["name"], "Job_Owner": owner(job), **ran, "job_state": state(job), "queue": job["queue"],
        "server": job["server"], **account, "Checkpoint": "u", "ctime": time.ctime(job["created"]),
        "Error_Path": output_path(job, 1), **placed, "Hold_Types": job["hold"] or "n",
        "Join_Path": "oe" if job["join"] else "n", "Keep_Files": job["keep"], "Mail_Points": job["mail"],
        "mtime": time.ctime(job["changed"]), "Output_Path": output_path(job, 0), "Priority": job["priority"],
        "qtime": time.ctime(job["created"]), "Rerunable": "True" if job["rerunnable"] else "False",
        "Resource_List": resource_list(job), **started, **session, **shell,
        **({"jobdir": job["home"]} if job["started"] else {}), "substate": SUBSTATES[job["state"]],
        "Variable_List": variables, **commented, "etime": time.ctime(job["created"]),
        **({"run_count": job["runs"]} if job["runs"] else {}),
        "eligible_time": clock((job["started"] or now) - job["created"]),
        **array, **ended,
        **({"Submit_arguments": job["arguments"]} if job["arguments"] else {}),
        **({"history_timestamp": int(job["ended"])} if job["state"] == "F" else {}), **estimate,
        "project": job["project"] or "_pbs_project_default", "Submit_Host": job["host"],
    }  # fmt: skip


def array_attributes(jobs: list[Job], now: float) -> dict[str, Any]:
    """Return the attributes of an array. Its state is B as soon as one of its jobs has started."""
    states = [job["state"] for job in jobs]
    found = attributes(jobs[0], now)
    for name in ("exec_host", "exec_vnode", "session_id", "resources_used", "array_id", "array_index", "Exit_status"):
        found.pop(name, None)
    over = all(state_ == "F" for state_ in states)
    begun = any(job["started"] or job["state"] == "F" for job in jobs)
    counts = {"Queued": "Q", "Running": "R", "Exiting": "E", "Expired": "F"}
    found["job_state"] = "F" if over else "B" if begun else states[0]
    found["array"] = "True"
    found["array_state_count"] = " ".join(f"{word}:{states.count(letter)}" for word, letter in counts.items()) + " "
    found["array_indices_submitted"] = f"{jobs[0]['index']}-{jobs[-1]['index']}"
    return found


def _flat(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return attributes with the names of ``qstat -f``: resources after a dot, and the variable list as one value."""
    flat = []
    for name, value in found.items():
        if name == "Variable_List":
            flat.append((name, ",".join(f"{key}={entry}" for key, entry in value.items())))
        elif isinstance(value, dict):
            flat += [(f"{name}.{key}", str(entry)) for key, entry in value.items()]
        else:
            flat.append((name, str(value)))
    return flat


def attribute_line(name: str, value: str, *, wide: bool = False) -> str:
    """Format an attribute as ``    NAME = VALUE``, like prt_attr in qstat.c.

    Long lines are broken after commas and at column 78, and continue after a tab. ``-w`` (wide) prevents this.
    """
    if wide:
        return f"    {name} = {value}"
    text = f"    {name} = "
    column = len(name) + 7
    for number, part in enumerate(value.split(",")):
        comma = "," if number else ""
        if len(part) + column < 78:
            text += comma + part
            column += len(part)
            continue
        text += comma
        if number:
            text += "\n\t"
            column = 9
        for character in part:
            text += character
            column += 1
            if column > 78:
                text += "\n\t"
                column = 8
    return text


def _table(jobs: list[tuple[str, dict[str, Any]]], status: dict[str, Any], given: dict[str, str]) -> None:
    """Print jobs as the default table, or as the alternative table of ``-a``, ``-n``, ``-s`` and ``-u``."""
    if not jobs:
        return
    if not {"-a", "-i", "-r", "-n", "-s", "-u", "-H", "-T"} & set(given):
        print("Job id            Name             User              Time Use S Queue")
        print("----------------  ---------------- ----------------  -------- - -----")
        for identifier, found in jobs:
            user = found["Job_Owner"].partition("@")[0]
            used = found.get("resources_used", {}).get("cput", "0")
            print(
                f"{identifier:<17.17} {found['Job_Name']:<16.16} {user:<16.16} {used:>9} {found['job_state']} "
                f"{found['queue']}"
            )
        return
    print(f"\n{jobs[0][1]['server']}: ")
    print(f"{'':60}Req'd  Req'd   Elap")
    print("Job ID          Username Queue    Jobname    SessID NDS TSK Memory Time  S Time")
    print("--------------- -------- -------- ---------- ------ --- --- ------ ----- - -----")
    for identifier, found in jobs:
        user = found["Job_Owner"].partition("@")[0]
        wants = found["Resource_List"]
        elapsed = found.get("resources_used", {}).get("walltime", "--")
        print(
            f"{identifier:<15.15} {user:<8.8} {found['queue']:<8.8} {found['Job_Name']:<10.10} "
            f"{found.get('session_id', '--')!s:>6.6} {wants['nodect']:>3} {wants['ncpus']:>3} "
            f"{wants.get('mem', '--'):>6.6} {wants['walltime'][:5]:>5} {found['job_state']} {elapsed[:5]:>5}"
        )
        if "-n" in given:
            print(f"   {found.get('exec_host', '--')}")
        if "-s" in given:
            print(f"   {found.get('comment', '--')}")


def _counts(jobs: list[Job]) -> str:
    words = {"Transit": "T", "Queued": "Q", "Held": "H", "Waiting": "W", "Running": "R", "Exiting": "E", "Begun": "B"}
    states = [job["state"] for job in jobs]
    return " ".join(f"{word}:{states.count(letter)}" for word, letter in words.items()) + " "


def queue_attributes(queue: dict[str, Any], jobs: list[Job]) -> dict[str, Any]:
    """Return the attributes of a queue (RG 5.8)."""
    mine = [job for job in jobs if job["queue"] == queue["name"] and job["state"] != "F"]
    limits = {
        "ncpus": queue.get("max_cores"), "mem": f"{queue['max_memory']}mb" if queue.get("max_memory") else None,
        "ngpus": queue.get("max_gpus"), "walltime": clock(queue["max_runtime"]) if queue.get("max_runtime") else None,
    }  # fmt: skip
    return {
        "queue_type": "Execution", "total_jobs": len(mine), "state_count": _counts(mine),
        "resources_max": {name: value for name, value in limits.items() if value is not None},
        "hasnodes": "False", "enabled": "True" if queue["open"] else "False",
        "started": "True" if queue["open"] else "False",
    }  # fmt: skip


def _queues(cluster: Cluster, status: dict[str, Any], given: dict[str, str], wanted: list[str]) -> int:
    code = 0
    queues = {queue["name"]: queue_attributes(queue, status["jobs"]) for queue in status["queues"]}
    for name in wanted:
        if name.partition("@")[0] not in queues:
            code = fail("qstat", f"Unknown queue {name}", UNKNOWN_QUEUE)
    names = {name.partition("@")[0] for name in wanted} or set(queues)
    shown = {name: found for name, found in queues.items() if name in names}
    if given.get("-F") == "json":
        answer = _prologue(cluster, status)
        if shown:
            answer["Queue"] = shown
        print(_json(answer))
    elif "-f" in given:
        for name, found in shown.items():
            print(f"Queue: {name}")
            for key, value in _flat(found):
                print(attribute_line(key, value))
            print()
    elif "-q" in given:
        print(f"\nserver: {cluster.server}\n")
        print("Queue            Memory CPU Time Walltime Node   Run   Que   Lm  State")
        print("---------------- ------ -------- -------- ---- ----- ----- ----  -----")
        for name, found in shown.items():
            most = found["resources_max"]
            letters = "E R" if found["enabled"] == "True" else "D S"
            print(
                f"{name:<16} {most.get('mem', '--'):>6.6}   --    {most.get('walltime', '--'):>8.8}  --  "
                f"    0     0   --   {letters}"
            )
    else:
        print("Queue              Max   Tot Ena Str   Que   Run   Hld   Wat   Trn   Ext Type")
        print("---------------- ----- ----- --- --- ----- ----- ----- ----- ----- ----- ----")
        for name, found in shown.items():
            count = dict(item.split(":") for item in found["state_count"].split())
            flag = "yes" if found["enabled"] == "True" else " no"
            print(
                f"{name:<16} {0:>5} {found['total_jobs']:>5} {flag} {flag} {count['Queued']:>5} {count['Running']:>5} "
                f"{count['Held']:>5} {count['Waiting']:>5} {count['Transit']:>5} {count['Exiting']:>5} Exec"
            )
    return code


def _server(cluster: Cluster, status: dict[str, Any], given: dict[str, str]) -> int:
    alive = [job for job in status["jobs"] if job["state"] != "F"]
    found = {
        "server_state": "Active", "server_host": cluster.server, "scheduling": "True", "total_jobs": len(alive),
        "state_count": _counts(alive), "default_queue": status["queues"][0]["name"], "job_history_enable": "True",
        "query_other_jobs": "True", "pbs_version": VERSION,
    }  # fmt: skip
    if given.get("-F") == "json":
        print(_json(_prologue(cluster, status) | {"Server": {cluster.server: found}}))
    elif "-f" in given:
        print(f"Server: {cluster.server}")
        for name, value in _flat(found):
            print(attribute_line(name, value))
        print()
    else:
        print("Server             Max   Tot   Que   Run   Hld   Wat   Trn   Ext Status")
        print("---------------- ----- ----- ----- ----- ----- ----- ----- ----- -----------")
        count = dict(item.split(":") for item in str(found["state_count"]).split())
        print(
            f"{cluster.server:<16} {0:>5} {len(alive):>5} {count['Queued']:>5} {count['Running']:>5} "
            f"{count['Held']:>5} {count['Waiting']:>5} {count['Transit']:>5} {count['Exiting']:>5} Active"
        )
    return 0


# -- actions on a job


def _act(program: str, what: str, letters: str, usage: str) -> Any:
    def command(cluster: Cluster, arguments: list[str]) -> int:
        try:
            _, rest = _permuted(arguments, letters)
            if not rest:
                raise Usage("no job identifier")
        except Usage:
            sys.stderr.write(f"usage: {usage}\n")
            return 2
        code = 0
        for text in rest:
            identifier = identify(text)
            if identifier is None:
                sys.stderr.write(f"{program}: illegally formed job identifier: {text}\n")
                code = 1
                continue
            answer = cluster.act(what, *identifier)
            if "error" in answer:
                messages = {
                    "unknown": ("Unknown Job Id", UNKNOWN_JOB), "denied": ("Unauthorized Request ", DENIED),
                    "finished": ("Job has finished", FINISHED),
                    "state": ("Request invalid for state of job", BAD_STATE),
                }  # fmt: skip
                message, number = messages[answer["error"]]
                code = fail(program, f"{message} {named(text, cluster.server)}", number)
        return code

    return command


def pbsnodes(cluster: Cluster, arguments: list[str]) -> int:
    """Run ``pbsnodes -a [-F json]``."""
    status = cluster.status()
    nodes = {
        name: {
            "Mom": name, "ntype": "PBS",
            "state": ("job-busy" if node["used"]["cores"] >= node["cores"] else "free") if node["up"] else "down",
            "pcpus": node["cores"],
            "resources_available": {"arch": "linux", "host": name, "mem": f"{node['memory'] * 1024}kb",
                                    "ncpus": node["cores"], "vnode": name},
            "resources_assigned": {"mem": f"{node['used']['memory'] * 1024}kb", "ncpus": node["used"]["cores"]},
        }
        for name, node in status["nodes"].items()
    }  # fmt: skip
    if "json" in arguments:
        print(_json(_prologue(cluster, status) | {"nodes": nodes}))
        return 0
    for name, found in nodes.items():
        print(name)
        for key, value in _flat(found):
            print(f"     {key} = {value}")
        print()
    return 0


COMMANDS = {
    "qsub": qsub_command,
    "qstat": qstat_command,
    "qdel": _act("qdel", "delete", "xW:", "\n\tqdel [-W force|suppress_email=X] [-x] job_identifier..."),
    "qhold": _act("qhold", "hold", "h:", "qhold [-h hold_list] job_identifier..."),
    "qrls": _act("qrls", "release", "h:", "qrls [-h hold_list] job_identifier..."),
    "qrerun": _act("qrerun", "requeue", "W:", "qrerun [-W force] job_identifier..."),
    "pbsnodes": pbsnodes,
}
