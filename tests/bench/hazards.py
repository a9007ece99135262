"""Run the attacks of tests/security on the stock packages and on hpchub, in the same lab."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2e.site import REPOSITORY
from security import report

from .client import BenchError

if TYPE_CHECKING:
    import argparse

PAGE = REPOSITORY / "docs" / "reference" / "hazards.md"


def options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this bench."""
    parser.add_argument("--only", default="", metavar="H1,H4", help="try only these; the page keeps the other results")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Try the attacks, and write the results and the page that shows them."""
    runs = {}
    with tempfile.TemporaryDirectory() as directory:
        for target in report.TARGETS:
            path = Path(directory, f"{target}.json")
            chosen = [f"--target={target}", f"--results={path}", f"--hazards={arguments.only}"]
            # A failed test is an attack that worked. Show its output, but do not stop the bench.
            subprocess.run(
                [sys.executable, "-m", "pytest", "tests/security", "--tb=line", *chosen], cwd=REPOSITORY, check=False
            )
            if not path.exists():
                raise BenchError(f"pytest wrote no results for {target}; see its output above")
            runs[target] = json.loads(path.read_text())
    found = report.merged(runs)
    if broken := [f"{each['test']} on {name}" for each in found for name in runs if state(each, name) == "error"]:
        raise BenchError(f"these attacks could not be tried: {', '.join(broken)}")
    known = json.loads(report.RESULTS.read_text()) if arguments.only else found
    tried = {each["test"]: each for each in found}
    known = [tried.get(each["test"], each) for each in known]
    report.RESULTS.write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n")
    PAGE.write_text(report.page(known))
    return {"hazards": found}


def state(entry: dict[str, Any], target: str) -> str:
    """Return the state of an attack on a target."""
    return str(entry.get(target, {}).get("state", "not tried"))


def table(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the result as rows of text. The first row is the heading."""
    rows: list[tuple[str, ...]] = [("hazard and attack", *report.TARGETS)]
    for entry in result["hazards"]:
        title = f"{entry['hazard']:<4}{entry['title']}"
        rows.append(
            (title[:97] + "..." if len(title) > 100 else title, *(state(entry, name) for name in report.TARGETS))
        )
    return rows
