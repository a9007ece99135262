"""Patterns of names that several parts of the package check: accounts, clusters, queues, sessions. No I/O.

The programs in ``hpchub.remote`` are copied to other hosts as single files, and the role ``reverse_proxy`` works
without the package. They repeat the patterns that they need. A test compares the copies with these.
"""

from __future__ import annotations

ACCOUNT_NAME = r"[a-z_][a-z0-9_-]{0,31}"
"""The name of a local account, as shadow-utils permits it by default."""
CLUSTER_NAME = r"[a-z][a-z0-9_]{0,31}"
"""The name of a cluster. It is part of file names and of the names of inventory groups."""
QUEUE_NAME = r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}"
"""The name of a scheduler's queue."""
SESSION = r"[0-9a-f]{16}"
"""The name of a session. It is part of the job's name and of file names."""
DATABASE = r"[0-9a-f]{8}"
"""The id of a hub's database. It is part of the tags of the hub's jobs."""
NOBODY = 65534
"""The uid of Linux's account ``nobody``: a system account, although its uid is high."""
