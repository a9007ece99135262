"""A check of a playbook is quiet, and ends with a summary in words."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from repo.sites import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from repo.conftest import Ansible

PLAY = """
- name: Change a host
  hosts: all
  gather_facts: false
  tasks:
    - name: Write a file
      ansible.builtin.copy: {{content: x, dest: {file}, mode: "0600"}}
      notify: Restart the service
    - name: Change nothing
      ansible.builtin.file: {{path: /, state: directory}}
    - name: Show the results
      ansible.builtin.debug: {{msg: [the hub answers]}}
  handlers:
    - name: Restart the service
      ansible.builtin.debug: {{msg: ""}}
      vars: {{__service_effect: Users see this.}}
"""

STANDBY = """
- name: Deploy a standby
  ansible.builtin.import_playbook: play.yml
  vars: {hpchub_standby: true}
"""


@pytest.mark.slow
def test_check_shows_changes_only_and_ends_with_a_summary(ansible: Ansible, tmp_path: Path) -> None:
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (tmp_path / "hosts.yml").write_text(json.dumps({"all": {"hosts": {"hub": here}}}))
    (tmp_path / "play.yml").write_text(PLAY.format(file=tmp_path / "file"))
    command = ("ansible-playbook", "-i", tmp_path / "hosts.yml", tmp_path / "play.yml")
    done = ansible(*command, "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Change nothing" not in done.stdout
    assert "PLAY [" not in done.stdout
    end = done.stdout[done.stdout.index("the hub answers") :].splitlines()
    assert end[0] == "the hub answers"
    begin = next(number for number, line in enumerate(end) if line.startswith("SUMMARY"))
    assert end[begin + 1 :] == [
        "hub would change:",
        "  Write a file",
        "Restarts and reloads:",
        "  Restart the service on hub",
        "Users notice:",
        "  Users see this.",
        "This was a check. Nothing has been changed.",
    ]
    verbose = ansible(*command, "--check", "-v")
    assert "Change nothing" in verbose.stdout
    real = ansible(*command)
    assert "TASK [Change nothing]" in real.stdout
    assert real.stdout.splitlines()[-1] == "  Users see this."
    (tmp_path / "file").unlink()
    (tmp_path / "standby.yml").write_text(STANDBY)
    standby = ansible(*command[:-1], tmp_path / "standby.yml")
    assert standby.stdout.splitlines()[-1] == "Users notice nothing."


def test_every_restart_explains_its_effect() -> None:
    """A reload, and the restart of a socket of the gates, affect nobody."""
    for path in sorted((ROOT / "roles").glob("*/handlers/main.yml")):
        handlers: list[dict[str, Any]] = yaml.safe_load(path.read_text())
        for handler in handlers:
            explained = any(name.endswith("_effect") for name in handler.get("vars", {}))
            needed = handler["name"].startswith("Restart") and "gate sockets" not in handler["name"]
            assert explained is needed, handler
