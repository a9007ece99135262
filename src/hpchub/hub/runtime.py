"""What one hub process shares between its users' spawners: settings, profile list, gates and pollers."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from hpchub.clusters.gate_client import Gate, make_gate
from hpchub.clusters.poller import Poller
from hpchub.deploy.profile_file import load_profile_list
from hpchub.hub.certificates import Authority
from hpchub.hub.throttle import Turns
from hpchub.schedulers import SCHEDULERS, Unanswered

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from hpchub.model.profile_list import ProfileList

log = logging.getLogger(__name__)

DEFAULT_SETTINGS = "/etc/hpchub/hub.json"


class Runtime:
    """One hub's settings and its clusters.

    Args:
        settings: the content of the settings file that the role ``jupyterhub`` writes.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.gates: dict[str, Gate] = {
            cluster: make_gate(cluster, entry) for cluster, entry in settings["gates"].items()
        }
        self.authority = Authority(Path(settings["notebook_tls_directory"]))
        self.turns = Turns()
        self._pollers: dict[str, Poller] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._list: ProfileList | None = None
        self._stamp: tuple[int, int, int] | None = None

    @property
    def profiles(self) -> ProfileList:
        """The profile list, read again whenever its file has changed.

        A file that is not well formed changes nothing: the list that was valid last stays, and the log says why.

        Raises:
            OSError, ValueError: there is no valid list yet.
        """
        path = Path(self.settings["profiles_file"])
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            if self._list is None or stamp != self._stamp:
                self._list = load_profile_list(path)
                self._stamp = stamp
        except (OSError, ValueError) as error:
            if self._list is None:
                raise
            log.error("the profile list stays as it was: %s", error)
        return self._list

    def gate(self, cluster: str) -> Gate:
        """A cluster's gate.

        Raises:
            ValueError: the hub has no way to this cluster.
        """
        try:
            return self.gates[cluster]
        except KeyError:
            raise ValueError(f"no cluster {cluster!r}; there are {', '.join(sorted(self.gates))}") from None

    def poller(self, cluster: str, scheduler: str) -> Poller:
        """A cluster's poller, made at its first use."""
        if cluster not in self._pollers:
            self._pollers[cluster] = Poller(SCHEDULERS[scheduler], self.gate(cluster))
        return self._pollers[cluster]

    async def cancel(self, cluster: str, *, user: str, session: str, job_id: str) -> None:
        """Cancel a session's job.

        Raises:
            Unanswered: the scheduler has not said that it is cancelled.
        """
        answer = await self.gate(cluster).request("cancel", user=user, session=session, job_id=job_id)
        if not answer.ok:
            raise Unanswered(str(answer))

    def background(self, what: str, work: Coroutine[Any, Any, None]) -> None:
        """Do something that nobody waits for; the log says when it fails."""

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()):
                log.error("%s: %r", what, error)

        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(done)

    @property
    def api_ca(self) -> str:
        """The PEM text of the certificate authority of the hub's door for jobs; empty where the system knows it.

        Raises:
            OSError: the file that the settings name is not readable.
        """
        path = self.settings.get("api_ca_file")
        return Path(path).read_text() if path else ""

    @property
    def hub_name(self) -> str:
        """The hub's name in its jobs' comments, so that another hub's jobs are never taken for its own."""
        return urlsplit(self.settings["public_url"]).hostname or "hub"

    def template_dir(self) -> Path | None:
        """Where the site's batch script templates are, or None for the package's search."""
        directory = self.settings.get("batch_template_dir")
        return Path(directory) if directory else None


@functools.cache
def runtime(path: str = DEFAULT_SETTINGS) -> Runtime:
    """This process's runtime; the settings file is read once.

    Raises:
        OSError, ValueError: the settings file is missing or not JSON.
    """
    return Runtime(json.loads(Path(path).read_text()))
