"""What a scheduler knows for a user's choice: which jobs start soon, and what the user may request. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from hpchub.schedulers.offers import earliest_start

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hpchub.schedulers.offers import AlikeNodes, Offer, Wanted

ANY_QUEUE = "*"
"""The queue name for what concerns every queue, because the scheduler has no queues."""


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
