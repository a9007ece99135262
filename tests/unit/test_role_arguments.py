"""Role arguments for the hub and for the submit hosts, made from the inventory's clusters."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from hpchub.clusters import gate_client
from hpchub.clusters.gate_client import SSHGate
from hpchub.deploy import role_arguments as access
from hpchub.model.entries import StateStore
from hpchub.model.site import Site
from hpchub.schedulers import Unanswered

if TYPE_CHECKING:
    from pathlib import Path

FACTS = {
    "login1": {
        "ssh_host_key_ed25519_public": "AAAAed",
        "ssh_host_key_ed25519_public_keytype": "ssh-ed25519",
        "ssh_host_key_rsa_public": "AAAArsa",
        "ssh_host_key_rsa_public_keytype": "ssh-rsa",
        "distribution": "Debian",
    },
    "login2": {"ssh_host_key_ed25519_public": "AAAAtwo", "ssh_host_key_ed25519_public_keytype": "ssh-ed25519"},
}


def cluster(name: str, **submit: Any) -> dict[str, Any]:
    return {
        "name": name,
        "scheduler": "slurm",
        "submit": submit,
        "networks": ["10.0.0.0/8"],
        "queues": [{"name": "q", "max_cores": 1, "max_memory": "1G", "max_runtime": "1:00:00"}],
    }


@pytest.fixture
def site() -> Site:
    return Site.from_vars(
        {
            "hpc_service": {"url": "https://hub.example.org", "api_host": "hub"},
            "hpc_sso": {
                "metadata_url": "https://sso.example.org/.well-known/openid-configuration",
                "client_id": "hpchub",
                "client_secret": "a secret that is long enough",
            },
            "hpc_access": {"job_groups": ["hpc"], "allowed_groups": ["hpc"]},
            "hpc_clusters": [
                cluster("near", method="local"),
                cluster("far", method="ssh", host="login1"),
                cluster("further", method="ssh", host="login1", other_hosts=["login2"]),
            ],
            "hpc_profiles": [
                {
                    "key": "small",
                    "display_name": "Small",
                    "cluster": "far",
                    "queue": "q",
                    "cores": 1,
                    "memory": "1G",
                    "runtime": "1:00:00",
                }
            ],
        }
    )


def test_submit_hosts_are_listed_once(site: Site) -> None:
    assert access.submit_hosts(site) == ["login1", "login2"]


def test_hub_knows_the_host_keys_of_submit_hosts(site: Site) -> None:
    clusters = access.hub_side(site, FACTS)
    assert [(c["name"], c["method"], [host["name"] for host in c["hosts"]]) for c in clusters] == [
        ("near", "local", []),
        ("far", "ssh", ["login1"]),
        ("further", "ssh", ["login1", "login2"]),
    ]
    assert clusters[1]["hosts"][0]["keys"] == ["ssh-ed25519 AAAAed", "ssh-rsa AAAArsa"]


def test_rejects_missing_host_keys(site: Site) -> None:
    with pytest.raises(LookupError, match=r"host keys of login1, a submit host of far"):
        access.hub_side(site, {"login1": {}})


@pytest.mark.parametrize(
    ("host", "is_hub", "names"),
    [
        ("hub", True, ["near"]),
        ("login1", False, ["far", "further"]),
        ("login1", True, ["near", "far", "further"]),
        ("login2", False, ["further"]),
        ("login3", False, []),
    ],
)
def test_submit_host_serves_only_its_own_clusters(site: Site, host: str, is_hub: bool, names: list[str]) -> None:
    keys = {"far": ["ssh-ed25519 A"], "further": ["ssh-ed25519 B", "ssh-ed25519 C"]}
    clusters = access.submit_side(site, host, is_hub=is_hub, public_keys=keys)
    assert [c["name"] for c in clusters] == names
    assert all(c["public_keys"] == keys.get(c["name"], []) for c in clusters)
    assert all(c["gate"]["permitted_groups"] == ["hpc"] for c in clusters)


def test_rejects_a_missing_public_key(site: Site) -> None:
    with pytest.raises(LookupError, match="no ssh key for cluster further yet"):
        access.submit_side(site, "login1", is_hub=False, public_keys={"far": ["ssh-ed25519 A"], "further": []})


def test_hub_can_create_a_client_for_each_gate(site: Site) -> None:
    settings = json.loads(json.dumps(access.gate_settings(site)))
    for name, gate in settings.items():
        assert gate_client.make_gate(name, gate).cluster == name
    assert settings["near"]["socket"] == "/run/hpchub/gate-near.sock"
    assert re.fullmatch("/etc/hpchub/ssh/far", settings["far"]["key"])


LOGIN = """
import sys, time
host, request = sys.argv[1], sys.stdin.read()
open(sys.argv[0] + ".log", "a").write(host + " ")
if host == "away":
    print("ssh: connect to host away port 22: Connection refused", file=sys.stderr)
    sys.exit(255)
if host == "dies":
    print("Timeout, server dies not responding.", file=sys.stderr)
    sys.exit(255)
if host == "maintained":
    print("Connection closed by 192.0.2.1 port 22", file=sys.stderr)
    sys.exit(255)
if host == "hangs":
    time.sleep(60)
if host == "empty":
    sys.exit(127)
code = 127 if host == "bare" else 0
print('{"ok": true, "exit": %d, "stdout": "%s", "stderr": "", "command": [], "error": ""}' % (code, host))
"""


@pytest.mark.parametrize(
    ("hosts", "answers", "asked"),
    [
        (["one", "two"], ["one", "one"], "one one"),
        (["away", "two"], ["two", "two"], "away two two"),
        (["away", "away"], ["refused", "refused"], "away away away away"),
        # The first host may have executed the request, so it is not repeated elsewhere.
        (["dies", "two"], ["Timeout", "two"], "dies two"),
        (["hangs", "two"], ["took more than", "two", "two"], "hangs two two"),
        (["empty", "two"], ["exit code 127", "two"], "empty two"),
        (["bare", "two"], ["bare", "two"], "bare two"),
        (["maintained", "two"], ["two", "two"], "maintained two two"),
    ],
)
async def test_next_login_node_is_tried_only_if_the_first_was_not_reached(
    tmp_path: Path, hosts: list[str], answers: list[str], asked: str
) -> None:
    program = tmp_path / "ssh"
    program.write_text(LOGIN)
    gate = SSHGate("far", hosts=hosts, user="u", key="k", known_hosts="h", control_dir=str(tmp_path))
    gate._command = [sys.executable, str(program)]
    gate.timeout = 2.0
    for expected in answers:
        try:
            found = (await gate.request("submit")).stdout
        except Unanswered as error:
            found = str(error)
        assert expected in found
    assert (tmp_path / "ssh.log").read_text().split() == asked.split()


# The hub's database


def state_store(**fields: str) -> StateStore:
    return StateStore.model_validate(fields)


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({}, "sqlite:////var/lib/hpchub/jupyterhub.sqlite"),
        ({"backend": "postgresql"}, "postgresql+psycopg://jupyterhub@/hpchub"),
        ({"backend": "postgresql", "location": "own_host"}, "postgresql+psycopg://jupyterhub@db1:5432/hpchub"),
        (
            {"backend": "postgresql", "location": "own_host", "host": "db.example.org", "user": "h", "database": "d"},
            "postgresql+psycopg://h@db.example.org:5432/d",
        ),
        (
            {"backend": "postgresql", "location": "existing", "host": "db.example.org", "password": "hunter2"},
            "postgresql+psycopg://jupyterhub@db.example.org:5432/hpchub",
        ),
    ],
)
def test_url_of_the_database_contains_no_password(fields: dict[str, str], url: str) -> None:
    found = access.database_url(state_store(**fields), {"state_store": ["db1"]})
    assert found.partition("?")[0] == url
    query = dict(parse_qsl(urlsplit(found).query))
    assert "hunter2" not in found
    location = fields.get("location", "hub")
    assert (query.get("sslmode") == "verify-full") is (location != "hub")
    assert (query.get("channel_binding") == "require") is (location == "own_host")
    assert (query.get("host") == "/var/run/postgresql") is (location == "hub" and bool(fields))
