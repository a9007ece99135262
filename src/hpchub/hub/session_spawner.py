"""The spawner of one session: everything that does not depend on what runs the session's job.

``JobSession`` makes the decisions, and ``JobDriver`` does the I/O. ``JobSpawner`` runs a session as a batch job, and
``hpchub.places.spawner.PlaceSpawner`` runs it in a place.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from jupyterhub.spawner import Spawner
from traitlets import Bool, Float, Instance, Unicode

from hpchub.hub.adoption import Statement, digest
from hpchub.hub.events import ORIGIN, SessionEnded, StartFailed, StartRequested
from hpchub.hub.job_driver import JobDriver
from hpchub.hub.progress import Progress, progress_of
from hpchub.hub.runtime import Runtime, runtime
from hpchub.hub.session_events import facts
from hpchub.hub.session_state import Context
from hpchub.hub.session_texts import INCOMPATIBLE, NO_CERTIFICATE
from hpchub.hub.start_error import StartError
from hpchub.model.entries import Profile
from hpchub.model.entry import Entry
from hpchub.schedulers import JobState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from hpchub.hub.backend import Backend
    from hpchub.hub.events import Origin
    from hpchub.schedulers.terms import Terms

_JOB_VARIABLES = ("JUPYTERHUB_", "HPCHUB_")
"""Prefixes of the environment variables that the job receives."""


class SessionSpawner(Spawner):  # type: ignore[misc]
    """A spawner that runs one session. A subclass knows what runs its job."""

    settings_file = Unicode(help="The hub's settings file; see ``hpchub.hub.runtime``.")
    cluster: Any = Instance(Entry, help="The session's cluster or place.")
    profile = Instance(Profile, help="The profile that the session was granted.")
    without_settings = Bool(help="Whether the session starts without the user's own settings of Jupyter and IPython.")

    launch_timeout = Float(
        360,
        config=True,
        help="How long a notebook server may take to start after its job has started, in seconds. A restart of the hub"
        " restarts the timeout.",
    )
    stop_timeout = Float(
        30, config=True, help="How long to retry a failed cancellation, and then to wait for the job's end, in seconds."
    )
    startup_poll_interval = Float(
        1.5, config=True, help="How often to check the scheduler's answer while a session starts, in seconds."
    )
    poll_patience = Float(
        2.0, config=True, help="How long a poll may block, in seconds. Pages of the hub wait for polls."
    )
    answer_max_age = Float(
        20.0, config=True, help="The maximum age of the scheduler's answer that a poll uses, in seconds."
    )

    def __init__(self, **kwargs: Any) -> None:
        kwargs.pop("server", None)  # wrapspawner passes it, but JupyterHub's spawners no longer accept it
        super().__init__(**kwargs)
        context = Context(
            hub=self.runtime.hub_name,
            user=self.user.name,
            cluster=self.cluster,
            profile=self.profile,
            scheduler=self.terms,
            poll_interval=self.startup_poll_interval,
            launch_timeout=self.launch_timeout,
        )
        self.driver = JobDriver(self.make_backend(context), self.runtime, log=self.log, label=self._log_name)
        self._unfinished_poll: asyncio.Future[JobState] | None = None
        self.session_files: dict[str, str] = {}
        self._ended = ""

    @property
    def runtime(self) -> Runtime:
        """The objects that all spawners of this hub share."""
        return runtime(self.settings_file)

    @property
    def session(self) -> str:
        """The session's name, or empty if there is no session."""
        return self.driver.state.session

    @property
    def job_id(self) -> str:
        """The job's id, or empty until it is known."""
        return self.driver.state.job_id

    # -- what a subclass knows

    @property
    def terms(self) -> Terms:
        """The terms in which the cluster's scheduler or the place speaks of jobs."""
        raise NotImplementedError

    def make_backend(self, context: Context) -> Backend:
        """Return how the driver reaches what runs the job."""
        raise NotImplementedError

    async def find_obstacles(self) -> Sequence[object]:
        """Return why no session can start, for the log: the versions of parts that do not work together."""
        return ()

    async def ask_doctor(self) -> None:
        """Ask what would make the job fail. By default, nobody knows it.

        Raises:
            StartError: The job would fail (409).
        """

    # -- the environment of the notebook server

    def session_environment(self) -> dict[str, str]:
        """Return the environment of the notebook server. It contains secrets.

        The variables that the classes of other packages add are omitted.

        Raises:
            StartError: The hub cannot create the server's certificate (503).
        """
        env = {
            name: str(value)
            for name, value in Spawner.get_env(self).items()
            if name.startswith(_JOB_VARIABLES) and value is not None
        }
        first, last = self.ports
        try:
            identity = self.runtime.authority.issue(
                self.user.name, self._statement(env.get("JUPYTERHUB_API_TOKEN", ""))
            )
        except (OSError, ValueError) as error:
            self.log.error("%s: cannot create the server's certificate: %s", self._log_name, error)
            raise StartError.of(NO_CERTIFICATE) from None
        env.update(
            HPCHUB_SESSION=self.session,
            HPCHUB_PORT_FIRST=str(first),
            HPCHUB_PORT_LAST=str(last),
            HPCHUB_INTERFACE=self.profile.interface,
            HPCHUB_DEFAULT_KERNEL=self.profile.default_kernel,
            HPCHUB_DIRECTORY=self.profile.working_directory,
            HPCHUB_CORES=str(self.profile.cores),
            HPCHUB_MEMORY=str(self.profile.memory_mib),
            HPCHUB_WITHOUT_SETTINGS="1" if self.without_settings else "",
            HPCHUB_API_CA=self.runtime.api_ca,
            HPCHUB_TLS_KEY=identity.key,
            HPCHUB_TLS_CERTIFICATE=identity.certificate,
            HPCHUB_TLS_CLIENTS=identity.clients,
        )
        # The launcher makes files of these, not environment variables. An older launcher refuses such names.
        env |= {f"FILE:{name}": content for name, content in self.session_files.items()}
        self.session_files = {}
        return env

    @property
    def ports(self) -> tuple[int, int]:
        """The first and the last port on which the notebook server may listen."""
        ports = self.runtime.settings["notebook_ports"]
        return ports["first"], ports["last"]

    def _statement(self, token: str) -> str:
        """Return what the hub states about this session in the server's certificate; see ``hpchub.hub.adoption``."""
        return Statement(
            hub=self.runtime.hub_name,
            user=self.user.name,
            session=self.session,
            token=digest(token),
            profile=self.profile.model_dump(mode="json", exclude_defaults=True),
            server=self.name,
        ).text

    # -- JupyterHub's interface

    async def start(self) -> str:
        """Submit the job, wait until its notebook server is ready, and return the server's URL.

        The session is saved before the job is submitted, so that the next hub process finds it if the hub stops.

        Raises:
            StartError: The start has failed, or parts of the service have versions that do not work together, or the
                doctor has found something that would make the job fail.
        """
        await self._check_versions()
        await self.ask_doctor()
        self.ip, self.port = "0.0.0.0", 0  # noqa: S104 the proxy runs on another host; the launcher chooses the port
        origin = ORIGIN.get()
        self.driver.begin(origin.at or time.time())
        self._announce_start(origin)
        await self.submit()
        return await self.driver.follow()

    async def submit(self) -> None:
        """Submit the job; see ``JobDriver.submit``."""
        await self.driver.submit(self.session_environment)

    async def job_state(self) -> JobState:
        """Return the job's state; see ``JobDriver.observe``."""
        return await self.driver.observe(self.answer_max_age)

    async def _check_versions(self) -> None:
        """Check that the parts which the start needs work with this hub.

        Raises:
            StartError: They do not (503). The log names the versions and the playbook.
        """
        obstacles = await self.find_obstacles()
        for skew in obstacles:
            self.log.error("%s: no session can start on %s: %s", self._log_name, self.cluster.name, skew)
        if obstacles:
            raise StartError.of(INCOMPATIBLE)

    def _announce_start(self, origin: Origin) -> None:
        """Announce the start. An error must not affect it."""
        try:
            event = StartRequested(
                at=self.driver.state.requested,
                session=facts(self.driver.state),
                groups=tuple(sorted(group.name for group in self.user.groups)),
                server=self.name,
                origin=origin,
            )
        except Exception:
            self.log.exception("%s: cannot announce the start", self._log_name)
        else:
            self.runtime.events.emit(event)

    def announce_end(self, end: StartFailed | SessionEnded) -> None:
        """Announce the end of the session, unless it has been announced."""
        if self._ended != end.session.name:
            self._ended = end.session.name
            self.runtime.events.emit(end)

    async def adopt(self) -> str:
        """Continue a session of an earlier hub process. Return its server's URL once the server can be reached.

        Raises:
            StartError: The job has ended, or the start has failed.
        """
        return await self.driver.follow(after_restart=True)

    async def poll(self) -> int | None:
        """Return 1 if the session is over, else None.

        JupyterHub takes an exception during its start for the end of the session, so this method never raises one.
        Pages wait for this method, so it does not wait for a slow scheduler. The next poll uses the late answer.
        """
        poll = self._unfinished_poll or asyncio.ensure_future(self.job_state())
        done, _ = await asyncio.wait({poll}, timeout=self.poll_patience)
        self._unfinished_poll = None if done else poll
        if not done:
            return None
        try:
            status = poll.result()
        except Exception:
            self.log.exception("%s: cannot query job %s; its session continues", self._log_name, self.job_id)
            return None
        return 1 if status is JobState.ENDED else None

    async def stop(self, now: bool = False) -> None:
        """Cancel the job and, unless ``now`` is true, wait until it has ended.

        JupyterHub forgets the session in any case. If the cancellation fails, the orphan collector cancels the job.
        """
        await self.driver.stop(self.stop_timeout, wait=not now)

    def abandon(self) -> None:
        """Forget the session at once, and cancel its job in the background."""
        if self.job_id:
            cancellation = self.driver.request_cancellation()
            self.runtime.background(f"Job {self.job_id} is left to the orphan collector", cancellation)
        self.clear_state()

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Yield an event whenever the progress has changed."""
        shown: Progress | None = None
        while True:
            state = self.driver.state
            if (now := progress_of(state)) != shown:
                shown = now
                yield {"progress": state.percent, "message": state.message}
            await asyncio.sleep(0.5)

    # -- state that survives a restart of the hub

    def get_state(self) -> dict[str, Any]:
        """Return ``{"session", "job_id", "submitted", "host", "port"}``, or an empty dictionary without a session."""
        return self.driver.state.saved

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore a session; see ``JobDriver.restore``."""
        self.driver.restore(state)

    def record(self) -> None:
        """Record the session in the hub's ledger. The caller commits.

        Raises:
            SQLAlchemyError: The database cannot be written.
        """
        if self.session:
            self.runtime.ledger.record(self.session, **self._entry())

    def _entry(self) -> dict[str, str]:
        return {"user": self.user.name, "cluster": self.cluster.name, "job_id": self.job_id}

    def clear_state(self) -> None:
        """Forget the session, and record that it is over.

        JupyterHub calls this method when a session has ended or when it gives a session up, and then commits.
        """
        if self.session:
            self.runtime.ledger.end(self.session, **self._entry())
        # The methods of batchspawner and other packages would clear what they do not own here.
        Spawner.clear_state(self)
        self.driver.forget()
