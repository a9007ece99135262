"""Tests of the Unix groups that the hub host knows of a user."""

import ctypes
import grp
import os
import pwd
from types import SimpleNamespace
from typing import Any

import pytest

from hpchub.hub import unix_groups
from hpchub.remote import gate

NAMES = {7001: "50012", 7002: "physics", 7003: "٣", 7004: "0x10"}
"""Group ids and names. Some names consist of digits, and one is the id of another group."""


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> pwd.struct_passwd:
    found = pwd.struct_passwd(("mallory", "x", 5000, 7001, "", "/home/mallory", "/bin/sh"))

    def group(gid: int) -> SimpleNamespace:
        if gid not in NAMES:
            raise KeyError(gid)
        return SimpleNamespace(gr_name=NAMES[gid])

    monkeypatch.setattr(pwd, "getpwnam", lambda _: found)
    for module, name in ((unix_groups, "group_ids"), (os, "getgrouplist")):
        monkeypatch.setattr(module, name, lambda *_: [*NAMES, 7999])
    monkeypatch.setattr(grp, "getgrgid", group)
    return found


def test_digits_mean_a_group_id_and_never_a_name(account: pwd.struct_passwd) -> None:
    """Otherwise, a group with the name 50012 would open the profiles of the group with the id 50012."""
    assert unix_groups.look_up(account.pw_name) == {*map(str, NAMES), "7999", "physics", "0x10"}


def test_the_hub_and_the_gate_know_the_same_groups(account: pwd.struct_passwd) -> None:
    assert unix_groups.look_up(account.pw_name) == gate.group_names(account)


def test_groups_are_looked_up_while_other_threads_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own function stops all threads until the directory answers, and so the whole hub."""
    expected = sorted(os.getgrouplist("root", 4))
    monkeypatch.setattr(os, "getgrouplist", None)
    assert sorted(unix_groups.group_ids("root", 4)) == expected
    assert type(unix_groups._LIBC) is ctypes.CDLL


def test_user_may_have_many_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    def getgrouplist(user: bytes, gid: Any, found: Any, count: Any) -> int:
        room, count._obj.value = count._obj.value, 70
        found[: min(room, 70)] = range(min(room, 70))
        return 70 if room >= 70 else -1

    monkeypatch.setattr(unix_groups, "_LIBC", SimpleNamespace(getgrouplist=getgrouplist))
    assert unix_groups.group_ids("alice", 0) == list(range(70))


def test_directory_that_fails_without_a_reason_has_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix_groups, "_LIBC", SimpleNamespace(getgrouplist=lambda *_: -1))
    with pytest.raises(OSError, match="which groups root has"):
        unix_groups.group_ids("root", 4)


async def test_groups_of_a_sign_on_stay_known_for_a_time_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown is not gone: a user who is signed in keeps the groups while the directory does not answer."""
    now, asked = [1000.0], []
    answers: dict[float, frozenset[str]] = {1000.0: frozenset({"hpc"}), 1060.0: frozenset({"physics"})}

    def look_up(user: str) -> frozenset[str]:
        asked.append(now[0])
        if now[0] not in answers:
            raise OSError(user)
        return answers[now[0]]

    monkeypatch.setattr(unix_groups, "monotonic", lambda: now[0])
    groups = unix_groups.UnixGroups(look_up)
    found = []
    for now[0] in (1000.0, 1059.0, 1060.0, 1120.0, 1659.0, 1660.0):
        await groups.refresh("alice")
        found.append(groups.known("alice"))
    assert found == [{"hpc"}, {"hpc"}, {"physics"}, {"physics"}, {"physics"}, None]
    assert asked == [1000.0, 1060.0, 1120.0, 1659.0, 1660.0]


async def test_account_that_is_suddenly_missing_stays_known_for_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some directories answer that there is no such account while they are out of order."""
    now, exists = [1000.0], [True]
    account = SimpleNamespace(pw_name="alice", pw_uid=2001)
    monkeypatch.setattr(pwd, "getpwnam", lambda name: {"alice": account}[name] if exists[0] else {}[name])
    monkeypatch.setattr(unix_groups, "monotonic", lambda: now[0])
    accounts = unix_groups.Accounts()
    found = []
    for now[0], exists[0] in ((1000.0, True), (1100.0, False), (1599.0, False), (1600.0, False), (1601.0, True)):
        await accounts.refresh("alice")
        found.append(accounts.known("alice"))
    there = unix_groups.Account("alice", 2001)
    assert found == [there, there, there, unix_groups.MISSING, there]
