"""The hub dies at bad moments, and what it had begun goes on: one session, one job, whatever happens."""

import json

import pytest
from playwright.sync_api import expect

from .lab import eventually

KILL = ["systemctl", "kill", "--signal=KILL", "jupyterhub"]
SBATCH = "/usr/local/bin/sbatch"  # before Slurm's own on the gate's path


def hub_answers(visitor):
    """Whether the service's hub answers its API."""
    return visitor.fetch("GET", "/hub/api/").status == 200


@pytest.fixture
def closed_queue(lab):
    """The first profile's queue starts no job until the test opens it with what this returns."""
    queue = lab.profiles()[0]["queue"]

    def set_state(state):
        lab.run("login1", ["scontrol", "update", f"PartitionName={queue}", f"State={state}"])

    set_state("DOWN")
    yield lambda: set_state("UP")
    set_state("UP")


@pytest.fixture
def slow_sbatch(lab):
    """Submitting takes some seconds, and goes on when the hub that asked for it is gone."""
    script = '#!/bin/sh\ntouch /run/slow-sbatch\nsleep 6\nexec /usr/bin/sbatch "$@"\n'
    lab.run("login1", ["rm", "-f", "/run/slow-sbatch"])
    lab.run("login1", ["python3", "-c", f"open({SBATCH!r}, 'w').write({script!r})"])
    lab.run("login1", ["chmod", "755", SBATCH])
    yield lambda: lab.run("login1", ["pgrep", "-f", f"^/bin/sh {SBATCH}"], check=False)
    lab.run("login1", ["rm", "-f", SBATCH])


def test_a_queued_start_outlives_the_hub(browser_page, lab, closed_queue):
    """The progress page goes on where it was, and the very job becomes the session."""
    browser_page.sign_in("alice")
    browser_page.choose_profile(lab.profiles()[0]["key"])
    (job,) = eventually("the job waits", lambda: lab.jobs("alice"))
    message = browser_page.page.locator("#progress-message")
    expect(message).to_contain_text(f"Your job {job.id} waits in the queue")

    # The page that is open notices that the hub is gone, and finds the next one by itself.
    with browser_page.page.expect_event("load", timeout=60_000):
        lab.run("hub", KILL)
    expect(message).to_contain_text(f"Your job {job.id} waits in the queue")
    assert browser_page.server()["pending"] == "spawn"

    closed_queue()
    notebook = browser_page.wait_for_lab().new_notebook("python3")
    assert notebook.run("6*7") == "42"
    assert [each.id for each in lab.jobs("alice")] == [job.id]


def test_a_start_that_was_taken_up_can_be_stopped(browser_page, lab, closed_queue):
    """As by the button of the hub's page; its job leaves the queue."""
    browser_page.sign_in("alice")
    browser_page.choose_profile(lab.profiles()[0]["key"])
    eventually("the job waits", lambda: lab.jobs("alice"))
    lab.run("hub", KILL)
    eventually("the hub answers", lambda: hub_answers(browser_page))
    # Not the progress page, which loads itself anew as soon as the start has ended.
    browser_page.page.goto(f"{lab.url}/hub/home")
    answer = browser_page.fetch("DELETE", "/hub/api/users/alice/server")
    assert answer.status in {202, 204}, answer
    eventually("the job is gone", lambda: not lab.jobs("alice"))
    assert not browser_page.server()


def test_a_submission_outlives_the_hub(browser_page, lab, slow_sbatch):
    """The hub dies while the login node submits: the job that comes of it is found by its name."""
    browser_page.sign_in("alice")
    browser_page.choose_profile(lab.profiles()[0]["key"])
    eventually("sbatch is at work", slow_sbatch, interval=0.1)
    assert not lab.jobs("alice")
    lab.run("hub", KILL)
    eventually("the hub answers", lambda: hub_answers(browser_page))
    browser_page.page.goto(f"{lab.url}/hub/spawn-pending/alice")
    notebook = browser_page.wait_for_lab().new_notebook("python3")
    assert notebook.run("6*7") == "42"
    assert len(lab.jobs("alice")) == 1


def test_the_proxy_is_killed(browser_page, lab):
    """Its successor has no routes; they are back before anybody looks twice."""
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


def test_a_job_of_no_session_is_ended(lab):
    """Submitted as the hub does it, for a session that the hub does not know; somebody's own job is left alone."""
    hub = json.loads(lab.run("hub", ["cat", "/etc/hpchub/hub.json"]))["public_url"].split("/")[2].split(":")[0]
    queue = lab.profiles()[0]["queue"]

    def submit(name, comment):
        argv = ["sbatch", "--parsable", f"--partition={queue}", "--output=/dev/null", f"--job-name={name}"]
        argv += [f"--comment={comment}", "--wrap=sleep 600"]
        return lab.run("login1", ["runuser", "--user", "bob", "--", *argv]).strip()

    orphan = submit(f"hpchub-{'0' * 16}", f"hpchub/{hub}/bob/{'0' * 16}")
    others = {
        submit(f"hpchub-{'1' * 16}", f"hpchub/{hub}/alice/{'1' * 16}"),
        submit(f"hpchub-{'2' * 16}", f"hpchub/another.example/bob/{'2' * 16}"),
        submit("analysis", "of bob's own"),
    }
    try:
        eventually("the orphan is gone", lambda: orphan not in {job.id for job in lab.jobs("bob")}, timeout=180)
        assert {job.id for job in lab.jobs("bob")} == others
    finally:
        lab.run("login1", ["scancel", "--user=bob"])
