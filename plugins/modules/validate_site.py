"""The documentation of the action ``validate_site``, which runs on the controller."""

DOCUMENTATION = r"""
module: validate_site
short_description: Check the inventory
version_added: 1.0.0
author: The hpchub contributors
description:
  - Checks the variables of the inventory that begin with C(hpc_), the arguments of the roles, and the files on the
    controller that they name.
  - Runs on the controller. It contacts no host and changes nothing.
  - Fails if there are problems, and reports all of them at once, one per line.
options:
  report:
    description:
      - Whether to return the problems instead of failing.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Compare the inventory with the model
  hpchub.hpchub.validate_site:
  run_once: true
"""

RETURN = r"""
problems:
  description:
    - The problems, with the keys C(entry), C(field), C(value), C(message), C(valid) and C(text).
  type: list
  elements: dict
  returned: if O(report=true)
warned:
  description: The warnings, in the same form.
  type: list
  elements: dict
  returned: if O(report=true)
profile_list:
  description: The profile list of the site. It is empty if there are problems.
  type: dict
  returned: if O(report=true)
clusters:
  description: The variable C(hpc_clusters) as the inventory has it, even if it is invalid.
  type: raw
  returned: if O(report=true)
"""
