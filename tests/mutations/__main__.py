"""Run the mutation tests: `python -m tests.mutations --help`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "molecule" / "shared"), str(ROOT / "src")]

from lab.host import CACHE  # noqa: E402

from .catalog import EXPLAINED, mutants  # noqa: E402
from .lab import Lab  # noqa: E402
from .mutants import CatalogError, Mutant  # noqa: E402
from .page import PAGE, page  # noqa: E402
from .run import Results, Runner, copy_repository  # noqa: E402

_EPILOG = """\
A run can be interrupted. The next one continues with the mutants that have no result. The copy of the repository in
which mutants are tried is below ~/.cache/hpchub/mutations; the working tree never changes.
"""


def main() -> int:
    """Run one command; return the exit code: 1 if a mutant survived that EXPLAINED does not list."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__, epilog=_EPILOG)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (("list", "list the mutants with their results"), ("run", "run mutants")):
        command = commands.add_parser(name, help=about)
        command.add_argument("--only", action="append", metavar="TEXT", help="mutants whose id contains this")
        command.add_argument("--fast", action="store_true", help="mutants that need no lab")
        command.add_argument("--place", help="mutants of this place, such as reverse_proxy")
        command.add_argument("--survived", action="store_true", help="mutants that survived or could not be tried")
        if name == "run":
            command.add_argument("--again", action="store_true", help="also mutants that have a result")
    lab = commands.add_parser("lab", help="create or remove the lab")
    lab.add_argument("action", choices=["up", "down"])
    commands.add_parser("page", help=f"write {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    try:
        return _run(options)
    except CatalogError as error:
        print(f"tests.mutations: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    # Several runs may work at once: one without the lab, and one for each place that the others do not need.
    place = "fast" if getattr(options, "fast", False) else getattr(options, "place", None) or "all"
    tree = CACHE / "mutations" / place
    results = Results()
    if options.command == "page":
        results.forget_all_but(mutant.id for mutant in mutants())
        PAGE.write_text(page())
        return 0
    if options.command == "lab":
        copy_repository(tree)
        Lab(tree).up() if options.action == "up" else Lab(tree).down()
        return 0
    chosen = [mutant for mutant in mutants() if _is_chosen(mutant, options, results)]
    if options.command == "list":
        for mutant in chosen:
            state = results.found.get(mutant.id, {"state": "-"})["state"]
            print(f"{state:8} {mutant.place:24} {mutant.id}\n         {mutant.path}: {mutant.change[:150]}")
        return 0
    if not options.again and not options.survived:
        chosen = [mutant for mutant in chosen if mutant.id not in results.found]
    if not options.only:
        chosen = [mutant for mutant in chosen if mutant.id not in EXPLAINED]
    # One place after the other, so that each role is deployed as it should be only once.
    chosen.sort(key=lambda mutant: "" if mutant.place == "fast" else mutant.place)
    print(f"{len(chosen)} mutants", flush=True)
    copy_repository(tree)
    runner = Runner(tree, results, Lab(tree) if any(mutant.place != "fast" for mutant in chosen) else None)
    try:
        found = [(mutant, runner.run(mutant)) for mutant in chosen]
    finally:
        runner.finish()
    return int(any(result["state"] != "caught" and mutant.id not in EXPLAINED for mutant, result in found))


def _is_chosen(mutant: Mutant, options: argparse.Namespace, results: Results) -> bool:
    state = results.found.get(mutant.id, {"state": ""})["state"]
    return (
        (not options.only or any(text in mutant.id for text in options.only))
        and (not options.fast or mutant.place == "fast")
        and (not options.place or mutant.place == options.place)
        and (not options.survived or state in {"survived", "broken"})
    )


if __name__ == "__main__":
    sys.exit(main())
