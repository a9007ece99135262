"""The certificate and the key of the web server, checked on the controller before anything changes. No I/O."""

from __future__ import annotations

import ipaddress
import itertools
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from hpchub.messages import listing

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

SOON = timedelta(days=30)


@dataclass(frozen=True)
class Complaint:
    """A fault of one of the files.

    Attributes:
        field: The file: ``certificate``, ``key`` or ``ca``.
        message: What is wrong.
        valid: What to do.
        warning: Whether the service works in spite of it.
    """

    field: str
    message: str
    valid: str
    warning: bool = False


def check(
    files: Mapping[str, bytes], names: Sequence[str], *, wildcard: str = "", now: datetime
) -> Iterator[Complaint]:
    """Check a certificate, its chain and its key.

    Args:
        files: The contents of the files ``certificate`` (with the chain), ``key`` and, if there is one, ``ca``.
        names: The host names and addresses that the certificate must cover.
        wildcard: A name such as ``*.HOST`` that it must also cover, or an empty text.
        now: The present time, with a time zone.
    """
    certificate, key = files["certificate"], files["key"]
    if b"PRIVATE KEY-----" in certificate and b"BEGIN CERTIFICATE-----" in key:
        yield Complaint("certificate", "contains the private key: certificate and key are swapped", "swap them")
        return
    chain = yield from _certificates("certificate", certificate)
    public = yield from _public_key(key)
    authorities = (yield from _certificates("ca", files["ca"])) if "ca" in files else []
    if not chain:
        return
    if public is not None and _raw(chain[0].public_key()) != _raw(public):
        if any(_raw(one.public_key()) == _raw(public) for one in chain[1:]):
            valid = "put the server's own certificate first, then the intermediate ones"
            yield Complaint("certificate", "has the certificates in the wrong order", valid)
            return
        valid = "use the private key of the certificate request"
        yield Complaint("key", "does not belong to the certificate", valid)
    yield from _compare_names(chain[0], names, wildcard)
    yield from _check_dates("certificate", chain, now)
    yield from _check_dates("ca", authorities, now)
    yield from _check_chain(chain, authorities)
    yield from _check_strength(chain[0])


def check_bundle(bundle: bytes, now: datetime) -> Iterator[Complaint]:
    """Check a file with certificates of authorities, ``ca_bundle``."""
    authorities = yield from _certificates("ca_bundle", bundle)
    if authorities and all(one.not_valid_after_utc <= now for one in authorities):
        yield from _check_dates("ca_bundle", authorities[:1], now)


def _certificates(field: str, data: bytes) -> Generator[Complaint, None, list[x509.Certificate]]:
    """Return the certificates of a file, after the complaints about it."""
    if b"BEGIN CERTIFICATE-----" not in data and b"BEGIN TRUSTED CERTIFICATE" not in data:
        yield _not_a_certificate(field, data)
        return []
    if b"PRIVATE KEY-----" in data:
        message = "also contains a private key, and this file is readable for everybody on the hub host"
        yield Complaint(field, message, "leave only the certificates in it")
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        yield Complaint(field, "is damaged: its certificates cannot be read", "copy the file again")
        return []


_NOT_CERTIFICATES = (
    (b"PRIVATE KEY-----", "contains a private key, not a certificate", "name the file of the certificate"),
    (
        b"CERTIFICATE REQUEST-----",
        "contains a certificate request, not a certificate",
        "name the file of the signed certificate",
    ),
    (b"BEGIN PKCS7", "is in PKCS #7 format, not PEM", "convert it: openssl pkcs7 -print_certs -in FILE -out FILE.pem"),
)


def _not_a_certificate(field: str, data: bytes) -> Complaint:
    for mark, message, valid in _NOT_CERTIFICATES:
        if mark in data:
            return Complaint(field, message, valid)
    if data[:1] == b"\x30":
        try:
            x509.load_der_x509_certificate(data)
        except ValueError:
            valid = "convert it: openssl pkcs12 -nokeys -in FILE -out FILE.pem"
            return Complaint(field, "is in a binary format, such as PKCS #12, not PEM", valid)
        return Complaint(
            field, "is in DER format, not PEM", "convert it: openssl x509 -inform der -in FILE -out FILE.pem"
        )
    message = "contains no certificate in PEM format" if data.strip() else "is empty"
    return Complaint(field, message, "name the file of the certificate")


def _public_key(data: bytes) -> Generator[Complaint, None, PublicKeyTypes | None]:
    """Return the public key of a file with a private key, after the complaints about it."""
    if b"ENCRYPTED" in data and b"PRIVATE KEY-----" in data:
        valid = "remove it: openssl pkey -in FILE -out NEW, then encrypt the file with ansible-vault"
        yield Complaint("key", "is protected by a passphrase, which Apache cannot ask for", valid)
        return None
    if b"PRIVATE KEY-----" not in data:
        if data[:1] == b"\x30":
            yield Complaint(
                "key", "is in DER format, not PEM", "convert it: openssl pkey -inform der -in FILE -out NEW"
            )
            return None
        message = "contains no private key in PEM format"
        if b"BEGIN CERTIFICATE-----" in data:
            message = "contains a certificate, not a private key"
        yield Complaint("key", message if data.strip() else "is empty", "name the file of the key")
        return None
    try:
        return load_pem_private_key(data, password=None).public_key()
    except (ValueError, TypeError):
        yield Complaint("key", "is damaged: the private key cannot be read", "copy the file again")
        return None


def _raw(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _compare_names(certificate: x509.Certificate, names: Sequence[str], wildcard: str) -> Iterator[Complaint]:
    valid_for, addresses = _names(certificate)
    listed = listing([*valid_for, *addresses]) if valid_for or addresses else "no host"
    for name in dict.fromkeys(names):
        if not _covers(name, valid_for, addresses):
            message = f"is not valid for {name}; it is valid for {listed}"
            yield Complaint("certificate", message, f"use a certificate for {name}")
    if wildcard and wildcard not in valid_for:
        yield Complaint(
            "certificate",
            f"is not valid for {wildcard}, which user_subdomains of hpc_service requires; it is valid for {listed}",
            f"use a certificate that is also valid for {wildcard}, or set user_subdomains to false",
        )


def _names(certificate: x509.Certificate) -> tuple[list[str], list[str]]:
    """Return the host names and the addresses of a certificate. Browsers ignore the subject's common name."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return [], []
    hosts = [name.lower() for name in names.get_values_for_type(x509.DNSName)]
    return hosts, [str(address) for address in names.get_values_for_type(x509.IPAddress)]


def _covers(name: str, hosts: Sequence[str], addresses: Sequence[str]) -> bool:
    try:
        return str(ipaddress.ip_address(name)) in addresses
    except ValueError:
        name = name.lower()
        _, _, parent = name.partition(".")
        return name in hosts or f"*.{parent}" in hosts


def _check_dates(field: str, chain: Sequence[x509.Certificate], now: datetime) -> Iterator[Complaint]:
    for i, one in enumerate(chain):
        end = one.not_valid_after_utc
        which = "" if i == 0 else f" (certificate {i + 1} in the file)"
        if end <= now:
            yield Complaint(field, f"expired on {end:%Y-%m-%d}{which}", "renew it")
        elif one.not_valid_before_utc > now:
            begin = one.not_valid_before_utc
            yield Complaint(field, f"is not valid before {begin:%Y-%m-%d}{which}", "check the clock of this machine")
        elif end <= now + SOON:
            days = (end - now).days
            yield Complaint(field, f"expires on {end:%Y-%m-%d}, in {days} days{which}", "renew it", warning=True)


def _check_chain(chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate]) -> Iterator[Complaint]:
    for i, (one, issuer) in enumerate(itertools.pairwise(chain), 2):
        if not _issued(one, issuer):
            message = f"has a chain in the wrong order: certificate {i} in the file did not sign certificate {i - 1}"
            yield Complaint("certificate", message, "put the server's certificate first, then each one's issuer")
            return
    last = chain[-1]
    if authorities and not any(_issued(last, authority) or last == authority for authority in authorities):
        message = "did not sign the certificate, or an intermediate certificate is missing"
        yield Complaint("ca", message, "append the intermediate certificates to the file of the certificate")
    if not authorities and len(chain) == 1 and _issued(last, last):
        message = "is self-signed, and ca is empty, so jobs do not trust it"
        yield Complaint("certificate", message, "set ca to the same file", warning=True)


def _issued(one: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        one.verify_directly_issued_by(issuer)
    except Exception:  # noqa: BLE001 (any failure means that the signature is not the issuer's)
        return False
    return True


def _check_strength(certificate: x509.Certificate) -> Iterator[Complaint]:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < 2048:
        message = f"has an RSA key of {key.key_size} bits, which Apache refuses"
        yield Complaint("certificate", message, "request one with at least 2048 bits")
    algorithm = certificate.signature_hash_algorithm
    if algorithm is not None and algorithm.name in ("md5", "sha1"):
        message = f"is signed with {algorithm.name}, which browsers refuse"
        yield Complaint("certificate", message, "request a new one")
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (ValueError, x509.ExtensionNotFound):
        return
    if ExtendedKeyUsageOID.SERVER_AUTH not in usage:
        yield Complaint("certificate", "is not permitted for servers", "request a server certificate")
