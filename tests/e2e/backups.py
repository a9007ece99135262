"""Backups of the hub host, and what a restore must keep."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from .lab import HUB_PROGRAM

if TYPE_CHECKING:
    from pathlib import Path

    from .lab import Lab


def public(key: Path) -> str:
    """Return the public key in the file of a private key."""
    return key.read_text().partition("# public key: ")[2].split()[0]


def make_backup(lab: Lab, recipient: str) -> str:
    """Make a backup, and return its path on the hub host."""
    return lab.run("hub", [HUB_PROGRAM, "backup", "--no-copy", "--recipient", recipient]).strip()


def fetch_backup(lab: Lab, key: Path) -> Path:
    """Make a backup for a key, and copy it beside the key."""
    backup = key.with_name("backup.tar")
    backup.write_bytes(base64.b64decode(lab.run("hub", ["base64", make_backup(lab, public(key))])))
    return backup


def state(lab: Lab) -> str:
    """Return the hashes of the hub's secrets, and when the hub started."""
    files = "find /etc/hpchub /var/lib/hpchub/cookie_secret -type f -exec sha256sum {} +; "
    return lab.run("hub", ["sh", "-c", f"{files}systemctl show --property MainPID jupyterhub"])
