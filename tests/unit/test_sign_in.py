"""The pages for signing in and out, requested over HTTP from a real JupyterHub."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hub_app import encode_claims
from tornado.httpclient import AsyncHTTPClient
from tornado.httputil import HTTPHeaders

from hpchub.hub.authenticator import SSOLoginHandler

REVERSE_PROXY = Path(__file__).resolve().parents[2] / "roles" / "reverse_proxy" / "vars" / "main.yml"

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from hub_app import Hub
    from tornado.httpclient import HTTPResponse

    Get = Callable[..., Awaitable[HTTPResponse]]


@pytest.fixture
async def get(port: int) -> AsyncIterator[Get]:
    """Return a function that requests a page as Apache does: with the identity in headers. With ``post``, it posts."""
    client = AsyncHTTPClient(force_instance=True)

    async def request(
        path: str, *names: str, groups: str | list[str] = "", cookie: str = "", post: str = ""
    ) -> HTTPResponse:
        headers = HTTPHeaders()
        if post:
            headers.add("Content-Type", post)
        for name in names:
            headers.add("X-Hpchub-User", name)
        if groups:
            headers.add("X-Hpchub-Userinfo", encode_claims(groups=groups))
        if cookie:
            headers.add("Cookie", cookie)
        return await client.fetch(
            f"http://127.0.0.1:{port}/hub/{path}",
            method="POST" if post else "GET",
            body="{}" if post else None,
            headers=headers,
            follow_redirects=False,
            raise_error=False,
        )

    yield request
    client.close()


def cookies(response: HTTPResponse) -> dict[str, str]:
    """Return the cookies that a response sets."""
    found = (header.split(";")[0].partition("=") for header in response.headers.get_list("Set-Cookie"))
    return {name: value for name, _, value in found}


async def test_permitted_user_gets_a_login_cookie_and_is_sent_on(hub: Hub, get: Get) -> None:
    response = await get("login?next=/hub/home", "alice", groups="hpc")
    assert response.code == 302
    assert response.headers["Location"] == "/hub/home"
    assert cookies(response)["jupyterhub-hub-login"]
    assert [group.name for group in hub.user("alice").orm_user.groups] == ["hpc"]


@pytest.mark.parametrize(
    ("names", "groups", "message"),
    [
        ([], "hpc", "does not contain a valid account name"),
        (["alice", "bob"], "hpc", "does not contain a valid account name"),
        (["../alice"], "hpc", "does not contain a valid account name"),
        (["alice"], "students", "You are signed in as alice, and this account may not use the service."),
        (["root"], "hpc", "does not contain a valid account name"),
        (["daemon"], "hpc", "You are signed in as daemon, and this account may not use the service."),
    ],
    ids=["no name", "two names", "no account name", "no permitted group", "root", "system account"],
)
async def test_other_user_gets_an_explanation_and_no_cookie(
    get: Get, names: list[str], groups: str, message: str
) -> None:
    response = await get("login", *names, groups=groups)
    assert response.code == 403
    assert message in response.body.decode()
    assert "jupyterhub-hub-login" not in cookies(response)


async def test_logout_ends_the_login_and_then_the_single_sign_on(hub: Hub, get: Get) -> None:
    received = cookies(await get("login", "alice", groups="hpc"))
    cookie = "; ".join(f"{name}={received[name]}" for name in ("jupyterhub-hub-login", "jupyterhub-session-id"))
    assert (await get("home", "alice", groups="hpc", cookie=cookie)).code == 200
    response = await get("logout", "alice", groups="hpc", cookie=cookie)
    assert (response.code, response.headers["Location"]) == (302, "/logout")
    assert cookies(response)["jupyterhub-hub-login"] in ("", '""')
    assert hub.app.proxy.ended == [("alice", received["jupyterhub-session-id"])]


async def test_logout_closes_the_websockets_of_a_browser_without_a_login(hub: Hub, get: Get) -> None:
    response = await get("logout", "alice", groups="hpc")
    assert response.code == 302
    assert hub.app.proxy.ended == [("alice", None)]
    await get("logout")
    assert len(hub.app.proxy.ended) == 1


async def test_login_form_data_cannot_name_a_user(hub: Hub, get: Get) -> None:
    authenticator: Any = hub.app.authenticator
    handler: Any = SSOLoginHandler.__new__(SSOLoginHandler)
    handler.request = SimpleNamespace(headers=HTTPHeaders())
    assert await authenticator.authenticate(handler, {"username": "alice", "password": "x"}) is None
    assert (await get("login?username=alice", groups="hpc")).code == 403


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
async def test_identity_alone_creates_no_api_token(get: Get, content_type: str) -> None:
    """Hazard H22. Without this rule, a page of another site could create tokens for the user who opens it."""
    login = cookies(await get("login", "alice", groups="hpc"))["jupyterhub-hub-login"]
    cookie = f"jupyterhub-hub-login={login}"
    response = await get("api/users/alice/tokens", "alice", groups="hpc", cookie=cookie, post=content_type)
    assert response.code == 403


async def test_web_server_tells_the_tokens_of_browsers_and_programs_apart(hub: Hub) -> None:
    """Apache accepts a token of a browser only together with a sign-on. It knows these tokens by their length."""
    program = re.compile(yaml.safe_load(REVERSE_PROXY.read_text())["__reverse_proxy_program_token"])
    browser: str = hub.app.oauth_provider.tokens["Bearer"].token_generator(None)
    assert browser
    assert not program.fullmatch(browser)
    assert program.fullmatch(hub.user("alice").new_api_token())
