"""The configuration that JupyterHub loads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from jupyterhub.app import JupyterHub
from traitlets.config import Config

from hpchub.hub import config as hubconfig

if TYPE_CHECKING:
    from collections.abc import Callable

SETTINGS = {
    "public_url": "https://hub.example.org:8443",
    "proxy_socket_url": "http+unix://%2Frun%2Fproxy.sock",
    "proxy_api_url": "http+unix://%2Frun%2Fapi.sock",
    "hub_bind_url": "http+unix://%2Frun%2Fhub.sock",
    "hub_socket_mode": "0660",
}


@pytest.fixture
def hub() -> Callable[..., JupyterHub]:
    """Return a function that creates a JupyterHub with its network settings, with or without user subdomains."""

    def start(*, user_subdomains: bool) -> JupyterHub:
        config = Config()
        hubconfig._network(config, {**SETTINGS, "user_subdomains": user_subdomains}, "/etc/hpchub/hub.json")
        return JupyterHub(config=config)

    return start


def test_one_host_serves_all_users(hub: Callable[..., JupyterHub]) -> None:
    app = hub(user_subdomains=False)
    assert (app.subdomain_host, app.cookie_host_prefix_enabled, app.extra_user_scopes) == ("", False, set())
    assert app.public_url == "https://hub.example.org:8443/"


def test_user_subdomains_set_hosts_cookies_and_scopes(hub: Callable[..., JupyterHub]) -> None:
    app = hub(user_subdomains=True)
    assert app.subdomain_host == "https://hub.example.org:8443"
    assert app.public_url == "https://hub.example.org:8443/"
    assert app.domain == "hub.example.org"
    assert app.hub_routespec == "/"
    assert app.cookie_host_prefix_enabled
    assert "shares!user" in app.extra_user_scopes
