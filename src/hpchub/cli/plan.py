"""``hpchub plan``: print the batch script of each profile."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from hpchub.cli import inventory
from hpchub.cli.failure import VALID, WRONG, Failure
from hpchub.cli.output import count, print_json
from hpchub.clusters.batch_script import render_batch_script
from hpchub.model.profile_list import UnknownProfileError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence


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
        cluster = found.cluster(profile.cluster)
        if cluster is None:  # cannot happen: a profile list without the cluster is rejected when it is read
            raise Failure(f"{path}: no cluster {profile.cluster}")
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
        title = f"## profile {planned['key']}, cluster {planned['cluster']}, queue {planned['queue']}"
        print(f"{'' if i == 0 else chr(10)}{title}\n{planned['script'].rstrip()}")
    return VALID


def _path_and_keys(words: Sequence[str]) -> tuple[Path, list[str]]:
    """Split the arguments. The first one is a path if it looks like one or exists: keys contain no slash and no dot."""
    if words and ("/" in words[0] or "." in words[0] or Path(words[0]).exists()):
        return Path(words[0]), list(words[1:])
    return inventory.default_path(), list(words)
