"""The places of an inventory, beside the clusters: where a session runs without a batch scheduler. No I/O.

Each kind of place is one class. :mod:`hpchub.places` explains how the hub uses it, and how to add another kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from hpchub.messages import show
from hpchub.model import fields as f
from hpchub.model.directories import Directory, unique_titles
from hpchub.model.entries import Queue, Software
from hpchub.model.entry import Entry
from hpchub.units import mebibytes

if TYPE_CHECKING:
    from collections.abc import Iterable


LIMITS = ("max_cores", "max_memory", "max_runtime", "max_gpus", "enabled")
"""The fields that a place has in common with a queue."""


class PlaceBase(Entry):
    """The fields of every kind of place. A place has no queues: its limits apply to all of its profiles."""

    if TYPE_CHECKING:
        kind: Any

    name: f.PlaceName
    """The name of the place. No cluster has the same name."""
    networks: list[f.Network] = Field(min_length=1)
    """The networks of the sessions. The hub's API accepts connections from these and from the clusters' networks."""
    max_cores: f.Cores
    """The maximum number of cores of a session."""
    max_memory: f.Memory
    """The maximum memory of a session."""
    max_runtime: f.Runtime
    """The maximum run time of a session."""
    max_gpus: f.GpusOfQueue = Field(default=0, validate_default=True)
    """The maximum number of GPUs of a session."""
    directories: Annotated[list[Directory], AfterValidator(unique_titles)] = []
    """Directories outside the home that JupyterLab's launcher offers, such as scratch and projects."""
    enabled: Annotated[bool, Field(strict=True)] = True
    """Whether users can start sessions. If false, the form hides its profiles. Running sessions go on."""

    def hosts_of(self, node: str, reported: Iterable[tuple[str, str]] = ()) -> list[str]:
        """Return the hosts at which the hub may reach a session, the most likely one first.

        Args:
            node: The address in the answer of the place.
            reported: What the session reported about itself. A place knows better, so it does not count.
        """
        return [node] if node else []

    @property
    def queues(self) -> list[Queue]:
        """The queues that a drain or a choice can name. A place has none."""
        return []

    def queue(self, name: str) -> Queue | None:
        """Return the limits of the place in the form of a queue, or None for a queue that somebody names."""
        if name:
            return None
        limits: dict[str, Any] = {name: getattr(self, name) for name in LIMITS}
        return Queue.model_construct(name=self.name, **limits)


class Image(Entry):
    """An image for the sessions of a place. Its digest fixes the content, whatever happens to its tags."""

    name: f.ImageName
    """The name that profiles use."""
    image: f.PinnedImage
    """The image with its digest, ``NAME@sha256:DIGEST``. For an image that was imported by hand: its id,
    ``sha256:ID``."""
    python: f.Argument = "python3"
    """The Python with JupyterHub and JupyterLab in the image: a name on the image's PATH, or an absolute path."""


class ContainerPlace(PlaceBase):
    """The fields of the places that run sessions in containers."""

    images: list[Image] = Field(min_length=1)
    """The images that profiles can use. The first one is the default. No other image can run."""

    def image(self, name: str) -> Image | None:
        """Return the image with a name, or the default one for an empty name. None if there is no such image."""
        return next((image for image in self.images if name in ("", image.name)), None)


class Mount(Entry):
    """A further directory of the Docker host in the containers."""

    source: f.MountSource
    """The directory on the Docker host. ``{user}`` stands for the user's name. It must exist."""
    target: f.Path
    """The directory in the container."""
    read_only: Annotated[bool, Field(strict=True)] = True
    """Whether the container can only read it."""


class NodeLabel(Entry):
    """A label that the nodes of a place must have."""

    label: f.KubernetesLabel
    """The key of the label."""
    value: f.KubernetesLabelValue
    """Its value."""


class EnginePlace(ContainerPlace):
    """The fields of the places that use Docker Engine."""

    if TYPE_CHECKING:
        network: Any

    url: f.DockerUrl
    """The address of the gate of the Docker host: ``https://HOST:PORT``, which needs client certificates, or
    ``unix://PATH`` for an engine on the hub host."""
    host: f.OptionalHostName = ""
    """The name of the Docker host in the inventory, a member of the group ``docker_hosts``, which
    ``playbooks/places.yml`` sets up. Empty: you have set up the host and its gate yourself."""
    home: f.MountSource = "/home/{user}"
    """The home directory on the Docker host, which the container gets under the same path. It must exist."""
    mounts: list[Mount] = []
    """Further directories of the Docker host in the containers."""
    pids: f.Pids = 1024
    """The maximum number of processes and threads of a session."""
    read_only: Annotated[bool, Field(strict=True)] = True
    """Whether the files of the image are read-only in the container. ``/tmp`` and the home can always be written."""

    @property
    def is_local(self) -> bool:
        """Whether the engine runs on the hub host."""
        return self.url.startswith("unix://")

    @property
    def published_at(self) -> str:
        """The address on which a Docker host publishes ports, or empty if it publishes none."""
        raise NotImplementedError


class DockerPlace(EnginePlace):
    """A host with Docker Engine."""

    kind: Literal["docker"]
    """The kind of place."""
    address: f.OptionalDnsName = ""
    """For ``https``: the address of the Docker host on which it publishes the ports of sessions. It must be an address
    of this host. The default is the host of ``url``."""
    network: f.DockerNetwork = "hpchub"
    """The Docker network of the containers, with communication between containers switched off. The role
    ``docker_place`` creates it."""

    @model_validator(mode="after")
    def _check_address(self) -> DockerPlace:
        if self.address and self.is_local:
            f.complain("has an address, but the engine is on the hub host", "remove address")
        return self

    @property
    def published_at(self) -> str:
        """The address on which the Docker host publishes ports, or empty if it publishes none.

        The hub reaches the containers of an engine on its own host at their own addresses.
        """
        return "" if self.is_local else self.address or urlsplit(self.url).hostname or ""


class SwarmPlace(EnginePlace):
    """A swarm of Docker hosts. ``url`` and ``host`` are those of a manager, whose gate the hub uses."""

    kind: Literal["swarm"]
    """The kind of place."""
    workers: list[f.HostName] = []
    """The names of the other Docker hosts of the swarm in the inventory, members of the group ``docker_hosts``."""
    network: f.DockerNetwork = "hpchub"
    """The Docker network of the containers, with communication between containers switched off. It is a bridge of its
    own on each node, because all containers in an overlay network reach each other."""
    node_labels: list[NodeLabel] = []
    """The labels of Docker that a node must have."""
    limit_cores: Annotated[bool, Field(strict=True)] = True
    """Whether sessions are limited to their cores. If false, for nodes whose kernel cannot limit cores, sessions only
    reserve them."""

    @model_validator(mode="after")
    def _check_nodes(self) -> SwarmPlace:
        if self.host and self.host in self.workers:
            f.complain(f"has {show(self.host)} as host and as a worker", "remove it from workers")
        if f.gpus_of(self.max_gpus):
            f.complain("has max_gpus, which a swarm cannot grant safely", "remove max_gpus, or use the kind docker")
        return self

    @property
    def published_at(self) -> str:
        """The address on which each node publishes ports: all of its addresses. The firewall admits the hub only."""
        return "0.0.0.0"  # noqa: S104 no other address can be chosen in a swarm

    @property
    def constraints(self) -> list[str]:
        """The conditions for nodes, in the notation of Docker."""
        return [f"node.labels.{each.label}=={each.value}" for each in self.node_labels]


class Toleration(Entry):
    """A taint of nodes that sessions tolerate."""

    key: f.KubernetesLabel
    """The key of the taint."""
    value: f.KubernetesLabelValue = ""
    """The value of the taint. Empty: any value."""
    effect: Literal["any", "NoSchedule", "PreferNoSchedule", "NoExecute"] = "any"
    """The effect of the taint."""

    @property
    def as_toleration(self) -> dict[str, str]:
        """The toleration in the notation of Kubernetes."""
        operator = {"operator": "Equal", "value": self.value} if self.value else {"operator": "Exists"}
        return {"key": self.key, **operator, **({"effect": self.effect} if self.effect != "any" else {})}


class KubernetesPlace(ContainerPlace):
    """A namespace of a Kubernetes cluster."""

    kind: Literal["kubernetes"]
    """The kind of place."""
    url: f.KubernetesUrl
    """The address of the cluster's API: ``https://HOST:PORT``."""
    namespace: f.KubernetesName
    """The namespace of the sessions. It is for hpchub only."""
    ca_file: f.Path
    """The file on the hub host with the certificate authority of the API."""
    token_file: f.Path
    """The file on the hub host with the token of the hub's service account. The hub reads it again for each request, so
    another program can renew it."""
    home: f.MountSource = "/home/{user}"
    """The home directory in the pod, where the user's volume is mounted. ``{user}`` stands for the user's name."""
    storage: f.OptionalMemory = ""
    """The size of each user's volume, which the hub creates once and never deletes. Empty: sessions have no volume, and
    all their files are lost at their end."""
    storage_class: f.OptionalKubernetesName = ""
    """The storage class of the volumes. Empty: the cluster's default."""
    storage_access: Literal["ReadWriteOnce", "ReadWriteMany"] = "ReadWriteOnce"
    """How nodes may use a volume. With ``ReadWriteOnce``, all sessions of a user must be on one node."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When nodes download an image. A digest always means the same image, so ``IfNotPresent`` is safe."""
    pull_secrets: list[f.KubernetesName] = []
    """The Secrets of the namespace with the credentials for image registries."""
    node_selector: list[NodeLabel] = []
    """The labels that a node must have."""
    tolerations: list[Toleration] = []
    """The taints of nodes that sessions tolerate."""
    priority_class: f.OptionalKubernetesName = ""
    """The priority class of the pods. Empty: the cluster's default."""
    gpu_resource: f.KubernetesLabel = "nvidia.com/gpu"
    """The name of the cluster's resource for GPUs."""
    tmp_size: f.KubernetesQuantity = "1Gi"
    """The maximum size of ``/tmp``, and of a home without a volume."""
    read_only: Annotated[bool, Field(strict=True)] = True
    """Whether the files of the image are read-only in the pod. ``/tmp`` and the home can always be written."""


class HostPlace(PlaceBase):
    """A host without a scheduler. It is a member of the inventory group ``cluster_NAME``, as if it were a cluster."""

    host: f.HostName
    """The name of the host in the inventory."""
    cores: f.Cores
    """The number of cores that all sessions of the host together can have."""
    memory: f.Memory
    """The memory that all sessions of the host together can have."""
    max_sessions: Annotated[int, Field(strict=True, ge=1, le=1000)] = 50
    """The number of sessions that can run on the host at the same time. Further ones wait."""
    tasks: f.Pids = 4096
    """The maximum number of processes and threads of a session."""
    software: Software = Software()
    """The directory of the notebook environments."""
    firewall: Annotated[bool, Field(strict=True)] = False
    """Whether nftables on the host restricts the notebook ports to connections from the hub."""
    quota_command: list[f.Argument] = []
    """A command that runs as the user before each start, as for a cluster."""

    @model_validator(mode="after")
    def _check_capacity(self) -> HostPlace:
        for field, limit, size in (("cores", "max_cores", int), ("memory", "max_memory", mebibytes)):
            total, most = getattr(self, field), getattr(self, limit)
            if size(most) > size(total):
                f.complain(f"has {limit} {show(most)} above {field} {show(total)}", f"raise {field}, or lower {limit}")
        if f.gpus_of(self.max_gpus):
            f.complain("has max_gpus, which systemd cannot grant", "remove max_gpus")
        return self

    @property
    def is_hub_host(self) -> bool:
        """Whether the inventory states that this is the hub host."""
        return False


class SshPlace(HostPlace):
    """A login or big-memory node without a scheduler."""

    kind: Literal["ssh"]
    """The kind of place."""


class LocalPlace(HostPlace):
    """A host of the service itself, such as the neighbour of the hub host. It is off by default."""

    kind: Literal["local"]
    """The kind of place."""
    enabled: Annotated[bool, Field(strict=True)] = False
    """Whether users can start sessions."""
    on_hub_host: Annotated[bool, Field(strict=True)] = False
    """Whether the host is the hub host. ``hpc_access.sessions_on_hub_host`` must state it too."""

    @property
    def is_hub_host(self) -> bool:
        """Whether the inventory states that this is the hub host."""
        return self.on_hub_host


AnyPlace = DockerPlace | SwarmPlace | KubernetesPlace | SshPlace | LocalPlace
"""All kinds of places."""
Place = Annotated[AnyPlace, Field(discriminator="kind")]
"""A place in an inventory."""
PLACE_KINDS: dict[str, type[PlaceBase]] = {
    "docker": DockerPlace,
    "swarm": SwarmPlace,
    "kubernetes": KubernetesPlace,
    "ssh": SshPlace,
    "local": LocalPlace,
}
"""The class of each kind."""
