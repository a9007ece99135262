"""The scripts in the templates of pages are valid JavaScript. A browser ignores a whole script that is not."""

from __future__ import annotations

import re
from pathlib import Path

from node_program import node

TEMPLATES = Path(__file__).parents[2] / "templates" / "pages"
PARSE = """
import vm from "node:vm";
import fs from "node:fs";
const faults = {};
for (const [name, text] of JSON.parse(fs.readFileSync(0))) {
    try { new vm.Script(text); } catch (error) { faults[name] = error.message; }
}
console.log(JSON.stringify(faults));
"""


def scripts() -> list[tuple[str, str]]:
    """Return the scripts of all templates. A value of Jinja becomes (0), and its statements vanish."""
    found = []
    for path in sorted(TEMPLATES.glob("*.html")):
        text = re.sub(r"\{#.*?#\}|\{%.*?%\}", "", path.read_text(), flags=re.DOTALL)
        text = re.sub(r"\{\{.*?\}\}", "(0)", text, flags=re.DOTALL)
        for number, script in enumerate(re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL)):
            found.append((f"{path.name} {number}", script))
    return found


def test_scripts_of_pages_are_valid() -> None:
    assert len(scripts()) > 5
    assert node(PARSE, scripts()) == {}
