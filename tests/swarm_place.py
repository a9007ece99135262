"""A swarm for tests: its place in an inventory, the policy of its gate, and a service that an earlier hub has left."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from hub_app import profile, site

from hpchub.deploy.role_arguments import docker_gates
from hpchub.remote import docker_gate
from hpchub.schedulers import job_name

if TYPE_CHECKING:
    from pathlib import Path

    from swarm_engine import Swarm

IMAGE = f"example.org/notebook@sha256:{'1' * 64}"
BARE = f"sha256:{'2' * 64}"
SESSION = "00000000000000aa"
NAME = job_name(SESSION)
UID = os.getuid() or 4242
"""The uid of Alice. The gate permits no session of root."""


def entry(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """Return a place as an inventory contains it."""
    return {
        "name": "cloud",
        "kind": "swarm",
        "host": "docker2",
        "workers": ["docker3"],
        "url": f"unix://{tmp_path}/gate.sock",
        "networks": ["10.0.0.0/8"],
        "max_cores": 4,
        "max_memory": "8G",
        "max_runtime": "8:00:00",
        "images": [{"name": "wait", "image": IMAGE}, {"name": "bare", "image": BARE, "python": sys.executable}],
        "home": f"{tmp_path.resolve()}/home/{{user}}",
        **changes,
    }


def portal(tmp_path: Path, **changes: Any) -> Any:
    """Return a site with this place."""
    cloudy = profile("cloudy", place="cloud", cores=2, memory="2G", runtime="0:01:00")
    bare = profile("bare", place="cloud", image="bare")
    for each in (cloudy, bare):
        del each["cluster"], each["queue"]
    access = {"hub_accounts": True, "minimum_uid": 1000}
    return site(cloudy, bare, hpc_places=[entry(tmp_path, **changes)], hpc_access=access)


def policy_of(tmp_path: Path, engine: Swarm) -> dict[str, Any]:
    """Return the policy that the inventory gives to the gate."""
    (gate,) = docker_gates(portal(tmp_path), "docker2")
    own = {"engine": str(engine.socket), "listen": {"socket": f"{tmp_path}/gate.sock"}}
    return {**gate["policy"], "minimum_uid": min(1000, UID), **own}


def make_home(tmp_path: Path) -> None:
    """Create the home of Alice."""
    home = tmp_path / "home" / "alice"
    home.mkdir(parents=True)
    home.parent.chmod(0o755)
    if os.getuid() == 0:
        os.chown(home, UID, UID)


def create(engine: Swarm, policy: dict[str, Any], hub: str, session: str = SESSION, user: str = "alice") -> None:
    """Create a service as an earlier hub process would have done."""
    marks = {"hpchub.hub": hub, "hpchub.user": user, "hpchub.session": session, "hpchub.runtime": "60"}
    secret = {"Name": job_name(session), "Labels": marks, "Data": "eA=="}
    _, found = engine.create_secret(body=json.dumps(secret).encode())
    described = docker_gate.service(
        marks,
        image=IMAGE,
        program=docker_gate.command(60, "python3", session),
        user=f"{UID}:{UID}",
        groups=[],
        environment=[],
        mounts=[],
        memory=1 << 30,
        nano_cpus=10**9,
        pids=10,
        read_only=True,
        port=20001,
        secret=found["ID"],
        network="hpchub",
        swarm=policy["swarm"],
    )
    engine.create_service(body=json.dumps(described).encode())
