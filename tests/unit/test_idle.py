"""Idle sessions in a real JupyterHub: a session reports that nobody uses it, and the hub stops it with a reason."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from hub_app import job, profile, write_profiles
from jupyterhub import orm

from hpchub.catalogue import languages
from hpchub.hub.events import SessionEnded
from hpchub.hub.outcome import STOPPED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hub_app import Ask, Hub

    from hpchub.hub.events import Event
    from hpchub.hub.profiles_spawner import HPCProfilesSpawner
    from hpchub.hub.runtime import Runtime


@pytest.fixture
def running(hub: Hub, tmp_path: Path) -> Callable[[str], tuple[HPCProfilesSpawner, str]]:
    """Return a function that returns a running session with an idle limit, and the token of its server."""

    def run(idle_limit: str) -> tuple[HPCProfilesSpawner, str]:
        write_profiles(tmp_path, profile("small", idle_limit=idle_limit))
        spawner = hub.restored_spawner("https://127.0.0.1:20001", host="127.0.0.1", port=20001, started=time.time())
        child = spawner.child_spawner
        child.profile = child.profile.model_copy(update={"idle_limit": idle_limit})
        hub.show(job())
        token = spawner.user.new_api_token()
        spawner.token = orm.APIToken.find(hub.app.db, token).hashed
        return spawner, token

    return run


@pytest.fixture
def report(ask: Ask) -> Callable[[str, Any], Any]:
    """Return a function that sends a report with a token, and returns the status of the answer."""

    async def send(token: str, body: Any) -> int:
        headers = {"Authorization": f"token {token}", "Content-Type": "application/json"}
        answer = await ask("api/hpchub/idle", method="POST", body=json.dumps(body), **headers)
        return int(answer.code)

    return send


async def settle(runtime: Runtime) -> None:
    """Wait until the hub's background tasks have ended."""
    for task in list(runtime._tasks):
        await task


async def test_idle_session_is_stopped_and_its_user_learns_why(
    hub: Hub, running: Callable[..., Any], report: Callable[..., Any], ask: Ask
) -> None:
    _, token = running("0:30:00")
    ended: list[SessionEnded] = []

    def remember(event: Event) -> None:
        if isinstance(event, SessionEnded):
            ended.append(event)

    hub.runtime.events.subscribe(remember)
    assert await report(token, {"idle": 1800}) == 201
    await settle(hub.runtime)
    assert hub.gate.cancelled == ["7"]
    outcome = hub.user().spawners[""].outcome
    assert outcome.cause == STOPPED
    assert outcome.text.startswith("The service stopped this session because nobody used it for 30 min,")
    assert [(each.cause, each.by) for each in ended] == [("stopped", "idle")]
    answer = await ask("api/hpchub/sessions/alice", Authorization=f"token {hub.user().new_api_token()}")
    found = json.loads(answer.body)
    assert (found["state"], found["ending"]["cause"]) == ("ended", "stopped")
    assert found["ending"]["texts"]["en"] == {"text": found["ending"]["text"]}
    assert set(found["ending"]["texts"]) == set(languages())


@pytest.mark.parametrize(
    ("limit", "body", "status"),
    [
        ("", {"idle": 100_000}, 409),
        ("0:30:00", {"idle": 1700}, 409),
        ("0:30:00", {"idle": -1}, 400),
        ("0:30:00", {"idle": True}, 400),
        ("0:30:00", {"idle": 1800, "user": "bob"}, 400),
        ("0:30:00", [], 400),
    ],
    ids=["no-limit", "too-early", "negative", "no-number", "more", "list"],
)
async def test_session_goes_on_without_a_valid_report(  # noqa: PLR0917 the columns of the table
    hub: Hub, running: Callable[..., Any], report: Callable[..., Any], limit: str, body: Any, status: int
) -> None:
    spawner, token = running(limit)
    assert await report(token, body) == status
    await settle(hub.runtime)
    assert hub.gate.cancelled == []
    assert spawner.ready


@pytest.mark.parametrize("name", ["alice", "mallory"], ids=["another-token-of-the-user", "token-of-another-user"])
async def test_only_the_session_itself_can_report(
    hub: Hub, running: Callable[..., Any], report: Callable[..., Any], name: str
) -> None:
    running("0:30:00")
    assert await report(hub.user(name).new_api_token(), {"idle": 1800}) == 403
    assert hub.gate.cancelled == []


async def test_state_of_a_session_names_its_job_and_its_limits(hub: Hub, running: Callable[..., Any], ask: Ask) -> None:
    spawner, _ = running("0:30:00")
    token = hub.user().new_api_token()
    answer = await ask("api/hpchub/sessions/alice", Authorization=f"token {token}")
    found = json.loads(answer.body)["job"]
    assert found["idle_limit"] == 1800
    assert (found["id"], found["cluster"], found["profile"]) == ("7", "demo", spawner.child_spawner.profile.key)
    assert (found["cores"], found["memory"]) == (1, 1 << 30)


async def test_unknown_token_learns_that_the_hub_does_not_know_it(ask: Ask) -> None:
    """The session asks to be adopted after this answer."""
    assert (await ask("api/hpchub/sessions/alice", Authorization="token unknown")).code == 403
