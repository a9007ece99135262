"""NetworkPolicies: which traffic they permit, and the rules of nftables that enforce this on the lab's host.

Source: "Network Policies" (kubernetes.io/docs/concepts/services-networking/network-policies/), the sections "The two
sorts of pod isolation" and "The NetworkPolicy resource". Selectors of other namespaces match nothing here, because the
lab has one namespace.
"""

from __future__ import annotations

import ipaddress
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lab_kubernetes.store import Object

TABLE = "lab_kubernetes"


class Permit(NamedTuple):
    """Permitted traffic between a pod and a network.

    Attributes:
        pod: The pod's address.
        network: The other side.
        protocol: ``tcp`` or ``udp``.
        port: The port of the server, or 0 for all.
    """

    pod: str
    network: str
    protocol: str
    port: int


@dataclass
class Rules:
    """What the policies say about all pods.

    Attributes:
        isolated_in: The addresses of the pods that accept only what is in ``ingress``.
        isolated_out: The addresses of the pods that send only what is in ``egress``.
        ingress: What pods may receive.
        egress: What pods may send.
    """

    isolated_in: set[str] = field(default_factory=set)
    isolated_out: set[str] = field(default_factory=set)
    ingress: set[Permit] = field(default_factory=set)
    egress: set[Permit] = field(default_factory=set)

    def permits(self, source: str, target: str, port: int, protocol: str = "tcp") -> bool:
        """Return whether a new connection is permitted by both sides."""
        sends = source not in self.isolated_out or _any(self.egress, source, target, port, protocol)
        receives = target not in self.isolated_in or _any(self.ingress, target, source, port, protocol)
        return sends and receives

    def nft(self) -> str:
        """Return the rules in the language of nftables."""
        # A connection needs the permission of both sides, so each side that agrees sets its own bit.
        lines = ["ct state established,related accept"]
        for permits, ours, other, bit in ((self.ingress, "daddr", "saddr", 1), (self.egress, "saddr", "daddr", 2)):
            for each in sorted(permits):
                port = f"{each.protocol} dport {each.port}" if each.port else f"meta l4proto {each.protocol}"
                match = f"ip {ours} {each.pod} ip {other} {each.network} {port}"
                lines.append(f"{match} meta mark set meta mark or {bit:#x}")
        drops = [f"ip daddr {pod} meta mark & 0x1 == 0x0 drop" for pod in sorted(self.isolated_in)]
        drops += [f"ip saddr {pod} meta mark & 0x2 == 0x0 drop" for pod in sorted(self.isolated_out)]
        body = "\n".join([*lines, *drops])
        head = f"table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n"
        # A pod reaches its own host through "input".
        chains = [
            f"chain {name} {{\ntype filter hook {name} priority -10; policy accept;\n{body}\n}}\n"
            for name in ("forward", "input")
        ]
        return head + "".join(chains) + "}\n"


def _any(permits: Iterable[Permit], pod: str, other: str, port: int, protocol: str) -> bool:
    address = ipaddress.ip_address(other)
    return any(
        each.pod == pod
        and each.protocol == protocol
        and each.port in (0, port)
        and address in ipaddress.ip_network(each.network)
        for each in permits
    )


def rules(policies: Iterable[Object], pods: Sequence[Object]) -> Rules:
    """Return what the policies say about the pods. Without a policy, a pod may send and receive everything."""
    found = Rules()
    for policy in policies:
        spec = policy["spec"]
        for pod in pods:
            address = pod["status"].get("podIP")
            if not address or not _selects(spec["podSelector"], pod):
                continue
            for kind, isolated, permits, key in (
                ("Ingress", found.isolated_in, found.ingress, "from"),
                ("Egress", found.isolated_out, found.egress, "to"),
            ):
                if kind in spec["policyTypes"]:
                    isolated.add(address)
                    for rule in spec.get(kind.lower()) or []:
                        permits.update(_permits(address, rule, key, pods))
    return found


def _permits(pod: str, rule: Object, key: str, pods: Sequence[Object]) -> set[Permit]:
    networks = []
    for peer in rule.get(key) or [{"ipBlock": {"cidr": "0.0.0.0/0"}}]:
        if block := peer.get("ipBlock"):
            networks.append(block["cidr"])
        elif "namespaceSelector" not in peer and "podSelector" in peer:
            networks += [f"{each['status']['podIP']}/32" for each in pods if _selects(peer["podSelector"], each)]
    ports = rule.get("ports") or [{"protocol": "TCP"}, {"protocol": "UDP"}]
    return {
        Permit(pod, network, port["protocol"].lower(), port.get("port", 0)) for network in networks for port in ports
    }


def _selects(selector: Object, pod: Object) -> bool:
    labels = pod["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(
        (each["key"] in labels) is (each["operator"] == "Exists") for each in selector.get("matchExpressions") or []
    )


def enforce(found: Rules) -> None:
    """Load the rules into the kernel of this host."""
    subprocess.run(["nft", "-f", "-"], input=found.nft(), text=True, check=True)
