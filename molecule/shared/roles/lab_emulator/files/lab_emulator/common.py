"""What server, agent and clients have in common: the configuration, and how they talk."""

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
    """An option that the program does not know, or that is not well formed; the text is what it says first."""


def read_config() -> dict[str, Any]:
    """Read ``config.json`` beside the program; the role's template is its description."""
    config: dict[str, Any] = json.loads(CONFIG.read_text())
    return config


def send(connection: socket.socket, message: object) -> None:
    """Send one JSON message; the sender has no more to say."""
    connection.sendall(json.dumps(message).encode() + b"\n")


def receive(connection: socket.socket) -> Any:
    """Receive one JSON message.

    Raises:
        OSError: the other end has gone before it was complete.
    """
    with connection.makefile("rb") as stream:
        line = stream.readline()
    if not line.endswith(b"\n"):
        raise ConnectionResetError("the connection broke off")
    return json.loads(line)


def ask(config: dict[str, Any], request: dict[str, Any]) -> Any:
    """Ask the server as the user who runs this program.

    Raises:
        Unreachable: it is not there.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(config["socket"])
            send(connection, request)
            return receive(connection)
    except OSError as error:
        raise Unreachable(str(error)) from error


def signature(config: dict[str, Any], *parts: str) -> str:
    """What proves that its author has the key file of the lab."""
    key = Path(config["key"]).read_bytes()
    return hmac.new(key, "\n".join(parts).encode(), hashlib.sha256).hexdigest()


def name_of(job: Job) -> str:
    """A job's name among all, safe as a file name."""
    index = "" if job["index"] is None else f"-{job['index']}"
    return f"{job['flavour']}-{job['number']}{index}"


def write(path: Path, content: str, mode: int = 0o600) -> None:
    """Replace a file at once, or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(content)
    partial.replace(path)


_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def mebibytes(text: str, unit: str = "") -> int:
    """A size in MiB, rounded up: ``4gb``, ``4G``, ``4096mb``, ``1048576`` (in ``unit``).

    Raises:
        ValueError: it is none; PBS words (``w``) are not.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kmgtp]?)b?", text.strip().lower())
    if not found:
        raise ValueError(text)
    factor = 1024.0 ** _UNITS[found[2] or unit]
    return int(-(-float(found[1]) * factor // 1024**2))


def seconds(text: str) -> int:
    """A time ``[[DD:]HH:]MM:SS`` or seconds.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(r"[0-9]+(:[0-9]+){0,3}", text.strip()):
        raise ValueError(text)
    total = 0
    for part, factor in zip(reversed(text.strip().split(":")), (1, MINUTE, HOUR, DAY), strict=False):
        total += int(part) * factor
    return total


def clock(duration: float) -> str:
    """``HH:MM:SS``, as PBS and Torque write it."""
    whole = int(duration)
    return f"{whole // HOUR:02}:{whole % HOUR // MINUTE:02}:{whole % MINUTE:02}"


def owner(job: Job) -> str:
    """USER@HOST."""
    return f"{job['user']}@{job['host']}"


def allocated(job: Job) -> list[str]:
    """The hosts on which a job has its cores, the first of them running its script."""
    return [str(host) for host in job["hosts"]]


def versioned(command: Callable[[Any, list[str]], int], option: str, release: str) -> Callable[[Any, list[str]], int]:
    """A program that says its release on standard error, by an option of its own."""

    def run(cluster: Any, arguments: list[str]) -> int:
        if arguments[:1] == [option]:
            sys.stderr.write(release)
            return 0
        return command(cluster, arguments)

    return run
