"""The supported schedulers, one class each. No I/O: the gate on the submit host runs the commands.

``SCHEDULERS`` maps each value of ``scheduler`` in an inventory to its scheduler. To support another scheduler, write a
subclass of ``Scheduler`` in a new module of this package, and add an instance of it to ``SCHEDULERS``.
"""

from __future__ import annotations

from hpchub.schedulers.base import (
    Job,
    JobState,
    QueueLimits,
    QueueRules,
    Scheduler,
    Unanswered,
    job_comment,
    job_name,
)
from hpchub.schedulers.endings import Cause, Ending
from hpchub.schedulers.gridengine import GridEngine
from hpchub.schedulers.htcondor import HTCondor
from hpchub.schedulers.knowledge import ANY_QUEUE
from hpchub.schedulers.lsf import LSF
from hpchub.schedulers.moab import Moab
from hpchub.schedulers.multislurm import MultiSlurm
from hpchub.schedulers.pbs import PBS
from hpchub.schedulers.reasons import Outlook, Reason
from hpchub.schedulers.slurm import Slurm
from hpchub.schedulers.systemd import Systemd
from hpchub.schedulers.torque import Torque
from hpchub.schedulers.uge import UGE

__all__ = [
    "ANY_QUEUE",
    "SCHEDULERS",
    "Cause",
    "Ending",
    "Job",
    "JobState",
    "Outlook",
    "QueueLimits",
    "QueueRules",
    "Reason",
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
        Systemd(),
    )
}
