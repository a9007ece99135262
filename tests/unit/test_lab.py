"""The lab's refusals, and what it decides by: one line that says what is wrong and how to mend it."""

import io
import json
import socket
import ssl
import sys
from contextlib import redirect_stdout
from types import SimpleNamespace

import pytest

from lab import demo, host, images, suite
from lab.certificates import make_certificates
from lab.console import LabError
from lab.instance import Instance
from lab.playbook import Stamp
from lab.topology import TOPOLOGIES


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("lab.instance.CACHE", tmp_path)


def refusal(call, *arguments):
    with pytest.raises(LabError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert "mend: " in message
    return message


def test_a_taken_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert f"port {port} is taken" in refusal(host.require_ports, (port,))
    host.require_ports((port,))


def test_too_little_disk_says_how_much_there_is(monkeypatch):
    monkeypatch.setattr(host, "podman", lambda *_: SimpleNamespace(stdout="/nowhere/at/all\n"))
    monkeypatch.setattr(host.shutil, "disk_usage", lambda _: SimpleNamespace(free=2_500_000_000))
    assert "2.5 GB free at /" in refusal(host.require_disk, 8)


def test_no_network_names_what_does_not_answer(monkeypatch):
    monkeypatch.setattr(host, "mirror", lambda: "http://127.0.0.1:1/debian")
    assert "http://127.0.0.1:1/debian" in refusal(host.require_network)


@pytest.mark.parametrize(
    ("uid", "podman", "words"),
    [(1000, "/usr/bin/podman", "not root"), (0, None, "podman is missing")],
    ids=["not root", "no podman"],
)
def test_root_and_podman_are_needed(uid, podman, words, monkeypatch):
    monkeypatch.setattr(host.os, "geteuid", lambda: uid)
    monkeypatch.setattr(host.shutil, "which", lambda _: podman)
    assert words in refusal(host.podman_prefix.__wrapped__)


def test_a_second_run_on_the_same_instance_is_refused():
    with Instance("demo").lock():
        assert "another run" in refusal(Instance("demo").lock().__enter__)


def test_an_image_gets_a_new_tag_with_its_recipe_or_its_parents(monkeypatch):
    before = {name: images.tag(name) for name in images.RECIPES}
    monkeypatch.setattr(images, "_BASE_SCRIPT", "true")
    assert all(images.tag(name) != tag for name, tag in before.items())


def test_parents_are_built_first(monkeypatch):
    monkeypatch.setattr(images, "_exists", lambda _: False)
    assert images.missing({"node"}) == ["base", "node"]


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_instances_stay_out_of_the_demos_way(topology):
    theirs = Instance("demo")
    ours = Instance("default", topology)
    names = {theirs.container(each.name) for each in theirs.hosts}
    assert names == {"hub", "login1", "compute1", "compute2", "idp"}
    assert not names & {ours.container(each.name) for each in ours.hosts}
    assert ours.network != theirs.network


def test_a_wrong_topology_is_refused_with_the_right_ones():
    with pytest.raises(LabError, match="demo, gridengine, htcondor, single_node"):
        Instance("other")


def test_secrets_are_drawn_once():
    instance = Instance("demo")
    addresses = {each.name: "10.0.0.1" for each in instance.hosts}
    instance.directory.mkdir(parents=True)
    instance._write_state({})
    before = instance.state()
    instance._write_state(addresses)
    after = instance.state()
    secrets = ("users", "sso_client_secret", "munge_key")
    assert [before[key] for key in secrets] == [after[key] for key in secrets]
    assert (instance.directory / "state.json").stat().st_mode & 0o777 == 0o600


def test_the_authority_vouches_for_the_servers(tmp_path):
    make_certificates(tmp_path, {"hub": ["hub.localhost", "hub"]})
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "hub.pem", tmp_path / "hub.key")
    client = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    ends = [ssl.MemoryBIO() for _ in range(2)]
    sides = [
        client.wrap_bio(ends[0], ends[1], server_hostname="hub.localhost"),
        server.wrap_bio(ends[1], ends[0], server_side=True),
    ]
    done = set()
    for _ in range(6):
        for side in sides:
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass
    assert done == set(sides)


def test_a_stamp_holds_until_an_input_or_a_host_changes(tmp_path, monkeypatch):
    monkeypatch.setattr("lab.playbook.REPOSITORY", tmp_path)
    (tmp_path / "roles").mkdir()
    (tmp_path / "roles/one").write_text("1")
    identity = ["a"]
    stamp = Stamp(SimpleNamespace(directory=tmp_path, identity=lambda: identity[0]), "x", ("roles",))
    assert not stamp.matches()
    stamp.set()
    assert stamp.matches()
    (tmp_path / "roles/one").write_text("2")
    assert not stamp.matches()
    stamp.set()
    identity[0] = "b"
    assert not stamp.matches()


@pytest.mark.parametrize(
    ("recap", "faulty"),
    [
        ("hub : ok=3    changed=0    unreachable=0    failed=0\n", False),
        ("hub                        : ok=3    changed=12   unreachable=0    failed=0\n", True),
        ("TASK [Say changed=3]\n", False),
    ],
    ids=["none", "some", "in a name"],
)
def test_a_check_run_that_would_change_something_fails(recap, faulty):
    assert bool(suite.no_change(recap)) is faulty


def test_status_without_a_demo_says_how_to_make_it(monkeypatch):
    monkeypatch.setattr("lab.instance.inspect_container", lambda _: None)
    with redirect_stdout(io.StringIO()) as told:
        assert demo.main(["status"]) == 1
        assert demo.main(["status", "--json"]) == 1
    first, _, rest = told.getvalue().partition("\n")
    assert "bin/demo up" in first
    assert json.loads(rest)["running"] is False


def test_exec_leaves_the_command_alone(monkeypatch):
    became = []

    def execv(_, words):
        became.append(words)
        raise SystemExit

    monkeypatch.setattr(demo, "podman_prefix", lambda: ("podman",))
    monkeypatch.setattr(demo.os, "execv", execv)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(SystemExit):
        demo.main(["exec", "hub", "printf", "%s", "--json", "-h", "a b", ""])
    assert became == [["podman", "exec", "--interactive", "hub", "printf", "%s", "--json", "-h", "a b", ""]]


@pytest.mark.parametrize("words", [["exec"], ["exec", "hub"], ["exec", "login9", "true"]], ids=" ".join)
def test_exec_names_the_hosts(words, capsys):
    assert demo.main(words) == 1
    assert "hub, login1, compute1, compute2, idp" in capsys.readouterr().err
