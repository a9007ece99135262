"""What a scheduler knows for a user's choice: which jobs start soon, and what the user may request. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


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
    """

    cores: int
    memory: int | None = None
    gpus: int = 0
    gpu_types: Mapping[str, int] | None = None
    features: frozenset[str] | None = None
    start: float = 0.0

    def fits(self, wanted: Wanted) -> bool:
        """Return whether a job has enough room."""
        types = self.gpu_types
        return (
            wanted.cores <= self.cores
            and (self.memory is None or wanted.memory <= self.memory)
            and wanted.gpus <= self.gpus
            and (not wanted.gpu_type or types is None or wanted.gpus <= types.get(wanted.gpu_type, 0))
            and (not wanted.feature or self.features is None or wanted.feature in self.features)
        )


@dataclass(frozen=True)
class Wanted:
    """The resources of one job on one node.

    Attributes:
        cores: The number of cores.
        memory: The memory of the whole job, in MiB.
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
    """

    name: str
    open: bool = True
    offers: tuple[Offer, ...] = ()
    waiting: tuple[WaitingJob, ...] = ()
    features: tuple[str, ...] = ()


@dataclass(frozen=True)
class Availability:
    """What the queues of a cluster had free at some time.

    Attributes:
        taken: The time of the answer, in seconds since 1970.
        queues: The queues by name.
    """

    taken: float
    queues: Mapping[str, QueueState] = field(default_factory=dict)

    def wait(self, queue: str, wanted: Wanted) -> float | None:
        """Return how long a new job would probably wait, counted from ``taken``, in seconds.

        Returns:
            0 if the job would start at once. None if nothing is known.
        """
        return None


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
        unusable: Why no job can use the account at present, as a whole sentence, or empty.
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
    """

    taken: float
    accounts: tuple[Account, ...] | None = None
    default_account: str = ""
    qos: tuple[str, ...] | None = None
    reservations: tuple[Reservation, ...] | None = None
    max_jobs: int | None = None
    max_submitted: int | None = None
