"""The authenticator. It accepts the identity that Apache's single sign-on (SSO) established.

Only Apache can connect to the hub's socket. Apache removes the identity headers from every request and sets them itself
after a successful sign-on. The headers can therefore be trusted.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from jhub_remote_user_authenticator.remote_user_auth import RemoteUserAuthenticator, RemoteUserLoginHandler
from jupyterhub.handlers import LogoutHandler
from traitlets import List, Unicode

from hpchub.hub.access_rules import AccessRules
from hpchub.hub.events import AccessEnded
from hpchub.hub.handlers import announce
from hpchub.hub.identities import read_sign_on
from hpchub.hub.sign_in import SignsIn, SignsOut
from hpchub.hub.unix_groups import NoAnswer


def read_claims(values: list[str]) -> dict[str, Any]:
    """Return the claims in a header: a JSON object, encoded with base64url. Anything else contains no claims.

    Args:
        values: The header's values in a request. A header with several values contains no claims.
    """
    if len(values) != 1:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(values[0] + "=" * (-len(values[0]) % 4)))
    except (ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


class SSOLoginHandler(SignsIn, RemoteUserLoginHandler):  # type: ignore[misc]
    """A login page that signs in the user of the request's SSO session."""

    def known_identity(self) -> dict[str, Any] | None:
        """Return the identity that Apache has sent."""
        found: dict[str, Any] | None = self.authenticator.identity(self)
        return found

    async def get(self) -> None:
        """Sign the SSO user in, or answer 403. Answer 503 if the database cannot be used."""
        self.redirect(self.get_next_url(await self.sign_in({})))


class SSOLogoutHandler(SignsOut, LogoutHandler):  # type: ignore[misc]
    """A logout page that ends the hub's login, the browser's websockets, and then the SSO session."""

    async def handle_logout(self) -> None:
        """End the login of the user of the SSO session, or else of the hub's cookie."""
        identity = self.authenticator.identity(self)
        if name := identity["name"] if identity else getattr(self.current_user, "name", ""):
            await self.end_login(name)

    async def render_logout_page(self) -> None:
        """Redirect the browser to the SSO logout."""
        self.redirect(self.authenticator.sso_logout_url, permanent=False)


class SSOAuthenticator(AccessRules, RemoteUserAuthenticator):  # type: ignore[misc]
    """An authenticator that accepts the identity from Apache and permits only users that match a rule."""

    header_name = Unicode("X-Hpchub-User", config=True, help="The request header with the user's name.")
    claims_headers = List(
        Unicode(),
        ["X-Hpchub-Userinfo", "X-Hpchub-Id-Token"],
        config=True,
        help="The request headers with the identity provider's claims: JSON objects, encoded with base64url. If two"
        " headers contain a claim, the last one applies.",
    )
    sign_on_header = Unicode(
        "X-Hpchub-Sign-On",
        config=True,
        help="The request header with the provider, the claim and the name that the account's name comes from.",
    )
    sso_logout_url = Unicode(
        "/hub/login",
        config=True,
        help="The URL to which the hub's logout redirects the browser, to end the SSO session.",
    )
    auto_login = True

    def get_handlers(self, app: Any) -> list[tuple[str, type]]:
        """Return the handlers of the sign-on, and hpchub's others."""
        return [(r"/login", SSOLoginHandler), (r"/logout", SSOLogoutHandler), *super().get_handlers(app)]

    def identity(self, handler: Any) -> dict[str, Any] | None:
        """Return the identity from a request's headers, or None unless there is exactly one valid name."""
        headers = handler.request.headers
        names = headers.get_list(self.header_name)
        if len(names) != 1 or not self.validate_username(names[0]):
            if names:
                self.log.warning(
                    "Sign-in refused: the header does not contain exactly one valid account name: %s", ascii(names)[:80]
                )
            return None
        claims: dict[str, Any] = {}
        for name in self.claims_headers:
            claims |= read_claims(headers.get_list(name))
        told = headers.get_list(self.sign_on_header)
        sign_on = read_sign_on(read_claims(told))
        if told and sign_on is None:
            # Without it, nobody knows whether the account belongs to this person.
            self.log.warning("Sign-in refused: the header %s cannot be read", self.sign_on_header)
            return None
        return self.identity_of(names[0], claims, sign_on)

    async def _found_identity(self, handler: Any) -> dict[str, Any] | None:
        """Return the identity once the directory of accounts has answered."""
        identity = self.identity(handler)
        if identity is not None and not await self.find_account(identity["name"]):
            raise NoAnswer(identity["name"])
        return identity and self.identity(handler)

    async def authenticate(self, handler: Any, data: Any = None) -> dict[str, Any] | None:
        """Return the identity of a sign-in; see ``Authenticator.authenticate``. The form data is ignored.

        Only the login handler signs users in. JupyterHub's handler for new API tokens also calls this method if a
        request has no valid cookie, and then skips the XSRF check.

        Raises:
            NoAnswer: The directory of accounts does not answer.
        """
        identity = await self._found_identity(handler) if isinstance(handler, SSOLoginHandler) else None
        return identity if identity and not self.belongs_to_another(handler, identity) else None

    async def refresh_user(self, user: Any, handler: Any = None, **kwargs: Any) -> Any:
        """Check that the request's SSO session still belongs to this user.

        Returns:
            True if nothing has changed, or if there is nothing to compare: the request uses a token, another user sent
            it on this user's behalf, or the directory of accounts does not answer. False if the SSO session has ended,
            belongs to another user, or is no longer permitted. Otherwise the identity with the changed groups.
        """
        if handler is None or self.uses_token(handler) or getattr(handler, "_jupyterhub_user", user) is not user:
            return True
        identity = self.identity(handler)
        if identity is None or identity["name"] != user.name:
            self.log.info("The SSO session of user %s has ended", user.name)
            announce(handler, AccessEnded, user=user.name, reason="signed_out")
            return False
        if self.belongs_to_another(handler, identity):
            announce(handler, AccessEnded, user=user.name, reason="not_permitted")
            return False
        if self.check_blocked_users(user.name) and not await self.find_account(user.name):
            return True
        identity = self.identity(handler) or identity
        if not self.check_blocked_users(user.name, identity) or not self.check_allowed(user.name, identity):
            self.end_tokens(user, identity["groups"])
            announce(handler, AccessEnded, user=user.name, reason="not_permitted")
            return False
        known = (sorted(group.name for group in user.groups), user.admin)
        return True if known == (identity["groups"], identity["admin"]) else identity
