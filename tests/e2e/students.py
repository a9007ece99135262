"""A class of students that are signed in without a browser, for many sessions at once."""

from __future__ import annotations

import json
import random
import time
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from lab.web_client import Visitor

from .lab import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import ThreadPoolExecutor

    from lab.web_client import Answer

    from .lab import Lab

T = TypeVar("T")

SETTLED = 300
"""How long the hub and the scheduler may take to agree again, in seconds."""


class Student(Visitor):
    """A student of the class, signed in without a browser."""

    def __init__(self, lab: Lab, user: dict[str, Any]) -> None:
        names = {urlsplit(lab.url).hostname or "": lab.host("hub"), urlsplit(lab.state["idp_url"]).hostname: "idp"}
        super().__init__({name: lab.addresses[host] for name, host in names.items()}, lab.url)
        self.name: str = user["name"]
        self.sign_in(user)

    def api(self, method: str, path: str, body: Any = None) -> Answer | None:
        """Send a request to the hub's API as its pages do. Return None while the hub is down."""
        try:
            self.follow(self.ask("/hub/home"))
            headers = [("X-XSRFToken", self.cookies[urlsplit(self.url).netloc].get("_xsrf", ""))]
            headers += [("Accept", "application/json"), ("Content-Type", "application/json")]
            text = None if body is None else json.dumps(body).encode()
            answer = self.ask(f"/hub/api/{path}", headers, method=method, body=text)
        except OSError:
            return None
        return answer if answer.status < 500 else None

    def server(self) -> dict[str, Any] | None:
        """Return the hub's model of this student's server, or an empty one. Return None while the hub is down."""
        answer = self.api("GET", f"users/{self.name}")
        if answer is None:
            return None
        found: dict[str, Any] = json.loads(answer.text).get("servers", {}).get("", {})
        return found


class Class:
    """The first students of the lab, each in a separate thread. The class is divided among the clusters.

    Attributes:
        profiles: The profile keys that the students start. The first student starts the first profile, and so on; the
            list repeats when there are more students.
    """

    def __init__(self, lab: Lab, pool: ThreadPoolExecutor, *, size: int = 10) -> None:
        self.lab = lab
        self.pool = pool
        first = {profile["cluster"]: profile["key"] for profile in reversed(lab.profiles())}
        self.profiles: list[str] = list(first.values())
        people = [user for user in lab.state["users"] if user["name"].startswith("student")][:size]
        assert len(people) == size, f"the lab has accounts for {len(people)} students only; create it again"
        self.students = list(pool.map(lambda user: Student(lab, user), people))

    def each(self, work: Callable[[Student], T]) -> list[T]:
        """Call ``work`` for each student in parallel and return the results."""
        return list(self.pool.map(work, self.students))

    def start(self, within: float = 0.0) -> list[Answer | None]:
        """Request a session for each student, at random moments within some seconds. The hub may die meanwhile.

        Returns:
            The hub's answer to each student.
        """

        def start(student: Student) -> Answer | None:
            time.sleep(random.uniform(0, within))
            profile = self.profiles[self.students.index(student) % len(self.profiles)]
            return student.api("POST", f"users/{student.name}/server", {"profile": profile})

        return self.each(start)

    def start_and_wait(self) -> list[list[str]]:
        """Start a session for each student, wait until all are ready and return their jobs."""

        def all_have_a_job() -> list[list[str]] | None:
            jobs = self.agree()
            return jobs if jobs and all(jobs) else None

        self.start()
        return eventually("every student has a session", all_have_a_job, timeout=240)

    def all_ready(self) -> bool:
        """Return whether the hub reports each student's session as ready."""
        return all(server and server.get("ready") for server in self.each(Student.server))

    def jobs(self) -> list[list[str]]:
        """Return the ids of each student's jobs."""
        jobs = self.lab.jobs()
        return [[job.id for job in jobs if job.user == student.name] for student in self.students]

    def agree(self) -> list[list[str]] | None:
        """Return the jobs if each student has one ready session and one job, or neither. Return None otherwise."""
        servers: list[dict[str, Any]] = []
        for server in self.each(Student.server):
            if server is None or server.get("pending"):
                return None
            servers.append(server)
        jobs = self.jobs()
        ready = [bool(server.get("ready")) for server in servers]
        return jobs if [len(each) for each in jobs] == [int(each) for each in ready] else None

    def stop(self) -> None:
        """Stop every session and wait until its job has ended."""
        self.each(lambda student: student.api("DELETE", f"users/{student.name}/server"))
        eventually(
            "all sessions have ended", lambda: self.each(Student.server) == [{}] * len(self.students), timeout=120
        )
        eventually("all jobs have ended", lambda: not any(self.jobs()), timeout=SETTLED)
