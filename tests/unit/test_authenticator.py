"""The authenticator admits permitted users and refuses everybody else."""

from __future__ import annotations

import pwd
from types import SimpleNamespace
from typing import Any

import pytest
from hub_app import encode_claims
from tornado.httputil import HTTPHeaders

from hpchub.hub.authenticator import SSOAuthenticator, SSOLoginHandler

NAMES = ["first.last", "2023abc", "AB1234", "ann@CL.ORG"]
"""Account names in the forms that directories use."""
ALIASES = {"ALICE": "alice", "Ann@CL.ORG": "ann@CL.ORG"}
"""Names that the directory accepts for an account with another name."""
UIDS = {
    "alice": 2001,
    "bob": 2002,
    "carol": 2003,
    "mallory": 2009,
    "root": 0,
    "daemon": 2,
    "nobody": 65534,
    **{name: 3000 + number for number, name in enumerate([*NAMES, *ALIASES, "ab1234", "2001", "Root", "root@CL.ORG"])},
}


@pytest.fixture
def authenticator(monkeypatch: pytest.MonkeyPatch) -> SSOAuthenticator:
    monkeypatch.setattr(
        pwd, "getpwnam", lambda name: SimpleNamespace(pw_name=ALIASES.get(name, name), pw_uid=UIDS[name])
    )
    return SSOAuthenticator(
        permitted_groups={"hpc"},
        admin_groups={"admins"},
        allowed_users={"bob"},
        blocked_users={"mallory"},
    )


def request(*names: str, groups: object = "", token: bool = False) -> Any:
    headers = HTTPHeaders()
    for name in names:
        headers.add("X-Hpchub-User", name)
    if groups:
        headers.add("X-Hpchub-Userinfo", encode_claims(groups=groups, email="a@example.org"))
    handler = SSOLoginHandler.__new__(SSOLoginHandler)
    handler.request = SimpleNamespace(headers=headers)
    handler._token_authenticated = token
    return handler


@pytest.mark.parametrize(
    ("names", "groups", "admin"),
    [
        (["alice"], "hpc", False),
        (["alice"], ["users", "hpc"], False),
        (["alice"], ["users", "hpc", "admins"], True),
        (["alice"], ["hpc", "x,admins", "x;admins", "x; admins", 'x","admins', "admins\n", "Admins", "ad mins"], False),
        (["bob"], "", False),
        (["carol"], ["admins"], True),
    ],
)
async def test_permitted_user_is_signed_in(authenticator: Any, names: list[str], groups: object, admin: bool) -> None:
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
        (["alice"], "users,hpc"),
        (["alice"], "users; hpc"),
        (["alice"], ["users,hpc", "HPC", "/hpc", " hpc", "hpc ", "hpc\n"]),
        (["alice"], {"hpc": True}),
        (["alice"], [["hpc"], {"hpc": 1}, None, True, 1.5]),
        (["ALICE"], "hpc"),
        (["2001"], "hpc"),
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
    found = await authenticator.refresh_user(user, request("alice", groups=["hpc", "admins"]))
    assert (found["groups"], found["admin"]) == (["admins", "hpc"], True)


async def test_administrator_may_act_for_another_user(authenticator: Any) -> None:
    handler = request("carol", groups="hpc")
    handler._jupyterhub_user = SimpleNamespace(name="carol")
    assert await authenticator.refresh_user(SimpleNamespace(name="alice"), handler) is True


def test_batchspawner_endpoint_uses_our_handler(authenticator: Any) -> None:
    paths = dict(authenticator.get_handlers(None))
    assert paths["/api/batchspawner"].__module__ == "hpchub.hub.handlers"


WIDE = "[A-Za-z0-9._@-]+"


@pytest.mark.parametrize("name", NAMES)
async def test_site_can_permit_the_names_of_its_directory(authenticator: Any, name: str) -> None:
    assert await authenticator.get_authenticated_user(request(name, groups="hpc"), {}) is None
    authenticator.user_pattern = WIDE
    found = await authenticator.get_authenticated_user(request(name, groups="hpc"), {})
    assert found["name"] == name


@pytest.mark.parametrize(
    "name", ["root", "Root", "root@CL.ORG", "2001", "..", "-x", "", "a/b", "a b", "a\tb", "a" * 65, "ALICE"]
)
async def test_no_pattern_permits_these_names(authenticator: Any, name: str) -> None:
    authenticator.user_pattern = "(?s).*"
    assert await authenticator.get_authenticated_user(request(name, groups="hpc"), {}) is None


async def test_names_that_differ_in_case_are_different_users(authenticator: Any) -> None:
    authenticator.user_pattern = WIDE
    authenticator.blocked_users = {"AB1234"}
    assert await authenticator.get_authenticated_user(request("AB1234", groups="hpc"), {}) is None
    found = await authenticator.get_authenticated_user(request("ab1234", groups="hpc"), {})
    assert found["name"] == "ab1234"


async def test_alias_of_an_account_is_refused(authenticator: Any) -> None:
    """Otherwise the owner of the job would have another name than the user, and one person would be two users."""
    authenticator.user_pattern = WIDE
    assert await authenticator.get_authenticated_user(request("Ann@CL.ORG", groups="hpc"), {}) is None


@pytest.mark.parametrize(
    "group",
    [
        "HPC Users",
        "/hpc",
        "/staff/it",
        "grp@REALM",
        "CN=HPC Users,OU=Groups,DC=cl,DC=org",
        "x,hpc",
        "a; b",
        'a"b\\c',
        "Überflieger",
        "1234",
    ],
)
@pytest.mark.parametrize("sent", ["one name", "list", "joined text"])
async def test_group_is_used_as_the_provider_sends_it(authenticator: Any, group: str, sent: str) -> None:
    claims = {"one name": group, "list": ["users", group], "joined text": f"users|{group}|more"}
    authenticator.groups_separator = "|" if sent == "joined text" else ""
    authenticator.permitted_groups = {group}
    found = await authenticator.get_authenticated_user(request("alice", groups=claims[sent]), {})
    assert group in found["groups"]
    authenticator.permitted_groups = {group[:-1], group + "x", group.swapcase() + " ", group.replace(" ", "") + " "}
    assert await authenticator.get_authenticated_user(request("alice", groups=claims[sent]), {}) is None


async def test_number_in_a_list_is_a_group(authenticator: Any) -> None:
    authenticator.permitted_groups = {"5000"}
    assert await authenticator.get_authenticated_user(request("alice", groups=[5000]), {})


async def test_separator_splits_text_but_no_list(authenticator: Any) -> None:
    authenticator.groups_separator = "; "
    found = await authenticator.get_authenticated_user(request("alice", groups="hpc; x;admins; x,admins"), {})
    assert (found["groups"], found["admin"]) == (["hpc", "x,admins", "x;admins"], False)
    found = await authenticator.get_authenticated_user(request("alice", groups=["hpc", "x; admins"]), {})
    assert (found["groups"], found["admin"]) == (["hpc", "x; admins"], False)


@pytest.mark.parametrize(
    "value",
    ["", "hpc", '["hpc"]', encode_claims(groups="hpc") + "!", "WyJocGMiXQ", "W" * 100_000, "=", "ä"],
    ids=["empty", "text", "list", "damaged", "encoded list", "deep", "padding", "not ASCII"],
)
async def test_header_without_valid_claims_gives_no_group(authenticator: Any, value: str) -> None:
    handler = request("alice")
    handler.request.headers.add("X-Hpchub-Userinfo", value)
    assert authenticator.identity(handler)["groups"] == []


async def test_two_values_of_a_header_give_no_group(authenticator: Any) -> None:
    handler = request("alice", groups="hpc")
    handler.request.headers.add("X-Hpchub-Userinfo", encode_claims(groups="admins"))
    assert authenticator.identity(handler)["groups"] == []


async def test_claims_of_the_id_token_replace_those_of_the_userinfo_endpoint(authenticator: Any) -> None:
    """The web server gives the id token precedence too."""
    handler = request("alice", groups=["hpc", "admins"])
    handler.request.headers.add("X-Hpchub-Id-Token", encode_claims(groups=["hpc"], sub="1"))
    found = authenticator.identity(handler)
    assert (found["groups"], found["admin"], found["auth_state"]["mail"]) == (["hpc"], False, "a@example.org")


async def test_database_gets_no_group_that_it_cannot_store(authenticator: Any) -> None:
    found = authenticator.identity(request("alice", groups=["hpc", "a\0b", "x" * 256, ""]))
    assert found["groups"] == ["hpc"]


async def test_blocked_administrator_is_refused(authenticator: Any) -> None:
    authenticator.admin_users = {"mallory", "bob"}
    assert await authenticator.get_authenticated_user(request("mallory", groups=["admins"]), {}) is None


async def test_administrator_may_sign_in_without_another_rule(authenticator: Any) -> None:
    authenticator.permitted_groups, authenticator.allowed_users = set(), set()
    authenticator.admin_users = {"bob"}
    for handler in (request("carol", groups=["admins"]), request("bob")):
        found = await authenticator.get_authenticated_user(handler, {})
        assert found["admin"] is True
    assert await authenticator.get_authenticated_user(request("alice", groups="hpc"), {}) is None
