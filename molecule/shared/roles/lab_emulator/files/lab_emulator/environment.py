"""The environment variables and the output files of a job.

Sources:

- PBS Professional Reference Guide 2.57.9 (environment variables of qsub and of a job) and 2.57.6.3 (default output
  files);
- Torque Administrator Guide 2.1.2 (exported batch environment variables);
- LSF Configuration Reference, environment variables (LSB_*), and LSF Command Reference, bsub ``-o``.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from lab_emulator.common import Job, clock

if TYPE_CHECKING:
    from pathlib import Path


def full_id(job: Job) -> str:
    """Return the job id that users see, for example ``12.server`` or ``12[1].server``. LSF omits the server."""
    index = "" if job["index"] is None else f"[{job['index']}]"
    if job["flavour"] == "lsf":
        return f"{job['number']}{index}"
    return f"{job['number']}{index}.{job['server']}"


def make(job: Job, node: str, directory: Path) -> dict[str, str]:
    """Return the environment of a job: the variables that the user passes on, and those that the scheduler sets."""
    found = dict(job["environment"])
    found |= {
        "HOME": job["home"], "LOGNAME": job["user"], "USER": job["user"], "SHELL": job["shell"],
        "TZ": found.get("TZ", "UTC"),
    }  # fmt: skip
    found.setdefault("PATH", "/bin:/usr/bin")
    maker = {"lsf": _lsf, "pbs": _pbs}.get(job["flavour"], _torque)
    return found | maker(job, node, directory)


def _pbs(job: Job, node: str, directory: Path) -> dict[str, str]:
    cores = str(job["cores"])
    origin: dict[str, str] = job["origin"]
    return origin | {
        "PBS_ENVIRONMENT": "PBS_BATCH", "PBS_JOBID": full_id(job), "PBS_JOBNAME": job["name"],
        "PBS_QUEUE": job["queue"], "PBS_NODEFILE": str(directory / "nodes"), "PBS_NODENUM": "0",
        "PBS_TASKNUM": "1", "PBS_MOMPORT": "15003", "PBS_JOBCOOKIE": "0" * 32, "PBS_JOBDIR": job["home"],
        "NCPUS": cores, "OMP_NUM_THREADS": cores,
        **({"PBS_ARRAY_INDEX": str(job["index"]), "PBS_ARRAY_ID": _array(job)} if job["index"] is not None else {}),
    }  # fmt: skip


def _torque(job: Job, node: str, directory: Path) -> dict[str, str]:
    origin: dict[str, str] = job["origin"]
    return origin | {
        "PBS_ENVIRONMENT": "PBS_BATCH", "ENVIRONMENT": "BATCH", "PBS_JOBID": full_id(job),
        "PBS_JOBNAME": job["name"], "PBS_QUEUE": job["queue"], "PBS_NODEFILE": str(directory / "nodes"),
        "PBS_NODENUM": "0", "PBS_TASKNUM": "1", "PBS_MOMPORT": "15003", "PBS_JOBCOOKIE": "0" * 32,
        "PBS_VNODENUM": "0", "PBS_NUM_NODES": str(job["nodes"]), "PBS_NUM_PPN": str(job["cores"]),
        "PBS_NP": str(job["nodes"] * job["cores"]), "PBS_WALLTIME": str(job["runtime"] or 0),
        "PBS_VERSION": "TORQUE-6.1.2", "PBS_SERVER": job["server"],
        **({"PBS_ARRAYID": str(job["index"])} if job["index"] is not None else {}),
        **({"MOAB_JOBID": str(job["number"]), "MOAB_JOBNAME": job["name"]} if job["flavour"] == "moab" else {}),
    }  # fmt: skip


def _lsf(job: Job, node: str, directory: Path) -> dict[str, str]:
    cores = str(job["cores"])
    hosts = " ".join([node] * job["cores"])
    return {
        "LSB_JOBID": str(job["number"]), "LSB_BATCH_JID": full_id(job), "LSB_JOBINDEX": str(job["index"] or 0),
        "LSB_JOBNAME": job["name"], "LSB_QUEUE": job["queue"], "LSB_HOSTS": hosts,
        "LSB_MCPU_HOSTS": f"{node} {cores}", "LSB_DJOB_HOSTFILE": str(directory / "nodes"),
        "LSB_DJOB_NUMPROC": cores, "LSB_MAX_NUM_PROCESSORS": cores, "LSB_SUB_HOST": job["host"],
        "LSB_SUB_USER": job["user"], "LSB_UNIXGROUP": job["group"], "LSB_JOBFILENAME": str(directory / "script"),
        "LSB_EXEC_CLUSTER": job["server"], "LSB_PROJECT_NAME": job["account"] or "default",
        "LS_SUBCWD": job["directory"], "LS_EXEC_T": "START", "LSFUSER": job["user"],
        "LSB_JOB_STARTER": "", "LSB_INTERACTIVE": "N", "LSB_EXIT_PRE_ABORT": "99",
    }  # fmt: skip


def _array(job: Job) -> str:
    return f"{job['number']}[].{job['server']}"


def expand(path: str, job: Job) -> str:
    """Replace the scheduler's placeholders in a path of the option ``-o``.

    Torque expands the job's environment variables, PBS only ``^array_index^``, and LSF ``%J`` and ``%I``.
    """
    if job["flavour"] == "lsf":
        return path.replace("%J", str(job["number"])).replace("%I", str(job["index"] or 0))
    if job["flavour"] == "pbs":
        return path.replace("^array_index^", str(job["index"]))
    known = {"HOME": job["home"], "PBS_JOBID": full_id(job), "PBS_JOBNAME": job["name"], "USER": job["user"]}
    return re.sub(r"\$\{?(\w+)\}?", lambda found: known.get(found[1], found[0]), path)


def output_name(job: Job, letter: str) -> str:
    """Return the name of the output file if the option ``-o`` names a directory."""
    if job["flavour"] == "pbs":
        return f"{full_id(job)}.{'OU' if letter == 'o' else 'ER'}"
    if job["flavour"] == "lsf":
        return f"{full_id(job)}.{'out' if letter == 'o' else 'err'}"
    return f"{job['name']}.{letter}{job['number']}"


def lsf_report(job: Job, node: str, code: int) -> str:
    """Return the report that LSF writes before the output of a job (Command Reference, bsub ``-o``)."""
    start = time.ctime(job["started"])
    code = code - 128 if code > 256 else code  # LSF adds 128 to the number of a signal, PBS 256
    if code == 0:
        ending = "Successfully completed."
    elif job["killed"] == "runtime":
        ending = f"TERM_RUNLIMIT: job killed after reaching LSF run time limit.\nExited with exit code {code}."
    else:
        ending = f"Exited with exit code {code}."
    return (
        f"Sender: LSF System <lsfadmin@{node}>\n"
        f"Subject: Job {job['number']}: <{job['name']}> in cluster <{job['server']}> {'Exited' if code else 'Done'}\n\n"
        f"Job <{job['name']}> was submitted from host <{job['host']}> by user <{job['user']}> in cluster"
        f" <{job['server']}> at {time.ctime(job['created'])}\n"
        f"Job was executed on host(s) <{job['cores']}*{node}>, in queue <{job['queue']}>, as user <{job['user']}> in"
        f" cluster <{job['server']}> at {start}\n"
        f"<{job['home']}> was used as the home directory.\n<{job['directory']}> was used as the working directory.\n"
        f"Started at {start}\nTerminated at {time.ctime()}\nResults reported at {time.ctime()}\n\n"
        "Your job looked like:\n\n"
        "------------------------------------------------------------\n# LSBATCH: User input\n"
        f"{job['script']}\n------------------------------------------------------------\n\n{ending}\n\n"
        f"Resource usage summary:\n\n    Run time :  {clock(time.time() - (job['started'] or 0))}\n\n"
        "The output (if any) follows:\n\n"
    )
