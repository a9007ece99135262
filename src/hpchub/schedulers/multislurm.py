"""Slurm with several node daemons on one host, as test systems have.

The names of such nodes are not host names. ``node_hosts`` of the cluster maps them to hosts. hpchub never queries
several clusters at once: without ``--clusters``, ``squeue`` prints no lines ``CLUSTER: NAME`` (SchedMD/slurm,
src/squeue/squeue.c).
"""

from __future__ import annotations

from hpchub.schedulers.slurm import Slurm


class MultiSlurm(Slurm):
    """Slurm with several node daemons on one host."""

    name = "multislurm"
    batchspawner_class = "MultiSlurmSpawner"
