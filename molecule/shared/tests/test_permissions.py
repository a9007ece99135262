"""The owner, group and mode of every file and directory that holds a secret, a socket or a rule."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

HUB = {
    "/etc/hpchub/conf.d": "root:jupyterhub 750",
    "/etc/hpchub/conf.d/10-inventory.py": "root:jupyterhub 640",
    "/etc/hpchub/hub.json": "root:jupyterhub 640",
    "/etc/hpchub/jupyterhub_config.py": "root:jupyterhub 640",
    "/etc/hpchub/notebook-tls/current.pem": "jupyterhub:root 400",
    "/etc/hpchub/notebook-tls/hub.pem": "jupyterhub:root 400",
    "/etc/hpchub/notebook-tls/next.pem": "root:root 400",
    "/etc/hpchub/notebook-tls/proxy.pem": "root:hpchub-proxy 440",
    "/etc/hpchub/secrets": "root:root 700",
    "/etc/hpchub/secrets/hub.env": "root:root 600",
    "/etc/hpchub/secrets/proxy.env": "root:root 600",
    "/etc/hpchub/secrets/sso-client.conf": "root:root 600",
    "/etc/hpchub/secrets/sso-sessions.conf": "root:root 600",
    "/etc/hpchub/tls/server.key": "root:root 600",
    "/run/hpchub-hub": "jupyterhub:hpchub-proxy 2750",
    "/run/hpchub-hub/hub.sock": "jupyterhub:hpchub-proxy 660",
    "/run/hpchub-proxy/api": "hpchub-proxy:jupyterhub 2750",
    "/run/hpchub-proxy/api/api.sock": "hpchub-proxy:jupyterhub 660",
    "/run/hpchub-proxy/public": "hpchub-proxy:www-data 2750",
    "/run/hpchub-proxy/public/proxy.sock": "hpchub-proxy:www-data 660",
    "/run/jupyterhub": "jupyterhub:jupyterhub 700",
    "/var/cache/apache2/hpchub-sso": "www-data:www-data 700",
    "/var/lib/hpchub": "jupyterhub:jupyterhub 700",
    "/var/lib/hpchub/cookie_secret": "jupyterhub:jupyterhub 600",
    "/var/log/hpchub": "jupyterhub:jupyterhub 700",
}
# Only some inventories have these files.
OPTIONAL = {
    "/etc/hpchub/backup.json": "root:root 600",
    "/etc/hpchub/secrets/canary.env": "root:root 600",
    "/etc/hpchub/secrets/metrics.env": "root:root 600",
    "/etc/hpchub/tls/ca.key": "root:root 600",
    "/var/backups/hpchub": "root:root 700",
    "/var/lib/hpchub-backup": "root:root 700",
    "/var/lib/hpchub/event_key": "jupyterhub:jupyterhub 600",
    "/var/lib/hpchub/jupyterhub.sqlite": "jupyterhub:jupyterhub 600",
    "/var/lib/hpchub/pgpass": "jupyterhub:jupyterhub 600",
    "/var/log/hpchub/audit.jsonl": "jupyterhub:jupyterhub 600",
}
# Every file in these directories contains a secret, or what one opens.
PRIVATE = ["/etc/hpchub/secrets", "/var/backups/hpchub", "/var/lib/hpchub-backup"]
# Only if the database has a host of its own.
DATABASE_HOST = {
    "/etc/hpchub/database": "root:postgres 750",
    "/etc/hpchub/database/ca.key": "root:root 600",
    "/etc/hpchub/database/password": "root:root 600",
    "/etc/hpchub/database/server.key": "postgres:postgres 600",
}
# Only if the hub submits with ssh.
KEYS = {
    "/etc/hpchub/ssh": "root:jupyterhub 750",
    "/etc/hpchub/ssh/known_hosts": "root:jupyterhub 640",
}
SECRETS = "grep -hosE '[0-9a-f]{64}'"
"""Prints the secrets that a role has generated, from files."""
SUBMIT_HOST = {"/etc/sudoers.d/hpchub": "root:root 440"}
# Only if the hub submits with ssh to this host.
SUBMIT_HOST_KEYS = {"/var/lib/hpchub-gate/.ssh/authorized_keys": "root:hpchub 640"}


def permissions(host: Host, path: str) -> str:
    """Return the owner, group and mode of a file."""
    return str(host.check_output("stat --format='%%U:%%G %%a' %s", path).strip())


@pytest.fixture(scope="module")
def gates(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the gates of the hub that it reaches with ssh. Skip the test if the hub submits jobs locally."""
    gates = [gate for gate in settings["gates"].values() if gate["method"] == "ssh"]
    if not gates:
        pytest.skip("the hub submits locally")
    return gates


@pytest.mark.parametrize("path", HUB)
def test_hub_host_keeps_others_out(hub: Host, path: str) -> None:
    assert permissions(hub, path) == HUB[path]


@pytest.mark.parametrize("path", OPTIONAL)
def test_hub_host_keeps_others_out_of_what_only_some_inventories_have(hub: Host, path: str) -> None:
    if not hub.file(path).exists:
        pytest.skip("this inventory does not have the file")
    assert permissions(hub, path) == OPTIONAL[path]


@pytest.mark.parametrize("path", PRIVATE)
def test_only_root_can_read_any_file_of_a_private_directory(hub: Host, path: str) -> None:
    assert hub.run(f"find {path} ! -type d ! '(' -user root -perm 600 ')'").stdout == ""


def test_no_file_that_everybody_can_read_contains_a_secret(hub: Host) -> None:
    files = "/etc/hpchub/secrets/* /var/lib/hpchub/cookie_secret /var/lib/hpchub/event_key /var/lib/hpchub/pgpass"
    assert int(hub.check_output(f"bash -c {shlex.quote(f'{SECRETS} {files} | wc -l')}")) >= 3
    search = "runuser -u nobody -- grep -rlsF -D skip -f - /etc /run /var"
    assert hub.run(f"bash -c {shlex.quote(f'{SECRETS} {files} | {search}')}").stdout == ""


@pytest.mark.parametrize("path", DATABASE_HOST)
def test_database_host_keeps_others_out(hosts: dict[str, Host], path: str) -> None:
    if "database" not in hosts:
        pytest.skip("the database has no host of its own")
    assert permissions(hosts["database"], path) == DATABASE_HOST[path]


@pytest.mark.parametrize("path", KEYS)
@pytest.mark.usefixtures("gates")
def test_hub_host_keeps_others_out_of_ssh_files(hub: Host, path: str) -> None:
    assert permissions(hub, path) == KEYS[path]


def test_hub_host_keeps_others_out_of_ssh_keys(hub: Host, gates: list[dict[str, Any]]) -> None:
    keys = hub.check_output("ls /etc/hpchub/ssh/*.pub").split()
    assert {gate["key"] for gate in gates} <= {key.removesuffix(".pub") for key in keys}
    for key in keys:
        assert permissions(hub, key.removesuffix(".pub")) == "jupyterhub:jupyterhub 600"


@pytest.mark.parametrize("path", SUBMIT_HOST)
def test_submit_host_keeps_others_out(login: Host, path: str) -> None:
    assert permissions(login, path) == SUBMIT_HOST[path]


@pytest.mark.parametrize("path", SUBMIT_HOST_KEYS)
@pytest.mark.usefixtures("gates")
def test_submit_host_keeps_others_out_of_the_list_of_keys(login: Host, path: str) -> None:
    assert "ssh-" in login.file(path).content_string
    assert permissions(login, path) == SUBMIT_HOST_KEYS[path]


@pytest.mark.parametrize("path", ["/run/hpchub-hub", "/run/hpchub-proxy/api", "/run/hpchub-proxy/public"])
def test_boot_creates_socket_directories_with_their_permissions(hub: Host, path: str) -> None:
    """The directories are in memory, so systemd-tmpfiles creates them again at each boot."""
    hub.check_output("chmod 0777 %s", path)
    hub.check_output("systemd-tmpfiles --create /etc/tmpfiles.d/hpchub-hub.conf /etc/tmpfiles.d/hpchub-proxy.conf")
    assert permissions(hub, path) == HUB[path]
