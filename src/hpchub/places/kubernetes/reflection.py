"""A copy of the objects of one resource in a namespace: one list and one watch serve all sessions.

KubeSpawner has a reflector too. It goes on to show what it knew while the API is silent, accepts answers from an old
cache, and gives up after some failures. A session must not end because of that, so this one says when it knows nothing.

Source: "Kubernetes API Concepts", the section "Efficient detection of changes".
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from typing import TYPE_CHECKING, Any

import aiohttp
from kubernetes_asyncio.client import ApiException

from hpchub.schedulers import Unanswered

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

WATCH_SECONDS = 30
"""How long one watch lasts, in seconds. A connection that is dead without an error is noticed after this time."""
LIST_TIMEOUT = 20.0
PAGE = 500
"""How many objects one answer to a list contains at most."""
LONGEST_BACKOFF = 15.0
REMEMBER = 600.0
"""How long a deleted object is remembered, in seconds."""


class Gone(Exception):
    """The version of the watch is too old (410 Gone), so the objects must be listed again."""


class Reflection:
    """The objects of one resource.

    Args:
        name: The name in the log.
        request: Sends a list or a watch with these options, and returns the response of aiohttp.
        watch_seconds: How long one watch lasts.

    Attributes:
        objects: The objects by name. Valid only while ``problem`` is empty.
        deleted: The last state of each deleted object by name, with the time of its deletion (monotonic clock).
        problem: Why nothing is known now, or empty.
        status: The HTTP status of the last failure, or 0.
        failures: How many requests in a row have failed.
    """

    def __init__(
        self,
        name: str,
        request: Callable[..., Awaitable[Any]],
        *,
        watch_seconds: int = WATCH_SECONDS,
    ) -> None:
        self.name = name
        self.objects: dict[str, dict[str, Any]] = {}
        self.deleted: dict[str, tuple[float, dict[str, Any]]] = {}
        self.problem = "not asked yet"
        self.status = 0
        self.failures = 0
        self._request = request
        self._watch_seconds = watch_seconds
        self._version = ""
        self._changed = asyncio.Event()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def current(self, patience: float) -> dict[str, dict[str, Any]]:
        """Return the objects as they are now.

        Args:
            patience: How long to wait for the first answer, in seconds.

        Raises:
            Unanswered: The API does not answer, so nothing is known.
        """
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        if self.problem and not self.failures:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), patience)
        if self.problem:
            raise Unanswered(f"{self.name}: {self.problem}")
        return self.objects

    def retry(self) -> None:
        """Ask again at once after a failure, because the API has just answered another request."""
        self._wake.set()

    async def close(self) -> None:
        """Stop the watch."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except Gone:
                log.info("%s: the watch has expired; listing again", self.name)
                self._version = ""
            except Exception as error:  # noqa: BLE001 whatever it is, nothing is known until the next answer
                self._failed(error)
                pause = min(LONGEST_BACKOFF, 0.25 * 2 ** min(self.failures, 12))
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), pause * random.uniform(0.5, 1.0))  # noqa: S311 jitter

    def _failed(self, error: Exception) -> None:
        self.status = getattr(error, "status", 0) or 0
        if self.status == 410:
            self._version = ""
        self.failures += 1
        self.problem = brief(error)
        self._changed.set()
        level = logging.WARNING if self.failures in (1, 2, 4, 8, 16) or not self.failures % 32 else logging.DEBUG
        log.log(level, "%s: the API does not answer (%d times): %s", self.name, self.failures, self.problem)

    def _answered(self) -> None:
        if self.failures:
            log.warning("%s: the API answers again", self.name)
        self.problem, self.status, self.failures = "", 0, 0
        self._changed.set()

    async def _send(self, **options: Any) -> aiohttp.ClientResponse:
        response: aiohttp.ClientResponse = await self._request(_preload_content=False, **options)
        if response.status != 200:
            text = await response.text()
            response.release()
            error = ApiException(status=response.status, reason=response.reason)
            error.body = text.encode()
            raise error
        return response

    async def _list(self) -> None:
        """List all objects. The answer is not from a cache, because no version is given."""
        found: dict[str, dict[str, Any]] = {}
        options: dict[str, Any] = {"limit": PAGE, "_request_timeout": LIST_TIMEOUT}
        while True:
            response = await self._send(**options)
            content = json.loads(await response.read())
            found.update({each["metadata"]["name"]: each for each in content["items"]})
            version = str(content["metadata"]["resourceVersion"])
            if not (further := content["metadata"].get("continue")):
                break
            options["_continue"] = further
        self.objects, self._version = found, version
        self._answered()

    async def _watch(self) -> None:
        """Follow the changes until the watch ends."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=self._watch_seconds + 10)
        response = await self._send(
            watch=True,
            allow_watch_bookmarks=True,
            resource_version=self._version,
            timeout_seconds=self._watch_seconds,
            _request_timeout=timeout,
        )
        try:
            async for line in response.content:
                self._take(json.loads(line))
                self._answered()
                if self._version == "":
                    return
            self._answered()
        finally:
            # Do not wait for the API's own end of TLS, which may never come.
            if response.connection is not None and response.connection.transport is not None:
                response.connection.transport.abort()
            response.close()

    def _take(self, change: dict[str, Any]) -> None:
        """Take a line of the watch.

        Raises:
            Gone: The version is too old.
            ApiException: The API reports another error.
        """
        kind, content = change["type"], change["object"]
        if kind == "ERROR":
            if content.get("code") == 410:
                raise Gone
            raise ApiException(status=content.get("code"), reason=content.get("message"))
        name = content["metadata"].get("name", "")
        if kind == "DELETED":
            self.objects.pop(name, None)
            self.deleted[name] = (time.monotonic(), content)
            old = time.monotonic() - REMEMBER
            self.deleted = {key: each for key, each in self.deleted.items() if each[0] > old}
        elif kind in ("ADDED", "MODIFIED"):
            self.objects[name] = content
            self.deleted.pop(name, None)
        self._version = str(content["metadata"]["resourceVersion"])


def brief(error: Exception) -> str:
    """Return an error as one line without secrets: the status and message of the API, or the kind of the failure."""
    if isinstance(error, ApiException):
        return f"status {error.status}: {message_of(error)}"
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def message_of(error: ApiException) -> str:
    """Return the message of the API's ``Status``, or the reason of the HTTP answer."""
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        return " ".join(str(json.loads(error.body or b"")["message"]).split())[:500]
    return " ".join(str(error.reason or "").split())[:300]
