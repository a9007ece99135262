"""``hpchub_site``: checks the site's description on the controller; no host is contacted.

Fails with all problems at once, one a line. With ``report: true`` it does not fail but returns ``problems`` and
``warnings``, as :meth:`hpchub.model.problems.Problem.as_dict` gives them, ``profile_list`` where there are no problems,
and ``clusters`` as they are written, right or wrong.

Ansible's main process loads this file before it starts workers, which then have the package already: what the filters
use is imported here, once and for all of them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError, AnsibleValueOmittedError
from ansible.plugins.action import ActionBase

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
try:
    from hpchub import schedulers  # noqa: F401  (for the filters)
    from hpchub.deploy.inventory_files import duplicate_keys, misspelt_arguments, uncovered_names
    from hpchub.messages import show
    from hpchub.model import kernels  # noqa: F401  (for the filters)
    from hpchub.model.problems import Problem, SiteError, Unresolved
    from hpchub.model.profile_list import profile_list
    from hpchub.model.site import Site, controller_files, looks_like_ours, plain
except ImportError as error:
    raise AnsibleError(f"the Python of Ansible lacks {error.name}: {sys.executable} -m pip install pydantic") from None

ROLES = Path(__file__).resolve().parents[2] / "roles"
"""Of the checkout; an installed package has none beside it."""
_OMITTED = object()


class ActionModule(ActionBase):  # type: ignore[misc]
    """The action."""

    _supports_check_mode = True
    _supports_async = False
    _supports_diff = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Resolve the variables, check them, and say what is wrong."""
        _, arguments = self.validate_argument_spec({"report": {"type": "bool", "default": False}})
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        ours = {name: value for name, value in variables.items() if looks_like_ours(name)}
        described = self._resolve(ours)
        problems: list[Problem] = duplicate_keys(variables.get("ansible_inventory_sources") or [])
        if ROLES.is_dir():
            problems += misspelt_arguments(map(str, variables), ROLES)
        warnings: list[Problem] = []
        try:
            site = Site.from_vars(described, {"groups": variables.get("groups", {})})
            problems += _absent_files(site) + uncovered_names(site)
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
        """A variable with its expressions evaluated one by one: one that cannot be hides no other."""
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
    return f"The site's description has {count} problem{'s' if count > 1 else ''}; nothing was changed on any host."


def _absent_files(site: Site) -> list[Problem]:
    """The controller's files that the description names and that cannot be read."""
    return [
        Problem(
            entry,
            "is not a file that can be read here",
            field=field,
            value=show(path),
            valid="give its path on this machine",
        )
        for entry, field, path in controller_files(site)
        if path and not (Path(path).is_file() and os.access(path, os.R_OK))
    ]
