"""Measure the administrator's waiting times: the demo, a run without changes, a new profile in the form."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2e.browser import chromium
from e2e.lab import Lab
from e2e.pages import Visitor
from e2e.site import REPOSITORY, Site

from bench.client import BenchError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

DEMO = REPOSITORY / "bin" / "demo"
PROFILES = ("--tags", "spawner_profiles")
USER = "alice"


def options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this bench."""
    parser.add_argument(
        "--from-nothing",
        action="store_true",
        help="remove the demo first, and time its creation",
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the figures in seconds; ``second_site_changed`` is a number of tasks."""
    result: dict[str, Any] = {}
    if arguments.from_nothing:
        subprocess.run([DEMO, "down"], check=True)
        start = time.monotonic()
        subprocess.run([DEMO, "up"], check=True)
        result["demo_up"] = time.monotonic() - start
    lab = Lab.from_environment()
    with lab.claimed(), chromium(lab) as browser, tempfile.TemporaryDirectory() as directory:
        site = Site(lab, Path(directory))
        visitor = Visitor(lab, browser.new_context(ignore_https_errors=True).new_page())
        start = time.monotonic()
        visitor.sign_in(USER)
        visitor.leave_nothing_running()
        notebook = visitor.start(lab.profiles()[0]["key"]).new_notebook("python3")
        if notebook.run("6*7") != "42":
            raise BenchError("the first cell returned a wrong result")
        result["first_cell"] = time.monotonic() - start
        if "demo_up" in result:
            result["nothing_to_first_cell"] = result["demo_up"] + result["first_cell"]
        visitor.leave_nothing_running()

        start = time.monotonic()
        result["second_site_changed"] = changed(site.apply())
        result["second_site"] = time.monotonic() - start
        result["profile_visible"] = profile_visible(site, visitor)
    return result


def table(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the result as rows of text. The first row is the heading."""
    words = {
        "demo_up": "bin/demo up, from scratch",
        "first_cell": "from sign-in to the first result",
        "nothing_to_first_cell": "from scratch to the first result",
        "second_site": "second run of site.yml",
        "second_site_changed": "tasks changed by the second run",
        "profile_visible": "from ansible-playbook to a new profile in the form",
    }
    rows: list[tuple[str, ...]] = [("what", "seconds")]
    for key, value in result.items():
        rows.append((words[key], str(value) if isinstance(value, int) else f"{value:.1f}"))
    return rows


def changed(output: str) -> int:
    """Return the number of changed tasks on all hosts from a playbook's recap."""
    return sum(int(number) for number in re.findall(r"^\S+ +: ok=\d+ +changed=(\d+)", output, re.MULTILINE))


def profile_visible(site: Site, visitor: Visitor) -> float:
    """Add a profile and return the seconds from the playbook's start until the form offers it. Restore the profiles."""
    before = site.profiles
    site.profiles = [*before, {**before[0], "key": "bench", "display_name": "Added by the bench"}]
    start = time.monotonic()
    command = site.command(*PROFILES)
    with (
        tempfile.TemporaryFile("w+") as log,
        # Ansible refuses non-blocking standard streams, and the browser's driver has made those of this process
        # non-blocking.
        subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=site.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        for offered in offers(visitor):
            if "bench" in offered:
                break
            if process.poll():
                log.seek(0)
                raise BenchError(f"the playbook that adds a profile failed:\n{log.read()}")
        seconds = time.monotonic() - start
    site.profiles = before
    site.apply(*PROFILES)
    return seconds


def offers(visitor: Visitor) -> Iterator[dict[str, str]]:
    """Yield the profiles in the form repeatedly.

    Raises:
        BenchError: Two minutes have passed.
    """
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        yield visitor.offered_profiles()
    raise BenchError("the new profile did not appear in the form within two minutes")
