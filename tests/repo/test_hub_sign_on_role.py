"""A sign-on in the hub: the files that Ansible writes, and what a real Apache then passes on to the hub."""

from __future__ import annotations

import http.server
import json
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from apache_server import Apache, needs_apache
from repo.role_files import site_service, write_role_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from repo.conftest import Ansible

ROOT = Path(__file__).resolve().parents[2]
ROLES = ("reverse_proxy", "jupyterhub")
SECRET = 'a"b$c`d\\e f'
SSO = {
    "provider": "ldapauthenticator",
    "server": "ldap.example.org",
    "bind_dn": "cn=hpchub,dc=example,dc=org",
    "bind_password": SECRET,
    "user_base": "ou=people,dc=example,dc=org",
    "create_accounts": {"command": ["/usr/local/sbin/create-account"], "per_hour": 3, "total": 7},
}
WRITTEN = {
    "site.conf": "reverse_proxy/templates/site.conf.j2",
    "jupyterhub.service": "jupyterhub/templates/jupyterhub.service.j2",
    "accounts.path": "jupyterhub/templates/hpchub-accounts.path.j2",
    "accounts.service": "jupyterhub/templates/hpchub-accounts.service.j2",
}
TEXTS = {
    "hub.json": "{{ __jupyterhub_settings | to_json }}",
    "accounts.json": "{{ __jupyterhub_accounts_settings | to_json }}",
    "secret": "{{ __jupyterhub_sign_on_quoted }}",
    "provider": "{{ reverse_proxy_sso_provider }}",
}


@pytest.fixture(scope="module")
def written(ansible: Ansible, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files by name."""
    return write_role_files(
        ansible,
        tmp_path_factory.mktemp("hub-sign-on"),
        roles=ROLES,
        templates=WRITTEN,
        texts=TEXTS,
        variables={
            "hpc_service": site_service() | {"user_subdomains": True},
            "hpc_sso": SSO,
            "hpc_monitoring": {"metrics_networks": ["192.0.2.7/32"]},
        },
    )


def test_settings_contain_everything_but_the_secret(written: dict[str, str]) -> None:
    settings = json.loads(written["hub.json"])["sign_on"]
    assert (settings["kind"], settings["server"], settings["port"]) == ("ldap", "ldap.example.org", 389)
    assert settings["create_accounts"] is True
    assert settings["ca_file"] == ""
    assert SECRET not in written["hub.json"]
    assert "bind_password" not in written["hub.json"]


def test_secret_reaches_the_unit_in_a_file_of_its_own(written: dict[str, str]) -> None:
    # systemd removes these backslashes between double quotes.
    assert re.sub(r'\\(["\\$`])', r"\1", written["secret"]) == SECRET
    assert "EnvironmentFile=-/etc/hpchub/secrets/sign-on.env\n" in written["jupyterhub.service"]


def test_accounts_are_created_within_limits_by_a_unit_of_root(written: dict[str, str]) -> None:
    assert json.loads(written["accounts.json"]) == {
        "command": ["/usr/local/sbin/create-account"],
        "per_hour": 3,
        "total": 7,
        "pattern": "[a-z_][a-z0-9_-]{0,31}",
        "directory": "/var/lib/hpchub/account-requests",
        "record": "/var/lib/hpchub-accounts/created.json",
    }
    assert "PathExistsGlob=/var/lib/hpchub/account-requests/*.json\n" in written["accounts.path"]
    assert "create_accounts" in written["accounts.service"]


def test_web_server_signs_nobody_in_and_serves_users_on_hosts_of_their_own(written: dict[str, str]) -> None:
    site = written["site.conf"]
    assert written["provider"] == "hub"
    assert "OIDC" not in site
    assert "AuthType" not in site
    assert "X-Hpchub-User" not in site
    assert "ServerAlias *.hub.localhost\n" in site
    assert 'RewriteRule "^/sso/(logout|end)$" "/sso/signed-out" [R=302,L,NE]' in site


class Echo(http.server.BaseHTTPRequestHandler):
    """A hub that answers with the headers of the request."""

    def do_GET(self) -> None:
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 the name of the base class
        pass


@pytest.fixture(scope="module")
def apache(written: dict[str, str]) -> Iterator[Apache]:
    backend = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=backend.serve_forever, daemon=True).start()
    site = written["site.conf"]
    access = site[site.index("# The hub's pages, its API and its services.") : site.index("  # Editors read")]
    with Apache() as server:
        configuration = (
            f"Listen 127.0.0.1:{server.port}\n<Location />\nRequire all denied\n</Location>\n{access}\n"
            f"ProxyPass / http://127.0.0.1:{backend.server_port}/\n"
        )
        modules = ["mpm_event", "authz_core", "authz_host", "headers", "proxy", "proxy_http", "setenvif", "unixd"]
        server.start(modules, configuration)
        yield server
    backend.shutdown()
    backend.server_close()


TOKEN = "t" * 32
PAGE = "p" * 30
LOGIN = "jupyterhub-session-id=x; jupyterhub-hub-login=y"


@needs_apache("proxy_http", "headers")
@pytest.mark.parametrize(
    ("headers", "authorization", "cookie"),
    [
        ({}, "", ""),
        ({"Cookie": LOGIN}, "", LOGIN),
        ({"Authorization": f"token {TOKEN}", "Cookie": LOGIN}, f"token {TOKEN}", ""),
        ({"Authorization": f"token {PAGE}"}, "", ""),
        ({"Authorization": f"token {PAGE}", "Cookie": LOGIN}, f"token {PAGE}", ""),
        ({"Authorization": f"token {PAGE}", "Cookie": "x-jupyterhub-session-id=1"}, "", "x-jupyterhub-session-id=1"),
    ],
    ids=["nothing", "browser", "program", "stolen token of a page", "page", "another cookie"],
)
@pytest.mark.parametrize("path", ["/hub/home", "/hub/api/user", "/hub/oauth_callback", "/services/x/"])
def test_token_of_a_page_needs_the_login_of_its_browser(
    apache: Apache, path: str, headers: dict[str, str], authorization: str, cookie: str
) -> None:
    answer = apache.ask(path, headers)
    assert answer.status == 200
    received = json.loads(answer.text)
    assert (received.get("authorization", ""), received.get("cookie", "")) == (authorization, cookie)


@needs_apache("proxy_http", "headers")
@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {}, 403),
        ("/user/alice/", {}, 403),
        ("/elsewhere", {}, 403),
        ("/hub/metrics", {"Authorization": f"token {TOKEN}"}, 403),
        ("/hub/metrics", {"Cookie": LOGIN}, 200),
    ],
)
def test_other_paths_are_denied_and_metrics_need_a_network(
    apache: Apache, path: str, headers: dict[str, str], status: int
) -> None:
    assert apache.ask(path, headers).status == status
