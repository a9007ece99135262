"""Certificates for notebook servers, which let the proxy verify that a server belongs to the right user.

When a session ends, another user's process on the same node can take its port before the hub notices. Each session's
server therefore has a certificate in its user's name, and the proxy connects to no other server. In turn, the server
accepts only clients that have a certificate of the proxy or the hub. Other processes on the cluster's network get no
answer.

The Ansible module ``notebook_certificates`` creates the authority's files when the hub is deployed.
"""

from __future__ import annotations

import datetime as dt
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hpchub.names import dns_label

if TYPE_CHECKING:
    from pathlib import Path

DOMAIN = "user.hpchub.internal"
"""The domain of the server names in certificates. It does not exist in DNS. The proxy's ``proxy.mjs`` uses it too."""

VALIDITY = dt.timedelta(days=366)
"""The validity of a server's certificate.

It is longer than any session, because a job may wait in a queue and an administrator may extend its time limit.
"""


CLOCK_ERROR = dt.timedelta(days=1)
"""How slow the clock of a node may be."""

STATEMENT = x509.ObjectIdentifier("2.25.331306986447859773087611640360189203594")
"""The extension with the hub's statement about the session. The number is derived from a random UUID (ITU-T X.667)."""


def server_name(user: str) -> str:
    """Return the name in the certificates of a user's servers."""
    return f"{dns_label(user)}.{DOMAIN}"


@dataclass(frozen=True)
class ServerIdentity:
    """The TLS identity of a session's notebook server, as PEM text.

    Attributes:
        key: The server's private key.
        certificate: The server's certificate.
        clients: The certificates of the authorities that sign the clients' certificates.
    """

    key: str
    certificate: str
    clients: str


@dataclass(frozen=True)
class Issued:
    """A certificate that the hub issued earlier.

    Attributes:
        statement: The hub's statement about the session, or empty.
        issued: When the hub issued the certificate.
        content: The certificate in the form that TLS sends (DER).
    """

    statement: str
    issued: dt.datetime
    content: bytes


class _Context(ssl.SSLContext):
    """A TLS context that can be a value in JupyterHub's configuration, which traitlets copies."""

    def __deepcopy__(self, _: object) -> _Context:
        return self


class Authority:
    """The certificate authority that the hub uses to sign the certificates of notebook servers.

    Args:
        directory: The directory with the authority's files.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def issue(self, user: str, statement: str = "") -> ServerIdentity:
        """Create a new key and a certificate for one session of a user. The certificate is valid for servers only.

        Args:
            user: The user.
            statement: A text that the certificate contains. It proves later that the hub wrote it. It is not secret.

        Raises:
            OSError, ValueError: The authority's files are missing, not readable or not valid.
        """
        path = self.directory / "current.pem"
        pair = path.read_bytes()
        authority = x509.load_pem_x509_certificate(pair)
        signer = serialization.load_pem_private_key(pair, password=None)
        public = authority.public_key()
        if not isinstance(signer, ec.EllipticCurvePrivateKey) or not isinstance(public, ec.EllipticCurvePublicKey):
            raise ValueError(  # noqa: TRY004 the file's content is wrong, not an argument's type
                f"{path}: the key is not an elliptic curve key; remove the file and deploy the hub again"
            )
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, user)]))
            .issuer_name(authority.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_ERROR)
            .not_valid_after(min(now + VALIDITY, authority.not_valid_after_utc))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(server_name(user))]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        )
        if statement:
            builder = builder.add_extension(x509.UnrecognizedExtension(STATEMENT, statement.encode()), critical=False)
        certificate = builder.sign(signer, hashes.SHA256())
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return ServerIdentity(
            key=text.decode(),
            certificate=certificate.public_bytes(serialization.Encoding.PEM).decode(),
            clients=(self.directory / "clients.pem").read_text(),
        )

    def read(self, certificate: str) -> Issued:
        """Return the content of a certificate that this authority issued for a notebook server.

        Args:
            certificate: The certificate as PEM text, from any source.

        Raises:
            OSError: The authority's files are not readable.
            ValueError: This authority did not issue the certificate, or its time is over.
        """
        found = x509.load_pem_x509_certificate(certificate.encode())
        if not any(_is_issuer(each, found) for each in self._authorities()):
            raise ValueError("the certificate is not of this authority")
        if not found.not_valid_before_utc <= dt.datetime.now(dt.UTC) <= found.not_valid_after_utc:
            raise ValueError("the certificate is not valid now")
        statement = ""
        for extension in found.extensions:
            if extension.oid == STATEMENT and isinstance(extension.value, x509.UnrecognizedExtension):
                statement = extension.value.value.decode()
        return Issued(
            statement, found.not_valid_before_utc + CLOCK_ERROR, found.public_bytes(serialization.Encoding.DER)
        )

    def since(self) -> dt.datetime:
        """Return when the oldest trusted authority was made.

        Raises:
            OSError, ValueError: The authority's files are missing, not readable or not valid.
        """
        return min(each.not_valid_before_utc for each in self._authorities()) + CLOCK_ERROR

    def _authorities(self) -> list[x509.Certificate]:
        return x509.load_pem_x509_certificates((self.directory / "servers.pem").read_bytes())

    def client_context(self) -> ssl.SSLContext:
        """Return the TLS context that the hub uses to check whether a notebook server answers.

        The hub sends no secrets in these requests, so it accepts any server that this authority signed. The proxy
        verifies the user's name.

        Raises:
            OSError: The authority's files are missing or not readable.
        """
        context = _Context(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.directory / "servers.pem")
        context.check_hostname = False
        context.load_cert_chain(self.directory / "hub.pem")
        return context


def _is_issuer(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Return whether an authority signed a certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True
