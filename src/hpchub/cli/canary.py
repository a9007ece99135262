"""``hpchub canary``: start sessions as a user's program does, test their kernels, and measure every stage."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpchub.canary import TOKEN
from hpchub.canary.client import connect
from hpchub.canary.run import Canary, alone, summary
from hpchub.canary.status import FAILED, CanaryError
from hpchub.cli import inventory
from hpchub.cli.failure import VALID, WRONG, Failure
from hpchub.cli.output import print_json, table
from hpchub.model.notices import NoticesError, combine, offer
from hpchub.model.profile_list import ProfileListError, UnknownProfileError
from hpchub.notices_file import BY_HAND, INVENTORY, load_notices
from hpchub.profile_file import load_profile_list

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Mapping

    from hpchub.canary.status import Result
    from hpchub.model.entries import Profile
from hpchub.model.profile_list import ProfileList

TOKEN_FILE = Path("/etc/hpchub/secrets/canary.env")
"""The file with the token, which only root can read. The role ``jupyterhub`` writes it."""


def canary(options: argparse.Namespace) -> int:
    """Run ``hpchub canary``."""
    if not inventory.is_hub_host():
        raise Failure(f"this is not the hub host, because {inventory.HUB_SETTINGS} does not exist")
    token = read_token(TOKEN_FILE)  # as root, before the process continues with the hub's account
    settings = inventory.hub_settings()
    chosen = settings.get("canary") or {}
    if not token or not chosen.get("user"):
        raise Failure("there is no canary on this hub; set hpc_canary in the inventory and run site.yml")
    try:
        profiles = load_profile_list(settings["profiles_file"])
        tested = choose(profiles, chosen.get("profiles") or [])
        asked = [profiles.require(key) for key in options.profile] or tested
        if options.kernels and not options.profile:
            asked = one_per_cluster([*tested, *profiles.profiles])
    except (ProfileListError, UnknownProfileError) as error:
        raise Failure(str(error)) from None
    keys = [profile.key for profile in tested]
    try:
        with alone(Path(settings["state_dir"])):
            results = asyncio.run(_run(settings, token, asked, keys, options))
    except (CanaryError, OSError) as error:
        raise Failure(str(error)) from None
    if options.kernels:
        print("\n".join(kernel_table(results)))
    elif options.json:
        print_json({key: {"outcome": result.outcome, "summary": summary(result)} for key, result in results.items()})
    return WRONG if any(result.outcome == FAILED for result in results.values()) else VALID


def read_token(path: Path) -> str:
    """Return the token from the environment or from its file, or an empty text if there is none."""
    if token := os.environ.pop(TOKEN, ""):
        return token
    try:
        name, _, value = path.read_text(encoding="utf-8").strip().partition("=")
    except FileNotFoundError:
        return ""
    except PermissionError:
        raise Failure(f"{path} cannot be read with your account; run this command as root") from None
    return value if name == TOKEN else ""


def choose(profiles: ProfileList, keys: list[str]) -> list[Profile]:
    """Return the offered profiles that the canary tests: those with the given keys, or all if there are no keys."""
    return [profile for profile in profiles.profiles if not keys or profile.key in keys]


def one_per_cluster(profiles: Iterable[Profile]) -> list[Profile]:
    """Return the first profile of each cluster."""
    return list({profile.where: profile for profile in reversed(list(profiles))}.values())[::-1]


def kernel_table(results: Mapping[str, Result]) -> list[str]:
    """Return the results of all kernels and applications as a table's lines. A session without results has one line."""
    rows = [("CLUSTER", "PROFILE", "KIND", "NAME", "SECONDS", "VERSION", "RESULT")]
    for key, result in results.items():
        for kind, tests, good in (("kernel", result.kernels, "6*7 is 42"), ("application", result.apps, "it answers")):
            for name, test in tests.items():
                about = (f"{test.seconds:.1f}", test.version or "-", test.reason or good)
                rows.append((result.cluster, key, kind, name, *about))
        if not result.kernels:
            rows.append((result.cluster, key, "-", "-", "-", "-", summary(result)))
    return table(rows)


def drains(settings: dict[str, Any]) -> Callable[[Profile], str]:
    """Return a function that returns why a profile is drained now, or empty."""

    def refusal(profile: Profile) -> str:
        try:
            notices = combine(
                load_notices(settings.get("notices_file", INVENTORY)),
                load_notices(settings.get("notices_by_hand_file", BY_HAND)),
            )
        except NoticesError as error:
            raise CanaryError(f"the drains cannot be read: {error}") from None
        return offer(notices, profile, time.time()).refusal

    return refusal


async def _run(
    settings: dict[str, Any], token: str, profiles: list[Profile], offered: list[str], options: argparse.Namespace
) -> dict[str, Result]:
    chosen = settings["canary"]

    def say(line: str) -> None:
        print(line, file=sys.stderr if options.json or options.kernels else sys.stdout, flush=True)

    target = (chosen["connect_to"], int(chosen["port"])) if chosen.get("connect_to") else None
    async with connect(
        settings["public_url"], chosen["user"], token, connect_to=target, ca_file=Path(settings["api_ca_file"])
    ) as client:
        kernels = [] if options.kernels else chosen.get("kernels") or []
        directory = None if options.kernels else Path(settings["state_dir"])
        run = Canary(client, kernels, drains(settings), directory, say, with_apps=options.kernels)
        task = asyncio.ensure_future(run.run(profiles, float(chosen["minutes"]) * 60, offered))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            return await task
    raise CanaryError("the canary was interrupted; it has stopped its session")
