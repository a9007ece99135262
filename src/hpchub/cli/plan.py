"""``hpchub plan``: print the batch script of each profile, or what would be created in its place."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from hpchub.cli import inventory
from hpchub.cli.failure import VALID, WRONG, Failure
from hpchub.cli.output import count, print_json
from hpchub.clusters.batch_script import render_batch_script
from hpchub.model.places import PlaceBase
from hpchub.model.profile_list import UnknownProfileError
from hpchub.places import kind_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from hpchub.model.entries import Profile


def plan(options: argparse.Namespace) -> int:
    """Run ``hpchub plan``."""
    path, keys = _path_and_keys(options.words)
    checked = inventory.read(path, options.vault)
    found = checked.profiles
    if found is None:
        problems = [problem["text"] for problem in checked.problems]
        raise Failure("\n".join([f"{path}: the inventory has {count(len(problems), 'problem')}", *problems]), WRONG)
    try:
        chosen = [found.require(key) for key in keys] or found.profiles
    except UnknownProfileError as error:
        raise Failure(f"{path}: {error}") from None
    plans = []
    for profile in chosen:
        where = found.where(profile)
        if isinstance(where, PlaceBase):
            plans.append(_plan_of_place(profile, where))
            continue
        cluster = where
        try:
            script = render_batch_script(
                cluster,
                profile,
                session="SESSION",
                hub=f"{urlsplit(found.service.url).hostname or 'HUB'}~DATABASE",
                username="USER",
                template_dir=options.templates,
            )
        except (OSError, ValueError) as error:
            raise Failure(f"profile {profile.key}: {error}") from None
        plans.append({"key": profile.key, "cluster": cluster.name, "queue": profile.queue, "script": script})
    if options.json:
        print_json(plans)
        return VALID
    print(
        "SESSION and USER are placeholders. They differ for each start. DATABASE is the id of the hub's database.",
        file=sys.stderr,
    )
    for i, planned in enumerate(plans):
        target = f"place {planned['place']}" if "place" in planned else f"cluster {planned['cluster']}"
        title = f"## profile {planned['key']}, {target}" + (f", queue {planned['queue']}" if "queue" in planned else "")
        print(f"{'' if i == 0 else chr(10)}{title}\n{planned['script'].rstrip()}")
    return VALID


def _plan_of_place(profile: Profile, place: PlaceBase) -> dict[str, str]:
    """Return what would be created in a place. It is JSON, not a script."""
    try:
        return {"key": profile.key, "place": place.name, "script": kind_of(place.kind).plan(place, profile)}
    except ValueError as error:
        raise Failure(f"profile {profile.key}: {error}") from None


def _path_and_keys(words: Sequence[str]) -> tuple[Path, list[str]]:
    """Split the arguments. The first one is a path if it looks like one or exists: keys contain no slash and no dot."""
    if words and ("/" in words[0] or "." in words[0] or Path(words[0]).exists()):
        return Path(words[0]), list(words[1:])
    return inventory.default_path(), list(words)
