"""The hub's connection to Kubernetes: the real client, against the stand-in of ``kubernetes_server``."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import time
from typing import TYPE_CHECKING, Any

import kubernetes_server
import pytest
from kubernetes_server import IMAGE, NAMESPACE, USER, Cluster, until

from hpchub.model.places import KubernetesPlace
from hpchub.places.interface import LABEL_SESSION, PlacePoller, labels
from hpchub.places.kubernetes.admission import KIND
from hpchub.places.kubernetes.connection import KubernetesConnection, Refusal
from hpchub.places.kubernetes.manifests import RIGHTS, manifests
from hpchub.schedulers import JobState, Unanswered, job_name
from hpchub.schedulers.endings import Cause

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

# aiohttp leaves the end of a TLS connection that was cancelled to the event loop, which ends with the test.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

HUB = "hub.example.org~12345678"
S1, S2 = "1" * 16, "2" * 16
SLEEP = ["sleep", "300"]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster to which the site has applied the manifests."""
    objects = manifests(NAMESPACE, hub="192.0.2.1/32", hub_port=8445)[1:]
    # The pods of these tests are small, so the policies for pods would refuse them.
    made = Cluster(tmp_path / "cluster", [each for each in objects if not each["kind"].startswith(KIND)])
    yield made
    made.close()


def entry(cluster: Cluster, **changes: Any) -> KubernetesPlace:
    """Return the place of the cluster."""
    fields = {
        "name": "kube",
        "kind": "kubernetes",
        "networks": ["192.0.2.0/24"],
        "max_cores": 4,
        "max_memory": "8G",
        "max_runtime": "8:00:00",
        "images": [{"name": "jupyter", "image": IMAGE}],
        "url": cluster.url,
        "namespace": NAMESPACE,
        "ca_file": str(cluster.ca),
        "token_file": str(cluster.token_file),
        "storage": "1G",
    }
    return KubernetesPlace.model_validate({**fields, **changes})


@pytest.fixture
async def connection(cluster: Cluster) -> AsyncIterator[KubernetesConnection]:
    """The hub's connection to the cluster."""
    made = KubernetesConnection(entry(cluster), {})
    made.watch_seconds = 2
    yield made
    await made.close()
    await asyncio.sleep(0.2)  # the connections close in the background
    gc.collect()


def pod(session: str = S1, command: list[str] | None = None, user: str = "alice", **spec: Any) -> Any:
    """Return a pod that satisfies the cluster's rules."""
    name = job_name(session)
    container = {
        "name": "notebook",
        "image": IMAGE,
        "command": command or SLEEP,
        "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        **spec.pop("container", {}),
    }
    security = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    metadata = {"name": name, "labels": {LABEL_SESSION: session}, "annotations": labels(HUB, user, session)}
    return {"metadata": metadata, "spec": {"containers": [container], "securityContext": security, **spec}}


def create(cluster: Cluster, content: dict[str, Any]) -> str:
    """Create a pod as the administrator of the cluster. Return its name."""
    created = cluster.server.store.create("pods", NAMESPACE, {**content, "status": {"phase": "Pending"}})
    cluster.server.kubelet.accept(created)
    return str(created["metadata"]["name"])


async def eventually(condition: Callable[[], Awaitable[Any]]) -> Any:
    """Return the result of the condition as soon as it is true. No answer counts as false."""
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(Unanswered):
            if found := await condition():
                return found
        assert time.monotonic() < deadline, "the condition was not met in time"
        await asyncio.sleep(0.05)


async def state(connection: KubernetesConnection, name: str, wanted: JobState) -> Any:
    """Wait until a job has a state, and return the job."""

    async def reached() -> Any:
        job = (await connection.jobs()).get(name)
        return job if job is not None and job.state is wanted else None

    return await eventually(reached)


async def test_a_pod_is_a_job_with_the_tag_of_its_session(cluster: Cluster, connection: KubernetesConnection) -> None:
    name = create(cluster, pod())
    job = await state(connection, name, JobState.RUNNING)
    assert job.session(HUB) == S1
    assert (job.id, job.user) == (f"hpchub-{S1}", "alice")
    assert job.host == cluster.pods()[0]["status"]["podIP"]


async def test_other_pods_of_the_namespace_are_not_sessions(cluster: Cluster, connection: KubernetesConnection) -> None:
    other = pod()
    other["metadata"] = {"name": "other"}
    create(cluster, other)
    assert await connection.jobs() == {}


async def test_one_list_and_one_watch_serve_any_number_of_sessions(
    cluster: Cluster, connection: KubernetesConnection
) -> None:
    for number in range(4):
        create(cluster, pod(f"{number:016x}"))
    connection.watch_seconds = 30
    await eventually(lambda: _count(connection, 4))
    cluster.server.requests.clear()
    for _ in range(50):
        assert len(await connection.jobs()) == 4
    assert cluster.server.requests == []


async def _count(connection: KubernetesConnection, count: int) -> bool:
    return sum(each.state is JobState.RUNNING for each in (await connection.jobs()).values()) == count


async def test_an_expired_watch_is_listed_again(cluster: Cluster, connection: KubernetesConnection) -> None:
    cluster.server.faults.add("gone", verb="watch", resource="pods", count=1)
    await connection.jobs()
    await eventually(lambda: _seen(cluster, "list pods", 2))
    name = create(cluster, pod())
    await state(connection, name, JobState.RUNNING)
    assert (await state(connection, name, JobState.RUNNING)).id == name


async def test_a_watch_that_is_cut_goes_on(cluster: Cluster, connection: KubernetesConnection) -> None:
    cluster.server.faults.add("cut", verb="watch", resource="pods", count=2)
    name = create(cluster, pod())
    await state(connection, name, JobState.RUNNING)
    assert cluster.server.requests.count("list pods") == 1


FAULTS = {
    "500": {"kind": "error"},
    "503": {"kind": "error", "code": 503},
    "429": {"kind": "error", "code": 429},
    "404 of a web proxy": {"kind": "error", "code": 404},
    "no answer": {"kind": "lost"},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_no_answer_is_never_the_end_of_a_session(
    fault: dict[str, Any], cluster: Cluster, connection: KubernetesConnection
) -> None:
    name = create(cluster, pod())
    await state(connection, name, JobState.RUNNING)
    cluster.server.faults.add(**fault, resource="pods")
    with pytest.raises(Unanswered):
        await connection.find(name)
    # The watch ends after 2 seconds, and cannot begin again.
    await eventually(lambda: _raises(connection))
    cluster.server.faults.clear()
    assert (await state(connection, name, JobState.RUNNING)).id == name


async def _raises(connection: KubernetesConnection) -> bool:
    try:
        await connection.jobs()
    except Unanswered:
        return True
    return False


async def test_a_hanging_api_is_no_answer(
    cluster: Cluster, connection: KubernetesConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpchub.places.kubernetes.connection.TIMEOUT", 0.3)
    cluster.server.faults.add("hang", verb="get")
    with pytest.raises(Unanswered, match="no answer within"):
        await connection.find(job_name(S1))


async def test_an_expired_token_is_an_alarm_and_a_new_one_is_used_at_once(
    cluster: Cluster, connection: KubernetesConnection
) -> None:
    name = create(cluster, pod())
    await state(connection, name, JobState.RUNNING)
    old = cluster.token_file.read_text()
    cluster.new_token("token-2")
    cluster.token_file.write_text(old)  # nobody has renewed the file yet
    with pytest.raises(Unanswered):
        await connection.find(name)
    assert "refuses the hub's token (401)" in connection.alarm
    assert str(cluster.token_file) in connection.alarm
    assert await connection.obstacles() == [connection.alarm]
    cluster.token_file.write_text("token-2\n")
    found = await connection.find(name)
    assert found is not None
    assert found.state is JobState.RUNNING
    assert await connection.obstacles() == []
    await eventually(lambda: _calm(connection))


async def _calm(connection: KubernetesConnection) -> bool:
    return connection.alarm == ""


async def test_a_missing_token_is_no_answer(cluster: Cluster, connection: KubernetesConnection) -> None:
    cluster.token_file.unlink()
    with pytest.raises(Unanswered, match="cannot be read"):
        await connection.find(job_name(S1))
    with pytest.raises(Unanswered):
        await connection.jobs()


async def test_only_the_api_decides_that_a_pod_is_gone(cluster: Cluster, connection: KubernetesConnection) -> None:
    assert await connection.find(job_name(S1)) is None
    name = create(cluster, pod())
    assert (await connection.find(name)) is not None


async def test_a_list_never_comes_from_an_old_cache(cluster: Cluster, connection: KubernetesConnection) -> None:
    cluster.server.store.freeze_cache()  # it does not contain the pod
    name = create(cluster, pod())
    assert name in await connection.jobs()


async def test_an_unknown_authority_is_not_trusted(
    cluster: Cluster, connection: KubernetesConnection, tmp_path: Path
) -> None:
    kubernetes_server.write_certificate(tmp_path / "other.pem", tmp_path / "other.key")
    other = KubernetesConnection(entry(cluster, ca_file=str(tmp_path / "other.pem")), {})
    with pytest.raises(Unanswered, match="certificate verify failed"):
        await other.find(job_name(S1))
    await other.close()


async def test_the_hub_uses_all_of_its_rights_and_no_other(cluster: Cluster, connection: KubernetesConnection) -> None:
    claim = {"metadata": {"name": "home"}, "spec": {"resources": {"requests": {"storage": "1Gi"}}}}
    claim_object = connection.api.api_client.deserialize(
        type("Response", (), {"data": json.dumps(claim)})(), "V1PersistentVolumeClaim"
    )
    cluster.server.faults.add("error", verb="create", resource="persistentvolumeclaims", code=403, count=1)
    with pytest.raises(Refusal):
        await connection.ensure_claim(claim_object)
    await connection.ensure_claim(claim_object)
    uid = await connection.create_pod(job_name(S1), pod())
    await connection.create_secret(job_name(S1), uid, {"session.json": "{}"})
    await state(connection, job_name(S1), JobState.RUNNING)
    await connection.check()
    await connection.delete_secret(job_name(S1))
    await connection.end(job_name(S1), user="alice", session=S1)
    await eventually(lambda: _seen(cluster, "watch events"))
    used: dict[str, set[str]] = {}
    for action in cluster.server.access.used[USER]:
        assert (action.group, action.namespace) == ("", NAMESPACE)
        used.setdefault(action.resource, set()).add(action.verb)
    assert used == {resource: set(verbs) for resource, verbs in RIGHTS.items()}


async def _seen(cluster: Cluster, request: str, times: int = 1) -> bool:
    return cluster.server.requests.count(request) >= times


async def test_the_hub_cannot_read_secrets_or_delete_volumes(
    cluster: Cluster, connection: KubernetesConnection
) -> None:
    with pytest.raises(Refusal, match="cannot get resource"):
        await connection._ask(connection.api.read_namespaced_secret("x", NAMESPACE))
    with pytest.raises(Refusal, match="cannot list resource"):
        await connection._ask(connection.api.list_namespaced_secret(NAMESPACE))
    with pytest.raises(Refusal, match="cannot delete resource"):
        await connection._ask(connection.api.delete_namespaced_persistent_volume_claim("x", NAMESPACE))


async def test_a_lost_answer_to_the_creation_is_no_second_pod(
    cluster: Cluster, connection: KubernetesConnection
) -> None:
    cluster.server.faults.add("lost", verb="create", resource="pods", count=1)
    cluster.server.faults.add("lost", verb="create", resource="secrets", count=1)
    uid = await connection.create_pod(job_name(S1), pod())
    assert [each["metadata"]["uid"] for each in cluster.pods()] == [uid]
    await connection.create_secret(job_name(S1), uid, {"session.json": "{}"})
    assert cluster.names("secrets") == [job_name(S1)]


async def test_the_secret_ends_with_its_pod(cluster: Cluster, connection: KubernetesConnection) -> None:
    uid = await connection.create_pod(job_name(S1), pod())
    await connection.create_secret(job_name(S1), uid, {"session.json": "{}"})
    await state(connection, job_name(S1), JobState.RUNNING)
    await connection.remove(job_name(S1), user="alice", session=S1)
    until(lambda: not cluster.pods())
    assert cluster.names("secrets") == []


async def test_only_the_pod_of_this_session_is_deleted(cluster: Cluster, connection: KubernetesConnection) -> None:
    name = create(cluster, pod())
    for user, session in (("bob", S1), ("alice", S2)):
        with pytest.raises(Unanswered, match="does not belong"):
            await connection.remove(name, user=user, session=session)
    with pytest.raises(Unanswered, match="not the id"):
        await connection.remove("other", user="alice", session=S1)
    assert cluster.names("pods") == [name]


async def test_removing_what_is_gone_is_no_error(connection: KubernetesConnection) -> None:
    await connection.remove(job_name(S1), user="alice", session=S1)


async def test_a_pod_that_the_hub_ended_can_still_be_explained(
    cluster: Cluster, connection: KubernetesConnection
) -> None:
    name = create(cluster, pod(command=["sh", "-c", "echo hello; exit 3"]))
    job = await state(connection, name, JobState.ENDED)
    assert job.detail == "Error"
    await connection.end(name, user="alice", session=S1)
    until(lambda: not cluster.pods())
    assert await connection.log(name, "alice") == ["hello"]
    ending = await connection.ending(name)
    assert (ending.cause, ending.detail) == (Cause.FAILED, "exit status 3")
    assert (await connection.jobs())[name].state is JobState.ENDED


async def test_a_poller_shares_the_answers(cluster: Cluster, connection: KubernetesConnection) -> None:
    name = create(cluster, pod())
    poller = PlacePoller(connection)
    snapshot = await poller.snapshot(5)
    assert name in snapshot.jobs
    assert await poller.find(job_name(S2), snapshot) is None
