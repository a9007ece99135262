"""Which choices start a session, what a session keeps of its profile, and what ends a session."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from batchspawner import JobStatus
from hub_app import SESSION, VARIABLES, Hub, job, profile, site, write_profiles

from hpchub.hub.collector import state_of
from hpchub.hub.home import cards
from hpchub.hub.job_spawner import JobSpawner, spawner_class
from hpchub.hub.remote_texts import TEXTS, message_of
from hpchub.hub.start_error import StartError
from hpchub.messages import Message
from hpchub.model.profile_list import profile_list
from hpchub.schedulers import Job, JobState, Unanswered

if TYPE_CHECKING:
    from pathlib import Path

    from hpchub.hub.profiles_spawner import HPCProfilesSpawner


@pytest.fixture
def spawner(hub: Hub, tmp_path: Path) -> HPCProfilesSpawner:
    """A spawner without a session, and two profiles to choose from."""
    write_profiles(tmp_path, profile("small"), profile("big", cores=4))
    found: HPCProfilesSpawner = hub.user().spawners[""]
    return found


def grant(hub: Hub, user: str = "alice") -> HPCProfilesSpawner:
    """Return a user's spawner to which the profile small was granted."""
    spawner: HPCProfilesSpawner = hub.user(user).spawners[""]
    spawner.user_options = {"profile": "small"}
    spawner.construct_child()
    return spawner


@pytest.mark.parametrize(
    "options",
    [
        None,
        {},
        [],
        "small",
        {"profile": "none"},
        {"profile": ""},
        {"profile": None},
        {"profile": ["small"]},
        {"profile": {"key": "small"}},
        {"profile": "small\n"},
        {"profile": "x" * 10_000},
        {"profile": "small", "options": ["--uid=0"]},
        {"profile": "small", "req_partition": "other"},
        {"profile": "small", "without_settings": "yes"},
        {"without_settings": True},
    ],
    ids=lambda value: str(value)[:40],
)
async def test_options_that_the_form_does_not_offer_are_refused(spawner: HPCProfilesSpawner, options: Any) -> None:
    with pytest.raises(StartError, match="The profiles are: small, big") as caught:
        await spawner._run_apply_user_options(options)
    assert caught.value.status_code == 400
    assert caught.value.jupyterhub_message == str(caught.value)
    assert len(str(caught.value)) < 300


async def test_options_that_the_form_offers_are_accepted(spawner: HPCProfilesSpawner) -> None:
    await spawner._run_apply_user_options({"profile": "big"})
    assert spawner.options_from_form({"profile": ["big"], "_xsrf": ["x"]}) == {"profile": "big"}


async def test_form_offers_a_start_without_the_users_own_settings(spawner: HPCProfilesSpawner) -> None:
    assert 'name="without_settings"' in await spawner.get_options_form()
    chosen = spawner.options_from_form({"profile": ["big"], "without_settings": ["1"], "_xsrf": ["x"]})
    assert chosen == {"profile": "big", "without_settings": True}
    await spawner._run_apply_user_options(chosen)


async def test_form_remembers_the_setting_that_stopped_the_server(spawner: HPCProfilesSpawner) -> None:
    spawner.notice = "It runs without x.py, line 2: <b>."
    assert "Last time: It runs without x.py, line 2: &lt;b&gt;." in await spawner.get_options_form()
    state = spawner.get_state()
    spawner.notice = ""
    assert "Last time" not in await spawner.get_options_form()
    spawner.load_state(state)
    assert spawner.notice.startswith("It runs without x.py")


async def test_notice_is_translated_after_a_restart_of_the_hub(spawner: HPCProfilesSpawner) -> None:
    given = {"id": "without_settings", "values": {"problem": {"id": "ended", "values": {}}}}
    spawner.notice = message_of("own words", given)
    state = json.loads(json.dumps(spawner.get_state()))
    spawner.notice = ""
    spawner.load_state(state)
    assert isinstance(spawner.notice, Message)
    assert spawner.notice.template == TEXTS["without_settings"]
    spawner.load_state({**state, "notice_message": {"template": "{x}", "values": {"x": "something else"}}})
    assert not isinstance(spawner.notice, Message)


async def test_unknown_form_field_is_refused(spawner: HPCProfilesSpawner) -> None:
    with pytest.raises(StartError, match="no field 'options'"):
        spawner.options_from_form({"profile": ["small"], "options": ["--uid=0"]})


async def test_link_starts_no_session(spawner: HPCProfilesSpawner) -> None:
    with pytest.raises(StartError, match="press Start"):
        spawner.options_from_query({"profile": ["small"]})


async def test_form_shows_a_profile_as_soon_as_it_is_added(spawner: HPCProfilesSpawner, tmp_path: Path) -> None:
    assert 'value="new"' not in await spawner.get_options_form()
    write_profiles(tmp_path, profile("small"), profile("new", display_name="<b>New</b>"))
    form = await spawner.get_options_form()
    assert 'value="new"' in form
    assert "&lt;b&gt;New" in form


@pytest.mark.parametrize(("last", "chosen"), [("big", "big"), ("removed", "small"), (None, "small")])
async def test_form_offers_the_last_choice_if_it_still_exists(
    spawner: HPCProfilesSpawner, last: str | None, chosen: str
) -> None:
    spawner.orm_spawner.user_options = {"profile": last} if last else None
    (checked,) = re.findall(r'<input[^>]*value="(\w+)"[^>]*\bchecked\b', await spawner.get_options_form())
    assert checked == chosen


async def test_invalid_profile_list_keeps_the_last_valid_list(spawner: HPCProfilesSpawner, tmp_path: Path) -> None:
    await spawner.get_options_form()
    (tmp_path / "profiles.json").write_text('{"version": 1, "profil')
    assert 'value="small"' in await spawner.get_options_form()


async def test_missing_profile_list_is_explained(spawner: HPCProfilesSpawner, tmp_path: Path) -> None:
    (tmp_path / "profiles.json").unlink()
    with pytest.raises(StartError, match="The list of job profiles cannot be read") as caught:
        await spawner.get_options_form()
    assert caught.value.status_code == 503


async def test_empty_profile_list_is_explained(spawner: HPCProfilesSpawner, tmp_path: Path) -> None:
    write_profiles(tmp_path, profile("small", enabled=False))
    with pytest.raises(StartError, match="No job profile is available at the moment") as caught:
        await spawner.get_options_form()
    assert caught.value.status_code == 503


async def test_disabled_profile_is_refused(spawner: HPCProfilesSpawner, tmp_path: Path) -> None:
    write_profiles(tmp_path, profile("small"), profile("big", enabled=False))
    assert 'value="big"' not in await spawner.get_options_form()
    with pytest.raises(StartError, match="The profiles are: small"):
        await spawner._run_apply_user_options({"profile": "big"})


@pytest.mark.parametrize("disabled", ["profile", "queue", "cluster"])
async def test_session_of_a_disabled_entry_is_polled_and_stopped(hub: Hub, tmp_path: Path, disabled: str) -> None:
    restored = hub.restored_spawner()
    clusters = json.loads(json.dumps(VARIABLES["hpc_clusters"]))
    if disabled == "cluster":
        clusters[0]["enabled"] = False
    elif disabled == "queue":
        clusters[0]["queues"][0]["enabled"] = False
    listed = site(profile("small", enabled=disabled != "profile"), hpc_clusters=clusters)
    (tmp_path / "profiles.json").write_text(json.dumps(profile_list(listed)))
    assert restored.profile_list.profiles == []
    hub.show(job())
    assert await restored.poll() is None
    await restored.stop(now=True)
    assert hub.gate.cancelled == ["7"]


async def test_two_users_share_no_state(hub: Hub) -> None:
    one, two = grant(hub, "alice"), grant(hub, "bob")
    changed = one.child_spawner.profile.model_copy(update={"queue": "changed"})
    one.child_spawner.profile.options.append("--changed")
    one.child_config["profile"] = one.child_spawner.profile = changed
    assert (two.child_spawner.profile.queue, two.child_spawner.profile.options) == ("q", [])
    listed = one.profile_list.require("small")
    assert (listed.queue, listed.options) == ("q", [])


def saved_session(spawner: HPCProfilesSpawner) -> dict[str, Any]:
    """Return the saved state of a session with a job."""
    spawner.child_spawner.load_state({"session": SESSION, "job_id": "7"})
    state: dict[str, Any] = json.loads(json.dumps(spawner.get_state()))
    return state


async def test_session_keeps_its_granted_profile(hub: Hub, tmp_path: Path) -> None:
    state = saved_session(grant(hub))
    assert set(state) == {"grant", "job", "token"}
    write_profiles(tmp_path, profile("other"))

    restored: HPCProfilesSpawner = hub.user("bob").spawners[""]
    restored.load_state(state)
    assert isinstance(restored.child_spawner, JobSpawner)
    assert type(restored.child_spawner) is spawner_class("slurm")
    assert restored.child_spawner.profile.cores == 1
    assert restored.child_spawner.job_id == "7"


async def test_saved_state_cannot_configure_the_spawner(hub: Hub) -> None:
    state = saved_session(grant(hub))
    state["child_conf"] = {"cmd": ["/bin/evil"], "batch_submit_cmd": "evil"}
    restored: HPCProfilesSpawner = hub.user("bob").spawners[""]
    default = list(restored.cmd)
    restored.load_state(state)
    assert "evil" not in str(restored.child_config)
    assert restored.child_spawner.cmd == default


UNREADABLE = {
    "grant": {"profile": profile("x", cores="evil"), "cluster": VARIABLES["hpc_clusters"][0]},
    "job": {"session": SESSION, "job_id": "7", "host": "n1", "port": 4001},
    "token": "hash",
}
"""The saved state of a session whose profile has a value that this version does not know."""


async def test_session_that_cannot_be_read_is_unknown_until_it_is_stopped(hub: Hub) -> None:
    restored = hub.restored_spawner("https://n1:4001")
    restored.clear_state()
    restored.load_state(UNREADABLE)  # an exception would prevent the hub from starting
    assert restored.child_spawner is None
    assert await restored.poll() is None
    assert await restored.get_url() == "https://n1:4001/user/alice/"
    assert restored.http_timeout > 30 * 24 * 3600  # JupyterHub cancels the job afterwards
    assert restored.get_state() == UNREADABLE

    await restored.stop()
    restored.clear_state()
    assert hub.runtime.ledger.ended([SESSION]) == {SESSION: ("alice", "demo")}
    assert (restored.get_state(), await restored.poll()) == ({}, 1)


async def test_session_is_restored_without_a_profile_list(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "profiles.json").write_text("no list")
    restored = hub.restored_spawner("https://n1:4001")
    assert restored.child_spawner.job_id == "7"
    assert not restored.unread


async def test_home_page_shows_no_session_that_cannot_be_read(hub: Hub) -> None:
    restored = hub.restored_spawner("https://n1:4001")
    restored.load_state(UNREADABLE)
    assert cards(hub.user()) == []
    assert not state_of(restored)


@pytest.mark.parametrize(
    ("shown", "age", "found", "status"),
    [
        (None, 0, None, JobStatus.UNKNOWN),
        ([Job("7", JobState.RUNNING, host="n1")], 0, None, JobStatus.RUNNING),
        ([Job("7", JobState.UNKNOWN, "NEW")], 0, None, JobStatus.UNKNOWN),
        ([Job("7", JobState.ENDED, "TIMEOUT")], 0, None, JobStatus.NOTFOUND),
        ([], 10, None, JobStatus.UNKNOWN),
        ([], 100, None, JobStatus.NOTFOUND),
        ([], 100, Unanswered("the scheduler is down"), JobStatus.UNKNOWN),
        ([], 100, Job("7", JobState.RUNNING, host="n1"), JobStatus.RUNNING),
        ([], 100, Job("7", JobState.ENDED), JobStatus.NOTFOUND),
    ],
    ids=[
        "scheduler-is-silent",
        "job-runs",
        "state-is-unknown",
        "job-has-ended",
        "job-is-missing-briefly",
        "job-is-missing-for-long",
        "job-is-missing-and-the-look-up-fails",
        "job-is-missing-and-found-running",
        "job-is-missing-and-found-ended",
    ],
)
async def test_session_ends_only_if_the_scheduler_reports_it(
    hub: Hub, shown: list[Job] | None, age: float, found: Job | Exception | None, status: JobStatus
) -> None:
    spawner = hub.restored_spawner()
    hub.show(*(shown or ()))
    hub.poller.silent = shown is None
    hub.poller.clock = lambda: time.monotonic() + age
    hub.poller.lookup = found
    assert await spawner.child_spawner.query_job_status() == status
    polled = await spawner.poll()
    assert (polled is None) == (status != JobStatus.NOTFOUND)
