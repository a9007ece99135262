"""The single sign-on: one entry for each provider, with its own keys, and the keys that all providers have. No I/O.

To add a provider, write its class, add it to :data:`PROVIDERS`, and add ``tasks/sso_PROVIDER.yml``,
``tasks/validate_PROVIDER.yml`` and ``templates/sso_PROVIDER.conf.j2`` to the role ``reverse_proxy``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, Union

from pydantic import Field, SecretStr, field_validator, model_validator

from hpchub.model import fields as f
from hpchub.model.entry import Entry
from hpchub.model.hub_sso import Directory, OAuth
from hpchub.model.user_mapping import Realm, Step, check_steps


class Claims(Entry):
    """The names of the identity provider's claims."""

    user: f.ClaimName = "preferred_username"
    """The claim with the name of the local account."""
    groups: f.ClaimName = "groups"
    """The claim with the groups: a list of names, or text. Text is one name, unless ``groups_separator`` is set."""
    groups_separator: f.GroupsSeparator = ""
    """The exact text between two names if the provider sends all groups as one text, as in ``"; "``."""
    mail: f.ClaimName = "email"
    """The claim with the mail address."""


class Sso(Entry):
    """The single sign-on. These keys have the same meaning for all providers."""

    hidden: ClassVar[bool] = True
    files: ClassVar[tuple[str, ...]] = ()
    """The fields that contain paths of files on the controller."""

    provider: str
    """The protocol of the single sign-on."""
    claims: Claims = Claims()
    """The names of the claims."""
    user_mapping: list[Step] = []
    """How the account's name follows from the claim ``user``, in steps. Empty: it is the same name."""
    attributes: list[f.ClaimName] = []
    """Further claims that the hub keeps in a user's encrypted auth state, for the site's own hooks."""
    require_second_factor: list[f.Word] = []
    """The values of the claims ``acr`` and ``amr`` that prove a second factor. A sign-in without any of them is
    refused. Empty: a second factor is up to the provider."""

    @field_validator("user_mapping")
    @classmethod
    def _check_mapping(cls, steps: list[Step]) -> list[Step]:
        check_steps(steps)
        return steps


class OidcProvider(Entry):
    """One of several OpenID Connect providers, among which users choose."""

    key: Realm
    """A short name. It follows the ``@`` after the names and groups that the provider sends, as in ``alice@campus``."""
    title: f.Line
    """The name that users read on the page where they choose."""
    issuer: f.Issuer
    """The address that the provider's metadata calls ``issuer``, with or without a slash at its end as there."""
    client_id: f.Word = "hpchub"
    """The client id of this service at the provider."""
    client_secret: Annotated[SecretStr, f.Secret()]
    """The client secret. Write an expression that refers to a variable in the vault."""
    scopes: list[f.Word] = []
    """The scopes to request. Empty: those of `hpc_sso`."""


class OidcSso(Sso):
    """OpenID Connect: Keycloak, Entra ID, Okta, CILogon, LemonLDAP::NG and others."""

    files: ClassVar[tuple[str, ...]] = ("ca_bundle",)

    provider: Literal["oidc"] = "oidc"
    """The sign-on protocol."""
    metadata_url: f.MetadataUrl | None = None
    """The address of the provider's metadata. It is required unless `providers` lists several."""
    client_id: f.Word = "hpchub"
    """The client id of this service at the provider."""
    client_secret: Annotated[SecretStr, f.Secret()] | None = None
    """The client secret. Write an expression that refers to a variable in the vault."""
    providers: list[OidcProvider] = []
    """Several providers, among which users choose. `user_mapping` decides whose names become accounts."""
    scopes: list[f.Word] = Field(default=["openid", "profile", "email"], min_length=1)
    """The scopes to request. ``openid`` is required."""
    ca_bundle: f.ControllerPath = ""
    """A file on the controller with CA certificates for the provider. Empty: the system's CA certificates."""

    @model_validator(mode="after")
    def _check_providers(self) -> Self:
        own = {"metadata_url": self.metadata_url, "client_secret": self.client_secret}
        if not self.providers:
            if missing := [name for name, value in own.items() if not value]:
                f.complain(f"{missing[0]} is missing", f"set {missing[0]}, or list several providers in providers")
            return self
        if extra := [name for name, value in own.items() if value]:
            f.complain(f"has providers and {extra[0]}", f"remove {extra[0]}; each provider has its own")
        for name in ("key", "issuer"):
            values = [getattr(each, name) for each in self.providers]
            if twice := next((value for value in values if values.count(value) > 1), None):
                f.complain(f"has two providers with the {name} {twice}", f"give each provider another {name}")
        if not self.user_mapping:
            key = self.providers[0].key
            f.complain(
                "has providers without user_mapping, so nobody would get an account",
                f"say whose names become accounts, as in user_mapping: [{{strip_realm: [{key}]}}]",
            )
        return self


LdapUrl = Annotated[
    str, f.Text("an address of a directory", r"ldaps?://[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?", "write ldaps://HOST")
]
_LDAP_TEXT = (
    "a text for a directory",
    r"[A-Za-z0-9 ._=,@:*()&|!~<>+-]{1,500}",
    "write letters, digits, spaces and . _ = , @ : * ( ) & | ! ~ < > + -",
)
LdapText = Annotated[str, f.Text(*_LDAP_TEXT)]
OptionalLdapText = Annotated[str, f.Text(*_LDAP_TEXT, empty=True)]
PamService = Annotated[
    str, f.Text("the name of a PAM service", r"[a-z][a-z0-9_-]{0,63}", "write the name of a file in /etc/pam.d")
]


class FormSso(Sso):
    """A provider whose users sign in on a page of this service. Groups are the Unix groups on the hub host."""

    @model_validator(mode="after")
    def _check_claims(self) -> Self:
        if self.require_second_factor:
            f.complain("has require_second_factor, but this provider reports none", "remove it")
        return self


class KerberosSso(FormSso):
    """Kerberos: tickets of the browser, or a password on the sign-in page."""

    files: ClassVar[tuple[str, ...]] = ("keytab",)

    provider: Literal["kerberos"]
    """The sign-on protocol."""
    realms: list[Realm] = Field(min_length=1)
    """The realms whose users may sign in. Apache contacts the servers of these realms only. A name without a realm
    belongs to the first realm."""
    keytab: f.ControllerPath
    """A file on the controller with the keytab of ``HTTP/HOST``, where HOST is the host of the service's URL. It may be
    encrypted with ansible-vault."""

    @model_validator(mode="after")
    def _check_keytab(self) -> Self:
        if not self.keytab:
            f.complain("has no keytab", "set keytab to the full path of a file on the machine that runs Ansible")
        return self


class LdapSso(FormSso):
    """A directory: LDAP with TLS, and a password on the sign-in page."""

    files: ClassVar[tuple[str, ...]] = ("ca_bundle",)

    provider: Literal["ldap"]
    """The sign-on protocol."""
    url: LdapUrl
    """The address of the directory, such as ``ldaps://ldap.example.org``."""
    start_tls: Annotated[bool, Field(strict=True)] = False
    """Whether Apache starts TLS on the connection, for an address with ``ldap://``. Passwords never go without TLS."""
    base: LdapText
    """The entry below which the users are, such as ``ou=people,dc=example,dc=org``."""
    user_attribute: f.Word = "uid"
    """The attribute with the name of the user. It must be unique below ``base``."""
    filter: LdapText = "(objectClass=*)"
    """A filter for the entries of users who may sign in."""
    bind_dn: OptionalLdapText = ""
    """The entry with which Apache searches. If empty, Apache searches anonymously."""
    bind_password: Annotated[SecretStr, f.DatabasePassword()] = SecretStr("")
    """Its password. Write an expression that refers to a variable in the vault."""
    ca_bundle: f.ControllerPath = ""
    """A file on the controller with CA certificates for the directory. Empty: the system's CA certificates."""

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if self.url.startswith("ldap://") and not self.start_tls:
            f.complain("would send passwords without TLS", "use ldaps:// in url, or set start_tls: true")
        if self.url.startswith("ldaps://") and self.start_tls:
            f.complain("has start_tls and an address with ldaps://", "remove start_tls")
        password = self.bind_password.get_secret_value()
        if bool(self.bind_dn) != bool(password):
            f.complain("has only one of bind_dn and bind_password", "set both of them, or neither")
        if any(mark in password for mark in ("\n", "${")) or password.startswith("exec:"):
            f.complain("has a bind_password that begins with exec: or contains ${", "choose another password")
        return self


class LocalSso(FormSso):
    """Accounts that PAM on the hub host knows, and a password on the sign-in page. It suits small sites."""

    provider: Literal["local"]
    """The sign-on protocol."""
    pam_service: PamService = "hpchub"
    """The name of the PAM service. For the default, hpchub writes the file, which includes Debian's common files."""
    read_shadow: Annotated[bool, Field(strict=True)] = False
    """Whether Apache may read ``/etc/shadow``, which passwords of the host itself need. SSSD does not need it."""


def check_hub_keys(sso: Sso, *, claims: bool) -> None:
    """Reject common keys that a sign-on in the hub cannot apply.

    Args:
        sso: The entry.
        claims: Whether the site chooses the names of the claims.
    """
    if any(step.command is not None for step in sso.user_mapping):
        f.complain("has a user_mapping with a command, which only the web server can run", "use table or pattern")
    if not claims:
        if any(step.claim is not None for step in sso.user_mapping):
            f.complain("has a user_mapping with a claim", "remove this step; it needs the key generic")
        for name in ("attributes", "require_second_factor"):
            if getattr(sso, name):
                f.complain(f"has {name}, which needs the key generic", f"remove {name}")


class OauthenticatorSso(OAuth, Sso):
    """OAuth in the hub: Globus, CILogon, GitHub, GitLab, Google and others. It needs `hpc_service.user_subdomains`."""

    files: ClassVar[tuple[str, ...]] = ("ca_bundle",)

    provider: Literal["oauthenticator"]
    """The sign-on protocol."""

    @model_validator(mode="after")
    def _check_common_keys(self) -> OauthenticatorSso:
        check_hub_keys(self, claims=self.generic is not None)
        return self


class LdapauthenticatorSso(Directory, Sso):
    """Passwords of a directory (LDAP), which the hub checks. It needs `hpc_service.user_subdomains`."""

    files: ClassVar[tuple[str, ...]] = ("ca_bundle",)

    provider: Literal["ldapauthenticator"]
    """The sign-on protocol."""

    @model_validator(mode="after")
    def _check_common_keys(self) -> LdapauthenticatorSso:
        check_hub_keys(self, claims=False)
        return self


class CasClaims(Claims):
    """The names of the CAS server's attributes."""

    user: f.AttributeName = "user"
    """The attribute with the name of the local account. ``user`` is the name with which the person signed in."""
    groups: f.AttributeName = "groups"
    """The attribute with the groups. Each value is one group, unless ``groups_separator`` is set."""
    mail: f.AttributeName = "mail"
    """The attribute with the mail address."""


class CasSso(Sso):
    """CAS 3.0: Apereo CAS, LemonLDAP::NG and others."""

    files: ClassVar[tuple[str, ...]] = ("ca_bundle",)

    provider: Literal["cas"]
    """The sign-on protocol."""
    url: f.CasUrl
    """The address of the CAS server, to which ``/login`` and ``/p3/serviceValidate`` are added."""
    claims: CasClaims = CasClaims()
    """The names of the attributes."""
    attributes: list[f.AttributeName] = []
    """Further attributes that the hub keeps in a user's encrypted auth state, for the site's own hooks."""
    second_factor_attribute: f.AttributeName = "authnContextClass"
    """The attribute with the way in which the person signed in. `require_second_factor` lists its values that prove a
    second factor."""
    ca_bundle: f.ControllerPath = ""
    """A file on the controller with CA certificates for the server. Empty: the system's CA certificates."""


class SamlClaims(Claims):
    """The names of the SAML attributes."""

    user: f.ClaimName = "eppn"
    """The attribute with the name of the local account."""
    groups: f.ClaimName = "isMemberOf"
    """The attribute with the groups. Each value is one group, unless ``groups_separator`` is set."""
    mail: f.ClaimName = "mail"
    """The attribute with the mail address."""


class IdentityProvider(Entry):
    """A SAML identity provider, and the names that it may report."""

    entity_id: f.Word
    """The name of the provider in its metadata (``entityID``)."""
    scopes: list[Realm] = []
    """What may follow the ``@`` in the names that it reports. Empty: the scopes in its metadata."""


class SamlKeys(Sso):
    """The keys of all providers with SAML 2.0."""

    files: ClassVar[tuple[str, ...]] = ("metadata_file", "metadata_certificate", "ca_bundle")

    metadata_file: f.ControllerPath = ""
    """A file on the controller with the metadata of the identity provider, or of several. Empty: `metadata_url`."""
    metadata_url: f.SamlMetadataUrl | None = None
    """The https address of the metadata. The hub host fetches it every hour. It needs `metadata_certificate`."""
    metadata_certificate: f.ControllerPath = ""
    """A file on the controller with the certificates that may sign the metadata. Empty: the signature of
    `metadata_file` is not checked."""
    ca_bundle: f.ControllerPath = ""
    """A file on the controller with CA certificates for `metadata_url`. Empty: the system's CA certificates."""
    claims: SamlClaims = SamlClaims()
    """The names of the attributes. The short names of eduPerson stand also for those with ``urn:oid:``."""
    identity_providers: list[IdentityProvider] = []
    """The providers that may sign users in. Empty: the only one in the metadata, with any name."""
    all_identity_providers: Annotated[bool, Field(strict=True)] = False
    """Whether all providers in the metadata may sign users in, with the scopes in the metadata."""
    discovery_url: f.CasUrl | None = None
    """The address of a discovery service, if several providers may sign users in. Empty: a page of hpchub."""

    @model_validator(mode="after")
    def _check_metadata(self) -> Self:
        if not self.metadata_file and not self.metadata_url:
            f.complain(
                "has no metadata", "set metadata_file to the full path of a file, or metadata_url to its address"
            )
        if self.metadata_file and self.metadata_url:
            f.complain("has both metadata_file and metadata_url", "remove one of them")
        if self.metadata_url and not self.metadata_certificate:
            f.complain(
                "has metadata_url without metadata_certificate",
                "set metadata_certificate to the full path of a file with the certificate that signs the metadata",
            )
        if self.ca_bundle and not self.metadata_url:
            f.complain("has ca_bundle without metadata_url", "remove ca_bundle")
        if self.identity_providers and self.all_identity_providers:
            f.complain("has identity_providers and all_identity_providers", "remove one of them")
        return self


class SamlSso(SamlKeys):
    """SAML 2.0 with mod_auth_mellon."""

    provider: Literal["saml"]
    """The sign-on protocol."""


class ShibbolethSso(SamlKeys):
    """SAML 2.0 with Shibboleth: mod_shib and its daemon shibd."""

    provider: Literal["shibboleth"]
    """The sign-on protocol."""


PROVIDERS: dict[str, type[Sso]] = {
    "oidc": OidcSso,
    "kerberos": KerberosSso,
    "ldap": LdapSso,
    "local": LocalSso,
    "cas": CasSso,
    "saml": SamlSso,
    "shibboleth": ShibbolethSso,
    "oauthenticator": OauthenticatorSso,
    "ldapauthenticator": LdapauthenticatorSso,
}
"""The providers by name."""
DEFAULT_PROVIDER = "oidc"


class Provider(Entry):
    """The choice of a provider, which decides what the other keys mean."""

    hidden: ClassVar[bool] = True

    provider: Annotated[str, f.Choice(tuple(PROVIDERS))] = DEFAULT_PROVIDER


def owners(key: str) -> list[str]:
    """Return the providers that have a key which not all providers have."""
    found = [name for name, kind in PROVIDERS.items() if key in kind.model_fields]
    return [] if key in Sso.model_fields else found


def _any_provider() -> Any:
    kinds = tuple(PROVIDERS.values())
    return Annotated[Union[kinds], Field(discriminator="provider")]  # noqa: UP007


if TYPE_CHECKING:
    AnySso = Sso
else:
    AnySso = _any_provider()
