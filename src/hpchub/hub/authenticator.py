"""Who somebody is: what Apache's single sign-on says, through JupyterHub's own login path.

Nothing but Apache can reach the hub's socket, and Apache removes these headers from every request before it sets its
own, on the locations where it has asked for a sign-on. They mean nothing on any other way in.
"""

from __future__ import annotations

import pwd
import re
from typing import Any

from jhub_remote_user_authenticator.remote_user_auth import RemoteUserAuthenticator, RemoteUserLoginHandler
from jupyterhub.handlers import LogoutHandler
from tornado import web
from traitlets import Bool, Integer, Set, Unicode

from hpchub.hub.handlers import PortReportHandler, StartAPIHandler, StartPageHandler

ACCOUNT_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
"""A local account's name, as shadow-utils permits it by default."""

NOBODY = 65534
"""Linux's uid for who has none here: a system account above all others."""


class SSOLoginHandler(RemoteUserLoginHandler):  # type: ignore[misc]
    """Signs in through ``login_user``, which checks, records and only then sets the cookie."""

    async def get(self) -> None:
        """Sign the SSO user in, or refuse with 403."""
        user = await self.login_user({})
        if user is None:
            identity = self.authenticator.identity(self)
            who = f"signed in as {identity['name']}" if identity else "not signed in under an account's name"
            raise web.HTTPError(403, f"You are {who}, and this account may not use the service.")
        self.redirect(self.get_next_url(user))


class SSOLogoutHandler(LogoutHandler):  # type: ignore[misc]
    """Ends the hub's session, then sends the browser on to end the single sign-on's too."""

    async def render_logout_page(self) -> None:
        """Go on to the end of the SSO session."""
        self.redirect(self.authenticator.sso_logout_url, permanent=False)


class SSOAuthenticator(RemoteUserAuthenticator):  # type: ignore[misc]
    """Takes the identity that Apache established. Who is not permitted by a rule is refused."""

    header_name = Unicode("X-Hpchub-User", config=True, help="Request header with the user's name.")
    groups_header = Unicode(
        "X-Hpchub-Groups", config=True, help="Request header with the user's groups, separated by commas."
    )
    mail_header = Unicode("X-Hpchub-Mail", config=True, help="Request header with the user's mail address.")
    sso_logout_url = Unicode(
        "/hub/login",
        config=True,
        help="Where the browser goes after the hub's logout, to end the SSO session.",
    )
    permitted_groups = Set(Unicode(), config=True, help="SSO groups whose members may use the service.")
    admin_groups = Set(Unicode(), config=True, help="SSO groups whose members administer the hub.")
    minimum_uid = Integer(1000, config=True, help="The least uid of an account that may sign in.")
    check_accounts = Bool(
        True,
        config=True,
        help="Whether the account must exist on the hub host. Without it only the submit host checks, at the start;"
        " the hub host's own system accounts are refused all the same.",
    )

    manage_groups = True
    auto_login = True
    any_allow_config = True  # the rule is check_allowed below; JupyterHub's warning knows only its own traits

    def get_handlers(self, app: Any) -> list[tuple[str, type]]:
        """Our handlers come before JupyterHub's and batchspawner's of the same path, and so take their place."""
        return [
            (r"/login", SSOLoginHandler),
            (r"/logout", SSOLogoutHandler),
            (r"/api/batchspawner", PortReportHandler),
            (r"/api/users/([^/]+)/server", StartAPIHandler),
            (r"/spawn", StartPageHandler),
            (r"/spawn/([^/]+)", StartPageHandler),
        ]

    def identity(self, handler: Any) -> dict[str, Any] | None:
        """The identity in a request, or None unless there is exactly one and it is well formed."""
        names = handler.request.headers.get_list(self.header_name)
        if len(names) != 1 or not ACCOUNT_NAME.fullmatch(names[0]):
            if names:
                self.log.warning("Refused: the identity is not one local account name: %r", ascii(names)[:80])
            return None
        groups = handler.request.headers.get(self.groups_header, "")
        mail = handler.request.headers.get(self.mail_header, "")
        group_names = sorted({name.strip() for name in re.split("[,;]", groups) if name.strip()})
        return {
            "name": names[0],
            "groups": group_names,
            "admin": names[0] in self.admin_users or bool(self.admin_groups & set(group_names)),
            "auth_state": {"mail": mail, "groups": group_names},
        }

    async def authenticate(self, handler: Any, data: Any = None) -> dict[str, Any] | None:
        """See Authenticator.authenticate. The form data is not looked at."""
        return self.identity(handler)

    def check_allowed(self, username: str, authentication: dict[str, Any] | None = None) -> bool:
        """Deny unless a rule permits: the account is an ordinary one, and it or one of its groups is named."""
        if not self._ordinary_account(username):
            return False
        groups = set((authentication or {}).get("groups") or ())
        return username in self.allowed_users or bool(self.permitted_groups & groups)

    def _ordinary_account(self, username: str) -> bool:
        try:
            uid = pwd.getpwnam(username).pw_uid
        except KeyError:
            if not self.check_accounts:
                return True
            self.log.warning("Refused: %s has no account on this host", username)
            return False
        if uid < max(1, self.minimum_uid) or uid == NOBODY:
            self.log.warning("Refused: %s is a system account (uid %d)", username, uid)
            return False
        return True

    async def pre_spawn_start(self, user: Any, spawner: Any) -> None:
        """In the middle of what JupyterHub does before a start: let others have the hub's loop."""
        await spawner.runtime.turns.take()

    async def refresh_user(self, user: Any, handler: Any = None, **kwargs: Any) -> Any:
        """Whether the SSO session that signed this user in still lasts.

        True where there is nothing to compare: a token's request, or somebody else's on the user's behalf. False
        when the browser's SSO session has ended, is somebody else's, or is no longer permitted.
        """
        if handler is None or getattr(handler, "_token_authenticated", False):
            return True
        if getattr(handler, "_jupyterhub_user", user) is not user:
            return True
        identity = self.identity(handler)
        if identity is None or identity["name"] != user.name:
            self.log.info("The sign-on of %s has ended", user.name)
            return False
        if not self.check_blocked_users(user.name, identity) or not self.check_allowed(user.name, identity):
            return False
        known = (sorted(group.name for group in user.groups), user.admin)
        return True if known == (identity["groups"], identity["admin"]) else identity
