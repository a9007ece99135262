"""Runs the programs of a host without a scheduler in a test's directory, with its accounts and a stand-in for systemd.

Usage: ``host_driver.py DIRECTORY client|units [ARGUMENT...]``. The variable ``CALLER`` takes the place of the uid that
the kernel reports for a connection.
"""

from __future__ import annotations

import json
import os
import pwd
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from hpchub.remote import gate, host_client, host_units


def accounts_of(directory: Path) -> list[SimpleNamespace]:
    """Return the accounts of a test."""
    return [SimpleNamespace(**entry) for entry in json.loads((directory / "accounts").read_text())]


def set_up(directory: Path, put: Any = setattr) -> None:
    """Point the programs to a test's directory.

    Args:
        directory: The directory.
        put: A function like ``setattr``.
    """

    def account(key: str | int, field: str) -> SimpleNamespace:
        for entry in accounts_of(directory):
            if getattr(entry, field) == key:
                return entry
        raise KeyError(key)

    def changed_owner(path: Path, uid: int, gid: int) -> None:
        with (directory / "owners").open("a") as log:
            log.write(f"{Path(path).name} {uid} {gid}\n")

    put(host_units, "CONFIG", directory / "host.json")
    put(host_units, "STATE_DIRECTORY", directory / "state")
    put(host_units, "PROC", directory / "proc")
    put(host_units, "CGROUPS", directory / "cgroups")
    put(host_units, "SYSTEMD_RUN", str(directory / "systemd-run"))
    put(host_units, "SYSTEMCTL", str(directory / "systemctl"))
    put(host_units, "ROOT_PROGRAM", str(directory / "host-units"))
    put(host_units, "USER_PROGRAM", str(directory / "hpchub-host"))
    put(host_units, "peer", lambda descriptor: int(os.environ["CALLER"]))
    put(host_client, "SOCKET", str(directory / "socket"))
    put(host_client, "SCRIPTS", str(directory / "state" / "scripts"))
    put(gate, "group_names", lambda found: set(found.groups))
    put(pwd, "getpwnam", lambda name: account(name, "pw_name"))
    put(pwd, "getpwuid", lambda uid: account(uid, "pw_uid"))
    put(os, "chown", changed_owner)


if __name__ == "__main__":
    set_up(Path(sys.argv[1]))
    if sys.argv[2] == "client":
        os.getuid = lambda: int(os.environ.get("CALLER", "2001"))
        sys.exit(host_client.main(sys.argv[3:]))
    sys.exit(host_units.main(sys.argv[3:], dict(os.environ)))
