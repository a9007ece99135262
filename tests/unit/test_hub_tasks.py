"""The hub's background tasks: the search for orphaned jobs, and the watch that restores the proxy's routes."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from hub_app import CLUSTER, SESSION, Hub, eventually, job
from jupyterhub.httpclient import JupyterHubHTTPClient
from jupyterhub.proxy import ConfigurableHTTPProxy

from hpchub.hub import proxy as hub_proxy
from hpchub.hub.certificates import server_name
from hpchub.hub.orphans import OrphanCollector
from hpchub.hub.proxy import BACKLOG, HubProxy
from hpchub.hub.runtime import Runtime
from hpchub.names import dns_label
from hpchub.schedulers import Unanswered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


# The search for orphaned jobs


@pytest.fixture
async def searches(hub: Hub) -> AsyncIterator[list[object]]:
    """Return the outcomes of the next searches, which a running collector uses up."""
    collector = OrphanCollector(hub.runtime, set, interval=0.01)
    outcomes: list[object] = []

    async def sweep(cluster: object) -> None:
        assert cluster == CLUSTER
        if outcomes and isinstance(outcome := outcomes.pop(0), Exception):
            raise outcome

    collector.sweep = sweep  # type: ignore[method-assign]
    task = asyncio.ensure_future(collector.run())
    yield outcomes
    task.cancel()


async def test_search_continues_after_any_failure(searches: list[object], caplog: pytest.LogCaptureFixture) -> None:
    searches += [RuntimeError("a mistake"), Unanswered("down"), None, OSError("no such gate"), None]
    await eventually(lambda: not searches)
    messages = [record.getMessage() for record in caplog.records if record.name == "hpchub.hub.orphans"]
    assert messages == [
        "The search for orphaned jobs failed: RuntimeError('a mistake')",
        "The search for orphaned jobs failed: OSError('no such gate')",
    ]


async def test_search_waits_for_a_valid_profile_list(
    hub: Hub, searches: list[object], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    valid = hub.runtime.profiles
    answers: list[Any] = [FileNotFoundError("profiles.json"), ValueError("not valid")]

    def profiles(_: Runtime) -> Any:
        if answers:
            raise answers.pop(0)
        return valid

    monkeypatch.setattr(Runtime, "profiles", property(profiles))
    searches.append(None)
    await eventually(lambda: not searches)
    messages = [record.getMessage() for record in caplog.records if record.name == "hpchub.hub.orphans"]
    assert messages == [
        "Cannot search for orphaned jobs without a valid profile list: profiles.json",
        "Cannot search for orphaned jobs without a valid profile list: not valid",
    ]


async def test_orphan_whose_cancellation_fails_is_cancelled_later(hub: Hub) -> None:
    collector = OrphanCollector(hub.runtime, set, max_age=60, grace=0)
    cancel = hub.gate.on_cancel
    hub.gate.on_cancel = lambda _: Unanswered("down")
    hub.end_session(SESSION)
    hub.show(job(session=SESSION))
    for _ in range(2):
        try:
            await collector.sweep(CLUSTER)
        except Unanswered:
            continue
    assert hub.gate.cancelled == []
    hub.gate.on_cancel = cancel
    await collector.sweep(CLUSTER)
    assert hub.gate.cancelled == ["7"]


# The watch for a restarted proxy


class Watched(HubProxy):
    """A hub proxy that records when it would restore the routes, and can fail to do so."""

    def __init__(self, socket: Path) -> None:
        super().__init__(api_url=f"http+unix://{quote(str(socket), safe='')}", watch_interval=0.01, auth_token="x")
        self.restored = 0
        self.failures = 0

    async def check_routes(self, user_dict: Any, service_dict: Any, routes: Any = None) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("the proxy does not listen yet")
        self.restored += 1


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[tuple[Watched, Path]]:
    socket = tmp_path / "api.sock"
    socket.write_text("first")
    proxy = Watched(socket)
    task = asyncio.ensure_future(proxy._watch({}, {}))
    await asyncio.sleep(0.05)
    yield proxy, socket
    task.cancel()


def restart(socket: Path) -> None:
    """Replace the socket, as a proxy does that starts."""
    fresh = socket.with_suffix(".new")
    fresh.write_text("")
    fresh.replace(socket)


async def test_routes_are_restored_once_after_each_restart(watched: tuple[Watched, Path]) -> None:
    proxy, socket = watched
    assert proxy.restored == 0
    for count in (1, 2):
        restart(socket)
        await eventually(lambda: proxy.restored == count)  # noqa: B023 the loop waits
        await asyncio.sleep(0.05)
        assert proxy.restored == count


async def test_proxy_that_is_down_is_awaited(watched: tuple[Watched, Path]) -> None:
    proxy, socket = watched
    socket.unlink()
    await asyncio.sleep(0.05)
    assert proxy.restored == 0
    restart(socket)
    await eventually(lambda: proxy.restored == 1)


async def test_failed_restoration_is_repeated(watched: tuple[Watched, Path], caplog: pytest.LogCaptureFixture) -> None:
    proxy, socket = watched
    proxy.failures = 2
    with caplog.at_level(logging.WARNING, "hpchub.hub.proxy"):
        restart(socket)
        await eventually(lambda: proxy.restored == 1)
    assert caplog.text.count("the proxy does not listen yet") == 2


async def test_first_check_of_the_routes_starts_the_tasks_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[object] = []

    async def check_routes(self: object, user_dict: object, service_dict: object, routes: object = None) -> None:
        checks.append(user_dict)

    started: list[str] = []

    def background(what: str, work: Any) -> None:
        started.append(what)
        work.close()

    backlogs: list[int] = []
    monkeypatch.setattr(ConfigurableHTTPProxy, "check_routes", check_routes)
    monkeypatch.setattr(hub_proxy, "runtime", lambda _: hub.runtime)
    monkeypatch.setattr(hub.runtime, "background", background)
    proxy = HubProxy(auth_token="x")
    listener = SimpleNamespace(listen=backlogs.append)
    proxy.app = SimpleNamespace(
        http_server=SimpleNamespace(_sockets={3: listener}),
        db=hub.app.db,
        authenticator=hub.app.authenticator,
        service_tokens={},
        token_expires_in_max_seconds=60,
    )
    spawner = SimpleNamespace(session=SESSION)
    users = {1: SimpleNamespace(spawners={"": spawner})}
    for _ in range(2):
        await proxy.check_routes(users, {})
    assert checks == [users, users]
    assert started == [
        "The recording of events has stopped",
        "The search for orphaned jobs has stopped",
        "The check of the database has stopped",
        "The drain watch has stopped",
        "The check of the versions has stopped",
        "The check of the tokens has stopped",
        "The proxy watch has stopped",
    ]
    assert backlogs == [BACKLOG]
    assert proxy._orphan_collector is not None
    assert proxy._orphan_collector._sessions() == {SESSION}


# The end of a browser's login


async def test_user_signs_off_even_if_the_proxy_does_not_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nobody = quote(str(tmp_path / "api.sock"), safe="")
    await HubProxy(api_url=f"http+unix://{nobody}", auth_token="x").end_login("alice", "abc")
    await JupyterHubHTTPClient.loop_instance().close()
    assert "Cannot close the websockets of alice, who has signed off" in caplog.text


@pytest.mark.parametrize(("user", "label"), [("alice", "alice"), ("ann@CL.ORG", dns_label("ann@CL.ORG"))])
async def test_route_names_the_label_in_the_servers_certificate(
    monkeypatch: pytest.MonkeyPatch, user: str, label: str
) -> None:
    routes: list[tuple[object, ...]] = []

    async def add_route(self: object, *route: object) -> None:
        routes.append(route)

    monkeypatch.setattr(ConfigurableHTTPProxy, "add_route", add_route)
    proxy = HubProxy(auth_token="x")
    await proxy.add_route("/user/x/", "https://n1:20000", {"user": user, "server_name": ""})
    await proxy.add_route("/", "http://hub", {"hub": True})
    assert routes == [
        ("/user/x/", "https://n1:20000", {"user": label, "server_name": ""}),
        ("/", "http://hub", {"hub": True}),
    ]
    assert server_name(user).startswith(f"{label}.")
