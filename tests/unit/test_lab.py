"""The lab's checks and error messages: each message is one line that states the problem and how to fix it."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import ssl
import sys
import tarfile
from contextlib import redirect_stdout
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from lab import demo, host, images
from lab.certificates import make_certificates
from lab.console import LabError
from lab.instance import Instance
from lab.playbook import Stamp
from lab.topology import TOPOLOGIES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.instance.CACHE", tmp_path)


def error_message(function: Callable[..., object], *arguments: object) -> str:
    """Return the error message of a call, after checking that it is one line and names a fix."""
    with pytest.raises(LabError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert ". To fix this, " in message
    return message


def test_used_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert f"port {port} on 127.0.0.1 is in use" in error_message(host.require_ports, (port,))
    host.require_ports((port,))


def test_full_disk_error_states_the_free_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "podman", lambda *_: SimpleNamespace(stdout="/nowhere/at/all\n"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2_500_000_000))
    assert "2.5 GB free at /" in error_message(host.require_disk, 8)


def test_network_error_names_the_unreachable_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "mirror", lambda: "http://127.0.0.1:1/debian")
    assert "http://127.0.0.1:1/debian" in error_message(host.require_network)


@pytest.mark.parametrize(
    ("uid", "podman", "expected"),
    [(1000, "/usr/bin/podman", "you are not root"), (0, None, "podman is not installed")],
    ids=["not root", "no podman"],
)
def test_requires_root_and_podman(uid: int, podman: str | None, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: uid)
    monkeypatch.setattr("shutil.which", lambda _: podman)
    assert expected in error_message(host.podman_prefix.__wrapped__)


def test_rejects_a_second_run_on_the_same_instance() -> None:
    with Instance("demo").lock():
        assert "another run" in error_message(Instance("demo").lock().__enter__)


def test_image_tag_changes_with_the_recipe_of_the_image_or_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: images.tag(name) for name in images.RECIPES}
    monkeypatch.setattr(images, "_BASE_SCRIPT", "true")
    changed = {name for name, tag in before.items() if images.tag(name) != tag}
    assert changed == set(images.RECIPES) - {"session_base", "session"}
    monkeypatch.setitem(images.RECIPES, "session_base", replace(images.RECIPES["session_base"], suite="bookworm"))
    assert images.tag("session") != before["session"]


def test_image_tag_changes_with_the_lock_file_of_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "REPOSITORY", tmp_path)
    lock = tmp_path / images.RECIPES["session"].requirements
    lock.parent.mkdir(parents=True)
    tags = set()
    for text in ("jupyterlab==1", "jupyterlab==2"):
        lock.write_text(text)
        tags.add(images.tag("session"))
    assert len(tags) == 2


def test_archive_of_the_session_image_has_the_id_that_engines_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = b'{"config": {}}'
    calls = []

    def save(*arguments: str, **_: object) -> None:
        calls.append(arguments[0])
        target = next(each.partition("=")[2] for each in arguments if each.startswith("--output="))
        with tarfile.open(target, "w") as archive:
            for name, content in (("a.json", config), ("manifest.json", b'[{"Config": "a.json"}]')):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))

    monkeypatch.setattr(images, "CACHE", tmp_path)
    monkeypatch.setattr(images, "podman", save)
    (tmp_path / "session-old.tar").touch()
    expected = hashlib.sha256(config).hexdigest()
    assert [images.session_archive()[1] for _ in range(2)] == [expected, expected]
    assert calls == ["save"]
    assert [path.name for path in tmp_path.glob("session-*")] == [images.session_archive()[0].name]


def test_parent_images_are_built_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_exists", lambda _: False)
    assert images.missing({"node"}) == ["base", "node"]


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_other_instances_do_not_conflict_with_the_demo(topology: str) -> None:
    demo_instance = Instance("demo")
    other = Instance("default", topology)
    names = {demo_instance.container(each.name) for each in demo_instance.hosts}
    assert names == {"hub", "login1", "compute1", "compute2", "idp"}
    assert not names & {other.container(each.name) for each in other.hosts}
    assert other.network != demo_instance.network


def test_unknown_topology_error_lists_the_valid_ones() -> None:
    message = error_message(Instance, "other")
    assert "topology 'other', which does not exist" in message
    assert message.endswith(f": {', '.join(TOPOLOGIES)}")


def test_secrets_are_generated_only_once() -> None:
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


def test_topology_with_containers_knows_its_image_and_keeps_its_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "missing", lambda _: [])
    monkeypatch.setattr(images, "session_archive", lambda: (tmp_path / "session.tar", "a" * 64))
    instance = Instance("science_portal")
    instance.directory.mkdir(parents=True)
    states = []
    for _ in range(2):
        instance._write_state({})
        states.append(instance.state())
    assert states[0] == states[1]
    assert states[0]["session_image"] == "a" * 64
    assert states[0]["session_archive"] == str(tmp_path / "session.tar")
    assert len({states[0][name] for name in ("kubernetes_token", "kubernetes_administrator_token")}) == 2
    own = {each.name: instance._run_arguments(each, dict.fromkeys([each.name], "10.0.0.1")) for each in instance.hosts}
    assert "--volume=/var/lib/docker" in own["docker1"]
    assert "--volume=/var/lib/containers" in own["kube1"]
    assert "session_image" not in Instance("demo").state()


def test_tls_client_that_trusts_the_lab_authority_accepts_its_servers(tmp_path: Path) -> None:
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


def test_stamp_is_valid_until_an_input_or_a_host_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.playbook.REPOSITORY", tmp_path)
    (tmp_path / "roles").mkdir()
    (tmp_path / "roles/one").write_text("1")
    identity = ["a"]
    instance: Any = SimpleNamespace(directory=tmp_path, identity=lambda: identity[0])
    stamp = Stamp(instance, "x", ("roles",))
    assert not stamp.matches()
    stamp.set()
    assert stamp.matches()
    (tmp_path / "roles/one").write_text("2")
    assert not stamp.matches()
    stamp.set()
    identity[0] = "b"
    assert not stamp.matches()


def test_status_without_a_demo_explains_how_to_create_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.instance.inspect_container", lambda _: None)
    with redirect_stdout(io.StringIO()) as output:
        assert demo.main(["status"]) == 1
        assert demo.main(["status", "--json"]) == 1
    first, _, rest = output.getvalue().partition("\n")
    assert "bin/demo up" in first
    assert json.loads(rest)["running"] is False


def test_exec_passes_the_command_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    executed = []

    def execv(_: str, words: list[str]) -> NoReturn:
        executed.append(words)
        raise SystemExit

    monkeypatch.setattr(demo, "podman_prefix", lambda: ("podman",))
    monkeypatch.setattr("os.execv", execv)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(SystemExit):
        demo.main(["exec", "hub", "printf", "%s", "--json", "-h", "a b", ""])
    assert executed == [["podman", "exec", "--interactive", "hub", "printf", "%s", "--json", "-h", "a b", ""]]


@pytest.mark.parametrize("words", [["exec"], ["exec", "hub"], ["exec", "login9", "true"]], ids=" ".join)
def test_exec_error_lists_the_hosts(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(words) == 1
    assert "hub, login1, compute1, compute2, idp" in capsys.readouterr().err


def test_unknown_command_error_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        demo.main(["start"])
    assert caught.value.code == 2
    assert "unknown command 'start'; the commands are up, status, exec and down" in capsys.readouterr().err
