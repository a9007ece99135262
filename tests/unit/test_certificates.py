"""The certificate authority of notebook servers: mutual trust, and rotation without lost sessions."""

from __future__ import annotations

import copy
import datetime as dt
import grp
import json
import os
import pwd
import ssl
import stat
import time
from typing import TYPE_CHECKING, Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.hpchub.hpchub.plugins.modules import notebook_certificates
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hpchub.hub import certificates
from hpchub.hub.certificates import STATEMENT, Authority, server_name

if TYPE_CHECKING:
    from pathlib import Path


class Module:
    """Runs the module as Ansible does.

    Attributes:
        directory: The directory that the module fills.
        authority: The hub's view of that directory.
    """

    def __init__(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = tmp_path / "tls"
        self.directory.mkdir()
        self.authority = Authority(self.directory)
        self._temporary = tmp_path / "tmp"
        self._capsys = capsys

    def __call__(self, *, rotate: bool = False, check: bool = False) -> dict[str, Any]:
        arguments = {
            "path": str(self.directory),
            "owner": pwd.getpwuid(os.getuid()).pw_name,
            "proxy_group": grp.getgrgid(os.getgid()).gr_name,
            "rotate": rotate,
            "_ansible_check_mode": check,
            "_ansible_remote_tmp": str(self._temporary),
        }
        with patch_module_args(arguments), pytest.raises(SystemExit):
            notebook_certificates.main()
        result: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        return result


@pytest.fixture
def make(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Module:
    """Return the module with an empty directory."""
    return Module(tmp_path, capsys)


class Server:
    """The notebook server's side of a new session."""

    def __init__(self, authority: Authority, directory: Path, user: str = "alice", statement: str = "") -> None:
        identity = authority.issue(user, statement)
        pem = directory / "server.pem"
        pem.write_text(identity.key + identity.certificate)
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=identity.clients)
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.load_cert_chain(pem)
        self.identity = identity


def proxy(directory: Path) -> ssl.SSLContext:
    """Return the proxy's TLS context, as proxy.mjs creates it."""
    context = ssl.create_default_context(cafile=directory / "servers.pem")
    context.load_cert_chain(directory / "proxy.pem")
    return context


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> bool:
    """Return whether both sides accept each other. The handshake needs no network."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
                end.read(1)  # TLS 1.3 checks the client's certificate after its handshake
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                return False
    return True


def test_files_are_created_once_with_their_modes(make: Module) -> None:
    assert make(check=True)["changed"]
    assert not list(make.directory.iterdir())
    assert make()["changed"]
    assert not make()["changed"]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in make.directory.iterdir()}
    pairs = {"current.pem": 0o400, "next.pem": 0o400, "proxy.pem": 0o440, "hub.pem": 0o400}
    assert modes == pairs | {"servers.pem": 0o444, "clients.pem": 0o444}


def test_proxy_hub_and_user_server_accept_each_other(make: Module) -> None:
    make()
    server = Server(make.authority, make.directory)
    assert shake_hands(proxy(make.directory), server.context, server_name("alice"))
    assert shake_hands(make.authority.client_context(), server.context, "compute1")


@pytest.mark.parametrize("user", ["first.last", "2023abc", "AB1234", "ann@CL.ORG", "a" * 64])
def test_user_with_an_unusual_name_has_a_certificate_of_their_own(make: Module, user: str) -> None:
    make()
    server = Server(make.authority, make.directory, user=user)
    assert shake_hands(proxy(make.directory), server.context, server_name(user))
    for other in (user.swapcase(), user.partition("@")[0] + "x", server_name(user).partition(".")[0]):
        assert not shake_hands(proxy(make.directory), server.context, server_name(other))


def test_client_context_can_be_copied_with_the_configuration(make: Module) -> None:
    make()
    context = make.authority.client_context()
    assert copy.deepcopy({"ssl": context}) == {"ssl": context}


def test_certificate_of_another_user_is_refused_by_the_proxy(make: Module) -> None:
    make()
    neighbour = Server(make.authority, make.directory, user="bob")
    assert not shake_hands(proxy(make.directory), neighbour.context, server_name("alice"))


def test_user_server_refuses_other_clients(make: Module) -> None:
    make()
    server, neighbour = Server(make.authority, make.directory), make.authority.issue("bob")
    pem = make.directory / "bob.pem"
    pem.write_text(neighbour.key + neighbour.certificate)
    bob = ssl.create_default_context(cafile=make.directory / "servers.pem")
    assert not shake_hands(bob, server.context, server_name("alice"))
    bob.load_cert_chain(pem)
    assert not shake_hands(bob, server.context, server_name("alice"))


def test_proxy_certificate_is_refused_as_a_server_certificate(make: Module) -> None:
    make()
    thief = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    thief.load_cert_chain(make.directory / "proxy.pem")
    assert not shake_hands(make.authority.client_context(), thief, "compute1")


def test_certificate_of_a_server_signs_no_other_certificate(make: Module) -> None:
    make()
    certificate = x509.load_pem_x509_certificate(make.authority.issue("alice").certificate.encode())
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca) == (True, False)


def test_each_session_has_a_different_key(make: Module) -> None:
    make()
    assert make.authority.issue("alice").key != make.authority.issue("alice").key


def test_certificate_carries_a_statement_that_only_the_authority_can_write(make: Module, tmp_path: Path) -> None:
    make()
    server = Server(make.authority, make.directory, statement="granted: ä")
    assert shake_hands(proxy(make.directory), server.context, server_name("alice"))
    issued = make.authority.read(server.identity.certificate)
    assert issued.statement == "granted: ä"
    assert abs(issued.issued.timestamp() - time.time()) < 60
    assert issued.content == ssl.PEM_cert_to_DER_cert(server.identity.certificate)
    assert make.authority.read(make.authority.issue("alice").certificate).statement == ""
    make(rotate=True)
    assert make.authority.read(server.identity.certificate) == issued

    own = ec.generate_private_key(ec.SECP256R1())
    known = x509.load_pem_x509_certificate(server.identity.certificate.encode())
    forged = (
        x509.CertificateBuilder(known.issuer, known.subject, own.public_key(), 1)
        .not_valid_before(known.not_valid_before_utc)
        .not_valid_after(known.not_valid_after_utc)
        .add_extension(x509.UnrecognizedExtension(STATEMENT, b"granted: everything"), critical=False)
        .sign(own, hashes.SHA256())
    )
    for certificate in (forged.public_bytes(serialization.Encoding.PEM).decode(), "", "-----BEGIN CERTIFICATE-----"):
        with pytest.raises(ValueError, match=r"certificate|PEM"):
            make.authority.read(certificate)


def test_certificate_whose_time_is_over_states_nothing(make: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    make()
    monkeypatch.setattr(certificates, "VALIDITY", dt.timedelta(0))
    certificate = make.authority.issue("alice", "granted").certificate
    with pytest.raises(ValueError, match="not valid now"):
        make.authority.read(certificate)


def test_session_survives_one_rotation_but_not_two(make: Module) -> None:
    make()
    server = Server(make.authority, make.directory)
    name = server_name("alice")
    assert make(rotate=True)["changed"]
    assert not make()["changed"]
    assert shake_hands(proxy(make.directory), server.context, name)
    assert shake_hands(proxy(make.directory), Server(make.authority, make.directory).context, name)
    make(rotate=True)
    assert not shake_hands(proxy(make.directory), server.context, name)


@pytest.mark.parametrize(
    "lost",
    ["previous", "current", "next", "proxy", "hub", "servers", "clients"],
)
def test_missing_file_is_recreated(make: Module, lost: str) -> None:
    make()
    make(rotate=True)
    (make.directory / f"{lost}.pem").unlink()
    make()
    assert not make()["changed"]
    server = Server(make.authority, make.directory)
    assert shake_hands(proxy(make.directory), server.context, server_name("alice"))
    assert shake_hands(make.authority.client_context(), server.context, "compute1")


def test_interrupted_rotation_is_completed(make: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    make()
    server, name = Server(make.authority, make.directory), server_name("alice")
    with monkeypatch.context() as patch:
        patch.setattr(
            notebook_certificates.Authority, "make_authority", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
        )
        assert make(rotate=True)["failed"]
    assert shake_hands(proxy(make.directory), server.context, name)
    make()
    assert shake_hands(proxy(make.directory), server.context, name)
    assert shake_hands(proxy(make.directory), Server(make.authority, make.directory).context, name)
