"""Faults that a test or the lab switches on."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

KINDS = ("cut", "delay", "error", "gone", "hang", "lost")


@dataclass
class Fault:
    """A fault in the answers to some requests.

    Attributes:
        kind: ``error`` answers with ``code``. ``delay`` waits for ``seconds`` first. ``hang`` never answers. ``lost``
            carries the request out and closes the connection. ``cut`` ends a watch in the middle of a line, and
            ``gone`` answers it with 410.
        verb: The verb of the requests, or empty for all.
        resource: The resource of the requests, or empty for all.
        count: How many requests it concerns. Negative: all.
        code: The HTTP status of ``error``.
        seconds: The time of ``delay``.
    """

    kind: str
    verb: str = ""
    resource: str = ""
    count: int = -1
    code: int = 500
    seconds: float = 1.0


@dataclass
class Faults:
    """The faults that are switched on.

    Attributes:
        released: Set when hanging requests may end, because the server closes.
    """

    current: list[Fault] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: str, **details: str | float) -> Fault:
        """Switch a fault on, and return it.

        Raises:
            ValueError: There is no such kind.
        """
        if kind not in KINDS:
            raise ValueError(f"unknown fault {kind!r}; valid: {', '.join(KINDS)}")
        fault = Fault(kind, **details)  # type: ignore[arg-type]  # the administrator's values
        with self._lock:
            self.current.append(fault)
        return fault

    def clear(self) -> None:
        """Switch all faults off. Requests that hang end."""
        with self._lock:
            self.current.clear()
        self.released.set()
        self.released = threading.Event()

    def take(self, verb: str, resource: str) -> Fault | None:
        """Return the fault of a request, and count it."""
        with self._lock:
            for fault in self.current:
                if fault.verb in ("", verb) and fault.resource in ("", resource) and fault.count:
                    fault.count -= 1
                    return fault
        return None
