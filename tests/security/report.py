"""What came of the attacks on the stock packages and on hpchub: the committed results, and the page of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results.json")
TARGETS = ("stock", "hpchub")

GROUPS = {
    "Who are you?": ["H4", "H5", "H6", "H7", "H8", "H9", "H10", "A1", "A2"],
    "What may you run?": ["H1", "H2", "H3", "H11", "H12", "H14", "H15", "H16"],
    "What can be read?": ["H13", "H17", "H18", "H19", "H20"],
    "What gets lost?": ["R1", "R2", "R3", "R4", "R5", "R6", "A3", "A4"],
}
HAZARDS = [hazard for group in GROUPS.values() for hazard in group]

HEAD = """\
<!-- Written by `bin/bench hazards`, from tests/security/results.json. -->
# Hazards, tried

Each row is an attack by a hostile insider: a program on the Internet's side of the service, an ordinary account of the
hub host, a user on the login node or inside a batch job. It was tried on two services in the same lab, with the same
versions of everything:

- **stock**: JupyterHub, `jhub_remote_user_authenticator`, wrapspawner and batchspawner as their own documentation shows
  them, behind Apache as JupyterHub's shows it (`tests/bench/stock`). The login node is its hub host.
- **hpchub**: what the playbooks deploy.

*Closed* means that the attack failed, *open* that it worked, with what was seen. *Not shown here* means that this stock
service does not show it, and why; that says nothing about other ways to set it up.

To try them again: `bin/bench hazards` with a running demo. The tests are in `tests/security`; `bin/test` runs them
against hpchub.
"""


def merged(runs: dict[str, list[dict[str, str]]]) -> list[dict[str, Any]]:
    """One entry a test: ``{"hazard", "title", "test", "stock": {"state", "note"}, "hpchub": {"state", "note"}}``.

    Args:
        runs: the target's name to what pytest wrote of it.
    """
    found: dict[str, dict[str, Any]] = {}
    for target, entries in runs.items():
        for entry in entries:
            place = found.setdefault(entry["test"], {key: entry[key] for key in ("hazard", "title", "test")})
            place[target] = {"state": entry["state"], "note": entry["note"]}
    return sorted(found.values(), key=lambda entry: HAZARDS.index(entry["hazard"]))


def results() -> list[dict[str, Any]]:
    """The committed results."""
    found: list[dict[str, Any]] = json.loads(RESULTS.read_text())
    return found


def words(outcome: dict[str, str] | None) -> str:
    """A result as the page says it."""
    if outcome is None:
        return "not tried"
    state = {"not shown": "not shown here"}.get(outcome["state"], outcome["state"])
    text = f"**{state}**" if state == "open" else state
    return (f"{text}: {outcome['note']}" if outcome["note"] else text).replace("|", "\\|")


def page(entries: list[dict[str, Any]]) -> str:
    """The page, as Markdown."""
    lines = [HEAD]
    for group, hazards in GROUPS.items():
        lines += [f"## {group}\n", "| id | what is tried | stock | hpchub | test |", "| --- | --- | --- | --- | --- |"]
        for entry in entries:
            if entry["hazard"] in hazards:
                cells = [entry["hazard"], entry["title"].replace("|", "\\|")]
                cells += [words(entry.get(target)) for target in TARGETS]
                lines.append(f"| {' | '.join(cells)} | `{entry['test'].removesuffix('()')}` |")
        lines.append("")
    return "\n".join(lines)
