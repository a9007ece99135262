"""The web server behind a load balancer: which client addresses it believes, and what it passes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from repo.conftest import Ansible

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles" / "reverse_proxy"


def server_conf(ansible: Ansible, directory: Path, trusted: list[str]) -> list[str]:
    """Return the lines of the web server's configuration as Ansible writes it."""
    given = {
        "reverse_proxy_server_name": "hub.example.org",
        "reverse_proxy_public_url": "https://hub.example.org",
        "reverse_proxy_trusted_proxies": trusted,
        "ansible_facts": {"distribution_major_version": "13"},
    }
    variables = ["-e", json.dumps(given), "-e", f"@{ROLE}/vars/main.yml", "-e", f"@{ROLE}/vars/Debian.yml"]
    arguments = f"src={ROLE}/templates/server.conf.j2 dest={directory}/server.conf mode=0600"
    done = ansible("ansible", "localhost", "-m", "ansible.builtin.template", "-a", arguments, *variables)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (directory / "server.conf").read_text().splitlines()
    return [line for line in lines if line.startswith(("RemoteIP", "RequestHeader")) and "Forwarded-For" in line]


@pytest.mark.parametrize(
    ("trusted", "lines"),
    [
        ([], ["RequestHeader unset X-Forwarded-For early"]),
        (
            ["192.0.2.1", "198.51.100.0/24"],
            # Only after mod_remoteip has read the header; without "early", that is later in the request.
            ["RemoteIPHeader X-Forwarded-For", "RequestHeader unset X-Forwarded-For"],
        ),
    ],
    ids=["no-load-balancer", "load-balancer"],
)
def test_addresses_that_a_client_claims_go_no_further(
    ansible: Ansible, tmp_path: Path, trusted: list[str], lines: list[str]
) -> None:
    assert server_conf(ansible, tmp_path, trusted) == lines
