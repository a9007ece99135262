"""The hub: an unprivileged service in a sandbox that listens only on a unix socket and protects its secrets."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testinfra.host import Host

SOCKET = "/run/hpchub-hub/hub.sock"
UNIT = "jupyterhub.service"
HOME = "/home/hpchub-test"

# Runs a command in a unit that differs from the hub's only in its command. So the command is subject to the hub's
# sandbox and account.
PROBE = """
trap 'rm -f /run/hpchub-probe.sh /run/systemd/system/hpchub-probe.service; systemctl daemon-reload' EXIT
printf '%s\\n' "$1" > /run/hpchub-probe.sh
chmod 644 /run/hpchub-probe.sh
sed -e 's|^ExecStart=.*|ExecStart=/bin/sh /run/hpchub-probe.sh|' -e 's/^Restart=.*/Restart=no/' \\
    -e 's/^Type=.*/Type=oneshot/' -e '/^RuntimeDirectory/d' \\
    /etc/systemd/system/jupyterhub.service > /run/systemd/system/hpchub-probe.service
systemctl daemon-reload
systemctl start hpchub-probe
code=$?
journalctl --unit=hpchub-probe --since=-10s --output=cat --no-pager
systemctl reset-failed hpchub-probe 2> /dev/null
exit $code
"""


def get(host: Host, path: str, socket: str = SOCKET) -> str:
    """Send a GET request to a unix socket as root; return the status and the text."""
    program = (
        "import http.client, socket, sys\n"
        "c = http.client.HTTPConnection('localhost')\n"
        "c.sock = socket.socket(socket.AF_UNIX)\n"
        f"c.sock.connect('{socket}')\n"
        f"c.request('GET', '{path}')\n"
        "r = c.getresponse()\n"
        "print(r.status, r.read().decode())\n"
    )
    return str(host.check_output("python3 -c %s", program))


def wait_for_hub(hub: Host, seconds: int = 60) -> None:
    """Wait until the hub answers."""
    for _ in range(seconds):
        try:
            if get(hub, "/hub/health").startswith("200"):
                return
        except AssertionError:  # the hub does not listen yet
            time.sleep(1)
    pytest.fail(f"the hub does not answer within {seconds} seconds")


def main_pid(hub: Host, unit: str = UNIT) -> int:
    """Return the process id of a unit, or 0 if it is not running."""
    return int(hub.check_output(f"systemctl show --property=MainPID --value {unit}"))


@pytest.fixture
def home(hub: Host) -> Iterator[None]:
    """Create a home directory on the hub host, because the users may have none there."""
    hub.check_output("install --directory --mode=0755 %s", HOME)
    yield
    hub.check_output("rmdir %s", HOME)


def test_hub_answers_on_its_socket(hub: Host) -> None:
    assert hub.service(UNIT).is_running
    assert hub.service(UNIT).is_enabled
    assert get(hub, "/hub/health").startswith("200")
    assert json.loads(get(hub, "/hub/api").split(" ", 1)[1])["version"].startswith("6.")


def test_hub_listens_on_no_port(hub: Host) -> None:
    listeners = hub.check_output("ss --listening --tcp --udp --numeric --processes --no-header")
    pid = main_pid(hub)
    assert pid
    assert '("apache2",pid=' in listeners  # ss shows process ids
    assert f"pid={pid}," not in listeners


def test_hub_runs_without_privileges(hub: Host) -> None:
    status = hub.file(f"/proc/{main_pid(hub)}/status").content_string
    uid = hub.user("jupyterhub").uid
    assert re.search(rf"^Uid:\s+{uid}\s+{uid}\s+{uid}\s+{uid}$", status, re.MULTILINE)
    assert re.search(r"^CapBnd:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)
    assert hub.user("jupyterhub").shell == "/usr/sbin/nologin"


def test_hub_runs_in_a_sandbox(hub: Host) -> None:
    report = hub.check_output(f"systemd-analyze security --no-pager {UNIT}")
    found = re.search(r"Overall exposure level for \S+ ([\d.]+)", report)
    assert found is not None, report
    assert float(found[1]) <= 3.0, report


@pytest.mark.parametrize(
    ("command", "permitted"),
    [
        ("touch /var/lib/hpchub/probe && rm /var/lib/hpchub/probe", True),
        ("ssh -V", True),
        ("touch /etc/hpchub/probe && rm /etc/hpchub/probe", False),
        ("touch /opt/hpchub/probe && rm /opt/hpchub/probe", False),
        (f"test -e {HOME}", False),
        ("test -e /root/.ssh", False),
        ("cat /etc/hpchub/secrets/hub.env", False),
        ("cat /etc/hpchub/secrets/proxy.env", False),
        ("sudo -n true", False),
        ("mount -t tmpfs none /tmp", False),
        ("unshare --user true", False),
    ],
)
@pytest.mark.usefixtures("home")
def test_sandbox_permits_only_what_the_hub_needs(hub: Host, command: str, permitted: bool) -> None:
    # The command works outside the sandbox. Otherwise it would also fail inside for a reason other than the sandbox.
    hub.check_output("unshare --mount -- sh -c %s", command)
    done = hub.run("bash -c %s probe %s", PROBE, command)
    assert (done.rc == 0) is permitted, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("path", "owner", "group", "mode"),
    [
        ("/etc/hpchub/hub.json", "root", "jupyterhub", 0o640),
        ("/etc/hpchub/jupyterhub_config.py", "root", "jupyterhub", 0o640),
        ("/etc/hpchub/conf.d", "root", "jupyterhub", 0o750),
        ("/etc/hpchub/secrets", "root", "root", 0o700),
        ("/etc/hpchub/secrets/hub.env", "root", "root", 0o600),
        ("/etc/hpchub/profiles.json", "root", "root", 0o644),
        ("/var/lib/hpchub", "jupyterhub", "jupyterhub", 0o700),
        ("/var/lib/hpchub/cookie_secret", "jupyterhub", "jupyterhub", 0o600),
        ("/run/hpchub-hub", "jupyterhub", "hpchub-proxy", 0o2750),
        (SOCKET, "jupyterhub", "hpchub-proxy", 0o660),
    ],
)
def test_files_have_their_owner_and_mode(hub: Host, path: str, owner: str, group: str, mode: int) -> None:
    file = hub.file(path)
    assert (file.user, file.group, oct(file.mode)) == (owner, group, oct(mode))


@pytest.mark.parametrize("account", ["alice", "hpchub-proxy", "www-data", "nobody"])
def test_only_the_proxy_can_connect_to_the_hub(hub: Host, account: str) -> None:
    connect = f"import socket; socket.socket(socket.AF_UNIX).connect('{SOCKET}')"
    done = hub.run("runuser --user %s -- python3 -c %s", account, connect)
    if account == "hpchub-proxy":
        assert done.rc == 0, done.stderr
    else:
        assert "PermissionError" in done.stderr, done


def test_database_uses_wal_mode(hub: Host) -> None:
    if not hub.file("/var/lib/hpchub/jupyterhub.sqlite").exists:
        pytest.skip("the hub's database is not SQLite")
    program = (
        "import sqlite3\n"
        "state = sqlite3.connect('/var/lib/hpchub/jupyterhub.sqlite')\n"
        "print(state.execute('PRAGMA journal_mode').fetchone()[0])\n"
    )
    assert hub.check_output("python3 -c %s", program) == "wal"


def test_no_secret_appears_in_the_journal_or_the_process_list(hub: Host) -> None:
    # Only some inventories have the other files.
    found = ["hub.env", "proxy.env"], ["metrics.env", "canary.env", "sso-sessions.conf"]
    state = ["/var/lib/hpchub/cookie_secret", "/var/lib/hpchub/event_key", "/var/lib/hpchub/pgpass"]
    required, optional = ([f"/etc/hpchub/secrets/{name}" for name in names] for names in found)
    for path in required:
        assert re.search("[0-9a-f]{64}", hub.check_output(f"cat {path}"))
    secrets = re.findall("[0-9a-f]{64}", hub.run(f"cat {' '.join([*required, *optional, *state])}").stdout)
    assert len(secrets) >= 3
    journal, processes = hub.check_output("journalctl --no-pager --output=cat"), hub.check_output("ps -e -o args")
    assert "JupyterHub" in journal
    assert "jupyterhub" in processes
    seen = journal + processes
    assert not [secret[:4] for secret in secrets if secret in seen]


def test_restarting_the_hub_does_not_restart_the_proxy(hub: Host) -> None:
    proxy = main_pid(hub, "configurable-http-proxy.service")
    before = main_pid(hub)
    hub.check_output(f"systemctl restart {UNIT}")
    wait_for_hub(hub)
    assert main_pid(hub) != before
    assert main_pid(hub, "configurable-http-proxy.service") == proxy


def test_hub_restarts_after_a_kill(hub: Host) -> None:
    before = main_pid(hub)
    hub.check_output(f"kill -KILL {before}")
    time.sleep(3)
    wait_for_hub(hub)
    assert main_pid(hub) not in (0, before)


def test_compute_node_has_exactly_the_profiles_of_its_clusters(hub: Host, compute: Host) -> None:
    union = json.loads(hub.file("/etc/hpchub/profiles.json").content_string)
    node = json.loads(compute.file("/etc/hpchub/profiles.json").content_string)
    names = [cluster["name"] for cluster in node["clusters"]]
    expected = {profile["key"] for profile in union["profiles"] if profile["cluster"] in names}
    assert expected
    assert {profile["key"] for profile in node["profiles"]} == expected


def test_command_is_on_the_path(hub: Host) -> None:
    assert hub.check_output("hpchub --version").startswith("hpchub ")
