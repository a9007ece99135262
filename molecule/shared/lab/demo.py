"""The demo: a complete hpchub service on this machine, deployed with the same playbook as a real service."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import ssl
import sys
from typing import NoReturn

from lab import images
from lab.console import LabError, progress, step
from lab.host import podman_prefix, require_network
from lab.instance import DEMO, Instance
from lab.playbook import Stamp, run_playbook
from lab.topology import SERVICE_NAME, SERVICE_PORT

USAGE = """\
bin/demo: run a complete hpchub service on this machine, for a first try.

The demo consists of five containers: a hub, a login node, two compute nodes and an identity provider.

  bin/demo up [--dry-run] [--until STEP] [--force]
                               create the demo, or update it after a change; if you interrupt it, run it again
                                 --dry-run  only check this machine, and print what `up` would do
                                 --until    stop after one of the steps images, create or prepare
                                 --force    run both playbooks even if nothing has changed since they last succeeded
  bin/demo status [--json]     print the address, the hosts, and the users with their passwords
  bin/demo exec HOST COMMAND…  run a command as root on a host of the demo; return the command's exit code
  bin/demo down [--images]     remove the demo, and with --images also its container images;
                               downloaded packages stay in ~/.cache/hpchub
"""

_PREPARE_INPUTS = ("molecule/shared/prepare.yml", "molecule/shared/group_vars", "molecule/shared/roles")
_SITE_INPUTS = (
    *("ansible.cfg", "playbooks", "roles", "plugins", "group_vars", "inventories/demo", "src", "templates"),
    "molecule/shared/roles",
)


def main(arguments: list[str]) -> int:
    """Run one command.

    Args:
        arguments: The command line without the program's name.

    Returns:
        The exit code; 2 for a wrong command line.
    """
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(USAGE, end="")
        return 0 if arguments else 2
    try:
        # argparse would interpret the options of the command that runs on the host.
        if arguments[0] == "exec":
            _exec(arguments[1:])
        return _run(_parse(arguments))
    except LabError as error:
        print(f"bin/demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbin/demo: interrupted. Run `bin/demo up` to continue.", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"bin/demo: {message}. Run `bin/demo --help` for the commands and their options.", file=sys.stderr)
        sys.exit(2)

    def format_help(self) -> str:
        return USAGE


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(prog="bin/demo")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up")
    up.add_argument("--dry-run", action="store_true")
    up.add_argument("--until", choices=["images", "create", "prepare"])
    up.add_argument("--force", action="store_true")
    commands.add_parser("status").add_argument("--json", action="store_true")
    commands.add_parser("down").add_argument("--images", action="store_true")
    # The shell script bin/demo runs this command before it creates the Python environment.
    commands.add_parser("check")
    if arguments[0] not in commands.choices:
        parser.error(f"unknown command {arguments[0]!r}; the commands are up, status, exec and down")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> int:
    instance = Instance(DEMO)
    if options.command == "status":
        return _status(instance, as_json=options.json)
    if options.command == "check":
        instance.check()
        return 0
    if options.command == "up" and options.dry_run:
        _dry_run(instance)
        return 0
    with instance.lock():
        if options.command == "up":
            _up(instance, until=options.until, force=options.force)
        else:
            with step("Removing the demo"):
                instance.destroy()
                if options.images:
                    images.remove_all()
    return 0


def _up(instance: Instance, *, until: str | None, force: bool) -> None:
    if until == "images":
        images.build(instance.check())
        return
    instance.create()
    if until == "create":
        return

    prepared = Stamp(instance, "prepare", _PREPARE_INPUTS)
    if force or not prepared.matches():
        prepared.clear()
        with step("Setting up user accounts, Slurm and the identity provider (takes about 1 minute)"):
            run_playbook(instance, "demo", "molecule/shared/prepare.yml")
        prepared.set()
    if until == "prepare":
        return

    converged = Stamp(instance, "site", _SITE_INPUTS)
    if force or not converged.matches() or not _healthy(instance):
        converged.clear()
        require_network()
        with step("Running playbooks/site.yml with inventories/demo (takes about 4 minutes the first time)"):
            run_playbook(instance, "demo", "playbooks/site.yml")
        instance.harvest()
        converged.set()
    else:
        progress("Nothing has changed since playbooks/site.yml last succeeded")
    _status(instance, as_json=False)


def _dry_run(instance: Instance) -> None:
    to_build = instance.check()
    print("This machine meets the demo's requirements. `bin/demo up` would:")
    for name in to_build:
        print(f"  build the image {images.tag(name)} from Debian packages")
    running = {host["name"] for host in instance.status()["hosts"] if host["state"] == "running"}
    for host in instance.hosts:
        if host.name not in running:
            port = f", port {host.port} published on 127.0.0.1" if host.port else ""
            print(f"  create the container {instance.container(host.name)}{port}")
    print("  run molecule/shared/prepare.yml and playbooks/site.yml with inventories/demo, unless they are up to date")


def _status(instance: Instance, *, as_json: bool) -> int:
    status = instance.status()
    if as_json:
        print(json.dumps(status, indent=2))
    elif not status["hosts"]:
        print("The demo does not exist yet. Run `bin/demo up` to create it.")
    else:
        hosts = "".join(f"  {h['name']:<10} {h['ip']:<12} {h['state']}\n" for h in status["hosts"])
        users = "".join(
            f"  {u['name']:<10} {u['password']:<19} {', '.join(u['groups']) or 'no group, so access is denied':<12}"
            + (f" also needs a one-time password (TOTP secret {u['totp_secret']})" if u["totp_secret"] else "")
            + "\n"
            for u in status["users"]
            if not u["name"].startswith("student")
        )
        print(
            f"\nOpen this address in a browser on this machine: {status['url']}\n\n"
            f"Sign in as one of these users (name, password, groups):\n{users}\n"
            f"Hosts (run a command on one with `bin/demo exec HOST COMMAND…`):\n{hosts}\n"
            f"After you change inventories/demo, run `bin/demo up` again, or in this directory:\n"
            f"  {status['ansible_playbook']} -i inventories/demo playbooks/site.yml\n\n"
            f"The browser warns about the certificate until you import the demo's certificate authority:\n"
            f"  {status['ca_certificate']}"
        )
    return 0 if status["running"] else 1


def _exec(arguments: list[str]) -> NoReturn:
    """Replace this process with `podman exec`, so that streams, signals and the exit code pass through unchanged."""
    instance = Instance(DEMO)
    names = [host.name for host in instance.hosts]
    if arguments and arguments[0] not in names:
        raise LabError(f"the demo has no host {arguments[0]!r}. The hosts are {', '.join(names)}")
    if len(arguments) < 2:
        raise LabError(
            "exec needs a host and a command, for example `bin/demo exec hub systemctl status`. "
            f"The hosts are {', '.join(names)}"
        )
    host, *command = arguments
    terminal = ["--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else []
    words = [*podman_prefix(), "exec", "--interactive", *terminal, instance.container(host), *command]
    sys.stdout.flush()
    os.execv(shutil.which(words[0]) or words[0], words)  # noqa: S606 - an argument vector, no shell


def _healthy(instance: Instance) -> bool:
    """Return whether the hub answers at the service's public address."""
    request = f"GET /hub/health HTTP/1.0\r\nHost: {SERVICE_NAME}:{SERVICE_PORT}\r\n\r\n"
    try:
        context = ssl.create_default_context(cafile=instance.directory / "ca.pem")
        with (
            # Browsers resolve `.localhost` names themselves, but not every system resolver does.
            socket.create_connection(("127.0.0.1", SERVICE_PORT), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=SERVICE_NAME) as connection,
        ):
            connection.sendall(request.encode())
            return b" 200 " in connection.recv(100)
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
