"""``hpchub bundle``: collect the software that ``site.yml`` downloads into one archive, for hosts without a network."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hpchub.bundle.create import Sources, choose_files, is_current, make
from hpchub.bundle.manifest import PYTHONS, BundleError, Targets
from hpchub.bundle.npm import REGISTRY
from hpchub.bundle.wheels import ARCHITECTURES
from hpchub.cli import inventory
from hpchub.cli.failure import VALID, WRONG, Failure
from hpchub.cli.output import count
from hpchub.deploy.software import NPM, Software

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from hpchub.bundle.downloads import Download

BUNDLE_HELP = """\
The bundle contains everything that site.yml downloads, except for Debian's packages: the Python packages of the hub, of
the notebook environment and of the site (see hpchub lock), uv, npm, Node.js for Debian 12, and the packages of
configurable-http-proxy. Set hpc_bundle in the inventory to the path of the bundle. site.yml then installs from it only.

Run this command on a machine that has a network. It contacts the package indexes of PyPI and npm, or those that
UV_DEFAULT_INDEX and npm_config_registry name, and no host of the inventory. If the bundle exists already and contains
what the inventory needs, nothing is downloaded.

PATH is an inventory, as for ansible-playbook -i. FILE is the bundle; the default is hpc_bundle of the inventory.

examples:
  hpchub bundle inventories/mysite --list                        print what the bundle would contain
  hpchub bundle inventories/mysite /srv/hpchub-bundle.tar        make it for Debian 12 and 13
  hpchub bundle inventories/mysite --python 3.13 --architecture aarch64

"""
_VARIABLE = "hpc_bundle"


def add_bundle(command: Callable[..., argparse.ArgumentParser], codes: str) -> argparse.ArgumentParser:
    """Add the command to the parser of the command line.

    Args:
        command: Adds a command with a name, a help text, a function, and further help.
        codes: The description of the exit codes.
    """
    added = command(
        "bundle",
        "collect what site.yml downloads in one file, for hosts without a network",
        bundle,
        BUNDLE_HELP + codes,
    )
    added.add_argument("path", metavar="PATH", type=Path, help="the inventory")
    added.add_argument("file", metavar="FILE", nargs="?", type=Path, help="the bundle")
    added.add_argument(
        "--python",
        metavar="VERSION",
        action="append",
        default=[],
        help="a version of Python on the hosts; may be repeated; by default those of Debian 12 and 13,"
        f" {' and '.join(PYTHONS)}",
    )
    added.add_argument(
        "--architecture",
        choices=ARCHITECTURES,
        action="append",
        default=[],
        help="an architecture of the hosts; may be repeated; by default that of this machine",
    )
    added.add_argument("--list", action="store_true", help="only print the files that the bundle would contain")
    return added


def bundle(options: argparse.Namespace) -> int:
    """Run ``hpchub bundle``."""
    targets = _targets(options)
    checked = inventory.read(options.path, options.vault)
    # Other problems do not matter here. One of them may be that the bundle does not exist yet.
    if checked.software is None:
        for problem in checked.problems:
            print(problem["text"])
        print(f"hpchub: {options.path}: {count(len(checked.problems), 'problem')}", file=sys.stderr)
        return WRONG
    software = Software.from_dict(checked.software)
    path = options.file or (Path(checked.bundle) if checked.bundle else None)
    try:
        needs = software.needs()
        if not options.list:
            path = _writable(path)
            if is_current(path, needs, targets):
                print(f"{path} is complete and contains what the inventory needs. Nothing was downloaded.")
                return VALID
        files = choose_files(_sources(software), targets, _tell)
        if options.list or path is None:
            _print_files(files)
            return VALID
        manifest, found = make(path, needs, targets, files, _Progress())
    except BundleError as error:
        raise Failure(f"the bundle {error}") from None
    except OSError as error:
        raise Failure(f"the bundle cannot be made: {error}") from None
    size = sum(file.size for file in manifest.files.values())
    print(f"{path}: {count(len(manifest.files), 'file')}, {_megabytes(size)}, SHA-256 {found}")
    print(f"For Python {' and '.join(targets.pythons)} on {' and '.join(targets.architectures)}.")
    if checked.bundle != str(path):
        print(
            f'Set {_VARIABLE}: "{path}" in the inventory, with the path of the file on the machine that runs Ansible.'
        )
    return VALID


def _targets(options: argparse.Namespace) -> Targets:
    for version in options.python:
        if not re.fullmatch(r"3\.[0-9]{2}", version) or int(version[2:]) < 11:
            raise Failure(f"--python {version} is not a version of Python; valid: 3.11 or later, as in --python 3.13")
    machine = platform.machine()
    if not options.architecture and machine not in ARCHITECTURES:
        raise Failure(f"this machine has the architecture {machine}; add --architecture with that of the hosts")
    order = sorted(set(options.python), key=lambda version: int(version[2:]))
    return Targets(tuple(order) or PYTHONS, tuple(sorted(set(options.architecture))) or (machine,))


def _writable(path: Path | None) -> Path:
    if path is None:
        raise Failure(f"the inventory does not set {_VARIABLE}; add FILE, the path of the bundle to make")
    path = path.absolute()
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise Failure(f"{path} cannot be written; write the path of a file in a directory that you can write to")
    return path


def _sources(software: Software) -> Sources:
    # npm ignores the case of its variables.
    registry = next((value for name, value in os.environ.items() if name.lower() == "npm_config_registry"), REGISTRY)
    return Sources(
        python_locks=software.python_locks,
        npm_lock=software.locks[NPM],
        registry=registry,
    )


def _print_files(files: dict[str, Download]) -> None:
    for name, download in files.items():
        print(f"{name}  {_megabytes(download.size) if download.size else '-'}")
    total = sum(download.size for download in files.values())
    print(f"{count(len(files), 'file')}, {_megabytes(total)} without npm packages. Nothing was downloaded.")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Progress:
    """A progress line: one that changes on a terminal, and otherwise a line after each tenth of the files."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._size = 0
        self._tenth = 0

    def __call__(self, number: int, total: int, download: Download) -> None:
        self._size += download.size
        line = f"Downloaded {number} of {total} files, {_megabytes(self._size)}"
        if self._terminal:
            end = "\n" if number == total else ""
            print(f"\r{line}  {download.name[:40]:<40}", end=end, file=sys.stderr, flush=True)
        elif number * 10 // total > self._tenth:
            self._tenth = number * 10 // total
            _tell(line)
