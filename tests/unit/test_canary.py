"""The canary, with a real JupyterHub and a real notebook server."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import app_server
import hub_app
import pytest
from hub_app import Hub, answer, job, profile
from jupyterhub import orm
from jupyterhub.user import User
from notebook_server import TOKEN as NOTEBOOK_TOKEN

from hpchub.canary import TOKEN, run
from hpchub.canary.client import CODE, Client, FixedResolver, connect
from hpchub.canary.run import Busy, Canary, alone
from hpchub.canary.status import STATUS, CanaryError, KernelResult, Result, read_status, write_status
from hpchub.cli import canary as command
from hpchub.cli import inventory
from hpchub.cli.failure import Failure
from hpchub.hub.job_events import PortReported
from hpchub.model.apps import WebApp
from hpchub.model.entries import Profile
from hpchub.model.notices import Drain, NoticesFile
from hpchub.notices_file import save_notices
from hpchub.schedulers import JobState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from hub_app import Ask
    from notebook_server import Session

SECRET = "c" * 64
SMALL = Profile.model_validate(profile("small"))


@pytest.fixture
async def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    """A hub with a canary that uses the account alice."""
    original = hub_app.settings
    monkeypatch.setenv(TOKEN, SECRET)
    monkeypatch.setattr(hub_app, "settings", lambda *given: {**original(*given), "canary": {"user": "alice"}})
    monkeypatch.setattr(run, "INTERVAL", 0.02)
    started = await hub_app.make_hub(tmp_path, [])
    yield started
    await started.close()


@pytest.fixture
async def client(port: int) -> AsyncIterator[Client]:
    """The canary's connection to the hub."""
    async with connect(f"http://127.0.0.1:{port}", "alice", SECRET) as made:
        yield made


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The kernels of every session, with the error of each."""
    found = {"python3": ""}

    async def names(_self: Client, server: str) -> dict[str, str]:
        assert server.endswith("/user/alice/")
        return dict.fromkeys(found, "python")

    async def compute(_self: Client, _server: str, kernel: str, _language: str) -> None:
        if found[kernel]:
            raise CanaryError(found[kernel])

    monkeypatch.setattr(Client, "kernels", names)
    monkeypatch.setattr(Client, "compute", compute)
    return found


@pytest.fixture
async def cluster(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """A cluster that runs every job at once, with notebook servers that answer."""

    async def answers(_self: User, spawner: Any) -> None:
        spawner._waiting_for_response = spawner._start_pending = False

    monkeypatch.setattr(User, "_wait_up", answers)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def report() -> None:
        while True:
            await asyncio.sleep(0.01)
            for spawner in hub.user().spawners.values():
                if spawner.child_spawner and "runs on" in spawner.child_spawner.driver.state.message:
                    spawner.report(PortReported(port))

    accept(hub, JobState.RUNNING)
    reports = asyncio.ensure_future(report())
    yield
    reports.cancel()
    server.close()


def accept(hub: Hub, state: JobState) -> None:
    """Make the scheduler accept submissions and show their jobs."""

    def submit(session: str) -> Any:
        hub.show(job(state, session=session))
        return answer("7\n")

    hub.gate.on_submit = submit


def make(client: Client, directory: Path, *kernels: str, refusal: str = "") -> Canary:
    return Canary(client, kernels, lambda _: refusal, directory, lambda _: None)


def is_clean(hub: Hub) -> bool:
    """Return whether no session and no job is left."""
    spawner = hub.user().spawners[""]
    return not spawner.session and not hub.jobs and not spawner.active


# -- the token


async def test_token_starts_opens_and_stops_the_sessions_of_its_account_only(hub: Hub, ask: Ask) -> None:
    hub.user("bob")
    headers = {"Authorization": f"token {SECRET}", "Content_Type": "application/json"}
    me = json.loads((await ask("api/user", **headers)).body)
    assert me["kind"] == "service"
    assert all(scope.endswith("!user=alice") for scope in me["scopes"] if "servers" in scope)
    assert (await ask("api/users/alice", **headers)).code == 200
    assert (await ask("api/hpchub/sessions/alice", **headers)).code == 200
    for path in ("api/users/bob", "api/hpchub/sessions/bob", "api/users", "api/proxy", "metrics"):
        assert (await ask(path, **headers)).code in (403, 404), path
    for path in ("api/users/bob/server", "api/users/alice/tokens", "api/users/alice", "api/users/mallory"):
        assert (await ask(path, "POST", b"{}", **headers)).code in (403, 404), path
    assert hub.gate.submissions == []
    assert not any(user.admin for user in hub.app.db.query(orm.User))


# -- a run


@pytest.mark.usefixtures("cluster")
async def test_profile_that_works_is_good_and_leaves_nothing_behind(
    hub: Hub, client: Client, kernels: dict[str, str], tmp_path: Path
) -> None:
    kernels["r"] = ""
    before = time.time()
    results = await make(client, tmp_path).run([SMALL], 60, ["small"])
    result = results["small"]
    assert (result.outcome, result.stage, result.reason) == ("good", "", "")
    assert set(result.seconds) == {"submission", "queue", "launch", "kernel"}
    assert all(kernel.ok for kernel in result.kernels.values())
    assert list(result.kernels) == ["python3", "r"]
    saved = read_status(tmp_path)["profiles"]["small"]
    assert saved["good_at"] == saved["time"] >= before
    assert is_clean(hub)


@pytest.mark.usefixtures("cluster")
async def test_failing_and_missing_kernels_are_named(
    hub: Hub, client: Client, kernels: dict[str, str], tmp_path: Path
) -> None:
    kernels["r"] = "the kernel has ended unexpectedly"
    result = await make(client, tmp_path, "python3", "r", "julia").test(SMALL, 60)
    assert (result.outcome, result.stage) == ("failed", "kernel")
    assert result.reason == (
        "r: the kernel has ended unexpectedly; julia: the session does not offer it; it offers python3, r"
    )
    assert [name for name, kernel in result.kernels.items() if kernel.ok] == ["python3"]
    assert is_clean(hub)


async def test_refused_submission_fails_in_its_stage(hub: Hub, client: Client, tmp_path: Path) -> None:
    hub.gate.on_submit = lambda _: answer(code=1, stderr="sbatch: error: invalid partition")
    result = await make(client, tmp_path).test(SMALL, 60)
    assert (result.outcome, result.stage) == ("failed", "submission")
    assert "invalid partition" in result.reason
    assert is_clean(hub)


async def test_unknown_profile_is_refused(hub: Hub, client: Client, tmp_path: Path) -> None:
    hub.app.tornado_application.settings["slow_spawn_timeout"] = 10  # JupyterHub's default
    result = await make(client, tmp_path).test(SMALL.model_copy(update={"key": "gone"}), 60)
    assert (result.outcome, result.stage) == ("failed", "submission")
    assert "There is no profile 'gone'" in result.reason
    assert is_clean(hub)


async def test_full_queue_is_no_fault_of_the_service(hub: Hub, client: Client, tmp_path: Path) -> None:
    accept(hub, JobState.PENDING)
    result = await make(client, tmp_path).test(SMALL, 6)
    assert (result.outcome, result.stage) == ("skipped", "queue")
    assert result.reason == "the job was still in the queue after 6 seconds"
    assert "submission" in result.seconds
    assert is_clean(hub)


async def test_job_without_a_notebook_fails_in_the_launch(hub: Hub, client: Client, tmp_path: Path) -> None:
    accept(hub, JobState.RUNNING)
    result = await make(client, tmp_path).test(SMALL, 6)
    assert (result.outcome, result.stage) == ("failed", "launch")
    assert is_clean(hub)


async def test_drained_profile_is_not_started(hub: Hub, client: Client, tmp_path: Path) -> None:
    write_status(tmp_path, {"small": Result("demo", "good", time=5.0)}, ["small"])
    await make(client, tmp_path, refusal="drained").run([SMALL], 60, ["small"])
    saved = read_status(tmp_path)["profiles"]["small"]
    assert (saved["outcome"], saved["reason"], saved["good_at"]) == ("skipped", "drained", 5.0)
    assert hub.gate.submissions == []


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.4])
async def test_interrupted_canary_stops_its_session(hub: Hub, client: Client, tmp_path: Path, delay: float) -> None:
    accept(hub, JobState.PENDING)
    hub.gate.delay = 0.2
    task = asyncio.ensure_future(make(client, tmp_path).run([SMALL], 60, ["small"]))
    while hub.user().spawners[""].pending is None:  # noqa: ASYNC110 the hub has no event
        await asyncio.sleep(0.01)
    await asyncio.sleep(delay)
    task.cancel()
    await asyncio.sleep(0.01)
    task.cancel()  # impatience does not prevent the clean-up
    with pytest.raises(asyncio.CancelledError):
        await task
    assert is_clean(hub)
    assert not (tmp_path / STATUS).exists()


@pytest.mark.usefixtures("cluster", "kernels")
async def test_session_that_a_killed_canary_left_is_stopped_first(hub: Hub, client: Client, tmp_path: Path) -> None:
    await client.start("small")
    while not (former := hub.user().spawners[""].session):  # noqa: ASYNC110 the hub has no event
        await asyncio.sleep(0.01)
    result = await make(client, tmp_path).test(SMALL, 60)
    assert result.outcome == "good"
    assert hub.gate.submissions[0]["session"] == former
    assert len(hub.gate.submissions) == 2
    assert is_clean(hub)


async def test_hub_that_does_not_answer_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "CLEAN_UP_TIMEOUT", 0.1)
    async with connect("http://127.0.0.1:1", "alice", SECRET) as client:
        result = await make(client, tmp_path).test(SMALL, 1)
    assert (result.outcome, result.stage) == ("failed", "submission")
    assert "was not answered" in result.reason
    assert SECRET not in result.reason


async def test_wrong_token_is_a_failure_without_the_token(hub: Hub, port: int, tmp_path: Path) -> None:
    async with connect(f"http://127.0.0.1:{port}", "alice", "d" * 64) as client:
        result = await make(client, tmp_path).test(SMALL, 1)
    assert result.outcome == "failed"
    assert "403" in result.reason or "404" in result.reason
    assert "d" * 64 not in result.reason
    assert hub.gate.submissions == []


async def test_token_never_goes_to_another_host(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async def model(*_: Any) -> Any:
        return {"servers": {"": {"full_url": "https://evil.example.org/user/alice/"}}}

    monkeypatch.setattr(client, "_request", model)
    with pytest.raises(CanaryError, match="not an address of this service"):
        await client.server_url()


async def test_fixed_resolver_leads_every_name_to_the_web_server() -> None:
    resolver = FixedResolver("127.0.0.1", 8443)
    (found,) = await resolver.resolve("hub.example.org", 443)
    assert (found["hostname"], found["host"], found["port"]) == ("hub.example.org", "127.0.0.1", 8443)


# -- one at a time, and the status file


def test_second_canary_is_refused(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(Busy, match="another canary is running"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


def test_status_keeps_results_of_profiles_that_did_not_run(tmp_path: Path) -> None:
    write_status(tmp_path, {"a": Result("x", "good", time=1.0), "b": Result("x", "good", time=2.0)}, ["a", "b"])
    kernels = {"python3": KernelResult(ok=False, seconds=1.5, reason="no answer")}
    write_status(tmp_path, {"a": Result("x", "failed", "kernel", "bad", time=3.0, kernels=kernels)}, ["a", "b"])
    saved = read_status(tmp_path)
    assert saved["time"] == 3.0
    assert (saved["profiles"]["a"]["outcome"], saved["profiles"]["a"]["good_at"]) == ("failed", 1.0)
    assert saved["profiles"]["a"]["kernels"] == {
        "python3": {"ok": False, "seconds": 1.5, "reason": "no answer", "version": ""}
    }
    write_status(tmp_path, {"a": Result("x", "good", time=4.0)}, ["a"])
    assert list(read_status(tmp_path)["profiles"]) == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == [STATUS]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"time": "x", "profiles": []}', '{"profiles": {}}'])
def test_broken_status_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / STATUS).write_text(text)
    assert read_status(tmp_path) == {"time": 0.0, "profiles": {}}
    write_status(tmp_path, {"a": Result("x", "good", time=1.0)}, ["a"])
    assert read_status(tmp_path)["time"] == 1.0


# -- the command


def test_token_is_read_from_the_environment_or_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "canary.env"
    assert command.read_token(file) == ""
    file.write_text(f"{TOKEN}={SECRET}\n")
    assert command.read_token(file) == SECRET
    monkeypatch.setenv(TOKEN, "e" * 64)
    assert command.read_token(file) == "e" * 64
    file.write_text("OTHER=1\n")
    assert command.read_token(file) == ""


def test_command_says_that_there_is_no_canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "TOKEN_FILE", tmp_path / "none")
    monkeypatch.setattr(inventory, "is_hub_host", lambda: True)
    monkeypatch.setattr(inventory, "hub_settings", lambda: {"canary": {"user": ""}})
    with pytest.raises(Failure, match="set hpc_canary in the inventory"):
        command.canary(None)  # type: ignore[arg-type]


def test_drain_that_was_set_by_hand_is_respected_at_once(tmp_path: Path) -> None:
    by_hand = tmp_path / "by-hand.json"
    refusal = command.drains({"notices_file": str(tmp_path / "none"), "notices_by_hand_file": str(by_hand)})
    assert refusal(SMALL) == ""
    drain = Drain.model_validate({"cluster": "demo", "from": "2026-01-01 08:00", "message": "New disks"})
    save_notices(by_hand, NoticesFile(drains=[drain]))
    assert "no session can start" in refusal(SMALL)
    assert refusal(SMALL.model_copy(update={"cluster": "other"})) == ""


def test_kernels_are_tested_once_on_each_cluster() -> None:
    profiles = [SMALL.model_copy(update={"key": key, "cluster": cluster}) for key, cluster in ("ax", "bx", "cy", "az")]
    assert [profile.key for profile in command.one_per_cluster(profiles)] == ["a", "c", "a"]


def test_kernels_are_printed_as_a_table() -> None:
    kernels = {
        "python3": KernelResult(ok=True, seconds=1.24, version="3.13.5"),
        "r": KernelResult(ok=False, seconds=9, reason="no R"),
    }
    apps = {"tb": KernelResult(ok=True, seconds=3)}
    results = {
        "a": Result("x", "failed", "kernel", "r: no R", kernels=kernels, apps=apps),
        "b": Result("y", "skipped", reason="z"),
    }
    assert command.kernel_table(results) == [
        "CLUSTER  PROFILE  KIND         NAME     SECONDS  VERSION  RESULT",
        "x        a        kernel       python3  1.2      3.13.5   6*7 is 42",
        "x        a        kernel       r        9.0      -        no R",
        "x        a        application  tb       3.0      -        it answers",
        "y        b        -            -        -        -        skipped: z",
    ]


# -- a real notebook server


@asynccontextmanager
async def notebook_of(session: Session) -> AsyncIterator[tuple[Client, str]]:
    """Start a real notebook server. Return the canary's connection to it, and the server's URL."""
    await asyncio.to_thread(session.start)
    port = (await asyncio.to_thread(session.wait_for_report))["port"]
    connector = aiohttp.TCPConnector(ssl=session._context())
    headers = {"Authorization": f"token {NOTEBOOK_TOKEN}"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as http:
        yield Client(http, f"https://127.0.0.1:{port}", "alice"), f"https://127.0.0.1:{port}/user/alice/"


@pytest.fixture
async def notebook(session: Session) -> AsyncIterator[tuple[Client, str]]:
    """The canary's connection to a real notebook server, and the server's URL."""
    async with notebook_of(session) as found:
        yield found


async def test_real_kernel_computes_and_ends(
    notebook: tuple[Client, str], session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, server = notebook
    assert await client.kernels(server) == {"python3": "python"}
    assert re.fullmatch(r"3\.\d+\.\d+\S*", await client.compute(server, "python3", "python"))
    with pytest.raises(CanaryError, match="6\\*7 raises NameError"):
        await _compute_wrongly(client, server, "unknown", monkeypatch)
    with pytest.raises(CanaryError, match="6\\*7 gives '43' instead of 42"):
        await _compute_wrongly(client, server, "43", monkeypatch)
    with pytest.raises(CanaryError):
        await client.compute(server, "julia", "julia")
    assert await asyncio.to_thread(session.request, "api/kernels") == (200, [])


async def _compute_wrongly(client: Client, server: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODE, "wrong", code)
    await client.compute(server, "python3", "wrong")


def offer(session: Session) -> None:
    """Give the session one application that works, and one that does not."""
    works = [sys.executable, app_server.__file__, "{socket}"]
    apps = {"good": works, "bad": ["/nonexistent", "{socket}"]}
    content = [WebApp(name=name, kind="web", command=command).for_session() for name, command in apps.items()]
    session.variables["FILE:apps"] = json.dumps({"apps": content})


async def test_real_applications_are_opened(session: Session) -> None:
    offer(session)
    async with notebook_of(session) as (client, server):
        found = await client.applications(server)
        assert found == {"good": "good/", "bad": "bad/"}
        await client.open(server, found["good"])
        with pytest.raises(CanaryError, match=r"bad is not installed on .*: the program /nonexistent was not found"):
            await client.open(server, found["bad"])


async def test_session_without_applications_has_none(notebook: tuple[Client, str]) -> None:
    client, server = notebook
    assert await client.applications(server) == {}


@pytest.mark.usefixtures("cluster", "kernels")
async def test_application_that_does_not_work_is_a_failure(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def applications(*_: Any) -> dict[str, str]:
        return {"good": "good/", "bad": "bad/"}

    async def open_app(_self: Client, _server: str, path: str) -> None:
        if path == "bad/":
            raise CanaryError("bad has ended")

    monkeypatch.setattr(Client, "applications", applications)
    monkeypatch.setattr(Client, "open", open_app)
    canary = make(client, tmp_path)
    assert (await canary.test(SMALL, 60)).outcome == "good"
    canary.with_apps = True
    result = await canary.test(SMALL, 60)
    assert (result.outcome, result.reason) == ("failed", "bad: bad has ended")
    assert {name: test.ok for name, test in result.apps.items()} == {"good": True, "bad": False}
