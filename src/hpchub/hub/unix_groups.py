"""The accounts of users and their Unix groups, as the directory of accounts on the hub host knows them.

A directory such as LDAP may answer slowly or not at all. Lookups therefore run in threads, and pages use a cache. What
is unknown is neither permitted nor gone.
"""

from __future__ import annotations

import asyncio
import ctypes
import grp
import logging
import pwd
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

log = logging.getLogger(__name__)

FRESH = 60.0
"""How long an answer is used without another question, in seconds."""
KEEP = 600.0
"""How long an answer counts while the directory does not answer, in seconds. Afterwards, nothing is known."""
PATIENCE = 2.0
"""How long a page or a start waits for the directory, in seconds."""

ROOM = 64
"""The number of groups in the first question about them. A user with more needs another one."""

_LIBC = ctypes.CDLL(None)
_Answer = TypeVar("_Answer")


class Account(NamedTuple):
    """An account: its name in the directory, which may differ from the name in the question, and its uid."""

    name: str
    uid: int


MISSING = Account("", -1)
"""The answer for an account that does not exist. Some directories also answer this while they are out of order."""


class NoAnswer(Exception):
    """The directory of accounts does not answer, so nobody knows whether a user may use the service."""


def look_up_account(user: str) -> Account:
    """Return the account of a user, or ``MISSING``."""
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        return MISSING
    return Account(found.pw_name, found.pw_uid)


def group_ids(user: str, gid: int) -> list[int]:
    """Return the ids of an account's groups.

    Python's ``os.getgrouplist`` stops all threads until the directory answers.

    Args:
        user: The account.
        gid: The account's own group.

    Raises:
        OSError: The directory cannot be read.
    """
    size = ROOM
    while True:
        found, count = (ctypes.c_uint * size)(), ctypes.c_int(size)
        if _LIBC.getgrouplist(user.encode(), ctypes.c_uint(gid), found, ctypes.byref(count)) >= 0:
            return list(found[: count.value])
        if count.value <= size:
            raise OSError(f"the directory of accounts does not say which groups {user} has")
        size = count.value


def look_up(user: str) -> frozenset[str]:
    """Return the names and the numeric ids of a user's groups. An account that does not exist has none.

    Digits always mean an id. A group with a name of digits is therefore known by its id only, as at the gate.

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
    for gid in group_ids(account.pw_name, account.pw_gid):
        found.add(str(gid))
        with suppress(KeyError):
            name = grp.getgrgid(gid).gr_name
            if not name.isdigit():
                found.add(name)
    return frozenset(found)


class Answers(Generic[_Answer]):
    """A cache of what the directory answers about users.

    Args:
        look_up: Asks the directory about a user. It may block, and raises an OSError if there is no answer.
        missing: The answer about a user who does not exist. It is never used without another question, and does not
            replace another answer while that counts.
    """

    def __init__(self, look_up: Callable[[str], _Answer], missing: _Answer) -> None:
        self._look_up = look_up
        self._missing = missing
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="accounts")
        self._answers: dict[str, tuple[float, _Answer]] = {}
        self._pending: dict[str, tuple[float, asyncio.Future[_Answer]]] = {}

    def known(self, user: str) -> _Answer | None:
        """Return what is known about a user, or None if nothing is."""
        at, answer = self._answers.get(user, (0.0, None))
        return answer if monotonic() - at < KEEP else None

    async def refresh(self, user: str) -> None:
        """Ask the directory, unless there is a fresh answer. Give up ``PATIENCE`` after the question."""
        at, answer = self._answers.get(user, (0.0, self._missing))
        if monotonic() - at < FRESH and answer != self._missing:
            return
        if user not in self._pending:
            question = asyncio.get_running_loop().run_in_executor(self._threads, self._look_up, user)
            self._pending[user] = monotonic(), question
            question.add_done_callback(lambda done: self._answered(user, done))
        since, question = self._pending[user]
        await asyncio.wait({question}, timeout=max(0.0, since + PATIENCE - monotonic()))

    async def refresh_all(self, users: Iterable[str]) -> None:
        """Ask the directory about many users, and wait for all answers."""

        def ask() -> dict[str, _Answer]:
            found = {}
            for user in users:
                with suppress(OSError):
                    found[user] = self._look_up(user)
            return found

        for user, answer in (await asyncio.get_running_loop().run_in_executor(self._threads, ask)).items():
            self._remember(user, answer)

    def _answered(self, user: str, done: asyncio.Future[_Answer]) -> None:
        self._pending.pop(user, None)
        if done.cancelled():
            return
        if error := done.exception():
            log.error("Cannot look up the account %s and its groups: %s", user, error)
        else:
            self._remember(user, done.result())

    def _remember(self, user: str, answer: _Answer) -> None:
        if answer == self._missing and self.known(user) is not None and self.known(user) != self._missing:
            return
        self._answers[user] = (monotonic(), answer)


class UnixGroups(Answers[frozenset[str]]):
    """A cache of the groups of users.

    Args:
        look_up: Returns the groups of a user.
    """

    def __init__(self, look_up: Callable[[str], frozenset[str]] = look_up) -> None:
        super().__init__(look_up, frozenset())


class Accounts(Answers[Account]):
    """A cache of accounts."""

    def __init__(self) -> None:
        super().__init__(look_up_account, MISSING)
