"""The rule for the names of all users, which no site can widen."""

from __future__ import annotations

import re
import shlex
import string
from urllib.parse import quote

import pytest

from hpchub.names import USER_NAME, USER_PATTERN, dns_label, is_user_name
from hpchub.schedulers import Job, JobState, job_comment, job_name

NAMES = ["alice", "first.last", "2023abc", "AB1234", "ann@CL.ORG", "a-b_c", "_svc", "a" * 64]
ANYTHING = "(?s).*"
SESSION = "0123456789abcdef"


@pytest.mark.parametrize("name", NAMES)
def test_names_of_directories_follow_the_rule(name: str) -> None:
    assert is_user_name(name, ANYTHING)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".a",
        "-a",
        "@a",
        "root",
        "ROOT",
        "Root@CL.ORG",
        "0",
        "1000",
        "00",
        "a" * 65,
        "alice\n",
        "älice",
        "a\0",
    ],
)
def test_dangerous_names_do_not_follow_the_rule(name: str) -> None:
    assert not is_user_name(name, ANYTHING)


def test_no_name_contains_a_character_with_a_meaning() -> None:
    admitted = {character for character in map(chr, range(0x3000)) if is_user_name(f"a{character}b", ANYTHING)}
    assert admitted == set(string.ascii_letters + string.digits + "_.@-")
    name = "".join(sorted(admitted))[-63:]
    assert shlex.quote(name) == name
    assert quote(name, safe="@") == name


def test_default_admits_only_names_that_shadow_utils_creates() -> None:
    assert [name for name in NAMES if is_user_name(name, USER_PATTERN)] == ["alice", "a-b_c", "_svc"]


@pytest.mark.parametrize("name", NAMES)
def test_job_is_found_by_the_name_of_its_owner(name: str) -> None:
    job = Job(
        id="1", state=JobState.RUNNING, name=job_name(SESSION), comment=job_comment("hub", name, SESSION), user=name
    )
    assert job.session("hub") == SESSION


def test_labels_are_valid_in_dns_and_differ_for_all_names() -> None:
    names = [*NAMES, "ab1234", "Ab1234", "first-last", "ann@cl.org", "a--b", "u-1--2"]
    names += [dns_label(name) for name in names if dns_label(name) != name]  # accounts that are called like a label
    labels = [dns_label(name) for name in names]
    assert len({label.lower() for label in labels}) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_-]{1,63}", label) for label in labels)
    assert dns_label("alice") == "alice"


def test_rule_has_no_capturing_group() -> None:
    """Apache's configuration contains the rule in expressions that use the number of a group."""
    assert re.compile(USER_NAME).groups == 0
