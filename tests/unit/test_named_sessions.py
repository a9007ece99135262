"""Several sessions of one user at the same time, in a real JupyterHub."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import pytest
from hub_app import (
    CLUSTER,
    GRANT,
    HUB,
    Hub,
    MemoryProxy,
    after,
    answer,
    job,
    profile,
    signed_on,
    write_notices,
    write_profiles,
)
from jupyterhub import orm
from jupyterhub.user import User
from tornado.httpclient import AsyncHTTPClient, HTTPRequest

from hpchub.hub.drains import DrainWatch
from hpchub.hub.job_events import PortReported
from hpchub.hub.memory import _facts
from hpchub.hub.name_routes import NameRoutes
from hpchub.hub.orphans import OrphanCollector
from hpchub.hub.outcome import Outcome
from hpchub.hub.proxy import _end_half_stopped_sessions
from hpchub.hub.session_names import KEPT
from hpchub.schedulers import Cause, Ending, JobState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from hub_app import Ask
    from tornado.httpclient import HTTPResponse

    from hpchub.hub.profiles_spawner import HPCProfilesSpawner


async def eventually(condition: Callable[[], object]) -> Any:
    """Wait until a condition is true, and return its value."""
    async with asyncio.timeout(30):
        while not (found := condition()):  # noqa: ASYNC110 the condition has no event
            await asyncio.sleep(0.005)
    return found


class Alice:
    """Alice, who uses the hub with a token: her requests, her sessions and their servers."""

    def __init__(self, hub: Hub, ask: Ask, port: int, ports: dict[str, int]) -> None:
        self.hub = hub
        self.port = port
        self.ports = ports
        self._ask = ask
        token = hub.user().new_api_token()
        self._headers = {"Authorization": f"token {token}", "Content_Type": "application/json"}
        self._jobs = 0
        hub.gate.on_submit = self._submit

    def _submit(self, session: str) -> Any:
        self._jobs += 1
        shown = job(job_id=str(self._jobs), session=session, database=self.hub.runtime.ledger.database)
        self.hub.jobs.append(shown)
        return answer(f"{self._jobs}\n")

    async def ask(self, path: str, method: str = "GET", body: Any = None) -> HTTPResponse:
        text = None if body is None else json.dumps(body).encode()
        if method in ("POST", "PUT", "PATCH") and text is None:
            text = b""
        if method == "DELETE" and text is not None:
            # Tornado's client sends no body with DELETE; JupyterHub's pages do.
            return await self._delete(f"api/{path}", text)
        return await self._ask(f"api/{path}", method, text, **self._headers)

    async def _delete(self, path: str, body: bytes) -> HTTPResponse:
        client = AsyncHTTPClient(force_instance=True)
        headers = {name.replace("_", "-"): value for name, value in self._headers.items()}
        request = HTTPRequest(
            f"http://127.0.0.1:{self.port}/hub/{path}", "DELETE", headers, body, allow_nonstandard_methods=True
        )
        return await client.fetch(request, raise_error=False)

    def _patience(self, seconds: float) -> None:
        """Set how long JupyterHub waits for a start before it answers a request."""
        self.hub.app.tornado_application.settings["slow_spawn_timeout"] = seconds

    async def refused(self, name: str = "", key: str = "small") -> tuple[int, str]:
        """Ask for a session that the hub refuses. Return the status and the message."""
        self._patience(20)
        answered = await self.ask(f"users/alice/servers/{name}", "POST", {"profile": key})
        return answered.code, str(json.loads(answered.body)["message"])

    async def begin(self, name: str = "", key: str = "small") -> HPCProfilesSpawner:
        """Ask for a session that the hub starts."""
        self._patience(0)
        # After a failed start, JupyterHub's answer is 201, although the session starts as well.
        assert (await self.ask(f"users/alice/servers/{name}", "POST", {"profile": key})).code in (201, 202)
        await eventually(lambda: self.spawner(name).session)
        return self.spawner(name)

    def spawner(self, name: str = "") -> HPCProfilesSpawner:
        found: HPCProfilesSpawner = self.hub.user().spawners[name]
        return found

    async def start(self, name: str = "", key: str = "small") -> HPCProfilesSpawner:
        """Start a session, and wait until it is ready."""
        spawner = await self.begin(name, key)
        await eventually(lambda: spawner.child_spawner and "runs on" in spawner.child_spawner.driver.state.message)
        secrets = next(each["secrets"] for each in self.hub.gate.submissions if each["session"] == spawner.session)
        body = json.dumps({"port": self.ports[name]}).encode()
        token = {"Authorization": f"token {secrets['JUPYTERHUB_API_TOKEN']}", "Content_Type": "application/json"}
        assert (await self._ask("api/batchspawner", "POST", body, **token)).code == 201
        await eventually(lambda: spawner.ready)
        return spawner

    async def idle(self, name: str = "") -> None:
        """Wait until a session is over."""
        await eventually(lambda: not self.spawner(name).active)

    async def stop(self, name: str = "") -> None:
        path = f"users/alice/servers/{name}"
        assert (await self.ask(path, "DELETE")).code in (202, 204)
        await self.idle(name)

    async def state(self, name: str = "") -> Any:
        """Return the answer of hpchub's own API about a session."""
        return json.loads((await self.ask(f"hpchub/sessions/alice{name and '/'}{name}")).body)


@pytest.fixture
async def ports(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[dict[str, int]]:
    """The ports of notebook servers, by the name of the session."""

    async def answers(self: User, spawner: HPCProfilesSpawner) -> None:
        spawner._waiting_for_response = spawner._start_pending = False

    monkeypatch.setattr(User, "_wait_up", answers)
    servers = {
        name: await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        for name in ("", "genome", "second")
    }
    yield {name: server.sockets[0].getsockname()[1] for name, server in servers.items()}
    for server in servers.values():
        server.close()


@pytest.fixture
def alice(hub: Hub, ask: Ask, port: int, ports: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> Alice:
    monkeypatch.setattr("hpchub.hub.handlers._is_notebook_port", lambda port, allowed: True)
    return Alice(hub, ask, port, ports)


# -- Starts, stops and their traces


async def test_sessions_have_their_own_routes_tokens_jobs_and_states(hub: Hub, alice: Alice) -> None:
    first, second = await alice.start(), await alice.start("genome")
    assert first.session != second.session
    assert hub.routes["/user/alice/"].endswith(f":{alice.ports['']}")
    assert hub.routes["/user/alice/genome/"].endswith(f":{alice.ports['genome']}")
    secrets = {each["session"]: each["secrets"] for each in hub.gate.submissions}
    assert secrets[first.session]["JUPYTERHUB_SERVICE_PREFIX"] == "/user/alice/"
    assert secrets[second.session]["JUPYTERHUB_SERVICE_PREFIX"] == "/user/alice/genome/"
    assert secrets[second.session]["JUPYTERHUB_SERVER_NAME"] == "genome"
    assert secrets[first.session]["JUPYTERHUB_API_TOKEN"] != secrets[second.session]["JUPYTERHUB_API_TOKEN"]
    assert (first.token, second.token) == tuple(
        orm.APIToken.find(hub.app.db, secrets[each.session]["JUPYTERHUB_API_TOKEN"]).hashed for each in (first, second)
    )
    assert (await alice.state())["state"] == (await alice.state("genome"))["state"] == "running"

    await alice.stop("genome")
    assert hub.gate.cancelled == ["2"]
    assert first.ready
    assert "/user/alice/" in hub.routes
    assert "/user/alice/genome/" not in hub.routes
    assert (await alice.state())["state"] == "running"
    found = await alice.state("genome")
    assert (found["state"], found["ending"]["cause"]) == ("ended", "stopped")
    assert "You stopped your session." in found["ending"]["text"]


async def test_token_of_a_session_reports_only_for_this_session(hub: Hub, alice: Alice) -> None:
    await alice.start()
    waiting = await alice.begin("genome")
    await eventually(lambda: waiting.child_spawner and waiting.child_spawner.job_id)
    own = hub.gate.submissions[0]["secrets"]["JUPYTERHUB_API_TOKEN"]
    refused = await alice._ask(
        "api/batchspawner",
        "POST",
        json.dumps({"port": alice.ports["second"]}).encode(),
        Authorization=f"token {own}",
        Content_Type="application/json",
    )
    assert refused.code == 409
    assert waiting.child_spawner.driver.state.port == 0


async def test_servers_of_a_session_may_not_read_the_state_of_another_one(hub: Hub, alice: Alice) -> None:
    await alice.start("genome")
    await alice.start()
    own = hub.gate.submissions[0]["secrets"]["JUPYTERHUB_API_TOKEN"]
    codes = [
        (await alice._ask(f"api/hpchub/sessions/alice{path}", Authorization=f"token {own}")).code
        for path in ("/genome", "")
    ]
    assert codes == [200, 404]


async def test_failed_start_of_one_session_leaves_the_others_alone(hub: Hub, alice: Alice) -> None:
    first = await alice.start()
    hub.gate.on_submit = lambda session: answer(code=1, stderr="sbatch: error: no money")
    code, message = await alice.refused("genome")
    assert (code, "no money" in message) == (400, True)
    await eventually(lambda: alice.spawner("genome").outcome)
    assert first.ready
    assert first.outcome is None
    found = await alice.state("genome")
    assert (found["state"], found["ending"]["cause"]) == ("ended", "not_started")
    stream = await alice.ask("users/alice/servers/genome/progress")
    assert b'"failed": true' in stream.body
    assert b"no money" in stream.body


async def test_audit_knows_who_stopped_a_named_session(hub: Hub, alice: Alice) -> None:
    found: list[Any] = []
    hub.runtime.events.subscribe(found.append)
    await alice.start("genome")
    await alice.stop("genome")
    assert [event.origin.by for event in found if type(event).__name__ == "StopRequested"] == ["alice"]


# -- Limits


async def test_user_has_at_most_the_permitted_number_of_sessions(hub: Hub, alice: Alice) -> None:
    hub.runtime.settings["max_sessions"] = 2
    await alice.start()
    await alice.start("genome")
    assert await alice.refused("second") == (
        409,
        "You have 2 sessions, and this service permits 2 at once. Stop a session on your home page first.",
    )
    assert len(hub.gate.submissions) == 2
    await alice.stop()
    await alice.begin("second")


async def test_profile_has_its_own_limit(hub: Hub, alice: Alice, tmp_path: Path) -> None:
    write_profiles(tmp_path, profile("small"), profile("big", cores=4, max_sessions=1))
    await alice.start("", "big")
    code, message = await alice.refused("genome", "big")
    assert code == 409
    assert "You have 1 session with the profile 'big', which permits 1 at once." in message
    await alice.begin("genome", "small")


async def test_limit_counts_starts_that_are_being_prepared(hub: Hub, alice: Alice) -> None:
    hub.runtime.settings["max_sessions"] = 1
    alice._patience(0)
    names = ("", "genome", "second")
    asked = [alice.ask(f"users/alice/servers/{name}", "POST", {"profile": "small"}) for name in names]
    assert {answered.code for answered in await asyncio.gather(*asked)} <= {202, 409}
    await eventually(lambda: sum(alice.spawner(name).active for name in names) == 1 and hub.gate.submissions)
    assert len(hub.gate.submissions) == 1
    assert [alice.spawner(name).held_profile for name in names].count("small") == 1


async def test_refused_and_failed_starts_do_not_count(hub: Hub, alice: Alice) -> None:
    hub.runtime.settings["max_sessions"] = 1
    hub.gate.on_submit = lambda session: answer(code=1, stderr="no")
    for name in ("", "genome", "", "genome"):
        assert (await alice.refused(name))[0] == 400
        await alice.idle(name)
        assert (await alice.refused(name, "none"))[0] == 400
    hub.gate.on_submit = alice._submit
    await alice.start("second")


async def test_start_that_fails_before_its_session_does_not_count(
    hub: Hub, alice: Alice, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.runtime.settings["max_sessions"] = 1

    def fail(self: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("jupyterhub.spawner.Spawner.run_pre_spawn_hook", fail)
    assert (await alice.refused())[0] == 500
    monkeypatch.undo()
    monkeypatch.setattr("hpchub.hub.handlers._is_notebook_port", lambda port, allowed: True)
    assert alice.spawner().held_profile == ""
    await alice.begin("genome")


async def test_form_says_that_the_limit_is_reached(hub: Hub, alice: Alice, ask: Ask) -> None:
    hub.runtime.settings["max_sessions"] = 1
    await alice.start()
    spawner = hub.user().get_or_create_spawner("genome", "Genome")
    with pytest.raises(Exception, match="You have 1 session, and this service permits 1 at once"):
        spawner.options_from_form({"profile": ["small"]})


async def test_sessions_go_on_and_can_be_stopped_after_the_limit_was_lowered(hub: Hub, alice: Alice) -> None:
    await alice.start()
    second = await alice.start("genome")
    hub.runtime.settings["max_sessions"] = 1
    assert second.ready
    await alice.stop("genome")
    assert (await alice.refused("genome"))[0] == 409


# -- Names


@pytest.mark.parametrize(
    "name",
    ["x" * 5000, "lab", "api", "Genome", "a%20b", "a%2Fb", "%2e%2e", "%00", "a--b", "-a", "ä", "%F0%9F%8E%89", "a%25"],
    ids=lambda name: name[:12],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_name_that_cannot_be_part_of_an_address_is_refused(
    hub: Hub, alice: Alice, name: str, method: str
) -> None:
    name = name if "%" in name else quote(name)
    refused = await alice.ask(f"users/alice/servers/{name}", method, {"profile": "small"})
    assert refused.code == 400
    message = json.loads(refused.body)["message"]
    assert "cannot be a part of a session's address" in message or "already a part of the addresses" in message
    assert len(message) < 300
    assert set(hub.user().orm_spawners) <= {""}
    assert hub.gate.submissions == []


@pytest.mark.parametrize("name", ["x" * 10_000, "x" * 61, "a\u202eb", "\x00", 5])
async def test_shown_name_that_is_not_valid_is_refused(hub: Hub, alice: Alice, name: Any) -> None:
    body = {"display_name": name, "user_options": {"profile": "small"}}
    refused = await alice.ask("users/alice/servers/genome", "POST", body)
    assert refused.code == 400
    assert len(json.loads(refused.body)["message"]) < 300
    assert hub.gate.submissions == []


@pytest.mark.parametrize("body", [{"name": "lab"}, {"name": "x" * 31}, {"name": 5}, {"display_name": "x" * 10_000}])
async def test_name_cannot_be_changed_into_a_bad_one(hub: Hub, alice: Alice, body: dict[str, Any]) -> None:
    assert (await alice.ask("users/alice/servers/genome", "PUT")).code == 201
    refused = await alice.ask("users/alice/servers/genome", "PATCH", body)
    assert refused.code == 400
    assert hub.user().orm_spawners["genome"].display_name == "genome"


async def test_new_name_keeps_what_the_hub_remembers_of_the_session(hub: Hub, alice: Alice) -> None:
    await alice.start("genome")
    await alice.stop("genome")
    changed = await alice.ask("users/alice/servers/genome", "PATCH", {"name": "second", "display_name": "Second"})
    assert changed.code == 200
    assert (await alice.state("second"))["ending"]["cause"] == "stopped"
    assert (await alice.ask("hpchub/sessions/alice/genome")).code == 404
    await alice.start("second")


async def test_hub_forgets_the_oldest_unused_name(hub: Hub, alice: Alice) -> None:
    await alice.start("genome")
    user = hub.user()
    for number in range(KEPT - 1):
        user.get_or_create_spawner(f"name-{number}", f"Name {number}")
        user.orm_spawners[f"name-{number}"].last_activity = dt.datetime(2026, 1, 1 + number)  # noqa: DTZ001 as in the database
    user.orm_spawners["genome"].last_activity = dt.datetime(2025, 1, 1)  # noqa: DTZ001 as in the database
    hub.app.db.commit()
    assert len(user.orm_spawners) == KEPT + 1
    await alice.start("second")
    names = set(hub.user().orm_spawners)
    assert "name-0" not in names
    assert {"", "genome", "second", "name-1"} <= names
    assert len(names) == KEPT + 1
    assert alice.spawner("genome").ready


async def test_removed_name_does_not_disturb_the_search_for_the_end(hub: Hub, alice: Alice) -> None:
    spawner = await alice.start("genome")
    memory, facts = spawner.memory, _facts(spawner.child_spawner)
    await alice.stop("genome")
    assert (await alice.ask("users/alice/servers/genome", "DELETE", {"remove": True})).code == 204
    memory._add(Ending(Cause.TIME_LIMIT), facts)
    assert "genome" not in hub.user().orm_spawners


# -- Pages


async def sign_in(hub: Hub, ask: Ask) -> str:
    hub.app.authenticator.allowed_users = {"alice"}
    response = await ask("login", **signed_on("alice"))
    return "; ".join(header.split(";")[0] for header in response.headers.get_list("Set-Cookie"))


async def test_form_of_a_named_session_starts_this_session(hub: Hub, ask: Ask, alice: Alice) -> None:
    cookie = await sign_in(hub, ask)
    page = await ask("spawn/alice/genome?display_name=Genome%20Run", **signed_on("alice"), Cookie=cookie)
    assert page.code == 200
    assert hub.user().orm_spawners["genome"].display_name == "Genome Run"
    xsrf = re.search(r"_xsrf=([^;]*)", cookie)
    assert xsrf is not None
    answered = await ask(
        "spawn/alice/genome?" + urlencode({"_xsrf": xsrf[1]}),
        "POST",
        urlencode({"profile": "small"}).encode(),
        **signed_on("alice"),
        Cookie=cookie,
        Sec_Fetch_Mode="navigate",
        Sec_Fetch_Site="same-origin",
    )
    assert (answered.code, answered.headers["Location"].partition("?")[0]) == (302, "/hub/spawn-pending/alice/genome")
    await eventually(lambda: hub.gate.submissions)
    assert alice.spawner("genome").session
    assert not alice.spawner("").session


async def test_refused_form_of_a_named_session_shows_this_sessions_page(
    hub: Hub, ask: Ask, alice: Alice, tmp_path: Path
) -> None:
    """JupyterHub renders the form of the session without a name."""
    cookie = await sign_in(hub, ask)
    await ask("spawn/alice/genome", **signed_on("alice"), Cookie=cookie)
    hub.user().orm_spawners["genome"].user_options = {"profile": "big"}
    hub.user().orm_spawners[""].user_options = {"profile": "small"}
    hub.app.db.commit()
    write_profiles(tmp_path, profile("small"), profile("big", cores=4))
    alice.spawner("genome").memory._save(Outcome("b" * 16, "time_limit", "text of genome", 1.0))
    alice.spawner("").memory._save(Outcome("c" * 16, "time_limit", "text of the other", 1.0))
    xsrf = re.search(r"_xsrf=([^;]*)", cookie)
    assert xsrf is not None
    for method, code in (("GET", 200), ("POST", 400)):
        answered = await ask(
            "spawn/alice/genome?" + urlencode({"_xsrf": xsrf[1]}) if method == "POST" else "spawn/alice/genome",
            method,
            urlencode({"profile": "none"}).encode() if method == "POST" else None,
            **signed_on("alice"),
            Cookie=cookie,
            Sec_Fetch_Mode="navigate",
            Sec_Fetch_Site="same-origin",
        )
        page = answered.body.decode()
        assert answered.code == code
        assert "text of the other" not in page
        assert ("text of genome" in page) is (method == "GET")
        assert re.search(r'value="big"[^>]*checked', page)


async def test_page_of_a_session_that_is_over_is_about_this_session(hub: Hub, ask: Ask, alice: Alice) -> None:
    await alice.start()
    await alice.start("genome")
    await alice.stop("genome")
    cookie = await sign_in(hub, ask)
    page = await ask("user/alice/genome/lab", **signed_on("alice"), Cookie=cookie, Accept="text/html")
    assert page.code == 424
    assert "You stopped your session." in page.body.decode()
    assert "/hub/spawn/alice/genome" in page.body.decode()


# -- Administrators, restarts and the background tasks


async def test_drain_stops_the_sessions_of_its_profiles_only(hub: Hub, alice: Alice, tmp_path: Path) -> None:
    write_profiles(tmp_path, profile("small"), profile("big", cores=4))
    first, second = await alice.start("", "small"), await alice.start("genome", "big")
    write_notices(tmp_path, {"from": after(-60), "until": after(3600), "stop_at": after(-1), "profile": "big"})
    watch = DrainWatch(hub.runtime, hub.app.users.values, hub.app.proxy.delete_user)
    await watch.apply(time.time())
    assert first.ready
    assert not second.ready
    assert "/user/alice/" in hub.routes
    assert "/user/alice/genome/" not in hub.routes
    assert (await alice.state("genome"))["ending"]["text"].startswith("The service stopped this session.")


def saved(hub: Hub, name: str, session: str, job_id: str, port: int) -> orm.Spawner:
    """Save a session that an earlier hub process has started."""
    user = hub.user()
    server = orm.Server(proto="https", ip="127.0.0.1", port=port, base_url=f"/user/alice/{name}{name and '/'}")
    row = user.orm_spawners.get(name) or orm.Spawner(name=name, display_name=name, user=user.orm_user)
    row.server = server
    state = {"session": session, "job_id": job_id, "submitted": 1.0, "started": 1.0, "host": "127.0.0.1", "port": port}
    row.state = {"grant": GRANT, "job": state, "token": f"hash of {session}"}
    hub.app.db.add(row)
    hub.app.db.commit()
    return row


async def test_restarted_hub_continues_all_sessions_of_a_user(hub: Hub, ports: dict[str, int], tmp_path: Path) -> None:
    hub.show(job(job_id="1", session="a" * 16), job(job_id="2", session="b" * 16))
    saved(hub, "", "a" * 16, "1", ports[""])
    saved(hub, "genome", "b" * 16, "2", ports["genome"])
    hub.app.users.pop(hub.user().id, None)
    hub.runtime.client_context = None  # type: ignore[assignment]
    await hub.app.init_spawners()
    user = hub.user()
    await eventually(lambda: user.spawners[""].ready and user.spawners["genome"].ready)
    assert [user.spawners[name].session for name in ("", "genome")] == ["a" * 16, "b" * 16]
    assert user.spawners["genome"].server.base_url == "/user/alice/genome/"
    assert hub.gate.cancelled == []
    # An orphan of the same user is still found, and the sessions are none.
    hub.end_session("d" * 16)
    database = hub.runtime.ledger.database
    hub.jobs.append(job(job_id="9", session="d" * 16, database=database))
    known = {spawner.session for each in hub.app.users.values() for spawner in each.spawners.values()}
    await OrphanCollector(hub.runtime, lambda: known, grace=0.0).sweep(CLUSTER)
    assert hub.gate.cancelled == ["9"]


async def test_session_that_was_half_stopped_is_finished_without_the_others(hub: Hub, ports: dict[str, int]) -> None:
    saved(hub, "", "a" * 16, "1", ports[""])
    row = saved(hub, "genome", "b" * 16, "2", ports["genome"])
    row.server = None
    hub.app.db.commit()
    _end_half_stopped_sessions(hub.app.db, hub.runtime.ledger)
    assert set(hub.runtime.ledger.ended(["a" * 16, "b" * 16])) == {"b" * 16}


async def test_tag_of_a_job_names_the_session_and_not_the_server(hub: Hub, alice: Alice) -> None:
    spawner = await alice.start("genome")
    script = hub.gate.submissions[0]["script"]
    assert f"hpchub/{HUB}~{hub.runtime.ledger.database}/alice/{spawner.session}" in script
    assert hub.jobs[0].state is JobState.RUNNING
    assert spawner.report(PortReported(1)) is False


# -- The routes of sessions that are over


class Routes(NameRoutes, MemoryProxy):
    """The mixin with a proxy that only remembers its routes."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.is_down = False

    async def add_route(self, routespec: str, target: str, data: dict[str, Any]) -> None:
        if self.is_down:
            raise OSError("down")
        await super().add_route(routespec, target, data)


@pytest.fixture
def routes(hub: Hub) -> Routes:
    proxy = Routes(app=hub.app, hub=hub.app.hub, log=hub.app.log)
    hub.app.proxy = proxy
    hub.app.tornado_application.settings["proxy"] = proxy
    return proxy


async def test_session_that_is_over_leads_to_the_hub_and_not_to_another_session(
    hub: Hub, routes: Routes, alice: Alice
) -> None:
    await alice.start("genome")
    await alice.stop("genome")
    assert "/user/alice/genome/" not in routes.routes  # everything leads to the hub
    await alice.start()
    assert routes.routes["/user/alice/genome/"] == hub.app.hub.host
    await alice.start("genome")
    assert routes.routes["/user/alice/genome/"].endswith(f":{alice.ports['genome']}")
    await alice.stop("genome")
    assert routes.routes["/user/alice/genome/"] == hub.app.hub.host
    assert routes.routes["/user/alice/"].endswith(f":{alice.ports['']}")


async def test_check_of_the_routes_restores_and_removes_them(hub: Hub, routes: Routes, alice: Alice) -> None:
    await alice.start()
    await alice.start("genome")
    await alice.stop("genome")
    routes.routes.clear()  # the proxy has restarted
    await routes.check_routes(hub.app.users, {})
    await routes.hold_all(hub.app.users)
    assert routes.routes["/user/alice/genome/"] == hub.app.hub.host
    await routes.check_routes(hub.app.users, {})
    assert "/user/alice/genome/" in routes.routes  # JupyterHub removes routes that it does not know
    assert (await alice.ask("users/alice/servers/genome", "DELETE", {"remove": True})).code == 204
    await routes.get_all_routes()
    await routes.hold_all(hub.app.users)
    assert set(routes.routes) >= {"/user/alice/"}
    assert "/user/alice/genome/" not in routes.routes


async def test_proxy_that_does_not_answer_prevents_no_stop(hub: Hub, routes: Routes, alice: Alice) -> None:
    await alice.start()
    await alice.start("genome")
    routes.is_down = True
    await alice.stop("genome")
    assert hub.gate.cancelled == ["2"]
