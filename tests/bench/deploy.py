"""How long the administrator waits: for the demo, for a run that changes nothing, for a new profile in the form."""

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
        "--from-nothing", action="store_true", help="remove the demo first, with all that is in it, and time its making"
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure; all figures are seconds, and ``second_site_changed`` a number of tasks."""
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
            raise BenchError("the cell did not compute")
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
    """The result as rows of text; the first row is the heading."""
    words = {
        "demo_up": "bin/demo up, from nothing",
        "first_cell": "sign-in to a computed cell",
        "nothing_to_first_cell": "from nothing to a computed cell",
        "second_site": "site.yml again",
        "second_site_changed": "tasks that it changed",
        "profile_visible": "a new profile in the form, from starting ansible-playbook",
    }
    rows: list[tuple[str, ...]] = [("what", "seconds")]
    for key, value in result.items():
        rows.append((words[key], str(value) if isinstance(value, int) else f"{value:.1f}"))
    return rows


def changed(output: str) -> int:
    """How many tasks a playbook changed, by its recap, on all hosts together."""
    return sum(int(number) for number in re.findall(r"^\S+ +: ok=\d+ +changed=(\d+)", output, re.MULTILINE))


def profile_visible(site: Site, visitor: Visitor) -> float:
    """Seconds from the start of the playbook until the form offers a profile that it adds; puts back what was."""
    before = site.profiles
    site.profiles = [*before, {**before[0], "key": "bench", "display_name": "Added by the bench"}]
    start = time.monotonic()
    command = site.command(*PROFILES)
    with (
        tempfile.TemporaryFile("w+") as log,
        # Of its own in and out: the browser's driver has made this process's non-blocking, which Ansible refuses.
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
    """What the form offers, again and again.

    Raises:
        BenchError: two minutes have passed.
    """
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        yield visitor.offered_profiles()
    raise BenchError("the new profile did not appear in the form")
