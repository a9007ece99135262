"""JupyterHub's configuration, derived from the settings file that the Ansible role ``jupyterhub`` writes.

``jupyterhub_config.py`` on the hub host only calls ``configure``, and then ``load_site_files`` for the files in
``conf.d``, which can contain a site's own configuration.
"""

from __future__ import annotations

import gc
import os
import re
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jupyterhub.utils import subdomain_hook_idna

from hpchub import moments
from hpchub.canary import SERVICE as CANARY
from hpchub.canary import TOKEN as CANARY_TOKEN
from hpchub.hub import DEFAULT_SETTINGS, sign_on_settings
from hpchub.hub.authenticator import SSOAuthenticator
from hpchub.hub.database import engine_options, wait_until_usable
from hpchub.hub.handlers import DEFAULT_TOKEN_DAYS
from hpchub.hub.json_log import LOGGING
from hpchub.hub.page_texts import PageTexts
from hpchub.hub.profiles_spawner import HPCProfilesSpawner
from hpchub.hub.proxy import HubProxy
from hpchub.hub.request_log import log_request
from hpchub.hub.runtime import runtime
from hpchub.hub.session_names import KEPT
from hpchub.hub.tokens import SCRAPER
from hpchub.messages import listing
from hpchub.names import USER_PATTERN, dns_label

if TYPE_CHECKING:
    from collections.abc import Callable

GC_THRESHOLDS = (50_000, 20, 10)
"""The thresholds of Python's garbage collector; see ``gc.set_threshold``.

With Python's default of 700 new objects, the collector treats the objects of the current requests as old ones and soon
scans all objects. With 1000 users, such a scan blocks the hub for half a second.
"""

METRICS_TOKEN = "HPCHUB_METRICS_TOKEN"  # noqa: S105 a name, not a secret
"""The environment variable with the token for the metrics, which systemd sets if there is one."""

CONTAINERS = (
    *("JupyterHub.services", "JupyterHub.load_roles", "JupyterHub.extra_user_scopes", "JupyterHub.template_paths"),
    *("JupyterHub.template_vars", "JupyterHub.tornado_settings", "JupyterHub.db_kwargs"),
    "JupyterHub.jinja_environment_options",
)
"""The lists and dictionaries to which both hpchub and a site can add entries."""

START_TIMEOUT = 366 * 24 * 3600
"""How long a start may take according to JupyterHub, in seconds: practically unlimited.

The profile limits the wait in the queue (``max_wait``), and ``JobSpawner.launch_timeout`` limits the launch.
"""


def configure(c: Any, path: str = DEFAULT_SETTINGS) -> None:
    """Set all options of JupyterHub that hpchub needs.

    Args:
        c: The configuration object of traitlets.
        path: The settings file.

    Raises:
        OSError, ValueError, KeyError: The settings file is missing or incomplete.
    """
    os.umask(0o077)
    gc.set_threshold(*GC_THRESHOLDS)
    settings = runtime(path).settings
    _network(c, settings, path)
    _identity(c, settings, path)
    _sessions(c, settings, path)
    # The hub's HTTP client uses TLS only to connect to notebook servers. It contacts each of them once, so it does not
    # keep connections open: the buffers of a TLS connection take a quarter of a megabyte.
    context = runtime(path).client_context
    c.JupyterHubHTTPClient.connector_options = {"ssl": context, "force_close": True}
    _state(c, settings, path)
    _pages(c, settings, path)
    _monitoring(c, settings)
    _canary(c, settings)


def load_site_files(c: Any, directory: Path, load: Callable[[str], None]) -> None:
    """Load a site's own files in alphabetical order, and check that they keep the entries of hpchub.

    Args:
        c: The configuration, as ``configure`` has left it.
        directory: The directory of the files.
        load: Loads a file into the configuration.

    Raises:
        SystemExit: A file replaces a list or a dictionary that contains entries of hpchub, instead of adding to it.
    """
    own = {name: _entries(c, name) for name in CONTAINERS}
    for path in sorted(directory.glob("*.py")):
        load(str(path))
        for name, entries in own.items():
            if gone := entries - _entries(c, name):
                how = "update({...})" if isinstance(_container(c, name), dict) else "append(...)"
                raise SystemExit(
                    f"{path}: c.{name} lacks entries that hpchub needs: {listing(sorted(gone))}; do not assign a new"
                    f" value, but add your entries with c.{name}.{how}"
                )


def _container(c: Any, name: str) -> Any:
    section, _, option = name.partition(".")
    return c[section].get(option)


def _entries(c: Any, name: str) -> set[str]:
    """Return the keys of a dictionary, or the names in a list. Without a value of hpchub, there are none."""
    found = _container(c, name)
    if not isinstance(found, (dict, list, set)):
        return set()
    return {str(each["name"]) if isinstance(each, dict) and "name" in each else str(each) for each in found}


def host_name(name: str, domain: str, kind: str) -> str:
    """Return the host name of a user's or a service's server; see ``JupyterHub.subdomain_hook``.

    JupyterHub's own function gives two users the same host if their names differ only in case.
    """
    if kind != "user" or re.fullmatch(USER_PATTERN, name):
        return str(subdomain_hook_idna(name, domain, kind))
    return f"{dns_label(name)}.{domain}"


def _network(c: Any, settings: dict[str, Any], path: str) -> None:
    """Connect Apache, the proxy and the hub by Unix sockets, so that no other process can assert a user's identity."""
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
    # When the hub stops or restarts, sessions and routes remain.
    c.JupyterHub.cleanup_servers = False
    c.JupyterHub.cleanup_proxy = False
    if settings["user_subdomains"]:
        c.JupyterHub.subdomain_host = settings["public_url"].rstrip("/")
        c.JupyterHub.subdomain_hook = host_name
        # A page in a user's subdomain can set cookies for the hub's domain, but not cookies with this prefix.
        c.JupyterHub.cookie_host_prefix_enabled = True
        # Users may share their own servers, and choose other users and groups by name.
        c.JupyterHub.extra_user_scopes = {"shares!user", "read:users:name", "read:groups:name"}


def _identity(c: Any, settings: dict[str, Any], path: str) -> None:
    """Set the authenticator, the access rules, and the lifetimes of cookies and tokens."""
    access = settings["access"]
    c.JupyterHub.authenticator_class = SSOAuthenticator
    c.Authenticator.allowed_users = set(access["allowed_users"])
    c.Authenticator.blocked_users = set(access["blocked_users"])
    c.Authenticator.admin_users = set(access["admin_users"])
    c.Authenticator.allow_existing_users = False
    c.AccessRules.permitted_groups = set(access["allowed_groups"])
    c.AccessRules.admin_groups = set(access["admin_groups"])
    c.AccessRules.user_pattern = access["user_pattern"]
    claims = settings["claims"]
    c.AccessRules.groups_claim = claims["groups"]
    c.AccessRules.groups_separator = claims["groups_separator"]
    c.AccessRules.mail_claim = claims["mail"]
    c.AccessRules.attributes = settings["attributes"]
    c.AccessRules.host_groups = settings["host_groups"]
    c.AccessRules.minimum_uid = access["minimum_uid"]
    c.AccessRules.check_accounts = access["hub_accounts"]
    c.SSOAuthenticator.sso_logout_url = settings["logout_url"]
    c.Authenticator.enable_auth_state = True
    # Compare every request with its SSO session. JupyterHub measures the age per user, not per browser. With a positive
    # age, requests from one browser would keep the cookies in another browser valid.
    c.Authenticator.auth_refresh_age = -1
    c.Authenticator.refresh_pre_spawn = True
    c.JupyterHub.cookie_max_age_days = 1
    c.JupyterHub.cookie_secret_file = settings["cookie_secret_file"]
    c.JupyterHub.oauth_token_expires_in = 24 * 3600
    c.JupyterHub.token_expires_in_max_seconds = settings["token_days"] * 24 * 3600
    c.JupyterHub.tornado_settings = {
        # Without expires_days, Tornado gives the login cookie a lifetime of 30 days.
        "cookie_options": {"secure": True, "samesite": "Lax", "httponly": True, "expires_days": 1},
        "hpchub_notebook_ports": settings["notebook_ports"],
        "hpchub_settings_file": path,
        "log_function": log_request,
    }
    # Programs that the hub starts must not inherit the secret.
    secret = os.environ.pop(sign_on_settings.SECRET, "")
    if not settings.get("sign_on"):
        return
    c.JupyterHub.authenticator_class = sign_on_settings.apply(c, settings, secret)


def _sessions(c: Any, settings: dict[str, Any], path: str) -> None:
    """Set the spawner and the options for sessions."""
    c.JupyterHub.spawner_class = HPCProfilesSpawner
    c.HPCProfilesSpawner.settings_file = path
    # A user can stop and see named sessions also after the site has lowered the number of sessions.
    c.JupyterHub.allow_named_servers = True
    c.JupyterHub.named_server_limit_per_user = KEPT
    c.JupyterHub.implicit_spawn_seconds = 0
    c.JupyterHub.init_spawners_timeout = 1  # restore sessions in the background
    c.JupyterHub.concurrent_spawn_limit = 0  # unlimited: a job in the queue costs the hub nothing
    c.Spawner.hub_connect_url = settings["api_url"]
    c.Spawner.env_keep = []
    c.Spawner.start_timeout = START_TIMEOUT
    c.Spawner.http_timeout = 120
    c.Spawner.poll_interval = 30
    c.JupyterHub.default_url = "/hub/home"


def _state(c: Any, settings: dict[str, Any], path: str) -> None:
    """Set the database, and wait until it can be used."""
    c.JupyterHub.db_url = settings["db_url"]
    c.JupyterHub.db_kwargs = engine_options(settings["db_url"], runtime(path).guard)
    wait_until_usable(settings["db_url"])
    c.JupyterHub.pid_file = ""
    url = urlsplit(settings["db_url"])
    if url.scheme == "sqlite" and url.path.strip("/"):
        # Write-ahead logging lets readers and the writer work at the same time. SQLite stores the mode in the file.
        with sqlite3.connect(Path("/" + url.path.lstrip("/"))) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        connection.close()


def _pages(c: Any, settings: dict[str, Any], path: str) -> None:
    """Set the page templates, their variables and languages, and the log level."""
    c.JupyterHub.template_paths = settings["template_paths"]
    c.JupyterHub.template_vars = {
        "service_name": settings["service_name"],
        "support": settings["support"],
        # JupyterHub calls a function with the user, and the page gets its result: here, the function to call.
        "time_text": lambda _user: moments.shown,
        "default_token_days": DEFAULT_TOKEN_DAYS,
    }
    c.JupyterHub.jinja_environment_options = {"extensions": [PageTexts]}
    c.JupyterHub.tornado_settings["transforms"] = [runtime(path).languages.transform()]
    c.JupyterHub.log_level = settings.get("log_level", "INFO")


def _monitoring(c: Any, settings: dict[str, Any]) -> None:
    """Set the format of the log, and the only token for the metrics. Without a token, only administrators read them."""
    if settings.get("json_logs"):
        c.JupyterHub.logging_config = LOGGING
    # Programs that the hub starts must not inherit the token.
    if token := os.environ.pop(METRICS_TOKEN, ""):
        c.JupyterHub.services = [{"name": SCRAPER, "api_token": token, "display": False}]
        c.JupyterHub.load_roles = [{"name": "metrics", "services": [SCRAPER], "scopes": ["read:metrics"]}]


def _canary(c: Any, settings: dict[str, Any]) -> None:
    """Let the canary start, open and stop the sessions of its account, and nothing else."""
    token, user = os.environ.pop(CANARY_TOKEN, ""), settings.get("canary", {}).get("user")
    if token and user:
        scopes = [f"servers!user={user}", f"access:servers!user={user}"]
        c.JupyterHub.services.append({"name": CANARY, "api_token": token, "display": False})
        # JupyterHub creates the account in its database, because nobody signs in with it.
        c.JupyterHub.load_roles.append({"name": CANARY, "services": [CANARY], "users": [user], "scopes": scopes})
