"""What a user sees after a start that was refused at once, and after pressing Start twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from hub_app import answer, profile, write_profiles
from hub_browser import eventually, form

from hpchub.clusters.doctor import Finding

if TYPE_CHECKING:
    from pathlib import Path

    from hub_app import Hub
    from hub_browser import Browser

    from hpchub.hub.profiles_spawner import HPCProfilesSpawner

FULL = Finding("home", "Your home directory is full.", "Delete files that you do not need.")
SERVERS = pytest.mark.parametrize("server", ["", "genome"])


async def send(browser: Browser, server: str = "", query: str = "", **fields: str) -> Any:
    """Send the form of a server."""
    await browser.get("/hub/home")
    path = f"/hub/spawn/alice/{server}" if server else "/hub/spawn"
    return await browser.post(f"{path}?_xsrf={quote(browser.cookies['_xsrf'])}{query}", {"profile": "small", **fields})


@pytest.fixture
def ill(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A doctor who finds a full home directory before every start."""
    hub.app.tornado_application.settings["slow_spawn_timeout"] = 10
    knowledge = hub.runtime.knowledge("demo")

    async def findings(*_: Any) -> list[Finding]:
        return [FULL]

    monkeypatch.setattr(knowledge, "findings", findings)
    monkeypatch.setattr(hub.runtime, "knowledge", lambda cluster: knowledge)


@SERVERS
@pytest.mark.usefixtures("ill")
async def test_refusal_of_the_doctor_is_explained_by_the_failure_page(hub: Hub, browser: Browser, server: str) -> None:
    response = await send(browser, server, "&next=%2Fuser%2Falice%2Flab")
    assert response.code == 302
    address = response.headers["Location"]
    assert address.startswith(f"/hub/spawn-pending/alice{'/' if server else ''}{server}")
    page = await browser.page(address)
    for part in ("Your session did not start", FULL.message, FULL.advice, "hpchub-facts", "hpchub-report"):
        assert part in page
    assert 'id="support-link"' in page
    assert "next=%2Fuser%2Falice%2Flab" in page
    assert hub.gate.submissions == []


async def test_refused_submission_is_explained_by_the_failure_page(hub: Hub, browser: Browser) -> None:
    hub.app.tornado_application.settings["slow_spawn_timeout"] = 10
    hub.gate.on_submit = lambda session: answer(code=1, stderr="sbatch: error: Batch job submission failed: no\n")
    response = await send(browser)
    assert response.code == 302
    assert "hpchub-report" in await browser.page(response.headers["Location"])


@pytest.mark.usefixtures("ill")
async def test_invalid_choice_is_explained_by_the_form_although_an_earlier_start_failed(
    hub: Hub, browser: Browser
) -> None:
    await send(browser)
    assert hub.user().spawners[""].outcome
    response = await send(browser, profile="gone")
    assert response.code == 400
    assert "There is no profile" in response.body.decode()


async def test_refused_smaller_session_replaces_nothing(
    hub: Hub, browser: Browser, waiting: HPCProfilesSpawner, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    write_profiles(tmp_path, profile("small"), profile("tiny", runtime="0:30:00"))
    request.getfixturevalue("ill")
    action, fields = form(await browser.page("/hub/spawn-pending/alice"), "smaller")
    response = await browser.post(action, {**fields, "profile": "tiny"})
    assert response.code == 302
    assert FULL.message in await browser.page(response.headers["Location"])
    assert hub.runtime.replacements.partner(waiting.key) is None
    assert waiting.pending == "spawn"


@SERVERS
@pytest.mark.parametrize("name", ["", "My choice"])
async def test_start_that_goes_on_is_shown_after_another_start(
    hub: Hub, browser: Browser, server: str, name: str
) -> None:
    hub.app.tornado_application.settings["slow_spawn_timeout"] = 0
    assert (await send(browser, server)).code == 302
    await eventually(lambda: hub.gate.submissions)
    response = await send(browser, server, "&next=%2Fuser%2Falice%2Flab", settings_name=name)
    assert response.code == 302
    assert response.headers["Location"].startswith(f"/hub/spawn-pending/alice{'/' if server else ''}{server}")
    assert "next=%2Fuser%2Falice%2Flab" in response.headers["Location"]
    assert len(hub.gate.submissions) == 1
    assert [each.name for each in hub.user().spawner.saved_settings.all()] == ([name] if name else [])
    await hub.user().stop(server)


async def test_session_that_runs_is_opened_after_another_start(hub: Hub, browser: Browser) -> None:
    spawner = hub.restored_spawner(host="127.0.0.1", port=20000)
    assert spawner.ready
    response = await send(browser)
    assert (response.code, response.headers["Location"]) == (302, "/user/alice/")
    assert hub.gate.submissions == []
