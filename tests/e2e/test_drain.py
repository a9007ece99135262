"""Drains and announcements: what users see before and during a maintenance, and how their sessions end."""

from __future__ import annotations

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from hpchub.remote.session_monitor import FRESH

from .lab import eventually
from .pages import START
from .site import REPOSITORY, Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .lab import Lab
    from .pages import Visitor

HPCHUB = "/opt/hpchub/hub/current/bin/hpchub"
BY_HAND = "/etc/hpchub/notices-by-hand.json"
MESSAGE = "We replace the <b>disks</b>."


@pytest.fixture
def hpchub(lab: Lab) -> Iterator[Callable[..., str]]:
    """Return a function that runs the command on the hub host. Afterwards, no drain is set by hand."""
    yield lambda *arguments: lab.run("hub", [HPCHUB, *arguments])
    lab.run("hub", ["rm", "-f", BY_HAND])


def seconds(runtime: str) -> int:
    """Return a run time without days in seconds."""
    hours, minutes, secs = (int(part) for part in runtime.split(":"))
    return (hours * 60 + minutes) * 60 + secs


def session(visitor: Visitor, user: str) -> dict[str, Any]:
    """Return the hub's answer about a session."""
    found: dict[str, Any] = json.loads(visitor.fetch("GET", f"/hub/api/hpchub/sessions/{user}").text)
    return found


def test_start_before_a_drain_gets_the_time_that_is_left(
    browser_page: Visitor, lab: Lab, hpchub: Callable[..., str]
) -> None:
    """The form shows the drain, the job ends before the drain, and JupyterLab and the home page show the drain."""
    chosen = lab.profiles()[0]
    begin = time.time() + 20 * 60
    assert seconds(chosen["runtime"]) > 20 * 60, "the first profile of the lab is too short for this test"
    hpchub("drain", chosen["cluster"], "--from", "+20m", "--until", "+2h", "--message", MESSAGE)

    browser_page.sign_in("alice")
    offered = browser_page.offered_profiles()[chosen["key"]]
    assert "Shortened." in offered
    assert "up to 19 min" in offered or "up to 20 min" in offered
    expect(browser_page.page.locator(".hpchub-notice")).to_contain_text(MESSAGE)

    browser_page.start(chosen["key"])
    told = session(browser_page, "alice")
    assert told["state"] == "running"
    assert told["ends_at"] <= begin + 120  # the job may have waited for a moment
    # Another message warns that the session ends before the drain.
    banner = browser_page.page.locator(".hpchub-banner").filter(has_text=MESSAGE)
    expect(banner).to_be_visible(timeout=START)
    expect(banner).to_contain_text(f"Maintenance of the cluster {chosen['cluster']}")
    assert banner.locator("b").count() == 0
    browser_page.page.goto(f"{lab.url}/hub/home")
    expect(browser_page.page.locator(".hpchub-notice")).to_contain_text(MESSAGE)


def test_drain_refuses_starts_asks_users_and_waits_for_the_last_session(
    browser_page: Visitor, visitor: Callable[[], Visitor], lab: Lab, hpchub: Callable[..., str]
) -> None:
    """A running session goes on, until its user follows the request to stop it."""
    chosen = lab.profiles()[0]
    browser_page.sign_in("alice")
    browser_page.start(chosen["key"])
    hpchub("drain", chosen["cluster"], "--until", "+2h", "--ask", "--message", MESSAGE)

    other = visitor()
    other.sign_in("bob")
    other.page.goto(f"{lab.url}/hub/spawn")
    expect(other.page.locator(f"input[name=profile][value='{chosen['key']}']")).to_be_disabled()
    refused = other.fetch("POST", "/hub/api/users/bob/server", body={"profile": chosen["key"]})
    assert refused.status == 503
    assert "no session can start. It lasts until" in refused.text
    assert not lab.jobs("bob")

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(hpchub, "drain", chosen["cluster"], "--wait")
        browser_page.page.wait_for_timeout(1000 * FRESH)  # the session uses the hub's last answer again for so long
        browser_page.page.reload()
        banner = browser_page.page.locator(".hpchub-banner")
        expect(banner).to_contain_text("Please save your work and stop your session.", timeout=START)
        expect(banner.get_by_role("button", name="Open my home page")).to_be_visible()
        assert session(browser_page, "alice")["state"] == "running"
        assert not waiting.done()
        browser_page.page.goto(f"{lab.url}/hub/home")
        browser_page.page.locator("#stop").click()
        lines = waiting.result(timeout=120).splitlines()
    assert any("session left (alice)" in line or "sessions left" in line for line in lines), lines
    assert lines[-1].endswith("no session is left.")

    hpchub("undrain", chosen["cluster"])
    other.page.goto(f"{lab.url}/hub/spawn")
    expect(other.page.locator(f"input[name=profile][value='{chosen['key']}']")).to_be_enabled()


def test_session_is_stopped_if_the_administrator_says_so(
    browser_page: Visitor, lab: Lab, hpchub: Callable[..., str]
) -> None:
    """The hub cancels the job, and the home page gives the reason."""
    chosen = lab.profiles()[0]
    browser_page.sign_in("alice")
    browser_page.start(chosen["key"])
    hpchub("drain", "--profile", chosen["key"], "--stop-at", "now", "--message", MESSAGE)
    eventually("the job has ended", lambda: not lab.jobs("alice"), timeout=120)
    browser_page.page.goto(f"{lab.url}/hub/home")
    outcome = browser_page.page.locator(".hpchub-outcome")
    expect(outcome).to_contain_text("The service stopped this session. Maintenance of the profile")
    expect(outcome).to_contain_text(MESSAGE)


def test_announcement_is_shown_without_a_drain(browser_page: Visitor, lab: Lab, hpchub: Callable[..., str]) -> None:
    """The form still offers every profile."""
    hpchub("announce", "A course begins on Monday.", "--until", "+1d")
    browser_page.sign_in("alice")
    assert set(browser_page.offered_profiles()) == {profile["key"] for profile in lab.profiles()}
    expect(browser_page.page.locator(".hpchub-notice")).to_have_text("Announcement A course begins on Monday.")
    assert browser_page.page.locator("input[name=profile]:disabled").count() == 0


@pytest.mark.usefixtures("hpchub")
def test_playbook_drains_and_a_deployment_keeps_it(lab: Lab, tmp_path: Path) -> None:
    """The playbook reports whether it has changed something. A deployment changes no drain that was set by hand."""
    site = Site(lab, tmp_path)
    target = ["-e", f"drain_cluster={site.clusters[0]['name']}"]

    def drains() -> list[str]:
        return [each["target"] for each in json.loads(lab.run("hub", [HPCHUB, "drain", "--json"]))]

    assert "changed=1" in site.apply(*target, "-e", "drain_until='2099-01-31 08:00'", playbook="drain.yml")
    assert "changed=0" in site.apply(*target, "-e", "drain_until='2099-01-31 08:00'", playbook="drain.yml")
    assert drains() == [site.clusters[0]["name"]]
    site.apply("--tags", "spawner_profiles", "--limit", "hub", playbook="hub.yml")
    assert drains() == [site.clusters[0]["name"]]
    assert "changed=1" in site.apply(*target, "-e", "drain_state=absent", playbook="drain.yml")
    assert drains() == []
    wrong = site.command("-e", "drain_cluster=nowhere", playbook="drain.yml")
    done = subprocess.run(wrong, cwd=REPOSITORY, env=site.environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "nowhere" in done.stdout
    assert "is not a cluster" in done.stdout
