"""The command ``hpchub-kernel``: users register their own Python environments as Jupyter kernels.

The role ``notebook_environment`` installs it in the notebook environment of each cluster, with the files beside it.
Until it starts a kernel, it uses the standard library only (Python 3.9 and later).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from hpchub.remote import kernel_check, kernel_environments
from hpchub.remote.kernel_store import BROKEN, UNUSABLE, WORKS, Failure, Store, centre_kernels, kernels_directory
from hpchub.remote.user_kernels import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpchub.remote.kernel_environments import Environment

DESCRIPTION = """\
Register your own Python environments as Jupyter kernels, so that notebooks in your sessions can use them. A kernel is a
small directory with the command that starts your environment. Your environment itself is never changed.
"""
CODES = """\
exit codes:
  0  the command succeeded
  1  an environment or a kernel does not work; the output says why, and what to do
  2  the command failed: wrong usage, a name that is in use or unknown, or a directory that cannot be written
"""
EXAMPLES = f"""\
examples:
  hpchub-kernel add ~/venvs/geo             register a venv
  hpchub-kernel list                        show your kernels, and which of them do not work
  hpchub-kernel check                       start each of your kernels, and let it compute 6*7
  hpchub-kernel remove geo                  remove a kernel, but not its environment

{CODES}"""
ADD = f"""\
ENV is one of
  the directory of a venv or of a conda environment, or the path of its interpreter
  the name of a conda or micromamba environment of yours

With --module, the kernel loads these modules first. Without ENV, the modules are the environment. The environment must
have ipykernel. If it has not, the command prints how to install it.

examples:
  hpchub-kernel add ~/venvs/geo
  hpchub-kernel add ~/project/.venv --name project --display-name "My project"
  hpchub-kernel add pytorch                                    a conda environment
  hpchub-kernel add --module python/3.11 --module hdf5         modules
  hpchub-kernel add ~/venvs/geo --module python/3.11           a venv that was made with a module's Python
  hpchub-kernel add ~/venvs/geo --dry-run                      only print what would be written

{CODES}"""
CHECK = f"""\
Run it where the kernel is to work: some directories and modules exist on some nodes only.

examples:
  hpchub-kernel check                       all your kernels
  hpchub-kernel check geo --timeout 120     one kernel, with more time

{CODES}"""
REMOVE = f"""\
The command removes a kernel from your own directory. It never removes your environment, or a kernel of your centre.

examples:
  hpchub-kernel remove geo
  hpchub-kernel remove geo --yes            do not ask

{CODES}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    os.umask(0o077)
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options, Store(kernels_directory(), centre_kernels())))
    except Failure as failure:
        print(f"hpchub-kernel: {failure}", file=sys.stderr)
        return failure.code
    except BrokenPipeError:  # as in "hpchub-kernel list | head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return WORKS
    except OSError as error:  # such as a full directory for temporary files
        place = f"{error.filename}: " if error.filename else ""
        print(f"hpchub-kernel: {place}{error.strerror}; free space, or correct the permissions there", file=sys.stderr)
        return UNUSABLE
    except (KeyboardInterrupt, EOFError):
        print("hpchub-kernel: interrupted; nothing was changed", file=sys.stderr)
        return UNUSABLE


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="hpchub-kernel",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = made.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, help_text: str, run: Any, epilog: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=help_text,
            description=f"{help_text[0].upper()}{help_text[1:]}.",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(run=run)
        return added

    adding = command("add", "register an environment as a kernel", add, ADD)
    adding.add_argument("environment", metavar="ENV", nargs="?", default="", help="the environment; see below")
    adding.add_argument("--module", metavar="NAME", action="append", default=[], help="load this module first")
    adding.add_argument("--python", metavar="PROGRAM", default="", help="the Python of the modules; by default, python")
    adding.add_argument("--name", metavar="NAME", help="the name of the kernel; by default, it comes from ENV")
    adding.add_argument("--display-name", metavar="TEXT", help="the name that JupyterLab shows")
    adding.add_argument("--force", action="store_true", help="replace a kernel of yours that has this name")
    adding.add_argument("--dry-run", action="store_true", help="check everything, and print what would be written")
    listing = command("list", "show your kernels and whether they can start", show, CODES)
    checking = command("check", "start your kernels, and let each compute 6*7", check, CHECK)
    checking.add_argument("names", metavar="NAME", nargs="*", help="a kernel of yours; by default, all of them")
    checking.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=kernel_check.TIMEOUT,
        help=f"how long each kernel may take; by default, {kernel_check.TIMEOUT:g}",
    )
    for each in (listing, checking):
        each.add_argument("--json", action="store_true", help="print JSON")
    removing = command("remove", "remove a kernel of yours, but not its environment", remove, REMOVE)
    removing.add_argument("name", metavar="NAME", help="the name of the kernel, as hpchub-kernel list shows it")
    removing.add_argument("--yes", action="store_true", help="do not ask")
    removing.add_argument("--dry-run", action="store_true", help="only print what would be removed")
    return made


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not valid; write a number of seconds from 1 to 3600")
    return seconds


def add(options: argparse.Namespace, store: Store) -> int:
    """Run ``hpchub-kernel add``."""
    environment = kernel_environments.locate(options.environment, options.module, options.python)
    name = environment.default_name if options.name is None else options.name
    if not name and options.name is None:
        raise Failure(f"{environment.path} gives no name for the kernel; choose one with --name")
    replaced = store.check_free(name, force=options.force)
    display_name = options.display_name
    if display_name is not None and (printable(display_name, 80) != display_name or not display_name):
        raise Failure(f"--display-name {printable(display_name)!r} is not valid; write one line of 1 to 80 characters")
    facts = kernel_environments.probe(environment, name)
    display_name = display_name or f"Python {_short(facts.get('version'))} ({name})"
    spec = environment.spec(display_name, facts)
    files = {"kernel.json": json.dumps(spec, indent=2, ensure_ascii=False) + "\n", **environment.scripts(name)}
    if options.dry_run:
        for file, text in files.items():
            print(f"Would write {store.path / name / file}:\n{text}")
        return WORKS
    path = store.add(name, files, force=options.force)
    print(f"{'Replaced' if replaced else 'Added'} the kernel {name}: {display_name}, in {path}.")
    _warn(environment)
    print(f"To try it: hpchub-kernel check {name}. In JupyterLab, reload the page to see it in the launcher.")
    return WORKS


def _short(version: object) -> str:
    """Return the first two numbers of a version."""
    return ".".join(printable(version, 20).split(".")[:2])


def _warn(environment: Environment) -> None:
    if environment.path.startswith(tuple(f"{place}/" for place in kernel_environments.LOCAL)):
        print(f"Warning: {environment.path} is probably on this node only. Sessions on other nodes do not have it.")


def show(options: argparse.Namespace, store: Store) -> int:
    """Run ``hpchub-kernel list``."""
    kernels = store.kernels()
    if options.json:
        _print_json(
            [
                {
                    "name": kernel.name,
                    "display_name": kernel.display_name,
                    "kind": kernel.kind,
                    "environment": kernel.environment,
                    "modules": kernel.modules,
                    "directory": str(kernel.directory),
                    "problem": kernel.problem,
                    "hidden_by": kernel.hidden_by,
                }
                for kernel in kernels
            ]
        )
    elif kernels:
        rows = [["NAME", "DISPLAY NAME", "KIND", "ENVIRONMENT", "STATE"]]
        for kernel in kernels:
            state = f"does not work: {kernel.problem}" if kernel.problem else "can start"
            if kernel.hidden_by:
                state = "not used: your centre has a kernel of this name"
            rows.append([kernel.name, kernel.display_name, kernel.kind, kernel.environment, state])
        _print_table(rows)
    else:
        print(f"You have no kernels in {store.path}. To add one: hpchub-kernel add ENV")
    return WORKS


def check(options: argparse.Namespace, store: Store) -> int:
    """Run ``hpchub-kernel check``."""
    kernels = [store.find(name) for name in dict.fromkeys(options.names)] if options.names else store.kernels()
    results = [(kernel, kernel_check.try_kernel(kernel, options.timeout)) for kernel in kernels]
    if options.json:
        _print_json(
            [
                {
                    "name": kernel.name,
                    "works": not result.reason,
                    "seconds": round(result.seconds, 1),
                    "version": result.version,
                    "reason": result.reason,
                    "output": result.output,
                }
                for kernel, result in results
            ]
        )
    elif results:
        rows = [["NAME", "SECONDS", "VERSION", "RESULT"]]
        for kernel, result in results:
            said = f"does not work: {result.reason}" if result.reason else "works"
            rows.append([kernel.name, f"{result.seconds:.1f}", result.version or "-", said])
        _print_table(rows)
        for kernel, result in results:
            if result.output:
                print(f"\nThe last lines of {kernel.name}:\n{result.output}")
    else:
        print(f"You have no kernels in {store.path}. To add one: hpchub-kernel add ENV")
    return BROKEN if any(result.reason for _, result in results) else WORKS


def remove(options: argparse.Namespace, store: Store) -> int:
    """Run ``hpchub-kernel remove``."""
    kernel = store.find(options.name)
    what = f"the link {kernel.directory}" if kernel.directory.is_symlink() else str(kernel.directory)
    if options.dry_run:
        print(f"Would remove {what}.")
        return WORKS
    if not options.yes:
        if not sys.stdin.isatty():
            raise Failure(f"nobody can answer whether to remove {what}; add --yes")
        if input(f"Remove {what}? Its environment stays. [y/N] ").strip().lower() not in ("y", "yes"):
            print("Nothing was removed.")
            return WORKS
    store.remove(kernel)
    print(f"Removed {what}. Notebooks that use the kernel go on until you stop them.")
    return WORKS


def _print_json(content: object) -> None:
    print(json.dumps(content, indent=2, ensure_ascii=False))


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())  # noqa: B905 Python 3.9


if __name__ == "__main__":
    sys.exit(main())
