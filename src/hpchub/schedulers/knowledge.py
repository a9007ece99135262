"""What a scheduler knows for a user's choice: which jobs start soon, and what the user may request. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from hpchub.schedulers.several_nodes import AlikeNodes, earliest_start

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

ANY_QUEUE = "*"
"""The queue name for what concerns every queue, because the scheduler has no queues."""
MAX_OFFERS = 200
"""How many offers of one queue are kept. Further ones are of no use for a choice."""


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


@dataclass(frozen=True)
class WaitingJob:
    """A job that waits for free resources.

    Attributes:
        wanted: What the job needs on each of its nodes.
        nodes: The number of its nodes.
        start: When the scheduler expects to start it, in seconds since 1970. None means that the scheduler gives no
            estimate.
    """

    wanted: Wanted
    nodes: int = 1
    start: float | None = None


@dataclass(frozen=True)
class QueueState:
    """What a queue has free, now and later.

    Attributes:
        name: The queue, or ``ANY_QUEUE`` for schedulers without queues.
        open: Whether the queue accepts and starts jobs.
        offers: What its nodes have free. An offer that another one surpasses is left out.
        waiting: The jobs that wait for free resources. Held jobs, and jobs that a limit of their owner stops, do not
            count.
        features: The features of its nodes.
        nodes: Its nodes with their offers, for jobs with several nodes. Empty if they are unknown.
    """

    name: str
    open: bool = True
    offers: tuple[Offer, ...] = ()
    waiting: tuple[WaitingJob, ...] = ()
    features: tuple[str, ...] = ()
    nodes: tuple[AlikeNodes, ...] = ()


@dataclass(frozen=True)
class Availability:
    """What the queues of a cluster had free at some time.

    Attributes:
        taken: The time of the answer, in seconds since 1970.
        queues: The queues by name.
    """

    taken: float
    queues: Mapping[str, QueueState] = field(default_factory=dict)

    def wait(self, queue: str, wanted: Wanted, nodes: int = 1) -> float | None:
        """Return how long a new job would probably wait, counted from ``taken``, in seconds.

        The job starts where it has enough room, but not before a waiting job of the queue that needs no more than it
        does. Reservations of the user and limits of the account do not count.

        Args:
            queue: The queue.
            wanted: What the job needs on each of its nodes.
            nodes: The number of its nodes.

        Returns:
            0 if the job would start at once. None if nothing is known.
        """
        state = self.queues.get(queue) or self.queues.get(ANY_QUEUE)
        if state is None or not state.open:
            return None
        if nodes == 1:
            starts = [max(offer.start, self.taken) for offer in state.offers if offer.fits(wanted, self.taken)]
        else:
            start = earliest_start(state.nodes, wanted, nodes, self.taken)
            starts = [] if start is None else [start]
        ahead = [job.start for job in state.waiting if wanted.covers(job.wanted)]
        known = [start for start in ahead if start is not None]
        if not starts or len(known) < len(ahead):
            return None
        return max(min(starts), *known, self.taken) - self.taken if known else min(starts) - self.taken


class JobLimits(NamedTuple):
    """How many jobs a user may have. None means that there is no known limit."""

    running: int | None = None
    total: int | None = None


class JobNumbers(NamedTuple):
    """How many jobs a user has: those that run, and all of them."""

    running: int
    total: int


@dataclass(frozen=True)
class Account:
    """An account (in some schedulers: a project) that a user may charge.

    Attributes:
        name: Its name.
        qos: The qualities of service that the user may use with it. None means that they are unknown.
        default_qos: The one that jobs use if they name none, or empty.
        queues: The queues for which the user may use the account. None means all.
        max_jobs: How many jobs the user may have running at the same time. None means that there is no known limit.
        max_submitted: How many jobs the user may have, waiting ones included.
        max_runtime: The longest time of a job, in seconds.
        unusable: Why no job can use the account at present: ``closed``, or ``used_up`` if its computing time is used
            up. Empty if jobs can use it.
    """

    name: str
    qos: tuple[str, ...] | None = None
    default_qos: str = ""
    queues: tuple[str, ...] | None = None
    max_jobs: int | None = None
    max_submitted: int | None = None
    max_runtime: int | None = None
    unusable: str = ""


@dataclass(frozen=True)
class Reservation:
    """Nodes that are reserved for some time.

    Attributes:
        name: Its name.
        start: Its begin, in seconds since 1970.
        end: Its end, in seconds since 1970. None means that it has no end.
        queue: The queue that its jobs must use, or empty for any.
    """

    name: str
    start: float
    end: float | None = None
    queue: str = ""


@dataclass(frozen=True)
class Maintenance:
    """A time in which nodes are reserved for work on them. A job that reaches into it does not start on them before.

    Attributes:
        name: Its name.
        start: Its begin, in seconds since 1970.
        end: Its end, in seconds since 1970. None means that it has no end.
        queues: The queues that have no other nodes. None means that it affects the whole cluster.
    """

    name: str
    start: float
    end: float | None = None
    queues: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Allocations:
    """What a user may request from a cluster.

    Attributes:
        taken: The time of the answer, in seconds since 1970.
        accounts: The accounts that the user may charge. Empty if the user has none. None means that the scheduler has
            no accounts, or does not report who may use them.
        default_account: The account of jobs that name none, or empty.
        qos: All qualities of service that the user may use with any account. None means that they are unknown.
        reservations: The reservations that the user may use. None means that they are unknown.
        max_jobs: How many jobs the user may have running at the same time, with all accounts. None means that there is
            no known limit.
        max_submitted: How many jobs the user may have, waiting ones included.
        limits_of_qos: The limits of the qualities of service.
    """

    taken: float
    accounts: tuple[Account, ...] | None = None
    default_account: str = ""
    qos: tuple[str, ...] | None = None
    reservations: tuple[Reservation, ...] | None = None
    max_jobs: int | None = None
    max_submitted: int | None = None
    limits_of_qos: Mapping[str, JobLimits] = field(default_factory=dict)


@dataclass(frozen=True)
class Person:
    """A user, as the submit host knows the account.

    Attributes:
        name: The user's name.
        groups: The names and the numeric ids of the user's Unix groups.
    """

    name: str
    groups: frozenset[str] = frozenset()


class KnowledgeSource:
    """What a scheduler knows for a user's choice: a part of ``Scheduler``. The defaults suit schedulers without it.

    The hub runs the commands rarely: at most two per minute for all users of a cluster. A command whose words contain
    ``{users}`` asks for some users. All other commands ask for the whole cluster. Each parser returns a complete answer
    or raises ``Unanswered``. The hub then keeps the last answer.
    """

    knowledge_commands: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """The commands by topic.

    The gate replaces ``{mark}`` as in ``query_command``. It replaces ``{users}`` with the names of some users: joined
    by commas if it is a part of a word, and one word each if it is a whole word.
    """
    availability_topics: tuple[str, ...] = ()
    """The topics that ``parse_availability`` needs, one or two. The hub asks for them at the same time."""

    @property
    def user_topics(self) -> tuple[str, ...]:
        """The topics that ask for some users."""
        commands = self.knowledge_commands.items()
        return tuple(topic for topic, command in commands if any("{users}" in word for word in command))

    @property
    def policy_topics(self) -> tuple[str, ...]:
        """The topics that ask for the whole cluster and change rarely."""
        others = {*self.availability_topics, *self.user_topics}
        return tuple(topic for topic in self.knowledge_commands if topic not in others)

    def parse_availability(self, answers: Mapping[str, str], taken: float) -> dict[str, QueueState]:
        """Return what the queues have free.

        Args:
            answers: The output of the command of each of ``availability_topics``.
            taken: The time of the answers, in seconds since 1970.

        Raises:
            Unanswered: An output has an unexpected format or is truncated.
        """
        raise NotImplementedError

    def count_jobs(self, answers: Mapping[str, str]) -> dict[str, dict[tuple[str, str], JobNumbers]] | None:
        """Return the numbers of jobs of each user, by account and quality of service. None if they are unknown.

        Args:
            answers: As for ``parse_availability``.

        Raises:
            Unanswered: An output has an unexpected format or is truncated.
        """
        return None

    def parse_policy(self, topic: str, stdout: str) -> Any:
        """Return the content of an answer for the whole cluster, for ``allocations`` and ``maintenances``.

        Raises:
            Unanswered: The output has an unexpected format or is truncated.
        """
        raise NotImplementedError

    def parse_users(self, topic: str, stdout: str, users: Sequence[str]) -> dict[str, Any]:
        """Return the content of an answer for each of some users, for ``allocations``.

        Args:
            topic: The topic.
            stdout: The output.
            users: All users that the command asked for.

        Raises:
            Unanswered: The output has an unexpected format or is truncated.
        """
        raise NotImplementedError

    def allocations(
        self, person: Person, answers: Mapping[str, Any], policies: Mapping[str, Any], taken: float
    ) -> Allocations | None:
        """Return what a user may request, or None if that is unknown.

        Args:
            person: The user.
            answers: What ``parse_users`` returned for this user, by topic. Topics without an answer are missing.
            policies: What ``parse_policy`` returned, by topic. Topics without an answer are missing.
            taken: The time of the oldest of the answers, in seconds since 1970.
        """
        return None

    def maintenances(self, policies: Mapping[str, Any]) -> tuple[Maintenance, ...]:
        """Return the maintenances that the scheduler knows.

        Args:
            policies: As for ``allocations``.
        """
        return ()
