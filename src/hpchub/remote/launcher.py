"""``hpchub-launch SESSION``: what a session's batch job runs on its compute node.

It takes the session's secrets from the owner-only file that the hub's gate wrote, and removes the file; holds a free
port; and becomes the single-user server, in this very process, so that the scheduler's signals reach it. As soon as the
server listens, the port is reported to the hub. No secret is ever in an argument list.

The role ``notebook_environment`` copies this file into the environment of the server, as ``bin/hpchub-launch`` with the
environment's own interpreter in isolated mode: neither ``PYTHONPATH`` nor packages in the user's home reach the server.

Standard library only until the server starts; Python 3.9 and later.
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
OURS = ("JUPYTERHUB_", "HPCHUB_")
# What a module in the user's login files may have set for another Python; the kernels' would not start with it.
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
# The launcher's alone; the authority is public, but large.
NOT_FOR_KERNELS = ("HPCHUB_API_CA", "HPCHUB_TLS_CERTIFICATE", "HPCHUB_TLS_CLIENTS", "HPCHUB_TLS_KEY")
# The path below the hub's address of each interface; both are served, this one is opened.
INTERFACES = {"lab": "/lab", "notebook": "/tree"}

SETTINGS = Path(sys.prefix, "etc", "hpchub-launch.json")
FILE_PATIENCE = 15.0  # seconds; a network file system may show a new file late
LISTEN_PATIENCE = 300.0  # seconds; a first start from a cold network file system takes its time
REPORT_PATIENCE = 900.0  # seconds; the hub may be away for an upgrade, and finds this session when it is back
REQUEST_TIMEOUT = 10.0  # seconds

STOPPED_EXIT = 1


class LaunchError(Exception):
    """Why there is no server. The text is for the user, who finds it in the session's log."""


def say(text: str) -> None:
    """Write a line to the session's log."""
    print(f"hpchub-launch: {text}", file=sys.stderr, flush=True)


def home_directory() -> Path:
    """The user's home as the account has it: where the gate wrote, whatever the job's ``HOME`` says."""
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return Path.home()


# -- the session's secrets


def read_session(path: Path, patience: float = FILE_PATIENCE) -> dict[str, str]:
    """Read and remove a session's file.

    Returns:
        environment variables, all of them ``JUPYTERHUB_*`` or ``HPCHUB_*``.

    Raises:
        LaunchError: there is no such file, or it is not what the gate writes.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            break
        except FileNotFoundError:
            if time.monotonic() >= deadline:
                raise LaunchError(
                    f"{path} is not there. It is removed when the session starts, so a job that the scheduler started"
                    " a second time cannot go on; start a new session."
                ) from None
            time.sleep(0.5)
        except OSError as error:
            raise LaunchError(f"{path} cannot be opened: {error.strerror}") from None
    with os.fdopen(descriptor, encoding="utf-8") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
            raise LaunchError(f"{path} is not a file of yours and is not trusted")
        path.unlink()
        if status.st_mode & 0o077:
            raise LaunchError(f"{path} could be read by others and is not trusted; it is removed. Start a new session.")
        text = stream.read()
    return checked(text, path)


def checked(text: str, path: Path) -> dict[str, str]:
    """The variables in a session's file.

    Raises:
        LaunchError: it is not an object of strings, names a variable that is not ours, or lacks one.
    """
    try:
        session = json.loads(text)
    except ValueError:
        raise LaunchError(f"{path} is not JSON") from None
    if not isinstance(session, dict) or not all(isinstance(value, str) for value in session.values()):
        raise LaunchError(f"{path} is not an object of strings")
    foreign = sorted(name for name in session if not name.startswith(OURS))
    if foreign:
        raise LaunchError(f"{path} sets {foreign[0]}, which is none of JUPYTERHUB_* and HPCHUB_*")
    lacking = [name for name in NEEDED if not session.get(name)]
    if lacking:
        raise LaunchError(f"{path} lacks {', '.join(lacking)}")
    return session


# -- what the server needs of the node


def check_space(directory: Path) -> None:
    """See that a server can write its files.

    Raises:
        LaunchError: the directory is full, over quota, or cannot be written.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".space-") as file:
            file.write(bytes(64 * 1024))
            file.flush()
            os.fsync(file.fileno())  # a network file system says so only here
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LaunchError(
                f"your home directory is full: {directory} cannot be written. Remove files that you do not need, by ssh"
                " on a login node, and start again."
            ) from None
        raise LaunchError(f"{directory} cannot be written: {error.strerror}") from None


def hold_port(first: int, last: int) -> socket.socket:
    """Hold a free port of the range until the server listens on it.

    The socket is bound and does not listen. Whoever looks for a free port finds this one taken; the server may take it
    all the same, because Linux lets a second socket bind when both have SO_REUSEADDR, set here only after the bind, and
    neither listens.

    Raises:
        LaunchError: no port of the range is free.
    """
    ports = list(range(first, last + 1))
    random.shuffle(ports)
    for port in ports:
        held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            held.bind(("0.0.0.0", port))  # noqa: S104 - the hub connects to whatever address the node has for it
        except OSError:
            held.close()
            continue
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return held
    raise LaunchError(f"no port from {first} to {last} is free on {socket.gethostname()}")


def server_environment(
    job: dict[str, str], session: dict[str, str], port: int, jupyter_path: list[str]
) -> dict[str, str]:
    """The single-user server's environment: the job's, with the session's and nothing else of our names.

    Args:
        job: the environment that the batch job has.
        session: the variables of the session's file.
        port: where the server is to listen.
        jupyter_path: directories whose ``kernels/`` the site provides.
    """
    env = {name: value for name, value in job.items() if not name.startswith(OURS) and name not in HARMFUL}
    env.update(session)
    for name in NOT_FOR_KERNELS:
        env.pop(name, None)
    host = urlsplit(session.get("JUPYTERHUB_SERVICE_URL", "")).hostname or "0.0.0.0"  # noqa: S104
    env["JUPYTERHUB_SERVICE_URL"] = f"https://{host}:{port}{session['JUPYTERHUB_SERVICE_PREFIX']}"
    # The site's kernels come before the user's of the same name: an old python3 in a home cannot break the site's.
    env["JUPYTER_PATH"] = os.pathsep.join([*jupyter_path, *filter(None, [job.get("JUPYTER_PATH")])])
    if not env.get("JUPYTERHUB_DEFAULT_URL"):
        env["JUPYTERHUB_DEFAULT_URL"] = INTERFACES.get(session.get("HPCHUB_INTERFACE", ""), INTERFACES["lab"])
    return env


def server_arguments(session: dict[str, str]) -> list[str]:
    """The single-user server's argument list.

    Raises:
        LaunchError: the default kernel's name is not one.
    """
    kernel = session.get("HPCHUB_DEFAULT_KERNEL", "")
    if not kernel:
        return ["jupyterhub-singleuser"]
    if not KERNEL.fullmatch(kernel):
        raise LaunchError(f"the default kernel {kernel!r} is not a kernel's name")
    return ["jupyterhub-singleuser", f"--MultiKernelManager.default_kernel_name={kernel}"]


def tls_arguments(session: dict[str, str]) -> list[str]:
    """The server's identity, and that it answers the hub and its proxy, and no neighbour."""
    key, certificate, clients = (
        held_in_memory(name.lower(), session[name])
        for name in ("HPCHUB_TLS_KEY", "HPCHUB_TLS_CERTIFICATE", "HPCHUB_TLS_CLIENTS")
    )
    return [f"--ServerApp.keyfile={key}", f"--ServerApp.certfile={certificate}", f"--ServerApp.client_ca={clients}"]


def held_in_memory(name: str, text: str) -> str:
    """A path at which this process, and no other, reads a text for as long as it lives.

    The server reads its key again for each connection. In a file it could be found by others, or be missing one day.
    """
    descriptor = os.memfd_create(name)
    with open(descriptor, "w", encoding="ascii", closefd=False) as stream:
        stream.write(text)
    return f"/proc/self/fd/{descriptor}"


# -- telling the hub


def trust(authority: str) -> ssl.SSLContext:
    """What the system trusts, and the hub's own authority.

    Args:
        authority: certificates as PEM text, or empty.

    Raises:
        LaunchError: the text holds no certificate.
    """
    context = ssl.create_default_context()
    if authority.strip():
        try:
            context.load_verify_locations(cadata=authority)
        except (ssl.SSLError, ValueError) as error:
            raise LaunchError(f"the hub's certificate authority cannot be read: {error}") from None
    return context


def wait_for_server(port: int, patience: float = LISTEN_PATIENCE) -> None:
    """Wait until the server listens on its port.

    Raises:
        LaunchError: it does not within ``patience`` seconds.
    """
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.1)
    raise LaunchError(f"the notebook server did not start within {patience:g} s")


def report(session: dict[str, str], port: int, context: ssl.SSLContext, patience: float = REPORT_PATIENCE) -> None:
    """Tell the hub the port: ``POST JUPYTERHUB_API_URL/batchspawner`` with ``{"port": N}``; the hub answers 201.

    Raises:
        LaunchError: the hub refused, or did not answer within ``patience`` seconds.
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
    # Straight to the hub, as the server itself goes: a web proxy in the job's environment is not for this.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    deadline = time.monotonic() + patience
    pause = 0.5
    maybe_taken = False
    while True:
        try:
            with opener.open(request, timeout=REQUEST_TIMEOUT):
                return
        except urllib.error.HTTPError as error:
            if error.code == 409 and maybe_taken:
                return
            problem = f"{error.code} {answer_text(error)}"
            if error.code < 500 and error.code != 429:
                raise LaunchError(f"the hub does not take this session's port: {problem}") from None
            # Somebody on the way says that there is no answer; the hub may have heard the question.
            maybe_taken = maybe_taken or error.code >= 500
        except (OSError, ValueError) as error:
            # Sent perhaps, and its answer lost: the hub takes one report only, and refuses the second.
            maybe_taken = True
            problem = str(getattr(error, "reason", error))
        if time.monotonic() + pause > deadline:
            raise LaunchError(f"the hub does not answer at {url}: {problem}")
        say(f"the hub does not answer at {url} ({problem}); trying again in {pause:g} s")
        time.sleep(pause)
        pause = min(pause * 2, 8.0)


def answer_text(error: urllib.error.HTTPError) -> str:
    """The hub's own words in an answer that is an error."""
    try:
        return str(json.loads(error.read(4096))["message"])
    except (OSError, ValueError, KeyError, TypeError):
        return str(error.reason)


def report_when_ready(session: dict[str, str], port: int, context: ssl.SSLContext) -> None:
    """Report the port once the server listens; end the job, with a line that says why, when that is not possible."""
    try:
        wait_for_server(port)
        report(session, port, context)
        say(f"the server listens on {socket.gethostname()}:{port}, and the hub knows")
    except LaunchError as error:
        say(str(error))
        os.kill(os.getpid(), signal.SIGTERM)


# -- becoming the server


def serve(arguments: list[str], context: ssl.SSLContext) -> None:
    """Become the single-user server, whose requests to the hub trust ``context``; its kernels hear nothing of that."""
    from jupyterhub.httpclient import JupyterHubHTTPClient  # noqa: PLC0415
    from jupyterhub.singleuser import main as singleuser  # noqa: PLC0415

    async def configure() -> None:
        # The process's one instance, whose options those of every event loop follow.
        JupyterHubHTTPClient.instance(connector_options={"ssl": context})

    asyncio.run(configure())
    sys.argv = arguments
    singleuser()


def settings(path: Path = SETTINGS) -> dict[str, Any]:
    """What the role wrote for this environment: ``{"jupyter_path": [DIRECTORY, …]}``."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return content


def launch(name: str) -> None:
    """Run a session; returns when its server has ended.

    Raises:
        LaunchError: there is no server.
    """
    if not SESSION.fullmatch(name):
        raise LaunchError("usage: hpchub-launch SESSION, which is 16 hexadecimal digits")
    home = home_directory()
    session = read_session(home / ".hpchub" / f"{name}.json")
    context = trust(session.get("HPCHUB_API_CA", ""))
    arguments = server_arguments(session)
    check_space(home / ".hpchub")
    os.chdir(home)
    arguments += tls_arguments(session)
    held = hold_port(int(session["HPCHUB_PORT_FIRST"]), int(session["HPCHUB_PORT_LAST"]))
    port: int = held.getsockname()[1]
    env = server_environment(dict(os.environ), session, port, settings().get("jupyter_path", []))
    os.environ.clear()
    os.environ.update(env)
    threading.Thread(target=report_when_ready, args=(session, port, context), daemon=True).start()
    serve(arguments, context)


def main() -> int:
    """Entry point; returns the exit code."""
    try:
        launch(sys.argv[1] if len(sys.argv) == 2 else "")
    except LaunchError as error:
        say(str(error))
        return STOPPED_EXIT
    return 0


if __name__ == "__main__":
    sys.exit(main())
