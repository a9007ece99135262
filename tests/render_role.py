"""Evaluate expressions with the variables of the role ``reverse_proxy``, as Ansible does.

Each line of the standard input is a JSON list: the arguments of the role, and the expressions by name. For each line,
the output contains a line: a JSON object with the values, or with the error.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ROLE = ROOT / "roles" / "reverse_proxy"
os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")

from ansible.parsing.dataloader import DataLoader  # noqa: E402
from ansible.plugins.loader import init_plugin_loader  # noqa: E402
from ansible.template import Templar, trust_as_template  # noqa: E402


def evaluate(arguments: dict[str, Any], expressions: dict[str, str]) -> dict[str, Any]:
    """Return the values of the expressions."""
    loader = DataLoader()
    variables: dict[str, Any] = {}
    for name in ("defaults/main.yml", "vars/Debian.yml", "vars/main.yml"):
        variables |= loader.load_from_file(str(ROLE / name), trusted_as_template=True)
    variables |= {"ansible_managed": "", "ansible_facts": {"distribution_major_version": "13"}}
    variables |= {"role_path": str(ROLE), "ansible_search_path": [str(ROLE)], **arguments}
    templar = Templar(loader=loader, variables=variables)
    return {name: templar.template(trust_as_template(f"{{{{ {text} }}}}")) for name, text in expressions.items()}


def main() -> None:
    """Read arguments and expressions, and print the values, until the input ends."""
    init_plugin_loader([str(ROOT / "collections")])
    for line in sys.stdin:
        try:
            answer: dict[str, Any] = {"values": evaluate(*json.loads(line))}
        except Exception:  # noqa: BLE001 the test shows every error
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer, default=list), flush=True)


if __name__ == "__main__":
    main()
