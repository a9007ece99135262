"""Run a bench, print its results as a table and optionally write them as JSON."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path

from e2e.lab import LabError

from bench import deploy, docker_launch, environment, hazards, launch, pages, profile_list, scheduler_load
from bench.client import BenchError
from bench.results import save

BENCHES = {
    "deploy": deploy,
    "docker_launch": docker_launch,
    "environment": environment,
    "launch": launch,
    "hazards": hazards,
    "pages": pages,
    "profile_list": profile_list,
    "scheduler_load": scheduler_load,
}


def main() -> int:
    """Run one bench and return the exit code."""
    parser = argparse.ArgumentParser(prog="bin/bench", description=__doc__)
    benches = parser.add_subparsers(dest="bench", required=True)
    for name, module in BENCHES.items():
        bench = benches.add_parser(name, help=module.__doc__, description=module.__doc__)
        module.options(bench)
        bench.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this JSON file")
    arguments = parser.parse_args()
    module = BENCHES[arguments.bench]
    try:
        result = module.run(arguments)
    except (BenchError, LabError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(f"\n{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}\n")
    rows = module.table(result)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for first, *others in rows:
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        print(first.ljust(widths[0]), *cells, sep="  ")
    if arguments.json:
        save(arguments.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
