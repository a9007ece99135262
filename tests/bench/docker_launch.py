"""Compare the start of a container by hpchub with dockerspawner alone, on one engine. This bench needs no demo.

Without --engine, the engine is the stand-in of the unit tests, which starts real processes and takes as long as a real
engine did. With --engine and --image, it is a real one; the image needs the programs timeout, sleep and the one that
--python names, which must not end at once. The time ends when the program of the container runs and has its secrets.
The start of the notebook server is not included, and is the same for both.

The engine itself needs some time for limits and isolation. dockerspawner therefore starts twice: as it comes, and with
the same limits and isolation as hpchub.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import docker
from docker.errors import DockerException
from docker_engine import Engine
from dockerspawner import SystemUserSpawner
from traitlets import HasTraits

from hpchub.lab_extension import container_files
from hpchub.model.entries import Profile
from hpchub.model.places import DockerPlace
from hpchub.places import accounts
from hpchub.places.accounts import Account
from hpchub.places.docker import spec
from hpchub.places.docker.connection import DockerConnection
from hpchub.places.docker.spawner import DockerSessionSpawner
from hpchub.schedulers import job_name

if TYPE_CHECKING:
    import argparse

SESSION = "00000000000000aa"
IDS = (4242, 4242)
DELAYS = {"create": 0.02, "start": 0.4, "inspect": 0.0015, "image": 0.0015, "attach": 0.0015}
"""How long Docker Engine 20.10 took for the requests, with the storage driver vfs and small images, in seconds."""
KINDS = ("dockerspawner", "dockerspawner with isolation", "hpchub")


def options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this bench."""
    parser.add_argument("--repetitions", type=int, default=20, metavar="N", help="starts of each kind, default 20")
    parser.add_argument("--engine", default="", metavar="SOCKET", help="the socket of a real engine")
    parser.add_argument("--image", default=f"sha256:{'1' * 64}", help="the id of the image on the engine")
    parser.add_argument("--python", default="python3", help="the program that the image runs")
    parser.add_argument("--network", default="hpchub", help="the network of the containers")


class Alone(SystemUserSpawner):  # type: ignore[misc]
    """dockerspawner as it comes, without a hub."""

    def __init__(self, client: Any, home: str, image: str, network: str) -> None:
        HasTraits.__init__(self)
        type(self)._client = client  # dockerspawner keeps one client for all spawners
        self.user = SimpleNamespace(name="alice")
        self.user_options: dict[str, Any] = {}
        self.host_homedir_format_string = f"{home}/{{username}}"
        self.user_id, self.group_id = IDS
        self.image, self.cmd, self.network_name = image, ["sleep", "60"], network
        self.use_internal_ip, self.remove, self.pull_policy = True, False, "ifnotpresent"
        self.object_name = "alone"

    def isolate(self, place: DockerPlace, profile: Profile) -> Alone:
        """Ask for the limits and the isolation of hpchub."""
        self.extra_host_config = spec.host_options(place, profile, IDS, [100])
        self.cpu_limit, self.mem_limit = float(profile.cores), profile.memory_mib * 1024 * 1024
        return self

    def get_env(self) -> dict[str, str]:
        """Return an environment of the usual size. JupyterHub would need a hub for it."""
        return {f"JUPYTERHUB_{i}": "x" * 40 for i in range(20)}

    def get_args(self) -> list[str]:
        """Return no arguments."""
        return []


LAB_FILES = json.dumps(container_files("en"))


class Ours(DockerSessionSpawner):
    """hpchub's spawner, without a hub."""

    def __init__(self, connection: DockerConnection, profile: Profile) -> None:
        HasTraits.__init__(self)
        self._connection = connection
        self.remove, self.port = False, 20001
        self.user, self.cluster, self.profile = SimpleNamespace(name="alice"), connection.place, profile

    @property
    def connection(self) -> DockerConnection:
        """The connection."""
        return self._connection

    @property
    def runtime(self) -> Any:
        """The hub's name, its ports, and the files for JupyterLab."""
        ports = {"first": 20000, "last": 29999}
        return SimpleNamespace(
            hub_name="hub.example.org~12345678", settings={"notebook_ports": ports}, lab_files=LAB_FILES
        )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure.

    Returns:
        ``{"seconds": {KIND: median}, "fastest": {KIND: minimum}, "ratios": {KIND: R}}``, where R is the median of the
        ratios of a start by hpchub and one by dockerspawner that follow each other. On a busy machine, the fastest
        starts are more reliable.
    """
    accounts.find_account = lambda name, minimum: Account(*IDS, (100,))
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        home = Path(directory, "alice")
        home.mkdir()
        with suppress(PermissionError):
            os.chown(home, *IDS)
        if arguments.engine:
            return asyncio.run(_measure(arguments, arguments.engine, directory))
        engine = Engine(Path(directory))
        engine.images[arguments.image], engine.delays = ["sleep", "60"], DELAYS
        try:
            return asyncio.run(_measure(arguments, str(engine.socket), directory))
        finally:
            engine.close()


async def _measure(arguments: argparse.Namespace, socket: str, home: str) -> dict[str, Any]:
    client = docker.APIClient(base_url=f"unix://{socket}", version="auto")
    image = {"name": "a", "image": arguments.image, "python": arguments.python}
    place = DockerPlace.model_validate(
        {
            "name": "bench",
            "kind": "docker",
            "url": "unix:///run/docker.sock",
            "networks": ["10.0.0.0/8"],
            "max_cores": 2,
            "max_memory": "4G",
            "max_runtime": "1:00:00",
            "images": [image],
        }
    )
    own = {"url": f"unix://{socket}", "home": f"{home}/{{user}}", "network": arguments.network}
    place = place.model_copy(update=own)
    profile = Profile(key="a", display_name="a", place="bench", cores=1, memory="1G", runtime="1:00:00")
    connection = DockerConnection(place, {})
    await connection.connect()
    secrets = {f"JUPYTERHUB_{i}": "x" * 40 for i in range(20)}
    taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(arguments.repetitions):
        for kind in KINDS:
            alone = Alone(client, home, arguments.image, arguments.network)
            begin = time.perf_counter()
            if kind == "hpchub":
                await Ours(connection, profile).create(SESSION, secrets)
            else:
                await (alone.isolate(place, profile) if kind == KINDS[1] else alone).start()
            taken[kind].append(time.perf_counter() - begin)
            for name in ("alone", job_name(SESSION)):
                with suppress(DockerException):
                    client.remove_container(name, v=True, force=True)
    await connection.close()
    ratios = {
        kind: statistics.median(ours / theirs for ours, theirs in zip(taken["hpchub"], taken[kind], strict=True))
        for kind in KINDS[:2]
    }
    seconds = {name: statistics.median(each) for name, each in taken.items()}
    return {"seconds": seconds, "fastest": {name: min(each) for name, each in taken.items()}, "ratios": ratios}


def table(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the result as rows of text; the first row is the heading."""
    rows: list[tuple[str, ...]] = [("start of a container", "median, ms", "fastest, ms")]
    for name, median in result["seconds"].items():
        rows.append((name, f"{median * 1000:.1f}", f"{result['fastest'][name] * 1000:.1f}"))
    for kind, ratio in result["ratios"].items():
        fastest = result["fastest"]["hpchub"] / result["fastest"][kind]
        rows.append((f"hpchub / {kind}", f"{ratio:.2f}", f"{fastest:.2f}"))
    return rows
