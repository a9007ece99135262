"""The key of a SAML service is replaced in steps, which Ansible runs on this machine in a temporary directory."""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from repo.sites import ROOT, SITE

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from repo.conftest import Ansible

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="the tasks of the role need the rights of root"),
]
KEY_DESCRIPTOR = "{urn:oasis:names:tc:SAML:2.0:metadata}KeyDescriptor"


@dataclass
class Service:
    """The hub host of a SAML service: the parts of the role that concern its key, in a directory."""

    ansible: Ansible
    directory: Path

    def run(self, tasks: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        """Run a file with tasks of the role."""
        # The role without its handlers, which would reload the web server of this machine.
        role = {"name": str(self.directory / "role"), "tasks_from": tasks}
        own = {
            "__reverse_proxy_saml_directory": str(self.directory / "saml"),
            "__reverse_proxy_secrets_directory": str(self.directory / "secrets"),
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "ansible_managed": "",
            "reverse_proxy_server_name": "hub.example.org",
            "reverse_proxy_public_url": "https://hub.example.org",
            "reverse_proxy_sso_provider": "saml",
            **variables,
        }
        handlers = [{"name": "Reload apache2", "ansible.builtin.debug": {"msg": "reloaded"}}]
        task = {"ansible.builtin.include_role": role}
        play = {"hosts": "localhost", "gather_facts": False, "tasks": [task], "handlers": handlers}
        path = self.directory / "play.yml"
        path.write_text(json.dumps([play]))
        return self.ansible("ansible-playbook", "-i", "localhost,", path, "--extra-vars", json.dumps(own))

    def changed(self, tasks: str, **variables: Any) -> int:
        """Run a file with tasks, and return how many of them have changed something."""
        done = self.run(tasks, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return int(re.findall(r"changed=(\d+)", done.stdout)[-1])

    def keys(self, use: str) -> list[bytes]:
        """Return the public keys in the metadata."""
        root = ET.parse(self.directory / "saml" / "sp-metadata.xml").getroot()
        texts = ["".join(each.itertext()) for each in root.iter(KEY_DESCRIPTOR) if each.get("use") == use]
        return [public(x509.load_der_x509_certificate(base64.b64decode(text))) for text in texts]

    def own(self, suffix: str = "") -> bytes:
        """Return the public key of a certificate of the service, which must fit the private key."""
        certificate = x509.load_pem_x509_certificate((self.directory / "saml" / f"sp{suffix}.pem").read_bytes())
        path = self.directory / "secrets" / f"saml-sp{suffix}.key"
        assert path.stat().st_mode & 0o777 == 0o600
        assert public(load_pem_private_key(path.read_bytes(), None)) == public(certificate)
        return public(certificate)

    def files(self) -> set[str]:
        """Return the names of the keys and certificates."""
        found = [*(self.directory / "saml").iterdir(), *(self.directory / "secrets").iterdir()]
        return {each.name for each in found} - {"sp-metadata.xml"}


def public(holder: Any) -> bytes:
    """Return the public key of a certificate or of a private key."""
    der: bytes = holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der


@pytest.fixture
def service(ansible: Ansible, tmp_path: Path) -> Service:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "role").mkdir()
    for name in ("defaults", "tasks", "templates", "vars"):
        (tmp_path / "role" / name).symlink_to(ROOT / "roles" / "reverse_proxy" / name)
    made = Service(ansible, tmp_path)
    assert made.changed("saml_key") > 0
    return made


def test_provider_learns_the_new_key_before_the_service_uses_it(service: Service) -> None:
    old = service.own()
    assert (service.keys("signing"), service.keys("encryption")) == ([old], [old])
    assert service.changed("saml_key") == 0
    # The request is saml_key.
    assert service.changed("saml_key", __reverse_proxy_saml_successor=True) > 0
    new = service.own("-next")
    assert service.own() == old != new
    for variables in ({}, {"__reverse_proxy_saml_successor": True}):
        assert (service.keys("signing"), service.keys("encryption")) == ([old, new], [old])
        assert service.changed("saml_key", **variables) == 0
    # The request is saml_key_switch.
    certificate = (service.directory / "saml" / "sp-next.pem").read_bytes()
    assert service.changed("saml_switch") > 0
    assert (service.own(), service.keys("signing"), service.keys("encryption")) == (new, [new], [new])
    assert (service.directory / "saml" / "sp.pem").read_bytes() == certificate
    assert service.files() == {"sp.pem", "saml-sp.key"}
    done = service.run("saml_switch")
    assert done.returncode != 0
    assert "first run rotate_secrets.yml -e rotate=saml_key" in re.sub(r"\s+", " ", done.stdout)
    assert service.own() == new


def test_interrupted_switch_can_be_repeated(service: Service) -> None:
    service.changed("saml_key", __reverse_proxy_saml_successor=True)
    new, saml = service.own("-next"), service.directory / "saml"
    certificate = (saml / "sp-next.pem").read_bytes()
    secrets = service.directory / "secrets"
    (secrets / "saml-sp.key").write_bytes((secrets / "saml-sp-next.key").read_bytes())
    service.changed("saml_key")  # site.yml, after the key was copied and before the certificate was
    assert service.own() == new
    service.changed("saml_switch")
    assert (service.own(), service.keys("signing")) == (new, [new])
    assert (saml / "sp.pem").read_bytes() == certificate


@pytest.mark.parametrize("provider", ["saml", "cas"])
def test_playbook_copies_the_metadata_to_the_controller(service: Service, tmp_path: Path, provider: str) -> None:
    copy, sso = (
        tmp_path / "copy.xml",
        {"saml": {"metadata_file": "/idp.xml"}, "cas": {"url": "https://cas.example.org"}},
    )
    own = {
        "to": str(copy),
        "hpc_sso": {"provider": provider, **sso[provider]},
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "__reverse_proxy_saml_directory": str(tmp_path / "saml"),
    }
    playbook = ROOT / "playbooks" / "service_metadata.yml"
    done = service.ansible("ansible-playbook", "-i", SITE, playbook, "--extra-vars", json.dumps(own))
    if provider == "saml":
        assert done.returncode == 0, done.stdout + done.stderr
        assert copy.read_bytes() == (tmp_path / "saml" / "sp-metadata.xml").read_bytes()
    else:
        assert done.returncode != 0
        assert "only the providers saml and shibboleth have metadata" in re.sub(r"\s+", " ", done.stdout)


def test_backup_contains_the_keys_and_the_certificates_that_the_provider_knows() -> None:
    backup = yaml.safe_load((ROOT / "roles" / "backup" / "vars" / "main.yml").read_text())
    config = backup["__backup_config_directory"]
    restored = {each.replace("{{ __backup_config_directory }}", config) for each in backup["__backup_restored"]}
    assert {f"{config}/secrets", f"{config}/saml/sp.pem", f"{config}/saml/sp-next.pem"} <= restored
    web = yaml.safe_load((ROOT / "roles" / "reverse_proxy" / "vars" / "main.yml").read_text())
    assert web["__reverse_proxy_secrets_directory"] == f"{config}/secrets"
    assert web["__reverse_proxy_config_directory"] == config
    hub = yaml.safe_load((ROOT / "roles" / "jupyterhub" / "vars" / "main.yml").read_text())
    assert hub["__jupyterhub_accounts_record"] in restored
