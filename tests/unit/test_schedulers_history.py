"""How jobs ended, from each scheduler's own records of finished jobs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hpchub.schedulers import SCHEDULERS, Cause, Ending, Unanswered
from hpchub.schedulers.endings import OWNER, ending_of_status, with_log


def ending(scheduler: str, output: str, job_id: str = "7") -> Ending:
    return SCHEDULERS[scheduler].parse_history(job_id, output)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (0, Ending(Cause.FINISHED)),
        (1, Ending(Cause.FAILED, "exit status 1")),
        (127, Ending(Cause.FAILED, "exit status 127")),
        (137, Ending(Cause.KILLED, "signal 9 (SIGKILL)")),
        (143, Ending(Cause.KILLED, "signal 15 (SIGTERM)")),
        (255, Ending(Cause.FAILED, "exit status 255")),
        (271, Ending(Cause.KILLED, "signal 15 (SIGTERM)")),
        (-3, Ending(Cause.FAILED, "exit status -3")),
    ],
)
def test_exit_status(status: int, expected: Ending) -> None:
    assert ending_of_status(status) == expected


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("slurmstepd-n1: error: StepId=48.batch exceeded memory limit (410202112 > 104857600), being killed", True),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch. Some of the step tasks have been OOM", True),
        ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-26T18:37:00 DUE TO TIME LIMIT ***", False),
        ("the notebook exceeded memory limit", False),
    ],
)
def test_log_tells_what_the_record_does_not(line: str, *, found: bool) -> None:
    killed = Ending(Cause.KILLED, "signal 9 (SIGKILL)")
    assert (with_log(killed, ["one", line]).cause is Cause.OUT_OF_MEMORY) is found
    cancelled = Ending(Cause.CANCELLED, by="root")
    assert with_log(cancelled, [line]) == cancelled


# Slurm


def scontrol(state: str, code: str = "0:0", node: str = "n1") -> str:
    """Return the line of scontrol --oneliner show job. Users choose the names of their jobs."""
    return (
        "JobId=7 JobName=hpchub-x JobState=RUNNING UserId=alice(2001) GroupId=hpc(2100) MCS_label=N/A "
        f"JobState={state} Reason=None Dependency=(null) Requeue=0 ExitCode={code} NodeList={node} BatchHost={node}\n"
    )


def sacct(state: str, code: str = "0:0", *, batch: str = "COMPLETED", node: str = "n1") -> str:
    return f"7|{state}|{code}|2001|{node}\n7.batch|{batch}|0:0||{node}\n7.extern|COMPLETED|0:0||{node}\n"


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (scontrol("TIMEOUT", "0:1"), Ending(Cause.TIME_LIMIT, "TIMEOUT")),
        (scontrol("DEADLINE"), Ending(Cause.TIME_LIMIT, "DEADLINE")),
        (scontrol("OUT_OF_MEMORY", "0:125"), Ending(Cause.OUT_OF_MEMORY, "OUT_OF_MEMORY")),
        (scontrol("NODE_FAIL", node="n[3-4]"), Ending(Cause.NODE_LOST, "NODE_FAIL", node="n[3-4]")),
        (scontrol("BOOT_FAIL", node="(null)"), Ending(Cause.NODE_LOST, "BOOT_FAIL")),
        (scontrol("PREEMPTED"), Ending(Cause.PREEMPTED, "PREEMPTED")),
        (scontrol("CANCELLED", "0:15"), Ending(Cause.CANCELLED, "CANCELLED")),
        (scontrol("COMPLETED"), Ending(Cause.FINISHED, "COMPLETED")),
        (scontrol("FAILED", "1:0"), Ending(Cause.FAILED, "exit status 1")),
        (scontrol("FAILED", "0:9"), Ending(Cause.KILLED, "signal 9 (SIGKILL)")),
        (scontrol("CANCELLED") + sacct("CANCELLED by 2001"), Ending(Cause.CANCELLED, "CANCELLED", by=OWNER)),
        (scontrol("CANCELLED") + sacct("CANCELLED by 0"), Ending(Cause.CANCELLED, "CANCELLED", by="root")),
        (sacct("CANCELLED by 1500"), Ending(Cause.CANCELLED, "CANCELLED", by="uid 1500")),
        (scontrol("TIMEOUT") + sacct("RUNNING"), Ending(Cause.TIME_LIMIT, "TIMEOUT")),
        (sacct("FAILED", "0:9", batch="OUT_OF_MEMORY"), Ending(Cause.OUT_OF_MEMORY, "OUT_OF_MEMORY")),
        (sacct("TIMEOUT", batch="OUT_OF_MEMORY"), Ending(Cause.TIME_LIMIT, "TIMEOUT")),
        (sacct("NODE_FAIL", node="n3"), Ending(Cause.NODE_LOST, "NODE_FAIL", node="n3")),
    ],
)
def test_slurm(output: str, expected: Ending) -> None:
    assert ending("slurm", output) == expected


@pytest.mark.parametrize(
    "output",
    [
        scontrol("RUNNING"),
        sacct("PENDING"),
        scontrol("COMPLETING"),
        scontrol("TIMEOUT").replace("7", "77"),
        "7|TIMEOUT",
    ],
    ids=["running", "pending", "completing", "another-job", "truncated"],
)
def test_slurm_without_the_end_of_the_job(output: str) -> None:
    with pytest.raises(Unanswered):
        ending("slurm", output)


# PBS


def pbs(status: int | None = None, state: str = "F", **fields: Any) -> str:
    job = {
        "Job_Name": "hpchub-x",
        "job_state": state,
        "exec_host": "n1/0*2",
        "substate": 92,
        "Resource_List": {"mem": "4gb", "walltime": "08:00:00"},
        "resources_used": {"mem": "100mb", "walltime": "01:00:00"},
        **fields,
    }
    if status is not None:
        job["Exit_status"] = status
    return json.dumps({"timestamp": 1, "pbs_server": "pbs", "Jobs": {"7.pbs": job}})


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (pbs(0), Ending(Cause.FINISHED)),
        (pbs(1, substate=93), Ending(Cause.FAILED, "exit status 1")),
        (pbs(-29), Ending(Cause.TIME_LIMIT, "exit status -29")),
        (pbs(-27), Ending(Cause.OUT_OF_MEMORY, "exit status -27")),
        (pbs(-4), Ending(Cause.NODE_LOST, "exit status -4", node="n1")),
        (pbs(271, substate=91), Ending(Cause.CANCELLED, "signal 15 (SIGTERM)")),
        (pbs(None, substate=91), Ending(Cause.CANCELLED)),
        (pbs(None), Ending(Cause.UNKNOWN)),
        (pbs(265), Ending(Cause.KILLED, "signal 9 (SIGKILL)")),
        (pbs(271, resources_used={"walltime": "08:00:07"}), Ending(Cause.TIME_LIMIT, "signal 15 (SIGTERM)")),
        (pbs(137, resources_used={"mem": "4194304kb"}), Ending(Cause.OUT_OF_MEMORY, "signal 9 (SIGKILL)")),
        (pbs(137, resources_used=None, Resource_List=[1]), Ending(Cause.KILLED, "signal 9 (SIGKILL)")),
    ],
)
def test_pbs(output: str, expected: Ending) -> None:
    assert ending("pbs", output, "7.pbs") == expected


def test_pbs_without_the_end_of_the_job() -> None:
    for output in (pbs(0, state="R"), pbs(0).replace("7.pbs", "77.pbs")):
        with pytest.raises(Unanswered):
            ending("pbs", output, "7.pbs")


# Torque


def torque(status: str = "", walltime: str = "01:00:00", mem: str = "10mb") -> str:
    ended = f"<exit_status>{status}</exit_status>" if status else ""
    return (
        "<Data><Job><Job_Id>7.t</Job_Id><Job_Owner>alice@login1</Job_Owner><job_state>C</job_state>"
        f"<resources_used><mem>{mem}</mem><walltime>{walltime}</walltime></resources_used>"
        f"<Resource_List><mem>4gb</mem><walltime>08:00:00</walltime></Resource_List>{ended}</Job></Data>\n"
    )


def tracejob(who: str, status: int = 271) -> str:
    return (
        "\nJob: 7.t\n\n"
        "11/21/2025 12:30:00  S    Job Queued at request of alice@login1, owner = alice@login1, job name = hpchub-x\n"
        "11/21/2025 12:30:01  A    user=alice group=hpc jobname=hpchub-x queue=batch\n"
        f"11/21/2025 12:32:15  S    Job deleted at request of {who}@login1\n"
        f"11/21/2025 12:32:16  S    Exit_status={status} resources_used.cput=00:00:00\n"
    )


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (torque("0"), Ending(Cause.FINISHED)),
        (torque("2"), Ending(Cause.FAILED, "exit status 2")),
        (torque("-11"), Ending(Cause.TIME_LIMIT, "exit status -11")),
        (torque("-10"), Ending(Cause.OUT_OF_MEMORY, "exit status -10")),
        (torque("-5"), Ending(Cause.NODE_LOST, "exit status -5")),
        (torque("271"), Ending(Cause.KILLED, "signal 15 (SIGTERM)")),
        (torque("271", walltime="08:00:10"), Ending(Cause.TIME_LIMIT, "signal 15 (SIGTERM)")),
        (torque("265", mem="4194304kb"), Ending(Cause.OUT_OF_MEMORY, "signal 9 (SIGKILL)")),
        (torque("271") + tracejob("alice"), Ending(Cause.CANCELLED, by=OWNER)),
        (torque("271") + tracejob("root"), Ending(Cause.CANCELLED, by="root")),
        (tracejob("alice"), Ending(Cause.CANCELLED, by=OWNER)),
        (tracejob("alice", 3).replace("Job deleted", "Job run"), Ending(Cause.FAILED, "exit status 3")),
    ],
)
def test_torque(output: str, expected: Ending) -> None:
    assert ending("torque", output, "7.t") == expected


def test_torque_without_the_end_of_the_job() -> None:
    for output in (torque(), torque("0").replace("7.t", "77.t"), "Job: 7.t\n"):
        with pytest.raises(Unanswered):
            ending("torque", output, "7.t")


# Moab


def checkjob(state: str, code: str = "", walltime: str = "01:00:00", message: str = "") -> str:
    completion = f"Completion Code: {code}  Time: Tue Nov 25 10:00:00\n" if code else ""
    return (
        f"job Moab.7 (RM job '9.t')\n\nAName: hpchub-x\nState: {state}\n{completion}"
        f"Creds:  user:alice  group:hpc  class:batch\nWallTime:   {walltime} of 8:00:00\n{message}\n"
    )


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (checkjob("Completed", "0"), Ending(Cause.FINISHED)),
        (checkjob("Completed", "1"), Ending(Cause.FAILED, "exit status 1")),
        (checkjob("Completed", "271"), Ending(Cause.KILLED, "signal 15 (SIGTERM)")),
        (checkjob("Completed", "CNCLD(271)"), Ending(Cause.CANCELLED, "Completed")),
        (checkjob("Removed"), Ending(Cause.CANCELLED, "Removed")),
        (checkjob("Vacated"), Ending(Cause.PREEMPTED, "Vacated")),
        (checkjob("Completed", "271", walltime="8:00:02"), Ending(Cause.TIME_LIMIT, "Completed")),
        (
            checkjob("Removed", message="Message[0] job 7 exceeded wallclock limit"),
            Ending(Cause.TIME_LIMIT, "Removed"),
        ),
        (checkjob("Completed"), Ending(Cause.UNKNOWN, "Completed")),
    ],
)
def test_moab(output: str, expected: Ending) -> None:
    assert ending("moab", output, "Moab.7") == expected


def test_moab_without_the_end_of_the_job() -> None:
    for output in (checkjob("Running"), checkjob("Completed", "0").replace("Moab.7", "Moab.77")):
        with pytest.raises(Unanswered):
            ending("moab", output, "Moab.7")


# Grid Engine


def qacct(failed: str = "0", status: int = 0, **fields: str) -> str:
    record = {
        "qname": "batch",
        "hostname": "node1",
        "owner": "alice",
        "jobname": "hpchub-x",
        "jobnumber": "7",
        "slots": "2",
        "failed": failed,
        "exit_status": f"{status:<18}",
        "ru_wallclock": "3600.123",
        "maxvmem": "100.0M",
        "category": "-l h_rt=28800,h_vmem=2048M -pe smp 2",
        **fields,
    }
    rule = "=" * 62
    return f"{rule}\n" + "".join(f"{name:<12} {value}\n" for name, value in record.items())


@pytest.mark.parametrize("scheduler", ["gridengine", "uge"])
@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (qacct(), Ending(Cause.FINISHED)),
        (qacct(status=3), Ending(Cause.FAILED, "exit status 3")),
        (qacct("37  : qmaster enforced h_rt, h_cpu, or h_vmem limit", 137, ru_wallclock="28800"), Cause.TIME_LIMIT),
        (qacct("100 : assumedly after job", 137, ru_wallclock="28801.5s"), Cause.TIME_LIMIT),
        (qacct("100 : assumedly after job", 137, maxvmem="4.000G"), Cause.OUT_OF_MEMORY),
        (qacct("100 : assumedly after job", 137), Ending(Cause.KILLED, "signal 9 (SIGKILL)")),
        (qacct("100 : assumedly after job", 137, deleted_by="alice"), Cause.CANCELLED),
        (qacct("100 : assumedly after job", 137, deleted_by="NONE"), Cause.KILLED),
        (qacct("8   : in prolog"), Ending(Cause.FAILED, "failed 8   : in prolog")),
        (qacct("19  : before writing exit_status"), Cause.NODE_LOST),
        (qacct(status=1) + qacct(), Ending(Cause.FINISHED)),
    ],
)
def test_gridengine(scheduler: str, output: str, expected: Ending | Cause) -> None:
    found = ending(scheduler, output)
    assert (found.cause if isinstance(expected, Cause) else found) == expected


def test_gridengine_shows_who_deleted_the_job() -> None:
    assert ending("uge", qacct("100 : assumedly after job", 137, deleted_by="alice")).by == OWNER
    assert ending("uge", qacct("100 : assumedly after job", 137, deleted_by="root")).by == "root"


def test_gridengine_without_the_end_of_the_job() -> None:
    for output in (qacct(jobnumber="77"), qacct()[:80]):
        with pytest.raises(Unanswered):
            ending("gridengine", output)


# HTCondor


def condor(status: int = 4, **fields: Any) -> str:
    return json.dumps([{"ClusterId": 7, "Owner": "alice", "JobStatus": status, "ExitBySignal": False, **fields}])


PERIODIC = "The job attribute PeriodicRemove expression '(JobStatus == 2)' evaluated to TRUE"


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (condor(ExitCode=0), Ending(Cause.FINISHED)),
        (condor(ExitCode=1), Ending(Cause.FAILED, "exit status 1")),
        (condor(ExitBySignal=True, ExitSignal=9), Ending(Cause.KILLED, "signal 9 (SIGKILL)")),
        (condor(3, RemoveReason="via condor_rm (by user alice)"), Cause.CANCELLED),
        (condor(3, RemoveReason=PERIODIC, LastJobStatus=2), Cause.TIME_LIMIT),
        (condor(3, RemoveReason=PERIODIC, LastJobStatus=1, LastRemoteHost="slot1_1@n3"), Cause.NODE_LOST),
        (condor(3, RemoveReason=PERIODIC, LastJobStatus=5, HoldReason="no disk"), Ending(Cause.FAILED, "no disk")),
        (condor(3, RemoveReason=PERIODIC, LastJobStatus=5, LastHoldReasonCode=34), Cause.OUT_OF_MEMORY),
        (condor(3), Ending(Cause.CANCELLED)),
        (condor(), Ending(Cause.UNKNOWN)),
    ],
)
def test_htcondor(output: str, expected: Ending | Cause) -> None:
    found = ending("htcondor", output)
    assert (found.cause if isinstance(expected, Cause) else found) == expected


def test_htcondor_shows_who_removed_the_job() -> None:
    assert ending("htcondor", condor(3, RemoveReason="via condor_rm (by user alice)")).by == OWNER
    assert ending("htcondor", condor(3, RemoveReason="via condor_rm (by user condor@pool)")).by == "condor"
    assert ending("htcondor", condor(3, RemoveReason=PERIODIC, LastJobStatus=1, LastRemoteHost="slot@n3")).node == "n3"


def test_htcondor_without_the_end_of_the_job() -> None:
    for output in ("[\n]\n", condor(2), condor().replace("7", "77"), condor()[:20]):
        with pytest.raises(Unanswered):
            ending("htcondor", output)


# LSF


def bjobs(stat: str = "EXIT", code: str = "", reason: str = "") -> str:
    record = {"JOBID": "7", "STAT": stat, "USER": "alice", "EXIT_CODE": code, "EXIT_REASON": reason}
    text = json.dumps({"COMMAND": "bjobs", "JOBS": 1, "RECORDS": [record]}, indent=2, separators=(",", ":"))
    return f"{text}\n"


def bhist(*events: str) -> str:
    lines = "".join(f"Tue Nov 25 10:00:00: {event}\n" for event in events)
    return (
        f"\nJob <7>, Job Name <hpchub-x>, User <alice>, Project <default>, Command <#!\n{' ' * 21}/bin/bash>\n{lines}"
    )


RUNLIMIT = "TERM_RUNLIMIT: job killed after reaching LSF run time limit"
MEMLIMIT = "TERM_MEMLIMIT: job killed after reaching LSF memory usage limit"


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (bjobs("DONE"), Ending(Cause.FINISHED)),
        (bjobs("EXIT", "1"), Ending(Cause.FAILED, "exit status 1")),
        (bjobs("EXIT", "140", RUNLIMIT), Ending(Cause.TIME_LIMIT, "TERM_RUNLIMIT")),
        (bjobs("EXIT", "137", MEMLIMIT), Ending(Cause.OUT_OF_MEMORY, "TERM_MEMLIMIT")),
        (bjobs("EXIT", "130", "TERM_OWNER: job killed by owner"), Ending(Cause.CANCELLED, "TERM_OWNER", OWNER)),
        (bjobs("EXIT", "130", "TERM_FORCE_OWNER: x"), Ending(Cause.CANCELLED, "TERM_FORCE_OWNER", OWNER)),
        (bjobs("EXIT", "130", "TERM_ADMIN: job killed by root or LSF administrator"), Cause.CANCELLED),
        (bjobs("EXIT", "143", "TERM_PREEMPT: job killed after preemption"), Cause.PREEMPTED),
        (bjobs("EXIT", "", "TERM_ZOMBIE: job exited while LSF is not available"), Cause.NODE_LOST),
        (bjobs("EXIT"), Ending(Cause.UNKNOWN)),
        (bhist("Done successfully. The CPU time used is 1.0 seconds;"), Ending(Cause.FINISHED)),
        (
            bhist("Exited with exit code 140.", f"Completed <exit>; {RUNLIMIT};"),
            Ending(Cause.TIME_LIMIT, "TERM_RUNLIMIT"),
        ),
        (
            bhist("Signal <KILL> requested by user or administrator <bob>;", "Exited by signal 9.")
            + "Summary of time in seconds\n",
            Ending(Cause.CANCELLED, "Signal <KILL> requested by user or administrator <bob>", "bob"),
        ),
        (
            bjobs("EXIT", "130", "TERM_ADMIN: x")
            + bhist("Signal <KILL> requested by user or administrator <lsfadmin>;"),
            Ending(Cause.CANCELLED, "TERM_ADMIN", "lsfadmin"),
        ),
        (bhist("Exited with exit code 2. The CPU time\n" + " " * 21 + "used is 1.0 seconds;"), Cause.FAILED),
    ],
)
def test_lsf(output: str, expected: Ending | Cause) -> None:
    found = ending("lsf", output)
    assert (found.cause if isinstance(expected, Cause) else found) == expected


def test_lsf_without_the_end_of_the_job() -> None:
    for output in (bjobs("RUN"), bhist("Dispatched to <n1>;"), bjobs("DONE").replace('"7"', '"77"')):
        with pytest.raises(Unanswered):
            ending("lsf", output)
