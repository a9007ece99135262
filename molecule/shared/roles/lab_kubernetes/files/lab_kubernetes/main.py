"""The entry point in the lab: ``lab-kubernetes serve CONFIGURATION``, or an order to a running server."""

from __future__ import annotations

import argparse
import json
import signal
import ssl
import sys
import threading
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab_kubernetes.network import enforce, rules
from lab_kubernetes.runners import ContainerRunner
from lab_kubernetes.server import Server, serve, tls_context
from lab_kubernetes.store import KINDS, Selection

if TYPE_CHECKING:
    from lab_kubernetes.store import Object, Store


def apply(store: Store, manifests: list[Object]) -> None:
    """Create the objects of some manifests, as ``kubectl create -f`` does."""
    resources = {kind: resource for resource, (_, kind) in KINDS.items()}
    for manifest in manifests:
        namespace = manifest["metadata"].get("namespace", "")
        if manifest["kind"] != "Namespace":
            store.create(resources[manifest["kind"]], namespace, manifest)


def make_server(configuration: dict[str, Any]) -> Server:
    """Return the server that a configuration describes; see the role's ``configuration.json.j2``."""
    files = {name: Path(configuration[name]) for name in ("certificate", "key", "administrator_token", "token")}
    runner = ContainerRunner(
        Path(configuration["directory"]),
        configuration["images"],
        program=configuration["program"],
        subnet=configuration["subnet"],
        limits=configuration["limits"],
    )
    server = Server(
        ("", configuration["port"]),
        runner,
        context=tls_context(files["certificate"], files["key"]),
        administrator=files["administrator_token"].read_text().strip(),
        namespace=configuration["namespace"],
    )
    account = f"system:serviceaccount:{configuration['namespace']}:{configuration['service_account']}"
    server.access.tokens[files["token"].read_text().strip()] = account
    for node in configuration["nodes"]:
        server.add_node(node["name"], taints=node.get("taints"), labels=node.get("labels"), **node["allocatable"])
    apply(server.store, configuration["manifests"])
    return server


def enforce_policies(store: Store) -> None:
    """Load the rules of the network policies whenever the addresses of pods change. This function never returns."""
    loaded = ""
    while True:
        policies = store.select(Selection("networkpolicies"))[0]
        found = rules(policies, store.select(Selection("pods"))[0])
        if (text := found.nft()) != loaded:
            enforce(found)
            loaded = text
        with store.changed:
            store.changed.wait(1)


def order(configuration: dict[str, Any], name: str, content: str) -> str:
    """Send an order to the running server, and return its answer."""
    token = Path(configuration["administrator_token"]).read_text().strip()
    request = urllib.request.Request(
        f"https://localhost:{configuration['port']}/lab/{name}",
        data=content.encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        method="POST",
    )
    context = ssl.create_default_context(cafile=configuration["ca"])
    with urllib.request.urlopen(request, context=context, timeout=30) as answer:  # noqa: S310 always https
        return str(answer.read().decode())


def main() -> int:
    """Run the program and return its exit code."""
    parser = argparse.ArgumentParser(prog="lab-kubernetes", description="A stand-in for a Kubernetes cluster.")
    parser.add_argument("configuration", type=Path, help="the configuration, a JSON file")
    parser.add_argument("order", help="serve, or an order: faults, evict, oom, lose, pull-error, compact, expire, used")
    parser.add_argument("content", nargs="?", default="{}", help="the details of the order, as JSON")
    given = parser.parse_args()
    configuration = json.loads(given.configuration.read_text())
    if given.order != "serve":
        print(order(configuration, given.order, given.content))
        return 0
    server = make_server(configuration)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    threading.Thread(target=enforce_policies, args=(server.store,), daemon=True).start()
    try:
        serve(server).join()
    finally:
        server.close()
    return 0
