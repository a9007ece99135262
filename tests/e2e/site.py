"""The lab's inventory, and the playbook as an administrator runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .lab import LabError

if TYPE_CHECKING:
    from .lab import Lab

REPOSITORY = Path(__file__).parents[2]


class Site:
    """A copy of the lab's inventory, in which the service, clusters and profiles may be changed.

    Attributes:
        service: ``hpc_service`` as the inventory has it, to be changed in place.
        clusters: ``hpc_clusters`` likewise.
        profiles: ``hpc_profiles`` likewise.
    """

    def __init__(self, lab: Lab, directory: Path) -> None:
        """Copy the inventory into a directory that exists."""
        self.inventory = directory / "inventory"
        self.environment = {**os.environ, "HPCHUB_LAB_DIR": str(lab.directory)}
        shutil.copytree(REPOSITORY / "inventories" / lab.state["inventory"], self.inventory)
        known = json.loads(self._run("ansible-inventory", "--host", lab.host("hub")))
        self.service: dict[str, Any] = known["hpc_service"]
        self.clusters: list[dict[str, Any]] = known["hpc_clusters"]
        self.profiles: list[dict[str, Any]] = known["hpc_profiles"]

    def command(self, *arguments: str, playbook: str = "site.yml") -> list[str]:
        """Write what holds now; the command, to be run in REPOSITORY, that has the hosts follow."""
        # Of the files in this directory the last by name wins; the inventory's own stay as they are.
        changed = self.inventory / "group_vars" / "all" / "zz-changed.yml"
        now = {"hpc_service": self.service, "hpc_clusters": self.clusters, "hpc_profiles": self.profiles}
        changed.write_text(json.dumps(now))
        return [self._program("ansible-playbook"), "-i", str(self.inventory), f"playbooks/{playbook}", *arguments]

    def apply(self, *arguments: str, playbook: str = "site.yml") -> str:
        """Have the hosts follow; the playbook's output.

        Raises:
            LabError: it failed.
        """
        return self._output(self.command(*arguments, playbook=playbook))

    def _program(self, name: str) -> str:
        return str(Path(sys.executable).parent / name)

    def _run(self, program: str, *arguments: str) -> str:
        return self._output([self._program(program), "-i", str(self.inventory), *arguments])

    def _output(self, argv: list[str]) -> str:
        done = subprocess.run(argv, cwd=REPOSITORY, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"{' '.join(argv)} exited {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout
