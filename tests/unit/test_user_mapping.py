"""The user mapping of the model: which names it accepts, and which account each name gets."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from user_mapping_cases import CASES, COMMAND_ANSWERS

from hpchub.model.user_mapping import RefusedName, Step, map_name


def outcome(steps: list[dict[str, Any]], received: str) -> str:
    """Return the account, or the reason of the refusal in brackets."""
    try:
        return map_name([Step(**step) for step in steps], received, run=lambda _, name: COMMAND_ANSWERS.get(name))
    except RefusedName as refusal:
        return f"[{refusal.reason}]"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_name_becomes_this_account_or_is_refused(case: Any) -> None:
    assert {name: outcome(case.steps, name) for name in case.expected} == case.expected


@pytest.mark.parametrize("name", ["\ud800", "a\udfffb"])
def test_half_of_a_character_is_no_name(name: str) -> None:
    """JSON can contain it."""
    assert outcome([], name) == "[characters]"


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "does nothing"),
    "two-steps-in-one": ({"fold_case": "lower", "strip_realm": ["x.org"]}, "has the keys strip_realm, fold_case"),
    "pattern-without-replacement": ({"pattern": "a"}, "has only one of pattern and replacement"),
    "group-that-does-not-exist": ({"pattern": "(a)", "replacement": r"\2"}, r"has a replacement with \2"),
    "look-ahead": ({"pattern": "(?=a)a", "replacement": "a"}, "uses a construct"),
    "flags": ({"pattern": "(?i)a", "replacement": "a"}, "uses a construct"),
    "anchor-in-the-middle": ({"pattern": "a$|b", "replacement": "a"}, "contains"),
    "slow-pattern": ({"pattern": "([a-z]+)+", "replacement": "a"}, "can read some names in very many ways"),
    "bad-replacement": ({"pattern": "a", "replacement": "a b"}, "is not a replacement"),
    "no-realm": ({"strip_realm": []}, "is empty"),
    "realm-with-an-at-sign": ({"strip_realm": ["@x.org"]}, "is not a realm"),
    "upper-case": ({"fold_case": "upper"}, "lower"),
    "account-twice": ({"table": {"a": "anna", "b": "anna"}}, "gives the account anna to"),
    "account-that-is-none": ({"table": {"a": "root"}}, "is not a user's name"),
    "relative-command": ({"command": ["map-user"]}, "without its full path"),
    "name-as-argument": ({"command": ["/bin/map", "{{ name }}"]}, "with an argument for the name"),
}


@pytest.mark.parametrize("name", WRONG)
def test_step_that_cannot_work_is_rejected(name: str) -> None:
    step, message = WRONG[name]
    with pytest.raises(ValidationError) as error:
        Step.model_validate(step)
    text = " ".join(str(each) for each in error.value.errors()).replace("\\\\", "\\")
    assert message in text or (name == "no-realm" and "too_short" in text)
