"""The settings of the notebook environment on clusters with and without modules, as Ansible renders them."""

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
FILES = "(__notebook_environment_own_files | selectattr('dest', 'search', '^etc/jupyter/') | list | to_json)"


@pytest.mark.parametrize(
    ("modules", "disabled"), [(True, "@jupyterhub/jupyter-server-proxy"), (False, "jupyterlab_lmod")], ids=["on", "off"]
)
def test_only_one_of_the_two_extensions_with_the_same_commands_is_enabled(modules: bool, disabled: str) -> None:
    command = [str(Path(sys.executable).with_name("ansible")), "localhost", "--connection=local", "-i", "localhost,"]
    command += ["--module-name=ansible.builtin.debug", "--args", f"msg={{{{ {FILES} }}}}"]
    command += [f"--extra-vars=@{ROLE / part / 'main.yml'}" for part in ("defaults", "vars")]
    command += [f"--extra-vars=role_path={ROLE}", "--extra-vars", json.dumps({"notebook_environment_modules": modules})]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: Any = yaml.safe_load(output.partition(" => ")[2])["msg"]
    files = {
        each["dest"]: json.loads(each["content"]) for each in (json.loads(found) if isinstance(found, str) else found)
    }
    assert files["etc/jupyter/labconfig/page_config.json"] == {"disabledExtensions": {disabled: True}}
    assert files["etc/jupyter/jupyter_server_config.json"]["Hpchub"] == {"modules": modules}
