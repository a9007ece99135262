"""``hpchub identities``: list which name of the single sign-on each account belongs to, and release accounts."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING

from hpchub.cli import inventory
from hpchub.cli.database import hub_database
from hpchub.cli.failure import UNUSABLE, VALID
from hpchub.cli.output import print_json, table
from hpchub.hub.identities import Identity, known_identities, release

if TYPE_CHECKING:
    import argparse


def identities(options: argparse.Namespace) -> int:
    """Run ``hpchub identities``."""
    url = inventory.hub_settings()["db_url"]
    with hub_database(url) as engine, engine.begin() as connection:
        known = {each.account for each in known_identities(connection)}
        release(connection, *options.release)
        found = known_identities(connection)
    if options.json:
        print_json([each._asdict() for each in found])
    else:
        _print(found)
    missing = sorted(set(options.release) - known)
    for account in missing:
        print(f"hpchub: account {account} is not in the list; run hpchub identities to see it", file=sys.stderr)
    return UNUSABLE if missing else VALID


def _print(found: list[Identity]) -> None:
    """Print the identities as a table."""
    if not found:
        print("No account belongs to a certain name of the single sign-on.")
        return
    rows = [("ACCOUNT", "PROVIDER", "CLAIM", "NAME", "SINCE")]
    for each in found:
        since = datetime.fromtimestamp(each.since).astimezone().strftime("%Y-%m-%d %H:%M")
        rows.append((each.account, each.provider, each.claim, each.received, since))
    print("\n".join(table(rows)))
