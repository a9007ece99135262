"""The gate of a Docker host permits sessions, and nothing else. Behind it is a stand-in for the engine."""

from __future__ import annotations

import contextlib
import copy
import ipaddress
import json
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import docker
import pytest
from docker.errors import APIError
from docker_engine import Engine
from hub_app import profile, site

from hpchub.deploy.role_arguments import docker_gates
from hpchub.model.entries import Profile
from hpchub.model.places import DockerPlace
from hpchub.places.docker import spec
from hpchub.remote import docker_gate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SESSION = "00000000000000aa"
NAME = f"hpchub-{SESSION}"
IMAGE = f"example.org/notebook@sha256:{'1' * 64}"
IDS = (4242, 4242)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home of Alice, which belongs to her uid as far as the gate sees it."""
    found = tmp_path.resolve() / "home" / "alice"
    found.mkdir(parents=True)
    found.parent.chmod(0o755)
    monkeypatch.setattr(f"{__name__}.IDS", (os.getuid() or 4242, os.getgid() or 4242))
    if os.getuid() == 0:
        os.chown(found, *IDS)
    return found


def entry(home: Path, **changes: Any) -> dict[str, Any]:
    """Return a place as an inventory contains it."""
    return {
        "name": "cloud",
        "kind": "docker",
        "host": "docker1",
        "url": "https://docker1:2376",
        "networks": ["10.0.0.0/8"],
        "max_cores": 4,
        "max_memory": "8G",
        "max_runtime": "8:00:00",
        "images": [{"name": "small", "image": IMAGE}],
        "home": f"{home.parent}/{{user}}",
        **changes,
    }


@pytest.fixture
def policy(home: Path) -> dict[str, Any]:
    """Return the policy that the inventory gives to the gate."""
    cloudy = {**profile("cloudy", place="cloud")}
    del cloudy["cluster"], cloudy["queue"]
    found = site(cloudy, hpc_places=[entry(home)], hpc_access={"hub_accounts": True, "minimum_uid": 1000})
    (gate,) = docker_gates(found, "docker1")
    assert not docker_gates(found, "docker2")
    return {**gate["policy"], "published_at": "10.0.0.5"}


@pytest.fixture
def body(home: Path) -> dict[str, Any]:
    """Return the description that docker-py sends for a session of the hub."""
    place = DockerPlace.model_validate(entry(home))
    granted = Profile(
        key="a", display_name="a", place="cloud", cores=2, memory="2G", runtime="1:00:00", queue="", cluster=""
    )
    client = docker.APIClient(base_url="http://127.0.0.1:9", version="1.45")
    options = spec.create_options(place, granted, hub="h~12345678", user="alice", session=SESSION, ids=IDS)
    options.pop("use_config_proxy")
    host = client.create_host_config(
        **spec.host_options(place, granted, IDS, [100, 4300]),
        mounts=[docker.types.Mount(**mount) for mount in spec.mounts(place, "alice")],
        mem_limit=2 << 30,
        cpu_period=100_000,
        cpu_quota=200_000,
        network_mode="hpchub",
        port_bindings={20001: ("10.0.0.5", 20001)},
        binds={},
        links={},
        auto_remove=False,
    )
    environment = {"HOME": str(home), "USER": "alice"}
    found: dict[str, Any] = client.create_container_config(
        IMAGE, [], environment=environment, ports=[20001], host_config=host, **options
    )
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def test_session_of_the_hub_is_permitted(body: dict[str, Any], policy: dict[str, Any]) -> None:
    docker_gate.check_container(NAME, body, policy)


def host(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda body: body["HostConfig"].update(changes)


def top(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda body: body.update(changes)


def label(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda body: body["Labels"].update({f"hpchub.{name}": value for name, value in changes.items()})


def mount(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda body: body["HostConfig"]["Mounts"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(host(Privileged=True), "Privileged is not permitted", id="privileged"),
        pytest.param(host(CapAdd=["SYS_ADMIN"]), "CapAdd is not permitted", id="capability"),
        pytest.param(host(CapDrop=[]), "not all capabilities are dropped", id="keeps capabilities"),
        pytest.param(host(SecurityOpt=[]), "new privileges are not prevented", id="new privileges"),
        pytest.param(host(SecurityOpt=["no-new-privileges:true", "seccomp=unconfined"]), "new", id="no seccomp"),
        pytest.param(host(Binds=["/:/host"]), "Binds is not permitted", id="bind of the root"),
        pytest.param(host(Devices=[{"PathOnHost": "/dev/sda"}]), "Devices is not permitted", id="device"),
        pytest.param(host(PidMode="host"), "PidMode is not permitted", id="processes of the host"),
        pytest.param(host(UsernsMode="host"), "UsernsMode is not permitted", id="users of the host"),
        pytest.param(host(UTSMode="host"), "UTSMode is not permitted", id="name of the host"),
        pytest.param(host(CgroupParent="/"), "CgroupParent is not permitted", id="control group"),
        pytest.param(host(VolumesFrom=["x"]), "VolumesFrom is not permitted", id="volumes of another"),
        pytest.param(host(Runtime="evil"), "Runtime is not permitted", id="runtime"),
        pytest.param(host(IpcMode="host"), "the IPC namespace is shared", id="memory of the host"),
        pytest.param(host(NetworkMode="host"), "the network is not that of sessions", id="network of the host"),
        pytest.param(host(NetworkMode="container:x"), "the network is not", id="network of another container"),
        pytest.param(host(ReadonlyRootfs=False), "the image can be written", id="writable image"),
        pytest.param(host(Memory=0), "the memory is not limited enough", id="no memory limit"),
        pytest.param(host(Memory=9 << 30, MemorySwap=9 << 30), "the memory is not limited", id="too much memory"),
        pytest.param(host(MemorySwap=-1), "the swap space is not limited", id="swap"),
        pytest.param(host(CpuQuota=-1), "the cores are not limited", id="no core limit"),
        pytest.param(host(CpuQuota=500_000), "there are too many cores", id="too many cores"),
        pytest.param(host(PidsLimit=-1), "the processes are not limited enough", id="no process limit"),
        pytest.param(host(DeviceRequests=[{"Count": -1, "Capabilities": [["gpu"]]}]), "GPU", id="all GPUs"),
        pytest.param(host(LogConfig={"Type": "json-file"}), "the output is not limited", id="endless output"),
        pytest.param(
            host(LogConfig={"Type": "json-file", "Config": {"max-size": "900g", "max-file": "1"}}),
            "the output is not limited",
            id="huge output",
        ),
        pytest.param(host(LogConfig={"Type": "syslog", "Config": {"max-size": "1"}}), "output", id="other log"),
        pytest.param(host(GroupAdd=["0"]), "a group is not a gid, or is root's", id="root's group"),
        pytest.param(host(GroupAdd=["docker"]), "a group is not a gid", id="group by name"),
        pytest.param(host(GroupAdd=["100", "6"]), "group 6 belongs to the system", id="group of the disks"),
        pytest.param(top(User="4242:6"), "group 6 belongs to the system", id="main group of the disks"),
        pytest.param(host(Tmpfs={"/tmp": "rw", "/etc": "rw"}), "a tmpfs is not permitted", id="tmpfs"),
        pytest.param(host(Tmpfs={"/tmp": "rw"}), "a tmpfs is not permitted", id="endless tmpfs"),
        pytest.param(mount(Source="/home/bob"), "the mount of /home/bob is not permitted", id="another's home"),
        pytest.param(mount(Source="/var/run/docker.sock"), "is not permitted", id="socket of the engine"),
        pytest.param(mount(Type="volume"), "is not permitted", id="volume"),
        pytest.param(mount(BindOptions={"CreateMountpoint": True}), "a mount has an option", id="missing home"),
        pytest.param(
            host(PortBindings={"20001/tcp": [{"HostIp": "0.0.0.0", "HostPort": "20001"}]}),
            "a port is published elsewhere",
            id="port for everybody",
        ),
        pytest.param(
            host(PortBindings={"22/tcp": [{"HostIp": "10.0.0.5", "HostPort": "22"}]}), "not permitted", id="low port"
        ),
        pytest.param(top(User="0:0"), "the user is not a uid and a gid", id="root"),
        pytest.param(top(User="alice"), "the user is not a uid and a gid", id="user by name"),
        pytest.param(top(User=""), "the user is not a uid and a gid", id="user of the image"),
        pytest.param(top(User="999:999"), "uid 999 is below 1000", id="system account"),
        pytest.param(top(User="4343:4343"), "does not belong to uid 4343", id="uid of another"),
        pytest.param(top(Image="alpine:latest"), "the image is not in the list", id="other image"),
        pytest.param(top(Entrypoint=["sh"]), "the program is not hpchub-launch", id="other program"),
        pytest.param(top(Cmd=["sh"]), "Cmd is not permitted", id="arguments"),
        pytest.param(top(Env=["LD_PRELOAD=/x"]), "the variable LD_PRELOAD is not permitted", id="environment"),
        pytest.param(top(Env=["HOME=/home/bob"]), "HOME is not the user's home", id="home"),
        pytest.param(top(Volumes={"/run/hpchub": {}}), "Volumes is not permitted", id="volume without a limit"),
        pytest.param(top(WorkingDir="/proc/self/fd/8"), "the working directory is not /", id="directory of the host"),
        pytest.param(top(StopSignal="SIGCONT"), "the signal to stop is not SIGTERM", id="signal"),
        pytest.param(top(Tty=True), "Tty is not permitted", id="terminal"),
        pytest.param(top(OpenStdin=False), "the session cannot get its files", id="no standard input"),
        pytest.param(top(StdinOnce=False), "the session cannot get its files", id="endless standard input"),
        pytest.param(top(Healthcheck={"Test": ["CMD", "sh"]}), "there is a health check", id="health check"),
        pytest.param(top(Healthcheck=None), "there is a health check", id="health check of the image"),
        pytest.param(top(NetworkingConfig={"EndpointsConfig": {"x": {}}}), "NetworkingConfig", id="second network"),
        pytest.param(label(session="0" * 16), "the name is not valid", id="session of another"),
        pytest.param(label(user="../bob"), "the name is not valid", id="user with a path"),
        pytest.param(label(runtime="999"), "the program is not hpchub-launch", id="other time limit"),
        pytest.param(label(more="x"), "the labels are not those of a session", id="label"),
    ],
)
def test_everything_else_is_refused(
    body: dict[str, Any], policy: dict[str, Any], change: Callable[[dict[str, Any]], None], problem: str
) -> None:
    changed = copy.deepcopy(body)
    change(changed)
    assert changed != body
    with pytest.raises(docker_gate.Refused) as caught:
        docker_gate.check_container(NAME, changed, policy)
    assert problem in str(caught.value)


def test_hub_host_publishes_no_ports(body: dict[str, Any], policy: dict[str, Any]) -> None:
    body["HostConfig"]["PortBindings"] = {"20001/tcp": [{"HostIp": "", "HostPort": "20001"}]}
    with pytest.raises(docker_gate.Refused, match="this host publishes no ports"):
        docker_gate.check_container(NAME, body, {**policy, "published_at": ""})


GPU = {"Count": 1, "Capabilities": [["gpu"]]}


@pytest.mark.parametrize(
    ("requests", "problem"),
    [
        ([GPU], ""),
        ([GPU, GPU], "there are too many GPUs"),
        ([{**GPU, "Count": -1}, {**GPU, "Count": 2}], "a device is not a GPU"),
        ([{**GPU, "Capabilities": [["gpu", "display"]]}], "a device is not a GPU"),
        ([{**GPU, "DeviceIDs": ["0"]}], "a device is not permitted"),
        ([{**GPU, "Driver": "cdi"}], "a device is not permitted"),
        ([{**GPU, "deviceids": ["all"]}], "a device has another option"),
    ],
)
def test_only_as_many_gpus_as_the_place_has(
    body: dict[str, Any], policy: dict[str, Any], requests: list[Any], problem: str
) -> None:
    body["HostConfig"]["DeviceRequests"] = requests
    if not problem:
        docker_gate.check_container(NAME, body, {**policy, "max_gpus": 1})
        return
    with pytest.raises(docker_gate.Refused, match=problem):
        docker_gate.check_container(NAME, body, {**policy, "max_gpus": 1})


def other(body: dict[str, Any], session: str, **host_config: Any) -> tuple[str, dict[str, Any]]:
    """Return the name and the description of another session's container."""
    found = copy.deepcopy(body)
    found["Labels"]["hpchub.session"] = session
    found["Entrypoint"][-1] = session
    found["HostConfig"].update(host_config)
    return f"hpchub-{session}", found


def test_sessions_never_share_a_gpu(
    gated: tuple[Engine, docker.APIClient], body: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, client = gated
    for number in range(3):
        (tmp_path / "gpus" / str(number)).mkdir(parents=True)
    monkeypatch.setattr(docker_gate, "GPUS", tmp_path / "gpus")
    two = [{**GPU, "Count": 2}]
    for session, requests in ((SESSION, two), ("00000000000000bb", [GPU])):
        name, described = other(body, session, DeviceRequests=requests)
        client.create_container_from_config(described, name)
        client.start(name)
    given = [each.body["HostConfig"]["DeviceRequests"][0]["DeviceIDs"] for each in engine.containers.values()]
    assert given == [["0", "1"], ["2"]]
    name, described = other(body, "00000000000000cc", DeviceRequests=[GPU])
    with pytest.raises(APIError) as caught:
        client.create_container_from_config(described, name)
    failure = spec.explain("cloud", str(caught.value.explanation)).failure
    assert str(failure.message) == "All GPUs of the host cloud are in use at the moment."
    engine.containers[NAME].stop(0.1)
    client.create_container_from_config(described, name)
    assert engine.containers[name].body["HostConfig"]["DeviceRequests"][0]["DeviceIDs"] == ["0"]


def test_host_without_gpus_gives_none(gated: tuple[Engine, docker.APIClient], body: dict[str, Any]) -> None:
    body["HostConfig"]["DeviceRequests"] = [GPU]
    with pytest.raises(APIError, match="all GPUs are in use"):
        gated[1].create_container_from_config(body, NAME)


def test_image_with_volumes_is_refused(gated: tuple[Engine, docker.APIClient], body: dict[str, Any]) -> None:
    engine, client = gated
    engine.volumes[IMAGE] = ["/var/lib/data"]
    with pytest.raises(APIError) as caught:
        client.create_container_from_config(body, NAME)
    refused = "the image declares the volumes /var/lib/data, which have no limit"
    assert caught.value.explanation == f"hpchub refuses: {refused}"
    assert not engine.containers


def test_directory_of_the_site_cannot_be_written(body: dict[str, Any], policy: dict[str, Any]) -> None:
    data = {"source": "/data", "target": "/data", "read_only": True}
    body["HostConfig"]["Mounts"].append({"Type": "bind", "Source": "/data", "Target": "/data", "ReadOnly": True})
    docker_gate.check_container(NAME, body, {**policy, "mounts": [data]})
    body["HostConfig"]["Mounts"][-1]["ReadOnly"] = False
    with pytest.raises(docker_gate.Refused, match="the mount of /data is read-only"):
        docker_gate.check_container(NAME, body, {**policy, "mounts": [data]})


@pytest.mark.parametrize("body", [[], None, "x", {}, {"HostConfig": []}, {"HostConfig": None}])
def test_description_in_another_form_is_refused(policy: dict[str, Any], body: Any) -> None:
    with pytest.raises(docker_gate.Refused, match="the description is not an object"):
        docker_gate.check_container(NAME, body, policy)


def test_time_limit_of_the_place_holds(body: dict[str, Any], policy: dict[str, Any]) -> None:
    with pytest.raises(docker_gate.Refused, match="the time limit is too long"):
        docker_gate.check_container(NAME, body, {**policy, "max_runtime": 60})


def test_home_that_is_a_link_is_refused(body: dict[str, Any], policy: dict[str, Any], home: Path) -> None:
    other = home.with_name("bob")
    home.rename(other)
    home.symlink_to(other)
    with pytest.raises(docker_gate.Refused, match="is, or is below, a symbolic link"):
        docker_gate.check_container(NAME, body, policy)


def test_home_that_is_missing_is_refused(body: dict[str, Any], policy: dict[str, Any], home: Path) -> None:
    home.rmdir()
    with pytest.raises(docker_gate.Refused, match="bind source path does not exist") as caught:
        docker_gate.check_container(NAME, body, policy)
    failure = spec.explain("cloud", f"hpchub refuses: {caught.value}").failure
    assert str(failure.message) == f"The directory {home} does not exist on the host cloud."


@pytest.mark.parametrize("mode", [0o775, 0o777, 0o1777])
def test_home_that_its_user_can_replace_is_refused(
    body: dict[str, Any], policy: dict[str, Any], home: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """The engine mounts the home later, so a link in its place would open another directory of the host."""
    home.parent.chmod(mode)
    monkeypatch.setattr("os.geteuid", lambda: IDS[0] + 1)
    if os.getuid() != 0:
        pytest.skip("only root can give the parent of a home to root")
    with pytest.raises(docker_gate.Refused, match="others than root can change"):
        docker_gate.check_container(NAME, body, policy)


def test_directory_below_one_of_the_user_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root can hold a directory in place below one that belongs to a user."""
    (home / "scratch").mkdir()
    monkeypatch.setattr("os.geteuid", lambda: 0)
    if os.getuid() == 0:
        os.chown(home / "scratch", *IDS)
    with pytest.raises(docker_gate.Refused, match="others than root can change"):
        docker_gate.check_directory(str(home / "scratch"), IDS[0])


def test_directory_of_a_user_in_a_mount_is_checked(body: dict[str, Any], policy: dict[str, Any], home: Path) -> None:
    template = f"{home.parent.parent}/scratch/{{user}}"
    scratch = home.parent.parent / "scratch"
    scratch.mkdir(mode=0o755)
    (scratch / "alice").symlink_to("/")
    mounts = [{"source": template, "target": "/scratch", "read_only": False}]
    body["HostConfig"]["Mounts"].append({"Type": "bind", "Source": f"{scratch}/alice", "Target": "/scratch"})
    with pytest.raises(docker_gate.Refused, match="is, or is below, a symbolic link"):
        docker_gate.check_container(NAME, body, {**policy, "mounts": mounts})


def test_description_passes_with_the_checked_keys_only(body: dict[str, Any], policy: dict[str, Any]) -> None:
    """The engine reads keys in any case."""
    body["shell"], body["HostConfig"]["usernsmode"] = [], ""
    found = json.loads(docker_gate.read_container(NAME, json.dumps(body).encode(), policy))
    assert "shell" not in found
    assert "usernsmode" not in found["HostConfig"]
    assert found["User"] == body["User"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param('{"', '{"user": "", "', id="root in another case"),
        pytest.param('"CapDrop"', '"capdrop": [], "CapDrop"', id="capabilities in another case"),
        pytest.param('"CapDrop"', '"\u017fecurityopt": [], "CapDrop"', id="case of Unicode"),
        pytest.param('{"', '{"HostConfig": {"Privileged": true}, "', id="privileged in a first object"),
        pytest.param('"Type": "json-file"', '"Type": "json-file", "type": "none"', id="deep"),
    ],
)
def test_key_that_the_engine_would_see_twice_is_refused(
    body: dict[str, Any], policy: dict[str, Any], old: str, new: str
) -> None:
    text = json.dumps(body)
    changed = text.replace(old, new, 1)
    assert changed != text
    with pytest.raises(docker_gate.Refused, match="a key is repeated"):
        docker_gate.read_container(NAME, changed.encode(), policy)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"HostConfig": {"Mounts": [1]}, "Labels": 1}', "another type"),
    ],
)
def test_description_that_cannot_be_read_is_refused(policy: dict[str, Any], change: bytes, problem: str) -> None:
    with pytest.raises(docker_gate.Refused, match=problem):
        docker_gate.read_container(NAME, change, policy)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/v1.45/info"),
        ("GET", "/containers/json/../../info"),
        ("GET", "//containers/json"),
        ("GET", "/v1.45/images/json"),
        ("GET", "/v1.45/images/alpine/json"),
        ("GET", "/v1.45/containers/other/json"),
        ("GET", f"/v1.45/containers/{NAME}/archive?path=/etc"),
        ("GET", f"/v1.45/containers/{NAME}/export"),
        ("PUT", f"/v1.45/containers/{NAME}/archive?path=/etc"),
        ("PUT", f"/v1.45/containers/{NAME}/archive?path=/run/hpchub"),
        ("POST", f"/v1.45/containers/{NAME}/exec"),
        ("POST", f"/v1.23/containers/{NAME}/start"),
        ("POST", f"/v1.40/containers/{NAME}/start"),
        ("POST", f"/v2.0/containers/{NAME}/start"),
        ("POST", f"/v1.45/containers/{NAME}/update"),
        ("POST", f"/v1.45/containers/{NAME}/rename?name=x"),
        ("POST", "/v1.45/containers/prune"),
        ("POST", "/v1.45/build"),
        ("POST", "/v1.45/images/create?fromImage=alpine"),
        ("POST", "/v1.45/networks/create"),
        ("POST", "/v1.45/swarm/init"),
        ("POST", "/v1.45/volumes/create"),
        ("POST", "/v1.45/plugins/pull"),
        ("DELETE", "/v1.45/containers/other?force=1"),
        ("DELETE", "/v1.45/networks/hpchub"),
        ("GET", "/v1.45/containers/json%2f..%2finfo"),
    ],
)
def test_other_request_is_refused(policy: dict[str, Any], method: str, target: str) -> None:
    with pytest.raises(docker_gate.Refused):
        docker_gate.rewrite(method, target, b"", policy)


def test_start_with_a_body_is_refused(policy: dict[str, Any]) -> None:
    """Old engines take another configuration of the host from it."""
    with pytest.raises(docker_gate.Refused, match="this request has no body"):
        docker_gate.rewrite("POST", f"/v1.45/containers/{NAME}/start", b'{"Privileged": true}', policy)


def test_client_sends_input_and_gets_no_output(policy: dict[str, Any]) -> None:
    target, _ = docker_gate.rewrite("POST", f"/v1.45/containers/{NAME}/attach?stdout=1&logs=1&stream=1", b"", policy)
    assert target == f"/v1.45/containers/{NAME}/attach?stdin=1&stream=1"


def test_list_contains_only_sessions_whatever_the_hub_asks(policy: dict[str, Any]) -> None:
    target, _ = docker_gate.rewrite("GET", "/v1.45/containers/json?filters=%7B%7D&all=0", b"", policy)
    assert target.startswith("/v1.45/containers/json?all=1&filters=")
    assert "hpchub.hub" in target


@pytest.fixture
def gated(tmp_path: Path, policy: dict[str, Any]) -> Iterator[tuple[Engine, docker.APIClient]]:
    """Return a stand-in for an engine, and a client of the gate before it."""
    engine = Engine(tmp_path)
    engine.images = {IMAGE: ["sleep", "30"]}
    listen = {"engine": str(engine.socket), "listen": {"socket": str(tmp_path / "gate.sock")}}
    server = docker_gate.serve({**policy, "max_gpus": 3, "gpu_lock": str(tmp_path / "gpus.lock"), **listen})
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield engine, docker.APIClient(base_url=f"unix://{tmp_path}/gate.sock", version="auto")
    server.shutdown()
    server.server_close()
    engine.close()


def close(stream: Any) -> None:
    """Close a connection to the input of a container."""
    raw = stream._sock
    with contextlib.suppress(OSError):
        raw.shutdown(socket.SHUT_RDWR)
    stream.close()
    raw.close()


def test_docker_works_through_the_gate(gated: tuple[Engine, docker.APIClient], body: dict[str, Any]) -> None:
    engine, client = gated
    client.create_container_from_config(body, NAME)
    stream = client.attach_socket(NAME, params={"stdin": 1, "stream": 1})
    client.start(NAME)
    stream._sock.sendall(spec.message({"session.json": "{}"}))
    close(stream)
    with engine.containers[NAME].changed:
        assert engine.containers[NAME].changed.wait_for(lambda: engine.containers[NAME].input_ends, 10)
    assert engine.containers[NAME].received == b'22\n{"session.json": "{}"}'
    assert [each["Names"] for each in client.containers()] == [[f"/{NAME}"]]
    assert client.inspect_container(NAME)["State"]["Status"] == "running"
    assert client.logs(NAME, tail=40) == b""
    client.stop(NAME, timeout=1)
    client.remove_container(NAME, v=True, force=True)
    assert not engine.containers


def test_gate_says_why_it_refuses(gated: tuple[Engine, docker.APIClient], body: dict[str, Any]) -> None:
    engine, client = gated
    body["HostConfig"]["Privileged"] = True
    with pytest.raises(APIError) as caught:
        client.create_container_from_config(body, NAME)
    assert caught.value.explanation == "hpchub refuses: Privileged is not permitted"
    assert not engine.containers


def test_long_body_is_refused(gated: tuple[Engine, docker.APIClient], monkeypatch: pytest.MonkeyPatch) -> None:
    engine, client = gated
    monkeypatch.setattr(docker_gate, "BODY_LIMIT", 1000)
    engine.requests.clear()
    url = client._url("/containers/create")
    with pytest.raises(APIError, match="the body is too long"):
        client._raise_for_status(client.post(url, data=bytes(2000)))
    with pytest.raises(APIError, match="the length of the body is unknown"):
        client._raise_for_status(client.post(url, data=iter([bytes(10)])))
    assert not engine.requests


def test_input_has_a_limit(
    gated: tuple[Engine, docker.APIClient], body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, client = gated
    client.create_container_from_config(body, NAME)
    monkeypatch.setattr(docker_gate, "BODY_LIMIT", 1000)
    stream = client.attach_socket(NAME, params={"stdin": 1, "stream": 1})
    with contextlib.suppress(OSError):
        for _ in range(100):
            stream._sock.sendall(bytes(65536))
    close(stream)
    with engine.containers[NAME].changed:
        assert engine.containers[NAME].changed.wait_for(lambda: engine.containers[NAME].input_ends, 10)
    assert len(engine.containers[NAME].received) <= 65536


@pytest.mark.parametrize(("clients", "permitted"), [([], True), (["127.0.0.0/8"], True), (["192.0.2.1"], False)])
def test_only_the_hub_can_occupy_the_gate(clients: list[str], permitted: bool) -> None:
    server = docker_gate.Server(("127.0.0.1", 0), docker_gate.Handler)
    server.clients = tuple(ipaddress.ip_network(each) for each in clients)
    assert server.verify_request(None, ("127.0.0.1", 4711)) is permitted
    server.server_close()


@pytest.mark.parametrize(("age", "state"), [(60 + 119, "running"), (60 + 121, "exited")])
def test_gate_ends_a_session_whose_user_has_stopped_its_timeout(
    gated: tuple[Engine, docker.APIClient], body: dict[str, Any], age: int, state: str
) -> None:
    engine, client = gated
    body["Labels"]["hpchub.runtime"], body["Entrypoint"][5] = "60", "60"
    client.create_container_from_config(body, NAME)
    client.start(NAME)
    engine.containers[NAME].created -= age
    docker_gate.end_overdue(str(engine.socket))
    assert engine.containers[NAME].status == state


def test_long_answer_is_refused(gated: tuple[Engine, docker.APIClient], monkeypatch: pytest.MonkeyPatch) -> None:
    _, client = gated
    monkeypatch.setattr(docker_gate, "ANSWER_LIMIT", 10)
    with pytest.raises(APIError, match="the answer of the engine is too long"):
        client.version()


def test_socket_of_the_gate_is_not_for_everybody(gated: Any, tmp_path: Path) -> None:
    assert (tmp_path / "gate.sock").stat().st_mode & 0o777 == 0o660
