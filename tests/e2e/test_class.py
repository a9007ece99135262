"""A class starts at once; its scheduler goes away, and the hub is killed again and again: one session, one job."""

import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from lab.door import Visitor

from .lab import eventually

OUTAGE = float(os.environ.get("HPCHUB_OUTAGE", "45"))  # seconds
KILLS = int(os.environ.get("HPCHUB_KILLS", "3"))
BURST = 4.0  # seconds within which everybody starts, and the hub is killed
SETTLED = 300  # seconds after which hub and scheduler agree again
KILL = ["systemctl", "kill", "--signal=KILL", "jupyterhub"]


class Student(Visitor):
    """One of the class, signed in, without a browser."""

    def __init__(self, lab, user):
        names = {urlsplit(lab.url).hostname: lab.host("hub"), urlsplit(lab.state["idp_url"]).hostname: "idp"}
        super().__init__({name: lab.addresses[host] for name, host in names.items()}, lab.url)
        self.name = user["name"]
        self.sign_in(user)

    def api(self, method, path, body=None):
        """The hub's answer to the API that its pages use; None while it is away."""
        try:
            self.follow(self.ask("/hub/home"))
            headers = [("X-XSRFToken", self.cookies[urlsplit(self.url).netloc].get("_xsrf", ""))]
            headers += [("Accept", "application/json"), ("Content-Type", "application/json")]
            text = None if body is None else json.dumps(body).encode()
            answer = self.ask(f"/hub/api/{path}", headers, method=method, body=text)
        except OSError:
            return None
        return answer if answer.status < 500 else None

    def server(self):
        """What the hub says of this student's server, empty where there is none; None while the hub is away."""
        answer = self.api("GET", f"users/{self.name}")
        return answer and json.loads(answer.text).get("servers", {}).get("", {})


class Class:
    """All students, each in a thread of their own."""

    def __init__(self, lab, pool):
        self.lab = lab
        self.pool = pool
        self.profile = lab.profiles()[0]["key"]
        people = [user for user in lab.state["users"] if user["name"].startswith("student")]
        self.students = list(pool.map(lambda user: Student(lab, user), people))

    def each(self, work):
        """What the work gives for each student."""
        return list(self.pool.map(work, self.students))

    def start(self, within=0.0):
        """Everybody asks for a session, at random moments; that the hub dies over it is no matter."""

        def start(student):
            time.sleep(random.uniform(0, within))
            student.api("POST", f"users/{student.name}/server", {"profile": self.profile})

        self.each(start)

    def jobs(self):
        """The ids of each student's jobs."""
        jobs = self.lab.jobs()
        return [[job.id for job in jobs if job.user == student.name] for student in self.students]

    def agree(self):
        """Whether each student has one ready session and one job, or neither; then the jobs."""
        servers = self.each(Student.server)
        if any(server is None or server.get("pending") for server in servers):
            return None
        jobs = self.jobs()
        ready = [bool(server.get("ready")) for server in servers]
        return jobs if [len(each) for each in jobs] == [int(each) for each in ready] else None

    def stop(self):
        """Everybody's session ends, and its job with it."""
        self.each(lambda student: student.api("DELETE", f"users/{student.name}/server"))
        eventually("no session is left", lambda: self.each(Student.server) == [{}] * len(self.students), timeout=120)
        eventually("no job is left", lambda: not any(self.jobs()), timeout=SETTLED)


@pytest.fixture(scope="module")
def students(lab):
    with ThreadPoolExecutor(10) as pool:
        found = Class(lab, pool)
        yield found
        found.stop()


def test_an_outage_of_the_scheduler(lab, students):
    """The controller is away, and comes back: nobody has lost a session, and nobody has two."""
    students.start()
    jobs = eventually(
        "everybody has a session", lambda: (found := students.agree()) and all(found) and found, timeout=240
    )
    lab.stop_scheduler()
    try:
        deadline = time.monotonic() + OUTAGE
        while time.monotonic() < deadline:
            assert all(server and server.get("ready") for server in students.each(Student.server))
            time.sleep(5)
    finally:
        lab.start_scheduler()
    time.sleep(60)  # after which the hub has asked again, and would have missed whom it forgot
    assert students.agree() == jobs
    students.stop()


@pytest.mark.parametrize("number", range(KILLS))
def test_the_hub_is_killed_in_a_burst_of_starts(lab, students, number):
    """At any moment: what was begun becomes a session with one job, or nothing."""
    moment = random.uniform(0, 2 * BURST)
    killing = students.pool.submit(lambda: (time.sleep(moment), lab.run("hub", KILL)))
    students.start(within=BURST)
    killing.result()
    eventually(f"hub and scheduler agree after a kill at {moment:.2f} s", students.agree, timeout=SETTLED)
    time.sleep(5)
    assert students.agree()
    students.stop()
