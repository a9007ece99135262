"""API tokens end: after their lifetime, and when their user may no longer use the service."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import pwd
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hub_app import signed_on
from jupyterhub import orm
from jupyterhub.utils import utcnow
from sqlalchemy.exc import OperationalError

from hpchub.hub import tokens
from hpchub.hub.tokens import ACCOUNT_PATIENCE, TokenWatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hub_app import Ask, Hub

DAY = 24 * 3600
PEOPLE = {"alice", "bob", "carol"}


def days_left(token: orm.APIToken) -> float:
    return float((token.expires_at - utcnow(with_tz=False)).total_seconds() / DAY)


def token_of(hub: Hub, name: str = "alice", *, groups: Sequence[str] = ("hpc",), **values: Any) -> orm.APIToken:
    """Create a token of a user who has signed in with these groups."""
    user = hub.user(name)
    user.sync_groups(groups)
    user.orm_user.encrypted_auth_state = b"signed in"
    found = orm.APIToken.find(hub.app.db, user.new_api_token(**values))
    found.created = utcnow(with_tz=False) - dt.timedelta(days=2)
    hub.app.db.commit()
    return found


def owners(hub: Hub) -> list[str]:
    """Return the owner of each token."""
    return sorted(token.user.name for token in hub.app.db.query(orm.APIToken))


@pytest.fixture
def watch(hub: Hub) -> TokenWatch:
    return TokenWatch(hub.app.db, hub.app.authenticator, 30 * DAY)


@dataclass
class Directory:
    """A directory of accounts, and a clock."""

    hub: Hub
    watch: TokenWatch
    missing: set[str] = field(default_factory=set)
    now: float = 1000.0

    def account(self, name: str) -> Any:
        """Return an account."""
        if name not in PEOPLE - self.missing:
            raise KeyError(name)
        return SimpleNamespace(pw_name=name, pw_uid=2001)

    async def check(self, missing: set[str], *, after: float) -> None:
        """Let the watch check all tokens after some seconds, while these accounts are missing."""
        self.missing = missing
        self.hub.app.authenticator._accounts._answers.clear()
        self.now += after
        await self.watch.check()


@pytest.fixture
def directory(hub: Hub, watch: TokenWatch, monkeypatch: pytest.MonkeyPatch) -> Directory:
    made = Directory(hub, watch)
    hub.app.authenticator.check_accounts = True
    monkeypatch.setattr(pwd, "getpwnam", made.account)
    monkeypatch.setattr(tokens, "monotonic", lambda: made.now)
    return made


# The lifetime


@pytest.mark.parametrize(
    ("body", "days"),
    [
        (None, 30),
        ({}, 30),
        ({"expires_in": None}, 30),
        ({"expires_in": 3600}, 1 / 24),
        ({"expires_in": 30 * DAY}, 30),
        ({"expires_in": 30 * DAY + 1}, None),
    ],
    ids=["no body", "no lifetime", "endless", "an hour", "the longest", "too long"],
)
async def test_every_new_token_has_an_end(
    hub: Hub,
    ask: Ask,
    body: dict[str, Any] | None,
    days: float | None,
) -> None:
    key = hub.user("alice").new_api_token()
    sent = b"" if body is None else json.dumps(body).encode()
    answer = await ask("api/users/alice/tokens", "POST", sent, Authorization=f"token {key}")
    if days is None:
        assert answer.code == 400
        assert "lasts at most 30 days; send an expires_in of at most 2592000 seconds." in answer.body.decode()
        return
    assert answer.code == 201
    made = orm.APIToken.find(hub.app.db, json.loads(answer.body)["token"])
    assert days_left(made) == pytest.approx(days, abs=0.01)


async def test_site_that_permits_longer_tokens_keeps_the_default_of_30_days(hub: Hub, ask: Ask) -> None:
    hub.app.tornado_settings["token_expires_in_max_seconds"] = 90 * DAY
    hub.app.tornado_application.settings["token_expires_in_max_seconds"] = 90 * DAY
    key = hub.user("alice").new_api_token()
    for body, days in (("{}", 30), (json.dumps({"expires_in": 80 * DAY}), 80)):
        answer = await ask("api/users/alice/tokens", "POST", body.encode(), Authorization=f"token {key}")
        made = orm.APIToken.find(hub.app.db, json.loads(answer.body)["token"])
        assert days_left(made) == pytest.approx(days, abs=0.01)


async def test_older_tokens_get_an_end_and_those_of_sessions_do_not(hub: Hub, watch: TokenWatch) -> None:
    old, session, browser, new = (token_of(hub) for _ in range(4))
    longer, short = token_of(hub, expires_in=60 * DAY), token_of(hub, expires_in=60)
    spawner = hub.restored_spawner()
    spawner.orm_spawner.state = {**spawner.orm_spawner.state, "token": session.hashed}
    hub.app.db.add(orm.OAuthClient(identifier="jupyterhub-user-alice"))
    browser.client_id = "jupyterhub-user-alice"
    new.created = utcnow(with_tz=False)
    hub.app.db.commit()
    await watch.check()
    assert [days_left(token) for token in (old, longer)] == pytest.approx([30, 30], abs=0.01)
    assert days_left(short) < 0.01
    assert [token.expires_at for token in (session, browser, new)] == [None, None, None]


# The end of access


@pytest.mark.parametrize(
    ("groups", "blocked", "kept"), [("students", (), False), ("hpc", ("alice",), False), ("hpc", (), True)]
)
async def test_tokens_end_when_a_sign_in_is_refused(
    hub: Hub,
    ask: Ask,
    groups: str,
    blocked: Sequence[str],
    kept: bool,
) -> None:
    token_of(hub)
    token_of(hub, "bob")
    hub.app.authenticator.blocked_users = set(blocked)
    answer = await ask("login", **signed_on("alice", groups))
    assert answer.code == (302 if kept else 403)
    assert owners(hub) == (["alice", "bob"] if kept else ["bob"])


async def test_tokens_end_when_a_request_of_a_browser_is_refused(hub: Hub, ask: Ask) -> None:
    answer = await ask("login", **signed_on("alice", "hpc"))
    (cookie,) = (c for c in answer.headers.get_list("Set-Cookie") if c.startswith("jupyterhub-hub-login="))
    cookie = cookie.partition(";")[0]
    token_of(hub)
    assert (await ask("home", Cookie=cookie)).code == 302
    assert owners(hub) == ["alice"], "the end of the single sign-on ends no token of a program"
    await ask("home", Cookie=cookie, **signed_on("alice", "students"))
    assert owners(hub) == []


async def test_missing_account_alone_ends_no_token_at_once(
    hub: Hub,
    ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pwd, "getpwnam", {}.__getitem__)
    hub.app.authenticator.check_accounts = True
    token_of(hub)
    assert (await ask("login", **signed_on("alice", "hpc"))).code == 403
    assert owners(hub) == ["alice"]


async def test_tokens_end_when_the_rules_change(hub: Hub, watch: TokenWatch) -> None:
    token_of(hub, "alice", groups=["hpc"])
    token_of(hub, "bob", groups=["staff"])
    token_of(hub, "carol", groups=["hpc"])
    hub.user("dave").new_api_token()  # an administrator has added this user, who has never signed in
    hub.app.authenticator.blocked_users = {"carol"}
    await watch.check()
    assert owners(hub) == ["alice", "dave"]


@pytest.mark.parametrize(
    ("missing", "hours", "left"),
    [
        ({"alice"}, 0.9, ["alice", "bob", "carol"]),
        ({"alice"}, 1.1, ["bob", "carol"]),
        ({"alice", "bob"}, 1.1, ["alice", "bob", "carol"]),
    ],
    ids=["for a short time", "for long", "most accounts, so the directory does not answer"],
)
async def test_tokens_end_when_the_account_is_gone(
    directory: Directory, missing: set[str], hours: float, left: list[str]
) -> None:
    for name in ("alice", "bob", "carol"):
        token_of(directory.hub, name)
    await directory.check(missing, after=0)
    assert owners(directory.hub) == ["alice", "bob", "carol"]
    await directory.check(missing, after=hours * ACCOUNT_PATIENCE)
    assert owners(directory.hub) == left


async def test_account_that_comes_back_keeps_its_tokens(directory: Directory) -> None:
    token_of(directory.hub)
    for missing in ({"alice"}, set(), {"alice"}):
        await directory.check(missing, after=0.9 * ACCOUNT_PATIENCE)
    assert owners(directory.hub) == ["alice"]


async def test_watch_goes_on_after_a_failure_of_the_database(
    hub: Hub, watch: TokenWatch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes: list[Exception | None] = [OperationalError("SELECT", {}, ValueError("down")), None]

    async def check() -> None:
        if outcomes and (outcome := outcomes.pop(0)):
            raise outcome

    monkeypatch.setattr(tokens, "INTERVAL", 0.001)
    watch.check = check  # type: ignore[method-assign]
    task = asyncio.ensure_future(watch.run())
    async with asyncio.timeout(10):
        while outcomes:  # noqa: ASYNC110 the condition has no event
            await asyncio.sleep(0.005)
    task.cancel()
    assert "the next check tries again" in caplog.text


# The cookie


async def test_login_cookie_states_its_lifetime_of_one_day(ask: Ask) -> None:
    answer = await ask("login", **signed_on("alice", "hpc"))
    (cookie,) = (c for c in answer.headers.get_list("Set-Cookie") if c.startswith("jupyterhub-hub-login="))
    fields = dict(field.strip().partition("=")[::2] for field in cookie.split(";"))
    end = dt.datetime.strptime(fields["expires"], "%a, %d %b %Y %H:%M:%S %Z").replace(tzinfo=dt.UTC)
    assert dt.timedelta(hours=23) < end - dt.datetime.now(dt.UTC) <= dt.timedelta(days=1)
    assert {"Secure", "HttpOnly"} <= fields.keys()
    assert fields["SameSite"] == "Lax"
