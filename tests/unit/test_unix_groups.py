"""Tests of the Unix groups that the hub host knows of a user."""

import grp
import os
import pwd
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
