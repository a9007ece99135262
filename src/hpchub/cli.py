"""The command ``hpchub``: checks a site's description, and shows what would be submitted for it."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from pydantic import ValidationError

from hpchub import __version__
from hpchub.model import Site
from hpchub.profiles import ProfileList, ProfileListError, UnknownProfileError, load_profile_list
from hpchub.schedulers import render_batch_script

if TYPE_CHECKING:
    from collections.abc import Sequence

SLICE = Path("/etc/hpchub/profiles.json")
"""The profile list of a cluster's own nodes."""

VALID, WRONG, UNUSABLE = 0, 1, 2

_EPILOG = f"""\
PATH is an inventory, as ansible-playbook -i takes it, or a profile list (a .json file). Without it,
{SLICE} is read: the list that every node of a cluster has.

exit codes:
  0  the description is valid
  1  the description is wrong; each line of the output names an entry, its bad value and what is valid
  2  the command cannot be carried out: wrong usage, no such file or profile, no Ansible
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
        prog="hpchub", description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"hpchub {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, help_text: str, run: Any) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=help_text,
            description=f"{help_text[0].upper()}{help_text[1:]}.",
            epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(run=run)
        return added

    check = command("check", "say everything that is wrong with a site's description", _check)
    check.add_argument("path", metavar="PATH", nargs="?", type=Path)
    plan = command("plan", "print the batch script that would be submitted for each profile", _plan)
    plan.add_argument(
        "words", metavar="[PATH] [KEY]", nargs="*", help="where the profiles are, and which of them; all by default"
    )
    plan.add_argument(
        "--templates", metavar="DIRECTORY", type=Path, help="where the batch templates are (SCHEDULER.sh.j2)"
    )
    for added in (check, plan):
        added.add_argument("--json", action="store_true", help="print JSON")
        added.add_argument("--vault-password-file", metavar="FILE", help="opens the inventory's vault")
    command("schema", "print the JSON Schema of the inventory's variables", _schema)
    return parser


# The commands


def _check(options: argparse.Namespace) -> int:
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
    command = [
        _ansible(),
        f"--inventory={path}",
        "--module-name=hpchub_site",
        "--args=report=true",
        *([f"--vault-password-file={vault_password_file}"] if vault_password_file else []),
        "all[0]",
    ]
    settings = {
        "ANSIBLE_ACTION_PLUGINS": str(Path(__file__).parent / "plugins" / "action"),
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
        report = json.JSONDecoder().raw_decode(answer)[0] if arrow else {}
        profiles = report.get("profile_list")
        return Checked(
            problems=report["problems"],
            warnings=report["warned"],
            profiles=ProfileList.model_validate(profiles) if profiles else None,
        )
    except (ValueError, KeyError, TypeError, ValidationError):
        _refused(path, done)


def _refused(path: Path, done: subprocess.CompletedProcess[str]) -> NoReturn:
    """Ansible could not read the inventory: its own words say why."""
    words = [line for line in (done.stderr + done.stdout).splitlines() if line and not line.startswith("[WARNING]")]
    if "No hosts matched" in done.stderr or "provided hosts list is empty" in done.stderr:
        raise Failure(f"{path}: the inventory has no hosts", WRONG)
    raise Failure("\n".join([f"{path}: Ansible cannot read this inventory", *words[:12]]), WRONG)


def _ansible() -> str:
    """The Ansible of this Python's own environment, else the one on the PATH."""
    beside = Path(sys.executable).with_name("ansible")
    found = str(beside) if beside.exists() else shutil.which("ansible")
    if found is None:
        raise Failure(
            "an inventory is read with Ansible, which is not installed: install ansible-core, or name a profile list"
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
