"""Attacks on authorisation: what may the user run?"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest
from e2e.lab import NODES, eventually

from .target import START, Unusable, hub_cookie, wait

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from playwright.sync_api import Browser

    from .target import Person, Session, Target

MARK = "hpchub-injected"
INVALID_PORTS = (22, 80, 0, -1, 65536, "20001", 20001.5, True, None, [20001], {"port": 20001})
ACCEPTED = {200, 201, 202}  # Refusals are 4xx, or 503 if the proxy lost the hub's response.
DECISIVE = ACCEPTED | {400}
"""Answers of a hub that knows the token and has read the report."""
ATTEMPTS = 3
"""How often to start a session, if its job deletes the file with its token before anybody has found it."""


@pytest.fixture
def canary(target: Target) -> Iterator[str]:
    """Return the path of a missing file that only the hub's account can create."""
    path = f"{target.state[0]}/canary"
    target.run(target.hub, target.account, ["touch", path])
    if not exists(target, path):
        raise Unusable(f"{target.account} cannot create {path}")
    target.run(target.hub, "root", ["rm", "-f", path])
    yield path
    target.run(target.hub, "root", ["rm", "-f", path])


def exists(target: Target, path: str) -> bool:
    """Return whether a file exists on the hub host."""
    output = target.run(target.hub, "root", ["ls", path]).strip()
    if output != path and "No such file" not in output:
        raise Unusable(f"it is unknown whether {path} exists: {output}")
    return output == path


@pytest.fixture
def idle(target: Target) -> Iterator[Person]:
    """Return Bob, without a session."""
    target.stop("bob")
    yield target.signed_in("bob")
    target.stop("bob")


def listed(target: Target, name: str) -> str:
    """Return the processes of a user's notebook servers on the hub host."""
    return target.run(target.hub, "root", ["pgrep", "-u", name, "-af", "singleuser"]).strip()


@pytest.mark.hazard("H1")
def test_report_of_a_job_cannot_set_commands(target: Target, canary: str) -> None:
    """A job reports commands in addition to its port, with its own token, to run them as the hub's account"""
    with target.batchspawner_alone():
        session = target.session("alice")
        touch = f"touch {canary}; echo RUNNING {session.job.node}"
        commands = ("batch_query_cmd", "batch_submit_cmd", "batch_cancel_cmd", "cmd", "exec_prefix", "batch_script")
        body = {"port": session.port, **dict.fromkeys(commands, touch), "exec_prefix": "", "cmd": ["sh", "-c", touch]}
        answer = target.as_job(session, "POST", "batchspawner", body)
        for _ in range(3):
            target.signed_in("alice").page("/hub/home")  # makes the hub check the job
        assert not exists(target, canary), f"a user's command runs as {target.account}"
        assert answer["status"] not in ACCEPTED, "the hub accepts such a report"


def start_and_report_early(target: Target, body: dict[str, Any]) -> set[int]:
    """Start a session of alice while programs of hers on all nodes look for its token, to report before its server.

    Returns:
        The status codes of the hub's answers to the reports.
    """
    signs = "/home/alice/.hostile/early"
    target.run("login1", "alice", ["sh", "-c", f"rm -rf {signs}; mkdir -p {signs}"])
    request = {"body": body, "decisive": sorted(DECISIVE), "patience": START + 60}
    with ThreadPoolExecutor() as pool:
        attackers = [
            pool.submit(target.python, "early_report.py", node, "alice", {**request, "sign": f"{signs}/{node}"})
            for node in NODES
        ]
        try:
            # On a slow machine, a program starts later than the job. The job deletes the file within a second.
            running = ["ls", signs]
            wait(
                "the attackers look for the token",
                lambda: len(target.run("login1", "alice", running).split()) == len(NODES),
            )
            target.start("alice")
        finally:
            target.run("login1", "alice", ["rm", "-rf", signs])
    return {status for attacker in attackers for status in attacker.result()}


@pytest.mark.hazard("H2")
def test_report_of_a_job_cannot_set_saved_configuration(target: Target, canary: str) -> None:
    """A job reports spawner configuration that the hub saves and runs at its next start"""
    target.prepare_home("alice")
    body = {"child_config": {"exec_prefix": f"touch {canary};"}, "child_state": {"job_id": f"1;touch {canary}"}}
    answers: set[int] = set()
    for _ in range(ATTEMPTS):
        target.stop("alice")
        answers = start_and_report_early(target, body)
        if answers & DECISIVE:
            break
    else:
        raise Unusable(f"no report with a valid token was early enough; the hub's last answers are {sorted(answers)}")
    target.kill()
    target.start_hub()
    accepted = ACCEPTED & answers
    deadline = time.monotonic() + (15 if accepted else 0)
    target.signed_in("alice").page("/hub/home")
    while not exists(target, canary) and time.monotonic() < deadline:
        time.sleep(1)
    assert not exists(target, canary), f"a user's command runs as {target.account} at the hub's next start"
    assert not accepted, "the hub accepts such a report"


@pytest.mark.hazard("H3")
def test_unknown_profile_is_refused(target: Target, idle: Person) -> None:
    """A user starts an unknown profile in the form and by the API, to get a server on the hub host itself"""
    target.restart()  # so that the hub remembers no earlier choice
    statuses = []
    for way in ("api", "form"):
        target.stop("bob")
        if way == "api":
            answer = idle.api("POST", "users/bob/server", {"profile": "no-such-profile"})
        else:
            idle.page("/hub/spawn")
            form = urlencode({"profile": "no-such-profile", "_xsrf": idle.jar.get("_xsrf", "")}).encode()
            kind = ("Content-Type", "application/x-www-form-urlencoded")
            answer = idle.ask("/hub/spawn", [kind], method="POST", body=form)
        statuses.append(answer.status)
        deadline = time.monotonic() + 10
        while answer.status < 400 and not listed(target, "bob") and time.monotonic() < deadline:
            time.sleep(0.5)
        assert not listed(target, "bob"), "a notebook server runs on the hub host"
        assert not target.lab.jobs("bob")
    assert statuses == [400, 400]


@pytest.mark.hazard("H11")
def test_page_of_a_user_server_cannot_act_in_the_hub(target: Target, alice: Session, browser: Browser) -> None:
    """A page of one user's server acts in the hub as the user who opens it"""

    def visit(name: str) -> tuple[int, list[str]]:
        """Open the page as a user. Return the status, and what the page reports if the user clicks on its link."""
        before = len(target.received("alice"))
        page = target.browser_page(browser, name)
        try:
            response = page.goto(f"{target.url}/user/alice/hostile/page")
            if response is None:
                raise Unusable(f"the page does not open for {name}")
            reports: list[str] = []
            link = page.query_selector("#link")
            if link:
                link.click()
            deadline = time.monotonic() + (15 if link else 1)
            while not reports and time.monotonic() < deadline:
                page.wait_for_timeout(500)
                reports = [body for method, _, _, body in target.received("alice")[before:] if method == "POST"]
            return response.status, reports
        finally:
            page.context.close()

    status, reports = visit("bob")
    assert not any("STOLEN bob 201" in text for text in reports), "the page steals a token of its visitor"
    if not reports and status not in {403, 404}:
        raise Unusable(f"the page does not report what it tried; it answers {status}")
    # The page must be able to harm the only visitor who may open it.
    status, reports = visit("alice")
    if not any("STOLEN alice 201" in text for text in reports):
        raise Unusable(f"the page does not even steal a token of its owner; it answers {status} and reports {reports}")


@pytest.mark.hazard("H11")
def test_notebook_server_refuses_other_users(target: Target, alice: Session) -> None:
    """A user opens another user's notebook server"""
    bob = target.signed_in("bob")
    for path in ("/user/alice", "/user/alice/", "/user/alice/lab", "/user/%61lice/lab", "/user/alice/api/contents"):
        answer = bob.page(path)
        assert answer.status in {403, 404}, path
        assert "jupyter-config-data" not in answer.text
    if "jupyter-config-data" not in target.signed_in("alice").page("/user/alice/lab").text:
        raise Unusable("alice's server does not show its page to alice either")


@pytest.mark.hazard("H12")
def test_links_and_foreign_pages_start_no_job(target: Target, idle: Person) -> None:
    """A user follows a link or opens a foreign page that submits a form, and this starts a job without consent"""
    if (form := idle.ask("/hub/spawn")).status != 200 or target.profile not in form.text:
        raise Unusable(f"bob cannot open the page that starts a server: {form}")
    idle.ask(f"/hub/spawn?profile={target.profile}")
    time.sleep(2)
    assert not idle.server(), "the link starts a job"
    assert not target.lab.jobs("bob")
    headers = [("Content-Type", "application/x-www-form-urlencoded"), ("Origin", "https://elsewhere.example")]
    foreign = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")]
    answer = idle.ask("/hub/spawn", [*headers, *foreign], method="POST", body=f"profile={target.profile}".encode())
    assert answer.status in {401, 403}
    assert not target.lab.jobs("bob"), "a foreign page starts a job"


@pytest.mark.hazard("H14")
def test_scheduler_output_is_never_executed(target: Target, idle: Person) -> None:
    """The scheduler's answer, or the output of login files around it, is executed as a command"""
    target.prepare_home("bob")
    before = target.calls("sbatch")
    with target.command_is("sbatch", "injection"):
        idle.api("POST", "users/bob/server", {"profile": target.profile})
        wait("the hub submits a job", lambda: target.calls("sbatch") > before, timeout=60)
        wait("the start has ended", lambda: not idle.server().get("pending"), timeout=60)
    idle.page("/hub/home")
    assert not target.injected, "the scheduler's output is executed"
    target.start("bob")
    session = target.running("bob")
    assert session.job.id.isdigit()
    target.stop("bob")
    assert not target.injected


@pytest.mark.hazard("H15")
def test_root_cannot_start_a_job(target: Target) -> None:
    """The sign-on sends the name root, and root starts a job"""
    target.require_that_alice_signs_in()
    before, ever = target.accounts(), ["squeue", "--noheader", "--states=all", "--user=root", "--format=%i"]
    submitted = target.lab.run("login1", ever)
    try:
        (answer,) = target.send_identities(["root"])
        if hub_cookie(answer["headers"]):
            cookies = [value.split(";", 1)[0] for name, value in answer["headers"] if name.lower() == "set-cookie"]
            ask = {**target.identity_endpoint(), "headers": [["Cookie", "; ".join(cookies)]]}
            (home,) = target.python("ask.py", target.hub, "www-data", [{**ask, "target": "/hub/home"}])
            cookies += [value.split(";", 1)[0] for name, value in home["headers"] if name.lower() == "set-cookie"]
            token = next(cookie.partition("=")[2] for cookie in cookies if cookie.startswith("_xsrf="))
            headers = [["Cookie", "; ".join(cookies)], ["X-XSRFToken", token], ["Content-Type", "application/json"]]
            body = json.dumps({"profile": target.profile})
            start = {**ask, "method": "POST", "target": "/hub/api/users/root/server", "headers": headers, "body": body}
            target.python("ask.py", target.hub, "www-data", [{**start, "timeout": 20}])
        assert target.lab.run("login1", ever) == submitted, "a job runs as root"
        assert "root" not in target.accounts() - before
        assert target.submits_as_root() is False, "the hub's account may submit as root"
    finally:
        target.run("login1", "root", ["scancel", "--user=root"])


@pytest.mark.hazard("H16")
def test_options_outside_the_profile_are_ignored_or_refused(target: Target, idle: Person) -> None:
    """A user adds options by the API: partition, runtime, prologue, directives on further lines, template syntax"""
    line = f"x\n#SBATCH --comment={MARK}"
    choices = [
        {"profile": target.profile, "partition": "batch", "runtime": "0:07:00", "prologue": f"echo {MARK}"},
        {"profile": target.profile, "options": line, "req_options": line, "batch_script": f"#!/bin/sh\necho {MARK}"},
        {"profile": f"{target.profile}\n#SBATCH --comment={MARK}"},
        {"profile": f"{target.profile}'; touch {MARK}; '"},
        {"profile": "{{ self.__init__.__globals__ }}{{ '" + MARK + "' }}"},
        {"profile": [target.profile]},
        {"profile": {"key": target.profile}},
        {},
        [target.profile],
    ]
    for choice in choices:
        answer = idle.api("POST", "users/bob/server", choice)
        if answer.status < 400:
            (job,) = wait("there is a job", lambda: target.lab.jobs("bob"))
            script = target.run("login1", "root", ["scontrol", "write", "batch_script", job.id, "-"])
            if not script.startswith("#!"):
                raise Unusable(f"the batch script of the job {job.id} cannot be read: {script}")
            assert MARK not in script, "the batch script contains the user's input"
            target.stop("bob")
        else:
            assert answer.status == 400, (choice, answer)
        assert not target.lab.jobs("bob")


@pytest.mark.hazard("H16")
def test_submitted_script_is_exactly_that_of_the_profile(target: Target, alice: Session) -> None:
    """The submitted batch script differs from the profile's script"""
    expected = target.script(alice)
    if expected is None:
        pytest.skip("nothing defines the batch script of a profile here")
    assert target.run("login1", "root", ["scontrol", "write", "batch_script", alice.job.id, "-"]).strip() == (
        expected.strip()
    )


@pytest.mark.hazard("H16")
def test_second_port_report_is_refused(target: Target, alice: Session) -> None:
    """A job reports a second port, a port below 1024 or an invalid port"""
    for port in (alice.port - 1, alice.port + 1, *INVALID_PORTS):
        answer = target.as_job(alice, "POST", "batchspawner", {"port": port})
        assert answer["status"] not in ACCEPTED, "the hub accepts such a report"
    eventually("the session still answers", lambda: target.is_alive(alice), timeout=5)
