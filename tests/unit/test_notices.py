"""Drains and announcements: what an inventory may contain, and what they mean for a profile. See also test_drain.py."""

from __future__ import annotations

import json
import math
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hub_app import profile, site

from hpchub import moments
from hpchub.model.notices import NoticesError, NoticesFile, combine, notices_file, offer, parse_notices
from hpchub.model.problems import SiteError

NOON = datetime(2027, 1, 31, 12, tzinfo=UTC).timestamp()


def drain(begin: str = "2027-01-31 12:00 UTC", until: str = "2027-01-31 18:00 UTC", **more: Any) -> dict[str, Any]:
    """Return a drain as an inventory contains it."""
    return {"from": begin, "until": until, **more}


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("2027-01-31 08:00", "2027-01-31T08:00:00"),
        ("2027-01-31T08:00:30", "2027-01-31T08:00:30"),
        ("2027-01-31 08:00 Europe/Berlin", "2027-01-31T08:00:00+01:00"),
        ("2027-07-31 08:00 Europe/Berlin", "2027-07-31T08:00:00+02:00"),
        ("2027-01-31 08:00 UTC", "2027-01-31T08:00:00+00:00"),
        ("2027-01-31 08:00Z", "2027-01-31T08:00:00+00:00"),
        ("2027-01-31 08:00 -0330", "2027-01-31T08:00:00-03:30"),
    ],
)
def test_time_keeps_its_time_zone(written: str, canonical: str) -> None:
    assert moments.canonical(written) == canonical


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("tomorrow", "is not a date and a time"),
        ("2027-01-31", "is not a date and a time"),
        ("2027-02-30 08:00", "does not exist"),
        ("2027-01-31 25:00", "does not exist"),
        ("2027-01-31 08:00 Europe/Berln", "has the unknown time zone Europe/Berln"),
        ("2027-01-31 08:00 +25:00", "has the offset +25:00"),
        ("2027-03-28 02:30 Europe/Berlin", "does not exist, because the clocks change"),
        ("2027-10-31 02:30 Europe/Berlin", "exists twice, because the clocks change"),
        ("1027-01-31 08:00", "is not a date and a time"),
    ],
)
def test_time_that_is_none_is_refused(written: str, message: str) -> None:
    with pytest.raises(moments.MomentError, match=message.replace("+", r"\+")):
        moments.canonical(written)


def test_time_without_a_zone_is_a_local_time_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert moments.local("2027-01-31 08:00") == "2027-01-31T08:00:00-05:00"
        assert moments.instant("2027-01-31T07:00:00") == NOON
        assert moments.shown(NOON) == "2027-01-31 07:00 EST"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("drains", "message"),
    [
        ([drain(until="2027-01-31 11:00 UTC")], "hpc_drains[0]: has until 2027-01-31 11:00+00:00, which is not after"),
        ([drain(until="2027-01-31 12:00 UTC")], "which is not after from"),
        ([drain(until="2027-01-31 18:00")], "has a time zone in from, but none in until; write the time zone in both"),
        ([drain(cluster="dem")], 'hpc_drains[0]: cluster "dem" is not a cluster or a place; did you mean "demo"?'),
        ([drain(cluster="demo", queue="long")], 'queue "long" is not a queue of cluster "demo"; valid: q'),
        ([drain(profile="smalll")], 'profile "smalll" is not a profile; did you mean "small"?'),
        ([drain(queue="q")], 'has the queue "q", but no cluster; add the cluster of this queue'),
        ([drain(cluster="demo", profile="small")], "has a cluster and a profile; remove one of them"),
        ([drain(message="x" * 10_000)], "is not text of one line; write one line of at most 1000 characters"),
        ([drain(message="one\ntwo")], "contains a line break"),
        ([drain(frm="2027-01-31 12:00")], 'hpc_drains[0]: "frm" is an unknown key; did you mean "from"?'),
        ([{"until": "2027-01-31 12:00"}], "hpc_drains[0]: from is missing; add it"),
        ([drain(stop_at="2027-01-31 11:00 UTC")], "has stop_at 2027-01-31 11:00+00:00, which is before from"),
        ([drain(stop_at="2027-01-31 18:00 UTC")], "which is not before until"),
        ([drain(stop_at="2027-01-31 18:00")], "has a time zone in from, but none in stop_at"),
        ([drain(ask="yes")], 'ask "yes" is neither true nor false'),
        ([drain(cluster="demo"), drain("2027-01-31 17:59 UTC", "", cluster="demo")], "hpc_drains[1]: overlaps entry 0"),
        ([5], "hpc_drains[0]: is a number, not a mapping"),
    ],
)
def test_drain_with_a_mistake_gets_one_clear_line(drains: list[Any], message: str) -> None:
    with pytest.raises(SiteError) as caught:
        site(profile("small"), hpc_drains=drains)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_cluster_is_reported_beside_another_mistake() -> None:
    with pytest.raises(SiteError) as caught:
        site(profile("small"), hpc_drains=[drain(until="2027-01-31 11:00 UTC", cluster="dem")])
    assert len(caught.value.problems) == 2


def test_drains_of_other_targets_or_times_do_not_overlap() -> None:
    found = site(
        profile("small"),
        hpc_drains=[
            drain(),
            drain(cluster="demo"),
            drain(cluster="demo", queue="q"),
            drain(profile="small"),
            drain("2027-01-31 18:00 UTC", "", cluster="demo"),
            drain("2027-02-20 18:00 UTC", "", cluster="demo"),
        ],
    )
    assert [each.target for each in found.drains] == ["ALL", "demo", "demo/q", "--profile small", "demo", "demo"]


def test_yaml_time_without_quotes_is_accepted() -> None:
    written = {"from": datetime(2027, 1, 31, 8), "until": datetime(2027, 1, 31, 9)}  # noqa: DTZ001 as YAML reads it
    assert site(profile("small"), hpc_drains=[written]).drains[0].begin == "2027-01-31T08:00:00"


def test_announcement_needs_a_message() -> None:
    with pytest.raises(SiteError, match=r"hpc_announcements\[0\]: message is missing"):
        site(profile("small"), hpc_announcements=[{"until": "2027-01-31 08:00"}])


def test_file_is_read_as_it_was_written() -> None:
    found = site(profile("small"), hpc_drains=[drain(cluster="demo")], hpc_announcements=[{"message": "<b>Hello"}])
    content = notices_file(found.drains, found.announcements)
    assert parse_notices(json.dumps(content), "x").to_json() == NoticesFile.model_validate(content).to_json()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "x: is not JSON"),
        ("[]", "x: has version none, but this hpchub reads version 1"),
        ('{"version": 2}', "x: has version 2"),
        ('{"version": 1, "drains": [{"from": "soon"}]}', "x drains[0]: from is not a date and a time"),
        ("[" * 100_000, "x: is not JSON"),
    ],
)
def test_damaged_file_is_refused(text: str, message: str) -> None:
    with pytest.raises(NoticesError) as caught:
        parse_notices(text, "x")
    assert str(caught.value).startswith(message)


def test_drain_that_was_ended_by_hand_stays_ended_until_its_times_change() -> None:
    inventory = NoticesFile(drains=site(profile("small"), hpc_drains=[drain(message="one")]).drains)
    (key,) = (notice.key for notice in combine(inventory, NoticesFile()))
    ended = NoticesFile(ended=[key])
    assert combine(inventory, ended) == ()
    reworded = NoticesFile(drains=site(profile("small"), hpc_drains=[drain(message="two")]).drains)
    assert combine(reworded, ended) == ()
    moved = NoticesFile(drains=site(profile("small"), hpc_drains=[drain(until="")]).drains)
    assert len(combine(moved, ended)) == 1


SMALL = site(profile("small", runtime="4:00:00")).profiles[0]


@pytest.mark.parametrize(
    ("wanted", "before", "runtime", "reason"),
    [
        ({}, 5 * 3600, "4:00:00", None),
        ({}, 4 * 3600, "4:00:00", None),
        ({}, 4 * 3600 - 1, "3:59:00", ""),
        ({"cluster": "demo"}, 3600, "1:00:00", ""),
        ({"cluster": "demo", "queue": "q"}, 3600, "1:00:00", ""),
        ({"profile": "small"}, 3600, "1:00:00", ""),
        ({"profile": "big"}, 3600, "4:00:00", None),
        ({"cluster": "other"}, 0, "4:00:00", None),
        ({"cluster": "demo", "queue": "other"}, 0, "4:00:00", None),
        ({}, 601, "0:10:00", ""),
        ({}, 599, "4:00:00", "too soon for a session. It lasts until"),
        ({}, 0, "4:00:00", "no session can start. It lasts until"),
        ({"until": ""}, -1, "4:00:00", "The end is not known yet. New disks."),
        ({}, -6 * 3600, "4:00:00", None),
    ],
)
def test_profile_is_offered_with_the_time_that_is_left(
    wanted: dict[str, str], before: float, runtime: str, reason: str | None
) -> None:
    file = NoticesFile.model_validate({"drains": [drain(message="New disks.") | wanted]})
    found = offer(combine(file, NoticesFile()), SMALL, NOON - before)
    assert (found.profile.runtime, found.is_refused) == (runtime, bool(reason))
    assert (reason or "") in found.refusal
    assert (found.drain is None) == (reason is None)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("New disks", "New disks."),
        ("New disks.", "New disks."),
        ("Neue Größe", "Neue Größe."),
        ("Why?", "Why?"),
        ("", ""),
    ],
)
def test_message_of_a_drain_ends_like_a_sentence(written: str, shown: str) -> None:
    (notice,) = combine(NoticesFile.model_validate({"drains": [drain(message=written)]}), NoticesFile())
    assert notice.sentence == shown
    assert notice.message == written


def test_drain_is_shown_some_days_before_and_an_announcement_in_its_time() -> None:
    file = NoticesFile.model_validate(
        {"drains": [drain()], "announcements": [{"message": "Hello", "from": "2027-01-31 11:00 UTC"}]}
    )
    maintenance, announcement = combine(file, NoticesFile())
    day = 24 * 3600
    assert [maintenance.is_shown(NOON - before) for before in (8 * day, 6 * day, 0, -6 * 3600)] == [
        False,
        True,
        True,
        False,
    ]
    assert [announcement.is_shown(NOON - before) for before in (3601, 3600, -365 * day)] == [False, True, True]
    assert announcement.public(NOON)["until"] is None
    assert announcement.ends == math.inf
