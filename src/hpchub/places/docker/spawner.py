"""The spawner of a session in a Docker container, on the basis of dockerspawner.

dockerspawner creates and starts the container; this class fills in its traits and hooks. The secrets follow on the
standard input of the container, which costs no time and leaves no trace in the engine.

This class does not use the methods ``start``, ``poll`` and ``stop`` of dockerspawner. They know neither a hub that
restarts nor an engine that does not answer.
"""

from __future__ import annotations

import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from docker.errors import APIError
from dockerspawner import SystemUserSpawner
from traitlets import Unicode

from hpchub.places.docker import spec
from hpchub.places.docker.connection import reason_of
from hpchub.places.interface import job_name
from hpchub.places.spawner import PlaceSpawner
from hpchub.schedulers import Unanswered

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpchub.model.places import DockerPlace, EnginePlace
    from hpchub.places.docker.connection import DockerConnection

ATTEMPTS = 5
"""How many ports the hub tries if another container or program of the host has the first one."""


class ContainerSpawner(PlaceSpawner):
    """What the spawners of sessions in containers have in common."""

    @property
    def place(self) -> EnginePlace:
        """The session's place."""
        place: EnginePlace = self.cluster
        return place

    # -- dockerspawner's access to the engine

    @property
    def client(self) -> Any:
        """The place's client. dockerspawner would use one client for all places."""
        return self._docker_connection.client

    @property
    def _docker_connection(self) -> DockerConnection:
        connection: DockerConnection = self.connection  # type: ignore[assignment]
        return connection

    async def docker(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the client; see ``DockerConnection.call``."""
        return await self._docker_connection.call(method, *args, **kwargs)

    # -- dockerspawner's hooks for the description of the container

    def get_env(self) -> dict[str, str]:
        """Return the environment of the container, which everybody with access to the engine can read: no secrets."""
        return spec.environment(self.place, self.user.name)

    async def get_command(self) -> list[str]:
        """Return no command, because the entry point contains it all."""
        return []

    @property
    def volume_mount_points(self) -> list[str]:
        """No volumes: a session could fill the disk of the host with them."""
        return []

    @property
    def volume_binds(self) -> dict[str, Any]:
        """No binds, because the engine would create their missing sources as root."""
        return {}

    @property
    def ports(self) -> tuple[int, int]:
        """The port of the notebook server, which is the same inside and outside of the container."""
        return self.port, self.port

    async def submit(self) -> None:
        """Choose a port, then create and start the container."""
        self.port = self._choose_port()
        await super().submit()

    def _choose_port(self) -> int:
        ports = self.runtime.settings["notebook_ports"]
        return random.randint(ports["first"], ports["last"])  # noqa: S311 not a secret

    async def _clean_up(self, session: str) -> None:
        """Remove a container that was not started. If this fails, the orphan collector removes it."""
        with suppress(Unanswered):
            await self.connection.remove(job_name(session), user=self.user.name, session=session)


class DockerSessionSpawner(ContainerSpawner, SystemUserSpawner):  # type: ignore[misc]
    """A spawner that runs one session in a container of its own."""

    # dockerspawner derives this trait from the image; here, it is the session's.
    object_name = Unicode()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.remove = False  # an ended container explains its end; the orphan collector removes it
        self._ids = (0, 0)
        self._groups: tuple[int, ...] = ()
        self._secrets: dict[str, str] = {}

    @property
    def place(self) -> DockerPlace:
        """The session's place."""
        place: DockerPlace = self.cluster
        return place

    @property
    def mounts(self) -> list[dict[str, Any]]:
        """The home and the other directories. This property replaces dockerspawner's trait."""
        return spec.mounts(self.place, self.user.name)

    # -- the start

    async def create(self, session: str, secrets: Mapping[str, str]) -> None:
        """Create the container, start it, and send its files. See ``PlaceSpawner.create``."""
        image = self.place.image(self.profile.image)
        if image is None:
            raise spec.explain(self.place.name, f"no such image: {self.profile.image}")
        account = await self.account()
        self._ids, self._groups = (account.uid, account.gid), account.groups
        self._secrets = dict(secrets)
        self.image = image.image
        self.object_name = self.object_id = job_name(session)
        self.use_internal_ip, self.network_name = self.place.is_local, self.place.network
        self.host_ip = self.place.published_at or "127.0.0.1"
        self.cpu_limit, self.mem_limit = float(self.profile.cores), self.profile.memory_mib * 1024 * 1024
        try:
            await self._docker_connection.connect()
            await self._create(session)
        except APIError as error:
            await self._clean_up(session)
            raise spec.explain(self.place.name, reason_of(error)) from None

    async def _create(self, session: str) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            self.extra_create_kwargs = spec.create_options(
                self.place,
                self.profile,
                hub=self.runtime.hub_name,
                user=self.user.name,
                session=session,
                ids=self._ids,
            )
            self.extra_host_config = spec.host_options(self.place, self.profile, self._ids, self._groups)
            if self.place.published_at:
                self.extra_host_config["port_bindings"] = {self.port: (self.place.published_at, self.port)}
            await self.create_object()
            try:
                async with self._docker_connection.standard_input(self.object_name) as send:
                    await self.start_object()
                    await send(await self._message(session))
            except APIError as error:
                if attempt == ATTEMPTS or not spec.PORT_TAKEN.search(reason_of(error)):
                    raise
                await self._clean_up(session)
                self.port = self._choose_port()
                self._secrets.update(HPCHUB_PORT_FIRST=str(self.port), HPCHUB_PORT_LAST=str(self.port))
            else:
                return

    async def _message(self, session: str) -> bytes:
        return spec.message(await self.files(session, self._secrets))
