"""A hub that signs users in itself, with the stand-in for Globus as its provider, and a browser for it."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

from lab_globus import AUTH, Globus, make_server
from tornado.httpclient import AsyncHTTPClient, HTTPRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tornado.httpclient import HTTPResponse

SECRET = "the-client-secret"
CLIENT = {"id": "hpchub", "secret": SECRET, "redirects": ["https://hub.example.org/hub/oauth_callback"]}
PEOPLE = [
    {"identities": ["alice@uni.example", "alice@gmail.example"], "groups": {"hpc": "active"}},
    {"identities": ["bob@gmail.example"], "groups": {"hpc": "active"}},
    {"identities": ["eve@gmail.example", "root@uni.example"], "groups": {"hpc": "active"}},
    {"identities": ["two@uni.example", "twice@uni.example"], "groups": {"hpc": "active"}},
    {"identities": ["carol@uni.example"], "groups": {"hpc": "pending"}},
]


class Provider:
    """The stand-in on a port of the loopback interface."""

    def __init__(self) -> None:
        self.globus = Globus(json.loads(json.dumps(PEOPLE)), CLIENT)
        self.server = make_server(self.globus, 0)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        """Stop the server."""
        self.server.shutdown()
        self.server.server_close()

    def fail(self, status: int) -> None:
        """Let all APIs answer with a status."""
        paths = ("oauth2/token", "oauth2/token/introspect", "oauth2/userinfo", "groups/my_groups")
        self.globus.faults = {f"/v2/{path}": status for path in paths}

    def replace(self, path: str, answer: Any) -> None:
        """Let one API answer with something else."""
        self.globus.faults = {"answers": {path: answer}}

    def forget(self, *kinds: str) -> None:
        """Make all tokens of these kinds invalid."""
        tokens = self.globus.tokens
        self.globus.tokens = {key: each for key, each in tokens.items() if each["kind"] not in kinds}


@dataclass
class Visitor:
    """A browser. It follows no redirect by itself."""

    port: int
    cookies: dict[str, str] = field(default_factory=dict)

    async def get(self, path: str, post: dict[str, str] | None = None, **headers: str) -> HTTPResponse:
        """Request a page of the hub, or of the provider."""
        url = path if path.startswith("http") else f"http://127.0.0.1:{self.port}{path}"
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        sent = {"Cookie": cookie, "Accept": "text/html", **headers}
        request = HTTPRequest(
            url,
            method="GET" if post is None else "POST",
            body=None if post is None else urlencode(post),
            headers=sent,
            follow_redirects=False,
        )
        client = AsyncHTTPClient(force_instance=True)
        response = await client.fetch(request, raise_error=False)
        client.close()
        for header in response.headers.get_list("Set-Cookie"):
            name, _, value = header.split(";")[0].partition("=")
            self.cookies[name] = value
            if not value.strip('"'):
                del self.cookies[name]
        return response

    async def begin(self, path: str = "/hub/login?next=/hub/home") -> str:
        """Begin a sign-in, and return the address of the provider's page."""
        response = await self.get(path)
        assert response.code == 302, response.body
        return response.headers["Location"]

    async def choose(self, page: str, identity: str) -> str:
        """Choose an identity on the provider's page. Return the path of the callback."""
        parts = urlsplit(page)
        fields = {**dict(parse_qsl(parts.query)), "identity": identity, "answer": "allow"}
        response = await self.get(f"{parts.scheme}://{parts.netloc}{parts.path}", post=fields)
        back = urlsplit(response.headers["Location"])
        assert back.netloc == "hub.example.org"
        return f"{back.path}?{back.query}"

    async def sign_in(self, identity: str) -> HTTPResponse:
        """Sign in, and return the answer of the callback."""
        return await self.get(await self.choose(await self.begin(), identity))


def message(response: HTTPResponse) -> str:
    """Return the text of a page, without tags."""
    return " ".join(re.sub(r"<[^>]*>", " ", response.body.decode()).split())


def target(response: HTTPResponse) -> str:
    """Return the address of a redirect."""
    return urljoin("https://hub.example.org", response.headers["Location"])


def providers() -> Iterator[Provider]:
    """Yield a running stand-in."""
    started = Provider()
    yield started
    started.close()


__all__ = ["AUTH", "PEOPLE", "SECRET", "Provider", "Visitor", "message", "providers", "target"]
