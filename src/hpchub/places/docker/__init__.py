"""Places of the kind ``docker``: one container for each session."""

from __future__ import annotations

from hpchub.places.docker.spec import plan
from hpchub.places.interface import Kind

KIND = Kind(
    "hpchub.places.docker.connection:DockerConnection", "hpchub.places.docker.spawner:DockerSessionSpawner", plan
)
