"""What may you run?"""

import json
import threading
import time
from urllib.parse import urlencode

import pytest
from e2e.lab import eventually

from .target import hub_cookie, wait

MARK = "hpchub-injected"
TAKEN = {200, 201, 202}  # else 4xx, or 503 when the proxy did not hear the hub's answer to its end


@pytest.fixture
def hole(target):
    """A file that only the hub's own account can make."""
    path = f"{target.state[0]}/hole"
    target.run(target.hub, "root", ["rm", "-f", path])
    yield path
    target.run(target.hub, "root", ["rm", "-f", path])


def exists(target, path):
    return not target.run(target.hub, "root", ["ls", path]).startswith("ls:")


@pytest.fixture
def idle(target):
    """Bob, without a session."""
    target.stop("bob")
    yield target.known("bob")
    target.stop("bob")


def listed(target, name):
    """Processes of a user's notebook servers on the hub host."""
    return target.run(target.hub, "root", ["pgrep", "-u", name, "-af", "singleuser"]).strip()


@pytest.mark.hazard("H1")
def test_a_job_reports_more_than_a_port(target, hole):
    """A job reports, with its own token, commands beside its port: they would run as the hub's account"""
    with target.batchspawner_alone():
        session = target.session("alice")
        touch = f"touch {hole}; echo RUNNING {session.job.node}"
        commands = ("batch_query_cmd", "batch_submit_cmd", "batch_cancel_cmd", "cmd", "exec_prefix", "batch_script")
        body = {"port": session.port, **dict.fromkeys(commands, touch), "exec_prefix": "", "cmd": ["sh", "-c", touch]}
        answer = target.as_job(session, "POST", "batchspawner", body)
        for _ in range(3):
            target.known("alice").page("/hub/home")  # the hub looks after the job
        assert not exists(target, hole), f"a command of the user's choice runs as {target.account}"
        assert answer["status"] not in TAKEN, "the hub takes such a report"


@pytest.mark.hazard("H2")
def test_a_job_reports_configuration_for_the_next_start(target, hole):
    """A job reports spawner configuration that the hub saves and runs when it starts again"""
    target.stop("alice")
    target.prepare_home("alice")
    body = {"child_config": {"exec_prefix": f"touch {hole};"}, "child_state": {"job_id": f"1;touch {hole}"}}
    answers = []

    def report(node):
        answers.append(target.python("early_report.py", node, "alice", {"body": body, "patience": 40}))

    attackers = [threading.Thread(target=report, args=(node,)) for node in ("compute1", "compute2")]
    for attacker in attackers:
        attacker.start()
    target.start("alice")
    for attacker in attackers:
        attacker.join()
    wait("the job reported before its server did", lambda: any(answers), timeout=1)
    target.kill()
    target.start_hub()
    taken = TAKEN & set(answers)
    deadline = time.monotonic() + (15 if taken else 0)
    target.known("alice").page("/hub/home")
    while not exists(target, hole) and time.monotonic() < deadline:
        time.sleep(1)
    assert not exists(target, hole), f"a command of the user's choice runs as {target.account} at the hub's next start"
    assert not taken, "the hub takes such a report"


@pytest.mark.hazard("H3")
def test_a_profile_that_does_not_exist(target, idle):
    """Somebody starts a profile that does not exist, by the form and by the API: a server on the hub host itself"""
    target.restart()  # no earlier choice is remembered
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
def test_a_page_on_anothers_server_acts_in_the_hub(target, alice, browser):
    """A page that one user's server serves acts in the hub as whoever opens it"""
    page = target.browser_page(browser, "bob")
    try:
        page.goto(f"{target.url}/user/alice/hostile/page")
        if link := page.query_selector("#link"):
            link.click()
        deadline = time.monotonic() + (15 if link else 1)
        while time.monotonic() < deadline:
            said = [body for method, _, _, body in target.received("alice") if method == "POST"]
            assert not any("STOLEN bob 201" in text for text in said), "the page takes a token of its visitor's"
            if said:
                break
            page.wait_for_timeout(500)
    finally:
        page.context.close()


@pytest.mark.hazard("H11")
def test_anothers_notebooks(target, alice):
    """Somebody opens another user's notebook server"""
    bob = target.known("bob")
    for path in ("/user/alice", "/user/alice/", "/user/alice/lab", "/user/%61lice/lab", "/user/alice/api/contents"):
        answer = bob.page(path)
        assert answer.status in {403, 404}, path
        assert "jupyter-config-data" not in answer.text


@pytest.mark.hazard("H12")
def test_a_link_starts_a_job(target, idle):
    """Somebody follows a link, or looks at a foreign page that sends a form, and a job is submitted in his name"""
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
def test_the_scheduler_prints_a_command(target, idle):
    """The scheduler's answer, or what login files print around it, is taken for a command"""
    target.prepare_home("bob")
    with target.command_is("sbatch", "injection"):
        idle.api("POST", "users/bob/server", {"profile": target.profile})
        wait("the start is over", lambda: not idle.server().get("pending"), timeout=60)
    idle.page("/hub/home")
    assert not target.hole, "what the scheduler prints is run"
    target.start("bob")
    session = target.running("bob")
    assert session.job.id.isdigit()
    target.stop("bob")
    assert not target.hole


@pytest.mark.hazard("H15")
def test_root_submits(target):
    """The sign-on vouches for root, who starts a job"""
    before, ever = target.accounts(), ["squeue", "--noheader", "--states=all", "--user=root", "--format=%i"]
    submitted = target.lab.run("login1", ever)
    try:
        (answer,) = target.vouch(["root"])
        if hub_cookie(answer["headers"]):
            cookies = [value.split(";", 1)[0] for name, value in answer["headers"] if name.lower() == "set-cookie"]
            ask = {**target.identity_door(), "headers": [["Cookie", "; ".join(cookies)]]}
            (home,) = target.python("ask.py", target.hub, "www-data", [{**ask, "target": "/hub/home"}])
            cookies += [value.split(";", 1)[0] for name, value in home["headers"] if name.lower() == "set-cookie"]
            token = next(cookie.partition("=")[2] for cookie in cookies if cookie.startswith("_xsrf="))
            headers = [["Cookie", "; ".join(cookies)], ["X-XSRFToken", token], ["Content-Type", "application/json"]]
            body = json.dumps({"profile": target.profile})
            start = {**ask, "method": "POST", "target": "/hub/api/users/root/server", "headers": headers, "body": body}
            target.python("ask.py", target.hub, "www-data", [{**start, "timeout": 20}])
        assert target.lab.run("login1", ever) == submitted, "a job of root's runs"
        assert "root" not in target.accounts() - before
        assert target.submits_as_root() is False, "the hub's account may submit as root"
    finally:
        target.run("login1", "root", ["scancel", "--user=root"])


@pytest.mark.hazard("H16")
def test_options_that_no_profile_has(target, idle):
    """Somebody adds options over the API: partition, runtime, prologue, directives on further lines, template syntax"""
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
            assert MARK not in script, "the batch script holds what the user sent"
            target.stop("bob")
        else:
            assert answer.status == 400, (choice, answer)
        assert not target.lab.jobs("bob")


@pytest.mark.hazard("H16")
def test_the_script_is_the_profiles(target, alice):
    """What is submitted is, byte for byte, what the profile says"""
    expected = target.script(alice)
    if expected is None:
        pytest.skip("nothing says what the script of a profile is")
    assert target.run("login1", "root", ["scontrol", "write", "batch_script", alice.job.id, "-"]).strip() == (
        expected.strip()
    )


@pytest.mark.hazard("H16")
def test_a_second_report(target, alice):
    """A job reports a second port, a port below 1024, something that is no port"""
    others = [port for port in (20001, 29999) if port != alice.port]
    for port in (*others, 22, 80, 0, -1, 65536, "20001", 20001.5, True, None, [20001], {"port": 20001}):
        answer = target.as_job(alice, "POST", "batchspawner", {"port": port})
        assert answer["status"] not in TAKEN, "the hub takes such a report"
    eventually("the session is where it was", lambda: target.lives(alice), timeout=5)
