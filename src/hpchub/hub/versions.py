"""The version gate: the hub starts no session through parts that do not work with it.

The hub asks each part for its version at regular times, and before a start if its last answer is old. The number of
questions does not grow with the number of starts. Sessions that have been submitted do not depend on the version gate.
"""

from __future__ import annotations

import asyncio
import http.client
import importlib.metadata
import json
import logging
import math
import socket
import time
from functools import cache, partial
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from hpchub import __version__
from hpchub.clusters.versions import GATE, HUB, NOTEBOOK, PROXY, Part, Skew, ask_gate, own_program, skews
from hpchub.schedulers import Unanswered

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from hpchub.clusters.gate_client import Gate

log = logging.getLogger(__name__)

HERE = ""
"""The place of the parts on the hub host, beside the clusters."""

MAX_AGE = 60.0
"""How old an answer may be that decides about a start, in seconds."""

INTERVAL = 300.0
"""How often the hub asks all parts, in seconds."""

PATIENCE = 5.0
"""How long a start waits for an answer, in seconds. Afterwards, the versions are unknown, and the start goes on."""


class _UnixConnection(http.client.HTTPConnection):
    """A connection to a program on this host."""

    def connect(self) -> None:
        """Connect to the Unix socket. The name of the host is its path."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self.host)


def get(url: str, target: str) -> tuple[int, str]:
    """Send a GET request to a Unix socket. Return the status and the text of the answer.

    Args:
        url: The address of the socket, ``http+unix://PATH``.
        target: The path of the request.

    Raises:
        Unanswered: There is no answer.
    """
    connection = _UnixConnection("")
    connection.host = unquote(urlsplit(url).netloc)
    try:
        connection.request("GET", target, headers={"Host": "localhost"})
        response = connection.getresponse()
        return response.status, response.read().decode()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise Unanswered(f"{connection.host} does not answer: {error}") from None
    finally:
        connection.close()


@cache
def jupyterhub_version() -> str:
    """Return the version of JupyterHub."""
    return importlib.metadata.version("jupyterhub")


def own_part() -> Part:
    """Return the hub's own versions."""
    return Part(HUB, packages={"hpchub": __version__, "JupyterHub": jupyterhub_version()})


def differences(parts: Iterable[Part]) -> list[Skew]:
    """Return the differences between some parts and this hub."""
    return [skew for part in parts for skew in skews(part, jupyterhub_version())]


async def ask_proxy(api_url: str) -> list[Part]:
    """Ask the proxy for its version.

    Raises:
        Unanswered: The proxy does not answer, so its version is unknown.
    """
    status, text = await asyncio.to_thread(get, api_url, "/api/version")
    if status == 404:
        return [Part(PROXY)]
    if status != 200:
        raise Unanswered(f"the proxy answers the question for its version with status {status}")
    try:
        return [Part.read(PROXY, HERE, json.loads(text), "configurable-http-proxy")]
    except ValueError as error:
        raise Unanswered(f"the proxy reports a version that is not valid: {error}") from None


class Source:
    """One question for versions, and its last answer.

    Args:
        ask: Asks for the versions. It raises Unanswered if there is no answer.
        host: Returns which host would answer now. Another host can have other versions.

    Attributes:
        parts: The parts that answered last. It is empty if their versions are unknown.
    """

    def __init__(self, ask: Callable[[], Awaitable[list[Part]]], host: Callable[[], str] = str) -> None:
        self.parts: list[Part] = []
        self._ask = ask
        self._host = host
        self._asked = (-math.inf, "")  # when, and which host
        self._running: asyncio.Task[None] | None = None

    async def refresh(self, max_age: float) -> list[Part]:
        """Return an answer that is at most ``max_age`` seconds old. Without an answer in time, return nothing."""
        if self._running is None:
            asked, host = self._asked
            if time.monotonic() - asked <= max_age and host == self._host():
                return self.parts
            self._running = asyncio.create_task(self._run())
        done, _ = await asyncio.wait({self._running}, timeout=PATIENCE)
        return self.parts if done else []

    async def _run(self) -> None:
        began = time.monotonic()
        parts: list[Part] = []
        try:
            parts = await self._ask()
        except Unanswered as error:
            log.warning("Versions are unknown: %s", error)
        except Exception:
            log.exception("Versions are unknown")
        finally:
            self.parts = parts
            self._asked = began, self._host()
            self._running = None


class VersionGate:
    """What the hub knows of the versions of the other parts.

    Args:
        gates: The gates by cluster.
        proxy_url: The URL of the proxy's API.
    """

    def __init__(self, gates: Mapping[str, Gate], proxy_url: str) -> None:
        # Remember what this process runs. Before its restart, another version may be installed in the same place.
        for remember in (jupyterhub_version, partial(own_program, GATE), partial(own_program, NOTEBOOK)):
            remember()
        self._gates = gates
        self._sources = {HERE: Source(partial(ask_proxy, proxy_url))}
        for cluster in gates:
            self._sources[cluster] = Source(partial(self._ask, cluster), partial(self._host, cluster))

    @property
    def parts(self) -> dict[str, list[Part]]:
        """The parts of known versions, by place."""
        found = {place: source.parts for place, source in self._sources.items()}
        return found | {HERE: [own_part(), *found[HERE]]}

    async def obstacles(self, cluster: str) -> list[Skew]:
        """Return why no session can start on a cluster: the parts that do not work with this hub."""
        return [skew for skew in differences(await self._refresh([cluster], MAX_AGE)) if skew.is_harmful]

    async def watch(self, clusters: Callable[[], Iterable[str]]) -> None:
        """Ask all parts again and again, so that the metrics show them. It never returns.

        Args:
            clusters: Returns the names of the clusters to ask. It raises OSError or ValueError if it cannot.
        """
        while True:
            try:
                await self._refresh(clusters(), max_age=0)
            except (OSError, ValueError) as error:
                log.error("Cannot read the list of clusters: %s", error)
            await asyncio.sleep(INTERVAL)

    async def _refresh(self, clusters: Iterable[str], max_age: float) -> list[Part]:
        """Ask the proxy and some clusters at the same time. Return the parts that answer."""
        sources = [self._sources[place] for place in (HERE, *clusters) if place in self._sources]
        answers = await asyncio.gather(*(source.refresh(max_age) for source in sources))
        return [part for answer in answers for part in answer]

    async def _ask(self, cluster: str) -> list[Part]:
        return await ask_gate(self._gates[cluster], cluster)

    def _host(self, cluster: str) -> str:
        return self._gates[cluster].host
