"""Sign-on in the hub with the name and password of a directory (LDAP).

The package ldapauthenticator speaks the protocol. This module adds time limits, the check of the server's certificate,
limits for guesses, the same answer after the same time for an unknown name and a wrong password, and the regular check
that a user is still in the directory.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import OrderedDict, deque
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import ldap3
from jupyterhub.handlers import LoginHandler
from ldap3.core.exceptions import LDAPException
from ldap3.utils.conv import escape_filter_chars
from ldapauthenticator import LDAPAuthenticator
from ldapauthenticator.ldapauthenticator import TlsStrategy
from traitlets import Unicode

from hpchub.hub.events import SignInRefused
from hpchub.hub.handlers import announce
from hpchub.hub.hub_sign_on import HubLogoutHandler, HubSignIn, HubSignOn, NotIdentified, Person, Unanswered
from hpchub.hub.user_error import UserError
from hpchub.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

TIMEOUT = 8
"""How long a request to the directory may take, in seconds."""
FAILURE_TIME = 1.5
"""How long after its beginning a sign-in is refused, in seconds. The time must not reveal whether a name exists."""
WINDOW = 600.0
"""The time in which guesses are counted, in seconds."""
MOST_PER_NAME = 8
MOST_PER_ADDRESS = 60
"""How many wrong passwords are accepted in this time for a name, and from an address."""
MOST_KEYS = 20_000
"""How many names and addresses are remembered."""
LONGEST = 256
"""The largest number of characters of a name and of a password."""
INVALID_CREDENTIALS = 49
"""The code of LDAP for a wrong password (RFC 4511)."""

_CONNECTIONS: ContextVar[list[ldap3.Connection]] = ContextVar("hpchub_ldap_connections")
"""The connections that the current question has opened. ldapauthenticator does not close them."""

WRONG = Message("The user name or the password is wrong.")
TOO_MANY = Message("There were too many wrong passwords. Please wait ten minutes, then try again.")


class Guesses:
    """The wrong passwords of the last minutes, by name and by address.

    Args:
        clock: The monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()

    def begin(self, name: str, address: str) -> bool:
        """Count a sign-in as a wrong guess, and return whether it may go on. Concurrent guesses count at once."""
        now = self._clock()
        keys = ((("name", spelling(name)), MOST_PER_NAME), (("address", address), MOST_PER_ADDRESS))
        for key, most in keys:
            times = self._times.get(key, deque())
            while times and times[0] < now - WINDOW:
                times.popleft()
            if len(times) >= most:
                return False
        for key, _ in keys:
            self._times.setdefault(key, deque()).append(now)
            self._times.move_to_end(key)
        while len(self._times) > MOST_KEYS:
            self._times.popitem(last=False)
        return True

    def succeeded(self, name: str, address: str) -> None:
        """Take back what ``begin`` has counted. Earlier guesses of others still count for the address."""
        self._times.pop(("name", spelling(name)), None)
        if times := self._times.get(("address", address)):
            times.pop()


def spelling(name: str) -> str:
    """Return what all spellings of a name have in common: directories ignore case and spaces, and fold many letters."""
    return "".join(name.lower().split()) if name.isascii() else ""


class PasswordSignInHandler(HubSignIn, LoginHandler):  # type: ignore[misc]
    """The login page, with a form for the name and the password."""

    async def post(self) -> None:
        """Sign the user in, or show the form again with the reason."""
        data = {name: self.get_argument(name, "", strip=name == "username") for name in ("username", "password")}
        user = await self.sign_in(data)
        self._jupyterhub_user = user
        self.redirect(self.get_next_url(user))


class PasswordSignOn(HubSignOn, LDAPAuthenticator):  # type: ignore[misc]
    """Users sign in with their name and password of a directory."""

    auto_login = False
    provider_key = "ldap"
    group_base = Unicode(config=True, help="The place of the groups in the directory. Empty: groups do not count.")
    group_filter = Unicode(
        "(|(member={userdn})(uniqueMember={userdn})(memberUid={uid}))",
        config=True,
        help="The filter for the groups of a user.",
    )
    group_attribute = Unicode("cn", config=True, help="The attribute with the name of a group.")
    mail_attribute = Unicode("mail", config=True, help="The attribute with the mail address.")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.guesses = Guesses()

    def get_handlers(self, app: Any) -> list[tuple[str, type]]:
        """Return the handlers of the sign-on, and hpchub's others."""
        return [(r"/login", PasswordSignInHandler), (r"/logout", HubLogoutHandler), *super().get_handlers(app)]

    # -- the sign-in

    async def identify(self, handler: Any, data: Any) -> Person:
        """Return who signs in with a name and a password; see ``HubSignOn``.

        Raises:
            web.HTTPError: There were too many wrong passwords for this name or from this address (429).
        """
        began = time.monotonic()
        name, password = str(data["username"]), str(data["password"])
        address = str(handler.request.remote_ip or "")
        if not (0 < len(name) <= LONGEST and 0 < len(password) <= LONGEST and name.isprintable()):
            raise NotIdentified(WRONG, "the form contains no name or no password, or one that cannot be valid")
        if not self.guesses.begin(name, address):
            announce(handler, SignInRefused, user="", reason="throttled")
            self.log.warning("Sign-in refused: too many wrong passwords for %s or from %s", ascii(name)[:80], address)
            raise UserError(429, TOO_MANY)
        try:
            person = await self._ask(self._person, name, password)
        except Unanswered:
            self.guesses.succeeded(name, address)  # nobody has learnt anything about the password
            raise
        if person is None:
            await asyncio.sleep(max(0.0, began + FAILURE_TIME - time.monotonic()))
            detail = f"wrong password, or no such user: {ascii(name)[:80]}, from {address}"
            raise NotIdentified(WRONG, detail, "wrong_password")
        self.guesses.succeeded(name, address)
        return person

    def _person(self, name: str, password: str) -> Person | None:
        """Return the person with a name and a password, or None. This method blocks.

        Raises:
            LDAPException, OSError: The directory does not answer.
        """
        # The coroutine of ldapauthenticator never waits for the event loop, but blocks it.
        found = run_at_once(LDAPAuthenticator.authenticate(self, None, {"username": name, "password": password}))
        return None if found is None else self._look_up(found["name"])

    async def _ask(self, question: Callable[..., Person | None], *arguments: str) -> Person | None:
        """Return the answer of the directory to a question that blocks.

        Raises:
            Unanswered: There is no answer.
        """

        def work() -> Person | None:
            connections: list[ldap3.Connection] = []
            token = _CONNECTIONS.set(connections)
            try:
                return question(*arguments)
            finally:
                _CONNECTIONS.reset(token)
                for connection in connections:
                    connection.unbind()
                    if connection.socket is not None:  # after a failed connection
                        connection.socket.close()

        try:
            return await asyncio.to_thread(work)
        except (LDAPException, OSError) as error:
            raise Unanswered(f"the directory {self.server_address}: {error}") from None

    async def renew(self, state: dict[str, Any]) -> Person | None:
        """Look the user up again; see ``HubSignOn``."""
        name = state.get("directory_name")
        if not isinstance(name, str):
            return None
        person = await self._ask(self._look_up, name)
        if person is None:
            raise NotIdentified(WRONG, f"the directory has no such user any more: {name}")
        return person

    # -- the directory

    def get_connection(self, userdn: str | None, password: str | None) -> ldap3.Connection | None:
        """Return a connection of a user or of the service, or None if the password is wrong.

        The method of ldapauthenticator has no time limits, and takes every fault of the directory for a wrong password.

        Raises:
            LDAPException, OSError: The directory does not answer, or cannot check the password.
        """
        tls = ldap3.Tls(validate=ssl.CERT_REQUIRED, version=ssl.PROTOCOL_TLS_CLIENT, **self.tls_kwargs)
        server = ldap3.Server(
            self.server_address,
            port=self.server_port,
            use_ssl=self.tls_strategy == TlsStrategy.on_connect,
            tls=tls,
            connect_timeout=TIMEOUT,
            get_info=ldap3.NONE,
        )
        connection = ldap3.Connection(
            server,
            user=userdn,
            password=password,
            receive_timeout=TIMEOUT,
            auto_referrals=False,
            read_only=True,
            # Without the schema, ldap3 would not know operational attributes such as entryUUID.
            check_names=False,
        )
        _CONNECTIONS.get().append(connection)
        connection.open()
        # Without TLS, anybody on the way could read the password.
        if self.tls_strategy != TlsStrategy.on_connect and not connection.start_tls():
            raise LDAPException(f"StartTLS fails: {connection.result['description']}, or its certificate is not valid")
        if connection.bind():
            return connection
        result = connection.result["result"]
        if result == INVALID_CREDENTIALS and userdn != self.lookup_dn_search_user:
            return None
        raise LDAPException(f"the bind of {userdn} has the result {result}, {connection.result['description']}")

    def _look_up(self, name: str) -> Person | None:
        """Return a person of the directory, or None if there is not exactly one with this name. This method blocks.

        Raises:
            LDAPException, OSError: The directory does not answer.
        """
        connection = self.get_connection(self.lookup_dn_search_user, self.lookup_dn_search_password)
        assert connection is not None  # noqa: S101 get_connection raises an exception for this user
        asked = self.lookup_dn_search_filter.format(login_attr=self.user_attribute, login=escape_filter_chars(name))
        attributes = [self.user_attribute, self.mail_attribute, "entryUUID"]
        entries = self._search(connection, self.user_search_base, asked, attributes)
        if len(entries) != 1:
            return None
        dn, found = entries[0]["dn"], entries[0]["attributes"]
        groups = []
        if self.group_base:
            asked = self.group_filter.format(userdn=escape_filter_chars(dn), uid=escape_filter_chars(name))
            for entry in self._search(connection, self.group_base, asked, [self.group_attribute]):
                groups += texts(entry["attributes"].get(self.group_attribute))
        claims = {self.groups_claim: groups, self.mail_claim: (texts(found.get(self.mail_attribute)) or [""])[0]}
        names = texts(found.get(self.user_attribute))
        subject = (texts(found.get("entryUUID")) or [dn])[0]
        return Person(
            names[0] if len(names) == 1 else names, f"{self.provider_key}:{subject}", claims, {"directory_name": name}
        )

    def _search(self, connection: ldap3.Connection, base: str, asked: str, attributes: list[str]) -> list[Any]:
        connection.search(base, asked, attributes=attributes, time_limit=TIMEOUT, size_limit=1000)
        if connection.result["result"] != 0:
            raise LDAPException(f"the search in {base} has the result {connection.result['description']}")
        return [each for each in connection.response if each["type"] == "searchResEntry"]


def run_at_once(work: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a coroutine that never waits.

    Raises:
        RuntimeError: It waits.
    """
    try:
        work.send(None)
    except StopIteration as finished:
        return finished.value
    work.close()
    raise RuntimeError("ldapauthenticator waits for the event loop; use another version")


def texts(value: object) -> list[str]:
    """Return the values of an attribute that are text."""
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, str) and each]
