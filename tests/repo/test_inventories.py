"""Every inventory of the repository is right, and the wiring names arguments that the roles have."""

import json
from pathlib import Path

import pytest
import yaml

from hpchub.model.site import VARIABLES

ROOT = Path(__file__).resolve().parents[2]
INVENTORIES = sorted(path.name for path in (ROOT / "inventories").iterdir() if path.is_dir())
VAULT = ("-e", "vault_sso_client_secret=d41d8cd98f00b204")


def test_the_issue_s_three_are_there():
    assert {"demo", "single_node", "example_slurm"} <= set(INVENTORIES)


@pytest.mark.slow
@pytest.mark.parametrize("name", INVENTORIES)
def test_an_inventory_passes(ansible, name):
    done = ansible("ansible-playbook", "-i", f"inventories/{name}", "playbooks/validate.yml", *VAULT)
    assert done.returncode == 0, done.stdout
    assert "changed=0    unreachable=0    failed=0" in done.stdout


@pytest.mark.slow
def test_an_example_lacks_nothing_but_its_secret(ansible):
    done = ansible("python", "-m", "hpchub.cli", "check", "--json", "inventories/example_slurm")
    (problem,) = json.loads(done.stdout)["problems"]
    assert problem["text"] == (
        "hpc_sso: client_secret cannot be evaluated: 'vault_sso_client_secret' is undefined; "
        "define it in the inventory, a secret in its vault"
    )


@pytest.mark.slow
def test_the_command_line_reads_an_inventory(ansible):
    done = ansible("python", "-m", "hpchub.cli", "check", "inventories/demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("inventories/demo: valid, 1 cluster, ")
    plan = json.loads(ansible("python", "-m", "hpchub.cli", "plan", "--json", "inventories/demo", "small").stdout)
    assert "#SBATCH --partition=interactive" in plan[0]["script"]


@pytest.mark.parametrize("name", INVENTORIES)
def test_an_inventory_says_everything(name):
    """Each variable of the model is written, so that a reader sees all there is to set."""
    written = set()
    for path in (ROOT / "inventories" / name / "group_vars" / "all").glob("*.yml"):
        written |= set(yaml.safe_load(path.read_text()) or {})
    assert {variable for variable in written if variable.startswith("hpc_")} <= set(VARIABLES)
    assert set(VARIABLES) - written <= {"hpc_install_environment", "hpc_tls"}


WIRING = sorted((ROOT / "group_vars" / "all").glob("*.yml"))
SPECS = sorted((ROOT / "roles").glob("*/meta/argument_specs.yml"))


@pytest.mark.parametrize("path", WIRING, ids=lambda path: path.stem)
def test_the_wiring_names_arguments_that_exist(path):
    """Ansible passes over a misspelt argument in silence; a name of the site's own it would prefer to the site's."""
    arguments = {
        name
        for specs in SPECS
        for spec in yaml.safe_load(specs.read_text())["argument_specs"].values()
        for name in spec.get("options", {})
    }
    # What several wiring files share is named after the product.
    unknown = {name for name in yaml.safe_load(path.read_text()) if not name.startswith("hpchub_")} - arguments
    assert not unknown


def test_the_wiring_is_read_by_the_playbooks():
    assert (ROOT / "playbooks" / "group_vars").resolve() == ROOT / "group_vars"
