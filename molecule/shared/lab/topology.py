"""The topologies of the lab: which hosts each of them has."""

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
        name: The host name, which the other hosts can resolve.
        image: The name of the container image in `lab.images`.
        shared: Directories that all hosts with the same entry share, like the network file system of a cluster.
        port: The port that the demo publishes on the loopback address of this machine.
        network: Whether the host has a network although its topology is offline.
        also: Additional ssh names for the tests. On a small topology, one host has the roles of several hosts.
        own: Directories on a volume of the host, outside of the layers of its image. Container engines need this.
    """

    name: str
    image: str
    shared: tuple[str, ...] = ()
    port: int | None = None
    network: bool = False
    also: tuple[str, ...] = ()
    own: tuple[str, ...] = ()


@dataclass(frozen=True)
class Topology:
    """A named set of hosts.

    Attributes:
        hosts: The containers.
        inventory: The directory in `inventories` that describes the hosts. If empty, the topology's name is used.
        offline: Whether the hosts reach only each other. They have neither a route to another network nor DNS.
        session_image: Whether sessions run in containers, so that the topology needs the image of sessions.
    """

    hosts: tuple[Host, ...] = field(default=())
    inventory: str = ""
    offline: bool = False
    session_image: bool = False


_CLUSTER = ("/home", "/opt/hpchub")
_IDP = Host("idp", "idp", port=IDP_PORT)
_NODE = Host("node", "node", port=SERVICE_PORT, also=("hub", "login1", "compute1"))


def _demo(node: str, hub: str = "base", inventory: str = "", login: str = "") -> Topology:
    """Return the hosts of the demo, with the image ``node`` on the compute nodes.

    The login node has the image ``login``, which is ``node`` by default.
    """
    images = {"login1": login or node, "compute1": node, "compute2": node}
    cluster = tuple(Host(name, image, shared=_CLUSTER) for name, image in images.items())
    return Topology((Host("hub", hub, port=SERVICE_PORT), *cluster, _IDP), inventory)


TOPOLOGIES = {
    # A host that has nothing yet, for the roles of the installed collection.
    "collection": Topology((Host("node", "base"),)),
    "demo": _demo("node", login="node_accounting"),
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
    "offline": Topology((*_demo("node").hosts, Host("mirror", "idp", network=True)), offline=True),
    # The database has a host of its own, and a second hub host can take over.
    "postgresql": Topology((*_demo("node").hosts, Host("database", "base"), Host("hub2", "base"))),
    # Docker and the stand-in for Kubernetes have hosts of their own: each brings its firewall, and Docker's would hide
    # what the policies of the other permit. A host without a scheduler is like a cluster, so it cannot be one of them.
    "science_portal": Topology(
        (
            Host("hub", "base", port=SERVICE_PORT),
            Host("login1", "node", shared=_CLUSTER),
            Host("compute1", "node", shared=_CLUSTER),
            Host("docker1", "docker", shared=("/home",), own=("/var/lib/docker",)),
            Host("kube1", "kubernetes", own=("/var/lib/containers", "/var/lib/lab-kubernetes")),
            Host("bigmem1", "node", shared=("/home",)),
            _IDP,
            # A swarm.
            Host("docker2", "docker", shared=("/home",), own=("/var/lib/docker",)),
            Host("docker3", "docker", shared=("/home",), own=("/var/lib/docker",)),
        ),
        session_image=True,
    ),
    # The providers of all sign-ons share a host.
    "sign_on": Topology((_NODE, Host("idp", "idp_all", port=IDP_PORT))),
    "single_node": Topology((_NODE, _IDP)),
    "workbench": _demo("node_workbench"),
}
