"""A client at the public door that sends exactly what a test says, signed in or not.

Browsers and libraries tidy up addresses and headers; here that would hide what is tested.
"""

from __future__ import annotations

import http.client
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
"""After so many one goes in circles."""


def unverified() -> ssl.SSLContext:
    """TLS with anybody: whether certificates are good is a test of its own."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class _Form(HTMLParser):
    """The first form of a page: its action and its fields."""

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
    """A response: status, headers, text."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.text = response.read().decode(errors="replace")

    @property
    def location(self) -> str:
        """Where it sends one, or nothing."""
        return str(self.headers.get("Location", ""))

    def __repr__(self) -> str:
        return f"{self.status} {dict(self.headers)}\n{self.text[:2000]}"


class _Connection(http.client.HTTPSConnection):
    """To an address of our choice, with a path that need not be a good one."""

    def __init__(self, where: SplitResult, address: str, context: ssl.SSLContext) -> None:
        super().__init__(where.hostname or "", where.port or 443, context=context, timeout=30)
        self._address = address
        self._context = context

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), timeout=self.timeout)
        self.sock = self._context.wrap_socket(plain, server_hostname=self.host)

    def _validate_path(self, url: str) -> None:
        """The standard library refuses what this is for."""


class Visitor:
    """Keeps cookies, follows nothing by itself, and knows where the lab's hosts are.

    Args:
        addresses: host names of URLs to the IP addresses that are really asked.
        url: the service's, without a path.
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
        """Send one request. The target goes out as it is; a header may come twice."""
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
        """Follow redirects until there is a page; the page and its URL."""
        url = self.url
        for _ in range(REDIRECTS):
            if answer.status not in (301, 302, 303, 307):
                break
            url = urljoin(url, answer.location)
            answer = self.ask(_target(url), base=_base(url))
        return answer, url

    def sign_in(self, user: Mapping[str, Any], target: str = "/hub/home") -> Answer:
        """Through the identity provider's form; the page where one arrives.

        Args:
            user: with ``name`` and ``password``.
            target: what to ask for first.

        Raises:
            LookupError: the provider shows no form to sign in.
        """
        page, url = self.follow(self.ask(target))
        form = _Form(page.text)
        if form.action is None or not {"user", "password"} <= set(form.fields):
            raise LookupError(f"no form to sign in at {url}: {page}")
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
    """Take a cookie into the jar, or out of it."""
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
