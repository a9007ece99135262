"""The committed results of the attacks on the stock packages and on hpchub, and the page that shows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results.json")
TARGETS = ("stock", "hpchub")

GROUPS = {
    "Authentication: who is the user?": ["H4", "H5", "H6", "H7", "H8", "H9", "H10", "H21", "H22", "H23", "A1", "A2"],
    "Authorisation: what may the user run?": ["H1", "H2", "H3", "H11", "H12", "H14", "H15", "H16"],
    "Confidentiality: what can be read?": ["H13", "H17", "H18", "H19", "H20"],
    "Reliability: what gets lost?": ["R1", "R2", "R3", "R4", "R5", "R6", "R9", "R10", "R11", "A3", "A4", "A5"],
}
HAZARDS = [hazard for group in GROUPS.values() for hazard in group]

HEAD = """\
<!-- Written by `bin/bench hazards`, from tests/security/results.json. -->
# Hazards and results

Each row is an attack by a hostile insider: a program on the Internet, an ordinary account on the hub host, or a user on
the login node or in a batch job. The attacks were tried on two services in the same lab, with the same versions of all
software:

- **stock**: JupyterHub, `jhub_remote_user_authenticator`, wrapspawner and batchspawner on the login node, set up as
  their own documentation shows, behind Apache as JupyterHub's documentation shows (`tests/bench/stock`).
- **hpchub**: the service that the playbooks deploy.

*Closed* means that the attack failed. *Open* means that it worked; the text states what the test observed. *Not shown
here* means that this stock service cannot show the hazard; the text states why. Other setups may still have it.

To repeat the attacks, start the demo and run `bin/bench hazards`. The tests are in `tests/security`. `bin/test` runs
them against hpchub.
"""


def merged(runs: dict[str, list[dict[str, str]]]) -> list[dict[str, Any]]:
    """Merge the results of several targets into one entry for each test.

    Args:
        runs: The results that pytest wrote for each target, by the target's name.

    Returns:
        ``{"hazard", "title", "test", "stock": {"state", "note"}, "hpchub": {"state", "note"}}`` for each test.
    """
    found: dict[str, dict[str, Any]] = {}
    for target, entries in runs.items():
        for entry in entries:
            place = found.setdefault(entry["test"], {key: entry[key] for key in ("hazard", "title", "test")})
            place[target] = {"state": entry["state"], "note": entry["note"]}
    return sorted(found.values(), key=lambda entry: HAZARDS.index(entry["hazard"]))


def results() -> list[dict[str, Any]]:
    """Return the committed results."""
    found: list[dict[str, Any]] = json.loads(RESULTS.read_text())
    return found


def words(outcome: dict[str, str] | None) -> str:
    """Return a result as the page shows it."""
    if outcome is None:
        return "not tried"
    state = {"not shown": "not shown here"}.get(outcome["state"], outcome["state"])
    text = f"**{state}**" if state == "open" else state
    return (f"{text}: {outcome['note']}" if outcome["note"] else text).replace("|", "\\|")


def page(entries: list[dict[str, Any]]) -> str:
    """Return the page as Markdown."""
    lines = [HEAD]
    for group, hazards in GROUPS.items():
        lines += [f"## {group}\n", "| id | attack | stock | hpchub | test |", "| --- | --- | --- | --- | --- |"]
        for entry in entries:
            if entry["hazard"] in hazards:
                cells = [entry["hazard"], entry["title"].replace("|", "\\|")]
                cells += [words(entry.get(target)) for target in TARGETS]
                lines.append(f"| {' | '.join(cells)} | `{entry['test'].removesuffix('()')}` |")
        lines.append("")
    return "\n".join(lines)
