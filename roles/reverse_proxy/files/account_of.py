"""Answer the web server's questions for the account of a name: run the site's command, and cache its answers.

The web server sends a name on a connection and closes its side. The answer is one line:

- ``account NAME``: the account.
- ``none``: the command succeeded and printed nothing, so the name has no account.
- ``failed``: the command failed, took too long, or printed something else. The account is unknown.

The program uses the standard library only. systemd passes it the socket.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

LONGEST = 255
MOST_COMMANDS = 8
MOST_ANSWERS = 10_000


class Accounts:
    """The answers of the site's command.

    Args:
        settings: ``command`` is an argument vector. ``timeout`` and ``remember`` are in seconds.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._known: dict[str, tuple[float, str]] = {}
        self._running = threading.BoundedSemaphore(MOST_COMMANDS)
        self._writing = threading.Lock()

    def answer(self, name: str) -> str:
        """Return the answer for a name. Only answers of a command that succeeded are remembered."""
        if not name or len(name.encode()) > LONGEST or not name.isprintable():
            return "none"
        known = self._remembered(name)
        if known is None:
            with self._running:
                known = self._remembered(name) or self._ask(name)
        return known

    def _remembered(self, name: str) -> str | None:
        until, answer = self._known.get(name, (0.0, ""))
        return answer if until > time.monotonic() else None

    def _ask(self, name: str) -> str:
        answer = self._run(name)
        try:
            self._record(answer != "failed")
        except OSError as error:
            print(f"Cannot write the status for the hub's metrics: {error}", file=sys.stderr, flush=True)
        return answer

    def _record(self, ok: bool) -> None:
        """Write how the command went, for the hub's metrics. The file contains no name."""
        if directory := os.environ.get("RUNTIME_DIRECTORY"):
            with self._writing:
                new = Path(directory, ".status.json.new")
                new.write_text(json.dumps({"ok": ok}))
                new.chmod(0o644)
                new.replace(Path(directory, "status.json"))

    def _run(self, name: str) -> str:
        command = self._settings["command"]
        try:
            output = _output(command, name, self._settings["timeout"])
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            # The error contains the command, but never the name, which the command gets on standard input.
            print(f"{command[0]} did not tell the account of a name: {error}", file=sys.stderr, flush=True)
            return "failed"
        account = output.strip()
        if len(account) > LONGEST or not account.isprintable():
            print(f"{command[0]} did not print one name on one line", file=sys.stderr, flush=True)
            return "failed"
        answer = f"account {account}" if account else "none"
        if len(self._known) >= MOST_ANSWERS:
            self._known.clear()
        self._known[name] = (time.monotonic() + self._settings["remember"], answer)
        return answer


def _output(command: list[str], name: str, timeout: float) -> str:
    """Return what a command prints for a name on standard input. The processes that it has started end with it.

    Raises:
        OSError, ValueError, subprocess.SubprocessError: It fails, or takes too long.
    """
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(f"{name}\n", timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return output


def serve(connection: socket.socket, accounts: Accounts) -> None:
    """Answer the question of one connection."""
    with connection:
        connection.settimeout(5)
        question = b""
        try:
            while len(question) <= LONGEST and (part := connection.recv(LONGEST + 1)):
                question += part
            connection.sendall(f"{accounts.answer(question.decode())}\n".encode())
        except (OSError, ValueError) as error:
            print(f"A question was not answered: {error}", file=sys.stderr, flush=True)


def main() -> None:
    """Answer questions until the process is stopped."""
    accounts = Accounts(json.loads(Path(sys.argv[1]).read_text()))
    listener = socket.socket(fileno=3)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, accounts), daemon=True).start()


if __name__ == "__main__":
    main()
