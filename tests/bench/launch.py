"""Measure the time from the click on Start to a usable JupyterLab, with stock batchspawner and with hpchub."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from e2e.browser import chromium
from e2e.lab import Lab, eventually
from e2e.pages import Visitor

from .client import Hub, Launch
from .stock import Stock

if TYPE_CHECKING:
    import argparse

USER = "alice"


def options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this bench."""
    parser.add_argument(
        "--repetitions", type=int, default=5, metavar="N", help="measured starts of each service, default 5"
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure; return ``{"profile": key, "stock": [Launch], "hpchub": [Launch], "ratio": {"ready": …}}``."""
    lab = Lab.from_environment()
    profile = lab.profiles()[0]
    with lab.claimed(), Stock(lab, [profile], USER) as stock:
        hubs = [stock.hub, hpchub(lab, profile["key"])]
        taken: dict[str, list[Launch]] = {hub.name: [] for hub in hubs}
        # Do not count the first start of each service, because its caches are cold.
        for repetition in range(arguments.repetitions + 1):
            for hub in hubs:
                launch = hub.launch()
                hub.stop()
                eventually("the job has ended", lambda: not lab.jobs(USER))
                print(f"{hub.name:>8} {launch.ready:6.2f} s ready {launch.usable:6.2f} s usable", flush=True)
                if repetition:
                    taken[hub.name].append(launch)
    result: dict[str, Any] = {name: [asdict(launch) for launch in launches] for name, launches in taken.items()}
    ratio = {what: median(result["hpchub"], what) / median(result["stock"], what) for what in ("ready", "usable")}
    return {"profile": profile["key"], **result, "ratio": ratio}


def table(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the result as rows of text. The first row is the heading."""
    rows: list[tuple[str, ...]] = [("seconds from start to", "stock", "hpchub", "ratio")]
    for what, words in (("ready", "ready in the hub"), ("usable", "JupyterLab's page")):
        medians = (f"{median(result[name], what):.2f}" for name in ("stock", "hpchub"))
        rows.append((words, *medians, f"{result['ratio'][what]:.2f}"))
    return rows


def median(launches: list[dict[str, float]], what: str) -> float:
    """Return the median of one figure, in seconds."""
    return statistics.median(launch[what] for launch in launches)


def hpchub(lab: Lab, profile: str) -> Hub:
    """Return the deployed service, with a token that the user creates in the browser."""
    with chromium(lab) as browser:
        context = browser.new_context(ignore_https_errors=True)
        visitor = Visitor(lab, context.new_page())
        visitor.sign_in(USER)
        visitor.leave_nothing_running()
        token = visitor.new_token()
    ca = lab.directory / "ca.pem"
    return Hub("hpchub", lab.url, lab.addresses[lab.host("hub")], token, USER, {"profile": profile}, ca)
