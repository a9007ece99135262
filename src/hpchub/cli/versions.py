"""``hpchub versions``: print the versions of the service's parts, and those that do not work together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hpchub.cli import inventory
from hpchub.cli.check_versions import query_versions
from hpchub.cli.failure import VALID, WRONG, Failure
from hpchub.profile_file import load_profile_list

if TYPE_CHECKING:
    import argparse


def versions(_: argparse.Namespace) -> int:
    """Run ``hpchub versions``."""
    settings = inventory.hub_settings()
    try:
        site = load_profile_list(settings["profiles_file"])
    except ValueError as error:
        raise Failure(str(error)) from None
    answers, warnings = asyncio.run(query_versions(settings, site))
    for line in [*(line for _, line in answers), *warnings]:
        print(line)
    return VALID if all(ok for ok, _ in answers) else WRONG
