"""The pages in German: nothing on them is English, and values are escaped."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import time
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from hub_app import GRANT, PORTS, SITE, after, job, profile, write_notices, write_profiles
from hub_browser import interrupt
from jupyterhub import orm

from hpchub.catalogue import translations
from hpchub.clusters.doctor import examine_home
from hpchub.hub import outcome as outcomes
from hpchub.hub.outcome import NOT_STARTED, Outcome
from hpchub.hub.page_texts import COOKIE, Languages, reader
from hpchub.hub.start_error import StartError
from hpchub.messages import Message
from hpchub.schedulers import SCHEDULERS, Cause, Ending

if TYPE_CHECKING:
    from pathlib import Path

    from hub_app import Hub
    from hub_browser import Browser

    from hpchub.hub.profiles_spawner import HPCProfilesSpawner

ENGLISH = frozenset(
    "the this that these your you of and or is are were not with for from to at by be can may if when has have had it"  # noqa: SIM905
    " its session sessions queue node memory core cores time again more please choose write ask try no yes service"
    " ended ends started starts running waiting ready error unknown account".split()
)
"""Words that only English texts contain."""
HOSTILE = "<script>alert('x')</script> & \"big\""


class Texts(HTMLParser):
    """The texts of a page that people read or hear."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.language = ""
        self._skipped = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "html":
            self.language = given.get("lang", "")
        if tag in ("script", "style"):
            self._skipped += 1
        names = ("aria-label", "title", "placeholder", "alt", "data-tonight", "data-tomorrow")
        self.found += [given[name] for name in names if name in given]

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._skipped -= 1

    def handle_data(self, data: str) -> None:
        if not self._skipped and data.strip():
            self.found.append(" ".join(data.split()))


def english(page: str, *permitted: str) -> list[str]:
    """Return the texts of a page that are English."""
    parsed = Texts(page)
    assert parsed.language == "de"
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    # Sentences in scripts: a quoted text with a space and a full stop.
    spoken = [text for script in scripts for text in re.findall(r'"([A-Z][^"\n]* [^"\n]*[.?])"', script)]
    found = []
    for text in (*parsed.found, *spoken):
        shown = text
        for each in permitted:
            shown = shown.replace(each, "")
        if ENGLISH & set(re.findall(r"[a-z']+", shown.lower())):
            found.append(text)
    return found


@pytest.fixture
def german(browser: Browser) -> Browser:
    """A signed-in browser of a German reader."""
    browser.cookies[COOKIE] = "de"
    return browser


def going(hub: Hub, name: str, session: str) -> HPCProfilesSpawner:
    """Save a session that goes on, and return its spawner."""
    user = hub.user()
    row = orm.Spawner(name=name, display_name=name, user=user.orm_user)
    hub.app.db.add(row)
    row.server = orm.Server(proto="https", ip="127.0.0.1", port=PORTS["first"], base_url=f"/user/alice/{name}")
    state = {"session": session, "job_id": session[:3], "submitted": 1.0, "started": time.time(), "port": 20000}
    row.state = {"grant": GRANT, "job": {**state, "host": "n1.example"}, "token": session}
    hub.app.db.commit()
    hub.jobs.append(job(job_id=session[:3], session=session))
    user.spawners.pop(name, None)
    spawner: HPCProfilesSpawner = user.spawners[name]
    return spawner


def failed(hub: Hub, outcome: Outcome) -> None:
    """Let the last start fail."""
    spawner: HPCProfilesSpawner = hub.user().spawners[""]
    spawner._spawn_future = asyncio.get_running_loop().create_future()
    spawner._spawn_future.set_exception(StartError("x", reason="x"))
    spawner.memory._save(outcome)


@pytest.mark.parametrize(
    "path",
    [
        "/hub/home",
        "/hub/spawn",
        "/hub/spawn?profile=gone",
        "/hub/spawn?settings=gone",
        "/hub/token",
        "/hub/user/alice/lab",
        "/hub/spawn-pending/alice",
        "/hub/nothing",
        *(f"/hub/error/{code}" for code in (400, 403, 404, 405, 409, 424, 429, 500, 503)),
    ],
)
async def test_page_has_no_english_text(german: Browser, path: str) -> None:
    page = await german.page(path)
    assert english(page) == []


async def test_page_of_tokens_has_no_english_text(hub: Hub, german: Browser) -> None:
    hub.user().new_api_token(note="Skript")
    hub.user().new_api_token(note="Server at /user/alice/")
    assert english(await german.page("/hub/token"), "Server at /user/alice/") == []


async def test_frame_of_the_administration_has_no_english_text(hub: Hub, german: Browser) -> None:
    hub.app.authenticator.admin_users = {"alice"}
    await german.get("/hub/login")
    assert english(await german.page("/hub/admin")) == []


async def test_home_with_sessions_and_a_drain_has_no_english_text(hub: Hub, german: Browser, tmp_path: Path) -> None:
    write_notices(
        tmp_path,
        {"cluster": "demo", "from": after(-60), "until": after(3600), "stop_at": after(60)},
        {"cluster": "demo", "queue": "q", "from": after(7200)},
        {"profile": "small", "from": after(7200)},
        {"from": after(9000)},
        announcements=[{"message": "Kaffee"}],
    )
    spawners = [going(hub, name, number * 16) for name, number in (("eins", "a"), ("zwei", "b"), ("drei", "c"))]
    hub.app.db.commit()
    assert english(await german.page("/hub/home"), "eins", "zwei", "drei") == []
    assert english(await german.page("/hub/spawn")) == []
    assert len(spawners) == 3


@pytest.mark.parametrize("cause", [*(each.value for each in Cause), NOT_STARTED, "stopped"])
async def test_home_after_the_end_of_a_session_has_no_english_text(hub: Hub, german: Browser, cause: str) -> None:
    causes = {each.value for each in Cause}
    text: str = outcomes.stopped_by("", "alice", starting=False)
    if cause in causes:
        text = outcomes.explain(Ending(Cause(cause)), user="alice", profile=SITE.profiles[0], job_id="7")
    elif cause == NOT_STARTED:
        text = outcomes.unreachable("n1", 20000)
    hub.user().spawners[""].memory._save(Outcome("a" * 16, cause, text, time.time(), "7", "demo", profile="small"))
    page = await german.page("/hub/home")
    assert "Wieder starten" in page
    assert english(page, "small") == []


async def test_page_of_a_failed_start_has_no_english_text(hub: Hub, german: Browser) -> None:
    outcome = Outcome(
        "a" * 16,
        NOT_STARTED,
        outcomes.explain(Ending(Cause.OUT_OF_MEMORY), user="alice", profile=SITE.profiles[0]),
        1763999999.0,
        job_id="7",
        cluster="demo",
        detail="OUT_OF_MEMORY",
        log=("Zeile",),
        advice=outcomes.advise(Ending(Cause.OUT_OF_MEMORY), user="alice"),
        profile="small",
        queue="q",
        node="n1",
        submitted=1763999000.0,
        started=1763999900.0,
    )
    saved = json.loads(json.dumps(outcome.saved))
    failed(hub, outcomes.restore(saved) or outcome)
    page = await german.page("/hub/spawn-pending/alice")
    assert "Ihre Sitzung brauchte mehr Speicher, als ihr Profil hat (1 GB)" in page
    assert "Die letzten Zeilen im Protokoll des Jobs 7:" in page
    assert english(page, "OUT_OF_MEMORY") == []


async def test_page_of_a_start_has_no_english_text(hub: Hub, german: Browser, waiting: HPCProfilesSpawner) -> None:
    page = await german.page("/hub/spawn-pending/alice")
    assert "Jobs mit höherer Priorität starten zuerst (Priority)" in page
    assert english(page, "(Priority)") == []
    assert english(await german.page("/hub/home"), "(Priority)") == []
    assert waiting.pending


async def test_events_of_a_start_are_german(german: Browser, waiting: HPCProfilesSpawner) -> None:
    stream = asyncio.ensure_future(german.page("/hub/api/users/alice/server/progress"))
    await asyncio.sleep(2)  # until the first events are sent, also on a busy machine
    interrupt(waiting)
    text = await stream
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    assert any("Ihr Job 7 wartet in der Warteschlange q von demo" in event["message"] for event in events)
    assert [event["message"] for event in events if ENGLISH & set(event["message"].lower().split())] == []


async def test_refused_choice_is_explained_in_german(german: Browser) -> None:
    page = await german.page("/hub/spawn")
    token = re.findall(r"_xsrf=([^\"&]*)", page)[0]
    response = await german.post(f"/hub/spawn?_xsrf={token}", {"profile": "gone"})
    assert response.code == 400
    assert english(response.body.decode()) == []
    response = await german.post("/hub/home", {"name": "x" * 100, "_xsrf": token})
    assert response.code == 400
    assert english(response.body.decode()) == []


async def test_api_errors_of_a_browser_are_german_and_the_log_is_english(
    hub: Hub, german: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    hub.runtime.guard.fault = "disk full"
    page = await german.page("/hub/spawn")
    token = (re.findall(r"_xsrf=([^\"&]*)", page) or [""])[0]
    response = await german.post(f"/hub/spawn?_xsrf={token}", {"profile": "small"})
    assert response.code == 503
    assert "Der Dienst hat zurzeit ein Problem mit seiner Datenbank." in response.body.decode()
    assert "The service has a problem with its database" in caplog.text


async def test_error_of_a_form_that_cannot_be_shown_is_german(hub: Hub, german: Browser, tmp_path: Path) -> None:
    (tmp_path / "profiles.json").unlink()
    hub.runtime._profiles._content = None
    response = await german.get("/hub/spawn")
    assert response.code == 503
    assert "Die Liste der Profile kann zurzeit nicht gelesen werden." in response.body.decode()
    assert english(response.body.decode()) == []


async def test_values_are_escaped_in_german(hub: Hub, german: Browser, tmp_path: Path) -> None:
    write_profiles(tmp_path, profile("small", display_name=HOSTILE, description=HOSTILE))
    for path in ("/hub/home", "/hub/spawn", f"/hub/spawn?profile={HOSTILE.replace(' ', '%20').replace('&', '%26')}"):
        page = await german.page(path)
        assert "<script>alert" not in page
    assert "&lt;script&gt;alert(" in page


async def test_site_replaces_a_text_of_a_page(hub: Hub, german: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"Your sessions": {"de": "Meine <b>Notebooks</b>"}, "Sessions that ended in the last week": "x"}
    changed = Languages({"texts": texts, "language": "de"})
    monkeypatch.setattr(hub.runtime.languages, "_texts", changed._texts)
    assert "Meine &lt;b&gt;Notebooks&lt;/b&gt;" in await german.page("/hub/home")


def test_reasons_of_all_schedulers_are_german() -> None:
    german_texts = translations("de").gettext
    for name, scheduler in SCHEDULERS.items():
        for pattern, reason in scheduler.reasons:
            for text in (reason.words, reason.advice):
                if text:
                    assert isinstance(text, Message), (name, pattern)
                    shown = text.translated(german_texts)
                    assert not ENGLISH & set(re.findall(r"[a-z]+", shown.lower())), (name, shown)


def test_findings_of_the_doctor_are_german() -> None:
    contents: list[dict[str, Any]] = [
        {"home": "/home/a", "error": "ENOENT"},
        {"home": "/home/a", "quota": "files"},
        {"home": "/home/a", "error": "ENOSPC"},
        {"home": "/home/a", "error": "EACCES"},
    ]
    for content in contents:
        (finding,) = examine_home(content, "demo")
        for text in (finding.message, finding.advice):
            shown = text.translated(translations("de").gettext)  # type: ignore[attr-defined]
            assert not ENGLISH & set(re.findall(r"[a-z]+", shown.lower())), shown


def test_without_a_request_the_text_is_english() -> None:
    assert reader().language == "en"
    assert dataclasses.is_dataclass(reader())
