"""The Unix groups of users, as the directory of accounts on the hub host knows them.

A directory such as LDAP may answer slowly or not at all. Lookups therefore run in threads, and pages use a cache.
"""

from __future__ import annotations

import asyncio
import grp
import logging
import os
import pwd
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

FRESH = 60.0
"""How long an answer is used without another question, in seconds."""
KEEP = 600.0
"""How long an answer counts while the directory does not answer, in seconds. Afterwards, the groups are unknown."""
PATIENCE = 2.0
"""How long a page or a start waits for the directory, in seconds."""


def look_up(user: str) -> frozenset[str]:
    """Return the names and the numeric ids of a user's groups. An account that does not exist has none.

    Digits always mean an id. A group whose name consists of digits is therefore known by its id only, as at the gate.

    Raises:
        OSError: The directory cannot be read.
    """
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        return frozenset()
    if account.pw_name != user:
        return frozenset()
    found = set()
    for gid in os.getgrouplist(account.pw_name, account.pw_gid):
        found.add(str(gid))
        with suppress(KeyError):
            name = grp.getgrgid(gid).gr_name
            if not name.isdigit():
                found.add(name)
    return frozenset(found)


class UnixGroups:
    """A cache of the groups of users.

    Args:
        look_up: Returns the groups of a user.
    """

    def __init__(self, look_up: Callable[[str], frozenset[str]] = look_up) -> None:
        self._look_up = look_up
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="unix-groups")
        self._answers: dict[str, tuple[float, frozenset[str]]] = {}
        self._pending: dict[str, asyncio.Future[frozenset[str]]] = {}

    def known(self, user: str) -> frozenset[str] | None:
        """Return a user's groups, or None if they are unknown."""
        at, groups = self._answers.get(user, (-KEEP, frozenset()))
        return groups if time.monotonic() - at < KEEP else None

    def ask(self, user: str) -> frozenset[str] | None:
        """Return a user's groups, or None if they are unknown. Ask the directory at once, unless an answer is fresh."""
        at, _ = self._answers.get(user, (-KEEP, frozenset()))
        if time.monotonic() - at >= FRESH:
            try:
                groups = self._look_up(user)
            except OSError as error:
                log.error("Cannot look up the Unix groups of %s: %s", user, error)
            else:
                self._answers[user] = (time.monotonic(), groups)
        return self.known(user)

    async def refresh(self, user: str) -> None:
        """Ask the directory, unless there is a fresh answer. Give up after ``PATIENCE``."""
        at, _ = self._answers.get(user, (-KEEP, frozenset()))
        if time.monotonic() - at < FRESH:
            return
        if user not in self._pending:
            question = asyncio.get_running_loop().run_in_executor(self._threads, self._look_up, user)
            self._pending[user] = question
            question.add_done_callback(lambda done: self._answered(user, done))
        await asyncio.wait({self._pending[user]}, timeout=PATIENCE)

    def _answered(self, user: str, done: asyncio.Future[frozenset[str]]) -> None:
        self._pending.pop(user, None)
        if done.cancelled():
            return
        if error := done.exception():
            log.error("Cannot look up the Unix groups of %s: %s", user, error)
        else:
            self._answers[user] = (time.monotonic(), done.result())
