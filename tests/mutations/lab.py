"""The lab of the mutation tests: an instance of its own, on which one role at a time is deployed with a mutant."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab.instance import Instance

if TYPE_CHECKING:
    from .mutants import Mutant

INSTANCE, TOPOLOGY, INVENTORY = "mutations", "demo", "inventories/demo"


class LabRunError(Exception):
    """The lab could not be changed. That proves nothing about the tests."""


@dataclass(frozen=True)
class Place:
    """How a role's files reach the lab.

    Attributes:
        playbook: The playbook that deploys the role.
        tag: The tag that selects the role.
    """

    playbook: str
    tag: str


PLACES = {
    "scheduler_access": Place("playbooks/clusters.yml", "scheduler_access"),
    "jupyterhub": Place("playbooks/hub.yml", "jupyterhub"),
    "state_store": Place("playbooks/hub.yml", "state_store"),
    "configurable_http_proxy": Place("playbooks/hub.yml", "configurable_http_proxy"),
    "proxy_program": Place("playbooks/hub.yml", "configurable_http_proxy"),
    "reverse_proxy": Place("playbooks/hub.yml", "reverse_proxy"),
}

# The tests of sandboxes ask systemd. A restart of the service would only take time.
_LOAD_UNITS = "systemctl daemon-reload"
_RELOAD = "apache2ctl configtest && systemctl reload apache2 && sleep 1"

# Templates, each with the host, the path there, and what makes the service use a change. To change one of these files
# takes seconds, where the whole role takes a minute.
_APACHE = "/etc/apache2"
DEPLOYED = {
    "roles/reverse_proxy/templates/server.conf.j2": ("hub", f"{_APACHE}/conf-available/zz-hpchub.conf", _RELOAD),
    "roles/reverse_proxy/vars/main.yml": ("hub", f"{_APACHE}/conf-available/zz-hpchub.conf", _RELOAD),
    "roles/reverse_proxy/templates/site.conf.j2": ("hub", f"{_APACHE}/sites-available/hpchub.conf", _RELOAD),
    "roles/reverse_proxy/templates/macros.conf.j2": ("hub", f"{_APACHE}/sites-available/hpchub.conf", _RELOAD),
    "roles/reverse_proxy/templates/sso_oidc.conf.j2": ("hub", f"{_APACHE}/sites-available/hpchub.conf", _RELOAD),
    "roles/reverse_proxy/templates/unit.conf.j2": (
        "hub",
        "/etc/systemd/system/apache2.service.d/hpchub.conf",
        _LOAD_UNITS,
    ),
    "roles/jupyterhub/templates/jupyterhub.service.j2": (
        "hub",
        "/etc/systemd/system/jupyterhub.service",
        _LOAD_UNITS,
    ),
    "roles/configurable_http_proxy/templates/configurable-http-proxy.service.j2": (
        "hub",
        "/etc/systemd/system/configurable-http-proxy.service",
        _LOAD_UNITS,
    ),
    "roles/scheduler_access/templates/sudoers.j2": ("login1", "/etc/sudoers.d/hpchub", "visudo --check"),
    "roles/scheduler_access/templates/authorized_keys.j2": (
        "login1",
        "/var/lib/hpchub-gate/.ssh/authorized_keys",
        "true",
    ),
}


class Lab:
    """The running instance.

    Args:
        tree: The copy of the repository that playbooks and tests run in.
    """

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self.instance = Instance(INSTANCE, TOPOLOGY)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of playbooks and tests."""
        path = f"{self.tree}/molecule/shared:{self.tree}/src"
        return {**self.instance.environment(), "PYTHONPATH": path, "ANSIBLE_CONFIG": f"{self.tree}/ansible.cfg"}

    def up(self) -> None:
        """Create the instance and deploy the whole service; on a running instance, bring it up to date."""
        with self.instance.lock():
            self.instance.create()
            self.play("molecule/shared/prepare.yml")
            self.play("playbooks/site.yml")
            self.instance.harvest()

    def down(self) -> None:
        """Remove the instance."""
        with self.instance.lock():
            self.instance.destroy()

    def play(self, playbook: str, *options: str) -> None:
        """Run a playbook.

        Raises:
            LabRunError: It failed.
        """
        words = [sys.executable, "-m", "ansible", "playbook", "-i", INVENTORY, *options, playbook]
        done = subprocess.run(
            words, cwd=self.tree, env=self.environment, capture_output=True, text=True, check=False, timeout=1800
        )
        if done.returncode:
            raise LabRunError(f"{playbook} {' '.join(options)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-1000:]}")

    def deploy(self, place: str, stage: str = "") -> None:
        """Deploy a role as it is in the tree.

        Args:
            place: The role's place.
            stage: The one task file of the role to run, without `.yml`. By default, the playbook runs the whole role.
        """
        if not stage:
            self.play(PLACES[place].playbook, "--tags", PLACES[place].tag)
            return
        role = PLACES[place].tag
        stages = ["platform", stage] if (self.tree / "roles" / role / "tasks" / "platform.yml").exists() else [stage]
        facts = {"gather_subset": ["!all", "!min", "distribution", "pkg_mgr", "platform"]}
        roles = [
            {"ansible.builtin.include_role": {"name": f"hpchub.hpchub.{role}", "tasks_from": each}} for each in stages
        ]
        play = {"hosts": "hub", "gather_facts": False, "tasks": [{"ansible.builtin.setup": facts}, *roles]}
        path = self.tree / "playbooks" / "mutation.yml"
        path.write_text(json.dumps([play]))
        self.play(str(path.relative_to(self.tree)))

    def run(self, host: str, command: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a shell command as root on a host."""
        words = ["ssh", "-F", str(self.instance.directory / "ssh_config"), host, "--", f"sh -c {shlex.quote(command)}"]
        return subprocess.run(words, input=text, capture_output=True, text=True, check=False, timeout=300)

    def edit(self, mutant: Mutant) -> bool:
        """Apply a mutant to the file that its template becomes.

        Returns:
            Whether that is possible. If not, the whole role must be deployed.

        Raises:
            LabRunError: The service does not accept the change.
        """
        if mutant.path not in DEPLOYED:
            return False
        host, path, use = DEPLOYED[mutant.path]
        before = self.run(host, f"cp --archive {path} {path}.before && cat {path}").stdout
        text = _without_name(before, mutant) if mutant.kind == "header-name" else _with_change(before, mutant)
        if text == before:
            if host != "hub":
                return False
            mutant.apply(self.tree)
            role, name = mutant.path.split("/")[1], Path(mutant.path).name
            # A macro's file is a part of the site's.
            name = {"macros.conf.j2": "site.conf.j2", "sso_oidc.conf.j2": "site.conf.j2"}.get(name, name)
            tasks = [{"ansible.builtin.template": {"src": name, "dest": path, "owner": "root", "mode": "0644"}}]
            (self.tree / "roles" / role / "tasks" / "mutation.yml").write_text(json.dumps(tasks))
            self.deploy(mutant.place, "mutation")
            self._use(host, use)
        else:
            self._use(host, f"cat > {path} && {{ {use}; }}", text)
        return True

    def undo_edit(self, mutant: Mutant) -> None:
        """Put the deployed file back.

        Raises:
            LabRunError: The service does not accept it.
        """
        host, path, use = DEPLOYED[mutant.path]
        self._use(host, f"test ! -e {path}.before || {{ mv {path}.before {path} && {{ {use}; }}; }}")

    def _use(self, host: str, command: str, text: str = "") -> None:
        done = self.run(host, command, text)
        if done.returncode:
            raise LabRunError(f"{command} on {host}: {done.stdout}{done.stderr}")


def stage(mutant: Mutant) -> str:
    """Return the task file of a role that uses the changed file, without `.yml`; empty for the whole role."""
    parts = mutant.path.split("/")
    if mutant.place == "scheduler_access" or parts[0] != "roles":
        return ""
    return {"tasks": Path(parts[-1]).stem, "vars": "configure", "templates": "configure"}.get(parts[2], "")


def _with_change(deployed: str, mutant: Mutant) -> str:
    """Return a deployed file with a template's change; unchanged if only Ansible can make it.

    Only Ansible can if the code contains Jinja, or is in the deployed file more or less often than in the template.
    """
    if any(mark in mutant.old + mutant.new for mark in ("{{", "{%")):
        return deployed
    old = mutant.old.strip("\n")
    if deployed.count(old) != mutant.text.count(old) or mutant.text.count(old) != 1:
        return deployed
    return deployed.replace(mutant.old, mutant.new)


def _without_name(deployed: str, mutant: Mutant) -> str:
    """Return the server's configuration without the lines that its template makes from one header's name."""
    spelt = mutant.old.rstrip(",").replace("-", "[-_]")
    return re.sub(rf"^RequestHeader unset {spelt} early\n", "", deployed, flags=re.MULTILINE)
