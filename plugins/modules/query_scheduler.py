"""The Ansible module ``query_scheduler``: run read-only scheduler commands on a submit host."""

from __future__ import annotations

import os
import subprocess
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: query_scheduler
short_description: Run read-only scheduler commands on a submit host
version_added: 1.0.0
author: The hpchub contributors
description:
  - Runs commands in the environment that the gate of hpchub would use. Use it for a cluster that has no gate yet, or
    if the gate was deployed from another version of the inventory.
  - The module itself changes nothing. Pass only commands that read.
options:
  commands:
    description:
      - The commands, each as a list of arguments. They run in this order and without a shell.
      - If the first command fails, the others do not run. The output of any other command that fails is left out.
    type: list
    elements: list
    required: true
  environment:
    description: Environment variables for the commands, in addition to E(PATH), E(HOME), E(LANG) and E(LC_ALL).
    type: dict
    default: {}
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Read the partitions of Slurm
  hpchub.hpchub.query_scheduler:
    commands:
      - [scontrol, --oneliner, show, partition]
  register: limits
"""

RETURN = r"""
stdout:
  description: The output of the commands that succeeded, one after the other.
  returned: always
  type: str
error:
  description: Why the first command failed. It is empty if the command succeeded.
  returned: always
  type: str
"""

PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
TIMEOUT = 60
"""How long a command may take, in seconds. The gate has the same limit."""


def run(command: list[str], environment: dict[str, str]) -> tuple[str, str]:
    """Run a command.

    Returns:
        The output, and the reason why the command failed. One of the two is empty.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={"PATH": PATH, "HOME": "/", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", **environment},
            cwd="/",
            timeout=TIMEOUT,
            check=False,
        )
    except FileNotFoundError:
        return "", f"{command[0]} is not installed on {os.uname().nodename}"
    except OSError as error:
        return "", f"{command[0]} cannot be run on {os.uname().nodename}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return "", f"{command[0]} did not answer within {TIMEOUT} seconds"
    if done.returncode:
        output = (done.stderr or done.stdout).decode(errors="replace").strip()[:300]
        return "", f"{command[0]} failed with exit code {done.returncode}: {output!r}"
    return done.stdout.decode(errors="replace"), ""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        {
            "commands": {"type": "list", "elements": "list", "required": True},
            "environment": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    arguments: dict[str, Any] = module.params
    stdout, error = "", ""
    for i, command in enumerate(arguments["commands"]):
        output, failure = run(command, arguments["environment"])
        stdout += output
        if failure and i == 0:
            error = failure
            break
    module.exit_json(changed=False, stdout=stdout, error=error)


if __name__ == "__main__":
    main()
