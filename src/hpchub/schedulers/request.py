"""What a scheduler must know about a job and its cluster. The model's ``Profile`` and ``Cluster`` provide it. No I/O.

The model imports the schedulers. These protocols avoid an import in the other direction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class JobRequest(Protocol):
    """The resources of a job. Their meaning is the same for every scheduler."""

    @property
    def queue(self) -> str:
        """The name of the queue."""

    @property
    def nodes(self) -> int:
        """The number of nodes. The batch script runs on the first one."""

    @property
    def cores(self) -> int:
        """The number of cores on each node."""

    @property
    def memory(self) -> str:
        """The memory on each node, for example ``4G``. See ``hpchub.units`` for the notation."""

    @property
    def runtime(self) -> str:
        """The time limit, for example ``8:00:00`` or ``1-00:00:00``. See ``hpchub.units`` for the notation."""

    @property
    def gpus(self) -> int:
        """The number of GPUs on each node. ``hpchub.gpus.gpu_type`` returns their type."""

    @property
    def account(self) -> str:
        """The account to charge, or empty for the user's default account."""

    @property
    def qos(self) -> str:
        """The quality of service, or empty for the user's default."""

    @property
    def reservation(self) -> str:
        """The reservation to use, or empty."""

    @property
    def node_constraint(self) -> str:
        """Features that the node must have, in the scheduler's own syntax, or empty."""

    @property
    def options(self) -> Sequence[str]:
        """Further options of the scheduler, one per item. ``Scheduler.option_problem`` has permitted them."""


class GridEngineNames(Protocol):
    """The names of the resources of a site with Grid Engine, and how they are counted."""

    @property
    def parallel_environment(self) -> str:
        """The parallel environment that places all cores of a job on one node."""

    @property
    def nodes_environment(self) -> str:
        """The parallel environment of jobs with several nodes, with ``{cores}`` for the cores per node, or empty."""

    @property
    def memory_resource(self) -> str:
        """The resource for memory, or empty if the site has none."""

    @property
    def memory_per(self) -> str:
        """``slot`` if memory is requested per core, ``job`` if it is requested for the whole job."""

    @property
    def gpu_resource(self) -> str:
        """The resource for GPUs. It is requested for the whole job."""


class ClusterSettings(Protocol):
    """The settings of a cluster that affect how a job is requested."""

    @property
    def queue_names(self) -> Sequence[str]:
        """The names of the cluster's queues in the inventory."""

    @property
    def gpu_type_resource(self) -> str:
        """The resource with the type of a node's GPUs, or empty."""

    @property
    def grid_engine(self) -> GridEngineNames:
        """The names of the resources, for Grid Engine."""
