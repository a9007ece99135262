"""Which of a scheduler's own options a profile may carry: none that says again what the model says. No I/O.

Sources: sbatch(1) of Slurm 22.05 and 24.11; qsub(1B) of OpenPBS 23.06 and of Torque 6.1; the guide of Moab 9.1 on msub;
qsub(1) of Grid Engine 8.1.9; condor_submit of HTCondor 23.0; bsub of LSF 10.1's command reference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from hpchub.messages import listing

_VALUE = r"[A-Za-z0-9_.,:=@/+*&|()\[\]-]*"
_OPTION = re.compile(rf"--[a-z][a-z0-9-]*(?:={_VALUE})?|-[A-Za-z](?: ?(?!-){_VALUE})?")
"""One option with its value: no quotes, no shell characters, no second option behind a space."""
_LETTER = re.compile(rf"-[A-Za-z](?: (?!-){_VALUE})?")
"""The same where all names are one letter, its value apart: what is joined to a letter may be another option."""
_NAME = re.compile(rf"-[A-Za-z][A-Za-z_]*(?: (?!-){_VALUE})?")
"""The same where names are words behind one dash."""


@dataclass(frozen=True)
class Reserved:
    """The options that the model sets itself, or that would make its job another one.

    Attributes:
        long: names without dashes, and the profile's field in their place where there is one. A unique beginning of a
            long option is that option for getopt_long, so every beginning of these is reserved as well.
        short: letters, likewise.
        values: patterns of values that are reserved for an option that is not.
        words: words in the value of an option with one dash that are reserved, in small letters, likewise.
        permitted: where they are said, all other options with one dash that there are.
        form: what one option looks like.
        example: a list of two of them.
    """

    long: dict[str, str]
    short: dict[str, str]
    values: dict[str, tuple[str, str]] = field(default_factory=dict)
    words: dict[str, dict[str, str]] = field(default_factory=dict)
    permitted: frozenset[str] = frozenset()
    form: re.Pattern[str] = _OPTION
    example: str = "[--exclusive, --qos=debug]"


_SLURM = Reserved(
    long={
        "account": "account",
        "array": "",
        "bbf": "",
        "chdir": "",
        "clusters": "cluster",
        "comment": "",
        "constraint": "node_constraint",
        "container": "",
        "cores-per-socket": "cores",
        "cpus-per-gpu": "cores",
        "cpus-per-task": "cores",
        "error": "",
        "export": "",
        "export-file": "",
        "get-user-env": "",
        "gid": "",
        "gpus": "gpus",
        "gpus-per-node": "gpus",
        "gpus-per-socket": "gpus",
        "gpus-per-task": "gpus",
        "help": "",
        "hold": "",
        "input": "",
        "job-name": "",
        "mem": "memory",
        "mem-per-cpu": "memory",
        "mem-per-gpu": "memory",
        "mincpus": "cores",
        "no-requeue": "",
        "nodes": "cores",
        "nodefile": "",
        "ntasks": "cores",
        "ntasks-per-core": "cores",
        "ntasks-per-gpu": "cores",
        "ntasks-per-node": "cores",
        "ntasks-per-socket": "cores",
        "open-mode": "",
        "output": "",
        "parsable": "",
        "partition": "queue",
        "quiet": "",
        "requeue": "",
        "reservation": "reservation",
        "sockets-per-node": "cores",
        "test-only": "",
        "threads-per-core": "cores",
        "time": "runtime",
        "time-min": "runtime",
        "tres-per-task": "gpus",
        "uid": "",
        "usage": "",
        "use-min-nodes": "",
        "verbose": "",
        "version": "",
        "wait": "",
        "wrap": "",
    },
    short={
        "A": "account",
        "B": "cores",
        "C": "node_constraint",
        "D": "",
        "F": "",
        "G": "gpus",
        "H": "",
        "J": "",
        "M": "cluster",
        "N": "cores",
        "Q": "",
        "V": "",
        "W": "",
        "a": "",
        "c": "cores",
        "e": "",
        "h": "",
        "i": "",
        "n": "cores",
        "o": "",
        "p": "queue",
        "t": "runtime",
        "v": "",
    },
    values={"gres": (r"(?:.*,)?(?:gres[:/])?gpu\b.*", "gpus")},
)

_QSUB = dict.fromkeys("CEFGIJNRSVXaefhijkoruvz", "") | {"A": "account", "q": "queue"}
_RESOURCES = {
    "cput": "runtime",
    "mem": "memory",
    "mpiprocs": "cores",
    "ncpus": "cores",
    "ngpus": "gpus",
    "nodect": "cores",
    "nodes": "cores",
    "ompthreads": "cores",
    "pcput": "runtime",
    "pmem": "memory",
    "ppn": "cores",
    "procs": "cores",
    "pvmem": "memory",
    "select": "cores",
    "vmem": "memory",
    "walltime": "runtime",
}
_ATTRIBUTES = {"advres": "reservation", "block": "", "interactive": "", "sandbox": "", "stagein": "", "stageout": ""}
# Of Moab, to which Torque hands them on: a session is never started a second time.
_AGAIN = {"resfailpolicy": "", "restartable": ""}

_PBS = Reserved(
    long={},
    short=_QSUB,
    words={"l": _RESOURCES | {"max_walltime": "runtime", "min_walltime": "runtime"}, "W": _ATTRIBUTES},
    form=_LETTER,
    example="[-l place=excl, -P physics]",
)
_TORQUE = Reserved(
    long={},
    short=_QSUB | dict.fromkeys("DPTbdtwx", "") | {"L": "cores"},
    words={
        "l": _RESOURCES
        | {"epilogue": "", "feature": "node_constraint", "gpus": "gpus", "procct": "cores", "prologue": ""}
        | _AGAIN,
        "W": _ATTRIBUTES | _AGAIN,
    },
    form=_LETTER,
    example="[-l qos=high, -m n]",
)
_MOAB = Reserved(
    long={},
    short=_TORQUE.short | {"s": ""},
    words={
        "l": _TORQUE.words["l"]
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
        "W": _TORQUE.words["W"] | {"trig": "", "trigger": ""},
    },
    form=_LETTER,
    example="[-l qos=high, -m n]",
)
_LSF_OURS = """
    H I IS ISp ISs IX Ip Is J Jd K L V Z Zs b csm cwd e env eo h i is json jsdl jsdl_strict o oo outdir pack r rn rnc t
    tty w yaml
"""
_LSF_OTHERS = """
    B C D F G Lp N R S T a app core_isolation data eptl g hl m network ptl s sla smt sp step_cgroup ti u ul wa wt x
"""
_LSF = Reserved(
    long={},
    short=dict.fromkeys(re.findall(r"\w+", _LSF_OURS), "")
    | {
        "M": "memory",
        "P": "account",
        "U": "reservation",
        "W": "runtime",
        "We": "runtime",
        "c": "runtime",
        "gpu": "gpus",
        "n": "cores",
        "q": "queue",
        "v": "memory",
    },
    words={
        "R": {
            "mem": "memory",
            "ngpus": "gpus",
            "ngpus_physical": "gpus",
            "select": "node_constraint",
            "span": "cores",
        }
    },
    permitted=frozenset(re.findall(r"\w+", _LSF_OTHERS)),
    form=_NAME,
    example="[-x, -app jupyter]",
)

# One dash begins a whole word, which takes no value, one or two.
_GRID_ENGINE = Reserved(
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
    form=re.compile(rf"-[A-Za-z@][a-z_]*(?: (?!-[A-Za-z@]){_VALUE}){{0,2}}"),
    example="[-P physics, -p -100]",
)

# A command of the submit description, as --NAME=VALUE. They know neither small letters from capitals nor beginnings of
# names; small letters it is.
_HTCONDOR = Reserved(
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
    form=re.compile(rf"--[a-z][a-z0-9_]*={_VALUE}"),
    example="[--rank=Memory, --concurrency_limits=matlab]",
)

RESERVED: dict[str, Reserved] = {
    "slurm": _SLURM,
    "multislurm": _SLURM,
    "torque": _TORQUE,
    "moab": _MOAB,
    "pbs": _PBS,
    "lsf": _LSF,
    "gridengine": _GRID_ENGINE,
    "uge": _GRID_ENGINE,
    "htcondor": _HTCONDOR,
}


def option_complaint(scheduler: str, option: str) -> tuple[str, str] | None:
    """What is wrong with an option of a profile.

    Args:
        scheduler: the inventory's word for it.
        option: one option with its value, as ``--exclusive`` or ``-q debug``.

    Returns:
        the complaint and what is valid, or None when it may stand.
    """
    reserved = RESERVED[scheduler]
    if not reserved.form.fullmatch(option):
        return "is not a single option", f"write each as an item of its own, as in {reserved.example}"
    if option.startswith("--"):
        name, _, value = option[2:].partition("=")
        taken = {full: words for full, words in reserved.long.items() if full.startswith(name)}
        taken |= {
            full: words
            for full, (pattern, words) in reserved.values.items()
            if full.startswith(name) and re.fullmatch(pattern, value)
        }
    else:
        name = option[1] if reserved.form is _OPTION else option[1:].partition(" ")[0]
        if reserved.permitted and name not in reserved.permitted | set(reserved.short):
            return "is not an option that hpchub knows", f"known: {listing(sorted(reserved.permitted))}"
        taken = {name: reserved.short[name]} if name in reserved.short else {}
        named = set(re.findall(r"[a-z_][a-z0-9_]*", option.partition(" ")[2].lower()))
        taken |= {word: words for word, words in reserved.words.get(name, {}).items() if word in named}
    if not taken:
        return None
    fields = sorted({words for words in taken.values() if words})
    if len(fields) == 1 and len(taken) == len([words for words in taken.values() if words]):
        return f"says again what {fields[0]} says", f"set {fields[0]} of the profile or its queue"
    return "is set by hpchub", "leave it out"


_RESOURCE_REQUEST = re.compile(r"!?[A-Za-z_][A-Za-z0-9_.]*(?:!?=[A-Za-z0-9_.*|&!()\[\]:+-]+)?")


def constraint_complaint(scheduler: str, constraint: str, taken: dict[str, str]) -> tuple[str, str] | None:
    """What is wrong with a profile's node_constraint, in the scheduler's own words.

    Args:
        scheduler: the inventory's word for it.
        constraint: as the profile has it, not empty.
        taken: for Grid Engine, the site's own resources and the profile's fields that say them.

    Returns:
        the complaint and what is valid, or None when it may stand.
    """
    if scheduler == "htcondor" and not _is_expression(constraint):
        return "is not an expression", "write attributes joined by && and ||, as in HasIB&&(Model==7||!Old)"
    if scheduler not in ("gridengine", "uge"):
        return None
    taken = {"h_rt": "runtime", "s_rt": "runtime", "qname": "queue", "q": "queue", "slots": "cores", **taken}
    for request in constraint.split(","):
        if not _RESOURCE_REQUEST.fullmatch(request):
            return "is not a list of resources", "write them as qsub -l takes them, as in arch=lx-amd64,infiniband"
        name = re.split("[=!]", request)[0]
        if name in taken:
            return f"says again what {taken[name]} says", f"set {taken[name]} of the profile"
    return None


_TERM = re.compile(r"!*[A-Za-z_][A-Za-z0-9_.]*(?:(?:==|!=|=\?=|=!=)-?[A-Za-z0-9_.]+)?")


def _is_expression(text: str) -> bool:
    """Whether it is terms of ClassAds joined by && and ||, with parentheses that match."""
    while (inner := re.sub(r"!*\(([^()]*)\)", lambda found: "x" if _is_flat(found[1]) else "(", text)) != text:
        text = inner
    return _is_flat(text)


def _is_flat(text: str) -> bool:
    return all(_TERM.fullmatch(term) for term in re.split(r"&&|\|\|", text))
