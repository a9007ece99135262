"""The parts of the pages for signing in and out that do not depend on the kind of the single sign-on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jupyterhub import orm
from sqlalchemy.exc import SQLAlchemyError

from hpchub.hub.events import SignedIn, SignedOut, SignInRefused
from hpchub.hub.handlers import announce
from hpchub.hub.identities import SUBJECT
from hpchub.hub.unix_groups import NoAnswer
from hpchub.hub.user_error import UserError
from hpchub.messages import Message, marked

if TYPE_CHECKING:
    from collections.abc import Mapping

PROBLEM = Message(
    "The service has a problem at the moment, so you cannot sign in. Notebooks that are running go on, and nothing in"
    " them is lost. Please try again in a few minutes."
)


class SignsIn:
    """A mixin for handlers that sign users in. It goes through ``login_user``, which checks access."""

    def known_identity(self: Any) -> dict[str, Any] | None:
        """Return the identity of the request, permitted or not. None if it contains no valid name."""
        raise NotImplementedError

    async def sign_in(self: Any, data: Mapping[str, Any]) -> Any:
        """Sign the user in, announce it, and return the user.

        Raises:
            web.HTTPError: The user may not use the service (403), or the database or the directory of accounts
                cannot be used (503).
        """
        try:
            user = await self.login_user(data)
        except (SQLAlchemyError, NoAnswer) as error:
            self.db.rollback()
            announce(self, SignInRefused, user=(self.known_identity() or {}).get("name", ""), reason="unavailable")
            why = "directory of accounts does not answer" if isinstance(error, NoAnswer) else "database cannot be used"
            self.log.error("Nobody can sign in, because the %s: %s", why, error)
            raise UserError(503, PROBLEM) from None
        if user is not None:
            announce(self, SignedIn, user=user.name)
            return user
        identity = self.known_identity()
        if identity is None:
            announce(self, SignInRefused, user="", reason="no_identity")
            raise UserError(403, Message("Your sign-in does not contain a valid account name for this service."))
        if self.authenticator.belongs_to_another(self, identity):
            announce(self, SignInRefused, user=identity["name"], reason="other_identity")
            raise UserError(403, self._belongs_to_another(identity["name"], identity["auth_state"]["sign_on"]))
        if known := orm.User.find(self.db, identity["name"]):
            self.authenticator.end_tokens(known, identity["groups"])
        announce(self, SignInRefused, user=identity["name"], reason="not_permitted")
        text = marked("You are signed in as {name}, and this account may not use the service.")
        raise UserError(403, Message(text, name=identity["name"]))

    def _belongs_to_another(self, name: str, sign_on: Mapping[str, str]) -> Message:
        if sign_on["claim"] == SUBJECT:
            text = marked(
                "Another account at the identity provider uses the name {name} here already. If both accounts are"
                " yours, ask the support to connect them."
            )
            return Message(text, name=name)
        text = marked(
            "You are signed in as {received}. Your account here would be {name}, but this account already belongs"
            " to another name. Please ask for help, and mention both names."
        )
        return Message(text, received=sign_on["received"][:60], name=name)


class SignsOut:
    """A mixin for handlers that sign users out."""

    async def end_login(self: Any, name: str) -> None:
        """Close what the browser has open at notebook servers, and announce it. Apache cannot close a websocket."""
        await self.proxy.end_login(name, self.get_session_cookie())
        announce(self, SignedOut, user=name)
