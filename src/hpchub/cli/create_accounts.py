"""Create the accounts that the hub has asked for, as root, within the site's limits.

systemd starts this program when there is a request. The hub cannot start it, and passes nothing to it but a name in a
file. Each request is removed, whatever it contains.
"""

from __future__ import annotations

import json
import os
import pwd
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hpchub.names import is_user_name

SETTINGS = Path("/etc/hpchub/accounts.json")
LONGEST_REQUEST = 1024
"""The maximum length of a request, in bytes."""
TIMEOUT = 60
"""How long the site's command may take, in seconds."""
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class Refused(Exception):
    """A request is refused. The message is for the log."""


def requests(directory: Path) -> list[tuple[str, str]]:
    """Remove all requests, and return their contents with the names of the files.

    Nothing in the directory is trusted: the hub's account can put anything there, also links.

    Args:
        directory: The directory of the requests.
    """
    found = []
    here = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        for name in sorted(each.name for each in os.scandir(here) if each.name.endswith(".json")):
            text = ""
            try:
                descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=here)
                with os.fdopen(descriptor, "rb") as file:
                    if stat.S_ISREG(os.fstat(descriptor).st_mode):
                        text = file.read(LONGEST_REQUEST + 1).decode(errors="replace")
            except OSError as error:
                text = f"cannot be read: {error.strerror}"
            found.append((name, text))
            if stat.S_ISDIR(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode):
                # systemd would start this program again and again for a directory that stays.
                os.rename(name, f"{name}.refused", src_dir_fd=here, dst_dir_fd=here)
            else:
                os.unlink(name, dir_fd=here)
    finally:
        os.close(here)
    return found


def name_in(text: str, pattern: str) -> str:
    """Return the name in a request.

    Raises:
        Refused: It is not a request, or the name is not valid, or it is the name of an account.
    """
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    match content:
        case {"name": str(name), **others} if not others and len(text) <= LONGEST_REQUEST:
            pass
        case _:
            raise Refused(f"it is not a request: {ascii(text)[:80]}")
    if not is_user_name(name, pattern):
        raise Refused(f"{ascii(name)[:80]} is not a valid name")
    try:
        pwd.getpwnam(name)
    except KeyError:
        return name
    raise Refused(f"the account {name} exists already")


class Limits:
    """The accounts that were created, or that the command failed to create.

    Args:
        path: The file with the record, in a directory where only root can write.
        per_hour: How many may be created in an hour.
        total: How many may be created at all.
    """

    def __init__(self, path: Path, per_hour: int, total: int) -> None:
        self._path = path
        self._per_hour = per_hour
        self._total = total

    def count(self, name: str, now: float) -> None:
        """Record an account before the command runs, so that a crash cannot exceed a limit.

        Raises:
            Refused: A limit is reached, or the record is damaged.
        """
        try:
            done: list[dict[str, Any]] = json.loads(self._path.read_text()) if self._path.exists() else []
            recent = sum(each["at"] > now - 3600 for each in done)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise Refused(
                f"{name}: the record {self._path} cannot be read ({error!r}), so nobody knows whether a limit is"
                " reached; restore it from a backup, or remove it to begin a new one"
            ) from None
        if len(done) >= self._total or recent >= self._per_hour:
            raise Refused(
                f"{name}: {recent} accounts were requested in the last hour (at most {self._per_hour}), and"
                f" {len(done)} at all (at most {self._total}); see hpc_sso.create_accounts"
            )
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps([*done, {"name": name, "at": now}]))
        new.chmod(0o600)
        new.replace(self._path)


def create(name: str, command: list[str]) -> None:
    """Run the site's command with a name on standard input.

    Raises:
        Refused: It fails.
    """
    try:
        done = subprocess.run(
            command,
            input=f"{name}\n",
            env=ENVIRONMENT,
            cwd="/",
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refused(f"{name}: the command cannot run: {error}") from None
    if done.returncode != 0:
        raise Refused(f"{name}: the command has the exit code {done.returncode}: {ascii(done.stdout)[:300]}")


def main(path: Path = SETTINGS) -> int:
    """Carry out all requests, and return the exit code."""
    settings = json.loads(path.read_text())
    limits = Limits(Path(settings["record"]), settings["per_hour"], settings["total"])
    for file, text in requests(Path(settings["directory"])):
        try:
            name = name_in(text, settings["pattern"])
            limits.count(name, time.time())
            create(name, settings["command"])
        except Refused as error:
            print(f"The request {ascii(file)[:60]} is refused: {error}", file=sys.stderr)
        else:
            print(f"Created the account {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
