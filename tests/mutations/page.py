"""The page of the documentation that shows every mutant and the test that fails for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .catalog import EXPLAINED, mutants
from .mutants import ROOT
from .run import Results

if TYPE_CHECKING:
    from .mutants import Mutant
    from .run import Result

PAGE = ROOT / "docs" / "reference" / "mutations.md"

HEAD = """\
<!-- Written by `python -m tests.mutations page`, from tests/mutations/results.json. -->
# Mutation tests

Each row is a *mutant*: one line that protects the service, removed or weakened in a copy of the repository. The last
column names a test that fails for the mutant. So every line below is there for a reason that a test checks.

A program finds most mutants by rules, for example every `RequestHeader unset` and every file mode that keeps others
out. A new line of this kind is therefore a new mutant, and the tests fail until it has a row here. Some mutants change
nothing, because another line protects the same thing. Their row states why.

To repeat all of this:

```
. ~/.cache/hpchub/venv/bin/activate
python -m tests.mutations list                      # all mutants
python -m tests.mutations run --fast                # those that unit and repository tests catch
python -m tests.mutations lab up                    # five hosts, beside the demo; about five minutes
python -m tests.mutations run                       # all that have no result yet
python -m tests.mutations run --again --only ID     # one mutant
python -m tests.mutations lab down
python -m tests.mutations page                      # write this page
```
"""


def page() -> str:
    """Return the text of the page."""
    results = Results().found
    groups: dict[str, list[Mutant]] = {}
    for mutant in mutants():
        groups.setdefault(mutant.path, []).append(mutant)
    parts = [HEAD]
    for path, members in sorted(groups.items()):
        parts.append(f"\n## {path}\n\n| id | removed or weakened | test that fails |\n| --- | --- | --- |\n")
        parts += [_row(mutant, results.get(mutant.id)) for mutant in members]
    return "".join(parts)


def _row(mutant: Mutant, result: Result | None) -> str:
    if mutant.id in EXPLAINED:
        test = f"none: {EXPLAINED[mutant.id]}"
    elif result is None:
        test = "not run yet"
    else:
        test = f"`{result['test'].removeprefix('tests/')}`" if result["state"] == "caught" else f"**{result['state']}**"
    return f"| {mutant.id} | {_code(mutant.change)} | {test.replace('|', chr(92) + '|')} |\n"


def _code(text: str) -> str:
    """Return text as code in a table: without Markdown or Jinja for the site's generator to read."""
    short = text if len(text) <= 160 else f"{text[:159]}…"
    mark = "``" if "`" in short else "`"
    return f"{mark}{short}{mark}".replace("|", "\\|")
