"""Measure the start and the memory of notebook servers in several environments, on this machine and without a lab."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from notebook_server import ROOT, Session, notebook_environment

from .client import BenchError

if TYPE_CHECKING:
    import argparse

WARM = 1  # starts of each environment that do not count, because its files are not in the page cache yet


def options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this bench."""
    parser.add_argument(
        "environments", nargs="*", metavar="DIRECTORY", help="an environment; by default that of the unit tests"
    )
    parser.add_argument("--repetitions", type=int, default=7, metavar="N", help="measured starts of each, default 7")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure; return ``{NAME: {"seconds": [SECONDS], "megabytes": [MEGABYTES]}}``. The environments take turns."""
    environments = [Path(each).absolute() for each in arguments.environments] or [notebook_environment()]
    for each in environments:
        if not (each / "bin" / "python").exists():
            raise BenchError(f"{each} is not a Python environment; give the directory of one")
    found: dict[str, Any] = {each.name: {"seconds": [], "megabytes": []} for each in environments}
    for repetition in range(WARM + arguments.repetitions):
        for each in environments:
            seconds, megabytes = measure(each)
            print(f"{each.name:>20} {seconds:6.2f} s {megabytes:6.1f} MB", flush=True)
            if repetition >= WARM:
                found[each.name]["seconds"].append(seconds)
                found[each.name]["megabytes"].append(megabytes)
    return found


def measure(environment: Path) -> tuple[float, float]:
    """Return the seconds until the server reports its port, and its memory with an open tab and without a kernel."""
    sys.path.append(str(ROOT / "collections"))
    from hub_app import make_authority  # noqa: PLC0415  (it imports the collection)

    with tempfile.TemporaryDirectory(prefix="hpchub-bench-") as name:
        directory = Path(name)
        make_authority(directory / "tls")
        session = Session(directory / "home", directory / "tls", environment=environment)
        begun = time.monotonic()
        try:
            session.start().wait_for_report()
            seconds = time.monotonic() - begun
            for path in ("lab", "api/contents", "lab/api/settings", "api/kernelspecs"):  # what a tab asks for
                session.request(path)
            assert session.process is not None
            status = Path(f"/proc/{session.process.pid}/status").read_text()
        finally:
            session.close()
    (memory,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    return seconds, int(memory) / 1000


def table(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the result as rows of text. The first row is the heading."""
    rows: list[tuple[str, ...]] = [("environment", "start, median s", "range", "resident, MB")]
    for name, each in result.items():
        seconds = each["seconds"]
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        middle = statistics.median(seconds)
        rows.append((name, f"{middle:.2f}", spread, f"{statistics.median(each['megabytes']):.0f}"))
    return rows
