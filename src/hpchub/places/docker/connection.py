"""The hub's connection to a Docker engine. All calls run in threads with timeouts: a host that hangs blocks nothing."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
import requests
from docker.errors import APIError, DockerException, NotFound
from docker.tls import TLSConfig

from hpchub.places.docker import spec
from hpchub.places.interface import LABEL_HUB, Connection, job_name
from hpchub.remote.gate import redact
from hpchub.schedulers import Ending, Job, Unanswered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from hpchub.model.places import DockerPlace, PlaceBase
    from hpchub.schedulers.terms import Terms

log = logging.getLogger(__name__)

CALL_TIMEOUT = 20.0
"""How long the hub waits for one answer of the engine, in seconds."""
PATIENCE = 45.0
"""How long a call may take in all, with the wait for a free thread, in seconds."""
STOP_TIMEOUT = 5
"""How long the programs of a session may take to end before the engine kills them, in seconds."""
OBSTACLES_AGE = 60.0
"""How old the answer of ``obstacles`` may be, in seconds."""
LOG_LINES = 40
ICC = "com.docker.network.bridge.enable_icc"
DIRECTORY = "/etc/hpchub/places"
"""The directory with the client certificate for each place: ``NAME/ca.pem``, ``cert.pem`` and ``key.pem``."""


def reason_of(error: BaseException) -> str:
    """Return the message of the engine or the connection, as one line."""
    if isinstance(error, APIError):
        return str(error.explanation or error).strip().replace("\n", " ")
    return " ".join(str(error).split()) or type(error).__name__


class DockerConnection(Connection):
    """The connection to one Docker engine.

    Attributes:
        polls: The threads for the queries of the poller. They never wait for other calls.
        calls: The threads for all other calls.
    """

    terms: Terms = spec.TERMS
    timeout = PATIENCE

    def __init__(self, entry: PlaceBase, settings: Mapping[str, Any]) -> None:
        super().__init__(entry, settings)
        self.place: DockerPlace = entry  # type: ignore[assignment]
        self.polls = ThreadPoolExecutor(2, thread_name_prefix=f"{entry.name}-polls")
        self.calls = ThreadPoolExecutor(8, thread_name_prefix=entry.name)
        self._client: docker.APIClient | None = None
        self._obstacles: tuple[float, list[str]] = (0.0, [])

    # -- calls

    def _connect(self) -> docker.APIClient:
        """Return a client. The first call asks the engine for its version."""
        if self._client is None:
            options: dict[str, Any] = {}
            if not self.place.is_local:
                directory = Path(self.settings.get("places_directory", DIRECTORY), self.place.name)
                options["tls"] = TLSConfig(
                    client_cert=(str(directory / "cert.pem"), str(directory / "key.pem")),
                    ca_cert=str(directory / "ca.pem"),
                    verify=True,
                )
            client = docker.APIClient(
                base_url=self.place.url, version="auto", timeout=CALL_TIMEOUT, max_pool_size=10, **options
            )
            client.trust_env = False  # no proxy, and no file with passwords, comes between the hub and the engine
            self._client = client
        return self._client

    @property
    def client(self) -> docker.APIClient:
        """The client, after ``connect``."""
        assert self._client is not None  # noqa: S101 the callers connect first
        return self._client

    async def connect(self) -> None:
        """Connect to the engine.

        Raises:
            Unanswered: The engine cannot be reached, or has a version that the client does not know.
        """
        if self._client is None:
            await self.call("ping")

    async def call(self, method: str, *args: Any, executor: ThreadPoolExecutor | None = None, **options: Any) -> Any:
        """Call a method of docker's ``APIClient`` in a thread.

        Raises:
            APIError: The engine refused the call.
            Unanswered: There was no answer, so the call may have had an effect.
        """
        return await self._run(lambda: getattr(self._connect(), method)(*args, **options), executor)

    async def _run(self, function: Callable[[], Any], executor: ThreadPoolExecutor | None = None) -> Any:
        """Run a function that asks the engine. See ``call``."""
        future = asyncio.wrap_future((executor or self.calls).submit(function))
        try:
            return await asyncio.wait_for(future, PATIENCE)
        except APIError as error:
            if "client version" in reason_of(error):
                self._client = None  # the engine has been updated; agree on a version again
            raise
        except (requests.RequestException, DockerException, OSError, ValueError, TimeoutError) as error:
            if not isinstance(error, TimeoutError):
                self._client = None
            raise Unanswered(f"the Docker engine of {self.place.name} does not answer: {reason_of(error)}") from None

    @contextlib.asynccontextmanager
    async def standard_input(self, job_id: str) -> AsyncIterator[Callable[[bytes], Awaitable[None]]]:
        """Attach to the standard input of a container that has not started, until the end of the block.

        Yields:
            A function that sends bytes. The engine does not show or store them.

        Raises:
            APIError, Unanswered: See ``call``.
        """
        stream = await self.call("attach_socket", job_id, params={"stdin": 1, "stream": 1})
        # For Unix sockets, docker-py returns a file that can only be read, and no other way to the socket.
        raw: socket.socket = getattr(stream, "_sock", stream)

        async def send(content: bytes) -> None:
            await self._run(functools.partial(raw.sendall, content))

        try:
            yield send
        finally:
            with contextlib.suppress(OSError):
                raw.shutdown(socket.SHUT_RDWR)
            stream.close()
            raw.close()

    async def _inspect(self, job_id: str) -> dict[str, Any] | None:
        """Return the description of a container, or None if the engine states that there is none."""
        try:
            found: dict[str, Any] = await self.call("inspect_container", job_id)
        except NotFound as error:
            if "no such container" in reason_of(error).lower():
                return None
            raise Unanswered(f"{self.place.name}: {reason_of(error)}") from None
        except APIError as error:
            raise Unanswered(f"{self.place.name}: {reason_of(error)}") from None
        return found

    def _job(self, record: Any) -> Job | None:
        return spec.job_of(record, self.place.published_at, self.place.network)

    # -- the interface of places

    async def jobs(self) -> dict[str, Job]:
        """Return the containers of all hubs. See ``Connection.jobs``."""
        try:
            answer = await self.call("containers", all=True, filters={"label": LABEL_HUB}, executor=self.polls)
        except APIError as error:
            raise Unanswered(f"{self.place.name}: {reason_of(error)}") from None
        if not isinstance(answer, list):
            raise Unanswered(f"{self.place.name} does not answer with a list of containers")
        return {job.id: job for record in answer if (job := self._job(record))}

    async def find(self, job_id: str) -> Job | None:
        """Return one container. See ``Connection.find``."""
        record = await self._inspect(job_id)
        return self._job(record) if record else None

    async def _own(self, job_id: str, user: str, session: str) -> bool:
        """Return whether a session's container exists.

        Raises:
            Unanswered: The engine does not answer, or the container is not this session's.
        """
        record = await self._inspect(job_id)
        if record is None:
            return False
        if job_id != job_name(session) or not spec.belongs_to(record, user=user, session=session):
            raise Unanswered(f"the container {job_id} in {self.place.name} is not that of session {session} of {user}")
        return True

    async def end(self, job_id: str, *, user: str, session: str) -> None:
        """Stop a container. See ``Connection.end``."""
        if await self._own(job_id, user, session):
            await self._confirmed("stop", job_id, timeout=STOP_TIMEOUT)

    async def remove(self, job_id: str, *, user: str, session: str) -> None:
        """Stop and remove a container with its volume. See ``Connection.remove``."""
        if await self._own(job_id, user, session):
            await self._confirmed("stop", job_id, timeout=STOP_TIMEOUT)
            await self._confirmed("remove_container", job_id, v=True, force=True)

    async def _confirmed(self, method: str, job_id: str, **options: Any) -> None:
        """Call a method that ends a container. It is no error if the container has gone, or is being removed."""
        try:
            await self.call(method, job_id, **options)
        except APIError as error:
            if error.status_code in (304, 404) or "already in progress" in reason_of(error):
                return
            raise Unanswered(f"{self.place.name}: {reason_of(error)}") from None

    async def ending(self, job_id: str) -> Ending:
        """Return how a container ended. See ``Connection.ending``."""
        record = await self._inspect(job_id)
        if record is None:
            raise Unanswered(f"{self.place.name} does not know {job_id} any more")
        return spec.ending_of(record)

    async def log(self, job_id: str, user: str) -> Sequence[str]:
        """Return the last lines of a container's output, without secrets. See ``Connection.log``."""
        try:
            output = await self.call("logs", job_id, stdout=True, stderr=True, tail=LOG_LINES)
        except APIError as error:
            raise Unanswered(f"{self.place.name}: {reason_of(error)}") from None
        return redact(bytes(output).decode(errors="replace")).splitlines()[-LOG_LINES:]

    async def obstacles(self) -> Sequence[str]:
        """Return what is missing on the host. See ``Connection.obstacles``."""
        asked, found = self._obstacles
        if asked and time.monotonic() - asked < OBSTACLES_AGE:
            return found
        found = await self._find_obstacles()
        # The next start asks again, because somebody may have repaired the fault.
        self._obstacles = (0.0 if found else time.monotonic(), found)
        return found

    async def _find_obstacles(self) -> list[str]:
        name, role = self.place.name, "run playbooks/places.yml"
        try:
            network = await self.call("inspect_network", self.place.network)
        except NotFound:
            return [f"{name} has no Docker network {self.place.network}; {role}"]
        except APIError as error:
            return [f"{name}: {reason_of(error)}"]
        if network.get("Driver") == "bridge" and (network.get("Options") or {}).get(ICC) != "false":
            return [f"the Docker network {self.place.network} of {name} lets containers reach each other; {role}"]
        return []

    async def check(self) -> str:
        """Ask for the version and the images. See ``Connection.check``."""
        try:
            version = await self.call("version")
            for image in self.place.images:
                await self.call("inspect_image", image.image)
        except NotFound as error:
            raise Unanswered(f"an image is missing: {reason_of(error)}; run playbooks/places.yml") from None
        except APIError as error:
            raise Unanswered(reason_of(error)) from None
        jobs = await self.jobs()
        return f"Docker {version.get('Version', 'unknown')} answers, lists {len(jobs)} sessions, and has all images"

    async def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        if client is not None:
            await asyncio.get_running_loop().run_in_executor(None, functools.partial(client.close))
        for executor in (self.polls, self.calls):
            executor.shutdown(wait=False, cancel_futures=True)
