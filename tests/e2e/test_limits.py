"""Sessions that reach their time limit, and notebook servers that never report to the hub."""

from __future__ import annotations

import copy
import re
import shlex
from typing import TYPE_CHECKING

import pytest

from .lab import LOGIN_FILE, NODES, eventually
from .site import Site
from .students import Student

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .lab import Lab
    from .students import Class

PROFILES = ("--tags", "spawner_profiles")
HANG = 'case "$(id -un)" in student*) sleep 3600 ;; esac'
PATIENCE = "/etc/hpchub/conf.d/e2e.py"


@pytest.fixture
def brief(lab: Lab, students: Class, tmp_path: Path) -> Iterator[None]:
    """Add a profile of one minute for each cluster, which the students will start. Restore the profiles afterwards."""
    site = Site(lab, tmp_path)
    before = copy.deepcopy(site.profiles), students.profiles
    first = {profile["cluster"]: profile for profile in reversed(site.profiles)}
    site.profiles = [{**profile, "key": f"brief-{name}", "runtime": "0:01:00"} for name, profile in first.items()]
    students.profiles = [profile["key"] for profile in site.profiles]
    site.profiles += before[0]
    site.apply(*PROFILES)
    yield
    site.profiles, students.profiles = before
    site.apply(*PROFILES)


@pytest.fixture
def impatient(lab: Lab) -> Iterator[None]:
    """Set the hub's launch timeout to 20 seconds. Restore it afterwards."""
    lab.run("hub", ["install", "-D", "--mode=644", "/dev/null", PATIENCE])
    lab.run("hub", ["sh", "-c", f"echo 'c.JobSpawner.launch_timeout = 20' > {PATIENCE}"])
    lab.run("hub", ["systemctl", "restart", "jupyterhub"])
    yield
    lab.run("hub", ["rm", PATIENCE])
    lab.run("hub", ["systemctl", "restart", "jupyterhub"])


@pytest.fixture
def stuck(lab: Lab) -> Iterator[None]:
    """Make the students' jobs hang in the login files of the nodes, before their notebook servers start."""
    for node in NODES:
        lab.run(node, ["sh", "-c", f"echo {shlex.quote(HANG)} > {LOGIN_FILE}"])
    yield
    for node in NODES:
        lab.run(node, ["rm", LOGIN_FILE])


def failure(student: Student) -> str:
    """Return the text of a student's progress page once the start has failed, or an empty string before that."""
    text = " ".join(re.sub(r"<[^>]*>", " ", student.ask(f"/hub/spawn-pending/{student.name}").text).split())
    return text if "Your session did not start" in text else ""


@pytest.mark.slow
def test_hub_notices_that_the_scheduler_ended_the_jobs(lab: Lab, students: Class, brief: None) -> None:
    """The jobs reach their time limit. The hub then has no servers, so the students can start again."""
    students.start_and_wait()
    eventually("all jobs have ended", lambda: not any(students.jobs()), timeout=300)
    eventually(
        "the hub has no server", lambda: students.each(Student.server) == [{}] * len(students.students), timeout=120
    )


@pytest.mark.slow
def test_server_that_does_not_report_is_ended_with_an_explanation(
    lab: Lab, students: Class, stuck: None, impatient: None
) -> None:
    """The job runs but its server never reports. The hub ends it, and the page names the log file."""
    eventually("the hub answers", lambda: None not in students.each(Student.server))
    students.start()
    eventually("every student has a job", lambda: all(students.jobs()), timeout=120)
    eventually("all jobs have ended", lambda: not any(students.jobs()), timeout=240)
    for student in students.students:
        text = eventually("the start has failed", lambda: failure(student), timeout=30)  # noqa: B023 - called at once
        reason = "did not start within 20 seconds. To find the reason, read its log on the cluster: ~/.hpchub/logs/"
        assert reason in text
