"""The repository's inventories are valid, and group_vars sets only arguments that the roles have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from repo.sites import SITE

from hpchub.model.site import VARIABLES
from lab.suite import DOORS, INVENTORIES, VARIANTS

if TYPE_CHECKING:
    from repo.conftest import Ansible

ROOT = Path(__file__).resolve().parents[2]
VAULT = ("-e", "vault_sso_client_secret=d41d8cd98f00b204")


@pytest.mark.slow
@pytest.mark.parametrize("name", INVENTORIES)
def test_inventory_passes_validation(ansible: Ansible, name: str) -> None:
    done = ansible("ansible-playbook", "-i", f"inventories/{name}", "playbooks/validate.yml", *VAULT)
    assert done.returncode == 0, done.stdout
    assert "changed=0    unreachable=0    failed=0" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DOORS, *VARIANTS])
def test_sign_on_of_the_lab_passes_validation(ansible: Ansible, name: str) -> None:
    variables = f"@molecule/shared/sign_on/{name}.yml"
    done = ansible("ansible-playbook", "-i", "inventories/sign_on", "playbooks/validate.yml", *VAULT, "-e", variables)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_example_inventory_lacks_only_its_secret(ansible: Ansible) -> None:
    done = ansible("python", "-m", "hpchub.cli", "check", "--json", "inventories/example_slurm")
    (problem,) = json.loads(done.stdout)["problems"]
    assert problem["text"] == (
        "inventories/example_slurm/group_vars/all/access.yml:15:18: hpc_sso: "
        "client_secret cannot be evaluated: 'vault_sso_client_secret' is undefined; "
        "define it in the inventory; a secret belongs in its vault"
    )


@pytest.mark.slow
def test_command_line_checks_and_plans_an_inventory(ansible: Ansible) -> None:
    done = ansible("python", "-m", "hpchub.cli", "check", SITE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{SITE}: valid, 1 cluster, ")
    plan = json.loads(ansible("python", "-m", "hpchub.cli", "plan", "--json", SITE, "small").stdout)
    assert "#SBATCH --partition=interactive" in plan[0]["script"]


@pytest.mark.parametrize("name", INVENTORIES)
def test_inventory_shows_every_variable(name: str) -> None:
    """Each inventory sets every variable of the model, so that readers see all of them."""
    written = set()
    for path in (ROOT / "inventories" / name / "group_vars" / "all").glob("*.yml"):
        written |= set(yaml.safe_load(path.read_text()) or {})
    assert {variable for variable in written if variable.startswith("hpc_")} <= set(VARIABLES)
    assert set(VARIABLES) - written <= {
        "hpc_announcements",
        "hpc_apps",
        "hpc_backup",
        "hpc_bundle",
        "hpc_canary",
        "hpc_drains",
        "hpc_events",
        "hpc_extensions",
        "hpc_install_environment",
        "hpc_mail",
        "hpc_monitoring",
        "hpc_notebook_packages",
        "hpc_places",
        "hpc_tls",
    }


GROUP_VARS = sorted((ROOT / "group_vars" / "all").glob("*.yml"))
SPECS = sorted((ROOT / "roles").glob("*/meta/argument_specs.yml"))


@pytest.mark.parametrize("path", GROUP_VARS, ids=lambda path: path.stem)
def test_group_vars_set_only_existing_role_arguments(path: Path) -> None:
    """Ansible ignores misspelt arguments silently, and other names here would override variables of a site."""
    arguments = {
        name
        for specs in SPECS
        for spec in yaml.safe_load(specs.read_text())["argument_specs"].values()
        for name in spec.get("options", {})
    }
    # Names that begin with hpchub_ are shared by several files of group_vars.
    unknown = {name for name in yaml.safe_load(path.read_text()) if not name.startswith("hpchub_")} - arguments
    assert not unknown


def test_playbooks_read_the_group_vars() -> None:
    assert (ROOT / "playbooks" / "group_vars").resolve() == ROOT / "group_vars"
