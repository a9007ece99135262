"""The objects that a site applies to its cluster once: rights, rules, security and network of the namespace. No I/O.

``python -m hpchub.places.kubernetes.manifests NAMESPACE`` prints them as YAML. The hub itself can create none of them.

Source: "Using RBAC Authorization", "Pod Security Admission", "Network Policies" and "Service Accounts"
(kubernetes.io/docs/concepts/).
"""

from __future__ import annotations

import argparse
import ipaddress
import sys
from typing import TYPE_CHECKING, Any

import yaml

from hpchub.places.interface import LABEL_SESSION
from hpchub.places.kubernetes.admission import Permitted, policies

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVICE_ACCOUNT = "hpchub"
"""The service account of the hub."""
PORT = 20000
"""The default port of the notebook server in each pod: the default of ``hpc_service.notebook_ports.first``."""

RIGHTS: dict[str, tuple[str, ...]] = {
    "events": ("list", "watch"),
    "persistentvolumeclaims": ("create", "get"),
    "pods": ("create", "delete", "get", "list", "watch"),
    "pods/log": ("get",),
    "secrets": ("create", "delete"),
}
"""The rights of the hub: the verbs for each resource, all in the core API group and in one namespace.

The hub can neither read a Secret nor delete a volume of a user.
"""


def manifests(
    namespace: str,
    *,
    hub: str,
    hub_port: int,
    proxy: str = "",
    port: int = PORT,
    egress: Sequence[dict[str, Any]] = (),
    permitted: Permitted = Permitted(),  # noqa: B008 it cannot be changed
) -> list[dict[str, Any]]:
    """Return the objects for a namespace.

    Args:
        namespace: The namespace, which is for hpchub only.
        hub: The address or network of the hub's API, in CIDR notation.
        hub_port: The port of the hub's API.
        proxy: The address or network from which the hub and its proxy connect to notebook servers. The default is
            ``hub``.
        port: The port of notebook servers, ``hpc_service.notebook_ports.first``.
        egress: Further rules for what sessions may reach, in the notation of a NetworkPolicy.
        permitted: What the site permits in pods; see ``hpchub.places.kubernetes.admission``.
    """
    metadata = {"name": SERVICE_ACCOUNT, "namespace": namespace}
    level = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("audit", "enforce", "warn")}
    rights = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": level}},
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": metadata,
            "automountServiceAccountToken": False,
        },
        {
            "apiVersion": f"{rights}/v1",
            "kind": "Role",
            "metadata": metadata,
            "rules": [
                {"apiGroups": [""], "resources": [resource], "verbs": list(verbs)} for resource, verbs in RIGHTS.items()
            ],
        },
        {
            "apiVersion": f"{rights}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "subjects": [{"kind": "ServiceAccount", "name": SERVICE_ACCOUNT, "namespace": namespace}],
            "roleRef": {"apiGroup": rights, "kind": "Role", "name": SERVICE_ACCOUNT},
        },
        deny_all(namespace),
        sessions_policy(namespace, hub=hub, hub_port=hub_port, proxy=proxy or hub, port=port, egress=egress),
        *policies(namespace, SERVICE_ACCOUNT, permitted),
    ]


def deny_all(namespace: str) -> dict[str, Any]:
    """Return the policy that forbids all traffic of all pods of the namespace, unless another policy permits it."""
    return _policy(namespace, "hpchub-deny-all", {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})


def sessions_policy(
    namespace: str, *, hub: str, hub_port: int, proxy: str, port: int = PORT, egress: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """Return the policy of the sessions' pods; see ``manifests`` for the arguments.

    A pod reaches the hub's API and the cluster's DNS. Only the hub reaches a pod. No rule names another pod, so pods
    never reach each other.

    Raises:
        ValueError: A network contains the whole address space, or is not valid.
    """
    for name, text in (("hub", hub), ("proxy", proxy)):
        if ipaddress.ip_network(text).prefixlen == 0:
            raise ValueError(f"{name}: {text} admits every address; name the hub's address, for example 192.0.2.1/32")
    dns = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    }
    return _policy(
        namespace,
        "hpchub-sessions",
        {
            "podSelector": {"matchExpressions": [{"key": LABEL_SESSION, "operator": "Exists"}]},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"ipBlock": {"cidr": proxy}}], "ports": [{"protocol": "TCP", "port": port}]}],
            "egress": [
                {"to": [{"ipBlock": {"cidr": hub}}], "ports": [{"protocol": "TCP", "port": hub_port}]},
                {"to": [dns], "ports": [{"protocol": each, "port": 53} for each in ("UDP", "TCP")]},
                *egress,
            ],
        },
    )


def _policy(namespace: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


class _Indented(yaml.SafeDumper):
    """Indents lists below their keys, as kubectl's documents do."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, indentless=False)


def text_of(objects: Sequence[dict[str, Any]]) -> str:
    """Return objects as YAML for ``kubectl apply -f``."""
    return str(yaml.dump_all(objects, Dumper=_Indented, sort_keys=False, explicit_start=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the manifests, and return the exit code."""
    parser = argparse.ArgumentParser(prog="hpchub.places.kubernetes.manifests", description=__doc__.splitlines()[0])
    parser.add_argument("namespace", help="the namespace of the place in hpc_places")
    parser.add_argument("--hub", required=True, help="the hub's address for sessions, for example 192.0.2.1/32")
    parser.add_argument("--hub-port", type=int, default=8445, help="the port of the hub's API for sessions")
    parser.add_argument("--port", type=int, default=PORT, help="the port of sessions: hpc_service.notebook_ports.first")
    parser.add_argument("--proxy", default="", help="the address that connects to sessions, if it differs")
    for name, shown, text in (
        ("--image", "IMAGE", "an image of the place, with its digest; without one, every image with a digest"),
        ("--priority-class", "NAME", "its priority_class, or the default class of the cluster"),
        ("--node-selector", "LABEL=VALUE", "an entry of its node_selector"),
        ("--toleration", "KEY", "the key of an entry of its tolerations"),
    ):
        parser.add_argument(name, metavar=shown, help=text, action="append", default=[])
    parser.add_argument("--minimum-uid", type=int, default=1000, help="hpc_access.minimum_uid")
    given = parser.parse_args(arguments)
    permitted = Permitted(
        images=tuple(given.image),
        priority_classes=tuple(given.priority_class),
        node_selector=dict(each.split("=", 1) for each in given.node_selector if "=" in each),
        tolerations=tuple(given.toleration),
        minimum_uid=given.minimum_uid,
    )
    try:
        found = manifests(
            given.namespace,
            hub=given.hub,
            hub_port=given.hub_port,
            proxy=given.proxy,
            port=given.port,
            permitted=permitted,
        )
    except ValueError as error:
        parser.error(str(error))
    sys.stdout.write(text_of(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
