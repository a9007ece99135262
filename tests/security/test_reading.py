"""Attacks on confidentiality: what can be read?"""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING

import pytest

from .target import Unusable, wait

if TYPE_CHECKING:
    from .target import Session, Target


@pytest.mark.hazard("H13")
def test_scheduler_commands_receive_no_secrets(target: Target, alice: Session) -> None:
    """The user reads the service's tokens and keys in the environment of commands that the hub runs as the user"""
    target.signed_in("alice").page("/hub/home")
    wait("the hub has run commands", lambda: target.calls("squeue") and target.calls("sbatch"), timeout=30)
    seen = target.seen_by_commands()
    leaked = sorted(name for name, secret in target.secrets().items() if secret in seen)
    assert not leaked, f"commands receive {', '.join(leaked)}"


@pytest.mark.hazard("H13")
def test_jobs_receive_no_secrets_of_the_service(target: Target, alice: Session) -> None:
    """The user reads the service's own secrets in the session's environment"""
    if alice.token not in str(alice.environment):
        raise Unusable("the environment of alice's server does not contain her own token")
    leaked = sorted(name for name, secret in target.secrets().items() if secret in str(alice.environment))
    assert not leaked, f"jobs receive {', '.join(leaked)}"


@pytest.mark.hazard("H17")
def test_token_of_a_session_is_hidden_from_other_users(target: Target, alice: Session) -> None:
    """Another user searches for a session's token: in the scheduler's listings, process lists, environments, files"""
    scheduler_hosts = ("login1", alice.job.node)
    hosts = ("login1", alice.job.node, target.hub)
    # Each command with the hosts that have it and with a text that it prints if it works.
    listings = [
        (["scontrol", "--details", "show", "job", alice.job.id], scheduler_hosts, f"JobId={alice.job.id} "),
        (["squeue", "--json"], scheduler_hosts, alice.job.id),
        (["squeue", f"--jobs={alice.job.id}", "--format=%all"], scheduler_hosts, alice.job.id),
        (["ps", "-e", "-o", "args"], hosts, "ps -e -o args"),
        (["sh", "-c", "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2> /dev/null"], hosts, "cat /proc/[0-9]*/environ"),
    ]
    for argv, with_command, sign in listings:
        for host in with_command:
            output = target.run(host, "bob", argv)
            assert alice.token not in output, f"{' '.join(argv)} on {host} shows the token"
            if sign not in output:
                raise Unusable(f"{' '.join(argv)} does not work on {host}: {output[-2000:]}")
    script = ["scontrol", "write", "batch_script", alice.job.id, "-"]
    for host in scheduler_hosts:
        assert alice.token not in target.run(host, "bob", script), f"{' '.join(script)} on {host} shows the token"
        if not (output := target.run(host, "alice", script)).startswith("#!"):
            raise Unusable(f"{' '.join(script)} does not even show alice's script to alice on {host}: {output[-2000:]}")
    places = ["/home", "/tmp", "/var/tmp", "/dev/shm", "/run", "/var/log", "/var/spool", "/var/lib", "/srv", "/etc"]
    # grep exits with code 2 if it cannot read some files. It must have searched all the others.
    search = 'grep -rlsF -D skip -f - "$@"; echo "exit code $?"'
    for host in hosts:
        # Files that everybody can read must be found, or the search finds nothing at all.
        name = f"hpchub-control-{secrets.token_hex(4)}"
        controls = {f"{directory}/{name}" for directory in ("/tmp", "/var/tmp", "/dev/shm")}
        for control in controls:
            target.write(host, "alice", control, alice.token, "0644")
        output = target.run(host, "bob", ["sh", "-c", search, "search", *places], text=alice.token)
        target.run(host, "alice", ["rm", "-f", *controls])
        found = {line for line in output.splitlines() if line.startswith("/")}
        if not controls <= found or output.splitlines()[-1] not in {"exit code 0", "exit code 2"}:
            raise Unusable(f"grep on {host} does not find the token where everybody can read it: {output}")
        assert not found - controls, f"{found - controls} on {host} contain the token"
    own = target.run(alice.job.node, "alice", ["cat", f"/proc/{alice.pid}/environ"])
    if f"SLURM_JOB_ID={alice.job.id}" not in own:
        raise Unusable("alice cannot even read the environment of her own notebook server")


@pytest.mark.hazard("H18")
def test_files_of_the_service_are_unreadable_to_other_accounts(target: Target) -> None:
    """Another account of the hub host reads the database, logs, process ids, settings, secrets"""
    names = ("*.sqlite*", "*.log", "*.pid", "*secret*", "*.env", "*.key", "*config*.py", "hub.json", "settings.json")
    tests = [word for name in names for word in ("-o", "-name", name)][1:]
    # A file that everybody can read must be found, or the search finds nothing at all.
    control = f"/tmp/hpchub-control-{secrets.token_hex(4)}.key"
    argv = ["find", *target.state, control, "-type", "f", "-readable", "(", *tests, ")", "-print"]
    target.write(target.hub, "root", control, "", "0644")
    try:
        found = {user: target.run(target.hub, user, argv).splitlines() for user in ("root", "nobody", "bob")}
    finally:
        target.run(target.hub, "root", ["rm", "-f", control])
    if not any(line.startswith(f"{target.state[0]}/") for line in found["root"]):
        raise Unusable(f"root finds no such file below {', '.join(target.state)}: {found['root']}")
    for user in ("nobody", "bob"):
        if control not in found[user]:
            raise Unusable(f"find does not work as {user}: {found[user]}")
        readable = sorted(line for line in found[user] if line.startswith("/") and line != control)
        assert not readable, f"{user} reads {', '.join(readable)}"


@pytest.mark.hazard("H19")
def test_proxy_api_refuses_other_accounts(target: Target) -> None:
    """An account of the hub host adds a route to the proxy"""
    route = '{"target": "http://127.0.0.1:9"}'
    endpoint = target.proxy_api()
    steps = [
        {**endpoint, "target": "/api/routes"},
        {**endpoint, "method": "POST", "target": "/api/routes/user/carol", "body": route},
        {**endpoint, "target": "/api/routes", "headers": [["Authorization", "token undefined"]]},
    ]
    # This is the endpoint only if the proxy lists its routes there to a client with the token.
    own = {**steps[0], "headers": [["Authorization", f"token {target.secrets()['CONFIGPROXY_AUTH_TOKEN']}"]]}
    (answer,) = target.python("ask.py", target.hub, target.account, [own])
    if answer.get("status") != 200 or "/" not in json.loads(answer["text"]):
        raise Unusable(f"the API of the proxy does not answer {target.account} with the token at {endpoint}: {answer}")
    for user in ("nobody", "bob", "www-data", target.account):
        for answer in target.python("ask.py", target.hub, user, steps):
            if not answer["connected"] and "PermissionError" in answer["error"] and user != target.account:
                continue  # the account may not even connect
            if "status" not in answer:
                raise Unusable(f"the API of the proxy does not answer {user}: {answer}")
            assert answer["status"] == 403, f"{user} can use the proxy's API"


@pytest.mark.hazard("H19")
def test_proxy_without_its_token_serves_no_api(target: Target) -> None:
    """The proxy starts without its token"""
    assert not target.proxy_without_token(), "the proxy accepts routes from every client"


@pytest.mark.hazard("H20")
def test_another_user_on_the_port_of_a_dead_session_gets_no_traffic(
    target: Target, alice: Session, bob: Session
) -> None:
    """A session dies, and another user on its node takes the freed port before the hub notices"""
    node, unit, log = alice.job.node, "hpchub-neighbour", f"/tmp/neighbour-{secrets.token_hex(4)}"
    words = ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=x", "-keyout", "-"]
    pem = bob.pem or target.run(node, "root", words)
    person = target.signed_in("alice")
    person.page("/user/alice/lab")  # to get all the cookies that her server sets
    try:
        target.write(node, "bob", f"{log}.pem", pem)
        program = f"{log}.py"
        target.write(node, "bob", program, target.program("neighbour.py"))
        argv = ["systemd-run", "--quiet", f"--unit={unit}", "--uid=bob", "python3", program, str(alice.port), log]
        target.lab.run(node, [*argv, f"{log}.pem"])
        target.run(node, "alice", ["kill", "-KILL", str(alice.pid)])
        wait(
            "the other user has the port",
            lambda: "bound" in target.run(node, "bob", ["cat", log]),
            timeout=20,
            interval=0.1,
        )
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            answer = person.ask("/user/alice/lab", [("Upgrade-Insecure-Requests", "1")])
            seen = target.run(node, "bob", ["cat", log])
            assert "received" not in seen or "cookie" not in seen.lower(), "another user gets the victim's cookies"
            assert "received" not in seen, "another user gets the victim's requests"
            assert "neighbour" not in answer.text, "another user answers the victim's browser"
            assert answer.status in {302, 404, 424, 500, 502, 503}, answer
        # The neighbour answers and records every client that does reach it.
        step = {"host": "127.0.0.1", "port": alice.port, "target": "/"}
        (reply,) = target.python("ask.py", node, "bob", [step])
        if reply.get("text") != "neighbour" or "received" not in target.run(node, "bob", ["cat", log]):
            raise Unusable(f"the other user's program does not answer on the port: {reply}")
    finally:
        target.run(node, "root", ["systemctl", "stop", unit])
        target.run(node, "root", ["sh", "-c", f"rm -f {log}*"])
        target.stop("alice")
