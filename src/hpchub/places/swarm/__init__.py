"""Places of the kind ``swarm``: one service of Docker for each session, on one of several hosts."""

from __future__ import annotations

from hpchub.places.interface import Kind
from hpchub.places.swarm.spec import plan

KIND = Kind("hpchub.places.swarm.connection:SwarmConnection", "hpchub.places.swarm.spawner:SwarmSessionSpawner", plan)
