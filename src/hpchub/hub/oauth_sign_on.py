"""Sign-on in the hub with OAuth 2.0: the part that does not depend on the provider.

The package oauthenticator speaks the protocol. This module adds what hpchub requires of every sign-on: answers of the
provider are limited in time and length and never trusted in shape, an answer that does not come is not a refusal, and
the cookie that ties a sign-in to its browser cannot be set by a page of a user.
"""

from __future__ import annotations

import base64
import json
import re
import time
from abc import abstractmethod
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from jupyterhub.handlers.base import BaseHandler
from jupyterhub.utils import url_path_join
from oauthenticator.oauth2 import OAuthCallbackHandler, OAuthenticator, OAuthLoginHandler
from tornado import web
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPResponse
from traitlets import Unicode, default

from hpchub.hub.hub_sign_on import HubLogoutHandler, HubSignIn, HubSignOn, NotIdentified, Person, Rejected, Unanswered
from hpchub.hub.user_error import UserError
from hpchub.messages import Message

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tornado.httpclient import HTTPRequest

STATE_COOKIE = "__Host-hpchub-sign-on"
"""The cookie that ties a sign-in to its browser. Only the hub's own host can set a cookie with this prefix."""
STATE_DAYS = 1 / 48
"""How long a sign-in may take, in days. Users may need some time for their second factor."""
STATES = 5
STATES_LENGTH = 2500
"""How many sign-ins a browser may have begun, for example in several tabs, and their length in the cookie."""
CONNECT_TIMEOUT = 5.0
REQUEST_TIMEOUT = 10.0
"""How long a request to the provider may take, in seconds."""
MAX_ANSWER = 512 * 1024
"""The maximum length of an answer, in bytes."""
MARGIN = 30.0
"""How long before its end a token is not used any more, in seconds."""
MAX_TOKEN = 16 * 1024
"""The maximum length of a token, in characters."""

RESTART = Message(
    "Your sign-in took too long, or you have begun another one in this browser. Go to the service's home page to begin"
    " again."
)
DECLINED = Message("The identity provider did not let you sign in, or you have declined it there.")
NO_PAGE = Message("Your sign-on has ended. Reload the page to sign in again.")


class BegunSignIns(BaseHandler):  # type: ignore[misc]
    """The sign-ins that a browser has begun, in a cookie, the oldest first: ``TIME:STATE``."""

    def begun(self) -> list[str]:
        """Return those that may go on."""
        found = self.get_secure_cookie(STATE_COOKIE, max_age_days=STATE_DAYS) or b""
        since = time.time() - STATE_DAYS * 86400
        return [each for each in found.decode().split(".") if each and int(each.partition(":")[0]) > since]

    def remember(self, begun: list[str]) -> None:
        """Write the cookie. It loses the oldest ones if it is too small for all."""
        while len(begun) > 1 and sum(map(len, begun)) > STATES_LENGTH:
            begun = begun[1:]
        if begun:
            self._set_cookie(STATE_COOKIE, ".".join(begun), expires_days=STATE_DAYS)
        else:
            self.clear_cookie(STATE_COOKIE, path="/", secure=True)


class OAuthSignInHandler(BegunSignIns, OAuthLoginHandler):  # type: ignore[misc]
    """The login page. It redirects the browser to the provider."""

    async def get(self) -> None:
        """Begin a sign-in, unless the user is signed in.

        Raises:
            web.HTTPError: The request is not from a page that a browser loads, so nobody can sign in with it (401).
        """
        if user := self.current_user:
            self.set_login_cookie(user)
            self.redirect(self.get_next_url(user), permanent=False)
            return
        if not is_navigation(self.request.headers):
            # A script would follow the redirect to the provider, and fail with an error that explains nothing.
            raise UserError(401, NO_PAGE)
        super().get()

    def set_state_cookie(self, state_cookie_value: str) -> None:
        """Remember a sign-in that begins, beside the last ones of this browser.

        Some providers answer the first one that a browser has begun, even if it has begun another one later.
        """
        self.remember([*self.begun()[1 - STATES :], f"{int(time.time())}:{state_cookie_value}"])


class OAuthSignedInHandler(HubSignIn, BegunSignIns, OAuthCallbackHandler):  # type: ignore[misc]
    """The page to which the provider redirects the browser."""

    _state_cookie: str | None = None

    def get_state_cookie(self) -> str:
        """Return the sign-in that the answer belongs to, and forget it: an answer of the provider is valid once.

        Without such a sign-in, return another one of this browser, which the caller compares and refuses.
        """
        if self._state_cookie is None:
            begun = self.begun()
            answered = state_id(self.get_state_url())
            mine = [each for each in begun if answered and state_id(each.partition(":")[2]) == answered]
            self._state_cookie = (mine or begun or [""])[-1].partition(":")[2]
            self.remember([each for each in begun if each not in mine])
        return self._state_cookie

    def get_state_url(self) -> str:
        """Return the state in the address, or empty if it cannot be one."""
        states = self.get_arguments("state")
        return states[0] if len(states) == 1 and re.fullmatch(r"[A-Za-z0-9_=-]{1,500}", states[0]) else ""

    def check_arguments(self) -> None:
        """Check that this browser has begun the sign-in, and that the provider has confirmed it.

        Raises:
            web.HTTPError: The address is not the answer to a sign-in of this browser (400), or it explains why there is
                none (403).
        """
        try:
            self.check_state()
        except (web.HTTPError, AttributeError) as error:
            self.log.warning("Sign-in refused: %s", getattr(error, "log_message", None) or "the state is not valid")
            raise UserError(400, RESTART) from None
        if answer := self.get_argument("error", ""):
            self.log.warning("Sign-in refused: the provider answers the error %s", ascii(answer)[:80])
            raise UserError(403, DECLINED)
        if not self.get_argument("code", ""):
            self.log.warning("Sign-in refused: the provider's answer contains no code")
            raise UserError(400, RESTART)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log why a sign-in failed, without the address, which contains the code. Refusals are logged already."""
        if not isinstance(value, UserError):
            super().log_exception(typ, value, tb)

    async def get(self) -> None:
        """Sign the user in, and go to the page that the user has asked for."""
        self.check_arguments()
        self.redirect(self.get_next_url(await self.sign_in({})))


def state_id(text: str) -> str:
    """Return the id of a sign-in, or nothing if the text is none. oauthenticator writes JSON in base64."""
    try:
        found = json.loads(base64.urlsafe_b64decode(text))
    except (ValueError, RecursionError):
        return ""
    return str(found.get("state_id") or "") if isinstance(found, dict) else ""


def is_navigation(headers: Mapping[str, str]) -> bool:
    """Return whether a browser sends a request to load a page, not a script."""
    if headers.get("X-Requested-With") == "XMLHttpRequest" or headers.get("Upgrade"):
        return False
    if mode := headers.get("Sec-Fetch-Mode"):
        return mode == "navigate"
    accepted = headers.get("Accept", "*/*")
    return "text/html" in accepted or "*/*" in accepted


def kept(info: object, now: float, former: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what to keep of the answer of a token endpoint.

    Args:
        info: The answer.
        now: The time of the answer, in seconds since 1970.
        former: The token that was renewed. Providers may send no new refresh token and no new ID token.

    Raises:
        Unanswered: It is not an answer of a token endpoint.
    """

    def text(name: str) -> str:
        value = info.get(name) if isinstance(info, dict) else None
        return value if isinstance(value, str) and len(value) <= MAX_TOKEN and value.isascii() else ""

    access = text("access_token")
    if not isinstance(info, dict) or not access or not access.isprintable():
        raise Unanswered("the token endpoint does not answer with an access token")
    lifetime = info.get("expires_in")
    try:
        expires = now + float(lifetime) if lifetime is not None else 0.0
    except (TypeError, ValueError):
        expires = 0.0
    token = {"access_token": access, "token_type": text("token_type") or "Bearer", "expires_at": expires}
    for name in ("refresh_token", "id_token", "scope"):
        if value := text(name) or str((former or {}).get(name) or ""):
            token[name] = value
    return token


class OAuthSignOn(HubSignOn, OAuthenticator):  # type: ignore[misc]
    """The base of the authenticators for OAuth 2.0."""

    login_handler = OAuthSignInHandler
    callback_handler = OAuthSignedInHandler
    ca_file = Unicode(config=True, help="A file with CA certificates for the provider. Empty: the system's.")

    def get_handlers(self, app: Any) -> list[tuple[str, type]]:
        """Return the handlers of the sign-on, and hpchub's others."""
        return [
            (r"/login", self.login_handler),
            (r"/oauth_callback", self.callback_handler),
            (r"/logout", HubLogoutHandler),
            *super().get_handlers(app),
        ]

    def get_callback_url(self, handler: Any = None) -> str:
        """Return the address of the callback. It never depends on a header of the request."""
        return str(url_path_join(self.public_url, "hub/oauth_callback"))

    # -- requests to the provider

    @default("http_client")
    def _http_client(self) -> AsyncHTTPClient:
        return AsyncHTTPClient(force_instance=True, max_clients=100, max_body_size=MAX_ANSWER)

    @default("http_request_kwargs")
    def _http_request_kwargs(self) -> dict[str, Any]:
        options = {
            "connect_timeout": CONNECT_TIMEOUT,
            "request_timeout": REQUEST_TIMEOUT,
            # The redirect of an API would send the token to another place.
            "follow_redirects": False,
        }
        return options | ({"ca_certs": self.ca_file} if self.ca_file else {})

    async def fetch(self, req: HTTPRequest, label: str = "fetching", parse_json: bool = True, **kwargs: Any) -> Any:
        """Return the answer to a request.

        oauthenticator's method logs the whole answer to a failed request.

        Raises:
            Rejected: The provider does not accept the token or the code.
            Unanswered: There is no answer, or it contains nothing about the user.
        """
        where = req.url.partition("?")[0]
        try:
            response: HTTPResponse = await self.http_client.fetch(req, raise_error=False)
        except (HTTPClientError, OSError, ValueError) as error:
            raise Unanswered(f"{where}: {error!r}"[:300]) from None
        if not HTTPStatus.OK <= response.code < HTTPStatus.MULTIPLE_CHOICES:
            self._refuse(where, response)
        if not parse_json:
            return response
        try:
            return json.loads(response.body.decode())
        except (ValueError, RecursionError):
            raise Unanswered(f"{where}: the answer is not JSON") from None

    def _refuse(self, where: str, response: HTTPResponse) -> None:
        """Raise the exception for an answer with an error."""
        try:
            code = json.loads((response.body or b"").decode())["error"]
        except (ValueError, RecursionError, KeyError, TypeError):
            code = ""
        text = f"{where}: status {response.code}" + (f", {ascii(code)[:80]}" if isinstance(code, str) and code else "")
        if code == "invalid_client" or (where == self.token_url and code in ("unauthorized_client", "invalid_request")):
            raise Unanswered(f"{text}; the provider does not accept this service: check client_id and client_secret")
        refused = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
        if code == "invalid_grant" or (response.code in refused and where != self.token_url):
            raise Rejected(text)
        raise Unanswered(text if response.code != 599 else f"{where}: {response.error!r}"[:300])

    async def get_token_info(self, handler: Any, params: dict[str, Any]) -> dict[str, Any]:
        """Exchange a code or a refresh token for an access token.

        Raises:
            Rejected, Unanswered: see ``fetch``.
        """
        params = {name: value for name, value in params.items() if value is not None}
        try:
            info = await super().get_token_info(handler, params)
        except web.HTTPError as error:
            # GitHub refuses a code with the status 200. The text of the exception may contain the whole answer.
            if error.status_code == HTTPStatus.FORBIDDEN:
                raise Rejected(f"{self.token_url}: the code or the token was not accepted") from None
            raise Unanswered(f"{self.token_url}: the answer contains no token") from None
        except TypeError:
            raise Unanswered(f"{self.token_url}: the answer contains no token") from None
        return dict(info)

    async def get_json(self, url: str, token: Mapping[str, Any], **options: Any) -> Any:
        """Return the answer of an API to a request with a token.

        Raises:
            Rejected, Unanswered: see ``fetch``.
        """
        headers = self.build_userdata_request_headers(token["access_token"], token["token_type"])
        return await self.httpfetch(url, headers=headers, validate_cert=self.validate_server_cert, **options)

    # -- who somebody is

    async def identify(self, handler: Any, data: Any) -> Person:
        """Return who signs in: exchange the code for a token, and ask for the user; see ``HubSignOn``."""
        try:
            params = self.build_access_tokens_request_params(handler, None)
        except web.HTTPError as error:
            raise NotIdentified(RESTART, str(error.log_message)) from None
        info = await self.get_token_info(handler, params)
        return await self._person(kept(info, time.time()), info, {})

    async def renew(self, state: dict[str, Any]) -> Person | None:
        """Ask the provider again, with a new token if necessary; see ``HubSignOn``."""
        token = state.get("token")
        if not isinstance(token, dict):
            return None
        expires = token.get("expires_at") or 0
        usable = not expires or time.time() < expires - MARGIN
        if not usable and not token.get("refresh_token"):
            return None
        if usable:
            try:
                return await self._person(token, None, state)
            except Rejected:
                if not token.get("refresh_token"):
                    raise
        params = self.build_refresh_token_request_params(token["refresh_token"])
        info = await self.get_token_info(None, params)
        state["token"] = kept(info, time.time(), token)
        return await self._person(state["token"], info, state)

    async def _person(self, token: dict[str, Any], info: dict[str, Any] | None, state: dict[str, Any]) -> Person:
        user_info = await self.token_to_user(token)
        if not isinstance(user_info, dict):
            raise Unanswered(f"{self.userdata_url}: the answer is not a JSON object")
        return await self.describe(user_info, token, info, state)

    @abstractmethod
    async def describe(
        self, user_info: dict[str, Any], token: dict[str, Any], info: dict[str, Any] | None, state: dict[str, Any]
    ) -> Person:
        """Return the person in the provider's answer.

        Args:
            user_info: The answer of the provider's address for users.
            token: The token that was used.
            info: The answer of the token endpoint, if the token is new.
            state: The saved state of the sign-on, or empty at a sign-in.

        Raises:
            NotIdentified, Rejected, Unanswered: see ``HubSignOn``.
        """

    def subject(self, value: object) -> str:
        """Return the subject for an id, or empty if there is none."""
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
            return ""
        return f"{self.provider_key}:{value}"


def unverified(address: object) -> NotIdentified:
    """Return the exception for a mail address that does not belong to the person for certain."""
    text = Message("Your mail address at the identity provider is not verified. Verify it there, then sign in again.")
    return NotIdentified(text, f"the mail address {ascii(address)[:80]} is not verified")


def with_query(url: str, **parameters: str) -> str:
    """Return an address with parameters."""
    return f"{url}{'&' if '?' in url else '?'}{urlencode(parameters)}"
