"""The pages that people see: errors, tokens and administration, requested from a real JupyterHub."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hub_app import signed_on

if TYPE_CHECKING:
    from hub_app import Ask, Hub

HOME = re.compile(r'<a [^>]*href="/hub/home">Go to your home page</a>')


@pytest.fixture
async def cookie(hub: Hub, ask: Ask) -> str:
    """Return the login cookies of alice, who administers the hub."""
    hub.app.authenticator.admin_users = {"alice"}
    response = await ask("login", **signed_on("alice", "hpc"))
    assert response.code == 302
    return "; ".join(header.split(";")[0] for header in response.headers.get_list("Set-Cookie"))


@pytest.mark.parametrize(
    ("path", "code", "title"),
    [
        ("nothing/here", 404, "This page does not exist"),
        ("spawn/bob", 404, "This page does not exist"),
        ("accept-share?code=x", 404, "This page does not exist"),
        ("error/403", 200, "You may not open this page"),
        ("error/500", 200, "The service has a problem"),
        ("error/503", 200, "The service cannot do this at the moment"),
    ],
)
async def test_error_page_explains_itself_and_offers_a_way_back(
    ask: Ask, cookie: str, path: str, code: int, title: str
) -> None:
    response = await ask(path, **signed_on("alice", "hpc"), Cookie=cookie)
    page = response.body.decode()
    assert response.code == code
    assert f">{title}</h1>" in page
    assert HOME.search(page)
    assert "contact help@example.org" in page
    assert "moons" not in page


async def test_refused_sign_in_names_the_account(ask: Ask) -> None:
    response = await ask("login", **signed_on("alice", "others"))
    assert response.code == 403
    assert "You are signed in as alice, and this account may not use the service." in response.body.decode()


async def test_missing_permission_is_explained_without_scopes(hub: Hub, ask: Ask, cookie: str) -> None:
    hub.app.authenticator.admin_users = set()
    response = await ask("admin", **signed_on("alice", "hpc"), Cookie=cookie)
    page = response.body.decode()
    assert response.code == 403
    assert "<p>Your account has no permission for it.</p>" in page


async def test_token_page_selects_30_days_and_does_not_revoke_the_token_of_the_session(
    hub: Hub, ask: Ask, cookie: str
) -> None:
    user = hub.user()
    user.new_api_token(note="a script")
    user.new_api_token(note="Server at /user/alice/")
    response = await ask("token", **signed_on("alice", "hpc"), Cookie=cookie)
    page = response.body.decode()
    rows = {
        note: row
        for row in re.findall(r'<tr class="token-row.*?</tr>', page, re.DOTALL)
        for note in ("a script", "Server at /user/alice/")
        if f">{note}<" in row
    }
    assert "revoke-token-btn" in rows["a script"]
    assert "revoke-token-btn" not in rows["Server at /user/alice/"]
    assert "It becomes invalid when you stop the session." in rows["Server at /user/alice/"]
    assert re.findall(r'<option value="(\d*)"[^>]*selected', page) == ["2592000"]


async def test_admin_page_asks_twice_before_it_acts_on_other_people(ask: Ask, cookie: str) -> None:
    response = await ask("admin", **signed_on("alice", "hpc"), Cookie=cookie)
    page = response.body.decode()
    assert response.code == 200
    assert page.count("Are you sure?") == 2
    assert '".stop-all, #shutdown-button"' in page


@pytest.mark.parametrize(
    ("path", "missing"),
    [
        ("home", ""),
        ("spawn", ""),
        ("nothing/here", ""),
        ("spawn-pending/alice", ""),
        ("token", "you cannot create or revoke tokens"),
        ("admin", "This page does not work without it."),
    ],
)
async def test_page_without_scripts_says_only_what_is_missing(ask: Ask, cookie: str, path: str, missing: str) -> None:
    page = (await ask(path, **signed_on("alice", "hpc"), Cookie=cookie)).body.decode()
    parts = re.findall(r"<noscript>(.*?)</noscript>", page, re.DOTALL)
    assert any("#noscript { display: none" in part for part in parts)
    said = [part for part in parts if "hpchub-noscript" in part]
    assert len(said) == bool(missing)
    assert all(missing in part for part in said)
