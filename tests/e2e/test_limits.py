"""What ends by itself: a session whose time is up, and a start whose server says nothing."""

import copy
import re

import pytest

from .lab import eventually
from .site import Site
from .students import Student

PROFILES = ("--tags", "spawner_profiles")
PATIENCE = "/etc/hpchub/conf.d/e2e.py"
SLEEP = "import time; time.sleep(3600)"


@pytest.fixture
def brief(lab, students, tmp_path):
    """For each cluster a profile of one minute; the students would start those."""
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
def impatient(lab):
    """The hub waits 20 seconds for a server's report."""
    lab.run("hub", ["install", "-D", "--mode=644", "/dev/null", PATIENCE])
    lab.run("hub", ["sh", "-c", f"echo 'c.JobSpawner.launch_timeout = 20' > {PATIENCE}"])
    lab.run("hub", ["systemctl", "restart", "jupyterhub"])
    yield
    lab.run("hub", ["rm", PATIENCE])
    lab.run("hub", ["systemctl", "restart", "jupyterhub"])


@pytest.fixture
def stuck(lab, students):
    """The students' notebook servers hang, by their own configuration."""
    names = [student.name for student in students.students]
    write = f"mkdir -p ~/.jupyter && echo '{SLEEP}' > ~/.jupyter/jupyter_server_config.py"
    for name in names:
        lab.run("login1", ["su", "-", name, "-c", write])
    yield
    for name in names:
        lab.run("login1", ["su", "-", name, "-c", "rm ~/.jupyter/jupyter_server_config.py"])


def failure(student):
    """What the page of a start says to a student who comes back to it, once the start has failed."""
    text = " ".join(re.sub(r"<[^>]*>", " ", student.ask(f"/hub/spawn-pending/{student.name}").text).split())
    return text if "Spawn failed" in text else ""


def test_the_time_is_up(lab, students, brief):
    """The scheduler ends the jobs, and the hub knows; who comes again starts anew."""
    students.start_and_wait()
    eventually("no job is left", lambda: not any(students.jobs()), timeout=300)
    eventually("the hub knows", lambda: students.each(Student.server) == [{}] * len(students.students), timeout=120)


def test_a_server_that_does_not_report(lab, students, stuck, impatient):
    """Its job runs and says nothing: it is ended, and its user is told where to look."""
    eventually("the hub answers", lambda: None not in students.each(Student.server))
    students.start()
    eventually("the jobs run", lambda: all(students.jobs()), timeout=120)
    eventually("no job is left", lambda: not any(students.jobs()), timeout=240)
    for student in students.students:
        told = eventually("the start is over", lambda: failure(student), timeout=30)  # noqa: B023 - called at once
        assert "did not report within 20 seconds. Its log is ~/.hpchub/logs/" in told
