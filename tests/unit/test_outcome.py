"""What users read after a failed start and after the end of a session. Pages are requested from a real JupyterHub."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from hub_app import SESSION, SITE, answer, job, profile, write_profiles
from jupyterhub import orm

from hpchub.hub import outcome as outcomes
from hpchub.hub.outcome import NOT_STARTED, STOPPED, Outcome, plain, plain_lines
from hpchub.hub.start_error import StartError
from hpchub.model.entries import Cluster, Profile
from hpchub.model.places import DockerPlace
from hpchub.schedulers import Cause, Ending, JobState, Unanswered
from hpchub.schedulers.endings import OWNER

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hub_app import Hub
    from hub_browser import Browser

    from hpchub.hub.profiles_spawner import HPCProfilesSpawner

PYTHON = re.compile(r"\w+Error\b|\[Errno|Traceback")


async def eventually(condition: Callable[[], object]) -> Any:
    async with asyncio.timeout(60):
        while not (found := condition()):  # noqa: ASYNC110 the condition has no event
            await asyncio.sleep(0.005)
    return found


# Plain words


@pytest.mark.parametrize("cause", list(Cause))
def test_each_cause_is_explained_in_a_sentence_about_the_session(cause: Cause) -> None:
    text = outcomes.explain(Ending(cause), user="alice", profile=SITE.profiles[0])
    assert text.endswith(".")
    assert "session" in text
    assert "  " not in text


@pytest.mark.parametrize("starting", [False, True], ids=["ended", "not-started"])
@pytest.mark.parametrize("cause", list(Cause))
def test_end_is_explained_in_one_sentence_and_followed_by_advice(cause: Cause, starting: bool) -> None:
    ending = Ending(cause, "exit code 1", by="root")
    text = outcomes.explain(ending, user="alice", profile=SITE.profiles[0], job_id="7", starting=starting)
    assert not re.search(r"[.!?] ", text)
    assert outcomes.advise(ending, user="alice").endswith(".")


@pytest.mark.parametrize(
    ("by", "words"),
    [
        (OWNER, "with your own account"),
        ("alice", "with your own account"),
        ("root", "administrator"),
        ("bob", "The account bob cancelled"),
        ("", "did not report who"),
    ],
)
def test_text_names_who_cancelled_the_job(by: str, words: str) -> None:
    assert words in outcomes.explain(Ending(Cause.CANCELLED, by=by), user="alice", profile=SITE.profiles[0])


def test_text_names_the_limit_and_the_node() -> None:
    small = SITE.profiles[0]
    assert "time limit of 1 h" in outcomes.explain(Ending(Cause.TIME_LIMIT), user="a", profile=small)
    assert "the 1 GB of memory" in outcomes.explain(Ending(Cause.OUT_OF_MEMORY), user="a", profile=small)
    assert ", n3, failed" in outcomes.explain(Ending(Cause.NODE_LOST, node="n3"), user="a", profile=small)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("PermissionError: [Errno 13] Permission denied: '/x'", "Permission denied: '/x'"),
        ("sbatch: json.decoder.JSONDecodeError: Expecting value", "sbatch: Expecting value"),
        ("[E ServerApp] OSError: [Errno 122] Disk quota exceeded", "[E ServerApp] Disk quota exceeded"),
        ("[Errno 2] No such file or directory", "No such file or directory"),
        ("sbatch: error: Invalid account", "sbatch: error: Invalid account"),
        ("An Error occurred", "An Error occurred"),
    ],
)
def test_message_has_no_names_of_exceptions(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_log_has_no_tracebacks() -> None:
    lines = [
        "starting",
        "Traceback (most recent call last):",
        '  File "/x.py", line 1, in main',
        "    open(path)",
        "PermissionError: [Errno 13] Permission denied: '/x'",
        "",
        "  indented",
        "[E 2026-11-26 ServerApp] Traceback (most recent call last):",
        '  File "/y.py", line 1',
        "KeyError: 'a'",
        "end",
    ]
    expected = ("starting", "Permission denied: '/x'", "", "  indented", "'a'", "end")
    assert plain_lines(lines) == expected


@pytest.mark.parametrize(
    "saved", [None, [], "x", {}, {"at": "x"}, {"at": 1.0, "text": 7}, {"at": True, "text": None}], ids=str
)
def test_invalid_saved_outcome_is_none_or_empty(saved: object) -> None:
    found = outcomes.restore(saved)
    assert found is None or found.text == ""


def test_outcome_survives_a_round_trip() -> None:
    outcome = Outcome("a" * 16, "time_limit", "text", 1.5, "7", "demo", "TIMEOUT", ("one", "two"), own_settings=False)
    assert outcomes.restore(json.loads(json.dumps(outcome.saved))) == outcome


PLACES = {
    Cause.TIME_LIMIT: "reached its time limit of 1 h, so cloud ended it.",
    Cause.OUT_OF_MEMORY: "so cloud ended it.",
    Cause.KILLED: "ended by force, and cloud did not report why (x).",
    Cause.NODE_LOST: "The host of your session in cloud failed (x).",
    Cause.CANCELLED: "Your session was removed from cloud, but not through this service.",
    Cause.EVICTED: "cloud removed your session from its node",
    Cause.PREEMPTED: "cloud ended your session because",
    Cause.UNKNOWN: "Your session has ended, and cloud did not report why.",
    Cause.FINISHED: "Your session was shut down from within",
    Cause.FAILED: "The program of your session ended with an error (x).",
}


@pytest.mark.parametrize("starting", [False, True], ids=["running", "starting"])
@pytest.mark.parametrize("cause", Cause)
def test_end_in_a_place_names_no_cluster(cause: Cause, starting: bool) -> None:
    granted = Profile(key="a", display_name="a", place="cloud", cores=1, memory="1G", runtime="1:00:00")
    ending = Ending(cause, "x")
    text = outcomes.explain(ending, user="alice", profile=granted, starting=starting, place="cloud")
    assert "cluster" not in f"{text} {outcomes.advise(ending, user='alice', place='cloud')}"
    if not starting:
        assert PLACES[cause] in text
    elif cause in (Cause.FINISHED, Cause.FAILED, Cause.KILLED):
        assert text == "Your session ended in cloud before its notebook server was ready (x)."


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        (Cluster.model_construct(name="demo", scheduler="slurm"), ""),
        (Cluster.model_construct(name="bigmem", scheduler="systemd"), "bigmem"),
        (DockerPlace.model_construct(name="cloud"), "cloud"),
    ],
    ids=["cluster", "host", "containers"],
)
def test_host_without_a_scheduler_is_a_place(entry: Any, name: str) -> None:
    assert outcomes.place_name(entry) == name


# A failed start


async def fail(spawner: HPCProfilesSpawner) -> Outcome:
    """Start a session that fails, and return what the hub remembers after JupyterHub has cleaned up."""
    with pytest.raises(StartError) as caught:
        await spawner.user.spawn("", options={"profile": "small"})
    assert not PYTHON.search(str(caught.value))
    assert spawner.outcome is not None
    assert not PYTHON.search(json.dumps(spawner.outcome.saved))
    return spawner.outcome


def end_at_once(hub: Hub) -> None:
    """Make each job end as soon as it was submitted."""

    def submit(session: str) -> Any:
        hub.show(job(JobState.ENDED, session=session))
        return answer("7\n")

    hub.gate.on_submit = submit


async def test_failed_start_is_remembered_with_its_log_and_its_cause(hub: Hub) -> None:
    end_at_once(hub)
    hub.gate.on_log = lambda job_id: answer("one\nOSError: [Errno 28] No space left on device\n")
    hub.gate.on_history = lambda job_id: answer("JobId=7 UserId=alice(1) JobState=OUT_OF_MEMORY ExitCode=0:125\n")
    outcome = await fail(hub.user().spawners[""])
    assert (outcome.cause, outcome.job_id, outcome.cluster) == (NOT_STARTED, "7", "demo")
    assert outcome.text == (
        "Your session needed more than the 1 GB of memory that its profile has, so the cluster ended it."
    )
    assert outcome.advice == "Choose a profile with more memory, or load less data at a time."
    assert (outcome.profile, outcome.queue, outcome.own_settings) == ("small", "q", True)
    assert outcome.submitted > 0
    assert outcome.log == ("one", "No space left on device")
    # A restarted hub has only the database.
    row = hub.app.db.query(orm.Spawner).one()
    assert outcomes.restore(row.state["outcome"]) == outcome
    assert set(row.state) == {"outcome"}


async def test_failed_start_waits_for_a_job_that_completes(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm lists a job that is completing as ended, but does not report how it ended until it has completed."""
    monkeypatch.setattr("hpchub.hub.memory.START_PAUSES", (0, 0.01, 0.01))
    end_at_once(hub)
    answers = [
        answer("JobId=7 UserId=alice(1) JobState=COMPLETING ExitCode=0:0\n"),
        answer("JobId=7 UserId=alice(1) JobState=CANCELLED ExitCode=0:15\n"),
    ]
    hub.gate.on_history = lambda job_id: answers.pop(0)
    outcome = await fail(hub.user().spawners[""])
    assert "cancelled" in outcome.text


async def test_failed_start_does_not_wait_long_for_a_silent_scheduler(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpchub.hub.memory.PATIENCE", 0.1)
    monkeypatch.setattr("hpchub.hub.memory.START_PAUSES", (0, 60))
    end_at_once(hub)
    hub.gate.on_history = lambda job_id: answer(code=1)
    async with asyncio.timeout(20):
        outcome = await fail(hub.user().spawners[""])
    assert "Your job 7 ended before" in outcome.text


@pytest.mark.parametrize("silent", [Unanswered("the submit host is down"), answer("rubbish"), answer(code=1)])
async def test_failed_start_is_remembered_although_the_gate_is_silent(
    hub: Hub, silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpchub.hub.memory.START_PAUSES", (0,))
    end_at_once(hub)
    hub.gate.on_log = hub.gate.on_history = lambda job_id: silent
    outcome = await fail(hub.user().spawners[""])
    assert "Your job 7 ended before" in outcome.text


async def test_refused_submission_shows_no_exception(hub: Hub) -> None:
    hub.gate.on_submit = lambda session: answer(code=1, stderr="PermissionError: [Errno 13] Permission denied: '/x'\n")
    outcome = await fail(hub.user().spawners[""])
    assert outcome.text == "The cluster demo did not accept your job: Permission denied: '/x'"


async def test_unexpected_error_is_explained_in_plain_words(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise PermissionError(13, "Permission denied", "/etc/hpchub/x")

    spawner = hub.user().spawners[""]
    monkeypatch.setattr(hub.runtime, "template_dir", lambda: broken(""))
    outcome = await fail(spawner)
    assert (outcome.text, outcome.advice) == (outcomes.UNEXPECTED, outcomes.TRY_AGAIN)


async def test_next_start_forgets_the_outcome(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpchub.hub.memory.START_PAUSES", (0,))
    end_at_once(hub)
    await fail(hub.user().spawners[""])
    spawner = hub.new_spawner()
    hub.gate.on_submit = lambda session: answer(code=1)
    start = asyncio.ensure_future(spawner.start())
    await asyncio.sleep(0)
    assert spawner.outcome is None
    with pytest.raises(StartError):
        await start


# The end of a session


def running(hub: Hub) -> HPCProfilesSpawner:
    """Return the spawner of a running session."""
    spawner = hub.restored_spawner("https://127.0.0.1:20001", host="127.0.0.1", port=20001, started=time.time())
    hub.show(job())
    return spawner


TIMEOUT = "JobId=7 UserId=alice(1) JobState=TIMEOUT ExitCode=0:1\n"


async def test_end_of_a_job_is_explained_by_the_scheduler(hub: Hub) -> None:
    spawner = running(hub)
    hub.gate.on_history = lambda job_id: answer(TIMEOUT)
    hub.show(job(JobState.ENDED))
    await spawner.user.stop("")  # as JupyterHub does when it notices the end
    known = hub.user().spawners[""]
    assert known.outcome.text == "Your session has ended, and the cluster did not report why."
    await eventually(lambda: known.outcome.cause == "time_limit")
    assert known.outcome.text == "Your session reached its time limit of 1 h, so the cluster ended it."
    assert hub.gate.cancelled == []


async def test_end_with_an_error_is_remembered_with_the_log(hub: Hub) -> None:
    spawner = running(hub)
    hub.gate.on_history = lambda job_id: answer("JobId=7 UserId=alice(1) JobState=OUT_OF_MEMORY ExitCode=0:125\n")
    hub.gate.on_log = lambda job_id: answer("one\nKilled\n")
    hub.show(job(JobState.ENDED))
    await spawner.user.stop("")
    known = hub.user().spawners[""]
    await eventually(lambda: known.outcome.log)
    assert known.outcome.log == ("one", "Killed")
    assert known.outcome.cause == "out_of_memory"


async def test_log_tells_that_the_memory_was_too_small(hub: Hub) -> None:
    """Slurm's record then only contains the signal that ended the job."""
    spawner = running(hub)
    hub.gate.on_history = lambda job_id: answer("JobId=7 UserId=alice(1) JobState=FAILED ExitCode=0:9\n")
    hub.gate.on_log = lambda job_id: answer("slurmstepd-n1: error: Exceeded job memory limit\n")
    hub.show(job(JobState.ENDED))
    await spawner.user.stop("")
    known = hub.user().spawners[""]
    await eventually(lambda: known.outcome.cause == "out_of_memory")
    assert known.outcome.text.startswith("Your session needed more than the")


async def test_late_record_of_the_end_is_used(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm's database names who cancelled the job later than the controller reports the end."""
    monkeypatch.setattr("hpchub.hub.memory.PAUSES", (0, 0.01, 0.01, 0.01))
    answers = [
        answer(code=1),
        answer("JobId=7 UserId=alice(1) JobState=CANCELLED\n"),
        answer("7|CANCELLED by 0|0:15|2001|n1\n"),
    ]
    hub.gate.on_history = lambda job_id: answers.pop(0)
    spawner = running(hub)
    hub.show(job(JobState.ENDED))
    await spawner.user.stop("")
    await eventually(lambda: not answers)
    await eventually(lambda: "root" in hub.user().spawners[""].outcome.text)


async def test_late_answer_does_not_change_the_next_session(hub: Hub) -> None:
    spawner = running(hub)
    hub.gate.delay = 0.05
    hub.gate.on_history = lambda job_id: answer(TIMEOUT)
    hub.show(job(JobState.ENDED))
    await spawner.user.stop("")
    hub.user().spawners[""].memory.forget()
    await asyncio.sleep(0.2)
    assert hub.user().spawners[""].outcome is None


@pytest.mark.parametrize(
    ("who", "text"),
    [
        ("alice", "You stopped your session."),
        ("root-admin", "root-admin stopped this session."),
        ("", "The service stopped this session."),
    ],
)
async def test_stop_through_the_hub_names_who_stopped(hub: Hub, who: str, text: str) -> None:
    spawner = running(hub)
    spawner.stopped_by = who
    await spawner.user.stop("")
    assert hub.gate.cancelled == ["7"]
    assert (hub.user().spawners[""].outcome.cause, hub.user().spawners[""].outcome.text) == (STOPPED, text)


async def test_session_that_ended_while_the_hub_was_restarted_is_explained(hub: Hub) -> None:
    spawner = running(hub)
    hub.gate.on_history = lambda job_id: answer(TIMEOUT)
    hub.show(job(JobState.ENDED))
    spawner._check_pending = True
    await spawner.get_url()
    spawner._check_pending = False
    await eventually(lambda: spawner.outcome and spawner.outcome.cause == "time_limit")
    assert "ended before" not in str(spawner.outcome)


# Pages and the API


HOSTILE = Outcome(
    SESSION,
    NOT_STARTED,
    "<b>text</b>",
    1_764_000_000.0,
    "7",
    "demo",
    log=("<script>alert(1)</script>", "{{ 7 * 7 }}"),
)


async def test_home_page_and_form_remember_a_failed_start(hub: Hub, browser: Browser) -> None:
    outcome = dataclasses.replace(HOSTILE, at=time.time())
    hub.user().spawners[""].memory._save(outcome)
    for path, title in (("/hub/home", "Did not start"), ("/hub/spawn", "Your last session did not start")):
        page = await browser.page(path)
        assert title in page
        assert "&lt;b&gt;text&lt;/b&gt;" in page
        assert outcome.when in page
        assert "<b>text" not in page
    assert page.count('type="submit"') == 1


@pytest.mark.parametrize("target", ["", "/user/alice/lab/tree/x%20y.ipynb?reset#cell"])
async def test_page_of_a_failed_start_shows_the_log_and_one_button(hub: Hub, browser: Browser, target: str) -> None:
    spawner = hub.user().spawners[""]
    spawner._spawn_future = asyncio.get_running_loop().create_future()
    spawner._spawn_future.set_exception(PermissionError(13, "Permission denied", "/x"))
    spawner.memory._save(HOSTILE)
    query = f"?next={target.replace('%', '%25').replace('?', '%3F').replace('#', '%23')}" if target else ""
    page = await browser.page(f"/hub/spawn-pending/alice{query}")
    assert "Your session did not start" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\n{{ 7 * 7 }}" in page
    assert not PYTHON.search(page)
    (link,) = re.findall(r'<a id="start"[^>]*href="([^"]*)"', page)
    assert page.count("btn-lg") == 1
    form, _, _ = (await browser.page(link.replace("&amp;", "&"))).partition("<footer")
    (action,) = re.findall(r'<form[^>]*action="([^"]*)"', form)
    assert ("next=%2Fuser%2Falice%2Flab%2Ftree%2Fx%2520y.ipynb%3Freset%23cell" in action) is bool(target)


FAILED = dataclasses.replace(
    HOSTILE,
    advice="Try <i>this</i>.",
    profile="small",
    queue="q",
    node="n1",
    submitted=1_764_000_000.0 - 60,
    log=("starting", "password=hunter2secret"),
)


def failed(hub: Hub, outcome: Outcome) -> HPCProfilesSpawner:
    """Return the spawner after a failed start."""
    spawner: HPCProfilesSpawner = hub.user().spawners[""]
    spawner._spawn_future = asyncio.get_running_loop().create_future()
    spawner._spawn_future.set_exception(StartError("text", reason="x"))
    spawner.memory._save(outcome)
    return spawner


async def test_page_of_a_failed_start_has_facts_advice_and_a_report_without_secrets(hub: Hub, browser: Browser) -> None:
    failed(hub, FAILED)
    page = await browser.page("/hub/spawn-pending/alice")
    assert "Try &lt;i&gt;this&lt;/i&gt;." in page
    for fact in ("job 7 on the cluster demo", ">small<", ">q<", ">n1<", "2025-11-24 15:59 UTC"):
        assert fact in page
    (link,) = re.findall(r'<a id="support-link"[^>]*href="([^"]*)"', page)
    assert link.startswith("mailto:help@example.org?subject=Example%20HPC")
    assert "cluster%3A%20demo" in link
    assert "hunter2secret" not in link
    (report,) = re.findall(r'<pre class="hpchub-report[^>]*>(.*?)</pre>', page, re.DOTALL)
    assert "&lt;b&gt;text&lt;/b&gt;" in report
    assert "hunter2secret" not in report


async def test_contact_that_takes_no_report_is_shown_beside_the_report(hub: Hub, browser: Browser) -> None:
    hub.runtime.settings.update(support="https://desk.example.org/?a&b", support_form="")
    failed(hub, FAILED)
    page = await browser.page("/hub/spawn-pending/alice")
    assert "support-link" not in page
    link = '<a id="support-page" href="https://desk.example.org/?a&amp;b" rel="noreferrer noopener">'
    assert f"contact {link}https://desk.example.org/?a&amp;b</a>, and send this report." in page


async def test_start_without_own_settings_repeats_the_last_choice(hub: Hub, browser: Browser) -> None:
    spawner = failed(hub, FAILED)
    spawner.orm_spawner.user_options = {"profile": "small"}
    hub.app.db.commit()
    page = await browser.page("/hub/spawn-pending/alice?next=/user/alice/lab/tree/x.ipynb")
    page, _, _ = page.partition("<footer")
    (action,) = re.findall(r'<form method="post" action="([^"]*)"', page)
    fields = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page)
    response = await browser.post(action.replace("&amp;", "&"), dict(fields))
    assert response.code == 302
    assert response.headers["Location"].endswith("/hub/spawn-pending/alice?next=%2Fuser%2Falice%2Flab%2Ftree%2Fx.ipynb")
    await eventually(lambda: hub.gate.submissions)
    spawner = hub.user().spawners[""]
    assert spawner.user_options == {"profile": "small", "without_settings": True}
    assert hub.gate.submissions[0]["secrets"]["HPCHUB_WITHOUT_SETTINGS"] == "1"
    await spawner.user.stop("")


@pytest.mark.parametrize("cause", [NOT_STARTED, "failed", "killed"])
async def test_page_of_a_session_that_died_offers_a_start_without_own_settings(
    hub: Hub, browser: Browser, cause: str
) -> None:
    hub.user().spawners[""].memory._save(dataclasses.replace(FAILED, cause=cause))
    assert 'id="without-settings"' in await browser.page("/hub/spawn-pending/alice")


@pytest.mark.parametrize("changes", [{"own_settings": False}, {"job_id": ""}, {"cause": "time_limit"}], ids=str)
async def test_page_offers_a_start_without_own_settings_only_where_they_may_be_the_reason(
    hub: Hub, browser: Browser, changes: dict[str, Any]
) -> None:
    failed(hub, dataclasses.replace(FAILED, **changes))
    page = await browser.page("/hub/spawn-pending/alice")
    assert "without-settings" not in page
    assert 'id="start"' in page


async def test_start_again_is_checked_like_every_start(hub: Hub, browser: Browser) -> None:
    spawner = failed(hub, FAILED)
    spawner.orm_spawner.user_options = {"profile": "gone"}
    hub.app.db.commit()
    page = await browser.page("/hub/spawn-pending/alice")
    page, _, _ = page.partition("<footer")
    (action,) = re.findall(r'<form method="post" action="([^"]*)"', page)
    (token,) = re.findall(r'name="_xsrf" value="([^"]*)"', page)
    response = await browser.post(action.replace("&amp;", "&"), {"again": "on", "_xsrf": token})
    assert response.code == 400
    assert "There is no profile" in response.body.decode()
    assert hub.gate.submissions == []


async def test_page_of_an_unexpected_failure_shows_no_exception(hub: Hub, browser: Browser) -> None:
    spawner = hub.user().spawners[""]
    spawner._spawn_future = asyncio.get_running_loop().create_future()
    spawner._spawn_future.set_exception(PermissionError(13, "Permission denied", "/x"))
    for path in ("/hub/spawn-pending/alice", "/hub/api/users/alice/server/progress"):
        page = await browser.page(path)
        assert "The service made an error while it started your session." in page
        assert not PYTHON.search(page)


async def test_progress_reports_a_failure_in_plain_words(hub: Hub, browser: Browser) -> None:
    spawner = hub.user().spawners[""]
    spawner._spawn_future = asyncio.get_running_loop().create_future()
    spawner._spawn_future.set_exception(StartError("text", reason="x"))
    spawner.memory._save(HOSTILE)
    assert '"failed": true, "message": "<b>text</b>"' in await browser.page("/hub/api/users/alice/server/progress")


async def test_link_to_a_file_without_a_session_leads_to_the_form_and_back(hub: Hub, browser: Browser) -> None:
    hub.user().spawners[""].memory._save(dataclasses.replace(HOSTILE, cause="time_limit"))
    response = await browser.get("/hub/user/alice/lab/tree/x.ipynb", Accept="text/html")
    page = response.body.decode()
    assert response.code == 424
    assert "Your session has ended" in page
    (link,) = re.findall(r'<a id="start"[^>]*href="([^"]*)"', page)
    assert link == "/hub/spawn/alice?next=%2Fhub%2Fuser%2Falice%2Flab%2Ftree%2Fx.ipynb"


@pytest.mark.parametrize(
    ("query", "chosen"),
    [("?profile=big", "big"), ("", "small"), ("?profile=%3Cb%3E", "small"), ("?profile=big&next=/user/alice/x", "big")],
)
async def test_link_to_a_profile_preselects_it_and_starts_nothing(
    hub: Hub, browser: Browser, tmp_path: Path, query: str, chosen: str
) -> None:
    write_profiles(tmp_path, profile("small"), profile("big", cores=4))
    response = await browser.get(f"/hub/spawn{query}")
    page = response.body.decode()
    assert response.code == 200
    assert re.findall(r'<input[^>]*value="(\w+)"[^>]*\bchecked\b', page) == [chosen]
    assert ("which is not offered" in page) is ("%3C" in query)
    assert "<b>" not in page
    assert "spawn-error-msg" not in page
    assert hub.gate.submissions == []
    assert hub.user().spawners[""].pending is None


SESSIONS = "/hub/api/hpchub/sessions"


async def test_api_reports_the_state_of_a_session_to_its_owner(hub: Hub, browser: Browser) -> None:
    async def ask() -> Any:
        return json.loads(await browser.page(f"{SESSIONS}/alice"))

    nothing: dict[str, Any] = {"ending": None, "ends_at": None, "times": None, "job": None, "notices": []}
    assert await ask() == {**nothing, "state": "none"}
    spawner = hub.user().spawners[""]
    spawner.memory._save(HOSTILE)
    texts = {language: {"text": "<b>text</b>"} for language in ("en", "de")}
    ending = {"cause": "not_started", "text": "<b>text</b>", "at": HOSTILE.at, "texts": texts}
    assert await ask() == {**nothing, "state": "ended", "ending": ending}
    spawner._spawn_pending = True
    assert await ask() == {**nothing, "state": "starting"}


async def test_api_reports_the_time_limit_of_a_running_session(hub: Hub, browser: Browser) -> None:
    spawner = running(hub)
    started = spawner.child_spawner.driver.state.started
    expected = {
        "state": "running",
        "ending": None,
        "ends_at": started + 3600,
        "times": {"requested": None, "submitted": None, "started": started, "ready": None},
        "job": spawner.job,
        "notices": [],
    }
    assert json.loads(await browser.page(f"{SESSIONS}/alice")) == expected
    # Lab sends no XSRF token of the hub, and browsers mark its requests.
    response = await browser.get(f"{SESSIONS}/alice/", **{"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"})
    assert json.loads(response.body) == expected


async def test_api_answers_the_server_s_own_token_and_nobody_else(hub: Hub, browser: Browser) -> None:
    running(hub)
    own = hub.user().new_api_token(scopes=["access:servers!server=alice/"])
    assert (await browser.get(f"{SESSIONS}/alice", token=own)).code == 200
    for token in (hub.user("mallory").new_api_token(), hub.user().new_api_token(scopes=["read:users:name!user"])):
        assert (await browser.get(f"{SESSIONS}/alice", token=token)).code == 404
    assert (await browser.get(f"{SESSIONS}/alice", token="0" * 32)).code in (403, 404)
    browser.cookies.clear()
    assert (await browser.get(f"{SESSIONS}/alice")).code in (403, 404)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://alice.hub.example.org", 200),
        ("https://bob.hub.example.org", 403),
        ("https://alice.hub.example.org.evil.example", 403),
        ("https://evil.example", 403),
        ("null", 403),
    ],
)
async def test_page_of_the_user_s_own_host_may_read_the_state_of_this_user_s_sessions(
    hub: Hub, browser: Browser, monkeypatch: pytest.MonkeyPatch, origin: str, status: int
) -> None:
    hub.user("bob")
    headers = {"Origin": origin, "Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-site"}
    refused = await browser.get(f"{SESSIONS}/alice", **headers)
    assert refused.code == 403, "all users have the same host"
    for settings in (hub.app.tornado_settings, hub.app.tornado_application.settings):
        monkeypatch.setitem(settings, "subdomain_host", "https://hub.example.org")
        monkeypatch.setitem(settings, "domain", "hub.example.org")
    answer = await browser.get(f"{SESSIONS}/alice", **headers)
    assert answer.code == status
    assert answer.headers.get("Access-Control-Allow-Origin") == (origin if status == 200 else None)
    assert answer.headers.get("Access-Control-Allow-Credentials") == ("true" if status == 200 else None)
    if status == 200:
        assert answer.headers["Vary"] == "Origin"
    of_another = await browser.get(f"{SESSIONS}/bob", **headers)
    assert of_another.headers.get("Access-Control-Allow-Origin") is None or origin == "https://bob.hub.example.org"
    assert of_another.code in (403, 404)


@pytest.mark.parametrize("path", ["/nobody", "/alice/other", "/bob"])
async def test_api_knows_no_other_sessions(hub: Hub, browser: Browser, path: str) -> None:
    hub.user("bob")
    assert (await browser.get(f"{SESSIONS}{path}")).code == 404


async def test_home_page_shows_the_time_limit_of_a_running_session(hub: Hub, browser: Browser) -> None:
    spawner = running(hub)
    page = await browser.page("/hub/home")
    assert 'data-state="running"' in page
    assert f'data-time="{spawner.ends_at}"' in page
    assert "toLocaleString" in page  # the script that shows the time


async def test_time_limit_counts_from_the_start_of_the_job(hub: Hub) -> None:
    child = hub.restored_spawner(submitted=time.time()).child_spawner
    assert child.driver.state.ends_at is None
    hub.show(job())
    follow = asyncio.ensure_future(child.driver.follow())
    await eventually(lambda: child.driver.state.ends_at)
    assert child.driver.state.ends_at == child.driver.state.started + 3600
    assert abs(child.driver.state.started - time.time()) < 60
    assert child.get_state()["started"] == child.driver.state.started
    follow.cancel()


def test_long_text_of_a_program_takes_no_time() -> None:
    began = time.process_time()
    assert len(plain("Aa." * 50_000)) == 2000
    assert time.process_time() - began < 1
