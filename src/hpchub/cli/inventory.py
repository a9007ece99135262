"""Read inventories and profile lists, and query schedulers, with Ansible or through the hub's gates."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import ValidationError

import hpchub
from hpchub.cli.check_clusters import query_limits
from hpchub.cli.failure import WRONG, Failure
from hpchub.clusters.gate_client import make_gate
from hpchub.clusters.limits import LimitsReport, parse_report
from hpchub.deploy.inventory_files import yaml_errors
from hpchub.deploy.role_arguments import ACCOUNT
from hpchub.hub.runtime import DEFAULT_SETTINGS
from hpchub.model.profile_list import ProfileList, ProfileListError
from hpchub.profile_file import load_profile_list
from hpchub.schedulers import SCHEDULERS

if TYPE_CHECKING:
    from hpchub.model.entries import Submit

NODE_PROFILES = Path("/etc/hpchub/profiles.json")
"""The profile list on a node of a cluster."""
HUB_SETTINGS = Path(DEFAULT_SETTINGS)
"""The hub's settings, which contain its gates to the clusters."""


@dataclass(frozen=True)
class Checked:
    """The result of reading an inventory or a profile list.

    Attributes:
        problems: The problems, as ``Problem.as_dict`` returns them.
        warnings: The warnings, in the same form.
        profiles: The profile list, or None if there are problems.
        clusters: ``hpc_clusters`` as it was written, valid or not.
    """

    problems: list[dict[str, str]] = field(default_factory=list)
    warnings: list[dict[str, str]] = field(default_factory=list)
    profiles: ProfileList | None = None
    clusters: Any = None


def default_path() -> Path:
    """Return the profile list of this node.

    Raises:
        Failure: This host is not a node of a cluster.
    """
    if not NODE_PROFILES.exists():
        raise Failure(
            f"the command names no inventory, and the default, {NODE_PROFILES}, does not exist on this host; add the"
            " path of an inventory or of a profile list"
        )
    return NODE_PROFILES


def read(path: Path, vault_password_file: str | None) -> Checked:
    """Read and check an inventory or a profile list.

    Raises:
        Failure: The path does not exist, or Ansible cannot read the inventory.
    """
    if not path.exists():
        raise Failure(f"{path}: no such file or directory; write the path of an inventory or of a profile list")
    if path.suffix == ".json" and path.is_file():
        try:
            return Checked(profiles=load_profile_list(path))
        except ProfileListError as error:
            problem = {"entry": str(path), "field": "", "value": "", "message": str(error), "valid": ""}
            return Checked([{**problem, "text": str(error)}])
    return _read_inventory(path, vault_password_file)


def _read_inventory(path: Path, vault_password_file: str | None) -> Checked:
    """Read an inventory with Ansible, which alone can evaluate its variables."""
    done, report = _run_ansible(path, "all[0]", "validate_site", {"report": True}, vault_password_file)
    try:
        profiles = report.get("profile_list")
        return Checked(
            problems=report["problems"],
            warnings=report["warned"],
            profiles=ProfileList.model_validate(profiles) if profiles else None,
            clusters=report.get("clusters"),
        )
    except (ValueError, KeyError, TypeError, ValidationError):
        _raise_unreadable(path, done)


def _raise_unreadable(path: Path, done: subprocess.CompletedProcess[str]) -> NoReturn:
    """Raise the error of an inventory that Ansible cannot read: the invalid YAML files, or else Ansible's message."""
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line and not line.startswith("[WARNING]")]
    if "No hosts matched" in done.stderr or "provided hosts list is empty" in done.stderr:
        raise Failure(f"{path}: the inventory has no hosts; add at least the hub", WRONG)
    if "Cannot resolve 'hpchub.hpchub." in done.stderr + done.stdout:
        raise Failure(
            "Ansible does not find the collection hpchub.hpchub, which checks inventories; use bin/hpchub of a "
            "checkout, or install the collection as docs/how-to/use-a-role-alone.md describes"
        )
    errors = yaml_errors([path])
    raise Failure("\n".join([f"{path}: Ansible cannot read this inventory", *(errors or lines[:12])]), WRONG)


# Querying schedulers


def query_submit_host(path: Path, scheduler: str, submit: Submit, vault_password_file: str | None) -> LimitsReport:
    """Query a scheduler's limits with Ansible on a submit host of its cluster, or on the next one if that fails."""
    found = SCHEDULERS[scheduler]
    commands = [[word.replace("{account}", ACCOUNT) for word in c] for c in (found.limits_command, *found.limits_more)]
    arguments = {"commands": commands, "environment": submit.environment}
    failure = LimitsReport()
    for host in submit.hosts or ["hub[0]"]:
        done, answer = _run_ansible(path, host, "query_scheduler", arguments, vault_password_file)
        if "stdout" in answer and "error" in answer:
            if answer["error"]:
                return LimitsReport(unanswered=answer["error"])
            return parse_report(scheduler, answer["stdout"])
        reason = answer.get("msg") or next(iter((done.stderr + done.stdout).strip().splitlines()), "no output")
        if not failure.unanswered:
            failure = LimitsReport(unanswered=f"Ansible could not query {host}: {reason}")
    return failure


def is_hub_host() -> bool:
    """Return whether this host runs the hub, as far as this account can see."""
    return HUB_SETTINGS.parent.exists() and os.access(HUB_SETTINGS.parent, os.X_OK) and HUB_SETTINGS.exists()


def hub_settings() -> dict[str, Any]:
    """Read the hub's settings. If root calls this function, the process continues with the hub's account.

    Raises:
        Failure: This account cannot read the settings.
    """
    try:
        settings: dict[str, Any] = json.loads(HUB_SETTINGS.read_text(encoding="utf-8"))
    except PermissionError:
        raise Failure(
            f"{HUB_SETTINGS} cannot be read with your account; run this command as root or with the hub's account"
        ) from None
    if os.geteuid() == 0:
        # Files that root creates in the hub's directories, such as connection sockets, would be unusable for the hub.
        account = pwd.getpwuid(Path(settings["state_dir"]).stat().st_uid)
        os.initgroups(account.pw_name, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    return settings


def query_gates() -> tuple[ProfileList, dict[str, LimitsReport]]:
    """Query the limits of all clusters through the hub's own gates.

    Raises:
        Failure: This is not the hub host, or its settings cannot be read.
    """
    if not is_hub_host():
        raise Failure(
            f"the command names no inventory, and this is not the hub host, because {HUB_SETTINGS} does not exist; add"
            " the path of an inventory"
        )
    settings = hub_settings()
    try:
        found = load_profile_list(settings["profiles_file"])
    except ProfileListError as error:
        raise Failure(str(error)) from None
    gates = [make_gate(name, gate) for name, gate in settings["gates"].items()]
    return found, asyncio.run(query_limits(gates, found))


# Running Ansible


def _run_ansible(
    path: Path, host: str, module: str, arguments: dict[str, Any], vault_password_file: str | None
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run one of our modules on a host of an inventory.

    Returns:
        The process, and the module's result. The result is empty if there is none.
    """
    command = [
        _ansible(),
        f"--inventory={path}",
        f"--module-name=hpchub.hpchub.{module}",
        f"--args={json.dumps(arguments)}",
        *([f"--vault-password-file={vault_password_file}"] if vault_password_file else []),
        host,
    ]
    settings = {
        "ANSIBLE_COLLECTIONS_PATH": _collections_path(),
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        "ANSIBLE_DEPRECATION_WARNINGS": "false",
        "ANSIBLE_DUPLICATE_YAML_DICT_KEY": "ignore",
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "false",
        "ANSIBLE_NOCOLOR": "true",
        "ANSIBLE_LOG_PATH": "",
    }
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
    # Ansible prints "HOST | STATUS => " and then JSON.
    _, arrow, answer = done.stdout.partition(" => ")
    try:
        found = json.JSONDecoder().raw_decode(answer)[0] if arrow else {}
    except ValueError:
        found = {}
    return done, found if isinstance(found, dict) else {}


def _collections_path() -> str:
    """Return where Ansible looks for collections: first beside this package, then as configured."""
    root = Path(hpchub.__file__).resolve().parents[2]
    found = []
    if (root / "collections" / "ansible_collections").is_dir():  # a checkout, with a link to itself
        found.append(str(root / "collections"))
    elif root.parent.parent.name == "ansible_collections":  # an installed collection
        found.append(str(root.parent.parent.parent))
    try:
        from ansible import constants  # noqa: PLC0415 only needed here, and may be missing

        found += constants.COLLECTIONS_PATHS
    except ImportError:  # Ansible is installed for another Python
        found += ["~/.ansible/collections", "/usr/share/ansible/collections"]
    return os.pathsep.join(found)


def _ansible() -> str:
    """Return the path of Ansible in this Python's environment, or else on the PATH."""
    beside = Path(sys.executable).with_name("ansible")
    found = str(beside) if beside.exists() else shutil.which("ansible")
    if found is None:
        raise Failure(
            "reading an inventory requires Ansible, which is not installed; install ansible-core, or name a profile"
            " list instead"
        )
    return found
