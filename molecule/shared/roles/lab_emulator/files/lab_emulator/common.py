"""Functions that the server, the agents and the clients share: configuration, messages and number formats."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "config.json"
Job = dict[str, Any]

MINUTE, HOUR, DAY = 60, 3600, 86400


class Unreachable(Exception):
    """The server does not answer."""


class Usage(Exception):
    """An unknown or malformed option. The text is the first line of the program's error message."""


def read_config() -> dict[str, Any]:
    """Read ``config.json`` from the program's directory. The role's ``vars/main.yml`` defines its contents."""
    config: dict[str, Any] = json.loads(CONFIG.read_text())
    return config


def send(connection: socket.socket, message: object) -> None:
    """Send a message as one line of JSON."""
    connection.sendall(json.dumps(message).encode() + b"\n")


def receive(connection: socket.socket) -> Any:
    """Receive one message.

    Raises:
        OSError: The other side closed the connection before the message was complete.
    """
    with connection.makefile("rb") as stream:
        line = stream.readline()
    if not line.endswith(b"\n"):
        raise ConnectionResetError("the connection closed before the message was complete")
    return json.loads(line)


def ask(config: dict[str, Any], request: dict[str, Any]) -> Any:
    """Send a request to the server and return the answer. The server sees the user who runs this program.

    Raises:
        Unreachable: The server does not answer.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(config["socket"])
            send(connection, request)
            return receive(connection)
    except OSError as error:
        raise Unreachable(str(error)) from error


def signature(config: dict[str, Any], *parts: str) -> str:
    """Return a signature of the parts, which proves that the sender has the lab's key file."""
    key = Path(config["key"]).read_bytes()
    return hmac.new(key, "\n".join(parts).encode(), hashlib.sha256).hexdigest()


def name_of(job: Job) -> str:
    """Return a name for the job that is unique among all flavours and valid as a file name."""
    index = "" if job["index"] is None else f"-{job['index']}"
    return f"{job['flavour']}-{job['number']}{index}"


def write(path: Path, content: str, mode: int = 0o600) -> None:
    """Replace a file atomically."""
    partial = path.with_name(f".{path.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(content)
    partial.replace(path)


_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def mebibytes(text: str, unit: str = "") -> int:
    """Return a size in MiB, rounded up.

    Args:
        text: The size, for example ``4gb``, ``4G``, ``4096mb`` or ``1048576``.
        unit: The unit of a size without a unit: empty for bytes, or ``k``, ``m``, ``g``, ``t`` or ``p``.

    Raises:
        ValueError: The text is not a size. PBS's unit ``w`` (machine words) is not supported.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kmgtp]?)b?", text.strip().lower())
    if not found:
        raise ValueError(text)
    factor = 1024.0 ** _UNITS[found[2] or unit]
    return int(-(-float(found[1]) * factor // 1024**2))


def seconds(text: str) -> int:
    """Return a duration in seconds, from ``[[DD:]HH:]MM:SS`` or a number of seconds.

    Raises:
        ValueError: The text is not a duration.
    """
    if not re.fullmatch(r"[0-9]+(:[0-9]+){0,3}", text.strip()):
        raise ValueError(text)
    total = 0
    for part, factor in zip(reversed(text.strip().split(":")), (1, MINUTE, HOUR, DAY), strict=False):
        total += int(part) * factor
    return total


def clock(duration: float) -> str:
    """Format a duration as ``HH:MM:SS``, like PBS and Torque."""
    whole = int(duration)
    return f"{whole // HOUR:02}:{whole % HOUR // MINUTE:02}:{whole % MINUTE:02}"


def owner(job: Job) -> str:
    """Return the job's owner as USER@HOST."""
    return f"{job['user']}@{job['host']}"


def allocated(job: Job) -> list[str]:
    """Return the hosts that are allocated to a job. The first one runs the job's script."""
    return [str(host) for host in job["hosts"]]


def versioned(command: Callable[[Any, list[str]], int], option: str, release: str) -> Callable[[Any, list[str]], int]:
    """Extend a program with an option that prints its release on standard error."""

    def run(cluster: Any, arguments: list[str]) -> int:
        if arguments[:1] == [option]:
            sys.stderr.write(release)
            return 0
        return command(cluster, arguments)

    return run
