"""JupyterHub's configuration, from the one settings file that the role ``jupyterhub`` writes.

``jupyterhub_config.py`` on the hub host is a stub that calls ``configure``; what a site wants beyond it goes into
``conf.d``, which the stub loads afterwards.
"""

from __future__ import annotations

import gc
import os
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hpchub.hub.authenticator import SSOAuthenticator
from hpchub.hub.profiles_spawner import HPCProfilesSpawner
from hpchub.hub.proxy import HubProxy
from hpchub.hub.runtime import DEFAULT_SETTINGS, runtime

COLLECTOR = (50_000, 20, 10)
"""When Python looks for garbage in cycles: not until so many objects more are there. By default, 700, it takes the
objects of a request that is under way for old ones, and soon looks at all there are: half a second with 1000 users."""

START_LIMIT = 366 * 24 * 3600
"""Seconds that a start may take in all: no limit. The wait in the queue has its profile's, the rest one of its own."""


def configure(c: Any, path: str = DEFAULT_SETTINGS) -> None:
    """Set everything that hpchub needs on JupyterHub's configuration object.

    Args:
        c: traitlets' configuration object.
        path: the settings file.

    Raises:
        OSError, ValueError, KeyError: the settings file is missing or not complete.
    """
    os.umask(0o077)
    gc.set_threshold(*COLLECTOR)
    settings = runtime(path).settings
    _network(c, settings, path)
    _identity(c, settings, path)
    _sessions(c, settings, path)
    # What the hub asks by TLS are notebook servers, and nothing else.
    # It asks each of them once: a connection that was kept would hold its buffers, a quarter of a megabyte for TLS.
    context = runtime(path).authority.client_context()
    c.JupyterHubHTTPClient.connector_options = {"ssl": context, "force_close": True}
    _state(c, settings)
    _pages(c, settings)


def _network(c: Any, settings: dict[str, Any], path: str) -> None:
    """Unix sockets from Apache to the proxy and from the proxy to the hub: nobody else can tell who somebody is."""
    c.JupyterHub.public_url = settings["public_url"].rstrip("/") + "/"
    c.JupyterHub.bind_url = settings["proxy_socket_url"]
    c.JupyterHub.hub_bind_url = settings["hub_bind_url"]
    c.JupyterHub.hub_connect_url = settings["hub_bind_url"]
    c.JupyterHub.hub_socket_mode = int(settings["hub_socket_mode"], 8)
    c.JupyterHub.proxy_class = HubProxy
    c.HubProxy.settings_file = path
    c.ConfigurableHTTPProxy.should_start = False
    c.ConfigurableHTTPProxy.api_url = settings["proxy_api_url"]
    c.ConfigurableHTTPProxy.check_running_interval = 10
    # A restart of the hub, or its end, stops no session and removes no route.
    c.JupyterHub.cleanup_servers = False
    c.JupyterHub.cleanup_proxy = False
    if settings["user_subdomains"]:
        c.JupyterHub.subdomain_host = settings["public_url"].rstrip("/")
        # A page on one of these hosts can set cookies for the hub's, but none with this prefix.
        c.JupyterHub.cookie_host_prefix_enabled = True
        # To share one's own server, with people and groups by their names.
        c.JupyterHub.extra_user_scopes = {"shares!user", "read:users:name", "read:groups:name"}


def _identity(c: Any, settings: dict[str, Any], path: str) -> None:
    access = settings["access"]
    c.JupyterHub.authenticator_class = SSOAuthenticator
    c.Authenticator.allowed_users = set(access["allowed_users"])
    c.Authenticator.blocked_users = set(access["blocked_users"])
    c.Authenticator.admin_users = set(access["admin_users"])
    c.Authenticator.allow_existing_users = False
    c.SSOAuthenticator.permitted_groups = set(access["allowed_groups"])
    c.SSOAuthenticator.admin_groups = set(access["admin_groups"])
    c.SSOAuthenticator.minimum_uid = access["minimum_uid"]
    c.SSOAuthenticator.check_accounts = access["hub_accounts"]
    c.SSOAuthenticator.sso_logout_url = settings["logout_url"]
    c.Authenticator.enable_auth_state = True
    # Younger than any: each request is compared with the sign-on that it comes with. JupyterHub counts the age for a
    # user, not for a browser: what somebody does in one must not keep the cookies good that he left in another.
    c.Authenticator.auth_refresh_age = -1
    c.Authenticator.refresh_pre_spawn = True
    c.JupyterHub.cookie_max_age_days = 1
    c.JupyterHub.cookie_secret_file = settings["cookie_secret_file"]
    c.JupyterHub.oauth_token_expires_in = 24 * 3600
    c.JupyterHub.tornado_settings = {
        "cookie_options": {"secure": True, "samesite": "Lax", "httponly": True},
        "hpchub_notebook_ports": settings["notebook_ports"],
        "hpchub_settings_file": path,
    }


def _sessions(c: Any, settings: dict[str, Any], path: str) -> None:
    c.JupyterHub.spawner_class = HPCProfilesSpawner
    c.HPCProfilesSpawner.settings_file = path
    c.JupyterHub.allow_named_servers = False
    c.JupyterHub.implicit_spawn_seconds = 0
    c.JupyterHub.init_spawners_timeout = 1  # sessions are taken up in the background, however long that takes
    c.JupyterHub.concurrent_spawn_limit = 0  # jobs that wait in a queue are no load on the hub
    c.Spawner.hub_connect_url = settings["api_url"]
    c.Spawner.env_keep = []
    c.Spawner.start_timeout = START_LIMIT
    c.Spawner.http_timeout = 120
    c.Spawner.poll_interval = 30
    c.JupyterHub.default_url = "/hub/spawn"


def _state(c: Any, settings: dict[str, Any]) -> None:
    c.JupyterHub.db_url = settings["db_url"]
    c.JupyterHub.pid_file = ""
    url = urlsplit(settings["db_url"])
    if url.scheme == "sqlite" and url.path.strip("/"):
        # Kept in the file: readers and the writer no longer wait for each other.
        with sqlite3.connect(Path("/" + url.path.lstrip("/"))) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        connection.close()


def _pages(c: Any, settings: dict[str, Any]) -> None:
    c.JupyterHub.template_paths = settings["template_paths"]
    c.JupyterHub.template_vars = {"service_name": settings["service_name"], "support": settings["support"]}
    c.JupyterHub.log_level = settings.get("log_level", "INFO")
