"""Stand-in for systemd's socket unit of a local gate: it starts a gate process for each connection."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path


def main(path: str, calls: str, *command: str) -> None:
    """Serve until the process is terminated."""
    Path(path).unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(1024)
    os.nice(5)  # as in the gate's systemd unit
    running: list[subprocess.Popen[bytes]] = []
    with Path(calls).open("a") as log:
        while True:
            connection = listening.accept()[0]
            with connection:
                running.append(subprocess.Popen(command, stdin=connection.fileno(), stdout=connection.fileno()))
            log.write("gate\n")
            log.flush()
            running = [process for process in running if process.poll() is None]


if __name__ == "__main__":
    main(*sys.argv[1:])
