"""Which hosts a lab has. Facts only."""

from __future__ import annotations

from dataclasses import dataclass, field

SERVICE_NAME = "hub.localhost"
SERVICE_PORT = 8443
IDP_NAME = "auth.localhost"
IDP_PORT = 8444


@dataclass(frozen=True)
class Host:
    """One container.

    Attributes:
        name: Host name, and the name by which the other hosts find it.
        image: Which image of `lab.images` it runs.
        shared: Directories that all hosts with the same entry share, as a cluster's network file system would.
        port: The port that is published on this machine's loopback address, in the demo only.
        also: Further names by which tests reach it over ssh: what it is, beside others, on a smaller topology.
    """

    name: str
    image: str
    shared: tuple[str, ...] = ()
    port: int | None = None
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Topology:
    """A named set of hosts.

    Attributes:
        hosts: The containers.
        inventory: The directory in `inventories` that describes them; empty if its name is the topology's.
    """

    hosts: tuple[Host, ...] = field(default=())
    inventory: str = ""


_CLUSTER = ("/home", "/opt/hpchub")
_IDP = Host("idp", "idp", port=IDP_PORT)


def _demo(node: str, hub: str = "base", inventory: str = "") -> Topology:
    """The demo's hosts, with a cluster whose hosts run the image ``node``."""
    cluster = tuple(Host(name, node, shared=_CLUSTER) for name in ("login1", "compute1", "compute2"))
    return Topology((Host("hub", hub, port=SERVICE_PORT), *cluster, _IDP), inventory)


TOPOLOGIES = {
    "demo": _demo("node"),
    "debian12": _demo("node_debian12", "base_debian12", inventory="demo"),
    "emulated": _demo("node"),
    "gridengine": _demo("node_gridengine"),
    "htcondor": _demo("node_htcondor"),
    "multi_cluster": Topology(
        (
            Host("hub", "base", port=SERVICE_PORT),
            Host("login1", "node", shared=_CLUSTER),
            Host("compute1", "node", shared=_CLUSTER),
            Host("login2", "node_gridengine", shared=("/home", "/opt/itasca")),
            Host("compute2", "node_gridengine", shared=("/home", "/opt/itasca")),
            _IDP,
        )
    ),
    "single_node": Topology((Host("node", "node", port=SERVICE_PORT, also=("hub", "login1", "compute1")), _IDP)),
}
