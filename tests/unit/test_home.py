"""The home page: the user's sessions, the ended ones, the last choice, and names for new sessions."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import re
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from hub_app import GRANT, PORTS, Hub, after, job, profile, signed_on, write_notices, write_profiles
from hub_browser import eventually, form
from jupyterhub import orm
from sqlalchemy import delete, event, insert, inspect, text, update

from hpchub.hub.history import LONGEST, past_sessions
from hpchub.hub.ledger import EVENTS, Ledger
from hpchub.hub.outcome import Outcome
from hpchub.hub.unix_groups import UnixGroups
from hpchub.schedulers import JobState
from hpchub.schedulers.knowledge import Account, Allocations

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from hub_app import Ask
    from hub_browser import Browser
    from tornado.httpclient import HTTPResponse

    from hpchub.hub.profiles_spawner import HPCProfilesSpawner

    Visit = Callable[..., Awaitable[HTTPResponse]]

HOUR = 3600.0


@pytest.fixture
async def cookie(hub: Hub, ask: Ask) -> str:
    hub.app.authenticator.allowed_users = {"alice"}
    response = await ask("login", **signed_on("alice"))
    assert response.headers["Location"] == "/hub/home"
    return "; ".join(header.split(";")[0] for header in response.headers.get_list("Set-Cookie"))


@pytest.fixture
def visit(ask: Ask, cookie: str) -> Visit:
    """Return a function that opens the home page as alice, or posts the form with a name."""

    async def request(name: str | None = None, path: str = "home") -> HTTPResponse:
        xsrf = re.search(r"_xsrf=([^;]*)", cookie)
        assert xsrf is not None
        body = None if name is None else urlencode({"_xsrf": xsrf[1], "name": name}, errors="surrogatepass").encode()
        return await ask(
            path,
            "GET" if name is None else "POST",
            body,
            **signed_on("alice"),
            Cookie=cookie,
            Sec_Fetch_Mode="navigate",
            Sec_Fetch_Site="same-origin",
        )

    return request


def going(hub: Hub, name: str = "", session: str = "a" * 16, *, shown: str = "", **changes: Any) -> Any:
    """Save a session that goes on, and return its spawner."""
    user = hub.user()
    row = user.orm_spawners.get(name)
    if row is None:
        row = orm.Spawner(name=name, display_name=shown or name, user=user.orm_user)
        hub.app.db.add(row)
    row.server = orm.Server(proto="https", ip="127.0.0.1", port=PORTS["first"], base_url=f"/user/alice/{name}")
    state = {"session": session, "job_id": session[:3], "submitted": 1.0, "started": time.time(), "port": 20000}
    grant = {**GRANT, "profile": {**GRANT["profile"], **changes}}
    row.state = {"grant": grant, "job": {**state, "host": "n1.example"}, "token": session}
    hub.app.db.commit()
    hub.jobs.append(job(job_id=session[:3], session=session))
    user.spawners.pop(name, None)
    return user.spawners[name]


def ended(hub: Hub, session: str, at: float, reason: str = "stopped", *, user: str = "alice", **more: Any) -> None:
    """Record a session that is over in the event table."""
    name = hub.runtime.recorder.name_of(user)
    rows: list[dict[str, Any]] = [
        {"kind": "requested", "at": at - HOUR, "user": name, "profile": "small", "cluster": "demo", **more},
        {"kind": "submitted", "at": at - HOUR, "job_id": "99"},
        {"kind": "failed" if reason == "not_started" else "ended", "at": at, "reason": reason},
    ]
    if reason not in ("stopped", "not_started", "unknown"):
        rows[-1]["reason"] = "unknown"
        rows.append({"kind": "explained", "at": at + 1, "reason": reason})
    for row in rows:
        hub.app.db.execute(insert(EVENTS).values(session=session, **row))
    hub.app.db.commit()


def cards(page: str) -> dict[str, str]:
    """Return the state of each session on the page, by the name of its server."""
    return dict(re.findall(r'data-server="([^"]*)" data-state="([^"]*)"', page))


# -- Sessions


async def test_page_of_a_new_user_offers_a_start(visit: Visit) -> None:
    page = (await visit()).body.decode()
    assert "You have no running session." in page
    assert cards(page) == {}
    assert 'id="start"' in page
    assert 'id="quick-start"' not in page
    assert 'data-pending=""' in page


async def test_cards_show_each_session_with_its_facts(hub: Hub, visit: Visit) -> None:
    going(hub, session="a" * 16)
    going(hub, "genome", "b" * 16, shown="Genome <Run>", cores=4, memory="8G", display_name="Big")
    page = (await visit()).body.decode()
    assert cards(page) == {"": "running", "genome": "running"}
    assert "Genome &lt;Run&gt;" in page
    assert "<Run>" not in page
    card = page[page.index('data-server="genome"') :]
    for part in ("Big", "4 cores, 8 GB memory", "demo", "127.0.0.1", "bbb", 'data-ends="', "Time left"):
        assert part in card
    assert 'href="/user/alice/genome/"' in card
    assert 'data-url="/hub/api/users/alice/servers/genome"' in card
    assert 'href="/user/alice/"' in page
    assert 'data-url="/hub/api/users/alice/server"' in page
    assert 'data-pending=""' in page


async def test_card_shows_the_resources_of_each_node(hub: Hub, visit: Visit) -> None:
    going(hub, "", "a" * 16, nodes=2, cores=4, memory="8G", gpus=1)
    page = re.sub(r"\s+", " ", (await visit()).body.decode())
    assert "2 nodes \N{MULTIPLICATION SIGN} 4 cores, 8 GB memory per node, 1 GPU per node" in page


async def test_card_of_a_start_shows_what_happens(hub: Hub, visit: Visit) -> None:
    spawner = going(hub, "genome", "b" * 16)
    spawner.child_spawner.driver.state = dataclasses.replace(
        spawner.child_spawner.driver.state, host="", started=0.0, message="Your job 7 waits: <b>busy</b>."
    )
    spawner._spawn_pending = True
    page = (await visit()).body.decode()
    spawner._spawn_pending = False
    assert cards(page) == {"genome": "starting"}
    assert "Your job 7 waits: &lt;b&gt;busy&lt;/b&gt;." in page
    assert 'href="/hub/spawn-pending/alice/genome"' in page
    assert 'data-pending="yes"' in page
    assert ">Cancel<" in page


async def test_session_of_another_user_is_not_shown(hub: Hub, visit: Visit) -> None:
    hub.user("bob")
    ended(hub, "f" * 16, time.time() - 60, user="bob")
    assert "job 99" not in (await visit()).body.decode()


async def test_session_that_has_ended_is_noticed(hub: Hub, visit: Visit) -> None:
    spawner = going(hub)
    hub.show(job(JobState.ENDED, job_id="aaa", session="a" * 16))
    spawner.add_poll_callback(lambda: asyncio.ensure_future(hub.user().stop("")))
    await visit()
    async with asyncio.timeout(30):
        while cards((await visit()).body.decode()):  # noqa: ASYNC110 as a browser does
            await asyncio.sleep(0.02)


async def test_full_page_explains_the_limit_and_offers_no_start(hub: Hub, visit: Visit) -> None:
    hub.runtime.settings["max_sessions"] = 1
    going(hub)
    ended(hub, "c" * 16, time.time() - 60)
    page = (await visit()).body.decode()
    assert "You have 1 of the 1 sessions that you can have at once." in page
    assert 'id="session-name"' not in page
    assert ">Start again" not in page


async def test_notices_are_shown(hub: Hub, visit: Visit, tmp_path: Path) -> None:
    write_notices(tmp_path, {"from": after(60), "until": after(3600), "message": "New <disks>."})
    page = (await visit()).body.decode()
    assert "New &lt;disks&gt;." in page


@pytest.mark.parametrize("name", ["", "genome"])
async def test_session_can_be_stopped_without_scripts(hub: Hub, browser: Browser, name: str) -> None:
    going(hub)
    going(hub, "genome", "b" * 16)
    page = await browser.page("/hub/home")
    assert '<meta http-equiv="refresh"' not in page
    response = await browser.post(*form(page, f"stop{'-' if name else ''}{name}"))
    assert (response.code, response.headers["Location"]) == (302, "/hub/home")
    job_id, other = ("bbb", "aaa") if name else ("aaa", "bbb")
    await eventually(lambda: hub.gate.cancelled == [job_id])
    assert [each.id for each in hub.jobs] == [other]
    await eventually(lambda: not hub.user().spawners[name].active)
    assert "You stopped your session." in await browser.page("/hub/home")


async def test_start_can_be_cancelled_on_the_page_without_scripts(
    hub: Hub, browser: Browser, waiting: HPCProfilesSpawner
) -> None:
    page = await browser.page("/hub/home")
    assert '<noscript><meta http-equiv="refresh" content="15"></noscript>' in page
    assert (await browser.post(*form(page, "stop"))).code == 302
    await eventually(lambda: hub.gate.cancelled == ["7"])
    assert waiting.stopped_by == "alice"


async def test_stop_needs_the_token_and_the_right(hub: Hub, browser: Browser) -> None:
    going(hub)
    hub.user("bob")
    _, fields = form(await browser.page("/hub/home"), "stop")
    assert (await browser.post("/hub/stop/alice", {})).code == 403
    assert (await browser.get("/hub/stop/alice")).code == 405
    for path in ("bob", "nobody", "alice/other"):
        assert (await browser.post(f"/hub/stop/{path}", fields)).code == 404
    assert hub.gate.cancelled == []


# -- Ended sessions


CAUSES = {
    "stopped": "You or the service stopped it.",
    "not_started": "It did not start.",
    "time_limit": "It reached its time limit. Choose a longer run time",
    "out_of_memory": "It needed more memory than its profile has, so it was ended. Choose a profile with more",
    "finished": "It was shut down from within",
    "failed": "Its program ended with an error.",
    "killed": "Its program was ended by force.",
    "node_lost": "Its node failed.",
    "cancelled": "It was cancelled, but not through this service.",
    "preempted": "Its node was needed for others.",
    "unknown": "It is not known why it ended.",
}


@pytest.mark.parametrize("pseudonyms", [True, False])
@pytest.mark.parametrize("cause", CAUSES)
async def test_ended_session_is_explained_from_the_event_table(
    hub: Hub, visit: Visit, cause: str, pseudonyms: bool
) -> None:
    if not pseudonyms:
        hub.runtime.recorder._key_file = None
    ended(hub, "c" * 16, time.time() - HOUR, cause)
    page = re.sub(r"\s+", " ", (await visit()).body.decode())
    assert CAUSES[cause] in page
    assert "job 99 on the cluster demo" in page
    assert 'href="/hub/spawn/alice?profile=small"' in page


@pytest.mark.parametrize(
    ("kind", "reason", "words"),
    [
        ("ended", "stopped:user", "You stopped it."),
        ("ended", "stopped:idle", "nobody used it for a long time."),
        ("ended", "stopped:drain", "The service stopped it because of a maintenance."),
        ("ended", "stopped:other", "An administrator or another service stopped it."),
        ("failed", "refused", "its request was not accepted."),
        ("failed", "waited", "it waited for too long."),
        ("failed", "no_answer", "the service could not reach its notebook server."),
        ("failed", "problem", "It did not start."),
    ],
)
async def test_earlier_session_tells_why_it_ended(hub: Hub, visit: Visit, kind: str, reason: str, words: str) -> None:
    ended(hub, "c" * 16, time.time() - HOUR, reason)
    hub.app.db.execute(update(EVENTS).where(EVENTS.c.kind == "ended").values(kind=kind, reason=reason))
    hub.app.db.execute(delete(EVENTS).where(EVENTS.c.kind == "explained"))
    hub.app.db.commit()
    page = re.sub(r"\s+", " ", (await visit()).body.decode())
    assert words in page
    assert ("Did not start<" in page) is (kind == "failed")


@pytest.mark.parametrize("pseudonyms", [True, False])
async def test_earlier_session_has_the_name_that_its_user_chose(hub: Hub, visit: Visit, pseudonyms: bool) -> None:
    if not pseudonyms:
        hub.runtime.recorder._key_file = None
    user = hub.user()
    user.get_or_create_spawner("genome", "Genome <Run>")
    key = hub.runtime.recorder.server_of("alice", "genome")
    assert ("genome" in key) is not pseudonyms
    ended(hub, "c" * 16, time.time() - HOUR)
    hub.app.db.execute(update(EVENTS).where(EVENTS.c.kind == "requested").values(reason=key))
    hub.app.db.commit()
    page = (await visit()).body.decode()
    item = page[page.index('class="hpchub-ended') :]
    assert "Genome &lt;Run&gt;" in item
    assert 'href="/hub/spawn/alice/genome?profile=small&amp;again=on"' in item


async def test_memory_of_the_hub_has_the_better_words(hub: Hub, visit: Visit) -> None:
    ended(hub, "c" * 16, time.time() - 60, "cancelled")
    user = hub.user()
    spawner = user.get_or_create_spawner("genome", "Genome Run")
    outcome = Outcome(
        "c" * 16, "cancelled", "<b>bob</b> cancelled it.", time.time() - 60, "99", "demo", profile="small"
    )
    spawner.memory._save(outcome)
    page = re.sub(r"\s+", " ", (await visit()).body.decode())
    assert "&lt;b&gt;bob&lt;/b&gt; cancelled it." in page
    assert "Its job was cancelled" not in page
    assert page.count('class="hpchub-ended') == 1
    assert 'href="/hub/spawn/alice/genome?profile=small&amp;again=on"' in page


@pytest.mark.parametrize("name", ["", "genome"])
@pytest.mark.parametrize("field", ["", "cores"])
async def test_details_of_the_last_session_can_be_read_again(hub: Hub, browser: Browser, name: str, field: str) -> None:
    user = hub.user()
    user.get_or_create_spawner(name, name).memory._save(
        Outcome("c" * 16, "failed", "It has failed.", time.time(), "7", "demo", log=("the last line",), field=field)
    )
    user.spawners.pop(name, None)  # as JupyterHub does when a session with a name has ended
    path = f"/hub/spawn{'/alice/' if name else ''}{name}"
    for address in ("/hub/home", path):
        links = re.findall(r'class="hpchub-details[^>]*href="([^"]*)"', await browser.page(address))
        assert links == ([] if field else [f"/hub/spawn-pending/alice{'/' if name else ''}{name}"])
        user.spawners.pop(name, None)
    for link in links:
        page = await browser.page(link)
        assert "It has failed." in page
        assert "the last line" in page


async def test_end_that_is_not_recorded_yet_is_shown_from_memory(hub: Hub, visit: Visit) -> None:
    hub.user().spawners[""].memory._save(Outcome("c" * 16, "time_limit", "Time is over.", time.time(), "7", "demo"))
    page = (await visit()).body.decode()
    assert "Time is over." in page


async def test_old_ends_of_others_and_sessions_that_go_on_are_not_shown(hub: Hub, visit: Visit) -> None:
    ended(hub, "c" * 16, time.time() - 8 * 24 * HOUR)
    hub.user().spawners[""].memory._save(Outcome("d" * 16, "time_limit", "old", time.time() - 8 * 24 * HOUR))
    name = hub.runtime.recorder.name_of("alice")
    hub.app.db.execute(insert(EVENTS).values(session="e" * 16, kind="requested", at=time.time(), user=name))
    hub.app.db.commit()
    page = (await visit()).body.decode()
    assert "hpchub-ended" not in page


async def test_session_of_a_removed_profile_is_shown_without_a_start(hub: Hub, visit: Visit) -> None:
    ended(hub, "c" * 16, time.time() - 60, profile="gone")
    page = (await visit()).body.decode()
    assert "gone" in page
    assert ">Start again" not in page


async def test_page_works_while_the_event_table_cannot_be_read(hub: Hub, visit: Visit) -> None:
    hub.app.db.execute(text("DROP TABLE hpchub_events"))
    hub.app.db.commit()
    assert (await visit()).code == 200


def test_many_past_sessions_take_two_queries(hub: Hub) -> None:
    for number in range(LONGEST + 5):
        ended(hub, f"{number:016x}", time.time() - number)
    asked: list[str] = []
    engine = hub.app.db.get_bind()

    def count(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "hpchub_events" in statement:
            asked.append(statement)

    event.listen(engine, "before_cursor_execute", count)
    found = past_sessions(hub.app.db, hub.runtime.recorder.name_of("alice"), 0.0)
    assert (len(found), len(asked)) == (LONGEST, 2)
    assert [each.session for each in found[:2]] == [f"{0:016x}", f"{1:016x}"]


def test_database_of_an_older_version_gets_the_index(hub: Hub) -> None:
    hub.app.db.execute(text("DROP INDEX hpchub_events_user"))
    hub.app.db.commit()
    Ledger(hub.app.db)
    names = {index["name"] for index in inspect(hub.app.db.connection()).get_indexes("hpchub_events")}
    assert "hpchub_events_user" in names


# -- The quick start


async def test_last_choice_can_be_started_at_once(
    hub: Hub, visit: Visit, ask: Ask, cookie: str, tmp_path: Path
) -> None:
    constraints = {"node_constraint": {"choices": ["fast&big", ""]}}
    write_profiles(tmp_path, profile("small"), profile("big", cores=4, adjustable=constraints))
    user = hub.user()
    genome = user.get_or_create_spawner("genome", "Genome Run")
    for row, key, month in ((user.spawner.orm_spawner, "small", 1), (genome.orm_spawner, "big", 2)):
        fields = {"node_constraint": "fast&big"} if key == "big" else {}
        row.user_options = {"profile": key, "fields": fields}
        row.last_activity = dt.datetime(2026, month, 1)  # noqa: DTZ001 as in the database
    hub.app.db.commit()
    page = (await visit()).body.decode()
    assert re.search(r'<form class="hpchub-quick[^>]*action="/hub/spawn/alice/genome"', page)
    assert "features of the node fast&amp;big" in page
    assert "Your last choice: big" in page
    (action,) = re.findall(r'hpchub-quick[^>]*action="([^"]*)"', page)
    xsrf = re.search(r"_xsrf=([^;]*)", cookie)
    assert xsrf is not None
    answered = await ask(
        action.removeprefix("/hub/"),
        "POST",
        urlencode({"_xsrf": xsrf[1], "again": "on"}).encode(),
        **signed_on("alice"),
        Cookie=cookie,
        Sec_Fetch_Mode="navigate",
        Sec_Fetch_Site="same-origin",
    )
    assert answered.code == 302
    async with asyncio.timeout(30):
        while not hub.gate.submissions:  # noqa: ASYNC110 the fake offers no event
            await asyncio.sleep(0.01)
    assert hub.user().spawners["genome"].child_spawner.profile.key == "big"


@pytest.mark.parametrize(
    "options", [None, {}, {"profile": "gone"}, {"profile": ["small"]}, ["small"], {"profile": None}]
)
async def test_choice_that_is_not_offered_any_more_is_no_quick_start(hub: Hub, visit: Visit, options: Any) -> None:
    hub.user().spawner.orm_spawner.user_options = options
    hub.app.db.commit()
    response = await visit()
    assert response.code == 200
    assert 'id="quick-start"' not in response.body.decode()


async def test_drained_choice_is_no_quick_start(hub: Hub, visit: Visit, tmp_path: Path) -> None:
    hub.user().spawner.orm_spawner.user_options = {"profile": "small"}
    hub.app.db.commit()
    assert 'id="quick-start"' in (await visit()).body.decode()
    write_notices(tmp_path, {"from": after(-60), "until": after(3600)})
    assert 'id="quick-start"' not in (await visit()).body.decode()


def choose(hub: Hub, options: Any, name: str = "") -> None:
    """Record the last choice of alice."""
    spawner = hub.user().get_or_create_spawner(name, name)
    spawner.orm_spawner.user_options = options
    hub.app.db.commit()


@pytest.mark.parametrize("limits", [{"groups": ["staff"]}, {"users": ["bob"]}, {"unix_groups": ["staff"]}], ids=str)
async def test_profile_of_others_is_never_offered(
    hub: Hub, visit: Visit, tmp_path: Path, limits: dict[str, list[str]]
) -> None:
    hub.runtime.unix_groups = UnixGroups(lambda user: frozenset({"users"}))
    write_profiles(tmp_path, profile("small"), profile("secret", **limits))
    choose(hub, {"profile": "secret"})
    ended(hub, "c" * 16, time.time() - 60, profile="secret")
    page = (await visit()).body.decode()
    assert 'id="quick-start"' not in page
    assert ">Start again" not in page
    assert "hpchub-ended" in page


async def test_profile_of_a_group_is_offered_to_its_members(hub: Hub, visit: Visit, tmp_path: Path) -> None:
    hub.runtime.unix_groups = UnixGroups(lambda user: frozenset({"staff"}))
    write_profiles(tmp_path, profile("small"), profile("staffed", unix_groups=["staff"]))
    choose(hub, {"profile": "staffed"})
    ended(hub, "c" * 16, time.time() - 60, profile="staffed")
    page = (await visit()).body.decode()
    assert 'id="quick-start"' in page
    assert ">Start again" in page


@pytest.mark.parametrize("fields", [{"cores": "99"}, {"account": "other"}, {"queue": "q"}, ["cores"]], ids=str)
async def test_last_choice_with_values_that_are_refused_now_is_no_quick_start(
    hub: Hub, visit: Visit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: Any
) -> None:
    own = Allocations(time.time(), (Account("physics"),), "physics", (), ())
    know(hub, monkeypatch, own)
    write_profiles(tmp_path, profile("small", adjustable={"cores": {"max": 4}, "account": {}}))
    choose(hub, {"profile": "small", "fields": fields})
    page = (await visit()).body.decode()
    assert 'id="quick-start"' not in page
    choose(hub, {"profile": "small", "fields": {"cores": "4", "account": "physics"}})
    assert 'id="quick-start"' in (await visit()).body.decode()


async def test_profile_that_has_reached_its_limit_is_not_offered(hub: Hub, visit: Visit, tmp_path: Path) -> None:
    write_profiles(tmp_path, profile("small", max_sessions=1))
    choose(hub, {"profile": "small"})
    ended(hub, "c" * 16, time.time() - 60)
    assert 'id="quick-start"' in (await visit()).body.decode()
    going(hub, "genome", "b" * 16)
    page = (await visit()).body.decode()
    assert 'id="quick-start"' not in page
    assert ">Start again" not in page


async def test_earlier_choice_is_offered_if_the_last_one_is_refused(hub: Hub, visit: Visit, tmp_path: Path) -> None:
    write_profiles(tmp_path, profile("small"), profile("secret", users=["bob"]))
    for name, key, month in (("", "secret", 2), ("genome", "small", 1)):
        choose(hub, {"profile": key}, name)
        hub.user().orm_spawners[name].last_activity = dt.datetime(2026, month, 1)  # noqa: DTZ001 as in the database
    hub.app.db.commit()
    assert re.search(r'<form class="hpchub-quick[^>]*action="/hub/spawn/alice/genome"', (await visit()).body.decode())


async def test_earlier_choice_is_not_called_the_last_one(hub: Hub, visit: Visit, tmp_path: Path) -> None:
    write_profiles(tmp_path, profile("small"), profile("big", cores=4))
    going(hub)
    for name, key, month in (("", "small", 2), ("genome", "big", 1)):
        choose(hub, {"profile": key}, name)
        hub.user().orm_spawners[name].last_activity = dt.datetime(2026, month, 1)  # noqa: DTZ001 as in the database
    hub.app.db.commit()
    page = (await visit()).body.decode()
    assert "An earlier choice of yours: big" in page
    assert "Your last choice" not in page


# -- What the hub asks the cluster


def know(hub: Hub, monkeypatch: pytest.MonkeyPatch, own: Allocations | None = None) -> list[tuple[str, str]]:
    """Let the hub know something of its cluster. Return the users that the questions concern, each with the cluster."""
    asked: list[tuple[str, str]] = []

    def knowledge(cluster: str) -> Any:
        def allocations(user: str) -> Allocations | None:
            asked.append((cluster, user))
            return own

        return SimpleNamespace(allocations=allocations, availability=lambda: None, maintenances=lambda: ())

    monkeypatch.setattr(hub.runtime, "knowledge", knowledge)
    return asked


async def test_page_asks_early_for_what_the_form_will_show(
    hub: Hub, visit: Visit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_profiles(tmp_path, profile("small"), profile("big", cores=4))
    asked = know(hub, monkeypatch)
    await visit()
    assert asked == [("demo", "alice")]
    write_profiles(tmp_path, profile("secret", users=["bob"]))
    asked.clear()
    await visit()
    assert asked == []


# -- Names


async def test_name_leads_to_the_form_of_a_new_session_and_starts_nothing(hub: Hub, visit: Visit) -> None:
    response = await visit("Genome Run 3")
    assert (response.code, response.headers["Location"]) == (
        303,
        "/hub/spawn/alice/genome-run-3?display_name=Genome+Run+3",
    )
    assert (await visit("", path="home")).headers["Location"] == "/hub/spawn"
    assert hub.gate.submissions == []
    assert set(hub.user().orm_spawners) == {""}
    form = await visit(path=response.headers["Location"].removeprefix("/hub/"))
    assert form.code == 200
    assert hub.user().orm_spawners["genome-run-3"].display_name == "Genome Run 3"


async def test_session_beside_the_first_one_gets_a_name_if_the_user_gives_none(hub: Hub, visit: Visit) -> None:
    going(hub)
    assert (await visit("")).headers["Location"] == "/hub/spawn/alice/session-2?display_name=Session+2"


async def test_ended_session_can_be_started_beside_the_ones_that_go_on(hub: Hub, visit: Visit) -> None:
    going(hub)
    ended(hub, "c" * 16, time.time() - 60)
    page = (await visit()).body.decode()
    assert 'href="/hub/spawn/alice/session-2?display_name=Session+2&amp;profile=small"' in page


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x" * 10_000, "The name has 10000 characters. A name has at most 60."),
        ("lab", "already a part of the addresses in a session"),
        ("GENOME run", "You have a session with the similar name &#39;Genome Run&#39;."),
        ("Genome Run", "Your session &#39;Genome Run&#39; goes on."),
        ("a\u202e<b>", "The name contains a character that cannot be shown."),
    ],
    ids=lambda value: ascii(value)[:20],
)
async def test_bad_name_gets_a_message_beside_the_field(hub: Hub, visit: Visit, name: str, message: str) -> None:
    going(hub, "genome-run", shown="Genome Run")
    response = await visit(name)
    page = response.body.decode()
    assert response.code == 400
    assert message in page
    assert 'aria-describedby="session-name-help session-name-error"' in page
    assert "<b>" not in page.partition("<main")[2].partition("</main")[0]
    assert len(page) < 40_000


async def test_form_needs_the_token_of_the_page(ask: Ask, cookie: str) -> None:
    answered = await ask("home", "POST", b"name=x", **signed_on("alice"), Cookie=cookie)
    assert answered.code == 403
