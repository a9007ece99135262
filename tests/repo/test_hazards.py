"""Every hazard has an attack, and the page shows the result of each attack."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

from security.report import GROUPS, HAZARDS, RESULTS, TARGETS, merged, page, results

if TYPE_CHECKING:
    from collections.abc import Iterator

ATTACKS = Path(__file__).resolve().parents[1] / "security"


def attacks() -> Iterator[tuple[str, str, str]]:
    """Yield each test of tests/security as ``FILE::NAME``, with its hazard and its title."""
    for path in sorted(ATTACKS.glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marks = [mark for mark in node.decorator_list if isinstance(mark, ast.Call)]
                (hazard,) = [
                    str(ast.literal_eval(mark.args[0]))
                    for mark in marks
                    if ast.unparse(mark.func) == "pytest.mark.hazard"
                ]
                title = " ".join((ast.get_docstring(node) or "").split("\n\n", 1)[0].split())
                yield f"{path.name}::{node.name}", hazard, title


def test_every_hazard_has_an_attack() -> None:
    assert {hazard for _, hazard, _ in attacks()} == set(HAZARDS)
    assert len(HAZARDS) == len(set(HAZARDS))


def test_results_match_the_attacks() -> None:
    recorded = {(entry["test"], entry["hazard"], entry["title"]) for entry in results()}
    assert recorded == set(attacks()), f"{RESULTS.name} does not match the tests; run bin/bench hazards to write it"
    assert all(set(TARGETS) <= set(entry) for entry in results())


def test_page_lists_every_hazard() -> None:
    text = page(results())
    assert [hazard for hazard in HAZARDS if f"| {hazard} |" not in text] == []
    assert all(f"## {group}" in text for group in GROUPS)


def test_merged_results_keep_state_and_note_of_each_target() -> None:
    entry = {"hazard": "H1", "title": "a | b", "test": "test_x.py::test_y"}
    (row,) = merged({"stock": [{**entry, "state": "open", "note": "seen"}]})
    assert "| H1 | a \\| b | **open**: seen | not tried | `test_x.py::test_y` |" in page([row])
