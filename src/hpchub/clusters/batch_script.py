"""The batch script of a session, rendered from the template of the cluster's scheduler."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from hpchub.schedulers import SCHEDULERS, job_comment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpchub.model.entries import Cluster, Profile
    from hpchub.schedulers import Scheduler

_TEMPLATE_DIRECTORIES = (
    Path("/etc/hpchub/templates/batch"),
    Path(__file__).resolve().parents[3] / "templates" / "batch",
)


def launcher_path(cluster: Cluster) -> str:
    """Return the path of the program that a job runs, through the link to the current notebook environment."""
    return f"{_environment(cluster)}/bin/hpchub-launch"


def version_file(cluster: Cluster) -> str:
    """Return the path of the file with the version of the current notebook environment."""
    return f"{_environment(cluster)}/etc/hpchub-launch.json"


def _environment(cluster: Cluster) -> str:
    return f"{cluster.software.path}/notebook/current"


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
    launcher: str = "",
) -> str:
    """Return the exact text that is submitted for a profile.

    Args:
        cluster: The cluster that runs the job.
        profile: The resources of the job.
        session: The session's name, 16 hexadecimal digits. The job finds its secrets with it.
        hub: The hub's name, which distinguishes its jobs from those of another hub.
        username: The user who owns the session.
        template_dir: The directory of the templates. By default the site's directory, then the checkout's.
        launcher: The program that the job runs. By default the launcher of sessions.

    Raises:
        FileNotFoundError: There is no template for this scheduler.
        ValueError: A directive would take more than one line.
    """
    scheduler = SCHEDULERS[cluster.scheduler]
    directives = scheduler.directives(profile, cluster, session=session, comment=job_comment(hub, username, session))
    for directive in directives:
        if not directive.isprintable():
            raise ValueError(
                f"profile {profile.key}: the directive {directive!r} is not one line; remove the control characters"
            )
    directories = (template_dir,) if template_dir else _TEMPLATE_DIRECTORIES
    return _template(_template_path(scheduler, directories).read_text()).render(
        directives=directives,
        directive_prefix=scheduler.directive_prefix,
        launcher=launcher or launcher_path(cluster),
        session=session,
        profile=profile,
        cluster=cluster,
        username=username,
    )


def _template_path(scheduler: Scheduler, directories: Sequence[Path]) -> Path:
    """Return the first template that exists: directory by directory, the most specific name first."""
    names = [f"{name}.sh.j2" for name in scheduler.template_names]
    for directory in directories:
        for name in names:
            if (path := directory / name).is_file():
                return path
    raise FileNotFoundError(
        f"there is no batch script template for {scheduler.name}: none of {', '.join(names)} exists in"
        f" {', '.join(map(str, directories))}"
    )
