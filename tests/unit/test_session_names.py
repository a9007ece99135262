"""Which names users can give to their sessions, and the parts of addresses that come from them."""

from __future__ import annotations

import pytest
from jupyterhub.slugs import is_valid_display_name, is_valid_safe_slug

from hpchub.hub.session_names import (
    LONGEST,
    NameProblem,
    check_server_name,
    clean,
    free_server_name,
    new_server_name,
    server_name,
)


@pytest.mark.parametrize(
    ("text", "part", "name"),
    [
        ("genome", "genome", "genome"),
        ("Genome Run 3", "genome-run-3", "Genome Run 3"),
        ("  two \t spaces ", "two-spaces", "two spaces"),
        ("a/b%2Fc..", "a-b-2fc", "a/b%2Fc.."),
        ("3D", "x-3d", "3D"),
        ("<script>", "script", "<script>"),
        ("Größe", "grosse-", "Größe"),
        ("解析", "x-", "解析"),
        ("🎉", "x-", "🎉"),
        ("x" * LONGEST, "x" * 30, "x" * LONGEST),
    ],
)
def test_name_becomes_a_part_of_an_address(text: str, part: str, name: str) -> None:
    found, shown = new_server_name(text, [])
    assert shown == name
    assert found.startswith(part)
    assert is_valid_safe_slug(found)
    assert is_valid_display_name(shown)


@pytest.mark.parametrize("other", ["GENOME RUN", "genome run", "Genome  run", "genome-run", "Genome/Run"])
def test_names_that_differ_only_in_case_or_punctuation_have_the_same_part(other: str) -> None:
    assert server_name(clean(other)) == server_name("Genome Run")


def test_names_in_other_scripts_do_not_collide() -> None:
    assert len({server_name(each) for each in ("解析", "実験", "🎉", "🎈", "Größe")}) == 5
    assert server_name("АНАЛИЗ") == server_name("анализ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Write a name"),
        (" \t\n", "Write a name"),
        ("x" * 10_000, "The name has 10000 characters. A name has at most 60."),
        ("x" * (LONGEST + 1), "at most 60"),
        ("a\x00b", "cannot be shown"),
        ("a\u202eb", "cannot be shown"),
        ("a\ud800", "cannot be shown"),
        ("lab", "Choose another name, for example 'lab-2'."),
        ("API", "Choose another name"),
        ("Files", "Choose another name"),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_bad_name_is_refused_with_advice(text: str, message: str) -> None:
    with pytest.raises(NameProblem) as caught:
        new_server_name(text, [])
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "part", ["", "a--b", "-a", "a-", "A", "a b", "a%20b", "a/b", "é", "x" * 31, "x" * 5000, "lab", "1a", 5]
)
def test_bad_part_of_an_address_is_refused(part: object) -> None:
    with pytest.raises(NameProblem) as caught:
        check_server_name(part)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("part", ["genome", "a", "a-1-b", "x" * 30])
def test_good_part_of_an_address_is_accepted(part: str) -> None:
    assert check_server_name(part) == part


def test_similar_name_of_another_session_is_refused_and_the_same_name_is_used_again() -> None:
    taken = [("", ""), ("genome-run", "Genome Run")]
    assert new_server_name("Genome Run", taken) == ("genome-run", "Genome Run")
    with pytest.raises(NameProblem, match="similar name 'Genome Run'"):
        new_server_name("genome run", taken)


def test_session_without_a_chosen_name_gets_a_free_one() -> None:
    assert free_server_name(["session-2"]) == ("", "")
    assert free_server_name([""]) == ("session-2", "Session 2")
    assert free_server_name(["", "session-2", "other"]) == ("session-3", "Session 3")
