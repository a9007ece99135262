"""What a scheduler needs to know of a job and its cluster. The model's ``Profile`` and ``Cluster`` provide it.

These protocols keep the schedulers independent of the model, which in turn knows the schedulers by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class JobRequest(Protocol):
    """The resources of a job, in terms that mean the same for every scheduler."""

    @property
    def queue(self) -> str:
        """The name of the queue."""

    @property
    def cores(self) -> int:
        """The number of cores, all on one node."""

    @property
    def memory(self) -> str:
        """The memory of the whole job, as in ``4G``."""

    @property
    def runtime(self) -> str:
        """The time limit, as in ``8:00:00`` or ``1-00:00:00``."""

    @property
    def gpus(self) -> int:
        """The number of GPUs."""

    @property
    def account(self) -> str:
        """The account to charge, or empty for the user's default account."""

    @property
    def reservation(self) -> str:
        """The reservation to run in, or empty."""

    @property
    def node_constraint(self) -> str:
        """Features that the node must have, in the scheduler's own syntax, or empty."""

    @property
    def options(self) -> Sequence[str]:
        """Further options of the scheduler, one per item."""


class GridEngineNames(Protocol):
    """The names and counting rules of a Grid Engine site's resources."""

    @property
    def parallel_environment(self) -> str:
        """The parallel environment that gives a job all its cores on one node."""

    @property
    def memory_resource(self) -> str:
        """The resource for memory, or empty if the site has none."""

    @property
    def memory_per(self) -> str:
        """``slot`` if memory is requested per core, ``job`` if it is requested for the whole job."""

    @property
    def gpu_resource(self) -> str:
        """The resource for GPUs, counted per job."""


class ClusterSettings(Protocol):
    """The settings of a cluster that affect how a job is requested."""

    @property
    def grid_engine(self) -> GridEngineNames:
        """The names of a Grid Engine site's resources."""
