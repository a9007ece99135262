"""Roles of the installed collection run alone on a host, from the example playbooks in their READMEs.

The host has only what its operating system has. bin/test creates it.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import testinfra
from installed_collection import InstalledCollection, install_collection

LAB = Path(os.environ.get("HPCHUB_LAB_DIR") or Path.home() / ".cache/hpchub/lab/collection")
SECRET = "d41d8cd98f00b204"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> InstalledCollection:
    """Return the installed collection, with an inventory that contains the host of the lab."""
    collection = install_collection(tmp_path_factory.mktemp("collection"))
    node = {"ansible_ssh_common_args": f"-F {LAB / 'ssh_config'}"}
    groups = {"hub": {"hosts": {"node": node}}, "compute_nodes": {"hosts": {"node": None}}}
    (collection.directory / "hosts.json").write_text(json.dumps({"all": {"children": groups}}))
    return collection


@pytest.fixture(scope="module")
def node() -> testinfra.host.Host:
    """Return the host."""
    return testinfra.get_host("ssh://node", ssh_config=str(LAB / "ssh_config"))


def converge(site: InstalledCollection, role: str, *options: str) -> str:
    """Run the example playbook of a role, and return the recap of its host."""
    secrets = json.dumps({"vault_oidc_client_secret": SECRET})
    example = site.write_example(role)
    done = site.run("ansible-playbook", "-i", "hosts.json", "-e", secrets, *options, example, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    recap = re.search(r"^node +: (.*)$", done.stdout, re.MULTILINE)
    assert recap
    return recap[1]


@pytest.mark.parametrize("role", ["jupyter_kernels", "reverse_proxy"])
def test_role_runs_alone_and_changes_nothing_again(site: InstalledCollection, role: str) -> None:
    assert "changed=0 " not in converge(site, role)
    assert "changed=0 " in converge(site, role)
    assert "changed=0 " in converge(site, role, "--check")


def test_kernel_is_installed(node: testinfra.host.Host) -> None:
    kernel = node.file("/opt/hpchub/jupyter/kernels/python3/kernel.json")
    assert json.loads(kernel.content_string)["display_name"] == "Python 3"
    assert (kernel.user, kernel.group, oct(kernel.mode)) == ("root", "root", "0o644")


def request(node: testinfra.host.Host, path: str, *, name: str = "jupyter.example.org") -> str:
    """Request a path from the web server, and return the status code, or 000 if its certificate is not accepted."""
    command = "curl --silent --output /dev/null --write-out %%{http_code} --cacert %s --connect-to ::127.0.0.1:443 %s"
    return str(node.run(command, "/etc/hpchub/tls/ca.pem", f"https://{name}{path}").stdout)


def test_web_server_answers_with_the_certificate_of_its_own_authority(node: testinfra.host.Host) -> None:
    assert request(node, "/sso/signed-out") == "200"
    assert request(node, "/sso/signed-out", name="other.example.org") == "000"


@pytest.mark.parametrize(("path", "status"), [("/elsewhere", "404"), ("//hub/", "400")])
def test_web_server_refuses_other_addresses(node: testinfra.host.Host, path: str, status: str) -> None:
    assert request(node, path) == status


def test_web_server_keeps_its_secret(node: testinfra.host.Host) -> None:
    secret = node.file("/etc/hpchub/secrets/sso-client.conf")
    assert SECRET in secret.content_string
    assert (secret.user, oct(secret.mode)) == ("root", "0o600")
