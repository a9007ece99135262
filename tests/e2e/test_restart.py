"""The hub or the proxy is killed at bad moments. Starts and sessions continue, with one job per session."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import expect

from .lab import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .lab import Lab
    from .pages import Visitor

KILL = ["systemctl", "kill", "--signal=KILL", "jupyterhub"]
SBATCH = "/usr/local/bin/sbatch"  # precedes Slurm's own sbatch on the gate's PATH


def opened(visitor: Visitor, url: str) -> bool:
    """Open a page. Return false if the present page reloaded at the same moment and therefore stayed open."""
    try:
        visitor.page.goto(url)
    except PlaywrightError as error:
        if "ERR_ABORTED" not in str(error):
            raise
        return False
    return True


@pytest.fixture
def slow_sbatch(lab: Lab) -> Iterator[Callable[[], str]]:
    """Make submission take six seconds, even if the hub dies. Return a function that lists running submissions."""
    script = '#!/bin/sh\ntouch /run/slow-sbatch\nsleep 6\nexec /usr/bin/sbatch "$@"\n'
    lab.run("login1", ["rm", "-f", "/run/slow-sbatch"])
    lab.run("login1", ["python3", "-c", f"open({SBATCH!r}, 'w').write({script!r})"])
    lab.run("login1", ["chmod", "755", SBATCH])
    yield lambda: lab.run("login1", ["pgrep", "-f", f"^/bin/sh {SBATCH}"], check=False)
    lab.run("login1", ["rm", "-f", SBATCH])


def test_queued_start_survives_a_hub_restart(browser_page: Visitor, lab: Lab, closed_queue: Callable[[], None]) -> None:
    """The progress page continues where it was, and the same job becomes the session."""
    browser_page.sign_in("alice")
    browser_page.choose_profile(lab.profiles()[0]["key"])
    (job,) = eventually("the job waits", lambda: lab.jobs("alice"))
    message = browser_page.page.locator("#progress-message")
    expect(message).to_contain_text(f"Your job {job.id} waits in the queue")

    # The open page notices that the hub is gone, and reloads when the hub is back.
    browser_page.page.wait_for_url("**/hub/spawn-pending/**", wait_until="load")
    with browser_page.page.expect_event("load", timeout=60_000):
        lab.run("hub", KILL)
    expect(message).to_contain_text(f"Your job {job.id} waits in the queue")
    assert browser_page.server()["pending"] == "spawn"

    closed_queue()
    notebook = browser_page.wait_for_lab().new_notebook("python3")
    assert notebook.run("6*7") == "42"
    assert [each.id for each in lab.jobs("alice")] == [job.id]


def test_resumed_start_can_be_stopped(browser_page: Visitor, lab: Lab, closed_queue: Callable[[], None]) -> None:
    """Stop a start that a restarted hub has resumed, as the home page's button does. The job leaves the queue."""
    browser_page.sign_in("alice")
    browser_page.choose_profile(lab.profiles()[0]["key"])
    eventually("the job waits", lambda: lab.jobs("alice"))
    # The progress page reloads when the hub is back. Another navigation at the same moment would be aborted.
    browser_page.page.wait_for_url("**/hub/spawn-pending/**", wait_until="load")
    with browser_page.page.expect_event("load", timeout=60_000):
        lab.run("hub", KILL)
    browser_page.wait_for_hub()
    # Leave the progress page, which reloads as soon as the start has ended. A reload aborts another navigation.
    eventually("the home page", lambda: opened(browser_page, f"{lab.url}/hub/home"))
    answer = browser_page.fetch("DELETE", "/hub/api/users/alice/server")
    assert answer.status in {202, 204}, answer
    eventually("the job is gone", lambda: not lab.jobs("alice"))
    assert not browser_page.server()


def test_submission_survives_a_hub_restart(browser_page: Visitor, lab: Lab, slow_sbatch: Callable[[], str]) -> None:
    """The hub dies while the login node submits. The restarted hub finds the job by its name, and the page goes on."""
    browser_page.sign_in("alice")
    browser_page.choose_profile(lab.profiles()[0]["key"])
    eventually("sbatch is running", slow_sbatch, interval=0.1)
    assert not lab.jobs("alice")
    lab.run("hub", KILL)
    browser_page.wait_for_hub()
    notebook = browser_page.wait_for_lab().new_notebook("python3")
    assert notebook.run("6*7") == "42"
    assert len(lab.jobs("alice")) == 1


def test_killed_proxy_gets_its_routes_back(browser_page: Visitor, lab: Lab) -> None:
    """The restarted proxy has no routes at first. The hub restores them within seconds."""
    browser_page.sign_in("alice")
    notebook = browser_page.start(lab.profiles()[0]["key"]).new_notebook("python3")
    assert notebook.run("kept = 6*7; kept") == "42"
    lab.run("hub", ["systemctl", "kill", "--signal=KILL", "configurable-http-proxy"])
    eventually(
        "the session answers",
        lambda: browser_page.fetch("GET", "/user/alice/api/status").status == 200,
        timeout=15,
    )
    assert notebook.run("kept") == "42"


@pytest.mark.slow
def test_only_the_job_of_a_session_that_is_over_is_ended(lab: Lab) -> None:
    """The hub leaves jobs of unknown sessions, of other databases, users and hubs, and users' own jobs."""
    host = lab.hub_settings()["public_url"].split("/")[2].split(":")[0]
    database = lab.database("SELECT id FROM hpchub_database")[0][0]
    profile = lab.profiles()[0]
    over = "0" * 16
    lab.database(f"DELETE FROM hpchub_sessions WHERE session = '{over}'")
    lab.database(
        'INSERT INTO hpchub_sessions (session, "user", cluster, job_id, started, ended)'
        f" VALUES ('{over}', 'bob', '{profile['cluster']}', '', 1, {time.time():.0f})"
    )

    def submit(name: str, comment: str) -> str:
        argv = ["sbatch", "--parsable", f"--partition={profile['queue']}", "--output=/dev/null", f"--job-name={name}"]
        argv += [f"--comment={comment}", "--wrap=sleep 600"]
        return lab.run("login1", ["runuser", "--user", "bob", "--", *argv]).strip()

    orphan = submit(f"hpchub-{over}", f"hpchub/{host}~{database}/bob/{over}")
    unknown = {
        submit(f"hpchub-{'1' * 16}", f"hpchub/{host}~{database}/bob/{'1' * 16}"),
        submit(f"hpchub-{over}", f"hpchub/{host}~0badcafe/bob/{over}"),
    }
    others = {
        submit(f"hpchub-{over}", f"hpchub/{host}~{database}/alice/{over}"),
        submit(f"hpchub-{over}", f"hpchub/another.example~{database}/bob/{over}"),
        submit("analysis", "bob's own job"),
    }
    try:
        eventually("the orphan is gone", lambda: orphan not in {job.id for job in lab.jobs("bob")}, timeout=180)
        assert {job.id for job in lab.jobs("bob")} == unknown | others
        assert lab.unknown_jobs() == unknown
    finally:
        lab.run("login1", ["scancel", "--user=bob"])
