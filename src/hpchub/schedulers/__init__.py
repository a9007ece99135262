"""What hpchub knows of each scheduler: pure functions, no commands are run here.

``SCHEDULERS`` maps the inventory's word for a scheduler to its description. Adding one is a module beside this file,
an entry in the table, a batch script in ``templates/batch``, and a spawner class in ``hpchub.batch``.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from hpchub.schedulers.base import ANY_QUEUE, Job, JobState, QueueLimits, Scheduler, Unanswered, job_comment, job_name
from hpchub.schedulers.gridengine import GridEngine
from hpchub.schedulers.htcondor import HTCondor
from hpchub.schedulers.lsf import LSF
from hpchub.schedulers.moab import Moab
from hpchub.schedulers.multislurm import MultiSlurm
from hpchub.schedulers.pbs import PBS
from hpchub.schedulers.slurm import Slurm
from hpchub.schedulers.torque import Torque
from hpchub.schedulers.uge import UGE

if TYPE_CHECKING:
    from hpchub.model import Access, Cluster, Profile

__all__ = [
    "ANY_QUEUE",
    "SCHEDULERS",
    "Job",
    "JobState",
    "QueueLimits",
    "Scheduler",
    "Unanswered",
    "gate_config",
    "job_comment",
    "job_name",
    "launcher_path",
    "render_batch_script",
]

SCHEDULERS: dict[str, Scheduler] = {
    scheduler.name: scheduler
    for scheduler in (
        Slurm(),
        MultiSlurm(),
        Torque(),
        Moab(),
        PBS(),
        GridEngine(),
        UGE(),
        HTCondor(),
        LSF(),
    )
}

_TEMPLATE_DIRECTORIES = (
    Path("/etc/hpchub/templates/batch"),
    Path(__file__).parents[3] / "templates" / "batch",
)


def gate_config(cluster: Cluster, access: Access) -> dict[str, Any]:
    """What the gate of a submit host may do for a cluster.

    Returns:
        the content of ``/etc/hpchub/gate.d/CLUSTER.json``: argument vectors ``submit``, ``cancel``, ``query``,
        ``find`` and ``limits``, a list of them ``limits_more``, how the query says that there are no jobs, the pattern
        of a job id, the Unix groups whose members' jobs the hub may submit, and their least uid.
    """
    scheduler = SCHEDULERS[cluster.scheduler]
    return {
        "scheduler": scheduler.name,
        "submit": list(scheduler.submit_command),
        "cancel": list(scheduler.cancel_command),
        "query": list(scheduler.query_command),
        "no_jobs": scheduler.no_jobs,
        "find": list(scheduler.find_command),
        "limits": list(scheduler.limits_command),
        "limits_more": [list(command) for command in scheduler.limits_more],
        "job_id_pattern": scheduler.job_id_pattern,
        "permitted_groups": list(access.job_groups),
        "minimum_uid": access.minimum_uid,
        "environment": dict(cluster.submit.environment),
        "timeout": 60,
    }


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
