"""Compare the time to read lists of 100 and of 1,000 profiles. This bench needs no demo."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

from hpchub.model.profile_list import parse_profile_list, profile_list, to_json
from hpchub.model.site import Site

if TYPE_CHECKING:
    import argparse

COUNTS = (100, 1000)


def options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this bench."""
    parser.add_argument("--repetitions", type=int, default=5, metavar="N", help="readings of each list, default 5")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure.

    Returns:
        ``{"seconds": {count: median seconds}, "ratio": R}``, where R compares the time per profile of the long list
        with that of the short one: about 1 as long as the work grows with the number of profiles.
    """
    texts = {count: _text(count) for count in COUNTS}
    taken: dict[int, list[float]] = {count: [] for count in COUNTS}
    for _ in range(arguments.repetitions):
        for count, text in texts.items():
            begin = time.perf_counter()
            parse_profile_list(text)
            taken[count].append(time.perf_counter() - begin)
    seconds = {count: statistics.median(each) for count, each in taken.items()}
    few, many = COUNTS
    return {"seconds": seconds, "ratio": seconds[many] / many / (seconds[few] / few)}


def table(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the result as rows of text; the first row is the heading."""
    rows: list[tuple[str, ...]] = [("profiles", "milliseconds")]
    rows += [(str(count), f"{seconds * 1000:.1f}") for count, seconds in result["seconds"].items()]
    return [*rows, ("time per profile, ratio", f"{result['ratio']:.2f}")]


def _text(count: int) -> str:
    queue = {"name": "short", "max_cores": 4, "max_memory": "8G", "max_runtime": "1:00:00"}
    cluster = {
        "name": "demo",
        "scheduler": "slurm",
        "submit": {"method": "ssh", "host": "login"},
        "networks": ["10.0.0.0/8"],
        "queues": [queue],
    }
    resources = {"cluster": "demo", "queue": "short", "cores": 2, "memory": "4G", "runtime": "0:30:00"}
    site = {
        "hpc_service": {"url": "https://hub.example.org", "support": "help@example.org"},
        "hpc_sso": {"metadata_url": "https://sso.example.org/x", "client_secret": "TOPSECRET"},
        "hpc_clusters": [cluster],
        "hpc_profiles": [{"key": f"p{i}", "display_name": f"Profile {i}", **resources} for i in range(count)],
    }
    return to_json(profile_list(Site.from_vars(site)))
