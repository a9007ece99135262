"""The authority of notebook servers: who believes whom, and that a rotation cuts off no running session."""

import copy
import grp
import json
import os
import pwd
import ssl
import stat

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.hpchub.hpchub.plugins.modules import notebook_certificates

from hpchub.hub.certificates import Authority, server_name


@pytest.fixture
def make(tmp_path, capsys):
    """Runs the module as Ansible does; ``make.authority`` is the hub's view."""
    directory = tmp_path / "tls"
    directory.mkdir()

    def run(*, rotate=False, check=False):
        arguments = {
            "path": str(directory),
            "owner": pwd.getpwuid(os.getuid()).pw_name,
            "proxy_group": grp.getgrgid(os.getgid()).gr_name,
            "rotate": rotate,
            "_ansible_check_mode": check,
            "_ansible_remote_tmp": str(tmp_path / "tmp"),
        }
        with patch_module_args(arguments), pytest.raises(SystemExit):
            notebook_certificates.main()
        return json.loads(capsys.readouterr().out)

    run.directory = directory
    run.authority = Authority(directory)
    return run


class Server:
    """A notebook server's side, of a session that was made now."""

    def __init__(self, authority, directory, user="alice"):
        identity = authority.issue(user)
        pem = directory / "server.pem"
        pem.write_text(identity.key + identity.certificate)
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=identity.clients)
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.load_cert_chain(pem)
        self.identity = identity


def proxy(directory):
    """The proxy's side, as proxy.mjs reads it."""
    context = ssl.create_default_context(cafile=directory / "servers.pem")
    context.load_cert_chain(directory / "proxy.pem")
    return context


def shake_hands(client, server, name):
    """Whether both sides accept each other, without a network."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
                end.read(1)  # TLS 1.3: the client's certificate is judged after its handshake
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                return False
    return True


def test_makes_everything_once(make):
    assert make(check=True)["changed"]
    assert not list(make.directory.iterdir())
    assert make()["changed"]
    assert not make()["changed"]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in make.directory.iterdir()}
    pairs = {"current.pem": 0o400, "next.pem": 0o400, "proxy.pem": 0o440, "hub.pem": 0o400}
    assert modes == pairs | {"servers.pem": 0o444, "clients.pem": 0o444}


def test_the_proxy_and_a_users_server_accept_each_other(make):
    make()
    server = Server(make.authority, make.directory)
    assert shake_hands(proxy(make.directory), server.context, server_name("alice"))
    assert shake_hands(make.authority.client_context(), server.context, "compute1")


def test_the_hubs_side_may_be_in_its_configuration(make):
    make()
    context = make.authority.client_context()
    assert copy.deepcopy({"ssl": context}) == {"ssl": context}


def test_a_neighbours_certificate_is_not_the_users(make):
    make()
    neighbour = Server(make.authority, make.directory, user="bob")
    assert not shake_hands(proxy(make.directory), neighbour.context, server_name("alice"))


def test_a_neighbour_gets_no_answer(make):
    make()
    server, neighbour = Server(make.authority, make.directory), make.authority.issue("bob")
    pem = make.directory / "bob.pem"
    pem.write_text(neighbour.key + neighbour.certificate)
    bob = ssl.create_default_context(cafile=make.directory / "servers.pem")
    assert not shake_hands(bob, server.context, server_name("alice"))
    bob.load_cert_chain(pem)
    assert not shake_hands(bob, server.context, server_name("alice"))


def test_the_proxys_certificate_serves_nobody(make):
    make()
    thief = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    thief.load_cert_chain(make.directory / "proxy.pem")
    assert not shake_hands(make.authority.client_context(), thief, "compute1")


def test_each_session_has_a_key_of_its_own(make):
    make()
    assert make.authority.issue("alice").key != make.authority.issue("alice").key


def test_sessions_outlive_a_rotation_and_not_two(make):
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
def test_what_is_missing_is_made_again(make, lost):
    make()
    make(rotate=True)
    (make.directory / f"{lost}.pem").unlink()
    make()
    assert not make()["changed"]
    server = Server(make.authority, make.directory)
    assert shake_hands(proxy(make.directory), server.context, server_name("alice"))
    assert shake_hands(make.authority.client_context(), server.context, "compute1")


def test_a_rotation_that_was_cut_short_is_completed(make, monkeypatch):
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
