"""Requests for accounts that do not exist yet, for portals with users from elsewhere.

The hub has no rights on its host. It puts the name into a directory, and a program of the superuser, which systemd
starts for a new file there, decides and calls the site's command. See ``hpchub.cli.create_accounts``.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from typing import TYPE_CHECKING

from hpchub.hub.unix_groups import MISSING, look_up_account
from hpchub.messages import Message

if TYPE_CHECKING:
    from pathlib import Path

INTERVAL = 0.2
"""How often to look for the account, in seconds."""
CACHED = 5.0
"""How long this host may remember that an account does not exist, in seconds."""
FULL = Message("The service cannot create accounts at the moment. Please try again in an hour, or ask the support.")
FAILED = Message("Your account could not be created. Please ask the support.")


class NotCreated(Exception):
    """An account was not created.

    Args:
        message: The explanation for the user.
        detail: The explanation for the log.
    """

    def __init__(self, message: Message, detail: str) -> None:
        super().__init__(detail)
        self.message = message


class AccountRequests:
    """The directory of the requests.

    Args:
        directory: The directory.
        timeout: How long to wait for an account, in seconds.
        most_waiting: How many requests may wait.
    """

    def __init__(self, directory: Path, timeout: float = 30.0, most_waiting: int = 50) -> None:
        self._directory = directory
        self._timeout = timeout
        self._most_waiting = most_waiting

    async def create(self, name: str) -> None:
        """Ask for an account, and wait until it exists.

        Raises:
            NotCreated: It was refused, or there are too many requests.
            TimeoutError: There was no answer in time. It may still be created.
        """
        request = self._write(name)
        deadline = time.monotonic() + self._timeout
        while request.exists():
            if time.monotonic() > deadline:
                raise TimeoutError
            await asyncio.sleep(INTERVAL)
        deadline = time.monotonic() + CACHED
        while await asyncio.to_thread(look_up_account, name) == MISSING:
            if time.monotonic() > deadline:
                raise NotCreated(FAILED, f"no account {name} was created; see journalctl -u hpchub-accounts")
            await asyncio.sleep(INTERVAL)

    def _write(self, name: str) -> Path:
        """Write a request and return its file.

        Raises:
            NotCreated: Too many requests wait, or the directory cannot be written.
        """
        try:
            waiting = list(self._directory.glob("*.json"))
            if len(waiting) >= self._most_waiting:
                raise NotCreated(FULL, f"{len(waiting)} requests for accounts wait in {self._directory}")
            path = self._directory / f"{secrets.token_hex(8)}.json"
            temporary = path.with_suffix(".new")
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                json.dump({"name": name}, file)
            temporary.rename(path)
        except OSError as error:
            raise NotCreated(FAILED, f"cannot ask for the account {name}: {error}") from None
        return path
