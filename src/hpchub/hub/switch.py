"""A smaller profile beside a start that waits: which profiles are smaller, and which start is cancelled. No I/O.

The user keeps the place in the queue: a second session starts while the first one waits. As soon as one is ready, the
other one is cancelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpchub.messages import Message

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hpchub.model.entries import Profile

LOST = Message(
    "The other session that you asked for was ready first, so the service cancelled this start. Open the other session"
    " on your home page."
)
"""What the user reads about the start that is cancelled."""


@dataclass(frozen=True)
class Key:
    """A session of a user.

    Attributes:
        user: The name of the user.
        server: The name of the server; the empty one stands for the session without a name.
    """

    user: str
    server: str


class Replacements:
    """The pairs of sessions. The service keeps one session of each pair. A session belongs to at most one pair."""

    def __init__(self) -> None:
        self._first: dict[Key, Key] = {}

    def add(self, first: Key, second: Key) -> bool:
        """Remember that the second session shall replace the first one. Return False if one has a partner already."""
        if first == second or first.user != second.user or self.partner(first) or self.partner(second):
            return False
        self._first[second] = first
        return True

    def replaced(self, second: Key) -> Key | None:
        """Return the session that another one shall replace, or None."""
        return self._first.get(second)

    def partner(self, key: Key) -> Key | None:
        """Return the other session of a pair, or None."""
        return self._first.get(key) or next((second for second, first in self._first.items() if first == key), None)

    def remove(self, key: Key) -> None:
        """Forget the pair of a session, because it has ended or only one of the two is left."""
        self._first = {second: first for second, first in self._first.items() if key not in (first, second)}


def smaller(than: Profile, profiles: Iterable[Profile]) -> list[Profile]:
    """Return the profiles that request less of something and more of nothing, the largest ones first.

    Args:
        than: The profile of the start that waits.
        profiles: The profiles that are offered.
    """
    size = _size(than)
    found = [
        each for each in profiles if _size(each) != size and all(a <= b for a, b in zip(_size(each), size, strict=True))
    ]
    return sorted(found, key=_size, reverse=True)


def _size(profile: Profile) -> tuple[int, ...]:
    return int(profile.gpus), profile.cores, profile.memory_mib, profile.runtime_seconds, profile.nodes


def saved(replacements: Replacements, key: Key) -> Mapping[str, str]:
    """Return what the saved state of a session contains about its pair."""
    first = replacements.replaced(key)
    return {"replaces": first.server} if first else {}
