"""JupyterHub's configuration, as JupyterHub takes it."""

import pytest
from jupyterhub.app import JupyterHub
from traitlets.config import Config

from hpchub.hub import config as hubconfig

SETTINGS = {
    "public_url": "https://hub.example.org:8443",
    "proxy_socket_url": "http+unix://%2Frun%2Fproxy.sock",
    "proxy_api_url": "http+unix://%2Frun%2Fapi.sock",
    "hub_bind_url": "http+unix://%2Frun%2Fhub.sock",
    "hub_socket_mode": "0660",
}


@pytest.fixture
def hub():
    """JupyterHub with its part of the network, by whether users have hosts of their own."""

    def start(*, user_subdomains):
        config = Config()
        hubconfig._network(config, {**SETTINGS, "user_subdomains": user_subdomains}, "/etc/hpchub/hub.json")
        return JupyterHub(config=config)

    return start


def test_one_host_for_all(hub):
    app = hub(user_subdomains=False)
    assert (app.subdomain_host, app.cookie_host_prefix_enabled, app.extra_user_scopes) == ("", False, set())
    assert app.public_url == "https://hub.example.org:8443/"


def test_hosts_of_the_users_own(hub):
    app = hub(user_subdomains=True)
    assert app.subdomain_host == "https://hub.example.org:8443"
    assert app.public_url == "https://hub.example.org:8443/"
    assert app.domain == "hub.example.org"
    assert app.hub_routespec == "/"
    assert app.cookie_host_prefix_enabled
    assert "shares!user" in app.extra_user_scopes
