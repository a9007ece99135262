"""What gets lost?"""

import base64
import contextlib
import json
import os
import socket
import time
from urllib.parse import quote, urlsplit

import pytest
from e2e.lab import eventually

from lab.web_client import unverified

from .target import wait

WEBSOCKETS = 200  # the web server's packages come with room for 150


@pytest.mark.hazard("A4")
def test_difficult_names(target, alice):
    """Files with a slash's or a percent sign's code in their names"""
    home = "/home/alice/hazards 100%"
    target.run("login1", "alice", ["mkdir", "-p", home])
    person = target.known("alice")
    person.page("/user/alice/lab")
    try:
        for name in ("100% done.txt", "50%2F50.txt", "a%25b.txt"):
            target.write("login1", "alice", f"{home}/{name}", name)
            for safe in ("/", ""):  # a slash as it is, and as one more encoded character
                path = quote(f"hazards 100%/{name}", safe=safe)
                answer = person.page(f"/user/alice/api/contents/{path}?content=1")
                assert answer.status == 200, f"{path} answers {answer.status}"
                assert json.loads(answer.text)["content"] == name
    finally:
        target.run("login1", "alice", ["rm", "-rf", home])


@pytest.mark.hazard("A3")
def test_many_websockets(target, alice):
    """One user opens 200 websockets, which say nothing"""
    person = target.known("alice")
    person.page("/user/alice/lab")
    where = urlsplit(target.url)
    cookies = "; ".join(f"{name}={value}" for name, value in person.jar.items())
    head = "".join(f"{name}: {value}\r\n" for name, value in person.always)
    with contextlib.ExitStack() as stack:
        for number in range(WEBSOCKETS):
            key = base64.b64encode(os.urandom(16)).decode()
            request = (
                f"GET /user/alice/hostile/socket HTTP/1.1\r\nHost: {where.netloc}\r\nCookie: {cookies}\r\n{head}"
                f"Origin: {target.url}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
            )
            try:
                plain = socket.create_connection((target.addresses[where.hostname], where.port), timeout=10)
                held = stack.enter_context(unverified().wrap_socket(plain, server_hostname=where.hostname))
                held.sendall(request.encode())
                answer = held.recv(4096)
            except OSError:
                raise AssertionError(f"after {number // 10 * 10} websockets the site does not answer") from None
            assert answer.startswith(b"HTTP/1.1 101"), answer[:300]
        began = time.monotonic()
        assert target.person().ask("/hub/login").status in {302, 401}
        assert time.monotonic() - began < 5


@pytest.mark.hazard("R6")
def test_how_often_the_scheduler_is_asked(target, alice, bob):
    """Users reload pages that ask for their jobs: a scheduler command for each of them, each time"""
    before = target.calls("squeue")
    for _ in range(5):
        for name in ("alice", "bob"):
            target.known(name).page("/hub/home")
    calls = target.calls("squeue") - before
    # Pages of the tests' own look at the session, too: as many as that, at the most.
    assert calls <= 2, "each page is a scheduler command"


@pytest.mark.hazard("R1")
def test_the_scheduler_fails(target, alice):
    """The scheduler's query fails, prints rubbish, half its output, or hangs"""
    person = target.known("alice")
    for mode in ("fail", "rubbish", "half"):
        with target.command_is("squeue", mode):
            before, deadline = target.calls("squeue"), time.monotonic() + 60
            while target.calls("squeue") == before:
                assert person.page("/hub/home").status == 200
                if time.monotonic() > deadline:
                    wait("the hub asks the scheduler", lambda: False, timeout=0)
                time.sleep(0.5)
            person.page("/hub/home")
            assert target.lives(alice), f"a query that answers with {mode} ends the session"
    with target.command_is("squeue", "hang"):
        time.sleep(3)
        assert target.lives(alice), "a query that hangs ends the session"
    eventually("the session is there", lambda: person.server().get("ready"), timeout=10)


@pytest.mark.hazard("R3")
def test_the_hub_restarts(target, alice):
    """The administrator restarts the hub"""
    target.restart()
    assert alice.job.id in {job.id for job in target.lab.jobs("alice")}, "a restart of the hub cancels jobs"
    eventually("the session is there", lambda: target.lives(alice), timeout=30)
    assert target.known("alice").server().get("ready")


@pytest.mark.hazard("R4")
def test_a_profile_goes_away(target, alice):
    """A profile is removed and the hub starts again while a session of this profile runs"""
    target.kill()
    with target.without_profile():
        target.start_hub()
        target.known("alice").page("/hub/home")
        ready = target.known("alice").server().get("ready")
        assert ready or not target.lab.jobs("alice"), "the hub forgets the job, which runs on"
        assert ready, "the hub ends the session"
        assert target.lives(alice)
        with contextlib.suppress(Exception):  # where the hub is stopped to get the profile back
            target.stop("alice")


@pytest.mark.hazard("R5")
def test_a_job_is_requeued(target, alice):
    """The scheduler, or the user, has the job start again on another port"""
    said = target.run("login1", "alice", ["scontrol", "requeue", alice.job.id])
    if "disabled" in said or "not permitted" in said.lower() or "error" in said.lower():
        assert target.lives(alice), "the requeue is refused, and the session is gone"
        return
    target.run("login1", "root", ["scontrol", "update", f"jobid={alice.job.id}", "starttime=now"])

    def again():
        target.run("login1", "root", ["scontrol", "update", f"jobid={alice.job.id}", "starttime=now"])
        jobs = target.lab.jobs("alice")
        return jobs and jobs[0].state == "RUNNING" and target.running("alice").pid != alice.pid

    wait("the job runs again", again, timeout=180)
    deadline = time.monotonic() + 40
    while not target.lives(alice) and time.monotonic() < deadline:
        time.sleep(1)
    assert target.lives(alice), "the door leads to the old port"


@pytest.mark.hazard("R2")
def test_the_hub_dies_while_a_job_waits(target):
    """The hub is killed while a job is pending"""
    target.stop("alice")
    person = target.known("alice")
    partition = next(entry["queue"] for entry in target.lab.profiles() if entry["key"] == target.profile)
    try:
        target.lab.run("login1", ["scontrol", "update", f"partitionname={partition}", "state=down"])
        answer = person.api("POST", "users/alice/server", {"profile": target.profile})
        assert answer.status == 202
        wait("the job is pending", lambda: [job.state for job in target.lab.jobs("alice")] == ["PENDING"])
        target.kill()
    finally:
        target.lab.run("login1", ["scontrol", "update", f"partitionname={partition}", "state=up"])
        target.start_hub()
    deadline = time.monotonic() + 120
    agreed = 0
    while agreed < 3 and time.monotonic() < deadline:
        person.page("/hub/home")
        server, jobs = person.server(), target.lab.jobs("alice")
        # A session that is ready and its one job, or neither: and so it stays.
        agreed = agreed + 1 if len(jobs) == bool(server.get("ready")) and not server.get("pending") else 0
        time.sleep(2)
    assert agreed, f"{len(jobs)} jobs run without a session" if jobs else "a session has no job"
    target.stop("alice")
