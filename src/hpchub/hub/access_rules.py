"""The access rules: which signed-in users may use the service, however they signed in.

Every authenticator of hpchub has this class as a base, so that no way to sign in can lack one of the rules.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from jupyterhub.auth import Authenticator
from traitlets import Bool, Integer, List, Set, Unicode

from hpchub.hub.handlers import (
    AdoptionHandler,
    FreshMetricsHandler,
    HealthHandler,
    PortReportHandler,
    StartAPIHandler,
    TokenOwnerHandler,
    TokensAPIHandler,
)
from hpchub.hub.home_handler import HomePageHandler
from hpchub.hub.identities import Identity, other_owner, release, take
from hpchub.hub.language_handler import LanguageHandler
from hpchub.hub.saved_settings import forget
from hpchub.hub.session_handlers import IdleHandler, PendingPageHandler, ProgressHandler, SessionHandler
from hpchub.hub.start_page import AvailabilityHandler, StartPageHandler
from hpchub.hub.tokens import revoke_tokens
from hpchub.hub.unix_groups import MISSING, Accounts, UnixGroups
from hpchub.hub.waiting_handlers import CancelHandler, MailHandler, StopHandler, SwitchHandler
from hpchub.names import GROUP_NAME_LIMIT, NOBODY, USER_PATTERN, is_user_name

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


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


class AccessRules(Authenticator):  # type: ignore[misc]
    """The base of hpchub's authenticators. It permits only users that match a rule."""

    groups_claim = Unicode("groups", config=True, help="The claim with the user's groups.")
    groups_separator = Unicode(
        "",
        config=True,
        help="The text between two groups if the claim is text. If empty, such a text is the name of one group.",
    )
    host_groups = Bool(
        False,
        config=True,
        help="Whether the groups are the Unix groups of the account on the hub host, because the sign-on has none.",
    )
    mail_claim = Unicode("email", config=True, help="The claim with the user's email address.")
    attributes = List(
        Unicode(),
        config=True,
        help="Further claims that auth state contains, under ``attributes``, for the site's hooks.",
    )
    user_pattern = Unicode(
        USER_PATTERN,
        config=True,
        help="A regular expression for the whole name of a user. Names must also follow ``hpchub.names.USER_NAME``.",
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
    any_allow_config = (
        True  # check_allowed below denies by default; JupyterHub would warn because it checks only its own traits
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._accounts = Accounts()
        self._unix_groups = UnixGroups()

    def get_handlers(self, app: Any) -> list[tuple[str, type]]:
        """Return hpchub's handlers. They replace JupyterHub's and batchspawner's handlers for the same paths."""
        return [
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

    def identity_of(
        self, name: str, claims: Mapping[str, Any], sign_on: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Return the identity of a user, as ``authenticate`` returns it. Call ``find_account`` before this method.

        Args:
            name: The name of the account, which ``validate_username`` accepts.
            claims: The identity provider's claims about the user.
            sign_on: The provider, the claim and the received name, if they are known; see ``hpchub.hub.identities``.
        """
        if self.host_groups:
            groups = group_names([each for each in self._unix_groups.known(name) or () if not each.isdigit()], "")
        else:
            groups = group_names(claims.get(self.groups_claim), self.groups_separator)
        return {
            "name": name,
            "groups": groups,
            "admin": self.administers(name, groups),
            "auth_state": {
                "mail": str(claims.get(self.mail_claim) or ""),
                "groups": groups,
                "attributes": {claim: claims[claim] for claim in self.attributes if claim in claims},
                "second_factor": {claim: claims[claim] for claim in ("acr", "amr") if claim in claims},
                "sign_on": dict(sign_on or {}),
            },
        }

    async def find_account(self, name: str) -> bool:
        """Ask the directory of accounts about a user, unless its last answer is fresh. Return whether it is known."""
        asked: list[Accounts | UnixGroups] = [self._accounts, *([self._unix_groups] if self.host_groups else [])]
        await asyncio.gather(*(each.refresh(name) for each in asked))
        return all(each.known(name) is not None for each in asked)

    async def missing_accounts(self, names: Collection[str]) -> set[str]:
        """Ask the directory of accounts about many users, and return those who have none according to its answer."""
        await self._accounts.refresh_all(names)
        return {name for name in names if self._accounts.known(name) == MISSING}

    async def run_post_auth_hook(self, handler: Any, auth_model: dict[str, Any]) -> dict[str, Any] | None:
        """Let the account belong to the person who signs in. JupyterHub calls this method once the rules permit that.

        Returns:
            The identity, or None if the site's hook refuses it, or if the account belongs to another person.

        Raises:
            SQLAlchemyError: The database cannot be used.
        """
        name, sign_on = auth_model["name"], auth_model["auth_state"]["sign_on"]
        found: dict[str, Any] | None = await super().run_post_auth_hook(handler, auth_model)
        return None if found is None or (sign_on and take(handler.db, name, sign_on)) else found

    def belongs_to_another(self, handler: Any, identity: Mapping[str, Any]) -> bool:
        """Return whether the account of a sign-in belongs to another person of the single sign-on, and log it.

        Raises:
            SQLAlchemyError: The database cannot be read.
        """
        sign_on = identity["auth_state"]["sign_on"]
        other: Identity | None = other_owner(handler.db, identity["name"], sign_on) if sign_on else None
        if other is not None:
            self.log.warning(
                "Sign-in refused: the user mapping gives account %s to %s (claim %s of provider %s), but the account"
                " belongs to %s. Correct hpc_sso.user_mapping. If both are one person, run: hpchub identities --release"
                " %s; or delete the user on the page Admin, which keeps the account",
                *(other.account, ascii(sign_on["received"]), sign_on["claim"], other.provider, ascii(other.received)),
                other.account,
            )
        return other is not None

    def uses_token(self, handler: Any) -> bool:
        """Return whether a request uses a token. Call this before a ``refresh_user`` that may refuse the user.

        JupyterHub 6.1 reads the attribute after a refusal, but sets it only for requests with a token. Without it, the
        request of a browser would end with an unexpected error.
        """
        with_token = bool(getattr(handler, "_token_authenticated", False))
        handler._token_authenticated = with_token  # noqa: SLF001
        return with_token

    def administers(self, name: str, groups: Collection[str]) -> bool:
        """Return whether a user may administer the hub."""
        return name in self.admin_users or bool(self.admin_groups & set(groups))

    def check_blocked_users(self, username: str, authentication: dict[str, Any] | None = None) -> bool:
        """Return whether the user is not blocked. Other packages extend this method as a coroutine; see ``refuses``."""
        return username not in self.blocked_users

    def check_allowed(self, username: str, authentication: dict[str, Any] | None = None) -> bool:
        """Return whether a rule permits the user. The default is to deny. Call ``find_account`` before this method.

        The account must be an ordinary account, and a rule must name the user or one of the user's groups. The rules
        that name administrators count too.
        """
        if not self._ordinary_account(username):
            return False
        return self.permits(username, (authentication or {}).get("groups") or ())

    def permits(self, username: str, groups: Collection[str]) -> bool:
        """Return whether a rule names the user or one of the groups."""
        return username in self.allowed_users | self.admin_users or bool(
            (self.permitted_groups | self.admin_groups) & set(groups)
        )

    def _ordinary_account(self, username: str) -> bool:
        """Return whether the account exists, if ``check_accounts`` is set, and is not a system account."""
        account = self._accounts.known(username)
        if account is None:
            self.log.warning("The directory of accounts does not say whether there is an account %s", username)
            return False
        if account == MISSING:
            if not self.check_accounts:
                return True
            self.log.warning("Sign-in refused: user %s has no account on the hub host", username)
            return False
        if account.name != username:
            # Some directories ignore case, or accept a name with and without its realm. One person would be two users.
            self.log.warning(
                "Sign-in refused: the account %s is called %s on the hub host; the identity provider must send this"
                " name",
                *(username, ascii(account.name)),
            )
            return False
        if account.uid < max(1, self.minimum_uid) or account.uid == NOBODY:
            self.log.warning("Sign-in refused: user %s is a system account (uid %d)", username, account.uid)
            return False
        return True

    def refuses(self, username: str, groups: Collection[str]) -> bool:
        """Return whether the rules certainly do not permit the user.

        If the account is not found, the directory of accounts may only not answer. Then the answer is false.
        """
        if not self.check_blocked_users(username):
            return True
        account = self._accounts.known(username)
        if self.check_accounts and account in (None, MISSING):
            return False
        if account is None:
            return not self.permits(username, groups)
        return not self.check_allowed(username, {"groups": list(groups)})

    def end_tokens(self, user: Any, groups: Collection[str]) -> None:
        """Delete the tokens of a user who has just been refused. They would work without the single sign-on."""
        if self.refuses(user.name, groups):
            revoke_tokens(user, "the service has refused this user")

    def delete_user(self, user: Any) -> None:
        """Delete what the user has saved. Another person may get the same name later."""
        super().delete_user(user)
        forget(user.db, user.name)
        release(user.db, user.name)

    async def pre_spawn_start(self, user: Any, spawner: Any) -> None:
        """Let other requests run. JupyterHub calls this method in the middle of its own work for a start."""
        await spawner.runtime.throttle.wait_for_turn()
        spawner.session_files = await self.session_files(user)

    async def session_files(self, user: Any) -> dict[str, str]:
        """Return the files that a new session of the user gets, by name. Only the user can read them."""
        return {}
