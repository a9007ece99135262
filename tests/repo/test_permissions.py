"""File modes and sandboxes that no host of the demo shows: those of other inventories and of rotated secrets.

The modes of the demo's files are tested on its hosts, by molecule/shared/tests/test_permissions.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
ROLES = ROOT / "roles"

# Files with keys or secrets, by the task file that writes them, and the mode that keeps others out.
SECRET_FILES = {
    ("configurable_http_proxy/tasks/rotate.yml", "{{ configurable_http_proxy_secrets_file }}"): "0600",
    ("jupyterhub/tasks/rotate.yml", "{{ __jupyterhub_crypt_key_file }}"): "0600",
    ("jupyterhub/tasks/rotate.yml", "{{ __jupyterhub_cookie_secret_file }}"): "0600",
    ("jupyterhub/tasks/configure.yml", "{{ __jupyterhub_canary_token_file }}"): "0600",
    ("jupyterhub/tasks/configure.yml", "{{ __jupyterhub_metrics_token_file }}"): "0600",
    ("jupyterhub/tasks/configure.yml", "{{ __jupyterhub_sign_on_file }}"): "0600",
    ("jupyterhub/tasks/configure.yml", "{{ __jupyterhub_accounts_directory }}"): "0700",
    ("jupyterhub/tasks/configure.yml", "{{ __jupyterhub_config_directory }}/accounts.json"): "0600",
    ("jupyterhub/tasks/configure.yml", "{{ __jupyterhub_accounts_record | dirname }}"): "0700",
    ("jupyterhub/tasks/rotate.yml", "{{ __jupyterhub_canary_token_file }}"): "0600",
    ("jupyterhub/tasks/rotate.yml", "{{ __jupyterhub_metrics_token_file }}"): "0600",
    ("reverse_proxy/tasks/rotate.yml", "{{ __reverse_proxy_sso_key_file }}"): "0600",
    ("state_store/tasks/client.yml", "{{ state_store_password_file }}"): "0600",
    ("state_store/tasks/server.yml", "{{ __state_store_directory }}"): "0750",
    ("state_store/tasks/server.yml", "{{ __state_store_server_password_file }}"): "0600",
    ("state_store/tasks/server.yml", "{{ __state_store_config_directory }}/hpchub_hba.conf"): "0640",
    ("state_store/tasks/server.yml", "{{ __state_store_config_directory }}/hpchub_ident.conf"): "0640",
    ("state_store/tasks/rotate.yml", "{{ __state_store_server_password_file }}"): "0600",
    ("state_store/tasks/tls_given.yml", "{{ __state_store_directory }}/server.key"): "0600",
    ("state_store/tasks/tls_own.yml", "{{ __state_store_directory }}/{{ item.name }}.key"): "0600",
    ("reverse_proxy/tasks/tls_own.yml", "{{ __reverse_proxy_tls_directory }}/{{ item }}.key"): "0600",
}
GATE_SOCKET = {"SocketUser": "root", "SocketMode": "0660"}
GATE_SERVICE = {
    "User": "{{ scheduler_access_account }}",
    "UMask": "0077",
    "ProtectSystem": "full",
    "ProtectControlGroups": "true",
    "ProtectProc": "invisible",
    "PrivateTmp": "true",
    "KeyringMode": "private",
}
GATE_CAPABILITIES = {
    *("CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_KILL"),
    *("CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETUID", "CAP_SYS_NICE", "CAP_SYS_RESOURCE"),
}


def entries(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping in a YAML document that describes a file: it has a path or a destination."""
    if isinstance(value, dict):
        if "path" in value or "dest" in value:
            yield value
        for each in value.values():
            yield from entries(each)
    elif isinstance(value, list):
        for each in value:
            yield from entries(each)


def modes(path: str, file: str) -> set[str | None]:
    """Return the modes that a task file gives a file."""
    tasks = yaml.safe_load((ROLES / path).read_text())
    return {entry.get("mode") for entry in entries(tasks) if file in (entry.get("path"), entry.get("dest"))}


@pytest.mark.parametrize(("path", "file"), SECRET_FILES)
def test_task_that_writes_a_secret_keeps_others_out(path: str, file: str) -> None:
    assert modes(path, file) == {SECRET_FILES[path, file]}


@pytest.mark.parametrize("role", ["configurable_http_proxy", "jupyterhub", "reverse_proxy", "state_store"])
def test_rotation_writes_a_file_with_the_mode_that_the_deployment_gives_it(role: str) -> None:
    rotation = yaml.safe_load((ROLES / role / "tasks" / "rotate.yml").read_text())
    written = [entry for entry in entries(rotation) if "mode" in entry]
    assert written
    for entry in written:
        deployed = [
            other["mode"]
            for path in (ROLES / role / "tasks").glob("*.yml")
            if path.name != "rotate.yml"
            for other in entries(yaml.safe_load(path.read_text()))
            if entry["path"] in (other.get("path"), other.get("dest")) and "mode" in other
        ]
        assert deployed == [entry["mode"]], entry["path"]


def unit(name: str) -> dict[str, list[str]]:
    """Return the settings of a unit's template, each with its values in their order."""
    template = (ROLES / "scheduler_access" / "templates" / name).read_text()
    found: dict[str, list[str]] = {}
    for line in template.splitlines():
        setting, mark, value = line.partition("=")
        if mark and not line.startswith("#"):
            found.setdefault(setting, []).append(value)
    return found


def test_only_the_hub_can_open_the_socket_of_a_local_gate() -> None:
    settings = unit("gate.socket.j2")
    assert {name: settings.get(name) for name in GATE_SOCKET} == {name: [value] for name, value in GATE_SOCKET.items()}
    assert settings["SocketGroup"] == ["{{ scheduler_access_hub_group }}"]


def test_local_gate_has_the_restrictions_that_sudo_allows() -> None:
    settings = unit("gate@.service.j2")
    assert {name: settings.get(name) for name in GATE_SERVICE} == {
        name: [value] for name, value in GATE_SERVICE.items()
    }
    # The values of several lines add up.
    assert set(" ".join(settings["CapabilityBoundingSet"]).split()) == GATE_CAPABILITIES
