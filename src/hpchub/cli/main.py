"""The command ``hpchub``: checks a site's description, and shows what would be submitted for it.

With ``check --live`` and ``discover`` it asks the schedulers too. Nothing is changed anywhere.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pwd
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from pydantic import ValidationError

import hpchub
from hpchub import __version__
from hpchub.cli.check_clusters import ask_limits
from hpchub.clusters import limits as live
from hpchub.clusters.batch_script import render_batch_script
from hpchub.clusters.gate_client import make_gate
from hpchub.deploy.profile_file import load_profile_list
from hpchub.deploy.role_arguments import ACCOUNT
from hpchub.messages import did_you_mean, show
from hpchub.model.entries import Submit
from hpchub.model.profile_list import ProfileList, ProfileListError, UnknownProfileError
from hpchub.model.site import Site
from hpchub.schedulers import SCHEDULERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpchub.model.problems import Problem

SLICE = Path("/etc/hpchub/profiles.json")
"""The profile list of a cluster's own nodes."""
HUB = Path("/etc/hpchub/hub.json")
"""The hub's settings, with its ways to the clusters."""

VALID, WRONG, UNUSABLE = 0, 1, 2

_PATH = f"""\
PATH is an inventory, as ansible-playbook -i takes it, or a profile list (a .json file). Without it,
{SLICE} is read: the list that every node of a cluster has.

"""
_CODES = """\
exit codes:
  0  the description is valid
  1  the description is wrong; each line of the output names an entry, its bad value and what is valid
  2  the command cannot be carried out: wrong usage, no such file or profile, no Ansible, no answer of a scheduler
"""
_LIVE = f"""{_PATH}\
With --live the schedulers are asked for their queues and limits, which are compared with the description: a queue that
is gone, a limit that is lower, a profile that could never start, jobs that are hidden from the hub. For an inventory,
Ansible asks on each cluster's submit host. Without PATH, on the hub host, the hub's own gates are asked.

"""
_DISCOVER = """\
What is printed is YAML: the entry of CLUSTER with the queues that its scheduler has, and a profile or two for each of
them, to be pasted into the inventory and edited. The inventory has to say of the cluster its name, its scheduler and
how to submit; what else is wrong with it does not matter. Ansible asks on the submit host: no hub is needed yet.
Without PATH, on the hub host, the hub's own gates are asked.

"""


class Failure(Exception):
    """The command ends with a message of one line or more."""

    def __init__(self, message: str, code: int = UNUSABLE) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Checked:
    """What is known of a description: ``problems`` and ``warnings`` as ``Problem.as_dict`` gives them."""

    problems: list[dict[str, str]] = field(default_factory=list)
    warnings: list[dict[str, str]] = field(default_factory=list)
    profiles: ProfileList | None = None
    clusters: Any = None
    """``hpc_clusters`` as it is written, right or wrong."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except Failure as failure:
        print(f"hpchub: {failure}", file=sys.stderr)
        return failure.code
    except BrokenPipeError:  # as with "hpchub plan | head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return VALID


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hpchub", description=__doc__, epilog=_PATH + _CODES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"hpchub {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, help_text: str, run: Any, more: str = _PATH) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=help_text,
            description=f"{help_text[0].upper()}{help_text[1:]}.",
            epilog=more + _CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(run=run)
        return added

    check = command("check", "say everything that is wrong with a site's description", _check, _LIVE)
    check.add_argument("path", metavar="PATH", nargs="?", type=Path)
    check.add_argument("--live", action="store_true", help="ask the schedulers too, and compare what they say")
    plan = command("plan", "print the batch script that would be submitted for each profile", _plan)
    plan.add_argument(
        "words", metavar="[PATH] [KEY]", nargs="*", help="where the profiles are, and which of them; all by default"
    )
    plan.add_argument(
        "--templates", metavar="DIRECTORY", type=Path, help="where the batch templates are (SCHEDULER.sh.j2)"
    )
    discover = command(
        "discover", "draft a cluster's entries of the inventory from its scheduler's answers", _discover, _DISCOVER
    )
    discover.add_argument("cluster", metavar="CLUSTER", help="the cluster's name in hpc_clusters")
    discover.add_argument("path", metavar="PATH", nargs="?", type=Path, help="the inventory")
    for added in (check, plan, discover):
        added.add_argument("--json", action="store_true", help="print JSON")
        added.add_argument("--vault-password-file", metavar="FILE", help="opens the inventory's vault")
    command("schema", "print the JSON Schema of the inventory's variables", _schema)
    return parser


# The commands


def _check(options: argparse.Namespace) -> int:
    if options.live:
        return _check_live(options)
    path = options.path or _default_path()
    checked = _read(path, options)
    if options.json:
        _print_json({"valid": not checked.problems, "problems": checked.problems, "warnings": checked.warnings})
        return WRONG if checked.problems else VALID
    for problem in checked.problems:
        print(problem["text"])
    for warning in checked.warnings:
        print(f"warning: {warning['text']}")
    if checked.profiles is None:
        print(f"hpchub: {path}: {_count(len(checked.problems), 'problem')}", file=sys.stderr)
        return WRONG
    found = checked.profiles
    print(f"{path}: valid, {_count(len(found.clusters), 'cluster')}, {_count(len(found.profiles), 'profile')}")
    return VALID


def _check_live(options: argparse.Namespace) -> int:
    """Compare with what the schedulers say. An inventory that is wrong in itself is not compared."""
    if options.path is None:
        found, told = _ask_gates()
    else:
        checked = _read(options.path, options)
        if checked.profiles is None:
            options.live = False
            return _check(options)
        if options.path.suffix == ".json" and options.path.is_file():
            raise Failure(f"{options.path}: a profile list does not say how to reach a scheduler; name an inventory")
        found = checked.profiles
        told = {
            cluster.name: _ask_host(options.path, cluster.scheduler, cluster.submit, options.vault_password_file)
            for cluster in found.clusters
        }
    problems, warnings = live.compare(found, told)
    _print_live(problems, warnings, told, as_json=options.json)
    return UNUSABLE if any(answer.unanswered for answer in told.values()) else WRONG if problems else VALID


def _print_live(problems: list[Problem], warnings: list[Problem], told: dict[str, live.Told], *, as_json: bool) -> None:
    silent = {name: answer.unanswered for name, answer in told.items() if answer.unanswered}
    if as_json:
        _print_json(
            {
                "valid": not problems,
                "problems": [problem.as_dict() for problem in problems],
                "warnings": [warning.as_dict() for warning in warnings],
                "unanswered": silent,
                "queues": {name: [asdict(queue) for queue in answer.queues] for name, answer in told.items()},
            }
        )
        return
    for problem in problems:
        print(problem)
    for warning in warnings:
        print(f"warning: {warning}")
    for name, answer in told.items():
        if not answer.unanswered:
            print(f"{name}: the scheduler answers, and has {_count(len(answer.queues), 'queue')}")
    for name, reason in silent.items():
        print(f"hpchub: {name}: {reason}", file=sys.stderr)
    if problems:
        print(f"hpchub: {_count(len(problems), 'problem')}", file=sys.stderr)


def _discover(options: argparse.Namespace) -> int:
    if options.path is None:
        found, answers = _ask_gates()
        entry = _named(options.cluster, [c.model_dump(mode="json", exclude_unset=True) for c in found.clusters], HUB)
        told = answers.get(options.cluster, live.Told(unanswered="the hub has no way to it"))
    else:
        entry = _named(options.cluster, _read(options.path, options).clusters, options.path)
        scheduler = entry.get("scheduler")
        if not isinstance(scheduler, str) or scheduler not in SCHEDULERS:
            valid = did_you_mean(scheduler, list(SCHEDULERS))
            raise Failure(f"cluster {options.cluster}: scheduler {show(scheduler)} is not one; {valid}")
        try:
            submit = Submit.model_validate(entry.get("submit"))
        except ValidationError:
            raise Failure(
                f"cluster {options.cluster}: submit {show(entry.get('submit'))} does not say how to submit; "
                "write {method: ssh, host: HOST} or {method: local}"
            ) from None
        told = _ask_host(options.path, scheduler, submit, options.vault_password_file)
    if told.unanswered:
        raise Failure(f"{options.cluster}: {told.unanswered}")
    entries, remarks = live.draft(entry, told.queues)
    if told.hidden:
        remarks.append("; ".join(told.hidden))
    if options.json:
        _print_json({**entries, "remarks": remarks})
        return VALID
    for remark in remarks:
        print(f"# {remark}")
    print(live.to_yaml(entries), end="")
    return VALID


def _named(name: str, clusters: Any, path: Path) -> dict[str, Any]:
    """The entry of that name, right or wrong as it may be."""
    entries = [entry for entry in clusters if isinstance(entry, dict)] if isinstance(clusters, list) else []
    for entry in entries:
        if entry.get("name") == name:
            return entry
    names = [str(entry["name"]) for entry in entries if "name" in entry]
    valid = did_you_mean(name, names) if names else "describe its name, scheduler and submit first"
    raise Failure(f"{path}: hpc_clusters has no cluster {show(name)}; {valid}")


def _plan(options: argparse.Namespace) -> int:
    path, keys = _path_and_keys(options.words)
    checked = _read(path, options)
    found = checked.profiles
    if found is None:
        raise Failure("\n".join(problem["text"] for problem in checked.problems), WRONG)
    try:
        chosen = [found.require(key) for key in keys] or found.profiles
    except UnknownProfileError as error:
        raise Failure(f"{path}: {error}") from None
    plans = []
    for profile in chosen:
        cluster = found.cluster(profile.cluster)
        if cluster is None:  # a profile list without its cluster is refused when it is read
            raise Failure(f"{path}: no cluster {profile.cluster}")
        try:
            script = render_batch_script(
                cluster,
                profile,
                session="SESSION",
                hub=urlsplit(found.service.url).hostname or "HUB",
                username="USER",
                template_dir=options.templates,
            )
        except (OSError, ValueError) as error:
            raise Failure(f"profile {profile.key}: {error}") from None
        plans.append({"key": profile.key, "cluster": cluster.name, "queue": profile.queue, "script": script})
    if options.json:
        _print_json(plans)
        return VALID
    print("SESSION and USER stand for what differs from one start to the next.", file=sys.stderr)
    for i, plan in enumerate(plans):
        title = f"## profile {plan['key']}, cluster {plan['cluster']}, queue {plan['queue']}"
        print(f"{'' if i == 0 else chr(10)}{title}\n{plan['script'].rstrip()}")
    return VALID


def _schema(_options: argparse.Namespace) -> int:
    _print_json(Site.json_schema())
    return VALID


def _print_json(content: object) -> None:
    print(json.dumps(content, indent=2, ensure_ascii=False))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _path_and_keys(words: Sequence[str]) -> tuple[Path, list[str]]:
    """The first word is a path where it looks like one or is there; a profile's key holds no slash and no dot."""
    if words and ("/" in words[0] or "." in words[0] or Path(words[0]).exists()):
        return Path(words[0]), list(words[1:])
    return _default_path(), list(words)


def _default_path() -> Path:
    if not SLICE.exists():
        raise Failure(f"name an inventory or a profile list: {SLICE} is not there")
    return SLICE


# Reading


def _read(path: Path, options: argparse.Namespace) -> Checked:
    if not path.exists():
        raise Failure(f"{path}: no such file or directory")
    if path.suffix == ".json" and path.is_file():
        try:
            return Checked(profiles=load_profile_list(path))
        except ProfileListError as error:
            problem = {"entry": str(path), "field": "", "value": "", "message": str(error), "valid": ""}
            return Checked([{**problem, "text": str(error)}])
    return _read_inventory(path, options.vault_password_file)


def _read_inventory(path: Path, vault_password_file: str | None) -> Checked:
    """Ask Ansible: only it can say what the variables of an inventory are."""
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
        _refused(path, done)


def _run_ansible(
    path: Path, host: str, module: str, arguments: dict[str, Any], vault_password_file: str | None
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run a module of ours on a host of an inventory; the run, and the answer, which is empty where there is none."""
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
    # The answer is JSON behind a host's name, a word and an arrow.
    _, arrow, answer = done.stdout.partition(" => ")
    try:
        found = json.JSONDecoder().raw_decode(answer)[0] if arrow else {}
    except ValueError:
        found = {}
    return done, found if isinstance(found, dict) else {}


# Asking the schedulers


def _ask_host(path: Path, scheduler: str, submit: Submit, vault_password_file: str | None) -> live.Told:
    """Have Ansible ask on a cluster's submit host; on the next of them where one is not reached."""
    words = SCHEDULERS[scheduler]
    commands = [[word.replace("{account}", ACCOUNT) for word in c] for c in (words.limits_command, *words.limits_more)]
    arguments = {"commands": commands, "environment": submit.environment}
    told = live.Told()
    for host in submit.hosts or ["hub[0]"]:
        done, answer = _run_ansible(path, host, "query_scheduler", arguments, vault_password_file)
        if "stdout" in answer and "error" in answer:
            return live.Told(unanswered=answer["error"]) if answer["error"] else live.read(scheduler, answer["stdout"])
        said = answer.get("msg") or next(iter((done.stderr + done.stdout).strip().splitlines()), "nothing")
        told = told if told.unanswered else live.Told(unanswered=f"Ansible could not ask on {host}: {said}")
    return told


def _ask_gates() -> tuple[ProfileList, dict[str, live.Told]]:
    """Ask the hub's own gates, as the hub does it."""
    if not HUB.parent.exists() or not os.access(HUB.parent, os.X_OK) or not HUB.exists():
        raise Failure(f"name an inventory: this is not the hub host, {HUB} is not there")
    try:
        settings = json.loads(HUB.read_text(encoding="utf-8"))
    except PermissionError:
        raise Failure(f"{HUB} is not readable for you: run this as root or with the hub's account") from None
    if os.geteuid() == 0:
        # What root leaves behind in the hub's directories, as the socket of a connection, would be in its way.
        account = pwd.getpwuid(Path(settings["state_dir"]).stat().st_uid)
        os.initgroups(account.pw_name, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    try:
        found = load_profile_list(settings["profiles_file"])
    except ProfileListError as error:
        raise Failure(str(error)) from None
    gates = [make_gate(name, gate) for name, gate in settings["gates"].items()]
    return found, asyncio.run(ask_limits(gates, found))


def _refused(path: Path, done: subprocess.CompletedProcess[str]) -> NoReturn:
    """Ansible could not read the inventory: its own words say why."""
    words = [line for line in (done.stderr + done.stdout).splitlines() if line and not line.startswith("[WARNING]")]
    if "No hosts matched" in done.stderr or "provided hosts list is empty" in done.stderr:
        raise Failure(f"{path}: the inventory has no hosts", WRONG)
    raise Failure("\n".join([f"{path}: Ansible cannot read this inventory", *words[:12]]), WRONG)


def _collections_path() -> str:
    """Return where Ansible looks for collections: first beside this package, then as configured."""
    root = Path(hpchub.__file__).resolve().parents[2]
    found = []
    if (root / "collections" / "ansible_collections").is_dir():  # A checkout, with a link to itself.
        found.append(str(root / "collections"))
    elif root.parents[1].name == "ansible_collections":  # An installed collection.
        found.append(str(root.parents[2]))
    try:
        from ansible import constants  # noqa: PLC0415 - only needed here, and may be missing

        found += constants.COLLECTIONS_PATHS
    except ImportError:  # Ansible is installed for another Python.
        found += ["~/.ansible/collections", "/usr/share/ansible/collections"]
    return os.pathsep.join(found)


def _ansible() -> str:
    """The Ansible of this Python's own environment, else the one on the PATH."""
    beside = Path(sys.executable).with_name("ansible")
    found = str(beside) if beside.exists() else shutil.which("ansible")
    if found is None:
        raise Failure(
            "an inventory is read with Ansible, which is not installed: install ansible-core, or name a profile list"
        )
    return found
