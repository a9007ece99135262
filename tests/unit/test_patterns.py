"""Patterns for names that Python and Apache could read in too many ways."""

from __future__ import annotations

import pytest

from hpchub.model.patterns import takes_too_long
from hpchub.names import USER_PATTERN


@pytest.mark.parametrize(
    "pattern",
    [
        USER_PATTERN,
        ".*",
        "[A-Za-z0-9._@-]+",
        r"[A-Za-z0-9]+(?:\.[a-z]+)*",
        r"(?:[a-z]+\.)*[a-z]+",
        r"(?:[a-z]+\.)?[a-z]+",
        r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*",
        "[a-z]+[a-z0-9]*",
        "[a-z][a-z0-9-]{1,30}[a-z0-9]",
        "[a-z]{0,32}[0-9]{0,32}",
        "alice|al.*|bob",
        r".+@CL\.ORG",
        r"^(?:[A-Z]{2}\d{4}|[a-z]+\.[a-z]+|\d{4}[a-z]{3})$",
        r"\w+(?:\.\w+){0,3}",
    ],
)
def test_pattern_that_reads_a_name_in_few_ways_is_accepted(pattern: str) -> None:
    assert not takes_too_long(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "([a-z]+)+",
        "(a*)*",
        "(?:a|a)*b",
        "(a|aa)+",
        "(a|b|ab)*c",
        "([a-z]+[.-]?)+",
        "[a-z]+([._-]?[a-z0-9]+)*",
        "(?:(?:[a-z])+?\\.?)*@",
        "(?:[^.]*[a-z]*)*",
        "(?:[a-z]{1,10}){1,10}",
        "(?:a?){30}a{30}",
        "a?" * 40,
        "[a-z]*" * 5,
        "(?:a{1,64}){1,64}",
        "(?=a+)b",
    ],
)
def test_pattern_that_reads_a_name_in_very_many_ways_is_rejected(pattern: str) -> None:
    assert takes_too_long(pattern)
