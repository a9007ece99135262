"""The page of a start, requested from a real JupyterHub: its content, its events, and the actions that it offers."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
from typing import TYPE_CHECKING

import pytest
from hub_browser import WAITING_PAGE as PAGE
from hub_browser import eventually, form, interrupt

if TYPE_CHECKING:
    from hub_app import Hub
    from hub_browser import Browser

    from hpchub.hub.profiles_spawner import HPCProfilesSpawner


@pytest.mark.usefixtures("waiting")
async def test_page_shows_the_steps_the_reason_the_place_and_the_expected_start(browser: Browser) -> None:
    page = await browser.page(PAGE)
    assert "<title>Waiting - Example HPC</title>" in page
    assert re.findall(r'aria-current="step">\s*<span class="fw-bold">([^<]*)', page) == ["Wait in the queue"]
    assert len(re.findall(r'<time class="hpchub-time" data-time="[0-9.]+">[0-9 :-]+ UTC</time>', page)) == 3
    assert re.search(r'hpchub-place">2</dd>', page)
    assert "(in about 30 minutes)" in page
    assert "jobs with a higher priority start first (Priority)" in page
    assert "Job 7 on the cluster demo, profile small" in page


@pytest.mark.usefixtures("waiting")
async def test_page_works_without_scripts(browser: Browser) -> None:
    page = await browser.page(PAGE)
    (noscript,) = re.findall(r"<noscript>\s*(<meta.*?)</noscript>", page, re.DOTALL)
    assert 'http-equiv="refresh"' in noscript
    # The button for notifications needs a script, and only a script shows it.
    assert re.search(r'<button id="hpchub-notify"[^>]* hidden>', page)
    assert 'data-now="waiting"' in page


async def test_unknown_place_and_time_are_called_unknown(
    hub: Hub, browser: Browser, waiting: HPCProfilesSpawner
) -> None:
    hub.show(*(dataclasses.replace(each, start="", priority=None) for each in hub.jobs))
    await eventually(lambda: waiting.start_progress.expected is None and waiting.start_progress.place is None)
    page = await browser.page(PAGE)
    assert re.search(r'hpchub-place">not known</dd>', page)
    assert re.search(r'hpchub-expected">not known</dd>', page)


async def test_events_contain_the_steps_and_no_markup_of_users(
    hub: Hub, browser: Browser, waiting: HPCProfilesSpawner
) -> None:
    stream = asyncio.ensure_future(browser.page("/hub/api/users/alice/server/progress"))
    await asyncio.sleep(0.2)
    hub.show(*(dataclasses.replace(each, reason="<b>New</b>") for each in hub.jobs))
    await eventually(lambda: "<b>" in waiting.start_progress.message)
    await asyncio.sleep(1)
    interrupt(waiting)
    events = [json.loads(line[6:]) for line in (await stream).splitlines() if line.startswith("data: ")]
    assert 'data-now="waiting"' in events[0]["html"]
    assert any("<b>New</b>" in event["message"] for event in events)  # the page shows it as text
    assert all("<b>" not in event.get("html", "") for event in events)


async def test_start_that_has_no_session_yet_has_a_page(hub: Hub, browser: Browser) -> None:
    spawner = hub.user().spawners[""]
    spawner._spawn_pending = True
    spawner._spawn_future = asyncio.get_running_loop().create_future()
    page = await browser.page(PAGE)
    assert "Your session is being prepared." in page
    assert 'data-now="submitting"' in page


async def test_cancel_cancels_the_job_and_says_so(hub: Hub, browser: Browser, waiting: HPCProfilesSpawner) -> None:
    page = await browser.page(PAGE)
    assert re.search(r'<button id="cancel"[^>]*>Cancel</button>', page)
    assert "Stop" not in page
    response = await browser.post(*form(page, "cancel"))
    assert (response.code, response.headers["Location"]) == (302, "/hub/home")
    await eventually(lambda: hub.gate.cancelled == ["7"])
    await eventually(lambda: not hub.user().spawners[""].active)
    assert "You cancelled the start of your session." in await browser.page("/hub/home")
    assert waiting.stopped_by == "alice"


async def test_cancel_needs_the_token_of_the_page(hub: Hub, browser: Browser, waiting: HPCProfilesSpawner) -> None:
    assert (await browser.post("/hub/cancel/alice", {})).code == 403
    assert (await browser.get("/hub/cancel/alice")).code == 405
    assert waiting.pending == "spawn"
    assert hub.gate.cancelled == []


async def test_nobody_cancels_the_start_of_somebody_else(
    hub: Hub, browser: Browser, waiting: HPCProfilesSpawner
) -> None:
    _, fields = form(await browser.page(PAGE), "cancel")
    hub.user("bob").spawners[""]._spawn_pending = True
    for path in ("bob", "nobody", "alice/other"):
        assert (await browser.post(f"/hub/cancel/{path}", fields)).code == 404
    assert waiting.pending == "spawn"


async def test_cancel_keeps_a_session_that_is_not_starting(
    hub: Hub, browser: Browser, waiting: HPCProfilesSpawner
) -> None:
    action, fields = form(await browser.page(PAGE), "cancel")
    interrupt(waiting)
    await eventually(lambda: waiting.pending is None)
    assert (await browser.post(action, fields)).code == 302
    assert hub.gate.cancelled == []


@pytest.mark.parametrize("path", ["bob", "nobody", "alice/none?next=%FF"])
async def test_error_has_a_page(hub: Hub, browser: Browser, path: str) -> None:
    hub.user("bob")
    response = await browser.get(f"/hub/spawn-pending/{path}")
    assert response.code in (400, 404)
    assert "</html>" in response.body.decode()
