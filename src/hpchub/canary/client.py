"""The canary's connections to the hub and to the notebook server of its session, through the service's public address.

They use the documented interfaces only, as every program with a token does.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import json
import re
import socket
import ssl
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver

from hpchub.canary.status import CanaryError, one_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aiohttp.abc import ResolveResult

REQUEST_TIMEOUT = 60.0
"""How long one request may take, in seconds. JupyterHub answers a start after 10 seconds at the latest."""
PAUSE = 0.5
"""The time between two questions about the start of an application, in seconds."""
CODE = {"bash": "echo $((6*7))", "perl": "print 6*7"}
"""The code that computes 6*7, by the language of a kernel. ``6*7`` works in all others."""


class Client:
    """A connection to the service, with the canary's token.

    Args:
        http: The HTTP client, which sends the token with every request.
        url: The public URL of the service.
        user: The account that the sessions belong to.
    """

    def __init__(self, http: aiohttp.ClientSession, url: str, user: str) -> None:
        self._http = http
        self._url = url.rstrip("/")
        self._user = quote(user, safe="@")

    # -- the hub

    async def start(self, profile: str) -> None:
        """Ask the hub to start a session.

        Raises:
            CanaryError: The hub refused the start, or did not answer.
        """
        await self._request("POST", self._hub(f"users/{self._user}/server"), {"profile": profile})

    async def stop(self) -> None:
        """Ask the hub to stop the session.

        Raises:
            CanaryError: The hub did not accept the request.
        """
        await self._request("DELETE", self._hub(f"users/{self._user}/server"))

    async def session(self) -> dict[str, Any]:
        """Return the state of the session; see ``hpchub.hub.session_handlers.SessionHandler``.

        Raises:
            CanaryError: The hub did not answer, or does not know the account.
        """
        return self._mapping(await self._request("GET", self._hub(f"hpchub/sessions/{self._user}")))

    async def server_url(self) -> str:
        """Return the URL of the session's notebook server.

        Raises:
            CanaryError: The hub did not answer.
        """
        model = self._mapping(await self._request("GET", self._hub(f"users/{self._user}")))
        server = (model.get("servers") or {}).get("") or {}
        path = server.get("full_url") or server.get("url") or f"/user/{self._user}/"
        url: str = urljoin(self._url + "/", path)
        if not self._is_ours(url):  # the token must not reach another host
            raise CanaryError(f"the hub names {url} as the session's address, which is not an address of this service")
        return url

    def _is_ours(self, url: str) -> bool:
        ours, named = urlsplit(self._url), urlsplit(url)
        host = named.hostname or ""
        same_host = host == ours.hostname or host.endswith(f".{ours.hostname}")
        return (named.scheme, named.port) == (ours.scheme, ours.port) and same_host

    def _hub(self, path: str) -> str:
        return f"{self._url}/hub/api/{path}"

    # -- the notebook server

    async def kernels(self, server: str) -> dict[str, str]:
        """Return the languages of the notebook server's kernels, by the names of the kernels.

        Raises:
            CanaryError: The notebook server did not answer.
        """
        answer = self._mapping(await self._request("GET", f"{server}api/kernelspecs"))
        specs = answer.get("kernelspecs") or {}
        return {name: str(spec.get("spec", {}).get("language", "")).lower() for name, spec in specs.items()}

    async def applications(self, server: str) -> dict[str, str]:
        """Return the paths of the session's applications below the notebook server, by their names.

        Raises:
            CanaryError: The notebook server did not answer.
        """
        response, text = await self._send("GET", f"{server}server-proxy/servers-info")
        if response.status == 404:  # a session without applications
            return {}
        try:
            listed = json.loads(text)["server_processes"]
            return {str(each["name"]): str(each["launcher_entry"]["path_info"]) for each in listed}
        except (KeyError, TypeError, ValueError):
            raise CanaryError(
                f"the list of applications was answered with {response.status}", unanswered=True
            ) from None

    async def open(self, server: str, path: str) -> str:
        """Open an application, as a click on its tile does, and wait until it answers. Its version is not known.

        Raises:
            CanaryError: It does not work. The message is that of its page.
        """
        while True:
            response, text = await self._send("GET", urljoin(server, path))
            if response.status < 400:
                return ""
            if response.status != 503:  # the page about the start
                title = re.search(r"<h1>(.*?)</h1>", text, re.DOTALL)
                raise CanaryError(one_line(html.unescape(title[1])) if title else f"it answers with {response.status}")
            await asyncio.sleep(PAUSE)

    async def compute(self, server: str, kernel: str, language: str) -> str:
        """Start a kernel, let it compute 6*7, and end it. Return the version of its language, or empty.

        Raises:
            CanaryError: The kernel does not start, ends, or gives another result.
        """
        model = self._mapping(await self._request("POST", f"{server}api/kernels", {"name": kernel}))
        address = f"{server}api/kernels/{quote(str(model.get('id')), safe='')}"
        try:
            return await self._run(f"{address}/channels", CODE.get(language, "6*7"))
        finally:
            with contextlib.suppress(CanaryError):  # the end of the session ends the kernel too
                await self._request("DELETE", address)

    async def _run(self, url: str, code: str) -> str:
        message = _execution(code)
        try:
            async with self._http.ws_connect(url, max_msg_size=2**24) as socket_:
                await socket_.send_str(json.dumps(_message("kernel_info_request", {})))
                await socket_.send_str(json.dumps(message))
                output, version = "", ""
                async for received in socket_:
                    if received.type is not aiohttp.WSMsgType.TEXT:
                        continue
                    answer = json.loads(received.data)
                    kind, content = answer.get("msg_type"), answer.get("content") or {}
                    if kind == "status" and content.get("execution_state") in ("dead", "restarting"):
                        raise CanaryError("the kernel has ended unexpectedly")
                    if kind == "kernel_info_reply":
                        version = _version(content)
                    if (answer.get("parent_header") or {}).get("msg_id") != message["header"]["msg_id"]:
                        continue
                    if kind == "error":
                        raise CanaryError(f"6*7 raises {one_line(content.get('ename'))}")
                    output += _text(kind, content)
                    if kind == "status" and content.get("execution_state") == "idle":
                        _check(output)
                        return version
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise CanaryError(f"the websocket of the kernel fails: {describe(error)}") from None
        raise CanaryError("the websocket of the kernel was closed before there was a result")

    # -- requests

    async def _send(self, method: str, url: str, body: Any = None) -> tuple[aiohttp.ClientResponse, str]:
        """Send a request. Return the answer and its text.

        Raises:
            CanaryError: There is no answer.
        """
        try:
            async with self._http.request(method, url, json=body, allow_redirects=False) as response:
                return response, await response.text(errors="replace")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            what = f"{method} {urlsplit(url).path}"
            raise CanaryError(f"{what} was not answered: {describe(error)}", unanswered=True) from None

    async def _request(self, method: str, url: str, body: Any = None) -> Any:
        """Send a request and return the answer's content, or None if it has none.

        Raises:
            CanaryError: There is no answer, or its status is an error.
        """
        response, text = await self._send(method, url, body)
        content: Any = None
        if text.strip():
            try:
                content = json.loads(text)
            except ValueError:
                content = None
        if response.status >= 300:
            message = content.get("message") if isinstance(content, dict) else ""
            detail = one_line(message) or response.reason
            what = f"{method} {urlsplit(url).path}"
            raise CanaryError(
                f"{what} was answered with {response.status}: {detail}", unanswered=response.status >= 500
            )
        return content

    @staticmethod
    def _mapping(content: Any) -> dict[str, Any]:
        if not isinstance(content, dict):
            raise CanaryError("the answer is not a JSON object", unanswered=True)
        return content


@asynccontextmanager
async def connect(
    url: str, user: str, token: str, *, connect_to: tuple[str, int] | None = None, ca_file: Path | None = None
) -> AsyncIterator[Client]:
    """Connect to the service.

    Args:
        url: The public URL of the service. Its certificate is always checked against the name in it.
        user: The account that the sessions belong to.
        token: The canary's token.
        connect_to: The host and port of the web server if the public name does not lead there from this host.
        ca_file: A file with further certificate authorities.

    Raises:
        OSError: The file cannot be read.
    """
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    resolver = FixedResolver(*connect_to) if connect_to else None
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context, resolver=resolver),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Authorization": f"token {token}"},
        timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT),
        trust_env=False,
    ) as http:
        yield Client(http, url, user)


class FixedResolver(AbstractResolver):
    """A resolver that knows one address for all names.

    Args:
        host: The host of the web server.
        port: Its port.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of the web server."""
        found = await self._resolver.resolve(self._host, self._port, family)
        for each in found:
            each["hostname"] = host
        return found

    async def close(self) -> None:
        """Close the resolver."""
        await self._resolver.close()


def describe(error: BaseException) -> str:
    """Return an exception as one short line."""
    return one_line(str(error)) or type(error).__name__


def _execution(code: str) -> dict[str, Any]:
    content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
    return _message("execute_request", content)


def _message(kind: str, content: dict[str, Any]) -> dict[str, Any]:
    header = {
        "msg_id": uuid.uuid4().hex,
        "msg_type": kind,
        "username": "",
        "session": uuid.uuid4().hex,
        "date": "",
        "version": "5.3",
    }
    return {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}


def _version(content: dict[str, Any]) -> str:
    """Return the version of a kernel's language from its description of itself, or empty."""
    return one_line((content.get("language_info") or {}).get("version"))[:20]


def _text(kind: str, content: dict[str, Any]) -> str:
    """Return the text of an output message, or empty."""
    if kind == "stream":
        return str(content.get("text", ""))
    if kind in ("execute_result", "display_data"):
        return str((content.get("data") or {}).get("text/plain", "")) + "\n"
    return ""


def _check(output: str) -> None:
    if not re.search(r"(?<![\w.])42(?![\w.])", output):
        raise CanaryError(f"6*7 gives {one_line(output)!r} instead of 42")
