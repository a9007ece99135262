"""Torque 6.1 (Administrator Guide, appendix A: qsub, qstat, qdel, qhold, qrls, qrerun, pbsnodes; D: error codes).

As in PBS, the exit code is the last byte of the error's number, but Torque uses other numbers. For example, an unknown
queue gives 172, a limit 190 and a job in the wrong state 170. ``qstat -x`` prints XML with times in seconds since the
epoch, whereas ``qstat -f`` prints them as dates.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from lab_emulator import directives, pbs, qsub
from lab_emulator.common import Job, Usage, clock, owner, versioned
from lab_emulator.environment import full_id

if TYPE_CHECKING:
    from lab_emulator.client import Cluster

UNKNOWN_JOB, DENIED, BAD_STATE, UNKNOWN_QUEUE, CLOSED, BAD_USER, LIMIT, UNKNOWN_NODE = (
    15001, 15007, 15018, 15020, 15023, 15025, 15038, 15062,
)  # fmt: skip

RESOURCES = {
    "arch", "cput", "cpuclock", "epilogue", "feature", "file", "gpus", "host", "mem", "naccesspolicy", "ncpus", "nice",
    "nodes", "nodeset", "opsys", "other", "pcput", "pmem", "procs", "prologue", "pvmem", "size", "software", "vmem",
    "walltime", "qos", "partition", "gres", "advres", "flags", "var", "template", "hostlist", "nodect", "neednodes",
    "trl", "signal", "jobflags", "nmatchpolicy", "minwclimit", "dmem", "ddisk", "select",
}  # fmt: skip

QSUB_LETTERS = "a:A:b:c:C:d:D:e:EfF:hIj:J:k:K:l:L:m:M:nN:o:p:P:q:r:S:t:T:u:v:Vw:W:Xxz"
QSUB_USAGE = """\
usage: qsub [-a date_time] [-A account_string] [-b secs]
      [-c [ none | { enabled | periodic | shutdown |
      depth=<int> | dir=<path> | interval=<minutes>}... ]
      [-C directive_prefix] [-d path] [-D path]
      [-e path] [-h] [-I] [-j oe|eo|n] [-k {oe}] [-K <seconds>] [-l resource_list] [-L req_list] [-m n|{abe}]
      [-M user_list] [-N jobname] [-o path] [-p priority] [-P proxy_user [-J <jobid]]
      [-q queue] [-r y|n] [-S path] [-t number_to_submit] [-T type] [-u user_list]
      [-v variable_list] [-w] path [-W additional_attributes] [-V ] [-x] [-X] [-z] [script]
"""
QSTAT_LETTERS = "acCeE:fgiln1pqrstu:xGMQRBW:"
QSTAT_USAGE = """\
usage: qstat [-f [-1]] [-W site_specific] [-x] [ job_identifier... | destination... ]
       qstat [-a|-i|-r|-e] [-u user] [-n [-1]] [-s] [-t] [-G|-M] [-R] [job_id... | destination...]
       qstat -Q [-f [-1]] [-W site_specific] [ destination... ]
       qstat -q [-G|-M] [ destination... ]
       qstat -B [-f [-1]] [-W site_specific] [ server_name... ]
       qstat -t [-f [-1]] [-W site_specific] [ job_identifier... | destination... ]
"""
VERSION = "6.1.2"
RELEASE = f"Version: {VERSION}\nCommit: {'0' * 40}\n"
DATES = ("ctime", "etime", "mtime", "qtime", "start_time", "comp_time")


def refused(program: str, server: str) -> tuple[str, int]:
    """Return the message and the exit code when the server does not answer."""
    text = (
        f"Unable to communicate with {server}(127.0.0.1)\n"
        f"Cannot connect to specified server host '{server}'.\n"
        f"{program}: cannot connect to server {server} (errno=15133) Could not connect to batch server\n"
    )
    return text, 15133 & 255


def error(program: str) -> str:
    """Return the message of an error with exit code 0."""
    return f"{program}: End of File\n"


def resources(cluster: Cluster) -> set[str]:
    """Return the resources that ``-l`` accepts. Under Moab, they include Moab's own resources, which Torque ignores."""
    return RESOURCES - {"select"} if cluster.flavour == "torque" else RESOURCES


def qsub_command(cluster: Cluster, arguments: list[str]) -> int:
    """Submit a job and print its id."""
    try:
        options, script, name = qsub.read(arguments, QSUB_LETTERS)
        asked = qsub.job(cluster, options, script, name, resources(cluster))
    except Usage as problem:
        sys.stderr.write(f"qsub: {problem}\n{QSUB_USAGE}")
        return 2
    except OSError as problem:
        sys.stderr.write(f"qsub: script file '{arguments[-1]}' cannot be loaded - {problem.strerror}\n")
        return 1
    except qsub.Refused as refusal:
        numbers = {15035: (15037, "Unknown resource type "), 15014: (15016, "Illegal attribute or resource value for ")}
        number, text = numbers[refusal.number]
        detail = str(refusal).rpartition(" ")[2].removeprefix("Resource_List.")
        return pbs.fail("qsub", f"submit error ({text} Resource_List.{detail})", number)
    if "-d" in dict(options):
        asked["directory"] = dict(options)["-d"]
    asked["arguments"] = " ".join(arguments)
    answer = cluster.submit(asked)
    if "error" in answer:
        return pbs.fail("qsub", *complaint(answer))
    print(f"{answer['number']}{'[]' if asked['indices'] else ''}.{cluster.server}")
    return 0


def complaint(answer: dict[str, Any]) -> tuple[str, int]:
    """Return the message and the number of the error when the server refuses a job."""
    if answer["error"] == "limit":
        what = {"runtime": "walltime", "memory": "mem", "cores": "ncpus", "gpus": "gpus"}[answer["resource"]]
        text = f"Job exceeds queue resource limits MSG=cannot satisfy queue max {what} requirement"
        return f"submit error ({text})", LIMIT
    texts = {
        "queue": ("Unknown queue MSG=cannot locate queue", UNKNOWN_QUEUE),
        "closed": ("Queue is not enabled MSG=queue is disabled", CLOSED),
        "user": ("Bad UID for job execution MSG=root user not allowed", BAD_USER),
    }
    text, number = texts[answer["error"]]
    return f"submit error ({text})", number


def qstat_command(cluster: Cluster, arguments: list[str]) -> int:
    """Show jobs, queues or the server."""
    try:
        options, rest = pbs._permuted(arguments, QSTAT_LETTERS)  # noqa: SLF001 - Torque's programs extend those of PBS
    except Usage as problem:
        sys.stderr.write(f"qstat: {problem}\n{QSTAT_USAGE}")
        return 2
    given = dict(options)
    status = cluster.status()
    if "-Q" in given or "-q" in given:
        return _queues(cluster, status, given, rest)
    if "-B" in given:
        return pbs._server(cluster, status, given)  # noqa: SLF001
    code, jobs = _chosen(cluster, status, given, rest)
    shown = _entries(jobs, status["now"], each="-t" in given)
    if "-x" in given:
        # Without a job to show, qstat prints an empty document. After an error, it prints no document.
        if shown or not code:
            print('<?xml version="1.0"?>')
            print("<Data>" + "".join(_xml(identifier, found) for identifier, found in shown) + "</Data>")
    elif "-f" in given:
        for identifier, found in shown:
            print(f"Job Id: {identifier}")
            for name, value in _flat(found):
                print(pbs.attribute_line(name, value, wide="-1" in given))
            print()
    elif shown:
        _table(shown)
    return code


def _chosen(
    cluster: Cluster, status: dict[str, Any], given: dict[str, str], operands: list[str]
) -> tuple[int, list[Job]]:
    users = set(given.get("-u", "").split(",")) - {""}
    jobs = [
        job
        for job in status["jobs"]
        if (not users or job["user"] in users) and ("-c" not in given or job["state"] != "F")
    ]
    if not operands:
        return 0, jobs
    code, found = 0, []
    for operand in operands:
        identifier = pbs.identify(operand)
        if identifier is None:
            if operand not in {queue["name"] for queue in status["queues"]}:
                code = pbs.fail("qstat", f"Unknown queue MSG=cannot locate queue {operand}", UNKNOWN_QUEUE)
            found += [job for job in jobs if job["queue"] == operand]
            continue
        mine = [job for job in jobs if job["number"] == identifier[0] and identifier[1] in (None, job["index"])]
        if not mine:
            code = pbs.fail("qstat", f"Unknown Job Id Error {pbs.named(operand, cluster.server)}", UNKNOWN_JOB)
        found += mine
    return code, found


def _entries(jobs: list[Job], now: float, *, each: bool) -> list[tuple[str, dict[str, Any]]]:
    """Return the ids and attributes of jobs. An array is one entry, unless ``-t`` shows its subjobs."""
    found: dict[str, dict[str, Any]] = {}
    for job in jobs:
        if job["index"] is not None and not each:
            summary = attributes(job, now)
            for name in ("exec_host", "session_id", "resources_used"):
                summary.pop(name, None)
            found.setdefault(f"{job['number']}[].{job['server']}", summary | {"job_array_request": str(job["index"])})
            continue
        found[full_id(job)] = attributes(job, now)
    return list(found.items())


def state(job: Job) -> str:
    """Return the letter of a job's state. A completed job has the state C until the server forgets it."""
    return "C" if job["state"] == "F" else str(job["state"])


def attributes(job: Job, now: float) -> dict[str, Any]:
    """Return all attributes of a job in the server's order, with dates as seconds since the epoch."""
    ran = (
        {"resources_used": {"cput": "00:00:00", "energy_used": "0", "mem": "12340kb", "vmem": "98760kb",
         "walltime": clock((job["ended"] or now) - job["started"])}}
        if job["started"] and job["reported"] else {}
    )  # fmt: skip
    last = job["cores"] - 1
    places = "+".join(f"{host}/0-{last}" if last else f"{host}/0" for host in job["hosts"])
    variables = ",".join(f"{name}={value}" for name, value in (job["origin"] | job["extra"]["variables"]).items())
    wants = job["resources"] | {"walltime": clock(job["runtime"] or 0)}
    wants.setdefault("nodes", f"{job['nodes']}:ppn={job['cores']}")
    wants |= {"nodect": str(job["nodes"]), "neednodes": wants["nodes"]}
    started = {"start_time": str(int(job["started"])), "start_count": str(job["runs"])} if job["started"] else {}
    ended = (
        {"exit_status": str(job["exit"]), "comp_time": str(int(job["ended"])),
         "total_runtime": f"{job['ended'] - (job['started'] or job['ended']):.6f}"}
        if job["state"] == "F" else {}
    )  # fmt: skip
    left = (job["runtime"] or 0) - (now - job["started"]) if job["started"] else 0
    comment = _comment(job)
    return {
        "Job_Name": job["name"], "Job_Owner": owner(job), **ran, "job_state": state(job), "queue": job["queue"],
        "server": job["server"], **({"Account_Name": job["account"]} if job["account"] else {}),
        "Checkpoint": "u", "ctime": str(int(job["created"])), "Error_Path": pbs.output_path(job, 1),
        **({"exec_host": places} if places else {}), "Hold_Types": job["hold"] or "n",
        "Join_Path": "oe" if job["join"] else "n", "Keep_Files": job["keep"], "Mail_Points": job["mail"],
        "mtime": str(int(job["changed"])), "Output_Path": pbs.output_path(job, 0), "Priority": str(job["priority"]),
        "qtime": str(int(job["created"])), "Rerunable": "True" if job["rerunnable"] else "False",
        "Resource_List": wants, **({"session_id": str(job["session_id"])} if job["session_id"] else {}),
        "Variable_List": variables, "euser": job["user"], "egroup": job["group"], "queue_type": "E",
        **({"comment": comment} if comment else {}), "etime": str(int(job["created"])), **ended,
        **({"submit_args": job["arguments"]} if job["arguments"] else {}), **started,
        **({"Walltime": {"Remaining": str(int(left))}} if job["state"] in "RSE" else {}),
        "fault_tolerant": "False", "job_radix": "0", "submit_host": job["host"],
        "init_work_dir": job["origin"]["PBS_O_WORKDIR"], "request_version": "1",
    }  # fmt: skip


def _comment(job: Job) -> str:
    """Return the scheduler's comment on a job. pbs_sched writes the same comments as PBS, and Moab writes none."""
    if job["flavour"] == "moab" or job["state"] not in "QR":
        return ""
    if job["state"] == "R":
        return f"Job started on {time.strftime('%a %b %d at %H:%M', time.localtime(job['started']))}"
    if job["reason"] in ("cores", "nodes"):
        return "Not Running: Not enough of the right type of nodes are available"
    return pbs.COMMENTS[job["reason"]]


def _xml(identifier: str, found: dict[str, Any]) -> str:
    def element(name: str, value: Any) -> str:
        inner = "".join(element(*item) for item in value.items()) if isinstance(value, dict) else escape(str(value))
        return f"<{name}>{inner}</{name}>"

    return "<Job>" + element("Job_Id", identifier) + "".join(element(*item) for item in found.items()) + "</Job>"


def _flat(found: dict[str, Any]) -> list[tuple[str, str]]:
    flat = []
    for name, value in found.items():
        if isinstance(value, dict):
            flat += [(f"{name}.{key}", str(entry)) for key, entry in value.items()]
        else:
            flat.append((name, time.ctime(int(value)) if name in DATES else str(value)))
    return flat


def _table(shown: list[tuple[str, dict[str, Any]]]) -> None:
    print("Job ID                    Name             User            Time Use S Queue")
    print("------------------------- ---------------- --------------- -------- - -----")
    for identifier, found in shown:
        user = found["Job_Owner"].partition("@")[0]
        used = found.get("resources_used", {}).get("cput", "0")
        print(
            f"{identifier:<25.25} {found['Job_Name'][-16:]:<16} {user:<15.15} {used:>8} {found['job_state']} "
            f"{found['queue']:<15}"
        )


def _queues(cluster: Cluster, status: dict[str, Any], given: dict[str, str], wanted: list[str]) -> int:
    known = {queue["name"] for queue in status["queues"]}
    code = 0
    for name in wanted:
        if name not in known:
            code = pbs.fail("qstat", f"Unknown queue MSG=cannot locate queue {name}", UNKNOWN_QUEUE)
    if "-f" not in given:
        return pbs._queues(cluster, status, given, [name for name in wanted if name in known]) or code  # noqa: SLF001
    for queue in status["queues"]:
        if wanted and queue["name"] not in wanted:
            continue
        found = pbs.queue_attributes(queue, status["jobs"])
        found.pop("hasnodes")
        print(f"Queue: {queue['name']}")
        for key, value in _flat(found | {"mtime": "0"}):
            print(pbs.attribute_line(key, value))
        print()
    return code


def _act(program: str, what: str, letters: str, usage: str) -> Any:
    def command(cluster: Cluster, arguments: list[str]) -> int:
        try:
            _, rest = directives.parse(arguments, letters)
            if not rest:
                raise Usage("no job identifier")
        except Usage:
            sys.stderr.write(f"usage: {usage}\n")
            return 2
        code = 0
        for text in rest:
            identifier = pbs.identify(text)
            if identifier is None:
                sys.stderr.write(f"{program}: illegally formed job identifier: {text}\n")
                code = 1
                continue
            answer = cluster.act(what, *identifier)
            full = pbs.named(text, cluster.server)
            if answer.get("error") == "unknown" and program == "qdel":
                sys.stderr.write(f"qdel: nonexistent job id: {full}\n")
                code = UNKNOWN_JOB & 255
            elif "error" in answer:
                messages = {
                    "unknown": ("Unknown Job Id Error", UNKNOWN_JOB),
                    "denied": ("Unauthorized Request  MSG=operation not permitted", DENIED),
                    "finished": ("Request invalid for state of job MSG=invalid state for job - COMPLETE", BAD_STATE),
                    "state": ("Request invalid for state of job", BAD_STATE),
                }
                message, number = messages[answer["error"]]
                code = pbs.fail(program, f"{message} {full}", number)
        return code

    return command


def pbsnodes(cluster: Cluster, arguments: list[str]) -> int:
    """Run ``pbsnodes [-a] [-x] [NODE…]``, which prints an empty line after each node, or XML on one line."""
    try:
        options, wanted = directives.parse(arguments, "ax")
    except Usage as problem:
        sys.stderr.write(f"pbsnodes: {problem}\nusage:\tpbsnodes [-{{a|x}}] [-s server] [node ... node]\n")
        return 1
    status = cluster.status()
    if unknown := [name for name in wanted if name not in status["nodes"]]:
        return pbs.fail("pbsnodes", f"Unknown node  MSG=cannot locate specified node {unknown[0]}", UNKNOWN_NODE)
    shown = {name: _node(status["nodes"][name]) for name in wanted or status["nodes"]}
    if "-x" in dict(options):
        print("<Data>" + "".join(_node_xml({"name": name, **found}) for name, found in shown.items()) + "</Data>")
        return 0
    for name, found in shown.items():
        print(name)
        for key, value in found.items():
            print(f"     {key} = {value}")
        print()
    return 0


def _node(node: dict[str, Any]) -> dict[str, Any]:
    is_full = node["used"]["cores"] >= node["cores"]
    return {
        "state": ("job-exclusive" if is_full else "free") if node["up"] else "down", "power_state": "Running",
        "np": node["cores"], **({"properties": ",".join(node["features"])} if node.get("features") else {}),
        "ntype": "cluster",
        "status": f"opsys=linux,ncpus={node['cores']},physmem={node['memory'] * 1024}kb,version={VERSION}",
        "mom_service_port": 15002, "mom_manager_port": 15003, "gpus": node.get("gpus", 0),
    }  # fmt: skip


def _node_xml(found: dict[str, Any]) -> str:
    return "<Node>" + "".join(f"<{key}>{escape(str(value))}</{key}>" for key, value in found.items()) + "</Node>"


_VERSIONED = {"qsub": qsub_command, "qstat": qstat_command, "pbsnodes": pbsnodes}
COMMANDS = {
    **{name: versioned(command, "--version", RELEASE) for name, command in _VERSIONED.items()},
    "qdel": _act("qdel", "delete", "abm:pW:t:", "qdel [{ -a | -c | -p | -t | -W delay | -m message}] [<JOBID>[<JOBID>] | 'all' | 'ALL']..."),  # noqa: E501
    "qhold": _act("qhold", "hold", "h:t:", "qhold [-h hold_list] [-t array_range] job_identifier..."),
    "qrls": _act("qrls", "release", "h:t:", "qrls [-h hold_list] [-t array_range] job_identifier..."),
    "qrerun": _act("qrerun", "requeue", "f", "qrerun [-f] job_identifier..."),
}  # fmt: skip
