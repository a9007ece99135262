"""What the nodes of a queue have free, and when one or several of them have room for a job. No I/O."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

MAX_OFFERS = 200
"""How many offers of one queue are kept. Further ones are of no use for a choice."""
MAX_KINDS = 1000
"""How many kinds of nodes of one queue are kept, those with the most nodes."""


@dataclass(frozen=True)
class Offer:
    """What one node of a queue has free from a certain time on.

    Attributes:
        cores: The free cores.
        memory: The free memory, in MiB. None means that the scheduler does not report it.
        gpus: The free GPUs.
        gpu_types: The free GPUs of each type. None means that the types are unknown.
        features: The features of the node. None means that they are unknown.
        start: From when on, in seconds since 1970. 0 means since the time of the answer.
        until: When the scheduler needs the node for another job, in seconds since 1970. None means that it does not.
    """

    cores: int
    memory: int | None = None
    gpus: int = 0
    gpu_types: Mapping[str, int] | None = None
    features: frozenset[str] | None = None
    start: float = 0.0
    until: float | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """All of its values, to find equal offers."""
        types = None if self.gpu_types is None else tuple(sorted(self.gpu_types.items()))
        return self.start, self.until, self.cores, self.memory, self.gpus, types, self.features

    def fits(self, wanted: Wanted, taken: float) -> bool:
        """Return whether a job has enough room and time.

        Args:
            wanted: What the job needs.
            taken: The time of the answer, in seconds since 1970.
        """
        types = self.gpu_types
        return (
            (self.until is None or 0 < wanted.runtime <= self.until - max(self.start, taken))
            and wanted.cores <= self.cores
            and (self.memory is None or wanted.memory <= self.memory)
            and wanted.gpus <= self.gpus
            and (not wanted.gpu_type or types is None or wanted.gpus <= types.get(wanted.gpu_type, 0))
            and (not wanted.feature or self.features is None or wanted.feature in self.features)
        )

    def surpasses(self, other: Offer) -> bool:
        """Return whether this offer fits each job that the other one fits."""
        return (
            self.cores >= other.cores
            and (self.memory is None or (other.memory is not None and self.memory >= other.memory))
            and self.gpus >= other.gpus
            and (self.gpu_types is None or (other.gpu_types is not None and _covers(self.gpu_types, other.gpu_types)))
            and (self.features is None or (other.features is not None and self.features >= other.features))
            and self.start <= other.start
            and (self.until is None or (other.until is not None and self.until >= other.until))
        )


def _covers(types: Mapping[str, int], others: Mapping[str, int]) -> bool:
    return all(types.get(kind, 0) >= number for kind, number in others.items())


def best_offers(offers: Iterable[Offer]) -> tuple[Offer, ...]:
    """Return the offers that no other one surpasses, the earliest and largest first, at most ``MAX_OFFERS``."""
    found: list[Offer] = []
    for offer in sorted(set_of(offers), key=lambda each: (each.start, -each.cores, -(each.memory or 0), -each.gpus)):
        if len(found) == MAX_OFFERS:
            break
        if not any(other.surpasses(offer) for other in found):
            found.append(offer)
    return tuple(found)


def set_of(offers: Iterable[Offer]) -> list[Offer]:
    """Return the different offers. Most nodes of a cluster are equal, so this saves most of the comparisons."""
    return list({offer.key: offer for offer in offers}.values())


@dataclass(frozen=True)
class Wanted:
    """The resources of one job on one node.

    Attributes:
        cores: The number of cores.
        memory: The memory, in MiB.
        runtime: The time limit, in seconds. 0 means that it is unknown.
        gpus: The number of GPUs.
        gpu_type: Their type, or empty for any type.
        feature: A feature that the node must have, or empty. Leave out constraints with several features.
    """

    cores: int
    memory: int
    runtime: int = 0
    gpus: int = 0
    gpu_type: str = ""
    feature: str = ""

    def covers(self, other: Wanted) -> bool:
        """Return whether another job needs no more than this one."""
        return (
            other.cores <= self.cores
            and other.memory <= self.memory
            and other.gpus <= self.gpus
            and (not self.runtime or other.runtime <= self.runtime)
        )


# Jobs with several nodes


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
