"""The JupyterLab extension in a browser without storage, or with a full one. Node.js needs a stand-in for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from node_program import node

STATIC = Path(__file__).parents[2] / "src" / "hpchub" / "labextension" / "static"

# A database with requests that succeed, and transactions that then end with an event, like Chromium's.
DRAFTS = """
import {Drafts} from %s;
const later = action => setTimeout(action, 1);
const transaction = () => {
  const made = {error: new DOMException("full", "QuotaExceededError")};
  made.objectStore = () => ({
    transaction: made,
    put: () => {
      const request = {result: 1};
      later(() => { request.onsuccess?.(); later(() => made[%s]?.()); });
      return request;
    },
  });
  return made;
};
globalThis.indexedDB = {open: () => {
  const request = {result: {transaction}};
  later(() => request.onsuccess());
  return request;
}};
console.info = console.error; // the output is one value
const drafts = new Drafts("/user/alice/");
await drafts.put({path: "a.ipynb", text: "1"});
console.log(JSON.stringify(drafts.isReliable));
process.exit();
"""

ENTRY = """
import {readFileSync} from "node:fs";
const broken = {%s};
globalThis.window = globalThis;
globalThis.document = {currentScript: {src: "https://hub.example.org/x/entry.js"}, getElementById: () => null};
for (const name of ["localStorage", "sessionStorage"]) {
  Object.defineProperty(globalThis, name, {configurable: true, ...broken});
}
(0, eval)(readFileSync(%s, "utf8"));
localStorage.setItem("a", 1);
sessionStorage.setItem("b", "2");
const found = [localStorage.getItem("a"), localStorage.getItem("b"), localStorage.length, localStorage.key(0)];
localStorage.removeItem("a");
console.log(JSON.stringify([...found, localStorage.getItem("a"), sessionStorage.getItem("b")]));
"""


@pytest.mark.parametrize(("event", "reliable"), [("oncomplete", True), ("onabort", False)])
def test_draft_is_kept_only_if_its_transaction_is_complete(event: str, reliable: bool) -> None:
    program = DRAFTS % (json.dumps((STATIC / "drafts.js").as_uri()), json.dumps(event))
    assert node(program) is reliable


@pytest.mark.parametrize(
    ("broken", "first", "length"),
    [
        ("get() { throw new DOMException('off', 'SecurityError'); }", "a", 1),
        ("value: Object.assign(Object.create({setItem() { throw new DOMException('full'); }}), {old: '1'})", "old", 2),
        ("value: null", "a", 1),
    ],
    ids=["off", "full", "missing"],
)
def test_tab_keeps_values_in_memory_if_the_browser_keeps_none(broken: str, first: str, length: int) -> None:
    """A full storage can still be read, so the tab has its values."""
    seen = node(ENTRY % (broken, json.dumps(str(STATIC / "entry.js"))))
    assert seen == ["1", None, length, first, None, "2"]
