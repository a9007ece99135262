"""An HTTP client that sends paths and headers exactly as a test specifies them.

Browsers and HTTP libraries normalise addresses and headers. That would hide exactly the cases that the tests check.
"""

from __future__ import annotations

import http.client
import itertools
import re
import socket
import ssl
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urljoin, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from urllib.parse import SplitResult

REDIRECTS = 20
"""The number of redirects to follow before the client assumes a redirect loop."""

IDENTITY = (
    *("X-Hpchub-User", "X-Hpchub-Userinfo", "X-Hpchub-Id-Token"),
    *("Remote-User", "X-Remote-User", "X-Forwarded-User"),
)
"""Headers that could carry a user's identity. The tests try each of them in every spelling."""


def mixtures(name: str) -> list[str]:
    """Return a header's name with every mixture of dashes and underscores."""
    words = name.split("-")
    return [
        words[0] + "".join(mark + word for mark, word in zip(marks, words[1:], strict=True))
        for marks in itertools.product("-_", repeat=len(words) - 1)
    ]


def spellings(name: str) -> list[str]:
    """Return a header's name with every mixture of dashes and underscores, each in original, lower and upper case."""
    return [case for spelt in mixtures(name) for case in (spelt, spelt.lower(), spelt.upper())]


def unverified() -> ssl.SSLContext:
    """Return a TLS context that accepts every certificate. Other tests check the certificates."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class _Form(HTMLParser):
    """The action and the fields of the first form on a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        if tag == "form" and self.action is None:
            self.action = names.get("action") or ""
        elif tag == "input" and (name := names.get("name")):
            self.fields[name] = names.get("value") or ""


class Answer:
    """The status, headers and text of a response."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.text = response.read().decode(errors="replace")

    @property
    def location(self) -> str:
        """The redirect target, or an empty string."""
        return str(self.headers.get("Location", ""))

    def __repr__(self) -> str:
        return f"{self.status} {dict(self.headers)}\n{self.text[:2000]}"


class _Connection(http.client.HTTPSConnection):
    """A connection to a given IP address, which also sends malformed paths."""

    def __init__(self, where: SplitResult, address: str, context: ssl.SSLContext) -> None:
        super().__init__(where.hostname or "", where.port or 443, context=context, timeout=30)
        self._address = address
        self._context = context

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), timeout=self.timeout)
        self.sock = self._context.wrap_socket(plain, server_hostname=self.host)

    def _validate_path(self, url: str) -> None:
        """Accept every path. The standard library would refuse malformed ones."""


class Visitor:
    """A client that keeps cookies and connects to the lab's hosts. It never follows a redirect on its own.

    Args:
        addresses: Maps each host name in a URL to the IP address to connect to.
        url: The address of the service, without a path.
    """

    def __init__(self, addresses: Mapping[str, str], url: str) -> None:
        self.addresses = addresses
        self.url = url
        self.cookies: dict[str, dict[str, str]] = {}
        self.context = unverified()

    def ask(
        self,
        target: str,
        headers: Sequence[tuple[str, str]] = (),
        *,
        method: str = "GET",
        body: bytes | None = None,
        base: str = "",
        host: str = "",
    ) -> Answer:
        """Send one request and return the response.

        Args:
            target: The request target, sent unchanged.
            headers: Additional headers. The same header may occur several times.
            method: The HTTP method.
            body: The request body, if there is one.
            base: The server's address without a path. The default is the address of the service.
            host: The value of the Host header. The default is the host name in `base`.
        """
        where = urlsplit(base or self.url)
        jar = self.cookies.setdefault(where.netloc, {})
        sent = [("Host", host or where.netloc), *headers]
        if not any(name.lower() == "accept" for name, _ in sent):
            sent.append(("Accept", "text/html,*/*;q=0.8"))
        if jar:
            sent.append(("Cookie", "; ".join(f"{name}={value}" for name, value in jar.items())))
        if body is not None:
            sent.append(("Content-Length", str(len(body))))
        connection = _Connection(where, self.addresses[where.hostname or ""], self.context)
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in sent:
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = Answer(connection.getresponse())
        connection.close()
        for line in answer.headers.get_all("Set-Cookie") or []:
            _keep(jar, line)
        return answer

    def follow(self, answer: Answer) -> tuple[Answer, str]:
        """Follow redirects, then return the final page and its URL."""
        url = self.url
        for _ in range(REDIRECTS):
            if answer.status not in (301, 302, 303, 307):
                break
            url = urljoin(url, answer.location)
            answer = self.ask(_target(url), base=_base(url))
        return answer, url

    def sign_in(self, user: Mapping[str, Any], target: str = "/hub/home") -> Answer:
        """Sign in with the identity provider's form and return the page that follows.

        Args:
            user: A mapping with the keys ``name`` and ``password``.
            target: The page of the service to request first.

        Raises:
            LookupError: The identity provider shows no sign-in form.
        """
        page, url = self.follow(self.ask(target))
        form = _Form(page.text)
        if form.action is None or not {"user", "password"} <= set(form.fields):
            raise LookupError(f"the page at {url} has no sign-in form: {page}")
        form.fields.update(user=user["name"], password=user["password"])
        url = urljoin(url, form.action)
        answer = self.ask(
            _target(url),
            [("Content-Type", "application/x-www-form-urlencoded")],
            method="POST",
            body=urlencode(form.fields).encode(),
            base=_base(url),
        )
        return self.follow(answer)[0]


def _keep(jar: dict[str, str], line: str) -> None:
    """Add the cookie of a Set-Cookie header to the jar, or remove the cookie if the header deletes it."""
    name, _, value = line.split(";", maxsplit=1)[0].partition("=")
    if not value or re.search(r"expires=[^;]*1970|max-age=0\b", line, re.IGNORECASE):
        jar.pop(name, None)
    else:
        jar[name] = value


def _base(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _target(url: str) -> str:
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
