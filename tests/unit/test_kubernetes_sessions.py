"""Sessions in Kubernetes: a real hub, the real KubeSpawner and client, and the stand-in of ``kubernetes_server``."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import pwd
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from hub_app import profile, site
from kubernetes_server import IMAGE, NAMESPACE, Cluster

from hpchub.hub.job_events import PortReported
from hpchub.hub.orphans import OrphanCollector
from hpchub.hub.start_error import StartError
from hpchub.model.profile_list import profile_list
from hpchub.places.kubernetes.connection import KubernetesConnection
from hpchub.places.kubernetes.manifests import PORT, manifests
from hpchub.schedulers import Unanswered, job_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from hub_app import Hub

# aiohttp leaves the end of a TLS connection that was cancelled to the event loop, which ends with the test.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

TOKEN = "0123456789abcdef" * 2
POD = {name: value for name, value in profile("pod", place="kube").items() if name not in ("cluster", "queue")}


async def eventually(condition: Callable[[], object]) -> Any:
    """Wait until a condition is true, and return its value."""
    deadline = time.monotonic() + 8
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition was not met in time"
        await asyncio.sleep(0.02)
    return found


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path / "cluster", manifests(NAMESPACE, hub="192.0.2.1/32", hub_port=8445)[1:])
    yield made
    made.close()


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The program of the image. It plays the notebook server, and writes to its log."""
    path = tmp_path / "python"
    path.write_text('#!/bin/sh\necho "hpchub-launch: hello"\nexec sleep 300\n')
    path.chmod(0o755)
    return path


@pytest.fixture
async def hub(
    hub: Hub, cluster: Cluster, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Hub]:
    """A hub with a place in Kubernetes. The user alice has an account."""
    account = pwd.struct_passwd(("alice", "x", 1000, 2000, "", "/home/alice", "/bin/bash"))
    monkeypatch.setattr("pwd.getpwnam", lambda name: {"alice": account}[name])
    monkeypatch.setattr("hpchub.places.accounts.group_ids", lambda name, gid: [gid, 3000, 0])
    place = {
        "name": "kube",
        "kind": "kubernetes",
        "networks": ["192.0.2.0/24"],
        "max_cores": 4,
        "max_memory": "8G",
        "max_runtime": "12:00:00",
        "images": [{"name": "jupyter", "image": IMAGE, "python": str(python)}],
        "url": cluster.url,
        "namespace": NAMESPACE,
        "ca_file": str(cluster.ca),
        "token_file": str(cluster.token_file),
        "storage": "1G",
    }
    content = profile_list(site(profile("small"), POD, hpc_places=[place]))
    (tmp_path / "profiles.json").write_text(json.dumps(content))
    hub.app.config.KubernetesSpawner.startup_poll_interval = 0.05
    hub.app.config.KubernetesSpawner.stop_timeout = 10
    yield hub
    await connection(hub).close()
    await asyncio.sleep(0.2)  # the connections close in the background
    gc.collect()


def connection(hub: Hub) -> KubernetesConnection:
    found = hub.runtime.place("kube")
    assert isinstance(found, KubernetesConnection)
    return found


def begin(hub: Hub) -> Any:
    """Return a spawner that is about to start a session in the place."""
    spawner = hub.new_spawner()
    spawner.clear_state()
    spawner.child_spawner = None
    spawner.user_options = {"profile": "pod"}
    spawner.construct_child().api_token = TOKEN
    return spawner


async def started(hub: Hub, cluster: Cluster, spawner: Any) -> str:
    """Start a session, report its port when its pod runs, and return the server's URL."""
    spawner._spawn_pending = True
    start = asyncio.ensure_future(spawner.start())
    await eventually(lambda: start.done() or any(pod["status"]["phase"] == "Running" for pod in cluster.pods()))
    if not start.done():
        assert spawner.report(PortReported(PORT))
    url = await asyncio.wait_for(start, 10)
    spawner._spawn_pending = False
    return str(url)


async def failed(hub: Hub, spawner: Any) -> StartError:
    """Start a session that fails, and return why."""
    with pytest.raises(StartError) as caught:
        await asyncio.wait_for(spawner.start(), 25)
    return caught.value


async def test_a_session_starts_in_a_pod(hub: Hub, cluster: Cluster) -> None:
    spawner = begin(hub)
    url = await started(hub, cluster, spawner)
    pod = cluster.pods()[0]
    assert url == f"https://{pod['status']['podIP']}:{PORT}"
    assert pod["metadata"]["name"] == job_name(spawner.session)
    assert pod["spec"]["containers"][0]["securityContext"]["runAsUser"] == 1000
    assert pod["spec"]["securityContext"]["supplementalGroups"] == [3000]  # never root's group
    assert cluster.names("persistentvolumeclaims") == ["hpchub-home-alice"]


async def test_no_secret_is_visible_and_the_secret_is_deleted_once_it_is_read(hub: Hub, cluster: Cluster) -> None:
    cluster.server.kubelet.paused.set()
    spawner = begin(hub)
    spawner._spawn_pending = True
    start = asyncio.ensure_future(spawner.start())
    await eventually(lambda: cluster.names("secrets"))
    secrets = json.loads(cluster.secret(job_name(spawner.session))["session.json"])
    assert secrets["JUPYTERHUB_API_TOKEN"] == TOKEN
    token, key = secrets["JUPYTERHUB_API_TOKEN"], secrets["HPCHUB_TLS_KEY"]
    assert (secrets["HPCHUB_PORT_FIRST"], secrets["HPCHUB_PORT_LAST"]) == (str(PORT), str(PORT))
    assert token not in cluster.visible()
    assert key not in cluster.visible()
    cluster.server.kubelet.paused.clear()
    await eventually(lambda: cluster.pods()[0]["status"]["phase"] == "Running")
    assert cluster.names("secrets") != []
    assert spawner.report(PortReported(PORT))
    await asyncio.wait_for(start, 10)
    await eventually(lambda: cluster.names("secrets") == [])


async def test_a_stopped_session_leaves_only_its_volume(hub: Hub, cluster: Cluster) -> None:
    spawner = begin(hub)
    await started(hub, cluster, spawner)
    await spawner.stop()
    await eventually(lambda: not cluster.pods())
    assert cluster.names("secrets") == []
    assert cluster.names("persistentvolumeclaims") == ["hpchub-home-alice"]


async def test_the_next_session_uses_the_same_volume_in_spite_of_the_quota(hub: Hub, cluster: Cluster) -> None:
    spawner = begin(hub)
    await started(hub, cluster, spawner)
    await spawner.stop()
    quota = {"metadata": {"name": "volumes"}, "spec": {"hard": {"persistentvolumeclaims": "1"}}}
    cluster.server.store.create("resourcequotas", NAMESPACE, quota)
    spawner.clear_state()
    spawner.child_spawner = None
    spawner.user_options = {"profile": "pod"}
    spawner.construct_child()
    await started(hub, cluster, spawner)
    assert cluster.names("persistentvolumeclaims") == ["hpchub-home-alice"]


QUOTAS = {
    "pods": ({"pods": "0"}, "the quota of the namespace is used up", ""),
    "cores": ({"limits.cpu": "500m"}, "", "cores"),
    "memory": ({"requests.memory": "100Mi"}, "", "memory"),
    "volumes": ({"persistentvolumeclaims": "0"}, "the quota of the namespace is used up", ""),
}


@pytest.mark.parametrize(("hard", "words", "field"), QUOTAS.values(), ids=QUOTAS)
async def test_a_quota_refuses_the_session(
    hard: dict[str, str], words: str, field: str, hub: Hub, cluster: Cluster
) -> None:
    cluster.server.store.create("resourcequotas", NAMESPACE, {"metadata": {"name": "q"}, "spec": {"hard": hard}})
    error = await failed(hub, begin(hub))
    assert words in str(error)
    assert error.field == field
    assert error.advice
    assert cluster.pods() == []


async def test_rules_of_the_cluster_refuse_the_session(hub: Hub, cluster: Cluster) -> None:
    cluster.server.faults.add("error", verb="create", resource="secrets", code=403, count=1)
    error = await failed(hub, begin(hub))
    assert "does not accept its secrets" in str(error)
    await eventually(lambda: not cluster.pods())


async def test_an_account_that_is_unknown_has_no_session(
    hub: Hub, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pwd.getpwnam", {}.__getitem__)
    assert "does not know your account alice" in str(await failed(hub, begin(hub)))
    assert cluster.pods() == []


async def test_root_has_no_session(hub: Hub, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pwd.struct_passwd(("alice", "x", 0, 0, "", "/root", "/bin/bash"))
    monkeypatch.setattr("pwd.getpwnam", lambda name: root)
    assert "belongs to the system, so it cannot have sessions" in str(await failed(hub, begin(hub)))
    assert cluster.pods() == []


async def test_a_missing_image_ends_the_start(hub: Hub, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpchub.hub.job_session.HOPELESS_AFTER", 0.2)
    cluster.server.kubelet.runner.images.clear()
    error = await failed(hub, begin(hub))
    assert "the image does not exist in its registry" in str(error)


async def test_the_page_says_why_a_pod_waits(hub: Hub, cluster: Cluster) -> None:
    cluster.server.store.update("nodes", "", "worker1", lambda node: node["status"]["allocatable"].update(cpu="0"))
    spawner = begin(hub)
    spawner._spawn_pending = True
    start = asyncio.ensure_future(spawner.start())
    await eventually(lambda: "no node has enough free cores" in str(spawner.child_spawner.driver.state.message))
    start.cancel()
    await asyncio.wait({start})
    await spawner.stop(now=True)
    await eventually(lambda: not cluster.pods())


ENDS = {"evict": ("evicted", "removed your session from its node"), "run_out_of_memory": ("out_of_memory", "memory")}


@pytest.mark.parametrize(("how", "cause", "words"), [(how, *ends) for how, ends in ENDS.items()], ids=ENDS)
async def test_an_end_is_explained(how: str, cause: str, words: str, hub: Hub, cluster: Cluster) -> None:
    spawner = begin(hub)
    await started(hub, cluster, spawner)
    getattr(cluster.server.kubelet, how)(NAMESPACE, job_name(spawner.session))
    spawner.child_spawner.answer_max_age = 0.0
    deadline = time.monotonic() + 8
    while await spawner.poll() is None:
        assert time.monotonic() < deadline
    spawner.run_post_stop_hook()
    await eventually(lambda: spawner.outcome.cause != "unknown")
    assert spawner.outcome.cause == cause
    assert words in spawner.outcome.text


async def test_the_time_limit_is_enforced_without_the_hub(hub: Hub, cluster: Cluster) -> None:
    spawner = begin(hub)
    await started(hub, cluster, spawner)
    name = job_name(spawner.session)
    assert cluster.pods()[0]["spec"]["activeDeadlineSeconds"] == 3600
    cluster.server.kubelet.expire(NAMESPACE, name)
    spawner.child_spawner.answer_max_age = 0.0
    deadline = time.monotonic() + 8
    while await spawner.poll() is None:
        assert time.monotonic() < deadline
    ending = await connection(hub).ending(name)
    assert ending.cause.value == "time_limit"


async def test_a_lost_node_ends_no_session(hub: Hub, cluster: Cluster) -> None:
    spawner = begin(hub)
    await started(hub, cluster, spawner)
    cluster.server.kubelet.lose("worker1")
    spawner.child_spawner.answer_max_age = 0.0
    await asyncio.sleep(0.3)
    assert await spawner.poll() is None


# -- the hub is killed between any two requests


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the hub runs after it."""


REQUESTS = ("claim", "pod", "secret")
STEPS = [(request, when) for request in REQUESTS for when in ("before", "after")]


@pytest.mark.parametrize(("request_name", "when"), STEPS, ids=[f"{when} the {name}" for name, when in STEPS])
async def test_a_killed_hub_leaves_no_pod_and_no_secret(
    request_name: str, when: str, hub: Hub, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpchub.places.kubernetes.terms.SECRET_DELAY", -3600.0)  # a Secret is lost at once
    monkeypatch.setattr("hpchub.hub.job_session.HOPELESS_AFTER", 0.2)
    names = {"claim": "ensure_claim", "pod": "create_pod", "secret": "create_secret"}
    real = getattr(KubernetesConnection, names[request_name])

    async def dies(self: KubernetesConnection, *arguments: Any) -> Any:
        if when == "after":
            await real(self, *arguments)
        raise Killed

    monkeypatch.setattr(KubernetesConnection, names[request_name], dies)
    spawner = begin(hub)
    child = spawner.child_spawner
    child.driver.begin()
    saved, session = spawner.get_state(), spawner.session
    with pytest.raises(Killed):
        await child.create(session, {"JUPYTERHUB_API_TOKEN": "t"})
    monkeypatch.setattr(KubernetesConnection, names[request_name], real)

    # The next process of the hub restores the session.
    restored = begin(hub)
    restored.child_spawner = None
    restored.load_state(saved)
    assert restored.session == session
    restored.child_spawner.driver.state = restored.child_spawner.driver.state.extend_patience(
        -restored.child_spawner.driver.state.patience
    )
    if (request_name, when) == ("secret", "after"):
        # The session has all that it needs, so it goes on.
        restored._spawn_pending = True
        await eventually(lambda: cluster.pods()[0]["status"]["phase"] == "Running")
        adopted = asyncio.ensure_future(restored.child_spawner.adopt())
        await eventually(lambda: restored.child_spawner.job_id)
        adopted.cancel()
        await asyncio.wait({adopted})
        await restored.stop()
    else:
        with pytest.raises(StartError):
            await asyncio.wait_for(restored.child_spawner.adopt(), 10)
        restored.child_spawner.abandon()
    await eventually(lambda: not cluster.pods())
    assert cluster.names("secrets") == []


async def test_a_pod_that_appears_after_its_session_is_over_is_removed(hub: Hub, cluster: Cluster) -> None:
    spawner = begin(hub)
    await started(hub, cluster, spawner)
    hub.runtime.ledger.end(spawner.session, user="alice", cluster="kube", job_id=job_name(spawner.session))
    collector = OrphanCollector(hub.runtime, set, max_age=0.0, grace=0.0)
    place = hub.runtime.profiles.place("kube")
    assert place is not None
    for _ in range(2):
        hub.runtime.poller("kube")._next = 0.0
        await collector.sweep(place)
    await eventually(lambda: not cluster.pods())


async def test_the_session_goes_on_while_the_api_is_silent(hub: Hub, cluster: Cluster) -> None:
    spawner = begin(hub)
    await started(hub, cluster, spawner)
    cluster.server.faults.add("error", code=500)
    spawner.child_spawner.answer_max_age = 0.0
    for _ in range(5):
        assert await spawner.poll() is None
    cluster.server.faults.clear()
    assert await spawner.poll() is None
    assert len(cluster.pods()) == 1


@pytest.fixture
def real_python(python: Path) -> None:
    """The image has a real Python."""
    python.unlink()
    python.symlink_to(sys.executable)


@pytest.mark.usefixtures("real_python")
async def test_the_launcher_reads_the_secret_of_its_pod(hub: Hub, cluster: Cluster) -> None:
    spawner = begin(hub)
    await failed(hub, spawner)
    # The hub's name does not exist here, so the launcher ends with this message. Before that, it has read its file.
    assert "cannot connect to the hub at hub.example.org port 8445" in "\n".join(spawner.outcome.log)


async def test_token_that_the_cluster_refuses_is_in_the_health_check(hub: Hub, cluster: Cluster) -> None:
    place = hub.runtime.profiles.place("kube")
    assert place is not None
    collector = OrphanCollector(hub.runtime, set, max_age=0.0, grace=0.0)
    await collector.sweep(place)
    assert hub.runtime.health.places == {}
    old = cluster.token_file.read_text()
    cluster.new_token("token-2")
    cluster.token_file.write_text(old)  # nobody has renewed the file yet

    async def wait_until(alarmed: bool) -> None:
        async with asyncio.timeout(8):
            while bool(hub.runtime.health.places) is not alarmed:
                with contextlib.suppress(Unanswered):
                    await hub.runtime.place("kube").find(job_name("00000000000000aa"))
                with contextlib.suppress(Unanswered):
                    await collector.sweep(place)
                await asyncio.sleep(0.02)

    await wait_until(alarmed=True)
    assert not hub.runtime.health.is_good
    problems = " ".join(await hub.runtime.health.problems(hub.app.db.get_bind()))
    assert "The API of place kube refuses the hub's token (401)" in problems
    cluster.token_file.write_text("token-2\n")
    await wait_until(alarmed=False)
