"""Which of a scheduler's own options a profile may carry: none that says again what the model says. No I/O.

Source for Slurm: sbatch(1) of 22.05 and 24.11; for Grid Engine: qsub(1) of 8.1.9; for HTCondor:
condor_submit of 23.0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_VALUE = r"[A-Za-z0-9_.,:=@/+*&|()\[\]-]*"
_OPTION = re.compile(rf"--[a-z][a-z0-9-]*(?:={_VALUE})?|-[A-Za-z](?: ?(?!-){_VALUE})?")
"""One option with its value: no quotes, no shell characters, no second option behind a space."""


@dataclass(frozen=True)
class Reserved:
    """The options that the model sets itself, or that would make its job another one.

    Attributes:
        long: names without dashes, and the profile's field in their place where there is one. A unique beginning of a
            long option is that option for getopt_long, so every beginning of these is reserved as well.
        short: letters, likewise.
        values: patterns of values that are reserved for an option that is not.
        pattern: one option with its value.
        example: what it looks like.
    """

    long: dict[str, str]
    short: dict[str, str]
    values: dict[str, tuple[str, str]] = field(default_factory=dict)
    pattern: re.Pattern[str] = _OPTION
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
    pattern=re.compile(rf"-[A-Za-z@][a-z_]*(?: (?!-[A-Za-z@]){_VALUE}){{0,2}}"),
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
    pattern=re.compile(rf"--[a-z][a-z0-9_]*={_VALUE}"),
    example="[--rank=Memory, --concurrency_limits=matlab]",
)

RESERVED: dict[str, Reserved] = {
    "slurm": _SLURM,
    "multislurm": _SLURM,
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
    reserved = RESERVED.get(scheduler)
    if not (reserved.pattern if reserved else _OPTION).fullmatch(option):
        example = reserved.example if reserved else Reserved.example
        return "is not a single option", f"write each as an item of its own, as in {example}"
    if reserved is None:
        return None
    if option.startswith("--"):
        name, _, value = option[2:].partition("=")
        taken = {full: words for full, words in reserved.long.items() if full.startswith(name)}
        taken |= {
            full: words
            for full, (pattern, words) in reserved.values.items()
            if full.startswith(name) and re.fullmatch(pattern, value)
        }
    else:
        name = option[1:].split(" ", maxsplit=1)[0] if reserved.pattern is not _OPTION else option[1]
        taken = {name: reserved.short[name]} if name in reserved.short else {}
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
