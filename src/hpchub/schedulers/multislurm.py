"""Slurm with several daemons on one host, as test systems have: what Slurm calls a node is no host's name.

Where each node is, ``node_hosts`` of the cluster says.
"""

from __future__ import annotations

from hpchub.schedulers.slurm import Slurm


class MultiSlurm(Slurm):
    """Slurm's words."""

    name = "multislurm"
