"""The interface that a kind of place implements. Start here to add another kind.

A place runs sessions without a batch scheduler: a host with Docker, a Kubernetes cluster. Everything that makes a
session robust is shared with the batch side, so a new kind has no state machine, no poller and no ledger of its own:

======================================  ============================================================================
shared                                  where
======================================  ============================================================================
states, progress, texts, outcomes       ``hub.job_session``, ``hub.place_texts``, ``hub.memory``
saving, restart of the hub, adoption    ``hub.session_spawner``, ``hub.resumption``, ``hub.adoption``
one bulk query for all sessions         ``clusters.poller.BulkPoller``, through ``PlacePoller``
orphans and remains                     ``hub.orphans``
TLS, token, the report of the port      ``hub.session_spawner``, ``hub.handlers``, ``remote.launcher``
======================================  ============================================================================

To add a kind, write these parts:

1. A model class in ``hpchub.model.places``: a subclass of ``PlaceBase`` (or ``ContainerPlace``) with ``kind:
   Literal["NAME"]``. Add it to ``AnyPlace``, ``Place`` and ``PLACE_KINDS``. Rules between entries belong into
   ``hpchub.model.place_rules``.
2. A subclass of ``Connection``: the hub's connection to one place, which all sessions share. It has state and does I/O.
3. A subclass of ``places.spawner.PlaceSpawner``, together with the spawner of a well-kept package. It creates the job
   of one session in ``create``, and does nothing else. All other methods of the package's spawner are not used.
4. A constant ``KIND = Kind("MODULE:Connection", "MODULE:Spawner", plan)`` in a module that needs no other packages,
   and the name of this module in ``hpchub.places.KINDS``.

Rules for ``Connection`` and ``create``:

- *The name is the id.* The job of a session has the name ``job_name(session)`` (``hpchub-SESSION``), and this is its id
  everywhere in the hub. The hub saves the session before it calls ``create``, so it finds the job of a start that was
  interrupted at any moment.
- *Labels.* The job carries the labels of ``labels()``. ``jobs`` turns them back into ``Job.comment`` with
  ``comment_of``. ``Job.tag`` then names its hub, its database and its session. Never list, stop or remove anything
  without them: another hub or another program may use the same place.
- *Unknown is never gone.* ``jobs`` and ``find`` raise ``Unanswered`` unless the answer is complete. ``find`` returns
  None only if the place states that there is no such job.
- *States.* ``PENDING``: created, not running, with ``Job.reason`` if there is one. ``RUNNING`` with ``Job.host``, the
  address at which the hub reaches the server. ``ENDED``: the job exists and its programs have ended. It stays so that
  ``ending`` and ``log`` can explain it. The orphan collector removes it later with ``remove``.
- *A created job that was never started* has a reason whose ``Outlook`` is ``NEVER``. Its secrets may be missing.
- *Secrets.* The environment that ``create`` receives contains the token and the key of the session. It reaches the
  job as a file, ``secret_path(session)``, which only the user and root can read. It is never a part of the
  environment, the arguments, the labels or the description of the job. The launcher, which the job runs as
  ``hpchub-launch SESSION``, reads and deletes the file; a read-only mount is accepted too.
- *The time limit* holds without the hub, by a program or a setting of the place. ``end`` is the hub's own second means.
- *No call blocks the event loop*, and each call has a timeout.
"""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpchub.clusters.poller import BulkPoller
from hpchub.names import SESSION
from hpchub.schedulers import Ending, Job, Unanswered, job_comment, job_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hpchub.hub.job_actions import Fail
    from hpchub.model.entries import Profile
    from hpchub.model.places import PlaceBase
    from hpchub.schedulers.terms import Terms

SECRETS = "/run/hpchub"
"""The directory of the files with secrets in a container; see ``hpchub.remote.launcher``."""
PROGRAM = "hpchub-launch"
"""The name of the launcher, which a session's job runs, in the directory of the files with secrets."""
JOB_ID = rf"hpchub-{SESSION}"
"""The pattern of the ids of jobs in all places."""
LABEL_HUB, LABEL_USER, LABEL_SESSION = "hpchub.hub", "hpchub.user", "hpchub.session"


def secret_path(session: str) -> str:
    """Return the path of a session's file with secrets in its container. Its directory belongs to the session too."""
    return f"{SECRETS}/{session}/session.json"


def labels(hub: str, user: str, session: str) -> dict[str, str]:
    """Return the labels of a session's job. They contain no secrets.

    Args:
        hub: The hub's name, ``HOST~DATABASE``.
        user: The user.
        session: The session's name.
    """
    return {LABEL_HUB: hub, LABEL_USER: user, LABEL_SESSION: session}


def comment_of(found: Mapping[str, str]) -> str:
    """Return the comment of a job with these labels, or empty if it is not a session's job."""
    hub, user, session = (str(found.get(name) or "") for name in (LABEL_HUB, LABEL_USER, LABEL_SESSION))
    return job_comment(hub, user, session) if hub and user and re.fullmatch(SESSION, session) else ""


class Refused(Exception):
    """The place did not create a job, and it is certain that there is none, or that it never runs.

    Attributes:
        failure: What the user reads.
        note: What the log contains.
    """

    def __init__(self, failure: Fail, note: str = "") -> None:
        super().__init__(note or failure.message)
        self.failure = failure
        self.note = note or str(failure.message)


class Connection(ABC):
    """The hub's connection to one place. All sessions share it.

    Args:
        entry: The place in the inventory.
        settings: The hub's settings.

    Attributes:
        terms: The terms in which the place speaks of jobs, with ``job_id_pattern = JOB_ID``.
        timeout: How long one call may take at most, in seconds.
    """

    terms: Terms
    timeout: float = 30.0

    def __init__(self, entry: PlaceBase, settings: Mapping[str, Any]) -> None:
        self.entry = entry
        self.settings = settings

    @abstractmethod
    async def jobs(self) -> dict[str, Job]:
        """Return the jobs of all hubs in this place by their ids, with one query whatever their number.

        Raises:
            Unanswered: There is no complete answer.
        """

    @abstractmethod
    async def find(self, job_id: str) -> Job | None:
        """Return one job, or None if the place states that it does not exist.

        Raises:
            Unanswered: The answer is unclear.
        """

    @abstractmethod
    async def end(self, job_id: str, *, user: str, session: str) -> None:
        """Stop a job's programs, and keep the job. It is no error if they have ended.

        Raises:
            Unanswered: The place did not confirm it, or the job is not this session's.
        """

    @abstractmethod
    async def remove(self, job_id: str, *, user: str, session: str) -> None:
        """Stop and remove a job with everything that belongs to it alone. It is no error if there is none.

        Raises:
            Unanswered: The place did not confirm it, or the job is not this session's.
        """

    @abstractmethod
    async def ending(self, job_id: str) -> Ending:
        """Return how a job ended.

        Raises:
            Unanswered: The place does not know it, or does not answer.
        """

    @abstractmethod
    async def log(self, job_id: str, user: str) -> Sequence[str]:
        """Return the last lines of a job's output.

        Raises:
            Unanswered: The place does not know it, or does not answer.
        """

    @abstractmethod
    async def obstacles(self) -> Sequence[str]:
        """Return why no session can start here at all, for the administrators: versions, a missing network.

        Anything unknown is no obstacle. The answer may be some minutes old.
        """

    @property
    def alarm(self) -> str:
        """What an administrator must do so that the hub can use the place again, or empty. It is in the health check.

        It contains no private data. A place that is away for some time is no alarm.
        """
        return ""

    @abstractmethod
    async def check(self) -> str:
        """Return what works, as one line for ``hpchub check``.

        Raises:
            Unanswered: The place cannot be used. The text explains why, and what to do.
        """

    async def close(self) -> None:  # noqa: B027 not every place has something to close
        """Close the connection, because the entry of the place has changed."""


class PlacePoller(BulkPoller):
    """The poller of a place. All sessions share its answers.

    Args:
        connection: The connection to the place.
        options: See ``BulkPoller``.
    """

    def __init__(self, connection: Connection, **options: float) -> None:
        super().__init__(connection.terms, **options)
        self.connection = connection

    async def _read(self) -> dict[str, Job]:
        return await self.connection.jobs()

    async def _look_up(self, job_id: str) -> Job | None:
        if not re.fullmatch(JOB_ID, job_id):
            raise Unanswered(f"{job_id!r} is not the id of a session's job")
        return await self.connection.find(job_id)


@dataclass(frozen=True)
class Kind:
    """A kind of place. The commands on an administrator's machine use only ``plan``, so the classes are loaded later.

    Attributes:
        connection_path: The class of its connections, ``MODULE:CLASS``.
        spawner_path: The class of the spawners of its sessions, ``MODULE:CLASS``.
        plan: Returns what would be created for a profile, as JSON for ``hpchub plan``. It does no I/O.
    """

    connection_path: str
    spawner_path: str
    plan: Callable[[PlaceBase, Profile], str]

    @property
    def connection(self) -> type[Connection]:
        """The class of its connections.

        Raises:
            ValueError: The packages that it needs are not installed.
        """
        found: type[Connection] = _load(self.connection_path)
        return found

    @property
    def spawner(self) -> type[Any]:
        """The class of the spawners of its sessions, a subclass of ``PlaceSpawner``.

        Raises:
            ValueError: The packages that it needs are not installed.
        """
        found: type[Any] = _load(self.spawner_path)
        return found


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ValueError(f"{module} cannot be used, because packages are missing: {error}") from None


__all__ = ["Connection", "Kind", "PlacePoller", "Refused", "comment_of", "job_name", "labels", "secret_path"]
