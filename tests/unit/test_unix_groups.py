"""Tests of the Unix groups that the hub host knows of a user."""

import grp
import os
import pwd
import time
from types import SimpleNamespace

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
    monkeypatch.setattr(os, "getgrouplist", lambda *_: [*NAMES, 7999])
    monkeypatch.setattr(grp, "getgrgid", group)
    return found


def test_digits_mean_a_group_id_and_never_a_name(account: pwd.struct_passwd) -> None:
    """Otherwise, a group with the name 50012 would open the profiles of the group with the id 50012."""
    assert unix_groups.look_up(account.pw_name) == {*map(str, NAMES), "7999", "physics", "0x10"}


def test_the_hub_and_the_gate_know_the_same_groups(account: pwd.struct_passwd) -> None:
    assert unix_groups.look_up(account.pw_name) == gate.group_names(account)


def test_groups_of_a_sign_on_stay_known_for_a_time_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown is not gone: a user who is signed in keeps the groups while the directory does not answer."""
    now, asked = [1000.0], []
    answers: dict[float, frozenset[str]] = {1000.0: frozenset({"hpc"}), 1060.0: frozenset({"physics"})}

    def look_up(user: str) -> frozenset[str]:
        asked.append(now[0])
        if now[0] not in answers:
            raise OSError(user)
        return answers[now[0]]

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    groups = unix_groups.UnixGroups(look_up)
    found = []
    for now[0] in (1000.0, 1059.0, 1060.0, 1120.0, 1659.0, 1660.0):
        found.append(groups.ask("alice"))
    assert found == [{"hpc"}, {"hpc"}, {"physics"}, {"physics"}, {"physics"}, None]
    assert asked == [1000.0, 1060.0, 1120.0, 1659.0, 1660.0]
