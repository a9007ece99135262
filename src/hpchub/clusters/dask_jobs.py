"""The jobs of Dask's workers: the batch script of a session, with a size, a time and a command of their own.

The hub writes the script when the session starts, because it knows the inventory. The session fills in what it learns
later; see ``hpchub_dask``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpchub.clusters.batch_script import render_batch_script
from hpchub.model import fields as f
from hpchub.schedulers import SCHEDULERS
from hpchub.units import seconds

if TYPE_CHECKING:
    from pathlib import Path

    from hpchub.model.apps import DaskApp
    from hpchub.model.entries import Cluster, Profile

NAME = "dask"
"""What the jobs have in place of a session's name: ``hpchub-dask``. No session has it, so the hub ignores the jobs."""
COMMAND = "@HPCHUB_COMMAND@"
MARK = "97:53:57"
"""A run time that no job has. Each scheduler writes it in one of these forms, which the session replaces."""
FORMS = {MARK: "@HPCHUB_CLOCK@", "97:54": "@HPCHUB_MINUTES@", str(seconds(MARK)): "@HPCHUB_SECONDS@"}


def dask_jobs(
    app: DaskApp, profile: Profile, cluster: Cluster, *, hub: str, username: str, template_dir: Path | None = None
) -> dict[str, Any]:
    """Return what a session needs to submit the jobs of its Dask clusters.

    Args:
        app: The application.
        profile: The profile of the session, with the user's choices.
        cluster: The cluster of the session.
        hub: The hub's name.
        username: The user.
        template_dir: See ``render_batch_script``.

    Returns:
        ``{"class": CLASS, "script": TEXT, "seconds": MOST, "session_seconds": TIME}``: dask-jobqueue's class, the batch
        script with marks for the command and the time, the longest time of a job, and the time of the session.

    Raises:
        FileNotFoundError, ValueError: See ``render_batch_script``.
    """
    wanted = worker_profile(app, profile)
    script = render_batch_script(
        cluster, wanted, session=NAME, hub=hub, username=username, template_dir=template_dir, launcher=COMMAND
    )
    for text, form in FORMS.items():
        script = script.replace(text, form)
    limits = [seconds(app.runtime or profile.runtime), seconds(profile.runtime)]
    limits += [seconds(queue.max_runtime) for queue in cluster.queues if queue.name == wanted.queue]
    return {
        "class": SCHEDULERS[cluster.scheduler].dask_class,
        "script": script,
        "seconds": min(limits),
        "session_seconds": seconds(profile.runtime),
    }


def worker_profile(app: DaskApp, profile: Profile) -> Profile:
    """Return the resources of one job. In another queue, the session's reservation and options may not be valid."""
    changes: dict[str, Any] = {
        "nodes": 1,
        "cores": app.cores,
        "memory": app.memory,
        "runtime": MARK,
        "gpus": f.gpus_of(0),
    }
    if app.queue and app.queue != profile.queue:
        changes |= {"queue": app.queue, "qos": "", "reservation": "", "node_constraint": "", "options": []}
    return profile.model_copy(update=changes)
