"""The doctor finds what would make a job fail before it is submitted, and the form or the page of the start says so."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from .lab import eventually
from .pages import START

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .lab import Lab
    from .pages import Visitor

HOME = "/home/alice"
SOON = 45  # minutes until the maintenance

pytestmark = pytest.mark.usefixtures("slurm")


@pytest.fixture(scope="module")
def slurm(lab: Lab) -> None:
    """Skip the tests on clusters whose scheduler keeps no accounts."""
    if {cluster["scheduler"] for cluster in lab.profile_list()["clusters"]} != {"slurm"}:
        pytest.skip("the tests change the accounting of Slurm")


@pytest.fixture
def alices_home(lab: Lab) -> Iterator[Callable[[str], None]]:
    """Return a function that puts a small file system over alice's home on the submit host, and runs a script in it."""

    def replace(script: str) -> None:
        mount = f"mount -t tmpfs -o size=64k,mode=700,uid=$(id -u alice),gid=$(id -g alice) tmpfs {HOME}"
        lab.run("login1", ["sh", "-c", f"{mount} && cd {HOME} && {script}"])

    yield replace
    lab.run("login1", ["sh", "-c", f"cd /; umount --lazy {HOME}"], check=False)


@pytest.fixture
def limit_of_one_job(lab: Lab) -> Iterator[None]:
    """Limit alice to one job, which runs."""
    lab.run("login1", ["sacctmgr", "-i", "modify", "user", "alice", "where", "account=physics", "set", "maxjobs=1"])
    lab.run("login1", ["runuser", "-u", "alice", "--", "sbatch", "--chdir=/tmp", "--wrap=sleep 900"])
    yield
    lab.cancel_jobs("alice")
    lab.run("login1", ["sacctmgr", "-i", "modify", "user", "alice", "where", "account=physics", "set", "maxjobs=-1"])


@pytest.fixture
def maintenance(lab: Lab) -> Iterator[None]:
    """Plan a maintenance of the whole cluster."""
    options = [f"StartTime=now+{SOON}minutes", "Duration=60", "Users=root", "Nodes=ALL", "Flags=MAINT,IGNORE_JOBS"]
    lab.run("login1", ["scontrol", "create", "reservation", "ReservationName=upkeep", *options])
    yield
    lab.run("login1", ["scontrol", "delete", "ReservationName=upkeep"])


def learn(visitor: Visitor, lab: Lab, user: str) -> None:
    """Let the hub ask the scheduler again for everything about a user. It remembers answers for minutes."""
    visitor.sign_in(user)
    lab.run("hub", ["systemctl", "restart", "jupyterhub"])
    eventually("the hub answers", lambda: visitor.fetch("GET", "/hub/api/").status == 200)


def refused(visitor: Visitor, lab: Lab, text: str) -> None:
    """Try to start the first profile until the answer contains a text. Nothing may be submitted."""
    before = [job.id for job in lab.jobs(visitor.user.name)] if visitor.user else []

    def found() -> bool:
        visitor.choose_profile(lab.profiles()[0]["key"])
        shown = visitor.page.locator("body").filter(has_text=re.compile("No session|did not start|Error"))
        expect(shown.or_(visitor.page.locator("#jp-main-dock-panel")).first).to_be_visible(timeout=START)
        return text in visitor.page.locator("body").inner_text()

    eventually(f"the page says {text!r}", found, timeout=180, interval=5)
    assert not re.search(r"Errno|Traceback|\b5\d\d\b :", visitor.page.locator("body").inner_text())
    assert [job.id for job in lab.jobs(visitor.user.name)] == before if visitor.user else True


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("head -c 1M /dev/zero > full || true", "is full"),
        (f"mount -o remount,ro {HOME}", "cannot be written"),
    ],
    ids=["full", "read-only"],
)
def test_home_that_cannot_be_written_is_found_before_the_job_is_submitted(
    browser_page: Visitor, lab: Lab, alices_home: Callable[[str], None], script: str, text: str
) -> None:
    alices_home(script)
    learn(browser_page, lab, "alice")
    browser_page.choose_profile(lab.profiles()[0]["key"])
    body = browser_page.page.locator("body")
    expect(body).to_contain_text(re.compile(rf"Your home directory {HOME} {text}"), timeout=START)
    expect(body).to_contain_text(re.compile("ssh"))
    assert not lab.jobs("alice")
    browser_page.page.goto(f"{lab.url}/hub/home")
    expect(browser_page.page.locator("#hpchub-ended, .hpchub-ended").first).to_be_visible()


def test_user_without_an_account_is_told_whom_to_ask(browser_page: Visitor, lab: Lab) -> None:
    learn(browser_page, lab, "dave")
    refused(browser_page, lab, "You have no account on the cluster")


@pytest.mark.usefixtures("limit_of_one_job")
def test_limit_of_running_jobs_is_explained(browser_page: Visitor, lab: Lab) -> None:
    eventually("alice's job runs", lambda: [job for job in lab.jobs("alice") if job.state == "RUNNING"])
    learn(browser_page, lab, "alice")
    refused(browser_page, lab, "you may have at most 1")


@pytest.mark.usefixtures("maintenance")
def test_session_gets_the_time_that_is_left_before_a_maintenance(browser_page: Visitor, lab: Lab) -> None:
    """The form says that the session is shorter, and the job ends before the maintenance begins."""
    learn(browser_page, lab, "alice")
    page = browser_page.page

    def shortened() -> bool:
        page.goto(f"{lab.url}/hub/spawn")
        return page.locator(".hpchub-drain").count() > 0

    eventually("the form knows the maintenance", shortened, timeout=180, interval=5)
    expect(page.locator(".hpchub-drain").first).to_contain_text("Shortened")
    browser_page.start(lab.profiles()[0]["key"])
    (job,) = lab.jobs("alice")
    limit = lab.run("login1", ["squeue", "--noheader", "--job", str(job.id), "--format=%l"]).strip()
    minutes = int(limit.split(":")[-2]) + (60 * int(limit.split(":")[0]) if limit.count(":") == 2 else 0)
    assert 0 < minutes <= SOON, limit
    answer = json.loads(browser_page.fetch("GET", "/hub/api/hpchub/sessions/alice").text)
    assert answer["ends_at"]
