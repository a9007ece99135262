"""The account of a session's user, as the hub host knows it: the ids that a session in a container gets."""

from __future__ import annotations

import asyncio
import pwd
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from hpchub.hub.job_actions import Fail
from hpchub.hub.place_texts import AGAIN, TELL
from hpchub.hub.unix_groups import PATIENCE, group_ids
from hpchub.messages import Message
from hpchub.places.interface import Refused
from hpchub.remote.docker_gate import USERS_GROUP

_THREADS = ThreadPoolExecutor(4, thread_name_prefix="places-accounts")  # a directory that is silent may keep them all


@dataclass(frozen=True)
class Account:
    """An account.

    Attributes:
        uid: Its uid.
        gid: Its main group.
        groups: Its other groups, except those of the system.
    """

    uid: int
    gid: int
    groups: tuple[int, ...]


async def ask_for_account(name: str, minimum: int) -> Account:
    """Return ``find_account(name, minimum)``, without stopping the hub.

    Raises:
        Refused: See ``find_account``; or the directory of accounts has not answered within ``PATIENCE``.
    """
    question = asyncio.get_running_loop().run_in_executor(_THREADS, find_account, name, minimum)
    try:
        return await asyncio.wait_for(question, PATIENCE)
    except TimeoutError:
        raise _unanswered(name, f"the directory of accounts has not answered within {PATIENCE:.0f} s") from None


def find_account(name: str, minimum: int) -> Account:
    """Return the account of a user on the hub host.

    With a group of the system, such as ``disk`` or ``docker``, a session could leave a program in its home that runs
    with this group when somebody starts it on another host.

    Args:
        name: The name of the account.
        minimum: The first uid and gid that are not the system's. The group ``users`` is not either.

    Raises:
        Refused: There is no such account, it belongs to the system, or its groups cannot be read.
    """
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise _refused(
            Message("The service does not know your account {name}.", name=name), f"the hub host has no account {name}"
        ) from None
    if found.pw_uid < max(minimum, 1):
        message = Message("Your account {name} belongs to the system, so it cannot have sessions here.", name=name)
        raise _refused(message, f"the account {name} has uid {found.pw_uid}, which is below {minimum}")
    if not _is_permitted(found.pw_gid, minimum):
        message = Message("The main group of your account {name} belongs to the system.", name=name)
        raise _refused(message, f"the account {name} has the main group {found.pw_gid}, which is below {minimum}")
    try:
        groups = [gid for gid in group_ids(name, found.pw_gid) if _is_permitted(gid, minimum)]
    except OSError as error:
        raise _unanswered(name, str(error)) from error
    return Account(found.pw_uid, found.pw_gid, tuple(gid for gid in groups if gid != found.pw_gid))


def _is_permitted(gid: int, minimum: int) -> bool:
    return gid >= max(minimum, 1) or gid == USERS_GROUP


def _unanswered(name: str, note: str) -> Refused:
    message = Message("The service cannot look up your account {name} and its groups at the moment.", name=name)
    return Refused(Fail(message, reason="unanswered", status_code=503, advice=AGAIN), note)


def _refused(message: Message, note: str) -> Refused:
    return Refused(Fail(message, reason="no_account", status_code=503, advice=TELL), note)
