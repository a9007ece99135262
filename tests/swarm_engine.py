"""A stand-in for the Docker Engine API of a swarm's manager, as far as docker-py and dockerspawner use it.

It is not a real swarm. It follows the documents of the API (https://docs.docker.com/reference/api/engine/) and the
errors that Docker Engine 26.1 gave in the lab. It keeps state, chooses a node for each service, and starts the program
of its task as a process of this machine. It isolates nothing. Faults can be switched on.
"""

from __future__ import annotations

import base64
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker_engine import _REQUESTS, Container, Engine, Refusal, now

if TYPE_CHECKING:
    from collections.abc import Iterable

NODES = "hpchub-nodes"


def stamp(seconds: float) -> str:
    """Return a time as the engine writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "000Z")


class Node:
    """One node."""

    def __init__(self, name: str, address: str, *, cores: float = 4.0, labels: dict[str, str] | None = None) -> None:
        self.name, self.address, self.cores, self.labels = name, address, cores, labels or {}
        self.state, self.availability, self.manager = "ready", "active", ""
        self.images: set[str] = set()
        self.missing: set[str] = set()

    @property
    def described(self) -> dict[str, Any]:
        """The entry in the list of nodes."""
        return {
            "ID": self.name,
            "Spec": {"Labels": self.labels, "Availability": self.availability, "Role": "worker"},
            "Description": {"Hostname": self.name},
            "Status": {"State": self.state, "Addr": self.address},
            **({"ManagerStatus": {"Leader": True, "Addr": self.manager}} if self.manager else {}),
        }


class Service:
    """One service with its task."""

    def __init__(self, number: int, spec: dict[str, Any]) -> None:
        self.id, self.spec = f"service{number}", spec
        self.created = time.time()
        self.changed = self.created
        self.node: Node | None = None
        self.container: Container | None = None
        self.state, self.error = "pending", ""

    @property
    def template(self) -> dict[str, Any]:
        """The description of its containers."""
        found: dict[str, Any] = self.spec["TaskTemplate"]["ContainerSpec"]
        return found

    @property
    def ports(self) -> set[int]:
        """The ports that its node publishes."""
        return {each["PublishedPort"] for each in self.spec["EndpointSpec"]["Ports"]}

    @property
    def goes_on(self) -> bool:
        """Whether its task needs its node."""
        return self.task()["Status"]["State"] in ("starting", "running")

    @property
    def described(self) -> dict[str, Any]:
        """The answer of the request to inspect it."""
        return {"ID": self.id, "CreatedAt": stamp(self.created), "Spec": self.spec}

    def task(self) -> dict[str, Any]:
        """Return its task."""
        code, state, error = 0, self.state, self.error
        if self.container is not None and state == "running":
            found = self.container.described()["State"]
            if found["Status"] == "exited":
                code = found["ExitCode"]
                state = "failed" if code else "complete"
                error = f"task: non-zero exit ({code})" if code else ""
        status = {"Timestamp": stamp(self.changed), "State": state, "ContainerStatus": {"ExitCode": code}}
        return {
            "ID": f"task-of-{self.id}",
            "ServiceID": self.id,
            "CreatedAt": stamp(self.created),
            "NodeID": self.node.name if self.node else "",
            "DesiredState": "running",
            "Spec": {"ContainerSpec": self.template},
            "Status": {**status, **({"Err": error} if error else {})},
        }


class Swarm(Engine):
    """The stand-in."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.nodes = {name: Node(name, address) for name, address in (("n1", "127.0.0.1"), ("n2", "127.0.0.2"))}
        self.services: dict[str, Service] = {}
        self.secrets: dict[str, dict[str, Any]] = {}
        isolated = {"com.docker.network.bridge.enable_icc": "false"}
        self.networks: dict[str, dict[str, Any]] = {
            "hpchub": {"Scope": "swarm", "Driver": "bridge", "ConfigFrom": {"Network": NODES}},
            NODES: {"Scope": "local", "Driver": "null", "Options": isolated},
        }

    def table(self) -> tuple[tuple[str, str, str, Any], ...]:
        """See ``Engine.table``."""
        return (*_OF_SWARMS, *_REQUESTS)

    def close(self) -> None:
        """End all programs and the stand-in."""
        for each in self.services.values():
            if each.container:
                each.container.stop(0.2)
        super().close()

    def _service(self, name: str) -> Service:
        for each in self.services.values():
            if name in (each.id, each.spec["Name"]):
                return each
        raise Refusal(404, f"service {name} not found")

    def list_services(self, **_: Any) -> tuple[int, Any]:
        """GET /services."""
        return 200, [each.described for each in self.services.values()]

    def list_tasks(self, **_: Any) -> tuple[int, Any]:
        """GET /tasks."""
        return 200, [each.task() for each in self.services.values()]

    def list_nodes(self, **_: Any) -> tuple[int, Any]:
        """GET /nodes."""
        return 200, [each.described for each in self.nodes.values()]

    def list_secrets(self, **_: Any) -> tuple[int, Any]:
        """GET /secrets."""
        return 200, [{name: each[name] for name in ("ID", "CreatedAt", "Spec")} for each in self.secrets.values()]

    def create_secret(self, *, body: bytes, **_: Any) -> tuple[int, Any]:
        """POST /secrets/create."""
        spec = json.loads(body)
        if spec["Name"] in self.secrets:
            raise Refusal(409, "rpc error: code = AlreadyExists desc = secret x already exists")
        data = base64.b64decode(spec.pop("Data"))
        if not 0 < len(data) <= 500 * 1024:
            raise Refusal(400, "rpc error: code = InvalidArgument desc = secret data must be larger than 0 and less")
        self.number += 1
        found = {"ID": f"secret{self.number}", "CreatedAt": now(), "Spec": spec, "data": data}
        self.secrets[spec["Name"]] = found
        return 201, {"ID": found["ID"]}

    def remove_secret(self, name: str, **_: Any) -> tuple[int, Any]:
        """DELETE /secrets/NAME."""
        if name not in self.secrets:
            raise Refusal(404, f"secret {name} not found")
        users = [each for each in self.services.values() if each.template["Secrets"][0]["SecretName"] == name]
        if users:
            raise Refusal(400, f"rpc error: code = InvalidArgument desc = secret '{name}' is in use")
        del self.secrets[name]
        return 204, b""

    def create_service(self, *, body: bytes, **_: Any) -> tuple[int, Any]:
        """POST /services/create."""
        spec = json.loads(body)
        if any(each.spec["Name"] == spec["Name"] for each in self.services.values()):
            raise Refusal(409, "rpc error: code = AlreadyExists desc = name conflicts with an existing object")
        (secret,) = spec["TaskTemplate"]["ContainerSpec"]["Secrets"]
        if self.secrets.get(secret["SecretName"], {}).get("ID") != secret["SecretID"]:
            raise Refusal(400, "rpc error: code = InvalidArgument desc = secret not found")
        self.number += 1
        service = self.services[spec["Name"]] = Service(self.number, spec)
        self.schedule(service)
        return 201, {"ID": service.id}

    def schedule(self, service: Service) -> None:
        """Choose a node for a service, and start its task there, or note why this is not possible."""
        task = service.spec["TaskTemplate"]
        problems = []
        for node in self.nodes.values():
            problem = self._problem(node, service, task)
            if not problem:
                break
            problems.append(f"{problem} on 1 node")
        else:
            service.error = f"no suitable node ({'; '.join(problems)})"
            return
        service.node, service.changed, service.error = node, time.time(), ""
        service.state, service.error = "rejected", self._rejection(node, service)
        if not service.error:
            self._start(service)

    def _problem(self, node: Node, service: Service, task: dict[str, Any]) -> str:
        if node.state != "ready" or node.availability != "active":
            return "node is not available"
        wanted = dict(each.removeprefix("node.labels.").split("==") for each in task["Placement"]["Constraints"])
        if not wanted.items() <= node.labels.items():
            return "scheduling constraints not satisfied"
        others = [each for each in self.services.values() if each.node is node and each.goes_on]
        if service.ports & {port for each in others for port in each.ports}:
            return "host-mode port already in use"
        used = sum(_cores(each.spec["TaskTemplate"]) for each in others)
        return "insufficient resources" if used + _cores(task) > node.cores else ""

    def _rejection(self, node: Node, service: Service) -> str:
        image = service.template["Image"]
        if image not in self.images or image in node.missing:
            return f"No such image: {image}"
        for source in _sources(service.template["Mounts"]):
            if not Path(source).exists():
                return f'invalid mount config for type "bind": bind source path does not exist: {source}'
        return ""

    def _start(self, service: Service) -> None:
        spec = service.template
        host = {"NetworkMode": "hpchub"}
        body = {"Image": spec["Image"], "Labels": spec["Labels"], "Env": spec["Env"], "HostConfig": host}
        self.number += 1
        service.container = Container(f"{service.spec['Name']}.1", body, self.directory / f"{self.number}")
        (secret,) = spec["Secrets"]
        (service.container.root / secret["File"]["Name"]).write_bytes(self.secrets[secret["SecretName"]]["data"])
        program = self.images[spec["Image"]]
        words = spec["Command"]
        service.container.start(words if program is None else [*words[:6], *program])
        service.container.take(b"")
        service.state = "running"

    def inspect_service(self, name: str, **_: Any) -> tuple[int, Any]:
        """GET /services/NAME."""
        return 200, self._service(name).described

    def remove_service(self, name: str, **_: Any) -> tuple[int, Any]:
        """DELETE /services/NAME."""
        service = self._service(name)
        if service.container:
            service.container.stop(0.5)
        del self.services[service.spec["Name"]]
        return 200, b""

    def service_logs(self, name: str, **_: Any) -> tuple[int, Any]:
        """GET /services/NAME/logs: frames of the stream 1."""
        container = self._service(name).container
        content = container.output.read_bytes() if container and container.output.exists() else b""
        return 200, b"\x01\0\0\0" + len(content).to_bytes(4, "big") + content if content else b""


def _cores(task: dict[str, Any]) -> float:
    return float(task["Resources"]["Reservations"]["NanoCPUs"]) / 10**9


def _sources(mounts: Iterable[dict[str, Any]]) -> list[str]:
    return [each["Source"] for each in mounts if each["Type"] == "bind"]


_NAME = "([^/]+)"
_OF_SWARMS: tuple[tuple[str, str, str, Any], ...] = (
    ("services", "GET", "/services", Swarm.list_services),
    ("tasks", "GET", "/tasks", Swarm.list_tasks),
    ("nodes", "GET", "/nodes", Swarm.list_nodes),
    ("secrets", "GET", "/secrets", Swarm.list_secrets),
    ("create secret", "POST", "/secrets/create", Swarm.create_secret),
    ("remove secret", "DELETE", f"/secrets/{_NAME}", Swarm.remove_secret),
    ("create", "POST", "/services/create", Swarm.create_service),
    ("inspect", "GET", f"/services/{_NAME}", Swarm.inspect_service),
    ("remove", "DELETE", f"/services/{_NAME}", Swarm.remove_service),
    ("logs", "GET", f"/services/{_NAME}/logs", Swarm.service_logs),
)
