"""The mutation tests are complete: each security-relevant line has a mutant, and a test fails for each mutant."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from mutations.catalog import EXPLAINED, RULES, mutants, weaken
from mutations.mutants import ROOT, CatalogError, HandWritten, Rule
from mutations.page import PAGE, page
from mutations.run import Results

if TYPE_CHECKING:
    from pathlib import Path

AGAIN = "run `python -m tests.mutations run` and `python -m tests.mutations page`; see docs/reference/mutations.md"


def test_each_mutant_is_caught_by_a_test_or_explained() -> None:
    results = Results().found
    missing = [
        f"{mutant.id} ({mutant.path}: {mutant.change})"
        for mutant in mutants()
        if mutant.id not in EXPLAINED and results.get(mutant.id, {"state": "-"})["state"] != "caught"
    ]
    assert not missing, f"no test is known to fail for: {missing}; {AGAIN}"


def test_each_explanation_and_each_result_is_of_a_mutant() -> None:
    known = {mutant.id for mutant in mutants()}
    assert EXPLAINED.keys() <= known
    assert Results().found.keys() <= known, AGAIN


def test_page_shows_the_results() -> None:
    assert PAGE.read_text() == page(), AGAIN


def test_each_test_that_catches_a_mutant_exists() -> None:
    renamed = f"if you have only renamed this test, replace its name in tests/mutations/results.json; otherwise {AGAIN}"
    names = {result["test"].partition("[")[0] for result in Results().found.values() if result["state"] == "caught"}
    for name in sorted(names):
        path, _, function = name.partition("::")
        if function:
            text = (ROOT / path).read_text()
            assert re.search(rf"^(?:async )?def {function.rpartition('::')[2]}\b", text, re.MULTILINE), (
                f"there is no {name}; {renamed}"
            )


def test_each_change_is_a_change() -> None:
    for mutant in mutants():
        assert mutant.text[mutant.start :].startswith(mutant.old), mutant.id
        assert mutant.old != mutant.new, mutant.id


@pytest.mark.parametrize(
    ("mode", "weak"),
    [("0600", "0604"), ("0640", "0644"), ("0700", "0705"), ("2750", "2755"), ("0660", "0666"), ("0644", None)],
)
def test_weaker_mode_lets_others_in(mode: str, weak: str | None) -> None:
    assert weaken(mode) == weak


def test_new_line_of_a_kind_is_a_new_mutant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (rule,) = [rule for rule in RULES if rule.kind == "request-header"]
    monkeypatch.setattr("mutations.mutants.ROOT", tmp_path)
    template = tmp_path / "roles/reverse_proxy/templates/x.j2"
    template.parent.mkdir(parents=True)
    template.write_text("RequestHeader unset X-One early\n")
    assert [mutant.change for mutant in rule.find()] == ["RequestHeader unset X-One early"]
    template.write_text("RequestHeader unset X-One early\n  RequestHeader unset X-Two early\n")
    assert [mutant.change for mutant in rule.find()][1:] == ["RequestHeader unset X-Two early"]


def test_rule_that_finds_nothing_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mutations.mutants.ROOT", tmp_path)
    (tmp_path / "a").write_text("text\n")
    with pytest.raises(CatalogError, match="rule kind: finds nothing in a"):
        list(Rule("kind", ("a",), "nothing", ()).find())
    with pytest.raises(CatalogError, match="rule kind: no file matches b"):
        list(Rule("kind", ("b",), "nothing", ()).find())


@pytest.mark.parametrize(("text", "count"), [("", 0), ("code code", 2)])
def test_hand_written_mutant_without_its_code_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, count: int
) -> None:
    monkeypatch.setattr("mutations.mutants.ROOT", tmp_path)
    (tmp_path / "a").write_text(text)
    with pytest.raises(CatalogError, match=f"name: a has the code 'code' {count} times, not once"):
        HandWritten("name", "a", "code", "", ()).mutant()
