"""Sessions in Docker containers. The engine is a stand-in; see ``tests/docker_engine.py``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from docker_engine import Engine, Refusal
from hub_app import eventually, profile, site

from hpchub.cli.check_clusters import query_place
from hpchub.hub.job_events import PortReported
from hpchub.hub.orphans import OrphanCollector
from hpchub.hub.start_error import StartError
from hpchub.model.profile_list import profile_list
from hpchub.places.accounts import Account, ask_for_account, find_account
from hpchub.places.docker import connection as connections
from hpchub.places.docker import spec
from hpchub.places.interface import Refused as PlaceRefused
from hpchub.schedulers import Cause, JobState, Unanswered, job_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hub_app import Hub

IMAGE = f"example.org/notebook@sha256:{'1' * 64}"
BARE = f"sha256:{'2' * 64}"
SESSION = "00000000000000aa"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """Return a stand-in for an engine, with an image of sessions that only wait, and one that runs the launcher."""
    found = Engine(tmp_path)
    found.images = {IMAGE: ["sleep", "60"], BARE: None}
    yield found
    found.close()


@pytest.fixture
def hub(hub: Hub, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Return a hub with a place on the stand-in."""
    home = tmp_path / "home" / "alice"
    home.mkdir(parents=True)
    place = {
        "name": "cloud",
        "kind": "docker",
        "url": f"unix://{engine.socket}",
        "networks": ["172.30.0.0/16"],
        "max_cores": 4,
        "max_memory": "8G",
        "max_runtime": "8:00:00",
        "images": [
            {"name": "wait", "image": IMAGE},
            {"name": "bare", "image": BARE, "python": sys.executable},
        ],
        "home": f"{tmp_path}/home/{{user}}",
    }
    cloudy = profile("cloudy", place="cloud", cores=2, memory="2G", runtime="0:01:00")
    bare = profile("bare", place="cloud", image="bare")
    for each in (cloudy, bare):
        del each["cluster"], each["queue"]
    content = profile_list(site(cloudy, bare, hpc_places=[place]))
    (tmp_path / "profiles.json").write_text(json.dumps(content))
    hub.app.config.DockerSessionSpawner.startup_poll_interval = 0.01
    hub.app.config.DockerSessionSpawner.stop_timeout = 2.0
    monkeypatch.setattr(connections, "STOP_TIMEOUT", 1)
    monkeypatch.setattr("hpchub.hub.job_session.HOPELESS_AFTER", 0.3)
    monkeypatch.setattr(
        "hpchub.places.accounts.find_account", lambda name, _: Account(os.getuid(), os.getgid(), (100, 101))
    )
    return hub


def begin(hub: Hub, key: str = "cloudy") -> Any:
    """Return a spawner that is about to start a session in a container."""
    spawner = hub.user().spawners[""]
    spawner.user_options = {"profile": key}
    spawner.construct_child()
    return spawner


async def started(engine: Engine, spawner: Any) -> str:
    """Start a session, report its port, and return the server's URL."""
    spawner._spawn_pending = True
    start = asyncio.ensure_future(spawner.start())
    await eventually(lambda: spawner.child_spawner.job_id or start.done())
    if not start.done():
        assert spawner.report(PortReported(spawner.child_spawner.port))
    url = await asyncio.wait_for(start, 20)
    spawner._spawn_pending = False
    return str(url)


def received(container: Any) -> dict[str, str]:
    """Return the files that the hub has sent to a container."""
    size, _, content = container.received.partition(b"\n")
    assert int(size) == len(content)
    return json.loads(content)  # type: ignore[no-any-return]


async def test_session_runs_in_a_container_without_any_privilege(hub: Hub, engine: Engine, tmp_path: Path) -> None:
    spawner = begin(hub)
    url = await started(engine, spawner)
    assert url == f"https://127.0.0.1:{spawner.child_spawner.port}"
    (container,) = engine.containers.values()
    body, host = container.body, container.body["HostConfig"]
    assert container.name == job_name(spawner.session)
    assert body["Image"] == IMAGE
    assert body["User"] == f"{os.getuid()}:{os.getgid()}"
    assert body["Entrypoint"][:6] == ["timeout", "-s", "TERM", "-k", "30", "60"]
    assert not body["Cmd"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["ReadonlyRootfs"] is True
    assert host["NetworkMode"] == "hpchub"
    assert host["IpcMode"] == "private"
    assert host["Init"] is True
    assert host["GroupAdd"] == ["100", "101"]
    assert (host["Memory"], host["MemorySwap"]) == (2 << 30, 2 << 30)
    assert host["CpuQuota"] / host["CpuPeriod"] == 2.0
    assert host["PidsLimit"] == 1024
    assert host["Mounts"] == [
        {"Target": f"{tmp_path}/home/alice", "Source": f"{tmp_path}/home/alice", "Type": "bind", "ReadOnly": False}
    ]
    dangerous = ("Privileged", "Binds", "CapAdd", "Devices", "PidMode", "UsernsMode", "UTSMode", "PortBindings")
    assert not [name for name in dangerous if host.get(name)]


async def test_secrets_are_in_a_file_of_the_user_and_nowhere_else(hub: Hub, engine: Engine) -> None:
    spawner = begin(hub)
    spawner.api_token = spawner.child_spawner.api_token = "a-token-of-the-session"
    spawner.token = "its-hash"
    await started(engine, spawner)
    (container,) = engine.containers.values()
    await eventually(lambda: container.input_ends)
    secrets = json.loads(received(container)["session.json"])
    assert secrets["JUPYTERHUB_API_TOKEN"] == spawner.api_token
    assert container.body["HostConfig"]["Tmpfs"]["/run/hpchub"].startswith("rw,nosuid,nodev,noexec,mode=0700,size=")
    assert not container.body["Volumes"]
    visible = json.dumps([container.described(), container.listed()])
    assert spawner.api_token not in visible
    assert secrets["HPCHUB_TLS_KEY"] not in visible
    assert "JUPYTERHUB" not in visible


async def test_launcher_of_the_hub_runs_in_the_image(hub: Hub, engine: Engine) -> None:
    """The hub gives this session no token, so the launcher ends after it has read its file."""
    spawner = begin(hub, "bare")
    with pytest.raises(StartError, match="ended in cloud before"):
        await spawner.start()
    assert "session.json lacks JUPYTERHUB_API_TOKEN" in spawner.outcome.log[-1]
    assert spawner.outcome.detail
    (container,) = engine.containers.values()
    own = container.memory / spawner.session
    assert not (own / "session.json").exists()
    assert own.stat().st_mode & 0o777 == 0o700
    assert (own / "hpchub-launch").stat().st_mode & 0o777 == 0o600


async def test_session_whose_files_are_lost_ends_with_the_reason(
    hub: Hub, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is killed before it has sent them, for example."""
    spawner = begin(hub, "bare")
    message = spec.message
    monkeypatch.setattr(spec, "message", lambda files: message(files)[:-1])
    with pytest.raises(StartError, match="ended in cloud before"):
        await spawner.start()
    assert spawner.outcome.log[-1] == (
        "hpchub-launch: the hub did not send the files of this session; start a new session"
    )


@pytest.mark.parametrize(
    ("request_name", "fault", "text"),
    [
        ("create", Refusal(404, f"No such image: {IMAGE}"), "The image of this profile is not on the host cloud."),
        ("create", Refusal(500, "write /var/lib/docker: no space left on device"), "has no room for another session"),
        ("create", Refusal(409, 'The container name "/x" is already in use by container "y"'), "exists already"),
        ("create", Refusal(403, "hpchub refuses: the image is not in the list"), "the image is not in the list"),
        (
            "start",
            Refusal(400, 'OCI runtime create failed: exec: "timeout": executable file not found in $PATH: unknown'),
            "lacks the program timeout",
        ),
        ("start", Refusal(404, "network hpchub not found"), "The network for sessions is missing"),
        ("start", Refusal(500, "something else"), "could not create your session"),
        ("create", Refusal(400, "client version 1.45 is too new. Maximum supported API version is 1.41"), "version of"),
        ("network", Refusal(404, "network hpchub not found"), "versions that do not work together"),
    ],
)
async def test_refusal_of_the_engine_is_explained(
    hub: Hub, engine: Engine, request_name: str, fault: Refusal, text: str
) -> None:
    engine.faults[request_name] = fault
    with pytest.raises(StartError) as caught:
        await started(engine, begin(hub))
    assert text in caught.value.message
    assert "Traceback" not in caught.value.message
    assert not engine.containers


async def test_missing_home_is_not_created_by_the_engine(hub: Hub, engine: Engine, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "home")
    with pytest.raises(StartError, match=r"home/alice does not exist on the host cloud"):
        await started(engine, begin(hub))
    assert not (tmp_path / "home").exists()


async def test_host_that_hangs_blocks_nothing(hub: Hub, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CALL_TIMEOUT", 1.5)
    monkeypatch.setattr(spec.DockerTerms, "propagation", 0.3)
    engine.faults["*"] = 4.0
    start = asyncio.ensure_future(begin(hub).start())
    longest = 0.0
    while not start.done():
        before = time.monotonic()
        await asyncio.sleep(0.01)
        longest = max(longest, time.monotonic() - before)
    with pytest.raises(StartError, match="cloud does not answer at the moment"):
        await start
    assert longest < 1.0


async def test_answer_that_is_lost_ends_no_session(hub: Hub, engine: Engine) -> None:
    spawner = begin(hub)
    await started(engine, spawner)
    spawner.child_spawner.answer_max_age = 0.0
    for fault in (Refusal(500, "context deadline exceeded"), Refusal(404, "page not found"), Refusal(403, "no")):
        engine.faults = {"list": fault, "inspect": fault}
        hub.runtime.poller("cloud")._next = 0.0
        assert await spawner.poll() is None
        with pytest.raises(Unanswered):
            await hub.runtime.place("cloud").find(job_name(spawner.session))


async def test_container_that_ends_ends_its_session_with_the_reason(hub: Hub, engine: Engine) -> None:
    spawner = begin(hub)
    await started(engine, spawner)
    (container,) = engine.containers.values()
    container.oom = True
    container.stop(0.1)
    spawner.child_spawner.answer_max_age = 0.0
    hub.runtime.poller("cloud")._next = 0.0
    assert await spawner.poll() == 1
    spawner.run_post_stop_hook()
    await eventually(lambda: spawner.outcome.cause != "unknown")
    assert spawner.outcome.cause == "out_of_memory"


async def test_stop_removes_the_container(hub: Hub, engine: Engine) -> None:
    spawner = begin(hub)
    await started(engine, spawner)
    await spawner.stop()
    assert not engine.containers


async def test_time_limit_holds_without_the_hub(hub: Hub, engine: Engine) -> None:
    spawner = begin(hub)
    await started(engine, spawner)
    (container,) = engine.containers.values()
    words = list(container.body["Entrypoint"])
    words[5] = "1"
    container.stop(0.1)
    container.start([*words[:6], "sleep", "60"])
    await eventually(lambda: container.status == "exited")
    assert spec.ending_of(container.described()).cause is Cause.TIME_LIMIT


async def test_one_query_serves_all_sessions(hub: Hub, engine: Engine) -> None:
    await started(engine, begin(hub))
    hub.runtime.poller("cloud")._next = 0.0
    engine.requests.clear()
    poller = hub.runtime.poller("cloud")
    await asyncio.gather(*(poller.snapshot(0.001) for _ in range(100)))
    assert engine.requests == ["list"]


def create(engine: Engine, session: str = SESSION, user: str = "alice", hub: str = "", **others: Any) -> str:
    """Create a container as an earlier hub process would have done. Return its name."""
    found = {"hpchub.hub": hub, "hpchub.user": user, "hpchub.session": session, **others}
    body = {"Image": IMAGE, "Labels": found, "Entrypoint": [""] * 6, "HostConfig": {"NetworkMode": "hpchub"}}
    engine.create(query={"name": [job_name(session)]}, body=json.dumps(body).encode())
    return job_name(session)


@pytest.mark.parametrize("state", ["created", "running", "exited"])
async def test_container_that_a_killed_hub_left_is_removed(hub: Hub, engine: Engine, state: str) -> None:
    hub.runtime.ledger.end(SESSION, user="alice", cluster="cloud", job_id="")
    name = create(engine, hub=hub.runtime.hub_name)
    if state != "created":
        engine.containers[name].start(["sleep", "60"] if state == "running" else ["true"])
        await eventually(lambda: engine.containers[name].status == state)
    sweeper = OrphanCollector(hub.runtime, set, max_age=0.0, grace=0.0)
    place = hub.runtime.profiles.place("cloud")
    assert place is not None
    for _ in range(2):
        hub.runtime.poller("cloud")._next = 0.0
        await sweeper.sweep(place)
    assert not engine.containers


@pytest.mark.parametrize(
    "change",
    [
        {"hub": "other.example.org~00000000"},
        {"hub": ""},
        {"user": ""},
        {"session": "00000000000000bb"},
    ],
)
async def test_container_of_somebody_else_is_never_touched(hub: Hub, engine: Engine, change: dict[str, str]) -> None:
    name = create(engine, **{"hub": hub.runtime.hub_name, **change})
    hub.runtime.ledger.end(SESSION, user="alice", cluster="cloud", job_id="")
    hub.runtime.ledger.end("00000000000000bb", user="bob", cluster="cloud", job_id="")
    sweeper = OrphanCollector(hub.runtime, lambda: {SESSION}, max_age=0.0, grace=0.0)
    place = hub.runtime.profiles.place("cloud")
    assert place is not None
    with contextlib.suppress(Unanswered):
        await sweeper.sweep(place)
        await sweeper.sweep(place)
    if change != {"hub": "other.example.org~00000000"}:
        with pytest.raises(Unanswered, match="is not that of session"):
            await hub.runtime.place("cloud").remove(name, user="alice", session="00000000000000cc")
    assert name in engine.containers


async def test_port_that_is_taken_is_replaced(hub: Hub, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Engine.start
    taken: list[str] = []

    def start(self: Engine, name: str, **options: Any) -> tuple[int, Any]:
        if not taken:
            taken.append(name)
            raise Refusal(500, "driver failed: Bind for 10.0.0.5:20001 failed: port is already allocated")
        return answer(self, name, **options)

    monkeypatch.setattr(
        "docker_engine._REQUESTS",
        tuple((n, m, p, start if n == "start" else f) for n, m, p, f in sys.modules["docker_engine"]._REQUESTS),
    )
    spawner = begin(hub)
    await started(engine, spawner)
    (container,) = engine.containers.values()
    await eventually(lambda: container.input_ends)
    secrets = json.loads(received(container)["session.json"])
    assert secrets["HPCHUB_PORT_FIRST"] == str(spawner.child_spawner.port)


@pytest.mark.parametrize(
    ("networks", "text"),
    [
        ({}, "has no Docker network hpchub; run playbooks/places.yml"),
        ({"hpchub": {"Driver": "bridge", "Options": {}}}, "lets containers reach each other"),
    ],
)
async def test_network_that_does_not_isolate_users_prevents_starts(
    hub: Hub, engine: Engine, networks: dict[str, Any], text: str
) -> None:
    engine.networks = networks
    (found,) = await hub.runtime.place("cloud").obstacles()
    assert text in found
    with pytest.raises(StartError):
        await begin(hub).start()
    assert not engine.containers


async def test_check_names_what_is_missing(hub: Hub, engine: Engine) -> None:
    place = hub.runtime.profiles.place("cloud")
    assert place is not None
    assert await query_place(place, hub.runtime.settings) == (
        True,
        "cloud: Docker 26.1.5 answers, lists 0 sessions, and has all images",
    )
    del engine.images[BARE]
    works, line = await query_place(place, hub.runtime.settings)
    assert not works
    assert f"No such image: {BARE}; run playbooks/places.yml" in line


async def test_engine_that_is_too_old_is_explained(hub: Hub, engine: Engine) -> None:
    engine.api_version = "1.12"
    with pytest.raises(Unanswered, match=r"API versions below"):
        await hub.runtime.place("cloud").check()


def test_session_has_no_groups_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(pw_uid=4242, pw_gid=4242)
    monkeypatch.setattr("pwd.getpwnam", lambda name: found)
    # Python's own function would stop all threads of the hub until the directory answers.
    monkeypatch.setattr("os.getgrouplist", None)
    groups = [4242, 0, 4, 6, 27, 100, 999, 1000, 4300]
    monkeypatch.setattr("hpchub.places.accounts.group_ids", lambda name, gid: groups)
    assert find_account("alice", 1000) == Account(4242, 4242, (100, 1000, 4300))


UNANSWERED = "The service cannot look up your account alice and its groups at the moment."


def test_groups_that_cannot_be_read_start_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_answer(name: str, gid: int) -> list[int]:
        raise OSError("the directory of accounts does not say which groups alice has")

    monkeypatch.setattr("pwd.getpwnam", lambda name: SimpleNamespace(pw_uid=4242, pw_gid=4242))
    monkeypatch.setattr("hpchub.places.accounts.group_ids", no_answer)
    with pytest.raises(PlaceRefused) as caught:
        find_account("alice", 1000)
    assert caught.value.failure.message == UNANSWERED
    assert caught.value.failure.advice == "Please try again in a few minutes."


async def test_silent_directory_of_accounts_starts_nothing_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    silent, answers = threading.Event(), []

    def getpwnam(name: str) -> None:
        answers.append(silent.wait(30))
        raise KeyError(name)

    monkeypatch.setattr("pwd.getpwnam", getpwnam)
    monkeypatch.setattr("hpchub.places.accounts.PATIENCE", 0.05)
    for _ in range(10):  # more than there are threads
        with pytest.raises(PlaceRefused, match="has not answered") as caught:
            await ask_for_account("alice", 1000)
        assert (caught.value.failure.message, caught.value.failure.reason) == (UNANSWERED, "unanswered")
    silent.set()
    with pytest.raises(PlaceRefused, match="has no account alice"):
        await ask_for_account("alice", 1000)
    assert 1 < len(answers) < 10  # nobody waits for the other questions any more


@pytest.mark.parametrize(
    ("uid", "gid", "minimum", "text"),
    [
        (0, 1000, 1000, "belongs to the system, so it cannot have sessions here"),
        (0, 1000, 0, "belongs to the system, so it cannot have sessions here"),
        (999, 1000, 1000, "belongs to the system, so it cannot have sessions here"),
        (1000, 6, 1000, "The main group of your account alice belongs to the system"),
        (1000, 0, 0, "The main group of your account alice belongs to the system"),
    ],
    ids=["root", "root without a minimum", "daemon", "group of the disks", "group of root"],
)
def test_account_of_the_system_has_no_sessions(
    monkeypatch: pytest.MonkeyPatch, uid: int, gid: int, minimum: int, text: str
) -> None:
    monkeypatch.setattr("pwd.getpwnam", lambda name: SimpleNamespace(pw_uid=uid, pw_gid=gid))
    with pytest.raises(PlaceRefused) as caught:
        find_account("alice", minimum)
    assert text in str(caught.value.failure.message)


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        ({"ExitCode": 0}, Cause.FINISHED),
        ({"ExitCode": 1}, Cause.FAILED),
        ({"ExitCode": 137}, Cause.KILLED),
        ({"ExitCode": 137, "OOMKilled": True}, Cause.OUT_OF_MEMORY),
        ({"ExitCode": 124}, Cause.TIME_LIMIT),
        ({"ExitCode": 137, "FinishedAt": "2026-11-27T11:00:01.5Z"}, Cause.TIME_LIMIT),
    ],
)
def test_end_has_a_cause(state: dict[str, Any], cause: Cause) -> None:
    times = {"StartedAt": "2026-11-27T10:00:00.123456789Z", "FinishedAt": "2026-11-27T10:10:00.123456789Z"}
    record = {"State": {"Status": "exited", **times, **state}, "Config": {"Labels": {"hpchub.runtime": "3600"}}}
    assert spec.ending_of(record).cause is cause


@pytest.mark.parametrize(
    "record", [{}, {"State": "running"}, {"State": {"Status": "running"}, "Config": None}, [], None]
)
def test_answer_in_an_unknown_form_is_no_answer(record: Any) -> None:
    with pytest.raises(Unanswered):
        spec.job_of(record, "", "hpchub")


def test_state_that_is_new_is_unknown() -> None:
    found = {"hpchub.hub": "h~12345678", "hpchub.user": "alice", "hpchub.session": SESSION}
    job = spec.job_of({"Names": [f"/{job_name(SESSION)}"], "State": "frozen", "Labels": found}, "", "hpchub")
    assert job is not None
    assert job.state is JobState.UNKNOWN
