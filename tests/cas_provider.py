"""A CAS server on the loopback address, for tests. A test chooses who signs in. There is no password.

It implements what mod_auth_cas uses of the CAS Protocol 3.0 Specification (sections 2.1, 2.3 to 2.5 and appendix C).
It keeps its tickets, so that a ticket is valid once and for one service only.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit
from xml.sax.saxutils import escape

from provider_server import ProviderHandler, ProviderServer

if TYPE_CHECKING:
    from pathlib import Path

    from web_site import Browser, Site


class CasServer(ProviderServer):
    """The server.

    Attributes:
        user: The name of the person who signs in next.
        attributes: The attributes of this person. A list has one element for each value.
        services: The service of each ticket that has been validated, for a logout message.
        seen: The paths of all requests.
        url: The address of the server.
    """

    def __init__(self, tls: Path) -> None:
        self.user = "nobody"
        self.attributes: dict[str, Any] = {}
        self.tickets: dict[str, tuple[str, str, dict[str, Any]]] = {}
        self.services: dict[str, str] = {}
        self.seen: list[str] = []
        super().__init__(tls, _Handler)

    def handle_error(self, *_: object) -> None:
        """Ignore clients that do not trust the certificate."""

    def ticket(self, service: str) -> str:
        """Return a new ticket of the current person for a service."""
        ticket = f"ST-{secrets.token_hex(12)}"
        self.tickets[ticket] = (service, self.user, dict(self.attributes))
        return ticket


def logout_message(ticket: str) -> str:
    """Return the body of the message to a service about the end of a ticket's session (section 2.3.3)."""
    request = (
        '<samlp:LogoutRequest xmlns:samlp="urn:oasis:names:tc:SAML:2.0:protocol" ID="LR-1" Version="2.0" '
        'IssueInstant="2026-11-27T00:00:00Z"><saml:NameID xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion">@NOT_USED@'
        f"</saml:NameID><samlp:SessionIndex>{ticket}</samlp:SessionIndex></samlp:LogoutRequest>"
    )
    return f"logoutRequest={quote(request)}"


class _Handler(ProviderHandler):
    server: CasServer

    def do_GET(self) -> None:  # noqa: N802 the name of the base class
        address = urlsplit(self.path)
        self.server.seen.append(address.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        if address.path == "/cas/login":
            mark = "&" if "?" in query["service"] else "?"
            self.redirect(f"{query['service']}{mark}{urlencode({'ticket': self.server.ticket(query['service'])})}")
        elif address.path == "/cas/logout":
            self.redirect(query["service"])
        else:
            self._validate(query)

    def _validate(self, query: dict[str, str]) -> None:
        service, user, attributes = self.server.tickets.pop(query["ticket"], ("", "", {}))
        if not service:
            result = '<cas:authenticationFailure code="INVALID_TICKET">unknown</cas:authenticationFailure>'
        elif service != query["service"]:
            result = '<cas:authenticationFailure code="INVALID_SERVICE">another one</cas:authenticationFailure>'
        else:
            self.server.services[query["ticket"]] = service
            values = [(name, each) for name, value in attributes.items()
                      for each in (value if isinstance(value, list) else [value])]  # fmt: skip
            result = (
                f"<cas:authenticationSuccess><cas:user>{escape(user)}</cas:user><cas:attributes>"
                + "".join(f"<cas:{name}>{escape(each)}</cas:{name}>" for name, each in values)
                + "</cas:attributes></cas:authenticationSuccess>"
            )
        body = f'<cas:serviceResponse xmlns:cas="http://www.yale.edu/tp/cas">{result}</cas:serviceResponse>'.encode()
        self.answer("text/xml", body)


class CasDoor:
    """A site whose users sign in at the CAS server."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def arguments(self) -> dict[str, Any]:
        """See ``Door`` in ``test_doors``."""
        self.provider = CasServer(self.site.directory / "tls")
        (self.site.directory / "cache" / "hpchub-cas").mkdir(mode=0o700)
        return {
            "reverse_proxy_sso_provider": "cas",
            "reverse_proxy_cas_url": f"{self.provider.url}/cas",
            "reverse_proxy_cas_ca_src": "ca.pem",
            "reverse_proxy_cas_attributes": ["mail", "displayName"],
        }

    def sign_in(self, browser: Browser, name: str, *groups: str, path: str = "/hub/home", **claims: object) -> Any:
        """See ``Door`` in ``test_doors``."""
        self.provider.user = name
        self.provider.attributes = {"groups": list(groups), "mail": f"{name}@example.org", **claims}
        return browser.open(path)

    def sign_ons(self, name: str) -> list[tuple[str, str]]:
        """See ``Door`` in ``test_doors``."""
        return [("cas", name)]

    def stop(self) -> None:
        """See ``Door`` in ``test_doors``."""
        self.provider.shutdown()
        self.provider.server_close()
