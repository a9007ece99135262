"""Backups of the hub in the lab, the loss of the hub host, and a new host that is built from a backup."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .lab import HUB_PROGRAM
from .site import REPOSITORY

if TYPE_CHECKING:
    from .lab import Lab
    from .site import Site


def public(key: Path) -> str:
    """Return the public key in the file of a private key."""
    return key.read_text().partition("# public key: ")[2].split()[0]


def make_backup(lab: Lab, recipient: str) -> str:
    """Make a backup, and return its path on the hub host."""
    return lab.run("hub", [HUB_PROGRAM, "backup", "--no-copy", "--recipient", recipient]).strip()


def fetch_backup(lab: Lab, recipient: str, directory: Path) -> Path:
    """Make a backup, and return its path on the machine of the tests."""
    found = directory / "backup.tar"
    found.write_bytes(base64.b64decode(lab.run("hub", ["base64", make_backup(lab, recipient)])))
    return found


def replace_hub(lab: Lab, site: Site) -> None:
    """Destroy the hub host with its volumes, and create an empty host with the same name and address."""
    from lab.host import podman  # noqa: PLC0415  (the program of the lab, which only these tests need)
    from lab.instance import Instance  # noqa: PLC0415

    instance = Instance(lab.directory.name)
    podman("rm", "--force", "--time=0", "--volumes", instance.container("hub"))
    with instance.lock():
        instance.create()
    program = str(Path(sys.executable).parent / "ansible-playbook")
    prepare = [program, "-i", str(site.inventory), "--limit", "hub", "molecule/shared/prepare.yml"]
    subprocess.run(prepare, cwd=REPOSITORY, env=site.environment, check=True, capture_output=True)


def rebuild_hub(site: Site, backup: Path, key: Path) -> None:
    """Deploy an empty hub host from a backup."""
    site.apply("-e", f"backup={backup}", "-e", f"identity={key}")
