"""The command ``hpchub``: its options, its help texts, and the choice of the subcommand."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpchub import __version__
from hpchub.cli.backup import BACKUP_HELP, RESTORE_HELP, ROLLBACK_HELP, backup, restore_backup, roll_back
from hpchub.cli.canary import CANARY_HELP, canary
from hpchub.cli.check import check
from hpchub.cli.discover import discover
from hpchub.cli.failure import VALID, Failure
from hpchub.cli.inventory import NODE_PROFILES, Vault
from hpchub.cli.orphans import orphans
from hpchub.cli.output import print_json
from hpchub.cli.plan import plan
from hpchub.cli.why import why
from hpchub.model.site import Site

if TYPE_CHECKING:
    from collections.abc import Sequence

_DESCRIPTION = """\
Check a site's inventory and show what it would submit. The commands "check --live" and "discover" also query the
schedulers. No command changes anything, except "orphans --end", "backup", "restore",
"rollback" and "canary" on the hub host.
"""
_EXAMPLES = """\
examples:
  hpchub check inventories/mysite               list all problems of the inventory
  hpchub plan inventories/mysite small          print the batch script of the profile "small"
  hpchub discover mycluster inventories/mysite  draft the queues and profiles of a cluster

"""
_PATH = f"""\
PATH is an inventory, as for ansible-playbook -i, or a profile list (a .json file). The default is
{NODE_PROFILES}, the list on every node of a cluster.

"""
_CODES = """\
exit codes:
  0  the command succeeded, and the inventory is valid
  1  the inventory is wrong; each line of the output names an entry, the invalid value and what is valid
  2  the command failed: wrong usage, a missing file or profile, no Ansible, or no answer from a scheduler
"""
_HUB_CODES = """\
exit codes:
  0  the command succeeded
  2  the command failed: wrong usage, not the hub host, no permission, or an unknown user or job
"""
_LIVE = f"""{_PATH}\
With --live, the command queries the queues and limits of the schedulers and compares them with the inventory. It finds
missing queues, lower limits, profiles that could never start, and jobs that are hidden from the hub. It uses Ansible to
run the queries on each cluster's submit host. Without PATH, on the hub host, it uses the hub's own gates.

"""
_DISCOVER = """\
The output is YAML: the entry of CLUSTER with the queues of its scheduler, and one or two profiles for each queue. Paste
it into the inventory and edit it. The inventory must contain the cluster's name, scheduler and submit method; other
mistakes in it do not matter. The command uses Ansible to query the submit host, so no hub is needed yet. Without PATH,
on the hub host, it uses the hub's own gates.

"""
_ORPHANS = """\
The hub never ends a job if its database does not know the job's session. The database may be new, restored from a
backup that is older than the job, or the database of a second hub with the same host name. This command lists these
jobs as the hub saw them last. With --end, the hub ends the given jobs within about two minutes, as their owners.

Run it on the hub host, as root or with the hub's account.

"""

_WHY = """
The report contains what the hub's database, the hub's log, the scheduler and the session's log know. You can paste it
into a ticket: it contains no secrets.

Run it on the hub host, as root. With the hub's account, the report lacks the hub's log.

"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    made = parser()
    _complete(made)
    options = made.parse_args(arguments)
    options.vault = Vault(getattr(options, "vault_password_file", None), getattr(options, "ask_vault_pass", False))
    try:
        return int(options.run(options))
    except Failure as failure:
        print(f"hpchub: {failure}", file=sys.stderr)
        return failure.code
    except BrokenPipeError:  # as in "hpchub plan | head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return VALID


def _complete(made: argparse.ArgumentParser) -> None:
    """Answer the shell's request for completions, and end, if this is one."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete  # noqa: PLC0415  (only needed here, and only in the environment of a checkout)

        argcomplete.autocomplete(made)


def _schema(_options: argparse.Namespace) -> int:
    print_json(Site.json_schema())
    return VALID


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="hpchub",
        description=_DESCRIPTION,
        epilog=_EXAMPLES + _PATH + _CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"hpchub {__version__}")
    commands = made.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, help_text: str, run: Any, epilog: str = _PATH + _CODES) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=help_text,
            description=f"{help_text[0].upper()}{help_text[1:]}.",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(run=run)
        return added

    checking = command("check", "report all problems of a site's inventory", check, _LIVE + _CODES)
    checking.add_argument("path", metavar="PATH", nargs="?", type=Path, help="the inventory, or a profile list")
    checking.add_argument("--live", action="store_true", help="also compare the inventory with the schedulers")
    checking.add_argument("--strict", action="store_true", help="treat warnings as problems")
    planning = command("plan", "print the batch script of each profile", plan)
    planning.usage = "%(prog)s [options] [PATH] [KEY ...]"
    planning.add_argument(
        "words",
        metavar="[PATH] [KEY ...]",
        nargs="*",
        help="the inventory or a profile list, and the keys of the profiles to print; by default all profiles",
    )
    planning.add_argument(
        "--templates", metavar="DIRECTORY", type=Path, help="the directory of batch script templates (SCHEDULER.sh.j2)"
    )
    discovering = command(
        "discover",
        "draft the inventory's entries for a cluster from its scheduler's limits",
        discover,
        _DISCOVER + _CODES,
    )
    discovering.add_argument("cluster", metavar="CLUSTER", help="the name of the cluster in hpc_clusters")
    discovering.add_argument("path", metavar="PATH", nargs="?", type=Path, help="the inventory")
    listing = command(
        "orphans",
        "list the live jobs that carry the hub's name and that its database does not know",
        orphans,
        _ORPHANS + _HUB_CODES,
    )
    listing.add_argument("--end", metavar="JOB", nargs="+", default=[], help="end these jobs, or all of them with ALL")
    listing.add_argument("--json", action="store_true", help="print JSON")
    saving = command("backup", "save the hub host's database, secrets and settings", backup, BACKUP_HELP + _HUB_CODES)
    saving.add_argument(
        "--recipient",
        metavar="KEY",
        action="append",
        default=[],
        help="encrypt for this public key (age1... or ssh-ed25519 ...) instead of the recipients in the settings",
    )
    saving.add_argument("--no-copy", action="store_true", help="do not run the copy command of the settings")
    restoring = command("restore", "restore a backup on the hub host", restore_backup, RESTORE_HELP + _HUB_CODES)
    restoring.add_argument("file", metavar="FILE", nargs="?", help="the backup")
    restoring.add_argument(
        "--identity", metavar="KEYFILE", type=Path, help="the file with the private key; - reads the key from the input"
    )
    restoring.add_argument("--force", action="store_true", help="replace the state of a hub that is in use")
    restoring.add_argument(
        "--other-database",
        action="store_true",
        help="accept a backup of a former database of this hub, after the database was lost",
    )
    restoring.add_argument(
        "--keep-database", action="store_true", help="restore the secrets only, because the database was not lost"
    )
    acting = restoring.add_mutually_exclusive_group()
    acting.add_argument("--facts", action="store_true", help="only print what the backup says about itself")
    acting.add_argument("--check", action="store_true", help="only verify that the backup can be restored here")
    acting.add_argument("--undo", action="store_true", help="put back the state before the last restore")
    acting.add_argument(
        "--recover", action="store_true", help="put back the state before a restore that was interrupted"
    )
    returning = command(
        "rollback", "go back to the hub's environment before the last upgrade", roll_back, ROLLBACK_HELP + _HUB_CODES
    )
    returning.add_argument(
        "--force", action="store_true", help="even if the hub then does not know the sessions that started since then"
    )
    returning.add_argument(
        "--unfinished", action="store_true", help="only if the new version has not answered since the upgrade"
    )
    testing = command("canary", "start sessions as a user does, and test their kernels", canary, CANARY_HELP)
    testing.add_argument(
        "--profile",
        metavar="KEY",
        action="append",
        default=[],
        help="test this one; by default those in hpc_canary",
    )
    testing.add_argument("--json", action="store_true", help="print the results as JSON at the end")
    explaining = command("why", "tell what is known of a user's last session, or of a job", why, _WHY + _HUB_CODES)
    explaining.add_argument("subject", metavar="USER|JOB", help="the name of a user, or the id of a job")
    explaining.add_argument("--json", action="store_true", help="print JSON")
    for added in (checking, planning, discovering):
        added.add_argument("--json", action="store_true", help="print JSON")
        vault = added.add_mutually_exclusive_group()
        vault.add_argument(
            "--vault-password-file",
            metavar="FILE",
            help="the file with the password of the vault; by default, ANSIBLE_VAULT_PASSWORD_FILE names it",
        )
        vault.add_argument("--ask-vault-pass", action="store_true", help="ask for the password of the vault")
    command("schema", "print the JSON Schema of the inventory's variables", _schema, epilog="")
    return made
