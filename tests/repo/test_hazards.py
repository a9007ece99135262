"""Every hazard has its attack, and the page shows what came of each."""

import ast
from pathlib import Path

from security.report import GROUPS, HAZARDS, RESULTS, TARGETS, merged, page, results

ATTACKS = Path(__file__).resolve().parents[1] / "security"


def attacks():
    """Every test of tests/security: ``FILE::NAME``, its hazard and its title."""
    for path in sorted(ATTACKS.glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marks = [mark for mark in node.decorator_list if isinstance(mark, ast.Call)]
                (hazard,) = [mark.args[0].value for mark in marks if ast.unparse(mark.func) == "pytest.mark.hazard"]
                title = " ".join(ast.get_docstring(node).split("\n\n", 1)[0].split())
                yield f"{path.name}::{node.name}", hazard, title


def test_every_hazard_is_tried():
    assert {hazard for _, hazard, _ in attacks()} == set(HAZARDS)
    assert len(HAZARDS) == len(set(HAZARDS))


def test_the_results_are_those_of_these_attacks():
    tried = {(entry["test"], entry["hazard"], entry["title"]) for entry in results()}
    assert tried == set(attacks()), f"run bin/bench hazards, which writes {RESULTS.name}"
    assert all(set(TARGETS) <= set(entry) for entry in results())


def test_the_page_names_every_hazard():
    text = page(results())
    assert [hazard for hazard in HAZARDS if f"| {hazard} |" not in text] == []
    assert all(f"## {group}" in text for group in GROUPS)


def test_what_is_merged():
    entry = {"hazard": "H1", "title": "a | b", "test": "test_x.py::test_y"}
    (row,) = merged({"stock": [{**entry, "state": "open", "note": "seen"}]})
    assert "| H1 | a \\| b | **open**: seen | not tried | `test_x.py::test_y` |" in page([row])
