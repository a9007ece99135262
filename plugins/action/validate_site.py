"""The action ``validate_site``. The module of the same name holds its documentation."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleError, AnsibleValueOmittedError
from ansible.plugins.action import ActionBase
from ansible_collections.hpchub.hpchub.plugins.plugin_utils.package import ROOT, hpchub_package

# Ansible's main process loads this file before it starts its worker processes, and they inherit loaded modules. The
# modules that the filters need are imported here too, so that not every worker has to import them again.
with hpchub_package():
    from hpchub.deploy.role_arguments import node_hosts
    from hpchub.deploy.validation import check_inventory
    from hpchub.deploy.yaml_text import VAULT_ADVICE
    from hpchub.messages import near
    from hpchub.model import kernels  # noqa: F401
    from hpchub.model.problems import Unresolved
    from hpchub.model.profile_list import profile_list
    from hpchub.model.site import plain

_OMITTED = object()


class ActionModule(ActionBase):  # type: ignore[misc]
    """Checks the inventory on the controller."""

    _supports_check_mode = True
    _supports_async = False
    _supports_diff = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Resolve the variables of the inventory, check them, and report all problems."""
        _, arguments = self.validate_argument_spec(
            {
                "report": {"type": "bool", "default": False},
                "sources": {"type": "list", "elements": "path"},
                "encrypted": {"type": "list", "elements": "path", "default": []},
            }
        )
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        self._names = list(map(str, variables))
        found = check_inventory(
            arguments["sources"] or variables.get("ansible_inventory_sources") or [],
            lambda name: self._resolve(variables.get(name)),
            self._names,
            variables.get("groups", {}),
            root=ROOT,
            ignore=constants.INVENTORY_IGNORE_PATTERNS,
            undecrypted=arguments["encrypted"],
            read_file=self._read_file,
        )
        if arguments["report"]:
            result["problems"] = [problem.as_dict() for problem in found.problems]
            result["warned"] = [warning.as_dict() for warning in found.warnings]
            result["profile_list"] = {} if found.problems or found.site is None else profile_list(found.site)
            result["nodes"] = [] if found.site is None else node_hosts(found.site, plain(variables.get("groups", {})))
            result["software"] = {} if found.software is None else found.software.as_dict()
            result["bundle"] = "" if found.site is None else found.site.bundle
            written = plain(found.variables.get("hpc_clusters"))
            result["clusters"] = json.loads(json.dumps(written, default=lambda _: None))
        elif found.problems:
            result["failed"] = True
            result["msg"] = "\n".join([_headline(len(found.problems)), *map(str, found.problems)])
        else:
            result["warnings"] = [str(warning) for warning in found.warnings]
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
            return self._unresolved(str(error))

    def _unresolved(self, reason: str) -> Unresolved:
        """Explain why a value cannot be evaluated: vaults without a password, and misspelt names of variables."""
        if "no vault secrets found" in reason or "no vault secrets were found" in reason.lower():
            if "that could decrypt" in reason:
                return Unresolved("the vault's password is wrong", VAULT_ADVICE)
            return Unresolved("it is encrypted, and no vault password was given", VAULT_ADVICE)
        if "Decryption failed" in reason:
            return Unresolved("the vault's password is wrong", VAULT_ADVICE)
        if "vaulttext format error" in reason:
            return Unresolved("its vault is damaged", "encrypt the text again with: ansible-vault encrypt_string")
        undefined = re.search(r"'(\w+)' is undefined", reason)
        close = near(undefined[1], self._names, cutoff=0.85) if undefined else None
        return Unresolved(reason, f'did you mean "{close}"?' if close else "")

    def _read_file(self, path: Path) -> bytes:
        """Return the content of a file on the controller, decrypted if it is encrypted.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file cannot be decrypted. The message names the reason.
        """
        data = path.read_bytes()
        if not data.startswith(b"$ANSIBLE_VAULT"):
            return data
        try:
            decrypted = Path(self._loader.get_real_file(os.fspath(path)))
        except AnsibleError as error:
            raise ValueError(self._unresolved(str(error)).reason) from error
        try:
            return decrypted.read_bytes()
        finally:
            self._loader.cleanup_tmp_file(os.fspath(decrypted))


def _headline(count: int) -> str:
    return f"The inventory has {count} problem{'s' if count > 1 else ''}; nothing was changed on any host."
