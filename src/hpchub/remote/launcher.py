"""``hpchub-launch SESSION``: the program that a session's batch job runs on its compute node.

The launcher reads the session's secrets from a file that only its owner can read, and deletes the file. It reserves a
free port and becomes the single-user server in the same process, so that the scheduler's signals reach the server. When
the server listens, the launcher reports the port to the hub. No secret is ever in an argument list.

The role ``notebook_environment`` installs this file as ``bin/hpchub-launch`` in the environment of the server. It runs
with the interpreter of this environment in isolated mode, so neither ``PYTHONPATH`` nor packages in the user's home
affect the server.

This file uses the standard library only until the server starts (Python 3.9 and later).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import pwd
import random
import re
import signal
import socket
import ssl
import stat
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SESSION = re.compile(r"[0-9a-f]{16}")
KERNEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
OURS = ("JUPYTERHUB_", "HPCHUB_")  # the prefixes of the variables that the hub may set
# A module in the user's login files may set these for another Python. Kernels would not start with them.
HARMFUL = ("PYTHONHOME", "PYTHONPLATLIBDIR", "__PYVENV_LAUNCHER__")
NEEDED = (
    "HPCHUB_PORT_FIRST",
    "HPCHUB_PORT_LAST",
    "HPCHUB_TLS_CERTIFICATE",
    "HPCHUB_TLS_CLIENTS",
    "HPCHUB_TLS_KEY",
    "JUPYTERHUB_API_TOKEN",
    "JUPYTERHUB_API_URL",
    "JUPYTERHUB_SERVICE_PREFIX",
)
# Only for the launcher. The CA certificate is public, but large.
NOT_FOR_KERNELS = ("HPCHUB_API_CA", "HPCHUB_TLS_CERTIFICATE", "HPCHUB_TLS_CLIENTS", "HPCHUB_TLS_KEY")
# The path of each interface below the session's address. The server offers all of them and opens the chosen one.
INTERFACES = {"lab": "/lab", "notebook": "/tree"}

SETTINGS = Path(sys.prefix, "etc", "hpchub-launch.json")
FILE_TIMEOUT = 15.0  # seconds; a new file may appear late on a network file system
LISTEN_TIMEOUT = 300.0  # seconds; the first start from a cold network file system is slow
REPORT_TIMEOUT = 900.0  # seconds; the hub may be down for an upgrade, and resumes this session afterwards
REQUEST_TIMEOUT = 10.0  # seconds

STOPPED_EXIT = 1


class LaunchError(Exception):
    """The server cannot start. The message is for the user, who finds it in the session's log."""


def log(text: str) -> None:
    """Write a line to the session's log."""
    print(f"hpchub-launch: {text}", file=sys.stderr, flush=True)


def home_directory() -> Path:
    """Return the home directory of the account, where the gate wrote its file. The job's ``HOME`` may differ."""
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return Path.home()


# -- the session's secrets


def read_session(path: Path, timeout: float = FILE_TIMEOUT) -> dict[str, str]:
    """Read and delete a session's file.

    Returns:
        Environment variables with the prefix ``JUPYTERHUB_`` or ``HPCHUB_``.

    Raises:
        LaunchError: The file does not exist, or the gate cannot have written it.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            break
        except FileNotFoundError:
            if time.monotonic() >= deadline:
                raise LaunchError(
                    f"{path} does not exist. It is deleted when a session starts. If the scheduler has started this job"
                    " a second time, start a new session."
                ) from None
            time.sleep(0.5)
        except OSError as error:
            raise LaunchError(f"{path} cannot be opened: {error.strerror}") from None
    with os.fdopen(descriptor, encoding="utf-8") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
            raise LaunchError(
                f"{path} is not trusted, because it is not a regular file that you own; start a new session"
            )
        path.unlink()
        if status.st_mode & 0o077:
            raise LaunchError(f"{path} was deleted, because other users could read it; start a new session")
        text = stream.read()
    return parse_session(text, path)


def parse_session(text: str, path: Path) -> dict[str, str]:
    """Return the variables in a session's file.

    Raises:
        LaunchError: The text is not an object of strings, or a variable is missing or not permitted.
    """
    try:
        session = json.loads(text)
    except ValueError:
        raise LaunchError(f"{path} is not JSON; start a new session") from None
    if not isinstance(session, dict) or not all(isinstance(value, str) for value in session.values()):
        raise LaunchError(f"{path} is not an object of strings; start a new session")
    foreign = sorted(name for name in session if not name.startswith(OURS))
    if foreign:
        raise LaunchError(f"{path} sets {foreign[0]}; only JUPYTERHUB_* and HPCHUB_* are permitted")
    missing = [name for name in NEEDED if not session.get(name)]
    if missing:
        raise LaunchError(f"{path} lacks {', '.join(missing)}; start a new session")
    return session


# -- requirements on the node


def check_space(directory: Path) -> None:
    """Check that the server can write its files.

    Raises:
        LaunchError: The directory is full, over quota, or not writable.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".space-") as file:
            file.write(bytes(64 * 1024))
            file.flush()
            os.fsync(file.fileno())  # a network file system reports errors only here
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LaunchError(
                f"your home directory is full, so {directory} cannot be written. Log in to a login node with ssh,"
                " delete files that you do not need, and start a new session."
            ) from None
        raise LaunchError(f"{directory} cannot be written: {error.strerror}; check its permissions") from None


def reserve_port(first: int, last: int) -> socket.socket:
    """Reserve a free port of the range until the server listens on it.

    The socket is bound but does not listen, so other programs find the port in use. The server can still bind it: Linux
    permits a second socket if both have SO_REUSEADDR and neither listens. The option is set only after the bind.

    Raises:
        LaunchError: No port of the range is free.
    """
    ports = list(range(first, last + 1))
    random.shuffle(ports)
    for port in ports:
        held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            held.bind(("0.0.0.0", port))  # noqa: S104 - the hub may connect to any address of the node
        except OSError:
            held.close()
            continue
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return held
    raise LaunchError(f"no port from {first} to {last} is free on {socket.gethostname()}; start a new session")


def server_environment(
    job: dict[str, str], session: dict[str, str], port: int, jupyter_path: list[str]
) -> dict[str, str]:
    """Return the environment of the single-user server: the job's variables and those of the session's file.

    Args:
        job: The environment of the batch job. Its own JUPYTERHUB_* and HPCHUB_* variables are dropped.
        session: The variables of the session's file.
        port: The port for the server.
        jupyter_path: Directories with the site's ``kernels/``.
    """
    env = {name: value for name, value in job.items() if not name.startswith(OURS) and name not in HARMFUL}
    env.update(session)
    for name in NOT_FOR_KERNELS:
        env.pop(name, None)
    host = urlsplit(session.get("JUPYTERHUB_SERVICE_URL", "")).hostname or "0.0.0.0"  # noqa: S104
    env["JUPYTERHUB_SERVICE_URL"] = f"https://{host}:{port}{session['JUPYTERHUB_SERVICE_PREFIX']}"
    # The site's kernels override the user's kernels of the same name, so an old python3 in a home breaks nothing.
    env["JUPYTER_PATH"] = os.pathsep.join([*jupyter_path, *filter(None, [job.get("JUPYTER_PATH")])])
    if not env.get("JUPYTERHUB_DEFAULT_URL"):
        env["JUPYTERHUB_DEFAULT_URL"] = INTERFACES.get(session.get("HPCHUB_INTERFACE", ""), INTERFACES["lab"])
    return env


def server_arguments(session: dict[str, str]) -> list[str]:
    """Return the argument list of the single-user server.

    Raises:
        LaunchError: The name of the default kernel is not valid.
    """
    kernel = session.get("HPCHUB_DEFAULT_KERNEL", "")
    if not kernel:
        return ["jupyterhub-singleuser"]
    if not KERNEL.fullmatch(kernel):
        raise LaunchError(f"the default kernel {kernel!r} is not a valid kernel name")
    return ["jupyterhub-singleuser", f"--MultiKernelManager.default_kernel_name={kernel}"]


def tls_arguments(session: dict[str, str]) -> list[str]:
    """Return the arguments for TLS. The server then accepts only connections from the hub and its proxy."""
    key, certificate, clients = (
        memory_file(name.lower(), session[name])
        for name in ("HPCHUB_TLS_KEY", "HPCHUB_TLS_CERTIFICATE", "HPCHUB_TLS_CLIENTS")
    )
    return [f"--ServerApp.keyfile={key}", f"--ServerApp.certfile={certificate}", f"--ServerApp.client_ca={clients}"]


def memory_file(name: str, text: str) -> str:
    """Return the path of an anonymous file with a text. Only this process can read it, for as long as it runs.

    The server reads its key again for each connection. Others could read a file, or a cleanup could delete it.
    """
    descriptor = os.memfd_create(name)
    with open(descriptor, "w", encoding="ascii", closefd=False) as stream:
        stream.write(text)
    return f"/proc/self/fd/{descriptor}"


# -- the report to the hub


def tls_context(authority: str) -> ssl.SSLContext:
    """Return a TLS context that trusts the system's CA certificates and the hub's.

    Args:
        authority: CA certificates as PEM text, or empty.

    Raises:
        LaunchError: The text does not contain a certificate.
    """
    context = ssl.create_default_context()
    if authority.strip():
        try:
            context.load_verify_locations(cadata=authority)
        except (ssl.SSLError, ValueError) as error:
            raise LaunchError(f"the hub's CA certificate cannot be read: {error}") from None
    return context


def wait_for_server(port: int, timeout: float = LISTEN_TIMEOUT) -> None:
    """Wait until the server listens on its port.

    Raises:
        LaunchError: The server does not listen within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.1)
    raise LaunchError(f"the notebook server did not start within {timeout:g} s")


def report(session: dict[str, str], port: int, context: ssl.SSLContext, timeout: float = REPORT_TIMEOUT) -> None:
    """Report the port to the hub: ``POST JUPYTERHUB_API_URL/batchspawner`` with ``{"port": N}``. The hub answers 201.

    Raises:
        LaunchError: The hub rejected the report, or did not answer within ``timeout`` seconds.
    """
    url = session["JUPYTERHUB_API_URL"].rstrip("/") + "/batchspawner"
    request = urllib.request.Request(  # noqa: S310 - the hub's own address
        url,
        method="POST",
        data=json.dumps({"port": port}).encode(),
        headers={
            "Authorization": "token " + session["JUPYTERHUB_API_TOKEN"],
            "Content-Type": "application/json",
        },
    )
    # Connect to the hub directly, as the server does, even if the job's environment sets a web proxy.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    deadline = time.monotonic() + timeout
    pause = 0.5
    may_have_arrived = False
    while True:
        try:
            with opener.open(request, timeout=REQUEST_TIMEOUT):
                return
        except urllib.error.HTTPError as error:
            if error.code == 409 and may_have_arrived:
                return
            problem = f"{error.code} {answer_text(error)}"
            if error.code < 500 and error.code != 429:
                raise LaunchError(f"the hub rejected this session's port: {problem}") from None
            # A proxy may have sent this error although the hub has received the report.
            may_have_arrived = may_have_arrived or error.code >= 500
        except (OSError, ValueError) as error:
            # The hub may have received the report. It accepts only one and rejects the second with 409.
            may_have_arrived = True
            problem = str(getattr(error, "reason", error))
        if time.monotonic() + pause > deadline:
            raise LaunchError(f"the hub does not answer at {url}: {problem}")
        log(f"the hub does not answer at {url} ({problem}); retrying in {pause:g} s")
        time.sleep(pause)
        pause = min(pause * 2, 8.0)


def answer_text(error: urllib.error.HTTPError) -> str:
    """Return the hub's message in an error response."""
    try:
        return str(json.loads(error.read(4096))["message"])
    except (OSError, ValueError, KeyError, TypeError):
        return str(error.reason)


def report_when_ready(session: dict[str, str], port: int, context: ssl.SSLContext) -> None:
    """Report the port when the server listens. If this fails, log the reason and end the job."""
    try:
        wait_for_server(port)
        report(session, port, context)
        log(f"the server listens on {socket.gethostname()}:{port}, and the hub has accepted the report")
    except LaunchError as error:
        log(str(error))
        os.kill(os.getpid(), signal.SIGTERM)


# -- becoming the server


def serve(arguments: list[str], context: ssl.SSLContext) -> None:
    """Become the single-user server. Its requests to the hub use the TLS context; its kernels do not."""
    from jupyterhub.httpclient import JupyterHubHTTPClient  # noqa: PLC0415
    from jupyterhub.singleuser import main as singleuser  # noqa: PLC0415

    async def configure() -> None:
        # The options of this instance apply to every event loop of the process.
        JupyterHubHTTPClient.instance(connector_options={"ssl": context})

    asyncio.run(configure())
    sys.argv = arguments
    singleuser()


def settings(path: Path = SETTINGS) -> dict[str, Any]:
    """Return the settings that the role wrote for this environment: ``{"jupyter_path": [DIRECTORY, …]}``."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return content


def launch(name: str) -> None:
    """Run a session until its server ends.

    Raises:
        LaunchError: The server cannot start.
    """
    if not SESSION.fullmatch(name):
        raise LaunchError("usage: hpchub-launch SESSION, where SESSION is 16 hexadecimal digits")
    home = home_directory()
    session = read_session(home / ".hpchub" / f"{name}.json")
    context = tls_context(session.get("HPCHUB_API_CA", ""))
    arguments = server_arguments(session)
    check_space(home / ".hpchub")
    os.chdir(home)
    arguments += tls_arguments(session)
    held = reserve_port(int(session["HPCHUB_PORT_FIRST"]), int(session["HPCHUB_PORT_LAST"]))
    port: int = held.getsockname()[1]
    env = server_environment(dict(os.environ), session, port, settings().get("jupyter_path", []))
    os.environ.clear()
    os.environ.update(env)
    threading.Thread(target=report_when_ready, args=(session, port, context), daemon=True).start()
    serve(arguments, context)


def main() -> int:
    """Run the launcher and return its exit code."""
    try:
        launch(sys.argv[1] if len(sys.argv) == 2 else "")
    except LaunchError as error:
        log(str(error))
        return STOPPED_EXIT
    return 0


if __name__ == "__main__":
    sys.exit(main())
