"""Requests that save a choice or a name for a server: what JupyterHub would save without a check."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hub_app import profile, write_profiles
from hub_browser import eventually

from hpchub.hub.session_names import KEPT
from hpchub.hub.start_error import StartError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from hub_app import Ask, Hub
    from hub_browser import Browser

    Send = Callable[..., Awaitable[tuple[int, str]]]

MANY = {"profile": "small", "fields": {f"field-{number}": "x" for number in range(2000)}}


@pytest.fixture
def send(hub: Hub, ask: Ask) -> Send:
    """Return a function that sends a request of Alice about one of her servers to the REST API."""
    token = hub.user().new_api_token()

    async def request(method: str, server: str, body: Any) -> tuple[int, str]:
        path = f"api/users/alice/servers/{server}" if server else "api/users/alice/server"
        content = json.dumps(body).encode()
        answered = await ask(path, method, content, Authorization=f"token {token}", Content_Type="application/json")
        return answered.code, answered.body.decode()

    return request


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize("server", ["", "genome"])
async def test_long_request_is_refused_and_not_saved(hub: Hub, send: Send, method: str, server: str) -> None:
    hub.user().get_or_create_spawner("old", "Old")
    code, text = await send(method, server, {"user_options": MANY})
    assert code == 413
    assert "At most 16384 bytes are possible." in text
    assert len(text) < 300
    assert [row.user_options for row in hub.user().orm_spawners.values() if row.user_options] == []


async def test_long_form_is_refused(browser: Browser) -> None:
    (xsrf, *_) = re.findall(r"_xsrf=([^\"&]*)", await browser.page("/hub/spawn"))
    response = await browser.post(f"/hub/spawn?_xsrf={xsrf}", {"profile": "small", "cores": "1" * 300_000})
    assert response.code == 413
    assert "</html>" in response.body.decode()


@pytest.mark.parametrize(
    "options",
    [
        {"profile": "nope"},
        {"profile": "small", "more": 1},
        {"profile": "small", "fields": {"nope": 1}},
        {"profile": "small", "fields": {"cores": {"a": 1}}},
        {"profile": ["small"]},
    ],
    ids=str,
)
async def test_choice_that_is_not_valid_is_not_saved(hub: Hub, send: Send, options: dict[str, Any]) -> None:
    assert (await send("PUT", "genome", {"user_options": options}))[0] == 400
    assert not getattr(hub.user().orm_spawners.get("genome"), "user_options", None)
    assert (await send("PUT", "genome", {}))[0] == 201
    assert (await send("PATCH", "genome", {"user_options": options}))[0] == 400
    assert not hub.user().orm_spawners["genome"].user_options


async def test_choice_is_saved_in_its_canonical_form(hub: Hub, send: Send, tmp_path: Path) -> None:
    write_profiles(tmp_path, profile("small", adjustable={"cores": {"max": 4}}))
    given = {"profile": "small", "fields": {"cores": 2}, "without_settings": False}
    assert (await send("PUT", "genome", {"display_name": "Genome", "user_options": given}))[0] == 201
    assert hub.user().orm_spawners["genome"].user_options == {"profile": "small", "fields": {"cores": "2"}}
    given["fields"] = {"cores": 3}
    assert (await send("PATCH", "genome", {"user_options": given}))[0] == 200
    assert hub.user().orm_spawners["genome"].user_options == {"profile": "small", "fields": {"cores": "3"}}


@pytest.mark.parametrize(
    "body",
    [["a"], "a", {"name": ["a"]}, {"display_name": ["a"]}, {"name": "second", "display_name": {}}, {"nope": 1}, {}],
    ids=str,
)
async def test_change_that_is_not_valid_is_refused(hub: Hub, send: Send, body: Any) -> None:
    assert (await send("PUT", "genome", {}))[0] == 201
    assert (await send("PATCH", "genome", body))[0] == 400
    assert set(hub.user().orm_spawners) <= {"", "genome"}


async def test_form_reads_only_known_values_of_the_last_choice(hub: Hub) -> None:
    spawner = hub.user().spawners[""]
    spawner.orm_spawner.user_options = {
        "profile": "small" * 1000,
        "fields": {**MANY["fields"], "cores": "9" * 5000},  # type: ignore[dict-item]
    }
    key, fields = spawner._last_start()
    assert (len(key), list(fields), len(fields["cores"])) == (300, ["cores"], 300)


async def test_link_of_another_site_forgets_no_names(hub: Hub, browser: Browser) -> None:
    user = hub.user()
    for number in range(KEPT):
        user.get_or_create_spawner(f"mine-{number}", f"Mine {number}")
    before = set(user.orm_spawners)
    foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Referer": "https://evil.example/"}
    for number in range(3):
        response = await browser.get(f"/hub/spawn/alice/evil-{number}", **foreign)
        assert response.code == 200
    assert set(user.orm_spawners) - {""} == before - {""}


async def test_form_starts_a_session_although_there_are_many_names(hub: Hub, browser: Browser) -> None:
    user = hub.user()
    for number in range(KEPT):
        user.get_or_create_spawner(f"mine-{number}", f"Mine {number}")
    page = await browser.page("/hub/spawn/alice/new?display_name=New%20One")
    (action, *_) = re.findall(r'action="([^"]*_xsrf=[^"]*)"', page)
    response = await browser.post(action.replace("&amp;", "&"), {"profile": "small"})
    assert response.code == 302
    assert user.orm_spawners["new"].display_name == "New One"
    assert len(set(user.orm_spawners) - {""}) == KEPT
    await eventually(lambda: hub.gate.submissions)
    await eventually(lambda: not user.spawners["new"].active or user.spawners["new"].session)


async def test_refused_form_does_not_keep_its_request(hub: Hub, browser: Browser) -> None:
    (xsrf, *_) = re.findall(r"_xsrf=([^\"&]*)", await browser.page("/hub/spawn"))
    assert (await browser.post(f"/hub/spawn/alice/genome?_xsrf={xsrf}", {"profile": "none"})).code == 400
    assert hub.user().spawners["genome"].handler is None


async def test_hidden_profile_is_not_named_while_groups_are_unknown(hub: Hub, tmp_path: Path) -> None:
    write_profiles(tmp_path, profile("small"), profile("secret", unix_groups=["nobody-is-in"]))
    spawner = hub.user().spawners[""]
    assert spawner.person.unix_groups is None
    refused: list[Any] = [{"profile": "none"}, {"profile": "small", "more": 1}, []]
    for options in refused:
        with pytest.raises(StartError) as caught:
            spawner.checked(options)
        assert "small" in str(caught.value)
        assert "secret" not in str(caught.value)
