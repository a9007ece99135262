"""A place in memory for the unit tests of what all places share. It keeps state, and it can be made to fail."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

from hpchub.hub.job_actions import Fail
from hpchub.places.interface import JOB_ID, Connection, Kind, Refused, comment_of, labels
from hpchub.places.spawner import PlaceSpawner
from hpchub.schedulers import Cause, Ending, Job, JobState, Outlook, Reason, Unanswered, job_name
from hpchub.schedulers.terms import Terms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hpchub.model.entries import Profile
    from hpchub.model.places import PlaceBase

IMAGE = f"example.org/notebook@sha256:{'1' * 64}"
PLACE = {
    "name": "cloud",
    "kind": "docker",
    "url": "unix:///run/docker.sock",
    "networks": ["172.30.0.0/16"],
    "max_cores": 4,
    "max_memory": "8G",
    "max_runtime": "8:00:00",
    "images": [{"name": "small", "image": IMAGE}],
}


class FakeTerms(Terms):
    """The terms of the fake place."""

    name = "fake"
    job_id_pattern = JOB_ID
    propagation = 0.2
    reasons = (("never", Reason("it was never started", Outlook.NEVER, "Please start your session again.")),)


class FakeConnection(Connection):
    """A place that keeps its jobs in a dictionary, which survives the hub."""

    terms = FakeTerms()
    timeout = 0.1
    stored: ClassVar[dict[str, Job]] = {}
    secrets: ClassVar[dict[str, dict[str, str]]] = {}
    faults: ClassVar[set[str]] = set()
    queries: ClassVar[list[str]] = []

    def _called(self, name: str) -> None:
        self.queries.append(name)
        if name in self.faults or "silent" in self.faults:
            raise Unanswered(f"{name} is not answered")

    async def jobs(self) -> dict[str, Job]:
        self._called("jobs")
        return {} if "hides" in self.faults else dict(self.stored)

    async def find(self, job_id: str) -> Job | None:
        self._called("find")
        return self.stored.get(job_id)

    async def end(self, job_id: str, *, user: str, session: str) -> None:
        self._called("end")
        show(session, user, JobState.ENDED)

    async def remove(self, job_id: str, *, user: str, session: str) -> None:
        self._called("remove")
        self.stored.pop(job_id, None)

    async def ending(self, job_id: str) -> Ending:
        self._called("ending")
        return Ending(Cause.OUT_OF_MEMORY)

    async def log(self, job_id: str, user: str) -> Sequence[str]:
        self._called("log")
        return ["hpchub-launch: the last line"]

    async def obstacles(self) -> Sequence[str]:
        self._called("obstacles")
        return ["the network is missing"] if "network" in self.faults else []

    async def check(self) -> str:
        self._called("check")
        return "works"


class FakeSpawner(PlaceSpawner):
    """The spawner of a session in the fake place."""

    async def create(self, session: str, secrets: Mapping[str, str]) -> None:
        faults = FakeConnection.faults
        if "refused" in faults:
            raise Refused(Fail("The place has no room.", reason="refused"), "no space left on device")
        FakeConnection.secrets[session] = dict(secrets)
        if "lost" not in faults:
            show(session, self.user.name, JobState.RUNNING, hub=self.runtime.hub_name)
        if "lost" in faults or "in doubt" in faults:
            raise Unanswered("the answer is lost")


def show(session: str, user: str, state: JobState, hub: str = "", reason: str = "") -> None:
    """Show a session's job in a state."""
    known = FakeConnection.stored.get(job_name(session))
    comment = comment_of(labels(hub, user, session)) if hub else known.comment if known else ""
    host = "127.0.0.1" if state is JobState.RUNNING else ""
    job = Job(job_name(session), state, reason=reason, host=host, name=job_name(session), user=user, comment=comment)
    FakeConnection.stored[job.id] = job


def plan(place: PlaceBase, profile: Profile) -> str:
    """Return the names of the profile and the place."""
    return json.dumps({"place": place.name, "profile": profile.key})


KIND = Kind("fake_place:FakeConnection", "fake_place:FakeSpawner", plan)


def reset() -> dict[str, Any]:
    """Forget all jobs and faults, and return the entry of the place."""
    for each in (FakeConnection.stored, FakeConnection.secrets, FakeConnection.faults, FakeConnection.queries):
        each.clear()
    return PLACE
