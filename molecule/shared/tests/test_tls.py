"""Old versions of TLS and weak ciphers, which the web server must refuse."""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from lab.web_client import Visitor, unverified

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from testinfra.host import Host

Address = tuple[str, int]

# Ciphers that fit the kind of key that the web server's certificate has. Others are refused for the wrong reason.
WEAK = {
    "EC": [
        "ECDHE-ECDSA-AES128-SHA",
        "ECDHE-ECDSA-AES256-SHA384",
        "ECDHE-ECDSA-AES128-SHA256",
        "ECDHE-ECDSA-AES128-CCM",
    ],
    "RSA": ["AES128-SHA", "AES128-GCM-SHA256", "ECDHE-RSA-AES256-SHA384", "ECDHE-RSA-AES128-SHA"],
}
OLD = [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1]


def handshake(address: Address, ciphers: str, version: ssl.TLSVersion) -> str:
    """Return the cipher that a client and a server agree on.

    Raises:
        OSError: They agree on none. An ssl.SSLError is an OSError too.
    """
    context = unverified()
    context.minimum_version = context.maximum_version = version
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    with (
        socket.create_connection(address, timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="hub.localhost") as connection,
    ):
        cipher = connection.cipher()
        assert cipher
        return cipher[0]


@pytest.fixture(scope="module")
def site(hub: Host, state: dict[str, Any]) -> Address:
    """Return the address of the web server."""
    return hub.check_output("hostname --all-ip-addresses").split()[0], urlsplit(state["url"]).port or 443


@pytest.fixture(scope="module")
def lenient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """Run a server on this machine that accepts everything, and return its address.

    It proves that the client of these tests offers what the web server refuses.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("ALL:@SECLEVEL=0")
    directory = tmp_path_factory.mktemp("tls")
    context.load_cert_chain(_self_signed(directory / "ec.pem", ec.generate_private_key(ec.SECP256R1())))
    context.load_cert_chain(_self_signed(directory / "rsa.pem", rsa.generate_private_key(65537, 2048)))
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
                secure.recv(1)

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def _self_signed(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> Path:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(text + certificate.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture(scope="module")
def key_kind(hub: Host) -> str:
    """Return the kind of key of the web server's certificate."""
    text = hub.check_output("openssl x509 -noout -text -in /etc/hpchub/tls/server.pem")
    return "EC" if "id-ecPublicKey" in text else "RSA"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", OLD, ids=lambda version: version.name)
def test_old_tls_version_is_refused(site: Address, lenient: Address, version: ssl.TLSVersion) -> None:
    assert handshake(lenient, "ALL", version)
    with pytest.raises(ssl.SSLError):
        handshake(site, "ALL", version)


@pytest.mark.parametrize("number", range(4))
def test_weak_cipher_is_refused(site: Address, lenient: Address, key_kind: str, number: int) -> None:
    cipher = WEAK[key_kind][number]
    assert handshake(lenient, cipher, ssl.TLSVersion.TLSv1_2) == cipher
    with pytest.raises(ssl.SSLError):
        handshake(site, cipher, ssl.TLSVersion.TLSv1_2)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda version: version.name)
def test_modern_tls_version_is_accepted(site: Address, version: ssl.TLSVersion) -> None:
    assert "GCM" in handshake(site, "ECDHE+AESGCM", version)


def test_provider_with_an_untrusted_certificate_is_refused(hub: Host, state: dict[str, Any], site: Address) -> None:
    """The web server must not ask a stranger for keys, only because the stranger has the provider's name."""
    trusted, cache = "/etc/hpchub/tls/sso-ca.pem", "/var/cache/apache2/hpchub-sso"
    if not hub.file(trusted).exists:
        pytest.skip("the provider's certificate is from an authority that the system trusts")
    visitor = Visitor({urlsplit(state["url"]).hostname or "": site[0]}, state["url"])
    assert visitor.ask("/hub/home").location.startswith(state["idp_url"])
    # What the web server knows of the provider is in its cache, beside the sessions.
    away = (
        f"mv {cache} {cache}.before; install -d -m 0700 -o www-data -g www-data {cache}; mv {trusted} {trusted}.before"
    )
    back = f"rm -rf {cache}; mv {cache}.before {cache}; mv -f {trusted}.before {trusted}"
    stranger = f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=stranger -keyout /dev/null -out {trusted}"
    reload = "systemctl reload apache2; sleep 1"
    try:
        hub.check_output(f"{away}; {stranger} 2> /dev/null; chmod 644 {trusted}; {reload}")
        answer = visitor.ask("/hub/home")
        assert answer.status >= 500, answer
    finally:
        hub.check_output(f"{back}; {reload}")
    assert visitor.ask("/hub/home").location.startswith(state["idp_url"])
