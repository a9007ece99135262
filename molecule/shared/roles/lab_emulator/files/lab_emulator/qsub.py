"""The options of qsub that PBS, Torque and Moab share (RG 2.57; Torque Administrator Guide, qsub)."""

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
    """The server refuses the value of an option."""

    def __init__(self, message: str, number: int) -> None:
        """Create the error from its message and the error number of PBS."""
        super().__init__(message)
        self.number = number


def read(
    arguments: list[str], letters: str, prefixes: tuple[str, ...] = ("#PBS",)
) -> tuple[directives.Options, str, str]:
    """Return all options of a submission, the script and the script's name.

    The options of the command line come after those in the script.

    Raises:
        Usage: An option is unknown.
        OSError: The script cannot be read.
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
    # The command line overrides the script, but resource lists (-l) of both are combined.
    overridden = {option for option, _ in given if option[1] in REPLACED}
    options = [(option, value) for option, value in written if option not in overridden] + given
    return options, script, Path(rest[0]).name if rest and rest[0] != "-" else "STDIN"


def items(text: str) -> list[tuple[str, str]]:
    """Parse ``NAME=VALUE,NAME=VALUE``. A comma inside quotes does not separate items.

    Raises:
        Usage: An item has no value.
    """
    found = []
    for item in re.findall(r"""(?:[^,"']|"[^"]*"|'[^']*')+""", text):
        name, equals, value = item.partition("=")
        if not name or not equals:
            raise Usage(f"illegal -l value {text}")
        found.append((name.strip(), value.strip().strip("\"'")))
    return found


def variables(text: str) -> dict[str, str]:
    """Parse the argument of ``-v``. A name without a value takes the value from this process's environment."""
    found = {}
    for item in re.findall(r"""(?:[^,"'\\]|\\.|"[^"]*"|'[^']*')+""", text):
        name, equals, value = item.strip().partition("=")
        if equals:
            found[name] = re.sub(r"\\(.)", r"\1", value.strip("\"'"))
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def origin(queue: str) -> dict[str, str]:
    """Return the variables PBS_O_*, which describe the environment of the submission."""
    names = {"HOME": "HOME", "LANG": "LANG", "LOGNAME": "LOGNAME", "PATH": "PATH", "SHELL": "SHELL", "MAIL": "MAIL"}
    found = {f"PBS_O_{name}": os.environ[variable] for name, variable in names.items() if variable in os.environ}
    return found | {
        "PBS_O_HOST": socket.gethostname(),
        "PBS_O_WORKDIR": str(Path.cwd()),
        "PBS_O_SYSTEM": "Linux",
        "PBS_O_QUEUE": queue,
    }


def indices(text: str) -> list[int]:
    """Parse the indices of a job array, for example ``1-3``, ``1-9:2`` or ``1,4,7``.

    Torque allows ``%LIMIT`` after the indices, which has no effect here.

    Raises:
        Usage: The text is not a list of indices.
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
    """Return the job that the options describe.

    Args:
        cluster: The cluster that will get the job.
        options: The options of the script and the command line.
        script: The text of the script.
        name: The default name of the job.
        known: The names of the resources that the scheduler knows.

    Raises:
        Usage: A value is malformed.
        Refused: The server would refuse a value.
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
    passed_on = dict(os.environ) if "-V" in wanted else {}
    for option, value in options:
        if option == "-v":
            passed_on |= variables(value)
    keep = wanted.get("-k", "n")
    paths = []
    for option in ("-o", "-e"):
        # PBS accepts HOST:PATH. The path is relative to the directory of the submission.
        path = wanted.get(option, "").rpartition(":")[2]
        paths.append(str(Path.cwd() / path) + ("/" if path.endswith("/") else "") if path else "")
    asked = new_job(
        name=job_name, queue=queue, script=script, account=wanted.get("-A", ""), project=wanted.get("-P", ""),
        environment=passed_on, origin=origin(queue),
        stdout=paths[0], stderr=paths[1], join="oe" in wanted.get("-j", "n") or "eo" in wanted.get("-j", "n"),
        shell=wanted.get("-S", "").partition("@")[0], rerunnable=wanted.get("-r", "y") == "y",
        hold="u" if "-h" in wanted else "", mail=wanted.get("-m", "a"), priority=int(wanted.get("-p", "0")),
        keep=keep, direct="d" in keep, outputs=paths, directory="",
        extra={
            "W": [value for option, value in options if option == "-W"],
            "variables": passed_on,
            "shell": wanted.get("-S", ""),
        },
    )  # fmt: skip
    if "-J" in wanted or "-t" in wanted:
        asked["indices"] = indices(wanted.get("-J") or wanted["-t"])
    asked["resources"] = resources
    size(asked, known)
    return asked


def size(asked: Job, known: set[str]) -> None:
    """Set the size of a job (nodes, cores, memory, GPUs and run time) from its list of resources.

    Raises:
        Refused: A resource is unknown, or its value is invalid.
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
    """Parse ``[N:]NAME=VALUE[:NAME=VALUE…][+…]``. The emulator ignores all chunks after the first one."""
    parts = _split(text.split("+", maxsplit=1)[0])
    asked["nodes"] = int(parts[0][0]) if parts[0][0].isdigit() and not parts[0][1] else 1
    _chunk(asked, parts[1:] if parts[0][0].isdigit() else parts)


def _nodes(asked: Job, text: str) -> None:
    """Parse ``{N|HOST}[:ppn=N][:gpus=N][:FEATURE…][+…]``. The emulator ignores everything after the first ``+``."""
    parts = _split(text.split("+", maxsplit=1)[0])
    if parts[0][0].isdigit():
        asked["nodes"] = int(parts[0][0])
    else:
        asked["wanted_hosts"] = [parts[0][0]]
    _chunk(asked, parts[1:])
