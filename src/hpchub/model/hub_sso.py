"""The keys of the sign-ons in which the hub itself signs users in, for portals without a web single sign-on. No I/O."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, SecretStr, model_validator

from hpchub.model import fields as f
from hpchub.model.entry import Entry

KINDS = ("generic", "globus", "cilogon", "github", "gitlab", "google")
"""The kinds of OAuth providers. An inventory has the keys of exactly one of them."""

_DOMAIN = f.Text("a domain", r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?", "write it in small letters, as in example.org")
Domain = Annotated[str, _DOMAIN]
OptionalDomain = Annotated[str, f.Text(_DOMAIN.what, _DOMAIN.pattern, _DOMAIN.valid, empty=True)]
EntityId = Annotated[
    str,
    f.Text(
        "an entity id",
        r"(?:https?|urn):[A-Za-z0-9_.~:/?=&%+-]{1,500}",
        "write it as https://cilogon.org/idplist shows it",
    ),
]
_URL = (
    r"https://[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?(?::[0-9]{1,5})?/[A-Za-z0-9_.~/%?=&+-]*",
    "write its https address",
)
Endpoint = Annotated[str, f.Text("an address of the provider", *_URL)]
OptionalEndpoint = Annotated[str, f.Text("an address of the provider", *_URL, empty=True)]
DistinguishedName = Annotated[
    str,
    f.Text("a distinguished name", r"[A-Za-z0-9.-]+ ?=[^{}\\\"]{1,500}", "write it as in ou=people,dc=example,dc=org"),
]
OptionalDistinguishedName = Annotated[
    str,
    f.Text(
        "a distinguished name",
        r"[A-Za-z0-9.-]+ ?=[^{}\\\"]{1,500}",
        "write it as in ou=groups,dc=example,dc=org",
        empty=True,
    ),
]


def _balanced(value: str) -> None:
    depth = 0
    for character in value:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            break
    if depth != 0:
        f.complain("has parentheses that do not match", "write a filter as in (employeeType=active)")


UserFilter = Annotated[
    str,
    f.Text("a filter", r"\([^{}]{1,500}\)", "write a filter as in (employeeType=active)", empty=True, check=_balanced),
]


class AccountCreation(Entry):
    """Accounts for users who may sign in and have none. Without a command, nobody gets one."""

    command: list[f.Argument] = []
    """A command of the site on the hub host, with its full path. It runs as root, and gets the name on standard input,
    never as an argument. It must create the account wherever it is needed."""
    per_hour: Annotated[int, f.Whole(1, 1000)] = 10
    """How many accounts may be created in an hour."""
    total: Annotated[int, f.Whole(1, 100_000)] = 500
    """How many accounts may be created at all."""

    @model_validator(mode="after")
    def _check(self) -> AccountCreation:
        if self.command and not self.command[0].startswith("/"):
            f.complain("has a command without its full path", "write it, as in [/usr/local/sbin/create-account]")
        return self


class HubSignOn(Entry):
    """What all sign-ons in the hub have in common."""

    in_hub: ClassVar[bool] = True

    login_hours: Annotated[int, f.Whole(1, 24)] = 12
    """How long a login lasts. Then the browser must sign in again. A notebook that is open needs a new sign-in too."""
    refresh_minutes: Annotated[int, f.Whole(1, 60)] = 5
    """How often the hub checks with the provider that a user still may use the service."""
    outage_hours: Annotated[int, f.Whole(0, 72)] = 4
    """How long logins go on while the provider does not answer. Nobody can sign in meanwhile."""
    create_accounts: AccountCreation = AccountCreation()
    """Accounts for users who may sign in and have none."""


class Generic(Entry):
    """Any provider that speaks OpenID Connect."""

    authorize_url: Endpoint
    """The address where users sign in (``authorization_endpoint`` in the provider's metadata)."""
    token_url: Endpoint
    """The address for tokens (``token_endpoint``)."""
    userinfo_url: Endpoint
    """The address that returns a user's claims (``userinfo_endpoint``)."""
    logout_url: OptionalEndpoint = ""
    """The address that ends the session at the provider (``end_session_endpoint``)."""
    scopes: list[f.Word] = Field(default=["openid", "profile", "email"], min_length=1)
    """The scopes to request. With ``offline_access``, most providers give the hub a refresh token, so that the hub can
    check users for as long as their login lasts."""


class Globus(Entry):
    """Globus Auth. A user's groups are the ids of the Globus groups."""

    identity_providers: list[Domain] = Field(min_length=1)
    """The domains of the identity providers that may sign people in. A user must sign in with an identity of one of
    them. To have linked one is not enough. With one domain, the account's name is the part before the @."""
    tokens_for_sessions: Annotated[bool, Field(strict=True)] = False
    """Whether each session gets a token for transfers, in a file that only the user can read."""
    auth_url: f.ServiceUrl = "https://auth.globus.org"
    """The address of Globus Auth."""
    groups_url: f.ServiceUrl = "https://groups.api.globus.org"
    """The address of Globus Groups."""


class Institution(Entry):
    """An institution that may sign people in through CILogon."""

    entity_id: EntityId
    """Its entity id."""
    user_claim: f.ClaimName = "eppn"
    """The claim with the user's name."""
    domain: OptionalDomain = ""
    """The domain that the name must have after its @. It is removed. Empty: the name stays as it is."""


class CILogon(Entry):
    """CILogon: people of many institutions. `claims.groups` names the claim with the groups."""

    identity_providers: list[Institution] = Field(min_length=1)
    """The institutions that may sign people in."""
    host: Domain = "cilogon.org"
    """The host of CILogon."""


class GitHub(Entry):
    """GitHub. A user's groups are the organisations, ``ORG``, and the teams, ``ORG:TEAM``."""

    url: f.ServiceUrl = "https://github.com"
    """The address of GitHub, or of a site's own server."""


class GitLab(Entry):
    """GitLab. A user's groups are the full paths of the groups."""

    url: f.ServiceUrl = "https://gitlab.com"
    """The address of GitLab, or of a site's own server."""


class Google(Entry):
    """Google Workspace. A user's only group is the domain of the organisation."""

    hosted_domains: list[Domain] = Field(min_length=1)
    """The domains of the organisations that may sign people in. With one domain, the account's name is the part before
    the @. Otherwise it is the whole mail address."""


class OAuth(HubSignOn):
    """The keys of the provider ``oauthenticator``."""

    client_id: f.Word = "hpchub"
    """The client id of this service at the provider. The redirect address is `URL/hub/oauth_callback`."""
    client_secret: Annotated[SecretStr, f.Secret()]
    """The client secret. Write an expression that refers to a variable in the vault."""
    ca_bundle: f.ControllerPath = ""
    """A file on the controller with CA certificates for the provider. Empty: the system's CA certificates."""
    generic: Generic | None = None
    """Any provider that speaks OpenID Connect."""
    globus: Globus | None = None
    """Globus Auth."""
    cilogon: CILogon | None = None
    """CILogon."""
    github: GitHub | None = None
    """GitHub."""
    gitlab: GitLab | None = None
    """GitLab."""
    google: Google | None = None
    """Google Workspace."""

    @property
    def kind(self) -> str:
        """The kind of the provider."""
        return next(name for name in KINDS if getattr(self, name) is not None)

    @model_validator(mode="after")
    def _check_kind(self) -> OAuth:
        given = [name for name in KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            message = f"has {' and '.join(given)}" if given else "names no provider"
            f.complain(message, f"write exactly one of {', '.join(KINDS)}, with its keys")
        return self

    def hub_settings(self) -> dict[str, Any]:
        """Return the settings for the hub, without the secret."""
        own: Entry = getattr(self, self.kind)
        common = self.model_dump(
            mode="json", include={*HubSignOn.model_fields, "client_id"}, exclude={"create_accounts"}
        )
        return {"kind": self.kind, **common, **own.model_dump(mode="json")}


class Directory(HubSignOn):
    """The keys of the provider ``ldapauthenticator``."""

    server: f.DnsName
    """The name of the directory's server, as its certificate contains it."""
    tls: Annotated[str, f.Choice(("starttls", "ldaps"))] = "starttls"
    """How the connection is encrypted. Passwords are never sent without TLS."""
    port: f.Port = Field(default_factory=lambda data: 636 if data.get("tls") == "ldaps" else 389)
    """The port of the server."""
    bind_dn: DistinguishedName
    """The service account in the directory. The hub uses it to find users and their groups."""
    bind_password: Annotated[SecretStr, f.DatabasePassword()]
    """Its password. Write an expression that refers to a variable in the vault."""
    user_base: DistinguishedName
    """The place of the users in the directory."""
    user_attribute: f.ClaimName = "uid"
    """The attribute with the account's name, which users type in."""
    user_filter: UserFilter = ""
    """A further condition for users. An account that does not match it cannot sign in, and loses its access."""
    group_base: OptionalDistinguishedName = ""
    """The place of the groups. Empty: groups do not count."""
    group_attribute: f.ClaimName = "cn"
    """The attribute with the name of a group."""
    mail_attribute: f.ClaimName = "mail"
    """The attribute with the mail address."""
    ca_bundle: f.ControllerPath = ""
    """A file on the controller with CA certificates for the server. Empty: the system's CA certificates."""

    def hub_settings(self) -> dict[str, Any]:
        """Return the settings for the hub, without the password."""
        return {
            "kind": "ldap",
            **self.model_dump(
                mode="json", exclude={"provider", "claims", "bind_password", "ca_bundle", "create_accounts"}
            ),
        }
