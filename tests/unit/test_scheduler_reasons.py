"""Every documented reason why a job waits has plain words and an outlook.

The texts in tests/field_cases/reasons are those of the sources: src/common/job_state_reason.c of SchedMD/slurm,
src/scheduler/job_info.cpp of openpbs/openpbs, src/scheduler.cc/samples/fifo/config.h of adaptivecomputing/torque,
source/libs/sched/msg_schedd.h of gridengine/gridengine, docs/codes-other-values/hold-table.rst of htcondor/htcondor,
lsb_pendreason(3) of LSF, and the chapter "Job Holds" of Moab's guide.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from hpchub.schedulers import SCHEDULERS, Outlook

CASES = Path(__file__).resolve().parents[1] / "field_cases"
DOCUMENTED = [
    pytest.param(path.stem, text, id=f"{path.stem}-{text}")
    for path in sorted((CASES / "reasons").glob("*.txt"))
    for text in path.read_text().splitlines()
]


@pytest.mark.parametrize(("scheduler", "text"), DOCUMENTED)
def test_documented_reason_is_explained(scheduler: str, text: str) -> None:
    reason = SCHEDULERS[scheduler].understand(text)
    assert reason.words != text
    assert SCHEDULERS[scheduler].explain(text) == reason.words
    assert (reason.advice != "") is (reason.outlook is not Outlook.WAITS)


@pytest.mark.parametrize("text", (CASES / "F15.txt").read_text().splitlines())
def test_everyday_reason_of_slurm_has_words_and_an_outlook(text: str) -> None:
    never = {
        *("QOSMaxWallDurationPerJobLimit", "BadConstraints", "InvalidAccount", "InvalidQOS", "AccountNotAllowed"),
        *("launch failed requeued held", "MaxMemPerLimit", "PartitionConfig", "AssocMaxCpuPerJobLimit"),
    }
    reason = SCHEDULERS["slurm"].understand(text)
    assert reason.words != text
    assert (reason.outlook is Outlook.NEVER) is (text in never)


@pytest.mark.parametrize(
    ("scheduler", "text", "outlook"),
    [
        ("slurm", "ReqNodeNotAvail, UnavailableNodes:n1", Outlook.WAITS),
        ("slurm", "launch_failed_requeued_held", Outlook.NEVER),
        ("slurm", "job requeued in held state", Outlook.NEVER),
        ("slurm", "launch failure limit exceeded requeued held", Outlook.NEVER),
        ("slurm", "uid_4711_not_in_group_permitted_to_use_this_partition_(gpu)", Outlook.NEVER),
        ("slurm", "Reservation course was deleted", Outlook.NEVER),
        ("slurm", "Reservation", Outlook.WAITS),
        ("slurm", "Job's QOS not permitted to use this partition (gpu allows high not low)", Outlook.NEVER),
        ("slurm", "Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved", Outlook.WAITS),
        ("slurm", "FrontEndDown", Outlook.WAITS_FOR_PERSON),
        ("slurm", "QOSGrpNewResource", Outlook.WAITS),
        ("slurm", "AssocGrpCPUMinutesLimit", Outlook.WAITS_FOR_PERSON),
        ("slurm", "AssocGrpCPURunMinutesLimit", Outlook.WAITS),
        ("slurm", "JobHeldAdmin", Outlook.WAITS_FOR_PERSON),
        ("pbs", "Can Never Run: Not enough total nodes available", Outlook.NEVER),
        ("pbs", "Insufficient amount of resource: ncpus (R: 2 A: 0 T: 8)", Outlook.WAITS),
        ("pbs", "job held, too many failed attempts to run", Outlook.NEVER),
        ("pbs", "held (s)", Outlook.WAITS_FOR_PERSON),
        ("pbs", "held (p)", Outlook.NEVER),
        ("pbs", "Node is in an ineligible state: resv-exclusive", Outlook.WAITS),
        ("pbs", "Node is in an ineligible state: offline", Outlook.WAITS_FOR_PERSON),
        ("torque", "Queue is configured to be ignored", Outlook.WAITS_FOR_PERSON),
        ("moab", "BatchHold", Outlook.NEVER),
        ("moab", "BatchHold:PolicyViolation", Outlook.NEVER),
        ("moab", "Deferred:RMFailure", Outlook.WAITS),
        ("moab", "SystemHold", Outlook.WAITS_FOR_PERSON),
        ("gridengine", "error", Outlook.NEVER),
        ("gridengine", "hold", Outlook.WAITS_FOR_PERSON),
        ("htcondor", "Error from slot1@n1: Failed to execute [code 6]", Outlook.NEVER),
        ("htcondor", "via condor_hold (by user alice) [code 1]", Outlook.WAITS_FOR_PERSON),
        ("lsf", "Bad host name, host group name or cluster name", Outlook.NEVER),
        ("lsf", "There is no such user account: 2 hosts;Job slot limit reached: 3 hosts", Outlook.WAITS),
    ],
)
def test_outlook_of_a_reason(scheduler: str, text: str, outlook: Outlook) -> None:
    assert SCHEDULERS[scheduler].understand(text).outlook is outlook
