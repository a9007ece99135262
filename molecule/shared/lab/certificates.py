"""The lab's own certificate authority, which signs the certificates of the lab's web servers."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from pathlib import Path

_YEARS = 5
_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def make_certificates(directory: Path, servers: dict[str, list[str]]) -> None:
    """Create the certificate authority, the servers' certificates and the key that signs tokens.

    The function writes `ca.pem`, then `NAME.pem` and `NAME.key` for each server, and `signing.pem` and `signing.key`
    for the identity provider's tokens. It does nothing if `ca.pem` already exists.

    Args:
        directory: An existing directory for the PEM files.
        servers: Maps each server's name to the DNS names that its certificate covers.
    """
    if (directory / "ca.pem").exists():
        return
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hpchub lab CA")])
    # The two true values are keyCertSign and cRLSign. Strict verifiers require both in a CA certificate.
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    ca = (
        _builder(ca_name, ca_name, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    for name, dns in servers.items():
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, dns[0])])
        certificate = (
            _builder(subject, ca_name, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in dns]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        _write(directory / f"{name}.key", _pem(key), mode=0o600)
        _write(directory / f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM))
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hpchub lab tokens")])
    _write(directory / "signing.key", _pem(rsa_key), mode=0o600)
    signing = _builder(subject, subject, rsa_key).sign(rsa_key, hashes.SHA256())
    _write(directory / "signing.pem", signing.public_bytes(serialization.Encoding.PEM))
    # ca.pem is written last, because its existence means that all other files are complete.
    _write(directory / "ca.pem", ca.public_bytes(serialization.Encoding.PEM))


def _builder(subject: x509.Name, issuer: x509.Name, key: _Key) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=365 * _YEARS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _pem(key: _Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    path.touch(mode)
    path.write_bytes(content)
