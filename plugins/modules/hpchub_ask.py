"""An Ansible module that runs a scheduler's questions on its submit host, as the gate runs them."""

from __future__ import annotations

import os
import subprocess
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: hpchub_ask
short_description: Run a scheduler's questions on its submit host
description:
  - For a cluster that has no gate yet, or one that is other than the inventory says. Nothing is changed.
  - The output is that of the first command, and then of those of the others that did not fail.
options:
  commands:
    description: Argument vectors, run in this order and without a shell.
    type: list
    elements: list
    required: true
  environment:
    description: Environment variables of the commands, beside PATH, HOME and LANG.
    type: dict
    default: {}
"""

RETURN = r"""
stdout:
  description: What they printed.
  returned: always
  type: str
error:
  description: Why the first command gave no answer; empty if it did.
  returned: always
  type: str
"""

PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
PATIENCE = 60  # seconds, as the gate has


def ask(command: list[str], environment: dict[str, str]) -> tuple[str, str]:
    """What a command prints, and why it gave no answer."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={"PATH": PATH, "HOME": "/", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", **environment},
            cwd="/",
            timeout=PATIENCE,
            check=False,
        )
    except FileNotFoundError:
        return "", f"{command[0]} is not installed on {os.uname().nodename}"
    except OSError as error:
        return "", f"{command[0]} cannot be run on {os.uname().nodename}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return "", f"{command[0]} did not answer within {PATIENCE} seconds"
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[:300]
        return "", f"{command[0]} failed with exit code {done.returncode}: {said!r}"
    return done.stdout.decode(errors="replace"), ""


def main() -> None:
    """Run as Ansible runs it."""
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
        printed, failed = ask(command, arguments["environment"])
        stdout += printed
        if failed and i == 0:
            error = failed
            break
    module.exit_json(changed=False, stdout=stdout, error=error)


if __name__ == "__main__":
    main()
