"""Read inventories and profile lists, and query schedulers, with Ansible or through the hub's gates."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

import hpchub
from hpchub.cli.failure import Failure
from hpchub.clusters.gate_client import make_gate
from hpchub.clusters.limits import LimitsReport, parse_report
from hpchub.deploy.inventory_files import FILES, Inventory, read_inventory, shown
from hpchub.deploy.role_arguments import ACCOUNT
from hpchub.deploy.yaml_text import VAULT_ADVICE
from hpchub.hub import DEFAULT_SETTINGS
from hpchub.model.problems import Problem
from hpchub.model.profile_list import ProfileList, ProfileListError
from hpchub.profile_file import load_profile_list
from hpchub.schedulers import SCHEDULERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hpchub.model.entries import Submit

NODE_PROFILES = Path("/etc/hpchub/profiles.json")
"""The profile list on a node of a cluster."""
HUB_SETTINGS = Path(DEFAULT_SETTINGS)
"""The hub's settings, which contain its gates to the clusters."""


@dataclass(frozen=True)
class Vault:
    """Where the password of the vault comes from.

    Attributes:
        password_file: The file with the password, or None.
        ask: Whether to ask for it on the terminal.
    """

    password_file: str | None = None
    ask: bool = False


@dataclass(frozen=True)
class Checked:
    """The result of reading an inventory or a profile list.

    Attributes:
        problems: The problems, as ``Problem.as_dict`` returns them.
        warnings: The warnings, in the same form.
        profiles: The profile list, or None if there are problems.
        clusters: ``hpc_clusters`` as it was written, valid or not.
        software: The software that the roles install, as ``hpchub.deploy.software.Software.as_dict`` returns it.
        bundle: The path of the bundle in the inventory, or an empty text.
        nodes: The compute nodes, as ``hpchub.deploy.role_arguments.node_hosts`` returns them.
    """

    problems: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)
    profiles: ProfileList | None = None
    clusters: Any = None
    software: dict[str, Any] | None = None
    bundle: str = ""
    nodes: list[dict[str, Any]] = field(default_factory=list)


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


def read(path: Path, vault: Vault) -> Checked:
    """Read and check an inventory or a profile list.

    Raises:
        Failure: The path does not exist, or Ansible cannot be used.
    """
    try:
        exists = path.exists()
    except OSError as error:  # for example, a directory above it that this account may not search
        raise Failure(f"{path}: {error.strerror}; give your account permission to read it") from None
    if not exists:
        raise Failure(f"{path}: no such file or directory; write the path of an inventory or of a profile list")
    if path.suffix == ".json" and path.is_file() and _is_profile_list(path):
        try:
            return Checked(profiles=load_profile_list(path))
        except ProfileListError as error:
            return Checked([{**Problem(str(path), str(error)).as_dict(), "text": str(error)}])
    return _read_inventory(path, vault)


def _is_profile_list(path: Path) -> bool:
    """Return whether a JSON file looks like a profile list. Otherwise, it is a list of hosts."""
    try:
        return not isinstance(content := json.loads(path.read_text(encoding="utf-8")), dict) or "all" not in content
    except (OSError, ValueError):
        return True


def _read_inventory(path: Path, vault: Vault) -> Checked:
    """Read an inventory with Ansible, which alone can evaluate its variables.

    Ansible stops at a file that it cannot read. Then it reads a copy of the inventory without this file, so that one
    mistake does not hide the others.
    """
    found = read_inventory([path], _ignored_names(path))
    missing = list(found.unreadable)
    if path in missing and path.is_dir():
        return Checked([problem.as_dict() for problem in found.problems])
    sources: dict[str, Any] = {"sources": [str(path.absolute())]}
    with _password(vault) as password_file:
        done, report = _check(path, found, missing, sources, password_file)
        problems: list[Problem] = []
        if "problems" not in report and found.encrypted and (reason := _vault_problem(done.stderr + done.stdout)):
            problems = [
                Problem("", reason, valid=VAULT_ADVICE, file=shown(file), line=1, column=1) for file in found.encrypted
            ]
            missing += found.encrypted
            sources["encrypted"] = [str(file.absolute()) for file in found.encrypted]
            done, report = _check(path, found, missing, sources, password_file)
    return _checked(path, done, report, [*problems, *([] if "problems" in report else found.problems)])


def _check(
    path: Path, found: Inventory, missing: Sequence[Path], arguments: dict[str, Any], password_file: str | None
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Let Ansible check an inventory, or a copy without the files that are missing."""
    arguments = {"report": True, **arguments}
    # The check connects to no host. A connection that is not valid must not prevent it.
    local = ["--extra-vars", json.dumps({"ansible_connection": "local", "ansible_become": False})]
    if not missing:
        return _run_ansible(path, "all[0]", "validate_site", arguments, password_file, *local)
    with tempfile.TemporaryDirectory(prefix="hpchub-") as directory:
        copy = _copy_without(path, Path(directory).resolve(), missing)
        if not found.hosts_known:
            (copy if copy.is_dir() else copy.parent).joinpath("hpchub.yml").write_text("hub: {hosts: {hub: }}\n")
        done, report = _run_ansible(copy, "all[0]", "validate_site", arguments, password_file, *local)
        # Expressions such as inventory_dir contain the path of the copy.
        text = json.dumps(report).replace(str(copy), str(path.absolute()))
        return done, json.loads(text)


def _copy_without(path: Path, directory: Path, missing: Sequence[Path]) -> Path:
    """Create a copy of an inventory that consists of links. Return its path."""
    left_out = {file.absolute() for file in missing}

    def copy(source: Path, target: Path) -> None:
        target.mkdir()
        for entry in source.iterdir():
            if entry in left_out:
                continue
            if entry.is_dir() and any(file.is_relative_to(entry) for file in left_out):
                copy(entry, target / entry.name)
            else:
                (target / entry.name).symlink_to(entry)

    root = path.absolute() if path.is_dir() else path.absolute().parent
    copy(root, directory / root.name)
    return directory / root.name if path.is_dir() else _hosts_in(directory / root.name, path.name)


def _hosts_in(directory: Path, name: str) -> Path:
    """Return the list of hosts in a copy, with a host if it was left out."""
    path = directory / name
    if not os.path.lexists(path):
        path = directory / "hpchub.yml"
        path.write_text("hub: {hosts: {hub: }}\n")
    return path


def _checked(
    path: Path, done: subprocess.CompletedProcess[str], report: dict[str, Any], more: Sequence[Problem]
) -> Checked:
    """Return the result of a check: what Ansible reports, or why it cannot read the inventory."""
    first = [problem.as_dict() for problem in more]
    try:
        problems = [*first, *report["problems"]]
        profiles = report.get("profile_list")
        return Checked(
            problems=problems,
            warnings=report["warned"],
            profiles=ProfileList.model_validate(profiles) if profiles and not problems else None,
            clusters=report.get("clusters"),
            nodes=report.get("nodes", []),
            software=report.get("software") or None,
            bundle=report.get("bundle", ""),
        )
    except (ValueError, KeyError, TypeError, ValidationError):
        reason = _why_unreadable(path, done)
        known = any((one["file"], one["line"]) == (reason.file, reason.line) for one in first)
        return Checked([*first, *([] if known else [reason.as_dict()])])


def _vault_problem(output: str) -> str:
    """Return what is wrong with the password of the vault, or an empty text."""
    if "no vault secrets" in output.lower() and "that could decrypt" not in output:
        return "is encrypted, and no vault password was given"
    if "Decryption failed" in output or "that could decrypt" in output:
        return "cannot be decrypted: the vault password is wrong"
    return ""


def _why_unreadable(path: Path, done: subprocess.CompletedProcess[str]) -> Problem:
    """Return why Ansible cannot read an inventory, with Ansible's message.

    Raises:
        Failure: The reason is not in the inventory.
    """
    output = done.stderr + done.stdout
    lines = [line for line in output.splitlines() if line and not line.startswith("[WARNING]")]
    if "No hosts matched" in output or "provided hosts list is empty" in output:
        return Problem("", "has no hosts", valid="add at least the hub", file=shown(path))
    if "Cannot resolve 'hpchub.hpchub." in output:
        raise Failure(
            "Ansible does not find the collection hpchub.hpchub, which checks inventories; use bin/hpchub of a "
            "checkout, or install the collection as docs/how-to/use-a-role-alone.md describes"
        )
    if "vault password file" in output:
        raise Failure(f"{' '.join(lines[:3]).removeprefix('[ERROR]: ')}")
    if "Completely failed to parse inventory source" in output and path.is_dir():
        valid = "describe the hosts in the file hosts.yml, as inventories/example_slurm does"
        return Problem("", "contains no list of hosts that Ansible can read", valid=valid, file=shown(path))
    message = "Ansible cannot read this inventory: " + " ".join(lines[:6]).removeprefix("[ERROR]: ")
    message = re.split(r" (?:Task failed\. )?Origin: <", message)[0]
    if origin := re.search(r"Origin: (/.+?):([0-9]+):([0-9]+)$", output, re.MULTILINE):
        place = {"file": shown(Path(origin[1])), "line": int(origin[2]), "column": int(origin[3])}
        return Problem("", message[:600], **place)  # type: ignore[arg-type]
    return Problem("", message[:600], file=shown(path))


@contextmanager
def _password(vault: Vault) -> Iterator[str | None]:
    """Provide a file with the password of the vault, and ask for it once if that is wanted."""
    if not vault.ask:
        yield vault.password_file
        return
    with tempfile.NamedTemporaryFile("w", prefix="hpchub-") as file:  # only this account can read it
        file.write(getpass.getpass("Vault password: ") + "\n")
        file.flush()
        yield file.name


def _ignored_names(path: Path) -> list[str]:
    """Return the regular expressions of the names that Ansible ignores in the directory of an inventory."""
    if not (path / FILES).is_dir():  # save the time, because the answer does not matter
        return []
    done = subprocess.run(
        [_ansible("ansible-config"), "dump", "--format=json"],
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found = {setting.get("name"): setting.get("value") for setting in json.loads(done.stdout)}
        return [str(pattern) for pattern in found.get("INVENTORY_IGNORE_PATTERNS") or []]
    except (ValueError, AttributeError):
        return []


# Querying hosts


def unreachable_nodes(path: Path, nodes: list[dict[str, Any]], vault: Vault) -> list[str]:
    """Try to connect from the hub to the compute nodes. Return a line for each node that does not answer."""
    if not nodes:
        return []
    with _password(vault) as password_file:
        done, answer = _run_ansible(path, "hub[0]", "reach_nodes", {"nodes": nodes}, password_file)
    if "silent" not in answer:  # Ansible itself sets "unreachable"
        reason = answer.get("msg") or next(iter((done.stderr + done.stdout).strip().splitlines()), "no output")
        return [f"warning: the connections from the hub to the nodes were not tried: {reason}"]
    return [str(node["text"]) for node in answer["silent"]]


# Querying schedulers


def query_submit_host(path: Path, scheduler: str, submit: Submit, vault: Vault) -> LimitsReport:
    """Query a scheduler's limits with Ansible on a submit host of its cluster, or on the next one if that fails."""
    found = SCHEDULERS[scheduler]
    commands = [[word.replace("{account}", ACCOUNT) for word in c] for c in (found.limits_command, *found.limits_more)]
    arguments = {"commands": commands, "environment": submit.environment}
    failure = LimitsReport()
    for host in submit.hosts or ["hub[0]"]:
        with _password(vault) as password_file:
            done, answer = _run_ansible(path, host, "query_scheduler", arguments, password_file)
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


def read_hub_settings() -> dict[str, Any]:
    """Read the hub's settings.

    Raises:
        Failure: This is not the hub host, or this account cannot read the settings.
    """
    if not is_hub_host():
        raise Failure(f"this is not the hub host, because {HUB_SETTINGS} does not exist")
    try:
        settings: dict[str, Any] = json.loads(HUB_SETTINGS.read_text(encoding="utf-8"))
    except PermissionError:
        raise Failure(
            f"{HUB_SETTINGS} cannot be read with your account; run this command as root or with the hub's account"
        ) from None
    except (OSError, ValueError) as error:
        raise Failure(f"{HUB_SETTINGS} cannot be read ({error}); run site.yml, which writes it") from None
    from hpchub.hub.database import DatabaseError, parse  # noqa: PLC0415  (slow to load)

    try:
        parse(settings.get("db_url", ""))
    except DatabaseError as error:
        raise Failure(f"{HUB_SETTINGS}: {error}") from None
    return settings


def become_hub(settings: dict[str, Any]) -> None:
    """Continue with the hub's account if this process is root's.

    Files that root creates in the hub's directories, such as connection sockets, would be unusable for the hub.
    """
    if os.geteuid() == 0:
        account = pwd.getpwuid(Path(settings["state_dir"]).stat().st_uid)
        os.initgroups(account.pw_name, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
        os.environ["HOME"] = account.pw_dir  # libpq searches root's home otherwise, which this account cannot enter


def hub_settings() -> dict[str, Any]:
    """Read the hub's settings. If root calls this function, the process continues with the hub's account.

    Raises:
        Failure: This is not the hub host, or this account cannot read the settings.
    """
    settings = read_hub_settings()
    become_hub(settings)
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
    from hpchub.cli.check_clusters import query_limits  # noqa: PLC0415  (slow to load, and only needed here)

    gates = [make_gate(name, gate) for name, gate in settings["gates"].items()]
    return found, asyncio.run(query_limits(gates, found))


# Running Ansible


def _run_ansible(
    path: Path,
    host: str,
    module: str,
    arguments: dict[str, Any],
    password_file: str | None,
    *options: str,
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run one of our modules on a host of an inventory.

    Returns:
        The process, and the module's result. The result is empty if there is none.
    """
    command = [
        _ansible("ansible"),
        f"--inventory={path}",
        f"--module-name=hpchub.hpchub.{module}",
        f"--args={json.dumps(arguments)}",
        *([f"--vault-password-file={password_file}"] if password_file else []),
        *options,
        host,
    ]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    # Ansible prints "HOST | STATUS => " and then JSON.
    _, arrow, answer = done.stdout.partition(" => ")
    try:
        found = json.JSONDecoder().raw_decode(answer)[0] if arrow else {}
    except ValueError:
        found = {}
    return done, found if isinstance(found, dict) else {}


_OUTPUT = re.compile(
    r"ANSIBLE_(?:.*COLOR.*|CALLBACK.*|STDOUT_CALLBACK|DEBUG|VERBOSITY|VERBOSE_TO_STDERR|DISPLAY_.*|LOG_.*|NOCOWS|COW_.*"
    r"|STRATEGY|TREE|TASK_.*|DIFF_.*|CHECK_.*|ASK_.*|BECOME_ASK_PASS|DUPLICATE_YAML_DICT_KEY|LOAD_CALLBACK_PLUGINS"
    r"|SHOW_.*|PROFILE_.*|INVENTORY_(?:ANY_)?UNPARSED.*|.*_WARNINGS)"
)
"""Variables that change how Ansible prints a result. CI often sets them, and hpchub must be able to read the result."""


def _environment() -> dict[str, str]:
    """Return the environment for Ansible: the user's settings, except for those of its output."""
    environment = {name: value for name, value in os.environ.items() if not _OUTPUT.fullmatch(name)}
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "PY_COLORS"):
        environment.pop(name, None)
    # Ansible reads its settings from the working directory. Otherwise, use those that site.yml would use.
    settings = _root() / "ansible.cfg"
    if "ANSIBLE_CONFIG" not in environment and not Path("ansible.cfg").exists() and settings.exists():
        environment["ANSIBLE_CONFIG"] = str(settings)
    return environment | {
        "ANSIBLE_COLLECTIONS_PATH": _collections_path(),
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        "ANSIBLE_DEPRECATION_WARNINGS": "false",
        "ANSIBLE_DUPLICATE_YAML_DICT_KEY": "ignore",
        "ANSIBLE_FORCE_COLOR": "false",
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "false",
        "ANSIBLE_LOG_PATH": "",
        "ANSIBLE_NOCOLOR": "true",
        "ANSIBLE_VERBOSITY": "0",
    }


def _root() -> Path:
    """Return the checkout or the collection that this package belongs to."""
    return Path(hpchub.__file__).resolve().parents[2]


def _collections_path() -> str:
    """Return where Ansible looks for collections: first beside this package, then as configured."""
    root = _root()
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


def _ansible(program: str) -> str:
    """Return the path of a program of Ansible in this Python's environment, or else on the PATH."""
    beside = Path(sys.executable).with_name(program)
    found = str(beside) if beside.exists() else shutil.which(program)
    if found is None:
        raise Failure(
            "reading an inventory requires Ansible, which is not installed; install ansible-core, or name a profile"
            " list instead"
        )
    return found
