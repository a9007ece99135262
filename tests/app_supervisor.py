"""The supervisor of an application in a process of its own, as jupyter-server-proxy starts it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


class Supervisor:
    """A supervisor in a process of its own.

    Args:
        program: The module of the program.
        directory: A directory for its files.
        definition: The application's definition. Its name is ``demo``. ``texts`` are texts of its pages.
        python: The Python that runs it.
        environment: Variables to add to its environment.
    """

    def __init__(
        self,
        program: ModuleType,
        directory: Path,
        definition: dict[str, Any],
        python: str | Path = sys.executable,
        **environment: str,
    ) -> None:
        self.directory = directory / "apps"
        self.directory.mkdir()
        file = directory / "apps.json"
        definition = {"name": "demo", "display_name": "Demo", "environment": {}, **definition}
        file.write_text(json.dumps({"apps": [definition], "texts": definition.pop("texts", {})}))
        self.process = subprocess.Popen(
            [python, "-I", str(program.__file__), str(file), "demo"],
            env={**os.environ, "HPCHUB_APPS": str(self.directory), **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.socket = self.directory / "demo" / "socket"
        end = time.monotonic() + 20
        while not self._accepts():
            assert time.monotonic() < end
            time.sleep(0.02)

    def _accepts(self) -> bool:
        """Return whether the supervisor accepts connections. Its socket exists a moment earlier."""
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(str(self.socket))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
        return True

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.communicate(timeout=20)

    def get(self, path: str = "/", headers: str = "") -> tuple[int, str]:
        """Return the status and the body of an answer. Both are empty if the application ends meanwhile."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(self.socket))
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n".encode())
            data = b""
            while chunk := sock.recv(65536):
                data += chunk
        head, _, body = data.partition(b"\r\n\r\n")
        return int(head.split()[1]) if head else 0, body.decode()

    def wait(self, path: str = "/") -> tuple[int, str]:
        """Return the first answer after the page that the application is starting."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            status, body = self.get(path)
            if status != 503:
                return status, body
            time.sleep(0.05)
        raise AssertionError("the application is still starting")
