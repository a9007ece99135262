"""The spawner of a session in a swarm, on the basis of dockerspawner's ``SwarmSpawner``.

dockerspawner creates the service; this class fills in its traits and hooks. The secrets are in a secret of the swarm,
which is created first, because a service names it. If the hub is killed in between, the restarted hub removes the
secret: it is a job that was never started.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from docker.errors import APIError
from dockerspawner import SwarmSpawner
from traitlets import Unicode

from hpchub.places.docker import spec as docker_spec
from hpchub.places.docker.connection import PATIENCE, reason_of
from hpchub.places.docker.spawner import ContainerSpawner
from hpchub.places.interface import job_name
from hpchub.places.swarm import spec
from hpchub.schedulers import Unanswered

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpchub.model.places import SwarmPlace


class SwarmSessionSpawner(ContainerSpawner, SwarmSpawner):  # type: ignore[misc]
    """A spawner that runs one session in a service of its own."""

    # dockerspawner derives this trait from the image; here, it is the session's.
    object_name = Unicode()

    @property
    def place(self) -> SwarmPlace:
        """The session's place."""
        place: SwarmPlace = self.cluster
        return place

    @property
    def mounts(self) -> list[dict[str, Any]]:
        """No mounts: those of the session are in ``extra_task_spec``."""
        return []

    async def create(self, session: str, secrets: Mapping[str, str]) -> None:
        """Create the secret and the service. See ``PlaceSpawner.create``."""
        image = self.place.image(self.profile.image)
        if image is None:
            raise docker_spec.explain(self.place.name, f"no such image: {self.profile.image}")
        account = await self.account()
        self.image, self.use_internal_ip = image.image, True
        self.object_name = self.object_id = name = job_name(session)
        marks = spec.session_labels(self.profile, self.runtime.hub_name, self.user.name, session)
        content = docker_spec.message(await self.files(session, secrets))
        try:
            await self._docker_connection.connect()
            secret = await self.docker("create_secret", name, content, labels=marks)
            service = spec.service(
                self.place,
                self.profile,
                hub=self.runtime.hub_name,
                user=self.user.name,
                session=session,
                ids=(account.uid, account.gid),
                groups=account.groups,
                port=self.port,
                secret=str(secret["ID"]),
            )
            task = service["TaskTemplate"]
            self.extra_task_spec = {
                "container_spec": task["ContainerSpec"],
                "resources": task["Resources"],
                "restart_policy": task["RestartPolicy"],
                "placement": task["Placement"],
                "networks": task["Networks"],
                "log_driver": task["LogDriver"],
            }
            self.extra_create_kwargs = {
                "labels": service["Labels"],
                "mode": service["Mode"],
                "endpoint_spec": service["EndpointSpec"],
            }
            async with asyncio.timeout(PATIENCE):
                await self.create_object()
        except APIError as error:
            await self._clean_up(session)
            raise docker_spec.explain(self.place.name, reason_of(error)) from None
        except TimeoutError:
            raise Unanswered(f"{self.place.name} has created no task for {name}") from None

    async def _clean_up(self, session: str) -> None:
        """Remove what was created. If this fails, the orphan collector removes it."""
        with suppress(Unanswered):
            await self.connection.remove(job_name(session), user=self.user.name, session=session)
