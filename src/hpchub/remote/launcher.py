"""``hpchub-launch SESSION``: the program that a session's batch job runs on its compute node.

The launcher reads the session's secrets from a file that only its owner can read, and deletes the file. It checks that
this node can connect to the hub. It reserves a free port and becomes the single-user server in the same process, so
that the scheduler's signals reach the server. When the server listens, the launcher reports the port to the hub. No
secret is ever in an argument list.

A setting in the user's home can stop the server. The launcher then starts itself once more, without these settings.
Whatever else prevents a start, the launcher reports it to the hub in one line, and writes this line to the session's
log. All its lines in the log begin with ``hpchub-launch: ``.

In a container, the hub puts this file, its modules, the extension of JupyterLab and the session's file into one
directory, which belongs to the session. The environment of the server is then the image's, and the home is ``HOME``.

The role ``notebook_environment`` installs this file as ``bin/hpchub-launch`` in the environment of the server. It runs
with the interpreter of this environment in isolated mode, so neither ``PYTHONPATH`` nor packages in the user's home
affect the server.

This file uses the standard library only until the server starts (Python 3.9 and later).
"""

from __future__ import annotations

import contextlib
import email.utils
import errno
import fcntl
import functools
import http.client
import importlib
import importlib.metadata
import importlib.util
import ipaddress
import json
import os
import pwd
import random
import re
import shutil
import signal
import socket
import ssl
import stat
import struct
import sys
import tempfile
import threading
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

# Increase this number when a change makes the hub and an older launcher misunderstand each other: another variable that
# one of them needs, or another report to the hub. The hub starts no session with a launcher of another number.
PROTOCOL = 1

SESSION = re.compile(r"[0-9a-f]{16}")
KERNEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
OURS = ("JUPYTERHUB_", "HPCHUB_")  # the prefixes of the variables that the hub may set
# Modules and login files may set these for other programs. Neither the server nor the site's kernels would start with
# them. The state of the module system no longer fits then, so login shells of terminals and kernels set it up again.
FOREIGN_PREFIXES = ("PYTHON", "_PYTHON", "LD_", "CONDA_", "_ModuleTable", "__LMOD_", "__MODULES_", "_LMFILES_")
FOREIGN = (
    *("GCONV_PATH", "JULIA_LOAD_PATH", "OPENSSL_CONF", "OPENSSL_ENGINES", "OPENSSL_MODULES"),
    *("PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV", "PIP_ROOT", "PIP_TARGET", "PIP_USER"),
    *("R_ENVIRON", "R_HOME", "R_LIBS", "R_LIBS_SITE", "R_PROFILE", "VIRTUAL_ENV"),
    *(
        "LOADEDMODULES",
        "__Init_Default_Modules",
        "__PYVENV_LAUNCHER__",
        "TRAITLETS_APPLICATION_RAISE_CONFIG_FILE_ERROR",
    ),
)
# All other variables with the prefix JUPYTER could change how the server listens or which kernels exist.
OF_JUPYTER = (
    *("JUPYTER_CONFIG_DIR", "JUPYTER_CONFIG_PATH", "JUPYTER_DATA_DIR", "JUPYTER_PATH"),
    *("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR"),
)
# Libraries would otherwise use every core of the node.
THREADS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "GOTO_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS", "JULIA_NUM_THREADS"),
    *("RAYON_NUM_THREADS", "POLARS_MAX_THREADS", "LOKY_MAX_CPU_COUNT", "MC_CORES", "OMP_THREAD_LIMIT"),
    *("BLAS_NUM_THREADS", "FLEXIBLAS_NUM_THREADS", "NUMEXPR_MAX_THREADS", "TF_NUM_INTRAOP_THREADS"),
    *("R_DATATABLE_NUM_THREADS", "RCPP_PARALLEL_NUM_THREADS"),
)
# The name of a file in the session's secrets. The launcher writes the file, and sets a variable with its path.
FILE = re.compile(r"FILE:[a-z][a-z0-9-]{0,31}")
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
# The file with the session's applications, in its private directory
APPS = "apps.json"
# The path of each interface below the session's address. The server offers all of them but NbClassic, which has to be
# chosen, and opens the chosen one.
INTERFACES = {"lab": "/lab", "notebook": "/tree", "nbclassic": "/nbclassic/tree"}

EXTENSION = "labextension.json"  # in the directory of a container's session
SETTINGS = Path(sys.prefix, "etc", "hpchub-launch.json")
PROGRAM = os.path.abspath(sys.argv[0])  # noqa: PTH100 the current directory changes later
SERVER = Path(sys.prefix, "lib", "hpchub")  # the directory of single_user.py
FILE_TIMEOUT = 8.0  # seconds; a new file may appear late on a network file system
HUB_TIMEOUT = 8.0  # seconds; the web server answers even while the hub is being restarted
HOME_TIMEOUT = 8.0  # seconds
SLOW = 1.0  # seconds; a home that needs longer for one small file is no place for a database
STUCK = 20.0  # seconds that code in the user's settings may take
LISTEN_TIMEOUT = 300.0  # seconds; the first start from a cold network file system is slow
REPORT_TIMEOUT = 900.0  # seconds; the hub may be down for an upgrade, and resumes this session afterwards
REQUEST_TIMEOUT = 10.0  # seconds
CHECK_INTERVAL = 300.0  # seconds; the default of check_interval in the settings
CLOCK_DIFFERENCE = 2.0  # seconds; the header with the time has no fractions
ANSWER_LIMIT = 1_000_000  # bytes

PROBLEM_LIMIT = 1000  # characters
ADDRESS_LIMIT = 32

STOPPED_EXIT = 1


class LaunchError(Exception):
    """The server cannot start. The text is for the session's log.

    Args:
        text: The text.
        name: The id of the message that the hub shows to the user, in the user's language; see
            ``hpchub.hub.remote_texts``. Empty: the hub shows the text.
        values: The values in the message: texts, or messages themselves.

    Attributes:
        message: The message: ``{"id": NAME, "values": {…}}``. It is empty if there is none.
    """

    def __init__(self, text: str, name: str = "", /, **values: Any) -> None:
        super().__init__(text)
        self.message = {"id": name, "values": values} if name else {}


def log(text: str) -> None:
    """Write a line to the session's log."""
    print(f"hpchub-launch: {text}", file=sys.stderr, flush=True)


def home_directory() -> Path:
    """Return the home directory of the account, where the gate wrote its file. The job's ``HOME`` may differ."""
    if is_container() and os.environ.get("HOME", "").startswith("/"):
        return Path(os.environ["HOME"])  # the image's user with this uid has another home
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return Path.home()


def is_container() -> bool:
    """Return whether the hub has put this file and its modules into a container."""
    return Path(PROGRAM).with_name("single_user.py").is_file()


def check_container(home: Path, session: dict[str, str]) -> None:
    """Check what a container must have: the user's own home, and a JupyterHub that works with the hub's.

    Raises:
        LaunchError: The image or the mounts do not fit.
    """
    try:
        owner = home.stat().st_uid
    except OSError as error:
        raise LaunchError(
            f"the home directory {home} cannot be used in the container: {error.strerror}",
            "container_home",
            home=str(home),
            reason=str(error.strerror),
        ) from None
    # A cluster gives the root of a volume to a group of the session, and not to its user.
    if owner != os.getuid() and not (owner == 0 and os.access(home, os.W_OK | os.X_OK)):
        raise LaunchError(
            f"the home directory {home} belongs to uid {owner}, but this session has uid {os.getuid()}; contact the"
            " administrators",
            "container_owner",
            home=str(home),
            owner=str(owner),
            uid=str(os.getuid()),
        )
    wanted = session.get("HPCHUB_JUPYTERHUB", "")
    try:
        found = importlib.metadata.version("jupyterhub")
    except importlib.metadata.PackageNotFoundError:
        raise LaunchError(
            f"the image has no jupyterhub-singleuser; an administrator must install jupyterhub {wanted} and jupyterlab"
            f" for {sys.executable} in it, or choose another image",
            "image_without_server",
            version=wanted,
            program=sys.executable,
        ) from None
    if wanted and found.split(".")[0] != wanted.split(".")[0]:
        raise LaunchError(
            f"the image has JupyterHub {found}, which does not work with the hub's {wanted}; an administrator must"
            " choose another image",
            "image_version",
            version=found,
            wanted=wanted,
        )


def within(seconds: float, problem: LaunchError, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a function that may hang, such as one that waits for a file server.

    Args:
        seconds: How long to wait.
        problem: The error if the function takes longer.
        function: The function.
        arguments: Its arguments.

    Raises:
        LaunchError: The function takes longer.
    """
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function(*arguments))
        except BaseException as error:  # noqa: BLE001 the caller raises it again
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise problem
    return results[0]


# -- the session's secrets


def read_session(path: Path, timeout: float = FILE_TIMEOUT, owner: int | None = None) -> dict[str, str]:
    """Read and delete a session's file.

    Args:
        path: The file.
        timeout: How long to wait for it, in seconds.
        owner: Another account that may own the file, and then let the file's group read it: root in a pod, where the
            file is a part of a volume. None: no other account.

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
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in (os.getuid(), owner):
            raise LaunchError(
                f"{path} is not trusted, because it is not a regular file that you own; start a new session"
            )
        try:
            path.unlink()
        except OSError as error:
            if error.errno != errno.EROFS:  # a container can have the file on a mount that cannot be written
                raise LaunchError(f"{path} cannot be deleted: {error.strerror}; contact the administrators") from None
        if status.st_mode & (0o037 if status.st_uid == owner else 0o077):
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
    foreign = sorted(name for name in session if not name.startswith(OURS) and not FILE.fullmatch(name))
    if foreign:
        raise LaunchError(f"{path} sets {foreign[0]}; only JUPYTERHUB_* and HPCHUB_* are permitted")
    missing = [name for name in NEEDED if not session.get(name)]
    if missing:
        raise LaunchError(f"{path} lacks {', '.join(missing)}; start a new session")
    return session


# -- requirements on the node


def check_hub(url: str, context: ssl.SSLContext, timeout: float = HUB_TIMEOUT) -> str:
    """Check that this node can connect to the hub. Whether the hub itself answers does not matter here.

    Args:
        url: The URL of the hub's API.
        context: The TLS context for the hub.
        timeout: How long to try, in seconds.

    Returns:
        This node's address in the connection.

    Raises:
        LaunchError: There is no connection. The message names host and port.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    node = socket.gethostname()
    prefix = f"this node, {node}, cannot connect to the hub at {host} port {port}"
    advice = f"An administrator must permit TCP connections from {node} to {host} port {port}."
    deadline = time.monotonic() + timeout
    while True:
        try:
            with socket.create_connection((host, port), timeout=min(timeout, 3.0)) as connection:
                address: str = connection.getsockname()[0]
                if parts.scheme == "https":
                    context.wrap_socket(connection, server_hostname=host).close()
                return address
        except ssl.SSLCertVerificationError as error:
            raise LaunchError(
                f"{prefix}, because its certificate is not trusted here ({error.verify_message}). An administrator must"
                " set hpc_tls.ca to the CA certificate, and make the certificate valid for this name."
            ) from None
        except socket.gaierror as error:
            reason = f"the name cannot be resolved ({error.strerror})"
            advice = f"An administrator must make the name {host} known on {node}, or change hpc_service.api_host."
        except OSError as error:
            reason = str(error.strerror or error)
        if time.monotonic() + 0.5 > deadline:
            raise LaunchError(f"{prefix}: {reason}. {advice}")
        time.sleep(0.5)


def unwritable(directory: Path) -> str:
    """Return why files cannot be created in a directory, or empty. Create the directory if necessary."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_test_file(directory)
    except OSError as error:
        return str(error.strerror or error)
    return ""


def write_test_file(directory: Path) -> None:
    """Write and delete a file.

    Raises:
        OSError: The directory is full, over quota, or not writable.
    """
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".space-") as file:
        file.write(bytes(64 * 1024))
        file.flush()
        os.fsync(file.fileno())  # a network file system reports errors only here


def check_space(directory: Path) -> float:
    """Check that the server can write its files. Return how long writing one took, in seconds.

    Raises:
        LaunchError: The directory is full, over quota, or not writable.
    """
    began = time.monotonic()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_test_file(directory)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        # Only an error of the creation names the file. There is no error for "no further file", only for "full".
        if full and error.filename:
            raise LaunchError(
                f"your home directory takes no further file, so nothing can be created in {directory}. You have too"
                " many files, or no space. Log in to a login node with ssh, delete files or pack many small ones into"
                " one archive, and start a new session.",
                "home_files",
                directory=str(directory),
            ) from None
        if full:
            raise LaunchError(
                f"your home directory is full, so {directory} cannot be written. Log in to a login node with ssh,"
                " delete files that you do not need, and start a new session.",
                "home_full",
                directory=str(directory),
            ) from None
        raise LaunchError(
            f"{directory} cannot be written: {error.strerror}; check its permissions",
            "unwritable",
            directory=str(directory),
            reason=str(error.strerror),
        ) from None
    return time.monotonic() - began


def private_directory(job: dict[str, str], home: Path) -> Path:
    """Create a directory for this session's runtime files, preferably on the node.

    The process holds a lock on it, so that systemd-tmpfiles does not remove it while the session runs.

    Raises:
        LaunchError: No directory for temporary files can be written.
    """
    problems = []
    for base in dict.fromkeys(filter(None, [job.get("TMPDIR"), "/tmp", "/var/tmp", str(home / ".hpchub")])):  # noqa: S108
        try:
            status = Path(base).stat()
            # In a directory without the sticky bit, another user could replace ours.
            if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
                raise PermissionError(errno.EPERM, "other users could replace files there")
            path = Path(tempfile.mkdtemp(prefix="hpchub-", dir=base))
            write_test_file(path)
            fcntl.flock(os.open(path, os.O_RDONLY | os.O_DIRECTORY), fcntl.LOCK_SH)
        except OSError as error:
            problems.append(f"{base}: {error.strerror}")
            continue
        return path
    raise LaunchError(
        f"no directory for temporary files can be written: {', '.join(problems)}; contact the administrators",
        "no_temporary",
        problems=", ".join(problems),
    )


def reserve_port(first: int, last: int) -> list[socket.socket]:
    """Reserve a free port of the range, for IPv4 and IPv6, until the server listens on it.

    The sockets are bound but do not listen, so other programs find the port in use. The server can still bind it: Linux
    permits a second socket if both have SO_REUSEADDR and neither listens. The option is set only after the bind.

    Raises:
        LaunchError: No port of the range is free.
    """
    families = [family for family in (socket.AF_INET, socket.AF_INET6) if is_available(family)]
    ports = list(range(first, last + 1))
    random.shuffle(ports)
    for port in ports:
        held = [bind(family, port) for family in families]
        if None not in held:
            sockets = [sock for sock in held if sock]
            for sock in sockets:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            return sockets
        for sock in filter(None, held):
            sock.close()
    node = socket.gethostname()
    raise LaunchError(
        f"no port from {first} to {last} is free on {node}; start a new session",
        "no_port",
        first=str(first),
        last=str(last),
        node=node,
    )


def is_available(family: int) -> bool:
    """Return whether this node has addresses of a family."""
    sock = bind(family, 0)
    if sock is None:
        return False
    sock.close()
    return True


def bind(family: int, port: int) -> socket.socket | None:
    """Return a socket that is bound to a port of all addresses of a family, or None if that is not possible."""
    sock = None
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(("", port))
    except OSError:
        if sock:
            sock.close()
        return None
    return sock


def node_addresses(own: str) -> list[dict[str, str]]:
    """Return the addresses of this node, without those that other hosts cannot use.

    Args:
        own: The address that the node uses for connections to the hub. It comes first.

    Returns:
        ``[{"interface": NAME, "address": ADDRESS}, …]``.
    """
    found = [(name, address) for _, name in socket.if_nameindex() for address in ipv4_addresses(name)]
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines():
            digits, _, _, _, _, name = line.split()
            found.append((name, str(ipaddress.IPv6Address(int(digits, 16)))))
    usable = []
    for name, text in found:
        address = ipaddress.ip_address(text)
        if not (address.is_loopback or address.is_link_local):
            usable.append({"interface": name, "address": text})
    if own and own not in [entry["address"] for entry in usable] and not ipaddress.ip_address(own).is_loopback:
        usable.append({"interface": "", "address": own})
    return sorted(usable, key=lambda entry: entry["address"] != own)[:ADDRESS_LIMIT]


def ipv4_addresses(interface: str) -> list[str]:
    """Return the IPv4 address of a network interface, or nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            answer = fcntl.ioctl(sock, 0x8915, struct.pack("256s", interface.encode()[:15]))  # SIOCGIFADDR
        except OSError:
            return []
    return [socket.inet_ntoa(answer[20:24])]


# -- the environment of the server


def is_foreign(name: str) -> bool:
    """Return whether a variable of the job must not reach the server and its kernels."""
    return (
        name in FOREIGN
        or name.startswith(FOREIGN_PREFIXES)
        or name.endswith("_modshare")  # counters of Environment Modules
        or (name.startswith("JUPYTER") and name not in OF_JUPYTER)
    )


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
    env = {name: value for name, value in job.items() if not name.startswith(OURS) and not is_foreign(name)}
    env.update({name: value for name, value in session.items() if not FILE.fullmatch(name)})
    for name in NOT_FOR_KERNELS:
        env.pop(name, None)
    # Without a host, the server listens on all addresses, IPv4 and IPv6.
    env["JUPYTERHUB_SERVICE_URL"] = f"https://:{port}{session['JUPYTERHUB_SERVICE_PREFIX']}"
    # The site's kernels override the user's kernels of the same name, so an old python3 in a home breaks nothing.
    env["JUPYTER_PATH"] = os.pathsep.join([*jupyter_path, *filter(None, [job.get("JUPYTER_PATH")])])
    if not env.get("JUPYTERHUB_DEFAULT_URL"):
        interface = session.get("HPCHUB_INTERFACE") or "lab"
        if interface == "nbclassic" and not importlib.util.find_spec("nbclassic"):
            log("this environment lacks the package nbclassic; the session opens Notebook 7 instead")
            interface = "notebook"
        # Every other interface is the name of an application.
        env["JUPYTERHUB_DEFAULT_URL"] = INTERFACES.get(interface, f"/{interface}/")
    if session.get("HPCHUB_CORES"):
        env.update(dict.fromkeys(THREADS, session["HPCHUB_CORES"]))
    return env


def write_files(env: dict[str, str], session: dict[str, str], private: Path) -> None:
    """Write the files of the session's secrets, and set a variable with the path of each.

    Args:
        env: The environment of the server, which is changed.
        session: The content of the session's file.
        private: The private directory of this session.
    """
    for name, content in session.items():
        if FILE.fullmatch(name):
            path = private / f"{name[5:]}.json"
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                file.write(content)
            env[f"HPCHUB_FILE_{name[5:].upper().replace('-', '_')}"] = str(path)


def use_directories(env: dict[str, str], home: Path, private: Path, *, slow: bool, own_settings: bool) -> None:
    """Set the directories of Jupyter and IPython, so that the server needs nothing in the home that is not usable.

    Args:
        env: The environment of the server, which is changed.
        home: The home directory of the account.
        private: The private directory of this session.
        slow: Whether writing to the home takes long.
        own_settings: Whether to use the user's own settings of Jupyter and IPython.
    """
    env["JUPYTER_RUNTIME_DIR"] = str(private / "runtime")
    if not (env.get("HOME", "").startswith("/") and Path(env["HOME"]).is_dir()):
        env["HOME"] = str(home)
    runtime = env.get("XDG_RUNTIME_DIR")
    if runtime and not is_private(Path(runtime)):
        del env["XDG_RUNTIME_DIR"]  # it belongs to another node or another user
    own = Path(env["HOME"])
    shared = Path(env.get("XDG_DATA_HOME") or own / ".local" / "share")
    data = Path(env.get("JUPYTER_DATA_DIR") or shared / "jupyter")
    settings = Path(env.get("JUPYTER_CONFIG_DIR") or own / ".jupyter")
    ipython = Path(env.get("IPYTHONDIR") or own / ".ipython")

    if not own_settings:
        env.pop("JUPYTER_CONFIG_PATH", None)
        replace_directory(env, "JUPYTER_CONFIG_DIR", private / "config")
        replace_directory(env, "IPYTHONDIR", private / "ipython")
        replace_directory(env, "JUPYTER_DATA_DIR", private / "data")
        # The user's kernels are no settings.
        (private / "data" / "kernels").symlink_to(data / "kernels")
        return
    if is_unusable(settings):
        replace_directory(env, "JUPYTER_CONFIG_DIR", private / "config", ("JUPYTER_CONFIG_PATH", settings))
    if is_unusable(data):
        replace_directory(env, "JUPYTER_DATA_DIR", private / "data", ("JUPYTER_PATH", data))
    if slow or is_unusable(ipython):
        replace_directory(env, "IPYTHONDIR", private / "ipython")
        link_ipython_settings(ipython / "profile_default", private / "ipython" / "profile_default")


def is_private(directory: Path) -> bool:
    """Return whether a directory belongs to this user and nobody else can write to it."""
    try:
        status = directory.stat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022


def is_unusable(directory: Path) -> bool:
    """Return whether files cannot be created in a directory of the home, and log the reason."""
    problem = unwritable(directory)
    if problem:
        log(f"{directory} cannot be written ({problem}); this session keeps these files in a directory of its own")
    return bool(problem)


def replace_directory(env: dict[str, str], name: str, new: Path, search: tuple[str, Path] | None = None) -> None:
    """Use a new directory.

    Args:
        env: The environment of the server, which is changed.
        name: The variable with the directory.
        new: The new directory.
        search: A variable with a search path, and the old directory, which is still read.
    """
    new.mkdir(mode=0o700)
    env[name] = str(new)
    if search:
        path, old = search
        env[path] = os.pathsep.join([*filter(None, [env.get(path)]), str(old)])


def link_ipython_settings(profile: Path, new: Path) -> None:
    """Link the settings in an IPython profile into a new profile, which gets a history of its own."""
    new.mkdir(mode=0o700)
    with contextlib.suppress(OSError):
        for path in profile.iterdir():
            if path.name == "startup" or path.suffix in (".py", ".json"):
                (new / path.name).symlink_to(path)


def use_extension(env: dict[str, str], private: Path, source: Path) -> None:
    """Let JupyterLab use the extension and the default settings that the hub has sent. An image needs neither.

    Args:
        env: The environment of the server, which is changed.
        private: The private directory of this session.
        source: The file with the files: an object with the content of each by its path.
    """
    try:
        files = json.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    directory = private / "jupyter"
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    # An older extension in the image comes later. The settings of the user come first.
    env["JUPYTER_PATH"] = os.pathsep.join([str(directory), *filter(None, [env.get("JUPYTER_PATH")])])
    env["JUPYTER_CONFIG_PATH"] = os.pathsep.join([*filter(None, [env.get("JUPYTER_CONFIG_PATH")]), str(directory)])


def working_directory(text: str, home: Path) -> Path | None:
    """Return the directory in which the session starts, or None for the home.

    Args:
        text: An absolute path, or a path that begins with ``~``. ``{user}`` stands for the account's name.
        home: The home directory.

    Raises:
        LaunchError: The directory cannot be entered.
    """
    if not text:
        return None
    name = text.replace("{user}", account_name())
    directory = home / name[1:].lstrip("/") if name.startswith("~") else Path(name)
    node = socket.gethostname()
    late = f"the working directory {directory} does not answer on {node}; choose another one"
    silent = LaunchError(late, "directory_silent", directory=str(directory), node=node)
    try:
        within(HOME_TIMEOUT, silent, os.listdir, directory)
    except OSError as error:
        raise LaunchError(
            f"the working directory {directory} cannot be used on {node}: {error.strerror}; choose another one",
            "directory_unusable",
            directory=str(directory),
            node=node,
            reason=str(error.strerror),
        ) from None
    return directory


def account_name() -> str:
    """Return the name of the account. An image does not know the accounts of its host."""
    return os.environ.get("USER", "") if is_container() else pwd.getpwuid(os.getuid()).pw_name


def directories(directory: Path | None, home: Path) -> dict[str, str]:
    """Return the server's settings for a working directory. The user sees the whole home if it contains the directory.

    Args:
        directory: The working directory, or None if the user's settings decide.
        home: The home directory.
    """
    if directory is None:
        return {}
    root = home if home in (directory, *directory.parents) else directory
    return {"root_dir": str(root), "preferred_dir": str(directory)}


def default_kernel(session: dict[str, str], jupyter_path: list[str]) -> str:
    """Return the kernel of notebooks that name none: the profile's, or else one that exists.

    Raises:
        LaunchError: The name of the default kernel is not valid.
    """
    kernel = session.get("HPCHUB_DEFAULT_KERNEL", "")
    if kernel:
        if not KERNEL.fullmatch(kernel):
            raise LaunchError(f"the default kernel {kernel!r} is not a valid kernel name", "bad_kernel", kernel=kernel)
        return kernel
    names = sorted(path.parent.name for place in jupyter_path for path in Path(place).glob("kernels/*/kernel.json"))
    return "python3" if "python3" in names or not names else names[0]


def certificates(session: dict[str, str]) -> dict[str, str]:
    """Return the server's settings for TLS. The server then accepts only connections from the hub and its proxy."""
    key, certificate, clients = (
        memory_file(name.lower(), session[name])
        for name in ("HPCHUB_TLS_KEY", "HPCHUB_TLS_CERTIFICATE", "HPCHUB_TLS_CLIENTS")
    )
    return {"keyfile": key, "certfile": certificate, "client_ca": clients}


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
    # A module may have set these for another OpenSSL.
    hidden = {name: os.environ.pop(name, None) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")}
    context = ssl.create_default_context()
    os.environ.update({name: value for name, value in hidden.items() if value is not None})
    if authority.strip():
        try:
            context.load_verify_locations(cadata=authority)
        except (ssl.SSLError, ValueError) as error:
            raise LaunchError(f"the hub's CA certificate cannot be read: {error}") from None
    return context


def wait_for_server(port: int, timeout: float = LISTEN_TIMEOUT, check: Callable[[float], None] | None = None) -> None:
    """Wait until the server listens on its port.

    Args:
        port: The port.
        timeout: How long to wait, in seconds.
        check: A function that is called with the seconds waited, whenever the server does not listen yet.

    Raises:
        LaunchError: The server does not listen within ``timeout`` seconds.
    """
    began = time.monotonic()
    while time.monotonic() - began < timeout:
        for address in ("127.0.0.1", "::1"):
            with contextlib.suppress(OSError), socket.create_connection((address, port), 1.0):
                return
        if check:
            check(time.monotonic() - began)
        time.sleep(0.1)
    raise LaunchError(f"the notebook server did not start within {timeout:g} s", "not_started", seconds=f"{timeout:g}")


def opener(context: ssl.SSLContext) -> urllib.request.OpenerDirector:
    """Return an object that opens the hub's URLs directly, even if the job's environment sets a web proxy."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))


def post(
    session: dict[str, str], content: dict[str, Any], context: ssl.SSLContext, endpoint: str = "batchspawner"
) -> None:
    """Send a report to the hub: ``POST JUPYTERHUB_API_URL/ENDPOINT``. The hub answers 201.

    Raises:
        OSError, ValueError: The hub did not answer, or not with success.
    """
    request = urllib.request.Request(  # noqa: S310 - the hub's own address
        api_url(session, endpoint),
        method="POST",
        data=json.dumps(content).encode(),
        headers={
            "Authorization": "token " + session["JUPYTERHUB_API_TOKEN"],
            "Content-Type": "application/json",
        },
    )
    with opener(context).open(request, timeout=REQUEST_TIMEOUT):
        pass


def api_url(session: dict[str, str], endpoint: str) -> str:
    """Return the URL of an endpoint of the hub's API."""
    return session["JUPYTERHUB_API_URL"].rstrip("/") + "/" + endpoint


def report(
    session: dict[str, str], content: dict[str, Any], context: ssl.SSLContext, timeout: float = REPORT_TIMEOUT
) -> None:
    """Report a port to the hub, and repeat the report until the hub answers.

    Args:
        session: The variables of the session's file.
        content: ``{"port": N, "addresses": [{"interface": NAME, "address": ADDRESS}, …], "notice": TEXT, "message":
            MESSAGE}``. Everything except the port is optional. For ``MESSAGE``, see ``LaunchError``.
        context: The TLS context for the hub.
        timeout: How long to repeat, in seconds.

    Raises:
        LaunchError: The hub rejected the report, or did not answer within ``timeout`` seconds.
    """
    url = api_url(session, "batchspawner")
    deadline = time.monotonic() + timeout
    pause = 0.5
    may_have_arrived = False
    while True:
        try:
            return post_explained(session, content, context)
        except urllib.error.HTTPError as error:
            if error.code == 409 and may_have_arrived:
                return None
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


def post_explained(session: dict[str, str], content: dict[str, Any], context: ssl.SSLContext) -> None:
    """Send a report as ``post`` does. A hub of an earlier version knows no messages, so it gets only the text."""
    try:
        post(session, content, context)
    except urllib.error.HTTPError as error:
        if error.code != 400 or "message" not in content:
            raise
        post(session, {name: value for name, value in content.items() if name != "message"}, context)


def report_problem(session: dict[str, str], problem: LaunchError, context: ssl.SSLContext) -> None:
    """Report to the hub that the server cannot start. The job ends anyway, so the hub learns of it in any case."""
    content: dict[str, Any] = {"problem": str(problem)[:PROBLEM_LIMIT]}
    if problem.message:
        content["message"] = problem.message
    try:
        post_explained(session, content, context)
    except (OSError, ValueError) as error:
        log(f"the hub did not accept the report of this problem: {getattr(error, 'reason', error)}")


def stay_known(
    session: dict[str, str],
    content: dict[str, Any],
    context: ssl.SSLContext,
    stopping: threading.Event,
    *,
    told: Callable[[dict[str, Any]], None],
    interval: float = CHECK_INTERVAL,
) -> None:
    """Check periodically that the hub knows this session, until the server stops. If not, ask to be adopted.

    A hub whose database was restored from a backup does not know the sessions that started after the backup. The
    certificate proves to it that it started this one. This function raises no error.

    Args:
        session: The variables of the session's file.
        content: The report of the port; see ``report``.
        context: The TLS context for the hub.
        stopping: Whether the server has begun to stop.
        told: A function that receives the hub's answer about the session.
        interval: The time between two checks, in seconds.
    """
    logged = ""
    while not stopping.wait(interval * random.uniform(0.9, 1.1)):  # noqa: S311 not a secret
        answer = ask_about_session(session, context)
        if answer is not None:
            told(answer)
            continue
        result = ask_for_adoption(session, content, context)
        if result != logged:
            log(result)
        logged = result


def ask_about_session(session: dict[str, str], context: ssl.SSLContext) -> dict[str, Any] | None:
    """Ask the hub for the state of this session; see ``hpchub.hub.session_handlers.SessionHandler``.

    Returns:
        The answer, with the end of the session on this node's clock. It is empty if the hub does not answer, and None
        if the hub does not know this session.
    """
    names = [session.get("JUPYTERHUB_USER", ""), session.get("JUPYTERHUB_SERVER_NAME", "")]
    path = "/".join(urllib.parse.quote(name, safe="") for name in names if name)
    request = urllib.request.Request(  # noqa: S310 - the hub's own address
        api_url(session, f"hpchub/sessions/{path}"),
        headers={"Authorization": "token " + session["JUPYTERHUB_API_TOKEN"]},
    )
    try:
        with opener(context).open(request, timeout=REQUEST_TIMEOUT) as reply:
            answer, sent = json.loads(reply.read(ANSWER_LIMIT)), reply.headers.get("Date", "")
    except urllib.error.HTTPError as error:
        return None if error.code in (401, 403, 404) else {}
    except (OSError, ValueError, http.client.HTTPException):
        return {}
    return on_own_clock(answer, sent) if isinstance(answer, dict) else {}


def on_own_clock(answer: dict[str, Any], sent: str) -> dict[str, Any]:
    """Return an answer of the hub with the end of the session on this node's clock, which may differ from the hub's.

    Args:
        answer: The answer.
        sent: Its header ``Date``, or empty.
    """
    ends = answer.get("ends_at")
    if not isinstance(ends, (int, float)):
        return answer
    with contextlib.suppress(TypeError, ValueError):
        offset = time.time() - email.utils.parsedate_to_datetime(sent).timestamp()
        if abs(offset) > CLOCK_DIFFERENCE:
            return {**answer, "ends_at": ends + offset}
    return answer


def report_idle(session: dict[str, str], seconds: float, context: ssl.SSLContext) -> bool:
    """Ask the hub to end this session because nobody uses it, and return whether the hub does so.

    Args:
        session: The variables of the session's file.
        seconds: For how long nobody has used it.
        context: The TLS context for the hub.

    Raises:
        OSError: The hub does not answer.
    """
    try:
        post(session, {"idle": round(seconds)}, context, "hpchub/idle")
    except urllib.error.HTTPError as error:
        if error.code >= 500 or error.code == 429:
            raise
        log(f"the hub does not end this idle session: {error.code} {answer_text(error)}")
        return False
    except (ValueError, http.client.HTTPException) as error:
        raise OSError(str(error)) from error
    return True


def ask_for_adoption(session: dict[str, str], content: dict[str, Any], context: ssl.SSLContext) -> str:
    """Ask the hub to adopt this session, and return the result as one line."""
    claim = {
        "certificate": session["HPCHUB_TLS_CERTIFICATE"],
        "port": content["port"],
        "addresses": content["addresses"],
    }
    try:
        post(session, claim, context, "hpchub/adoption")
    except urllib.error.HTTPError as error:
        return f"the hub does not know this session, and has not adopted it: {error.code} {answer_text(error)}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"the hub does not answer: {getattr(error, 'reason', error)}"
    return "the hub did not know this session, and has adopted it"


def wait_for_hub(session: dict[str, str], context: ssl.SSLContext, timeout: float = REPORT_TIMEOUT) -> None:
    """Wait while the web server answers in place of the hub, because the hub is being restarted.

    The single-user server would give up sooner than an upgrade ends. This function raises no error.
    """
    url = session["JUPYTERHUB_API_URL"].rstrip("/") + "/"
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            with opener(context).open(url, timeout=REQUEST_TIMEOUT):
                return
        except urllib.error.HTTPError as error:
            if error.code < 500:
                return
            problem = f"{error.code} {error.reason}"
        except (OSError, ValueError) as error:
            problem = str(getattr(error, "reason", error))
        log(f"the hub is being restarted ({problem}); waiting for it")
        time.sleep(2)


def answer_text(error: urllib.error.HTTPError) -> str:
    """Return the hub's message in an error response."""
    try:
        return str(json.loads(error.read(4096))["message"] or error.reason)
    except (OSError, ValueError, KeyError, TypeError):
        return str(error.reason)


# -- becoming the server


def settings(path: Path = SETTINGS) -> dict[str, Any]:
    """Return the settings that the role wrote for this environment.

    Shape: ``{"jupyter_path": [DIRECTORY, …], "check_interval": SECONDS}``.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return content


def server_module() -> Any:
    """Return the module ``single_user``."""
    return own_module("single_user")


def own_module(name: str) -> Any:
    """Return a module that the role installs in the same environment, or that is beside this file in a container."""
    directory = Path(PROGRAM).parent if is_container() else SERVER
    if str(directory) not in sys.path:
        sys.path.append(str(directory))
    return importlib.import_module(name)


class Watch:
    """The monitor of this session; see ``hpchub.remote.session_monitor``. An error in it must not end the session.

    Args:
        session: The variables of the session's file.
        job: The environment of the batch job.
        context: The TLS context for the hub.
    """

    def __init__(self, session: dict[str, str], job: dict[str, str], context: ssl.SSLContext) -> None:
        self._monitor: Any = None
        try:
            self._usage, self._module = own_module("job_usage"), own_module("session_monitor")
            self._monitor = self._module.Monitor(
                lambda: ask_about_session(session, context) or {},
                lambda seconds: report_idle(session, seconds, context),
                self._usage.Meter(self._usage.job_group(job)).read,
                lambda: self._usage.gpus(job),
            )
        except Exception as error:  # noqa: BLE001 see above
            log(f"this session has no monitor: {type(error).__name__}: {error}")

    def told(self, answer: dict[str, Any]) -> None:
        """Pass on the hub's answer about the session."""
        if self._monitor:
            self._monitor.told(answer)

    def attach(self, server: Any) -> None:
        """Connect the monitor to the notebook server, Jupyter's ``ServerApp``."""
        try:
            if self._monitor:
                self._module.install(server, self._monitor, self._usage.children, log)
        except Exception as error:  # noqa: BLE001 see above
            log(f"this session has no monitor: {type(error).__name__}: {error}")


class Launch:
    """The start of one session.

    Args:
        name: The session's name.
        session: The variables of the session's file.
        problem: The explanation if the user's own settings have stopped the server already, or None.
    """

    def __init__(self, name: str, session: dict[str, str], problem: LaunchError | None = None) -> None:
        self.name = name
        self.session = session
        self.problem = problem
        self.job = dict(os.environ)
        self.context = tls_context(session.get("HPCHUB_API_CA", ""))
        self.own_settings = not problem and session.get("HPCHUB_WITHOUT_SETTINGS") != "1"
        self.private = Path()
        self.files: list[Path] = []
        self.listening = threading.Event()

    def run(self, home: Path) -> None:
        """Run the session until its server ends.

        Raises:
            LaunchError: The server cannot start.
        """
        url = self.session["JUPYTERHUB_API_URL"]
        late = LaunchError(
            f"the hub at {urlsplit(url).netloc} does not answer this node, {socket.gethostname()}, in time"
        )
        address = within(HUB_TIMEOUT + 1, late, check_hub, url, self.context)
        try:
            self._start(home, address)
        except (LaunchError, OSError) as error:
            if isinstance(error, OSError) and self.listening.is_set():
                raise
            problem = error
            if not isinstance(problem, LaunchError):
                problem = LaunchError(f"the session cannot start: {error}", "cannot_start", reason=str(error))
            report_problem(self.session, problem, self.context)
            raise problem from error
        finally:
            self._clean_up()

    def _start(self, home: Path, address: str) -> None:
        umask = os.umask(0o077)
        if is_container():
            check_container(home, self.session)
        node = socket.gethostname()
        late = LaunchError(
            f"the home directory {home} does not answer on {node}; contact the administrators",
            "home_silent",
            home=str(home),
            node=node,
        )
        slow = within(HOME_TIMEOUT, late, check_space, home / ".hpchub") > SLOW
        self.private = private_directory(self.job, home)
        jupyter_path = settings().get("jupyter_path", [])
        kernel = default_kernel(self.session, jupyter_path)
        held = reserve_port(int(self.session["HPCHUB_PORT_FIRST"]), int(self.session["HPCHUB_PORT_LAST"]))
        port: int = held[0].getsockname()[1]
        env = server_environment(self.job, self.session, port, jupyter_path)
        write_files(env, self.session, self.private)
        prepare = functools.partial(use_directories, slow=slow, own_settings=self.own_settings)
        within(HOME_TIMEOUT, late, prepare, env, home, self.private)
        if is_container():
            use_extension(env, self.private, Path(PROGRAM).with_name(EXTENSION))
        own = Path(env["HOME"])
        directory = working_directory(self.session.get("HPCHUB_DIRECTORY", ""), own)
        os.chdir(own)
        os.environ.clear()
        os.environ.update(env)
        wait_for_hub(self.session, self.context)
        content: dict[str, Any] = {"port": port, "addresses": node_addresses(address)}
        if self.problem:
            notice = "Your session runs without your own settings, because one of them stops the notebook server"
            content["notice"] = f"{notice}: {self.problem}"[:PROBLEM_LIMIT]
            why = self.problem.message or str(self.problem)
            content["message"] = {"id": "without_settings", "values": {"problem": why}}
        server = server_module()
        self.files = server.settings_files() if self.own_settings else []
        watch = Watch(self.session, self.job, self.context)
        threading.Thread(target=self._report_when_ready, args=(content, server, watch), daemon=True).start()
        os.umask(umask)  # for the files that the user creates in the session
        self._serve(
            server,
            port=port,
            certificates=certificates(self.session),
            kernel=kernel,
            directories=directories(directory, own),
            applications=self.private / APPS,
            attach=watch.attach,
        )

    def _serve(self, server: Any, **options: Any) -> None:
        """Become the server. If it ends before it listens, start once more without the user's settings."""
        cause: BaseException | None = None
        try:
            server.serve(["jupyterhub-singleuser"], self.context, **options)
        except (Exception, SystemExit) as error:  # noqa: BLE001 settings can contain any code
            cause = error
        if self.listening.is_set() or server.stopping.is_set():
            if cause:
                raise cause
            return
        if cause and not isinstance(cause, SystemExit):
            traceback.print_exception(type(cause), cause, cause.__traceback__)
        text, name, values = server.explain(cause, self.files)
        self._give_up(LaunchError(text, name, **values))

    def _give_up(self, reason: LaunchError) -> None:
        """Start once more without the user's settings, if there are any.

        Raises:
            LaunchError: The server cannot start without them either.
        """
        if not self.files:
            why = reason.message or str(reason)
            raise LaunchError(f"the notebook server has stopped: {reason}", "stopped", reason=why)
        log(f"one of your own settings stops the notebook server: {reason}; starting once more without them")
        self._clean_up()
        descriptor = os.memfd_create("session", 0)  # open in the new program
        os.write(descriptor, json.dumps({"session": self.session, "problem": [str(reason), reason.message]}).encode())
        os.lseek(descriptor, 0, os.SEEK_SET)
        program = [sys.executable, "-I", PROGRAM, self.name, f"--again={descriptor}"]
        os.execve(sys.executable, program, self.job)  # noqa: S606 the same program

    def _report_when_ready(self, content: dict[str, Any], server: Any, watch: Watch) -> None:
        """Report the port when the server listens. If this fails, log the reason and end the job."""
        try:
            wait_for_server(content["port"], check=lambda seconds: self._check_stuck(seconds, server))
            self.listening.set()
            report(self.session, content, self.context)
            log(f"the server listens on {socket.gethostname()}:{content['port']}, and the hub has accepted the report")
        except LaunchError as error:
            log(str(error))
            if not self.listening.is_set():
                report_problem(self.session, error, self.context)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        interval = settings().get("check_interval", CHECK_INTERVAL)
        stay_known(self.session, content, self.context, server.stopping, told=watch.told, interval=interval)

    def _check_stuck(self, seconds: float, server: Any) -> None:
        """Start without the user's settings if code in them does not come to an end."""
        if seconds > STUCK and self.files:
            place = server.place_in_thread(threading.main_thread().ident, self.files)
            if place:
                self._give_up(LaunchError(f"{place}: this code does not come to an end", "endless", place=place))

    def _clean_up(self) -> None:
        if self.private != Path():
            shutil.rmtree(self.private, ignore_errors=True)


def resume(argument: str) -> tuple[dict[str, str], LaunchError]:
    """Return the session and the problem that ``Launch._give_up`` passes to the new program."""
    with os.fdopen(int(argument), encoding="utf-8") as stream:
        content = json.load(stream)
    text, message = content["problem"]
    return content["session"], LaunchError(text, message.get("id", ""), **message.get("values", {}))


def launch(name: str, again: str = "") -> None:
    """Run a session until its server ends.

    Args:
        name: The session's name.
        again: The number of the file descriptor that contains the session if this is the second attempt, or empty.

    Raises:
        LaunchError: The server cannot start.
    """
    if not SESSION.fullmatch(name):
        raise LaunchError("usage: hpchub-launch SESSION, where SESSION is 16 hexadecimal digits")
    home = home_directory()
    path, read = home / ".hpchub" / f"{name}.json", read_session
    if is_container():  # in a pod, the file is a link in the volume of a Secret
        path, read = Path(PROGRAM).with_name("session.json").resolve(), functools.partial(read_session, owner=0)
    session, problem = resume(again) if again else (read(path), None)
    Launch(name, session, problem).run(home)


def main() -> int:
    """Run the launcher and return its exit code."""
    found = re.fullmatch(r"([^ ]+)(?: --again=([0-9]{1,4}))?", " ".join(sys.argv[1:]))
    try:
        launch(*((found[1], found[2] or "") if found else ("",)))
    except LaunchError as error:
        log(str(error))
        return STOPPED_EXIT
    return 0


if __name__ == "__main__":
    sys.exit(main())
