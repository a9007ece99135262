"""IBM Spectrum LSF 10.1 (Command Reference: bsub, bjobs, bkill and similar commands, bqueues, bhosts, bparams, lsid).

The exit code of all errors is 255. By default, ``bjobs`` shows the user's own unfinished jobs. ``-a`` adds finished
jobs, which LSF keeps for CLEAN_PERIOD, and ``-u all`` adds the jobs of other users. ``-json`` requires ``-o`` and
excludes ``-noheader``. In JSON, slashes are escaped, and the record of an unknown job has ``ERROR`` instead of fields.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab_emulator import directives
from lab_emulator.client import Cluster, new_job
from lab_emulator.common import HOUR, MINUTE, Job, Usage, mebibytes, versioned

if TYPE_CHECKING:
    from collections.abc import Callable

FAILED = 255
RELEASE = """\
IBM Spectrum LSF Standard 10.1.0.0, Jul 08 2016
Copyright International Business Machines Corp. 1992, 2016.
US Government Users Restricted Rights - Use, duplication or disclosure restricted by GSA ADP Schedule Contract with IBM Corp.

"""  # noqa: E501

# The options of bsub without and with a value. All other options are refused.
FLAGS = {"-H", "-x", "-r", "-rn", "-N", "-B", "-I", "-K", "-ul", "-ti", "-U!", "-hl"}
VALUED = {
    "-J", "-Jd", "-q", "-n", "-W", "-We", "-M", "-R", "-P", "-G", "-U", "-app", "-o", "-oo", "-e", "-eo", "-i", "-cwd",
    "-env", "-m", "-gpu", "-L", "-E", "-b", "-t", "-w", "-sp", "-g", "-jsdl", "-c", "-u", "-v", "-S", "-Lp", "-sla",
    "-a", "-ext", "-k", "-p", "-s", "-D", "-C", "-F", "-outdir", "-notify",
}  # fmt: skip
BSUB_USAGE = """\
Usage:  bsub [options] command [arguments]
        bsub [-h[elp]] [options]
        bsub -V
Options: [-H] [-K] [-N] [-r | -rn] [-ul] [-x] [-a "esub_application ..."] [-app application_profile_name]
         [-cwd "current_working_directory"] [-e error_file | -eo error_file] [-env "none" | "all" | ...]
         [-G user_group] [-gpu "num=num_gpus ..."] [-J job_name] [-Jd job_description] [-L login_shell]
         [-M mem_limit] [-m "host_name ..."] [-n min_tasks[,max_task]] [-o output_file | -oo output_file]
         [-P project_name] [-q "queue_name ..."] [-R "res_req"] [-U reservation_ID] [-W [hour:]minute]
"""


def refused(program: str, server: str) -> tuple[str, int]:
    """Return the message and the exit code when the master host does not answer (``Master LIM is down``)."""
    return "Failed in an LSF library call: Master LIM is down; try later\n", FAILED


def error(program: str) -> str:
    """Return the message of an error with exit code 0: the daemon is busy, and the program stops waiting."""
    return "LSF is processing your request. Please wait ...\n"


def complain(text: str) -> int:
    """Print an error message and return the exit code."""
    sys.stderr.write(f"{text}\n")
    return FAILED


# -- bsub


def bsub(cluster: Cluster, arguments: list[str]) -> int:
    """Submit a command, or the script on standard input, and print the job's number."""
    if arguments[:1] in (["-h"], ["-help"]):
        sys.stderr.write(BSUB_USAGE)
        return 0
    try:
        given, command = options(arguments)
        script = " ".join(command)
        if not command:
            script = sys.stdin.read()
            written: list[tuple[str, str]] = []
            for line in directives.lines(script, ("#BSUB",), everywhere=True):
                found, rest = options(shlex.split(line, comments=True))
                if rest:
                    raise Usage(f"{rest[0]}: Illegal option")
                written += found
            given = written + given
        if not script.strip():
            return complain("Empty job. Job not submitted.")
        asked = job(given, script)
    except Usage as problem:
        sys.stderr.write(f"{problem}\n{BSUB_USAGE}")
        return FAILED
    except ValueError as problem:
        return complain(f"{problem}. Job not submitted.")
    asked["arguments"] = script if command else _command_of(script)
    if asked["name"] == "STDIN":
        asked["name"] = asked["arguments"]
    answer = cluster.submit(asked)
    if "error" in answer:
        return complain(f"{_complaint(answer)}. Job not submitted.")
    kind = "default queue" if answer["default"] else "queue"
    print(f"Job <{answer['number']}> is submitted to {kind} <{answer['queue']}>.")
    return 0


def _command_of(script: str) -> str:
    """Return the joined lines of a script. LSF shows them as the command of a job from standard input."""
    return ";".join(line for line in script.splitlines() if line.strip())[:512]


def options(arguments: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the options and the command. An option can have several letters, and the command starts after the last.

    Raises:
        Usage: An option is unknown, or its value is missing.
    """
    found = []
    words = list(arguments)
    while words and words[0].startswith("-") and words[0] != "-":
        option = words.pop(0)
        if option in FLAGS:
            found.append((option, ""))
        elif option in VALUED:
            if not words:
                raise Usage(f"bsub: option requires an argument -- {option[1:]}")
            found.append((option, words.pop(0)))
        elif attached := next((o for o in ("-n", "-q", "-W", "-J", "-P", "-M") if option.startswith(o)), ""):
            found.append((attached, option[len(attached) :]))
        else:
            raise Usage(f"bsub: illegal option -- {option[1:]}")
    return found, words


def job(given: list[tuple[str, str]], script: str) -> Job:
    """Return the job that the options describe.

    If an option occurs several times, the last value is used. All values of ``-R`` are combined.

    Raises:
        ValueError: A value is invalid. The text is LSF's error message.
    """
    wanted = dict(given)
    required = " ".join(value for option, value in given if option == "-R")
    name, array = wanted.get("-J", "STDIN"), None
    if found := re.fullmatch(r"(.*)\[(.+)\](%[0-9]+)?", name):
        name, array = found[1], _indices(found[2])
    variables = environment(wanted.get("-env", "all"))
    out, err = wanted.get("-oo", wanted.get("-o")), wanted.get("-eo", wanted.get("-e"))
    directory = wanted.get("-cwd", str(Path.cwd()))
    if "-cwd" in wanted:
        directory = os.path.expandvars(directory.replace("%J", "")) if directory.startswith("/") else directory
    tasks = wanted.get("-n", "1").split(",")[0]
    if not re.fullmatch("[1-9][0-9]*", tasks):
        raise ValueError("Bad argument for option -n")
    return new_job(
        name=name, queue=wanted.get("-q", "").split()[0] if wanted.get("-q", "").split() else "", script=script,
        cores=int(tasks), memory=memory(wanted.get("-M"), required), runtime=run_limit(wanted.get("-W")),
        gpus=int(found[1]) if (found := re.search(r"num=([0-9]+)", wanted.get("-gpu", ""))) else 0,
        account=wanted.get("-P", ""), project=wanted.get("-P", ""), environment=variables,
        stdout=_path(directory, out), stderr=_path(directory, err), join=out is not None and err is None,
        append="-oo" not in wanted, hold="u" if "-H" in wanted else "", indices=array, directory=directory,
        shell_argument=wanted.get("-L", ""), rerunnable="-r" in wanted,
        wanted_hosts=[host.partition("+")[0] for host in wanted.get("-m", "").split()],
        features=re.findall(r"select\[\s*([A-Za-z_]\w*)\s*\]", required), comment=wanted.get("-Jd", ""),
        outputs=[out or "", err or ""],
        extra={"group": wanted.get("-G", ""), "app": wanted.get("-app", ""), "rsvid": wanted.get("-U", ""),
               "resreq": required, "jobgroup": wanted.get("-g", ""), "gpu": wanted.get("-gpu", "")},
    )  # fmt: skip


def _path(directory: str, path: str | None) -> str | None:
    return None if path is None else str(Path(directory, path)) + ("/" if path.endswith("/") else "")


def _indices(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        wanted = re.fullmatch(r"([0-9]+)(?:-([0-9]+)(?::([0-9]+))?)?", part.strip())
        if not wanted:
            raise ValueError("Bad job name")
        found += range(int(wanted[1]), int(wanted[2] or wanted[1]) + 1, int(wanted[3] or 1))
    return found


def environment(text: str) -> dict[str, str]:
    """Return the environment that ``-env`` selects (Command Reference, bsub -env).

    Examples are ``none``, ``all``, ``all, ~NAME`` and ``none, NAME, NAME=VALUE``.
    """
    words = [word.strip() for word in text.split(",")]
    found = dict(os.environ) if "none" not in words and ("all" in words or words[0].startswith("~")) else {}
    for word in words:
        name, equals, value = word.partition("=")
        if word.startswith("~"):
            found.pop(word[1:], None)
        elif equals:
            found[name] = value
        elif name not in ("all", "none") and name in os.environ:
            found[name] = os.environ[name]
    return found


def run_limit(text: str | None) -> int | None:
    """Return the run limit ``[hour:]minute[/host]`` in seconds.

    Raises:
        ValueError: The limit is malformed.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(?:([0-9]+):)?([0-9]+)(/.*)?", text)
    if not found:
        raise ValueError("Bad RUNLIMIT specification")
    return int(found[1] or 0) * HOUR + int(found[2]) * MINUTE


def memory(limit: str | None, required: str) -> int:
    """Return the memory of a job in MiB.

    This is the reservation ``rusage[mem=…]`` (in MB by default) or else the limit of ``-M`` (in KB by default).

    Raises:
        ValueError: The size is malformed.
    """
    try:
        if found := re.search(r"rusage\[[^\]]*\bmem=([0-9.]+[kmgtKMGT]?[bB]?)", required):
            return mebibytes(found[1], "m")
        return mebibytes(limit, "k") if limit else 0
    except ValueError:
        raise ValueError("Bad MEMLIMIT specification") from None


def _complaint(answer: dict[str, Any]) -> str:
    if answer["error"] == "limit":
        return {
            "runtime": "RUNLIMIT: Cannot exceed queue's hard limit(s)",
            "memory": "MEMLIMIT: Cannot exceed queue's hard limit(s)",
            "cores": "Too many tasks requested",
            "gpus": "Cannot satisfy the GPU requirement of the job in the queue",
        }[answer["resource"]]
    return {
        "queue": f"{answer.get('queue')}: No such queue",
        "closed": f"{answer.get('queue')}: Queue has been closed",
        "user": "Root user is not allowed to submit jobs",
    }[str(answer["error"])]


# -- bjobs

REASONS = {
    "cores": "Job's requirements for resource reservation not satisfied: 1 host; Not enough job slot(s): 1 host;",
    "memory": "Job's requirements for reserving resource (mem) not satisfied: 2 hosts;",
    "gpus": "Job's requirements for reserving resource (ngpus_physical) not satisfied: 2 hosts;",
    "nodes": "Load information unavailable: 2 hosts;",
    "never": "Candidate host does not satisfy the job's requirements: 2 hosts;",
    "closed": "The queue is inactivated by the administrator;",
    "": "New job is waiting for scheduling;",
}


def state(job: Job) -> str:
    """Return the field STAT. PSUSP is a held job, USUSP is a suspended job, and an ending job still has RUN."""
    if job["state"] == "F":
        return "EXIT" if job["exit"] else "DONE"
    return {"Q": "PEND", "H": "PSUSP", "R": "RUN", "E": "RUN", "S": "USUSP"}[job["state"]]


def moment(stamp: float | None, suffix: str = "") -> str:
    """Format a time as ``Nov 23 11:38``, without the year."""
    return time.strftime("%b %e %H:%M", time.localtime(stamp)) + suffix if stamp else ""


def reason(job: Job) -> str:
    """Return why a job waits, or an empty string if it does not wait."""
    if job["state"] == "Q":
        return REASONS[job["reason"]]
    return "The job was suspended by the user while pending;" if job["state"] == "H" else ""


def exit_code(job: Job) -> str:
    """Return the exit code. LSF adds 128 to the number of a signal."""
    if not job["exit"]:
        return ""
    return str(job["exit"] - 128 if job["exit"] > 256 else job["exit"])


def exit_reason(job: Job) -> str:
    """Return the field EXIT_REASON."""
    words = {
        "deleted": "TERM_OWNER: job killed by owner",
        "runtime": "TERM_RUNLIMIT: job killed after reaching LSF run time limit",
        "lost": "TERM_UNKNOWN: unknown reason",
    }
    return words.get(job["killed"], "") if job["state"] == "F" else ""


def _hosts(job: Job) -> str:
    return ":".join(host for host in job["hosts"] for _ in range(job["cores"]))


def _finish(job: Job) -> str:
    if job["state"] == "F":
        return moment(job["ended"], " L" if not job["exit"] else " E")
    return moment(job["started"] + job["runtime"], " L") if job["started"] and job["runtime"] else ""


def _shown_name(job: Job) -> str:
    return str(job["name"]) + (f"[{job['index']}]" if job["index"] is not None else "")


FIELDS: dict[str, Callable[[Job], str]] = {
    "jobid": lambda job: str(job["number"]),
    "jobindex": lambda job: str(job["index"] or 0),
    "stat": state,
    "user": lambda job: str(job["user"]),
    "user_group": lambda job: str(job["extra"]["group"]),
    "queue": lambda job: str(job["queue"]),
    "job_name": _shown_name,
    "job_description": lambda job: str(job["comment"]),
    "proj_name": lambda job: job["project"] or "default",
    "application": lambda job: str(job["extra"]["app"]),
    "service_class": lambda _: "",
    "job_group": lambda job: str(job["extra"]["jobgroup"]),
    "job_priority": lambda _: "",
    "rsvid": lambda job: str(job["extra"]["rsvid"]),
    "command": lambda job: str(job["arguments"]),
    "from_host": lambda job: str(job["host"]),
    "first_host": lambda job: "".join(job["hosts"][:1]),
    "exec_host": _hosts,
    "nexec_host": lambda job: str(len(job["hosts"])) if job["hosts"] else "",
    "alloc_slot": _hosts,
    "nalloc_slot": lambda job: str(job["cores"]) if job["hosts"] else "",
    "host_file": lambda _: "",
    "submit_time": lambda job: moment(job["created"]),
    "start_time": lambda job: moment(job["started"]),
    "estimated_start_time": lambda job: (
        moment(job["estimate"], " E") if job["estimate"] and job["state"] == "Q" else ""
    ),
    "finish_time": _finish,
    "time_left": lambda _: "",
    "pend_time": lambda job: str(int((job["started"] or time.time()) - job["created"])),
    "run_time": lambda job: f"{int((job['ended'] or time.time()) - job['started']) if job['started'] else 0} second(s)",
    "runtimelimit": lambda job: f"{(job['runtime'] or 0) / 60:.1f}" if job["runtime"] else "",
    "memlimit": lambda job: f"{job['memory'] / 1024:g} G" if job["memory"] else "",
    "cpu_used": lambda _: "0.0 second(s)",
    "mem": lambda job: "12 Mbytes" if job["state"] == "R" else "",
    "max_mem": lambda _: "",
    "slots": lambda job: str(job["cores"]),
    "nreq_slot": lambda job: str(job["cores"]),
    "min_req_proc": lambda job: str(job["cores"]),
    "max_req_proc": lambda job: str(job["cores"]),
    "pend_reason": reason,
    "suspend_reason": lambda job: "The job was suspended by the user;" if job["state"] == "S" else "",
    "exit_code": exit_code,
    "exit_reason": exit_reason,
    "kill_reason": lambda _: "",
    "pids": lambda job: str(job["session_id"] or ""),
    "sub_cwd": lambda job: str(job["directory"]),
    "exec_cwd": lambda job: str(job["directory"]) if job["started"] else "",
    "exec_home": lambda job: str(job["home"]) if job["started"] else "",
    "output_file": lambda job: str(job["outputs"][0]),
    "error_file": lambda job: str(job["outputs"][1]),
    "combined_resreq": lambda job: str(job["extra"]["resreq"]),
    "effective_resreq": lambda job: str(job["extra"]["resreq"]),
    "gpu_num": lambda job: str(job["gpus"] or ""),
    "dependency": lambda _: "",
}
ALIASES = {
    "id": "jobid", "ugroup": "user_group", "name": "job_name", "description": "job_description", "proj": "proj_name",
    "project": "proj_name", "app": "application", "sla": "service_class", "group": "job_group",
    "priority": "job_priority", "rsvid": "rsvid", "cmd": "command", "fhost": "from_host", "nexec": "nexec_host",
    "start": "start_time", "estart_time": "estimated_start_time", "pcompl": "%complete", "ehost": "exec_host",
}  # fmt: skip

DEFAULT = "jobid:7 user:7 stat:5 queue:10 from_host:11 exec_host:11 job_name:10 submit_time"


def _bjobs_options(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return the options and the operands, which may occur in any order.

    Raises:
        Usage: An option is unknown.
    """
    given: dict[str, str] = {}
    names = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if word in ("-o", "-u", "-q", "-J", "-Jd", "-P", "-m", "-G", "-app"):
            if not words:
                raise Usage(f"bjobs: option requires an argument -- {word[1:]}")
            given[word] = words.pop(0)
        elif word in (
            "-a",
            "-d",
            "-p",
            "-r",
            "-s",
            "-l",
            "-w",
            "-json",
            "-noheader",
            "-A",
            "-sum",
            "-UF",
            "-X",
            "-hms",
        ):
            given[word] = ""
        elif word.startswith("-"):
            raise Usage(f"bjobs: illegal option -- {word[1:]}")
        else:
            names.append(word)
    return given, names


def bjobs(cluster: Cluster, arguments: list[str]) -> int:
    """Show jobs in a custom format, as JSON, as the default table or in the long format."""
    try:
        given, names = _bjobs_options(arguments)
        if "-json" in given and "-noheader" in given:
            raise Usage("-noheader: Illegal option with -json")
        if "-json" in given and "-o" not in given and "LSB_BJOBS_FORMAT" not in os.environ:
            del given["-json"]  # -json has no effect without a format
        columns, delimiter = _columns(given.get("-o", os.environ.get("LSB_BJOBS_FORMAT", DEFAULT)))
    except Usage as problem:
        sys.stderr.write(f'{problem}\nUsage: bjobs [options] [job_ID | "job_ID[index_list]" ...]\n')
        return FAILED
    status = cluster.status()
    jobs: list[Job] = [job for job in status["jobs"] if _fits(job, given, status["user"])]
    missing: list[str] = []
    if names:
        # A job named on the command line is shown regardless of its owner and its state.
        jobs, missing = _named(names, status["jobs"])
    if "-json" in given:
        print(_json(jobs, missing, columns))
        for name in missing:
            complain(f"Job <{name}> is not found")
        return FAILED if missing else 0
    if jobs:
        _show(jobs, given, columns, delimiter)
    for name in missing:
        complain(f"Job <{name}> is not found")
    if missing:
        return FAILED
    if not jobs:
        user = f" for user {given['-u']}" if given.get("-u", "all") != "all" else ""
        sys.stderr.write(f"No {'' if '-a' in given else 'unfinished '}job found{user}\n")
    return 0


def _fits(job: Job, given: dict[str, str], user: str) -> bool:
    wanted = {"-p": ("Q", "H"), "-r": ("R", "E"), "-s": ("S", "H"), "-d": ("F",)}
    states = next((letters for flag, letters in wanted.items() if flag in given), ("Q", "H", "R", "S", "E"))
    if "-a" in given:
        states = ("Q", "H", "R", "S", "E", "F")
    who = given.get("-u", user)
    pattern = given.get("-J", "*")
    return (
        job["state"] in states
        and (who == "all" or job["user"] in who.split())
        and given.get("-q", job["queue"]) == job["queue"]
        and re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), job["name"]) is not None
    )


def _named(names: list[str], jobs: list[Job]) -> tuple[list[Job], list[str]]:
    found, missing = [], []
    for name in names:
        wanted = re.fullmatch(r"([0-9]+)(?:\[([0-9]+)\])?", name)
        mine = [
            job
            for job in jobs
            if wanted and job["number"] == int(wanted[1]) and (not wanted[2] or job["index"] == int(wanted[2]))
        ]
        found += mine
        if not mine:
            missing.append(name)
    return found, missing


def _columns(text: str) -> tuple[list[tuple[str, int, bool]], str]:
    """Parse a format ``FIELD[:[-][WIDTH]] … [delimiter='C']``.

    Returns:
        For each column its name, its width (0 for the width of the value) and whether it is right-justified; and the
        delimiter.
    """
    delimiter = " "
    if found := re.search(r"delimiter=(?:'(.)'|\"(.)\")", text):
        delimiter = found[1] or found[2]
        text = text[: found.start()] + text[found.end() :]
    columns = []
    for word in text.split():
        name, _, width = word.partition(":")
        name = ALIASES.get(name.lower(), name.lower())
        if name not in FIELDS:
            raise Usage(f"Invalid field name: {name}")
        digits = width.partition(":")[0].removeprefix("-")
        columns.append((name, int(digits) if digits.isdigit() else 0, width.startswith("-")))
    return columns, delimiter


def _json(jobs: list[Job], missing: list[str], columns: list[tuple[str, int, bool]]) -> str:
    records: list[dict[str, str]] = [{name.upper(): FIELDS[name](job) for name, _, _ in columns} for job in jobs]
    records += [{"JOBID": name, "ERROR": f"Job <{name}> is not found"} for name in missing]
    inner = ",\n".join(
        "    {\n" + ",\n".join(f"      {_quoted(key)}:{_quoted(value)}" for key, value in record.items()) + "\n    }"
        for record in records
    )
    body = f"{inner}\n" if inner else ""
    return f'{{\n  "COMMAND":"bjobs",\n  "JOBS":{len(records)},\n  "RECORDS":[\n{body}  ]\n}}'


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("/", "\\/")


def _show(jobs: list[Job], given: dict[str, str], columns: list[tuple[str, int, bool]], delimiter: str) -> None:
    if "-l" in given or "-UF" in given:
        for job in jobs:
            _long(job, wide="-UF" in given)
        return
    if "-w" in given:
        columns = [(name, 0, right) for name, _, right in columns]
    rows = [[FIELDS[name](job) or "-" for name, _, _ in columns] for job in jobs]
    header = [name.upper() for name, _, _ in columns]
    if "-noheader" not in given:
        rows.insert(0, header)
    for row in rows:
        cells = []
        for (name, width, right), cell in zip(columns, row, strict=True):
            # If a value is too long, LSF shows the end of a job's name after a star, and the start of other fields.
            too_long = width and len(cell) > width
            text = cell if not too_long else f"*{cell[1 - width :]}" if name == "job_name" else cell[:width]
            cells.append(text.rjust(width) if right else text.ljust(width))
        print(delimiter.join(cells).rstrip() if delimiter == " " else delimiter.join(cells))


def _long(job: Job, *, wide: bool) -> None:
    first = (
        f"Job <{job['number']}>, Job Name <{_shown_name(job)}>, User <{job['user']}>, "
        f"Project <{job['project'] or 'default'}>, Status <{state(job)}>, Queue <{job['queue']}>, "
        f"Command <{job['arguments']}>"
    )
    if job["comment"]:
        first += f", Job Description <{job['comment']}>"
    lines = [first]
    lines.append(
        f"{time.strftime('%a %b %e %H:%M:%S', time.localtime(job['created']))}: Submitted from host <{job['host']}>, "
        f"CWD <{job['directory']}>, {job['cores']} Task(s);"
    )
    if job["started"]:
        begin = time.strftime("%a %b %e %H:%M:%S", time.localtime(job["started"]))
        lines.append(
            f"{begin}: Started {job['cores']} Task(s) on Host(s) <{_hosts(job).replace(':', '> <')}>, Allocated "
            f"{job['cores']} Slot(s) on Host(s) <{job['hosts'][0]}>, Execution Home <{job['home']}>, "
            f"Execution CWD <{job['directory']}>;"
        )
    if job["state"] == "F":
        end = time.strftime("%a %b %e %H:%M:%S", time.localtime(job["ended"]))
        lines.append(f"{end}: {f'Exited with exit code {exit_code(job)}.' if job['exit'] else 'Done successfully.'}")
        if exit_reason(job):
            lines.append(f"{end}: Completed <exit>; {exit_reason(job)}.")
    print()
    for line in lines:
        # LSF breaks lines after 79 columns, even within a word, and indents the next line by 21 blanks.
        parts = [line] if wide else [line[:79], *(line[i : i + 58] for i in range(79, len(line), 58))]
        print(f"\n{'':21}".join(parts))
    if reason(job):
        print(f" PENDING REASONS:\n {reason(job)}")
    print("\n SCHEDULING PARAMETERS:")
    print("           r15s   r1m  r15m   ut      pg    io   ls    it    tmp    swp    mem")
    print(" loadSched   -     -     -     -       -     -    -     -     -      -      -  ")
    print(" loadStop    -     -     -     -       -     -    -     -     -      -      -  ")


# -- actions on a job


def _act(program: str, what: str, done: str) -> Callable[[Cluster, list[str]], int]:
    def command(cluster: Cluster, arguments: list[str]) -> int:
        words = list(arguments)
        names, pattern = [], None
        while words:
            word = words.pop(0)
            if word == "-J" and words:
                pattern = words.pop(0)
            elif word in ("-s", "-u", "-C") and words:
                words.pop(0)
            elif word in ("-r", "-b", "-e"):
                continue
            elif word.startswith("-"):
                sys.stderr.write(f"{program}: illegal option -- {word[1:]}\nUsage: {program} [options] [job_ID ...]\n")
                return FAILED
            else:
                names.append(word)
        if pattern or names == ["0"]:
            status = cluster.status()
            names = sorted(
                {
                    str(job["number"])
                    for job in status["jobs"]
                    if job["state"] != "F" and job["user"] == status["user"] and pattern in (None, job["name"])
                }
            )
            if not names:
                return complain("No matching job found")
        if not names:
            return complain("Job ID or job name is required")
        code = 0
        for name in names:
            wanted = re.fullmatch(r"([0-9]+)(?:\[([0-9]+)\])?", name)
            if not wanted:
                code = complain(f"{name}: Illegal job ID.")
                continue
            answer = cluster.act(what, int(wanted[1]), int(wanted[2]) if wanted[2] else None)
            texts = {
                "unknown": "No matching job found", "denied": "User permission denied",
                "finished": "Job has already finished", "state": "Operation is not permitted in the job's state",
            }  # fmt: skip
            if "error" in answer:
                code = complain(f"Job <{name}>: {texts[answer['error']]}")
            else:
                print(f"Job <{name}> is being {done}")
        return code

    return command


# -- queues and hosts

QUEUE_FIELDS: dict[str, Callable[[dict[str, Any], list[Job]], str]] = {
    "queue_name": lambda queue, _: str(queue["name"]),
    "description": lambda queue, _: f"For {queue['name']} jobs.",
    "priority": lambda *_: "30",
    "status": lambda queue, _: "Open:Active" if queue["open"] else "Closed:Inact",
    "max": lambda *_: "-",
    "jl_u": lambda *_: "-",
    "jl_p": lambda *_: "-",
    "jl_h": lambda *_: "-",
    "njobs": lambda _, jobs: str(sum(job["cores"] for job in jobs)),
    "pend": lambda _, jobs: str(sum(job["cores"] for job in jobs if job["state"] in "QH")),
    "run": lambda _, jobs: str(sum(job["cores"] for job in jobs if job["state"] in "RE")),
    "susp": lambda _, jobs: str(sum(job["cores"] for job in jobs if job["state"] == "S")),
    "rsv": lambda *_: "0",
    "ususp": lambda _, jobs: str(sum(job["cores"] for job in jobs if job["state"] == "S")),
    "ssusp": lambda *_: "0",
}


def bqueues(cluster: Cluster, arguments: list[str]) -> int:
    """Run ``bqueues [-l|-w|-o FORMAT [-json]] [QUEUE…]``."""
    words = list(arguments)
    names, flags, wanted = (
        [],
        set(),
        "queue_name:15 priority:4 status:14 max:4 jl_u:4 jl_p:4 jl_h:4 njobs:5 pend:5 run:5 susp:5",
    )
    while words:
        word = words.pop(0)
        if word == "-o" and words:
            wanted = words.pop(0)
            flags.add(word)
        elif word in ("-l", "-w", "-json", "-noheader", "-r", "-alloc"):
            flags.add(word)
        elif word.startswith("-"):
            sys.stderr.write(f"bqueues: illegal option -- {word[1:]}\nUsage: bqueues [options] [queue_name ...]\n")
            return FAILED
        else:
            names.append(word)
    status = cluster.status()
    known = {queue["name"]: queue for queue in status["queues"]}
    code = 0
    for name in names:
        if name not in known:
            code = complain(f"{name}: No such queue")
    queues = [known[name] for name in names if name in known] if names else list(known.values())
    jobs = {name: [job for job in status["jobs"] if job["queue"] == name and job["state"] != "F"] for name in known}
    if "-l" in flags:
        for queue in queues:
            _long_queue(queue, jobs[queue["name"]])
        return code
    columns = [(word.partition(":")[0].lower(), word.partition(":")[2]) for word in wanted.split() if "=" not in word]
    if bad := [name for name, _ in columns if name not in QUEUE_FIELDS]:
        return complain(f"Invalid field name: {bad[0]}")
    rows = [{name: QUEUE_FIELDS[name](queue, jobs[queue["name"]]) for name, _ in columns} for queue in queues]
    if {"-json", "-o"} <= flags:
        inner = ",\n".join(
            "    {\n"
            + ",\n".join(f"      {_quoted(key.upper())}:{_quoted(value)}" for key, value in row.items())
            + "\n    }"
            for row in rows
        )
        body = f"{inner}\n" if inner else ""
        print(f'{{\n  "COMMAND":"bqueues",\n  "QUEUES":{len(rows)},\n  "RECORDS":[\n{body}  ]\n}}')
        return code
    if "-noheader" not in flags and rows:
        titles = {"priority": "PRIO", "jl_u": "JL/U", "jl_p": "JL/P", "jl_h": "JL/H"}
        print(" ".join(titles.get(name, name.upper()).ljust(int(width or 0)) for name, width in columns))
    for row in rows:
        print(" ".join(row[name].ljust(int(width or 0)) for name, width in columns))
    return code


def _long_queue(queue: dict[str, Any], jobs: list[Job]) -> None:
    numbers = [QUEUE_FIELDS[name](queue, jobs) for name in ("njobs", "pend", "run", "ssusp", "ususp", "rsv")]
    print(f"\nQUEUE: {queue['name']}\n  -- For {queue['name']} jobs.\n\nPARAMETERS/STATISTICS")
    print("PRIO NICE STATUS          MAX JL/U JL/P JL/H NJOBS  PEND   RUN SSUSP USUSP   RSV PJOBS")
    status = QUEUE_FIELDS["status"](queue, jobs)
    print(f" 30    0  {status:<15}   -    -    -    - {' '.join(n.rjust(5) for n in numbers)} {numbers[1].rjust(5)}")
    print("Interval for a host to accept two jobs is 0 seconds\n\nMAXIMUM LIMITS:")
    if queue.get("max_runtime"):
        print(f" RUNLIMIT                \n {queue['max_runtime'] / 60:.1f} min\n")
    if queue.get("max_cores"):
        print(f" TASKLIMIT\n 1 1 {queue['max_cores']}\n")
    if queue.get("max_memory"):
        print(f" MEMLIMIT\n {queue['max_memory'] / 1024:>6g} G \n")
    print("SCHEDULING PARAMETERS")
    print("           r15s   r1m  r15m   ut      pg    io   ls    it    tmp    swp    mem")
    print(" loadSched   -     -     -     -       -     -    -     -     -      -      -  ")
    print(" loadStop    -     -     -     -       -     -    -     -     -      -      -  \n")
    print("USERS: all  \nHOSTS:  all  \n")


def bhosts(cluster: Cluster, arguments: list[str]) -> int:
    """Run ``bhosts``."""
    print("HOST_NAME          STATUS       JL/U    MAX  NJOBS    RUN  SSUSP  USUSP    RSV ")
    for name, node in cluster.status()["nodes"].items():
        used = node["used"]["cores"]
        word = ("closed" if used >= node["cores"] else "ok") if node["up"] else "unavail"
        print(f"{name:<18} {word:<12} {'-':>5} {node['cores']:>6} {used:>6} {used:>6} {0:>6} {0:>6} {0:>6}")
    return 0


def bparams(cluster: Cluster, arguments: list[str]) -> int:
    """Run ``bparams -a``. SECURE_JOB_INFO_LEVEL 0 means that users can see the jobs of others."""
    queue = cluster.status()["queues"][0]["name"]
    for name, value in {"DEFAULT_QUEUE": queue, "CLEAN_PERIOD": 3600, "SECURE_JOB_INFO_LEVEL": 0}.items():
        print(f"        {name} = {value}")
    return 0


def lsid(cluster: Cluster, arguments: list[str]) -> int:
    """Run ``lsid``, which prints the release, the cluster and its master host."""
    print(f"{RELEASE}My cluster name is {cluster.server}\nMy master name is {cluster.config['server']}")
    return 0


_PROGRAMS: dict[str, Callable[[Cluster, list[str]], int]] = {
    "bsub": bsub,
    "bjobs": bjobs,
    "bkill": _act("bkill", "delete", "terminated"),
    "bstop": _act("bstop", "suspend", "stopped"),
    "bresume": _act("bresume", "resume", "resumed"),
    "brequeue": _act("brequeue", "requeue", "requeued"),
    "bqueues": bqueues,
    "bhosts": bhosts,
    "bparams": bparams,
    "lsid": lsid,
}
COMMANDS = {name: versioned(command, "-V", RELEASE) for name, command in _PROGRAMS.items()}
