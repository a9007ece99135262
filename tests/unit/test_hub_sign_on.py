"""A hub that signs users in itself, over HTTP, with the stand-in for Globus."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pwd
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import hub_app
import pytest
from jupyterhub import orm
from lab_globus import identifier
from sign_on_app import SECRET, Provider, Visitor, message, providers, target
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from hpchub.hub import hub_sign_on, sign_on_settings
from hpchub.hub.account_requests import AccountRequests
from hpchub.hub.config import METRICS_TOKEN
from hpchub.hub.hub_sign_on import Person
from hpchub.hub.identities import describe, known_identities, other_owner, release, take
from hpchub.hub.unix_groups import Accounts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from hub_app import Hub

GROUP = "80bd1ba0-0000-0000-0000-000000000000"
PAGES = Path(__file__).parents[2] / "templates" / "pages"
UIDS = {"alice": 2001, "bob": 2002, "two": 2003, "twice": 2004, "carol": 2005, "root": 0, "alice2": 2006}


@pytest.fixture
def provider() -> Iterator[Provider]:
    yield from providers()


def own_settings(provider: Provider, **changes: Any) -> dict[str, Any]:
    """Return the settings of a sign-on with the stand-in."""
    return {
        "kind": "globus",
        "client_id": "hpchub",
        "ca_file": "",
        "login_hours": 12,
        "refresh_minutes": 5,
        "outage_hours": 4,
        "auth_url": provider.url,
        "groups_url": provider.url,
        "identity_providers": ["uni.example"],
        "tokens_for_sessions": False,
        **changes,
    }


async def make_hub(directory: Path, monkeypatch: pytest.MonkeyPatch, **own: Any) -> Hub:
    """Return a hub with the settings of a sign-on. The group hpc of the stand-in may sign in."""
    monkeypatch.setenv(sign_on_settings.SECRET, SECRET)
    access = hub_app.settings(directory, [])["access"] | {
        "allowed_groups": [identifier("hpc")],
        "user_pattern": r"[a-z0-9.@]+",
        "hub_accounts": True,
        "blocked_users": ["mallory"],
    }
    monkeypatch.setattr(pwd, "getpwnam", lambda name: SimpleNamespace(pw_name=name, pw_uid=UIDS[name]))
    return await hub_app.make_hub(
        directory, [str(PAGES)], changes={"sign_on": own, "access": access, "user_subdomains": True}
    )


@pytest.fixture
async def hub(tmp_path: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    started = await make_hub(tmp_path, monkeypatch, **own_settings(provider))
    yield started
    await started.close()


@pytest.fixture
def visitor(port: int) -> Visitor:
    return Visitor(port)


def expire_check(hub: Hub, name: str = "alice") -> None:
    """Let the next request ask the provider again."""
    hub.user(name)._auth_refreshed = None


def audited(hub: Hub) -> list[tuple[str, str]]:
    events = [json.loads(line) for line in Path(hub.audit.baseFilename).read_text().splitlines()]
    return [(event["event"], event["user"]) for event in events]


def give_away(hub: Hub, account: str) -> None:
    """Let the account belong to somebody else at the provider."""
    release(hub.app.db, account)
    take(hub.app.db, account, describe("globus", "somebody-else", account))


async def state_of(hub: Hub, name: str = "alice") -> dict[str, Any]:
    return await hub.user(name).get_auth_state() or {}


# -- the sign-in


async def test_user_signs_in_with_an_identity_of_the_permitted_provider(hub: Hub, visitor: Visitor) -> None:
    response = await visitor.sign_in("alice@uni.example")
    assert (response.code, response.headers["Location"]) == (302, "/hub/home")
    assert (await visitor.get("/hub/home")).code == 200
    state = await state_of(hub)
    assert state["mail"] == "alice@uni.example"
    assert state["token"]["refresh_token"]
    assert audited(hub) == [("signed_in", "alice")]


async def test_a_sign_in_needs_one_redirect_to_the_provider(visitor: Visitor) -> None:
    assert (await visitor.get("/hub/home")).headers["Location"].startswith("/hub/login?next=")
    page = await visitor.begin()
    query = parse_qs(urlsplit(page).query)
    assert query["code_challenge_method"] == ["S256"]
    assert query["redirect_uri"] == ["https://hub.example.org/hub/oauth_callback"]
    assert query["session_required_single_domain"] == ["uni.example"]


@pytest.mark.parametrize(
    ("identity", "text"),
    [
        ("alice@gmail.example", "Sign in to Globus with your identity of uni.example"),
        ("bob@gmail.example", "you have linked none of them"),
        ("root@uni.example", "is called &#34;root&#34;"),
        ("carol@uni.example", "You are signed in as carol, and this account may not use the service"),
    ],
)
async def test_other_people_are_refused_in_plain_words(
    hub: Hub, visitor: Visitor, identity: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    response = await visitor.sign_in(identity)
    assert response.code == 403
    assert text in message(response)
    assert "jupyterhub-hub-login" not in visitor.cookies
    assert hub.app.db.query(orm.User).count() == 0
    assert SECRET not in caplog.text


async def test_two_identities_of_the_provider_in_one_session_are_refused(visitor: Visitor) -> None:
    assert (await visitor.sign_in("two@uni.example")).code == 302
    second = Visitor(visitor.port, {"lab-globus": visitor.cookies["lab-globus"]})
    response = await second.sign_in("twice@uni.example")
    assert response.code == 403
    assert "several identities" in message(response)


async def test_name_that_the_provider_gives_to_somebody_else_is_refused(
    hub: Hub, visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    await visitor.sign_in("alice@uni.example")
    give_away(hub, "alice")
    other = Visitor(visitor.port)
    response = await other.sign_in("alice@uni.example")
    assert response.code == 403
    assert "Another account at the identity provider uses the name alice" in message(response)
    assert "jupyterhub-hub-login" not in other.cookies
    assert "delete the user" in caplog.text
    assert "somebody-else" in caplog.text
    assert ("sign_in_refused", "alice") in audited(hub)
    release(hub.app.db, "alice")
    assert (await other.sign_in("alice@uni.example")).code == 302


async def test_saved_state_does_not_decide_whose_the_account_is(hub: Hub, visitor: Visitor) -> None:
    """It is lost with the key of auth state, and at a logout."""
    await visitor.sign_in("alice@uni.example")
    give_away(hub, "alice")
    await hub.user().save_auth_state(None)
    assert (await Visitor(visitor.port).sign_in("alice@uni.example")).code == 403


async def test_login_ends_when_the_account_belongs_to_somebody_else(hub: Hub, visitor: Visitor) -> None:
    await visitor.sign_in("alice@uni.example")
    give_away(hub, "alice")
    expire_check(hub)
    assert (await visitor.get("/hub/home")).code == 302
    assert hub.app.proxy.ended == [("alice", None)]


async def test_released_account_needs_a_new_sign_in(hub: Hub, visitor: Visitor) -> None:
    """Otherwise two people would use it until the next check."""
    await visitor.sign_in("alice@uni.example")
    release(hub.app.db, "alice")
    expire_check(hub)
    assert (await visitor.get("/hub/home")).code == 302
    assert known_identities(hub.app.db) == []
    assert (await visitor.sign_in("alice@uni.example")).code == 302


async def test_second_person_cannot_take_an_account_during_the_sign_in_of_the_first(
    hub: Hub, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check of access may wait for other services, so the account can be taken meanwhile."""

    def take_first(_authenticator: Any, _handler: Any, identity: dict[str, Any]) -> dict[str, Any]:
        take(hub.app.db, "alice", {**identity["auth_state"]["sign_on"], "received": "somebody-else"})
        return identity

    monkeypatch.setattr(hub.app.authenticator, "post_auth_hook", take_first)
    response = await visitor.sign_in("alice@uni.example")
    assert response.code == 403
    assert "jupyterhub-hub-login" not in visitor.cookies
    assert hub.app.db.query(orm.User).count() == 0


async def test_refused_person_takes_no_account(hub: Hub, visitor: Visitor) -> None:
    assert (await visitor.sign_in("carol@uni.example")).code == 403
    assert known_identities(hub.app.db) == []


async def test_no_account_is_created_for_a_person_who_may_not_have_it(
    hub: Hub, visitor: Visitor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await visitor.sign_in("alice@uni.example")
    give_away(hub, "alice")
    monkeypatch.setattr(pwd, "getpwnam", {}.__getitem__)
    hub.app.authenticator._accounts = Accounts()
    hub.app.authenticator.accounts = AccountRequests(tmp_path, most_waiting=0)
    assert "Another account" in message(await Visitor(visitor.port).sign_in("alice@uni.example"))
    release(hub.app.db, "alice")
    assert "cannot create accounts" in message(await Visitor(visitor.port).sign_in("alice@uni.example"))


@pytest.mark.parametrize(
    ("owned", "sign_on", "refused"),
    [
        (describe("generic", "1", "a"), describe("generic", "1", "b"), False),
        (describe("generic", "1", "a"), describe("generic", "2", "a"), True),
        (describe("generic", "1", "a"), describe("generic", "", "a"), True),
        (describe("generic", "", "a"), describe("generic", "", "b"), True),
        (describe("generic", "", "a"), describe("generic", "", "a"), False),
        (describe("generic", "", "a"), describe("generic", "1", "b"), False),
        (describe("generic", "1", "a"), describe("globus", "2", "a"), False),
        (describe("generic", "x" * 255 + "1", "a"), describe("generic", "x" * 255 + "2", "a"), True),
        (describe("generic", "1\0", "a"), describe("generic", "1", "a"), True),
        (describe("generic", "\ud800", "a"), describe("generic", "\ud801", "a"), True),
    ],
    ids=[
        "changed name",
        "changed id",
        "id is missing",
        "another name without an id",
        "same name without an id",
        "first id after a name",
        "another provider",
        "long ids",
        "NUL",
        "half of a character",
    ],
)
def test_account_belongs_to_one_person_of_a_provider(
    hub: Hub, owned: dict[str, str], sign_on: dict[str, str], refused: bool
) -> None:
    assert take(hub.app.db, "alice", owned) is None
    assert (other_owner(hub.app.db, "alice", sign_on) is not None) is refused
    assert (take(hub.app.db, "alice", sign_on) is not None) is refused
    expected = owned["received"] if refused else sign_on["received"]
    assert known_identities(hub.app.db)[-1].received == expected


async def test_case_of_a_name_is_ignored_if_the_mapping_ignores_it(hub: Hub) -> None:
    own = hub.app.authenticator
    own.user_mapping = [{"fold_case": "lower"}]
    found = [own.checked_identity(Person(name, "", {}))["auth_state"]["sign_on"] for name in ("Alice", "alice")]
    assert found[0] == found[1] == describe("globus", "", "alice")
    own.user_mapping = []
    assert own.checked_identity(Person("alice", "", {}))["auth_state"]["sign_on"] == found[0]


@pytest.mark.parametrize("name", ["\ud800", "a\0b", "a\nb", "..", "-x", "a/b", "$(id)", "x" * 300, "\u0430lice"])
async def test_name_that_is_unsafe_is_refused(hub: Hub, name: str) -> None:
    for mapping in ([], [{"fold_case": "lower"}]):
        hub.app.authenticator.user_mapping = mapping
        hub.app.authenticator.user_pattern = "(?s).*"
        with pytest.raises(hub_sign_on.NotIdentified):
            hub.app.authenticator.checked_identity(Person(name, "globus:1", {}))


async def test_account_follows_from_the_user_mapping(hub: Hub, visitor: Visitor) -> None:
    hub.app.authenticator.user_mapping = [{"table": {"alice": "alice2"}}]
    assert (await visitor.sign_in("alice@uni.example")).code == 302
    assert [user.name for user in hub.app.db.query(orm.User)] == ["alice2"]
    response = await Visitor(visitor.port).sign_in("carol@uni.example")
    assert (response.code, "This service knows no such account" in message(response)) == (403, True)


@pytest.mark.parametrize(
    ("path", "answer", "status", "text"),
    [
        ("/v2/oauth2/userinfo", [], 503, "does not answer"),
        ("/v2/oauth2/userinfo", {}, 403, "does not know who you are"),
        ("/v2/oauth2/token/introspect", {"active": False}, 403, "did not confirm"),
        ("/v2/oauth2/token/introspect", {"active": "yes"}, 503, "does not answer"),
        ("/v2/oauth2/token/introspect", "text", 503, "does not answer"),
        ("/v2/oauth2/token", {"access_token": ["a"]}, 503, "does not answer"),
        ("/v2/oauth2/token", {"access_token": "a\nb"}, 503, "does not answer"),
        ("/v2/oauth2/token", {"access_token": "a" * 20_000}, 503, "does not answer"),
        ("/v2/oauth2/token", [], 503, "does not answer"),
        ("/v2/oauth2/token", None, 503, "does not answer"),
        ("/v2/groups/my_groups", {"id": "x"}, 503, "does not answer"),
        ("/v2/groups/my_groups", ["x" * 600_000], 503, "does not answer"),
        ("/v2/groups/my_groups", [1, {"id": ["x"], "my_memberships": [{"status": "active"}]}], 403, "may not use"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_odd_answers_let_nobody_in(
    *, provider: Provider, visitor: Visitor, path: str, answer: Any, status: int, text: str
) -> None:
    provider.replace(path, answer if answer is not None else "")
    response = await visitor.sign_in("alice@uni.example")
    assert response.code == status
    assert text in message(response)
    assert "jupyterhub-hub-login" not in visitor.cookies


async def test_no_new_sign_in_while_the_provider_has_a_fault(
    hub: Hub, provider: Provider, visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    path = await visitor.choose(await visitor.begin(), "alice@uni.example")
    provider.fail(500)
    response = await visitor.get(path)
    assert response.code == 503
    assert "The identity provider does not answer at the moment" in message(response)
    assert "/v2/oauth2/token: status 500" in caplog.text


# -- the state that ties a sign-in to its browser


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.replace("state=", "state=x"),
        lambda path: path.split("&state=")[0].split("state=")[0],
        lambda path: path + "&state=eyJzdGF0ZV9pZCI6ICJ4In0=",
        lambda path: path.replace("state=", "state=ä&x="),
        lambda path: "/hub/oauth_callback?code=x&state=WzFd",
        lambda path: "/hub/oauth_callback?error=access_denied",
        lambda path: "/hub/oauth_callback",
    ],
    ids=["changed", "missing", "two", "no ascii", "a list", "an error", "nothing"],
)
async def test_answer_without_the_state_of_the_browser_signs_nobody_in(visitor: Visitor, change: Any) -> None:
    path = await visitor.choose(await visitor.begin(), "alice@uni.example")
    response = await visitor.get(change(path))
    assert response.code == 400
    assert "begin again" in message(response)


async def test_answer_in_another_browser_signs_nobody_in(visitor: Visitor) -> None:
    path = await visitor.choose(await visitor.begin(), "alice@uni.example")
    other = Visitor(visitor.port)
    await other.begin()
    assert (await other.get(path)).code == 400
    assert (await visitor.get(path)).code == 302
    assert (await visitor.get(path)).code == 400  # once


async def test_sign_ins_in_several_tabs_of_a_browser_succeed(visitor: Visitor) -> None:
    """Some providers, such as LemonLDAP::NG, answer the first of them, even if the user goes on with another one."""
    pages = [await visitor.begin(f"/hub/login?next=/hub/{name}") for name in "abcdef"]
    path = await visitor.choose(pages[1], "alice@uni.example")
    assert urlsplit(target(await visitor.get(path))).path == "/hub/b"
    assert (await visitor.get(path)).code == 400  # once
    oldest = await visitor.choose(pages[0], "alice@uni.example")
    assert (await visitor.get(oldest)).code == 400
    for name, page in zip("cf", (pages[2], pages[5]), strict=True):
        answer = await visitor.get(await visitor.choose(page, "alice@uni.example"))
        assert urlsplit(target(answer)).path == f"/hub/{name}"


async def test_sign_in_takes_no_longer_because_another_one_begins(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, now = await visitor.begin(), time.time()
    monkeypatch.setattr("time.time", lambda: now + 1000)
    second = await visitor.begin()
    monkeypatch.setattr("time.time", lambda: now + 1900)
    assert (await visitor.get(await visitor.choose(page, "alice@uni.example"))).code == 400
    assert (await visitor.get(await visitor.choose(second, "alice@uni.example"))).code == 302


async def test_many_long_addresses_fit_into_the_cookie(visitor: Visitor) -> None:
    for _ in range(8):
        await visitor.begin(f"/hub/login?next=/hub/{'x' * 900}")
    assert len(visitor.cookies["__Host-hpchub-sign-on"]) < 4000
    assert (await visitor.sign_in("alice@uni.example")).code == 302


async def test_state_cookie_cannot_be_set_by_a_page_of_a_user(visitor: Visitor) -> None:
    response = await visitor.get("/hub/login")
    (cookie,) = [each for each in response.headers.get_list("Set-Cookie") if "sign-on" in each]
    assert cookie.startswith("__Host-hpchub-sign-on=")
    assert "Secure" in cookie
    assert "Path=/" in cookie
    assert "Domain" not in cookie


async def test_declined_sign_in_is_explained_without_the_words_of_the_address(
    visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    page = await visitor.begin()
    state = parse_qs(urlsplit(page).query)["state"][0]
    response = await visitor.get(f"/hub/oauth_callback?error=access_denied&error_description=EVIL&state={state}")
    assert response.code == 403
    assert "did not let you sign in" in message(response)
    assert "EVIL" not in message(response)
    assert "EVIL" not in caplog.text
    assert state not in caplog.text


@pytest.mark.parametrize(
    ("wish", "place"),
    [
        ("/hub/spawn", "/hub/spawn"),
        ("https://evil.example/x", "/x"),
        ("//evil.example/x", "/x"),
        ("/\\evil.example", "/%5Cevil.example"),
        ("javascript:alert(1)", "/alert(1)"),
    ],
)
async def test_redirects_only_lead_to_this_service(visitor: Visitor, wish: str, place: str) -> None:
    page = await visitor.begin(f"/hub/login?next={wish}")
    response = await visitor.get(await visitor.choose(page, "alice@uni.example"))
    assert response.headers["Location"] == place


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Mode": "cors"}, {"X-Requested-With": "XMLHttpRequest"}, {"Accept": "application/json"}],
    ids=str,
)
async def test_script_is_not_redirected_to_the_provider(visitor: Visitor, headers: dict[str, str]) -> None:
    assert (await visitor.get("/hub/login", None, **headers)).code == 401


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
async def test_only_the_callback_signs_in(hub: Hub, visitor: Visitor, content_type: str) -> None:
    path = await visitor.choose(await visitor.begin(), "alice@uni.example")
    api = path.replace("/hub/oauth_callback", "/hub/api/users/alice/tokens")
    assert (await visitor.get(api, post={}, Accept="application/json")).code == 403
    assert await hub.app.authenticator.authenticate(SimpleNamespace(), {"username": "alice"}) is None


# -- the regular check


async def test_membership_that_has_ended_ends_all_access(hub: Hub, provider: Provider, visitor: Visitor) -> None:
    await visitor.sign_in("alice@uni.example")
    token = hub.user().new_api_token()
    provider.globus.people[0]["groups"] = {"hpc": "removed"}
    assert (await visitor.get("/hub/home")).code == 200  # the last check was a moment ago
    expire_check(hub)
    assert (await visitor.get("/hub/home")).code == 302
    assert hub.app.proxy.ended == [("alice", None)]
    assert hub.app.db.query(orm.APIToken).filter(orm.APIToken.user_id.is_not(None)).count() == 0
    assert (await visitor.get("/hub/api/user", Authorization=f"token {token}")).code == 403


async def test_start_checks_the_membership_once_more(hub: Hub, provider: Provider, visitor: Visitor) -> None:
    await visitor.sign_in("alice@uni.example")
    page = (await visitor.get("/hub/spawn")).body.decode()
    token = re.findall(r"_xsrf=([^\"&]*)", page)[0]
    provider.globus.people[0]["groups"] = {}
    response = await visitor.get(f"/hub/spawn?_xsrf={token}", post={"profile": "small"})
    assert response.code == 403
    assert hub.gate.submissions == []


async def test_notebook_and_program_lose_access_too(hub: Hub, provider: Provider, visitor: Visitor) -> None:
    await visitor.sign_in("alice@uni.example")
    token = hub.user().new_api_token()
    assert (await visitor.get("/hub/api/user", Authorization=f"token {token}")).code == 200
    provider.globus.people[0]["active"] = False
    expire_check(hub)
    program = Visitor(visitor.port)
    assert (await program.get("/hub/api/user", Authorization=f"token {token}")).code == 403
    assert (await visitor.get("/hub/home")).code == 302


async def test_cookie_from_before_the_end_stays_invalid(hub: Hub, provider: Provider, visitor: Visitor) -> None:
    await visitor.sign_in("alice@uni.example")
    stolen = Visitor(visitor.port, dict(visitor.cookies))
    await visitor.get("/hub/logout")
    assert (await Visitor(visitor.port).sign_in("alice@uni.example")).code == 302
    assert (await stolen.get("/hub/home")).code == 302


async def test_expired_token_is_renewed(hub: Hub, provider: Provider, visitor: Visitor) -> None:
    await visitor.sign_in("alice@uni.example")
    before = await state_of(hub)
    provider.forget("access")
    expire_check(hub)
    assert (await visitor.get("/hub/home")).code == 200
    after = await state_of(hub)
    assert after["token"]["access_token"] != before["token"]["access_token"]
    assert after["token"]["refresh_token"] == before["token"]["refresh_token"]
    assert after["confirmed"] > before["confirmed"]


async def test_revoked_refresh_token_ends_the_sign_on(hub: Hub, provider: Provider, visitor: Visitor) -> None:
    await visitor.sign_in("alice@uni.example")
    provider.forget("access", "refresh")
    expire_check(hub)
    assert (await visitor.get("/hub/home")).code == 302
    assert hub.app.proxy.ended == [("alice", None)]


@pytest.mark.parametrize("status", [500, 503, 404, 429])
async def test_login_goes_on_while_the_provider_has_a_fault(
    hub: Hub, provider: Provider, visitor: Visitor, status: int
) -> None:
    await visitor.sign_in("alice@uni.example")
    token = hub.user().new_api_token()
    provider.fail(status)
    expire_check(hub)
    assert (await visitor.get("/hub/home")).code == 200
    assert (await visitor.get("/hub/api/user", Authorization=f"token {token}")).code == 200


async def test_login_goes_on_for_a_limited_time_only(hub: Hub, provider: Provider, visitor: Visitor) -> None:
    await visitor.sign_in("alice@uni.example")
    token = hub.user().new_api_token()
    provider.server.shutdown()
    provider.server.server_close()
    hours = 3600 * 4
    for passed, code in ((hours - 60, 200), (hours + 60, 302)):
        await hub.user().save_auth_state(await state_of(hub) | {"confirmed": time.time() - passed})
        expire_check(hub)
        assert (await visitor.get("/hub/home")).code == code
    expire_check(hub)
    assert (await visitor.get("/hub/api/user", Authorization=f"token {token}")).code == 200
    assert hub.app.proxy.ended == []


async def test_new_token_is_kept_when_the_check_fails_after_it(hub: Hub, provider: Provider, visitor: Visitor) -> None:
    await visitor.sign_in("alice@uni.example")
    before = await state_of(hub)
    provider.forget("access")
    provider.globus.faults = {"/v2/groups/my_groups": 500}
    expire_check(hub)
    assert (await visitor.get("/hub/home")).code == 200
    assert (await state_of(hub))["token"]["access_token"] != before["token"]["access_token"]


async def test_concurrent_requests_share_one_check(hub: Hub, provider: Provider, visitor: Visitor) -> None:
    await visitor.sign_in("alice@uni.example")
    provider.forget("access")
    expire_check(hub)
    found = await asyncio.gather(*(Visitor(visitor.port, dict(visitor.cookies)).get("/hub/home") for _ in range(5)))
    assert [each.code for each in found] == [200] * 5
    assert sum(each["kind"] == "access" for each in provider.globus.tokens.values()) == 2  # for Auth and for Groups


async def test_blocked_user_loses_access(hub: Hub, visitor: Visitor) -> None:
    await visitor.sign_in("alice@uni.example")
    hub.app.authenticator.blocked_users = {"alice"}
    expire_check(hub)
    assert (await visitor.get("/hub/home")).code == 302
    response = await visitor.sign_in("alice@uni.example")
    assert (response.code, "may not use the service" in message(response)) == (403, True)


async def test_user_whom_another_sign_on_has_known_signs_in_again(hub: Hub, visitor: Visitor) -> None:
    await visitor.sign_in("alice@uni.example")
    await hub.user().save_auth_state({"mail": "", "groups": []})
    expire_check(hub)
    assert (await visitor.get("/hub/home")).code == 302
    assert hub.app.proxy.ended == []


# -- the logout


async def test_logout_ends_the_login_the_websockets_and_the_session_at_the_provider(
    hub: Hub, provider: Provider, visitor: Visitor
) -> None:
    await visitor.sign_in("alice@uni.example")
    login = visitor.cookies["jupyterhub-session-id"]
    response = await visitor.get("/hub/logout")
    assert response.code == 302
    place = urlsplit(response.headers["Location"])
    assert f"{place.scheme}://{place.netloc}{place.path}" == f"{provider.url}/v2/web/logout"
    assert parse_qs(place.query)["redirect_uri"] == ["https://hub.example.org/sso/signed-out"]
    assert hub.app.proxy.ended == [("alice", login)]
    assert provider.globus.tokens == {}
    assert not {"token", "others", "confirmed"} & set(await state_of(hub))


async def test_logout_works_while_the_provider_does_not_answer(hub: Hub, provider: Provider, visitor: Visitor) -> None:
    await visitor.sign_in("alice@uni.example")
    provider.globus.faults = {"/v2/oauth2/token/revoke": 500}
    assert (await visitor.get("/hub/logout")).code == 302
    assert "token" not in await state_of(hub)


async def test_program_goes_on_after_a_logout(hub: Hub, visitor: Visitor) -> None:
    await visitor.sign_in("alice@uni.example")
    token = hub.user().new_api_token()
    await visitor.get("/hub/logout")
    expire_check(hub)
    assert (await Visitor(visitor.port).get("/hub/api/user", Authorization=f"token {token}")).code == 200


# -- secrets


async def test_secret_is_not_inherited_by_programs(hub: Hub) -> None:
    assert sign_on_settings.SECRET not in os.environ
    assert METRICS_TOKEN not in os.environ
    assert SECRET not in (Path(hub.runtime.settings["state_dir"]) / "hub.json").read_text()


async def test_sessions_get_no_token_by_default(hub: Hub, visitor: Visitor) -> None:
    await visitor.sign_in("alice@uni.example")
    assert await hub.app.authenticator.session_files(hub.user()) == {}


async def test_session_gets_a_token_for_transfers_in_a_file(
    tmp_path: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = await make_hub(tmp_path, monkeypatch, **own_settings(provider, tokens_for_sessions=True))
    listener, number = bind_unused_port()
    server = HTTPServer(hub.app.tornado_application)
    server.add_socket(listener)
    await Visitor(number).sign_in("alice@uni.example")
    spawner = hub.new_spawner()
    await hub.app.authenticator.pre_spawn_start(hub.user(), spawner)
    spawner.construct_child()
    env = spawner.child_spawner.get_env()
    content = json.loads(env["FILE:globus-transfer"])
    assert content["resource_server"] == "transfer.api.globus.org"
    assert provider.globus.tokens[content["access_token"]]["service"] == "transfer.api.globus.org"
    assert set(content) == {"resource_server", "access_token", "expires_at", "scope"}
    assert "FILE:globus-transfer" not in spawner.child_spawner.get_env()
    # A session lasts for hours, so a token that ends soon is replaced.
    state = await state_of(hub)
    state["others"]["transfer.api.globus.org"]["expires_at"] = time.time() + 3600
    await hub.user().save_auth_state(state)
    renewed = json.loads((await hub.app.authenticator.session_files(hub.user()))["globus-transfer"])
    assert renewed["access_token"] != content["access_token"]
    assert (await state_of(hub))["others"]["transfer.api.globus.org"]["access_token"] == renewed["access_token"]
    server.stop()
    await server.close_all_connections()
    await hub.close()


def test_names_are_read_exactly() -> None:
    assert hub_sign_on.one_name("alice") == "alice"
    values: list[Any] = [None, "", [], {}, 7, ["a", "b"], ["alice"]]
    for value in values:
        with pytest.raises(hub_sign_on.NotIdentified):
            hub_sign_on.one_name(value)


@pytest.fixture(autouse=True)
def quiet() -> None:
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
