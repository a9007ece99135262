"""The supervisor of RStudio Server in a session. It starts ``rserver``, and R with the session's environment.

jupyter-server-proxy runs this program at the first request for RStudio::

    python -I rstudio.py DEFINITIONS NAME

``rserver`` asks for no password here (``--auth-none``), so nobody else may reach it. It listens on a unix socket. All
of its files and sockets are in a directory that only the user can enter: it makes some of them writable for everybody.
By default they would be in directories of the node, where those of several users collide.

``rserver`` starts R, through its program ``rsession``, with hardly any environment variables. So this program writes a
program of its own that ``rserver`` starts instead: it adds the variables of the session and of its modules::

    python -I rstudio.py --session DIRECTORY ARGUMENT...

The facts about RStudio come from its sources (github.com/rstudio/rstudio, src/cpp/server and src/cpp/server_core). The
rest is the same as for other applications; see ``app.py``. The role ``notebook_environment`` installs this file beside
it. It uses the standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import pwd
import re
import secrets
import shlex
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from hpchub.remote import app
else:  # a program, beside app.py
    sys.path.insert(0, str(Path(__file__).parent))
    app = importlib.import_module("app")

PROGRAM = str(Path(__file__).resolve())
SESSION = "--session"  # the first argument of the program that starts R
OLDEST = "2024.12"  # the first version with --www-socket
CONFIGURATION = "/etc/rstudio"  # where rserver and rsession look for the files of the site
LOGGING = "[*]\nlog-level=warn\nlogger-type=stderr\n"  # by default, errors are in files that nobody finds
# With websockets, a terminal of RStudio listens on a port of the node.
PREFERENCES = {"terminal_websockets": False}
HARMLESS = frozenset(
    {
        *("auth-timeout-minutes", "server-pid-file", "www-frame-origin", "www-same-site", "www-verify-user-agent"),
        "server-user",
    }
)
"""The options that are left out if this version of ``rserver`` does not have them."""
LONGEST_DIRECTORY = 107 - len("/data/rstudio-rserver/session-server-rpc.socket")  # bytes
LONGEST_STREAM = 107 - len("/data/rstudio-rsession/-ds/12345678/12345678")  # bytes, with the name of the user
SUSPEND_TIMEOUT = 5.0  # seconds until R must have saved its workspace
# Reads what rserver must know, and the environment that the modules make. Its arguments are a directory and a program.
PROBE = """\
umask 077
env -0 >"$1/environment" || exit
command -v -- "$2" >"$1/program" || exit 127
"$2" --help >"$1/help"
"""
OF_SHELL = frozenset({"_", "OLDPWD", "PWD", "SHLVL"})
WRAPPER = """\
#!/bin/sh
# rserver starts this instead of rsession. Python must not load the libraries of R.
HPCHUB_LIBRARIES=${{LD_LIBRARY_PATH-}}
export HPCHUB_LIBRARIES
unset LD_LIBRARY_PATH
exec {python} -I {program} {session} {directory} "$@"
"""
# What proxies on the way add. rserver would build wrong addresses from it: of a port that the browser cannot reach, or
# without the encryption that ends at the first proxy.
FORWARDED = (b"forwarded", b"x-forwarded-", b"x-real-ip", b"x-rstudio-")


class RStudio(app.Application):
    """One RStudio Server. For its definition, see ``hpchub.model.apps.RstudioApp.for_session``.

    Args:
        definition: The application's definition.
        directory: The directory with its sockets and its log. Only the user can enter it.
        texts: The texts of the pages.
        environment: The environment of the session.
    """

    def __init__(
        self, definition: dict[str, Any], directory: Path, texts: dict[str, str], environment: dict[str, str]
    ) -> None:
        super().__init__(definition, directory, texts, environment)
        self.environment |= account()
        self.state = state_directory(directory, self.environment["USER"])

    async def _run(self) -> asyncio.subprocess.Process:
        values = self._placeholders()
        environment = {name: app.fill(value, values) for name, value in self.environment.items()}
        prepare(self.state, Path(environment.get("RSTUDIO_CONFIG_DIR") or CONFIGURATION))
        environment["RSTUDIO_CONFIG_DIR"] = str(self.state / "etc")
        program, *more = (app.fill(word, values) for word in self.definition["command"])
        found = await self._ask(program, environment)
        known = known_options((self.state / "help").read_text(encoding="utf-8", errors="replace"))
        arguments = arguments_of(self._options(values), known)
        write_wrapper(self.state, rsession_of(found, environment))
        return await self._execute([found, *arguments, *more], program, env=environment)

    async def _ask(self, program: str, environment: dict[str, str]) -> str:
        """Load the modules, and return the path of the program. ``environment`` gets the variables of the modules.

        Raises:
            AppError: The program is missing, or does not answer.
        """
        words = [*self.definition["shell"], "/bin/sh", "-c", PROBE, "sh", str(self.state), program]
        process = await self._execute(words, program, env=environment)
        try:
            code = await asyncio.wait_for(process.wait(), self.limit)
        except TimeoutError:
            raise app.AppError("silent", seconds=f"{self.limit:g}") from None
        if code:
            raise self._ending(code, program)
        saved = read_environment(self.state / "environment")
        environment.clear()
        environment.update(saved)
        return (self.state / "program").read_text(encoding="utf-8").strip()

    def _options(self, values: dict[str, str]) -> dict[str, str]:
        """Return the options of ``rserver`` by their names."""
        return {
            "server-daemonize": "0",
            "server-user": self.environment["USER"],
            "server-pid-file": str(self.state / "pid"),
            "server-data-dir": str(self.state / "data"),
            "secure-cookie-key-file": str(self.state / "etc" / "secure-cookie-key"),
            "database-config-file": str(self.state / "etc" / "database.conf"),
            "rsession-path": str(self.state / "rsession"),
            **({"rsession-which-r": self.definition["r"]} if self.definition["r"] else {}),
            "www-socket": str(self.socket),
            "www-root-path": values["base_url"],
            "www-proxy-localhost": "1" if self.definition["local_ports"] else "0",
            "www-verify-user-agent": "0",
            "www-frame-origin": "same",
            "www-same-site": "lax",
            # The notebook server decides who may use RStudio, and for how long.
            "auth-none": "1",
            "auth-timeout-minutes": "0",
        }

    def _listeners(self) -> list[int]:
        """Return ``rserver``. What users start in R is their own affair, as in a terminal."""
        return [self.process.pid] if self.process else []

    async def _answer(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await super()._answer(with_address(head, self._placeholders()["base_url"]), reader, writer)

    async def stop(self) -> None:
        """Let R save its workspace, as ``rstudio-server force-suspend-session`` does, and end RStudio."""
        running = suspend(app.descendants(os.getpid()))
        end = time.monotonic() + SUSPEND_TIMEOUT
        while time.monotonic() < end and is_alive(running):  # noqa: ASYNC110 processes
            await asyncio.sleep(0.05)
        await super().stop()
        if self.state != self.directory:
            shutil.rmtree(self.state, ignore_errors=True)


def account() -> dict[str, str]:
    """Return the variables with the name of the user. Without them, ``rserver`` asks for a sign-in again and again."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = os.environ.get("USER") or str(os.getuid())
    return {"USER": name, "LOGNAME": name}


# -- files


def state_directory(directory: Path, user: str) -> Path:
    """Return a directory that only the user can enter. RStudio makes sockets in it, and Linux limits their paths.

    Args:
        directory: The directory of the application, unless its path is too long.
        user: The name of the user.
    """
    length = len(os.fsencode(directory))
    if length <= LONGEST_DIRECTORY and length + len(os.fsencode(user)) <= LONGEST_STREAM:
        return directory
    return Path(tempfile.mkdtemp(prefix="hpchub-", dir="/tmp"))


def prepare(state: Path, site: Path) -> None:
    """Write the files that ``rserver`` needs, and links to the site's other files. Keys are new for each start.

    Args:
        state: The directory that only the user can enter.
        site: The directory with the site's files. It need not exist.
    """
    own = state / "etc"
    for name in ("etc", "data"):
        shutil.rmtree(state / name, ignore_errors=True)
        (state / name).mkdir(mode=0o700)
    with contextlib.suppress(OSError):
        for path in site.iterdir():
            if os.access(path, os.R_OK):
                (own / path.name).symlink_to(path)
    for name in ("secure-cookie-key", "session-rpc-key"):
        write(own / name, secrets.token_hex(32))
    write(own / "database.conf", f"provider=sqlite\ndirectory={state / 'data'}\n")
    write(own / "logging.conf", LOGGING)
    write(own / "rstudio-prefs.json", json.dumps({**preferences_of(site), **PREFERENCES}))


def preferences_of(site: Path) -> dict[str, Any]:
    """Return the preferences that the site has set for all users of RStudio."""
    try:
        found = json.loads((site / "rstudio-prefs.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a new file that only the user can read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        file.write(text)


def read_environment(path: Path) -> dict[str, str]:
    """Return the variables in a file of ``env -0``."""
    lines = path.read_bytes().decode(errors="surrogateescape").split("\0")
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    return {name: value for name, value in found.items() if name not in OF_SHELL}


# -- rserver


def known_options(text: str) -> set[str]:
    """Return the names of the options in what ``rserver --help`` prints."""
    return set(re.findall(r"^\s*(?:-\w \[ )?--([a-z0-9-]+)", text, re.MULTILINE))


def arguments_of(wanted: dict[str, str], known: set[str]) -> list[str]:
    """Return the arguments of ``rserver``.

    Args:
        wanted: The options by their names.
        known: The names of the options that this version has.

    Raises:
        AppError: It lacks an option without which others could reach RStudio, or it cannot work.
    """
    missing = [name for name in wanted if name not in known and name not in HARMLESS]
    if missing:
        raise app.AppError("too_old", options=", ".join(f"--{name}" for name in missing), version=OLDEST)
    return [f"--{name}={value}" for name, value in wanted.items() if name in known]


def rsession_of(rserver: str, environment: dict[str, str]) -> str:
    """Return the path of ``rsession``, which is beside ``rserver`` or on the PATH.

    Raises:
        AppError: There is none.
    """
    beside = Path(rserver).resolve().with_name("rsession")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("rsession", path=environment.get("PATH", ""))
    if not found:
        raise app.AppError("not_installed", program=beside)
    return found


def with_address(head: bytes, base_url: str) -> bytes:
    """Return the head of a request with the address in the browser, in the header that RStudio documents for proxies.

    Args:
        head: The head, with a path below ``base_url``.
        base_url: The path of RStudio's pages.
    """
    first, *lines = head.split(b"\r\n")
    words = first.split(b" ")
    values = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    scheme = values.get(b"x-forwarded-proto", b"").split(b",")[0].strip()
    host = values.get(b"host", b"localhost")
    path = words[1].lstrip(b"/") if len(words) > 2 else b""
    address = b"%s://%s%s%s" % (scheme if scheme == b"https" else b"http", host, base_url.encode(), path)
    kept = [line for line in lines if not line.lower().startswith(FORWARDED)]
    return b"\r\n".join([first, b"X-RStudio-Request: " + address, *kept])


def suspend(processes: list[int]) -> list[int]:
    """Tell R to save its workspace and to end. Return the processes of R among the given ones."""
    found = []
    for process in processes:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{process}/comm").read_text(encoding="utf-8").strip() == "rsession":
                os.kill(process, signal.SIGUSR2)
                found.append(process)
    return found


def is_alive(processes: list[int]) -> bool:
    """Return whether one of these processes has not ended."""
    return any(app.status_of(each)[0] != "Z" for each in processes)


# -- R


def write_wrapper(state: Path, rsession: str) -> None:
    """Write the program that ``rserver`` starts instead of ``rsession``."""
    write(state / "rsession-path", rsession)
    text = WRAPPER.format(
        python=shlex.quote(sys.executable),
        program=shlex.quote(PROGRAM),
        session=SESSION,
        directory=shlex.quote(str(state)),
    )
    write(state / "rsession", text, 0o700)


def session_environment(saved: dict[str, str], given: dict[str, str]) -> dict[str, str]:
    """Return the environment of R.

    Args:
        saved: The environment of the session, with its modules.
        given: What ``rserver`` has set. Its variables about R and RStudio take precedence.
    """
    libraries = [given.get("HPCHUB_LIBRARIES", ""), saved.get("LD_LIBRARY_PATH", "")]
    paths = dict.fromkeys(path for each in libraries for path in each.split(":") if path)
    own = {name: value for name, value in given.items() if name.startswith(("R_", "RS_", "RSTUDIO_"))}
    found = {**given, **saved, **own, "LD_LIBRARY_PATH": ":".join(paths)}
    found.pop("HPCHUB_LIBRARIES", None)
    return {name: value for name, value in found.items() if name != "LD_LIBRARY_PATH" or value}


def run_session(state: Path, arguments: list[str]) -> None:
    """Become ``rsession``."""
    environment = session_environment(read_environment(state / "environment"), dict(os.environ))
    program = (state / "rsession-path").read_text(encoding="utf-8")
    os.execve(program, [program, *arguments], environment)  # noqa: S606 the purpose of this program


if __name__ == "__main__":
    if sys.argv[1:2] == [SESSION]:
        run_session(Path(sys.argv[2]), sys.argv[3:])
    sys.exit(app.main(RStudio))
