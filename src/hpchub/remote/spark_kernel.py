"""The kernel PySpark: a Python kernel with the names ``spark`` and ``sc``, for the Apache Spark of the session.

::

    python spark_kernel.py SOCKET -f FILE

``SOCKET`` is the socket of the supervisor; see ``spark.py``. The kernel starts Spark, but does not wait for it: users
can work in the meantime. The first cell waits, and creates the session. If Spark cannot start, the cell shows the
reason, and the next cell tries again.

The role ``notebook_environment`` installs this file beside ``spark.py``. It runs with the Python of the site that has
ipykernel and pyspark, version 3.9 or later.
"""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import secrets
import shutil
import socket
import sys
import time
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

KERNEL_PATH = "/hpchub/kernel"
AGAIN = "hpchub-start-again"  # starts Spark again if it has ended; see app.py
INTERVAL = 0.25  # seconds between two questions
TIMEOUT = 20.0  # seconds; the supervisor answers at once


class UnavailableError(Exception):
    """Spark cannot be used. The text is the reason."""


def ask(path: str, query: str = "") -> tuple[int, str]:
    """Return the status and the content of the supervisor's answer.

    Args:
        path: The supervisor's socket.
        query: The query of the request.

    Raises:
        OSError: The supervisor does not answer.
    """
    data = b""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(TIMEOUT)
        sock.connect(path)
        sock.sendall(f"GET {KERNEL_PATH}?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        while chunk := sock.recv(65536):
            data += chunk
    head, _, content = data.partition(b"\r\n\r\n")
    words = head.split()
    return (int(words[1]) if len(words) > 1 else 0), content.decode("utf-8", "replace")


def wait(path: str) -> dict[str, Any]:
    """Return what the supervisor says about the running Spark.

    Raises:
        UnavailableError: Spark cannot be used.
    """
    shown = False
    while True:
        try:
            status, content = ask(path)
            if status == 502:  # it has ended since the kernel began
                status, content = ask(path, "" if shown else AGAIN)
        except OSError as error:
            raise UnavailableError(f"Spark: {error.strerror or error}") from None
        if status == 200:
            found: dict[str, Any] = json.loads(content)
            return found
        if status != 503:
            raise UnavailableError(words_of(content))
        if not shown:
            print(words_of(content), flush=True)
            shown = True
        time.sleep(INTERVAL)


def words_of(page: str) -> str:
    """Return the text of a page of the supervisor: its heading, and the last lines of the log."""
    found = re.findall(r"<(?:h1|pre)>(.*?)</(?:h1|pre)>", page, re.DOTALL)
    return html.unescape("\n".join(found)) or page


def is_local(path: str) -> bool:
    """Return whether a path names a file of this node."""
    return urlsplit(path).scheme in ("", "file")


def context_class(base: type, refusal: str, directory: Path) -> type:
    """Return a class of Spark contexts that do not offer the user's files to others.

    Spark sends the files of ``addFile`` to everybody who connects to the driver's port and knows their names, even with
    ``spark.authenticate``. See ``processStreamRequest`` in Spark's ``TransportRequestHandler``.

    Args:
        base: PySpark's class.
        refusal: The text for users, with ``{path}``.
        directory: A directory that only the user can enter.
    """

    class SessionContext(base):  # type: ignore[misc]
        """PySpark's context. Files of this node are offered under names that nobody can guess, or not at all."""

        def addFile(self, path: str, recursive: bool = False) -> None:  # noqa: N802 PySpark's name
            if is_local(path) and Path(path).parent != directory:
                raise PermissionError(refusal.format(path=path))
            super().addFile(path, recursive)

        def addArchive(self, path: str) -> None:  # noqa: N802 PySpark's name
            if is_local(path):
                raise PermissionError(refusal.format(path=path))
            super().addArchive(path)

        def addPyFile(self, path: str) -> None:  # noqa: N802 PySpark's name
            super().addPyFile(str(renamed(path, directory)) if is_local(path) else path)

    return SessionContext


def renamed(path: str, directory: Path) -> Path:
    """Return a copy of a Python module or package, with a name that nobody can guess.

    Args:
        path: A Python file, or an archive of them.
        directory: The directory for the copy.
    """
    source = Path(urlsplit(path).path if path.startswith("file:") else path)
    target = directory / f"{secrets.token_hex(16)}.zip"
    if source.suffix.lower() in (".zip", ".egg", ".jar"):
        shutil.copyfile(source, target)
    else:
        with zipfile.ZipFile(target, "w") as archive:
            archive.write(source, source.name)
    return target


def create_session(found: dict[str, Any]) -> Any:
    """Return a Spark session for the running Spark.

    Args:
        found: What :func:`wait` returned.
    """
    os.environ.update(found["variables"])
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    from pyspark import SparkContext  # noqa: PLC0415
    from pyspark.sql import SparkSession  # noqa: PLC0415

    directory = Path(found["variables"]["SPARK_CONF_DIR"]).parent
    # Settings in the code would be in the argument list of a process, which others can read.
    context_class(SparkContext, found["not_served"], directory)()
    return SparkSession.builder.getOrCreate()


def main() -> None:
    """Run the kernel."""
    from ipykernel.kernelapp import IPKernelApp  # noqa: PLC0415

    path = sys.argv.pop(1)
    application = IPKernelApp.instance()
    application.initialize(sys.argv[1:])
    shell = application.shell

    def begin(_info: object) -> None:
        try:
            session = create_session(wait(path))
        except UnavailableError as error:
            print(error, file=sys.stderr)
            return
        shell.push({"spark": session, "sc": session.sparkContext}, interactive=False)
        shell.events.unregister("pre_run_cell", begin)

    shell.events.register("pre_run_cell", begin)
    with contextlib.suppress(OSError):  # the first cell shows the reason
        ask(path, AGAIN)
    application.start()


if __name__ == "__main__":
    sys.path.pop(0)  # the modules beside this file are none of the user's
    main()
