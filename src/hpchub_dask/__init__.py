"""Dask in a session: ``Cluster()`` starts workers as jobs of the session's cluster, with dask-jobqueue.

In a notebook::

    from hpchub_dask import Cluster

    cluster = Cluster()
    cluster.scale(jobs=2)
    client = cluster.get_client()

The hub has written the batch script of the jobs from the inventory: the site's own template, the queue, the size, and
the account of the session. This package adds what it does not know: the time that is left, and the command.

No other account of a node can use the cluster. The scheduler and the workers talk TLS, and both sides must have the
certificate of this cluster. Its key is in a directory on the shared home that only the user can enter. The pages of the
dashboard are on a unix socket of the session. Workers have no pages.

The jobs end with the cluster, which cancels them. If the kernel is killed, ``keeper.py`` cancels them. If both are
gone, the workers notice it and stop. The role ``notebook_environment`` installs this package.
"""

from __future__ import annotations

from hpchub_dask.cluster import Cluster
from hpchub_dask.plan import ClusterError

__all__ = ["Cluster", "ClusterError"]
