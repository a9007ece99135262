"""What all sign-ons have in common in which the hub, and not the web server, signs users in.

A subclass finds out who somebody is: see ``HubSignOn.identify`` and ``HubSignOn.renew``. This module then applies the
same rules as for every other sign-on, and checks regularly with the provider whether they still hold. If the provider
does not answer, nothing is known: logins go on until a limit, and nobody new can sign in.
"""

from __future__ import annotations

import asyncio
import copy
import time
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jupyterhub.handlers import LogoutHandler
from jupyterhub.orm import new_token
from traitlets import Float, Instance, List, Unicode

from hpchub.hub.access_rules import AccessRules
from hpchub.hub.account_requests import AccountRequests, NotCreated
from hpchub.hub.events import AccessEnded, SignInRefused
from hpchub.hub.handlers import announce
from hpchub.hub.identities import describe, other_owner, owner
from hpchub.hub.sign_in import SignsIn, SignsOut
from hpchub.hub.tokens import revoke_tokens
from hpchub.hub.unix_groups import MISSING, NoAnswer
from hpchub.hub.user_error import UserError
from hpchub.messages import Message, marked, show
from hpchub.model.user_mapping import RefusedName, Step, map_name, person_key

if TYPE_CHECKING:
    from collections.abc import Mapping

NO_ANSWER = Message(
    "The identity provider does not answer at the moment, so nobody can sign in. Notebooks that are running go on."
    " Please try again in a few minutes."
)
NOT_CONFIRMED = Message("The identity provider did not confirm your sign-in. Please sign in again.")
NO_NAME = Message("Your sign-in contains no account name, so the service does not know who you are.")
SEVERAL_NAMES = Message("Your sign-in contains several account names, so the service does not know who you are.")
SHOWN_NAME = 64
"""The largest number of characters of a received name that a page or the log shows."""


class NotIdentified(Exception):
    """The provider's answer does not identify a user who can sign in.

    Args:
        message: The explanation for the user.
        detail: The explanation for the log, without secrets.
        reason: The reason in the event; see ``hpchub.hub.events.SignInRefused``.
    """

    def __init__(self, message: Message, detail: str = "", reason: str = "no_identity") -> None:
        super().__init__(detail or str(message))
        self.message = message
        self.reason = reason


class Rejected(Exception):
    """The provider does not accept what it gave out at the sign-in any more, so the sign-on has ended there."""


class Unanswered(Exception):
    """The provider did not answer, or has a fault. What it would answer is unknown."""


@dataclass(frozen=True)
class Person:
    """A person identified by the provider.

    Attributes:
        name: The name of the account, as the provider sent it. It is not checked yet.
        subject: What identifies the person at the provider for ever, ``PROVIDER:ID``. Empty if there is nothing.
        claims: The groups, the mail address and further attributes, as the authenticator's traits name them.
        state: What ``renew`` needs. It is only saved encrypted.
    """

    name: object
    subject: str
    claims: Mapping[str, Any]
    state: Mapping[str, Any] = field(default_factory=dict)


def one_name(value: object) -> str:
    """Return the name in an answer.

    Raises:
        NotIdentified: There is no name, or there are several.
    """
    if isinstance(value, list) and len(value) > 1:
        raise NotIdentified(SEVERAL_NAMES, f"the answer contains {len(value)} names")
    if not isinstance(value, str) or not value:
        raise NotIdentified(NO_NAME, f"the answer contains no name, but {type(value).__name__}")
    return value


class HubSignIn(SignsIn):
    """A mixin for the handlers that sign users in."""

    identity: dict[str, Any] | None = None
    """The identity that the provider has confirmed for this request, permitted or not."""

    def known_identity(self) -> dict[str, Any] | None:
        """Return the identity that the provider has confirmed."""
        return self.identity

    async def sign_in(self: Any, data: Mapping[str, Any]) -> Any:
        """Sign the user in; see ``SignsIn.sign_in``.

        Raises:
            web.HTTPError: Nobody was identified (403), the provider does not answer (503), or see ``SignsIn``.
        """
        try:
            return await super().sign_in(data)
        except Unanswered as error:
            reason, status, message, detail = "unavailable", 503, NO_ANSWER, str(error)
        except Rejected as error:
            reason, status, message, detail = "no_identity", 403, NOT_CONFIRMED, str(error)
        except NotIdentified as error:
            reason, status, message, detail = error.reason, 403, error.message, str(error)
        announce(self, SignInRefused, user="", reason=reason)
        self.log.warning("Sign-in refused: %s", detail)
        raise UserError(status, message)


class HubLogoutHandler(SignsOut, LogoutHandler):  # type: ignore[misc]
    """The logout page. It ends all logins of the user, the open websockets, and the session at the provider."""

    async def handle_logout(self) -> None:
        """End the login, and forget what the provider has given out."""
        authenticator: HubSignOn = self.authenticator
        user = self.current_user
        self.next_page = authenticator.provider_logout({})
        if user is None:
            return
        await self.end_login(user.name)
        end_cookies(user)
        state = await user.get_auth_state() or {}
        self.next_page = authenticator.provider_logout(state)
        await user.save_auth_state(await authenticator.signed_off(state))

    async def render_logout_page(self) -> None:
        """Redirect the browser to the provider's logout, or to the page about the logout."""
        self.redirect(self.next_page or self.authenticator.signed_out_url, permanent=False)


def end_cookies(user: Any) -> None:
    """End the login cookies of a user in all browsers. A copy of a cookie must not outlive a logout."""
    user.orm_user.cookie_id = new_token()
    user.db.commit()


class HubSignOn(AccessRules):
    """The base of the authenticators that sign users in themselves."""

    public_url = Unicode(config=True, help="The address of the service, without a path.")
    signed_out_url = Unicode("/sso/signed-out", config=True, help="The page after the logout.")
    outage_limit = Float(
        4 * 3600,
        config=True,
        help="How long logins go on while the provider does not answer, in seconds.",
    )
    user_mapping: Any = List(
        config=True, help="The steps that make the account's name of the provider's name; see ``user_mapping``."
    )
    accounts = Instance(
        AccountRequests,
        allow_none=True,
        config=True,
        help="Requests that create an account for a permitted user who has none. By default, nobody gets one.",
    )

    provider_key = ""
    """The name of the provider, in ``Person.subject`` and in the table of identities."""
    auto_login = True
    # A request of a program is refused too if the provider withdraws the sign-on of its user.
    auth_refresh_strict = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._checks: dict[str, asyncio.Task[Any]] = {}

    def login_url(self, base_url: str) -> str:
        """Return the address of the page that begins a sign-in."""
        return f"{base_url}login"

    def logout_url(self, base_url: str) -> str:
        """Return the address of the page that ends it."""
        return f"{base_url}logout"

    # -- what a subclass provides

    @abstractmethod
    async def identify(self, handler: Any, data: Any) -> Person:
        """Return who signs in with a request.

        Raises:
            NotIdentified, Rejected, Unanswered: see there.
        """

    @abstractmethod
    async def renew(self, state: dict[str, Any]) -> Person | None:
        """Ask the provider again who somebody is.

        Args:
            state: The saved state of the sign-on, from ``Person.state``. The method puts each new token into it at
                once.

        Returns:
            The person, or None if the provider cannot be asked, because what it gave out was only valid for a time.

        Raises:
            NotIdentified, Rejected, Unanswered: see there.
        """

    def provider_logout(self, state: Mapping[str, Any]) -> str:
        """Return the address that ends the session at the provider, or empty if it has none."""
        return ""

    async def signed_off(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the state of a user who has signed out: without anything that the provider has given out."""
        return {name: state[name] for name in ("mail", "groups") if name in state}

    # -- the sign-in

    async def authenticate(self, handler: Any, data: Any = None, **kwargs: Any) -> dict[str, Any] | None:
        """Return the identity of a sign-in; see ``Authenticator.authenticate``.

        Only the handlers of this package sign users in. JupyterHub's handler for new API tokens also calls this method
        if a request has no valid cookie, and then skips the XSRF check.

        Raises:
            NotIdentified, Rejected, Unanswered: see there.
            NoAnswer: The directory of accounts does not answer.
        """
        if not isinstance(handler, HubSignIn):
            return None
        person = await self.identify(handler, data)
        identity = self.checked_identity(person)
        handler.identity = identity
        if other_owner(handler.db, identity["name"], identity["auth_state"]["sign_on"]):  # type: ignore[attr-defined]
            return None
        if not await self.find_account(identity["name"]):
            raise NoAnswer(identity["name"])
        await self._create_account(identity)
        return identity

    def checked_identity(self, person: Person) -> dict[str, Any]:
        """Return the identity of a person.

        Raises:
            NotIdentified: The person does not have exactly one valid name.
        """
        name = self._mapped(one_name(person.name))
        if not self.validate_username(name):
            shown = show(name, SHOWN_NAME)
            text = marked(
                "Your account at the identity provider is called {name}. This is no account name of this service."
            )
            raise NotIdentified(Message(text, name=shown), f"{ascii(name)[:SHOWN_NAME]} is no account name")
        provider, _, subject = person.subject.partition(":")
        sign_on = describe(provider or self.provider_key, subject, person_key(self._steps, one_name(person.name)))
        identity = self.identity_of(name, person.claims, sign_on)
        identity["auth_state"] |= {"confirmed": time.time(), **person.state}
        return identity

    @property
    def _steps(self) -> list[Step]:
        return [Step.model_validate(step) for step in self.user_mapping]

    def _mapped(self, received: str) -> str:
        """Return the account of a name; see ``hpchub.model.user_mapping``.

        Raises:
            NotIdentified: There is none.
        """
        try:
            return map_name(self._steps, received)
        except RefusedName as error:
            text = marked("Your account at the identity provider is called {name}. This service knows no such account.")
            detail = f"the user mapping gives no account to {ascii(received)[:SHOWN_NAME]} ({error.reason})"
            raise NotIdentified(Message(text, name=show(received, SHOWN_NAME)), detail) from None

    async def _create_account(self, identity: dict[str, Any]) -> None:
        """Ask for an account if the user has none and only this prevents the sign-in.

        Raises:
            NotIdentified: The account was not created.
            Unanswered: The answer did not come in time.
        """
        name = identity["name"]
        if self.accounts is None or self._accounts.known(name) != MISSING or not self.check_blocked_users(name):
            return
        if not self.permits(name, identity["groups"]):
            return
        try:
            await self.accounts.create(name)
        except NotCreated as error:
            raise NotIdentified(error.message, str(error)) from None
        except TimeoutError:
            raise Unanswered(f"the account {name} was not created in time") from None
        await self.find_account(name)

    # -- the regular check

    async def refresh_user(self, user: Any, handler: Any = None, **kwargs: Any) -> Any:
        """Check with the provider that the user still may use the service. See ``Authenticator.refresh_user``.

        JupyterHub calls this method at most once in ``auth_refresh_age`` for each user, also for the requests of the
        user's notebook servers and programs.

        Returns:
            True if nothing has changed, or if nothing is known. False if the sign-on has ended, or the user is no
            longer permitted. Otherwise the identity with the changed groups.
        """
        if handler is None or getattr(handler, "_jupyterhub_user", user) is not user:
            return True
        with_token = self.uses_token(handler)
        if user.name not in self._checks:
            # Concurrent requests must share one answer, because a provider may accept a refresh token only once.
            task = asyncio.get_running_loop().create_task(self._check(user, handler))
            self._checks[user.name] = task
            task.add_done_callback(lambda _: self._checks.pop(user.name, None))
        found = await asyncio.shield(self._checks[user.name])
        if found is None:
            # Only a browser can sign in again. The tokens of programs have a lifetime of their own.
            return with_token
        return found

    async def _check(self, user: Any, handler: Any) -> Any:
        """Return the result of ``refresh_user``, or None if the user must sign in again to be checked."""
        before = await user.get_auth_state() or {}
        state = copy.deepcopy(before)
        try:
            person = await self.renew(state)
            if person is None:
                return None
            identity = self.checked_identity(person)
        except Unanswered as error:
            if state != before:
                # The provider has replaced a token, and may not accept the former one again.
                await user.save_auth_state(state)
            unconfirmed = time.time() - float(state.get("confirmed") or 0)
            text = "Cannot check the sign-on of %s, %.0f s after the last time: %s"
            self.log.warning(text, user.name, unconfirmed, error)
            return True if unconfirmed < self.outage_limit else None
        except (NotIdentified, Rejected) as error:
            return await self._end(user, handler, "signed_out", f"the provider has ended the sign-on: {error}")
        if "confirmed" in before and "confirmed" not in (await user.get_auth_state() or {}):
            return None  # the user has signed out meanwhile
        if owner(handler.db, user.name, identity["auth_state"]["sign_on"]) is None:
            return None  # the account was released
        return await self._apply(user, handler, identity)

    async def _apply(self, user: Any, handler: Any, identity: dict[str, Any]) -> Any:
        """Apply the access rules to the provider's present answer. Return the result of ``refresh_user``."""
        if identity["name"] != user.name:
            return await self._end(user, handler, "signed_out", f"is {identity['name']} at the provider now")
        if self.belongs_to_another(handler, identity):
            return await self._end(user, handler, "signed_out", "the account belongs to another person")
        await self.find_account(user.name)
        if self.refuses(user.name, identity["groups"]):
            return await self._end(user, handler, "not_permitted", "the service has refused this user")
        # This request may be cancelled before JupyterHub saves the state.
        await user.save_auth_state(identity["auth_state"])
        return identity

    async def _end(self, user: Any, handler: Any, reason: str, why: str) -> bool:
        """End everything that the sign-on of a user allows: cookies, tokens and open websockets."""
        self.log.warning("The access of %s ends: %s", user.name, why)
        revoke_tokens(user, why)
        end_cookies(user)
        await handler.proxy.end_login(user.name, None)
        announce(handler, AccessEnded, user=user.name, reason=reason)
        return False
