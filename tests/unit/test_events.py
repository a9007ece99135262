"""What the hub announces of users and sessions, in a real JupyterHub."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from hub_app import SESSION, Hub, answer, eventually, job, profile, signed_on, write_profiles
from jupyterhub import orm
from jupyterhub.user import User

from hpchub.hub.events import (
    AccessEnded,
    EndExplained,
    Event,
    Events,
    JobStarted,
    JobSubmitted,
    Session,
    SessionEnded,
    SessionReady,
    SessionRestored,
    SignedIn,
    SignedOut,
    SignInRefused,
    StartFailed,
    StartRefused,
    StartRequested,
    StopRequested,
)
from hpchub.hub.job_events import PortReported
from hpchub.schedulers import JobState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hub_app import Ask

    from hpchub.hub.profiles_spawner import HPCProfilesSpawner


def kinds(events: list[Event]) -> list[str]:
    """Return the names of the events' classes."""
    return [type(event).__name__ for event in events]


@pytest.fixture
def events(hub: Hub) -> list[Event]:
    """The events that the hub announces from now on."""
    found: list[Event] = []
    hub.runtime.events.subscribe(found.append)
    return found


@pytest.fixture
async def notebook(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """The port of a notebook server: it accepts connections, and JupyterHub believes that it answers."""

    async def answers(self: User, spawner: HPCProfilesSpawner) -> None:
        spawner._waiting_for_response = spawner._start_pending = False

    monkeypatch.setattr(User, "_wait_up", answers)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


def accept(hub: Hub, state: JobState = JobState.RUNNING) -> None:
    """Make the scheduler accept submissions and show their jobs."""

    def submit(session: str) -> Any:
        hub.show(job(state, session=session))
        return answer("7\n")

    hub.gate.on_submit = submit


def token(hub: Hub, user: str = "alice") -> dict[str, str]:
    """Return the header with a new API token of a user."""
    made = hub.user(user).new_api_token()
    return {"Authorization": f"token {made}", "Content_Type": "application/json"}


async def start(hub: Hub, ask: Ask, port: int = 0, **headers: str) -> HPCProfilesSpawner:
    """Start alice's session by the REST API. With a port, wait until it is ready."""
    answered = await ask("api/users/alice/server", "POST", b'{"profile": "small"}', **(headers or token(hub)))
    assert answered.code == 202
    spawner: HPCProfilesSpawner = hub.user().spawners[""]
    if port:
        await eventually(lambda: spawner.child_spawner and "runs on" in spawner.child_spawner.driver.state.message)
        assert spawner.report(PortReported(port))
        await eventually(lambda: spawner.ready)
    return spawner


# -- The announcement


def test_failing_subscriber_affects_neither_the_hub_nor_other_subscribers(caplog: pytest.LogCaptureFixture) -> None:
    events = Events()
    seen: list[Event] = []

    def fail(event: Event) -> None:
        raise RuntimeError("no disk")

    events.subscribe(fail)
    events.subscribe(seen.append)
    events.emit(SignedOut(user="alice", address=""))
    assert kinds(seen) == ["SignedOut"]
    assert "A subscriber failed at the event SignedOut" in caplog.text


# -- Sessions


async def test_session_is_announced_from_the_request_to_its_end(
    hub: Hub, ask: Ask, events: list[Event], notebook: int
) -> None:
    group = orm.Group(name="physics", users=[hub.user().orm_user])
    hub.app.db.add(group)
    hub.app.db.commit()
    accept(hub)
    before = time.time()
    spawner = await start(hub, ask, notebook)
    name = spawner.session
    assert (await ask("api/users/alice/server", "DELETE", **token(hub))).code in (202, 204)
    await eventually(lambda: "SessionEnded" in kinds(events))
    expected = ["StartRequested", "JobSubmitted", "JobStarted", "SessionReady", "StopRequested", "SessionEnded"]
    assert kinds(events) == expected
    session = Session(
        name=name, user="alice", cluster="demo", queue="q", profile="small", cores=1, gpus=0, runtime=3600
    )
    assert {event.session for event in events} == {session}  # type: ignore[attr-defined]
    requested, submitted, started, ready, stop, end = events
    assert isinstance(requested, StartRequested)
    assert (requested.groups, requested.origin.by) == (("physics",), "alice")
    assert before <= requested.at <= submitted.at <= started.at <= ready.at <= end.at <= time.time()
    assert isinstance(submitted, JobSubmitted)
    assert submitted.job_id == "7"
    assert isinstance(started, JobStarted)
    assert (started.job_id, started.node) == ("7", "127.0.0.1")
    assert isinstance(ready, SessionReady)
    assert ready.waited == pytest.approx(ready.at - requested.at)
    assert ready.launched == pytest.approx(ready.at - started.at)
    assert isinstance(stop, StopRequested)
    assert (stop.origin.by, bool(stop.origin.address)) == ("alice", True)
    assert isinstance(end, SessionEnded)
    assert (end.cause, end.by, end.was_ready) == ("stopped", "alice", True)


async def test_end_that_the_scheduler_reports_is_explained(
    hub: Hub, ask: Ask, events: list[Event], notebook: int
) -> None:
    accept(hub)
    spawner = await start(hub, ask, notebook)
    hub.gate.on_history = lambda job_id: answer("JobId=7 UserId=alice(1) JobState=TIMEOUT ExitCode=0:1\n")
    hub.show(job(JobState.ENDED, session=spawner.session))
    await spawner.user.stop("")
    await eventually(lambda: "EndExplained" in kinds(events))
    assert kinds(events)[-2:] == ["SessionEnded", "EndExplained"]
    ended, explained = events[-2:]
    assert isinstance(ended, SessionEnded)
    assert isinstance(explained, EndExplained)
    assert (ended.cause, explained.cause) == ("unknown", "time_limit")
    assert ended.session == explained.session


async def test_failed_start_has_its_reason_and_one_end(hub: Hub, ask: Ask, events: list[Event]) -> None:
    hub.gate.on_submit = lambda session: answer(code=1, stderr="over quota")
    await start(hub, ask)
    await eventually(lambda: "StartFailed" in kinds(events))
    await asyncio.sleep(0.1)
    assert kinds(events) == ["StartRequested", "StartFailed"]
    assert isinstance(events[1], StartFailed)
    assert events[1].reason == "refused"


async def test_stopped_start_was_never_ready(hub: Hub, ask: Ask, events: list[Event]) -> None:
    accept(hub, JobState.PENDING)
    await start(hub, ask)
    await eventually(lambda: "JobSubmitted" in kinds(events))
    assert (await ask("api/users/alice/server", "DELETE", **token(hub))).code in (202, 204)
    await eventually(lambda: "SessionEnded" in kinds(events))
    await asyncio.sleep(0.1)
    assert kinds(events) == ["StartRequested", "JobSubmitted", "StopRequested", "SessionEnded"]
    assert isinstance(events[-1], SessionEnded)
    assert (events[-1].was_ready, events[-1].by) == (False, "alice")


async def test_refused_choice_is_announced_with_who_asked(hub: Hub, ask: Ask, events: list[Event]) -> None:
    await ask("api/users/alice/server", "POST", b'{"profile": "none"}', **token(hub))
    await eventually(lambda: events)
    await asyncio.sleep(0.05)
    assert kinds(events) == ["StartRefused"]
    refused = events[0]
    assert isinstance(refused, StartRefused)
    assert (refused.user, refused.reason, refused.origin.by) == ("alice", "bad_choice", "alice")


async def test_start_without_a_profile_list_is_announced_as_refused(
    hub: Hub, ask: Ask, events: list[Event], tmp_path: Any
) -> None:
    (tmp_path / "profiles.json").unlink()
    await ask("api/users/alice/server", "POST", b'{"profile": "small"}', **token(hub))
    await eventually(lambda: events)
    await asyncio.sleep(0.05)
    assert kinds(events) == ["StartRefused"]
    assert isinstance(events[0], StartRefused)
    assert events[0].reason == "no_profiles"


async def test_profile_that_changes_later_does_not_change_the_facts_of_a_session(
    hub: Hub, ask: Ask, events: list[Event], notebook: int, tmp_path: Any
) -> None:
    accept(hub)
    spawner = await start(hub, ask, notebook)
    write_profiles(tmp_path, profile("small", cores=2))
    await spawner.user.stop("")
    assert {event.session.cores for event in events} == {1}  # type: ignore[attr-defined]


async def test_failing_subscriber_does_not_fail_a_start(hub: Hub, ask: Ask, notebook: int) -> None:
    def fail(event: Event) -> None:
        raise RuntimeError("no disk")

    hub.runtime.events.subscribe(fail)
    accept(hub)
    assert (await start(hub, ask, notebook)).ready


# -- A restart of the hub


async def test_restored_session_repeats_what_is_known_and_announces_only_what_follows(
    hub: Hub, events: list[Event], notebook: int
) -> None:
    spawner = hub.restored_spawner(requested=5.0, submitted=6.0)
    restored = events[0]
    assert isinstance(restored, SessionRestored)
    assert (restored.session.name, restored.job_id) == (SESSION, "7")
    assert (restored.requested, restored.submitted, restored.started, restored.ready) == (5.0, 6.0, 0.0, 0.0)
    hub.show(job())
    spawner._check_pending = True
    check = asyncio.ensure_future(spawner.get_url())
    await eventually(lambda: "runs on" in spawner.child_spawner.driver.state.message)
    assert spawner.report(PortReported(notebook))
    await check
    for _ in range(2):  # JupyterHub adds one callback for each check
        spawner.add_poll_callback(print)
    assert kinds(events) == ["SessionRestored", "JobStarted", "SessionReady"]
    assert spawner.orm_spawner.state["job"]["ready"] == events[-1].at


async def test_session_that_was_ready_is_not_ready_again_after_a_restart(hub: Hub, events: list[Event]) -> None:
    saved = {"requested": 5.0, "submitted": 6.0, "started": 7.0, "ready": 8.0, "host": "127.0.0.1", "port": 20001}
    spawner = hub.restored_spawner("https://127.0.0.1:20001", **saved)
    spawner.add_poll_callback(print)
    assert kinds(events) == ["SessionRestored"]


async def test_session_of_an_older_version_is_not_announced_as_ready(hub: Hub, events: list[Event]) -> None:
    spawner = hub.restored_spawner("https://127.0.0.1:20001", host="127.0.0.1", port=20001, submitted=6.0)
    spawner.add_poll_callback(print)
    assert kinds(events) == ["SessionRestored"]


# -- Users


async def test_sign_in_and_refusals_are_announced_with_the_address(hub: Hub, ask: Ask, events: list[Event]) -> None:
    assert (await ask("login", **signed_on("alice", "hpc"))).code == 302
    assert (await ask("login", **signed_on("bob", "students"))).code == 403
    assert (await ask("login")).code == 403
    assert kinds(events) == ["SignedIn", "SignInRefused", "SignInRefused"]
    signed_in, not_permitted, no_identity = events
    assert isinstance(signed_in, SignedIn)
    assert (signed_in.user, bool(signed_in.address)) == ("alice", True)
    assert isinstance(not_permitted, SignInRefused)
    assert (not_permitted.user, not_permitted.reason) == ("bob", "not_permitted")
    assert isinstance(no_identity, SignInRefused)
    assert (no_identity.user, no_identity.reason) == ("", "no_identity")


async def test_sign_out_and_the_end_of_access_are_announced(hub: Hub, ask: Ask, events: list[Event]) -> None:
    signed_in = await ask("login", **signed_on("alice", "hpc"))
    cookie = "; ".join(header.split(";")[0] for header in signed_in.headers.get_list("Set-Cookie"))
    await ask("home", Cookie=cookie, **signed_on("alice", "students"))
    await ask("home", Cookie=cookie, **signed_on("bob", "hpc"))
    await ask("logout", Cookie=cookie, **signed_on("alice", "hpc"))
    ended = [(event.user, event.reason) for event in events if isinstance(event, AccessEnded)]
    assert set(ended) == {("alice", "not_permitted"), ("alice", "signed_out")}
    assert any(isinstance(event, SignedOut) and event.user == "alice" for event in events)
