"""What can be read?"""

import secrets
import time

import pytest

from .target import wait


@pytest.mark.hazard("H13")
def test_what_scheduler_commands_are_told(target, alice):
    """The user reads the environment of the commands that the hub runs as him: tokens and keys of the service"""
    target.known("alice").page("/hub/home")
    wait("the hub has run commands", lambda: target.calls("squeue") and target.calls("sbatch"), timeout=30)
    seen = target.seen_by_commands()
    told = sorted(name for name, secret in target.secrets().items() if secret in seen)
    assert not told, f"commands are told {', '.join(told)}"


@pytest.mark.hazard("H13")
def test_what_jobs_are_told(target, alice):
    """The user reads the service's own secrets in the session's environment"""
    told = sorted(name for name, secret in target.secrets().items() if secret in str(alice.environment))
    assert not told, f"jobs are told {', '.join(told)}"


@pytest.mark.hazard("H17")
def test_a_sessions_token(target, alice):
    """A neighbour looks for another's token: in the scheduler's listings, process lists, environments, files"""
    listings = [
        ["scontrol", "--details", "show", "job", alice.job.id],
        ["squeue", "--json"],
        ["squeue", f"--jobs={alice.job.id}", "--format=%all"],
        ["scontrol", "write", "batch_script", alice.job.id, "-"],
        ["ps", "-e", "-o", "args"],
        ["sh", "-c", "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2> /dev/null"],
    ]
    for host in ("login1", alice.job.node, target.hub):
        for argv in listings:
            assert alice.token not in target.run(host, "bob", argv), f"{' '.join(argv)} on {host} shows the token"
        places = ["/home", "/tmp", "/var/tmp", "/dev/shm", "/run", "/var/log", "/var/spool", "/var/lib", "/srv", "/etc"]
        output = target.run(host, "bob", ["grep", "-rlsF", "-D", "skip", "-f", "-", *places], text=alice.token)
        found = [line for line in output.splitlines() if line.startswith("/")]
        assert not found, f"{found[0]} on {host} has the token"


@pytest.mark.hazard("H18")
def test_files_of_the_service(target):
    """Another account of the hub host reads the database, logs, process ids, settings, secrets"""
    names = ("*.sqlite*", "*.log", "*.pid", "*secret*", "*.env", "*.key", "*config*.py", "hub.json", "settings.json")
    tests = [word for name in names for word in ("-o", "-name", name)][1:]
    argv = ["find", *target.state, "-type", "f", "-readable", "(", *tests, ")", "-print"]
    for user in ("nobody", "bob"):
        output = target.run(target.hub, user, argv).splitlines()
        readable = sorted(line for line in output if line.startswith("/"))
        assert not readable, f"{user} reads {', '.join(readable)}"


@pytest.mark.hazard("H19")
def test_the_proxys_api(target):
    """An account of the hub host gives the proxy a route of its own"""
    route = '{"target": "http://127.0.0.1:9"}'
    door = target.proxy_api()
    steps = [
        {**door, "target": "/api/routes"},
        {**door, "method": "POST", "target": "/api/routes/user/carol", "body": route},
        {**door, "target": "/api/routes", "headers": [["Authorization", "token undefined"]]},
    ]
    for user in ("nobody", "bob", "www-data", target.account):
        for answer in target.python("ask.py", target.hub, user, steps):
            assert answer.get("status", 403) == 403, f"{user} sets routes"


@pytest.mark.hazard("H19")
def test_a_proxy_without_its_token(target):
    """The proxy's token is missing one day"""
    assert not target.proxy_without_token(), "the proxy takes routes from everybody"


@pytest.mark.hazard("H20")
def test_a_neighbour_takes_the_port(target, alice, bob):
    """A session dies, and a neighbour on its node takes the freed port before the hub notices"""
    node, unit, log = alice.job.node, "hpchub-neighbour", f"/tmp/neighbour-{secrets.token_hex(4)}"
    words = ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=x", "-keyout", "-"]
    pem = bob.pem or target.run(node, "root", words)
    person = target.known("alice")
    person.page("/user/alice/lab")  # with all the cookies that her server has for her
    try:
        target.write(node, "bob", f"{log}.pem", pem)
        program = f"{log}.py"
        target.write(node, "bob", program, target.program("neighbour.py"))
        argv = ["systemd-run", "--quiet", f"--unit={unit}", "--uid=bob", "python3", program, str(alice.port), log]
        target.lab.run(node, [*argv, f"{log}.pem"])
        target.run(node, "alice", ["kill", "-KILL", str(alice.pid)])
        wait(
            "the neighbour has the port",
            lambda: "bound" in target.run(node, "bob", ["cat", log]),
            timeout=20,
            interval=0.1,
        )
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            answer = person.ask("/user/alice/lab", [("Upgrade-Insecure-Requests", "1")])
            said = target.run(node, "bob", ["cat", log])
            assert "received" not in said or "cookie" not in said.lower(), "the neighbour gets the victim's cookies"
            assert "received" not in said, "the neighbour gets the victim's requests"
            assert "neighbour" not in answer.text, "the neighbour answers in the victim's browser"
            assert answer.status in {302, 404, 424, 500, 502, 503}, answer
    finally:
        target.run(node, "root", ["systemctl", "stop", unit])
        target.run(node, "root", ["sh", "-c", f"rm -f {log}*"])
        target.stop("alice")
