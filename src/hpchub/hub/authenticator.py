"""The authenticator. It accepts the identity that Apache's single sign-on (SSO) established.

Only Apache can connect to the hub's socket. Apache removes the identity headers from every request and sets them itself
after a successful sign-on. The headers can therefore be trusted.
"""

from __future__ import annotations

import base64
import json
import pwd
from typing import TYPE_CHECKING, Any

from jhub_remote_user_authenticator.remote_user_auth import RemoteUserAuthenticator, RemoteUserLoginHandler
from jupyterhub import orm
from jupyterhub.handlers import LogoutHandler
from sqlalchemy.exc import SQLAlchemyError
from traitlets import Bool, Integer, List, Set, Unicode

from hpchub.hub.events import AccessEnded, SignedIn, SignedOut, SignInRefused
from hpchub.hub.handlers import (
    AdoptionHandler,
    FreshMetricsHandler,
    HealthHandler,
    PortReportHandler,
    StartAPIHandler,
    TokenOwnerHandler,
    TokensAPIHandler,
    announce,
)
from hpchub.hub.home_handler import HomePageHandler
from hpchub.hub.language_handler import LanguageHandler
from hpchub.hub.saved_settings import forget
from hpchub.hub.session_handlers import IdleHandler, PendingPageHandler, ProgressHandler, SessionHandler
from hpchub.hub.start_page import AvailabilityHandler, StartPageHandler
from hpchub.hub.tokens import account_exists, revoke_tokens
from hpchub.hub.user_error import UserError
from hpchub.hub.waiting_handlers import CancelHandler, MailHandler, StopHandler, SwitchHandler
from hpchub.messages import Message, marked
from hpchub.names import GROUP_NAME_LIMIT, NOBODY, USER_PATTERN, is_user_name

if TYPE_CHECKING:
    from collections.abc import Collection


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


def group_names(claim: object, separator: str) -> list[str]:
    """Return the names in a claim with groups. They are never changed or split, except for the given separator.

    Args:
        claim: The claim's value: a list of names, or one name. Some providers send numbers.
        separator: The text between two names in a claim that is text. If empty, the text is one name.
    """
    if isinstance(claim, str) and separator:
        claim = claim.split(separator)
    items = claim if isinstance(claim, list) else [claim]
    names = {str(item) for item in items if isinstance(item, (str, int)) and not isinstance(item, bool)}
    return sorted(name for name in names if name.isprintable() and 0 < len(name) <= GROUP_NAME_LIMIT)


PROBLEM = Message(
    "The service has a problem at the moment, so you cannot sign in. Notebooks that are running go on, and nothing in"
    " them is lost. Please try again in a few minutes."
)


class SSOLoginHandler(RemoteUserLoginHandler):  # type: ignore[misc]
    """A login page that signs the user in with ``login_user``, which checks access before it sets the cookie."""

    async def get(self) -> None:
        """Sign the SSO user in, or answer 403. Answer 503 if the database cannot be used."""
        try:
            user = await self.login_user({})
        except SQLAlchemyError as error:
            self.db.rollback()
            announce(
                self,
                SignInRefused,
                user=(self.authenticator.identity(self) or {}).get("name", ""),
                reason="unavailable",
            )
            self.log.error("Nobody can sign in, because the database cannot be used: %s", error)
            raise UserError(503, PROBLEM) from None
        if user is None:
            identity = self.authenticator.identity(self)
            if identity and (known := orm.User.find(self.db, identity["name"])):
                self.authenticator.end_tokens(known, identity["groups"])
            if identity is None:
                announce(self, SignInRefused, user="", reason="no_identity")
                raise UserError(403, Message("Your sign-in does not contain a valid account name for this service."))
            announce(self, SignInRefused, user=identity["name"], reason="not_permitted")
            text = marked("You are signed in as {name}, and this account may not use the service.")
            raise UserError(403, Message(text, name=identity["name"]))
        announce(self, SignedIn, user=user.name)
        self.redirect(self.get_next_url(user))


class SSOLogoutHandler(LogoutHandler):  # type: ignore[misc]
    """A logout page that ends the hub's login, the browser's websockets, and then the SSO session."""

    async def handle_logout(self) -> None:
        """Close what the browser has open at notebook servers. Apache alone cannot close an open websocket."""
        identity = self.authenticator.identity(self)
        if name := identity["name"] if identity else getattr(self.current_user, "name", ""):
            await self.proxy.end_login(name, self.get_session_cookie())
            announce(self, SignedOut, user=name)

    async def render_logout_page(self) -> None:
        """Redirect the browser to the SSO logout."""
        self.redirect(self.authenticator.sso_logout_url, permanent=False)


class SSOAuthenticator(RemoteUserAuthenticator):  # type: ignore[misc]
    """An authenticator that accepts the identity from Apache and permits only users that match a rule."""

    header_name = Unicode("X-Hpchub-User", config=True, help="The request header with the user's name.")
    claims_headers = List(
        Unicode(),
        ["X-Hpchub-Userinfo", "X-Hpchub-Id-Token"],
        config=True,
        help="The request headers with the identity provider's claims: JSON objects, encoded with base64url. If two"
        " headers contain a claim, the last one applies.",
    )
    groups_claim = Unicode("groups", config=True, help="The claim with the user's groups.")
    groups_separator = Unicode(
        "",
        config=True,
        help="The text between two groups if the claim is text. If empty, such a text is the name of one group.",
    )
    mail_claim = Unicode("email", config=True, help="The claim with the user's email address.")
    user_pattern = Unicode(
        USER_PATTERN,
        config=True,
        help="A regular expression for the whole name of a user. Names must also follow ``hpchub.names.USER_NAME``.",
    )
    sso_logout_url = Unicode(
        "/hub/login",
        config=True,
        help="The URL to which the hub's logout redirects the browser, to end the SSO session.",
    )
    permitted_groups = Set(Unicode(), config=True, help="The SSO groups that may use the service.")
    admin_groups = Set(Unicode(), config=True, help="The SSO groups that may use the service and administer the hub.")
    minimum_uid = Integer(1000, config=True, help="The lowest uid of an account that may sign in.")
    check_accounts = Bool(
        True,
        config=True,
        help="Whether the account must exist on the hub host. If false, only the submit host checks the account, when"
        " a session starts. System accounts of the hub host are refused in both cases.",
    )

    manage_groups = True
    auto_login = True
    any_allow_config = (
        True  # check_allowed below denies by default; JupyterHub would warn because it checks only its own traits
    )

    def get_handlers(self, app: Any) -> list[tuple[str, type]]:
        """Return hpchub's handlers. They replace JupyterHub's and batchspawner's handlers for the same paths."""
        return [
            (r"/login", SSOLoginHandler),
            (r"/logout", SSOLogoutHandler),
            (r"/home", HomePageHandler),
            (r"/language", LanguageHandler),
            (r"/health", HealthHandler),
            (r"/api/health", HealthHandler),
            (r"/metrics", FreshMetricsHandler),
            (r"/api/metrics", FreshMetricsHandler),
            (r"/api/batchspawner", PortReportHandler),
            (r"/api/hpchub/adoption", AdoptionHandler),
            (r"/api/hpchub/idle", IdleHandler),
            (r"/api/user", TokenOwnerHandler),
            (r"/api/users/([^/]+)/tokens", TokensAPIHandler),
            (r"/api/users/([^/]+)/server", StartAPIHandler),
            (r"/api/users/([^/]+)/servers/([^/]*)", StartAPIHandler),
            (r"/api/users/([^/]+)/server/progress", ProgressHandler),
            (r"/api/users/([^/]+)/servers/([^/]*)/progress", ProgressHandler),
            (r"/api/hpchub/sessions/([^/]+)(?:/([^/]*))?", SessionHandler),
            (r"/spawn-pending/([^/]+)", PendingPageHandler),
            (r"/spawn-pending/([^/]+)/([^/]+)", PendingPageHandler),
            (r"/availability/([^/]+)", AvailabilityHandler),
            (r"/cancel/([^/]+)", CancelHandler),
            (r"/cancel/([^/]+)/([^/]+)", CancelHandler),
            (r"/stop/([^/]+)", StopHandler),
            (r"/stop/([^/]+)/([^/]+)", StopHandler),
            (r"/smaller/([^/]+)", SwitchHandler),
            (r"/smaller/([^/]+)/([^/]+)", SwitchHandler),
            (r"/mail-when-ready/([^/]+)", MailHandler),
            (r"/mail-when-ready/([^/]+)/([^/]+)", MailHandler),
            (r"/spawn", StartPageHandler),
            (r"/spawn/([^/]+)", StartPageHandler),
            (r"/spawn/([^/]+)/([^/]+)", StartPageHandler),
        ]

    def normalize_username(self, username: str) -> str:
        """Return the name unchanged. JupyterHub's default is lower case, which may be another account."""
        return username

    def validate_username(self, username: str) -> bool:
        """Return whether a user can have this name. JupyterHub also asks this when an administrator adds a user."""
        return is_user_name(username, self.user_pattern)

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
        groups = group_names(claims.get(self.groups_claim), self.groups_separator)
        return {
            "name": names[0],
            "groups": groups,
            "admin": names[0] in self.admin_users or bool(self.admin_groups & set(groups)),
            "auth_state": {"mail": str(claims.get(self.mail_claim) or ""), "groups": groups},
        }

    async def authenticate(self, handler: Any, data: Any = None) -> dict[str, Any] | None:
        """Return the identity of a sign-in; see ``Authenticator.authenticate``. The form data is ignored.

        Only the login handler signs users in. JupyterHub's handler for new API tokens also calls this method if a
        request has no valid cookie, and then skips the XSRF check.
        """
        return self.identity(handler) if isinstance(handler, SSOLoginHandler) else None

    def check_allowed(self, username: str, authentication: dict[str, Any] | None = None) -> bool:
        """Return whether a rule permits the user. The default is to deny.

        The account must be an ordinary account, and a rule must name the user or one of the user's groups. The rules
        that name administrators count too.
        """
        if not self._ordinary_account(username):
            return False
        groups = set((authentication or {}).get("groups") or ())
        return username in self.allowed_users | self.admin_users or bool(
            (self.permitted_groups | self.admin_groups) & groups
        )

    def _ordinary_account(self, username: str) -> bool:
        """Return whether the account exists, if ``check_accounts`` is set, and is not a system account."""
        try:
            account = pwd.getpwnam(username)
        except KeyError:
            if not self.check_accounts:
                return True
            self.log.warning("Sign-in refused: user %s has no account on the hub host", username)
            return False
        if account.pw_name != username:
            # Some directories ignore case, or accept a name with and without its realm. One person would be two users.
            self.log.warning(
                "Sign-in refused: the account %s is called %s on the hub host; the identity provider must send this"
                " name",
                *(username, ascii(account.pw_name)),
            )
            return False
        uid = account.pw_uid
        if uid < max(1, self.minimum_uid) or uid == NOBODY:
            self.log.warning("Sign-in refused: user %s is a system account (uid %d)", username, uid)
            return False
        return True

    def refuses(self, username: str, groups: Collection[str]) -> bool:
        """Return whether the rules certainly do not permit the user.

        If the account is not found, the directory of accounts may only not answer. Then the answer is false.
        """
        if not self.check_blocked_users(username):
            return True
        if self.check_accounts and not account_exists(username):
            return False
        return not self.check_allowed(username, {"groups": list(groups)})

    def end_tokens(self, user: Any, groups: Collection[str]) -> None:
        """Delete the tokens of a user who has just been refused. They would work without the single sign-on."""
        if self.refuses(user.name, groups):
            revoke_tokens(user, "the service has refused this user")

    def delete_user(self, user: Any) -> None:
        """Delete what the user has saved. Another person may get the same name later."""
        super().delete_user(user)
        forget(user.db, user.name)

    async def pre_spawn_start(self, user: Any, spawner: Any) -> None:
        """Let other requests run. JupyterHub calls this method in the middle of its own work for a start."""
        await spawner.runtime.throttle.wait_for_turn()

    async def refresh_user(self, user: Any, handler: Any = None, **kwargs: Any) -> Any:
        """Check that the request's SSO session still belongs to this user.

        Returns:
            True if nothing has changed, or if there is nothing to compare: the request uses a token, or another user
            sent it on this user's behalf. False if the SSO session has ended, belongs to another user, or is no longer
            permitted. Otherwise the identity with the changed groups.
        """
        if handler is None or getattr(handler, "_token_authenticated", False):
            return True
        if getattr(handler, "_jupyterhub_user", user) is not user:
            return True
        identity = self.identity(handler)
        if identity is None or identity["name"] != user.name:
            self.log.info("The SSO session of user %s has ended", user.name)
            announce(handler, AccessEnded, user=user.name, reason="signed_out")
            return False
        if not self.check_blocked_users(user.name, identity) or not self.check_allowed(user.name, identity):
            self.end_tokens(user, identity["groups"])
            announce(handler, AccessEnded, user=user.name, reason="not_permitted")
            return False
        known = (sorted(group.name for group in user.groups), user.admin)
        return True if known == (identity["groups"], identity["admin"]) else identity
