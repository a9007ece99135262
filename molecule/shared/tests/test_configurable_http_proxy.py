"""The proxy: its two sockets admit only the accounts that need them, and it restarts after a failure."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

UNIT = "configurable-http-proxy"
PUBLIC = "/run/hpchub-proxy/public/proxy.sock"
API = "/run/hpchub-proxy/api/api.sock"

# Sends one request to a socket, then prints the status and the text of the response, or the name of the error.
REQUEST = """
import json, os, socket, sys
path, method, target, token, body = sys.argv[1:]
if token == "ours":
    token = open("/etc/hpchub/secrets/proxy.env").read().split("=", 1)[1].strip()
try:
    proxy = socket.socket(socket.AF_UNIX)
    proxy.settimeout(20)
    proxy.connect(path)
except OSError as error:
    sys.exit(print(json.dumps([type(error).__name__, ""])))
proxy.sendall(
    f"{method} {target} HTTP/1.1\\r\\nHost: x\\r\\nAuthorization: token {token}\\r\\nContent-Length: {len(body)}\\r\\n"
    f"Connection: close\\r\\n\\r\\n{body}".encode()
)
head, _, text = proxy.makefile(newline="").read().partition("\\r\\n\\r\\n")
print(json.dumps([int(head.split()[1]), text]))
"""


def send(
    host: Host, path: str, target: str, *, user: str = "root", method: str = "GET", token: str = "none", body: str = ""
) -> tuple[int | str, str]:
    """Send a request to the proxy's socket as a user of the host.

    Returns:
        The status and the text of the response. If the user cannot connect, the name of the error and an empty text.
    """
    command = host.backend.quote("python3 -c %s %s %s %s %s %s", REQUEST, path, method, target, token, body)
    status, text = json.loads(host.check_output(f"runuser --user {user} -- {command}"))
    return status, text


def routes(hub: Host) -> dict[str, Any]:
    """Return the proxy's routing table."""
    status, text = send(hub, API, "/api/routes", token="ours")
    assert status == 200
    found: dict[str, Any] = json.loads(text[text.index("{") : text.rindex("}") + 1])
    return found


def answers(hub: Host, seconds: int = 30) -> bool:
    """Return whether the proxy answers within the given time."""
    for _ in range(seconds):
        if send(hub, PUBLIC, "/_chp_healthz")[0] == 200:
            return True
        time.sleep(1)
    return False


def journal(hub: Host) -> str:
    """Return the last lines of the proxy's journal."""
    return str(hub.run("journalctl --unit=%s --lines=40 --no-pager", UNIT).stdout)


def test_proxy_answers(hub: Host) -> None:
    assert answers(hub), journal(hub)


def test_default_route_leads_to_the_hub(hub: Host) -> None:
    assert routes(hub)["/"]["target"] == "http+unix://%2Frun%2Fhpchub-hub%2Fhub.sock"
    assert send(hub, PUBLIC, "/hub/health")[0] == 200


@pytest.mark.parametrize(
    ("user", "socket", "permitted"),
    [
        ("www-data", PUBLIC, True),
        ("www-data", API, False),
        ("jupyterhub", API, True),
        ("jupyterhub", PUBLIC, False),
        ("nobody", PUBLIC, False),
        ("nobody", API, False),
    ],
)
def test_only_the_accounts_that_need_a_socket_can_connect(hub: Host, user: str, socket: str, permitted: bool) -> None:
    answer = send(hub, socket, "/api/routes" if socket == API else "/_chp_healthz", user=user)[0]
    # The API also requires the token, so it answers 403 even to the permitted account.
    assert answer == ("PermissionError" if not permitted else 403 if socket == API else 200)


def test_api_refuses_requests_without_the_token(hub: Host) -> None:
    for token in ("none", "undefined", "''"):
        assert send(hub, API, "/api/routes", token=token)[0] == 403
        assert send(hub, API, "/api/routes/x", method="POST", token=token, body='{"target": "http://x"}')[0] == 403
    assert "/x" not in routes(hub)


def test_token_appears_in_no_process_list_unit_or_journal(hub: Host) -> None:
    file = hub.file("/etc/hpchub/secrets/proxy.env")
    assert (file.user, oct(file.mode)) == ("root", "0o600")
    token = file.content_string.split("=", 1)[1].strip()
    assert len(token) >= 32
    processes, properties = hub.check_output("ps -eo args"), hub.check_output("systemctl show %s", UNIT)
    assert "proxy.mjs" in processes
    assert "proxy.mjs" in properties
    assert token not in processes
    assert token not in properties
    messages = hub.check_output("journalctl --unit=%s --no-pager --output=cat", UNIT)
    assert messages
    assert token not in messages


def test_proxy_opens_no_port(hub: Host) -> None:
    pid = hub.check_output("systemctl show --property=MainPID --value %s", UNIT)
    listening = hub.check_output("ss --listening --tcp --udp --numeric --processes --no-header")
    assert int(pid)
    assert '("apache2",pid=' in listening  # ss shows process ids
    assert f"pid={pid}," not in listening


def test_proxy_does_not_start_without_a_token(hub: Host) -> None:
    unit = "hpchub-test-proxy"
    try:
        hub.check_output(
            "sed -e s#^EnvironmentFile=.*#EnvironmentFile=/dev/null# -e s#/proxy.sock#/test.sock#"
            " -e s#/api.sock#/t.sock# -e s/^Restart=.*/Restart=no/"
            " /etc/systemd/system/%s.service > /run/systemd/system/%s.service",
            UNIT,
            unit,
        )
        hub.check_output("systemctl daemon-reload")
        hub.run("systemctl start %s", unit)
        for _ in range(20):
            if hub.run("systemctl is-failed %s", unit).rc == 0:
                break
            time.sleep(0.5)
        assert hub.check_output("systemctl is-failed %s", unit) == "failed"
        messages = hub.check_output("journalctl --unit=%s --no-pager --output=cat", unit)
        assert "CONFIGPROXY_AUTH_TOKEN is not set" in messages
        assert not hub.file("/run/hpchub-proxy/public/test.sock").exists
    finally:
        hub.run("rm --force /run/systemd/system/%s.service", unit)
        hub.run("systemctl daemon-reload")
        hub.run("systemctl reset-failed %s", unit)


@pytest.mark.parametrize(
    ("name", "readers"),
    [
        ("current.pem", {"jupyterhub"}),
        ("next.pem", set()),
        ("proxy.pem", {"hpchub-proxy"}),
        ("hub.pem", {"jupyterhub"}),
        ("servers.pem", {"jupyterhub", "hpchub-proxy", "www-data", "alice"}),
    ],
)
def test_tls_files_are_readable_only_by_the_accounts_that_need_them(hub: Host, name: str, readers: set[str]) -> None:
    path = f"/etc/hpchub/notebook-tls/{name}"
    assert hub.file(path).is_file
    accounts = ("jupyterhub", "hpchub-proxy", "www-data", "alice")
    assert {account for account in accounts if hub.run("runuser -u %s -- cat %s", account, path).rc == 0} == readers


def test_proxy_runs_in_a_sandbox(hub: Host) -> None:
    assessed = hub.check_output("systemd-analyze security --no-pager %s.service", UNIT)
    assert float(assessed.split("Overall exposure level")[1].split(":")[1].split()[0]) <= 3.0, assessed


def test_proxy_restarts_after_a_kill(hub: Host) -> None:
    before = hub.check_output("systemctl show --property=MainPID --value %s", UNIT)
    hub.check_output("systemctl kill --signal=KILL %s", UNIT)
    time.sleep(2)
    assert answers(hub), journal(hub)
    assert hub.check_output("systemctl show --property=MainPID --value %s", UNIT) != before
    # The default route is part of the proxy's command line, so the hub's pages work before the hub restores its routes.
    assert send(hub, PUBLIC, "/hub/health")[0] == 200


def test_routes_survive_a_restart_of_the_hub(hub: Host) -> None:
    target = {"target": "http://127.0.0.1:9", "jupyterhub": False}
    assert send(hub, API, "/api/routes/services/stays", method="POST", token="ours", body=json.dumps(target))[0] == 201
    try:
        hub.check_output("systemctl restart jupyterhub")
        assert "/services/stays" in routes(hub)
        # The target of this route does not answer, so the proxy shows its error page.
        status, text = send(hub, PUBLIC, "/services/stays/")
        assert status == 503
        assert "This page reloads" in text
        for _ in range(60):
            if send(hub, PUBLIC, "/hub/health")[0] == 200:
                break
            time.sleep(1)
        assert send(hub, PUBLIC, "/hub/health")[0] == 200, hub.run(
            "journalctl --unit=jupyterhub --lines=40 --no-pager"
        ).stdout
    finally:
        send(hub, API, "/api/routes/services/stays", method="DELETE", token="ours")
