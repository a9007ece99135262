"""The files for several OpenID Connect providers, which Ansible writes on this machine in a temporary directory."""

from __future__ import annotations

import json
import os
import pwd
import re
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from oidc_provider import Provider
from repo.sites import ROOT

from lab.certificates import make_certificates

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from repo.conftest import Ansible

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="the tasks of the role need the rights of root"),
]
SECRET = "a1b2c3d4e5f6"


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    """A provider with a certificate of its own authority."""
    (tmp_path / "tls").mkdir()
    make_certificates(tmp_path / "tls", {"provider": ["localhost"]})
    server = Provider(tmp_path / "tls")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(ansible: Ansible, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the tasks for given providers."""
    (tmp_path / "role").mkdir()
    for name in ("defaults", "tasks", "templates", "vars"):
        (tmp_path / "role" / name).symlink_to(ROOT / "roles" / "reverse_proxy" / name)

    def call(*providers: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        variables = {
            "__reverse_proxy_config_directory": str(tmp_path),
            "__reverse_proxy_sso_ca_file": str(tmp_path / "tls" / "ca.pem"),
            "__reverse_proxy_account": pwd.getpwuid(os.getuid()).pw_name,
            "reverse_proxy_oidc_ca_src": "ca.pem",
            "reverse_proxy_oidc_providers": list(providers),
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
        }
        task = {"ansible.builtin.include_role": {"name": str(tmp_path / "role"), "tasks_from": "oidc_providers"}}
        path = tmp_path / "play.yml"
        path.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": [task]}]))
        return ansible("ansible-playbook", "-i", "localhost,", path, "--extra-vars", json.dumps(variables))

    return call


def one(key: str, issuer: str, **changes: Any) -> dict[str, Any]:
    return {"key": key, "title": key, "issuer": issuer, "client_id": "hpchub", "client_secret": SECRET, **changes}


def test_files_of_each_provider_are_written_once_and_removed_with_it(
    run: Callable[..., subprocess.CompletedProcess[str]], provider: Provider, tmp_path: Path
) -> None:
    stem = quote(provider.url.removeprefix("https://"), safe="")
    files = tmp_path / "oidc"
    done = run(one("campus", provider.url, scopes=["openid", "email"]))
    assert done.returncode == 0, done.stdout
    assert SECRET not in done.stdout
    found = {path.name: json.loads(path.read_text()) for path in files.iterdir()}
    assert found == {
        f"{stem}.provider": provider.metadata(),
        f"{stem}.client": {"client_id": "hpchub", "client_secret": SECRET},
        f"{stem}.conf": {"scope": "openid email"},
    }
    assert {path.stat().st_mode & 0o777 for path in files.iterdir()} == {0o640}
    assert files.stat().st_mode & 0o777 == 0o750
    again = run(one("campus", provider.url, scopes=["openid", "email"]))
    assert re.findall(r"changed=(\d+)", again.stdout) == ["0"]
    provider.shutdown()
    provider.server_close()
    kept = run(one("campus", provider.url))
    assert kept.returncode == 0, kept.stdout
    assert (files / f"{stem}.provider").exists()
    assert run().returncode == 0
    assert not files.exists()


@pytest.mark.parametrize(
    ("issuer", "message"),
    [("{}/", "names the issuer"), ("https://localhost:1", "could not read https://localhost:1/.well-known")],
    ids=["another-issuer", "unreachable"],
)
def test_provider_that_cannot_be_used_stops_the_playbook(
    run: Callable[..., subprocess.CompletedProcess[str]], provider: Provider, issuer: str, message: str
) -> None:
    done = run(one("campus", issuer.format(provider.url)))
    assert done.returncode != 0
    assert message in re.sub(r"\s+", " ", done.stdout), done.stdout
    assert SECRET not in done.stdout
