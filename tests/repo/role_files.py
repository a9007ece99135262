"""Write files of roles with Ansible, as a deployment of the site would, without running the roles."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import yaml
from repo.sites import ROOT, SITE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from repo.conftest import Ansible


def site_service() -> dict[str, Any]:
    """Return the site's ``hpc_service``."""
    found: dict[str, Any] = yaml.safe_load((SITE / "group_vars" / "all" / "service.yml").read_text())["hpc_service"]
    return found


def write_role_files(
    ansible: Ansible,
    directory: Path,
    *,
    roles: Sequence[str],
    templates: Mapping[str, str],
    texts: Mapping[str, str],
    variables: Mapping[str, Any],
) -> dict[str, str]:
    """Return the files that Ansible writes for the hub host, by their names.

    Args:
        ansible: Runs a command of Ansible.
        directory: Where to write them. It must not exist, or be empty.
        roles: The roles that provide defaults, variables and wiring.
        templates: The templates, below ``roles``, by the names of the files.
        texts: Expressions, by the names of the files with their values.
        variables: Variables that replace those of the site.
    """
    inventory, play = directory / "inventory", directory / "play.yml"
    (inventory / "group_vars").mkdir(parents=True)
    # Role defaults must have a lower precedence than group_vars and the site's inventory.
    defaults: dict[str, Any] = {}
    for role in roles:
        defaults |= yaml.safe_load((ROOT / "roles" / role / "defaults" / "main.yml").read_text())
    (inventory / "group_vars" / "all.yml").write_text(yaml.safe_dump(defaults))
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (inventory / "hosts.yml").write_text(json.dumps({"all": {"hosts": {"hub": here}}}))
    files = [ROOT / "group_vars" / "all" / f"{name}.yml" for name in ("model", *roles)]
    files += [ROOT / "roles" / role / "vars" / "main.yml" for role in roles]
    files += [ROOT / "roles" / role / "vars" / "Debian.yml" for role in roles]
    tasks: list[dict[str, Any]] = [
        {"ansible.builtin.template": {"src": str(ROOT / "roles" / src), "dest": str(directory / name), "mode": "0600"}}
        for name, src in templates.items()
    ]
    tasks += [
        {"ansible.builtin.copy": {"content": text, "dest": str(directory / name), "mode": "0600"}}
        for name, text in texts.items()
    ]
    own = {
        **variables,
        "ansible_facts": {"hostname": "hub"},
        "playbook_dir": str(ROOT / "playbooks"),
        "ansible_managed": "",
    }
    plays = [
        {
            "hosts": "hub",
            "gather_facts": False,
            "vars": own,
            "vars_files": [str(each) for each in files],
            "tasks": tasks,
        }
    ]
    play.write_text(json.dumps(plays))
    done = ansible("ansible-playbook", "-i", SITE, "-i", inventory, play)
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.name: path.read_text() for path in directory.iterdir() if path.is_file()}
