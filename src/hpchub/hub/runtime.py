"""The objects that all spawners of a hub process share: settings, profile list, gates, places and pollers."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import urlsplit

from hpchub.clusters.gate_client import Gate, make_gate
from hpchub.clusters.knowledge import Knowledge
from hpchub.clusters.poller import Poller
from hpchub.hub import DEFAULT_SETTINGS
from hpchub.hub.certificates import Authority
from hpchub.hub.database import Guard
from hpchub.hub.event_recorder import EventRecorder
from hpchub.hub.events import Events
from hpchub.hub.health import Health
from hpchub.hub.ledger import Ledger
from hpchub.hub.mail import Mailer, MailServer
from hpchub.hub.outcome import place_name
from hpchub.hub.page_texts import Languages
from hpchub.hub.switch import Replacements
from hpchub.hub.throttle import Throttle
from hpchub.hub.unix_groups import UnixGroups
from hpchub.hub.versions import VersionGate
from hpchub.lab_extension import container_files
from hpchub.model.notices import NoticesFile, combine, maintenance_notices
from hpchub.model.places import PlaceBase
from hpchub.notices_file import BY_HAND, INVENTORY, load_notices
from hpchub.places import kind_of
from hpchub.places.interface import PlacePoller
from hpchub.profile_file import load_profile_list
from hpchub.schedulers import SCHEDULERS, Unanswered

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine

    from sqlalchemy.orm import Session

    from hpchub.clusters.poller import BulkPoller
    from hpchub.model.entries import Cluster
    from hpchub.model.notices import Notice
    from hpchub.model.profile_list import ProfileList
    from hpchub.places.interface import Connection
    from hpchub.schedulers import Ending

log = logging.getLogger(__name__)

Content = TypeVar("Content")


class LiveFile(Generic[Content]):
    """A file that is read again whenever it has changed.

    If the new file is not valid, the last valid content remains in use and the error is logged once.

    Args:
        path: The file.
        load: Reads the file.
    """

    def __init__(self, path: Path, load: Callable[[Path], Content]) -> None:
        self._path = path
        self._load = load
        self._content: Content | None = None
        self._stamp: tuple[int, ...] | None = None

    def read(self) -> Content:
        """Return the content.

        Raises:
            OSError, ValueError: The file is not valid, and no valid content has been read yet.
        """
        try:
            status = self._path.stat()
            stamp: tuple[int, ...] = (status.st_mtime_ns, status.st_ino, status.st_size)
        except OSError:
            stamp = ()
        if self._content is None or stamp != self._stamp:
            try:
                self._content = self._load(self._path)
            except (OSError, ValueError) as error:
                if self._content is None:
                    raise
                log.error("The new file is not valid; the last valid content remains in use: %s", error)
            self._stamp = stamp
        return self._content


class Runtime:
    """The hub's settings and its connections to the clusters.

    Args:
        settings: The content of the settings file.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.gates: dict[str, Gate] = {
            cluster: make_gate(cluster, entry) for cluster, entry in settings["gates"].items()
        }
        self.authority = Authority(Path(settings["notebook_tls_directory"]))
        self.languages = Languages(settings)
        self.throttle = Throttle()
        self.unix_groups = UnixGroups()
        self.guard = Guard()
        self.health = Health(self.guard)
        self.versions = VersionGate(self.gates, settings["proxy_api_url"])
        self.replacements = Replacements()
        self.mailer = Mailer(MailServer.of(settings["mail"]))
        self.events = Events()
        recording = settings["events"]
        key_file = Path(settings["state_dir"]) / "event_key" if recording["pseudonyms"] else None
        self.recorder = EventRecorder(recording["keep_days"], key_file, settings.get("canary", {}).get("user", ""))
        self.events.subscribe(self.recorder.add)
        self.adoptions: dict[str, float] = {}
        """When the hub last tried to adopt a session, by the session's name (monotonic clock)."""
        self._ledger: Ledger | None = None
        self._pollers: dict[str, BulkPoller] = {}
        self._places: dict[str, Connection] = {}
        self._knowledge: dict[str, Knowledge] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._profiles = LiveFile(Path(settings["profiles_file"]), load_profile_list)
        self._notices = [
            LiveFile(Path(settings.get("notices_file", INVENTORY)), load_notices),
            LiveFile(Path(settings.get("notices_by_hand_file", BY_HAND)), load_notices),
        ]

    @functools.cached_property
    def client_context(self) -> ssl.SSLContext:
        """The TLS context of the hub's connections to notebook servers, as it was at the start of the hub.

        JupyterHub and hpchub must judge a server's certificate in the same way, so both use this one.
        """
        return self.authority.client_context()

    @functools.cached_property
    def lab_files(self) -> str:
        """The files that JupyterLab needs in a container, as JSON; see ``lab_extension.container_files``."""
        return json.dumps(container_files(self.languages.default, self.settings.get("texts")))

    @property
    def profiles(self) -> ProfileList:
        """The profile list, as it is now.

        Raises:
            OSError, ValueError: No valid list has been read yet.
        """
        return self._profiles.read()

    @property
    def notices(self) -> tuple[Notice, ...]:
        """The drains and announcements, as they are now.

        A file that was never valid counts as empty, because otherwise nobody could start a session.
        """
        found = []
        for file in self._notices:
            try:
                found.append(file.read())
            except (OSError, ValueError) as error:
                log.error("Cannot read the drains and announcements: %s", error)
                found.append(NoticesFile())
        return combine(*found)

    @property
    def notices_of_starts(self) -> tuple[Notice, ...]:
        """The drains and announcements, and the maintenances that the schedulers have planned, as of now.

        The schedulers themselves decide what a maintenance means for jobs that wait or run, so it only concerns starts.
        """
        found = list(self.notices)
        for cluster in self.gates:
            try:
                found += maintenance_notices(cluster, self.knowledge(cluster).maintenances())
            except (OSError, ValueError) as error:
                log.error("The maintenances of %s are unknown: %s", cluster, error)
        return tuple(found)

    def gate(self, cluster: str) -> Gate:
        """Return a cluster's gate.

        Raises:
            ValueError: The hub's settings do not contain this cluster.
        """
        try:
            return self.gates[cluster]
        except KeyError:
            valid = ", ".join(sorted(self.gates))
            raise ValueError(f"gates: the hub's settings have no cluster {cluster!r}; valid: {valid}") from None

    def poller(self, name: str, scheduler: str = "") -> BulkPoller:
        """Return the poller of a cluster or a place, which is created at its first use.

        Args:
            name: The name of the cluster or of the place.
            scheduler: The scheduler of the cluster. Empty for a place.

        Raises:
            ValueError: The hub's settings do not contain the cluster, or the profile list does not contain the place.
        """
        if not scheduler:
            connection = self.place(name)
            known = self._pollers.get(name)
            if not isinstance(known, PlacePoller) or known.connection is not connection:
                self._pollers[name] = PlacePoller(connection)
        elif name not in self._pollers:
            self._pollers[name] = Poller(SCHEDULERS[scheduler], self.gate(name))
        return self._pollers[name]

    def place(self, name: str) -> Connection:
        """Return the connection to a place, which is created at its first use, and again if the entry has changed.

        A place that is no longer in the profile list keeps its connection until the hub restarts.

        Raises:
            ValueError: The profile list does not contain the place, or its kind cannot be used.
        """
        known = self._places.get(name)
        try:
            entry = self.profiles.place(name)
        except OSError as error:
            raise ValueError(str(error)) from None
        if entry is None and known is None:
            raise ValueError(f"the profile list has no place {name!r}")
        if entry is not None and (known is None or known.entry != entry):
            if known is not None:
                self.background(f"Cannot close the connection to {name}", known.close())
            known = self._places[name] = kind_of(entry.kind).connection(entry, self.settings)
        assert known is not None  # noqa: S101 see above
        return known

    def is_place(self, name: str) -> bool:
        """Return whether a name is a place's, as far as it is known."""
        try:
            return name in self._places or self.profiles.place(name) is not None
        except (OSError, ValueError):
            return False

    @property
    def place_names(self) -> set[str]:
        """The names of the places, as far as they are known; see ``outcome.place_name``."""
        try:
            return {name for each in (*self.profiles.clusters, *self.profiles.places) if (name := place_name(each))}
        except (OSError, ValueError):
            return set()

    def knowledge(self, cluster: str) -> Knowledge:
        """Return what the hub knows of a cluster for the users' choices. It is created at its first use.

        Raises:
            OSError, ValueError: The profile list or the hub's settings do not contain this cluster.
        """
        if cluster not in self._knowledge:
            found = self.profiles.cluster(cluster)
            if found is None:
                raise ValueError(f"the profile list has no cluster {cluster!r}")
            self._knowledge[cluster] = Knowledge(cluster, SCHEDULERS[found.scheduler], self.gate(cluster))
        return self._knowledge[cluster]

    async def cancel(self, cluster: str, *, user: str, session: str, job_id: str) -> None:
        """Cancel a session's job. In a place, remove it with everything that belongs to it.

        Raises:
            Unanswered: The scheduler did not confirm the cancellation.
            ValueError: The hub's settings do not contain this cluster.
        """
        if self.is_place(cluster):
            await self.place(cluster).remove(job_id, user=user, session=session)
            return
        answer = await self.gate(cluster).request("cancel", user=user, session=session, job_id=job_id)
        if not answer.ok:
            raise Unanswered(str(answer))

    async def ending(self, where: Cluster | PlaceBase, job_id: str) -> Ending:
        """Return how a job ended.

        Raises:
            Unanswered: The cluster or the place does not answer, or does not know it.
            ValueError: The hub's settings do not contain it.
        """
        if isinstance(where, PlaceBase):
            return await self.place(where.name).ending(job_id)
        answer = await self.gate(where.name).history(job_id)
        return SCHEDULERS[where.scheduler].parse_history(job_id, answer)

    async def log(self, name: str, user: str, job_id: str) -> list[str]:
        """Return the last lines of a job's log.

        Raises:
            Unanswered: The cluster or the place does not answer.
            ValueError: The hub's settings do not contain it.
        """
        if self.is_place(name):
            return list(await self.place(name).log(job_id, user))
        return await self.gate(name).log(user, job_id)

    def background(self, what: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a task in the background, and log its exception if it fails. Return the task.

        Args:
            what: The log message for a failure.
            work: The task.
        """

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()):
                log.error("%s: %r", what, error)

        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(done)
        return task

    @property
    def api_ca(self) -> str:
        """The certificate authority of the API endpoint for jobs, as PEM text. Empty if the nodes already trust it.

        Raises:
            OSError: The file that the settings name is not readable.
        """
        path = self.settings.get("api_ca_file")
        return Path(path).read_text() if path else ""

    def open_ledger(self, db: Session) -> Ledger:
        """Return the ledger in JupyterHub's database. It is opened at the first call.

        Raises:
            SQLAlchemyError: The database cannot be read or written.
        """
        if self._ledger is None or self._ledger.db is not db:
            self._ledger = Ledger(db)
        return self._ledger

    @property
    def ledger(self) -> Ledger:
        """The record of the hub's sessions, which ``open_ledger`` has opened."""
        if self._ledger is None:
            raise RuntimeError("the hub's ledger is used before the database is open")
        return self._ledger

    @property
    def host(self) -> str:
        """The host name of the service."""
        return urlsplit(self.settings["public_url"]).hostname or "hub"

    @property
    def hub_name(self) -> str:
        """The hub's name in the tags of its jobs, ``HOST~DATABASE``. It distinguishes them from other hubs' jobs."""
        return f"{self.host}~{self.ledger.database}"

    def template_dir(self) -> Path | None:
        """Return the directory of the site's batch script templates, or None to search the default directories."""
        directory = self.settings.get("batch_template_dir")
        return Path(directory) if directory else None


@functools.cache
def runtime(path: str = DEFAULT_SETTINGS) -> Runtime:
    """Return the runtime of this process. The settings file is read once.

    Raises:
        OSError, ValueError: The settings file is missing, or is not JSON.
    """
    return Runtime(json.loads(Path(path).read_text()))
