"""The gate between the hub and the scheduler accepts only permitted users and a few actions.

The gate is a program on the submit host. The hub reaches it over ssh with a restricted key, or over a local socket. The
gate runs the program ``job`` as the user of a request, and sudo permits only that.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import pytest

from hpchub.remote.gate import PROTOCOL
from hpchub.schedulers import SCHEDULERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from testinfra.backend.base import CommandResult
    from testinfra.host import Host

    Request = Callable[..., dict[str, Any]]

T = TypeVar("T")

GATE = "/usr/local/libexec/hpchub/gate"
JOB = "/usr/local/libexec/hpchub/job"
SESSION = "00000000000000aa"
VERSIONS = "/opt/hpchub/hub/current/bin/hpchub versions"
# What playbooks/check.yml runs on the hub host
CHECK = "runuser -u jupyterhub -- /opt/hpchub/hub/current/bin/python -I -m hpchub.cli.check_clusters"


class SchedulerCommands(NamedTuple):
    """The commands of a batch system that the tests need.

    Attributes:
        script: A batch script that runs for a minute.
        owner: A command that prints the owner of a job, if the job has not ended.
        show: A command that prints everything that the batch system shows about a job.
        realm_refused: The error for a job of an account with an "@", or an empty string if the batch system accepts it.
    """

    script: str
    owner: str
    show: str
    realm_refused: str = ""


SCHEDULER_COMMANDS = {
    "slurm": SchedulerCommands(
        "#!/bin/sh\n#SBATCH --output=/dev/null\n#SBATCH --job-name=hpchub-test\nsleep 60\n",
        "squeue --noheader --jobs={job} --format=%u --states=running,pending",
        "scontrol show job {job}; scontrol write batch_script {job} -",
    ),
    "gridengine": SchedulerCommands(
        "#!/bin/sh\n#$ -o /dev/null -j y -N hpchub-test -l h_vmem=1G\nsleep 60\n",
        "qstat -j {job} 2>/dev/null | sed -n 's/^owner: *//p'",
        "qstat -j {job}; qstat -xml -j {job}",
        realm_refused="At ('@') not allowed",
    ),
    "htcondor": SchedulerCommands(
        "executable = /bin/sleep\narguments = 60\nqueue\n",
        "condor_q {job} -allusers -constraint 'JobStatus < 3' -autoformat Owner",
        "condor_q -allusers -long {job}",
        realm_refused="is not a valid user account",
    ),
}


@pytest.fixture(scope="module")
def login(hosts: dict[str, Host], login_node: str) -> Host:
    """Return each login node in turn. Each one belongs to a different cluster."""
    return hosts.get(login_node, hosts.get("node"))


@pytest.fixture(scope="module")
def cluster(login: Host) -> str:
    """Return the name of the login node's cluster."""
    (settings,) = login.file("/etc/hpchub/gate.d").listdir()
    return str(settings).removesuffix(".json")


@pytest.fixture(scope="module")
def gate(settings: dict[str, Any], cluster: str) -> dict[str, Any]:
    """Return the hub's settings for the gate of the cluster."""
    gates: dict[str, dict[str, Any]] = settings["gates"]
    return gates[cluster]


@pytest.fixture(scope="module")
def scheduler(login: Host, cluster: str) -> SchedulerCommands:
    """Return the commands of the cluster's batch system."""
    return SCHEDULER_COMMANDS[json.loads(login.file(f"/etc/hpchub/gate.d/{cluster}.json").content_string)["scheduler"]]


def job_id(answer: dict[str, Any]) -> str:
    """Return the job id in the last line of a submission's output."""
    found = re.match(r"\d+", answer["stdout"].strip().splitlines()[-1])
    assert found is not None, answer
    return found[0]


@pytest.fixture
def ssh(gate: dict[str, Any]) -> str:
    """Return an ssh command with the hub's key, to which a test adds the host."""
    if gate["method"] != "ssh":
        pytest.skip("the hub submits jobs locally, without ssh")
    return (
        f"ssh -F none -T -o BatchMode=yes -o StrictHostKeyChecking=yes -o GlobalKnownHostsFile=none "
        f"-o IdentitiesOnly=yes -o UserKnownHostsFile={gate['known_hosts']} -i {gate['key']} -l {gate['user']}"
    )


@pytest.fixture
def send_request(hub: Host, gate: dict[str, Any], scheduler: SchedulerCommands, cluster: str) -> Request:
    """Return a function that sends a request to the gate, like the hub does, and returns the answer."""
    program = (
        "import asyncio, dataclasses, json, sys\n"
        "from hpchub.clusters.gate_client import make_gate\n"
        "cluster, gate, fields = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])\n"
        "answer = asyncio.run(make_gate(cluster, gate).request(fields.pop('action'), **fields))\n"
        "print(json.dumps(dataclasses.asdict(answer)))\n"
    )

    def send(**fields: Any) -> dict[str, Any]:
        if "script" in fields:
            fields["script"] = scheduler.script
        output = hub.check_output(
            "runuser --user jupyterhub -- /opt/hpchub/hub/current/bin/python -I -c %s %s %s %s",
            program,
            cluster,
            json.dumps(gate),
            json.dumps(fields),
        )
        answer: dict[str, Any] = json.loads(output)
        return answer

    return send


def submit(user: str, **more: Any) -> dict[str, Any]:
    """Return the fields of a request that submits a job."""
    return {"action": "submit", "user": user, "session": SESSION, "script": None, "secrets": {"TOKEN": "x"}, **more}


def sudo(login: Host, user: str, *command: str) -> CommandResult:
    """Run a command with sudo from the gate's account. ``user`` is the target user."""
    words = " ".join(["sudo", "-n", *(["-u", login.backend.quote("%s", user)] if user else []), *command])
    return login.run("runuser --user hpchub -- sh -c %s", f"cd / && {words} < /dev/null")


def test_permitted_user_can_submit_and_cancel_a_job(
    login: Host, send_request: Request, scheduler: SchedulerCommands
) -> None:
    answer = send_request(**submit("alice"))
    assert answer["ok"], answer
    job = job_id(answer)
    try:
        assert login.check_output(scheduler.owner.format(job=job)) == "alice"
        secrets = login.file(f"/home/alice/.hpchub/{SESSION}.json")
        assert (secrets.user, oct(secrets.mode)) == ("alice", "0o600")
        assert oct(login.file("/home/alice/.hpchub").mode) == "0o700"
        assert job in send_request(action="query")["stdout"]
    finally:
        cancelled = send_request(action="cancel", user="alice", session=SESSION, job_id=job)
    assert cancelled["ok"], cancelled
    assert not secrets.exists
    for _ in range(20):
        if not login.check_output(scheduler.owner.format(job=job)):
            return
        time.sleep(1)
    pytest.fail("the job has not ended 20 seconds after it was cancelled")


def test_gate_reports_its_version_and_that_of_the_notebook_environment(send_request: Request) -> None:
    answer = send_request(action="versions")
    assert answer["ok"], answer
    found = json.loads(answer["stdout"])
    assert found["protocol"] == PROTOCOL
    versions = json.loads(found["notebook"])["versions"]
    assert set(versions) == {"protocol", "program", "JupyterHub"}


def test_check_shows_the_versions_and_fails_for_an_old_gate(hub: Host, login: Host, cluster: str) -> None:
    good = hub.run(VERSIONS)
    assert good.rc == 0, good.stdout
    assert re.search(r"^hub: hpchub \S+, JupyterHub \S+$", good.stdout, re.MULTILINE)
    assert re.search(r"^proxy: configurable-http-proxy \S+, protocol \d+$", good.stdout, re.MULTILINE)
    # A cluster with several login nodes has a line for each.
    assert re.search(rf"^gate of {cluster}( on \S+)?: protocol {PROTOCOL}$", good.stdout, re.MULTILINE)
    assert re.search(rf"^notebook environment of {cluster}( on \S+)?: JupyterHub ", good.stdout, re.MULTILINE)
    assert "warning: the " not in good.stdout
    login.check_output("cp -p %s %s", GATE, f"{GATE}.kept")
    try:
        # An older gate does not know the request.
        login.check_output("sed -i '/^    \"versions\": /d' %s", GATE)
        old = hub.run(CHECK)
    finally:
        login.check_output("mv %s %s", f"{GATE}.kept", GATE)
    assert old.rc == 1
    (line,) = [line for line in old.stdout.splitlines() if line.startswith("no session can start: ")]
    assert f"the gate of {cluster} reports no version" in line
    assert line.endswith("run playbooks/clusters.yml --tags scheduler_access")
    assert hub.run(CHECK).rc == 0


@pytest.mark.parametrize(
    "user", ["root", "daemon", "hpchub", "dave", "nobody", "nosuchuser", "../alice", "alice bob", ""]
)
def test_other_users_are_refused(send_request: Request, user: str) -> None:
    assert send_request(action="query")["ok"]  # the gate works
    answer = send_request(**submit(user))
    assert not answer["ok"]
    assert answer["command"] == []
    assert answer["error"]


@pytest.mark.parametrize(
    "fields",
    [
        {"action": "submit", "user": "alice"},
        {"action": "run", "command": ["id"]},
        {"action": "query", "user": "root"},
        {**submit("alice"), "session": "../../etc"},
        {**submit("alice"), "command": ["id"]},
        {"action": "cancel", "user": "alice", "session": SESSION, "job_id": "1 --user=bob"},
        {"action": "cancel", "user": "alice", "session": SESSION, "job_id": "--state=running"},
    ],
)
def test_malformed_and_unknown_requests_are_refused(send_request: Request, fields: dict[str, Any]) -> None:
    assert send_request(action="query")["ok"]  # the gate works
    assert not send_request(**fields)["ok"]


def test_gate_tells_what_the_cluster_has_free(login: Host, cluster: str, send_request: Request) -> None:
    config = json.loads(login.file(f"/etc/hpchub/gate.d/{cluster}.json").content_string)
    implementation = SCHEDULERS[config["scheduler"]]
    answers = {}
    for topic in implementation.availability_topics:
        answer = send_request(action="knowledge", topic=topic, users="")
        assert answer["ok"], answer
        answers[topic] = json.loads(answer["stdout"])["output"]
    if answers:
        queues = implementation.parse_availability(answers, time.time())
        assert any(offer.cores > 0 for queue in queues.values() for offer in queue.offers), queues


def test_gate_tells_what_a_user_may_request(send_request: Request, state: dict[str, Any]) -> None:
    if state["topology"] != "demo":
        pytest.skip("the Slurm of this topology has no accounting")
    answer = send_request(action="knowledge", topic="users", users="alice,AB1234,root,nobody")
    content = json.loads(answer["stdout"])
    assert sorted(content["users"]) == ["AB1234", "alice"]
    rows = SCHEDULERS["slurm"].parse_users("users", content["output"], ["alice", "AB1234"])
    assert {row.account for row in rows["alice"].rows} == {"course", "physics", "spent"}
    assert {row.account for row in rows["AB1234"].rows} == {"physics"}


def test_doctor_examines_the_home_as_its_user(login: Host, send_request: Request) -> None:
    answer = send_request(action="doctor", user="alice")
    assert (answer["ok"], json.loads(answer["stdout"])["error"]) == (True, "")
    assert not send_request(action="doctor", user="dave")["ok"]
    mode = login.check_output("stat --format=%a /home/bob")
    login.check_output("chmod 500 /home/bob")
    try:
        answer = send_request(action="doctor", user="bob")
        assert json.loads(answer["stdout"])["error"] == "EACCES"
    finally:
        login.check_output("chmod %s /home/bob", mode)


def test_user_cannot_cancel_the_job_of_another_user(
    login: Host, send_request: Request, scheduler: SchedulerCommands
) -> None:
    job = job_id(send_request(**submit("alice")))
    try:
        answer = send_request(action="cancel", user="bob", session="00000000000000bb", job_id=job)
        assert answer["command"], answer  # the gate has run the scheduler's command as bob
        assert login.check_output(scheduler.owner.format(job=job)) == "alice"
    finally:
        send_request(action="cancel", user="alice", session=SESSION, job_id=job)


@pytest.mark.parametrize("user", ["alice", "bob"])
def test_sudo_permits_the_job_program_for_permitted_users(login: Host, user: str) -> None:
    done = sudo(login, user, JOB)
    assert done.rc == 0
    assert json.loads(done.stdout)["error"] == "the request is not JSON"


@pytest.mark.parametrize(
    ("user", "command"),
    [
        ("root", JOB),
        ("#0", JOB),
        ("", JOB),
        ("dave", JOB),
        ("daemon", JOB),
        ("www-data", JOB),
        ("alice", f"{JOB} --help"),
        ("alice", f"{JOB} ''"),
        ("alice", "/bin/sh -c id"),
        ("alice", GATE),
        ("alice", "-s"),
        ("alice", "-i"),
        ("alice", f"-g root {JOB}"),
        ("alice", f"-E {JOB}"),
        ("alice", f"PYTHONPATH=/tmp {JOB}"),
        ("alice", f"LD_PRELOAD=/tmp/x.so {JOB}"),
        ("alice", f"--chdir=/tmp {JOB}"),
        ("alice", "-e /etc/passwd"),
    ],
)
def test_sudo_refuses_all_other_users_and_commands(login: Host, user: str, command: str) -> None:
    done = sudo(login, user, command)
    assert done.rc != 0
    assert not done.stdout
    # sudo itself refuses. It does not fail because a program is missing.
    assert done.stderr.startswith("sudo: "), done.stderr
    assert "command not found" not in done.stderr


def test_sudo_resets_the_environment_even_if_the_site_does_not(login: Host) -> None:
    site, unit = "/etc/sudoers.d/00-hpchub-test", "hpchub-test-environment"
    login.check_output("umask 0337; echo 'Defaults !env_reset' > %s && visudo --check", site)
    try:
        command = f"sleep 30 | sudo -n -u alice {JOB}"
        options = "--quiet --collect --uid=hpchub --setenv=HPCHUB_CANARY=1 --working-directory=/"
        login.check_output(f"systemd-run {options} --unit=%s sh -c %s", unit, command)

        def environment(user: str, pattern: str) -> str:
            found = login.run("cat /proc/$(pgrep --oldest --uid %s --full %s)/environ", user, pattern)
            return found.stdout if found.rc == 0 else ""

        assert "HPCHUB_CANARY" in wait_until(
            "the caller runs", lambda: environment("hpchub", f"sudo -n -u alice {JOB}")
        )
        job = wait_until("the job program runs", lambda: environment("alice", f"^/usr/bin/python3 .*{JOB}"))
        assert "LOGNAME=alice" in job
        assert "HPCHUB_CANARY" not in job
    finally:
        login.run("systemctl stop %s", unit)
        login.check_output("rm %s", site)


@pytest.mark.parametrize("group", ["hpc", "hpc-admins"])
def test_sudo_refuses_uid_0_with_another_name(login: Host, group: str) -> None:
    """A permitted group could contain a second account with uid 0, so the sudo rule excludes the number 0."""
    login.check_output("useradd --non-unique --uid 0 --gid 0 --groups %s --no-create-home toor", group)
    try:
        assert sudo(login, "toor", JOB).rc != 0
        assert sudo(login, "#0", JOB).rc != 0
    finally:
        login.check_output("userdel --force toor 2>/dev/null || sed -i '/^toor:/d' /etc/passwd /etc/shadow")


def test_system_account_in_a_permitted_group_is_refused(login: Host, send_request: Request, cluster: str) -> None:
    login.check_output("usermod --append --groups hpc daemon")
    try:
        assert "system account" in send_request(**submit("daemon"))["error"]
        assert "system account" in request_to_job_program(login, "daemon", cluster)["error"]
    finally:
        login.check_output("gpasswd --delete daemon hpc")


def request_to_job_program(login: Host, user: str, cluster: str) -> dict[str, Any]:
    """Send a request directly to the job program, which must check it even though the gate does so too."""
    text = json.dumps({**submit(user), "script": "", "cluster": cluster})
    output = login.check_output("echo %s | runuser --user hpchub -- sudo -n -u %s %s", text, user, JOB)
    answer: dict[str, Any] = json.loads(output)
    return answer


def test_refusals_of_the_gate_and_commands_of_sudo_are_logged(login: Host, send_request: Request) -> None:
    cursor = login.check_output("journalctl --lines=0 --show-cursor --quiet").removeprefix("-- cursor: ")
    send_request(**submit("dave"))
    # sudo logs the commands that it runs. It does not log a refusal when -n prevents it from asking for a password.
    sudo(login, "alice", JOB)
    entries = login.check_output("journalctl --after-cursor=%s --no-pager", cursor).splitlines()
    assert any("hpchub-gate" in line and "dave is not in a group" in line for line in entries), entries
    assert any(" hpchub : " in line and "USER=alice" in line and f"COMMAND={JOB}" in line for line in entries), entries


@pytest.mark.parametrize("command", ["id", "/bin/sh", "cat /etc/shadow", "scp -t /tmp", "-s sftp"])
def test_key_runs_only_the_gate(hub: Host, gate: dict[str, Any], ssh: str, command: str) -> None:
    done = hub.run("echo '{}' | runuser --user jupyterhub -- " + f"{ssh} -- {gate['hosts'][0]} {command}")
    assert "the action is unknown" in done.stdout, done


# ssh exits with 255 when the server refuses the connection. testinfra would interpret this exit code as a failure of
# its own connection, so the shell prints it instead.
REFUSED = "|| echo refused with $?"


FORWARDED_PORT = 22988
READ_BANNER = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5) as connection:
    connection.settimeout(5)
    if sys.argv[2] == "socks":
        connection.sendall(b"\\4\\1\\0\\x16\\x7f\\0\\0\\1\\0")
    received = b""
    while b"SSH-2.0" not in received and (more := connection.recv(100)):
        received += more
print("reached the ssh server" if b"SSH-2.0" in received else "closed")
"""
USER_RC_MARK = "/tmp/hpchub-user-rc"
CLIENT_ENDED = "the client has ended"


class Session:
    """An ssh connection from the hub to the gate, which stays open for as long as a test needs it.

    Attributes:
        unit: The transient systemd unit on the hub that runs the ssh client. Its journal has the client's messages.
    """

    def __init__(self, hub: Host, login: Host, client: str) -> None:
        """Start the client.

        Args:
            hub: The hub host, where the client runs.
            login: The login node, where the ssh server runs.
            client: The client's command line.
        """
        self.hub, self.login = hub, login
        self.unit = f"hpchub-test-ssh-{secrets.token_hex(4)}.service"
        # The gate waits for its request, so the session stays open until the client's standard input ends.
        unit = f"--unit={self.unit} --uid=jupyterhub --working-directory=/ --setenv=DISPLAY=:0"
        # systemd also writes the command to the journal. The command contains the message only as octal codes, so it
        # does not count as the message.
        message = "".join(f"\\{ord(character):03o}" for character in f"{CLIENT_ENDED}\n")
        command = f"sleep 60 | {{ ssh-agent {client} 2>&1; printf '{message}'; }}"
        hub.check_output(f"systemd-run --quiet --collect {unit} sh -c %s", command)

    def stop(self) -> None:
        """End the client, and wait until its gate process on the login node has ended."""
        self.hub.run(f"systemctl stop {self.unit}")
        wait_until("the gate's process has ended", lambda: not self.gate_processes())

    def ended(self) -> bool:
        """Return whether the client has ended."""
        return CLIENT_ENDED in self.messages()

    def messages(self) -> str:
        """Return the messages of the client."""
        return str(self.hub.check_output(f"journalctl --unit={self.unit} --no-pager --output=cat"))

    def gate_processes(self) -> list[str]:
        """Return the process ids of the gate on the login node."""
        found: list[str] = self.login.run("pgrep --uid hpchub --full %s", f"{GATE} --cluster").stdout.split()
        return found

    def environment(self) -> dict[str, str]:
        """Return the environment that the ssh server gave to the gate, or an empty one if the client has ended."""
        found: dict[str, str] = {}

        def read() -> bool:
            for process in self.gate_processes():
                for line in self.login.run(f"tr '\\0' '\\n' < /proc/{process}/environ").stdout.splitlines():
                    name, _, value = line.partition("=")
                    found[name] = value
                if found:
                    break
            return bool(found)

        wait_until("the gate runs, or the client has ended", lambda: read() or self.ended())
        return found

    def reaches_ssh_server(self, host: Host, kind: str) -> bool:
        """Return whether a connection to the forwarded port of a host leads to an ssh server."""
        port = f"tcp://127.0.0.1:{FORWARDED_PORT}"
        wait_until("the port is open, or the client has ended", lambda: host.socket(port).is_listening or self.ended())
        if not host.socket(port).is_listening:
            return False
        return "reached" in host.check_output("python3 -c %s %s %s", READ_BANNER, str(FORWARDED_PORT), kind)


def wait_until(what: str, condition: Callable[[], T], timeout: float = 20) -> T:
    """Return the result of the condition as soon as it is true."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.3)
    return answer


class Forwarding(NamedTuple):
    """Something that a client can request and that `restrict` forbids.

    Attributes:
        options: The options of the ssh client.
        granted: A function that returns whether the server grants the request.
        refusal: The client's message when the server refuses. It is empty for agents, because the server sends no
            answer, and for rc files, because a client cannot request them.
    """

    options: str
    granted: Callable[[Session], bool]
    refusal: str


FORWARDINGS = {
    "local": Forwarding(
        f"-N -L 127.0.0.1:{FORWARDED_PORT}:127.0.0.1:22",
        lambda session: session.reaches_ssh_server(session.hub, "plain"),
        "administratively prohibited",
    ),
    "dynamic": Forwarding(
        f"-N -D 127.0.0.1:{FORWARDED_PORT}",
        lambda session: session.reaches_ssh_server(session.hub, "socks"),
        "administratively prohibited",
    ),
    "remote": Forwarding(
        f"-N -R 127.0.0.1:{FORWARDED_PORT}:127.0.0.1:22",
        lambda session: session.reaches_ssh_server(session.login, "plain"),
        "remote port forwarding failed",
    ),
    "agent": Forwarding("-A", lambda session: "SSH_AUTH_SOCK" in session.environment(), ""),
    "x11": Forwarding("-Y", lambda session: "DISPLAY" in session.environment(), "X11 forwarding request failed"),
    "pty": Forwarding("-tt", lambda session: "SSH_TTY" in session.environment(), "PTY allocation request failed"),
    "user_rc": Forwarding(
        "",
        lambda session: "SSH_CONNECTION" in session.environment() and session.login.file(USER_RC_MARK).exists,
        "",
    ),
}


@pytest.fixture
def unrestricted_key(hub: Host, login: Host, gate: dict[str, Any]) -> Iterator[str]:
    """Return a second key for the gate, with all options of the hub's own key except `restrict`.

    The server grants the requests of a client with this key. This proves that `restrict` causes the refusals of the
    hub's own key.
    """
    keys = "/var/lib/hpchub-gate/.ssh/authorized_keys"
    directory = "/tmp/hpchub-test-key"
    public = hub.check_output("cat %s.pub", gate["key"]).split()[1]
    hub.check_output(f"install -d -m 0700 -o jupyterhub {directory}")
    hub.check_output(f"runuser --user jupyterhub -- ssh-keygen -q -t ed25519 -N '' -f {directory}/key")
    # X11 forwarding needs xauth on the server. An empty file is enough if it is missing.
    xauth = login.run("test -e /usr/bin/xauth").rc != 0
    login.check_output(f"cp --archive {keys} {keys}.before")
    try:
        (line,) = [line for line in login.file(keys).content_string.splitlines() if public in line]
        other = hub.check_output(f"cat {directory}/key.pub").split()[1]
        login.check_output(f"echo %s >> {keys}", line.replace("restrict,", "").replace(public, other))
        login.check_output("echo %s > /var/lib/hpchub-gate/.ssh/rc", f"touch {USER_RC_MARK}")
        if xauth:
            login.check_output("install -m 0755 /dev/null /usr/bin/xauth")
        yield f"{directory}/key"
    finally:
        login.check_output(f"mv {keys}.before {keys}")
        login.check_output(f"rm -f /var/lib/hpchub-gate/.ssh/rc {USER_RC_MARK} {'/usr/bin/xauth' if xauth else ''}")
        hub.check_output(f"rm -rf {directory}")


@pytest.fixture
def server_grants(hub: Host, login: Host, gate: dict[str, Any], ssh: str) -> Callable[[str, str], tuple[bool, str]]:
    """Return a function that tries one of the FORWARDINGS with a key.

    The function returns whether the server grants the request, and the client's messages.
    """

    def grants(kind: str, key: str) -> tuple[bool, str]:
        forwarding = FORWARDINGS[kind]
        client = ssh.replace(f"-i {gate['key']}", f"-i {key}").replace(" -T ", " ")
        login.check_output(f"rm -f {USER_RC_MARK}")
        options = f"-o ExitOnForwardFailure=yes {forwarding.options}"
        session = Session(hub, login, f"{client} {options} -- {gate['hosts'][0]}")
        try:
            granted = forwarding.granted(session)
            if not forwarding.refusal:  # then only the gate's environment shows that the client was connected at all
                assert "SSH_CONNECTION" in session.environment(), session.messages()
            return granted, session.messages()
        finally:
            session.stop()

    return grants


@pytest.mark.parametrize("kind", FORWARDINGS)
def test_server_refuses_forwarding_terminal_and_rc_file_for_the_hubs_key(
    gate: dict[str, Any], server_grants: Callable[[str, str], tuple[bool, str]], unrestricted_key: str, kind: str
) -> None:
    granted, messages = server_grants(kind, unrestricted_key)
    assert granted, f"the server refuses this without `restrict` too, so the test proves nothing: {messages}"
    granted, messages = server_grants(kind, gate["key"])
    assert not granted, messages
    assert FORWARDINGS[kind].refusal in messages


def test_hub_refuses_an_unknown_host_key(hub: Host, gate: dict[str, Any], ssh: str) -> None:
    address = hub.check_output(f"getent ahostsv4 {gate['hosts'][0]}").split()[0]
    done = hub.run(f"echo '{{}}' | runuser --user jupyterhub -- {ssh} -- {address} id {REFUSED}")
    assert "refused with 255" in done.stdout
    assert "verification failed" in done.stderr


@pytest.mark.usefixtures("ssh")
def test_only_the_hub_can_read_its_key(hub: Host, gate: dict[str, Any]) -> None:
    key = hub.file(gate["key"])
    assert (key.user, oct(key.mode)) == ("jupyterhub", "0o600")
    read = "runuser --user %s -- cat %s"
    assert "PRIVATE KEY" in hub.check_output(read, "jupyterhub", gate["key"])
    for account in ("alice", "hpchub-proxy", "www-data"):
        assert "Permission denied" in hub.run(read, account, gate["key"]).stderr


@pytest.mark.usefixtures("ssh")
def test_key_is_accepted_only_from_the_hub(login: Host, compute: Host, hub: Host, gate: dict[str, Any]) -> None:
    """A stolen key is useless on other hosts."""
    if login.check_output("hostname") == compute.check_output("hostname"):
        pytest.skip("this topology has no other host")
    compute.check_output("install -m 0600 /dev/null /root/stolen")
    try:
        compute.check_output("echo %s > /root/stolen", hub.check_output("cat %s", gate["key"]) + "\n")
        public = compute.check_output("ssh-keygen -y -f /root/stolen").split()[1]
        assert public in login.file("/var/lib/hpchub-gate/.ssh/authorized_keys").content_string
        done = compute.run(
            "echo '{}' | ssh -F none -T -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "
            f"-o IdentitiesOnly=yes -i /root/stolen -l hpchub {gate['hosts'][0]} id {REFUSED}"
        )
        assert "refused with 255" in done.stdout
        assert "ermission denied" in done.stderr
    finally:
        compute.check_output("rm -f /root/stolen")


def test_failed_logins_from_the_hub_do_not_shut_the_gate(
    hub: Host, login: Host, gate: dict[str, Any], ssh: str
) -> None:
    """sshd 9.8 and later refuses all connections from an address after some failed logins."""
    if "persourcepenaltyexemptlist" not in login.check_output("sshd -T"):
        pytest.skip("this sshd has no penalties")
    stranger = ssh.replace(f"-i {gate['key']}", "-i /dev/null")
    for _ in range(12):  # the penalties of seven failures exceed the shortest one, 15 seconds
        hub.run(f"runuser --user jupyterhub -- {stranger} -- {gate['hosts'][0]} id {REFUSED}")
    done = hub.run("echo '{}' | runuser --user jupyterhub -- " + f"{ssh} -- {gate['hosts'][0]} id")
    assert "the action is unknown" in done.stdout, done


def test_only_root_can_change_the_gates_files(login: Host, cluster: str) -> None:
    for path in (GATE, JOB, "/etc/sudoers.d/hpchub", f"/etc/hpchub/gate.d/{cluster}.json"):
        file = login.file(path)
        assert (file.user, file.group) == ("root", "root")
        assert not file.mode & 0o022
    for path in ("/var/lib/hpchub-gate/x", "/var/lib/hpchub-gate/.ssh/x"):
        assert "Permission denied" in login.run("runuser --user hpchub -- touch %s", path).stderr
    login.check_output("visudo --check")


@pytest.mark.parametrize("name", ["first.last", "2023abc", "AB1234", "ann@CL.ORG"])
def test_user_with_an_unusual_name_gets_a_job_where_the_site_permits_the_name(
    login: Host, send_request: Request, scheduler: SchedulerCommands, cluster: str, name: str
) -> None:
    settings = json.loads(login.file(f"/etc/hpchub/gate.d/{cluster}.json").content_string)
    answer = send_request(**submit(name))
    if not re.fullmatch(settings["user_pattern"], name):
        assert answer["error"] == "the user name is not valid"
        return
    if "@" in name and scheduler.realm_refused:
        assert answer["exit"]
        assert scheduler.realm_refused in answer["stderr"]
        return
    job = job_id(answer)
    try:
        assert login.check_output(scheduler.owner.format(job=job)) == name
    finally:
        cancelled = send_request(action="cancel", user=name, session=SESSION, job_id=job)
    assert cancelled["ok"], cancelled


def test_only_the_hub_can_connect_to_the_local_socket(hub: Host, gate: dict[str, Any]) -> None:
    if gate["method"] != "local":
        pytest.skip("the hub submits over ssh")
    socket = hub.file(gate["socket"])
    assert (socket.user, socket.group, oct(socket.mode)) == ("root", "jupyterhub", "0o660")
    connect = f"import socket; socket.socket(socket.AF_UNIX).connect('{gate['socket']}')"
    assert "PermissionError" in hub.run("runuser --user alice -- python3 -c %s", connect).stderr
    assert hub.run("runuser --user jupyterhub -- python3 -c %s", connect).rc == 0


def test_secret_is_only_in_a_file_that_others_cannot_read(
    login: Host, send_request: Request, scheduler: SchedulerCommands
) -> None:
    """The output of the batch system and the process list do not contain the secret."""
    answer = send_request(**submit("alice", secrets={"TOKEN": "hpchub-canary-secret"}))
    job = job_id(answer)
    try:
        shown = login.check_output(scheduler.show.format(job=job))
        assert job in shown
        processes = login.check_output("ps -e -o args")
        assert "sshd" in processes
        assert "hpchub-canary-secret" not in shown + processes
        read = "runuser --user %s -- cat /home/alice/.hpchub/%s.json"
        assert "hpchub-canary-secret" in login.check_output(read, "alice", SESSION)
        assert "Permission denied" in login.run(read, "bob", SESSION).stderr
    finally:
        send_request(action="cancel", user="alice", session=SESSION, job_id=job)


def test_live_check_finds_no_problem_in_the_inventory(hub: Host, cluster: str) -> None:
    """The check runs as root here. It must not create files that the hub's account cannot use."""
    found = json.loads(hub.check_output("/opt/hpchub/hub/current/bin/hpchub check --live --json"))
    assert (found["problems"], found["unanswered"]) == ([], {})
    profiles = json.loads(hub.file("/etc/hpchub/profiles.json").content_string)["profiles"]
    queues = {profile["queue"] for profile in profiles if profile["cluster"] == cluster}
    found_queues = {queue["name"] for queue in found["queues"][cluster]}
    assert found_queues == {"*"} or queues <= found_queues  # HTCondor has no queues
    assert hub.check_output("find /run/jupyterhub ! -user jupyterhub") == ""
