"""A copy of the lab's inventory, and the playbooks that apply it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .lab import LabError

if TYPE_CHECKING:
    from .lab import Lab

REPOSITORY = Path(__file__).parents[2]
CHANGED = ("hpc_service", "hpc_clusters", "hpc_profiles")


class Site:
    """A copy of the lab's inventory that a test may change and apply.

    Attributes:
        service: The inventory's ``hpc_service``. Change it in place.
        clusters: The inventory's ``hpc_clusters``. Change it in place.
        profiles: The inventory's ``hpc_profiles``. Change it in place.
    """

    def __init__(self, lab: Lab, directory: Path) -> None:
        """Copy the lab's inventory into an existing directory."""
        self.inventory = directory / "inventory"
        self.environment = {**os.environ, "HPCHUB_LAB_DIR": str(lab.directory)}
        shutil.copytree(REPOSITORY / "inventories" / lab.state["inventory"], self.inventory)
        known = json.loads(self._run("ansible-inventory", "--host", lab.host("hub")))
        self.service: dict[str, Any] = known["hpc_service"]
        self.clusters: list[dict[str, Any]] = known["hpc_clusters"]
        self.profiles: list[dict[str, Any]] = known["hpc_profiles"]
        # A variable may have one definition only, and ``command`` writes these three.
        for path in (self.inventory / "group_vars" / "all").glob("*.yml"):
            variables = yaml.safe_load(path.read_text()) or {}
            kept = {name: value for name, value in variables.items() if name not in CHANGED}
            if kept != variables:
                path.write_text(json.dumps(kept))

    def command(self, *arguments: str, playbook: str = "site.yml") -> list[str]:
        """Write the changed variables and return the command that applies them; run it in ``REPOSITORY``."""
        changed = self.inventory / "group_vars" / "all" / "changed.yml"
        changed.write_text(json.dumps(dict(zip(CHANGED, (self.service, self.clusters, self.profiles), strict=True))))
        return [self._program("ansible-playbook"), "-i", str(self.inventory), f"playbooks/{playbook}", *arguments]

    def apply(self, *arguments: str, playbook: str = "site.yml") -> str:
        """Apply the changed inventory to the hosts and return the playbook's output.

        Raises:
            LabError: The playbook failed.
        """
        return self._output(self.command(*arguments, playbook=playbook))

    def prepare(self, host: str, *arguments: str) -> None:
        """Set up on a new host what a real site has before it installs hpchub.

        Raises:
            LabError: The playbook failed.
        """
        command = [self._program("ansible-playbook"), "-i", str(self.inventory), f"--limit={host}", *arguments]
        self._output([*command, "molecule/shared/prepare.yml"])

    def _program(self, name: str) -> str:
        return str(Path(sys.executable).parent / name)

    def _run(self, program: str, *arguments: str) -> str:
        return self._output([self._program(program), "-i", str(self.inventory), *arguments])

    def _output(self, argv: list[str]) -> str:
        done = subprocess.run(argv, cwd=REPOSITORY, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"{' '.join(argv)} exited with code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout
