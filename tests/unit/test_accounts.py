"""Accounts for users who have none: the hub's request, and the program of root that decides."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import stat
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hub_browser import eventually

from hpchub.cli import create_accounts
from hpchub.hub import account_requests, unix_groups
from hpchub.hub.account_requests import AccountRequests, NotCreated

if TYPE_CHECKING:
    from pathlib import Path

ACCOUNTS = {"root", "alice"}


@pytest.fixture(autouse=True)
def accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    def getpwnam(name: str) -> Any:
        if name not in ACCOUNTS:
            raise KeyError(name)
        return SimpleNamespace(pw_name=name)

    monkeypatch.setattr(pwd, "getpwnam", getpwnam)


class Site:
    """The files of a hub host, and a command that only notes its input."""

    def __init__(self, directory: Path, **changes: Any) -> None:
        self.requests = directory / "requests"
        self.requests.mkdir()
        self.created = directory / "created"
        command = directory / "command"
        lines = (
            "#!/bin/sh",
            "read name",
            '[ "$name" = broken ] && exit 3',
            f'echo "$name $# $HPCHUB_SIGN_ON_SECRET" >> {self.created}',
        )
        command.write_text("\n".join(lines) + "\n")
        command.chmod(0o755)
        self.settings = directory / "accounts.json"
        values = {
            "command": [str(command)],
            "pattern": "[a-z]+",
            "per_hour": 2,
            "total": 3,
            "directory": str(self.requests),
            "record": str(directory / "record.json"),
        }
        self.settings.write_text(json.dumps(values | changes))

    def ask(self, *texts: str) -> None:
        """Put requests into the directory, and run the program."""
        for number, text in enumerate(texts):
            (self.requests / f"{number}.json").write_text(text)
        assert create_accounts.main(self.settings) == 0

    @property
    def names(self) -> list[str]:
        """The accounts that the command got."""
        return self.created.read_text().split("\n")[:-1] if self.created.exists() else []


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def request(name: object) -> str:
    return json.dumps({"name": name})


def test_command_gets_the_name_on_standard_input_only(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPCHUB_SIGN_ON_SECRET", "secret")
    site.ask(request("bob"))
    assert site.names == ["bob 0 "]
    assert list(site.requests.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        request("alice"),
        request("root"),
        request("Bob"),
        request("bob;id"),
        request("../bob"),
        request("-bob"),
        request(""),
        request(["bob"]),
        request("b" * 65),
        '{"name": "bob", "command": ["id"]}',
        '{"name": "bob"' + " " * 2000 + "}",
        "[]",
        "bob",
        "",
    ],
    ids=lambda text: text[:24],
)
def test_other_requests_are_refused_and_removed(site: Site, capsys: pytest.CaptureFixture[str], text: str) -> None:
    site.ask(text)
    assert site.names == []
    assert list(site.requests.iterdir()) == []
    assert "is refused" in capsys.readouterr().err


def test_link_and_directory_are_no_requests(site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "elsewhere.json"
    secret.write_text(request("bob"))
    (site.requests / "link.json").symlink_to(secret)
    (site.requests / "directory.json").mkdir()
    os.mkfifo(site.requests / "pipe.json")
    site.ask()
    assert site.names == []
    assert secret.exists()
    assert not list(site.requests.glob("*.json"))


def test_limits_hold_for_an_hour_and_for_ever(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    site.ask(request("a"), request("b"), request("c"))
    assert site.names == ["a 0 ", "b 0 "]
    assert "at most 2" in capsys.readouterr().err
    now[0] += 3601
    site.ask(request("c"), request("d"))
    now[0] += 3601
    site.ask(request("e"))
    assert site.names == ["a 0 ", "b 0 ", "c 0 "]


@pytest.mark.parametrize("record", ["", "{", "{}x", '[{"name": "a"}]', "5"])
def test_damaged_record_permits_nothing_and_is_explained(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str], record: str
) -> None:
    (tmp_path / "record.json").write_text(record)
    site.ask(request("a"), request("b"))
    assert site.names == []
    assert list(site.requests.iterdir()) == []
    assert "restore it from a backup, or remove it" in capsys.readouterr().err


def test_failed_command_counts_and_is_explained(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.ask(request("broken"), request("broken"), request("c"))
    assert site.names == []
    assert "exit code 3" in capsys.readouterr().err


def test_record_is_private(site: Site, tmp_path: Path) -> None:
    site.ask(request("bob"))
    assert stat.S_IMODE((tmp_path / "record.json").stat().st_mode) == 0o600


# -- the hub


async def test_hub_waits_for_the_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_requests, "INTERVAL", 0.01)
    found: set[str] = set()
    account = unix_groups.Account("bob", 2000)
    monkeypatch.setattr(account_requests, "look_up_account", lambda _: account if found else unix_groups.MISSING)
    asked = asyncio.ensure_future(AccountRequests(tmp_path).create("bob"))
    files = await eventually(lambda: list(tmp_path.glob("*.json")))
    assert json.loads(files[0].read_text()) == {"name": "bob"}
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600
    found.add("bob")
    files[0].unlink()
    await asked


async def test_refused_account_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_requests, "INTERVAL", 0.01)
    monkeypatch.setattr(account_requests, "CACHED", 0.05)
    asked = asyncio.ensure_future(AccountRequests(tmp_path).create("bob"))
    files = await eventually(lambda: list(tmp_path.glob("*.json")))
    files[0].unlink()
    with pytest.raises(NotCreated, match="journalctl -u hpchub-accounts") as error:
        await asked
    assert error.value.message == "Your account could not be created. Please ask the support."


async def test_hub_does_not_wait_for_ever(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        await AccountRequests(tmp_path, timeout=0.0).create("bob")


async def test_few_requests_may_wait(tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text("{}")
    with pytest.raises(NotCreated, match="1 requests"):
        await AccountRequests(tmp_path, most_waiting=1).create("bob")


async def test_missing_directory_is_explained(tmp_path: Path) -> None:
    with pytest.raises(NotCreated, match="cannot ask"):
        await AccountRequests(tmp_path / "none").create("bob")
