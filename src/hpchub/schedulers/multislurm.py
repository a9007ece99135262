"""Slurm with several daemons on one host, as test systems have: what Slurm calls a node is no host's name.

Where each node is, ``node_hosts`` of the cluster says. ``squeue`` is never asked for several clusters: without
``--clusters`` it prints no lines ``CLUSTER: NAME`` (SchedMD/slurm, src/squeue/squeue.c).
"""

from __future__ import annotations

from hpchub.schedulers.slurm import Slurm


class MultiSlurm(Slurm):
    """Slurm's words."""

    name = "multislurm"
    batchspawner_class = "MultiSlurmSpawner"
