"""The pages for signing in and out, requested over HTTP from a real JupyterHub."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hub_app import encode_claims
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from tornado.httpclient import AsyncHTTPClient
from tornado.httputil import HTTPHeaders

from hpchub.cli.main import main
from hpchub.hub.authenticator import SSOLoginHandler
from hpchub.hub.identities import known_identities, release, take
from hpchub.hub.ledger import METADATA

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
        path: str, *names: str, groups: str | list[str] = "", cookie: str = "", post: str = "", received: str = ""
    ) -> HTTPResponse:
        headers = HTTPHeaders()
        if post:
            headers.add("Content-Type", post)
        for name in names:
            headers.add("X-Hpchub-User", name)
        if groups:
            headers.add("X-Hpchub-Userinfo", encode_claims(groups=groups))
        if received:
            sign_on = encode_claims(provider="oidc", claim="eppn", received=received)
            headers.add("X-Hpchub-Sign-On", sign_on)
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


async def login_cookie(get: Get) -> str:
    """Sign alice in, and return her cookies."""
    received = cookies(await get("login", "alice", groups="hpc"))
    return "; ".join(f"{name}={received[name]}" for name in ("jupyterhub-hub-login", "jupyterhub-session-id"))


@pytest.mark.parametrize(
    ("names", "groups"),
    [(["bob"], "hpc"), (["alice"], "students"), ([], "")],
    ids=["another user", "no permitted group any more", "no sign-on any more"],
)
@pytest.mark.parametrize("path", ["home", "spawn", "user/alice/lab", "api/user"])
async def test_login_that_the_sign_on_no_longer_confirms_is_refused_without_an_error(
    get: Get, caplog: pytest.LogCaptureFixture, path: str, names: list[str], groups: str
) -> None:
    cookie = await login_cookie(get)
    response = await get(path, *names, groups=groups, cookie=cookie)
    assert response.code in (302, 403)
    if response.code == 302:
        assert response.headers["Location"].startswith("/hub/login")
    assert not [record.message for record in caplog.records if record.levelno >= logging.ERROR]


async def test_logout_ends_the_login_and_then_the_single_sign_on(hub: Hub, get: Get) -> None:
    cookie = await login_cookie(get)
    session_id = cookie.partition("jupyterhub-session-id=")[2]
    assert (await get("home", "alice", groups="hpc", cookie=cookie)).code == 200
    response = await get("logout", "alice", groups="hpc", cookie=cookie)
    assert (response.code, response.headers["Location"]) == (302, "/logout")
    assert cookies(response)["jupyterhub-hub-login"] in ("", '""')
    assert hub.app.proxy.ended == [("alice", session_id)]


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


async def test_second_name_that_is_mapped_to_an_account_is_refused(
    hub: Hub, get: Get, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        assert (await get("login", "alice", groups="hpc", received="alice@one.org")).code == 302
    response = await get("login", "alice", groups="hpc", received="alice@two.org")
    assert response.code == 403
    assert "jupyterhub-hub-login" not in cookies(response)
    assert "You are signed in as alice@two.org" in response.body.decode()
    assert "account alice to 'alice@two.org' (claim eppn of provider oidc)" in caplog.text
    assert "belongs to 'alice@one.org'" in caplog.text
    assert "hpchub identities --release alice" in caplog.text
    release(hub.app.db, "alice")
    assert (await get("login", "alice", groups="hpc", received="alice@two.org")).code == 302
    assert (await get("login", "alice", groups="hpc", received="alice@one.org")).code == 403


async def test_login_of_the_first_name_does_not_serve_the_second_one(get: Get) -> None:
    """A browser may still have the hub's cookie when another person signs in to the single sign-on in it."""
    login = cookies(await get("login", "alice", groups="hpc", received="alice@one.org"))["jupyterhub-hub-login"]
    cookie = f"jupyterhub-hub-login={login}"
    assert (await get("home", "alice", groups="hpc", received="alice@one.org", cookie=cookie)).code == 200
    assert (await get("home", "alice", groups="hpc", received="alice@two.org", cookie=cookie)).code == 302
    assert (await get("api/user", "alice", groups="hpc", received="alice@two.org", cookie=cookie)).code == 403


@pytest.mark.parametrize("told", ["", "x", "bm8", "e30", "eyJyZWNlaXZlZCI6ICL/In0"], ids=repr)
async def test_user_is_refused_if_the_hub_cannot_read_who_it_is(hub: Hub, port: int, told: str) -> None:
    client = AsyncHTTPClient(force_instance=True)
    headers = {"X-Hpchub-User": "alice", "X-Hpchub-Userinfo": encode_claims(groups="hpc"), "X-Hpchub-Sign-On": told}
    url = f"http://127.0.0.1:{port}/hub/login"
    response = await client.fetch(url, headers=headers, follow_redirects=False, raise_error=False)
    client.close()
    assert response.code == 403
    assert "jupyterhub-hub-login" not in cookies(response)
    assert known_identities(hub.app.db) == []


async def test_refused_user_takes_no_account(hub: Hub, get: Get) -> None:
    assert (await get("login", "alice", groups="students", received="alice@two.org")).code == 403
    assert known_identities(hub.app.db) == []
    assert (await get("login", "alice", groups="hpc", received="alice@one.org")).code == 302


async def test_account_is_free_again_when_the_site_takes_the_name_from_another_claim(hub: Hub, get: Get) -> None:
    assert (await get("login", "alice", groups="hpc", received="alice@one.org")).code == 302
    take(hub.app.db, "alice", {"provider": "oidc", "claim": "mail", "received": "a@one.org"})
    assert [(each.claim, each.received) for each in known_identities(hub.app.db)] == [("mail", "a@one.org")]
    assert (await get("login", "alice", groups="hpc", received="alice@two.org")).code == 302


async def test_account_of_a_deleted_user_is_free(hub: Hub, get: Get) -> None:
    assert (await get("login", "alice", groups="hpc", received="alice@one.org")).code == 302
    hub.app.authenticator.delete_user(hub.user("alice"))
    assert known_identities(hub.app.db) == []


async def test_auth_state_contains_attributes_and_the_second_factor(hub: Hub) -> None:
    claims = {"department": "physics", "title": "Dr", "amr": ["otp"], "email": "a@x.org", "groups": ["hpc"]}
    state = hub.app.authenticator.identity_of("alice", claims)["auth_state"]
    assert state == {
        "mail": "a@x.org", "groups": ["hpc"], "attributes": {"department": "physics"},
        "second_factor": {"amr": ["otp"]}, "sign_on": {},
    }  # fmt: skip


def test_identities_are_listed_and_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    url = f"sqlite:///{tmp_path}/hub.sqlite"
    engine = create_engine(url)
    METADATA.create_all(engine)
    with Session(engine) as db:
        for name in ("alice", "bob"):
            take(db, name, {"provider": "saml", "claim": "eppn", "received": f"{name}@one.org"})
    monkeypatch.setattr("hpchub.cli.inventory.hub_settings", lambda: {"db_url": url})
    assert main(["identities"]) == 0
    assert [line.split()[:4] for line in capsys.readouterr().out.splitlines()[1:]] == [
        [name, "saml", "eppn", f"{name}@one.org"] for name in ("alice", "bob")
    ]
    assert main(["identities", "--release", "alice", "eve"]) == 2
    printed = capsys.readouterr()
    assert "alice" not in printed.out
    assert "account eve is not in the list" in printed.err
    engine.dispose()
