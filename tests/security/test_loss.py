"""Attacks on reliability: what gets lost?"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from e2e.lab import eventually

from lab.web_client import unverified

from .target import Unusable, signed_in_as, wait

if TYPE_CHECKING:
    import ssl

    from .target import Session, Target

WEBSOCKETS = 200  # more than the 150 workers of the web server's default configuration


def is_open(connection: ssl.SSLSocket) -> bool:
    """Return whether the other side has not closed a TLS connection on which it sends nothing."""
    connection.settimeout(0.01)
    try:
        return connection.recv(1) != b""
    except TimeoutError:
        return True


@pytest.mark.hazard("A4")
def test_file_names_with_encoded_characters_are_readable(target: Target, alice: Session) -> None:
    """A file's name contains the code of a slash or of a percent sign"""
    home = "/home/alice/hazards 100%"
    target.run("login1", "alice", ["mkdir", "-p", home])
    person = target.signed_in("alice")
    person.page("/user/alice/lab")
    try:
        for name in ("100% done.txt", "50%2F50.txt", "a%25b.txt"):
            target.write("login1", "alice", f"{home}/{name}", name)
            for safe in ("/", ""):  # with plain slashes and with encoded slashes
                path = quote(f"hazards 100%/{name}", safe=safe)
                answer = person.page(f"/user/alice/api/contents/{path}?content=1")
                assert answer.status == 200, f"{path} answers {answer.status}"
                assert json.loads(answer.text)["content"] == name
    finally:
        target.run("login1", "alice", ["rm", "-rf", home])


@pytest.mark.hazard("A3")
def test_many_websockets_do_not_block_the_site(target: Target, alice: Session) -> None:
    """One user opens 200 idle websockets"""
    person = target.signed_in("alice")
    person.page("/user/alice/lab")
    where = urlsplit(target.url)
    host = where.hostname or ""
    cookies = "; ".join(f"{name}={value}" for name, value in person.jar.items())
    head = "".join(f"{name}: {value}\r\n" for name, value in person.always)
    held: list[ssl.SSLSocket] = []
    with contextlib.ExitStack() as stack:
        for number in range(WEBSOCKETS):
            key = base64.b64encode(os.urandom(16)).decode()
            request = (
                f"GET /user/alice/hostile/socket HTTP/1.1\r\nHost: {where.netloc}\r\nCookie: {cookies}\r\n{head}"
                f"Origin: {target.url}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
            )
            try:
                plain = socket.create_connection((target.addresses[host], where.port), timeout=10)
                held.append(stack.enter_context(unverified().wrap_socket(plain, server_hostname=host)))
                held[-1].sendall(request.encode())
                answer = held[-1].recv(4096)
            except OSError:
                raise AssertionError(f"the site does not answer after {number // 10 * 10} websockets") from None
            assert answer.startswith(b"HTTP/1.1 101"), answer[:300]
        # The client gives up after 30 seconds; a web server without a free worker does not answer at all.
        assert target.person().ask("/hub/login").status in {302, 401}
        assert all(is_open(websocket) for websocket in held), "the site closes websockets"


@pytest.mark.hazard("R6")
def test_page_loads_run_no_scheduler_commands(target: Target, alice: Session, bob: Session) -> None:
    """Users reload their pages, and each page load runs a scheduler command"""
    wait("the hub has polled the scheduler", lambda: target.calls("squeue"), timeout=30)
    before = target.calls("squeue")
    for _ in range(5):
        for name in ("alice", "bob"):
            if signed_in_as((page := target.signed_in(name).page("/hub/home")).text) != name:
                raise Unusable(f"{name} does not get the home page: {page}")
    calls = target.calls("squeue") - before
    # Allow two calls, because the hub polls the scheduler in the meantime as well.
    assert calls <= 2, "each page load runs a scheduler command"


@pytest.mark.hazard("R1")
def test_failing_scheduler_ends_no_session(target: Target, alice: Session) -> None:
    """The scheduler's query command fails, prints rubbish or half of its output, or hangs"""
    person = target.signed_in("alice")

    def wait_for_a_poll() -> None:
        before = target.calls("squeue")

        def polled() -> bool:
            assert person.page("/hub/home").status == 200
            return target.calls("squeue") > before

        wait("the hub polls the scheduler", polled)

    for mode in ("fail", "rubbish", "half"):
        with target.command_is("squeue", mode):
            wait_for_a_poll()
            person.page("/hub/home")
            assert target.is_alive(alice), f"a query in mode {mode} ends the session"
    with target.command_is("squeue", "hang"):
        wait_for_a_poll()
        time.sleep(3)
        assert target.is_alive(alice), "a query that hangs ends the session"
    eventually("the session is ready", lambda: person.server().get("ready"), timeout=10)


@pytest.mark.hazard("R3")
def test_hub_restart_keeps_the_session(target: Target, alice: Session) -> None:
    """The administrator restarts the hub"""
    target.restart()
    assert alice.job.id in {job.id for job in target.lab.jobs("alice")}, "a hub restart cancels jobs"
    eventually("the session is alive", lambda: target.is_alive(alice), timeout=30)
    assert target.signed_in("alice").server().get("ready")


@pytest.mark.hazard("R4")
def test_removed_profile_keeps_its_session(target: Target, alice: Session) -> None:
    """A profile is removed and the hub restarts while a session of this profile runs"""
    target.kill()
    with target.without_profile():
        target.start_hub()
        target.signed_in("alice").page("/hub/home")
        ready = target.signed_in("alice").server().get("ready")
        assert ready or not target.lab.jobs("alice"), "the hub forgets the job, which keeps running"
        assert ready, "the hub ends the session"
        assert target.is_alive(alice)
        with contextlib.suppress(Exception):  # some targets stop the hub to restore the profile
            target.stop("alice")


@pytest.mark.hazard("R5")
def test_requeued_job_is_reachable_on_its_new_port(target: Target, alice: Session) -> None:
    """The scheduler or the user requeues the job, which then uses another port"""
    output = target.run("login1", "alice", ["scontrol", "requeue", alice.job.id])
    if "Requested operation is presently disabled" in output:
        # The job is submitted with --no-requeue, so the same job and the same server must go on.
        (job,) = target.lab.jobs("alice")
        assert (job.id, job.state) == (alice.job.id, "RUNNING"), "the requeue is refused, but the job is gone"
        assert target.running("alice").pid == alice.pid, "the requeue is refused, but the server started again"
    else:
        if output.strip():
            raise Unusable(f"scontrol requeue neither works nor reports that requeueing is disabled: {output}")

        def again() -> bool:
            target.run("login1", "root", ["scontrol", "update", f"jobid={alice.job.id}", "starttime=now"])
            jobs = target.lab.jobs("alice")
            return bool(jobs) and jobs[0].state == "RUNNING" and target.running("alice").pid != alice.pid

        wait("the job runs again", again, timeout=180)
    deadline = time.monotonic() + 40
    while not target.is_alive(alice) and time.monotonic() < deadline:
        time.sleep(1)
    assert target.is_alive(alice), "the proxy's route leads to the old port"


@pytest.mark.hazard("R2")
def test_hub_killed_while_a_job_is_pending_leaves_no_orphan(target: Target) -> None:
    """The hub is killed while a job is pending"""
    target.stop("alice")
    person = target.signed_in("alice")
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
        # Expect one ready session with one job, or neither, three times in a row.
        agreed = agreed + 1 if len(jobs) == bool(server.get("ready")) and not server.get("pending") else 0
        time.sleep(2)
    assert agreed == 3, f"{len(jobs)} jobs run without a session" if jobs else "a session has no job"
    target.stop("alice")


@pytest.mark.hazard("R9")
def test_health_check_notices_a_full_disk(target: Target) -> None:
    """The file system of the hub's database is full"""
    person = target.signed_in("bob")  # the stock service asks for a password
    with target.full_disk():
        health = {person.ask("/hub/health").status}
        deadline = time.monotonic() + 30
        while 503 not in health and time.monotonic() < deadline:
            time.sleep(2)
            health.add(person.ask("/hub/health").status)
        assert 503 in health, f"the health check answers {health}"
    assert person.ask("/hub/health").status == 200


@pytest.mark.hazard("R10")
def test_hub_with_an_empty_database_ends_no_job(target: Target, alice: Session) -> None:
    """The hub's database is lost, and the hub starts with an empty one"""
    with target.empty_database():
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert alice.job.id in {job.id for job in target.lab.jobs("alice")}, "the hub ends the jobs that it lost"
            time.sleep(5)
    eventually("the session is alive", lambda: target.is_alive(alice), timeout=60)


def ask_for_adoption(target: Target, session: Session, **changes: Any) -> tuple[int, str]:
    """Ask for the adoption of a session from its node, as its launcher does. Return the status and the message.

    Args:
        target: The service.
        session: The session of the user who asks.
        changes: Other values for ``token``, ``certificate`` and ``port``.
    """
    claim = {"token": session.token, "certificate": session.certificate, "port": session.port, **changes}
    headers = [["Authorization", f"token {claim.pop('token')}"], ["Content-Type", "application/json"]]
    step = {
        **target.api_of(session),
        "method": "POST",
        "target": f"{urlsplit(session.api_url).path}/hpchub/adoption",
        "headers": headers,
        "body": json.dumps({**claim, "addresses": []}),
    }
    (answer,) = target.python("ask.py", session.job.node, session.user, [step])
    if "status" not in answer or answer["status"] in {400, 404, 429}:
        raise Unusable(f"the hub does not judge the request: {answer}")
    return answer["status"], json.loads(answer["text"])["message"]


def forged_certificate(certificate: str) -> str:
    """Return a certificate with the same content that is signed with a key of the attacker."""
    known = x509.load_pem_x509_certificate(certificate.encode())
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder(
        known.issuer,
        known.subject,
        key.public_key(),
        known.serial_number,
        known.not_valid_before_utc,
        known.not_valid_after_utc,
    )
    for extension in known.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def tag_of(target: Target, session: Session) -> str:
    """Return the comment that marks the job of a session."""
    return target.run("login1", "root", ["squeue", "--noheader", "--format=%k", f"--jobs={session.job.id}"]).strip()


def submit_twin(target: Target, session: Session, user: str, tag: str) -> str:
    """Submit a job as a user that carries the marks of a session, and return its id."""
    argv = ["sbatch", "--parsable", "--mem=100M", "--output=/dev/null", f"--job-name={session.job.name}"]
    argv += ["--comment=" + tag.replace(f"/{session.user}/", f"/{user}/"), "--wrap=sleep 600"]
    return target.run("login1", user, argv).split()[-1]


@pytest.mark.hazard("R11")
def test_restored_hub_adopts_only_proven_sessions(target: Target) -> None:
    """A user asks a hub with a restored database for a session: another user's, a copied or an ended one"""
    target.needs_adoption()
    for name in ("alice", "bob"):
        target.stop(name)
    restore = target.lab.back_up_database()
    alice, bob = target.session("alice"), target.session("bob")
    tag = tag_of(target, alice)
    twins = {name: submit_twin(target, alice, name, tag) for name in ("alice", "bob")}
    restore()
    listed = {alice.job.id, bob.job.id, *twins.values()}
    wait("the hub lists the jobs", lambda: listed <= target.lab.unknown_jobs(), timeout=90)
    person = target.signed_in("bob")
    made = json.loads(person.api("POST", "users/bob/tokens", {"expires_in": 600}).text)

    attempts: dict[str, tuple[Session, dict[str, Any]]] = {
        "the certificate of alice": (bob, {"certificate": alice.certificate, "port": alice.port}),
        "the certificate of alice and his own server": (bob, {"certificate": alice.certificate}),
        "the server of alice": (bob, {"port": alice.port}),
        "the token of alice": (bob, {"token": alice.token}),
        "a forged certificate": (bob, {"certificate": forged_certificate(alice.certificate)}),
        "no token": (bob, {"token": "", "certificate": alice.certificate, "port": alice.port}),
        "an API token of his own": (bob, {"token": made["token"]}),
        "a second job of the same session": (alice, {}),
    }
    for what, (session, changes) in attempts.items():
        status, message = ask_for_adoption(target, session, **changes)
        assert status in {403, 409}, f"{session.user} gets a session with {what}: {status} {message}"
        for name in ("alice", "bob"):
            assert not target.signed_in(name).server(), f"{session.user} gets a session of {name} with {what}"
    assert listed <= {job.id for job in target.lab.jobs()}, "the hub ends jobs"

    # The job of another user does not prevent the adoption.
    target.run("login1", "alice", ["scancel", twins["alice"]])
    wait("the hub notices the end", lambda: twins["alice"] not in target.lab.unknown_jobs(), timeout=90)
    if (answer := ask_for_adoption(target, alice))[0] != 201:
        raise Unusable(f"the hub adopts nothing at all: {answer}")
    wait("the session is alive", lambda: target.is_alive(alice), timeout=30)
    assert ask_for_adoption(target, alice)[0] == 409, "the hub adopts a session twice"

    target.stop("alice")
    submit_twin(target, alice, "alice", tag)
    assert ask_for_adoption(target, alice)[0] == 403, "the hub adopts a session that has ended"
    assert not target.signed_in("alice").server()
    target.stop("bob")


@pytest.mark.hazard("R11")
def test_hub_adopts_no_session_of_another_database(target: Target, alice: Session) -> None:
    """The session of another database asks a hub with the same name for its adoption"""
    target.needs_adoption()
    with target.empty_database():
        person = target.signed_in("alice")
        person.page("/hub/home")  # the new database knows her
        wait("the hub lists the job", lambda: alice.job.id in target.lab.unknown_jobs(), timeout=90)
        status, message = ask_for_adoption(target, alice)
        assert (status, person.server()) == (403, {}), message
    eventually("the session is alive", lambda: target.is_alive(alice), timeout=60)


@pytest.mark.hazard("A5")
def test_requests_after_refused_websockets_get_their_answers(target: Target, alice: Session) -> None:
    """A client asks for many websockets that are refused, while others use the service"""
    person, other = target.signed_in(alice.user), target.person()
    upgrade = [("Upgrade", "websocket"), ("Connection", "Upgrade")]
    for number in range(150):
        person.ask(f"/user/{alice.user}/hostile/refused-{number}", upgrade)
        person.ask(f"/user/{alice.user}/%c3%28", upgrade)
        answer = other.ask("/hub/health")
        assert answer.status == 200, f"another request gets {answer.status}"
