"""A smaller profile beside a start that waits. The pages are requested from a real JupyterHub."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest
from hub_app import after, answer, job, profile, site, write_notices, write_profiles
from hub_browser import WAITING_PAGE as PAGE
from hub_browser import eventually, form, interrupt

from hpchub.hub.start_error import StartError
from hpchub.hub.switch import Key, Replacements, smaller
from hpchub.schedulers import JobState

if TYPE_CHECKING:
    from pathlib import Path

    from hub_app import Hub
    from hub_browser import Browser

    from hpchub.hub.profiles_spawner import HPCProfilesSpawner

A, B, C = (Key("ann", name) for name in ("", "session-2", "session-3"))


def test_smaller_profiles_request_less_and_nothing_more() -> None:
    offered = site(
        profile("mine", cores=2, memory="2G", runtime="2:00:00"),
        profile("same", cores=2, memory="2G", runtime="2:00:00"),
        profile("shorter", cores=2, memory="2G"),
        profile("tiny"),
        profile("more-cores", cores=4, memory="1G"),
        profile("longer", cores=1, memory="1G", runtime="3:00:00"),
    ).profiles
    assert [each.key for each in smaller(offered[0], offered)] == ["shorter", "tiny"]


def test_a_session_has_one_partner_at_most() -> None:
    pairs = Replacements()
    assert pairs.add(A, B)
    assert (pairs.partner(A), pairs.partner(B), pairs.replaced(B), pairs.replaced(A)) == (B, A, A, None)
    assert not pairs.add(A, C)
    assert not pairs.add(B, C)
    assert not pairs.add(C, C)
    assert not pairs.add(Key("bob", ""), C)
    pairs.remove(A)
    assert pairs.partner(B) is None
    assert pairs.add(B, C)


@pytest.fixture
async def second(hub: Hub, browser: Browser, waiting: HPCProfilesSpawner, tmp_path: Path) -> HPCProfilesSpawner:
    """The spawner of a smaller session that its user has started while the first one waits."""
    write_profiles(tmp_path, profile("small"), profile("tiny", runtime="0:30:00"))
    first_jobs = list(hub.jobs)

    def submit(session: str) -> Any:
        hub.show(*first_jobs, job(JobState.PENDING, job_id="8", session=session))
        return answer("8\n")

    hub.gate.on_submit = submit
    action, fields = form(await browser.page(PAGE), "smaller")
    response = await browser.post(action, {**fields, "profile": "tiny"})
    assert (response.code, response.headers["Location"]) == (302, f"{PAGE}/session-2")
    found: HPCProfilesSpawner = hub.user().spawners["session-2"]
    await eventually(lambda: found.child_spawner and found.child_spawner.job_id)
    assert waiting.pending == "spawn"
    return found


async def test_first_start_keeps_its_place_until_the_second_is_ready(
    hub: Hub, browser: Browser, waiting: HPCProfilesSpawner, second: HPCProfilesSpawner
) -> None:
    assert hub.gate.cancelled == []
    assert waiting.start_progress.place == 2
    assert f'href="{PAGE}/session-2"' in await browser.page(PAGE)
    assert 'id="smaller"' not in await browser.page(PAGE)
    second.add_poll_callback(lambda: None)  # as JupyterHub does when the server is ready
    await eventually(lambda: hub.gate.cancelled == ["7"])
    await eventually(lambda: not waiting.active)
    assert waiting.outcome
    assert "The other session that you asked for was ready first" in waiting.outcome.text
    assert second.pending == "spawn"
    interrupt(second)


async def test_second_start_is_cancelled_if_the_first_is_ready_before(
    hub: Hub, waiting: HPCProfilesSpawner, second: HPCProfilesSpawner
) -> None:
    waiting.add_poll_callback(lambda: None)
    await eventually(lambda: hub.gate.cancelled == ["8"])
    await eventually(lambda: not second.active)
    assert waiting.pending == "spawn"


async def test_first_start_goes_on_if_the_second_is_cancelled(
    hub: Hub, browser: Browser, waiting: HPCProfilesSpawner, second: HPCProfilesSpawner
) -> None:
    await browser.post(*form(await browser.page(f"{PAGE}/session-2"), "cancel"))
    await eventually(lambda: not second.active)
    assert hub.gate.cancelled == ["8"]
    assert waiting.pending == "spawn"
    assert hub.runtime.replacements.partner(waiting.key) is None
    assert 'id="smaller"' in await browser.page(PAGE)


async def test_pair_survives_a_restart_of_the_hub(
    hub: Hub, waiting: HPCProfilesSpawner, second: HPCProfilesSpawner
) -> None:
    state = second.orm_spawner.state
    assert state["replaces"] == ""
    hub.runtime.replacements = Replacements()
    second.load_state(state)
    assert hub.runtime.replacements.partner(waiting.key) == second.key
    interrupt(second)


async def test_second_start_does_not_count_against_the_limit(
    hub: Hub, waiting: HPCProfilesSpawner, second: HPCProfilesSpawner
) -> None:
    hub.runtime.settings["max_sessions"] = 1
    second._check_limits("tiny")
    waiting._check_limits("small")
    interrupt(second)


@pytest.mark.parametrize("key", ["small", "gone", "", "big"])
async def test_only_smaller_profiles_that_are_offered_can_start(
    hub: Hub, browser: Browser, waiting: HPCProfilesSpawner, tmp_path: Path, key: str
) -> None:
    write_profiles(tmp_path, profile("small"), profile("tiny", runtime="0:30:00"), profile("big", cores=4))
    action, fields = form(await browser.page(PAGE), "smaller")
    assert (await browser.post(action, {**fields, "profile": key})).code == 400
    assert len(hub.gate.submissions) == 1
    assert hub.runtime.replacements.partner(waiting.key) is None


async def test_page_offers_no_profile_that_is_drained(
    browser: Browser, waiting: HPCProfilesSpawner, tmp_path: Path
) -> None:
    write_profiles(tmp_path, profile("small"), profile("tiny", runtime="0:30:00"))
    write_notices(tmp_path, {"from": after(-60), "profile": "tiny"})
    assert waiting.smaller_profiles == []
    assert 'id="smaller"' not in await browser.page(PAGE)


async def test_second_start_that_fails_late_leaves_no_pair(
    hub: Hub, browser: Browser, waiting: HPCProfilesSpawner, tmp_path: Path
) -> None:
    write_profiles(tmp_path, profile("small"), profile("tiny", runtime="0:30:00"))
    exchange = hub.gate._exchange

    async def slow(request: Any) -> Any:
        if json.loads(request)["action"] != "doctor":
            return await exchange(request)
        await asyncio.sleep(1.3)  # JupyterHub's page waits for one second
        return answer(json.dumps({"home": "/home/alice", "error": "EACCES"}))

    hub.gate._exchange = slow  # type: ignore[method-assign]
    hub.runtime.knowledge("demo")._homes.clear()  # the doctor remembers the home from the first start
    action, fields = form(await browser.page(PAGE), "smaller")
    await browser.post(action, {**fields, "profile": "tiny"})
    second = hub.user().spawners["session-2"]
    await eventually(lambda: not second.active)
    assert second.outcome
    assert hub.runtime.replacements.partner(second.key) is None
    assert waiting.smaller_profiles


async def test_end_of_a_session_ends_its_pair(hub: Hub, waiting: HPCProfilesSpawner) -> None:
    hub.runtime.replacements.add(waiting.key, Key("alice", "other"))
    waiting.child_spawner.abandon()  # as after a restart of the hub, if the user cancels the start
    waiting.run_post_stop_hook()
    assert hub.runtime.replacements.partner(waiting.key) is None


async def test_start_of_a_session_keeps_its_pair(hub: Hub) -> None:
    spawner = hub.user().spawners[""]
    hub.runtime.replacements.add(Key("alice", "other"), spawner.key)
    spawner.clear_state()  # as JupyterHub does at the beginning of a start
    assert hub.runtime.replacements.partner(spawner.key)


async def test_session_that_is_ready_counts_against_the_limit_of_its_partner(
    hub: Hub, waiting: HPCProfilesSpawner, second: HPCProfilesSpawner
) -> None:
    hub.runtime.settings["max_sessions"] = 1
    serve(waiting)
    with pytest.raises(StartError, match="permits 1 at once"):
        second._check_limits("tiny")
    interrupt(second)


async def test_one_session_is_left_if_both_servers_are_ready_at_once(
    hub: Hub, waiting: HPCProfilesSpawner, second: HPCProfilesSpawner
) -> None:
    for spawner, job_id in ((waiting, "7"), (second, "8")):
        serve(spawner)
        running = job(JobState.RUNNING, job_id=job_id, session=spawner.child_spawner.driver.state.session)
        hub.show(*(each for each in hub.jobs if each.id != job_id), running)
    waiting.add_poll_callback(lambda: None)
    second.add_poll_callback(lambda: None)
    await eventually(lambda: hub.gate.cancelled)
    await eventually(lambda: not second.active)
    assert hub.gate.cancelled == ["8"]
    assert waiting.pending == "spawn"


async def test_session_that_was_ready_before_a_restart_is_not_cancelled(
    hub: Hub, waiting: HPCProfilesSpawner, second: HPCProfilesSpawner
) -> None:
    serve(waiting, opened=1.0)
    second.add_poll_callback(lambda: None)
    await asyncio.sleep(0.2)
    assert hub.gate.cancelled == []
    assert waiting.stop_reason == ""
    assert hub.runtime.replacements.partner(waiting.key) is None
    interrupt(second)


def serve(spawner: HPCProfilesSpawner, opened: float = 0.0) -> None:
    """Show a spawner's server as ready. ``opened`` is when the user could open it, in seconds since 1970, or 0."""
    driver = spawner.child_spawner.driver
    driver.state = dataclasses.replace(driver.state, host="node1", port=9000, ready=opened)
    assert spawner.is_serving
