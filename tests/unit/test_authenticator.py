"""The authenticator admits permitted users and refuses everybody else."""

from __future__ import annotations

import pwd
from types import SimpleNamespace
from typing import Any

import pytest
from tornado.httputil import HTTPHeaders

from hpchub.hub.authenticator import SSOAuthenticator, SSOLoginHandler

UIDS = {"alice": 2001, "bob": 2002, "carol": 2003, "mallory": 2009, "root": 0, "daemon": 2, "nobody": 65534}


@pytest.fixture
def authenticator(monkeypatch: pytest.MonkeyPatch) -> SSOAuthenticator:
    monkeypatch.setattr(pwd, "getpwnam", lambda name: SimpleNamespace(pw_uid=UIDS[name]))
    return SSOAuthenticator(
        permitted_groups={"hpc"},
        admin_groups={"admins"},
        allowed_users={"bob"},
        blocked_users={"mallory"},
    )


def request(*names: str, groups: str = "", token: bool = False) -> Any:
    headers = HTTPHeaders()
    for name in names:
        headers.add("X-Hpchub-User", name)
    if groups:
        headers.add("X-Hpchub-Groups", groups)
    handler = SSOLoginHandler.__new__(SSOLoginHandler)
    handler.request = SimpleNamespace(headers=headers)
    handler._token_authenticated = token
    return handler


@pytest.mark.parametrize(
    ("names", "groups", "admin"),
    [
        (["alice"], "hpc", False),
        (["alice"], "users,hpc", False),
        (["alice"], "users; hpc; admins", True),
        (["bob"], "", False),
    ],
)
async def test_permitted_user_is_signed_in(authenticator: Any, names: list[str], groups: str, admin: bool) -> None:
    found = await authenticator.get_authenticated_user(request(*names, groups=groups), {})
    assert (found["name"], found["admin"]) == (names[0], admin)
    assert found["auth_state"]["groups"] == found["groups"]


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        ([], "hpc"),
        ([""], "hpc"),
        (["alice", "alice"], "hpc"),
        (["alice, root"], "hpc"),
        (["alice,root"], "hpc"),
        (["Alice"], "hpc"),
        (["(null)"], "hpc"),
        ([".."], "hpc"),
        (["a/b"], "hpc"),
        (["älice"], "hpc"),
        (["a" * 10_000], "hpc"),
        (["root"], "hpc"),
        (["daemon"], "hpc"),
        (["nobody"], "hpc"),
        (["unknown"], "hpc"),
        (["mallory"], "hpc"),
        (["alice"], ""),
        (["alice"], "hpc2"),
        (["carol"], "admins"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_other_users_are_refused(authenticator: Any, names: list[str], groups: str) -> None:
    assert await authenticator.get_authenticated_user(request(*names, groups=groups), {}) is None


async def test_hub_host_without_user_accounts_refuses_only_system_accounts(authenticator: Any) -> None:
    """The submit host refuses unknown users. The hub still refuses its own system accounts."""
    authenticator.check_accounts = False
    authenticated = await authenticator.get_authenticated_user(request("zoe", groups="hpc"), {})
    assert authenticated["name"] == "zoe"
    for name in ("root", "daemon"):
        assert await authenticator.get_authenticated_user(request(name, groups="hpc"), {}) is None


@pytest.mark.parametrize(
    ("handler", "lasts"),
    [
        (request("alice", groups="hpc"), True),
        (request("bob", groups="hpc"), False),
        (request(groups="hpc"), False),
        (request("alice", groups="users"), False),
        (request(token=True), True),
    ],
    ids=["same user", "other user", "sign-on ended", "permission removed", "api token"],
)
async def test_hub_session_ends_with_its_sign_on(authenticator: Any, handler: Any, lasts: bool) -> None:
    user = SimpleNamespace(name="alice", groups=[], admin=False, api_tokens=[])
    assert bool(await authenticator.refresh_user(user, handler)) is lasts


async def test_changed_groups_and_admin_rights_are_adopted(authenticator: Any) -> None:
    user = SimpleNamespace(name="alice", groups=[SimpleNamespace(name="hpc")], admin=False)
    assert await authenticator.refresh_user(user, request("alice", groups="hpc")) is True
    found = await authenticator.refresh_user(user, request("alice", groups="hpc,admins"))
    assert (found["groups"], found["admin"]) == (["admins", "hpc"], True)


async def test_administrator_may_act_for_another_user(authenticator: Any) -> None:
    handler = request("carol", groups="hpc")
    handler._jupyterhub_user = SimpleNamespace(name="carol")
    assert await authenticator.refresh_user(SimpleNamespace(name="alice"), handler) is True


def test_batchspawner_endpoint_uses_our_handler(authenticator: Any) -> None:
    paths = dict(authenticator.get_handlers(None))
    assert paths["/api/batchspawner"].__module__ == "hpchub.hub.handlers"
