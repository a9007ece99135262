"""A watch of the service: when its health check is not green."""

from __future__ import annotations

import threading
import time
from http.client import HTTPException
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from lab.web_client import Visitor

if TYPE_CHECKING:
    from .lab import Lab


class Watch(threading.Thread):
    """Asks for the health of the service four times a second.

    Attributes:
        bad: When it was not healthy, in seconds of the monotonic clock.
    """

    def __init__(self, lab: Lab) -> None:
        super().__init__(daemon=True)
        self.bad: list[float] = []
        self._client = Visitor({urlsplit(lab.url).hostname or "": lab.addresses[lab.host("hub")]}, lab.url)
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.25):
            at = time.monotonic()
            try:
                healthy = self._client.ask("/hub/health").status == 200
            except (OSError, HTTPException):
                healthy = False
            if not healthy:
                self.bad.append(at)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    @property
    def seconds(self) -> float:
        """The time from the first to the last bad answer."""
        return self.bad[-1] - self.bad[0] if self.bad else 0.0
