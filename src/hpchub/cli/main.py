"""The command ``hpchub``: its options, its help texts, and the choice of the subcommand."""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpchub import __version__
from hpchub.cli.bundle import add_bundle
from hpchub.cli.failure import VALID, Failure
from hpchub.cli.help_texts import BACKUP_HELP, CANARY_HELP, RESTORE_HELP, ROLLBACK_HELP
from hpchub.cli.inventory import NODE_PROFILES, Vault
from hpchub.cli.lock import add_lock
from hpchub.cli.output import print_json
from hpchub.model.site import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_DESCRIPTION = """\
Check a site's inventory and show what it would submit. The commands "check --live" and "discover" also query the
schedulers, "bundle" downloads software, and "lock" writes lock files into the inventory. No other command changes
anything, except on the hub host: "backup", "restore", "rollback", "drain", "undrain", "announce", "canary",
"identities" and "orphans --end".
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
_IDENTITIES = """\
If two names of the single sign-on get one account, the hub refuses the second one, and its log names both. Correct
hpc_sso.user_mapping then. If both names are the same person, whose name has changed, release the account.

"""
_ORPHANS = """\
The hub never ends a job if its database does not know the job's session. The database may be new, restored from a
backup that is older than the job, or the database of a second hub with the same host name. This command lists these
jobs as the hub saw them last. With --end, the hub ends the given jobs within about two minutes, as their owners.

Run it on the hub host, as root or with the hub's account.

"""

_REPORT = """\
The hub records the starts and the ends of sessions in its database (hpc_events in the inventory). A start counts in the
period in which it was requested, even if the session was ready or over later. Hours, active users and sessions at once
count when they happened. A wait ends when the user can open the notebook. Percentiles interpolate linearly. In the
accounting of Slurm, the command looks up when the jobs ran.

Run it on the hub host, as root or with the hub's account.

examples:
  hpchub report --from 2026-01 --to 2026-12                        print the figures of a year, month by month
  hpchub report --from 2026-01 --to 2026-03 --html > report.html   write a page with plots
  hpchub report --from 2026-01-01 --to 2026-01-31 --by group --csv

"""
_TIMES = """\
TIME is a date and a time of the hub host, as in "2027-01-31 08:00", with a time zone if you add one, as in "2027-01-31
08:00 Europe/Berlin". It can also be "now", or a time from now: +30m, +2h, +1d.

Run it on the hub host, as root. The hub applies it at once, and a deployment does not change it.

"""
_DRAIN = f"""\
During a drain, no session can start. Before it, sessions get the time that is left. Running sessions go on, unless
--stop-at says when the hub stops them. Without arguments, the command lists the drains and announcements.

{_TIMES}"""
_UNDRAIN = """\
A drain of the inventory stays ended, also after the next deployment, until its target or its times change.

Run it on the hub host, as root.

"""

_VERSIONS = """\
The command asks the hub, the proxy, the gate on each submit host and the notebook environment of each cluster. A part
that does not work with the hub gets a line with both versions and the playbook to run. Until then, no session can start
there. Harmless differences and unknown versions are warnings.

Run it on the hub host, as root or with the hub's account.

exit codes:
  0  all parts that answer work together
  1  some parts do not work together
  2  the command failed: wrong usage, not the hub host, or no permission
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


def _later(module: str, function: str) -> Callable[[argparse.Namespace], int]:
    """Return a function of a module in `hpchub.cli`, which loads the module when it is called.

    Many commands need the libraries of the hub, which load slowly.
    """
    return functools.partial(_call, module, function)


def _call(module: str, function: str, options: argparse.Namespace) -> int:
    return int(getattr(importlib.import_module(f"hpchub.cli.{module}"), function)(options))


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

    checking = command("check", "report all problems of a site's inventory", _later("check", "check"), _LIVE + _CODES)
    checking.add_argument("path", metavar="PATH", nargs="?", type=Path, help="the inventory, or a profile list")
    checking.add_argument("--live", action="store_true", help="also compare the inventory with the schedulers")
    checking.add_argument("--strict", action="store_true", help="treat warnings as problems")
    planning = command("plan", "print the batch script of each profile", _later("plan", "plan"))
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
        _later("discover", "discover"),
        _DISCOVER + _CODES,
    )
    discovering.add_argument("cluster", metavar="CLUSTER", help="the name of the cluster in hpc_clusters")
    discovering.add_argument("path", metavar="PATH", nargs="?", type=Path, help="the inventory")
    _add_orphans(command)
    _add_identities(command)
    _add_drains(command)
    saving = command(
        "backup",
        "save the hub host's database, secrets and settings",
        _later("backup", "backup"),
        BACKUP_HELP + _HUB_CODES,
    )
    saving.add_argument(
        "--recipient",
        metavar="KEY",
        action="append",
        default=[],
        help="encrypt for this public key (age1... or ssh-ed25519 ...) instead of the recipients in the settings",
    )
    saving.add_argument("--no-copy", action="store_true", help="do not run the copy command of the settings")
    restoring = command(
        "restore", "restore a backup on the hub host", _later("backup", "restore_backup"), RESTORE_HELP + _HUB_CODES
    )
    restoring.add_argument("file", metavar="FILE", nargs="?", help="the backup")
    restoring.add_argument(
        "--identity", metavar="KEYFILE", type=Path, help="the file with the private key; - reads the key from the input"
    )
    restoring.add_argument(
        "--force", action="store_true", help="replace the state of a hub that is in use, or lose sessions with --undo"
    )
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
        "rollback",
        "go back to the hub's environment before the last upgrade",
        _later("backup", "roll_back"),
        ROLLBACK_HELP + _HUB_CODES,
    )
    returning.add_argument(
        "--force", action="store_true", help="even if the hub then does not know the sessions that started since then"
    )
    _add_canary(command)
    command(
        "versions",
        "print the versions of the service's parts, and compare them",
        _later("versions", "versions"),
        _VERSIONS,
    )
    explaining = command(
        "why", "tell what is known of a user's last session, or of a job", _later("why", "why"), _WHY + _HUB_CODES
    )
    explaining.add_argument("subject", metavar="USER|JOB", help="the name of a user, or the id of a job")
    explaining.add_argument("--json", action="store_true", help="print JSON")
    _add_report_options(
        command(
            "report", "report the usage of the service in a period", _later("report", "report"), _REPORT + _HUB_CODES
        )
    )
    bundling = add_bundle(command, _CODES)
    locking = add_lock(command, _CODES)
    for added in (checking, planning, discovering):
        added.add_argument("--json", action="store_true", help="print JSON")
    for added in (checking, planning, discovering, bundling, locking):
        vault = added.add_mutually_exclusive_group()
        vault.add_argument(
            "--vault-password-file",
            metavar="FILE",
            help="the file with the password of the vault; by default, ANSIBLE_VAULT_PASSWORD_FILE names it",
        )
        vault.add_argument("--ask-vault-pass", action="store_true", help="ask for the password of the vault")
    command("schema", "print the JSON Schema of the inventory's variables", _schema, epilog="")
    return made


def _add_report_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("--from", metavar="DAY", dest="start", required=True, help="the first day, or YYYY-MM")
    made.add_argument(
        "--to", metavar="DAY", dest="end", required=True, help="the last day, which belongs to the period, or YYYY-MM"
    )
    made.add_argument(
        "--by",
        choices=("month", "profile", "group", "cluster"),
        help="divide the sessions; by default, by month, and in JSON and HTML in each of these ways",
    )
    formats = made.add_mutually_exclusive_group()
    formats.add_argument("--csv", action="store_true", help="print CSV")
    formats.add_argument("--json", action="store_true", help="print JSON")
    formats.add_argument("--html", action="store_true", help="print a page with plots that needs no other file")
    made.add_argument(
        "--timezone", metavar="ZONE", help="the time zone of days and months; by default, that of this host"
    )
    made.add_argument("--with-canary", action="store_true", help="also count the sessions of the canary")
    made.add_argument(
        "--no-accounting", dest="accounting", action="store_false", help="do not ask the scheduler's accounting"
    )


def _add_canary(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the subcommand ``canary``."""
    added = command(
        "canary", "start sessions as a user does, and test their kernels", _later("canary", "canary"), CANARY_HELP
    )
    added.add_argument(
        "--profile", metavar="KEY", action="append", default=[], help="test this one; by default those in hpc_canary"
    )
    added.add_argument(
        "--kernels",
        action="store_true",
        help="test all kernels and applications of each cluster in one session, and print a table; save no results",
    )
    added.add_argument("--json", action="store_true", help="print the results as JSON at the end")


def _add_orphans(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the subcommand ``orphans``."""
    listing = command(
        "orphans",
        "list the live jobs that carry the hub's name and that its database does not know",
        _later("orphans", "orphans"),
        _ORPHANS + _HUB_CODES,
    )
    listing.add_argument("--end", metavar="JOB", nargs="+", default=[], help="end these jobs, or all of them with ALL")
    listing.add_argument("--json", action="store_true", help="print JSON")


def _add_identities(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the subcommand ``identities``."""
    owners = command(
        "identities",
        "list which name of the single sign-on each account belongs to",
        _later("identities", "identities"),
        _IDENTITIES + _HUB_CODES,
    )
    owners.add_argument(
        "--release", metavar="ACCOUNT", nargs="+", default=[], help="let these accounts belong to the next name"
    )
    owners.add_argument("--json", action="store_true", help="print JSON")


def _add_drains(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands for drains and announcements."""
    draining = command(
        "drain",
        "let no session start during a maintenance, or list the drains",
        _later("drain", "drain"),
        _DRAIN + _HUB_CODES,
    )
    _add_target(draining, "the cluster, a queue of it, or ALL for the whole service")
    draining.add_argument("--from", metavar="TIME", dest="begin", help="when the drain begins; by default now")
    draining.add_argument("--until", metavar="TIME", help="when the drain ends; by default with hpchub undrain")
    draining.add_argument("--message", metavar="TEXT", help="what users read about it, as one line of plain text")
    draining.add_argument("--ask", action="store_true", help="ask users to stop their sessions, in JupyterLab too")
    draining.add_argument("--stop-at", metavar="TIME", help="when the hub stops the sessions that still run")
    draining.add_argument(
        "--wait", action="store_true", help="wait until no session is left; Ctrl-C ends the wait only"
    )
    draining.add_argument("--json", action="store_true", help="print JSON")
    ending = command("undrain", "end a drain", _later("drain", "undrain"), _UNDRAIN + _HUB_CODES)
    _add_target(ending, "what is drained, or the key that hpchub drain shows")
    announcing = command(
        "announce", "show a message to all users, without a drain", _later("drain", "announce"), _TIMES + _HUB_CODES
    )
    announcing.add_argument("message", metavar="TEXT", nargs="?", help="the message, as one line of plain text")
    announcing.add_argument(
        "--from", metavar="TIME", dest="begin", help="when the hub begins to show it; by default now"
    )
    announcing.add_argument("--until", metavar="TIME", help="when the hub stops to show it; by default with --end")
    announcing.add_argument("--end", metavar="KEY", help="end the announcement with this key")
    announcing.add_argument("--json", action="store_true", help="print the list as JSON")


def _add_target(added: argparse.ArgumentParser, help_text: str) -> None:
    """Add the arguments that name what is drained."""
    added.add_argument("target", metavar="CLUSTER[/QUEUE]", nargs="?", help=help_text)
    added.add_argument("--profile", metavar="KEY", help="a profile, instead of a cluster")
