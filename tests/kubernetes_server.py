"""A stand-in for a Kubernetes cluster on the loopback address; see the lab's package ``lab_kubernetes``.

No real cluster was used in the tests. The stand-in follows the published documents of Kubernetes.
"""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import json
import time
from typing import TYPE_CHECKING, Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from lab_kubernetes.main import apply
from lab_kubernetes.runners import ProcessRunner
from lab_kubernetes.server import Server, serve, tls_context
from lab_kubernetes.store import Refused, Selection

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMESPACE = "jupyter"
ACCOUNT = "hpchub"
USER = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
IMAGE = "registry.example.org/jupyter@sha256:" + "1" * 64

T = TypeVar("T")


def until(condition: Callable[[], T], timeout: float = 20) -> T:
    """Return the result of the condition as soon as it is true."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, f"the condition was not met within {timeout} seconds"
        time.sleep(0.02)
    return found


class Cluster:
    """A cluster with processes instead of pods.

    Args:
        directory: A directory for its files.
        manifests: The manifests that the site applies.

    Attributes:
        url: The address of the API.
        ca: The file with the certificate authority of the API.
        token_file: The file with the token of the hub's service account.
    """

    def __init__(self, directory: Path, manifests: list[dict[str, Any]]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.ca, self.token_file = directory / "ca.pem", directory / "token"
        key = directory / "key.pem"
        write_certificate(self.ca, key)
        runner = ProcessRunner(directory / "node", {IMAGE: ""})
        self.server = Server(
            ("127.0.0.1", 0), runner, context=tls_context(self.ca, key), administrator="root", namespace=NAMESPACE
        )
        self.server.add_node("worker1", cpu="4", memory="8Gi", pods="10")
        apply(self.server.store, manifests)
        self.url = f"https://127.0.0.1:{self.server.server_port}"
        self.new_token("token-1")
        serve(self.server)

    def new_token(self, token: str) -> None:
        """Replace the hub's token. The old one is refused from now on."""
        tokens = self.server.access.tokens
        for old in [each for each, user in tokens.items() if user == USER]:
            del tokens[old]
        tokens[token] = USER
        self.token_file.write_text(token + "\n")

    def pods(self) -> list[dict[str, Any]]:
        """Return all pods."""
        return self.server.store.select(Selection("pods", NAMESPACE))[0]

    def names(self, resource: str) -> list[str]:
        """Return the names of all objects of a resource."""
        return [each["metadata"]["name"] for each in self.server.store.select(Selection(resource, NAMESPACE))[0]]

    def pod(self, name: str) -> dict[str, Any] | None:
        """Return a pod, or None."""
        try:
            return self.server.store.get("pods", NAMESPACE, name)
        except Refused:
            return None

    def wait_for_phase(self, name: str, phase: str) -> dict[str, Any]:
        """Wait until a pod has a phase, and return the pod."""
        until(lambda: (self.pod(name) or {"status": {"phase": ""}})["status"]["phase"] == phase)
        return self.server.store.get("pods", NAMESPACE, name)

    def secret(self, name: str) -> dict[str, str]:
        """Return the files of a Secret."""
        data = self.server.store.get("secrets", NAMESPACE, name)["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def visible(self) -> str:
        """Return everything that somebody who may read pods and events can see, as text."""
        return json.dumps([self.pods(), self.server.store.select(Selection("events", NAMESPACE))[0]])

    def close(self) -> None:
        """Stop the server and all pods."""
        self.server.close()


def write_certificate(certificate: Path, key_file: Path) -> None:
    """Create a self-signed certificate of 127.0.0.1, which is also its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - dt.timedelta(days=1))
    builder = builder.not_valid_after(now + dt.timedelta(days=1))
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = builder.add_extension(address, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    key_file.touch(mode=0o600)
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
