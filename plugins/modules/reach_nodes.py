"""The Ansible module ``reach_nodes``: try to connect from the hub to the compute nodes."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: reach_nodes
short_description: Try to connect from the hub to the compute nodes
version_added: 1.0.0
author: The hpchub contributors
description:
  - Resolves the name of each node on this host, and tries to connect to a port of the node. Run it on the hub host.
  - A node that refuses the connection can be reached, because no notebook server listens there at present.
  - Without a job, the module cannot tell a firewall that drops packets from a node that is down.
options:
  nodes:
    description: The nodes.
    type: list
    elements: dict
    required: true
    suboptions:
      cluster:
        description: The name of the cluster.
        type: str
        required: true
      node:
        description: The name of the node.
        type: str
        required: true
      host:
        description: The name or address at which the hub reaches the node.
        type: str
        required: true
      port:
        description: The port to connect to.
        type: int
        required: true
  timeout:
    description: How long to wait for an answer of a node, in seconds.
    type: float
    default: 3.0
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Try to connect to the compute nodes
  hpchub.hpchub.reach_nodes:
    nodes: [{cluster: demo, node: compute1, host: compute1, port: 20000}]
  register: reached
"""

RETURN = r"""
silent:
  description: The nodes that the hub cannot reach, with the keys C(cluster), C(node), C(host), and C(text), a message.
  returned: always
  type: list
  elements: dict
"""


def reason(host: str, port: int, timeout: float) -> str:
    """Return why this host cannot connect to a node, or empty."""
    try:
        socket.create_connection((host, port), timeout).close()
    except ConnectionRefusedError:
        return ""
    except socket.gaierror as error:
        return f"the hub cannot resolve the name {host} ({error.strerror})"
    except TimeoutError:
        return f"{host} port {port} does not answer within {timeout:g} s: the node is down, or a firewall drops packets"
    except OSError as error:
        return f"the hub cannot connect to {host} port {port}: {error.strerror or error}"
    return ""


def main() -> None:
    """Run the module."""
    types = {"cluster": "str", "node": "str", "host": "str", "port": "int"}
    node = {name: {"type": kind, "required": True} for name, kind in types.items()}
    module = AnsibleModule(
        {
            "nodes": {"type": "list", "elements": "dict", "required": True, "options": node},
            "timeout": {"type": "float", "default": 3.0},
        },
        supports_check_mode=True,
    )
    arguments: dict[str, Any] = module.params
    with ThreadPoolExecutor(32) as pool:
        reasons = pool.map(lambda each: reason(each["host"], each["port"], arguments["timeout"]), arguments["nodes"])
        found = [
            {**each, "text": f"warning: cluster {each['cluster']}, node {each['node']}: {text}"}
            for each, text in zip(arguments["nodes"], reasons, strict=True)
            if text
        ]
    module.exit_json(changed=False, silent=found)


if __name__ == "__main__":
    main()
