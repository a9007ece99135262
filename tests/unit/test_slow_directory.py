"""A directory of accounts that hangs, or does not answer: the hub goes on, and nobody gains or loses access."""

from __future__ import annotations

import asyncio
import json
import pwd
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import hub_app
import pytest
from hub_app import profile, site
from sign_on_app import Visitor, message

from hpchub.hub import unix_groups
from hpchub.hub.start_error import StartError
from hpchub.model.profile_list import profile_list

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hub_app import Hub

PAGES = Path(__file__).parents[2] / "templates" / "pages"
NOT_NOW = "The service has a problem at the moment, so you cannot sign in."


class Directory:
    """A stand-in for the name service of the host. While it hangs, each question waits for ``answer``."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.groups = {"alice": ["hpc", "staff"]}

    def hang(self) -> None:
        """Answer no question any more."""
        self.answers.clear()

    def getpwnam(self, name: str) -> Any:
        """Return an account."""
        self.answers.wait(20)
        if name not in self.groups:
            raise KeyError(name)
        return SimpleNamespace(pw_name=name, pw_uid=2001, pw_gid=100)

    def look_up(self, user: str) -> frozenset[str]:
        """Return the groups of a user."""
        self.answers.wait(20)
        return frozenset(self.groups.get(user, ()))


@pytest.fixture
async def directory(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Directory]:
    made = Directory()
    monkeypatch.setattr(pwd, "getpwnam", made.getpwnam)
    yield made
    made.answers.set()


@pytest.fixture
async def hub(tmp_path: Path, directory: Directory) -> AsyncIterator[Hub]:
    """A hub that uses the groups of the accounts on its host."""
    access = hub_app.settings(tmp_path, [])["access"] | {"hub_accounts": True}
    changes = {"host_groups": True, "access": access}
    started = await hub_app.make_hub(tmp_path, [str(PAGES)], changes=changes)
    started.runtime.unix_groups = unix_groups.UnixGroups(directory.look_up)
    started.app.authenticator._unix_groups = unix_groups.UnixGroups(directory.look_up)
    yield started
    directory.answers.set()
    await started.close()


@pytest.fixture
def visitor(port: int) -> Visitor:
    return Visitor(port)


def forget(hub: Hub) -> None:
    """Let the hub forget what it knows of accounts, as it does after some minutes without an answer."""
    own = hub.app.authenticator
    for cache in (own._accounts, own._unix_groups, hub.runtime.unix_groups):
        cache._answers.clear()


def audited(hub: Hub) -> list[tuple[str, str]]:
    events = [json.loads(line) for line in Path(hub.audit.baseFilename).read_text().splitlines()]
    return [(event["event"], event["reason"]) for event in events]


async def sign_in(visitor: Visitor) -> Any:
    return await visitor.get("/hub/login", None, **{"X-Hpchub-User": "alice"})


async def home(visitor: Visitor) -> Any:
    return await visitor.get("/hub/home", None, **{"X-Hpchub-User": "alice"})


async def test_groups_of_the_host_permit(hub: Hub, visitor: Visitor) -> None:
    assert (await sign_in(visitor)).code == 302
    assert sorted(group.name for group in hub.user().groups) == ["hpc", "staff"]


async def test_hub_answers_others_while_the_directory_hangs(
    hub: Hub, visitor: Visitor, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix_groups, "PATIENCE", 20)
    directory.hang()
    waiting = asyncio.ensure_future(sign_in(visitor))
    assert (await Visitor(visitor.port).get("/hub/api/")).code == 200
    assert not waiting.done()
    directory.answers.set()
    assert (await waiting).code == 302


async def test_nobody_can_sign_in_while_the_directory_hangs(
    hub: Hub, visitor: Visitor, directory: Directory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(unix_groups, "PATIENCE", 0.05)
    directory.hang()
    response = await sign_in(visitor)
    assert (response.code, NOT_NOW in message(response)) == (503, True)
    assert "jupyterhub-hub-login" not in visitor.cookies
    assert "the directory of accounts does not answer: alice" in caplog.text
    assert audited(hub) == [("sign_in_refused", "unavailable")]


@pytest.mark.parametrize("only", ["_accounts", "_unix_groups"])
async def test_one_answer_of_two_is_not_enough(
    hub: Hub, visitor: Visitor, directory: Directory, monkeypatch: pytest.MonkeyPatch, only: str
) -> None:
    monkeypatch.setattr(unix_groups, "PATIENCE", 0.05)
    own = hub.app.authenticator
    await getattr(own, only).refresh("alice")
    directory.hang()
    assert (await sign_in(visitor)).code == 503


async def test_login_goes_on_while_the_directory_hangs(
    hub: Hub, visitor: Visitor, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sign_in(visitor)
    token = hub.user().new_api_token()
    monkeypatch.setattr(unix_groups, "PATIENCE", 0.05)
    forget(hub)
    directory.hang()
    assert (await home(visitor)).code == 200
    assert (await visitor.get("/hub/api/user", None, Authorization=f"token {token}")).code == 200
    assert sorted(group.name for group in hub.user().groups) == ["hpc", "staff"]
    assert hub.app.proxy.ended == []


async def test_blocked_user_loses_the_login_also_while_the_directory_hangs(
    hub: Hub, visitor: Visitor, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sign_in(visitor)
    monkeypatch.setattr(unix_groups, "PATIENCE", 0.05)
    forget(hub)
    directory.hang()
    hub.app.authenticator.blocked_users = {"alice"}
    assert (await home(visitor)).code == 302


async def test_member_who_has_left_loses_the_login(hub: Hub, visitor: Visitor, directory: Directory) -> None:
    await sign_in(visitor)
    forget(hub)
    directory.groups["alice"] = ["staff"]
    assert (await home(visitor)).code == 302


async def test_page_waits_once_for_a_directory_that_hangs(directory: Directory) -> None:
    accounts = unix_groups.Accounts()
    directory.hang()
    waits: list[float | None] = []

    async def wait(_tasks: Any, *, timeout: float | None) -> None:  # noqa: ASYNC109 it replaces a function with this argument
        waits.append(timeout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "wait", wait)
        for now in (1000.0, 1000.5, 1003.0):
            patch.setattr(unix_groups, "monotonic", lambda now=now: now)
            await accounts.refresh("alice")
    assert waits == [2.0, 1.5, 0.0]


@pytest.mark.parametrize("limits", [{"groups": ["staff"]}, {"unix_groups": ["staff"]}], ids=["groups", "unix_groups"])
async def test_restricted_profile_is_refused_with_the_reason_while_the_groups_are_unknown(
    *,
    hub: Hub,
    visitor: Visitor,
    directory: Directory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limits: dict[str, Any],
) -> None:
    service = {"url": "https://hub.example.org", "restricted_profiles": "shown"}
    offered = site(profile("small"), profile("staffed", **limits), hpc_service=service)
    (tmp_path / "profiles.json").write_text(json.dumps(profile_list(offered)))
    await sign_in(visitor)
    spawner = hub.user("alice").spawners[""]
    await spawner._run_apply_user_options({"profile": "staffed"})
    monkeypatch.setattr(unix_groups, "PATIENCE", 0.05)
    forget(hub)
    directory.hang()
    assert "cannot find out at the moment whether you may use this profile" in await spawner.get_options_form()
    with pytest.raises(StartError, match="There is no profile 'staffed'"):
        await spawner._run_apply_user_options({"profile": "staffed"})
    await spawner._run_apply_user_options({"profile": "small"})
    directory.answers.set()
    await asyncio.gather(*(each for _, each in hub.runtime.unix_groups._pending.values()))
    await spawner._run_apply_user_options({"profile": "staffed"})


async def test_tokens_stay_while_the_directory_does_not_answer(
    hub: Hub, visitor: Visitor, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sign_in(visitor)
    forget(hub)

    def fail(name: str) -> Any:
        raise OSError(name)

    hub.app.authenticator._accounts._look_up = fail
    assert await hub.app.authenticator.missing_accounts(["alice"]) == set()
    assert hub.app.authenticator.refuses("alice", ["staff"]) is False
    hub.app.authenticator.check_accounts = False
    assert hub.app.authenticator.refuses("alice", ["staff"]) is True
    assert hub.app.authenticator.refuses("alice", ["hpc"]) is False
