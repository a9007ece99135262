"""The hub's database is restored from a backup. The hub adopts the running sessions that the backup lacks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from .lab import NODES, eventually
from .pages import NEW_NOTEBOOK, START, JupyterLab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .lab import Lab
    from .pages import Notebook, Visitor
    from .students import Class

SETTINGS = "/opt/hpchub/notebook/current/etc/hpchub-launch.json"
FILE = "e2e adoption.ipynb"
CONTENTS = f"/user/alice/api/contents/{quote(FILE)}"
ADOPTED = 90
"""How long an adoption may take, in seconds. The hub lists unknown jobs twice a minute."""


@pytest.fixture(scope="module", autouse=True)
def frequent_checks(lab: Lab) -> Iterator[None]:
    """Let new sessions check every five seconds that the hub knows them."""
    known = {host: lab.run(host, ["cat", SETTINGS]) for host in map(lab.host, NODES)}

    def write(host: str, text: str) -> None:
        lab.run(host, ["python3", "-c", f"open({SETTINGS!r}, 'w').write({text!r})"])

    for host, text in known.items():
        write(host, json.dumps({**json.loads(text), "check_interval": 5}))
    yield
    for host, text in known.items():
        write(host, text)


def test_session_that_a_restored_backup_lacks_goes_on(browser_page: Visitor, lab: Lab) -> None:
    """Its user reaches the same kernel again and saves, also after another restart of the hub, and can stop it."""
    page = browser_page.page
    browser_page.sign_in("alice")
    restore = lab.back_up_database()
    notebooks = browser_page.start(lab.profiles()[0]["key"])
    made = browser_page.fetch("PUT", CONTENTS, body=NEW_NOTEBOOK)
    assert made.status in {200, 201}, made
    assert notebooks.open_notebook(FILE).run("kept = 6*7; kept") == "42"
    jobs = [job.id for job in lab.jobs("alice")]

    def open_again() -> Notebook:
        page.goto(f"{lab.url}/hub/home")
        expect(page.locator("#stop")).to_be_visible(timeout=START)
        page.goto(f"{lab.url}/user/alice/lab")
        return JupyterLab(page, f"{lab.url}/user/alice").open_notebook(FILE)

    restore()
    page.goto(f"{lab.url}/hub/home")
    eventually("the hub has adopted the session", lambda: browser_page.server().get("ready"), timeout=ADOPTED)
    notebook = open_again()  # the browser needs a new token for the server
    assert notebook.run("kept") == "42"
    notebook.save()

    lab.run("hub", ["systemctl", "restart", "jupyterhub"])
    assert open_again().run("kept + 1") == "43"
    assert [job.id for job in lab.jobs("alice")] == jobs
    assert browser_page.fetch("DELETE", CONTENTS).status == 204
    browser_page.stop_server()
    eventually("the job has ended", lambda: not lab.jobs("alice"))


@pytest.mark.slow
def test_alarm_of_many_unknown_sessions_ends_after_their_adoption(lab: Lab, students: Class) -> None:
    """A whole class works while the database is restored. No session is lost."""
    first = students.students[0]
    restore = lab.back_up_database()
    jobs = students.start_and_wait()

    restore()
    eventually(
        "the health check fails",
        lambda: "does not know many live jobs" in (answer := first.ask("/hub/health")).text and answer.status == 503,
        timeout=ADOPTED,
    )
    eventually("the hub has adopted all sessions", students.all_ready, timeout=ADOPTED)
    assert students.jobs() == jobs
    eventually("the alarm has ended", lambda: first.ask("/hub/health").status == 200)
    assert students.agree() == jobs
