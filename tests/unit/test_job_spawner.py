"""Whatever is lost on the way, no job is without a session and no session without its job."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from types import SimpleNamespace
from typing import Any

import pytest
from batchspawner import JobStatus
from traitlets.config import Config

from hpchub.clusters.gate_client import Answer
from hpchub.clusters.poller import Snapshot
from hpchub.hub.job_spawner import StartError
from hpchub.hub.orphans import OrphanCollector
from hpchub.hub.profiles_spawner import HPCProfilesSpawner
from hpchub.hub.runtime import Runtime
from hpchub.model.site import Site
from hpchub.schedulers import Job, JobState, Unanswered

HUB = "hub.example.org"
SESSION = "a" * 16
CLUSTER = {
    "name": "demo",
    "scheduler": "slurm",
    "submit": {"method": "local"},
    "networks": ["192.0.2.0/24"],
    "queues": [{"name": "q", "max_cores": 4, "max_memory": "8G", "max_runtime": "12:00:00"}],
}
SITE = Site.from_vars(
    {
        "hpc_service": {"url": f"https://{HUB}"},
        "hpc_sso": {
            "metadata_url": "https://sso.example.org/.well-known/openid-configuration",
            "client_secret": "a1b2c3d4e5f6a7b8c9d0e1f2a3b4c5d6",
        },
        "hpc_access": {"allowed_groups": ["hpc"], "job_groups": ["hpc"]},
        "hpc_clusters": [CLUSTER],
        "hpc_profiles": [
            {
                "key": "small",
                "display_name": "small",
                "cluster": "demo",
                "queue": "q",
                "cores": 1,
                "memory": "1G",
                "runtime": "1:00:00",
            }
        ],
    }
)
GRANT = {
    "profile": SITE.profiles[0].model_dump(mode="json"),
    "cluster": SITE.clusters[0].model_dump(mode="json"),
}


def job(state: JobState = JobState.RUNNING, *, job_id: str = "7", session: str = SESSION, user: str = "alice") -> Job:
    host = "127.0.0.1" if state is JobState.RUNNING else ""
    comment = f"hpchub/{HUB}/{user}/{session}"
    return Job(job_id, state, state.name, host=host, name=f"hpchub-{session}", user=user, comment=comment)


def answer(stdout: str = "", code: int = 0) -> Answer:
    return Answer(ok=code == 0, exit=code, stdout=stdout, stderr="", command=[], error="error" if code else "")


class Cluster:
    """Scheduler and gate: it has the jobs that it is given and does with a request what it is told to."""

    timeout = 90.0

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.away = False
        self.hidden = False
        self.submit: Any = lambda session: answer("7\n")
        self.cancel: Any = lambda job_id: answer()
        self.cancelled: list[str] = []
        self.asked = 0
        self.delay = 0.0

    async def snapshot(self, max_age: float) -> Snapshot:
        await asyncio.sleep(0)
        if self.away:
            raise Unanswered("away")
        return Snapshot(time.monotonic(), {job.id: job for job in self.jobs if not self.hidden})

    async def find(self, job_id: str, snapshot: Snapshot) -> Job | None:
        self.asked += 1
        return next((job for job in self.jobs if job.id == job_id), None)

    async def request(self, action: str, **fields: Any) -> Answer:
        await asyncio.sleep(self.delay)
        if action == "submit":
            return self._said(self.submit(fields["session"]))
        said = self._said(self.cancel(fields["job_id"]))
        if said.ok:
            self.cancelled.append(fields["job_id"])
            self.jobs = [job for job in self.jobs if job.id != fields["job_id"]]
        return said

    @staticmethod
    def _said(said: Answer | Exception) -> Answer:
        if isinstance(said, Exception):
            raise said
        return said


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def shared(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    settings = {"public_url": f"https://{HUB}", "gates": {}, "notebook_tls_directory": "/nowhere"}
    shared = Runtime(settings)
    shared.gates["demo"] = cluster  # type: ignore[assignment]
    shared._pollers["demo"] = cluster  # type: ignore[assignment]
    for module in ("hub.job_spawner", "hub.profiles_spawner"):
        monkeypatch.setattr(f"hpchub.{module}.runtime", lambda path: shared)
    monkeypatch.setattr("hpchub.hub.job_spawner.render_batch_script", lambda *args, **kwargs: "")
    monkeypatch.setattr("hpchub.hub.job_spawner.JobSpawner.get_env", lambda self: {})
    return shared


class Server(SimpleNamespace):
    """JupyterHub's record of the server."""

    @property
    def url(self) -> str:
        return f"{self.proto}://{self.ip}:{self.port}/user/alice/"


def make(job_state: dict[str, Any] | None = None, url: str = "https://:0") -> Any:
    """A spawner: new, or with what was saved of a session."""

    class Spawner(HPCProfilesSpawner):
        server = Server(proto="https", ip=url.rsplit(":", 1)[0][8:], port=int(url.rsplit(":", 1)[1]))
        db = SimpleNamespace(commit=lambda: None)

    spawner: Any = Spawner(
        config=Config(),
        user=SimpleNamespace(name="alice", url="/user/alice/", settings={"proxy": Proxy()}),
        orm_spawner=SimpleNamespace(name="", server=None, user_options={}, state=None),
    )
    if job_state is not None:
        saved = {"session": SESSION, "job_id": "7", "host": "", "port": 0, **job_state}
        spawner.load_state({"grant": GRANT, "job": saved, "token": "hash"})
    else:
        spawner._take(SITE.profiles[0], SITE.clusters[0])
        spawner.construct_child()
    child = spawner.child_spawner
    child.startup_poll_interval = 0.01
    child.stop_timeout = 0.1
    return spawner


class Proxy:
    """Counts the routes."""

    def __init__(self) -> None:
        self.added = 0

    async def add_user(self, user: Any, name: str) -> None:
        self.added += 1


# -- submission


async def test_the_session_is_saved_before_its_job_is_submitted(shared: Runtime, cluster: Cluster) -> None:
    spawner = make()
    saved: list[Any] = []

    def submit(session: str) -> Answer:
        saved.append(spawner.orm_spawner.state)
        cluster.jobs = [job(session=session)]
        return answer("7\n")

    cluster.submit = submit
    start = asyncio.ensure_future(spawner.start())
    await asyncio.sleep(0.05)
    assert saved[0]["job"] == {"session": spawner.session, "job_id": "", "submitted": 0.0, "host": "", "port": 0}
    assert spawner.orm_spawner.state["job"]["job_id"] == "7"
    spawner._spawn_pending = True
    assert spawner.report(20001)
    assert await start == "https://127.0.0.1:20001"
    assert spawner.orm_spawner.state["job"]["host"] == "127.0.0.1"


async def test_a_node_that_is_no_host_is_reached_where_it_is(shared: Runtime, cluster: Cluster) -> None:
    child = make({}).child_spawner
    child.cluster = {**child.cluster, "node_hosts": [{"node": "127.0.0.1", "host": "n1.example"}]}
    cluster.jobs = [job()]
    assert child.report(20001)
    assert await child._follow() == "https://n1.example:20001"
    assert child.get_state()["host"] == "n1.example"


@pytest.mark.parametrize(
    "said",
    [Unanswered("connection reset"), answer(code=124), answer("noise\n"), answer("1")],
    ids=["reset", "slow", "noise", "cut-off"],
)
async def test_a_job_whose_submission_was_not_answered_is_found(shared: Runtime, cluster: Cluster, said: Any) -> None:
    spawner = make()

    def submit(session: str) -> Any:
        cluster.jobs = [job(job_id="1", session="b" * 16), job(job_id="8", session=session)]
        return said

    cluster.submit = submit
    spawner.child_spawner.session = SESSION
    assert await spawner.child_spawner.submit_batch_script() == "8"


@pytest.mark.parametrize("away", [True, False], ids=["scheduler-away", "no-such-job"])
async def test_a_submission_that_was_not_answered_and_made_no_job(
    shared: Runtime, cluster: Cluster, away: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawner = make()
    monkeypatch.setattr(type(spawner.child_spawner.scheduler), "propagation", 0.05)
    cluster.submit = lambda session: Unanswered("away")
    cluster.away = away
    with pytest.raises(StartError, match="does not answer"):
        await spawner.start()
    await spawner.stop()  # as JupyterHub does
    assert cluster.cancelled == []


async def test_a_start_that_is_stopped_while_it_submits_leaves_no_job(shared: Runtime, cluster: Cluster) -> None:
    spawner = make()
    cluster.delay = 0.05

    def submit(session: str) -> Answer:
        cluster.jobs = [job(session=session)]
        return answer("7\n")

    cluster.submit = submit
    start = asyncio.ensure_future(spawner.start())
    await asyncio.sleep(0.01)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert await spawner.poll() is None  # so JupyterHub calls stop
    await spawner.stop()
    assert cluster.cancelled == ["7"]
    assert cluster.asked == 1  # and its end is not waited for


async def test_a_submission_that_says_something_else(
    shared: Runtime, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 0 and an error's text: its user reads it."""
    spawner = make()
    monkeypatch.setattr(type(spawner.child_spawner.scheduler), "propagation", 0.05)
    cluster.submit = lambda session: dataclasses.replace(answer(), stderr="sbatch: error: You are over quota\n")
    with pytest.raises(StartError, match="did not confirm your job: sbatch: error: You are over quota"):
        await spawner.start()


# -- the port


async def test_a_job_that_waits_again_before_its_report(shared: Runtime, cluster: Cluster) -> None:
    """Its node did not start it: the time for a report counts from its next start, on another node."""
    child = make({"submitted": time.time()}).child_spawner
    child.launch_timeout = 0.2
    cluster.jobs = [job()]
    follow = asyncio.ensure_future(child._follow())
    await asyncio.sleep(0.05)
    cluster.jobs = [job(JobState.PENDING)]
    await asyncio.sleep(0.3)
    assert "waits in the queue" in child._message
    cluster.jobs = [dataclasses.replace(job(), host="127.0.0.2")]
    await asyncio.sleep(0.05)
    assert child.report(20001)
    assert await follow == "https://127.0.0.2:20001"


async def test_a_job_of_which_only_its_being_is_known(shared: Runtime, cluster: Cluster) -> None:
    """Grid Engine and HTCondor say no node of a single job: the one from before is kept."""
    child = make({"submitted": time.time()}).child_spawner
    cluster.jobs = [job()]
    assert await child.query_job_status() == JobStatus.RUNNING
    child._patience, cluster.hidden = 0.0, True
    cluster.jobs = [Job("7", JobState.UNKNOWN)]
    assert await child.query_job_status() == JobStatus.UNKNOWN
    assert child._job.host == "127.0.0.1"


async def test_a_port_is_reported_once(shared: Runtime, cluster: Cluster) -> None:
    spawner = make({"job_id": ""})
    assert not spawner.report(20001)  # nothing is pending
    spawner._check_pending = True
    assert spawner.report(20001)
    assert spawner.orm_spawner.state["job"]["port"] == 20001  # before the job has its answer
    assert not spawner.report(20002)
    assert not spawner.report(20001)
    spawner.clear_state()
    assert not spawner.report(20001)


# -- what is an end


@pytest.mark.parametrize(
    ("found", "age", "status"),
    [
        ([job()], 0, JobStatus.RUNNING),
        ([job(user="bob")], 0, JobStatus.UNKNOWN),
        ([], 100, JobStatus.UNKNOWN),
        ([], 200, JobStatus.NOTFOUND),
    ],
    ids=["there", "somebody-elses", "not-yet", "never-submitted"],
)
async def test_a_restart_during_a_submission(
    shared: Runtime, cluster: Cluster, found: list[Job], age: float, status: JobStatus
) -> None:
    spawner = make({"job_id": ""})
    cluster.jobs = found
    spawner.child_spawner._seen -= age
    assert await spawner.child_spawner.query_job_status() == status
    assert spawner.child_spawner.job_id == ("7" if status is JobStatus.RUNNING else "")


async def test_an_id_that_is_anothers_by_now(shared: Runtime, cluster: Cluster) -> None:
    """Ids begin again, and the session's job is long over. A job that its user has renamed is still the session's."""
    child = make({"submitted": time.time()}).child_spawner
    cluster.jobs = [dataclasses.replace(job(), name="mine")]
    assert await child.query_job_status() == JobStatus.RUNNING
    child._patience = 0.0
    cluster.jobs = [job(user="bob", session="b" * 16)]
    assert await child.query_job_status() == JobStatus.NOTFOUND
    cluster.jobs.append(job(job_id="8"))
    assert await child.query_job_status() == JobStatus.RUNNING
    assert child.job_id == "8"


async def test_a_job_that_was_found_waits_from_then_on(shared: Runtime, cluster: Cluster) -> None:
    child = make({"job_id": ""}).child_spawner
    cluster.jobs = [job(JobState.PENDING)]
    assert await child.query_job_status() == JobStatus.PENDING
    assert time.time() - child.get_state()["submitted"] < 10


async def test_a_requeued_job_is_an_end(shared: Runtime, cluster: Cluster) -> None:
    cluster.jobs = [job(JobState.PENDING)]
    starting, ready = make({}), make({"port": 20001, "host": "n1"})
    assert await starting.poll() is None
    assert await ready.poll() == 1


async def test_poll_never_raises(shared: Runtime, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    spawner = make({})

    async def broken(max_age: float) -> Snapshot:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(cluster, "snapshot", broken)
    assert await spawner.poll() is None
    assert spawner.session == SESSION


@pytest.mark.parametrize("said", [Unanswered("away"), answer(code=1)], ids=["gate-away", "scancel-fails"])
async def test_a_cancel_that_fails_does_not_raise(shared: Runtime, cluster: Cluster, said: Any) -> None:
    spawner = make({})
    cluster.jobs, cluster.away, cluster.cancel = [job()], True, lambda job_id: said
    spawner.child_spawner.stop_timeout = 0.0
    await spawner.stop()
    assert cluster.cancelled == []


@pytest.mark.parametrize(
    "state",
    [
        {"grant": {}},
        {"grant": {"profile": {}, "cluster": {}}, "job": {}},
        {"grant": GRANT},
        {"grant": GRANT, "job": []},
    ],
    ids=["empty", "no-grant", "no-job", "job-is-a-list"],
)
def test_what_was_saved_and_is_not_well_formed_stops_no_hub(shared: Runtime, state: dict[str, Any]) -> None:
    spawner = make()
    spawner.clear_state()
    spawner.load_state(state)
    assert spawner.session == ""


@pytest.mark.parametrize("state", [JobState.PENDING, JobState.UNKNOWN])
async def test_a_wait_in_the_queue_has_its_profiles_limit(shared: Runtime, cluster: Cluster, state: JobState) -> None:
    """Counted from the submission, whichever process of the hub looks on; in silence nothing is given up."""
    spawner = make({"submitted": time.time() - 7 * 24 * 3600 - 1})
    cluster.away = True
    waiting = asyncio.ensure_future(spawner.child_spawner._wait_until_running())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert "does not answer at the moment" in spawner.child_spawner._message
    cluster.away, cluster.jobs = False, [job(state)]
    with pytest.raises(StartError, match=r"longer than its profile allows \(7-00:00:00\), so the start was cancelled"):
        await waiting


async def test_no_page_waits_for_a_scheduler_that_hangs(
    shared: Runtime, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it said in the end, the next poll knows."""
    child = make({"notebook_port": 8888}).child_spawner
    child.poll_patience, child._patience = 0.05, 0.0
    hanging = asyncio.Event()
    at_once = cluster.snapshot

    async def snapshot(max_age: float) -> Snapshot:
        await hanging.wait()
        return await at_once(max_age)

    monkeypatch.setattr(cluster, "snapshot", snapshot)
    assert [await child.poll() for _ in range(2)] == [None, None]
    hanging.set()
    await asyncio.sleep(0.05)
    assert await child.poll() == 1


# -- after a restart


async def settle(spawner: Any) -> str:
    """What JupyterHub's check does with get_url."""
    spawner._check_pending = True
    url = await spawner.get_url()
    spawner._check_pending = False
    await asyncio.sleep(0.1)
    assert not spawner._spawn_pending
    return str(url)


@pytest.fixture
async def notebook() -> Any:
    """Something that listens."""
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_a_pending_start_goes_on(shared: Runtime, cluster: Cluster, notebook: int) -> None:
    spawner = make({})
    cluster.jobs = [job(JobState.PENDING)]
    check = asyncio.ensure_future(settle(spawner))
    await asyncio.sleep(0.05)
    assert spawner.pending == "spawn"
    assert "waits in the queue" in spawner.child_spawner._message
    cluster.jobs = [job()]
    await asyncio.sleep(0.05)
    assert spawner.report(notebook)
    assert await check == f"https://127.0.0.1:{notebook}/user/alice/"
    assert spawner.pending is None
    assert spawner._spawn_future is None
    assert spawner.user.settings["proxy"].added == 1


async def test_a_ready_server_is_waited_for(shared: Runtime, cluster: Cluster, notebook: int) -> None:
    """Scheduler away, node away: neither ends it."""
    spawner = make({"host": "127.0.0.1", "port": notebook}, f"https://127.0.0.1:{notebook}")
    cluster.away = True
    reachable = [False, False, True]

    async def probe() -> bool:
        return reachable.pop(0)

    spawner.child_spawner._reachable = probe
    spawner._check_pending = True
    assert await spawner.get_url() == f"https://127.0.0.1:{notebook}/user/alice/"
    await asyncio.sleep(0)  # JupyterHub asks the server now, and then compares the proxy's routes with those ready
    assert spawner.pending == "check"
    spawner._check_pending = False
    assert spawner.ready
    assert spawner.http_timeout > 600
    assert cluster.cancelled == []


async def test_a_job_that_ends_meanwhile(shared: Runtime, cluster: Cluster) -> None:
    spawner = make({})
    cluster.jobs = [job(JobState.ENDED)]
    known = spawner.server.url
    assert await settle(spawner) == known
    assert spawner.http_timeout == 0
    assert spawner.server.connect_url == "http://127.0.0.1:1"
    assert "ended before" in str(spawner._spawn_future.exception())


async def test_a_start_that_was_taken_up_can_be_stopped(shared: Runtime, cluster: Cluster) -> None:
    spawner = make({})
    cluster.jobs = [job(JobState.PENDING)]
    check = asyncio.ensure_future(settle(spawner))
    await asyncio.sleep(0.05)
    spawner._spawn_future.cancel()
    await check
    assert spawner.http_timeout == 0
    assert await spawner.poll() == 1
    await asyncio.sleep(0.05)
    assert cluster.cancelled == ["7"]


async def test_the_hubs_end_cancels_nothing(shared: Runtime, cluster: Cluster) -> None:
    for spawner, work in ((make({}), "get_url"), (make(), "start")):
        cluster.jobs, cluster.delay = [job(JobState.PENDING)], 0.05
        task = asyncio.ensure_future(getattr(spawner, work)())
        await asyncio.sleep(0.02)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for each in others:
            each.cancel()
        await asyncio.wait(others)
        assert task.cancelled()
        assert spawner.session
        assert cluster.cancelled == []


async def test_a_mistake_while_a_session_is_taken_up_is_not_its_end(
    shared: Runtime, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawner = make({})
    outcomes: list[Any] = [RuntimeError("a mistake"), "https://127.0.0.1:20001"]

    async def adopt() -> str:
        if isinstance(outcome := outcomes.pop(0), Exception):
            raise outcome
        return str(outcome)

    spawner.child_spawner.adopt = adopt
    monkeypatch.setattr("hpchub.hub.profiles_spawner.RETRY", 0.01)
    assert await settle(spawner) == "https://127.0.0.1:20001/user/alice/"


# -- orphaned jobs


@pytest.fixture
def collector(shared: Runtime) -> OrphanCollector:
    return OrphanCollector(shared, lambda: {SESSION}, grace=0.0)


async def test_a_job_without_a_session_is_cancelled(collector: OrphanCollector, cluster: Cluster) -> None:
    collector._grace = 0.01
    orphan = job(job_id="8", session="b" * 16)
    cluster.jobs = [job(), orphan, job(JobState.ENDED, job_id="9", session="c" * 16)]
    await collector.sweep(SITE.clusters[0])
    assert cluster.cancelled == []
    await asyncio.sleep(0.02)
    cluster.away = True
    with pytest.raises(Unanswered):
        await collector.sweep(SITE.clusters[0])
    cluster.away = False
    cluster.cancel = lambda job_id: Unanswered("away")
    await collector.sweep(SITE.clusters[0])
    assert cluster.cancelled == []
    cluster.cancel = lambda job_id: answer()
    await collector.sweep(SITE.clusters[0])
    assert cluster.cancelled == ["8"]


async def test_one_answer_is_not_two(
    collector: OrphanCollector, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = Snapshot(1.0, {"8": job(job_id="8", session="b" * 16)})

    async def snapshot(max_age: float) -> Snapshot:
        return same

    monkeypatch.setattr(cluster, "snapshot", snapshot)
    collector._grace = 45.0
    for _ in range(3):
        await collector.sweep(SITE.clusters[0])
    assert cluster.cancelled == []


@pytest.mark.parametrize(
    "foreign",
    [
        Job("8", JobState.RUNNING, name=f"hpchub-{'b' * 16}", user="alice"),
        Job("8", JobState.RUNNING, name="mine", user="alice", comment=f"hpchub/{HUB}/alice/{'b' * 16}"),
        Job("8", JobState.RUNNING, name=f"hpchub-{'b' * 16}", user="alice", comment=f"hpchub/x/alice/{'b' * 16}"),
        Job("8", JobState.RUNNING, name=f"hpchub-{'b' * 16}", user="bob", comment=f"hpchub/{HUB}/alice/{'b' * 16}"),
    ],
    ids=["no-comment", "no-name", "another-hubs", "of-another-user"],
)
async def test_whose_job_is_not_an_orphan(collector: OrphanCollector, cluster: Cluster, foreign: Job) -> None:
    cluster.jobs = [foreign]
    for _ in range(3):
        await collector.sweep(SITE.clusters[0])
    assert cluster.cancelled == []


async def test_a_session_that_was_known_meanwhile(shared: Runtime, cluster: Cluster) -> None:
    known: set[str] = set()
    collector = OrphanCollector(shared, lambda: known, grace=0.01)
    cluster.jobs = [job()]
    await collector.sweep(SITE.clusters[0])
    known.add(SESSION)
    await asyncio.sleep(0.02)
    await collector.sweep(SITE.clusters[0])
    known.clear()
    await collector.sweep(SITE.clusters[0])
    assert cluster.cancelled == []
