"""The proxy: on two sockets, for those who shall have them, and on its feet again when it falls."""

import json
import time

import pytest

UNIT = "configurable-http-proxy"
PUBLIC = "/run/hpchub-proxy/public/proxy.sock"
API = "/run/hpchub-proxy/api/api.sock"

# Prints the status of one request to a socket, or the name of the error.
ASK = """
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


def ask(host, path, target, *, user="root", method="GET", token="none", body=""):
    command = host.backend.quote("python3 -c %s %s %s %s %s %s", ASK, path, method, target, token, body)
    return json.loads(host.check_output(f"runuser --user {user} -- {command}"))


def routes(hub):
    status, text = ask(hub, API, "/api/routes", token="ours")
    assert status == 200
    return json.loads(text[text.index("{") : text.rindex("}") + 1])


def answers(hub, seconds=30):
    """Whether the proxy answers in time."""
    for _ in range(seconds):
        if ask(hub, PUBLIC, "/_chp_healthz")[0] == 200:
            return True
        time.sleep(1)
    return False


def journal(hub):
    return hub.run("journalctl --unit=%s --lines=40 --no-pager", UNIT).stdout


def test_the_proxy_answers(hub):
    assert answers(hub), journal(hub)


def test_the_hub_is_where_everything_goes(hub):
    assert routes(hub)["/"]["target"] == "http+unix://%2Frun%2Fhpchub-hub%2Fhub.sock"
    assert ask(hub, PUBLIC, "/hub/health")[0] == 200


@pytest.mark.parametrize(
    ("user", "socket", "may"),
    [
        ("www-data", PUBLIC, True),
        ("www-data", API, False),
        ("jupyterhub", API, True),
        ("jupyterhub", PUBLIC, False),
        ("nobody", PUBLIC, False),
        ("nobody", API, False),
    ],
)
def test_sockets_are_for_those_who_need_them(hub, user, socket, may):
    answer = ask(hub, socket, "/api/routes" if socket == API else "/_chp_healthz", user=user)[0]
    # The API wants a token, too.
    assert answer == ("PermissionError" if not may else 403 if socket == API else 200)


def test_the_api_wants_the_token(hub):
    for token in ("none", "undefined", "''"):
        assert ask(hub, API, "/api/routes", token=token)[0] == 403
        assert ask(hub, API, "/api/routes/x", method="POST", token=token, body='{"target": "http://x"}')[0] == 403
    assert "/x" not in routes(hub)


def test_the_token_is_seen_by_nobody(hub):
    file = hub.file("/etc/hpchub/secrets/proxy.env")
    assert (file.user, oct(file.mode)) == ("root", "0o600")
    token = file.content_string.split("=", 1)[1].strip()
    assert len(token) >= 32
    assert token not in hub.check_output("ps -eo args")
    assert token not in hub.check_output("systemctl show %s", UNIT)
    assert hub.run("journalctl --unit=%s --grep=%s --quiet", UNIT, token).stdout == ""


def test_the_proxy_opens_no_port(hub):
    pid = hub.check_output("systemctl show --property=MainPID --value %s", UNIT)
    listening = hub.check_output("ss --listening --tcp --udp --numeric --processes --no-header")
    assert f"pid={pid}," not in listening


def test_the_proxy_does_not_start_without_a_token(hub):
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
        journal = hub.check_output("journalctl --unit=%s --no-pager --output=cat", unit)
        assert "CONFIGPROXY_AUTH_TOKEN is not set" in journal
        assert not hub.file("/run/hpchub-proxy/public/test.sock").exists
    finally:
        hub.run("rm --force /run/systemd/system/%s.service", unit)
        hub.run("systemctl daemon-reload")
        hub.run("systemctl reset-failed %s", unit)


def test_the_proxys_identity_is_its_own(hub):
    for name, readers in {
        "current.pem": {"jupyterhub"},
        "next.pem": set(),
        "proxy.pem": {"hpchub-proxy"},
        "hub.pem": {"jupyterhub"},
        "servers.pem": {"jupyterhub", "hpchub-proxy", "www-data", "alice"},
    }.items():
        for account in ("jupyterhub", "hpchub-proxy", "www-data", "alice"):
            done = hub.run("runuser -u %s -- cat /etc/hpchub/notebook-tls/%s", account, name)
            assert (done.rc == 0) is (account in readers), (account, name)


def test_the_proxy_is_in_a_sandbox(hub):
    assessed = hub.check_output("systemd-analyze security --no-pager %s.service", UNIT)
    assert float(assessed.split("Overall exposure level")[1].split(":")[1].split()[0]) <= 3.0, assessed


def test_the_proxy_gets_up_again(hub):
    before = hub.check_output("systemctl show --property=MainPID --value %s", UNIT)
    hub.check_output("systemctl kill --signal=KILL %s", UNIT)
    time.sleep(2)
    assert answers(hub), journal(hub)
    assert hub.check_output("systemctl show --property=MainPID --value %s", UNIT) != before
    # The hub's pages are there at once, before the hub has looked at its routes.
    assert ask(hub, PUBLIC, "/hub/health")[0] == 200


def test_routes_outlive_a_restart_of_the_hub(hub):
    target = {"target": "http://127.0.0.1:9", "jupyterhub": False}
    assert ask(hub, API, "/api/routes/services/stays", method="POST", token="ours", body=json.dumps(target))[0] == 201
    try:
        hub.check_output("systemctl restart jupyterhub")
        assert "/services/stays" in routes(hub)
        # What is behind a route does not answer: a page that says so in plain words.
        status, text = ask(hub, PUBLIC, "/services/stays/")
        assert status == 503
        assert "reload this page" in text
        for _ in range(60):
            if ask(hub, PUBLIC, "/hub/health")[0] == 200:
                break
            time.sleep(1)
        assert ask(hub, PUBLIC, "/hub/health")[0] == 200, hub.run(
            "journalctl --unit=jupyterhub --lines=40 --no-pager"
        ).stdout
    finally:
        ask(hub, API, "/api/routes/services/stays", method="DELETE", token="ours")
