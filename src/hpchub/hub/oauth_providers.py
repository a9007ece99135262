"""The OAuth providers: for each, which account, groups and mail address its answers mean."""

from __future__ import annotations

import json
import math
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import jwt
from oauthenticator.cilogon import CILogonOAuthenticator
from oauthenticator.generic import GenericOAuthenticator
from oauthenticator.github import GitHubOAuthenticator
from oauthenticator.gitlab import GitLabOAuthenticator
from oauthenticator.globus import GlobusOAuthenticator
from oauthenticator.google import GoogleOAuthenticator
from traitlets import Bool, Dict, List, Unicode, default

from hpchub.hub.hub_sign_on import NO_NAME, NotIdentified, Person, Rejected, Unanswered, one_name
from hpchub.hub.oauth_sign_on import MARGIN, OAuthSignOn, kept, unverified, with_query
from hpchub.messages import Message, listing, marked

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_PAGES = 20
"""How many pages of a list to read from an API."""
GROUPS = "groups.api.globus.org"
TRANSFER = "transfer.api.globus.org"
"""The names of Globus' services, to which its tokens belong."""
FRESH_TRANSFER = 24 * 3600.0
"""How long a session's token for transfers should be valid at least, in seconds. Globus gives out 48 hours."""


class GenericSignOn(OAuthSignOn, GenericOAuthenticator):  # type: ignore[misc]
    """A provider that speaks OpenID Connect, such as Keycloak or LemonLDAP::NG."""

    provider_key = "generic"
    username_claim = Unicode("preferred_username", config=True, help="The claim with the name of the account.")
    second_factors = List(Unicode(), config=True, help="Values of acr and amr that prove a required second factor.")
    logout_address = Unicode(config=True, help="The provider's end_session_endpoint. Empty if there is none.")

    async def describe(
        self, user_info: dict[str, Any], token: dict[str, Any], info: dict[str, Any] | None, state: dict[str, Any]
    ) -> Person:
        """Return the person in the claims."""
        self._check_id_token(token, user_info)
        if self.username_claim == self.mail_claim and user_info.get("email_verified") is not True:
            raise unverified(user_info.get(self.mail_claim))
        claims = {name: user_info.get(name) for name in (self.groups_claim, self.mail_claim)}
        claims |= {name: user_info[name] for name in self.attributes if name in user_info}
        return Person(user_info.get(self.username_claim), self.subject(user_info.get("sub")), claims, {"token": token})

    def _check_id_token(self, token: Mapping[str, Any], user_info: Mapping[str, Any]) -> None:
        """Check the ID token, which came from the provider itself, over TLS.

        Raises:
            NotIdentified: It is about another person than the claims, or it does not prove a second factor that the
                site requires.
        """
        found: dict[str, Any] = {"sub": user_info.get("sub")}
        if token.get("id_token"):
            try:
                found = jwt.decode(token["id_token"], options={"verify_signature": False})
            except jwt.PyJWTError:
                raise NotIdentified(NO_NAME, "the ID token is not valid") from None
        if found.get("sub") != user_info.get("sub"):
            raise NotIdentified(NO_NAME, "the ID token and the claims are about different people")
        methods = found.get("amr")
        proofs = [found.get("acr"), *(methods if isinstance(methods, list) else [])]
        if self.second_factors and not any(each in self.second_factors for each in proofs if isinstance(each, str)):
            text = Message(
                "This service requires a second factor. Sign out at the identity provider, then sign in with one."
            )
            raise NotIdentified(text, f"acr and amr are {ascii(proofs)[:200]}")

    def provider_logout(self, state: Mapping[str, Any]) -> str:
        """Return the address of the provider's logout, as in OpenID Connect RP-Initiated Logout."""
        if not self.logout_address:
            return ""
        hint = (state.get("token") or {}).get("id_token")
        return with_query(
            self.logout_address,
            **({"id_token_hint": hint} if hint else {}),
            client_id=self.client_id,
            post_logout_redirect_uri=self.public_url + self.signed_out_url,
        )


class CILogonSignOn(OAuthSignOn, CILogonOAuthenticator):  # type: ignore[misc]
    """CILogon: people of many institutions."""

    provider_key = "cilogon"
    identity_providers = Dict(
        config=True,
        help="The institutions that may sign people in, by entity id: the claim with the name, and the domain after"
        " the @ that the name must have and that is removed, or empty.",
    )

    @default("extra_authorize_params")
    def _selected_idp(self) -> dict[str, str]:
        return {"selected_idp": ",".join(self.identity_providers)}

    async def describe(
        self, user_info: dict[str, Any], token: dict[str, Any], info: dict[str, Any] | None, state: dict[str, Any]
    ) -> Person:
        """Return the person in the claims, if the institution may sign people in."""
        entity = user_info.get("idp")
        rule = self.identity_providers.get(entity) if isinstance(entity, str) else None
        if rule is None:
            text = Message("You have signed in with an institution that this service does not accept.")
            raise NotIdentified(text, f"the institution {ascii(entity)[:200]} is not in identity_providers")
        if rule["user_claim"] == "email" and user_info.get("email_verified") is False:
            raise unverified(user_info.get("email"))
        name = without_domain(one_name(user_info.get(rule["user_claim"])), rule["domain"])
        claims = {each: user_info.get(each) for each in (self.groups_claim, self.mail_claim)}
        return Person(name, self.subject(user_info.get("sub")), claims, {"token": token})

    def provider_logout(self, state: Mapping[str, Any]) -> str:
        """Return the address that ends CILogon's session."""
        return f"https://{self.cilogon_host}/logout"


class GitHubSignOn(OAuthSignOn, GitHubOAuthenticator):  # type: ignore[misc]
    """GitHub. A user's groups are the organisations, ``ORG``, and the teams, ``ORG:TEAM``."""

    provider_key = "github"

    @default("scope")
    def _scope(self) -> list[str]:
        return ["read:user", "user:email", "read:org"]

    async def describe(
        self, user_info: dict[str, Any], token: dict[str, Any], info: dict[str, Any] | None, state: dict[str, Any]
    ) -> Person:
        """Return the person, if the primary mail address is verified."""
        addresses = await self._list(f"{self.github_api}/user/emails?per_page=100", token)
        primary = next((each for each in addresses if each.get("primary") is True), {})
        if primary.get("verified") is not True:
            raise unverified(primary.get("email"))
        groups = [each.get("login") for each in await self._list(f"{self.github_api}/user/orgs?per_page=100", token)]
        for team in await self._list(f"{self.github_api}/user/teams?per_page=100", token):
            organisation = (team.get("organization") or {}).get("login")
            groups.append(f"{organisation}:{team.get('slug')}")
        claims = {self.groups_claim: groups, self.mail_claim: primary.get("email")}
        return Person(user_info.get("login"), self.subject(user_info.get("id")), claims, {"token": token})

    async def _list(self, url: str, token: Mapping[str, Any]) -> list[dict[str, Any]]:
        return await all_pages(self, url, token)


class GitLabSignOn(OAuthSignOn, GitLabOAuthenticator):  # type: ignore[misc]
    """GitLab. A user's groups are the full paths of the groups."""

    provider_key = "gitlab"

    @default("scope")
    def _scope(self) -> list[str]:
        return ["read_user", "read_api"]

    async def describe(
        self, user_info: dict[str, Any], token: dict[str, Any], info: dict[str, Any] | None, state: dict[str, Any]
    ) -> Person:
        """Return the person, if the account is active and its mail address is confirmed."""
        if user_info.get("state") != "active":
            text = Message("Your account at the identity provider is not active.")
            raise NotIdentified(text, f"the account is {ascii(user_info.get('state'))[:40]} at GitLab")
        if not user_info.get("confirmed_at"):
            raise unverified(user_info.get("email"))
        found = await all_pages(self, f"{self.gitlab_api}/groups?min_access_level=10&per_page=100", token)
        claims = {
            self.groups_claim: [each.get("full_path") for each in found],
            self.mail_claim: user_info.get("email"),
        }
        return Person(user_info.get("username"), self.subject(user_info.get("id")), claims, {"token": token})


class GoogleSignOn(OAuthSignOn, GoogleOAuthenticator):  # type: ignore[misc]
    """Google Workspace. A user's only group is the domain of the organisation."""

    provider_key = "google"

    @default("extra_authorize_params")
    def _domain_hint(self) -> dict[str, str]:
        return {"hd": self.hosted_domain[0]} if len(self.hosted_domain) == 1 else {}

    async def describe(
        self, user_info: dict[str, Any], token: dict[str, Any], info: dict[str, Any] | None, state: dict[str, Any]
    ) -> Person:
        """Return the person, if the organisation may sign people in, and the mail address is verified."""
        domain, address = user_info.get("hd"), one_name(user_info.get("email"))
        if not isinstance(domain, str) or domain not in self.hosted_domain:
            text = marked("Sign in with a Google account of one of these organisations: {domains}.")
            message = Message(text, domains=listing(self.hosted_domain))
            raise NotIdentified(message, f"the organisation {ascii(domain)[:80]} is not in hosted_domains")
        if user_info.get("verified_email") is not True:
            raise unverified(address)
        name = without_domain(address, domain) if len(self.hosted_domain) == 1 else address
        claims = {self.groups_claim: [domain], self.mail_claim: address}
        return Person(name, self.subject(user_info.get("id")), claims, {"token": token})


class GlobusSignOn(OAuthSignOn, GlobusOAuthenticator):  # type: ignore[misc]
    """Globus Auth. A user's groups are the ids of the Globus groups."""

    provider_key = "globus"
    auth_url = Unicode("https://auth.globus.org", config=True, help="The address of Globus Auth.")
    groups_url = Unicode("https://groups.api.globus.org", config=True, help="The address of Globus Groups.")
    identity_providers = List(
        Unicode(),
        config=True,
        help="The domains of the identity providers that may sign people in. A user must have used an identity of"
        " one of them, not only have linked it. With one domain, the name of the account is the part before the @.",
    )
    tokens_for_sessions = Bool(
        False, config=True, help="Whether the user's sessions get a token for transfers, in a file."
    )

    @default("authorize_url")
    def _authorize_url(self) -> str:
        return f"{self.auth_url}/v2/oauth2/authorize"

    @default("token_url")
    def _token_url(self) -> str:
        return f"{self.auth_url}/v2/oauth2/token"

    @default("userdata_url")
    def _userdata_url(self) -> str:
        return f"{self.auth_url}/v2/oauth2/userinfo"

    @default("revocation_url")
    def _revocation_url(self) -> str:
        return f"{self.auth_url}/v2/oauth2/token/revoke"

    @default("globus_groups_url")
    def _globus_groups_url(self) -> str:
        return f"{self.groups_url}/v2/groups/my_groups"

    @default("scope")
    def _scope(self) -> list[str]:
        scopes = ["openid", "profile", "email", f"urn:globus:auth:scope:{GROUPS}:view_my_groups_and_memberships"]
        return scopes + ([f"urn:globus:auth:scope:{TRANSFER}:all"] if self.tokens_for_sessions else [])

    @default("extra_authorize_params")
    def _session_parameters(self) -> dict[str, str]:
        # "offline" asks for refresh tokens. Globus asks for an identity of one of these domains.
        return {"access_type": "offline", "session_required_single_domain": ",".join(self.identity_providers)}

    def get_client_credential_headers(self) -> dict[str, str]:
        """Return the headers of a request in the name of this service."""
        return dict(super().get_client_credential_headers()) | {"Content-Type": "application/x-www-form-urlencoded"}

    async def describe(
        self, user_info: dict[str, Any], token: dict[str, Any], info: dict[str, Any] | None, state: dict[str, Any]
    ) -> Person:
        """Return the person that used an identity of a permitted provider for this sign-in."""
        others = state.setdefault("others", {})
        others |= self._other_tokens(info, others)
        known = str((state.get("sign_on") or {}).get("received", ""))
        identity = await self._identity(user_info, token, known)
        groups = await self._groups(others)
        username = one_name(identity.get("username"))
        only = self.identity_providers[0] if len(self.identity_providers) == 1 else ""
        claims = {self.groups_claim: groups, self.mail_claim: identity.get("email") or user_info.get("email")}
        kept_state = {"token": token, "others": others}
        return Person(without_domain(username, only), self.subject(identity.get("sub")), claims, kept_state)

    async def _identity(self, user_info: Mapping[str, Any], token: Mapping[str, Any], known: str) -> dict[str, Any]:
        """Return the identity that counts here, of those that the user has linked.

        A linked identity alone proves nothing about who sits in front of the browser. The user must have used it for
        this sign-in. Later checks only require that it is still linked.

        Raises:
            NotIdentified: There is not exactly one.
            Rejected: Globus does not accept the token any more.
        """
        parameters = {"token": token["access_token"], "include": "session_info,identity_set_detail"}
        answer = await self.httpfetch(
            f"{self.auth_url}/v2/oauth2/token/introspect",
            method="POST",
            headers=self.get_client_credential_headers(),
            body=urlencode(parameters).encode(),
            validate_cert=self.validate_server_cert,
        )
        if not isinstance(answer, dict) or not isinstance(answer.get("active"), bool):
            raise Unanswered("Globus' introspection does not say whether the token is active")
        if not answer["active"]:
            raise Rejected("Globus says that the token is not active")
        if answer.get("sub") != user_info.get("sub") or answer.get("client_id", self.client_id) != self.client_id:
            raise NotIdentified(NO_NAME, "Globus' answers are about different people or services")
        linked = [each for each in answer.get("identity_set_detail") or [] if isinstance(each, dict)]
        permitted = [each for each in linked if domain_of(each.get("username")) in self.identity_providers]
        domains = listing(self.identity_providers)
        if not permitted:
            text = marked(
                "This service accepts Globus identities of {domains}, and you have linked none of them. Link one at"
                " app.globus.org/account/identities, then sign in again."
            )
            raise NotIdentified(Message(text, domains=domains), "no linked identity is of a permitted provider")
        if known:
            permitted = [each for each in permitted if each.get("sub") == known]
        else:
            session = answer.get("session_info")
            used = session.get("authentications") if isinstance(session, dict) else None
            permitted = [each for each in permitted if isinstance(used, dict) and each.get("sub") in used]
        if not permitted:
            text = marked("Sign in to Globus with your identity of {domains}. To have linked it is not enough.")
            raise NotIdentified(Message(text, domains=domains), "no identity of a permitted provider was used")
        if len(permitted) > 1:
            text = marked(
                "You have used several identities of {domains} at once, so the service does not know which account is"
                " yours. Sign out at Globus, then sign in with one of them."
            )
            raise NotIdentified(Message(text, domains=domains), f"{len(permitted)} permitted identities were used")
        return permitted[0]

    def _other_tokens(self, info: Mapping[str, Any] | None, former: Mapping[str, Any]) -> dict[str, Any]:
        """Return the tokens for Globus' other services in an answer of the token endpoint, by service."""
        found, now = {}, time.time()
        others = (info or {}).get("other_tokens")
        for each in others if isinstance(others, list) else []:
            service = each.get("resource_server") if isinstance(each, dict) else None
            if service in (GROUPS, TRANSFER):
                found[service] = kept(each, now, former.get(service))
        return found

    async def _groups(self, others: dict[str, Any]) -> list[str]:
        """Return the ids of the groups with an active membership."""
        token = await self._service_token(others, GROUPS)
        if token is None:
            raise Unanswered("Globus has sent no token for its groups")
        try:
            answer = await self.get_json(self.globus_groups_url, token)
        except Rejected:
            if not token.get("refresh_token"):
                raise
            token = await self._service_token(others, GROUPS, math.inf)
            answer = await self.get_json(self.globus_groups_url, token)
        if not isinstance(answer, list):
            raise Unanswered(f"{self.globus_groups_url}: the answer is not a list")

        def active(group: Mapping[str, Any]) -> bool:
            memberships = group.get("my_memberships")
            found = memberships if isinstance(memberships, list) else []
            return any(isinstance(each, dict) and each.get("status") == "active" for each in found)

        return [group["id"] for group in answer if isinstance(group, dict) and "id" in group and active(group)]

    async def _service_token(self, others: dict[str, Any], service: str, least: float = MARGIN) -> Any:
        """Return a token for a service that is valid for a time, or None. A new one is added to ``others``."""
        token = others.get(service)
        if not isinstance(token, dict):
            return None
        if time.time() < (token.get("expires_at") or 0) - least or not token.get("refresh_token"):
            return token
        params = self.build_refresh_token_request_params(token["refresh_token"])
        others[service] = kept(await self.get_token_info(None, params), time.time(), token)
        return others[service]

    async def session_files(self, user: Any) -> dict[str, str]:
        """Return the files for a new session: the token for transfers, if the site wants this."""
        state = await user.get_auth_state() or {}
        others = dict(state.get("others") or {})
        if not self.tokens_for_sessions or TRANSFER not in others:
            return {}
        try:
            token = await self._service_token(others, TRANSFER, FRESH_TRANSFER)
        except (Rejected, Unanswered) as error:
            self.log.warning("The session of %s gets no token for transfers: %s", user.name, error)
            return {}
        if others != state.get("others"):
            await user.save_auth_state(state | {"others": others})
        return {"globus-transfer": transfer_file(token)}

    def provider_logout(self, state: Mapping[str, Any]) -> str:
        """Return the address that ends Globus' session."""
        return with_query(
            f"{self.auth_url}/v2/web/logout",
            client_id=self.client_id,
            redirect_uri=self.public_url + self.signed_out_url,
            redirect_name="Jupyter",
        )

    async def signed_off(self, state: dict[str, Any]) -> dict[str, Any]:
        """Revoke the tokens of the sign-on. A running session keeps its token for transfers."""
        tokens = [state.get("token"), (state.get("others") or {}).get(GROUPS)]
        found = {str(number): token for number, token in enumerate(tokens) if isinstance(token, dict)}
        try:
            for token in found.values():
                for name in ("access_token", "refresh_token"):
                    if token.get(name):
                        await self.httpfetch(
                            self.revocation_url,
                            method="POST",
                            headers=self.get_client_credential_headers(),
                            body=urlencode({"token": token[name]}).encode(),
                            parse_json=False,
                            validate_cert=self.validate_server_cert,
                        )
        except (Rejected, Unanswered) as error:
            self.log.warning("Cannot revoke the tokens of a user who has signed out: %s", error)
        return await super().signed_off(state)


async def all_pages(authenticator: OAuthSignOn, url: str, token: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a list that an API gives out in pages.

    Raises:
        Rejected, Unanswered: see ``OAuthSignOn.fetch``.
    """
    host = re.match(r"https?://[^/]+/", url)
    found: list[dict[str, Any]] = []
    for _ in range(MOST_PAGES):
        response = await authenticator.get_json(url, token, parse_json=False)
        found += entries(response.body, url)
        # The token must not go to another host.
        following = re.search(r'<([^<>]+)>\s*;\s*rel="next"', response.headers.get("Link", ""))
        if following is None:
            return found
        if host is None or not following[1].startswith(host[0]):
            raise Unanswered(f"{url.partition('?')[0]}: the list continues at another host")
        url = following[1]
    raise Unanswered(f"{url.partition('?')[0]}: the list has more than {MOST_PAGES} pages")


def entries(body: bytes, url: str) -> list[dict[str, Any]]:
    """Return the entries of a list in an answer.

    Raises:
        Unanswered: The answer is not a list of objects.
    """
    try:
        answer = json.loads(body.decode())
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, list) or not all(isinstance(each, dict) for each in answer):
        raise Unanswered(f"{url.partition('?')[0]}: the answer is not a list")
    return answer


def domain_of(name: object) -> str:
    """Return the part of a name after its last ``@``, or empty."""
    return name.rpartition("@")[2].lower() if isinstance(name, str) and "@" in name else ""


def without_domain(name: str, domain: str) -> str:
    """Return the part of a name before the domain.

    Args:
        name: The name.
        domain: The domain that it must have, or empty to leave it as it is.

    Raises:
        NotIdentified: It has another domain.
    """
    if not domain:
        return name
    if domain_of(name) != domain.lower():
        text = marked(
            "Your account at the identity provider is called {name}, but only names that end in @{domain} can be used."
        )
        raise NotIdentified(Message(text, name=name[:80], domain=domain), f"{ascii(name)[:80]} is not of {domain}")
    return name.rpartition("@")[0]


def transfer_file(token: Mapping[str, Any]) -> str:
    """Return the content of a session's file with its token for transfers, as JSON."""
    fields = ("access_token", "expires_at", "scope")
    return json.dumps({"resource_server": TRANSFER, **{name: token[name] for name in fields if name in token}})


KINDS: dict[str, type[OAuthSignOn]] = {
    "generic": GenericSignOn,
    "globus": GlobusSignOn,
    "cilogon": CILogonSignOn,
    "github": GitHubSignOn,
    "gitlab": GitLabSignOn,
    "google": GoogleSignOn,
}
"""The authenticators by the inventory's name of the kind."""
