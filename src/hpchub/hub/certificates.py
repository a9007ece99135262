"""Certificates for notebook servers: how the proxy knows whose server it speaks to.

A port of a compute node that one session leaves, a neighbour's process can take before the hub knows. So each session's
server has a certificate in its user's name, and the proxy speaks to no other; and the server demands a certificate of
the proxy's or the hub's, so that nobody else on the cluster's network gets an answer.

The authority's files are made by the module ``notebook_certificates`` when the hub is deployed.
"""

from __future__ import annotations

import datetime as dt
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from pathlib import Path

DOMAIN = "user.hpchub.internal"
"""Below which a user's server has its name, in certificates alone; the proxy's ``proxy.mjs`` says the same."""

VALIDITY = dt.timedelta(days=366)
"""Longer than any session: it may wait in a queue, and an administrator may prolong a job."""


def server_name(user: str) -> str:
    """The name in the certificate of a user's servers."""
    return f"{user}.{DOMAIN}"


@dataclass(frozen=True)
class ServerIdentity:
    """What a notebook server needs, each as PEM text.

    Attributes:
        key: its private key.
        certificate: its certificate.
        clients: the authorities of those whom it answers.
    """

    key: str
    certificate: str
    clients: str


class _Context(ssl.SSLContext):
    """One that may be a value in JupyterHub's configuration, of which there are copies."""

    def __deepcopy__(self, _: object) -> _Context:
        return self


class Authority:
    """The authority in a directory, as the hub uses it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def issue(self, user: str) -> ServerIdentity:
        """Make one session's identity: a new key, and a certificate for a server of this user's, good for nothing else.

        Raises:
            OSError, ValueError: the authority's files are not there, not readable, or not what they should be.
        """
        pair = (self.directory / "current.pem").read_bytes()
        authority = x509.load_pem_x509_certificate(pair)
        signer = serialization.load_pem_private_key(pair, password=None)
        public = authority.public_key()
        if not isinstance(signer, ec.EllipticCurvePrivateKey) or not isinstance(public, ec.EllipticCurvePublicKey):
            raise ValueError(  # noqa: TRY004 the file's content is wrong, not a type
                f"the authority in {self.directory} has a key of another kind"
            )
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, user)]))
            .issuer_name(authority.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))  # a node's clock may be behind
            .not_valid_after(min(now + VALIDITY, authority.not_valid_after_utc))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(server_name(user))]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
            .sign(signer, hashes.SHA256())
        )
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return ServerIdentity(
            key=text.decode(),
            certificate=certificate.public_bytes(serialization.Encoding.PEM).decode(),
            clients=(self.directory / "clients.pem").read_text(),
        )

    def client_context(self) -> ssl.SSLContext:
        """How the hub itself looks whether a notebook server answers.

        It sends no secret there, so that any server of the authority's will do; whose it is, the proxy demands to know.

        Raises:
            OSError: the authority's files are not there or not readable.
        """
        context = _Context(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.directory / "servers.pem")
        context.check_hostname = False
        context.load_cert_chain(self.directory / "hub.pem")
        return context
