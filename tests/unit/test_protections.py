"""Protections that work for a moment only, or only together with JupyterHub: umasks, first modes, settings."""

from __future__ import annotations

import gc
import io
import json
import os
import pwd
import ssl
import stat
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.hpchub.hpchub.plugins.modules import notebook_certificates, write_files
from jupyterhub.app import JupyterHub
from jupyterhub.spawner import Spawner
from tornado.httputil import HTTPHeaders
from traitlets.config import Config

from hpchub.hub import config as hub_config
from hpchub.hub.authenticator import SSOAuthenticator, SSOLoginHandler, SSOLogoutHandler
from hpchub.hub.database import Guard
from hpchub.hub.handlers import PortReportHandler
from hpchub.hub.hub_sign_on import HubSignOn
from hpchub.hub.page_texts import Languages
from hpchub.hub.session_names import KEPT
from hpchub.remote import gate, launcher

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def no_umask() -> Iterator[None]:
    """Set a umask that hides no wrong mode."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> str:
    return oct(stat.S_IMODE(path.stat().st_mode))


# The gate


@pytest.mark.usefixtures("no_umask")
def test_gate_creates_files_for_the_owner_only_without_help_from_the_umask(tmp_path: Path) -> None:
    directory = tmp_path / ".hpchub"
    gate.write_secrets(directory, directory / "s.json", {"TOKEN": "t"})
    assert [mode(path) for path in (directory, directory / "logs", directory / "s.json")] == ["0o700", "0o700", "0o600"]


def test_gate_closes_a_directory_that_the_user_has_opened_to_others(tmp_path: Path) -> None:
    directory = tmp_path / ".hpchub"
    directory.mkdir()
    directory.chmod(0o755)
    gate.write_secrets(directory, directory / "s.json", {"TOKEN": "t"})
    assert mode(directory) == "0o700"


@pytest.mark.parametrize("planted", ["file", "link"])
def test_gate_writes_secrets_into_a_new_file_only(tmp_path: Path, planted: str) -> None:
    directory = tmp_path / ".hpchub"
    directory.mkdir()
    (tmp_path / "readable").write_text("")
    if planted == "file":
        (directory / "s.json").write_text("")
    else:
        (directory / "s.json").symlink_to(tmp_path / "readable")
    with pytest.raises(FileExistsError):
        gate.write_secrets(directory, directory / "s.json", {"TOKEN": "t"})
    assert (directory / "s.json").read_text() == ""


@pytest.mark.usefixtures("no_umask")
@pytest.mark.parametrize("program", ["gate", "job"])
def test_gate_sets_a_umask_for_what_it_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], program: str
) -> None:
    monkeypatch.setattr(sys, "argv", [program])
    monkeypatch.setattr(sys, "stdin", io.StringIO("{}"))
    assert gate.main(["--cluster", "demo"] if program == "gate" else []) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is False
    assert os.umask(0) == 0o077


@pytest.mark.parametrize("cluster", ["../other", "/etc/passwd", "", "demo/../../other", "Demo"])
def test_gate_reads_no_configuration_outside_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: str
) -> None:
    directory = tmp_path / "gate.d"
    directory.mkdir()
    for path in (tmp_path / "other.json", directory / "demo.json", directory / "Demo.json"):
        path.write_text("{}")
    monkeypatch.setattr(gate, "CONFIG_DIRECTORY", directory)
    assert gate.read_config("demo") == {}
    with pytest.raises(gate.Refused):
        gate.read_config(cluster)


@pytest.mark.parametrize("user", ["root", "daemon"])
def test_gate_checks_the_user_before_it_calls_sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str) -> None:
    """The job program checks the user too, but the gate must not even ask sudo."""
    (tmp_path / "demo.json").write_text(
        json.dumps({"minimum_uid": 1000, "permitted_groups": ["hpc"], "user_pattern": "[a-z]+"})
    )
    monkeypatch.setattr(gate, "CONFIG_DIRECTORY", tmp_path)
    monkeypatch.setattr(gate, "run", lambda *_, **__: pytest.fail("the gate runs a command"))
    request = {"action": "cancel", "user": user, "session": "0" * 16, "job_id": "1"}
    with pytest.raises(gate.Refused):
        gate.serve_gate("demo", io.StringIO(json.dumps(request)))


def test_job_program_checks_its_user_whoever_calls_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {
        "minimum_uid": 1000,
        "permitted_groups": ["no-such-group"],
        "user_pattern": ".*",
        "job_id_pattern": "[0-9]+",
        "cancel": ["true"],
    }
    (tmp_path / "demo.json").write_text(json.dumps(config))
    monkeypatch.setattr(gate, "CONFIG_DIRECTORY", tmp_path)
    monkeypatch.setattr(gate, "run", lambda *_, **__: pytest.fail("the job program runs a command"))
    user = pwd.getpwuid(os.getuid()).pw_name
    request = {"action": "cancel", "user": user, "session": "0" * 16, "job_id": "1", "cluster": "demo"}
    with pytest.raises(gate.Refused):
        gate.serve_job(io.StringIO(json.dumps(request)))


# The launcher


def test_launcher_neither_reads_nor_removes_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    os.mkfifo(path)
    both_ends = os.open(path, os.O_RDWR)  # so that opening the pipe does not wait for a writer
    timer = threading.Timer(3, os.close, [both_ends])  # so that reading it ends, should the launcher read it
    timer.start()
    try:
        with pytest.raises(launcher.LaunchError):
            launcher.read_session(path, timeout=0)
        assert path.exists()
        assert timer.is_alive()
    finally:
        timer.cancel()


def test_launcher_verifies_the_hubs_certificate_and_name() -> None:
    context = launcher.tls_context("")
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


# Modules that write secrets: no moment at which others could read them


def run_module(module: Any, arguments: dict[str, Any], tmp_path: Path) -> None:
    with (
        patch_module_args({**arguments, "_ansible_remote_tmp": str(tmp_path / "tmp")}),
        pytest.raises(SystemExit),
    ):
        module.main()


@pytest.mark.usefixtures("no_umask", "capsys")
def test_authority_creates_keys_for_root_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook_certificates.Authority, "permit", lambda self: None)
    directory = tmp_path / "tls"
    run_module(notebook_certificates, {"path": str(directory), "owner": "root", "proxy_group": "root"}, tmp_path)
    keys = [path for path in directory.iterdir() if "PRIVATE KEY" in path.read_text()]
    assert {path.stem for path in keys} == {"current", "next", "proxy", "hub"}
    assert {mode(path) for path in keys} == {"0o400"}


@pytest.mark.usefixtures("no_umask", "capsys")
def test_files_module_creates_directories_for_root_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AnsibleModule, "set_fs_attributes_if_different", lambda self, *args, **kwargs: False)
    path = tmp_path / "secrets"
    run_module(write_files, {"files": [{"path": str(path), "state": "directory"}]}, tmp_path)
    assert mode(path) == "0o700"


# The hub's settings, as JupyterHub understands them

ACCESS = {
    "allowed_groups": ["hpc"],
    "allowed_users": ["alice"],
    "blocked_users": ["mallory"],
    "admin_groups": ["hpc-admins"],
    "admin_users": ["carol"],
    "user_pattern": "[a-z]+",
    "minimum_uid": 1234,
    "hub_accounts": False,
}
SETTINGS = {
    "access": ACCESS,
    "api_url": "https://hub:8445",
    "claims": {"user": "sub", "groups": "roles", "groups_separator": "; ", "mail": "mail"},
    "attributes": ["department", "uid"],
    "host_groups": True,
    "cookie_secret_file": "/var/lib/hpchub/cookie_secret",
    "db_url": "sqlite://",
    "hub_bind_url": "http+unix://%2Frun%2Fhub.sock",
    "hub_socket_mode": "0660",
    "logout_url": "/sso/logout",
    "notebook_ports": {"first": 20000, "last": 20009},
    "proxy_api_url": "http+unix://%2Frun%2Fapi.sock",
    "proxy_socket_url": "http+unix://%2Frun%2Fproxy.sock",
    "public_url": "https://hub.example.org",
    "service_name": "Hub",
    "support": "help@example.org",
    "template_paths": [],
    "token_days": 30,
    "user_subdomains": False,
}


SIGN_ON: dict[str, Any] = {
    "kind": "github",
    "client_id": "hpchub",
    "ca_file": "",
    "url": "https://github.example.org",
    "outage_hours": 1,
    "refresh_minutes": 5,
    "login_hours": 12,
}


@pytest.fixture
def configured(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Return JupyterHub's configuration for SETTINGS, and for the parameter's further ones."""
    settings = SETTINGS | getattr(request, "param", {})
    shared = SimpleNamespace(settings=settings, client_context=object(), guard=Guard(), languages=Languages(settings))
    monkeypatch.setattr(hub_config, "runtime", lambda _: shared)
    monkeypatch.setattr(gc, "set_threshold", lambda *_: None)
    config = Config()
    hub_config.configure(config, "/etc/hpchub/hub.json")
    return config


@pytest.mark.usefixtures("no_umask")
def test_hub_sets_a_umask(configured: Config) -> None:
    assert configured
    assert os.umask(0) == 0o077


@pytest.mark.usefixtures("no_umask")
def test_hub_uses_sockets_that_only_a_group_can_open(configured: Config) -> None:
    app = JupyterHub(config=configured)
    assert (app.hub_bind_url, app.hub_socket_mode) == ("http+unix://%2Frun%2Fhub.sock", 0o660)


@pytest.mark.usefixtures("no_umask")
def test_hub_takes_identities_from_the_web_server_only(configured: Config) -> None:
    assert JupyterHub(config=configured).authenticator_class is SSOAuthenticator


@pytest.mark.usefixtures("no_umask")
@pytest.mark.parametrize("configured", [{"sign_on": SIGN_ON, "public_url": "https://hub.example.org"}], indirect=True)
def test_hub_that_signs_users_in_itself_takes_no_identity_from_a_header(configured: Config) -> None:
    found = JupyterHub(config=configured).authenticator_class
    assert issubclass(found, HubSignOn)
    assert not issubclass(found, SSOAuthenticator)


@pytest.mark.usefixtures("no_umask")
def test_hub_permits_exactly_the_users_of_the_inventory(configured: Config) -> None:
    authenticator = SSOAuthenticator(config=configured)
    assert authenticator.allowed_users == {"alice"}
    assert authenticator.blocked_users == {"mallory"}
    assert authenticator.admin_users == {"carol"}
    assert authenticator.allow_existing_users is False
    assert authenticator.permitted_groups == {"hpc"}
    assert authenticator.admin_groups == {"hpc-admins"}
    assert (authenticator.minimum_uid, authenticator.check_accounts) == (1234, False)
    assert authenticator.user_pattern == "[a-z]+"


@pytest.mark.usefixtures("no_umask")
def test_hub_reads_the_claims_that_the_inventory_names(configured: Config) -> None:
    authenticator = SSOAuthenticator(config=configured)
    assert (authenticator.groups_claim, authenticator.groups_separator) == ("roles", "; ")
    assert authenticator.mail_claim == "mail"
    assert authenticator.attributes == ["department", "uid"]
    assert authenticator.host_groups is True


def test_hubs_own_handlers_replace_those_of_the_packages() -> None:
    """JupyterHub uses the first handler of a path, and an authenticator's handlers come first."""
    handlers = dict(SSOAuthenticator().get_handlers(None))
    assert handlers["/login"] is SSOLoginHandler
    assert handlers["/logout"] is SSOLogoutHandler
    assert handlers["/api/batchspawner"] is PortReportHandler


async def test_hub_never_permits_root_whatever_the_minimum_uid_is() -> None:
    authenticator = SSOAuthenticator(minimum_uid=0, allowed_users={"root"})
    assert await authenticator.find_account("root")
    assert authenticator.check_allowed("root") is False


@pytest.mark.parametrize(
    ("name", "blocked", "lasts"),
    [("somebody", set(), True), ("", set(), False), ("another", set(), False), ("somebody", {"somebody"}, False)],
    ids=["same-user", "ended", "other-user", "blocked-since"],
)
async def test_session_of_a_user_lasts_only_as_long_as_the_permitted_sign_on(
    name: str, blocked: set[str], lasts: bool
) -> None:
    """The user is permitted by name, so that no missing group ends the session."""
    authenticator = SSOAuthenticator(check_accounts=False, allowed_users={"somebody"}, blocked_users=blocked)
    user = SimpleNamespace(name="somebody", groups=[], admin=False, api_tokens=[])
    headers = HTTPHeaders({"X-Hpchub-User": name} if name else {})
    handler = SimpleNamespace(request=SimpleNamespace(headers=headers), _jupyterhub_user=user)
    assert bool(await authenticator.refresh_user(user, handler)) is lasts


@pytest.mark.usefixtures("no_umask")
def test_hub_compares_each_request_with_the_sign_on(configured: Config) -> None:
    authenticator = SSOAuthenticator(config=configured)
    assert (authenticator.auth_refresh_age, authenticator.refresh_pre_spawn) == (-1, True)


@pytest.mark.usefixtures("no_umask")
def test_hub_limits_the_lifetime_of_cookies_and_tokens(configured: Config) -> None:
    app = JupyterHub(config=configured)
    assert (app.cookie_max_age_days, app.oauth_token_expires_in) == (1, 24 * 3600)
    assert app.token_expires_in_max_seconds == 30 * 24 * 3600
    assert app.cookie_secret_file == "/var/lib/hpchub/cookie_secret"
    assert app.tornado_settings["cookie_options"] == {
        "secure": True,
        "samesite": "Lax",
        "httponly": True,
        "expires_days": 1,
    }


@pytest.mark.usefixtures("no_umask")
def test_hub_keeps_sessions_when_it_stops(configured: Config) -> None:
    app = JupyterHub(config=configured)
    assert (app.cleanup_servers, app.cleanup_proxy) == (False, False)


@pytest.mark.usefixtures("no_umask")
def test_hub_starts_nothing_unasked_and_keeps_few_names_for_each_user(configured: Config) -> None:
    app = JupyterHub(config=configured)
    assert (app.named_server_limit_per_user, app.implicit_spawn_seconds) == (KEPT, 0)


@pytest.mark.usefixtures("no_umask")
def test_hub_gives_sessions_nothing_of_its_environment(configured: Config) -> None:
    assert Spawner(config=configured).env_keep == []
