"""A class of students, signed in and without a browser: many sessions at once."""

import json
import random
import time
from urllib.parse import urlsplit

from lab.web_client import Visitor

from .lab import eventually

SETTLED = 300  # seconds after which hub and scheduler agree again


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
    """All students, each in a thread of their own; they share themselves out among the clusters.

    Attributes:
        profiles: what they start, the first one the first of these and so on, and then from the beginning again.
    """

    def __init__(self, lab, pool):
        self.lab = lab
        self.pool = pool
        first = {profile["cluster"]: profile["key"] for profile in reversed(lab.profiles())}
        self.profiles = list(first.values())
        people = [user for user in lab.state["users"] if user["name"].startswith("student")]
        self.students = list(pool.map(lambda user: Student(lab, user), people))

    def each(self, work):
        """What the work gives for each student."""
        return list(self.pool.map(work, self.students))

    def start(self, within=0.0):
        """Everybody asks for a session, at random moments; that the hub dies over it is no matter. Its answers."""

        def start(student):
            time.sleep(random.uniform(0, within))
            profile = self.profiles[self.students.index(student) % len(self.profiles)]
            return student.api("POST", f"users/{student.name}/server", {"profile": profile})

        return self.each(start)

    def start_and_wait(self):
        """Everybody starts, and has a session. The jobs."""
        self.start()
        return eventually("everybody has a session", lambda: (jobs := self.agree()) and all(jobs) and jobs, timeout=240)

    def all_ready(self):
        """Whether the hub says of each that the session is ready."""
        return all(server and server.get("ready") for server in self.each(Student.server))

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
