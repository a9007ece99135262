"""The options of a sign-on in the hub, from the hub's settings."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpchub.hub.account_requests import AccountRequests

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hpchub.hub.hub_sign_on import HubSignOn

SECRET = "HPCHUB_SIGN_ON_SECRET"  # noqa: S105 a name, not a secret
"""The environment variable with the client secret, or the password of the service account, which systemd sets."""


def apply(c: Any, settings: Mapping[str, Any], secret: str) -> type[HubSignOn]:
    """Set the options of the sign-on in the hub, and return its authenticator.

    Args:
        c: The configuration object of traitlets.
        settings: The hub's settings.
        secret: The secret of the sign-on.

    Raises:
        KeyError: The settings are not complete, or the kind is unknown.
    """
    own = settings["sign_on"]
    # Only the hubs that sign users in themselves need these packages in memory.
    if own["kind"] == "ldap":
        kind = import_module("hpchub.hub.password_sign_on").PasswordSignOn
        traits = _directory(own, secret)
    else:
        kind = import_module("hpchub.hub.oauth_providers").KINDS[own["kind"]]
        traits = _oauth(own, secret) | _OF_KIND[own["kind"]](own)
    traits["public_url"] = settings["public_url"].rstrip("/")
    traits["user_mapping"] = own.get("user_mapping", [])
    traits["outage_limit"] = own["outage_hours"] * 3600
    if own.get("create_accounts"):
        traits["accounts"] = AccountRequests(Path(settings["state_dir"]) / "account-requests")
    for name, value in traits.items():
        c[kind.__name__][name] = value
    c.Authenticator.auth_refresh_age = own["refresh_minutes"] * 60
    c.JupyterHub.cookie_max_age_days = own["login_hours"] / 24
    c.JupyterHub.oauth_token_expires_in = own["login_hours"] * 3600
    c.JupyterHub.tornado_settings["cookie_options"]["expires_days"] = own["login_hours"] / 24
    found: type[HubSignOn] = kind
    return found


def _oauth(own: Mapping[str, Any], secret: str) -> dict[str, Any]:
    return {"client_id": own["client_id"], "client_secret": secret, "ca_file": own["ca_file"], "enable_pkce": True}


def _generic(own: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "authorize_url": own["authorize_url"],
        "token_url": own["token_url"],
        "userdata_url": own["userinfo_url"],
        "logout_address": own["logout_url"],
        "scope": own["scopes"],
        # The first step of the user mapping may choose another claim.
        "username_claim": next(
            (each["claim"] for each in own["user_mapping"] if "claim" in each), own["claims"]["user"]
        ),
        "second_factors": own["require_second_factor"],
    }


def _globus(own: Mapping[str, Any]) -> dict[str, Any]:
    names = ("auth_url", "groups_url", "identity_providers", "tokens_for_sessions")
    return {name: own[name] for name in names}


def _cilogon(own: Mapping[str, Any]) -> dict[str, Any]:
    rules = {
        each["entity_id"]: {"user_claim": each["user_claim"], "domain": each["domain"]}
        for each in own["identity_providers"]
    }
    return {"cilogon_host": own["host"], "identity_providers": rules}


_OF_KIND: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "generic": _generic,
    "globus": _globus,
    "cilogon": _cilogon,
    "github": lambda own: {"github_url": own["url"]},
    "gitlab": lambda own: {"gitlab_url": own["url"]},
    "google": lambda own: {"hosted_domain": own["hosted_domains"]},
}


def _directory(own: Mapping[str, Any], secret: str) -> dict[str, Any]:
    user_filter = own["user_filter"].replace("{", "{{").replace("}", "}}")
    return {
        "server_address": own["server"],
        "server_port": own["port"],
        "tls_strategy": "on_connect" if own["tls"] == "ldaps" else "before_bind",
        "tls_kwargs": {"ca_certs_file": own["ca_file"] or "/etc/ssl/certs/ca-certificates.crt"},
        # The name is only compared in the directory, and ldapauthenticator escapes it. The access rules check it later.
        "valid_username_regex": r"(?s).+\Z",
        "lookup_dn": True,
        "use_lookup_dn_username": True,
        "lookup_dn_search_user": own["bind_dn"],
        "lookup_dn_search_password": secret,
        "lookup_dn_search_filter": f"(&({{login_attr}}={{login}}){user_filter})",
        "lookup_dn_user_dn_attribute": own["user_attribute"],
        "user_search_base": own["user_base"],
        "user_attribute": own["user_attribute"],
        "group_base": own["group_base"],
        "group_attribute": own["group_attribute"],
        "mail_attribute": own["mail_attribute"],
    }
