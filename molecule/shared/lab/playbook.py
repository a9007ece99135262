"""How the lab runs playbooks, and how it knows that there is no need to."""

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
        instance: Where its hosts are.
        inventory: A directory below `inventories`.
        playbook: Path in the repository.
        options: Further arguments of ansible-playbook.

    Raises:
        LabError: it failed; Ansible has said why.
    """
    program = str(Path(sys.executable).parent / "ansible-playbook")
    command = [program, "-i", f"inventories/{inventory}", *options, playbook]
    done = subprocess.run(command, check=False, cwd=REPOSITORY, env=instance.environment())
    if done.returncode != 0:
        raise LabError(
            f"{playbook} failed, see above; mend: put right what it names, then run the same command again "
            "(what is done is not done twice)"
        )


class Stamp:
    """A record that a playbook has succeeded with its inputs as they are now."""

    def __init__(self, instance: Instance, name: str, inputs: tuple[str, ...]) -> None:
        """Take paths in the repository as inputs, besides the instance's hosts and secrets themselves."""
        self._path = instance.directory / f"stamp-{name}"
        self._instance = instance
        self._inputs = inputs

    def matches(self) -> bool:
        """Return whether nothing has changed since `set`."""
        return self._path.exists() and self._path.read_text() == self._digest()

    def clear(self) -> None:
        """Forget: the hosts are about to be changed."""
        self._path.unlink(missing_ok=True)

    def set(self) -> None:
        """Remember the inputs as they are now."""
        self._path.write_text(self._digest())

    def _digest(self) -> str:
        digest = hashlib.sha256(self._instance.identity().encode())
        for name in self._inputs:
            top = REPOSITORY / name
            for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
                if path.is_file() and "__pycache__" not in path.parts:
                    digest.update(f"{path.relative_to(REPOSITORY)}\0".encode() + path.read_bytes())
        return digest.hexdigest()
