"""The lists of extensions of the notebook server and of JupyterLab, as the role notebook_environment writes them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from repo.sites import ROOT

ROLE = ROOT / "roles" / "notebook_environment"
LISTS = ("etc/jupyter/jupyter_server_config.d/hpchub.json", "etc/jupyter/labconfig/page_config.json")


def rendered(extensions: dict[str, bool]) -> dict[str, Any]:
    """Return the two files as Ansible renders them, by their names."""
    chosen = f"__notebook_environment_own_files | selectattr('dest', 'in', {list(LISTS)}) | list"
    command = [str(Path(sys.executable).with_name("ansible")), "localhost", "--connection=local", "-i", "localhost,"]
    command += ["--module-name=ansible.builtin.debug", "--args", f"msg={{{{ {chosen} | to_json }}}}"]
    command += [f"--extra-vars=@{ROLE / part / 'main.yml'}" for part in ("defaults", "vars")]
    values = {"role_path": str(ROLE), "notebook_environment_server_extensions": extensions}
    command += [f"--extra-vars={json.dumps(values)}"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = yaml.safe_load(output.partition(" => ")[2])["msg"]
    files = json.loads(found) if isinstance(found, str) else found
    return {file["dest"]: json.loads(file["content"]) for file in files}


@pytest.mark.parametrize(
    ("extensions", "on", "disabled"),
    [
        ({}, {"jupyterlab_git"}, {"jupyterlab_lmod", "nbdime-jupyterlab"}),
        ({"nbdime": True, "of_the_site": True}, {"nbdime", "of_the_site"}, {"jupyterlab_lmod"}),
        (
            {"jupyterlab_git": False},
            set(),
            {"jupyterlab_lmod", "nbdime-jupyterlab", "@jupyterlab/git"},
        ),
    ],
    ids=["default", "site", "off"],
)
def test_part_in_the_browser_is_off_if_the_server_does_not_answer_it(
    extensions: dict[str, bool], on: set[str], disabled: set[str]
) -> None:
    files = rendered(extensions)
    listed = files[LISTS[0]]["ServerApp"]["jpserver_extensions"]
    assert on <= {name for name, is_on in listed.items() if is_on}
    assert not listed["nbclassic"]
    assert {*files[LISTS[1]]["disabledExtensions"]} == disabled
    assert files[LISTS[1]]["lockedExtensions"] == files[LISTS[1]]["disabledExtensions"]


def test_lists_of_the_packages_are_removed() -> None:
    variables = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())
    assert "etc/jupyter/jupyter_server_config.d" in variables["__notebook_environment_removed"]
