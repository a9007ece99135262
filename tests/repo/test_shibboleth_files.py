"""The files of shibd, which Ansible writes on this machine in a temporary directory, and which shibd itself reads."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from apache_server import REQUIRED
from repo.sites import ROOT
from saml_provider import SamlServer, metadata_of_two, write_metadata
from shibboleth_service import PROGRAM

from lab.certificates import make_certificates

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from repo.conftest import Ansible

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="the tasks of the role need the rights of root"),
    pytest.mark.skipif(PROGRAM is None and not REQUIRED, reason="shibd is not installed"),
]
SERVICE = "https://hub.example.org/saml/metadata"


@pytest.fixture
def run(ansible: Ansible, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run tasks of the role, without those of the provider ``saml``."""
    shutil.copytree(ROOT / "roles" / "reverse_proxy", tmp_path / "role", ignore=shutil.ignore_patterns("handlers"))
    (tmp_path / "role" / "tasks" / "sso_saml.yml").write_text("---\n")
    (tmp_path / "tls").mkdir()
    make_certificates(tmp_path / "tls", {"provider": ["localhost"]})
    (tmp_path / "saml").mkdir()
    shutil.copy(tmp_path / "tls" / "signing.pem", tmp_path / "saml" / "sp.pem")
    own = pwd.getpwuid(os.getuid()).pw_name

    def call(tasks: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        given = {
            "__reverse_proxy_config_directory": str(tmp_path),
            "__reverse_proxy_directory": str(tmp_path / "apache2"),
            "__reverse_proxy_saml_state": str(tmp_path / "saml" / "state"),
            "__reverse_proxy_shibd_directory": str(tmp_path / "run"),
            "__reverse_proxy_shibd_tmpfiles": str(tmp_path / "tmpfiles.conf"),
            "__reverse_proxy_shibd_check": str(tmp_path / "saml-key"),
            "__reverse_proxy_shibboleth_key": str(tmp_path / "credential.key"),
            "__reverse_proxy_shibd_drop_in": str(tmp_path / "shibd.service.d" / "hpchub.conf"),
            "__reverse_proxy_shibd_program": PROGRAM,
            "__reverse_proxy_shibd_account": own,
            "__reverse_proxy_shibd_unit": "shibd",
            "__reverse_proxy_account": own,
            "reverse_proxy_sso_provider": "shibboleth",
            "reverse_proxy_public_url": "https://hub.example.org",
            "reverse_proxy_server_name": "hub.example.org",
            "ansible_connection": "local",
            "ansible_managed": "",
            "ansible_python_interpreter": sys.executable,
            **variables,
        }
        task = {"ansible.builtin.include_role": {"name": str(tmp_path / "role"), "tasks_from": tasks}}
        handlers = [{"name": "Reload apache2", "ansible.builtin.debug": {"msg": "reloaded"}}]
        play = {"hosts": "localhost", "gather_facts": False, "tasks": [task], "handlers": handlers}
        path = tmp_path / "play.yml"
        path.write_text(json.dumps([play]))
        return ansible("ansible-playbook", "-i", "localhost,", path, "--extra-vars", json.dumps(given))

    return call


@pytest.mark.parametrize("count", [1, 2], ids=["one-provider", "choice"])
def test_settings_are_written_once_and_accepted_by_shibd(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, count: int
) -> None:
    servers = [SamlServer(tmp_path / "tls", SERVICE) for _ in range(count)]
    text = metadata_of_two(*servers) if count > 1 else servers[0].metadata()
    write_metadata(tmp_path / "saml", text, all=count > 1)
    for server in servers:
        server.shutdown()
        server.server_close()
    chosen = {"reverse_proxy_saml_all_providers": count > 1}
    done = run("sso_shibboleth", **chosen)
    assert done.returncode == 0, done.stdout
    settings = (tmp_path / "saml" / "shibboleth2.xml").read_text()
    assert (f'entityID="{servers[0].url}"' in settings) == (count == 1)
    policy = (tmp_path / "saml" / "attribute-policy.xml").read_text()
    assert ("ScopeMatchesShibMDScope" in policy) == (count > 1)
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o710
    assert (tmp_path / "tmpfiles.conf").read_text().startswith(f"d {tmp_path}/run 0710 ")
    again = run("sso_shibboleth", **chosen)
    assert re.findall(r"changed=(\d+)", again.stdout) == ["0"], again.stdout


def test_settings_that_shibd_does_not_understand_are_not_written(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    template = tmp_path / "role" / "templates" / "shibboleth2.xml.j2"
    template.write_text(template.read_text().replace("<Sessions", "<Session"))
    done = run("sso_shibboleth")
    assert done.returncode != 0
    assert not (tmp_path / "saml" / "shibboleth2.xml").exists()


@pytest.mark.parametrize("case", ["right", "missing", "no-key", "other-key", "encrypted", "no-certificate"])
def test_shibd_starts_only_with_its_key(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, case: str
) -> None:
    """shibd itself starts without a key. The unit runs another program first."""
    write_metadata(tmp_path / "saml", SamlServer(tmp_path / "tls", SERVICE).metadata())
    done = run("sso_shibboleth")
    assert done.returncode == 0, done.stdout
    key, right = tmp_path / "credential.key", tmp_path / "tls" / "signing.key"
    texts = {"missing": None, "no-key": "text\n", "other-key": (tmp_path / "tls" / "provider.key").read_text()}
    encrypt = ["openssl", "pkey", "-in", str(right), "-aes256", "-passout", "pass:secret"]
    texts["encrypted"] = subprocess.run(encrypt, capture_output=True, text=True, check=True).stdout
    if (text := texts.get(case, right.read_text())) is not None:
        key.write_text(text)
    if case == "no-certificate":
        (tmp_path / "saml" / "sp.pem").unlink()
    drop_in = (tmp_path / "shibd.service.d" / "hpchub.conf").read_text()
    (command,) = re.findall(r"^ExecStartPre=(/.*)$", drop_in, re.MULTILINE)  # with a dash, shibd would start anyway
    checked = subprocess.run(
        command.split(), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=30
    )
    assert (checked.returncode == 0) == (case == "right"), checked.stderr
    assert REASONS.get(case, "") in checked.stderr, checked.stderr


REASONS = {
    "missing": "credential.key: No such file or directory; systemd copies the key there",
    "no-key": "is no usable key or certificate in PEM form; run site.yml again",
    "other-key": "does not belong to the certificate",
    "encrypted": "is no usable key",
    "no-certificate": "sp.pem: No such file or directory; run site.yml again",
}
