"""qsub's options, which PBS, Torque and Moab share (RG 2.57; Torque Administrator Guide, qsub)."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab_emulator import directives
from lab_emulator.client import new_job
from lab_emulator.common import Usage, mebibytes, seconds

if TYPE_CHECKING:
    from lab_emulator.client import Cluster
    from lab_emulator.common import Job

REPLACED = {"A", "P", "q", "N", "o", "e", "j", "S", "r", "m", "M", "p", "h", "a", "c", "k", "J", "t", "V", "z", "v"}


class Refused(Exception):
    """The value of an option is refused by the server: a message, and the number that PBS gives it."""

    def __init__(self, message: str, number: int) -> None:
        """Say what and by which number."""
        super().__init__(message)
        self.number = number


def read(
    arguments: list[str], letters: str, prefixes: tuple[str, ...] = ("#PBS",)
) -> tuple[directives.Options, str, str]:
    """All options of a submission, those of the command line last, with the script and its name.

    Raises:
        Usage: an option is not known.
        OSError: the script cannot be read.
    """
    given, rest = directives.parse(arguments, letters)
    script = directives.read_script(rest)
    prefixes = (dict(given)["-C"],) if "-C" in dict(given) else prefixes
    written: directives.Options = []
    for line in directives.lines(script, prefixes):
        found, left = directives.parse(directives.split(line), letters)
        if left:
            raise Usage(f"directive error: {line}")
        written += found
    # The command line is stronger, except that lists of resources add up.
    stronger = {option for option, _ in given if option[1] in REPLACED}
    options = [(option, value) for option, value in written if option not in stronger] + given
    return options, script, Path(rest[0]).name if rest and rest[0] != "-" else "STDIN"


def items(text: str) -> list[tuple[str, str]]:
    """``NAME=VALUE,NAME=VALUE``; a comma within quotes does not count.

    Raises:
        Usage: there is a name without a value.
    """
    found = []
    for item in re.findall(r"""(?:[^,"']|"[^"]*"|'[^']*')+""", text):
        name, equals, value = item.partition("=")
        if not name or not equals:
            raise Usage(f"illegal -l value {text}")
        found.append((name.strip(), value.strip().strip("\"'")))
    return found


def variables(text: str) -> dict[str, str]:
    """``-v``: ``NAME=VALUE``, or a name whose value is the submitter's."""
    found = {}
    for item in re.findall(r"""(?:[^,"'\\]|\\.|"[^"]*"|'[^']*')+""", text):
        name, equals, value = item.strip().partition("=")
        if equals:
            found[name] = re.sub(r"\\(.)", r"\1", value.strip("\"'"))
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def origin(queue: str) -> dict[str, str]:
    """PBS_O_*: what the job learns of where it was submitted."""
    names = {"HOME": "HOME", "LANG": "LANG", "LOGNAME": "LOGNAME", "PATH": "PATH", "SHELL": "SHELL", "MAIL": "MAIL"}
    found = {f"PBS_O_{name}": os.environ[variable] for name, variable in names.items() if variable in os.environ}
    return found | {
        "PBS_O_HOST": socket.gethostname(),
        "PBS_O_WORKDIR": str(Path.cwd()),
        "PBS_O_SYSTEM": "Linux",
        "PBS_O_QUEUE": queue,
    }


def indices(text: str) -> list[int]:
    """An array's indices: ``1-3``, ``1-9:2``, ``1,4,7``, and Torque's ``%LIMIT`` behind them.

    Raises:
        Usage: they are none.
    """
    found: list[int] = []
    for part in text.split("%", maxsplit=1)[0].split(","):
        wanted = re.fullmatch(r"([0-9]+)(?:-([0-9]+)(?::([0-9]+))?)?", part)
        if not wanted:
            raise Usage(f"illegal array value {text}")
        first = int(wanted[1])
        found += range(first, int(wanted[2] or first) + 1, int(wanted[3] or 1))
    return found


def job(cluster: Cluster, options: directives.Options, script: str, name: str, known: set[str]) -> Job:
    """What the options ask for.

    Raises:
        Usage: a value is not well formed.
        Refused: the server would not have it.
    """
    wanted = dict(options)
    queue = wanted.get("-q", "").partition("@")[0]
    resources: dict[str, str] = {}
    for option, value in options:
        if option == "-l":
            resources |= items(value)
    for option, letters in (("-j", {"oe", "eo", "n"}), ("-r", {"y", "n"})):
        if option in wanted and wanted[option] not in letters:
            raise Usage(f"illegal {option} value")
    job_name = wanted.get("-N", name)
    if not re.fullmatch(r"[^\s]{1,236}", job_name):
        raise Usage("illegal -N value")
    handed_on = dict(os.environ) if "-V" in wanted else {}
    for option, value in options:
        if option == "-v":
            handed_on |= variables(value)
    came_from = origin(queue)
    keep = wanted.get("-k", "n")
    paths = []
    for option in ("-o", "-e"):
        # PBS takes HOST:PATH; the path is the submission directory's.
        path = wanted.get(option, "").rpartition(":")[2]
        paths.append(str(Path.cwd() / path) + ("/" if path.endswith("/") else "") if path else "")
    asked = new_job(
        name=job_name, queue=queue, script=script, account=wanted.get("-A", ""), project=wanted.get("-P", ""),
        environment=handed_on, origin=came_from,
        stdout=paths[0], stderr=paths[1], join="oe" in wanted.get("-j", "n") or "eo" in wanted.get("-j", "n"),
        shell=wanted.get("-S", "").partition("@")[0], rerunnable=wanted.get("-r", "y") == "y",
        hold="u" if "-h" in wanted else "", mail=wanted.get("-m", "a"), priority=int(wanted.get("-p", "0")),
        keep=keep, direct="d" in keep, outputs=paths, directory="",
        extra={
            "W": [value for option, value in options if option == "-W"],
            "variables": handed_on,
            "shell": wanted.get("-S", ""),
        },
    )  # fmt: skip
    if "-J" in wanted or "-t" in wanted:
        asked["indices"] = indices(wanted.get("-J") or wanted["-t"])
    asked["resources"] = resources
    size(asked, known)
    return asked


def size(asked: Job, known: set[str]) -> None:
    """Count what a list of resources comes to.

    Raises:
        Refused: a resource is unknown, or its value none.
    """
    resources = asked["resources"]
    for name in resources:
        if name not in known:
            raise Refused(f"Unknown resource: {name}", 15035)
    name = ""
    try:
        if name := "walltime" if "walltime" in resources else "":
            asked["runtime"] = seconds(resources[name])
        if "select" in resources:
            name = "select"
            _select(asked, resources["select"])
        elif "nodes" in resources:
            name = "nodes"
            _nodes(asked, resources["nodes"])
        for key, field in (("ncpus", "cores"), ("procs", "cores"), ("ngpus", "gpus"), ("gpus", "gpus")):
            if key in resources:
                name = key
                asked[field] = int(resources[key])
        for key in ("pmem", "mem"):
            if key in resources:
                name = key
                asked["memory"] = -(-mebibytes(resources[key]) // (asked["nodes"] if key == "mem" else 1))
    except ValueError:
        raise Refused(f"Illegal attribute or resource value Resource_List.{name}", 15014) from None
    if "host" in resources:
        asked["wanted_hosts"] = [resources["host"]]


def _chunk(asked: Job, fields: list[tuple[str, str]]) -> None:
    for name, value in fields:
        if name in ("ncpus", "ppn"):
            asked["cores"] = int(value)
        elif name == "mem":
            asked["memory"] = mebibytes(value)
        elif name in ("ngpus", "gpus"):
            asked["gpus"] = int(value)
        elif name in ("host", "vnode"):
            asked["wanted_hosts"] = [value]
        elif (name and not value) or value.lower() == "true":
            asked["features"].append(name)


def _split(chunk: str) -> list[tuple[str, str]]:
    pairs: list[Any] = [part.partition("=")[::2] for part in chunk.split(":")]
    return [(str(name), str(value)) for name, value in pairs]


def _select(asked: Job, text: str) -> None:
    """``[N:]NAME=VALUE[:NAME=VALUE…][+…]``; chunks after the first are of the first's size here."""
    parts = _split(text.split("+", maxsplit=1)[0])
    asked["nodes"] = int(parts[0][0]) if parts[0][0].isdigit() and not parts[0][1] else 1
    _chunk(asked, parts[1:] if parts[0][0].isdigit() else parts)


def _nodes(asked: Job, text: str) -> None:
    """``{N|HOST}[:ppn=N][:gpus=N][:FEATURE…][+…]``."""
    parts = _split(text.split("+", maxsplit=1)[0])
    if parts[0][0].isdigit():
        asked["nodes"] = int(parts[0][0])
    else:
        asked["wanted_hosts"] = [parts[0][0]]
    _chunk(asked, parts[1:])
