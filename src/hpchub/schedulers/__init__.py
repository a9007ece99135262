"""What hpchub knows of each scheduler: pure functions, no commands are run here.

``SCHEDULERS`` maps the inventory's word for a scheduler to its description. Adding one is a module beside this file,
an entry in the table.
"""

from __future__ import annotations

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

__all__ = [
    "ANY_QUEUE",
    "SCHEDULERS",
    "Job",
    "JobState",
    "QueueLimits",
    "Scheduler",
    "Unanswered",
    "job_comment",
    "job_name",
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
