"""When several nodes of a queue are free at the same time. No I/O."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from hpchub.schedulers.knowledge import Offer, Wanted

MAX_KINDS = 1000
"""How many kinds of nodes of one queue are kept, those with the most nodes."""


class AlikeNodes(NamedTuple):
    """Nodes that offer the same at the same times.

    Attributes:
        number: The number of these nodes.
        offers: What each of them offers. Its offers are alternatives, not parts.
    """

    number: int
    offers: tuple[Offer, ...]


def alike(nodes: Iterable[Iterable[Offer]]) -> tuple[AlikeNodes, ...]:
    """Return the different nodes of a queue, each of which is given by its offers, with their numbers."""
    numbers: Counter[tuple[Any, ...]] = Counter()
    found: dict[tuple[Any, ...], tuple[Offer, ...]] = {}
    for offers in nodes:
        usable = tuple(offer for offer in offers if offer.cores > 0)
        if usable:
            key = tuple(offer.key for offer in usable)
            found[key] = usable
            numbers[key] += 1
    return tuple(AlikeNodes(number, found[key]) for key, number in numbers.most_common(MAX_KINDS))


def earliest_start(nodes: Sequence[AlikeNodes], wanted: Wanted, number: int, taken: float) -> float | None:
    """Return when a number of nodes have room at the same time, in seconds since 1970, or None if it is unknown.

    Args:
        nodes: The nodes of a queue.
        wanted: What the job needs on each node.
        number: How many nodes it needs.
        taken: The time of the answer, in seconds since 1970.
    """
    changes = []
    for each in nodes:
        for begin, end in _times(each.offers, wanted, taken):
            changes += [(begin, -each.number), (end, each.number)]
    free = 0
    # At the same time, nodes that become free (a negative change) count before others cease to be.
    for when, change in sorted(changes):
        free -= change
        if free >= number:
            return when
    return None


def _times(offers: Iterable[Offer], wanted: Wanted, taken: float) -> Iterator[tuple[float, float]]:
    """Yield the first and the last time of each period in which a job could start on a node."""
    periods = sorted(
        (max(offer.start, taken), math.inf if offer.until is None else offer.until - wanted.runtime)
        for offer in offers
        if offer.fits(wanted, taken)
    )
    while periods:
        begin, end = periods.pop(0)
        while periods and periods[0][0] <= end:
            end = max(end, periods.pop(0)[1])
        yield begin, end
