"""The spawner of a session in a place. Each kind of place combines it with the spawner of a package."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traitlets import Float

from hpchub.clusters.versions import NOTEBOOK_MODULES
from hpchub.hub import job_events as events
from hpchub.hub.backend import Backend
from hpchub.hub.session_spawner import SessionSpawner
from hpchub.places import kind_of
from hpchub.places.accounts import ask_for_account
from hpchub.places.interface import PROGRAM, Refused, secret_path
from hpchub.remote import launcher
from hpchub.schedulers import Unanswered, job_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from hpchub.clusters.poller import BulkPoller
    from hpchub.hub.runtime import Runtime
    from hpchub.hub.session_state import Context, SessionState
    from hpchub.places.accounts import Account
    from hpchub.places.interface import Connection
    from hpchub.schedulers.terms import Terms


class PlaceBackend(Backend):
    """A place.

    Args:
        context: The facts that do not change during the session.
        runtime: The objects that all spawners of the hub share.
        create: Creates and starts the job of the session; see ``PlaceSpawner.create``.
    """

    def __init__(
        self, context: Context, runtime: Runtime, create: Callable[[str, Mapping[str, str]], Awaitable[None]]
    ) -> None:
        super().__init__(context, runtime)
        self._create = create

    @property
    def poller(self) -> BulkPoller:
        """See ``Backend``."""
        return self.runtime.poller(self.context.cluster.name)

    @property
    def timeout(self) -> float:
        """See ``Backend``."""
        return self.runtime.place(self.context.cluster.name).timeout

    async def submit(self, state: SessionState, environment: Callable[[], Mapping[str, str]]) -> events.Event:
        """Create and start the session's job."""
        try:
            await self._create(state.session, environment())
        except Refused as error:
            return events.SubmissionRefused(error.failure, error.note)
        except Unanswered as error:
            return events.SubmissionUnanswered(str(error))
        return events.SubmissionAccepted(job_name(state.session))


class PlaceSpawner(SessionSpawner):
    """A spawner that runs one session in a place."""

    overtime = Float(
        60.0,
        config=True,
        help="How long after its time limit the hub itself ends a session, in seconds. The place should have done it.",
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._ended_late = False

    @property
    def connection(self) -> Connection:
        """The hub's connection to the place.

        Raises:
            ValueError: The profile list no longer contains the place.
        """
        return self.runtime.place(self.cluster.name)

    async def create(self, session: str, secrets: Mapping[str, str]) -> None:
        """Create and start the session's job. See ``hpchub.places.interface`` for the rules.

        Args:
            session: The session's name. It has been saved already.
            secrets: The environment of the notebook server, for the file ``secret_path(session)``.

        Raises:
            Refused: There is no job, and the place gives the reason.
            Unanswered: The job may exist or not. The hub searches for it.
        """
        raise NotImplementedError

    async def account(self) -> Account:
        """Return the account of the user.

        Raises:
            Refused: There is no such account, it belongs to the system, or the directory of accounts does not answer.
        """
        minimum = int(self.runtime.settings.get("access", {}).get("minimum_uid", 1000))
        return await ask_for_account(self.user.name, minimum)

    async def files(self, session: str, secrets: Mapping[str, str]) -> dict[str, str]:
        """Return the files of a session by their names; see ``files_of``."""
        extension = await asyncio.to_thread(lambda: self.runtime.lab_files)  # compiling the texts takes a moment
        return files_of(session, secrets, extension)

    # -- what ``SessionSpawner`` needs

    @property
    def terms(self) -> Terms:
        """The terms of the place."""
        return kind_of(self.cluster.kind).connection.terms

    def make_backend(self, context: Context) -> Backend:
        """Return how the driver reaches the place."""
        return PlaceBackend(context, self.runtime, self.create)

    def session_environment(self) -> dict[str, str]:
        """Return the environment of the notebook server, with secrets, for the session's file."""
        return super().session_environment() | {"HPCHUB_JUPYTERHUB": importlib.metadata.version("jupyterhub")}

    async def find_obstacles(self) -> Sequence[object]:
        """Return why no session can start in the place."""
        try:
            return await self.connection.obstacles()
        except (Unanswered, ValueError) as error:
            self.log.warning("%s: it is unknown whether sessions can start: %s", self._log_name, error)
            return ()

    async def poll(self) -> int | None:
        """Return 1 if the session is over, else None. End a session that goes on after its time limit."""
        ends = self.driver.state.ends_at
        if ends and self.job_id and not self._ended_late and time.time() > ends + self.overtime:
            self._ended_late = True
            self.log.warning("%s: %s goes on after its time limit; ending it", self._log_name, self.job_id)
            end = self._end_late(self.session)
            self.runtime.background(f"Cannot end {self.job_id}, which goes on after its time limit", end)
        return await super().poll()

    async def _end_late(self, session: str) -> None:
        try:
            await self.connection.end(self.job_id, user=self.user.name, session=session)
        except (Unanswered, ValueError):
            self._ended_late = False  # the next poll tries again
            raise


def files_of(session: str, secrets: Mapping[str, str], extension: str) -> dict[str, str]:
    """Return the files of a session by their names: its secrets, the launcher with its modules, and the extension.

    An image needs no file of hpchub.

    Args:
        session: The session's name.
        secrets: The environment of the notebook server.
        extension: The files for JupyterLab, as ``Runtime.lab_files`` returns them.
    """
    files = {Path(secret_path(session)).name: json.dumps(dict(secrets)), PROGRAM: Path(launcher.__file__).read_text()}
    files[launcher.EXTENSION] = extension
    for module in NOTEBOOK_MODULES[1:]:
        path = Path(str(module.__file__))
        files[path.name] = path.read_text()
    return files
