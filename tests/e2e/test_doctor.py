"""The doctor finds what would make a job fail before it is submitted, and the failure page shows it."""

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
FILES = 8  # that a small home may have
SOON = 45  # minutes until the maintenance

pytestmark = pytest.mark.usefixtures("slurm")


@pytest.fixture(scope="module")
def slurm(lab: Lab) -> None:
    """Skip the tests on clusters without accounting."""
    if {cluster["scheduler"] for cluster in lab.profile_list()["clusters"]} != {"slurm"}:
        pytest.skip("the tests change the accounting of Slurm")


@pytest.fixture
def alices_home(lab: Lab) -> Iterator[Callable[[str], None]]:
    """Return a function that puts a small file system over alice's home on the submit host, and runs a script in it.

    It has space for 16 blocks and a limit of 8 files, the directory included, as a quota would have.
    """

    def replace(script: str) -> None:
        limits = f"size=64k,nr_inodes={FILES},mode=700,uid=$(id -u alice),gid=$(id -g alice)"
        lab.run("login1", ["sh", "-c", f"mount -t tmpfs -o {limits} tmpfs {HOME} && cd {HOME} && {script}"])

    yield replace
    lab.run("login1", ["sh", "-c", f"cd /; umount --lazy {HOME}"], check=False)


@pytest.fixture
def limit_of_one_job(lab: Lab, browser_page: Visitor) -> Iterator[None]:
    """Limit alice to one job, which runs."""
    lab.run("login1", ["sacctmgr", "-i", "modify", "user", "alice", "where", "account=physics", "set", "maxjobs=1"])
    lab.run("login1", ["runuser", "-u", "alice", "--", "sbatch", "--chdir=/tmp", "--wrap=sleep 900"])
    yield
    lab.cancel_jobs("alice")
    lab.run("login1", ["sacctmgr", "-i", "modify", "user", "alice", "where", "account=physics", "set", "maxjobs=-1"])


@pytest.fixture
def student_without_account(lab: Lab) -> Iterator[str]:
    """Return a user who may use the service, but has no account on the cluster."""
    name = "student15"
    lab.run("login1", ["sacctmgr", "-i", "delete", "user", name])
    yield name
    for account, qos in (("physics", "normal,short"), ("course", "normal")):
        lab.run("login1", ["sacctmgr", "-i", "add", "user", name, f"account={account}", f"qos={qos}"])


@pytest.fixture
def maintenance(lab: Lab) -> Iterator[None]:
    """Plan a maintenance of the whole cluster."""
    options = [f"StartTime=now+{SOON}minutes", "Duration=60", "Users=root", "Nodes=ALL", "Flags=MAINT,IGNORE_JOBS"]
    lab.run("login1", ["scontrol", "create", "reservation", "ReservationName=upkeep", *options])
    yield
    lab.run("login1", ["scontrol", "delete", "ReservationName=upkeep"])


def learn(visitor: Visitor, lab: Lab, user: str) -> None:
    """Let the hub ask the scheduler again, and wait until it knows everything. It remembers answers for minutes."""
    visitor.sign_in(user)
    lab.run("hub", ["systemctl", "restart", "jupyterhub"])
    visitor.wait_for_hub()

    def knows() -> bool:
        page = visitor.page
        page.goto(f"{lab.url}/hub/spawn")
        # A field is a text field until its valid values are known.
        return page.locator(".hpchub-start").count() > 0 and page.locator("select[name$='.account']").count() > 0

    eventually("the hub knows the cluster and the user's accounts", knows, timeout=240, interval=5)


def refused(visitor: Visitor, lab: Lab, text: str) -> None:
    """Try to start the first profile. The failure page must contain a text, and nothing may be submitted."""
    assert visitor.user
    before = [job.id for job in lab.jobs(visitor.user.name)]
    visitor.choose_profile(lab.profiles()[0]["key"])
    body = visitor.page.locator("body")
    expect(body).to_contain_text(text, timeout=START)
    expect(visitor.page.locator("h1")).to_contain_text("Your session did not start")
    for part in (".hpchub-advice", ".hpchub-facts", ".hpchub-report"):
        expect(visitor.page.locator(part)).to_have_count(1)
    assert not re.search(r"Errno|Traceback", body.inner_text())
    assert [job.id for job in lab.jobs(visitor.user.name)] == before


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("head -c 1M /dev/zero > full || true", f"Your home directory {HOME} is full"),
        (f"seq {FILES} | xargs -n1 touch || true", f"You have as many files in {HOME} as you may have"),
        (f"mount -o remount,ro {HOME}", f"Your home directory {HOME} cannot be written"),
    ],
    ids=["full", "too-many-files", "read-only"],
)
def test_home_that_cannot_be_written_is_found_before_the_job_is_submitted(
    browser_page: Visitor, lab: Lab, alices_home: Callable[[str], None], script: str, text: str
) -> None:
    browser_page.sign_in("alice")
    lab.run("hub", ["systemctl", "restart", "jupyterhub"])  # the doctor remembers a healthy home for a minute
    browser_page.wait_for_hub()
    alices_home(script)
    refused(browser_page, lab, text)
    expect(browser_page.page.locator("body")).to_contain_text("ssh")
    browser_page.page.goto(f"{lab.url}/hub/home")
    expect(browser_page.page.locator("#hpchub-ended, .hpchub-ended").first).to_be_visible()


@pytest.mark.slow
def test_user_without_an_account_is_told_whom_to_ask(
    browser_page: Visitor, lab: Lab, student_without_account: str
) -> None:
    learn(browser_page, lab, student_without_account)
    refused(browser_page, lab, "You have no account on the cluster")


@pytest.mark.slow
@pytest.mark.usefixtures("limit_of_one_job")
def test_limit_of_running_jobs_is_explained(browser_page: Visitor, lab: Lab) -> None:
    eventually("alice's job runs", lambda: [job for job in lab.jobs("alice") if job.state == "RUNNING"])
    learn(browser_page, lab, "alice")
    refused(browser_page, lab, "you may have at most 1")


@pytest.mark.slow
@pytest.mark.usefixtures("maintenance")
def test_session_gets_the_time_that_is_left_before_a_maintenance(browser_page: Visitor, lab: Lab) -> None:
    """The form shows that the session is shorter, and the job ends before the maintenance begins."""
    learn(browser_page, lab, "alice")
    page = browser_page.page

    def shortened() -> bool:
        page.goto(f"{lab.url}/hub/spawn")
        return page.locator(".hpchub-drain").count() > 0

    eventually("the form knows the maintenance", shortened, timeout=240, interval=5)
    expect(page.locator(".hpchub-drain").first).to_contain_text("Shortened")
    browser_page.start(lab.profiles()[0]["key"])
    (job,) = lab.jobs("alice")
    limit = lab.run("login1", ["squeue", "--noheader", "--job", str(job.id), "--format=%l"]).strip()
    minutes = int(limit.split(":")[-2]) + (60 * int(limit.split(":")[0]) if limit.count(":") == 2 else 0)
    assert 0 < minutes <= SOON, limit
    answer = json.loads(browser_page.fetch("GET", "/hub/api/hpchub/sessions/alice").text)
    assert answer["ends_at"]
