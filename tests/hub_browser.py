"""A browser for the pages of a real JupyterHub in tests."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from tornado.httpclient import AsyncHTTPClient, HTTPRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tornado.httpclient import HTTPResponse

    from hpchub.hub.profiles_spawner import HPCProfilesSpawner

WAITING_PAGE = "/hub/spawn-pending/alice"


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


async def eventually(condition: Callable[[], object]) -> Any:
    """Wait until a condition is true, and return its value."""
    async with asyncio.timeout(60):
        while not (found := condition()):  # noqa: ASYNC110 the condition has no event
            await asyncio.sleep(0.005)
    return found


def form(page: str, element: str) -> tuple[str, dict[str, str]]:
    """Return the action and the hidden fields of the form that contains a button."""
    for action, content in re.findall(r'<form method="post" action="([^"]*)">(.*?)</form>', page, re.DOTALL):
        if f'id="{element}"' in content:
            return action, dict(re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', content))
    raise AssertionError(f"the page has no form with {element}")


def interrupt(spawner: HPCProfilesSpawner) -> None:
    """End a start as JupyterHub does before it stops a server."""
    assert spawner._spawn_future
    spawner._spawn_future.cancel()
