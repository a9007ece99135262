"""The batch script of a session, rendered from the template of the cluster's scheduler."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from hpchub.schedulers import SCHEDULERS, job_comment

if TYPE_CHECKING:
    from hpchub.model.entries import Cluster, Profile

_TEMPLATE_DIRECTORIES = (
    Path("/etc/hpchub/templates/batch"),
    Path(__file__).resolve().parents[3] / "templates" / "batch",
)


def launcher_path(cluster: Cluster) -> str:
    """The program that a job runs on a compute node, through the link to the current notebook environment."""
    return f"{cluster.software.path}/notebook/current/bin/hpchub-launch"


@functools.lru_cache
def _template(text: str) -> jinja2.Template:
    return jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        autoescape=False,  # noqa: S701 a shell script
    ).from_string(text)


def render_batch_script(
    cluster: Cluster,
    profile: Profile,
    *,
    session: str,
    hub: str,
    username: str,
    template_dir: Path | None = None,
) -> str:
    """The exact text that is submitted for a profile.

    Args:
        cluster: where the job runs.
        profile: what it gets.
        session: the session's own name, 16 hexadecimal digits, with which the job finds its secrets.
        hub: the hub's name, so that its jobs can be told from another hub's.
        username: whose session it is.
        template_dir: where ``SCHEDULER.sh.j2`` is; by default the site's directory, else the checkout's.

    Raises:
        FileNotFoundError: there is no template for this scheduler.
        ValueError: a directive would take more than one line.
    """
    scheduler = SCHEDULERS[cluster.scheduler]
    directives = scheduler.directives(profile, cluster, session=session, comment=job_comment(hub, username, session))
    for directive in directives:
        if not directive.isprintable():
            raise ValueError(f"profile {profile.key}: {directive!r} is not one line")
    directories = (template_dir,) if template_dir else _TEMPLATE_DIRECTORIES
    path = next(
        (d / f"{scheduler.name}.sh.j2" for d in directories if (d / f"{scheduler.name}.sh.j2").is_file()),
        None,
    )
    if path is None:
        raise FileNotFoundError(f"no {scheduler.name}.sh.j2 in {', '.join(map(str, directories))}")
    return _template(path.read_text()).render(
        directives=directives,
        launcher=launcher_path(cluster),
        session=session,
        profile=profile,
        cluster=cluster,
        username=username,
    )
