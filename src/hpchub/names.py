"""Patterns of names that several parts of the package check: accounts, clusters, queues, sessions. No I/O.

The programs in ``hpchub.remote`` are copied to other hosts as single files, and the role ``reverse_proxy`` works
without the package. They repeat the patterns that they need. A test compares the copies with these.
"""

from __future__ import annotations

import hashlib
import re

USER_NAME = r"(?![Rr][Oo][Oo][Tt](?:@|$))(?![0-9]+$)[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}"
"""The rule for the name of every user. A site's ``hpc_access.user_pattern`` can only restrict it further.

Names of this form are safe in URLs, paths, sudo's arguments, certificates and the comments of jobs. Names of digits
only are excluded, because many programs read them as uids. The rule has the same meaning in Python and in Apache.
"""
USER_PATTERN = r"[a-z_][a-z0-9_-]{0,31}"
"""The default of ``hpc_access.user_pattern``: the names that shadow-utils permits by default."""
GROUP_NAME_LIMIT = 255
"""The largest number of characters in a group's name, as in JupyterHub's database."""
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


def is_user_name(name: str, pattern: str) -> bool:
    """Return whether a name follows the rule for all users and a site's pattern."""
    return bool(re.fullmatch(USER_NAME, name) and re.fullmatch(pattern, name))


def dns_label(name: str) -> str:
    """Return a DNS label that identifies a user.

    DNS ignores case and gives ``.`` a meaning. Names of the default pattern are their own labels. Other names get a
    label with a hash, and so do names with ``--``, which could imitate such a label.
    """
    if re.fullmatch(USER_PATTERN, name) and "--" not in name:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f"u-{digest[:8]}--{digest[8:32]}"
