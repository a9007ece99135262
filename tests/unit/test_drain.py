"""Drains in a real JupyterHub: what starts, what waits, what is stopped, and what pages and the API show to users."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from hub_app import after, answer, eventually, job, profile, signed_on, write_notices, write_profiles

from hpchub.catalogue import languages, translations
from hpchub.hub.drains import DrainWatch
from hpchub.hub.outcome import STOPPED
from hpchub.hub.start_error import StartError
from hpchub.schedulers import JobState

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hub_app import Ask, Hub

    from hpchub.hub.profiles_spawner import HPCProfilesSpawner

HOUR = 3600.0


@pytest.fixture
def spawner(hub: Hub, tmp_path: Path) -> HPCProfilesSpawner:
    """A spawner without a session, and two profiles to choose from: for four hours, and for one hour."""
    write_profiles(tmp_path, profile("small"), profile("long", runtime="4:00:00"))
    found: HPCProfilesSpawner = hub.user().spawners[""]
    return found


@pytest.fixture
async def cookie(hub: Hub, ask: Ask) -> str:
    """Return the login cookies of alice."""
    hub.app.authenticator.allowed_users = {"alice"}
    response = await ask("login", **signed_on("alice", "hpc"))
    return "; ".join(header.split(";")[0] for header in response.headers.get_list("Set-Cookie"))


@pytest.fixture
async def page(ask: Ask, cookie: str) -> Callable[[str], Any]:
    """Return a function that returns the text of one of alice's pages."""

    async def request(path: str) -> str:
        return (await ask(path, **signed_on("alice", "hpc"), Cookie=cookie)).body.decode()

    return request


def running(hub: Hub) -> HPCProfilesSpawner:
    """Return the spawner of a running session, ready as JupyterHub sees it."""
    spawner = hub.restored_spawner("https://127.0.0.1:20001", host="127.0.0.1", port=20001, started=time.time())
    hub.show(job())
    assert spawner.ready
    return spawner


def watch(hub: Hub) -> DrainWatch:
    return DrainWatch(hub.runtime, hub.app.users.values, hub.app.proxy.delete_user)


def drain(begin: float = -1, until: float | None = HOUR, **more: Any) -> dict[str, Any]:
    """Return a drain that begins and ends after so many seconds from now."""
    return {"from": after(begin), "until": "" if until is None else after(until), **more}


# A start


async def test_start_before_a_drain_gets_the_time_that_is_left(
    hub: Hub, spawner: HPCProfilesSpawner, tmp_path: Path
) -> None:
    write_notices(tmp_path, drain(2 * HOUR + 30, 3 * HOUR, cluster="demo", message="New disks."))
    form = await spawner.get_options_form()
    assert "up to 2 h in the queue q" in form
    assert "Shortened." in form
    assert re.search(r"Maintenance of the cluster demo\s+begins at <time", form)
    assert "up to 1 h" in form
    assert form.count("begins at") == 1
    await spawner._run_apply_user_options({"profile": "long"})
    spawner.user_options = {"profile": "long"}
    child = spawner.construct_child()
    assert child.profile.runtime == "2:00:00"
    assert spawner._grant["profile"]["runtime"] == "2:00:00"
    begin, submit = child.driver.begin, child.driver.submit
    begin()
    await submit(dict)
    assert "--time=2:00:00" in hub.gate.submissions[0]["script"]


async def test_start_without_a_drain_gets_the_whole_time(spawner: HPCProfilesSpawner) -> None:
    spawner.user_options = {"profile": "long"}
    assert spawner.construct_child().profile.runtime == "4:00:00"


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({"cluster": "demo", "message": "New disks."}, r"no session can start\. It lasts until .*\. New disks\.$"),
        ({"until": None}, r"^Maintenance of the service: no session can start\. The end is not known yet\.$"),
        ({"begin": 300, "profile": "small"}, r"^Maintenance of the profile small begins at .*, too soon for a session"),
        ({"queue": "q", "cluster": "demo"}, r"^Maintenance of the queue q of the cluster demo"),
    ],
    ids=["during", "without-an-end", "too-soon", "queue"],
)
async def test_start_during_a_drain_is_refused_with_message_and_end(
    spawner: HPCProfilesSpawner, tmp_path: Path, found: dict[str, Any], reason: str
) -> None:
    write_notices(tmp_path, drain(**found))

    async def start_with_the_form() -> None:
        spawner.options_from_form({"profile": ["small"]})

    async def start_at_once() -> None:
        spawner.select_profile("small")

    for start in (spawner._run_apply_user_options({"profile": "small"}), start_with_the_form(), start_at_once()):
        with pytest.raises(StartError, match=reason) as caught:
            await start
        assert (caught.value.status_code, caught.value.reason) == (503, "drained")


async def test_drain_of_one_profile_leaves_the_others(spawner: HPCProfilesSpawner, tmp_path: Path) -> None:
    write_notices(tmp_path, drain(profile="small"))
    form = await spawner.get_options_form()
    assert re.search(r'value="small"[^>]*disabled', form)
    assert re.search(r'value="long"[^>]*checked', form)
    assert "Not available." in form
    assert spawner.options_from_form({"profile": ["long"]}) == {"profile": "long"}


async def test_form_without_any_offer_says_so(spawner: HPCProfilesSpawner, tmp_path: Path) -> None:
    write_notices(tmp_path, drain())
    form = await spawner.get_options_form()
    assert form.count("disabled") == 2
    assert "No profile is available at the moment" in form
    assert "checked" not in form.partition("<script")[0]


async def test_form_takes_a_drain_away_as_soon_as_it_is_removed(spawner: HPCProfilesSpawner, tmp_path: Path) -> None:
    write_notices(tmp_path, drain())
    assert "Not available." in await spawner.get_options_form()
    (tmp_path / "notices.json").unlink()
    assert "Not available." not in await spawner.get_options_form()


async def test_drains_set_by_hand_and_by_the_inventory_both_count(spawner: HPCProfilesSpawner, tmp_path: Path) -> None:
    write_notices(tmp_path, drain(profile="small"))
    write_notices(tmp_path, drain(profile="long"), by_hand=True)
    assert (await spawner.get_options_form()).count("Not available.") == 2


async def test_damaged_file_keeps_the_last_valid_drains(
    spawner: HPCProfilesSpawner, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_notices(tmp_path, drain())
    assert "Not available." in await spawner.get_options_form()
    (tmp_path / "notices.json").write_text('{"version": 1, "dra')
    for _ in range(2):
        assert "Not available." in await spawner.get_options_form()
    assert sum("last valid content remains in use" in record.getMessage() for record in caplog.records) == 1


async def test_form_that_was_opened_before_the_drain_is_answered_with_the_reason(
    ask: Ask, cookie: str, tmp_path: Path
) -> None:
    write_notices(tmp_path, drain(message="<b>New</b> disks."))
    token = re.search(r"_xsrf=([^;]*)", cookie)
    assert token is not None
    response = await ask(
        "spawn?" + urlencode({"_xsrf": token[1]}),
        method="POST",
        body=urlencode({"profile": "small"}).encode(),
        **signed_on("alice", "hpc"),
        Cookie=cookie,
        Sec_Fetch_Mode="navigate",
        Sec_Fetch_Site="same-origin",
    )
    text = response.body.decode()
    assert response.code == 503
    assert "Error: Maintenance of the service: no session can start." in text
    assert "&lt;b&gt;New&lt;/b&gt; disks." in text
    assert "<b>New" not in text


# Pages and the API


HOSTILE = "<script>alert(1)</script>"


@pytest.mark.parametrize("path", ["home", "spawn"])
async def test_pages_show_drains_and_announcements_as_plain_text(
    page: Callable[[str], Any], tmp_path: Path, path: str
) -> None:
    announcements = [{"message": "Courses begin on Monday."}, {"message": "Old.", "until": after(-1)}]
    write_notices(tmp_path, drain(HOUR, 2 * HOUR, cluster="demo", message=HOSTILE), announcements=announcements)
    text = await page(path)
    assert "Maintenance of the cluster demo" in text
    assert "&lt;script&gt;alert(1)" in text
    assert HOSTILE not in text
    assert "Courses begin on Monday." in text
    assert "Old." not in text
    assert "New sessions end before it begins." in text
    assert re.search(r'data-time="[0-9.]+">2\d{3}-\d\d-\d\d \d\d:\d\d \w+</time>', text)


async def test_pages_without_notices_show_none(page: Callable[[str], Any]) -> None:
    assert "hpchub-notice" not in await page("home")


async def test_api_gives_jupyterlab_the_notices_of_its_session(
    hub: Hub, page: Callable[[str], Any], tmp_path: Path
) -> None:
    running(hub)
    write_notices(
        tmp_path,
        drain(cluster="demo", message=HOSTILE, ask=True),
        drain(profile="other"),
        announcements=[{"message": "Hello"}],
    )
    answered = json.loads(await page("api/hpchub/sessions/alice"))
    drained, announced = answered["notices"]
    assert (drained["title"], drained["message"]) == ("Maintenance of the cluster demo", HOSTILE)
    assert (drained["kind"], drained["active"], drained["ask"]) == ("drain", True, True)
    assert "Please save your work and stop your session." in drained["advice"]
    assert (announced["kind"], announced["message"]) == ("announcement", "Hello")
    names = {"key", "kind", "title", "message", "advice", "active", "ask", "from", "until", "stop_at", "texts"}
    assert set(drained) == names
    assert set(drained["texts"]) == set(languages())
    assert drained["texts"]["en"] == {name: drained[name] for name in ("title", "advice")}
    german = translations("de").gettext("Please save your work and stop your session.")
    assert drained["texts"]["de"]["advice"].endswith(german)


async def test_session_ends_for_jupyterlab_when_the_drain_stops_it(
    hub: Hub, page: Callable[[str], Any], tmp_path: Path
) -> None:
    limit = running(hub).ends_at
    assert json.loads(await page("api/hpchub/sessions/alice"))["ends_at"] == limit
    write_notices(tmp_path, drain(until=None, stop_at=after(600)))
    answered = json.loads(await page("api/hpchub/sessions/alice"))
    assert answered["ends_at"] == answered["notices"][0]["stop_at"] < limit
    assert "the service stops sessions that still run" in await page("home")


# Sessions that exist when the drain begins


async def test_running_session_goes_on(hub: Hub, tmp_path: Path) -> None:
    spawner = running(hub)
    write_notices(tmp_path, drain(ask=True))
    await watch(hub).apply(time.time())
    assert spawner.ready
    assert hub.gate.cancelled == []


async def test_start_that_waits_in_the_queue_ends_with_the_reason(
    hub: Hub, spawner: HPCProfilesSpawner, tmp_path: Path
) -> None:
    def submit(session: str) -> Any:
        hub.show(job(JobState.PENDING, session=session))
        return answer("7\n")

    hub.gate.on_submit = submit
    start = asyncio.ensure_future(spawner.user.spawn("", options={"profile": "small"}))
    await eventually(
        lambda: spawner.child_spawner and "waits in the queue" in spawner.child_spawner.driver.state.message
    )
    await watch(hub).apply(time.time())
    assert not start.done()
    write_notices(tmp_path, drain(cluster="demo", message="New disks."))
    await watch(hub).apply(time.time())
    with pytest.raises(StartError, match="no session can start"):
        await start
    assert hub.gate.cancelled == ["7"]
    outcome = hub.user().spawners[""].outcome
    assert outcome.not_started
    assert "New disks." in outcome.text


@pytest.mark.parametrize(
    ("target", "stop_at", "stopped"),
    [
        ({"cluster": "demo"}, -1.0, True),
        ({"cluster": "demo"}, 600.0, False),
        ({"cluster": "demo"}, None, False),
        ({"profile": "other"}, -1.0, False),
    ],
    ids=["due", "later", "never", "other-target"],
)
async def test_session_is_stopped_only_when_the_administrator_said_so(
    hub: Hub, tmp_path: Path, target: dict[str, str], stop_at: float | None, stopped: bool
) -> None:
    spawner = running(hub)
    hub.routes["/user/alice/"] = "x"
    stop = {} if stop_at is None else {"stop_at": after(stop_at)}
    write_notices(tmp_path, drain(-HOUR, HOUR, message="New disks.", **target, **stop))
    await watch(hub).apply(time.time())
    assert hub.gate.cancelled == (["7"] if stopped else [])
    if stopped:
        outcome = hub.user().spawners[""].outcome
        assert outcome.cause == STOPPED
        assert outcome.text == "The service stopped this session. Maintenance of the cluster demo. New disks."
        assert hub.routes == {}
        assert not hub.user().running
    else:
        assert spawner.ready


async def test_stop_is_repeated_if_it_fails(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running(hub)
    write_notices(tmp_path, drain(-HOUR, stop_at=after(-1)))
    delete_user = hub.app.proxy.delete_user
    failures = [OSError("the proxy is away")]

    async def delete(user: Any, name: str) -> None:
        if failures:
            raise failures.pop()
        await delete_user(user, name)

    drains = DrainWatch(hub.runtime, hub.app.users.values, delete)
    await drains.apply(time.time())
    assert hub.gate.cancelled == []
    await drains.apply(time.time())
    assert hub.gate.cancelled == ["7"]


async def test_watch_survives_any_error(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    running(hub)
    write_notices(tmp_path, drain(-HOUR, stop_at=after(-1)))
    monkeypatch.setattr("hpchub.hub.drains.INTERVAL", 0.01)
    answers: list[Any] = [RuntimeError("a mistake")]

    def users() -> Any:
        if answers:
            raise answers.pop()
        return list(hub.app.users.values())

    task = asyncio.ensure_future(DrainWatch(hub.runtime, users, hub.app.proxy.delete_user).run())
    await eventually(lambda: hub.gate.cancelled == ["7"])
    task.cancel()
