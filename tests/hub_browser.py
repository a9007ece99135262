"""A browser for the pages of a real JupyterHub in tests."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from tornado.httpclient import AsyncHTTPClient, HTTPRequest

if TYPE_CHECKING:
    from tornado.httpclient import HTTPResponse


@dataclasses.dataclass
class Browser:
    """A signed-in browser."""

    port: int
    user: str = "alice"
    cookies: dict[str, str] = dataclasses.field(default_factory=dict)

    async def get(self, path: str, token: str = "", **headers: str) -> HTTPResponse:
        """Request a page without following redirects."""
        sent = {"X-Hpchub-User": self.user, **headers}
        if token:
            sent["Authorization"] = f"token {token}"
        elif self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        client = AsyncHTTPClient(force_instance=True)
        url = path if path.startswith("http") else f"http://127.0.0.1:{self.port}{path}"
        response = await client.fetch(HTTPRequest(url, headers=sent, follow_redirects=False), raise_error=False)
        client.close()
        for header in response.headers.get_list("Set-Cookie"):
            name, _, value = header.split(";")[0].partition("=")
            self.cookies[name] = value
        return response

    async def post(self, path: str, fields: dict[str, str]) -> HTTPResponse:
        """Submit a form without following redirects."""
        sent = {
            "X-Hpchub-User": self.user,
            "Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()),
        }
        client = AsyncHTTPClient(force_instance=True)
        request = HTTPRequest(
            f"http://127.0.0.1:{self.port}{path}",
            method="POST",
            headers=sent,
            body=urlencode(fields),
            follow_redirects=False,
        )
        response = await client.fetch(request, raise_error=False)
        client.close()
        return response

    async def page(self, path: str) -> str:
        """Return the text of a page."""
        return (await self.get(path)).body.decode()
