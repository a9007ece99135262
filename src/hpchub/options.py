"""Which of a scheduler's own options a profile may carry: none that says again what the model says. No I/O.

Source for Slurm: sbatch(1) of 22.05 and 24.11.
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
    """

    long: dict[str, str]
    short: dict[str, str]
    values: dict[str, tuple[str, str]] = field(default_factory=dict)


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

RESERVED: dict[str, Reserved] = {"slurm": _SLURM, "multislurm": _SLURM}


def option_complaint(scheduler: str, option: str) -> tuple[str, str] | None:
    """What is wrong with an option of a profile.

    Args:
        scheduler: the inventory's word for it.
        option: one option with its value, as ``--exclusive`` or ``-q debug``.

    Returns:
        the complaint and what is valid, or None when it may stand.
    """
    if not _OPTION.fullmatch(option):
        return "is not a single option", "write each as an item of its own, as in [--exclusive, --qos=debug]"
    reserved = RESERVED.get(scheduler)
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
        name = option[1]
        taken = {name: reserved.short[name]} if name in reserved.short else {}
    if not taken:
        return None
    fields = sorted({words for words in taken.values() if words})
    if len(fields) == 1 and len(taken) == len([words for words in taken.values() if words]):
        return f"says again what {fields[0]} says", f"set {fields[0]} of the profile or its queue"
    return "is set by hpchub", "leave it out"
