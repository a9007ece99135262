"""Run playbooks on an instance of the lab, and remember which of them are up to date."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lab.console import LabError
from lab.host import REPOSITORY

if TYPE_CHECKING:
    from lab.instance import Instance


def run_playbook(instance: Instance, inventory: str, playbook: str, *options: str) -> None:
    """Run a playbook on an instance, as an administrator would.

    Args:
        instance: The instance that provides the hosts.
        inventory: The name of a directory in `inventories`.
        playbook: The path of the playbook, relative to the repository.
        options: Additional arguments for ansible-playbook.

    Raises:
        LabError: The playbook failed. Ansible has already printed the reason.
    """
    program = str(Path(sys.executable).parent / "ansible-playbook")
    command = [program, "-i", f"inventories/{inventory}", *options, playbook]
    done = subprocess.run(command, check=False, cwd=REPOSITORY, env=instance.environment())
    if done.returncode != 0:
        raise LabError(
            f"the playbook {playbook} failed; Ansible's messages above show the task and the reason. To fix this, "
            "correct the cause, then run the same command again; steps that already succeeded change nothing"
        )


class Stamp:
    """A record that a playbook succeeded, together with a hash of its inputs."""

    def __init__(self, instance: Instance, name: str, inputs: tuple[str, ...]) -> None:
        """Create the record for one playbook of an instance.

        Args:
            instance: The instance. Its containers and secrets also count as inputs.
            name: The name of the record.
            inputs: Files and directories that the playbook depends on, relative to the repository.
        """
        self._path = instance.directory / f"stamp-{name}"
        self._instance = instance
        self._inputs = inputs

    def matches(self) -> bool:
        """Return whether the inputs are unchanged since the last call of `set`."""
        return self._path.exists() and self._path.read_text() == self._digest()

    def clear(self) -> None:
        """Delete the record. Call this before a playbook changes the hosts."""
        self._path.unlink(missing_ok=True)

    def set(self) -> None:
        """Record the current state of the inputs."""
        self._path.write_text(self._digest())

    def _digest(self) -> str:
        digest = hashlib.sha256(self._instance.identity().encode())
        for name in self._inputs:
            top = REPOSITORY / name
            for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
                if path.is_file() and "__pycache__" not in path.parts:
                    digest.update(f"{path.relative_to(REPOSITORY)}\0".encode() + path.read_bytes())
        return digest.hexdigest()
