"""The places of an inventory, beside the clusters: where a session runs without a batch scheduler. No I/O.

Each kind of place is one class. :mod:`hpchub.places` says how the hub uses it, and how to add another kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from hpchub.model import fields as f
from hpchub.model.entries import Queue
from hpchub.model.entry import Entry

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
    """The networks from which sessions reach the hub's API. It accepts connections from these and the clusters'."""
    max_cores: f.Cores
    """The maximum number of cores of a session."""
    max_memory: f.Memory
    """The maximum memory of a session."""
    max_runtime: f.Runtime
    """The maximum run time of a session."""
    max_gpus: f.GpusOfQueue = Field(default=0, validate_default=True)
    """The maximum number of GPUs of a session."""
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
    pids: f.Pids = 1024
    """The maximum number of processes and threads of a session."""

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


class DockerPlace(ContainerPlace):
    """A host with Docker Engine."""

    kind: Literal["docker"]
    """The kind of place."""
    url: f.DockerUrl
    """The address of the engine's API: ``https://HOST:PORT``, which needs client certificates, or ``unix://PATH`` for
    an engine on the hub host."""
    address: f.OptionalDnsName = ""
    """For ``https``: the address of the Docker host on which it publishes the ports of sessions. It must be an address
    of this host. The default is the host of ``url``."""
    network: f.DockerNetwork = "hpchub"
    """The Docker network of the containers, with communication between containers switched off. The role
    ``docker_place`` creates it."""
    home: f.MountSource = "/home/{user}"
    """The home directory on the Docker host, which the container gets under the same path. It must exist."""
    mounts: list[Mount] = []
    """Further directories of the Docker host in the containers."""
    read_only: Annotated[bool, Field(strict=True)] = True
    """Whether the files of the image are read-only in the container. ``/tmp`` and the home can always be written."""

    @model_validator(mode="after")
    def _check_address(self) -> DockerPlace:
        if self.address and self.is_local:
            f.complain("has an address, but the engine is on the hub host", "remove address")
        return self

    @property
    def is_local(self) -> bool:
        """Whether the engine runs on the hub host, which reaches containers at their own addresses."""
        return self.url.startswith("unix://")

    @property
    def published_at(self) -> str:
        """The address on which the Docker host publishes ports, or empty if it publishes none."""
        return "" if self.is_local else self.address or urlsplit(self.url).hostname or ""


AnyPlace = DockerPlace
"""All kinds of places. With a second kind, this is a union."""
Place = AnyPlace
"""A place in an inventory. With a second kind: ``Annotated[AnyPlace, Field(discriminator="kind")]``."""
PLACE_KINDS: dict[str, type[PlaceBase]] = {"docker": DockerPlace}
"""The class of each kind."""
