"""Sessions in a real JupyterHub. Whatever fails, each session keeps its job and each job has a session."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from batchspawner import JobStatus
from hub_app import CLUSTER, GRANT, HUB, PORTS, SESSION, Hub, answer, eventually, job
from jupyterhub import orm
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.testing import bind_unused_port

from hpchub.clusters.doctor import Finding
from hpchub.clusters.poller import Snapshot
from hpchub.hub.job_events import PortReported
from hpchub.hub.orphans import OrphanCollector
from hpchub.hub.start_error import StartError
from hpchub.remote import launcher
from hpchub.schedulers import SCHEDULERS, Job, JobState, Unanswered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hpchub.clusters.gate_client import Answer
    from hpchub.hub.profiles_spawner import HPCProfilesSpawner

OTHER = "b" * 16


def saved(spawner: HPCProfilesSpawner) -> dict[str, Any]:
    """Return the job's part of the state in the database."""
    state: dict[str, Any] = spawner.orm_spawner.state["job"]
    return state


def accept(hub: Hub, state: JobState = JobState.RUNNING) -> None:
    """Make the scheduler accept submissions and show their jobs."""

    def submit(session: str) -> Answer:
        hub.show(job(state, session=session))
        return answer("7\n")

    hub.gate.on_submit = submit


# -- The submission


async def test_session_is_saved_before_its_job_is_submitted(hub: Hub) -> None:
    spawner = hub.new_spawner()
    states: list[Any] = []
    accept(hub)
    submit = hub.gate.on_submit

    def record(session: str) -> Answer | Exception:
        states.append(spawner.orm_spawner.state)
        return submit(session)

    hub.gate.on_submit = record
    start = asyncio.ensure_future(spawner.start())
    await eventually(lambda: spawner.child_spawner.job_id)
    requested = spawner.child_spawner.driver.state.requested
    fresh = {"job_id": "", "requested": requested, "submitted": 0.0, "started": 0.0, "host": "", "port": 0}
    assert states[0]["job"] == {"session": spawner.session, **fresh}
    assert saved(spawner)["job_id"] == "7"
    spawner._spawn_pending = True
    assert spawner.report(PortReported(20001))
    assert await start == "https://127.0.0.1:20001"
    assert saved(spawner)["host"] == "127.0.0.1"


async def test_job_gets_its_secrets_through_the_gate_and_not_in_its_script(hub: Hub) -> None:
    spawner = hub.new_spawner()
    spawner.api_token = token = spawner.user.new_api_token()
    await spawner.child_spawner.submit_batch_script()
    (submission,) = hub.gate.submissions
    assert submission["user"] == "alice"
    assert submission["secrets"]["JUPYTERHUB_API_TOKEN"] == token
    assert submission["secrets"]["HPCHUB_TLS_KEY"] == "KEY"
    assert submission["secrets"]["HPCHUB_TLS_CERTIFICATE"] == "CERTIFICATE OF alice"
    assert (submission["secrets"]["HPCHUB_PORT_FIRST"], submission["secrets"]["HPCHUB_PORT_LAST"]) == ("20000", "29999")
    assert all(name.startswith(("JUPYTERHUB_", "HPCHUB_")) for name in submission["secrets"])
    assert token not in submission["script"]


async def test_start_without_a_certificate_authority_is_explained(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def issue(user: str, statement: str) -> None:
        raise FileNotFoundError("current.pem")

    monkeypatch.setattr(hub.runtime.authority, "issue", issue)
    spawner = hub.new_spawner()
    with pytest.raises(StartError, match="cannot create the certificates") as caught:
        await spawner.start()
    assert caught.value.status_code == 503
    assert hub.gate.submissions == []
    assert await spawner.poll() == 1


async def test_start_that_the_doctor_forbids_is_explained_and_submits_nothing(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def findings(*_: object) -> tuple[Finding, ...]:
        return (Finding("quota", "Your home directory /home/alice is full.", "Delete files."),)

    monkeypatch.setattr(hub.runtime.knowledge("demo"), "findings", findings)
    spawner = hub.new_spawner()
    with pytest.raises(StartError, match="/home/alice is full") as caught:
        await spawner.start()
    assert (caught.value.status_code, caught.value.advice) == (409, "Delete files.")
    assert hub.gate.submissions == []
    assert await spawner.poll() == 1


async def test_doctor_that_fails_prevents_nothing(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    async def findings(*_: object) -> tuple[Finding, ...]:
        raise ZeroDivisionError

    monkeypatch.setattr(hub.runtime.knowledge("demo"), "findings", findings)
    spawner = hub.new_spawner()
    accept(hub)
    start = asyncio.ensure_future(spawner.start())
    await eventually(lambda: spawner.child_spawner.job_id)
    spawner._spawn_pending = True
    assert spawner.report(PortReported(20001))
    assert await start == "https://127.0.0.1:20001"


async def test_node_with_another_host_name_is_reached_at_its_host(hub: Hub) -> None:
    child = hub.restored_spawner().child_spawner
    hub.show(dataclasses.replace(job(), host="n1"))
    assert child.driver.report(PortReported(20001))
    assert await child.driver.follow() == "https://n1.example:20001"
    assert child.get_state()["host"] == "n1.example"


@pytest.mark.parametrize(
    "result",
    [Unanswered("connection reset"), answer(code=124), answer("noise\n"), answer("1")],
    ids=["connection-reset", "timeout", "output-without-a-job-id", "output-is-cut-off"],
)
async def test_job_of_an_unanswered_submission_is_found_by_its_name(hub: Hub, result: Answer | Exception) -> None:
    spawner = hub.new_spawner()

    def submit(session: str) -> Answer | Exception:
        hub.show(job(job_id="1", session=OTHER), job(job_id="8", session=session))
        return result

    hub.gate.on_submit = submit
    spawner.child_spawner.driver.begin()
    assert await spawner.child_spawner.submit_batch_script() == "8"


@pytest.mark.parametrize("silent", [True, False], ids=["scheduler-is-silent", "job-does-not-exist"])
async def test_unanswered_submission_without_a_job_fails_and_cancels_nothing(
    hub: Hub, silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawner = hub.new_spawner()
    monkeypatch.setattr(SCHEDULERS["slurm"], "propagation", 0.05)
    hub.gate.on_submit = lambda session: Unanswered("the submit host is unreachable")
    hub.poller.silent = silent
    with pytest.raises(StartError, match="does not answer"):
        await spawner.start()
    await spawner.stop()  # as JupyterHub does
    assert hub.gate.cancelled == []


async def test_start_that_is_stopped_during_its_submission_leaves_no_job(hub: Hub) -> None:
    spawner = hub.new_spawner()
    hub.gate.delay = 0.05
    accept(hub)
    start = asyncio.ensure_future(spawner.start())
    await eventually(lambda: spawner.session)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert await spawner.poll() is None  # so JupyterHub calls stop
    await spawner.stop()
    assert hub.gate.cancelled == ["7"]
    assert hub.poller.lookups == 1  # the scheduler reports the end at once


async def test_message_of_a_submit_command_that_prints_no_job_id_is_shown(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some submit commands print an error and exit with 0. The user sees the error."""
    spawner = hub.new_spawner()
    monkeypatch.setattr(SCHEDULERS["slurm"], "propagation", 0.05)
    hub.gate.on_submit = lambda session: answer(stderr="sbatch: error: You are over quota\n")
    with pytest.raises(StartError, match="did not confirm your job: sbatch: error: You are over quota"):
        await spawner.start()


async def test_refused_submission_fails_with_the_reason(hub: Hub) -> None:
    spawner = hub.new_spawner()
    hub.gate.on_submit = lambda session: answer(code=1, stderr="sbatch: error: Invalid account\n")
    with pytest.raises(StartError, match="did not accept your job: sbatch: error: Invalid account") as caught:
        await spawner.start()
    assert caught.value.jupyterhub_message == str(caught.value)
    assert await spawner.poll() == 1


# -- The launch


async def test_job_that_is_pending_again_before_its_report_gets_a_new_launch_timeout(hub: Hub) -> None:
    """The scheduler requeued the job because its node did not start it."""
    hub.app.config.JobSpawner.launch_timeout = 1.0
    child = hub.restored_spawner(submitted=time.time()).child_spawner
    hub.show(job())
    follow = asyncio.ensure_future(child.driver.follow())
    await eventually(lambda: "runs on 127.0.0.1" in child.driver.state.message)
    hub.show(job(JobState.PENDING))
    await asyncio.sleep(1.2)
    assert "waits in the queue" in child.driver.state.message
    hub.show(dataclasses.replace(job(), host="127.0.0.2"))
    await eventually(lambda: "runs on 127.0.0.2" in child.driver.state.message)
    assert child.driver.report(PortReported(20001))
    assert await follow == "https://127.0.0.2:20001"


async def test_job_without_a_report_fails_after_the_launch_timeout(hub: Hub) -> None:
    hub.app.config.JobSpawner.launch_timeout = 0.05
    spawner = hub.new_spawner()
    accept(hub)
    with pytest.raises(StartError, match=r"did not start within 0.05 seconds.* ~/\.hpchub/logs/7\.log$"):
        await spawner.start()


async def test_node_is_kept_if_the_scheduler_shows_only_that_the_job_exists(hub: Hub) -> None:
    """Grid Engine and HTCondor show no node for a single job."""
    child = hub.restored_spawner(submitted=time.time()).child_spawner
    hub.show(job())
    assert await child.query_job_status() == JobStatus.RUNNING
    hub.poller.hides_jobs = True
    hub.poller.clock = lambda: time.monotonic() + 60
    hub.poller.lookup = Job("7", JobState.UNKNOWN)
    assert await child.query_job_status() == JobStatus.UNKNOWN
    assert child.driver.state.job.host == "127.0.0.1"


async def test_progress_page_shows_each_message_once(hub: Hub) -> None:
    child = hub.restored_spawner(submitted=time.time()).child_spawner
    hub.show(job(JobState.PENDING))
    follow = asyncio.ensure_future(child.driver.follow())
    await eventually(lambda: "waits in the queue" in child.driver.state.message)
    messages = []
    async with asyncio.timeout(30):
        async for shown in child.progress():
            messages.append(shown)
            if len(messages) == 1:
                hub.show(job())
            else:
                break
    follow.cancel()
    assert messages == [
        {"progress": 30, "message": "Your job 7 waits in the queue q of demo."},
        {"progress": 60, "message": "Your job 7 runs on 127.0.0.1. The notebook server is starting."},
    ]


# -- The port report


async def test_port_is_accepted_once_while_a_start_is_pending(hub: Hub) -> None:
    spawner = hub.restored_spawner(job_id="")
    assert not spawner.report(PortReported(20001))  # no start is pending
    spawner._check_pending = True
    assert spawner.report(PortReported(20001))
    assert saved(spawner)["port"] == 20001  # before the job gets its answer
    assert not spawner.report(PortReported(20002))
    assert not spawner.report(PortReported(20001))
    spawner.clear_state()
    assert not spawner.report(PortReported(20001))


@dataclasses.dataclass
class Api:
    """The hub's REST API over HTTP."""

    port: int

    async def post(self, path: str, token: str, body: object) -> tuple[int, Any]:
        """Send a request. Return the status and the JSON of the answer."""
        request = HTTPRequest(
            f"http://127.0.0.1:{self.port}/hub/api/{path}",
            method="POST",
            headers={"Authorization": f"token {token}", "Content-Type": "application/json"} if token else {},
            body=body if isinstance(body, str) else json.dumps(body),
        )
        client = AsyncHTTPClient(force_instance=True)
        response = await client.fetch(request, raise_error=False)
        client.close()
        return response.code, json.loads(response.body or "null")

    async def report(self, token: str, body: object) -> tuple[int, Any]:
        """Send a port report, as a job does."""
        return await self.post("batchspawner", token, body)


@pytest.fixture
def api(port: int) -> Api:
    """The REST API of the hub behind a real HTTP server."""
    return Api(port)


@pytest.fixture
async def starting(hub: Hub, api: Api) -> str:
    """The server token of alice's session, which she started by the REST API. It waits for its port."""
    accept(hub)
    status, _ = await api.post("users/alice/server", hub.user().new_api_token(), {"profile": "small"})
    assert status == 202
    spawner = hub.user().spawners[""]
    await eventually(lambda: spawner.child_spawner and "runs on" in spawner.child_spawner.driver.state.message)
    token: str = hub.gate.submissions[0]["secrets"]["JUPYTERHUB_API_TOKEN"]
    return token


def reported(hub: Hub) -> int:
    """Return the port that alice's session has."""
    port: int = hub.user().spawners[""].child_spawner.driver.state.port
    return port


async def test_reported_port_becomes_the_address_of_the_server(hub: Hub, api: Api, starting: str) -> None:
    spawner = hub.user().spawners[""]
    assert await api.report(starting, {"port": 20001}) == (201, {"message": "taken"})
    assert saved(spawner)["port"] == 20001
    await eventually(lambda: spawner.server.port == 20001)
    assert (spawner.server.proto, spawner.server.ip) == ("https", "127.0.0.1")


async def test_second_report_is_refused_and_changes_nothing(hub: Hub, api: Api, starting: str) -> None:
    assert (await api.report(starting, {"port": 20001}))[0] == 201
    for port in (20001, 20002):
        status, body = await api.report(starting, {"port": port})
        assert (status, body["message"]) == (409, "This session is not waiting for a port.")
    assert reported(hub) == 20001


INVALID_REPORTS: tuple[object, ...] = (
    {},
    [],
    20001,
    None,
    {"port": "20001"},
    {"port": 20001.0},
    {"port": True},
    {"port": None},
    {"port": PORTS["first"] - 1},
    {"port": PORTS["last"] + 1},
    {"port": -20001},
    {"port": 20001, "cmd": ["id"]},
    {"port": 20001, "ip": "192.0.2.1"},
    {"cmd": ["id"]},
)


async def test_report_with_an_invalid_body_is_refused_and_changes_nothing(hub: Hub, api: Api, starting: str) -> None:
    before = saved(hub.user().spawners[""])
    for body in INVALID_REPORTS:
        status, answered = await api.report(starting, body)
        assert status == 400, body
        assert 'send {"port": N}, where N is an integer from 20000 to 29999.' in answered["message"], body
        assert (reported(hub), saved(hub.user().spawners[""])) == (0, before), body


INVALID_TEXTS: tuple[object, ...] = (
    {"problem": 5},
    {"problem": "x" * 1001},
    {"problem": "x", "port": 20001},
    {"port": 20001, "notice": ["x"]},
    {"port": 20001, "notice": "x" * 1001},
    {"port": 20001, "addresses": "192.0.2.1"},
    {"port": 20001, "addresses": ["192.0.2.1"]},
    {"port": 20001, "addresses": [{"interface": "eth0"}]},
    {"port": 20001, "addresses": [{"interface": "eth0", "address": "hub.example"}]},
    {"port": 20001, "addresses": [{"interface": "eth0", "address": "fe80::1%eth0"}]},
    {"port": 20001, "addresses": [{"interface": "eth0", "address": 3221225985}]},
    {"port": 20001, "addresses": [{"interface": "eth0", "address": "192.0.2.1"}] * 33},
)


async def test_report_with_invalid_texts_or_addresses_is_refused(hub: Hub, api: Api, starting: str) -> None:
    before = saved(hub.user().spawners[""])
    for body in INVALID_TEXTS:
        assert (await api.report(starting, body))[0] == 400, body
        assert (reported(hub), saved(hub.user().spawners[""])) == (0, before), body


async def test_reported_problem_ends_the_start_at_once(hub: Hub, api: Api, starting: str) -> None:
    spawner = hub.user().spawners[""]
    future = spawner._spawn_future
    assert (await api.report(starting, {"problem": "line 2\nis <b>bad</b>\x00"}))[0] == 201
    await eventually(future.done)
    assert "could not start: line 2 is <b>bad</b>" in str(future.exception())


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ({"id": "not_started", "values": {"seconds": "<b>9\n"}}, "the notebook server did not start within <b>9 s"),
        ({"id": "anything", "values": {}}, "own words"),
        ("text", "own words"),
    ],
)
async def test_reported_problem_is_a_text_of_the_hub(
    hub: Hub, api: Api, starting: str, message: object, shown: str
) -> None:
    spawner = hub.user().spawners[""]
    future = spawner._spawn_future
    assert (await api.report(starting, {"problem": "own words", "message": message, "more": 1}))[0] == 400
    assert (await api.report(starting, {"problem": "own words", "message": message}))[0] == 201
    await eventually(future.done)
    assert f"could not start: {shown}" in str(future.exception())


async def test_reported_addresses_replace_a_name_that_the_hub_cannot_resolve(hub: Hub, api: Api, starting: str) -> None:
    spawner = hub.user().spawners[""]
    child = spawner.child_spawner
    cluster = child.cluster.model_copy(update={"networks": ["127.0.0.0/8"]})
    state = child.driver.state
    job = dataclasses.replace(state.job, host="name-that-the-hub-does-not-know.invalid")
    hub.show(job)
    context = dataclasses.replace(state.context, cluster=cluster)
    child.driver.state = dataclasses.replace(state, context=context, node=job.host, job=job)
    held = launcher.reserve_port(PORTS["first"], PORTS["last"])
    held[0].listen()
    port = held[0].getsockname()[1]
    addresses = [{"interface": "eth0", "address": "127.0.0.1"}]
    assert (await api.report(starting, {"port": port, "addresses": addresses, "notice": "Without x.py."}))[0] == 201
    await eventually(lambda: spawner.server.port == port)
    assert spawner.notice == spawner.orm_spawner.state["notice"] == "Without x.py."
    assert spawner.server.ip == "127.0.0.1"
    for listener in held:
        listener.close()


async def test_report_that_is_not_json_is_refused(hub: Hub, api: Api, starting: str) -> None:
    assert (await api.report(starting, "port=20001"))[0] == 400
    assert reported(hub) == 0


@pytest.mark.parametrize("name", ["alice", "mallory"], ids=["another-token-of-the-user", "token-of-another-user"])
async def test_report_with_a_token_of_no_starting_session_is_refused(
    hub: Hub, api: Api, starting: str, name: str
) -> None:
    status, body = await api.report(hub.user(name).new_api_token(), {"port": 20001})
    assert (status, body["message"]) == (403, "This token does not belong to a session.")
    assert reported(hub) == 0


@pytest.mark.parametrize("token", ["", "f" * 32], ids=["no-token", "unknown-token"])
async def test_report_without_a_valid_token_is_refused(hub: Hub, api: Api, starting: str, token: str) -> None:
    assert (await api.report(token, {"port": 20001}))[0] == 403
    assert reported(hub) == 0


async def test_report_to_a_session_that_is_ready_is_refused(hub: Hub, api: Api) -> None:
    token = hub.user().new_api_token()
    spawner = hub.restored_spawner(host="127.0.0.1", port=20001)
    spawner.token = orm.APIToken.find(hub.app.db, token).hashed
    assert (await api.report(token, {"port": 20002}))[0] == 409
    assert reported(hub) == 20001


async def test_report_to_a_restored_start_is_accepted(hub: Hub, api: Api) -> None:
    """The restarted hub has only the hash of the token."""
    token = hub.user().new_api_token()
    spawner = hub.restored_spawner()
    spawner.token = orm.APIToken.find(hub.app.db, token).hashed
    spawner._check_pending = True
    assert (await api.report(token, {"port": 20002}))[0] == 201
    assert saved(spawner)["port"] == 20002


# -- The end of a session


@pytest.mark.parametrize(
    ("found", "age", "status"),
    [
        ([job()], 0, JobStatus.RUNNING),
        ([job(user="bob")], 0, JobStatus.UNKNOWN),
        ([], 100, JobStatus.UNKNOWN),
        ([], 200, JobStatus.NOTFOUND),
    ],
    ids=["job-is-found", "job-of-another-user", "job-is-not-visible-yet", "job-was-never-submitted"],
)
async def test_restart_during_a_submission(hub: Hub, found: list[Job], age: float, status: JobStatus) -> None:
    child = hub.restored_spawner(job_id="").child_spawner
    hub.show(*found)
    hub.poller.clock = lambda: time.monotonic() + age
    assert await child.query_job_status() == status
    assert child.job_id == ("7" if status is JobStatus.RUNNING else "")


async def test_reused_job_id_ends_the_session_unless_its_job_is_found_by_name(hub: Hub) -> None:
    """Schedulers reuse job ids. A job that its user has renamed still belongs to its session."""
    child = hub.restored_spawner(submitted=time.time()).child_spawner
    hub.show(dataclasses.replace(job(), name="mine"))
    assert await child.query_job_status() == JobStatus.RUNNING
    hub.poller.clock = lambda: time.monotonic() + 60
    hub.show(job(user="bob", session=OTHER))
    assert await child.query_job_status() == JobStatus.NOTFOUND
    hub.jobs.append(job(job_id="8"))
    assert await child.query_job_status() == JobStatus.RUNNING
    assert child.job_id == "8"


async def test_wait_of_a_job_that_was_found_by_name_counts_from_then_on(hub: Hub) -> None:
    child = hub.restored_spawner(job_id="").child_spawner
    hub.show(job(JobState.PENDING))
    assert await child.query_job_status() == JobStatus.PENDING
    assert time.time() - child.get_state()["submitted"] < 10


@pytest.mark.parametrize(
    ("job_state", "polled"),
    [({}, None), ({"port": 20001, "host": "n1"}, 1)],
    ids=["before-its-server-was-ready", "after-its-server-was-ready"],
)
async def test_requeued_job_ends_a_session_that_was_ready(
    hub: Hub, job_state: dict[str, Any], polled: int | None
) -> None:
    hub.show(job(JobState.PENDING))
    assert await hub.restored_spawner(**job_state).poll() == polled


async def test_poll_does_not_raise_and_keeps_the_session(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    spawner = hub.restored_spawner()

    async def broken(max_age: float) -> Snapshot:
        raise RuntimeError("a bug")

    monkeypatch.setattr(hub.poller, "snapshot", broken)
    assert await spawner.poll() is None
    assert spawner.session == SESSION


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits between two attempts to milliseconds."""
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds: sleep(min(seconds, 0.01)))


@pytest.mark.usefixtures("quick")
async def test_failed_cancellation_is_repeated(hub: Hub) -> None:
    child = hub.restored_spawner().child_spawner
    child.stop_timeout = 30
    hub.show(job())
    results: list[Answer | Exception] = [Unanswered("down"), answer(code=1)]
    hub.gate.on_cancel = lambda job_id: results.pop(0) if results else answer()
    await child.cancel_batch_job()
    assert hub.gate.cancelled == ["7"]
    assert not results


@pytest.mark.usefixtures("quick")
async def test_cancellation_that_fails_because_the_job_has_ended_is_not_repeated(hub: Hub) -> None:
    child = hub.restored_spawner().child_spawner
    child.stop_timeout = 30
    hub.show(job(JobState.ENDED))
    attempts: list[str] = []

    def cancel(job_id: str) -> Answer:
        attempts.append(job_id)
        return answer(code=1, stderr="scancel: error: Job has already completed")

    hub.gate.on_cancel = cancel
    await child.cancel_batch_job()
    assert attempts == ["7"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("now", [False, True], ids=["waits", "at-once"])
async def test_stop_waits_for_the_end_of_the_job(hub: Hub, now: bool) -> None:
    child = hub.restored_spawner().child_spawner
    child.stop_timeout = 30
    hub.show(job())
    hub.poller.lookup = job()  # the scheduler shows the cancelled job until its processes have ended
    stop = asyncio.ensure_future(child.stop(now=now))
    await eventually(lambda: hub.gate.cancelled)
    if not now:
        await eventually(lambda: hub.poller.lookups >= 3)
        assert not stop.done()
        hub.poller.lookup = None
    await stop


@pytest.mark.parametrize(
    "result", [Unanswered("the gate is unreachable"), answer(code=1)], ids=["gate-is-unreachable", "scancel-fails"]
)
async def test_stop_does_not_raise_if_the_cancellation_fails(hub: Hub, result: Answer | Exception) -> None:
    hub.app.config.JobSpawner.stop_timeout = 0.0
    spawner = hub.restored_spawner()
    hub.show(job())
    hub.poller.silent = True
    hub.gate.on_cancel = lambda job_id: result
    await spawner.stop()
    assert hub.gate.cancelled == []


@pytest.mark.parametrize(
    "state",
    [
        {"grant": {}},
        {"grant": {"profile": {}, "cluster": {}}, "job": {}},
        {"grant": GRANT},
        {"grant": GRANT, "job": []},
    ],
    ids=["grant-is-empty", "grant-is-invalid", "job-is-missing", "job-is-a-list"],
)
async def test_invalid_saved_state_is_no_session_and_does_not_raise(hub: Hub, state: dict[str, Any]) -> None:
    spawner = hub.new_spawner()
    spawner.clear_state()
    spawner.load_state(state)
    assert spawner.session == ""


@pytest.mark.parametrize("state", [JobState.PENDING, JobState.UNKNOWN], ids=lambda state: state.name)
async def test_wait_longer_than_the_profile_allows_fails_unless_the_scheduler_is_silent(
    hub: Hub, state: JobState
) -> None:
    """The wait counts from the submission, even if the hub was restarted in between."""
    child = hub.restored_spawner(submitted=time.time() - 7 * 24 * 3600 - 1).child_spawner
    hub.poller.silent = True
    waiting = asyncio.ensure_future(child.driver.follow())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert "does not answer at the moment" in child.driver.state.message
    hub.poller.silent = False
    hub.show(job(state))
    explanation = r"longer than its profile allows \(7 days\), so the start was cancelled"
    with pytest.raises(StartError, match=explanation):
        await waiting


async def test_poll_does_not_wait_for_a_slow_scheduler_and_uses_the_late_answer(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.app.config.JobSpawner.poll_patience = 0.05
    child = hub.restored_spawner(port=20001).child_spawner
    hanging = asyncio.Event()
    at_once = hub.poller.snapshot
    hub.poller.clock = lambda: time.monotonic() + 60

    async def snapshot(max_age: float) -> Snapshot:
        await hanging.wait()
        return await at_once(max_age)

    monkeypatch.setattr(hub.poller, "snapshot", snapshot)
    assert [await child.poll() for _ in range(2)] == [None, None]
    hanging.set()
    await asyncio.sleep(0.05)
    assert await child.poll() == 1


async def test_server_is_reachable_only_while_it_listens(hub: Hub) -> None:
    driver = hub.restored_spawner().child_spawner.driver
    listener, port = bind_unused_port()
    assert await driver._reachable("127.0.0.1", port)
    listener.close()
    assert not await driver._reachable("127.0.0.1", port)


# -- A restart of the hub


async def settle(spawner: HPCProfilesSpawner) -> str:
    """Call ``get_url`` as JupyterHub's check of a restored session does."""
    spawner._check_pending = True
    url = await spawner.get_url()
    spawner._check_pending = False
    await asyncio.sleep(0.1)
    assert not spawner._spawn_pending
    return str(url)


@pytest.fixture
async def notebook() -> AsyncIterator[int]:
    """The port of a process that accepts connections."""
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_pending_start_continues_after_a_restart(hub: Hub, notebook: int) -> None:
    spawner = hub.restored_spawner()
    hub.show(job(JobState.PENDING))
    check = asyncio.ensure_future(settle(spawner))
    await eventually(lambda: "waits in the queue" in spawner.child_spawner.driver.state.message)
    assert spawner.pending == "spawn"
    hub.show(job())
    await eventually(lambda: "runs on" in spawner.child_spawner.driver.state.message)
    assert spawner.report(PortReported(notebook))
    assert await check == f"https://127.0.0.1:{notebook}/user/alice/"
    assert spawner.pending is None
    assert spawner._spawn_future is None
    assert hub.routes == {"/user/alice/": f"https://127.0.0.1:{notebook}"}


async def test_ready_server_is_awaited_although_scheduler_and_node_are_silent(
    hub: Hub, notebook: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawner = hub.restored_spawner(f"https://127.0.0.1:{notebook}", host="127.0.0.1", port=notebook)
    hub.poller.silent = True
    reachable = [False, False, True]

    async def probe(host: str, port: int) -> bool:
        return reachable.pop(0)

    monkeypatch.setattr(spawner.child_spawner.driver, "_reachable", probe)
    spawner._check_pending = True
    assert await spawner.get_url() == f"https://127.0.0.1:{notebook}/user/alice/"
    await asyncio.sleep(0)  # JupyterHub contacts the server now, and then compares the proxy's routes
    assert spawner.pending == "check"
    spawner._check_pending = False
    assert spawner.ready
    assert spawner.http_timeout > 600
    assert hub.gate.cancelled == []
    assert reachable == []


async def test_job_that_ended_during_the_restart_ends_the_session_with_an_explanation(hub: Hub) -> None:
    spawner = hub.restored_spawner()
    hub.show(job(JobState.ENDED))
    known = spawner.server.url
    assert await settle(spawner) == known
    assert spawner.http_timeout == 0
    assert spawner.server.connect_url == "http://127.0.0.1:1/user/alice/"
    assert spawner._spawn_future is not None
    assert "ended before" in str(spawner._spawn_future.exception())


async def test_resumed_start_can_be_stopped(hub: Hub) -> None:
    spawner = hub.restored_spawner()
    hub.show(job(JobState.PENDING))
    check = asyncio.ensure_future(settle(spawner))
    await asyncio.sleep(0.05)
    assert spawner._spawn_future is not None
    spawner._spawn_future.cancel()
    await check
    assert spawner.http_timeout == 0
    assert await spawner.poll() == 1
    await eventually(lambda: hub.gate.cancelled)
    assert hub.gate.cancelled == ["7"]


@pytest.mark.parametrize("work", ["get_url", "start"])
async def test_stopping_the_hub_cancels_no_job(hub: Hub, work: str) -> None:
    spawner = hub.restored_spawner() if work == "get_url" else hub.new_spawner()
    hub.show(job(JobState.PENDING))
    hub.gate.delay = 0.05
    task = asyncio.ensure_future(getattr(spawner, work)())
    await eventually(lambda: spawner.session)
    await asyncio.sleep(0.02)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for each in others:
        each.cancel()
    await asyncio.wait(others)
    assert task.cancelled()
    assert spawner.session
    assert hub.gate.cancelled == []


async def test_unexpected_error_while_a_session_is_restored_is_retried(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawner = hub.restored_spawner()
    outcomes: list[Exception | str] = [RuntimeError("a bug"), "https://127.0.0.1:20001"]

    async def adopt() -> str:
        if isinstance(outcome := outcomes.pop(0), Exception):
            raise outcome
        return outcome

    spawner.child_spawner.adopt = adopt
    monkeypatch.setattr("hpchub.hub.resumption.RETRY", 0.01)
    assert await settle(spawner) == "https://127.0.0.1:20001/user/alice/"


# -- Orphaned jobs


@pytest.fixture
def collector(hub: Hub) -> OrphanCollector:
    """A collector that knows one session, and needs no time between two answers."""
    return OrphanCollector(hub.runtime, lambda: {SESSION}, grace=0.0)


async def test_orphan_in_two_answers_is_cancelled(hub: Hub, collector: OrphanCollector) -> None:
    collector._grace = 0.01
    orphan = job(job_id="8", session=OTHER)
    hub.end_session(OTHER)
    hub.show(job(), orphan, job(JobState.ENDED, job_id="9", session="c" * 16))
    await collector.sweep(CLUSTER)
    assert hub.gate.cancelled == []
    await asyncio.sleep(0.02)
    hub.poller.silent = True
    with pytest.raises(Unanswered):
        await collector.sweep(CLUSTER)
    hub.poller.silent = False
    hub.gate.on_cancel = lambda job_id: Unanswered("the gate is unreachable")
    await collector.sweep(CLUSTER)
    assert hub.gate.cancelled == []
    hub.gate.on_cancel = lambda job_id: answer()
    await collector.sweep(CLUSTER)
    assert hub.gate.cancelled == ["8"]


async def test_orphan_in_the_same_answer_twice_is_not_cancelled(
    hub: Hub, collector: OrphanCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = Snapshot(1.0, {"8": job(job_id="8", session=OTHER)})

    async def snapshot(max_age: float) -> Snapshot:
        return same

    monkeypatch.setattr(hub.poller, "snapshot", snapshot)
    hub.end_session(OTHER)
    collector._grace = 45.0
    for _ in range(3):
        await collector.sweep(CLUSTER)
    assert hub.gate.cancelled == []


@pytest.mark.parametrize(
    "foreign",
    [
        Job("8", JobState.RUNNING, name=f"hpchub-{OTHER}", user="alice"),
        Job("8", JobState.RUNNING, name="mine", user="alice", comment=f"hpchub/{HUB}/alice/{OTHER}"),
        Job("8", JobState.RUNNING, name=f"hpchub-{OTHER}", user="alice", comment=f"hpchub/x/alice/{OTHER}"),
        Job("8", JobState.RUNNING, name=f"hpchub-{OTHER}", user="bob", comment=f"hpchub/{HUB}/alice/{OTHER}"),
    ],
    ids=["no-comment", "another-name", "another-hub", "another-user"],
)
async def test_job_that_is_not_of_this_hub_is_not_an_orphan(hub: Hub, collector: OrphanCollector, foreign: Job) -> None:
    hub.end_session(OTHER)
    hub.show(foreign)
    for _ in range(3):
        await collector.sweep(CLUSTER)
    assert hub.gate.cancelled == []


async def test_job_whose_session_was_known_in_between_is_not_cancelled(hub: Hub) -> None:
    known: set[str] = set()
    collector = OrphanCollector(hub.runtime, lambda: known, grace=0.01)
    hub.end_session(SESSION)
    hub.show(job())
    await collector.sweep(CLUSTER)
    known.add(SESSION)
    await asyncio.sleep(0.02)
    await collector.sweep(CLUSTER)
    known.clear()
    await collector.sweep(CLUSTER)
    assert hub.gate.cancelled == []
