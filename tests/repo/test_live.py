"""Queries to a scheduler through Ansible, with the demo's inventory and this machine as the login node."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING

import pytest
import yaml
from repo.sites import SITE

if TYPE_CHECKING:
    from pathlib import Path

    from repo.conftest import Ansible

SCONTROL = """\
case "$*" in
"show config") echo "PrivateData             = none";;
*partition*) echo "PartitionName=interactive MaxTime=06:00:00 State=UP TotalNodes=2 MaxMemPerNode=UNLIMITED";;
esac
"""


@pytest.fixture
def site(tmp_path: Path, root: Path) -> Path:
    """Return an inventory that differs from its scheduler: one queue is missing, the other has a shorter time limit."""
    inventory = tmp_path / "site"
    shutil.copytree(SITE, inventory)
    (tmp_path / "bin").mkdir()
    for name, text in (("scontrol", SCONTROL), ("sinfo", "echo 'node|interactive|64|131072|(null)'\n")):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}")
        (tmp_path / "bin" / name).chmod(0o755)
    (inventory / "host_vars").mkdir()
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (inventory / "host_vars" / "login1.yml").write_text(yaml.safe_dump(here))
    clusters = inventory / "group_vars" / "all" / "clusters.yml"
    path = f"{tmp_path}/bin:/usr/bin:/bin"
    clusters.write_text(
        clusters.read_text().replace("host: login1}", f"host: login1, environment: {{PATH: {json.dumps(path)}}}}}")
    )
    return inventory


@pytest.mark.slow
def test_check_live_reports_differences_from_the_scheduler(ansible: Ansible, site: Path) -> None:
    done = ansible("python", "-m", "hpchub.cli", "check", "--live", "--json", site)
    assert done.returncode == 1, done.stdout + done.stderr
    problems = [problem["text"] for problem in json.loads(done.stdout)["problems"]]
    assert len(problems) == 4
    limit = 'max_runtime "12:00:00" is above the scheduler\'s limit ("6:00:00")'
    assert f'queues[0] (name "interactive"): {limit}' in problems[0]
    assert 'name "batch" is not a queue of the cluster\'s scheduler, slurm' in problems[1]
    above = 'runtime "8:00:00" is above the limit of queue "interactive" ("6:00:00")'
    assert problems[2].startswith(f'hpc_profiles[1] (key "medium"): {above}')
    assert problems[3].startswith('hpc_profiles[2] (key "long"): queue "batch" is not')


@pytest.mark.slow
def test_discovered_draft_passes_the_live_check(ansible: Ansible, site: Path) -> None:
    """The administrator replaces the inventory's clusters and profiles by the draft."""
    done = ansible("python", "-m", "hpchub.cli", "discover", "demo", site)
    assert done.returncode == 0, done.stdout + done.stderr
    found = yaml.safe_load(done.stdout)
    for name in ("clusters", "profiles"):
        (site / "group_vars" / "all" / f"{name}.yml").write_text(yaml.safe_dump({f"hpc_{name}": found[f"hpc_{name}"]}))
    done = ansible("python", "-m", "hpchub.cli", "check", "--live", site)
    assert done.returncode == 0, done.stdout + done.stderr
    # There is no hub that could try the nodes.
    assert done.stdout.splitlines()[-1] == "demo: the scheduler answers and has 1 queue"
