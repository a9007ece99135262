"""Backups of the hub in the lab, the loss of the hub host, and a new host that is built from a backup."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from lab.host import podman
from lab.instance import Instance

from .lab import HUB_PROGRAM

if TYPE_CHECKING:
    from pathlib import Path

    from .lab import Lab
    from .site import Site


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


def replace_hub(lab: Lab, site: Site) -> None:
    """Destroy the hub host with its volumes, and create an empty host with the same name and address."""
    instance = Instance(lab.directory.name)
    podman("rm", "--force", "--time=0", "--volumes", instance.container("hub"))
    with instance.lock():
        instance.create()
    site.prepare("hub")


def state(lab: Lab) -> str:
    """Return the hashes of the hub's secrets, and when the hub started."""
    files = "find /etc/hpchub /var/lib/hpchub/cookie_secret -type f -exec sha256sum {} +; "
    return lab.run("hub", ["sh", "-c", f"{files}systemctl show --property MainPID jupyterhub"])
