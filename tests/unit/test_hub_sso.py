"""The keys of a sign-on in the hub."""

from __future__ import annotations

from typing import Any

import pytest
from hub_app import VARIABLES, profile
from traitlets.config import Config

from hpchub.deploy.role_arguments import hub_sign_on
from hpchub.hub import sign_on_settings
from hpchub.model.hub_sso import KINDS
from hpchub.model.problems import SiteError
from hpchub.model.site import Site

SECRET = "a1b2c3d4e5f6a7b8c9d0e1f2a3b4c5d6"
GENERIC = {
    "authorize_url": "https://sso.example.org/authorize",
    "token_url": "https://sso.example.org/token",
    "userinfo_url": "https://sso.example.org/userinfo",
}
OWN: dict[str, Any] = {
    "generic": GENERIC,
    "globus": {"identity_providers": ["uni.example"]},
    "cilogon": {"identity_providers": [{"entity_id": "https://idp.uni.example/shibboleth"}]},
    "github": {},
    "gitlab": {"url": "https://git.example.org"},
    "google": {"hosted_domains": ["uni.example"]},
}
LDAP = {
    "provider": "ldapauthenticator",
    "server": "ldap.example.org",
    "bind_dn": "cn=hpchub,dc=example,dc=org",
    "bind_password": SECRET,
    "user_base": "ou=people,dc=example,dc=org",
}


def oauth(kind: str = "generic", **changes: Any) -> dict[str, Any]:
    return {"provider": "oauthenticator", "client_secret": SECRET, kind: OWN[kind], **changes}


def make(sso: dict[str, Any], **service: Any) -> Site:
    own = {"url": "https://hub.example.org", "user_subdomains": True, **service}
    return Site.from_vars({**VARIABLES, "hpc_profiles": [profile("small")], "hpc_service": own, "hpc_sso": sso})


@pytest.mark.parametrize("sso", [*(oauth(kind) for kind in KINDS), LDAP], ids=[*KINDS, "ldap"])
def test_hub_understands_the_settings_of_every_kind(sso: dict[str, Any]) -> None:
    found = hub_sign_on(make(sso))
    assert found["secret"] == SECRET
    assert SECRET not in str(found["settings"])
    own = found["settings"] | {"ca_file": "", "create_accounts": False}
    c = Config()
    c.JupyterHub.tornado_settings = {"cookie_options": {}}
    settings = {"public_url": "https://hub.example.org/", "sign_on": own, "state_dir": "/var/lib/hpchub"}
    kind = sign_on_settings.apply(c, settings, SECRET)
    authenticator = kind(config=c)
    assert authenticator.public_url == "https://hub.example.org"
    assert authenticator.accounts is None
    assert c.Authenticator.auth_refresh_age == 300
    assert c.JupyterHub.oauth_token_expires_in == 12 * 3600
    assert c.JupyterHub.tornado_settings["cookie_options"]["expires_days"] == 0.5


def test_web_servers_sign_on_has_no_settings_for_the_hub() -> None:
    site = Site.from_vars({**VARIABLES, "hpc_profiles": [profile("small")]})
    assert hub_sign_on(site) == {
        "settings": {},
        "secret": "",
        "ca": "",
        "accounts": {"command": [], "per_hour": 10, "total": 500},
    }


@pytest.mark.parametrize(
    ("sso", "service", "text"),
    [
        (oauth(), {"user_subdomains": False}, "user_subdomains must be true for hpc_sso.provider oauthenticator"),
        (LDAP, {"user_subdomains": False}, "user_subdomains must be true for hpc_sso.provider ldapauthenticator"),
        (oauth(github={}), {}, "has generic and github"),
        ({"provider": "oauthenticator", "client_secret": SECRET}, {}, "names no provider"),
        (oauth(generic={**GENERIC, "token_url": "http://sso.example.org/token"}), {}, "is not an address"),
        (oauth("globus", globus={"identity_providers": []}), {}, "is empty"),
        (oauth("google", google={"hosted_domains": ["Uni Example"]}), {}, "is not a domain"),
        (oauth(login_hours=25), {}, "is above 24"),
        (oauth(user_mapping=[{"command": ["/bin/map"]}]), {}, "only the web server can run"),
        (oauth("github", user_mapping=[{"claim": "x"}]), {}, "user_mapping with a claim"),
        (oauth("github", require_second_factor=["mfa"]), {}, "has require_second_factor, which needs the key generic"),
        (oauth(create_accounts={"command": ["useradd"]}), {}, "without its full path"),
        ({**LDAP, "tls": "none"}, {}, "is unknown"),
        ({**LDAP, "user_filter": "(a=b"}, {}, "user_filter"),
        ({**LDAP, "user_filter": "(a=b))(|(uid=*)"}, {}, "parentheses"),
        ({**LDAP, "user_base": "ou={x}"}, {}, "is not a distinguished name"),
    ],
)
def test_mistakes_are_explained(sso: dict[str, Any], service: dict[str, Any], text: str) -> None:
    with pytest.raises(SiteError) as error:
        make(sso, **service)
    assert text in str(error.value)
    assert SECRET not in str(error.value)


def test_accounts_can_only_be_created_where_they_are_checked() -> None:
    variables = {
        **VARIABLES,
        "hpc_profiles": [profile("small")],
        "hpc_service": {"url": "https://hub.example.org", "user_subdomains": True},
        "hpc_sso": oauth(create_accounts={"command": ["/usr/local/sbin/new"]}),
        "hpc_access": {"allowed_groups": ["hpc"], "hub_accounts": False},
    }
    with pytest.raises(SiteError, match="hub_accounts must be true for"):
        Site.from_vars(variables)
