"""API tokens end: after their lifetime, and when their user may no longer use the service.

A token works without the single sign-on, so nothing else ends it when a person leaves.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from time import monotonic
from typing import TYPE_CHECKING

from jupyterhub import orm
from jupyterhub.utils import utcnow
from sqlalchemy import or_
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import object_session

from hpchub.canary import SERVICE as CANARY

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from sqlalchemy.orm import Session

log = logging.getLogger(__name__)

INTERVAL = 600.0
"""The time between two checks of all tokens, in seconds."""

ACCOUNT_PATIENCE = 3600.0
"""How long an account must be missing before its tokens are deleted, in seconds."""


SCRAPER = "prometheus"
"""The service that owns the token of a Prometheus server."""


def revoke_former_service_tokens(db: Session, configured: Iterable[str]) -> None:
    """Delete the tokens of our services from before a rotation, which JupyterHub keeps.

    Args:
        db: JupyterHub's database session.
        configured: The tokens of services in the configuration.

    Raises:
        SQLAlchemyError: The database cannot be written.
    """
    kept = [orm.APIToken.find(db, token) for token in configured]
    for service in filter(None, (orm.Service.find(db, name) for name in (SCRAPER, CANARY))):
        for token in service.api_tokens:
            if token not in kept:
                db.delete(token)
                log.warning("Deleted a former token of the service %s", service.name)
    db.commit()


def revoke_tokens(user: Any, why: str) -> None:
    """Delete all tokens of a user, also those of the user's sessions and browsers.

    Args:
        user: JupyterHub's user, or the user's row in the database.
        why: The reason for the log, as the end of a sentence.

    Raises:
        SQLAlchemyError: The database cannot be written.
    """
    tokens = list(user.api_tokens)
    if tokens:
        db = object_session(tokens[0])
        assert db is not None  # noqa: S101 the rows come from the database
        for token in tokens:
            db.delete(token)
        db.commit()
        log.warning("Deleted %d tokens of user %s: %s", len(tokens), user.name, why)


class TokenWatch:
    """A background task that deletes the tokens of users who may no longer use the service.

    It applies the access rules to the groups of the last sign-on, and checks that the account still exists if the site
    requires accounts on the hub host. A missing account may only mean that the directory does not answer. The account
    must therefore be missing in each check of an hour, and most other accounts must be there.

    Args:
        db: JupyterHub's database session.
        authenticator: The ``SSOAuthenticator``, which has the access rules.
        longest: The longest lifetime of a token, in seconds.
    """

    def __init__(self, db: Session, authenticator: Any, longest: float) -> None:
        self._db = db
        self._authenticator = authenticator
        self._longest = longest
        self._missing: dict[str, float] = {}
        """The users without an account, and since when (monotonic clock)."""

    async def run(self) -> None:
        """Check all tokens periodically. This method never returns."""
        while True:
            try:
                await self.check()
            except SQLAlchemyError as error:
                self._db.rollback()
                log.error("Cannot check the tokens now; the next check tries again: %s", error)
            await asyncio.sleep(INTERVAL)

    async def check(self) -> None:
        """Check all tokens once.

        Raises:
            SQLAlchemyError: The database cannot be used.
        """
        self._limit_lifetimes()
        users = {user.name: user for user in self._db.query(orm.User).filter(orm.User.api_tokens.any())}
        missing = await self._authenticator.missing_accounts(users)
        gone = self._gone(missing, len(users)) if self._authenticator.check_accounts else set()
        for name, user in users.items():
            if name in gone:
                revoke_tokens(user, "the account no longer exists on the hub host")
            elif user.encrypted_auth_state and self._authenticator.refuses(name, [each.name for each in user.groups]):
                revoke_tokens(user, "no rule permits this user any more")

    def _limit_lifetimes(self) -> None:
        """Limit the lifetime of tokens from before the limit. The token of a session lasts as long as the session."""
        now = utcnow(with_tz=False)
        end = now + dt.timedelta(seconds=self._longest)
        of_sessions = {(spawner.state or {}).get("token") for spawner in self._db.query(orm.Spawner)}
        found = self._db.query(orm.APIToken).filter(
            orm.APIToken.user_id.is_not(None),
            orm.APIToken.client_id == "jupyterhub",
            # A session that is about to start has not saved its token yet.
            orm.APIToken.created < now - dt.timedelta(hours=1),
            or_(orm.APIToken.expires_at.is_(None), orm.APIToken.expires_at > end),
        )
        for token in found:
            if token.hashed not in of_sessions:
                token.expires_at = end
                log.warning("Token %s of user %s now ends on %s", token.api_id, token.user.name, end.date())
        self._db.commit()

    def _gone(self, missing: set[str], users: int) -> set[str]:
        """Return the users without an account for ``ACCOUNT_PATIENCE``."""
        now = monotonic()
        if len(missing) > max(1, users / 2):
            log.error("%d of %d accounts are missing; does the directory of accounts answer?", len(missing), users)
            self._missing = {}
            return set()
        self._missing = {name: self._missing.get(name, now) for name in missing}
        return {name for name, since in self._missing.items() if now - since >= ACCOUNT_PATIENCE}
