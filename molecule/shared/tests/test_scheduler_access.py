"""The way from the hub to the scheduler: permitted users and three actions, and nothing else, whoever asks."""

import json
import re
import secrets
import time
from typing import NamedTuple

import pytest

GATE = "/usr/local/libexec/hpchub/gate"
JOB = "/usr/local/libexec/hpchub/job"
SESSION = "00000000000000aa"


class Words(NamedTuple):
    """What this file has to say to a batch system: a job of a minute, whose a live job is, all that it shows of it."""

    script: str
    owner: str
    show: str


WORDS = {
    "slurm": Words(
        "#!/bin/sh\n#SBATCH --output=/dev/null\n#SBATCH --job-name=hpchub-test\nsleep 60\n",
        "squeue --noheader --jobs={job} --format=%u --states=running,pending",
        "scontrol show job {job}; scontrol write batch_script {job} -",
    ),
    "gridengine": Words(
        "#!/bin/sh\n#$ -o /dev/null -j y -N hpchub-test -l h_vmem=1G\nsleep 60\n",
        "qstat -j {job} 2>/dev/null | sed -n 's/^owner: *//p'",
        "qstat -j {job}; qstat -xml -j {job}",
    ),
    "htcondor": Words(
        "executable = /bin/sleep\narguments = 60\nqueue\n",
        "condor_q {job} -allusers -constraint 'JobStatus < 3' -autoformat Owner",
        "condor_q -allusers -long {job}",
    ),
}


@pytest.fixture(scope="module")
def login(hosts, login_node):
    """Each in turn: it has a cluster of its own."""
    return hosts.get(login_node, hosts.get("node"))


@pytest.fixture(scope="module")
def cluster(login):
    """The cluster whose login node that is."""
    (settings,) = login.file("/etc/hpchub/gate.d").listdir()
    return settings.removesuffix(".json")


@pytest.fixture(scope="module")
def way(hub, cluster):
    """How the hub reaches the cluster, from its settings."""
    settings = json.loads(hub.file("/etc/hpchub/hub.json").content_string)
    return settings["gates"][cluster]


@pytest.fixture(scope="module")
def words(login, cluster):
    """The words of the cluster's batch system."""
    return WORDS[json.loads(login.file(f"/etc/hpchub/gate.d/{cluster}.json").content_string)["scheduler"]]


def job_id(answer):
    """The id that a submission has printed, in its last line."""
    return re.match(r"\d+", answer["stdout"].strip().splitlines()[-1])[0]


@pytest.fixture
def ssh(way):
    """The hub's key, as an argument vector without a host."""
    if way["method"] != "ssh":
        pytest.skip("the hub submits locally")
    return (
        f"ssh -F none -T -o BatchMode=yes -o StrictHostKeyChecking=yes -o GlobalKnownHostsFile=none "
        f"-o IdentitiesOnly=yes -o UserKnownHostsFile={way['known_hosts']} -i {way['key']} -l {way['user']}"
    )


@pytest.fixture
def request_of(hub, way, words, cluster):
    """Send the gate a request as the hub does; returns the answer."""
    program = (
        "import asyncio, dataclasses, json, sys\n"
        "from hpchub.clusters.gate_client import make_gate\n"
        "cluster, way, fields = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])\n"
        "answer = asyncio.run(make_gate(cluster, way).request(fields.pop('action'), **fields))\n"
        "print(json.dumps(dataclasses.asdict(answer)))\n"
    )

    def send(**fields):
        if "script" in fields:
            fields["script"] = words.script
        output = hub.check_output(
            "runuser --user jupyterhub -- /opt/hpchub/hub/current/bin/python -I -c %s %s %s %s",
            program,
            cluster,
            json.dumps(way),
            json.dumps(fields),
        )
        return json.loads(output)

    return send


def submit(user, **more):
    return {"action": "submit", "user": user, "session": SESSION, "script": None, "secrets": {"TOKEN": "x"}, **more}


def sudo(login, user, *command):
    """What sudo says to the gate's account."""
    words = " ".join(["sudo", "-n", *(["-u", login.backend.quote("%s", user)] if user else []), *command])
    return login.run("runuser --user hpchub -- sh -c %s", f"cd / && {words} < /dev/null")


def test_a_permitted_user_submits_and_cancels(login, request_of, words):
    answer = request_of(**submit("alice"))
    assert answer["ok"], answer
    job = job_id(answer)
    try:
        assert login.check_output(words.owner.format(job=job)) == "alice"
        secrets = login.file(f"/home/alice/.hpchub/{SESSION}.json")
        assert (secrets.user, oct(secrets.mode)) == ("alice", "0o600")
        assert oct(login.file("/home/alice/.hpchub").mode) == "0o700"
        assert job in request_of(action="query")["stdout"]
    finally:
        cancelled = request_of(action="cancel", user="alice", session=SESSION, job_id=job)
    assert cancelled["ok"], cancelled
    assert not secrets.exists
    for _ in range(20):
        if not login.check_output(words.owner.format(job=job)):
            return
        time.sleep(1)
    pytest.fail("the job is still there")


@pytest.mark.parametrize(
    "user", ["root", "daemon", "hpchub", "dave", "nobody", "nosuchuser", "../alice", "alice bob", ""]
)
def test_others_are_refused(request_of, user):
    answer = request_of(**submit(user))
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
def test_other_requests_are_refused(request_of, fields):
    assert not request_of(**fields)["ok"]


def test_nobody_cancels_anothers_job(login, request_of, words):
    job = job_id(request_of(**submit("alice")))
    try:
        request_of(action="cancel", user="bob", session="00000000000000bb", job_id=job)
        assert login.check_output(words.owner.format(job=job)) == "alice"
    finally:
        request_of(action="cancel", user="alice", session=SESSION, job_id=job)


@pytest.mark.parametrize("user", ["alice", "bob"])
def test_sudo_permits_the_job_program_for_permitted_users(login, user):
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
def test_sudo_refuses_everything_else(login, user, command):
    done = sudo(login, user, command)
    assert done.rc != 0
    assert not done.stdout


@pytest.mark.parametrize("group", ["hpc", "hpc-admins"])
def test_uid_0_under_another_name_is_refused(login, group):
    """A group may hold anybody: the rule excludes uid 0 by its number."""
    login.check_output("useradd --non-unique --uid 0 --gid 0 --groups %s --no-create-home toor", group)
    try:
        assert sudo(login, "toor", JOB).rc != 0
        assert sudo(login, "#0", JOB).rc != 0
    finally:
        login.check_output("userdel --force toor 2>/dev/null || sed -i '/^toor:/d' /etc/passwd /etc/shadow")


def test_a_system_account_in_a_permitted_group_is_refused(login, request_of, cluster):
    login.check_output("usermod --append --groups hpc daemon")
    try:
        assert "system account" in request_of(**submit("daemon"))["error"]
        assert "system account" in json.loads(sudo_with_request(login, "daemon", cluster))["error"]
    finally:
        login.check_output("gpasswd --delete daemon hpc")


def sudo_with_request(login, user, cluster):
    """Past the gate, straight to the program that runs as the user: it does not trust who calls it."""
    text = json.dumps({**submit(user), "script": "", "cluster": cluster})
    return login.check_output("echo %s | runuser --user hpchub -- sudo -n -u %s %s", text, user, JOB)


def test_refusals_are_logged(login, request_of):
    request_of(**submit("dave"))
    sudo(login, "root", JOB)
    journal = login.check_output("journalctl --since=-1min --no-pager")
    assert "dave is in none of the groups" in journal
    assert "hpchub" in journal
    assert "COMMAND=" in journal


@pytest.mark.parametrize("command", ["id", "/bin/sh", "cat /etc/shadow", "scp -t /tmp", "-s sftp"])
def test_the_key_opens_the_gate_and_nothing_else(hub, way, ssh, command):
    done = hub.run("echo '{}' | runuser --user jupyterhub -- " + f"{ssh} -- {way['hosts'][0]} {command}")
    assert "the action is none of" in done.stdout, done


# testinfra takes exit code 255, ssh's own for a refusal, for a failure of its own connection.
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
        unit: The transient systemd unit on the hub that runs the ssh client; its journal has the client's messages.
    """

    def __init__(self, hub, login, client):
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
        # systemd writes the command to the journal too. There, the message is in octal, as printf takes it.
        message = "".join(f"\\{ord(character):03o}" for character in f"{CLIENT_ENDED}\n")
        command = f"sleep 60 | {{ ssh-agent {client} 2>&1; printf '{message}'; }}"
        hub.check_output(f"systemd-run --quiet --collect {unit} sh -c %s", command)

    def stop(self):
        """End the client, and wait until the server has no process of it."""
        self.hub.run(f"systemctl stop {self.unit}")
        wait_until("the gate's process is gone", lambda: not self.gate_processes())

    def ended(self):
        return CLIENT_ENDED in self.messages()

    def messages(self):
        return self.hub.check_output(f"journalctl --unit={self.unit} --no-pager --output=cat")

    def gate_processes(self):
        return self.login.run("pgrep --uid hpchub --full %s", f"{GATE} --cluster").stdout.split()

    def environment(self):
        """Return the environment that the ssh server gave to the gate, or an empty one if the client gave up."""

        def read():
            for process in self.gate_processes():
                if text := self.login.run(f"tr '\\0' '\\n' < /proc/{process}/environ").stdout:
                    return dict(line.partition("=")[::2] for line in text.splitlines())
            return {}

        return wait_until("the gate runs, or the client has given up", lambda: read() or (self.ended() and {"": ""}))

    def reaches_ssh_server(self, host, kind):
        """Return whether a connection to the forwarded port of a host leads to an ssh server."""
        port = f"tcp://127.0.0.1:{FORWARDED_PORT}"
        wait_until(
            "the port is open, or the client has given up", lambda: host.socket(port).is_listening or self.ended()
        )
        if not host.socket(port).is_listening:
            return False
        return "reached" in host.check_output("python3 -c %s %s %s", READ_BANNER, str(FORWARDED_PORT), kind)


def wait_until(what, condition, timeout=20):
    """Return the first true answer of ``condition``."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.3)
    return answer


# For each kind: the client's options, a function that returns whether the server grants what they ask for, and what the
# client prints when the server refuses. The server never answers a request for an agent, and a client cannot ask for an
# rc file.
FORWARDINGS = {
    "local": (
        f"-N -L 127.0.0.1:{FORWARDED_PORT}:127.0.0.1:22",
        lambda session: session.reaches_ssh_server(session.hub, "plain"),
        "administratively prohibited",
    ),
    "dynamic": (
        f"-N -D 127.0.0.1:{FORWARDED_PORT}",
        lambda session: session.reaches_ssh_server(session.hub, "socks"),
        "administratively prohibited",
    ),
    "remote": (
        f"-N -R 127.0.0.1:{FORWARDED_PORT}:127.0.0.1:22",
        lambda session: session.reaches_ssh_server(session.login, "plain"),
        "remote port forwarding failed",
    ),
    "agent": ("-A", lambda session: "SSH_AUTH_SOCK" in session.environment(), ""),
    "x11": ("-Y", lambda session: "DISPLAY" in session.environment(), "X11 forwarding request failed"),
    "pty": ("-tt", lambda session: "SSH_TTY" in session.environment(), "PTY allocation request failed"),
    "user_rc": (
        "",
        lambda session: "SSH_CONNECTION" in session.environment() and session.login.file(USER_RC_MARK).exists,
        "",
    ),
}


@pytest.fixture
def unrestricted_key(hub, login, way):
    """A second key for the gate, with all options of the hub's own key except `restrict`.

    It proves that a refusal comes from `restrict`: with this key the server grants what the same client asks for.
    """
    keys = "/var/lib/hpchub-gate/.ssh/authorized_keys"
    directory = "/tmp/hpchub-test-key"
    public = hub.check_output("cat %s.pub", way["key"]).split()[1]
    hub.check_output(f"install -d -m 0700 -o jupyterhub {directory}")
    hub.check_output(f"runuser --user jupyterhub -- ssh-keygen -q -t ed25519 -N '' -f {directory}/key")
    # X11 forwarding needs this program on the server. Where it is missing, an empty one is enough for the server.
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
def server_grants(hub, login, way, ssh):
    """Return a function: whether the server grants a key one of FORWARDINGS, and what the client prints."""

    def grants(kind, key):
        options, granted, _ = FORWARDINGS[kind]
        client = ssh.replace(f"-i {way['key']}", f"-i {key}").replace(" -T ", " ")
        login.check_output(f"rm -f {USER_RC_MARK}")
        session = Session(hub, login, f"{client} -o ExitOnForwardFailure=yes {options} -- {way['hosts'][0]}")
        try:
            return granted(session), session.messages()
        finally:
            session.stop()

    return grants


@pytest.mark.parametrize("kind", FORWARDINGS)
def test_server_refuses_forwarding_terminal_and_rc_file_for_the_hubs_key(way, server_grants, unrestricted_key, kind):
    granted, messages = server_grants(kind, unrestricted_key)
    assert granted, f"the server refuses this without `restrict` too, so the test proves nothing: {messages}"
    granted, messages = server_grants(kind, way["key"])
    assert not granted, messages
    assert FORWARDINGS[kind][2] in messages


def test_an_unknown_host_key_is_refused(hub, way, ssh):
    address = hub.check_output(f"getent ahostsv4 {way['hosts'][0]}").split()[0]
    done = hub.run(f"echo '{{}}' | runuser --user jupyterhub -- {ssh} -- {address} id {REFUSED}")
    assert "refused with 255" in done.stdout
    assert "verification failed" in done.stderr


@pytest.mark.usefixtures("ssh")
def test_the_key_is_the_hubs_alone(hub, way):
    key = hub.file(way["key"])
    assert (key.user, oct(key.mode)) == ("jupyterhub", "0o600")
    for account in ("alice", "hpchub-proxy", "www-data"):
        assert hub.run("runuser --user %s -- cat %s", account, way["key"]).rc != 0


@pytest.mark.usefixtures("ssh")
def test_the_key_is_accepted_from_the_hub_alone(login, compute, hub, way):
    """A stolen key opens nothing from elsewhere."""
    if login.check_output("hostname") == compute.check_output("hostname"):
        pytest.skip("there is no other host")
    compute.check_output("install -m 0600 /dev/null /root/stolen")
    try:
        compute.check_output("echo %s > /root/stolen", hub.check_output("cat %s", way["key"]) + "\n")
        done = compute.run(
            "echo '{}' | ssh -F none -T -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "
            f"-o IdentitiesOnly=yes -i /root/stolen -l hpchub {way['hosts'][0]} id {REFUSED}"
        )
        assert "refused with 255" in done.stdout
        assert "ermission denied" in done.stderr
    finally:
        compute.check_output("rm -f /root/stolen")


def test_the_gates_files_are_roots(login, cluster):
    for path in (GATE, JOB, "/etc/sudoers.d/hpchub", f"/etc/hpchub/gate.d/{cluster}.json"):
        file = login.file(path)
        assert (file.user, file.group) == ("root", "root")
        assert not file.mode & 0o022
    assert login.run("runuser --user hpchub -- touch /var/lib/hpchub-gate/x").rc != 0
    assert login.run("runuser --user hpchub -- touch /var/lib/hpchub-gate/.ssh/x").rc != 0
    login.check_output("visudo --check")


def test_the_local_socket_is_the_hubs(hub, way):
    if way["method"] != "local":
        pytest.skip("the hub submits over ssh")
    socket = hub.file(way["socket"])
    assert (socket.user, socket.group, oct(socket.mode)) == ("root", "jupyterhub", "0o660")
    connect = f"import socket; socket.socket(socket.AF_UNIX).connect('{way['socket']}')"
    assert hub.run("runuser --user alice -- python3 -c %s", connect).rc != 0
    assert hub.run("runuser --user jupyterhub -- python3 -c %s", connect).rc == 0


def test_no_secret_in_a_process_list_or_environment(login, request_of, words):
    """A submitted secret is in a file of the user's, and nowhere else that anybody can look."""
    answer = request_of(**submit("alice", secrets={"TOKEN": "hpchub-canary-secret"}))
    job = job_id(answer)
    try:
        shown = login.check_output(words.show.format(job=job) + "; ps -e -o args")
        assert "hpchub-canary-secret" not in shown
        assert login.run("runuser --user bob -- cat /home/alice/.hpchub/%s.json", SESSION).rc != 0
    finally:
        request_of(action="cancel", user="alice", session=SESSION, job_id=job)


def test_the_inventory_asks_no_more_than_the_scheduler_gives(hub, cluster):
    """As root, who leaves nothing behind that the hub could not use."""
    found = json.loads(hub.check_output("/opt/hpchub/hub/current/bin/hpchub check --live --json"))
    assert (found["problems"], found["unanswered"]) == ([], {})
    assert {"interactive", "long", "*"} & {queue["name"] for queue in found["queues"][cluster]}
    assert hub.check_output("find /run/jupyterhub ! -user jupyterhub") == ""
