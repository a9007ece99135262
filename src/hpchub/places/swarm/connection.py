"""The hub's connection to a manager of a swarm. Its calls are those of ``DockerConnection``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from docker.errors import APIError, NotFound

from hpchub.places.docker.connection import LOG_LINES, DockerConnection, reason_of
from hpchub.places.interface import LABEL_HUB, job_name
from hpchub.places.swarm import spec
from hpchub.remote.gate import redact
from hpchub.schedulers import Cause, Ending, Job, Unanswered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hpchub.model.places import PlaceBase, SwarmPlace


class SwarmConnection(DockerConnection):
    """The connection to one swarm."""

    terms = spec.TERMS
    place: SwarmPlace  # type: ignore[assignment]

    def __init__(self, entry: PlaceBase, settings: Mapping[str, Any]) -> None:
        super().__init__(entry, settings)
        self._endings: dict[str, Ending] = {}

    async def _ask(self, method: str, *args: Any, **options: Any) -> Any:
        """Call a method that changes nothing.

        Raises:
            NotFound: The manager states that the object does not exist.
            Unanswered: There is no other answer.
        """
        try:
            return await self.call(method, *args, **options)
        except NotFound as error:
            kind = method.removeprefix("inspect_")
            if args and reason_of(error).lower() == f"{kind} {args[0]} not found":
                raise
            raise Unanswered(f"{self.place.name}: {reason_of(error)}") from None
        except APIError as error:
            raise Unanswered(f"{self.place.name}: {reason_of(error)}") from None

    async def _list(self, method: str, **options: Any) -> list[Any]:
        found = await self._ask(method, executor=self.polls, **options)
        if not isinstance(found, list):
            raise Unanswered(f"{self.place.name} does not answer with a list of {method}")
        return found

    async def _inspect(self, job_id: str) -> dict[str, Any] | None:
        """Return the description of a service, or None if the manager states that there is none."""
        try:
            found: dict[str, Any] = await self._ask("inspect_service", job_id)
        except NotFound:
            return None
        return {**found, "Config": {"Labels": found.get("Spec", {}).get("Labels")}}

    async def _tasks(self) -> tuple[list[Any], list[Any]]:
        """Return the tasks of all sessions, and the nodes."""
        return await self._list("tasks", filters={"label": LABEL_HUB}), await self._list("nodes")

    async def jobs(self) -> dict[str, Job]:
        """Return the services of all hubs, with four requests. See ``Connection.jobs``."""
        # A secret is older than its service.
        secrets = await self._list("secrets", filters={"label": LABEL_HUB})
        services = await self._list("services", filters={"label": LABEL_HUB})
        return spec.jobs_of(secrets, services, *await self._tasks())

    async def find(self, job_id: str) -> Job | None:
        """Return one service. See ``Connection.find``."""
        secrets = await self._list("secrets", filters={"label": LABEL_HUB})
        service = await self._inspect(job_id)
        return spec.jobs_of(secrets, [service] if service else [], *await self._tasks()).get(job_id)

    async def end(self, job_id: str, *, user: str, session: str) -> None:
        """Remove a service that goes on after its time limit, because it cannot stop and stay.

        See ``Connection.end``.
        """
        if await self._own(job_id, user, session):
            self._endings[job_id] = Ending(Cause.TIME_LIMIT, "the service had to end it")
            await self._confirmed("remove_service", job_id)

    async def remove(self, job_id: str, *, user: str, session: str) -> None:
        """Remove a service with its secret. See ``Connection.remove``."""
        if job_id != job_name(session):
            raise Unanswered(f"{job_id} in {self.place.name} is not the service of session {session} of {user}")
        if await self._own(job_id, user, session):
            await self._confirmed("remove_service", job_id)
        await self._confirmed("remove_secret", job_id)
        self._endings.pop(job_id, None)

    async def ending(self, job_id: str) -> Ending:
        """Return how a service ended. See ``Connection.ending``."""
        service = await self._inspect(job_id)
        if service is None:
            if job_id in self._endings:
                return self._endings[job_id]
            raise Unanswered(f"{self.place.name} does not know {job_id} any more")
        tasks, nodes = await self._tasks()
        return spec.ending_of(service, spec.newest(service, tasks), {str(each["ID"]): each for each in nodes})

    async def log(self, job_id: str, user: str) -> Sequence[str]:
        """Return the last lines of a service's output, without secrets. See ``Connection.log``."""
        output = await self._run(lambda: self._read_log(job_id))
        return redact(output.decode(errors="replace")).splitlines()[-LOG_LINES:]

    def _read_log(self, job_id: str) -> bytes:
        try:
            found = self._connect().service_logs(job_id, stdout=True, stderr=True, tail=LOG_LINES, is_tty=False)
        except APIError as error:
            raise Unanswered(f"{self.place.name}: {reason_of(error)}") from None
        return found if isinstance(found, bytes) else b"".join(found)

    async def _find_obstacles(self) -> list[str]:
        name, network, role = self.place.name, self.place.network, "run playbooks/places.yml"
        try:
            found = await self._ask("inspect_network", network)
            nodes = await self._ask("inspect_network", f"{network}-nodes")
        except NotFound:
            return [f"{name} has no Docker network {network} for a swarm; {role}"]
        if spec.missing_isolation(found, nodes):
            return [f"the Docker network {network} of {name} lets containers reach each other; {role}"]
        return []

    async def check(self) -> str:
        """Ask for the version and the nodes. See ``Connection.check``."""
        version = await self._ask("version")
        jobs = await self.jobs()
        nodes = await self._list("nodes")
        ready = [each for each in nodes if each["Status"]["State"] == "ready" and _is_active(each)]
        if not ready:
            raise Unanswered("no node of the swarm is ready and active; see docker node ls on a manager")
        if obstacles := await self.obstacles():
            raise Unanswered("; ".join(obstacles))
        return (
            f"Docker {version.get('Version', 'unknown')} answers, lists {len(jobs)} sessions,"
            f" and {len(ready)} of {len(nodes)} nodes are ready"
        )


def _is_active(node: Mapping[str, Any]) -> bool:
    return bool(node["Spec"]["Availability"] == "active")
