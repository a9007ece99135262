"""The check of the web server's certificate on the controller, before anything changes."""

from __future__ import annotations

# ruff: noqa: E501  (one case per line)
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hpchub.deploy.certificates import check, check_bundle

NOW = datetime(2026, 6, 1, tzinfo=UTC)
HOST = "hub.example.org"
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


ROOT_KEY, MIDDLE_KEY, KEY, OTHER_KEY = (new_key() for _ in range(4))


def certificate(
    subject: str, key: Key, issuer: str, issuer_key: Key, names: tuple[str, ...] = (), **options: Any
) -> x509.Certificate:
    """Return a certificate. Options: ``begin`` and ``end`` in days from now, ``ca``, ``usage``."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=options.get("begin", -100)))
        .not_valid_after(NOW + timedelta(days=options.get("end", 100)))
        .add_extension(x509.BasicConstraints(ca=options.get("ca", False), path_length=None), critical=True)
    )
    if names:
        alternative = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = builder.add_extension(alternative, critical=False)
    if usage := options.get("usage"):
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def key_pem(key: Key, passphrase: bytes = b"", *, traditional: bool = False) -> bytes:
    kinds = serialization.PrivateFormat
    encryption: Any = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase)
    kind = kinds.TraditionalOpenSSL if traditional else kinds.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, kind, encryption)


ROOT = certificate("root", ROOT_KEY, "root", ROOT_KEY, ca=True, end=1000)
MIDDLE = certificate("middle", MIDDLE_KEY, "root", ROOT_KEY, ca=True, end=1000)
SERVER = certificate("server", KEY, "middle", MIDDLE_KEY, (HOST, "hub"))
CHAIN = pem(SERVER, MIDDLE)
VALID = {"certificate": CHAIN, "key": key_pem(KEY), "ca": pem(ROOT)}
OLD_KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)


def server(**options: Any) -> bytes:
    names = options.pop("names", (HOST, "hub"))
    return pem(certificate("server", KEY, "middle", MIDDLE_KEY, names, **options), MIDDLE)


CASES: list[tuple[str, dict[str, bytes], list[str]]] = [
    ("swapped", {"certificate": key_pem(KEY), "key": CHAIN}, ["certificate contains the private key: certificate and key are swapped"]),
    ("other-key", {"key": key_pem(OTHER_KEY)}, ["key does not belong to the certificate"]),
    ("passphrase", {"key": key_pem(KEY, b"secret")}, ["key is protected by a passphrase, which Apache cannot ask for"]),
    ("passphrase-old-format", {"key": key_pem(KEY, b"secret", traditional=True)}, ["key is protected by a passphrase, which Apache cannot ask for"]),
    ("der", {"certificate": SERVER.public_bytes(serialization.Encoding.DER)}, ["certificate is in DER format, not PEM"]),
    ("der-key", {"key": KEY.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())}, ["key is in DER format, not PEM"]),
    ("pkcs12", {"certificate": b"\x30\x82\x0b\x00garbage"}, ["certificate is in a binary format, such as PKCS #12, not PEM"]),
    ("request", {"certificate": b"-----BEGIN CERTIFICATE REQUEST-----\n"}, ["certificate contains a certificate request, not a certificate"]),
    ("empty", {"certificate": b"", "key": b"\n"}, ["certificate is empty", "key is empty"]),
    ("html", {"certificate": b"<html>"}, ["certificate contains no certificate in PEM format"]),
    ("damaged", {"certificate": CHAIN[:200] + b"\n-----END CERTIFICATE-----\n"}, ["certificate is damaged: its certificates cannot be read"]),
    ("damaged-key", {"key": key_pem(KEY)[:60] + b"\n-----END PRIVATE KEY-----\n"}, ["key is damaged: the private key cannot be read"]),
    ("certificate-twice", {"key": CHAIN}, ["key contains a certificate, not a private key"]),
    ("key-twice", {"certificate": key_pem(KEY)}, ["certificate contains a private key, not a certificate"]),
    ("key-in-the-certificate", {"certificate": CHAIN + key_pem(KEY)}, ["certificate also contains a private key, and this file is readable for everybody on the hub host"]),
    ("chain-reversed", {"certificate": pem(MIDDLE, SERVER)}, ["certificate has the certificates in the wrong order"]),
    ("chain-of-another", {"certificate": pem(SERVER, ROOT)}, ["certificate has a chain in the wrong order: certificate 2 in the file did not sign certificate 1"]),
    ("intermediate-missing", {"certificate": pem(SERVER)}, ["ca did not sign the certificate, or an intermediate certificate is missing"]),
    ("other-ca", {"ca": pem(certificate("x", OTHER_KEY, "x", OTHER_KEY, ca=True))}, ["ca did not sign the certificate, or an intermediate certificate is missing"]),
    ("ca-is-a-key", {"ca": key_pem(ROOT_KEY)}, ["ca contains a private key, not a certificate"]),
    ("name-missing", {"certificate": server(names=("other.example.org", "hub"))}, ["certificate is not valid for hub.example.org; it is valid for other.example.org, hub"]),
    ("name-in-the-subject-only", {"certificate": server(names=())}, ["certificate is not valid for hub.example.org; it is valid for no host", "certificate is not valid for hub; it is valid for no host"]),
    ("name-of-a-wildcard-too-deep", {"certificate": server(names=("*.org", "hub"))}, ["certificate is not valid for hub.example.org; it is valid for *.org, hub"]),
    ("expired", {"certificate": server(end=-1)}, ["certificate expired on 2026-05-31"]),
    ("expired-intermediate", {"certificate": pem(SERVER, certificate("middle", MIDDLE_KEY, "root", ROOT_KEY, ca=True, end=-1))}, ["certificate expired on 2026-05-31 (certificate 2 in the file)"]),
    ("not-yet-valid", {"certificate": server(begin=5)}, ["certificate is not valid before 2026-06-06"]),
    ("expires-soon", {"certificate": server(end=29)}, ["warning: certificate expires on 2026-06-30, in 29 days"]),
    ("expires-later", {"certificate": server(end=31)}, []),
    ("for-clients", {"certificate": server(usage=ExtendedKeyUsageOID.CLIENT_AUTH)}, ["certificate is not permitted for servers"]),
    ("wildcard", {"certificate": server(names=("*.example.org", "hub"))}, []),
    ("capitals", {"certificate": server(names=("HUB.Example.ORG", "hub"))}, []),
    ("old-key-format", {"key": key_pem(KEY, traditional=True)}, []),
    ("short-key", {"certificate": pem(certificate("server", OLD_KEY, "middle", MIDDLE_KEY, (HOST, "hub")), MIDDLE), "key": key_pem(OLD_KEY)}, ["certificate has an RSA key of 1024 bits, which Apache refuses"]),
    ("valid", {}, []),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_certificate_is_checked(changes: dict[str, bytes], expected: list[str]) -> None:
    found = list(check({**VALID, **changes}, [HOST, "hub"], now=NOW))
    assert [f"{'warning: ' if one.warning else ''}{one.field} {one.message}" for one in found] == expected
    assert all(one.valid for one in found)


def test_self_signed_certificate_without_ca_is_a_warning() -> None:
    own = certificate("server", KEY, "server", KEY, (HOST,))
    files = {"certificate": pem(own), "key": key_pem(KEY)}
    (found,) = check(files, [HOST], now=NOW)
    assert (found.warning, found.message) == (True, "is self-signed, and ca is empty, so jobs do not trust it")
    assert list(check({**files, "ca": pem(own)}, [HOST], now=NOW)) == []


def test_hosts_of_the_users_need_a_wildcard() -> None:
    (found,) = check(VALID, [HOST], wildcard=f"*.{HOST}", now=NOW)
    assert found.message.startswith("is not valid for *.hub.example.org, which user_subdomains of hpc_service requires")
    files = {**VALID, "certificate": server(names=(HOST, f"*.{HOST}"))}
    assert list(check(files, [HOST], wildcard=f"*.{HOST}", now=NOW)) == []


def test_bundle_of_authorities_is_checked() -> None:
    assert list(check_bundle(pem(ROOT), NOW)) == []
    assert [one.message for one in check_bundle(b"", NOW)] == ["is empty"]
    old = certificate("old", ROOT_KEY, "old", ROOT_KEY, ca=True, end=-1)
    assert [one.message for one in check_bundle(pem(old), NOW)] == ["expired on 2026-05-31"]
    assert list(check_bundle(pem(old, ROOT), NOW)) == []
