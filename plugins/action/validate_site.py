"""The action ``validate_site``. The module of the same name holds its documentation."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError, AnsibleValueOmittedError
from ansible.plugins.action import ActionBase
from ansible_collections.hpchub.hpchub.plugins.plugin_utils.package import ROOT, hpchub_package

# Ansible's main process loads this file before it starts its worker processes, and they inherit loaded modules. The
# modules that the filters need are imported here too, so that not every worker has to import them again.
with hpchub_package():
    from hpchub.deploy import role_arguments  # noqa: F401
    from hpchub.deploy.inventory_files import duplicate_keys, misspelt_arguments, uncovered_names
    from hpchub.messages import show
    from hpchub.model import kernels  # noqa: F401
    from hpchub.model.problems import Problem, SiteError, Unresolved
    from hpchub.model.profile_list import profile_list
    from hpchub.model.site import Site, controller_files, looks_like_ours, plain

_OMITTED = object()


class ActionModule(ActionBase):  # type: ignore[misc]
    """Checks the inventory on the controller."""

    _supports_check_mode = True
    _supports_async = False
    _supports_diff = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Resolve the variables of the inventory, check them, and report all problems."""
        _, arguments = self.validate_argument_spec({"report": {"type": "bool", "default": False}})
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        ours = {name: value for name, value in variables.items() if looks_like_ours(name)}
        described = self._resolve(ours)
        problems: list[Problem] = duplicate_keys(variables.get("ansible_inventory_sources") or [])
        problems += misspelt_arguments(map(str, variables), ROOT / "roles")
        warnings: list[Problem] = []
        try:
            site = Site.from_vars(described, {"groups": variables.get("groups", {})})
            problems += _unreadable_files(site) + uncovered_names(site)
            warnings = site.warnings()
        except SiteError as error:
            problems += error.problems
        if arguments["report"]:
            result["problems"] = [problem.as_dict() for problem in problems]
            result["warned"] = [warning.as_dict() for warning in warnings]
            result["profile_list"] = {} if problems else profile_list(site)
            written = plain(described.get("hpc_clusters"))
            result["clusters"] = json.loads(json.dumps(written, default=lambda _: None))
        elif problems:
            result["failed"] = True
            result["msg"] = "\n".join([_headline(len(problems)), *map(str, problems)])
        else:
            result["warnings"] = [str(warning) for warning in warnings]
        return result

    def _resolve(self, value: Any) -> Any:
        """Evaluate the expressions in a variable one by one, so that a bad expression does not hide the others."""
        if isinstance(value, Mapping):
            resolved = ((key, self._resolve(item)) for key, item in value.items())
            return {key: item for key, item in resolved if item is not _OMITTED}
        if isinstance(value, (list, tuple)):
            return [item for item in map(self._resolve, value) if item is not _OMITTED]
        try:
            return self._templar.template(value)
        except AnsibleValueOmittedError:
            return _OMITTED
        except AnsibleError as error:
            return Unresolved(str(error))


def _headline(count: int) -> str:
    return f"The inventory has {count} problem{'s' if count > 1 else ''}; nothing was changed on any host."


def _unreadable_files(site: Site) -> list[Problem]:
    """Return a problem for each file on the controller that the site names and that cannot be read."""
    return [
        Problem(
            entry,
            "is not a readable file on the controller",
            field=field,
            value=show(path),
            valid="give the path of a file on the machine that runs Ansible",
        )
        for entry, field, path in controller_files(site)
        if path and not (Path(path).is_file() and os.access(path, os.R_OK))
    ]
